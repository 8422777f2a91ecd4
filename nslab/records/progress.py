"""A progress bar on a terminal, and silence anywhere else."""

from types import TracebackType


class Bar:
    """A bar on standard error, drawn from the first `show` on. Quiet when that is no terminal, or when not `wanted`."""

    def __init__(self, title: str, wanted: bool = True):
        self._title, self._wanted = title, wanted
        self._bar = self._task = None

    def show(self, done: float | int, total: float | int, text: str = "") -> None:
        """Draw `done` of `total` with a few words."""
        if self._wanted and self._bar is None:
            self._start()
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=total, text=text)

    def _start(self) -> None:
        from rich import progress
        from rich.console import Console

        console = Console(stderr=True)
        self._wanted = console.is_terminal
        if not self._wanted:
            return
        columns = (progress.TextColumn("{task.description}"), progress.BarColumn(), progress.TaskProgressColumn())
        words = progress.TextColumn("{task.fields[text]}", markup=False)
        self._bar = progress.Progress(*columns, progress.TimeRemainingColumn(), words, console=console)
        self._task = self._bar.add_task(self._title, total=None, text="")
        self._bar.start()

    def __enter__(self) -> "Bar":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

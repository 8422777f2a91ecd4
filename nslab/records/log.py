"""`RunLog`: what an experiment is given, to put down what it measures and to go on after a kill.

    def run(config, log, *, device):
        state, done = fresh(config), 0
        if log.restored:
            state, done = log.restored["state"], log.restored["done"]
        for step in range(done, config.steps):
            state = update(state)
            log.record(step, loss=state["loss"])       # a number, or a tensor such as one entry a seed
            if (step + 1) % 100 == 0:
                log.save({"state": state, "done": step + 1})
            log.progress(step + 1, config.steps, "training")
        return {"loss": ...}

Seeds one after the other, spread over the ranks of `torchrun`:

    results = log.each_seed(config.seeds, lambda seed, log: one_run(seed, log))     # each with a log as above
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from nslab.records import checkpoint
from nslab.records.history import History, stack_seeds
from nslab.records.progress import Bar
from nslab.records.ranks import gathered
from nslab.records.usage import Usage

OWN = ("config.json", "history.npz", "result.json", "run.json")
ASSEMBLED = "record"  # the folder, inside the partial one, that becomes the record


class RunLog:
    """The log of one run, in the partial folder of its record. It is a `Recorder`.

    Attributes:
        folder: the partial folder; it holds checkpoints until the record is whole.
        restored: the state last saved, when this run goes on from one; else None. Tensors are on the CPU.
        rank: which process this is, 0 .. world - 1; only 0 writes what all share.
        world: the number of processes.

    Args of the constructor: `folder`, which must exist; `name` of the checkpoint file; `rank`, `world`; `bar` to show
    progress on; `usage` to note at every checkpoint.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        name: str = "checkpoint",
        rank: int = 0,
        world: int = 1,
        bar: Bar | None = None,
        usage: Usage | None = None,
    ):
        self.folder, self.rank, self.world = Path(folder), rank, world
        self._file = self.folder / f"{name}.pt"
        self._bar, self._words = bar, ""
        self._history, self._stacked = History(), {}
        self._usage = usage or Usage(self.folder, rank)
        self._writes, self.restored, self._result = rank == 0, None, None
        if self._file.exists():
            found = checkpoint.load(self._file)
            self._history = History.from_state(found["history"])
            self.restored, self._result = found["state"], found.get("result")

    def record(self, step: int, /, **values: object) -> None:
        """Keep the named values of one step: numbers, or tensors of any shape.

        Each name is a series with increasing steps, one shape and one type. Different names may have different steps.
        Values go to `history.npz` as `<name>` (records, *shape) with `<name>_step` (records,).

        Errors: `ValueError` naming the series.
        """
        self._history.add(step, values)

    def save(self, state: dict) -> None:
        """Write a checkpoint: `state` and all that was recorded so far, in one file, which replaces the last one.

        Args:
            state: all that the run needs to go on: tensors, numbers, text, and dicts, lists and tuples of these.
                Do not forget the states of random generators.

        With several ranks all must hold the same state: rank 0 writes, and all restore what it wrote.

        Errors: `RecordError` when the disk is full (the last checkpoint is intact), `TypeError` naming a part of the
        state that could not be read back.
        """
        if self._writes:
            checkpoint.save(self._file, {"state": state, "history": self._history.state()})
        self._usage.note()

    def progress(self, done: float | int, total: float | int, text: str = "") -> None:
        """Show how far the run is; quiet where standard error is no terminal."""
        if self._bar is not None:
            self._bar.show(done, total, f"{self._words}{text}")

    def artifact(self, name: str) -> Path:
        """Where to write a further file of the record, such as `model.safetensors`; it counts in the record's 2 MB.

        Every rank may write; the file of rank 0 is kept.

        Errors: `ValueError` for a name with a folder in it, hidden, or taken by the record itself.
        """
        if Path(name).name != name or name.startswith(".") or name in OWN:
            raise ValueError(f"name = {name!r}: give a plain file name other than {', '.join(OWN)}")
        folder = self.folder / (ASSEMBLED if self.rank == 0 else f"rank-{self.rank}")
        folder.mkdir(exist_ok=True)
        return folder / name

    def each_seed(self, seeds: int, work: Callable[[int, "RunLog"], dict], *, name: str = "") -> list[dict]:
        """`work(seed, log)` for seeds 0 .. seeds - 1; rank r does r, r + world, ...

        Every seed has a log of its own: own checkpoints, own `restored`. A seed that was done before a kill is not
        run again. The files do not depend on the number of ranks, not even when a resumed run has another one.
        Series go to `history.npz` as `<name>` (records, seeds, *shape), NaN where a seed has no value at a step.

        Args:
            seeds: how many.
            work: runs one seed on its own and returns its result; a trainer in it must not spread over ranks.
            name: tells several calls of one experiment apart; it prefixes the series, `<name>_<series>`.

        Returns:
            The results in the order of seeds, the same on every rank.
        """
        found = {}
        for seed in range(self.rank, seeds, self.world):
            file = f"{name or 'run'}-seed-{seed:04d}"
            shared = {"bar": self._bar, "usage": self._usage}
            log = RunLog(self.folder, name=file, rank=self.rank, world=self.world, **shared)
            log._writes, log._words = True, f"seed {seed + 1} of {seeds} {name} ".replace("  ", " ")
            if log._result is None:
                log._result = work(seed, log)
                whole = {"state": None, "history": log._history.state(), "result": log._result}
                checkpoint.save(log._file, whole)
                self._usage.note()
            found[seed] = log._result, log._history.state()
        for other in gathered(found, self.world):
            found |= other
        ordered = [found[seed] for seed in range(seeds)]
        histories = [History.from_state(told) for _, told in ordered]
        self._stacked = self._joined(stack_seeds(histories, f"{name}_" if name else ""))
        return [result for result, _ in ordered]

    def arrays(self) -> dict[str, np.ndarray]:
        """All that was recorded so far, as `history.npz` will hold it."""
        return self._joined(self._history.arrays())

    def _joined(self, more: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        if twice := sorted(set(self._stacked) & set(more)):
            raise ValueError(f"{twice[0]} was recorded twice: give each_seed a name, or the series another one")
        return self._stacked | more

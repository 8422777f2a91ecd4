"""How benchmarks are timed, shown and recorded.

A benchmark module beside this file has a function `rows() -> list[Row]`. Both sides of a row are timed in the same
process, on one thread, in CPU seconds, one right after the other. A benchmark is never a pass/fail test: a missed
target is printed, not raised.
"""

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from nslab.records import file_hashes, machine
from nslab.records.sources import combine

ROOT = Path(__file__).parents[2]
RECORDS = ROOT / "book" / "records" / "benchmarks"
PACKAGES = ("torch", "numpy", "boofun", "numba", "playwright", "ipywidgets")


@dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
        name: what is computed.
        ours_seconds: median CPU seconds of ours.
        peer: what it is compared with.
        peer_seconds: median CPU seconds of the peer.
        ratio: ours / the peer's, of what `unit` names; below 1 ours is better.
        target: what the ratio may be at most; None if nothing was promised.
        unit: "of the peer's time", or "of naive's error" (standard errors; the seconds are for information). Older
            records have "times as long" for the first, or "times faster" with ratio and target upside down; the
            performance page reads them too.
        note: what a reader must know to judge the comparison.
    """

    name: str
    ours_seconds: float
    peer: str
    peer_seconds: float
    ratio: float
    target: float | None
    unit: str
    note: str

    @property
    def verdict(self) -> str:
        """Whether the target is met, in one word; empty without a target."""
        if self.target is None:
            return ""
        return "met" if self.ratio <= self.target else "MISSED"


def faster(name: str, ours: float, peer: str, theirs: float, target: float | None = None, note: str = "") -> Row:
    """A row of times; the target says how many times faster than the peer ours should be.

    >>> row = faster("a sum", 0.1, "a loop", 30.0, target=150)
    >>> in_times(row.ratio), in_times(row.target), row.verdict
    ('×1/300', '×1/150', 'met')
    """
    return as_long(name, ours, peer, theirs, None if target is None else 1 / target, note)


def as_long(name: str, ours: float, peer: str, theirs: float, target: float | None = None, note: str = "") -> Row:
    """A row of times; the target says how many times the peer's time ours may take.

    >>> row = as_long("a forward pass", 1.2, "by hand", 1.0, target=1 / 0.9)
    >>> in_times(row.ratio), in_times(row.target), row.verdict
    ('×1.2', '×1.11', 'MISSED')
    """
    return Row(name, ours, peer, theirs, ours / theirs, target, "of the peer's time", note)


def one_thread() -> None:
    """Keep torch, and Numba where it is installed, to one thread."""
    import torch

    if _version("numba"):
        import numba

        numba.set_num_threads(1)
    torch.set_num_threads(1)  # after Numba, which sets the threads of OpenMP, torch's too, when it starts


def cpu_seconds(work: Callable[[], object], *, repeats: int = 9, least: float = 0.02) -> float:
    """Median CPU seconds of one call of `work`, after a warm-up; short calls are repeated to last `least` seconds."""
    work()
    start = time.process_time()
    work()
    once = time.process_time() - start
    calls = max(1, round(least / max(once, 1e-7)))
    found = []
    for _ in range(repeats if once < 0.5 else 3):
        start = time.process_time()
        for _ in range(calls):
            work()
        found.append((time.process_time() - start) / calls)
    return statistics.median(found)


def in_words(seconds: float) -> str:
    """Seconds with a readable unit.

    >>> in_words(0.00512)
    '5.12 ms'
    """
    for factor, unit in ((1, "s"), (1e3, "ms"), (1e6, "µs")):
        if seconds * factor >= 1:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def in_times(ratio: float) -> str:
    """A ratio to three digits; a small one as one part of many.

    >>> in_times(1.0321), in_times(10.8), in_times(1 / 18061.4)
    ('×1.03', '×10.8', '×1/18,061')
    """
    if ratio < 0.1:
        return f"×1/{_three_digits(1 / ratio)}"
    return f"×{_three_digits(ratio)}"


def _three_digits(number: float) -> str:
    return f"{number:.3g}" if number < 100 else f"{number:,.0f}"


def show(rows: Iterable[Row]) -> str:
    """The rows as a table of plain text: ours against the peer, in time or, where it says so, in error."""
    head = ("what", "ours", "peer", "peer takes", "ratio", "at most", "")
    lines = [
        (
            row.name,
            in_words(row.ours_seconds),
            row.peer,
            in_words(row.peer_seconds),
            in_times(row.ratio) + (" error" if "error" in row.unit else ""),
            "" if row.target is None else in_times(row.target),
            row.verdict,
        )
        for row in rows
    ]
    widths = [max(len(line[column]) for line in [head, *lines]) for column in range(len(head))]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in [head, *lines]]
    notes = [f"{row.name} / {row.peer}: {row.note}" for row in rows if row.note]
    return "\n".join([text[0], "-" * len(text[0]), *text[1:], *(["", *notes] if notes else [])])


def record(rows: list[Row], seconds: float, device: str = "cpu", preset: str = "all") -> Path:
    """Write `result.json` and `run.json` into a new folder of `book/records/benchmarks`, all or nothing.

    A benchmark has no configuration, history or seeds, so it has no `RunLog`; `nslab.records` reads it all the same.
    """
    now = datetime.now(UTC)
    folder = RECORDS / f"{preset}-{device}-{now:%Y%m%dT%H%M%S}"
    RECORDS.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=RECORDS, prefix=".unfinished-") as unfinished:
        written = Path(unfinished) / folder.name
        written.mkdir()
        _write(written / "result.json", {"rows": [asdict(row) for row in rows]})
        _write(written / "run.json", _circumstances(now, seconds, device))
        written.rename(folder)  # refuses to replace a record that holds files
    return folder


def _write(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _circumstances(now: datetime, seconds: float, device: str) -> dict:
    """As `run.json` of an experiment tells it, so that `nslab records` lists benchmarks too, stale ones as stale."""
    ran = [
        Path(module.__file__) for name, module in sorted(sys.modules.items()) if name.startswith("tests.benchmarks.")
    ]
    ran = [path for path in ran if path.stem != "__main__"]
    sources = file_hashes(*ran)
    return {
        "finished": f"{now:%Y-%m-%dT%H:%M:%SZ}",
        "seconds": round(seconds, 1),
        "command": "python -m tests.benchmarks",
        **machine.circumstances(device, PACKAGES),
        "peak_memory_mib": (machine.peak_memory() or 0) // 2**20,
        "code": [Path(os.path.relpath(path, RECORDS.parent)).as_posix() for path in ran],
        "sources": sources,
        "source": combine(sources),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None

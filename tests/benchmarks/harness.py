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
        ratio: see `unit`.
        target: what the ratio should reach (at least, or at most: see `unit`); None if nothing was promised.
        unit: "times faster" (ratio = peer / ours, at least the target), "times as long" (ours / peer, at most), or
            "of naive's error" (standard error of ours / of the peer, at most; the seconds are for information).
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
        met = self.ratio >= self.target if self.unit == "times faster" else self.ratio <= self.target
        return "met" if met else "MISSED"


def faster(name: str, ours: float, peer: str, theirs: float, target: float | None = None, note: str = "") -> Row:
    """A row whose ratio says how many times faster than the peer ours is."""
    return Row(name, ours, peer, theirs, theirs / ours, target, "times faster", note)


def as_long(name: str, ours: float, peer: str, theirs: float, target: float | None = None, note: str = "") -> Row:
    """A row whose ratio says how many times the peer's time ours takes."""
    return Row(name, ours, peer, theirs, ours / theirs, target, "times as long", note)


def one_thread() -> None:
    """Keep torch, and Numba where it is installed, to one thread."""
    import torch

    torch.set_num_threads(1)
    if _version("numba"):
        import numba

        numba.set_num_threads(1)


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


def show(rows: Iterable[Row]) -> str:
    """The rows as a table of plain text."""
    head = ("what", "ours", "peer", "peer takes", "ratio", "target", "")
    lines = [
        (
            row.name,
            in_words(row.ours_seconds),
            row.peer,
            in_words(row.peer_seconds),
            f"{row.ratio:,.3g}" if row.ratio < 100 else f"{row.ratio:,.0f}",
            "" if row.target is None else f"{'≥' if row.unit == 'times faster' else '≤'} {row.target:,g}",
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

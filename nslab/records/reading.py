"""Records as they are read: checked, compared with today's sources, and put in order of strength."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from nslab.records import machine
from nslab.records.files import RecordError
from nslab.records.places import NAME, STRENGTH, folder_of
from nslab.records.sources import file_hashes


@dataclass(frozen=True)
class Record:
    """One record, read from its folder. `open_record` makes it and checks it.

    Attributes:
        path: the folder.
        experiment, preset, device, stamp: as its path says; the preset of a run with changed settings is `custom`.
        run: the content of `run.json`: versions, hardware, seconds, memory, sources.
        stale_because: None for a fresh record; else what has changed since, in words.
    """

    path: Path
    experiment: str
    preset: str
    device: str
    stamp: str
    run: dict = field(repr=False)
    stale_because: str | None

    @property
    def stale(self) -> bool:
        """Whether the sources differ from those that made the record."""
        return self.stale_because is not None

    @property
    def hardware(self) -> str:
        """What it ran on, as a phrase for prose: "2 threads of an Intel(R) Xeon(R)"."""
        return machine.hardware(self.run)

    @property
    def seeds(self) -> int:
        """How many seeds it has."""
        return self.run.get("seeds", 0)

    @property
    def date(self) -> str:
        """The day it was begun, as yyyy-mm-dd (UTC)."""
        return f"{self.stamp[:4]}-{self.stamp[4:6]}-{self.stamp[6:8]}"

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(path.stat().st_size for path in self.path.iterdir() if path.is_file())

    @cached_property
    def config(self) -> dict:
        """The configuration of the run."""
        return _json(self.path / "config.json")

    @cached_property
    def result(self) -> dict:
        """What the run found."""
        return _json(self.path / "result.json")

    @cached_property
    def history(self) -> dict[str, np.ndarray]:
        """What it measured on its way: `<name>` (records, *shape) and `<name>_step` (records,) for each series."""
        path = self.path / "history.npz"
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return dict(arrays)
        except Exception as error:  # a zip that is not whole fails in many ways
            raise RecordError(f"{path}: not readable ({error}): {_remedy(self.path)}") from None

    def series(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Steps (records,) and values (records, *shape) of one series.

        Errors: `KeyError` naming the series there are.
        """
        if f"{name}_step" not in self.history:
            names = ", ".join(key for key in self.history if f"{key}_step" in self.history)
            raise KeyError(f"{self.path.name} has no series {name!r}; it has {names or 'none'}")
        return self.history[f"{name}_step"], self.history[name]


def find(experiment: str, preset: str | None = None, root: Path | str | None = None) -> list[Record]:
    """The records of an experiment, the strongest first.

    Full comes before laptop before quick before runs with changed settings; within a preset fresh comes before stale,
    then more seeds before fewer, then newer before older.

    Args:
        experiment: its name, as in `nslab rerun`.
        preset: only records of this one.
        root: the folder of all records; `records.root()` by default.

    Errors: `RecordError` naming a record that is damaged, and the remedy.
    """
    found = []
    for path in _folders(folder_of(experiment, root)):
        named = NAME.fullmatch(path.name)
        if named and preset in (None, named["preset"]):
            found.append(open_record(path))
    return sorted(found, key=_strength, reverse=True)


def strongest(experiment: str, preset: str | None = None, root: Path | str | None = None) -> Record | None:
    """The first of `find`, or None without records.

    >>> strongest("no-such-experiment") is None
    True
    """
    return next(iter(find(experiment, preset, root)), None)


def open_record(path: Path | str) -> Record:
    """The record in a folder, after a check that every file is as it was written.

    Errors: `RecordError` naming the file that is missing, not readable or different, and the remedy.
    """
    path = Path(path)
    named = NAME.fullmatch(path.name)
    if not named:
        raise RecordError(f"{path}: not a record: its name is no <preset>-<device>-<yyyymmddThhmmss>; move it away")
    run = _json(path / "run.json")
    for name, told in run.get("files", {"result.json": None}).items():
        file = path / name
        if not file.is_file():
            raise RecordError(f"{file}: missing: {_remedy(path)}")
        if told and hashlib.sha256(file.read_bytes()).hexdigest() != told["sha256"]:
            raise RecordError(f"{file}: not as it was written (its checksum differs): {_remedy(path)}")
        if not told:
            _json(file)
    return Record(path, path.parent.name, **named.groupdict(), run=run, stale_because=_changed(run, path.parent.parent))


def survey(experiment: str | None = None, root: Path | str | None = None) -> tuple[list[Record], list[str]]:
    """All records that can be read, and a sentence for each that cannot. Nothing is hidden by another's damage."""
    base = folder_of(experiment or "x", root).parent
    found, problems = [], []
    for folder in [folder_of(experiment, root)] if experiment else _folders(base):
        records = []
        for path in _folders(folder):
            try:
                records.append(open_record(path))
            except RecordError as error:
                problems.append(str(error))
        found += sorted(records, key=_strength, reverse=True)
    return found, problems


def _strength(record: Record) -> tuple:
    return STRENGTH.get(record.preset, 0), not record.stale, record.seeds, record.stamp


def _folders(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        yield from sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _changed(run: dict, records: Path) -> str | None:
    """What differs between the sources of then and now."""
    if not (then := run.get("sources")):
        return "it does not say which sources made it"
    try:
        now = file_hashes(*locate(run["code"], records))
    except (OSError, SyntaxError, ValueError, LookupError, TypeError) as error:
        return f"its sources cannot be read: {error}"
    return difference(then, now)


def difference(then: dict[str, str], now: dict[str, str]) -> str | None:
    """Which files differ, in words; None if none does."""
    differ = sorted(name for name in {*then, *now} if then.get(name) != now.get(name))
    if not differ:
        return None
    named = ", ".join(f"`{name}`" for name in differ[:2])
    more = f" and {len(differ) - 2} more" if len(differ) > 2 else ""
    return f"{named}{more} {'has' if len(differ) == 1 else 'have'} changed since"


def locate(code: list[str], records: Path) -> list[str | Path]:
    """Modules stay names; files are told relative to the folder of all records."""
    return [(records / one).resolve() if one.endswith(".py") else one for one in code]


def _json(path: Path) -> dict:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecordError(f"{path}: {error.strerror}: {_remedy(path.parent)}") from None
    except ValueError as error:
        raise RecordError(f"{path}: not JSON ({error}): {_remedy(path.parent)}") from None
    if not isinstance(content, dict):
        raise RecordError(f"{path}: a {type(content).__name__}, not a JSON object: {_remedy(path.parent)}")
    return content


def _remedy(folder: Path) -> str:
    return f"restore the record from version control, or delete the folder {folder}"

"""Runs that are not done: what each is, whether it still runs, and whether it can be resumed."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from nslab.records.files import RecordError, write_whole
from nslab.records.places import NAME, PARTIAL, Place, folder_of, take_place
from nslab.records.reading import difference

MANIFEST = "about.json"


@dataclass(frozen=True)
class Partial:
    """A partial folder.

    Attributes:
        place: its names.
        about: what is being run (`config`, `sources`, `command`); None when the manifest cannot be read.
    """

    place: Place
    about: dict | None

    @property
    def running(self) -> bool:
        """Whether a process is at work in it."""
        try:
            held = hold(self.place.partial, "rb")  # only looks: another user may look, too
        except FileNotFoundError:
            return False
        if held:
            held.close()
        return held is None

    @property
    def saved(self) -> bool:
        """Whether it holds a checkpoint."""
        return any(self.place.partial.glob("*.pt"))

    @property
    def advice(self) -> str:
        """What to do about it."""
        folder = self.place.partial
        if self.running:
            return "it is running"
        if self.place.final.exists():
            return f"its record is whole; delete the folder {folder}"
        if self.about is None or not self.saved:
            return f"it was killed before its first checkpoint; delete the folder {folder}"
        return f"go on with: {self.about['command']} --resume; or delete the folder {folder}"


def begin(folder: Path, preset: str, device: str, about: dict) -> Place:
    """A new partial folder with its manifest.

    Errors: `RecordError` when the disk is full, or the folder may not be written.
    """
    place = take_place(folder, preset, device)
    try:
        write_whole(place.partial / MANIFEST, json.dumps(about, indent=1).encode())
    except RecordError:
        shutil.rmtree(place.partial, ignore_errors=True)
        raise
    return place


def resumable(folder: Path, preset: str, device: str, about: dict) -> Place:
    """The newest partial folder of the same preset and device that has the same configuration and sources.

    Errors: `RecordError` when there is none: it says what differs, or that it is running, or that nothing is there.
    """
    reasons, whole = [], []
    for partial in reversed(list(unfinished(folder.name, folder.parent))):
        named = NAME.fullmatch(partial.place.name)
        if named and (named["preset"], named["device"]) != (preset, device):
            continue
        if partial.place.final.exists():
            if partial.about and _difference_of_settings(partial.about, about) is None:
                whole.append(partial.place.final)
            continue
        if partial.about is None and not partial.saved:
            continue  # killed as it began
        reason = _mismatch(partial, about)
        if reason is None:
            return partial.place
        reasons.append(f"{partial.place.partial}: {reason}")
    if whole and not reasons:
        raise RecordError(f"nothing to resume: the run was killed when its record {whole[0]} was already whole")
    if not reasons:
        raise RecordError(
            f"nothing to resume: no unfinished {preset} run of {folder.name} on {device} is in {folder}; "
            "start without --resume"
        )
    raise RecordError(
        f"cannot resume {', nor '.join(reasons)}; give the same settings again, or start anew without --resume"
    )


def _mismatch(partial: Partial, about: dict) -> str | None:
    if partial.about is None:
        return f"its {MANIFEST} is missing or damaged"
    if partial.running:
        return "it is still running"
    return _difference_of_settings(partial.about, about)


def _difference_of_settings(there: dict, here: dict) -> str | None:
    then, now = _flat(there["config"]), _flat(here["config"])
    for key in [*now, *then]:
        if then.get(key) != now.get(key):
            return f"{key} is {then.get(key)!r} there and {now.get(key)!r} here"
    return difference(there["sources"], here["sources"])


def _flat(config: object, prefix: str = "") -> dict:
    if not isinstance(config, dict):
        return {prefix: config}
    return {
        name: value for key, part in config.items() for name, value in _flat(part, f"{prefix}.{key}".strip(".")).items()
    }


def unfinished(experiment: str | None = None, root: Path | str | None = None) -> Iterator[Partial]:
    """All partial folders of an experiment, or of all, oldest first."""
    base = folder_of(experiment or "x", root)
    for path in sorted(base.parent.glob(f"{base.name if experiment else '*'}/{PARTIAL}*")):
        try:
            about = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
            about = about if {"config", "sources", "command"} <= set(about) else None
        except (OSError, ValueError, TypeError):
            about = None
        yield Partial(Place(path.parent, path.name.removeprefix(PARTIAL)), about)


def hold(folder: Path, mode: str = "ab") -> IO | None:
    """Lock a partial folder for as long as the returned file is open; None when another process holds it.

    The system frees the lock of a process that is killed. Where it has no such locks (Windows), nothing is held back.
    """
    file = open(folder / "lock", mode)  # noqa: SIM115 (it stays open on purpose)
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:
        pass
    except OSError:
        file.close()
        return None
    return file

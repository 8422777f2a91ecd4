"""Where records lie, and what their folders are called."""

import contextlib
import os
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from nslab.records.files import explained
from nslab.records.sources import PACKAGE

NAME = re.compile(r"(?P<preset>\w+(?:-\w+)*)-(?P<device>[a-z]+)-(?P<stamp>\d{8}T\d{6})")
PARTIAL = ".partial-"
CUSTOM = "custom"
STRENGTH = {"full": 3, "laptop": 2, "quick": 1}


def root(start: Path | str | None = None) -> Path:
    """The folder of all records.

    $NSLAB_RECORDS; else `book/records` of the clone of the book that `start` (by default the current folder) lies in;
    else that of the clone that this package lies in; else `records` in the current folder.
    """
    if named := os.environ.get("NSLAB_RECORDS"):
        return Path(named).expanduser()
    here = Path(start or Path.cwd()).resolve()
    for folder in (here, *here.parents, PACKAGE.parent):
        if (folder / "_toc.yml").is_file():
            return folder / "book" / "records"
    return Path.cwd() / "records"


def folder_of(experiment: str, records: Path | str | None = None) -> Path:
    """The folder that holds the records of one experiment."""
    return Path(records or root()) / experiment.replace("_", "-")


@dataclass(frozen=True)
class Place:
    """A name that belongs to one run alone: `partial` while it runs, `final` when it is whole."""

    folder: Path
    name: str

    @property
    def partial(self) -> Path:
        """The hidden folder of checkpoints."""
        return self.folder / f"{PARTIAL}{self.name}"

    @property
    def final(self) -> Path:
        """The record."""
        return self.folder / self.name


def take_place(folder: Path, preset: str, device: str) -> Place:
    """Make a partial folder that no other run has. A run started in the same second takes the next free second.

    Errors: `RecordError` when the folder may not be written, or the disk is full.
    """
    now = datetime.now(UTC)
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
    while True:
        place = Place(folder, f"{preset}-{device}-{now:%Y%m%dT%H%M%S}")
        with explained(place.partial), contextlib.suppress(FileExistsError):
            place.partial.mkdir()
            # looked at only now: a run that is done gives up its partial name after it took the final one
            if not place.final.exists():
                return place
            place.partial.rmdir()
        now += timedelta(seconds=1)

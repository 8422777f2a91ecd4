"""Files with one JSON object a line, read so that every complaint names the file and the line."""

import json
import os
from collections.abc import Iterator
from pathlib import Path


def folder_of(variable: str, given: str | Path | None, holds: str) -> Path | None:
    """The folder given, else the one an environment variable names, else None.

    Errors: `FileNotFoundError` when it is named and is not a folder; `holds` says what should be in it.
    """
    named = given if given is not None else os.environ.get(variable)
    if not named:
        return None
    folder = Path(named).expanduser()
    if not folder.is_dir():
        source = "folder" if given is not None else variable
        raise FileNotFoundError(f"{source} is {str(named)!r}, which is not a folder: name one that holds {holds}")
    return folder


def read(path: Path) -> Iterator[tuple[str, dict]]:
    """The objects of a file, each with its place ("path:line"). Empty lines are stepped over.

    Errors: `ValueError` naming file and line for bytes that are not UTF-8, a line that is not JSON, or not an object.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            place = f"{path}:{number}"
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"{place} is not UTF-8 (byte 0x{line[error.start]:02x} in column {error.start + 1}): "
                    f"save the file in UTF-8"
                ) from None
            if not text:
                continue
            try:
                item = json.loads(text)
            except json.JSONDecodeError as error:
                raise ValueError(f"{place} is not JSON ({error.msg}): one JSON object a line, please") from None
            if not isinstance(item, dict):
                raise ValueError(f"{place} holds {type(item).__name__}, not an object: one JSON object a line, please")
            yield place, item


def text_field(item: dict, field: str, place: str) -> str:
    """A field that must be there and be text. Errors: `ValueError` naming the place, and the fields there are."""
    if field not in item:
        raise ValueError(f"{place} has no field {field!r}, only {', '.join(map(repr, item)) or 'none'}")
    if not isinstance(item[field], str):
        raise ValueError(f"{place} has {item[field]!r} in {field!r}: text is expected there")
    return item[field]

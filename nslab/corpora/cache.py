"""The cache: a folder of package files, each trusted only after its sha256 was compared with the pinned one.

A file may come from `nslab fetch` or be put there by hand; the two are treated alike. Each file is hashed once a
process, on first use (0.1 s for the largest). A note on disk that it was checked would save that, but could go stale.
"""

import hashlib
import os
import sys
from pathlib import Path

from nslab.corpora.packages import NAMES, Package, find, shown_name


class NotFetched(RuntimeError):
    """What was asked for is not in the cache. The message gives the command that fetches it, and its size."""


class FetchFailed(RuntimeError):
    """A file could not be fetched. The message gives the cause and what to do; the cache is as it was."""


class WrongHash(FetchFailed):
    """A file is not the pinned one, byte for byte. The message gives both hashes."""


def cache_folder() -> Path:
    """The folder that fetched files are kept in. It need not exist yet.

    $NSLAB_CACHE if that is set; else `nslab` in the user's cache folder: $XDG_CACHE_HOME or ~/.cache on Linux,
    ~/Library/Caches on a Mac, %LOCALAPPDATA% on Windows.

    Errors: `NotFetched` when one of these needs the home folder, and the system knows none.
    """
    try:
        if named := os.environ.get("NSLAB_CACHE"):
            return Path(named).expanduser().absolute()
        if sys.platform == "win32":
            return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "nslab" / "Cache"
        if sys.platform == "darwin":
            return Path.home() / "Library" / "Caches" / "nslab"
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nslab"
    except RuntimeError:
        raise NotFetched("this user has no home folder to hold the cache: set NSLAB_CACHE to a folder") from None


def sha256_of(path: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


_trusted: set[tuple[str, int, int, str]] = set()


def check(path: Path, package: Package) -> None:
    """Compare a file with its pin. Remembered for this process by path, size and time of change.

    Errors: `WrongHash` with the package, the pinned hash and the one found.
    """
    facts = path.stat()
    key = (str(path), facts.st_size, facts.st_mtime_ns, package.sha256)
    if key in _trusted:
        return
    found = sha256_of(path)
    if found != package.sha256:
        raise WrongHash(
            f"{path} is not {package.name} {package.version}: its sha256 is {found}, expected {package.sha256}; "
            f"`nslab fetch {shown_name(package)}` replaces it"
        )
    _trusted.add(key)


def is_cached(package: Package, folder: Path | None = None) -> bool:
    """Is the right file in the cache? A file with another hash is not."""
    path = (folder or cache_folder()) / package.file
    if not path.is_file():
        return False
    try:
        check(path, package)
    except WrongHash:
        return False
    return True


def cached(name: str) -> Path:
    """Path of the checked file behind a name of `NAMES` or a package's name. Never touches the network.

    Errors: `ValueError` for an unknown name; `NotFetched` when the file is not there; `WrongHash` when it is another.
    """
    package = find(name)
    path = cache_folder() / package.file
    if not path.is_file():
        command = name if name in NAMES else shown_name(package)
        raise NotFetched(
            f"{name} is not in the cache {path.parent}: run `nslab fetch {command}` "
            f"({package.size}, once; no network is needed afterwards), or put {package.file} there yourself"
        )
    check(path, package)
    return path

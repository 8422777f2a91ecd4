"""One download, resumable: it goes on where the partial file ends, if the server can, and else begins again."""

import errno
import http.client
import os
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from nslab.corpora.cache import FetchFailed

BLOCK = 1 << 18  # bytes a read: small enough for a live progress bar, large enough not to cost time
PATIENCE = 60  # seconds without a byte before we give up


def download(address: str, part: Path, size: int, seen: Callable[[int], None]) -> None:
    """Bring the file at `address` into `part`, after the bytes that are there already.

    Args:
        address: an http, https or file URL.
        part: the partial file. It holds a prefix of the file at all times, also after an error or a kill.
        size: bytes of the whole file. A server that sends more is cut off, and one that sends fewer is an error.
        seen: called with the number of bytes in `part`, at the start and after every block.

    Errors: `FetchFailed` when the server cannot be reached or refuses, the connection breaks, or the disk is full.
    """
    if not address.startswith(("https://", "http://", "file://")):
        raise FetchFailed(f"the address {address} is neither http nor https")
    have = part.stat().st_size if part.exists() else 0
    if have > size:
        have = 0
    if 0 < have == size:
        seen(have)
        return
    try:
        if not _transfer(address, part, size, have, seen):
            _transfer(address, part, size, 0, seen)
    except urllib.error.HTTPError as error:
        error.close()
        hint = ": your index wants a password, which we do not pass on" if error.code in (401, 403) else ""
        raise FetchFailed(f"the server answered {error.code} {error.reason}{hint}") from None
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        reason = getattr(error, "reason", None) or error
        raise FetchFailed(f"the connection failed ({reason}) {_progress(part, size)}") from None
    if part.stat().st_size < size:
        raise FetchFailed(f"the connection closed {_progress(part, size)}")


def _transfer(address: str, part: Path, size: int, have: int, seen: Callable[[int], None]) -> bool:
    """Fill `part` from byte `have` on. False when the server cannot start there, and nothing was written."""
    headers = {"Accept-Encoding": "identity", "User-Agent": "nslab"}
    if have:
        headers["Range"] = f"bytes={have}-"
    request = urllib.request.Request(address, headers=headers)
    try:
        response = urllib.request.urlopen(request, timeout=PATIENCE, context=_certificates(address))
    except urllib.error.HTTPError as error:
        if have and error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            error.close()
            return False
        raise
    with response:
        if response.status == http.client.PARTIAL_CONTENT:
            if not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
                return False
        else:
            have = 0  # the server ignored the range and sends the whole file
        with _opened(part, have) as file:
            seen(have)
            while have <= size and (block := response.read(BLOCK)):
                _write(file, block, part)
                have += len(block)
                seen(min(have, size))
            _synchronise(file, part)
    return True


def _opened(part: Path, have: int):
    try:
        return open(part, "ab" if have else "wb", buffering=0)
    except OSError as error:
        raise _disk(error, part) from None


def _write(file, block: bytes, part: Path) -> None:
    try:
        while block:  # an unbuffered write may take less than it was given, for example as the disk fills up
            block = block[file.write(block) :]
    except OSError as error:
        raise _disk(error, part) from None


def _synchronise(file, part: Path) -> None:
    try:
        os.fsync(file.fileno())
    except OSError as error:
        raise _disk(error, part) from None


def _disk(error: OSError, part: Path) -> FetchFailed:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return FetchFailed(f"the disk is full: free some space in {part.parent}; what arrived is kept for the next try")
    return FetchFailed(f"{part} cannot be written ({error.strerror or error})")


def _progress(part: Path, size: int) -> str:
    have = part.stat().st_size if part.exists() else 0
    return f"at {have / 1e6:.1f} of {size / 1e6:.1f} MB; the same command goes on from there"


def _certificates(address: str) -> ssl.SSLContext | None:
    """The system's certificates; with certifi's where that is installed, since a Mac's Python may have none."""
    if not address.startswith("https://"):
        return None
    context = ssl.create_default_context()
    try:
        import certifi
    except ImportError:
        return context
    context.load_verify_locations(certifi.where())
    return context

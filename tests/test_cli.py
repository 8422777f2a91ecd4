"""The command line: quick to start, clear when wrong, and a doctor that names what mends each lack."""

import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from nslab import __version__, cli
from nslab.cli import doctor


@pytest.fixture
def run():
    runner = CliRunner()
    return lambda *arguments: runner.invoke(cli.app, arguments)


@pytest.fixture
def program(tmp_path):
    """A file that can be run."""
    path = tmp_path / "browser"
    path.write_text("#!/bin/sh\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def python(*arguments):
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)


def test_version_is_the_package_version(run):
    assert run("--version").output == f"nslab {__version__}\n"


def test_an_unknown_command_names_the_nearest_and_exits_with_two():
    done = python("-m", "nslab", "docter")
    assert done.returncode == 2
    assert "No such command 'docter'. Did you mean 'doctor'?" in done.stderr
    assert done.stdout == ""


def test_starting_and_printing_the_version_imports_no_torch():
    code = "import sys; from nslab.cli import app; print({'torch', 'numpy', 'matplotlib'} & set(sys.modules))"
    assert python("-c", code).stdout == "set()\n"


def test_the_doctor_reports_versions_devices_cache_and_browser_as_json(run, tmp_path, monkeypatch, program):
    cache = tmp_path / "_build" / ".jupyter_cache"
    cache.mkdir(parents=True)
    (cache / "global.db").write_bytes(b"x" * 1000)
    (tmp_path / "_toc.yml").touch()
    (tmp_path / "book").mkdir()
    monkeypatch.chdir(tmp_path / "book")
    monkeypatch.setenv("NSLAB_BROWSER", program)
    done = run("doctor", "--json")
    assert done.exit_code == 0
    report = json.loads(done.output)
    assert report["nslab"] == __version__
    assert report["packages"]["torch"]
    assert report["threads"] >= 1
    assert report["cache"] == {"path": str(cache), "bytes": 1000}
    assert report["browser"] == program
    assert report["works"] is True


def test_the_doctor_in_words_has_the_same_numbers(run, tmp_path, monkeypatch, program):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NSLAB_BROWSER", program)
    monkeypatch.setattr(doctor, "_devices", lambda: (["cuda:0 Some GPU"], 7))
    output = run("doctor").output
    for pattern in (rf"nslab +{__version__}", r"torch +\d", r"devices +CPU, 7 threads; cuda:0 Some GPU", "cache +none"):
        assert re.search(pattern, output)
    assert "Nothing is missing." in output
    assert run("doctor", "--quiet").output == ""


def test_a_missing_extra_is_named_with_the_command_that_mends_it_and_is_no_failure(run, monkeypatch, program):
    monkeypatch.setenv("NSLAB_BROWSER", program)
    monkeypatch.setitem(doctor.PACKAGES, "lab", ("jupyterlab", "no-such-package"))
    done = run("doctor", "--quiet")
    assert done.exit_code == 0
    assert done.output.startswith("Missing: no-such-package\n  mend:  ")
    assert "-m pip install -c constraints.txt -e '.[lab]'" in done.output


@pytest.mark.parametrize(
    ("patch", "what"),
    [
        (lambda m: m.setitem(doctor.PACKAGES, "", ("torch", "no-such-package")), "no-such-package"),
        (lambda m: m.setattr(doctor, "DATA", ("data/lost.csv",)), "data/lost.csv"),
        (lambda m: m.setattr(doctor, "_devices", lambda: 1 / 0), "a torch that imports (division by zero)"),
    ],
)
def test_a_package_that_cannot_work_is_a_failure(run, monkeypatch, patch, what):
    patch(monkeypatch)
    done = run("doctor")
    assert done.exit_code == 1
    assert what in done.output


def test_a_gpu_that_torch_does_not_see_is_reported(run, monkeypatch):
    monkeypatch.setattr(doctor, "_devices", lambda: ([], 2))
    monkeypatch.setattr(doctor.shutil, "which", lambda name: f"/usr/bin/{name}")
    assert "a torch build that sees the NVIDIA GPU" in run("doctor").output


def test_a_missing_browser_is_reported_with_its_remedy(run, monkeypatch):
    monkeypatch.delenv("NSLAB_BROWSER", raising=False)
    monkeypatch.setattr(doctor, "find_browser", lambda: None)
    done = run("doctor")
    assert done.exit_code == 0
    assert "Missing: a browser (only tests need it)" in done.output
    assert re.search("apt-get install chromium|playwright install chromium", done.output)


def test_the_browser_is_the_named_one_then_one_on_the_path_then_playwrights(monkeypatch, tmp_path, program):
    monkeypatch.setenv("NSLAB_BROWSER", program)
    assert doctor.find_browser() == program
    monkeypatch.delenv("NSLAB_BROWSER")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(doctor, "BROWSERS", ("chromium", "browser"))
    assert doctor.find_browser() == program
    monkeypatch.setattr(doctor, "BROWSERS", ())
    monkeypatch.setenv("PLAYWRIGHT_BROWSERS_PATH", str(tmp_path / "none"))
    assert doctor.find_browser() is None
    monkeypatch.setattr(doctor, "_version", lambda name: None)  # Playwright is not installed
    assert doctor.find_browser() is None


def test_a_named_browser_that_is_not_there_is_refused(run, monkeypatch):
    monkeypatch.setenv("NSLAB_BROWSER", "/no/such/browser")
    with pytest.raises(ValueError, match="NSLAB_BROWSER is '/no/such/browser'"):
        doctor.find_browser()
    done = run("doctor")
    assert done.exit_code == 0
    assert "unset NSLAB_BROWSER" in done.output


def test_lab_settings_are_laid_over_those_already_there(tmp_path):
    path = doctor.configure_jupyterlab(tmp_path)
    assert json.loads(path.read_text()) == doctor.LAB_SETTINGS
    kept = {
        "theme": 1,
        "@jupyterlab/docmanager-extension:plugin": {"autosave": False, "defaultViewers": {"csv": "Table"}},
    }
    path.write_text(json.dumps(kept))
    assert doctor.configure_jupyterlab(tmp_path) == path
    found = json.loads(path.read_text())
    assert found["theme"] == 1
    assert found["@jupyterlab/docmanager-extension:plugin"] == {
        "autosave": False,
        "defaultViewers": {"csv": "Table", "markdown": "Jupytext Notebook", "myst": "Jupytext Notebook"},
    }
    assert os.listdir(path.parent) == ["overrides.json"]


@pytest.mark.parametrize("content", ["{broken", "[1]"])
def test_lab_settings_that_are_not_an_object_are_left_alone(run, tmp_path, monkeypatch, content):
    path = doctor.configure_jupyterlab(tmp_path)
    path.write_text(content)
    with pytest.raises(ValueError, match="mend or remove it"):
        doctor.configure_jupyterlab(tmp_path)
    assert path.read_text() == content

    def refuse():
        raise ValueError("mend or remove it")

    monkeypatch.setattr(doctor, "configure_jupyterlab", refuse)
    done = run("doctor", "--configure-lab")
    assert done.exit_code == 1
    assert "Error: mend or remove it" in done.output


def test_configure_lab_writes_into_this_environment(run, monkeypatch, program):
    monkeypatch.setenv("NSLAB_BROWSER", program)
    assert run("doctor", "--configure-lab", "--quiet").exit_code == 0
    written = Path(sys.prefix, "share", "jupyter", "lab", "settings", "overrides.json")
    assert json.loads(written.read_text()).items() >= doctor.LAB_SETTINGS.items()

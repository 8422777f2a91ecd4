"""The wheel works where the clone is not: built, installed in an empty environment, used from another folder.

Only `nslab` is installed there. Its dependencies are those of this environment, seen through a path file: a path file
adds a folder, but does not follow the path files inside it, so the editable `nslab` of this environment stays unseen.
"""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.package


def run(*command, cwd):
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "PIP_"))}
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel built from a copy of the tree, so that nothing is written into the clone."""
    copy = tmp_path_factory.mktemp("tree")
    shutil.copytree(ROOT / "nslab", copy / "nslab", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", copy / "dist", ".", cwd=copy)
    (path,) = (copy / "dist").glob("nslab-*.whl")
    return path


@pytest.fixture(scope="module")
def elsewhere(wheel, tmp_path_factory):
    """An environment with the wheel in it; returns its folder of programs."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    programs = folder / "bin"
    run(
        sys.executable,
        "-m",
        "pip",
        "--python",
        programs / "python",
        "install",
        "--no-deps",
        "--no-index",
        wheel,
        cwd=folder,
    )
    site = run(programs / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip()
    Path(site, "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return programs


def test_every_file_of_the_package_is_in_the_wheel(wheel):
    tree = {path.relative_to(ROOT).as_posix() for path in (ROOT / "nslab").rglob("*") if path.is_file()}
    tree = {path for path in tree if "__pycache__" not in path}
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("nslab/")}
    assert packed == tree


def test_the_doctor_of_the_wheel_finds_all_it_needs(elsewhere, tmp_path):
    report = json.loads(run(elsewhere / "nslab", "doctor", "--json", cwd=tmp_path))
    assert report["works"] is True
    assert report["cache"] is None


def test_the_wheel_is_used_and_not_the_clone(elsewhere, tmp_path):
    code = """
import nslab, nslab.boolean, nslab.cli
from importlib.resources import files
from nslab.tasks import electoral_college
from nslab.explore import explore
assert sum(electoral_college().weights) == 538
assert {".js", ".css"} <= {path.suffix for path in (files("nslab") / "explore" / "assets").iterdir()}
print(nslab.__file__)
"""
    where = Path(run(elsewhere / "python", "-I", "-W", "error", "-c", code, cwd=tmp_path).strip())
    assert where.is_relative_to(elsewhere.parent)
    assert not where.is_relative_to(ROOT)


def test_char_gpt_speaks_and_an_experiment_of_a_user_runs_outside_the_clone(elsewhere, tmp_path):
    code = """
import sys
from nslab import zoo
model = zoo.load("char-gpt")
ids = model.encode("O Romeo, Romeo, wherefore art ")
assert zoo.perplexity(model, ids) < 20
assert "transformers" not in sys.modules
"""
    run(elsewhere / "python", "-I", "-W", "error", "-c", code, cwd=tmp_path)
    (tmp_path / "coin.py").write_text(
        '''"""A coin is tossed."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Config:
    seeds: int = 1


PRESETS = {"quick": Config()}


def run(config, log, *, device):
    heads = torch.rand(100, generator=torch.Generator().manual_seed(0)) < 0.5
    log.record(0, heads=heads.double().mean())
    return {"heads": int(heads.sum())}


def phenomenon(result):
    return None if 20 < result["heads"] < 80 else "a fair coin"
'''
    )
    run(elsewhere / "nslab", "rerun", "coin.py", "--preset", "quick", cwd=tmp_path)
    assert "coin" in run(elsewhere / "nslab", "records", cwd=tmp_path)
    assert list((tmp_path / "records" / "coin").glob("quick-cpu-*/result.json"))

"""A toy experiment, records written by hand, and the command in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nslab import records, reruns

TOY = Path(__file__).parent / "toy.py"
SAME = ("config.json", "history.npz", "result.json")


@pytest.fixture
def toy():
    return reruns.load(str(TOY))


@pytest.fixture
def command(tmp_path):
    """``command("rerun", ..., TOY_DIES_AT="2:25")``: the `nslab` command, with records in ``tmp_path``."""

    def run(*arguments, launcher=(), **environment):
        call = [sys.executable, *launcher, "-m", "nslab", *map(str, arguments), "--records", str(tmp_path)]
        return subprocess.run(call, env=os.environ | environment, capture_output=True, text=True, check=False)

    return run


@pytest.fixture
def contents():
    """What must be the same to the bit in two records of the same run."""
    return lambda path: {name: (Path(path) / name).read_bytes() for name in SAME}


@pytest.fixture
def stored(tmp_path):
    """``stored("full-cpu-20260101T000000", {"x": [1]}, fresh=False)``: a record of ``runs``; returns its folder."""

    def write(name, result, *, fresh=True, seeds=5, experiment="runs"):
        path = tmp_path / experiment / name
        path.mkdir(parents=True)
        sources = records.file_hashes("nslab.estimate") if fresh else {"nslab/estimate.py": "0" * 16}
        run = {
            "code": ["nslab.estimate"],
            "sources": sources,
            "seeds": seeds,
            "seconds": 2.0,
            "threads": 2,
            "cpu": "Z80",
        }
        (path / "result.json").write_text(json.dumps(result))
        (path / "run.json").write_text(json.dumps(run))
        return path

    return write

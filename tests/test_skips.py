"""A skip needs a listed reason: tried on a small suite of its own."""

import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
SUITE = """
import pytest

def test_listed():
    pytest.skip("no CUDA device")

@pytest.mark.skipif(True, reason="too lazy")
def test_unlisted():
    pass

@pytest.mark.xfail
def test_expected_failure():
    assert False
"""


def test_an_unlisted_skip_fails_and_a_listed_one_does_not(tmp_path):
    for name in ("conftest.py", "skips.toml"):
        shutil.copy(HERE / name, tmp_path)
    (tmp_path / "test_suite.py").write_text(SUITE)
    (tmp_path / "test_file.py").write_text("import pytest\npytest.importorskip('no_such_module')\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--continue-on-collection-errors"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert "not in tests/skips.toml: 'too lazy'" in run.stdout
    assert "not in tests/skips.toml: \"could not import 'no_such_module'" in run.stdout
    assert "1 skipped, 1 xfailed, 2 errors" in run.stdout

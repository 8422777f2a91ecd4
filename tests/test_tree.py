"""The tree is clean: lint, format, and floors that import only downwards."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent


def succeeds(*command):
    done = subprocess.run([BIN / command[0], *command[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"


def test_ruff_finds_nothing():
    succeeds("ruff", "check", ".")


def test_ruff_would_reformat_nothing():
    succeeds("ruff", "format", "--check", ".")


def test_rooms_import_only_from_floors_below():
    succeeds("lint-imports", "--no-cache")


def test_rooms_are_loaded_when_they_are_named():
    """In a fresh interpreter: `import nslab` alone is quick, and `nslab.stability` is there."""
    code = (
        "import sys, nslab; assert 'torch' not in sys.modules; print(nslab.stability.Cube(3), hasattr(nslab, 'attic'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "Cube(n=3) False\n"

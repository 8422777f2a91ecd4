"""The mark and the README's picture are what their code draws."""

import importlib.util
from pathlib import Path

import pytest

FILE = Path(__file__).parents[2] / "book/draw.py"
spec = importlib.util.spec_from_file_location("draw", FILE)
draw = importlib.util.module_from_spec(spec)
spec.loader.exec_module(draw)


@pytest.mark.parametrize("name", draw.PICTURES)
def test_committed_pictures_are_what_the_code_draws(name):
    committed = (FILE.parent / "_static" / name).read_text(encoding="utf-8")
    assert committed == draw.PICTURES[name](), "run `python book/draw.py`"

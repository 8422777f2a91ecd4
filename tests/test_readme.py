"""The README's sample runs, and what it names is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", TEXT, flags=re.MULTILINE | re.DOTALL)


def test_the_sample_is_at_most_ten_lines_and_runs():
    (sample,) = BLOCKS
    assert len([line for line in sample.splitlines() if line.strip()]) <= 10
    exec(compile(sample, "README.md", "exec"), {})


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\((?!https?:|#)([^)#]+)", TEXT))))
def test_a_link_into_the_repository_leads_somewhere(target):
    assert (ROOT / target).exists()


def test_every_command_it_tells_you_to_type_exists():
    makefile = (ROOT / "Makefile").read_text()
    for goal in re.findall(r"\bmake ([a-z-]+)", TEXT):
        assert re.search(rf"^{goal}:", makefile, flags=re.MULTILINE), f"make {goal}"

"""Rules that every chapter keeps: canonical MyST, budget, numbers, enough live figures and self-checks."""

import json
import re
import tomllib
from pathlib import Path

import jupytext
import pytest
from jupytext.config import load_jupytext_config

from nslab.sphinxext import cache, head

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "book").glob("*.md"))
CHAPTERS = [path for path in PAGES if cache.is_chapter(path.read_text(encoding="utf-8"))]
NUMBERED = [path for path in CHAPTERS if re.match(r"ch\d\d-", path.name)]


def by_stem(path):
    return path.stem


@pytest.mark.parametrize("path", CHAPTERS, ids=by_stem)
def test_myst_is_canonical(path):
    """What JupyterLab writes on saving is what is committed, so that a first save makes no difference."""
    config = load_jupytext_config(str(path))
    text = path.read_text(encoding="utf-8")
    assert jupytext.writes(jupytext.read(path, config=config), fmt="md:myst", config=config) == text


@pytest.mark.book
@pytest.mark.parametrize("path", CHAPTERS, ids=by_stem)
def test_a_chapter_keeps_its_budget(book, path):
    text = path.read_text(encoding="utf-8")
    key = cache.chapter_key(text, ROOT)
    used = json.loads(cache.usage_path(ROOT, f"book/{path.stem}", key).read_text())
    assert 0 < used["cpu_seconds"] <= head.MAX_CPU_SECONDS
    assert used["peak_bytes"] > 1e7


@pytest.mark.book
@pytest.mark.parametrize("path", NUMBERED, ids=by_stem)
def test_a_chapter_is_alive(book, path):
    """At least four live figures, four to six self-checks with solutions, a place where it breaks."""
    page = (book / "book" / f"{path.stem}.html").read_text(encoding="utf-8")
    text = path.read_text(encoding="utf-8")
    checks = page.count('aria-label="Self-check: ')
    figures = page.count('class="ns-explore"') + page.count('class="ns-module"') - checks
    assert figures >= 4
    assert page.count("What to discover") == figures, "each figure names its discovery"
    assert 4 <= checks <= 6
    assert text.count("```{solution}") == checks
    for heading in ("Where it breaks", "Check yourself", "Recap"):
        assert f"\n## {heading}\n" in text


DECIMAL = re.compile(r"(?<![\w.])\d+\.\d+(?![\w.])")


def prose(text: str) -> str:
    """The text a reader reads, without code, formulas, roles, links and options."""
    text = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL)
    text = re.sub(r"^(```+|:::+)\{?(?:code-cell|raw|eval-rst|math)\b.*?^\1$", "", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"\$\$.*?\$\$(?: *\([\w-]+\))?|\$[^$\n]+\$", "", text, flags=re.DOTALL)
    return re.sub(r"\{[\w:]+\}`[^`]*`|`[^`]*`|\]\([^)]*\)|^:\w+:.*$", "", text, flags=re.MULTILINE)


@pytest.mark.parametrize("path", PAGES, ids=by_stem)
def test_numbers_in_prose_are_computed(path):
    """A bare decimal in prose is computed (``{val}``) or stands in the short reviewed list."""
    allowed = tomllib.loads((ROOT / "book/allowed-decimals.toml").read_text()).get(path.stem, {})
    found = DECIMAL.findall(prose(path.read_text(encoding="utf-8")))
    assert sorted(set(found) - set(allowed)) == []
    assert sorted(set(allowed) - set(found)) == [], "listed but no longer in the text"


def test_the_prose_filter_sees_decimals_and_only_those():
    words = "Bare 0.25 and $0.5$ and {val}`x:.3f` and `0.7`."
    text = f"---\na: 0.1\n---\n{words}\n\n```{{code-cell}} ipython3\n0.9\n```\n| 1.5 |\n"
    assert DECIMAL.findall(prose(text)) == ["0.25", "1.5"]

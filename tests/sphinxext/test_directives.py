"""What an author sees: heads that measure, numbers from the chapter, mistakes named, heavy pages refused."""

import re

import pytest

import nslab.sphinxext
from nslab.sphinxext import dialect
from nslab.sphinxext.docstrings import translate

HEADER = """---
jupytext:
  text_representation:
    format_name: myst
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---

# Title

"""
CELL = """
```{code-cell} ipython3
from nslab.explore import publish
publish(gain=-0.123456, name="ten")
```
"""


@pytest.fixture
def build(tmp_path, sphinx_build):
    """``build(text)``: a book of one chapter; returns the page and the warnings."""

    def build_(text: str) -> tuple[str, str]:
        (tmp_path / "index.md").write_text(text)
        warnings = sphinx_build()
        return (tmp_path / "out-html/index.html").read_text(), warnings

    return build_


@pytest.mark.book
def test_heads_measure_and_values_are_the_chapters_own(build):
    head = "```{chapter-head}\n:study: 25\n```\n"
    page, warnings = build(f"{HEADER}{head}\nIt is {{val}}`gain:.2f`, or {{val}}`name`.\n{CELL}")
    assert warnings == ""
    assert "It is <span" in page
    assert re.search(r'class="ns-val">−0\.12</span>, or <span class="[^"]*ns-val">ten</span>', page)
    assert "gain = " not in page, "the cell that publishes shows nothing in the book"
    seconds, unit, memory = (
        re.search(rf"<dt>{name}</dt><dd>(\d+) (?:min|s|MB)</dd>", page)[1] for name in ("Compute", "Study", "Memory")
    )
    assert 0 < int(seconds) < 60
    assert int(unit) == 25
    assert 20 < int(memory) < 4000


@pytest.mark.book
def test_mistakes_of_an_author_are_named(build):
    text = f"{HEADER}```{{chapter-head}}\n```\n\nIt is {{val}}`loss:.2f`, or {{val}}`gain:.2q`.\n{CELL}"
    _, warnings = build(text)
    assert "chapter-head needs :study:" in warnings
    assert "val: 'loss'" in warnings
    assert "publish it in a cell of this chapter" in warnings
    assert "val: 'gain'" in warnings


@pytest.mark.book
def test_a_heavy_page_fails_the_build(build, tmp_path, monkeypatch):
    monkeypatch.setattr(nslab.sphinxext, "MAX_PAGE_BYTES", 1000)
    _, warnings = build(HEADER + CELL)
    assert "index.html weighs" in warnings


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("the level `k` of $f$", "the level ``k`` of :math:`f`"),
        ("shape (*batch, 2**n) and |S| <= k", r"shape (\*batch, 2\*\*n) and \|S\| <= k"),
        ("see :func:`wht`, **never** more, an *upper* bound", "see :func:`wht`, **never** more, an *upper* bound"),
        ("costs $5 and $6", "costs $5 and $6"),
    ],
)
def test_docstrings_become_restructured_text(written, shown):
    assert translate(written) == shown


def test_admonitions_become_our_directives_line_for_line():
    claim = "```{admonition} Claim 1.2-a\n:class: claim\nTwo lines\nfor JupyterLab.\n```"
    other = "```{admonition} Claim 1.2-a\n:class: note\nStays.\n```"
    text = f"Before.\n\n{claim}\n\n{other}\n"
    translated, problems = dialect.translate(text)
    assert problems == []
    assert "```{claim} 1.2-a\n" in translated
    assert other in translated
    assert translated.count("\n") == text.count("\n")


@pytest.mark.book
def test_a_title_that_cannot_be_read_is_named(build):
    head = "```{admonition} One hour\n:class: chapter-head\nWords.\n```\n"
    _, warnings = build(f"{HEADER}{head}{CELL}")
    assert "class chapter-head has the title 'One hour'" in warnings


@pytest.mark.book
def test_a_warning_is_given_again_until_it_is_mended(build):
    page = f"{HEADER}It is {{val}}`loss:.2f`.\n{CELL}"
    assert "val: 'loss'" in build(page)[1]
    assert "val: 'loss'" in build(page)[1]
    assert build(page.replace("loss", "gain"))[1] == ""

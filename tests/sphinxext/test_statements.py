"""What claims state stands in the chapters as in book/claims, for JupyterLab; the built book never sees it."""

from pathlib import Path

import pytest

from nslab.claims import load_folder
from nslab.sphinxext import claims, dialect
from nslab.sphinxext.statements import main, with_statements

BOOK = Path(__file__).parents[2] / "book"
OLD = "# T\n\n```{admonition} Claim 1.2-a-b\n:class: claim\nOld words.\n```\n\nText.\n"


@pytest.mark.parametrize("path", sorted(BOOK.glob("ch*.md")), ids=lambda path: path.stem)
def test_chapters_say_what_the_claims_say(path):
    """If this fails, run ``python -m nslab.sphinxext.statements book/ch*.md``."""
    statements = {claim.id: claim.statement for claim in load_folder(BOOK / "claims")}
    text = path.read_text(encoding="utf-8")
    assert with_statements(text, statements) == text


def test_a_statement_is_written_once_and_the_book_ignores_it():
    new = with_statements(OLD, {"1.2-a-b": "That $x^2 \\ge 0$.\n"})
    assert "\n:class: claim\n:name: claim-1-2-a-b\nThat $x^2 \\ge 0$.\n\n" in new
    assert f":name: {claims.anchor('1.2-a-b')}\n" in new
    assert "Old words." not in new
    assert with_statements(new, {"1.2-a-b": "That $x^2 \\ge 0$."}) == new
    assert dialect.translate(new)[0].split() == dialect.translate(OLD)[0].split()


def test_an_unknown_claim_and_other_admonitions_stay():
    other = OLD.replace(":class: claim", ":class: note")
    assert with_statements(OLD + other, {}) == OLD + other
    assert with_statements(other, {"1.2-a-b": "That."}) == other


def test_the_command_rewrites_what_is_old(tmp_path, capsys):
    (tmp_path / "claims").mkdir()
    entry = '{"id": "1.2-a-b", "statement": "That.", "where": "here", "provenance": "ours", "check": "a:b"}'
    (tmp_path / "claims/1.2.yaml").write_text(f'{{"paper": "1.2", "claims": [{entry}]}}')
    (tmp_path / "ch01-a.md").write_text(OLD)
    main([str(tmp_path / "ch01-a.md")])
    assert "\nThat.\n" in (tmp_path / "ch01-a.md").read_text()
    assert capsys.readouterr().out == f"{tmp_path / 'ch01-a.md'}\n"
    main([str(tmp_path / "ch01-a.md")])
    assert capsys.readouterr().out == ""

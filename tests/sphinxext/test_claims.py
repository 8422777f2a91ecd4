"""Claims on a page: the card and the table, links between them, freshness, and checks that stop the build."""

import json
import os
import re

import pytest

from nslab.sphinxext import claims

pytestmark = pytest.mark.book
ENTRY = {
    "id": "1234.5-sign",
    "statement": "Squares $x^2$ are *never* negative.",
    "where": "Lemma 1",
    "provenance": "digest",
    "check": "toy_checks:holds",
    "theirs": "Positive.",
    "ours": "Zero is a square.",
    "changes": "Positive to non-negative.",
}
OTHER = {key: ENTRY[key] for key in ("statement", "where", "check")} | {"id": "1234.5-other", "provenance": "ours"}
CHECKS = """
from nslab.claims import State, Verdict
def holds(): return Verdict(State.HOLDS_WITH_CHANGES, "All $5$ are.", {"count": 5})
def raises(): raise ZeroDivisionError("no numbers")
"""
TWO_PAGES = {
    "index": "# Start\n\nSee {ref}`claim-1234-5-sign`.\n\n```{claims-table}\n```\n\n```{toctree}\nlater\n```\n",
    "later": "# Later\n\n```{claim} 1234.5-sign\n```\n",
}


@pytest.fixture
def build(tmp_path, monkeypatch, sphinx_build):
    """``build(pages, entries)``: a book of these pages and claims; returns read pages (by name) and the warnings."""
    folder = tmp_path / "book" / "claims"
    folder.mkdir(parents=True)
    (tmp_path / "toy_checks.py").write_text(CHECKS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def write(path, text):
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
            os.utime(path, (path.stat().st_mtime + 2,) * 2)

    def build_(pages: dict[str, str], *entries: dict, builder: str = "html"):
        for name, text in pages.items():
            write(tmp_path / f"{name}.md", text)
        write(folder / "1234.5.yaml", json.dumps({"paper": "1234.5", "claims": entries}, indent=1))
        warnings = sphinx_build(builder)
        end = "html" if builder == "html" else "txt"
        return {name: (tmp_path / f"out-{builder}/{name}.{end}").read_text() for name in pages}, warnings

    return build_


def test_the_card_says_what_who_how_it_stands_and_why(build):
    pages, warnings = build(TWO_PAGES, ENTRY)
    assert warnings == ""
    card = re.search(r'<aside class="ns-claim".*?</aside>', pages["later"], re.DOTALL)[0]
    assert 'role="note" id="claim-1234-5-sign" aria-label="Claim 1234.5-sign: holds with changes"' in card
    assert '<span class="ns-state ns-state-holds-with-changes">holds with changes</span>' in card
    assert re.search(r"Squares <span class=\"math[^>]*>\\\(x\^2\\\)</span> are <em>never</em> negative", card)
    text = re.sub(r"<[^>]+>", "", card)
    for words in (
        "Where Lemma 1",
        "Provenance digest: a third-party summary of the full text says so",
        "Theirs Positive.",
        r"Evidence All \(5\) are.",
        "Changed Positive to non-negative.",
        "Remark Zero is a square.",
    ):
        assert words in text


def test_the_table_and_references_lead_to_the_card(build):
    pages, warnings = build(TWO_PAGES, ENTRY, OTHER | {"check": "record:runs?preset=full&value=x&theirs=1"})
    assert warnings == ""
    assert "2 claims: holds 0, holds with changes 1, not reproduced 0, open 1." in pages["index"]
    assert pages["index"].count('href="later.html#claim-1234-5-sign"') == 2, "from {ref} and from the table"
    assert "1234.5-other" in pages["index"], "a claim without a card stands in the table, unlinked"
    assert "Not run yet: there is no record of runs" in pages["index"]
    moved = {
        "index": TWO_PAGES["index"],
        "later": "# Later\n\nText.\n",
        "last": "# Last\n\n```{claim} 1234.5-sign\n```\n",
    }
    moved["index"] = moved["index"].replace("later\n", "later\nlast\n").replace("See {ref}`claim-1234-5-sign`.", "See.")
    pages, warnings = build(moved, ENTRY)
    assert warnings == ""
    assert pages["index"].count('href="last.html#claim-1234-5-sign"') == 1


def test_without_html_the_card_is_plain_text(build):
    pages, warnings = build(TWO_PAGES, ENTRY, builder="text")
    assert warnings == ""
    assert "Claim 1234.5-sign holds with changes" in pages["later"]
    assert "**Evidence** All 5 are." in pages["later"]


def test_a_check_that_raises_or_is_missing_is_a_warning_that_names_the_claim(build):
    bad = ENTRY | {"check": "toy_checks:raises"}, OTHER | {"check": "toy_checks:nowhere"}
    for _ in range(2):  # a second build, with nothing to read again, warns again
        pages, warnings = build(TWO_PAGES | {"index": "# Start\n\n```{toctree}\nlater\n```\n"}, *bad)
        assert "claim 1234.5-sign: check toy_checks:raises: ZeroDivisionError: no numbers" in warnings
        assert "claim 1234.5-other: check toy_checks:nowhere: ClaimError: there is no function nowhere" in warnings
        assert "Claim 1234.5-sign: its check gave no state." in pages["later"]


def test_mistakes_of_an_author_are_named(build):
    index = (
        "# Start\n\n```{claim} 1234.5-sing\n```\n\n```{claims-table}\n:paper: 9.9\n```\n\n```{toctree}\nlater\n```\n"
    )
    twice = TWO_PAGES["later"] + "\n```{claim} 1234.5-sign\n```\n"
    _, warnings = build({"index": index, "later": twice}, ENTRY)
    assert "claim 1234.5-sing is in no file of book/claims" in warnings
    assert "claims-table has nothing to show: no claims of 9.9" in warnings
    assert "claim 1234.5-sign has a card on later: refer to it with {ref}`claim-1234-5-sign`" in warnings
    _, warnings = build(TWO_PAGES, ENTRY | {"state": "holds"})
    assert "1234.5.yaml: claim 1234.5-sign: unknown key 'state': the state is what the check returns" in warnings


def test_checks_run_once_until_a_claim_or_a_check_changes(build, tmp_path, monkeypatch):
    runs = []
    real = claims.subprocess.run

    def count(command, **kwargs):
        if "claims" in command:
            runs.append(command)
        return real(command, **kwargs)

    monkeypatch.setattr(claims.subprocess, "run", count)
    build(TWO_PAGES, ENTRY)
    build(TWO_PAGES, ENTRY)
    assert len(runs) == 1
    (tmp_path / "toy_checks.py").write_text(CHECKS.replace("All $5$ are.", "All $6$ are."))
    pages, _ = build(TWO_PAGES, ENTRY)
    assert len(runs) == 2
    assert r"\(6\)" in pages["later"], "the page was read again, although its text is the same"
    assert r"\(6\)" in pages["index"]
    pages, _ = build(TWO_PAGES, ENTRY | {"where": "Lemma 2"})
    assert len(runs) == 3
    assert "Lemma 2" in pages["later"]


def test_the_key_follows_what_the_checks_import_and_the_records_they_ask(tmp_path, monkeypatch):
    path = tmp_path / "1234.5.yaml"

    def ask(check):
        path.write_text(json.dumps({"paper": "1234.5", "claims": [ENTRY | {"check": check}]}))

    ask("record:runs?preset=full&value=x&theirs=1")
    before = claims.claims_key(tmp_path, [path])
    record = tmp_path / "book/records/runs/full-cpu-20260101T000000/result.json"
    record.parent.mkdir(parents=True)
    record.write_text("{}")
    assert claims.claims_key(tmp_path, [path]) != before
    ask("nslab.claims.checks_2602_08287:relu_formula")
    found = {file.name for file in claims.cache.sources("import nslab.claims.checks_2602_08287")}
    assert {"arccosine.py", "spectral.py", "noise.py", "verdicts.py"} <= found
    key = claims.claims_key(tmp_path, [path])
    source = claims.cache.sources
    monkeypatch.setattr(claims.cache, "sources", lambda code: [*source(code), tmp_path / "new.py"])
    (tmp_path / "new.py").write_text("1")
    assert claims.claims_key(tmp_path, [path]) != key, "a file that the checks import"


def test_a_command_that_fails_or_hangs_is_a_problem_not_a_crash(tmp_path, monkeypatch):
    (tmp_path / "book").mkdir()
    found = claims.run_checks(tmp_path, "key")
    assert "`nslab claims` failed: Error: no folder `claims` here" in found["problems"][0]
    monkeypatch.setattr(claims, "SECONDS", 0.01)
    assert "the checks took over 0.01 s" in claims.run_checks(tmp_path, "key")["problems"][0]


def test_a_new_record_runs_the_checks_again_that_ask_for_it_by_hand(tmp_path, monkeypatch):
    monkeypatch.setenv("NSLAB_RECORDS", str(tmp_path / "records"))
    path = tmp_path / "1234.5.yaml"
    path.write_text(json.dumps({"paper": "1234.5", "claims": [ENTRY | {"check": "asking:holds"}]}))
    (tmp_path / "asking.py").write_text("from nslab import records\nrecords.find('runs')\n")
    keys = [claims.claims_key(tmp_path, [path])]
    for experiment in ("other", "runs"):
        record = tmp_path / "records" / experiment / "full-cpu-20260101T000000"
        record.mkdir(parents=True)
        for name in ("run.json", "result.json"):
            (record / name).write_text("{}")
        keys.append(claims.claims_key(tmp_path, [path]))
    assert keys[0] == keys[1] != keys[2]


def test_a_new_record_runs_the_checks_again_that_ask_for_it_through_what_checks_share(tmp_path, monkeypatch):
    monkeypatch.setenv("NSLAB_RECORDS", str(tmp_path / "records"))
    path = tmp_path / "1234.5.yaml"
    check = "nslab.claims.checks_2601_11619_training:between"
    path.write_text(json.dumps({"paper": "1234.5", "claims": [ENTRY | {"check": check}]}))
    before = claims.claims_key(tmp_path, [path])
    record = tmp_path / "records" / "noiseformer-glue" / "laptop-cpu-20260101T000000"
    record.mkdir(parents=True)
    for name in ("run.json", "result.json"):
        (record / name).write_text("{}")
    assert claims.claims_key(tmp_path, [path]) != before

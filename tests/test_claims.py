"""Claims: entries are read strictly, states are returned and never typed, and what cannot answer is named."""

import importlib
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from jaxtyping import TypeCheckError
from scipy.stats import t
from typer.testing import CliRunner

from nslab import cli
from nslab import gaussian as gs
from nslab.claims import Claim, ClaimError, Comparison, Provenance, State, Verdict, compare, examine, load, load_folder
from nslab.claims import checks_2602_08287 as checks
from nslab.claims.run import query
from nslab.claims.verdicts import _T, LEAST_SEEDS
from nslab.records import file_hashes
from nslab.stability import concentration_degree, spectral_tail_bound

BOOK = Path(__file__).parents[1] / "book"
ENTRY = {
    "id": "1234.5-sign",
    "statement": "Squares are positive.",
    "where": "Lemma 1",
    "provenance": "digest",
    "check": "toy_checks:holds",
}
CHECKS = """
from nslab.claims import State, Verdict
def holds(): return Verdict(State.HOLDS, "All 5 are.", {"count": 5})
def changed(): return Verdict(State.HOLDS_WITH_CHANGES, "All but 0.")
def raises(): raise ZeroDivisionError("no numbers")
def threads():
    import torch
    return Verdict(State.HOLDS, "So many.", {"threads": torch.get_num_threads()})
def mute(): return "holds"
not_callable = 3
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    """``write(entry, ...)``: a book of these claims, with a module of toy checks; returns the book's folder."""
    (tmp_path / "claims").mkdir()
    (tmp_path / "toy_checks.py").write_text(CHECKS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "toy_checks", raising=False)

    def write_(*entries, paper="1234.5"):
        content = {"paper": paper, "claims": list(entries)}
        (tmp_path / "claims" / "1234.5.yaml").write_text(json.dumps(content))  # JSON is YAML
        return tmp_path

    return write_


def test_an_entry_becomes_a_claim_and_its_check_gives_the_state(write):
    (result,) = examine(write(ENTRY))
    expected = Claim(**ENTRY | {"provenance": Provenance.digest})
    assert result.claim == expected
    assert result.verdict == Verdict(State.HOLDS, "All 5 are.", {"count": 5})
    assert result.problem is None
    assert result.as_dict()["state"] == "holds"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"state": "holds"}, "unknown key 'state': the state is what the check returns"),
        ({"proof": "none"}, "unknown key 'proof': use id, statement,"),
        ({"check": None}, "check is None: write text"),
        ({"check": "toy_checks"}, "check is 'toy_checks': name a function as module:function"),
        ({"check": "record:grokking"}, "or a record as record:<experiment>"),
        ({"where": 5.1}, "where is 5.1: write text, in quotes"),
        ({"statement": " "}, "statement is ' ': write text"),
        (
            {"provenance": "rumour"},
            "provenance is 'rumour': say who says so: source, digest, reconstructed, ours, open",
        ),
        ({"id": "9.9-sign"}, "claim 9.9-sign: id: give <paper>-<slug>"),
        ({"id": "1234.5-Sign_1"}, "in small letters, digits and single hyphens"),
    ],
)
def test_a_wrong_entry_is_refused_by_file_id_key_and_remedy(write, change, message):
    folder = write(ENTRY | change)
    with pytest.raises(ClaimError, match=re.escape(message)) as refusal:
        load_folder(folder / "claims")
    assert "1234.5.yaml: claim " in str(refusal.value)


@pytest.mark.parametrize("key", ["id", "statement", "where", "provenance", "check"])
def test_a_missing_key_is_refused(write, key):
    folder = write({name: value for name, value in ENTRY.items() if name != key})
    with pytest.raises(ClaimError, match=f"no key '{key}': "):
        load_folder(folder / "claims")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("paper: 1234.5\nclaims: []\n", "paper is 1234.5: write the name of the file, '1234.5', in quotes"),
        ("paper: '1234.5'\n", "the keys `paper` and `claims`, and no others"),
        ("paper: '1234.5'\nclaims: 3\n", "claims is 3: give a list"),
        ("paper: '1234.5'\nclaims: [word]\n", "entry 1 is 'word': give a mapping"),
        ("paper: '1234.5'\nclaims:\n  - id: a\n    where: b\n    where: c\n", "the key 'where' is written twice"),
        ("paper: '1234.5'\nclaims: [\n", "not YAML"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path, text, message):
    path = tmp_path / "1234.5.yaml"
    path.write_text(text)
    with pytest.raises(ClaimError, match=re.escape(message)) as refusal:
        load(path)
    assert "1234.5.yaml" in str(refusal.value)


def test_an_id_is_used_once(write):
    with pytest.raises(ClaimError, match=r"claim 1234.5-sign: the id is taken"):
        examine(write(ENTRY, ENTRY))


@pytest.mark.parametrize(
    ("check", "message"),
    [
        ("toy_checks:nowhere", "there is no function nowhere in toy_checks"),
        ("toy_checks:not_callable", "there is no function not_callable in toy_checks"),
        ("no_such_module:check", "No module named 'no_such_module'"),
        ("toy_checks:raises", "ZeroDivisionError: no numbers"),
        ("toy_checks:mute", "it returned str: return a Verdict"),
        ("toy_checks:changed", "say in `changes` what was changed"),
        ("record:runs?preset=full", "the keys are preset, value and theirs"),
        ("record:runs?preset=full&value=x&theirs=1&colour=red", "the keys are preset, value and theirs"),
    ],
)
def test_a_check_that_gives_no_verdict_is_named_and_the_others_still_run(write, check, message):
    first, second = examine(write(ENTRY | {"check": check}, ENTRY | {"id": "1234.5-other"}))
    assert first.verdict is None
    assert first.problem.startswith(f"claim 1234.5-sign: check {check}: ")
    assert message in first.problem
    assert second.verdict.state is State.HOLDS


def test_not_reproduced_needs_five_seeds_and_an_interval_that_excludes():
    with pytest.raises(ValueError, match="needs at least 5 seeds"):
        Verdict(State.NOT_REPRODUCED, "We saw nothing.")
    near = Comparison((1.0, 1.1, 1.2, 1.3, 1.4), 1.36)
    with pytest.raises(ValueError, match="needs at least 5 seeds"):
        Verdict(State.NOT_REPRODUCED, "We saw little.", {}, near)
    with pytest.raises(ValueError, match="values has 4 seeds"):
        Comparison((1.0,) * 4, 1.36)
    with pytest.raises((TypeError, TypeCheckError), match=r"(?s)state.*'holds'"):
        Verdict("holds", "Typed.")
    with pytest.raises(ValueError, match=r"numbers\['loss'\] is nan"):
        Verdict(State.HOLDS, "Computed.", {"loss": float("nan")})
    with pytest.raises(ValueError, match="evidence is empty"):
        Verdict(State.HOLDS, " ")


@pytest.mark.parametrize(
    ("values", "theirs", "null", "state"),
    [
        ([1.0, 1.0, 1.0, 1.0], 1.36, None, State.OPEN),
        ([1.0, 1.1, 0.9, 1.0, 1.05], 1.36, 1, State.NOT_REPRODUCED),
        ([1.3, 1.4, 1.35, 1.38, 1.33], 1.36, 1, State.HOLDS),
        ([0.7, 1.4, 1.0, 2.0, 1.3], 1.36, 1, State.OPEN),
        ([0.7, 1.4, 1.0, 2.0, 1.3], 1.36, None, State.HOLDS),
    ],
)
def test_seeds_decide_an_experiment(values, theirs, null, state):
    verdict = compare(values, theirs, null=null)
    assert verdict.state is state
    if len(values) >= LEAST_SEEDS:
        low, high = t.interval(0.95, len(values) - 1, torch.tensor(values).mean(), torch.tensor(values).std() / 5**0.5)
        assert verdict.numbers["low"] == pytest.approx(float(low), rel=1e-5)
        assert verdict.numbers["high"] == pytest.approx(float(high), rel=1e-5)


def test_the_quantiles_are_students():
    assert pytest.approx([t.ppf(0.975, freedom) for freedom in range(4, 31)], abs=1e-6) == list(_T)


@pytest.fixture
def record(tmp_path):
    """``record(name, values, fresh=True)``: a record of ``runs`` with one ``speed_up`` a seed; returns its folder."""

    def write(name, values, fresh=True):
        path = tmp_path / "runs" / name
        path.mkdir(parents=True)
        sources = file_hashes("nslab.estimate") if fresh else {"nslab/estimate.py": "0"}
        (path / "run.json").write_text(
            json.dumps({"code": ["nslab.estimate"], "sources": sources, "seeds": len(values)})
        )
        (path / "result.json").write_text(json.dumps({"speed_up": values}))
        return path

    return write


ASKED = "runs?preset=full&value=speed_up&theirs=1.36&null=1"
NEAR, FAR = [1.3, 1.4, 1.35, 1.38, 1.33], [1.0, 1.1, 0.9, 1.0, 1.05]


def test_a_record_answers_for_its_newest_run_of_the_asked_preset(record, tmp_path):
    assert query(ASKED, tmp_path).state is State.OPEN
    record("quick-cpu-20270101T000000", [1.36] * 6)
    assert query(ASKED, tmp_path).evidence == "Not run yet: there is no record of runs at the preset full."
    record("full-cuda-20260101T000000", FAR)
    assert query(ASKED, tmp_path).state is State.NOT_REPRODUCED
    record("full-cpu-20260201T000000", NEAR)
    assert query(ASKED, tmp_path).state is State.HOLDS
    with pytest.raises(ClaimError, match="no list of numbers 'loss'"):
        query(ASKED.replace("speed_up", "loss"), tmp_path)


def test_a_stale_record_answers_with_a_warning_until_there_is_a_fresh_one(record, tmp_path):
    record("full-cpu-20260201T000000", FAR, fresh=False)
    verdict = query(ASKED, tmp_path)
    assert verdict.state is State.NOT_REPRODUCED
    assert verdict.evidence.endswith("it excludes 1.36. (stale: `nslab/estimate.py` has changed since)")
    record("full-cpu-20260101T000000", NEAR)
    verdict = query(ASKED, tmp_path)
    assert verdict.state is State.HOLDS, "the fresh record is older and counts"
    assert "stale" not in verdict.evidence


@pytest.mark.parametrize("name", ["run.json", "result.json"])
def test_a_damaged_record_is_an_error_that_names_it(record, tmp_path, write, name):
    record("full-cpu-20260101T000000", NEAR)
    (record("full-cpu-20260201T000000", NEAR) / name).write_text('{"speed_up": [1')
    with pytest.raises(ClaimError, match=rf"full-cpu-20260201T000000/{name}: not JSON .*restore the record"):
        query(ASKED, tmp_path)
    (tmp_path / "runs").rename(tmp_path / "hidden")
    (tmp_path / "records").mkdir()
    (tmp_path / "hidden").rename(tmp_path / "records" / "runs")
    (result,) = examine(write(ENTRY | {"check": f"record:{ASKED}"}))
    assert f"{name}: not JSON" in result.problem


# The claims of this repository


@pytest.mark.parametrize("then", ["holds", "raises"])
def test_checks_run_on_one_thread_and_give_the_others_back(write, then):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        other = ENTRY | {"id": "1234.5-other", "check": f"toy_checks:{then}"}
        first, _ = examine(write(ENTRY | {"check": "toy_checks:threads"}, other))
        assert first.verdict.numbers["threads"] == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_to_list_claims_needs_no_torch():
    program = "import sys, nslab.claims; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_every_claim_of_the_book_has_a_state_and_is_quick():
    start = time.process_time()
    results = examine(BOOK)
    assert time.process_time() - start < 10, "all checks together"
    assert [result.problem for result in results if result.problem] == []
    assert len({result.claim.id for result in results}) == len(results) >= 16


def test_every_claim_on_a_page_exists_and_has_one_card():
    known = {claim.id for claim in load_folder(BOOK / "claims")}
    shown = [
        name
        for page in BOOK.glob("*.md")
        for name in re.findall(r"^```\{admonition\} Claim (\S+)$", page.read_text(), re.M)
    ]
    assert set(shown) <= known
    assert len(shown) == len(set(shown))


def test_every_check_in_the_package_is_named_by_a_claim():
    files = (Path(checks.__file__).parent).glob("checks_*.py")
    public = {
        f"{module.__name__}:{name}"
        for module in (importlib.import_module(f"nslab.claims.{file.stem}") for file in files)
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__annotations__", {}).get("return") is Verdict
        if value.__module__ == module.__name__
    }
    named = {claim.check for claim in load_folder(BOOK / "claims")}
    assert public == {check for check in named if not check.startswith("record:")}


HOLD, CHANGED, OPEN = State.HOLDS, State.HOLDS_WITH_CHANGES, State.OPEN


@pytest.mark.parametrize(
    ("check", "state", "wrong", "then"),
    [
        (checks.no_single_real_version, CHANGED, {"f": lambda x: 3 * x}, OPEN),
        (checks.blind_to_juntas, CHANGED, {"spread": torch.ones(2**12).double()}, OPEN),
        (
            checks.stability_is_a_hermite_series,
            HOLD,
            {"series": lambda w, rho: gs.stability_from_energies(w, rho**2)},
            OPEN,
        ),
        (checks.relu_formula, HOLD, {"formula": lambda rho: 2 * gs.relu_map(rho)}, OPEN),
        (checks.relu_energies, HOLD, {"energies": lambda k: gs.relu_energies(k) * 1.001}, OPEN),
        (checks.weak_dampening, CHANGED, {"layer": lambda rho: 1 / (2 * torch.pi) + rho / 4}, HOLD),
        (checks.weak_dampening, CHANGED, {"layer": lambda rho: 2 * gs.relu_map(rho)}, OPEN),
        (checks.lemma_1, CHANGED, {"smallest": lambda *given: concentration_degree(*given) - 1}, OPEN),
        (checks.never_worse_than_markov, HOLD, {"bound": lambda w, rho, k: 2 * spectral_tail_bound(w, rho, k)}, OPEN),
        (checks.friedgut_is_vacuous, HOLD, {"bound": 100}, OPEN),
        (checks.faster_is_a_ratio, HOLD, {"after": 3000}, OPEN),
        (checks.keep_or_resample, CHANGED, {"keep": lambda rho: rho}, HOLD),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_check_can_come_out_otherwise(check, state, wrong, then):
    assert check().state is state
    assert check(**wrong).state is then


def test_checks_of_open_claims_raise_when_their_evidence_is_wrong(monkeypatch):
    assert checks.tail_table_ceiling().numbers["degree_RoBERTa"] == 143
    monkeypatch.setattr(checks, "spectral_tail_bound", lambda weights, rho, degree: weights.new_full((1,), 1e-3))
    with pytest.raises(ArithmeticError, match="the ceiling fails"):
        checks.tail_table_ceiling()
    verdict = checks.stability_repairs_both()
    assert verdict.state is OPEN, "no measurement on other models settles it"
    assert verdict.numbers["gap"] < 1e-9
    monkeypatch.setattr(checks.bf, "stability", lambda tables, rho: torch.stack([rho, rho**2]))
    with pytest.raises(ArithmeticError, match="the counterexample fails"):
        checks.stability_repairs_both()


# The command


@pytest.fixture
def run():
    runner = CliRunner()
    return lambda *arguments: runner.invoke(cli.app, ["claims", *map(str, arguments)])


def test_the_command_prints_states_and_succeeds(run, monkeypatch):
    monkeypatch.chdir(BOOK)
    done = run()
    assert done.exit_code == 0
    assert re.search(r"2602.08287-lemma-1 +digest +holds with changes\n", done.output)
    report = json.loads(run("--json").output)
    assert report["problems"] == []
    assert all({"id", "state", "evidence", "numbers"} <= set(claim) for claim in report["claims"])


def test_the_command_fails_and_names_a_check_that_raises(run, write):
    book = write(ENTRY | {"check": "toy_checks:raises"}, ENTRY | {"id": "1234.5-other"})
    done = run("--book", book)
    assert done.exit_code == 1
    assert "Error: claim 1234.5-sign: check toy_checks:raises: ZeroDivisionError" in done.stderr
    assert re.search(r"1234.5-sign +digest +no state\n1234.5-other +digest +holds\n", done.stdout)
    done = run("--json", "--book", write(ENTRY | {"state": "holds"}))
    assert done.exit_code == 1
    assert "unknown key 'state'" in json.loads(done.stdout)["problems"][0]


def test_the_command_outside_a_clone_says_where_to_go(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run()
    assert done.exit_code == 1
    assert "go to a clone of the book, or give --book" in done.stderr

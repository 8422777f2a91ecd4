"""Checks that read records: they tell what a record says, in numbers that are worked out here by hand."""

import json
import math

import numpy as np
import pytest
import torch

from nslab.claims import State
from nslab.claims import checks_2602_08287_models as checks
from nslab.claims.checks_2602_08287_models import Measured

HOLD, CHANGED, OPEN = State.HOLDS, State.HOLDS_WITH_CHANGES, State.OPEN
LENGTH = 128


def gain(low, value, high):
    return [{"gain": {"low": low, "value": value, "high": high}}]


def measured(profile, tails=None):
    """A model whose 6 prompts share one profile."""
    return {"toy": Measured(torch.tensor(profile, dtype=torch.float64).expand(6, -1), tails or {}, "a toy")}


def ends(first=9.0, last=8.0, middle=1.0, length=LENGTH):
    return [first, *[middle] * (length - 2), last]


@pytest.mark.parametrize(
    ("profile", "state", "count"),
    [
        (ends(middle=0.5), CHANGED, 2),
        (ends(middle=1.0), OPEN, 128),
        ([8.0] * 10 + [0.1] * 118, CHANGED, 10),
        ([8.0] * 11 + [0.1] * 117, OPEN, 11),
    ],
)
def test_few_tokens_counts_those_above_a_tenth_of_the_largest(profile, state, count):
    verdict = checks.few_tokens(measured(profile))
    assert verdict.state is state
    assert verdict.numbers["above_tenth_toy"] == count
    assert f"toy: {count} of 128 ({count} to {count})" in verdict.evidence


def test_short_prompts_say_nothing_about_few_tokens():
    assert checks.few_tokens(measured(ends(middle=0.5, length=12))).state is OPEN


@pytest.mark.parametrize(
    ("profile", "state", "ranks"),
    [
        (ends(), CHANGED, (1, 2)),
        (ends(first=2.0, last=5.0), CHANGED, (2, 1)),
        ([2.0, 3.0, 1.0, 4.0], OPEN, (3, 1)),
    ],
)
def test_first_and_last_must_be_the_two_largest(profile, state, ranks):
    verdict = checks.first_and_last(measured(profile))
    assert verdict.state is state
    assert (verdict.numbers["rank_first_toy"], verdict.numbers["rank_last_toy"]) == ranks


def test_one_model_that_disagrees_opens_the_claim():
    models = measured(ends()) | {"other": measured([1.0, 5.0, 5.0, 1.0])["toy"]}
    assert checks.first_and_last(models).state is OPEN


def test_a_single_zero_opens_never_zero():
    assert checks.never_zero(measured(ends(middle=1e-30))).state is CHANGED
    assert checks.never_zero(measured(ends(middle=0.0))).state is OPEN


@pytest.mark.parametrize(
    ("independent", "natural", "state"),
    [((0.5, 0.7, 1.9), (2.0, 5.0, 9.0), HOLD), ((0.5, 1.2, 2.1), (0.1, 0.2, 0.3), OPEN)],
)
def test_the_gain_is_judged_where_the_bounds_are_theorems(independent, natural, state):
    verdict = checks.tail_table_ours(measured(ends(), {"independent": gain(*independent), "natural": gain(*natural)}))
    assert verdict.state is state
    assert verdict.numbers["least_of_table"] == 2.0
    assert verdict.numbers["natural_toy"] == natural[1]


def test_the_normalised_sum_is_as_stable_as_can_be_and_needs_nine_tenths_of_its_inputs():
    verdict = checks.stability_is_not_sparsity(10)
    assert verdict.state is HOLD
    assert (verdict.numbers["inputs_dictator"], verdict.numbers["inputs_sum"]) == (1, math.ceil(9.0))
    assert checks.stability_is_not_sparsity(10, largest=lambda rho: rho**2).state is OPEN


def test_without_a_record_every_check_is_open_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("NSLAB_RECORDS", str(tmp_path))
    for check in (checks.few_tokens, checks.first_and_last, checks.never_zero, checks.tail_table_ours):
        verdict = check()
        assert verdict.state is OPEN
        assert "Not run yet" in verdict.evidence


def test_each_model_comes_from_the_strongest_record_that_has_it(tmp_path):
    def record(name, models, first):
        folder = tmp_path / "who-matters" / name
        folder.mkdir(parents=True)
        tails = {law: [{"tails": {"gain": {}}}] for law in ("natural", "independent")}
        (folder / "result.json").write_text(json.dumps({"models": {model: {"tails": tails} for model in models}}))
        (folder / "run.json").write_text("{}")
        series = {}
        for model in models:
            series[f"{model}/geometric"] = np.full((1, 3, 2, 4), first, dtype=np.float32)
            series[f"{model}/geometric_step"] = np.array([0])
        np.savez(folder / "history.npz", **series)

    record("quick-cpu-20270101T000000", ["a", "b"], 1.0)
    record("full-cpu-20260101T000000", ["b"], 2.0)
    found = checks.read(str(tmp_path))
    assert found["a"].profiles.tolist() == [[1.0] * 4] * 2
    assert found["b"].profiles.tolist() == [[2.0] * 4] * 2
    assert found["b"].source.startswith("full record of 2026-01-01, stale")


def test_no_claim_of_the_paper_is_ever_refuted_by_other_models():
    worst = measured([0.0, 5.0, 5.0] * 50, {"independent": gain(50.0, 60.0, 70.0), "natural": gain(0.0, 0.1, 0.2)})
    for check in (checks.few_tokens, checks.first_and_last, checks.never_zero, checks.tail_table_ours):
        assert check(worst).state is OPEN

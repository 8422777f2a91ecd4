"""Checks of one attention layer: a real softmax beside a formula, and a wrong formula beside the same softmax."""

import pytest

from nslab.claims import State
from nslab.claims import checks_2602_08287_propagation as checks
from nslab.gaussian import sheppard
from nslab.propagation import plurality_agreement

HOLD, CHANGED, OPEN = State.HOLDS, State.HOLDS_WITH_CHANGES, State.OPEN


@pytest.mark.parametrize(
    ("check", "state", "wrong"),
    [
        (checks.identity_attention, HOLD, {"limit": lambda rho: rho**2}),
        (checks.low_rank_attention, HOLD, {"limit": lambda rho: rho**2}),
        (checks.low_rank_attention, HOLD, {"rank": 8}),
        (checks.random_attention, CHANGED, {"same_choice": lambda rho, n: plurality_agreement(rho, n)}),
        (checks.random_attention, CHANGED, {"same_choice": lambda rho, n: sheppard(rho**2)}),
        (checks.random_function, HOLD, {"distinct": lambda n: 1.0}),
        (checks.usual_initialisation, HOLD, {"spread": lambda width: width**0.5}),
        (checks.usual_initialisation, HOLD, {"spread": lambda width: 0.5}),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_check_can_come_out_otherwise(check, state, wrong):
    assert check().state is state
    assert check(**wrong).state is OPEN


def test_the_evidence_of_the_limits_says_how_narrow_layers_miss_them():
    assert 0.05 < checks.identity_attention().numbers["short_at_64"] < 0.15
    assert checks.low_rank_attention().numbers["short_at_4"] > 0.2


def test_theorem_5_3_needs_the_lean_of_the_winner():
    numbers = checks.random_attention().numbers
    assert numbers["off_plain"] > 4 > numbers["off_leaning"]
    assert numbers["lean"] == pytest.approx(2.344**2 / 128, rel=1e-3)


def test_a_permutation_would_choose_all_tokens():
    numbers = checks.random_function().numbers
    assert numbers["share"] < 0.7
    assert numbers["expected"] == pytest.approx(1 - (63 / 64) ** 64)


def test_the_usual_scores_have_standard_deviation_one():
    numbers = checks.usual_initialisation().numbers
    assert numbers["deviation"] == pytest.approx(1, abs=0.05)
    assert 1 / 64 < numbers["mass"] < 0.4 * numbers["hard"]

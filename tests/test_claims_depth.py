"""Checks about depth: wrong formulas, wrong intervals and worse records change the state."""

from functools import partial

import numpy as np
import pytest
import torch

from nslab.claims import State
from nslab.claims import checks_2602_08287_depth as checks
from nslab.claims.checks_2602_08287_depth import Shape, Trained
from nslab.propagation import propagate_intervals, relu_step

HOLD, CHANGED, OPEN = State.HOLDS, State.HOLDS_WITH_CHANGES, State.OPEN


def test_three_fates_and_a_wrong_layer_or_law():
    assert checks.fates_of_depth().state is HOLD
    assert checks.fates_of_depth(step=lambda rho, name: relu_step(rho, name) * 0.99).state is OPEN
    assert checks.fates_of_depth(law=lambda layers: 22.2 / layers**2).state is OPEN
    assert checks.fates_of_depth().numbers["end_paper"] == pytest.approx(0.217234, abs=1e-6)


def test_raw_stability_dies_with_the_signal_only_if_the_gain_is_below_one():
    verdict = checks.attention_kills_raw_stability()
    assert verdict.state is CHANGED
    assert verdict.numbers["raw_drawn"] < 1e-3 < verdict.numbers["first_drawn"] < verdict.numbers["last_drawn"]
    assert checks.attention_kills_raw_stability(gain=1.0).state is OPEN
    assert checks.attention_kills_raw_stability(bound=lambda gain, layers: gain ** (3 * layers)).state is OPEN


def test_intervals_without_slack_do_not_hold_networks_of_finite_width():
    verdict = checks.stability_intervals()
    assert verdict.state is CHANGED
    assert verdict.numbers["outside_c"] == 0
    bare = partial(propagate_intervals, slack=0)
    assert checks.stability_intervals(bare).state is OPEN


def test_the_almost_sure_check_sees_a_wrong_interval(monkeypatch):
    def too_narrow(low, high, sums):
        lower, upper = (torch.full((len(sums) + 1,), end, dtype=torch.float64) for end in (low, high))
        return lower, upper

    monkeypatch.setattr(checks, "almost_sure_interval", too_narrow)
    assert checks.stability_intervals().state is OPEN


def shape(covered=1.0, width=0.5, hull=0.9, spread=0.025):
    numbers = (np.full((3, 2), value) for value in (width, hull, spread))
    return {"residual/256": Shape(covered, *numbers)}


@pytest.mark.parametrize(
    ("found", "state"),
    [
        (shape(), HOLD),
        (shape(covered=0.98), OPEN),
        (shape(width=0.15), OPEN),  # 1.5 times four standard deviations: tight
        (shape(hull=0.4), OPEN),
    ],
)
def test_tightness_is_width_over_four_standard_deviations(found, state):
    verdict = checks.interval_tightness(found, "a toy", 100)
    assert verdict.state is state
    assert verdict.numbers["last_residual_256"] == pytest.approx(found["residual/256"].width[0, 0] / 0.1)


def trained(ahead=0.05, still=0.05, start=0.3, fall=0.2, block=0.02):
    rho, layers = np.array([0.3, 0.7]), 4
    measured = 0.5 + still * np.arange(layers + 1)[:, None] * np.ones(2)
    centred = np.linspace(0.5, 0.5 - fall, layers + 1)[:, None] * np.ones(2)
    added = centred[1:] - 0.1
    blocks = np.stack([added + 0.1, added, added + block])
    return {"toy": Trained(rho, measured, centred, measured + start, measured[1:] + ahead, blocks, "a toy")}


@pytest.mark.parametrize(
    ("found", "state"),
    [
        (trained(), HOLD),
        (trained(ahead=0.01), OPEN),  # theory would predict well
        (trained(start=0.02), OPEN),
        (trained(fall=-0.1), OPEN),
        (trained(block=0.2), OPEN),  # worse than an output like the input
    ],
)
def test_theory_on_trained_networks_is_judged_beside_no_change(found, state):
    verdict = checks.trained_networks(found)
    assert verdict.state is state
    assert verdict.numbers["still_toy"] == pytest.approx(0.05)


def test_without_a_record_the_claims_are_open_and_say_so(tmp_path, monkeypatch):
    monkeypatch.setenv("NSLAB_RECORDS", str(tmp_path))
    for check in (checks.interval_tightness, checks.trained_networks):
        verdict = check()
        assert verdict.state is OPEN
        assert "Not run yet" in verdict.evidence

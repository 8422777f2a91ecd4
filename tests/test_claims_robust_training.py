"""Checks about training with the barrier: toy records whose numbers are known, and worse ones."""

import json

import numpy as np
import pytest

from nslab.barrier.penalty_shapes import margin_penalty
from nslab.claims import State
from nslab.claims import checks_2602_22271_training as checks

HOLD, CHANGED, OPEN = State.HOLDS, State.HOLDS_WITH_CHANGES, State.OPEN
SEEDS = 6
CHECKS = (
    checks.robustness,
    checks.clean_accuracy,
    checks.margin_concentrated,
    checks.raw_term_is_a_reward,
    checks.margin_predicts_loss,
    checks.support_tokens,
    checks.margin_is_not_conditioning,
)


def arm(kind, variant="", strength=0.0, *, loss=2.0, area=0.5, spread=0.2, mean=-0.1, local=0.3, wobble=0.001):
    """An arm whose measures differ between seeds, and between arms but for the mean by `wobble` at most."""
    seed = np.linspace(-0.05, 0.05, SEEDS)
    own = wobble * (1 if kind == "none" and not strength else -1) * np.array([1, -1] * (SEEDS // 2))

    def told(value):
        return (value + seed + own).tolist()

    noisy = np.stack([told(loss), told(loss + area)], 1).tolist()
    many = {"noise": noisy, "substitution": noisy, "swap": told(loss + 0.1), "adversarial": told(loss + 0.3)}
    quantiles = np.stack([told(value) for value in (0.1, 0.6, 0.9, np.exp(-mean), 2.0)], 1).tolist()
    measures = {
        "loss": told(loss),
        "noise_area": told(area),
        "barrier_spread": told(spread),
        "barrier_mean": told(mean),
    }
    measures |= {"determinant_quantiles": quantiles, "prior_quantiles": quantiles, "local_correlation": told(local)}
    return {"kind": kind, "variant": variant, "strength": strength} | many | measures


def embeddings(variant, strength=0.05, **measures):
    return {f"embeddings-{variant}-{strength:g}": arm("embeddings", variant, strength, **measures)}


def on_heads(variant, strength, **measures):
    return {f"heads-{variant}-{strength:g}": arm("heads", variant, strength, **measures)}


def study(*others):
    """Plain training twice, a control, both variants on the embeddings, and two barriers on the heads."""
    arms = {"none": arm("none"), "none-again": arm("none", wobble=0.02), "dropout": arm("none", area=0.3)}
    arms |= embeddings("full") | embeddings("margin-only")
    arms |= on_heads("onesided", 0.05, mean=-4.0) | on_heads("hinge", 0.5, mean=-0.2)
    for other in others:
        arms |= other
    return {"arms": arms}


@pytest.mark.parametrize(
    ("result", "state"),
    [
        (study(), OPEN),
        (study(embeddings("margin-only", area=0.4)), CHANGED),
        (study(embeddings("margin-only", area=0.4), embeddings("margin-only", 0.02)), OPEN),  # not at each strength
        (study(embeddings("margin-only", area=0.4), embeddings("margin-only", 0.02, area=0.4)), CHANGED),
        (study(embeddings("margin-only", area=0.4), embeddings("margin-only", 0.5, area=0.9)), CHANGED),  # not modest
        (study(embeddings("margin-only", 0.5, area=0.4)), OPEN),
        (study(embeddings("margin-only", area=0.4, loss=2.2)), OPEN),  # less to lose
        (study(embeddings("margin-only", area=0.49, wobble=0.1)), OPEN),  # not by the interval
        (study(embeddings("full", area=0.4)), OPEN),  # its other term may do it
        (study(on_heads("hinge", 0.5, area=0.4)), OPEN),  # not where the port has the barrier
    ],
)
def test_robustness_takes_less_loss_to_noise_and_no_worse_start(result, state):
    assert checks.robustness(result, larger="").state is state


def test_controls_and_luck_stand_beside_the_barrier():
    verdict = checks.robustness(study(on_heads("hinge", 0.5, area=0.4)), "a toy", " No larger one.")
    assert "by the whole interval, are 1 of 4 arms with a barrier, and 1 of 1 controls" in verdict.evidence
    assert "is 0.500 in plain training, the mean of 6 seeds." in verdict.evidence
    assert "`heads-hinge-0.5` -0.100 [" in verdict.evidence
    assert "controls: `dropout` -0.200 [" in verdict.evidence
    assert "luck: `none-again` -0.000 [" in verdict.evidence or "luck: `none-again` +0.000 [" in verdict.evidence
    assert "of 12 intervals of the rise with a barrier 1 lie below 0 and 0 above" in verdict.evidence
    assert verdict.evidence.endswith("No larger one. (a toy)")
    assert verdict.numbers["mean_heads_hinge_0_5"] == pytest.approx(-0.1)
    assert verdict.numbers["won"] == 1


def test_the_other_term_of_the_full_prior_is_a_control():
    verdict = checks.robustness(study(embeddings("residual-only", area=0.4)), larger="")
    assert "0 of 4 arms with a barrier, and 2 of 2 controls" in verdict.evidence
    assert "controls: `dropout` -0.200 [" in verdict.evidence
    assert "`embeddings-residual-only-0.05` -0.100 [" in verdict.evidence
    assert checks.clean_accuracy(study(embeddings("residual-only", loss=3.0))).state is CHANGED


def test_many_arms_are_told_by_the_outermost():
    grid = [on_heads("kl", strength, area=0.5 + strength) for strength in (0.01, 0.02, 0.05, 0.1, 0.5)]
    evidence = checks.robustness(study(*grid), larger="").evidence
    assert "`heads-kl-0.5` +0.500 [" in evidence
    assert "`heads-kl-0.1`" not in evidence
    assert "are the outermost of 7, 0 of them below 0 and 5 above" in evidence


@pytest.mark.parametrize(
    ("result", "state"),
    [
        (study(), CHANGED),
        (study(embeddings("full", loss=1.8)), CHANGED),
        (study(embeddings("full", loss=2.03)), OPEN),
        (study(embeddings("full", loss=2.0, wobble=0.1)), OPEN),  # it may be, and may not be
        (study(embeddings("full", 0.5, loss=3.0)), CHANGED),  # not modest
        (study(on_heads("onesided", 0.05, loss=3.0)), CHANGED),
    ],
)
def test_accuracy_is_kept_where_the_interval_excludes_one_percent(result, state):
    assert checks.clean_accuracy(result).state is state


@pytest.mark.parametrize(
    ("result", "state"),
    [
        (study(), OPEN),
        (study(embeddings("margin-only", spread=0.1)), CHANGED),
        (study(embeddings("margin-only", spread=0.1), embeddings("margin-only", 0.02, spread=0.3)), OPEN),
        (study(embeddings("full", spread=0.1)), OPEN),
        (study(on_heads("hinge", 0.5, spread=0.1)), OPEN),
    ],
)
def test_margins_are_concentrated_where_their_spread_is_smaller(result, state):
    verdict = checks.margin_concentrated(result)
    assert verdict.state is state
    assert verdict.numbers["least"] == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("result", "state"),
    [
        (study(), HOLD),
        (study(on_heads("onesided", 0.05, mean=-0.3)), OPEN),  # larger, and not twice
        (study(on_heads("onesided", 0.02, mean=-0.3)), HOLD),  # the strongest is
        (study(on_heads("raw", 0.02, mean=0.3)), OPEN),
        (study(on_heads("hinge", 0.5, mean=-2.0)), OPEN),  # the hinge does so, too
    ],
)
def test_a_reward_makes_determinants_large_and_a_hinge_does_not(result, state):
    assert checks.raw_term_is_a_reward(result).state is state


def test_a_term_with_an_end_is_no_reward_without_limit():
    bounded = {
        "a hinge": lambda blocks, kind: margin_penalty(blocks, "hinge"),
        "clamped": lambda blocks, kind: margin_penalty(blocks, kind).clamp(min=-20),
        "no hinge": lambda blocks, kind: margin_penalty(blocks, "raw"),
    }
    for name, penalty in bounded.items():
        assert checks.raw_term_is_a_reward(study(), penalty=penalty).state is OPEN, name
    numbers = checks.raw_term_is_a_reward(study()).numbers
    assert numbers["last"] < numbers["first"] - 3 * 3 * np.log(10), "a thousandfold t, in three directions or more"
    without = {name: one for name, one in study()["arms"].items() if "onesided" not in name}
    assert "Not run yet" in checks.raw_term_is_a_reward({"arms": without}).evidence


def correlations(gain=0.3, error=0.05):
    told = {key: {"noise": {"value": gain, "low": gain - error, "high": gain + error}} for key in checks.PREDICTORS}
    return {"models": {"toy-gpt": {"correlations": {"given_position": told}}}}


@pytest.mark.parametrize(
    ("small", "trained", "state"),
    [
        (0.3, correlations(), HOLD),
        (0.12, correlations(), OPEN),  # the interval reaches below a tenth
        (-0.3, correlations(), OPEN),
        (0.3, correlations(gain=0.05), OPEN),
        (0.3, correlations(error=0.25), OPEN),
    ],
)
def test_a_margin_predicts_where_the_correlation_is_of_use_everywhere(small, trained, state):
    result = study({"none": arm("none", local=small)})
    verdict = checks.margin_predicts_loss(result, trained)
    assert verdict.state is state
    assert verdict.numbers["mean"] == pytest.approx(small)


# Which records are read


@pytest.fixture
def record(tmp_path, monkeypatch):
    """``record(experiment, name, result, seeds)``: a record, stale as it names no sources."""
    monkeypatch.setenv("NSLAB_RECORDS", str(tmp_path))

    def write(experiment, name, result, seeds=SEEDS):
        folder = tmp_path / experiment / name
        folder.mkdir(parents=True)
        (folder / "run.json").write_text(json.dumps({"seeds": seeds}))
        (folder / "result.json").write_text(json.dumps(result))

    return write


def test_without_a_record_nothing_is_said(record):
    for check in CHECKS:
        verdict = check()
        assert verdict.state is OPEN
        assert "Not run yet" in verdict.evidence


def test_the_strongest_record_with_seeds_and_modest_arms_counts(record):
    record("barrier-robustness", "quick-cpu-20260101T000000", study(embeddings("margin-only", area=0.4)), seeds=3)
    strong = {"arms": {"none": arm("none")} | embeddings("full") | embeddings("margin-only", 0.5)}
    record("barrier-robustness", "full-cpu-20260101T000000", strong)
    assert "Not run yet" in checks.robustness().evidence
    record("barrier-robustness", "laptop-cpu-20260101T000000", study(embeddings("margin-only", area=0.4)))
    verdict = checks.robustness()
    assert verdict.state is CHANGED
    assert "(laptop record of barrier-robustness of 2026-01-01, stale" in verdict.evidence
    assert "larger network" not in verdict.evidence
    record("barrier-robustness", "full-cpu-20260102T000000", study())
    assert checks.robustness().state is OPEN
    record("barrier-robustness", "custom-cpu-20260103T000000", study(embeddings("margin-only", area=0.4)))
    assert checks.robustness().state is OPEN, "changed settings are not those of the preset"
    assert "Not run yet" in checks.margin_predicts_loss().evidence, "it takes both records"
    record("token-margins", "laptop-cpu-20260101T000000", correlations())
    assert checks.margin_predicts_loss().state is HOLD


def test_a_larger_network_is_told_but_a_quick_one_is_none(record):
    record("barrier-robustness", "laptop-cpu-20260101T000000", study())
    models = {
        name: {"disturbed": {"noise_area": area}} for name, area in (("barrier-char-gpt", 0.41), ("char-gpt", 0.42))
    }
    record("barrier-char-gpt", "quick-cpu-20260101T000000", {"models": models}, seeds=1)
    assert "larger network" not in checks.robustness().evidence
    record("barrier-char-gpt", "laptop-cpu-20260101T000000", {"models": models}, seeds=1)
    told = "One larger network, a single seed: the area is 0.410 with a hinge on its heads and 0.420 without (laptop"
    assert told in checks.robustness().evidence

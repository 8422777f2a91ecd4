"""Checks about training: they read toy records whose numbers are known, and worse ones change the state."""

import json
import math

import numpy as np
import pytest

from nslab.claims import State
from nslab.claims import checks_2602_08287_grokking as checks
from nslab.claims.training_records import ParityRun, Run, published, read_grokking, read_parity

HOLD, CHANGED, OPEN = State.HOLDS, State.HOLDS_WITH_CHANGES, State.OPEN
STEPS = np.arange(0, 1001, 10)
LATE = np.array([600, 620, 640, 660, 680])  # when half of the answers are right, one a seed
NOWHERE = np.full((len(STEPS), len(LATE)), np.nan)


def rise(middle, low=0.0, high=1.0):
    """A series a seed that goes from low to high in about 100 steps around its middle, (records, seeds)."""
    middle = np.broadcast_to(middle, LATE.shape)
    return low + (high - low) / (1 + np.exp((middle - STEPS[:, None]) / 12))


KNOWN = rise(60)


def test_closed_forms_stand_against_sums_and_wrong_ones_fall():
    verdict = checks.target_stability()
    assert verdict.state is HOLD
    assert verdict.numbers["canonical"] == pytest.approx(0.625**2 + (1 - 0.625**2) / 113)
    wrong = (
        {"addition": lambda p, keep: keep**2},  # as if a new operand could not be the old one
        {"signs": lambda task, rho: rho ** (task.order + 1)},
        {"classes": lambda task, keep: 0.5 + keep**task.order / 2},  # without the wrong labels
    )
    for change in wrong:
        assert checks.target_stability(**change).state is OPEN


def addition(lead=200, start=0.9, end=0.41, test=None, raw=None):
    """A run whose divided stability falls `lead` steps before the answers come."""
    divided = rise(LATE - lead, start, end)
    readings = {"raw": rise(LATE, 0.03, 0.4) if raw is None else raw, "divided": divided}
    return Run(STEPS, KNOWN, rise(LATE) if test is None else test, NOWHERE, readings, 0.4, "a toy")


@pytest.mark.parametrize(
    ("run", "state"),
    [
        (addition(), CHANGED),
        (addition(lead=-100), OPEN),
        (addition(lead=0), OPEN),
        (addition(end=0.5), OPEN),  # it leads, but ends elsewhere
        (addition(start=0.1), OPEN),  # it leads, but from below
        (addition(lead=-100, raw=rise(LATE - 200, 0.9, 0.4)), CHANGED),  # either reading will do
    ],
)
def test_stability_must_fall_to_the_target_and_lead(run, state):
    verdict = checks.stability_falls_to_target({"mlp-31": run})
    assert verdict.state is state
    assert verdict.numbers["target_divided_mlp_31"] == 0.4


def test_the_evidence_says_where_stability_starts_ends_and_when_it_moves():
    verdict = checks.stability_falls_to_target({"mlp-31": addition(lead=200)})
    assert verdict.numbers["lead_divided_mlp_31"] == pytest.approx(200, abs=0.5)
    assert "starts at 0.90, above the target, which has 0.400, and ends within 0.010 of it; " in verdict.evidence
    assert "It leads in `mlp-31`." in verdict.evidence
    assert "starts at 0.03, below the target" in verdict.evidence
    late = checks.stability_falls_to_target({"mlp-31": addition(lead=-100), "mlp-97": addition()})
    assert "It leads in `mlp-97`, lags in `mlp-31`." in late.evidence


def test_one_setting_that_disagrees_opens_the_claim_and_one_that_learns_nothing_is_told_apart():
    assert checks.stability_falls_to_target({"mlp-31": addition(), "mlp-97": addition(lead=-100)}).state is OPEN
    alone = addition(test=np.zeros_like(KNOWN))
    verdict = checks.stability_falls_to_target({"mlp-31": addition(), "mlp-31-no-decay": alone})
    assert verdict.state is CHANGED
    assert "Where nothing generalises, in `mlp-31-no-decay`, it starts at 0.90" in verdict.evidence
    assert checks.stability_falls_to_target({"mlp-31-no-decay": alone}).state is OPEN


def test_both_kinds_of_task_must_show_it():
    def parity(lead):
        readings = {"signs": rise(LATE - lead, 0.6, 0.12)}
        return Run(STEPS, KNOWN, rise(LATE), NOWHERE, readings, 0.125, "a toy")

    assert checks.stability_falls_to_target({"mlp-31": addition(), "parity 20-3": parity(200)}).state is CHANGED
    assert checks.stability_falls_to_target({"mlp-31": addition(), "parity 20-3": parity(-200)}).state is OPEN


def test_four_seeds_are_too_few_to_say_that_it_leads():
    one = addition()
    few = {name: series[:, :4] for name, series in one.readings.items()}
    four = Run(STEPS, one.train[:, :4], one.test[:, :4], NOWHERE[:, :4], few, 0.4, "a toy")
    assert checks.stability_falls_to_target({"mlp-31": four}).state is OPEN


def phase(steps=((5000,) * 5, (520,) * 5), seeds=5, still=(None,) * 5, rates=(1e-3, 1e-2), strong=(None,) * 5):
    """Two cells of the clock at decay 1, and cells of the diagram without decay and with a decay of 3."""

    def cell(rate, decay, at):
        found = {"modulus": 31, "fraction": 0.5, "learning_rate": rate, "weight_decay": decay}
        return found | {"memorised_at": [50] * seeds, "generalised_at": list(at)[:seeds]}

    clock = [cell(rate, 1.0, at) for rate, at in zip(rates, steps, strict=True)]
    return {"clock": clock, "diagram": [cell(1e-2, 0.0, still), cell(1e-2, 3.0, strong), clock[1]]}


@pytest.mark.parametrize(
    ("result", "state"),
    [
        (phase(), HOLD),
        (phase(steps=((5000, 5000, 5000, None, None), (520,) * 5)), HOLD),  # the median
        (phase(strong=(300,) * 5), HOLD),  # 9 e-foldings
        (phase(strong=(100,) * 5), OPEN),  # 3: no slower than the others
        (phase(steps=((5000,) * 5, (1600,) * 5)), OPEN),  # 5 and 16
        (phase(steps=((5000, 5000, None, None, None), (520,) * 5)), OPEN),
        (phase(steps=((None,) * 5,) * 2), OPEN),
        (phase(still=(None, None, 4000, None, None)), OPEN),  # grokking without decay
        (phase(seeds=3), OPEN),
        (phase(rates=(5e-3, 1e-2)), OPEN),  # too much alike to tell
        (phase() | {"diagram": []}, OPEN),
    ],
)
def test_the_clock_counts_e_foldings(result, state):
    verdict = checks.decay_clock(result)
    assert verdict.state is state
    assert "$p$ = 31, 2 pairs of rate and decay" in verdict.evidence


def test_the_numbers_of_the_clock_are_those_of_the_cells():
    verdict = checks.decay_clock(phase(strong=(300, 300, 310, None, None)))
    assert verdict.numbers["pace_31"] == pytest.approx(10)
    assert verdict.numbers["steps_31"] == pytest.approx(5000 / 520)
    assert verdict.numbers["foldings_31"] == pytest.approx(5.2 / 5.0)
    assert verdict.numbers["slow_31"] == pytest.approx(310 * 0.03)
    assert "Decay 3 (rate 0.01) takes 9.3. Without decay 5 of 5 networks come to know" in verdict.evidence
    assert "Decay 3 (rate 0.01) leaves most networks where they are." in checks.decay_clock(phase()).evidence


def splits(mirrored=100, random=300, half=900, separate=600, unseen=300):
    """Runs of the four settings: steps at which halves of the pairs are right."""

    def run(test, mirrored):
        return Run(STEPS, KNOWN, rise(test), rise(mirrored) if mirrored else NOWHERE, {}, 0.4, "a toy")

    return {
        checks.MIXED: run(random, mirrored),
        checks.PAIRED: run(unseen, None),
        checks.HALF: run(half, None),
        checks.SEPARATE: run(600, separate),
    }


@pytest.mark.parametrize(
    ("runs", "state"),
    [
        (splits(), HOLD),
        (splits(mirrored=300), OPEN),  # nothing leaks
        (splits(separate=100), OPEN),  # it leaks where nothing is shared
        (splits(half=300), OPEN),  # the honest split is no harder
        (splits(unseen=900), OPEN),  # nor is it the number of different sums
        (splits(half=2000), HOLD),  # it never generalises
    ],
)
def test_the_leak_shows_in_mirrored_pairs_and_in_the_steps_of_an_honest_split(runs, state):
    verdict = checks.mirror_leak(runs)
    assert verdict.state is state
    p = 53
    diagonal = p / (p * (p + 1) / 2)
    assert verdict.numbers["share_transformer_53"] == pytest.approx(0.75 - 0.25 * diagonal, abs=0.01)
    assert verdict.numbers["share_transformer_53_unordered_half"] == pytest.approx(0.5, abs=0.02)


def test_the_leak_is_read_when_the_train_set_is_known():
    verdict = checks.mirror_leak(splits())
    known = STEPS[np.argmax(KNOWN[:, 0] >= 0.99)]
    assert verdict.numbers["mirrored"] == pytest.approx(1 / (1 + math.exp((100 - known) / 12)))
    never = checks.mirror_leak(splits(half=2000))
    assert "5 of 5 not by step 1000 (50% of" in never.evidence
    assert "first_transformer_53_unordered_half" not in never.numbers
    assert "transformer-53-unordered-half" in checks.mirror_leak({checks.MIXED: splits()[checks.MIXED]}).evidence


def parity_run(revealed=500, share=800, accuracy=LATE):
    test = rise(accuracy, 0.5, 1.0)
    margin = rise(revealed, 0.5, 1.5)
    return ParityRun(
        STEPS, KNOWN, test, NOWHERE, {}, 0.125, "a toy", margin=margin, share=rise(share), movement=rise(100)
    )


@pytest.mark.parametrize(
    ("run", "state"),
    [
        (parity_run(), HOLD),
        (parity_run(revealed=700), OPEN),  # the answers are right before
        (parity_run(share=400), OPEN),  # then weights are ahead all the way, and the claim says too little
        (parity_run(revealed=2000), OPEN),
        (parity_run(accuracy=LATE - 200), OPEN),
    ],
)
def test_weights_name_the_bits_while_answers_are_poor(run, state):
    verdict = checks.hidden_progress({"20-3": run})
    assert verdict.state is state
    assert verdict.numbers["lead_20_3"] == pytest.approx((run.test >= 0.75).argmax(0).mean() * 10 - _half(run), abs=10)


def _half(run):
    return (run.share >= 0.5).argmax(0).mean() * 10


def test_one_parity_that_disagrees_opens_hidden_progress():
    assert checks.hidden_progress({"20-3": parity_run(), "40-3": parity_run(share=400)}).state is OPEN


@pytest.fixture
def record(tmp_path):
    """``record(experiment, name, result, series)``: a record, stale as it names no sources."""

    def write(experiment, name, result, series):
        folder = tmp_path / experiment / name
        folder.mkdir(parents=True)
        (folder / "result.json").write_text(json.dumps(result))
        (folder / "run.json").write_text("{}")
        steps = {f"{key}_step": STEPS[: len(values)] for key, values in series.items()}
        np.savez(folder / "history.npz", **series, **steps)

    return write


def test_grokking_is_read_from_the_strongest_record_that_has_a_setting(record, tmp_path):
    def write(name, settings, constant):
        series = {}
        for setting in settings:
            energies = np.tile(np.float32([constant, 0.1, 0.1, 0.2]), (3, 1, 2, 1))  # (records, ensembles, seeds, 4)
            series |= {f"{setting}_energies": energies}
            series |= {f"{setting}_{rows}_accuracy": np.ones((3, 1, 2)) for rows in ("train", "unseen", "mirrored")}
        told = {"energies_of_the_task": [0.2, 0.0, 0.0, 0.8]}
        record("grokking", name, {"settings": dict.fromkeys(settings, told)}, series)

    write("custom-cpu-20270101T000000", ["a", "b", "c"], 0.9)
    write("quick-cpu-20260601T000000", ["a", "b"], 0.3)
    write("full-cpu-20260101T000000", ["b"], 0.6)
    found = read_grokking(0.5, str(tmp_path))
    assert found.keys() == {"a", "b"}, "changed settings are not what their names say"
    for name, constant in (("a", 0.3), ("b", 0.6)):
        raw = constant + 0.5 * 0.2 + 0.25 * 0.2
        np.testing.assert_allclose(found[name].readings["raw"], np.full((3, 2), raw), rtol=1e-6)
        np.testing.assert_allclose(found[name].readings["divided"], np.full((3, 2), raw / (constant + 0.4)), rtol=1e-6)
    assert found["b"].target == pytest.approx(0.2 + 0.25 * 0.8)
    assert found["b"].source.startswith("full record of grokking of 2026-01-01, stale: ")
    assert [one.preset for one in published("grokking", str(tmp_path))] == ["full", "quick"]


def test_parity_is_read_at_the_asked_correlation(record, tmp_path):
    series = {f"20-3_{key}": np.full((3, 1, 2), 0.5) for key in ("train_accuracy", "test_accuracy", "relevant_share")}
    series |= {"20-3_margin": np.array([[[0.5, 2.0]], [[2.0, 0.5]], [[2.0, 0.5]]]), "20-3_movement": np.ones((3, 1, 2))}
    series |= {"20-3_stability": np.tile([0.1, 0.2, 0.3], (3, 1, 2, 1))}
    record(
        "parity", "quick-cpu-20260101T000000", {"rho": [0.25, 0.5, 0.75], "settings": {"20-3": {"order": 3}}}, series
    )
    run = read_parity(0.5, str(tmp_path))["20-3"]
    assert (run.readings["signs"] == 0.2).all()
    assert run.target == 0.125
    assert run.revealed.tolist() == [10, math.inf], "for good, or not at all"


def test_without_a_record_the_claims_are_open_and_say_so(tmp_path, monkeypatch):
    monkeypatch.setenv("NSLAB_RECORDS", str(tmp_path))
    for check in (checks.stability_falls_to_target, checks.decay_clock, checks.mirror_leak, checks.hidden_progress):
        verdict = check()
        assert verdict.state is OPEN
        assert "Not run yet" in verdict.evidence


def test_a_stale_record_says_so(record, tmp_path, monkeypatch):
    monkeypatch.setenv("NSLAB_RECORDS", str(tmp_path))
    record("grokking-phase", "laptop-cpu-20260101T000000", phase(), {})
    assert "(laptop record of grokking-phase of 2026-01-01, stale: " in checks.decay_clock().evidence


def test_no_claim_of_the_paper_is_ever_refuted_by_other_networks():
    worst = addition(lead=-100, start=0.0, end=1.0, raw=np.zeros_like(KNOWN))
    assert checks.stability_falls_to_target({"mlp-31": worst}).state is OPEN

"""Checks about NoiseFormer: formulas against wrong ones, toy records whose numbers are known, and worse ones."""

import json
import math

import numpy as np
import pytest
import torch

from nslab.attention.preferences import preference
from nslab.attention.symmetric import SymmetricAttention
from nslab.claims import State
from nslab.claims import checks_2601_11619 as theory
from nslab.claims import checks_2601_11619_training as checks
from nslab.claims import noiseformer_table as table
from nslab.claims.noiseformer_records import gap, majority, scores

HOLD, CHANGED, OPEN = State.HOLDS, State.HOLDS_WITH_CHANGES, State.OPEN
SEEDS = 5

# The table of the digest


def test_every_score_is_a_whole_number_of_right_answers_cut_off_and_not_rounded():
    sizes = {"MRPC": 408, "MNLI": 9815, "QQP": 40430, "RTE": 277, "QNLI": 5463, "SST2": 872}
    impossible = 0
    for model, row in table.TABLE.items():
        assert list(row) == ["MRPC", "CoLA", "MNLI", "QQP", "RTE", "QNLI", "SST2"], model
        for task, size in sizes.items():
            shares = np.arange(size + 1) * 10_000 // size  # hundredths of a percent, cut off
            expected = np.flatnonzero(shares == round(100 * row[task])).tolist()
            assert table.right_answers(task, row[task]) == expected
            assert expected, (model, task)
            nearest = np.floor(np.arange(size + 1) * 10_000 / size + 0.5)
            rounded = np.flatnonzero(nearest == round(100 * row[task])).tolist()
            assert table.right_answers(task, row[task], rounded=True) == rounded
            impossible += not rounded
    assert impossible == 7


def test_the_counts_that_the_small_tasks_give_away():
    counts = {"MRPC": [305, 281, 299, 297], "RTE": [169, 146, 161, 157], "SST2": [712, 759, 721, 720]}
    for task, expected in counts.items():
        assert [table.right_answers(task, row[task]) for row in table.TABLE.values()] == [[one] for one in expected]
    assert table.right_answers("RTE", table.TABLE["SymAttn"]["RTE"]) == [table.MAJORITY["RTE"].count]
    means = [(69.70, 61.89), (68.41, 61.78), (68.83, 60.28), (68.47, 60.12)]
    for model, (six, seven) in zip(table.TABLE, means, strict=True):
        assert table.mean_score(model) == pytest.approx(six, abs=0.005)
        assert table.mean_score(model, with_cola=True) == pytest.approx(seven, abs=0.005)


def test_majority_lines_are_above_a_guess_and_their_classes_add_up():
    others = {"MRPC": (129,), "MNLI": (3213, 3123), "QQP": (14885,), "RTE": (131,), "QNLI": (2702,), "SST2": (428,)}
    for task, rest in others.items():
        assert table.MAJORITY[task].count + sum(rest) == table.EXAMPLES[task]
        assert table.MAJORITY[task].count > max(rest)
    assert table.majority_score("RTE") == pytest.approx(52.71, abs=0.005)
    assert table.majority_score("CoLA") == 0


def test_errors_of_scores_are_binomial():
    share = 0.6101
    assert table.standard_error("RTE", 61.01) == pytest.approx(100 * math.sqrt(share * (1 - share) / 277))
    drawn = torch.distributions.Binomial(872, torch.tensor(0.8165)).sample((20_000,)) / 8.72
    assert table.standard_error("SST2", 81.65) == pytest.approx(float(drawn.std()), rel=0.05)
    gaps = [table.ratio(task, table.V1, table.SYMMETRIC) for task in ("RTE", "MRPC", "SST2")]
    assert gaps == pytest.approx([1.3, 1.4, -2.5], abs=0.06)
    for work in (table.right_answers, table.standard_error):
        with pytest.raises(ValueError, match="'CoLA'"):
            work("CoLA", 0.15)


# Arithmetic and proofs


def rows(symmetric=0.95, key=1.05, relative=1.6):
    told = {"symmetric": symmetric, "v2-key": key, "v2-relative": relative}
    return [{"name": f"a training step, {n} attention: n = 256, d = 384", "ratio": one} for n, one in told.items()]


@pytest.mark.parametrize(
    ("given", "added", "state"),
    [
        (rows(), theory.added_parameters, CHANGED),
        (rows(relative=9.0), theory.added_parameters, CHANGED),  # on the scores it may cost what it will
        (rows(key=1.2), theory.added_parameters, OPEN),
        (rows()[:1], theory.added_parameters, OPEN),  # nothing with noise on the keys was timed
        (rows(), lambda shape, scores: 2 * shape.context**2, OPEN),  # a full matrix of means and deviations
    ],
)
def test_a_minute_overhead_is_few_parameters_and_little_time(given, added, state):
    verdict = theory.memory(given, added=added)
    assert verdict.state is state
    assert verdict.numbers["saved"] == 12 * (768 * 768 + 768)
    assert verdict.numbers["cache"] == 1


def test_the_share_of_parameters_is_found_only_if_the_counts_are_right():
    verdict = theory.parameters()
    assert verdict.state is CHANGED
    assert verdict.numbers["low"] == pytest.approx(100 * 7_077_888 / 124_337_664, abs=0.02)
    assert verdict.numbers["mixed"] == pytest.approx(100 * (1 - 117_259_776 / 124_439_808), abs=1e-6)
    real = theory.parameter_count
    wrong = {
        "a projection more": lambda shape, scores=None, **o: real(shape, scores, **o) + (scores is not None),
        "no biases": lambda shape, scores=None, **o: real(theory.replace(shape, bias=False), scores, **o),
    }
    for name, count in wrong.items():
        assert theory.parameters(count).state is OPEN, name


def test_limits_of_symmetric_scores_are_neither_more_nor_less():
    verdict = theory.symmetric_limits()
    assert verdict.state is HOLD
    assert (verdict.numbers["three"], verdict.numbers["four"]) == (6, 51)
    anything = {"possible": lambda pattern, tied: torch.ones(len(pattern), dtype=torch.bool)}
    no_pairs = {"possible": lambda pattern, tied: (pattern.gather(1, pattern) != torch.arange(pattern.shape[1])).all(1)}
    one_side = {"mutual": preference}
    for wrong in (anything, no_pairs, one_side):
        assert theory.symmetric_limits(**wrong).state is OPEN


class Uneven(SymmetricAttention):
    """Its noise is seen to the full by the first keys alone."""

    def score_bias(self, x, query):
        bias = super().score_bias(x, query)
        return bias if bias is None else bias * torch.linspace(1, 0, x.shape[1], dtype=bias.dtype)

    def noisy_keys(self, x, key):
        return key + (super().noisy_keys(x, key) - key) * torch.linspace(1, 0, x.shape[1], dtype=x.dtype)[:, None]


class Deaf(SymmetricAttention):
    """No noise reaches it."""

    def score_bias(self, x, query):
        bias = super().score_bias(x, query)
        return bias if bias is None else bias * 0

    def noisy_keys(self, x, key):
        return super().noisy_keys(x, key) * 0 + key


def test_a_mean_is_useless_where_it_is_the_same_for_all_keys_and_only_there():
    assert theory.useless_mean().state is HOLD
    for wrong in (Uneven, Deaf):
        assert theory.useless_mean(wrong).state is OPEN


def test_the_meter_needs_the_right_formula():
    verdict = theory.sensitivity_meter()
    assert verdict.state is HOLD
    assert verdict.numbers["quiet"] == pytest.approx(math.sqrt(1e-4 / (1e-4 + 10)))
    wrong = [
        {"sigma": lambda beta, curvature: beta / (beta + curvature)},  # the square
        {"sigma": lambda beta, curvature: (beta / (beta + 2 * curvature)).sqrt()},
        {"mean": lambda beta, gradient, curvature: -gradient / beta},
    ]
    for one in wrong:
        assert theory.sensitivity_meter(**one).state is OPEN


# Experiments


def wobbled(value, size):
    return (value + size * np.array([1, -1, 0, 1, -1])).tolist()


def pretrain(draws=4, wobble=0.001, **arms):
    """A study with the numbers of some arms moved: mean loss, average less mean, stability."""
    found = {}
    names = ("standard", "standard-again", "symmetric", "pairwise", "v1-relative", "v2-relative", "v2-relative-no-kl")
    for number, name in enumerate(names):
        given = {"loss": 4.0, "average": -0.01, "stable": 0.8} | arms.get(name.replace("-", "_"), {})
        size = wobble * (1 + number / 10)
        loss = np.array(wobbled(given["loss"], size))
        found[name] = {
            "held_out_loss": loss.tolist(),
            "average_loss": (loss + wobbled(given["average"], size)).tolist(),
            "sample_loss": (loss + 0.01).tolist(),
            "normalised_stability": np.stack([wobbled(0.5, size), wobbled(given["stable"], size)], 1).tolist(),
            "disturbed_rise": np.stack([wobbled(0.9, size), wobbled(0.2, size)], 1).tolist(),
        }
    return {"arms": found, "keep": [0.5, 0.9], "draws": draws}


def finetune(wobble=0.5, **right):
    """Two tasks: one of 1000 examples, and CoLA with Matthews' correlations of a hundredth of the score."""
    names = ("standard", "standard-again", "symmetric", "v1-relative", "v2-relative", "untrained")
    base = {"standard": 70.0, "symmetric": 66.0, "v1_relative": 68.0, "v2_relative": 68.0, "untrained": 50.0}
    arms = {}
    for number, name in enumerate(names):
        value = (base | right).get(name.replace("-", "_"), 70.0)
        told = np.array(wobbled(value, wobble * (1 + number / 10)))
        tasks = {"rte": {"right": (10 * told).tolist()}, "cola": {"right": [0.0] * SEEDS, "matthews": told / 100}}
        arms[name] = {"tasks": tasks}
    told = {"rte": {"held_out": 1000, "majority": 527}, "cola": {"held_out": 500, "majority": 350}}
    return {"arms": arms, "tasks": told}


def test_intervals_are_students_over_paired_seeds():
    first, second = [5.0, 6.0, 7.0, 8.0, 9.5], [4.0, 5.5, 5.0, 7.5, 9.0]
    each = np.subtract(first, second)
    half = 2.776445 * each.std(ddof=1) / math.sqrt(5)
    found = gap(first, second)
    assert (found.mean, found.low, found.high) == pytest.approx((each.mean(), each.mean() - half, each.mean() + half))
    assert math.isnan(gap(first[:4], second[:4]).low)
    assert not gap(first[:4], second[:4]).above
    assert str(gap([0.0012, 0.0013, 0.0012, 0.0011, 0.0012], [0.0] * 5)) == "+0.00120 [+0.00111, +0.00129]"
    assert str(gap([0.5] * 5, [0.0] * 5)) == "+0.500 [+0.500, +0.500]"


def test_scores_are_means_over_tasks_with_matthews_for_cola():
    result = finetune(wobble=0)
    assert scores(result, "symmetric").tolist() == pytest.approx([66.0] * SEEDS)
    assert majority(result) == pytest.approx(52.7 / 2)


@pytest.mark.parametrize(
    ("result", "state"),
    [
        (finetune(), CHANGED),
        (finetune(v1_relative=66.0), OPEN),  # no better than symmetric
        (finetune(v2_relative=71.0), OPEN),  # better than the base
        (finetune(standard=68.1), OPEN),  # the interval of what it lacks holds 0
        (finetune(wobble=30.0), OPEN),
    ],
)
def test_between_takes_both_versions_and_both_sides(result, state):
    verdict = checks.between(result)
    assert verdict.state is state
    assert (verdict.numbers["table_v1"], verdict.numbers["table_v2"]) == (3, 4)
    assert "Luck, the standard arm on other batches" in verdict.evidence


@pytest.mark.parametrize(
    ("first", "second", "state"),
    [
        (finetune(), finetune(), CHANGED),
        (finetune(v1_relative=80.0), finetune(v2_relative=80.0), CHANGED),  # better than the base will do
        (finetune(v1_relative=66.0), finetune(), OPEN),
        (finetune(), finetune(v2_relative=60.0), OPEN),
        (finetune(wobble=30.0), finetune(), OPEN),
    ],
)
def test_better_than_symmetric_takes_both_studies_and_both_versions(first, second, state):
    verdict = checks.beats_symmetric(first, second)
    assert verdict.state is state
    assert "`untrained` -16." in verdict.evidence
    assert "-2.5 on SST2" in verdict.evidence


def test_a_score_that_counts_examples_of_all_tasks_together_is_another_one():
    def pooled(result, arm):
        return np.sum([task["right"] for task in result["arms"][arm]["tasks"].values()], axis=0)

    lopsided = finetune()
    lopsided["arms"]["v1-relative"]["tasks"]["rte"]["right"] = [900.0] * SEEDS
    lopsided["arms"]["v1-relative"]["tasks"]["cola"]["matthews"] = [0.0] * SEEDS
    assert checks.beats_symmetric(lopsided, finetune()).state is OPEN
    assert checks.beats_symmetric(lopsided, finetune(), score=pooled).state is CHANGED


@pytest.mark.parametrize(
    ("result", "state"),
    [
        (pretrain(), CHANGED),
        (pretrain(v1_relative={"average": 0.0}), OPEN),
        (pretrain(v2_relative={"average": 0.05}), OPEN),
        (pretrain(v2_relative={"average": -0.0041}, wobble=0.0), CHANGED),
        (pretrain(v2_relative={"average": -0.0039}, wobble=0.0), OPEN),  # less than a tenth of a percent
        (pretrain(v2_relative_no_kl={"average": 0.05}), CHANGED),  # a control
        (pretrain(wobble=0.1), OPEN),
    ],
)
def test_sampling_helps_where_the_average_beats_the_mean(result, state):
    verdict = checks.sampling(result, one_more="")
    assert verdict.state is state
    assert verdict.numbers["mean_single_v2_relative"] == pytest.approx(0.01)


UP = {"stable": 0.85}


@pytest.mark.parametrize(
    ("result", "state"),
    [
        (pretrain(), OPEN),
        (pretrain(v1_relative=UP, v2_relative=UP), HOLD),
        (pretrain(v2_relative=UP), OPEN),
        (pretrain(pairwise=UP, standard=UP), OPEN),  # without noise
        (pretrain(v1_relative=UP, v2_relative=UP, wobble=0.2), OPEN),
    ],
)
def test_steadier_is_more_stable_in_each_arm_with_noise(result, state):
    verdict = checks.steadier(result, one_more="")
    assert verdict.state is state
    assert verdict.numbers["symmetric"] == pytest.approx(0.8, abs=1e-3), "at the keep of the rule"


@pytest.mark.parametrize(
    ("first", "second", "state"),
    [
        (pretrain(), finetune(), HOLD),
        (pretrain(v2_relative={"loss": 3.9}), finetune(), OPEN),
        (pretrain(), finetune(v1_relative=60.0), OPEN),
    ],
)
def test_versions_are_alike_where_nothing_tells_them_apart(first, second, state):
    studies = [(checks.PRETRAIN, first), (checks.FINETUNE, second), (checks.GLUE, finetune())]
    verdict = checks.shared_or_per_head(studies)
    assert verdict.state is state
    assert verdict.numbers["table"] == pytest.approx(1.91, abs=0.01)
    assert "on QQP" in verdict.evidence
    sure = checks.shared_or_per_head(studies, errors=lambda task, first, second: 3.0)
    assert sure.state is OPEN


def partner_tasks(wobble=0.005, **accuracy):
    base = {"standard": 1.0, "symmetric": 0.5, "scalar": 0.5, "relative": 0.6, "low_rank": 1.0} | accuracy
    arms = {
        name.replace("_", "-"): {"accuracy": wobbled(value, wobble * (1 + number / 10))}
        for number, (name, value) in enumerate(base.items())
    }
    return {"tasks": {"opposites": {"arms": arms}, "rock-paper-scissors": {"arms": arms}}}


@pytest.mark.parametrize(
    ("result", "state"),
    [
        (partner_tasks(), OPEN),
        (partner_tasks(relative=0.9), CHANGED),
        (partner_tasks(relative=0.76), CHANGED),
        (partner_tasks(relative=0.75), OPEN),
        (partner_tasks(relative=0.8, wobble=0.2), OPEN),
        (partner_tasks(pairwise=1.0), OPEN),  # without noise
    ],
)
def test_asymmetry_is_back_where_noise_closes_half_of_the_gap(result, state):
    verdict = checks.restores_asymmetry(result, heads="")
    assert verdict.state is state
    assert "100 % (`low-rank`) without" in verdict.evidence


def test_asymmetry_is_asked_of_both_tasks():
    result = partner_tasks(relative=0.9)
    arms = result["tasks"]["opposites"]["arms"]
    result["tasks"]["opposites"]["arms"] = arms | {"relative": {"accuracy": wobbled(0.55, 0.005)}}
    assert checks.restores_asymmetry(result, heads="").state is OPEN


# Which records are read


@pytest.fixture
def record(tmp_path, monkeypatch):
    """``record(experiment, name, result, seeds)``: a record, stale as it names no sources."""
    monkeypatch.setenv("NSLAB_RECORDS", str(tmp_path))

    def write(experiment, name, result, seeds=SEEDS):
        folder = tmp_path / experiment / name
        folder.mkdir(parents=True)
        (folder / "run.json").write_text(json.dumps({"seeds": seeds}))
        (folder / "result.json").write_text(json.dumps(result, default=list))

    return write


CHECKS = (
    theory.memory,
    checks.restores_asymmetry,
    checks.between,
    checks.beats_symmetric,
    checks.sampling,
    checks.steadier,
    checks.shared_or_per_head,
)


def test_without_a_record_nothing_is_said(record):
    for check in CHECKS:
        verdict = check()
        assert verdict.state is OPEN
        assert "Not run yet" in verdict.evidence


def test_the_strongest_record_with_five_seeds_counts(record):
    record(checks.PRETRAIN, "full-cpu-20260101T000000", pretrain(), seeds=3)
    assert "Not run yet" in checks.sampling().evidence
    record(checks.PRETRAIN, "laptop-cpu-20260101T000000", pretrain())
    verdict = checks.sampling()
    assert verdict.state is CHANGED
    assert "(laptop record of noiseformer-pretrain of 2026-01-01, stale" in verdict.evidence
    record(checks.PRETRAIN, "custom-cpu-20260102T000000", pretrain(v1_relative={"average": 1.0}))
    assert checks.sampling().state is CHANGED, "changed settings are not those of the preset"
    record(checks.FINETUNE, "laptop-cpu-20260101T000000", finetune())
    assert "Not run yet" in checks.beats_symmetric().evidence, "it takes both records"
    record(checks.GLUE, "laptop-cpu-20260101T000000", finetune())
    assert checks.beats_symmetric().state is CHANGED
    assert checks.between().state is CHANGED
    assert checks.shared_or_per_head().state is HOLD


def test_the_newest_benchmark_with_the_rows_counts(record):
    other = {"rows": [{"name": "a sum", "ratio": 3.0}]}
    record("benchmarks", "all-cpu-20260103T000000", other)
    assert "Not run yet" in theory.memory().evidence
    record("benchmarks", "all-cpu-20260101T000000", {"rows": rows(key=2.0)})
    record("benchmarks", "noiseformer_steps-cpu-20260102T000000", {"rows": rows()})
    assert theory.memory().state is CHANGED


def test_trained_heads_are_told_beside_the_tasks(record):
    record("partner-tasks", "laptop-cpu-20260101T000000", partner_tasks())
    assert "out of reach" not in checks.restores_asymmetry().evidence
    record("head-symmetry", "laptop-cpu-20260101T000000", {"models": {"toy": {"text_mean": {"out_of_reach": 0.25}}}})
    assert "out of reach of symmetric ones: 0.25 in `toy` (laptop record" in checks.restores_asymmetry().evidence


def test_a_larger_network_is_told_but_a_quick_one_is_none(record):
    modes = {"mean": {"loss": 1.5}, "without mean": {"loss": 1.6}, "average": {"loss": 1.4987}}
    models = {
        name: {"stability": {"normalised": {"value": [0.5, value]}}}
        for name, value in (("noiseformer-char-gpt", 0.91), ("char-gpt", 0.92))
    }
    result = {"keep": [0.5, 0.9], "modes": modes, "models": models}
    record("noiseformer-char-gpt", "quick-cpu-20260101T000000", result, seeds=1)
    assert "larger network" not in checks.sampling(pretrain()).evidence
    record("noiseformer-char-gpt", "laptop-cpu-20260101T000000", result, seeds=1)
    told = (
        "a single seed: 1.5000 by the mean of the noise, 1.4987 by the average of draws, 1.6000 with the mean set to 0"
    )
    assert told in checks.sampling(pretrain()).evidence
    assert "a single seed: 0.9100, beside 0.9200 of char-gpt" in checks.steadier(pretrain()).evidence

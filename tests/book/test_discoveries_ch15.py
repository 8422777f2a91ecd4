"""Each figure of chapter 15 makes a discovery, its prose tells findings; both are asserted from the figures' data."""

import copy
import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

pytestmark = pytest.mark.book


@pytest.fixture(scope="module")
def names(chapter):
    return chapter("ch15-pretraining")


# ---------------------------------------------------------------- equal what, and three ways to answer


def test_equal_parameters_are_nearly_equal(names):
    count, whole = names["parameter_count"], names["whole"]
    for name in ("symmetric", "pairwise", "v1-relative", "v2-relative", "low-rank"):
        scores = names["VARIANTS"][name]
        hidden = names["hidden_for_equal_parameters"](names["GPT2"], scores, like=whole)
        found = count(names["replace"](names["GPT2"], hidden=hidden), scores)
        assert 0 <= whole - found < 1e-3 * whole
        assert hidden > names["GPT2"].hidden_width


def test_the_average_never_loses_to_its_draws(names):
    single, together = names["single"], names["together"]
    assert (together <= single.mean(0) + 1e-6).all()
    assert torch.allclose(together, -(-single).exp().mean(0).log())
    assert single[:, 0].std() < 1e-6, "the first token attends to itself alone"
    assert (single.mean(0) - together).max() > 0.1


def test_prediction_the_first_draws_bring_most_and_the_end_is_below_the_mean(names):
    drawn = names["guess"].state
    curve, x = np.array(drawn["curve"]), np.array(drawn["x"])
    assert np.diff(curve).max() < 0
    left = curve - names["loss_of"](names["said_by"](names["ODDS"], names["WHIM"])[1], names["SHARE"])
    assert left[list(x).index(8)] < left[0] / 5
    assert left[list(x).index(16)] == pytest.approx(left[list(x).index(8)] / 2, rel=0.35), "about one over K"
    assert curve[-1] < names["by_mean"] < curve[0]
    for one in drawn["distractors"]:
        grid = np.linspace(x[0], x[-1], 61)
        assert names["guess"].twin({**drawn, "drawn": np.interp(grid, x, one["y"]).tolist()})["nearest"] == one["name"]


def integral(function, lead, whim):
    return integrate.quad(lambda z: stats.norm.pdf(z) * function(lead + whim * z), -12, 12)[0]


def test_losses_of_the_modes_are_integrals(names):
    for lead, whim in ((1.0, 3.0), (3.0, 2.0), (4.0, 0.5)):
        by_mean, by_average, right, wrong = names["said_by"](lead, whim)
        assert by_mean == pytest.approx(1 / (1 + math.exp(-lead)))
        assert by_average == pytest.approx(integral(lambda v: 1 / (1 + math.exp(-v)), lead, whim), abs=1e-4)
        assert right == pytest.approx(integral(lambda v: math.log1p(math.exp(-v)), lead, whim), abs=1e-3)
        assert wrong == pytest.approx(integral(lambda v: math.log1p(math.exp(v)), lead, whim), abs=1e-3)


def test_the_average_beats_the_mean_exactly_for_the_overconfident(names):
    zeros = []
    for lead in (2.0, 3.0, 4.0):
        for whim in (1.0, 3.0):
            frame = names["modes"].data(lead=lead, whim=whim)
            mean, average, sample = (np.asarray(frame[name]).reshape(-1, 2) for name in ("mean", "average", "sample"))
            assert (sample[:, 1] > average[:, 1]).all()
            left = mean[:, 0] < names["crossing"](lead, whim)
            assert (average[left, 1] < mean[left, 1]).all()
            assert (average[~left, 1] > mean[~left, 1]).all()
            assert mean[mean[:, 1].argmin(), 0] == pytest.approx(1 / (1 + math.exp(-lead)), abs=0.005)
            zeros.append(average[average[:, 1].argmin(), 0])
            assert average[:, 1].min() < 1e-3
            assert sample[:, 1].min() > 0.005
    assert zeros[1] < zeros[0], "more noise, more modest"


# ---------------------------------------------------------------- memory


def test_noise_of_score_space_grows_twice_as_fast(names):
    now, far = (names["memory"].data(length=length, batch=12) for length in (1024, 4096))

    def at(frame, name):
        return 10 ** np.ravel(frame[f"{name}, now"])[1]

    saved = names["SAVED"] / 1e6
    assert at(far, "score, per head") == pytest.approx(16 * at(now, "score, per head"))
    assert at(far, "key, per head") == pytest.approx(4 * at(now, "key, per head"))
    assert at(now, "score, per head") / saved == pytest.approx(21, abs=0.5)
    assert at(now, "key, per head") / saved == pytest.approx(1.3, abs=0.05)
    assert at(now, "key, shared") / saved == pytest.approx(1 / 9, abs=0.01)
    short = names["memory"].data(length=64, batch=1)
    assert at(short, "score, per head") == pytest.approx(at(short, "key, per head"))
    assert saved == 4 * 12 * 768**2 / 1e6


# ---------------------------------------------------------------- the table of the digest


def test_the_symmetric_network_stands_at_the_line_on_two_tasks_only(names):
    for task in names["ACCURACIES"]:
        frame = names["scores"].data(task=task)
        line, symmetric = np.ravel(frame["most frequent answer"])[0], np.ravel(frame["symmetric"])[0]
        assert names["at_the_line"](task) == (task in ("RTE", "MRPC"))
        if task not in ("RTE", "MRPC"):
            assert symmetric > line + 10
    assert names["right_answers"]("RTE", 52.7) == [146]
    assert names["right_answers"]("MRPC", 68.87) == [281]
    assert round(4.08 * names["majority_score"]("MRPC")) == 279


def interval(frame, task):
    return np.sort(np.asarray(frame[f"{task}, interval"]).reshape(-1, 2)[:, 0])


def test_wins_are_open_and_what_is_clear_are_losses(names):
    ratios = {}
    for model in (names["V1"], names["V2"]):
        frame = names["table"].data(network=names["SHORT"][model], times=1)
        ends = {task: interval(frame, task) for task in names["TASKS"]}
        ahead = [task for task in names["TASKS"] if np.ravel(frame[task])[0] > 0]
        assert ahead == ["RTE", "MRPC"]
        assert all(low < 0 < high for low, high in (ends[task] for task in ahead))
        assert {task for task, (low, high) in ends.items() if low > 0 or high < 0} == {"SST2", "QQP", "CoLA"}
        assert all(ends[task][1] < 0 for task in ("SST2", "QQP", "CoLA"))
        means = {task: np.ravel(frame[task])[0] for task in names["ACCURACIES"]}
        assert min(means, key=means.get) == "SST2"
        ratios[model] = {task: abs(means[task]) / (ends[task][1] - ends[task][0]) for task in means}
        assert max(ratios[model], key=ratios[model].get) == "QQP"
        wide = names["table"].data(network=names["SHORT"][model], times=8)
        assert all(interval(wide, task)[0] > 0 for task in ("RTE", "MRPC"))
    assert any(interval(names["table"].data(network="V2", times=4), task)[0] < 0 for task in ("RTE", "MRPC"))
    base = names["table"].data(network="base", times=1)
    assert all(interval(base, task)[1] < 0 for task in ("SST2", "QQP"))


def test_between_and_above_are_counted(names):
    assert [len(names["between"](model)) for model in (names["V1"], names["V2"])] == [3, 4]
    assert [names["above"](model) for model in (names["V1"], names["V2"])] == [["RTE", "MRPC"]] * 2


def right(names, model, task):
    """Right answers behind a score of the table."""
    return names["right_answers"](task, names["TABLE"][model][task])[0]


def test_every_possible_p_value_is_scipys(names):
    for model, task in ((names["V1"], "RTE"), (names["V2"], "SST2")):
        sums, values, _ = names["possible"](model, task)
        least = sums[0]
        for k in (0, len(sums) // 3, len(sums) - 1):
            expected = stats.binomtest(int((sums[k] - least) // 2), int(sums[k])).pvalue
            assert values[k] == pytest.approx(expected, rel=1e-9)
        assert least == abs(right(names, model, task) - right(names, names["SYMMETRIC"], task))


def test_sst2_is_decided_whatever_the_answers_were_and_the_wins_are_not(names):
    for model in (names["V1"], names["V2"]):
        frame = names["possible_p"].data(network=names["SHORT"][model], task="SST2")
        assert np.asarray(frame["possible"]).reshape(-1, 2)[:, 1].max() < 0.05
        for task in ("MRPC", "RTE"):
            frame = names["possible_p"].data(network=names["SHORT"][model], task=task)
            line = np.asarray(frame["possible"]).reshape(-1, 2)
            assert line[line[:, 1] < 0.05, 0].max() < 20
            share, value = np.ravel(frame["independent"])
            assert share >= 40
            assert value > 0.05


def test_versions_are_a_few_examples_apart(names):
    first, second = (
        [right(names, model, task) for task in ("MRPC", "RTE", "SST2")] for model in (names["V1"], names["V2"])
    )
    assert np.subtract(first, second).tolist() == [2, 4, 1]


def test_rte_sees_nothing_below_nine_points(names):
    smallest = names["smallest_difference"]
    assert 0.09 < smallest(277, 1, disagreement=0.3) < 0.095
    assert smallest(277, 5, disagreement=0.3, shared=0.5) > smallest(277, 1, disagreement=0.3) / math.sqrt(5) * 1.5


# ---------------------------------------------------------------- our studies


@pytest.fixture
def told(names):
    """``told(change)``: the chapter then speaks of a study that `change` has altered; in the end all is as before."""
    true = names["STUDY"]
    cached = ("difference", "steady", "apart", "history")

    def clear(record):
        names["STUDY"], names["RESULT"] = record, record.result
        for name in cached:
            names[name].cache_clear()

    def told_(change):
        record = copy.copy(true)
        record.__dict__["result"] = result = copy.deepcopy(true.result)
        for name, arm in result["arms"].items():
            change(name, arm)
        clear(record)

    yield told_
    clear(true)


def scipys(each):
    """Mean and 95 % interval by scipy."""
    low, high = stats.t.interval(0.95, len(each) - 1, each.mean(), stats.sem(each))
    return each.mean(), low, high


def test_differences_are_students(names):
    arms = names["RESULT"]["arms"]
    for arm in names["OTHERS"]:
        each = np.subtract(arms[arm]["held_out_loss"], arms["standard"]["held_out_loss"])
        assert names["difference"]("held_out_loss", arm)[:3] == pytest.approx(scipys(each), abs=1e-9)
        frame = names["learning"].data(arm=names["label_of"](arm), axis="tokens")
        last = np.asarray(frame["difference"]).reshape(-1, 2)[-1]
        curves = [names["STUDY"].series(f"{one}_held_out_loss")[1][-1] for one in (arm, "standard")]
        assert last[1] == pytest.approx(np.subtract(*curves).mean(), abs=1e-6)
        assert last[0] == pytest.approx(names["RESULT"]["tokens_seen"] / 1e3)


def test_a_dearer_arm_loses_by_the_clock(names):
    if not names["STEP"]:
        assert "second axis is missing" in names["about_seconds"]()
        return
    dear = max(names["OTHERS"], key=names["STEP"].get)
    assert names["STEP"][dear] > 1.1 * names["STEP"]["standard"]
    frames = [names["learning"].data(arm=names["label_of"](dear), axis=axis) for axis in names["AXES"]]
    equal, clock = (np.asarray(frame["difference"]).reshape(-1, 2) for frame in frames)
    middle = len(clock) // 2
    assert clock[middle, 1] > equal[middle, 1], "after as many seconds it has seen fewer tokens"
    own = np.asarray(frames[1]["arm"]).reshape(-1, 2)[:, 0]
    assert own[-1] == pytest.approx(names["STEP"][dear] * names["RESULT"]["steps"])


def test_the_average_never_loses_to_the_sample_on_record(names):
    for arm in names["NOISY"]:
        told = names["RESULT"]["arms"][arm]
        assert (np.array(told["average_loss"]) <= np.array(told["sample_loss"])).all()
    assert "as the theorem says" in names["three_ways"]()


def scattered(names, base, by=0.0):
    """Values near those of an arm, at a distance, a little scattered over the seeds."""
    each = np.array(base)
    wave = 1e-4 * np.resize([1, -1], names["STUDY"].seeds)
    return (each + by + wave.reshape(-1, *[1] * (each.ndim - 1))).tolist()


def test_words_about_the_losses_follow_the_numbers(names, told):
    arms = names["STUDY"].result["arms"]

    def shifted(noise, rest):
        def change(name, arm):
            kind = names["family"](name)
            if name != "standard":
                by = noise if kind == "noise" else rest if kind == "control" else 0.0
                arm["held_out_loss"] = scattered(
                    names, arms["standard"]["held_out_loss"], by * (1 + 1e-3 * (kind == "noise"))
                )
            if name == "symmetric":
                arm["held_out_loss"] = arms["standard"]["held_out_loss"]

        told(change)
        return names["study_told"]()

    same = shifted(0, 0)
    assert "no arm with noise has a lower loss" in same
    assert "its interval holds zero" in same or "leaves out zero" in same
    better = shifted(-0.1, 0)
    assert "these arms with noise have the lower loss: *V1*" in better
    worse = shifted(0.1, -0.1)
    assert "no arm with noise has a lower loss" in worse
    assert "These have the higher: *V1*" in worse
    if {"pairwise", "low-rank"} <= set(arms):
        assert "asymmetry does not need noise" in worse


def test_words_about_steadiness_follow_the_numbers(names, told):
    arms = names["STUDY"].result["arms"]

    def shifted(stability, rise, clean=0.0):
        def change(name, arm):
            noise = names["family"](name) == "noise"
            moved = {"normalised_stability": stability, "disturbed_rise": rise, "disturbed_loss": 0.0}
            for measure, by in (moved | {"held_out_loss": clean}).items():
                plain = arms["symmetric"][measure]
                arm[measure] = scattered(names, plain, by) if noise else plain

        told(change)
        return names["steadier_told"]()

    assert "No arm with learned noise is steadier" in shifted(0, 0)
    steady = shifted(0.1, -0.1)
    assert "steadier than *symmetric*: *V1*" in steady
    assert "bears it out at every keep for *V1*" in steady
    assert "listen less" not in steady
    idle = shifted(0.1, 0.0, 0.2)
    assert "do not bear it out" in idle
    assert "listen less" in idle
    assert "Less steady at every keep: *V1*" in shifted(-0.1, 0)


def test_the_cosine_is_that_of_chapter_ten(names):
    arm = names["RESULT"]["arms"]["standard"]
    raw, share, twin = (np.array(arm[name]) for name in ("stability", "normalised_stability", "twin_energy"))
    energy = raw / share
    assert np.ptp(energy, axis=1).max() < 1e-6 * energy.max(), "of the clean answers, whatever is kept"
    assert names["steadiness"]("cosine", "standard") == pytest.approx(raw / np.sqrt(energy * twin))
    assert (names["steadiness"]("cosine", "standard") < 1 + 1e-9).all()


def test_steadiness_is_read_from_the_record(names):
    arm, against = names["CONTRASTS"][0]
    for measure, (key, _) in names["STEADY"].items():
        frame = names["steadier"].data(measure=measure, keep=names["KEEP"][-1])
        if key != "cosine":
            each = np.subtract(*[np.array(names["RESULT"]["arms"][one][key])[:, -1] for one in (arm, against)])
            assert np.ravel(frame[names["label_of"](arm)])[0] == pytest.approx(each.mean(), abs=1e-9)


# ---------------------------------------------------------------- fine-tuning


def test_fine_tuned_shares_are_counts(names):
    for task, record in names["OURS"].items():
        told = record.result["tasks"][task]
        for arm in names["arms_of"](task):
            right = np.array(record.result["arms"][arm]["tasks"][task]["right"])
            assert names["shares"](task, arm) == pytest.approx(100 * right / told["held_out"])
        frame = names["ours"].data(task=task)
        assert np.ravel(frame["most frequent answer"])[0] == pytest.approx(100 * told["majority"] / told["held_out"])


def test_paired_contrasts_are_the_differences_of_the_counts(names):
    for pair, arms in names["PAIRS"].items():
        for task, record in names["OURS"].items():
            mean, low, high, each = names["contrast"](pair, task)
            assert low <= mean <= high
            if record.result["tasks"][task]["statistic"] != "matthews":
                assert each == pytest.approx(np.subtract(*[names["shares"](task, arm) for arm in arms]), abs=1e-9)
    assert all(pair in names["ours_told"]() for pair in names["PAIRS"])

"""Each figure of chapter 13 makes a discovery, its prose tells findings; both are asserted from the figures' data."""

import copy
import math

import numpy as np
import pytest
import torch
from scipy import stats

pytestmark = pytest.mark.book


@pytest.fixture(scope="module")
def names(chapter):
    return chapter("ch13-robust-training")


@pytest.fixture
def told(names):
    """``told(change)``: the chapter's words about a study that `change` has altered; afterwards all is as before."""
    true = names["RESULT"]
    cached = ("difference", "curves_of", "paired_curve", "spread_of", "measured")

    def told_(change):
        names["RESULT"] = copy.deepcopy(true)
        for name, arm in names["RESULT"]["arms"].items():
            change(name, arm)
        for name in cached:
            names[name].cache_clear()
        return names["verdict"](), names["separable"](), names["chance"](), names["cards"]()

    yield told_
    names["RESULT"] = true
    for name in cached:
        names[name].cache_clear()


# ---------------------------------------------------------------- the objective and the walls


def test_the_first_order_of_the_barrier_is_the_trace():
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(3, 3, generator=generator, dtype=torch.float64)
    covariance, scores = root @ root.T, torch.randn(3, 3, generator=generator, dtype=torch.float64)
    errors = []
    for size in (1e-2, 1e-3):
        barrier = -torch.linalg.det(torch.eye(3, dtype=torch.float64) - size * covariance @ scores).log()
        errors.append(abs(barrier - size * (covariance @ scores).trace()).item())
    assert errors[0] < 0.01
    assert errors[1] < 0.02 * errors[0], "the error is of second order"


def test_the_clamp_makes_nan_and_the_walls_of_the_package_do_not(names):
    singular = names["singular"]
    assert names["ported"](singular).item() == 30
    assert all(map(math.isnan, names["slopes"](names["ported"], singular)))
    for kind in ("clamped", "onesided", "hinge", "kl"):
        found = names["slopes"](lambda block, kind=kind: names["margin_penalty"](block, kind), singular)
        assert np.isfinite(found).all()
        assert (found[2] < -1) == (kind in ("onesided", "hinge")), "the least singular value is pushed up"
    twice = torch.diag(torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64))
    flat = names["slopes"](lambda block: names["margin_penalty"](block, "hinge"), twice)
    assert np.abs(flat).max() < 1e-10


def test_a_ball_can_tunnel_from_four_weights_over_the_squared_force_on():
    start = np.linspace(1e-4, 3, 200_001)
    for weight, force in ((0.05, 1.0), (0.2, 0.5)):
        limit = 4 * weight / force**2
        for step in (0.9 * limit, 1.1 * limit):
            least = (start - step * force + step * weight / start).min()
            assert (least < 0) == (step > limit)
    from_the_left = -start - 0.3 - 0.3 * 0.05 / start
    assert from_the_left.max() < 0, "no way back"


# ---------------------------------------------------------------- the live training


def test_prediction_the_eigenvalue_falls_without_end(names):
    drawn = names["guess"].state
    curve = np.array(drawn["curve"])
    assert curve[-1] < curve[0] - 2
    assert np.diff(curve[len(curve) // 2 :]).max() < 0
    twin = names["guess"].twin
    for one in drawn["distractors"]:
        grid = np.linspace(drawn["x"][0], drawn["x"][-1], 61)
        assert twin({**drawn, "drawn": np.interp(grid, drawn["x"], one["y"]).tolist()})["nearest"] == one["name"]


def test_the_prose_about_the_live_training_is_true(names):
    ends = names["ENDS"]
    assert ends["margin-only"]["quantiles"][3] > 10
    assert ends["hinge"]["negative"] == 0 < ends["none"]["negative"]
    assert abs(ends["hinge"]["loss"] - ends["none"]["loss"]) < 0.003
    assert abs(ends["hinge"]["noisy_loss"] - ends["none"]["noisy_loss"]) < 0.02
    gains = [ends["none"]["noisy_loss"] - ends[arm]["noisy_loss"] for arm in ("full", "residual")]
    assert gains[0] > 0.05
    assert ends["none"]["noisy_loss"] - ends["cooled"]["noisy_loss"] > 0.9 * gains[0], "without any training"
    assert abs(ends["cooled"]["loss"] - ends["none"]["loss"]) < 0.01
    assert gains[1] > 0.7 * gains[0]
    assert ends["residual"]["negative"] > 0.1
    assert ends["residual"]["size"] < 0.9 * ends["none"]["size"]
    assert ends["residual"]["loss"] < ends["none"]["loss"] + 0.01


def test_with_seed_seven_the_two_terms_together_do_more_than_either(names):
    none, full, residual, barrier = (
        names["trained"](arm, seed=7, every=240)[-1]["noisy_loss"]
        for arm in ("none", "full", "residual", "margin-only")
    )
    assert none - full > 2 * max(none - residual, none - barrier)


# ---------------------------------------------------------------- the study


def student(names, arm, measure, place=None, rise=False):
    """Mean and 95 % interval of the paired differences, from the record's lists, by scipy."""
    arms = names["RESULT"]["arms"]
    found = []
    for name in (arm, "none"):
        each = np.array(arms[name][measure])
        each = each if place is None else each[:, place]
        found.append(each - np.array(arms[name]["loss"]) if rise else each)
    each = found[0] - found[1]
    low, high = stats.t.interval(0.95, len(each) - 1, each.mean(), stats.sem(each))
    return each.mean(), low, high


def test_differences_are_students(names):
    for question, (measure, place) in names["ASKED"].items():
        for arm in (names["OTHERS"][0], names["OTHERS"][-1]):
            assert names["difference"](arm, question) == pytest.approx(student(names, arm, measure, place), abs=1e-9)
            if measure not in ("loss", "noise_area"):
                found = names["difference"](arm, question, "rise")
                assert found == pytest.approx(student(names, arm, measure, place, rise=True), abs=1e-9)


def test_noise_curves_rise_and_the_band_is_the_interval(names):
    for arm in names["OTHERS"]:
        frame = names["noise_curves"].data(arm=names["label_of"](arm))
        losses = frame["arm"][:, 1] if frame["arm"].shape[1] == 2 else frame["arm"][1]
        assert losses[-1] > losses[0]
    arm = names["OTHERS"][0]
    mean, low, high = names["paired_curve"](arm)
    last = student(names, arm, "noise", -1)
    assert (mean[-1], low[-1], high[-1]) == pytest.approx(last, abs=1e-9)
    first = student(names, arm, "loss")
    assert (mean[0], low[0], high[0]) == pytest.approx(first, abs=1e-9)


def test_what_the_clean_loss_adds_is_gone_from_the_rises(names):
    """Over the arms the differences in loss follow those in clean loss more closely than the rises do."""
    arms = names["OTHERS"]
    clean = [names["difference"](arm, "clean")[0] for arm in arms]
    mild = next(question for question in names["ASKED"] if question.startswith("noise"))
    loss, rise = ([names["difference"](arm, mild, counted)[0] for arm in arms] for counted in ("loss", "rise"))
    assert np.corrcoef(clean, loss)[0, 1] > 0.9
    assert np.std(rise) < np.std(loss)


def test_words_follow_the_numbers(names, told):
    def same(name, arm):
        plain = names["STUDY"].result["arms"]["none"]
        spread = 1e-3 * np.resize([1, -1], names["STUDY"].seeds) * (name != "none")
        for measure in ("loss", "noise_area", "swap", "adversarial"):
            arm[measure] = (np.array(plain[measure]) + spread).tolist()
        for measure in ("noise", "substitution"):
            arm[measure] = (np.array(plain[measure]) + spread[:, None]).tolist()
        arm["determinant_quantiles"] = plain["determinant_quantiles"]

    verdict, separable, chance, cards = told(same)
    assert verdict.count("So none of them helped against noise") == len(
        {names["family"](arm) for arm in names["BARRIERS"]}
    )
    assert "No barrier lifted the determinants" in separable
    assert f"{len(names['OTHERS']) * len(names['HURT'])} intervals" in chance
    assert f"Of {len(names['BARRIERS'])} barrier arms 0 are steadier" in cards

    def better(name, arm):
        same(name, arm)
        if name in names["BARRIERS"]:
            arm["noise_area"] = (np.array(arm["noise_area"]) - 1).tolist()
            arm["noise"] = (np.array(arm["noise"]) - 1).tolist()
            arm["determinant_quantiles"] = (
                np.array(arm["determinant_quantiles"]) + 1 + 1e-3 * np.arange(names["STUDY"].seeds)[:, None]
            ).tolist()

    verdict, separable, _, cards = told(better)
    assert "So none of them helped" not in verdict
    assert "Steadier, and not worse on clean text" in verdict
    assert "no robustness" not in separable
    many = len(names["BARRIERS"])
    assert f"Of {many} barrier arms {many} are steadier against embedding noise than none, and {many} steadier" in cards

    def opened(name, arm):
        better(name, arm)
        arm["noise_area"] = names["STUDY"].result["arms"]["none"]["noise_area"]
        spread = 1e-3 * np.resize([1, -1], names["STUDY"].seeds) * (name != "none")
        arm["noise_area"] = (np.array(arm["noise_area"]) + spread).tolist()

    assert "margins were opened, and no robustness that these seeds can see" in told(opened)[1]


def test_the_arm_without_a_barrier_counts_as_a_control(names):
    alone = [arm for arm, one in names["RESULT"]["arms"].items() if one["variant"] == "residual-only"]
    assert set(alone) <= set(names["CONTROLS"])
    assert not set(alone) & set(names["BARRIERS"])
    assert all(full.replace("full", "residual-only") == one for full, one in names["PAIRS"].items())


def test_whose_gain_it_is_follows_the_numbers(names, told):
    if not names["PAIRS"]:
        pytest.skip("the record has no arm with the residual term alone")

    def shifted(residual, full):
        """The two arms at these distances from none, a little scattered."""

        def change(name, arm):
            plain = names["STUDY"].result["arms"]["none"]
            by = dict.fromkeys(names["PAIRS"].values(), residual) | dict.fromkeys(names["PAIRS"], full)
            if name in by:
                scatter = 1e-3 * np.resize([1, -1], names["STUDY"].seeds) * (1 + (name in names["PAIRS"]))
                for measure in ("loss", "noise_area", "adversarial", "noise", "barrier_spread"):
                    each = np.array(plain[measure])
                    moved = by[name] * (measure != "loss") + scatter
                    arm[measure] = (each + moved.reshape(-1, *[1] * (each.ndim - 1))).tolist()

        told(change)
        return names["within_full"](), names["concentrated"]()

    words, spread = shifted(-1, -1)
    assert "steadier than those with none" in words
    assert "these seeds show no part of it to be the barrier’s" in words
    assert "helps here as it did in the toy" in words
    assert "need not owe it to its barrier" in spread
    words, spread = shifted(0, -1)
    assert "not to be told from those with none" in words
    assert "a part of its own beside the residual term.**" in words
    assert "toy" not in words
    assert "need not owe" not in spread
    words, _ = shifted(2, 1)
    assert "it is not enough to make the full prior steadier" in words
    assert "does harm here" in words
    assert "the barrier does harm" in shifted(0, 1)[0]


def test_differences_within_the_full_prior_are_students(names):
    for full, alone in names["PAIRS"].items():
        arms = names["RESULT"]["arms"]
        each = np.array(arms[full]["noise"])[:, -1] - np.array(arms[alone]["noise"])[:, -1]
        low, high = stats.t.interval(0.95, len(each) - 1, each.mean(), stats.sem(each))
        assert names["difference"](full, names["LARGEST"], against=alone) == pytest.approx(
            (each.mean(), low, high), abs=1e-9
        )


def test_small_rises_beside_losses_that_are_not_lower_are_named(names, told):
    def worse_to_begin_with(name, arm):
        if name in names["BARRIERS"]:
            plain = names["STUDY"].result["arms"]["none"]
            scatter = 1e-3 * np.resize([1, -1], names["STUDY"].seeds)
            arm["loss"] = (np.array(plain["loss"]) + 0.1 + scatter).tolist()
            for measure in ("noise", "substitution", "swap", "adversarial"):
                each = np.array(plain[measure])
                arm[measure] = (each + (0.05 + scatter).reshape(-1, *[1] * (each.ndim - 1))).tolist()

    chance = told(worse_to_begin_with)[2]
    assert all(names["label_of"](arm) in chance for arm in names["BARRIERS"])


# ---------------------------------------------------------------- margins, support tokens, side by side


def one_of(names, *stems):
    """The first arm of the record that begins so, the strongest dose of it."""
    found = [arm for stem in stems for arm in names["OTHERS"] if arm.startswith(stem)]
    return found[-1]


def test_the_hinge_lifts_low_margins_and_a_reward_moves_all_of_them(names):
    hinge, greedy = one_of(names, "heads-hinge"), one_of(names, "heads-onesided", "heads-raw")
    frame = names["margin_figure"].data(ruler="determinant")

    def at(label):
        return np.sinh(np.ravel(frame[label])[0]) * names["RULERS"]["determinant"][1]

    assert at(f"{hinge}, hundredth") > at("none, hundredth")
    assert abs(at(hinge) - at("none")) < 1
    assert at(greedy) > 5 * at("none")
    touched = {
        kind: max(
            abs(at(f"{arm}, hundredth") - at("none, hundredth")) for arm in names["BARRIERS"] if arm.startswith(kind)
        )
        for kind in ("embeddings", "heads")
    }
    assert touched["embeddings"] < touched["heads"] / 2
    spectral = names["values"](names["RESULT"], greedy, "spectral_quantiles").mean(0)[3]
    plain = names["values"](names["RESULT"], "none", "spectral_quantiles").mean(0)[3]
    assert spectral / plain < at(greedy) / at("none") / 3, "the other ruler has moved much less"


def test_chance_overlap_is_that_of_random_choices(names):
    share, draw = names["SHARE"], np.random.default_rng(0)
    a, b = draw.random((2, 200_000)) < share
    assert (a & b).sum() / (a | b).sum() == pytest.approx(share / (2 - share), rel=0.05)
    assert names["QUESTIONS"]["overlap of support tokens"][1] == share / (2 - share)
    from nslab.reruns._barrier_measures import LOWEST

    assert share == LOWEST


def test_support_study_shows_the_seeds(names):
    for question, (measure, _) in names["QUESTIONS"].items():
        frame = names["support_study"].data(question=question)
        expected = np.array(names["RESULT"]["arms"]["none"][measure])
        assert np.sort(np.asarray(frame["none, seeds"]).reshape(-1, 2)[:, 0]) == pytest.approx(np.sort(expected))


def test_rank_correlations_are_those_of_the_dots(names):
    for margin in names["MARGINS"]:
        for steady in names["STEADY"]:
            frame = names["side_by_side"].data(margin=margin, steady=steady)
            dots = np.concatenate([np.asarray(frame[f"{arm}, seeds"]).reshape(-1, 2) for arm in names["EVERYONE"]])
            ranks = stats.rankdata(dots, axis=0)
            expected = np.corrcoef(ranks.T)[0, 1]
            assert names["ranks"](margin, steady)[0] == pytest.approx(expected, abs=1e-9)


def test_words_about_both_measures_follow_the_numbers(names, told):
    def aligned(sign):
        def change(name, arm):
            place, seeds = list(names["RESULT"]["arms"]).index(name), names["STUDY"].seeds
            level = place + 0.1 * np.arange(seeds) / seeds
            for measure in ("determinant_quantiles", "spectral_quantiles", "stability"):
                arm[measure] = (level[:, None] * np.ones_like(arm[measure])).tolist()
            arm["stability"] = (sign * np.array(arm["stability"])).tolist()
            arm["noise_area"] = (-sign * level).tolist()
            arm["adversarial"] = (np.array(arm["loss"]) - sign * level).tolist()

        told(change)
        return names["both_rank"]()

    assert "no cause yet" in aligned(1)
    assert "the wrong one" in aligned(-1)


def test_words_about_the_gain_follow_the_numbers(names, told):
    for level, words in (
        (0.2, "it is weak"),
        (0.6, "does tell something"),
        (-0.2, "hurt *less*"),
        (0.0, "told from zero"),
    ):

        def change(name, arm, level=level):
            seeds = names["STUDY"].seeds
            arm["local_correlation"] = (level + 1e-3 * np.resize([1, -1], seeds)).tolist()

        told(change)
        assert words in names["about_support"]()


def test_twins_are_shown_where_their_records_are(names):
    assert "char-gpt" in names["networks"]
    assert ("barrier-char-gpt" in names["networks"]) == (
        names["TWIN"] is not None and (names["TWIN"].path / "model.safetensors").is_file()
    )

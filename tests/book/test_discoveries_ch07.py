"""Each figure of chapter 7 makes a discovery, its prose tells findings; both are asserted from the figures' data."""

import math

import numpy as np
import pytest

pytestmark = pytest.mark.book


@pytest.fixture(scope="module")
def names(chapter):
    return chapter("ch07-depth")


def end(figure, **values):
    return figure.data(**values)["after 12 layers"][0, 0]


def test_three_maps_have_three_fates(names):
    figure = names["cobweb"]
    for rho in (0.0, 0.3, 0.6, 0.9, 0.99, 1.0):
        assert end(figure, normalisation="the digest's recursion", rho=rho) == pytest.approx(0.217234, abs=1e-5)
        assert end(figure, normalisation="energy restored", rho=rho) > max(rho, 0.88) - 1e-12
    assert end(figure, normalisation="mean removed too", rho=0.6) < 0.05
    assert end(figure, normalisation="mean removed too", rho=1.0) == pytest.approx(1)
    part = figure.data(normalisation="mean removed too", rho=0.99)["staircase"]
    assert 1 - part[3, 0] > 1.4 * 0.01, "at 0.99 they already part, by nearly half again"


def test_a_staircase_runs_between_curve_and_diagonal(names):
    stairs = names["cobweb"].data(normalisation="energy restored", rho=0.3)["staircase"]
    assert (stairs[::2, 0] == stairs[::2, 1])[1:].all()
    for across, up in stairs[1::2]:
        exact = (math.sqrt(1 - across**2) + across * (math.pi - math.acos(across))) / math.pi
        assert up == pytest.approx(exact, abs=1e-12) or across == pytest.approx(up)


def test_every_climb_ends_on_the_law_and_a_late_start_waits(names):
    figure = names["slow_climb"]
    for rho in (0.0, 0.5, 0.9, 0.99):
        line = figure.data(rho=rho)["1 − c"]
        law = figure.data(rho=rho)["9π²/2 over L²"]
        assert line[-1, 1] == pytest.approx(law[-1, 1], rel=0.15)
        assert law[-1, 1] == pytest.approx(9 * math.pi**2 / 2 / 1000**2)
    late = figure.data(rho=0.99)["1 − c"]
    after = {int(depth): distance for depth, distance in late}
    assert after[min(after, key=lambda depth: abs(depth - 20))] > 0.005, "twenty layers do not halve the distance"
    as_if = {depth: 0.01 * (67 / (67 + depth)) ** 2 for depth in after}
    assert all(after[depth] == pytest.approx(as_if[depth], rel=0.03) for depth in after)


def test_twelve_layers_of_votes_first_destroy_and_then_heal(names):
    deep = names["DEEP"]
    assert deep[0] > deep[1] > deep[2]
    assert (deep[2:].diff() > 0).all()
    assert names["fresh"].correlation[1] < deep[2] < deep[3], "one number would have one map"


def test_the_gain_kills_raw_stability_and_never_touches_the_ratios(names):
    figure, gains = names["four_moments"], names["GAINS"]
    first = figure.data(gain=0.5, residual="no residual")
    for gain in gains:
        frame = figure.data(gain=gain, residual="no residual")
        for ratio in ("m/q", "o/q", "p/q"):
            np.testing.assert_allclose(frame[ratio], first[ratio], atol=1e-9)
        assert (np.diff(frame["m/q"][1:, 1]) > 0).all()
        assert frame["p/q"][6:, 1].min() > 0.99
    dying = figure.data(gain=0.7, residual="no residual")
    assert dying["m"][12, 1] < dying["m"][1, 1] / 1000
    assert dying["m"][12, 1] <= dying["q"][12, 1] <= 0.7**24
    kept = figure.data(gain=0.7, residual="residual")
    assert kept["p/q"][6, 1] < dying["p/q"][6, 1], "a residual slows it down"
    assert kept["m"][12, 1] < kept["m"][1, 1] / 5


def test_the_recursion_runs_through_networks_with_a_residual_and_misses_copies(names):
    figure, shapes, levels = names["beside_networks"], names["SHAPES"], names["LEVELS"]

    def gap(shape, rho):
        frame = figure.data(shape=shape, rho=rho)
        return frame["mean of the networks"][:, 1] - frame["recursion"][:, 1]

    for shape in shapes:
        if shape not in ("hard votes", "identity"):
            assert max(np.abs(gap(shape, rho)).max() for rho in levels) < 0.03
    assert gap("hard votes", levels[-1])[1:3].min() > 0.02, "too low after one and two layers"
    assert gap("hard votes", levels[-1])[2] > gap("hard votes", levels[0])[2], "the more so near 1"
    for width in names["WIDTHS"]:
        measured, predicted = (names["drawn_series"]("hard votes", key, width) for key in ("measured", "predicted"))
        missing = 1 - predicted[:, -1] / measured[:, -1]  # after the last layer, of m, o, q and p: (4, rho)
        assert (missing > 0).all(), "all four are too low"
        assert missing[2, 0] > missing[0, 0], "q by a larger share than m, for small rho"
        assert names["excess"](width) > 0.02, "so the correlation is too high"


def test_the_intervals_hold_the_networks_and_have_room_to_spare(names):
    figure = names["intervals_and_networks"]
    for shape in [*names["WITH_RESIDUAL"], "hard votes"]:
        for rho in names["LEVELS"]:
            frame = figure.data(shape=shape, rho=rho)
            mean, spread = (part[:, names["LEVELS"].index(rho)] for part in names["mean_and_spread"](shape))
            low, high = (frame[f"version B, {side} end"][1:, 1] for side in ("lower", "upper"))
            assert (low < (mean - 2 * spread)[1:]).all()
            assert (high > (mean + 2 * spread)[1:]).all()
            assert (frame["hull, lower end"][1:, 1] <= low + 1e-6).all()
    wide = figure.data(shape="residual", rho=names["LEVELS"][-2])
    assert wide["version B, upper end"][-1, 1] - wide["version B, lower end"][-1, 1] > 0.3


def test_version_b_gains_most_in_the_first_layers_and_pre_norm_is_loose(names):
    for shape in names["BOUNDED"]:
        for width in names["WIDTHS"]:
            frame = names["tightness"].data(shape=shape, width=width)
            b, hull = frame["version B"][:, 1], frame["hull"][:, 1]
            assert hull[0] / b[0] > hull[-1] / b[-1] >= 0.99
            assert b.min() > 1
            if shape in ("pre-norm", "soft votes"):
                assert b[-1] > 8
            if shape == "hard votes":
                assert np.median(b) < 6
    assert np.median(names["need"]) > 0.07, "no honest interval is much below a tenth"


def test_late_noise_hurts_most_until_rho_is_near_one(names):
    figure = names["where_it_hurts"]
    for block in names["BLOCKS"]:
        early = figure.data(rho=0.5, block=block)["damage"][:, 1]
        near = figure.data(rho=0.999, block=block)["damage"][:, 1]
        assert (np.diff(early) > 0).all()
        assert near.argmax() == 0
        assert near[0] > 1 > near[-1]


def test_strong_noise_takes_what_tokens_have_of_their_own(names):
    for model in names["MODELS"]:
        for rho in (rho for rho in names["NOISES"] if rho <= 0.5):
            own = names["trained"].data(model=model, rho=rho)["measured, centred"][:, 1]
            assert own[-1] < own[0]
    rho = min(names["NOISES"], key=lambda rho: abs(rho - 0.5))
    frame = names["trained"].data(model="SmolLM2", rho=rho)
    measured, start = frame["measured"][:, 1], frame["from the embeddings"][:, 1]
    assert measured[2] > measured[0] + 0.1, "m/q jumps up within two layers"
    assert start[2] < start[0], "and theory misses it"
    assert abs(start[-1] - measured[-1]) > 0.2
    mild = names["trained"].data(model="SmolLM2", rho=0.9)
    assert mild["from the embeddings"][-1, 1] < 0.3 < 0.8 < mild["measured"][-1, 1]
    assert mild["measured, centred"][-1, 1] > 0.7
    ahead = frame["one layer ahead"][:, 1]
    assert np.median(np.abs(ahead - measured[1:])) < 0.03, "it looks good"


def test_one_layer_ahead_theory_is_hardly_better_than_no_change(names):
    for model in names["MODELS"]:
        start, kept, ahead, still = names["ERRORS"][model, False]
        assert 0.8 * still < ahead < 2 * still
        assert start > kept, "from the embeddings on, no change would be the better guess"
        _, _, ahead, still = names["ERRORS"][model, True]
        assert 0.5 * still < ahead < still, "a little better for the centred correlation"
    theory, copied = names["BLOCKWISE"]["SmolLM2", "attention", False]
    assert theory > 0.8 * copied, "m/q after an attention block is not predicted"
    assert names["alike"]["attention_output"] < names["alike"]["attention_ahead"] - 0.2


def test_what_a_block_does_to_the_centred_correlation_is_predicted(names):
    for (_, _, centred), (theory, copied) in names["BLOCKWISE"].items():
        if centred:
            assert theory < 0.85 * copied
    m, o, q, p = names["moments_of"]("SmolLM2", "attention_input")[:, 5]
    masses = names["SOURCE"]["smollm2-135m"].series("smollm2-135m/agreement")[1][0].astype(float)[:, 5].mean(1)
    s, t, own, other = masses
    left = names["correlation_of"]("SmolLM2", "attention_ahead", centred=True)[5]
    np.testing.assert_allclose((s - t) / (own - other) * (m - o) / (q - p), left, rtol=1e-3)


def test_a_head_that_is_sure_of_itself_need_not_be_stable(names):
    figure, firm, fickle = names["heads"], names["FIRM"] - 1, names["FICKLE"] - 1
    frame = figure.data(layer=names["TOLD"], rho=min(names["FEW"]))
    twin, itself = frame["with its twin"], frame["with itself"][:, 1]
    assert min(itself[firm], itself[fickle]) > 0.8, "both choose nearly one token"
    assert twin[firm] / itself[firm] > 0.8
    assert twin[fickle] / itself[fickle] < 0.3
    first = figure.data(layer=1, rho=min(names["FEW"]))["with itself"][:, 1]
    late = figure.data(layer=25, rho=min(names["FEW"]))["with itself"][:, 1]
    assert first.max() < 0.3 < 0.5 < late.min(), "attention sharpens with depth"
    for layer in names["SHOWN"]:
        means = [figure.data(layer=layer, rho=rho)["with its twin"].mean() for rho in names["FEW"]]
        assert means[-1] == max(means)

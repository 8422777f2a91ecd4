"""Each figure of chapter 6 makes a discovery; here it is asserted from the data of two frames."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

pytestmark = pytest.mark.book

LAYERS = np.arange(6)


@pytest.fixture(scope="module")
def names(chapter):
    return chapter("ch06-one-layer")


def test_the_same_runner_wins_twice_less_than_half_of_the_time():
    from nslab.propagation import plurality_agreement

    assert 0.4 < plurality_agreement(0.8, 16).item() < 0.5


def test_the_slope_of_the_moment_is_the_share_of_pairs_with_both_on(names):
    figure = names["both_on"]
    shares = []
    for c in (-0.95, 0.35, 0.95):
        data = figure.data(c=c, q_prime=1.0)
        line, curve = data["its slope"], data["F(1, q′, κ)"]
        slope = (line[1, 1] - line[0, 1]) / (line[1, 0] - line[0, 0])
        shares.append(len(data["on"]) / (len(data["on"]) + len(data["off"])))
        assert shares[-1] == pytest.approx(slope, abs=0.015)
        near = np.interp([c - 0.02, c + 0.02], curve[:, 0], curve[:, 1])
        assert (near[1] - near[0]) / 0.04 == pytest.approx(slope, abs=0.02), "the line touches the curve"
    assert shares[0] < 0.07
    assert 0.43 < shares[2] < 0.5


def test_more_variance_lifts_the_curve_and_moves_no_pair_into_the_quarter(names):
    small, large = (names["both_on"].data(c=0.35, q_prime=q) for q in (0.5, 2.0))
    assert large["here"][0, 1] > small["here"][0, 1]
    np.testing.assert_allclose(large["on"][:, 0], small["on"][:, 0])
    np.testing.assert_allclose(large["on"][:, 1], 2 * small["on"][:, 1])


def test_centred_no_activation_gets_above_the_diagonal_and_tanh_keeps_most(names):
    figure = names["zoo"]
    kept = {}
    for name in names["ACTIVATIONS"]:
        for sd in names["SPREADS"]:
            centred = figure.data(activation=name, sd=sd)["centred"]
            assert (centred[:, 1] <= centred[:, 0] + 1e-9).all()
            kept[name, sd] = np.interp(0.5, *centred.T)
    bent = [name for name in names["ACTIVATIONS"] if name != "linear"]
    assert max(bent, key=lambda name: kept[name, 1.0]) == "tanh"
    assert min(bent, key=lambda name: kept[name, 1.0]) == "quadratic"
    for name in ("relu", "gelu"):
        normalised = figure.data(activation=name, sd=1.0)["normalised"]
        assert (normalised[:-1, 1] > normalised[:-1, 0] - 0.005).all()
        assert normalised[0, 1] > 0.15
    assert kept["relu", 0.3] == pytest.approx(kept["relu", 3.0])
    sign = 2 / math.pi * math.asin(0.5)
    assert kept["tanh", 0.3] > 0.49
    assert sign < kept["tanh", 3.0] < 0.42


def test_the_predicted_curve_is_the_vote_of_64_at_rho_squared(names):
    from nslab.propagation import plurality_agreement

    state = names["same_choice"].state
    at = state["x"].index(0.5)
    assert state["curve"][at] == pytest.approx(plurality_agreement(0.25, 64).item())
    assert state["curve"][at] < 0.06
    slopes = np.diff(state["curve"]) / np.diff(state["x"])
    assert slopes[-1] > 10 * slopes[len(slopes) // 2]


def test_votes_in_the_page_agree_as_often_as_the_formula_says(names):
    from nslab.propagation import plurality_agreement

    figure = names["votes"]
    found = figure.twin({**figure.state, "votes": 1000})
    assert found["exact"] == pytest.approx(plurality_agreement(0.49, 8).item(), abs=1e-5)
    assert abs(found["mean"] - found["exact"]) < 4 * found["error"]


def test_agreement_falls_like_a_power_and_nears_the_slope_of_its_limit_slowly(names):
    figure = names["many_tokens"]
    last = {}
    for rho in names["LEVELS"]:
        data = figure.data(rho=rho)
        slopes = np.diff(data["exactly"][:, 1])
        limit = np.diff(data["slope of the limit"][:, 1])[0]
        assert limit == pytest.approx(-(1 - rho**2) / (1 + rho**2))
        assert (np.diff(slopes) > 0).all(), "it flattens"
        assert limit - 0.05 < slopes[-1] < limit
        last[rho] = slopes[-1], limit, data["exactly"][-1, 1]
    assert last[0.25][0] == pytest.approx(-1, abs=0.12)
    assert 2 ** last[0.95][2] == pytest.approx(1 / 3, abs=0.01)
    assert last[0.99][0] / last[0.99][1] == pytest.approx(3, rel=0.15)


def test_soft_attention_keeps_correlation_and_hard_attention_keeps_the_signal(names):
    for tokens in names["COUNTS"]:
        for rho in names["NOISY"]:
            data = names["soft_votes"].data(rho=rho, tokens=tokens)
            shared, own, ratio = (data[name][:, 1] for name in ("with its twin", "with itself", "ratio"))
            assert (np.diff(shared) > 0).all()
            assert (np.diff(own) > 0).all()
            assert (np.diff(ratio) < 0).all()
            assert ratio[0] > 0.98
            assert own[0] == pytest.approx(1 / tokens, rel=0.02)
            assert ratio[-1] == pytest.approx(data["hard vote"][0, 1], rel=0.06)
            assert own[-1] > 0.97


def test_the_identity_writes_a_diagonal_random_scores_choose_and_the_usual_ones_do_not(names):
    figure = names["maps"]

    def chosen(data, name):
        kept, changed = data.get(f"{name}, same"), data.get(f"{name}, other")
        return np.concatenate([part for part in (kept, changed) if part is not None and len(part)])

    for width in (64, 256, 1024):
        data = figure.data(scores="identity", width=width)
        for name in ("input", "twin"):
            places = chosen(data, name)
            np.testing.assert_array_equal(places[:, 0], places[:, 1])
            assert len(places) == 16
        random = figure.data(scores="random", width=width)
        assert len(random["input, other"]) > 8
        assert len(set(chosen(random, "input")[:, 0])) < 13, "several rows choose the same token"
    peaks = {kind: names["two_maps"](kind, 256, rho=0.8)[0].amax(-1).mean() for kind in names["KINDS"]}
    assert peaks["usual initialisation"] < 0.35 < 0.85 < peaks["random"]
    assert peaks["identity"] > 0.99


def test_finite_width_corrects_the_theorems_in_both_directions(names):
    figure = names["theory_and_measurement"]
    wide = figure.data(scores="identity", width=256)["measured"][:, 1]
    np.testing.assert_allclose(wide, 1, atol=0.06)
    votes = figure.data(scores="random", width=256)["measured"][:, 1]
    assert (votes < 0.5).all()
    assert votes[0] < votes[4] < votes[8]
    assert (figure.data(scores="low-rank", width=256)["measured"][:, 1] < 0.9).all()
    for scores, sign in (("identity", -1), ("random", 1)):
        data = figure.data(scores=scores, width=32)
        at = data["measured"][:, 0]
        limit, corrected = (np.interp(at, *data[name].T) for name in ("limit", "corrected (ours)"))
        off = data["measured"][:, 1] - limit
        assert (sign * off[1:] > 0).all()
        assert np.abs(data["measured"][:, 1] - corrected)[1:].mean() < 0.3 * np.abs(off)[1:].mean()


def test_a_random_function_loses_about_the_same_share_in_every_layer(names):
    from nslab.propagation import distinct_share

    for tokens in names["LENGTHS"]:
        data = names["who_survives"].data(tokens=tokens, network=1)
        assert (data["permutation"][:, 1] == 1).all()
        measured = data["measured"][:, 1]
        assert measured[1] < 0.7
        expected = data["random function"][:, 1]
        np.testing.assert_allclose(measured, expected, atol=0.04)
        assert expected[1] == pytest.approx(distinct_share(tokens))
        assert (expected >= 1 / tokens).all(), "somebody is always left"
        present = [set(data["present"][data["present"][:, 0] == layer, 1]) for layer in LAYERS]
        assert len(present[0]) == tokens
        assert all(after <= before for before, after in pairwise(present))


def test_the_closed_form_for_three_tokens_has_the_slope_that_price_gives():
    """What the folded derivation says about A_3, against automatic differentiation of the package."""
    from nslab.propagation import plurality_agreement

    r = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(plurality_agreement(r, 3).sum(), r)
    same = 6 / (2 * math.pi * (1 - r**2).sqrt()) * (0.25 + r.asin() / (2 * math.pi))
    other = 0.5 * 6 / (2 * math.pi * (1 - r**2 / 4).sqrt()) * (0.25 - (r / 2).asin() / (2 * math.pi))
    torch.testing.assert_close(slope, same + other)


def test_the_correction_is_larger_than_what_it_corrects(names):
    assert names["lean_64"] > names["agreement_64"]
    off = names["real_64"].stability.value.item() - 0.5 * (names["agreement_64"] + names["lean_64"])
    assert abs(off) < 4 * names["real_64"].stability.stderr.item()


def test_the_exercises_have_the_answers_that_simulation_gives():
    """Two layers of hard votes; a vote with clean keys; energies under noise."""
    generator = torch.Generator().manual_seed(0)
    left = 2000
    for _ in range(2):
        left = len(torch.randint(left, (left,), generator=generator).unique())
    assert left / 2000 == pytest.approx((1 - math.exp(-1)) ** 2, abs=0.03)
    for width in (16, 64, 256, 1024):  # a text at the edge of what W = I can copy: squared, the width doubled
        length = math.sqrt(width) - 0.5
        assert 2 * length + 0.5 - math.sqrt(2 * width) > 0
    assert (0.5 * 0.5 + 0.25 * 0.125) / 0.75 < 0.6 * 0.5 + 0.4 * 0.25
    x, y = torch.randn(2, 256, generator=generator)
    y = 0.5 * x + math.sqrt(0.75) * y
    keys = torch.randn(64, 256, generator=generator)
    clean = []
    for _ in range(20):
        weights = torch.randn(256, 256, generator=generator)
        u, v = (each @ weights @ keys.T for each in (x, y))
        clean.append(torch.corrcoef(torch.stack([u, v]))[0, 1])
    assert torch.stack(clean).mean().item() == pytest.approx(0.5, abs=0.1)

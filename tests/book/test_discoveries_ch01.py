"""Each figure of chapter 1 and of the front page makes a discovery; here it is asserted from the data of two frames."""

import math

import numpy as np
import pytest

pytestmark = pytest.mark.book


@pytest.fixture(scope="module")
def names(chapter):
    return chapter("ch01-sensitivity")


def average(data) -> float:
    return data["average over all points"][0, 1]


def test_majority_is_fragile_only_beside_the_tie(names):
    data = names["sensitive_points"].data(family="majority", n=9)
    at_level = data["sensitivity at this level"][:, 1]
    np.testing.assert_array_equal(at_level, [0, 0, 0, 0, 5, 5, 0, 0, 0, 0])
    assert at_level.max() > 9 / 2, "more than half of the voters could turn it"
    parity = names["sensitive_points"].data(family="parity", n=9)
    np.testing.assert_array_equal(parity["sensitivity at this level"][:, 1], np.full(10, 9))
    unanimity = names["sensitive_points"].data(family="unanimity", n=9)
    assert np.count_nonzero(unanimity["sensitivity at this level"][:, 1]) == 2
    assert average(unanimity) < 0.05 < average(data) < average(parity) == 9


def test_the_bars_are_the_shares_of_the_levels(names):
    bars = names["sensitive_points"].data(family="dictator", n=5)["share of all points, right scale"]
    np.testing.assert_allclose(bars / names["MOST"], [math.comb(5, k) / 32 for k in range(6)])


def test_large_states_lie_above_the_line_and_samples_close_in(names):
    figure = names["electoral_college"]
    few, many = figure.data(samples=400), figure.data(samples=25600)
    exact = few["exact, by counting"]
    order = np.argsort(exact[:, 0], kind="stable")
    per_elector = (exact[:, 1] / exact[:, 0])[order]
    assert (np.diff(per_elector) > -1e-12).all(), "per elector, influence grows with size"
    assert per_elector[-1] > 1.3 * per_elector[0]

    def distance(data):
        return np.abs(data["sampled, ± 2 standard errors"][:, 1] - exact[:, 1]).mean()

    assert distance(many) < distance(few) / 3
    errors = [names["SAMPLED"][k].stderr.mean().item() for k in (400, 1600, 6400, 25600)]
    np.testing.assert_allclose(np.divide(errors[:-1], errors[1:]), 2, rtol=0.12)


@pytest.mark.parametrize("family", ["dictator", "majority", "parity", "unanimity"])
def test_every_curve_leaves_along_its_tangent(names, family):
    figure = names["slope_is_influence"]

    def loss_and_gap(rho):
        data = figure.data(family=family, rho=rho)
        value, tangent = data["here"][0, 1], data["tangent here"][0, 1]
        return 1 - value, value - tangent

    (_, gap_near), (_, gap_far) = loss_and_gap(0.95), loss_and_gap(0.5)
    assert gap_near < gap_far / 20 + 1e-9, "the gap closes like the square of the distance"
    if family == "majority":
        assert gap_far > 0.5
    exact = names["bf"].stability(names["TABLES"][family], names["torch"].tensor(0.95).double()).item()
    assert figure.data(family=family, rho=0.95)["here"][0, 1] == pytest.approx(exact)


def test_more_sensitive_functions_forget_faster(names):
    figure = names["slope_is_influence"]
    at = {family: figure.data(family=family, rho=0.9)["here"][0, 1] for family in ("dictator", "majority", "parity")}
    assert at["dictator"] > at["majority"] > at["parity"]


def test_depth_forgets_however_small_the_noise(names):
    figure = names["tower"]
    early, late = figure.frame(rho=0.99, layer=1), figure.frame(rho=0.99, layer=12)
    path = late.data["correlation after each layer"][:, 1]
    assert (np.diff(path) < 0).all()
    assert path[0] == pytest.approx(0.99)
    losses = (1 - path[1:4]) / (1 - path[:3])
    np.testing.assert_allclose(losses, 1.5, rtol=0.06), "near one each layer multiplies the loss by three halves"
    assert "influence 0.5;" in early.alt
    assert "total influence is 1.5." in early.alt
    assert path[12] < 0.5, "one per cent of fresh votes, and half of the answer is gone"
    assert figure.data(rho=1.0, layer=6)["here"][0, 1] == 1


def test_the_committee_map_is_the_stability_of_majority_of_three(names):
    """The recursion of the tower against the truth table of two layers, by the package."""
    import torch

    from nslab import boolean as bf

    rho = torch.linspace(-1, 1, 21, dtype=torch.float64)
    torch.testing.assert_close(
        bf.stability(bf.iterated_majority(2).double(), rho), names["committee"](names["committee"](rho))
    )


def test_a_lean_turns_the_square_root_law_into_an_exponential_one(names):
    figure = names["leaning_electorate"]

    def slope(data, label):
        n, chance = data[label][8:, 0], data[label][8:, 1]
        return np.diff(np.log(chance)) / np.diff(np.log(n))

    fair = figure.data(p=0.5)
    np.testing.assert_allclose(slope(fair, "leaning voters"), -0.5, atol=0.01)
    leaning = slope(figure.data(p=0.6), "leaning voters")
    assert (np.diff(leaning) < 0).all(), "on logarithmic axes an exponential bends down for ever"
    assert leaning[-1] < -5


def test_the_drawn_curve_follows_the_square_root_law(names):
    state = names["voter_matters"].state
    x, y = np.array(state["x"]), np.array(state["curve"])
    np.testing.assert_allclose(y[10:], np.sqrt(2 / (np.pi * x[10:])), rtol=0.01)
    assert y[-1] > 8 / x[-1]


def test_the_workshop_starts_from_the_majority_of_three(names):
    start = names["workshop"].twin(names["workshop"].state)
    assert start["influences"] == [0.5, 0.5, 0.5]
    assert start["total_influence"] == 1.5


def test_three_answers_survive_differently(chapter):
    figure = chapter("index")["survival"]
    little, more = figure.data(rho=0.95), figure.data(rho=0.5)
    assert little["parity of 225 here"][0, 1] < 1e-4
    assert little["one dictator here"][0, 1] == pytest.approx(0.95)
    assert 0.7 < little["majority of 225 here"][0, 1] < 0.85
    steep = (1 - little["majority of 225 here"][0, 1]) / 0.05
    later = (little["majority of 225 here"][0, 1] - more["majority of 225 here"][0, 1]) / 0.45
    assert steep > 3 * later
    assert more["majority of 225 here"][0, 1] == pytest.approx(1 / 3, abs=0.01), "a third is left"
    assert len(more["votes"]) == 225
    assert "At ρ = 1.00, 0 of 225 votes have changed" in figure.frame(rho=1.0).alt

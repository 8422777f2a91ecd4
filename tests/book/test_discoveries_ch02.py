"""Each figure of chapter 2 makes a discovery; here it is asserted from the data of two frames."""

import math

import numpy as np
import pytest

pytestmark = pytest.mark.book


@pytest.fixture(scope="module")
def names(chapter):
    return chapter("ch02-fourier")


def test_dark_bars_add_up_to_the_stability_and_high_levels_fade_first(names):
    import torch

    from nslab import boolean as bf

    figure = names["equaliser"]
    for family, table in names["GALLERY"].items():
        bars = figure.data(family=family, rho=0.5)
        stability = bf.stability(table, torch.tensor(0.5, dtype=torch.float64)).item()
        assert bars["what noise leaves"].sum() == pytest.approx(stability)
        assert bars["weight at the level"].sum() == pytest.approx(1)
    bars = figure.data(family="random", rho=0.5)
    left = bars["what noise leaves"][1:9] / bars["weight at the level"][1:9]
    np.testing.assert_allclose(left, 0.5 ** np.arange(1, 9))


def test_two_functions_with_the_same_bars_fade_alike(names):
    figure = names["equaliser"]
    for rho in (0.5, 0.8):
        one, nine = figure.data(family="dictator", rho=rho), figure.data(family="scaled sum", rho=rho)
        for bars in ("weight at the level", "what noise leaves"):
            np.testing.assert_allclose(one[bars], nine[bars], atol=1e-12)
    assert (names["bf"].influences(names["GALLERY"]["scaled sum"]) > 0).sum() == 9
    assert (names["bf"].influences(names["GALLERY"]["dictator"]) > 0).sum() == 1


def test_each_layer_multiplies_the_mean_level_by_three_halves(names):
    figure = names["tower_spectrum"]
    means = [figure.data(layer=layer, rho=0.9)["mean level"][0, 0] for layer in range(5)]
    np.testing.assert_allclose(np.divide(means[1:], means[:-1]), 1.5)
    kept = [figure.data(layer=layer, rho=0.9)["what noise leaves"].sum() for layer in range(4)]
    assert (np.diff(kept) < 0).all()


def test_the_tower_polynomials_are_the_spectra_of_the_tables(names):
    from nslab import boolean as bf

    for depth in (1, 2):
        weights = bf.level_weights(bf.iterated_majority(depth).double()).numpy()
        np.testing.assert_allclose(names["TOWERS"][depth].coef, weights, atol=1e-12)


def test_one_boss_nearly_decides_and_parity_keeps_its_errors(names):
    figure = names["junta_finder"]
    boss = figure.data(family="a boss and nine", k=1)["here"][0, 1]
    majority = figure.data(family="majority of 11", k=1)["here"][0, 1]
    parity = figure.data(family="parity of 11", k=10)["here"][0, 1]
    assert boss < 0.1 < 0.35 < majority
    assert parity == 0.5
    assert figure.data(family="parity of 11", k=11)["here"][0, 1] == 0


def test_california_is_worth_many_equal_votes(names):
    figure = names["election_night"]
    none, one = figure.data(k=0), figure.data(k=1)
    assert none["here"][0, 1] == 0.5
    assert one["here"][0, 1] < 0.28
    equal = one["51 equal votes"][:, 1]
    needed = int(np.argmax(equal <= one["here"][0, 1]))
    assert 20 <= needed <= 25
    assert figure.data(k=2)["here"][0, 1] == pytest.approx(one["here"][0, 1]), "Texas cannot outvote California"
    assert (np.diff(one["Electoral College, largest first"][:, 1]) <= 1e-12).all()


def test_the_error_after_some_states_against_enumeration(names):
    """A small college, all patterns of votes: the best guess from the first two of five."""
    weights = [5, 3, 2, 2, 1]
    wrong = 0.0
    for known in range(4):
        lead = 5 * (1 - 2 * (known & 1)) + 3 * (1 - 2 * (known >> 1))
        outcomes = [
            np.sign(lead + sum(w * (1 - 2 * (rest >> i & 1)) for i, w in enumerate((2, 2, 1)))) for rest in range(8)
        ]
        wrong += min(np.mean(np.equal(outcomes, 1)), np.mean(np.equal(outcomes, -1))) / 4
    assert names["error_after"](weights, 2) == pytest.approx(wrong)


@pytest.mark.parametrize("epsilon", [0.05, 0.45])
def test_friedguts_bound_is_beyond_all_bits(names, epsilon):
    figure = names["friedgut_slack"]
    for family in names["PANEL"]:
        data = figure.data(family=family, epsilon=epsilon)
        assert data["true here"][0, 1] <= math.log10(11)
        assert data["bound here"][0, 1] > 2 * math.log10(11)


def test_a_random_function_forms_a_bell(names):
    state = names["random_levels"].state
    weights = np.array(state["curve"])
    assert weights.argmax() == 6
    assert weights.sum() == pytest.approx(1)
    np.testing.assert_allclose(weights, weights[::-1])

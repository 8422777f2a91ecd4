"""Each figure of chapter 3 makes a discovery; here it is asserted from the data of two frames."""

import math

import numpy as np
import pytest

pytestmark = pytest.mark.book


@pytest.fixture(scope="module")
def names(chapter):
    return chapter("ch03-noise-stability")


def test_rare_errors_are_multiplied_by_the_total_influence(names):
    from nslab import boolean as bf

    figure = names["noisy_election"]
    rare, common = figure.data(error=0.001)["here"][0, 1] / 0.001, figure.data(error=0.1)["here"][0, 1] / 0.1
    total = bf.threshold_total_influence(names["college"])
    assert rare == pytest.approx(total, rel=0.05)
    assert 3.8 < total < 4.2
    assert common < rare / 2, "the curve bends"
    data = figure.data(error=0.01)
    at = int(np.argmin(np.abs(data["dictator"][:, 0] - 0.01)))
    college, equal, ruler = (data[name][at, 1] for name in ("Electoral College", "51 equal votes", "dictator"))
    assert 3 * ruler < college < equal


def test_a_relu_is_nearly_straight_and_does_not_start_at_zero(names):
    data = names["noise_dial"].data(function="ReLU", rho=0.0)
    curve, line = data["E f(X) f(Y)"][:, 1], data["straight line"]
    assert curve[0] == pytest.approx(1 / (2 * math.pi))
    straight = np.interp(np.linspace(0, 1, 101), line[:, 0], line[:, 1])
    assert np.abs(curve - straight).max() < 0.04
    sign = names["noise_dial"].data(function="sign", rho=0.5)
    assert sign["here"][0, 1] == pytest.approx(1 / 3)
    independent, same = (names["noise_dial"].data(function="sign", rho=rho) for rho in (0.0, 1.0))
    assert len(independent["heaps of equal pairs"]) == 4
    np.testing.assert_array_equal(same["heaps of equal pairs"], [[-1, -1], [1, 1]])
    assert len(data["pairs"]) < 100 == len(names["X"]), "the rest lie on one heap at zero"


def test_the_gain_moves_the_raw_curve_and_nothing_else(names):
    figure = names["three_versions"]
    one, other = figure.data(function="ReLU", gain=1.0), figure.data(function="ReLU", gain=0.5)
    np.testing.assert_allclose(other["raw"][:, 1], 0.25 * one["raw"][:, 1])
    for version in ("normalised", "centred"):
        np.testing.assert_allclose(other[version], one[version])
    assert one["normalised"][0, 1] == pytest.approx(1 / math.pi)
    assert one["centred"][0, 1] == pytest.approx(0, abs=1e-9)


def test_one_recursion_has_three_fates(names):
    figure = names["three_fates"]
    for rho in (0.1, 0.99):
        data = figure.data(rho=rho, layer=10)
        assert data["the digest's recursion here"][0, 1] == pytest.approx(0.217234, abs=1e-4)
    start, end = figure.data(rho=0.9, layer=0), figure.data(rho=0.9, layer=10)
    assert end["energy restored here"][0, 1] > start["energy restored here"][0, 1]
    assert end["mean removed too here"][0, 1] < start["mean removed too here"][0, 1] / 2


def test_the_next_layer_gets_the_normalised_or_the_centred_stability(names):
    """What the text derives, in a wide layer: across its units the correlation is 2f, or the centred map."""
    import torch

    generator = torch.Generator().manual_seed(4)
    x, z = torch.randn(2, 4000, generator=generator)
    weights = torch.randn(4000, 4000, generator=generator)
    outputs = torch.stack([torch.relu(x), torch.relu(0.6 * x + 0.8 * z)])
    rho = torch.tensor(0.6, dtype=torch.float64)
    for name, mean in (("energy restored", 0.0), ("mean removed too", 1 / math.sqrt(2 * math.pi))):
        u, v = (outputs - mean) @ weights.T
        found = (u @ v / (u.norm() * v.norm())).item()
        assert found == pytest.approx(names["READINGS"][name](rho).item(), abs=0.05)


def test_markov_is_the_right_end_and_only_high_weight_beats_it(names):
    figure = names["tail_detective"]
    for suspect in names["SUSPECTS"]:
        data = figure.data(suspect=suspect, T=4)
        bound, markov = data["bound from stability"][:, 1], data["Markov, I/T"][0, 1]
        assert bound[-1] == markov
        assert bound[-2] == pytest.approx(markov, rel=0.02)
        assert (bound >= data["the truth"][0, 1] - 1e-12).all()
        assert data["best ρ"][0, 1] <= markov + 1e-9, "never worse than Markov"
    detective = figure.data(suspect="dictator + faint parity", T=4)
    assert detective["best ρ"][0, 1] < 0.95 * detective["Markov, I/T"][0, 1]
    assert 0.7 < detective["best ρ"][0, 0] < 0.95
    parity = figure.data(suspect="parity of 3", T=4)
    assert parity["best ρ"][0, 0] == 1
    assert "in the limit" in figure.frame(suspect="parity of 3", T=4).alt
    assert "the same at every ρ" in figure.frame(suspect="parity of 3", T=3).alt


def test_the_curve_dips_by_the_rule_of_the_text(names):
    """Just below rho = 1 the slope of B_T has the sign of sum k^2 W_k - T I, and no gain exceeds K/T."""
    import torch

    from nslab.stability import spectral_tail_bound

    generator = torch.Generator().manual_seed(0)
    degree = torch.arange(13, dtype=torch.float64)
    grid = torch.linspace(0.01, 1, 100, dtype=torch.float64)
    for _ in range(50):
        weights = torch.rand(13, generator=generator, dtype=torch.float64) ** 4
        weights = weights / weights.sum()
        mean, square = (degree * weights).sum(), (degree**2 * weights).sum()
        for T in (3, 6, 9):
            t = 1e-5
            stab = (weights * (1 - t) ** degree).sum()
            slope = ((1 - stab) / (1 - (1 - t) ** T) - mean / T) / t
            assert slope.item() == pytest.approx((mean / T * (T - square / mean) / 2).item(), abs=1e-3)
            assert spectral_tail_bound(weights, grid, T).min() >= mean / 12 - 1e-12
    ends = torch.zeros(10, dtype=torch.float64)
    ends[[1, 9]] = 0.5
    assert spectral_tail_bound(ends, grid, 5)[-2] < spectral_tail_bound(ends, grid, 5)[-1], "the self-check's function"


def test_resampling_with_a_tiny_nominal_rho_keeps_half(names):
    figure = names["effective_rho"]
    almost, none = figure.data(rho=0.05, degree=1), figure.data(rho=0.0, degree=1)
    assert almost["resample here"][0, 1] == pytest.approx(0.525)
    assert almost["flip here"][0, 1] == pytest.approx(0.05)
    assert none["resample here"][0, 1] == 0.5


def test_the_drawn_curve_is_sheppards(names):
    state = names["noisy_count"].state
    rho, curve = np.array(state["x"]), np.array(state["curve"])
    np.testing.assert_allclose(curve[:45], 2 / np.pi * np.arcsin(rho[:45]), atol=0.01)


def test_the_clever_estimator_spends_the_same_and_errs_less(names):
    plain, smart = names["plain"], names["smart"]
    assert smart.evaluations == pytest.approx(plain.evaluations, rel=0.001)
    assert (smart.stderr < 0.7 * plain.stderr).all()
    exact = names["bf"].stability(names["bf"].majority(15).double(), names["rhos"].double())
    assert ((smart.value - exact).abs() < 4 * smart.stderr).all()

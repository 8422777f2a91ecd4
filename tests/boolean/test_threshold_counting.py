"""Weighted votes by counting, against exact integers, the truth table and closed forms."""

import itertools
import math
from fractions import Fraction

import pytest
import torch

from nslab import boolean as bf
from nslab.boolean import thresholds
from nslab.tasks import electoral_college


def exact_ways(weights) -> list[int]:
    """In how many ways the voters at -1 weigh 0, 1, .., T: integer arithmetic of any length."""
    ways = [1]
    for weight in weights:
        ways = [a + b for a, b in zip(ways + [0] * weight, [0] * weight + ways, strict=True)]
    return ways


def exact_influences(weights, bias=0) -> list[Fraction]:
    """E[Var_{x_i} f] with rational numbers: count the sums of the other voters and flip voter i."""
    found = []
    for i, weight in enumerate(weights):
        others = [*weights[:i], *weights[i + 1 :]]
        variance = Fraction(0)
        for at_minus, ways in enumerate(exact_ways(others)):
            rest = sum(others) - 2 * at_minus - bias
            high, low = (((s > 0) - (s < 0)) for s in (rest + weight, rest - weight))
            variance += Fraction((high - low) ** 2, 4) * ways
        found.append(variance / 2 ** len(others))
    return found


VOTES = [
    ([1, 1, 1], 0),
    ([1, 1], 0),
    ([2, 1, 1], 0),
    ([5, 3, 3, 2, 1, 1, 1], 0),
    ([5, 3, 3, 2, 1, 1, 1], 4),
    ([4, 2, 2, 0, 6], -2),
    ([1, 2, 3, 4, 5, 6], 2.5),
    ([7], 0),
    ([3, 3], 100),
    ([0], 0),
    (list(range(1, 13)), 0),
]


@pytest.mark.parametrize(("weights", "bias"), VOTES)
def test_every_quantity_equals_that_of_the_truth_table(weights, bias, close):
    f = bf.weighted_threshold(weights, bias, dtype=torch.float64)
    rho = torch.tensor([[-1.0, -0.4, 0.0], [0.3, 0.8, 1.0]], dtype=torch.float64)
    assert close(bf.threshold_influences(weights, bias), bf.influences(f), "counting")
    assert close(bf.threshold_total_influence(weights, bias), bf.total_influence(f), "counting")
    assert close(bf.threshold_stability(weights, rho, bias), bf.stability(f, rho), "counting")
    outcomes = bf.threshold_outcomes(weights, bias)
    shares = [(f == value).double().mean().item() for value in (1, 0, -1)]
    assert close([outcomes.win, outcomes.tie, outcomes.lose], shares, "counting")
    n = len(weights)
    values = f.tolist()
    flips = [sum(values[i] != values[i ^ 1 << j] for i in range(2**n)) / 2**n for j in range(n)]
    assert close(bf.threshold_flip_influences(weights, bias), flips, "counting")


def test_negative_weights_count_like_positive_ones(close):
    f = bf.weighted_threshold([3, -2, 1], 0, dtype=torch.float64)
    assert close(bf.threshold_influences([3, -2, 1]), bf.influences(f), "counting")
    assert close(bf.threshold_stability(torch.tensor([3, -2, 1]), 0.3), bf.stability(f, 0.3), "counting")


def test_distribution_equals_exact_counting(close):
    weights = [1, 4, 4, 9, 16, 25] * 8
    sums, probabilities = bf.threshold_distribution(weights)
    assert sums.tolist() == list(range(-sum(weights), sum(weights) + 1, 2))
    assert close(probabilities, [ways / 2 ** len(weights) for ways in exact_ways(weights)], "counting")


def test_electoral_college_against_exact_integers(close):
    """All 51 influences of the electoral college with its tie, against rational arithmetic."""
    weights = list(electoral_college().weights)
    assert close(bf.threshold_influences(weights), [float(v) for v in exact_influences(weights)], "counting")
    ways = exact_ways(weights)
    tie = Fraction(ways[sum(weights) // 2], 2 ** len(weights))
    assert close(bf.threshold_outcomes(weights).tie, float(tie), "counting")


def test_electoral_college_stability_meets_its_ends_and_its_slope(close):
    """Stab_1 = P(no tie), Stab_0 = E[f]**2 = 0, Stab_-1 = -Stab_1 for the odd function, slope at 1 = I(f)."""
    weights = electoral_college().weights
    outcomes = bf.threshold_outcomes(weights)
    rho = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64, requires_grad=True)
    stability = bf.threshold_stability(weights, rho)
    assert close(stability.detach(), [outcomes.tie - 1, 0, 1 - outcomes.tie], "counting")
    (slope,) = torch.autograd.grad(stability[2], rho)
    assert close(slope[2], bf.threshold_total_influence(weights), "derivative")


@pytest.mark.parametrize("n", [1, 15, 101, 1001])
def test_equal_votes_have_the_central_binomial_influence(n, close):
    """Inf_i(majority of n) = binom(n - 1, (n - 1)/2) / 2**(n - 1), and Stab tends to 2/pi arcsin(rho) from above."""
    expected = Fraction(math.comb(n - 1, (n - 1) // 2), 2 ** (n - 1))
    assert close(bf.threshold_influences([1] * n), [float(expected)] * n, "counting")
    limit = 2 / math.pi * math.asin(0.6)
    gap = bf.threshold_stability([1] * n, 0.6).item() - limit
    assert 0 < gap < 0.4 / n + 0.2 * (n == 1)


def test_stability_of_dozens_of_voters_equals_joint_counting(close):
    """E[f(x) f(y)] by adding voters to the joint distribution of both sums, one at a time."""
    weights, bias, rho = [7, 5, 5, 3, 2, 2, 1] * 4, 3, 0.35
    total = sum(weights)
    joint = torch.zeros(total + 1, total + 1, dtype=torch.float64)
    joint[0, 0] = 1
    for w in weights:
        down = joint.roll((w, w), (0, 1))
        joint = (joint + down) * (1 + rho) / 4 + (joint.roll(w, 0) + joint.roll(w, 1)) * (1 - rho) / 4
    signs = torch.sign(total - 2 * torch.arange(total + 1, dtype=torch.float64) - bias)
    assert close(bf.threshold_stability(weights, rho, bias), signs @ joint @ signs, "counting")


def test_influences_order_like_weights():
    weights = list(electoral_college().weights)
    found = bf.threshold_influences(weights).tolist()
    pairs = itertools.pairwise(sorted(zip(weights, found, strict=True)))
    assert all(b >= a - 1e-12 for (_, a), (_, b) in pairs)


def test_a_fractional_bias_is_no_tie_however_close():
    """Nor is a sum that single precision cannot tell from the bias."""
    assert bf.threshold_outcomes([1, 1], 2 + 1e-9) == bf.Outcomes(0.0, 0.0, 1.0)
    assert bf.threshold_outcomes([1, 1], 2 - 1e-9) == bf.Outcomes(0.25, 0.0, 0.75)
    assert bf.threshold_outcomes([2**23, 2**23, 1], 2.0**24) == bf.Outcomes(0.125, 0.0, 0.875)
    assert bf.threshold_outcomes([2**23, 2**23, 1], 2**24 + 1) == bf.Outcomes(0.0, 0.125, 0.875)


@pytest.mark.parametrize("bias", [5, -5, 10**30, -1e30])
def test_a_bias_out_of_reach_makes_a_constant(bias):
    assert bf.threshold_influences([1, 2, 1], bias).tolist() == [0, 0, 0]
    assert bf.threshold_outcomes([1, 2, 1], bias) == bf.Outcomes(float(bias < 0), 0.0, float(bias > 0))
    assert bf.threshold_stability([1, 2, 1], 0.3, bias).item() == pytest.approx(1)


def test_the_size_of_a_block_changes_nothing(monkeypatch, close):
    weights, rho = [5, 3, 3, 2, 1], torch.tensor([-0.5, 0.4], dtype=torch.float64)
    f = bf.weighted_threshold(weights, 1, dtype=torch.float64)
    for cells in (1, 40, 10**6):
        monkeypatch.setattr(thresholds, "BLOCK_CELLS", cells)
        leaf = rho.clone().requires_grad_()
        found = bf.threshold_stability(weights, leaf, 1)
        assert close(found.detach(), bf.stability(f, rho), "counting")
        (slope,) = torch.autograd.grad(found.sum(), leaf)
        k = torch.arange(1, 6)
        assert close(slope, (k * rho[:, None] ** (k - 1) * bf.level_weights(f)[1:]).sum(-1), "derivative")
    assert bf.threshold_stability(weights, torch.zeros(2, 0)).shape == (2, 0)

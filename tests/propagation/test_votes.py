"""Hard plurality votes against closed forms, plain quadrature over the general bivariate normal, and real votes.

Tolerances, fixed before the code.
"""

import math
from functools import lru_cache

import pytest
import torch
from scipy import integrate, stats

from nslab import gaussian as gs
from nslab.propagation.votes import (
    expected_maximum,
    large_vote_exponent,
    plurality_agreement,
    small_correlation_slope,
)

TOLERANCES = {
    "exact": 1e-12,  # closed forms, double precision
    "twin": 1e-9,  # the fast quadrature against the slow one, up to 4096 tokens
    "million": 1e-6,  # and beyond
    "slopes": 1e-6,  # relative, against Price's formula and differences
    "printed": 0.0036,  # the table of s(rho) was sampled: one standard error of its last columns
    "float32": 1e-6,
    "sigmas": 4.5,
}
COUNTS = [3, *(2**k for k in range(1, 13))]
R = torch.tensor([-0.999, -0.4, 0.0, 0.5, 0.81, 0.97, 0.9999], dtype=torch.float64)


def near(found, expected, tolerance):
    return bool(((torch.as_tensor(found) - torch.as_tensor(expected)).abs() <= TOLERANCES[tolerance]).all())


@lru_cache
def plane(r):
    """Even grids in the rotated coordinates: weights, u, v and Phi_2(u, v; r)."""
    x = torch.arange(-60, 61, dtype=torch.float64)[:, None] / 8
    y = torch.arange(0, 61, dtype=torch.float64) / 8
    weight = torch.exp(-(x**2 + y**2) / 2) / (2 * math.pi) / 64 * torch.where(y == 0, 1.0, 2.0)
    alpha, beta = math.sqrt((1 + r) / 2), math.sqrt((1 - r) / 2)
    u, v = alpha * x + beta * y, alpha * x - beta * y
    return weight, u, v, gs.bivariate_normal_cdf(u, v, r)


def slow(r, counts):
    """n times the integral of phi_2 Phi_2^(n-1)."""
    weight, _, _, joint = plane(r)
    return torch.stack([n * (weight * joint ** (n - 1)).sum() for n in counts])


def slow_slope(r, counts):
    """Price's formula for its slope."""
    weight, u, v, joint = plane(r)
    room = math.sqrt(1 - r**2)
    density = torch.exp(-(u**2 - 2 * r * u * v + v**2) / (2 * room**2)) / (2 * math.pi * room)
    ndtr, bell = torch.special.ndtr, lambda z: torch.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    turns = bell(u) * ndtr((v - r * u) / room) * bell(v) * ndtr((u - r * v) / room)
    # the weight is phi_2 du dv
    found = [2 * density * joint ** (n - 2) + (n - 2) * turns * joint ** max(n - 3, 0) for n in counts]
    return torch.stack([n * (n - 1) * (weight * slope).sum() for n, slope in zip(counts, found, strict=True)])


def test_two_and_three_tokens_have_closed_forms():
    asin, half = torch.asin(R), torch.asin(R / 2)
    assert near(plurality_agreement(R, 2), 1 - torch.acos(R) / math.pi, "exact")
    three = 1 / 3 + 3 / (4 * math.pi) * (asin + half) + 3 / (4 * math.pi**2) * (asin**2 - half**2)
    assert near(plurality_agreement(R, 3), three, "exact")
    assert near(torch.stack([slow(r, [2, 3]) for r in R.tolist()], -1), plurality_agreement(R, [2, 3]), "twin")


def test_many_tokens_agree_with_the_slow_quadrature():
    found = plurality_agreement(R, COUNTS)
    assert found.shape == (len(COUNTS), len(R))
    assert near(found, torch.stack([slow(r, COUNTS) for r in R.tolist()], -1), "twin")


def test_a_million_tokens_agree_with_a_finer_grid():
    x = torch.arange(0, 8.5, 0.05, dtype=torch.float64)  # of so many, the winner is never below the mean
    y = x[:, None]
    for r in (0.3, 0.99):
        alpha, beta = math.sqrt((1 + r) / 2), math.sqrt((1 - r) / 2)
        joint = gs.bivariate_normal_cdf(alpha * x + beta * y, alpha * x - beta * y, r)
        weight = torch.exp(-(x**2 + y**2) / 2) / (2 * math.pi) * 0.05**2 * torch.where(y == 0, 1.0, 2.0)
        for n, tolerance in ((4096, "twin"), (10**6, "million")):
            expected = n * (weight * joint ** (n - 1)).sum()
            assert near(plurality_agreement(torch.tensor(r, dtype=torch.float64), n), expected, tolerance)


def test_python_numbers_count_as_double_precision():
    """In single precision 1 - 1e-9 is 1, where votes agree for certain."""
    exact = plurality_agreement(torch.tensor(1 - 1e-9, dtype=torch.float64), 4096)
    assert torch.equal(plurality_agreement(1 - 1e-9, 4096), exact)
    assert exact < 0.99995
    assert large_vote_exponent(0.25).dtype == plurality_agreement(torch.tensor(0), 2).dtype == torch.float64


def test_agreement_at_the_ends_and_at_independence_is_exact():
    ends = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)
    found = plurality_agreement(ends, COUNTS)
    assert torch.equal(found, torch.tensor([[0.0, 1 / n, 1.0] for n in COUNTS], dtype=torch.float64))
    assert torch.equal(plurality_agreement(ends, 1), torch.ones(3, dtype=torch.float64))


def test_agreement_rises_with_r_and_falls_with_n():
    found = plurality_agreement(torch.linspace(-1, 1, 101, dtype=torch.float64), sorted(COUNTS))
    assert bool((found.diff(dim=1) >= 0).all())
    assert bool((found.diff(dim=0) <= 0).all())


@pytest.mark.parametrize(("r", "n"), [(-0.7, 4), (0.3, 5), (0.81, 16), (0.9025, 64), (0.99, 200)])
def test_real_votes_agree_that_often(r, n):
    g = torch.Generator().manual_seed(n)
    u, z = torch.randn(2, 4_000_000 // (2 * n), n, generator=g, dtype=torch.float64)
    same = (u.argmax(-1) == (r * u + math.sqrt(1 - r**2) * z).argmax(-1)).double()
    expected = plurality_agreement(r, n).double()
    error = torch.sqrt(expected * (1 - expected) / len(u))
    assert abs(same.mean() - expected) < TOLERANCES["sigmas"] * error


def test_the_sampled_table_of_agreements():
    rho = torch.tensor([0.25, 0.5, 0.75, 0.9, 0.95], dtype=torch.float64)
    printed = [
        [0.520, 0.356, 0.077, 0.022, 0.0066, 0.0018],
        [0.580, 0.427, 0.130, 0.052, 0.021, 0.0088],
        [0.690, 0.565, 0.272, 0.161, 0.099, 0.062],
        [0.801, 0.713, 0.476, 0.362, 0.284, 0.227],
        [0.858, 0.793, 0.606, 0.511, 0.433, 0.376],
    ]
    found = plurality_agreement(rho**2, [2, 3, 16, 64, 256, 1024]).T
    assert near(found, torch.tensor(printed, dtype=torch.float64), "printed")
    few, printed = found[:4, :2], torch.tensor(printed, dtype=torch.float64)[:4, :2]
    assert bool(((few - printed).abs() < 0.0006).all())  # where sampling was good enough, all three digits


def test_the_slope_is_prices_formula():
    r = R.clone().requires_grad_()
    counts = [2, 3, 4, 16, 1024]
    expected = torch.stack([slow_slope(x, counts) for x in R.tolist()], -1)
    for n, slope in zip(counts, expected, strict=True):
        (found,) = torch.autograd.grad(plurality_agreement(r, n).sum(), r)
        assert bool(((found - slope).abs() <= TOLERANCES["slopes"] * (1 + slope.abs())).all()), n
    (two,) = torch.autograd.grad(plurality_agreement(r, 2).sum(), r)
    assert torch.allclose(two, 1 / (math.pi * torch.sqrt(1 - R**2)))


def test_slopes_at_the_ends_are_infinite_or_finite_and_never_nan():
    ends = torch.tensor([-1.0, 1.0], dtype=torch.float64, requires_grad=True)
    for n in (2, 3, 4, 100):
        (slope,) = torch.autograd.grad(plurality_agreement(ends, n).sum(), ends)
        assert torch.isposinf(slope[1])
        assert torch.isposinf(slope[0]) if n == 2 else 0 <= float(slope[0]) < 1
    (slope,) = torch.autograd.grad(plurality_agreement(ends, 1).sum(), ends)
    assert torch.equal(slope, torch.zeros_like(slope))


def test_the_expected_maximum_is_that_of_adaptive_integration():
    for n in (1, 2, 16, 4096, 10**6, 10**9):  # E max = ∫ P[max > z] over z > 0, less ∫ P[max <= z] over z < 0

        def above(z, n=n):
            return -math.expm1(n * stats.norm.logcdf(z))

        below = integrate.quad(lambda z, n=n: stats.norm.cdf(z) ** n, -12, 0, epsabs=1e-13)[0]
        expected = integrate.quad(above, 0, 12, epsabs=1e-13, epsrel=1e-13, limit=200)[0] - below
        assert abs(expected_maximum(n).item() - expected) < TOLERANCES["exact"]
    assert abs(expected_maximum(2).item() - 1 / math.sqrt(math.pi)) < TOLERANCES["exact"]
    assert round(expected_maximum(16).item(), 3) == 1.766


def test_weakly_correlated_votes_start_to_agree_like_the_square_of_the_maximum():
    h = 1e-4
    for n in (2, 3, 16, 500):
        slope = small_correlation_slope(n).item()
        up, down = plurality_agreement(torch.tensor([h, -h], dtype=torch.float64), n).tolist()
        assert abs((up - down) / (2 * h) - slope) < TOLERANCES["slopes"]
        assert abs((up + down) / 2 - 1 / n) < 1e-7
    assert abs(small_correlation_slope(2).item() - 1 / math.pi) < TOLERANCES["exact"]
    assert round(small_correlation_slope(16).item(), 3) == 0.208


def test_agreement_of_many_tokens_decays_as_a_power_of_n():
    r = torch.tensor([0.25, 0.5625, 0.81], dtype=torch.float64)
    assert torch.allclose(large_vote_exponent(r), torch.tensor([-0.6, -0.28, -0.105], dtype=torch.float64), atol=5e-5)
    small, middle, large = plurality_agreement(r, [64, 1024, 4096]).log()
    local = (large - middle) / math.log(4)
    assert [round(x, 3) for x in local.tolist()] == [-0.625, -0.323, -0.152]
    earlier = (middle - small) / math.log(16)
    assert bool((earlier < local).all())
    assert bool((local < large_vote_exponent(r)).all())


def test_shapes_kinds_and_devices(device):
    r = torch.linspace(-1, 1, 6, device=device).reshape(2, 3)
    found = plurality_agreement(r, torch.tensor([[2, 5], [3, 7]], device=device))
    assert found.shape == (2, 2, 2, 3)
    assert found.dtype == torch.float32
    assert found.device.type == device.type
    double = plurality_agreement(r.double().cpu(), [2, 5, 3, 7])
    assert (found.double().cpu().reshape(4, 2, 3) - double).abs().max() < TOLERANCES["float32"]
    assert plurality_agreement(0.5, 16).shape == ()
    assert expected_maximum([2, 3]).shape == (2,)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: plurality_agreement(1.5, 3), ValueError, r"r = 1.5 is outside \[-1, 1\]"),
        (lambda: plurality_agreement(math.nan, 3), ValueError, "r = nan"),
        (lambda: plurality_agreement(0.5, 0), ValueError, "tokens = 0: at least 1"),
        (lambda: plurality_agreement(0.5, [4, -2]), ValueError, "tokens = -2"),
        (lambda: plurality_agreement(0.5, []), TypeError, "give one whole number, or several"),
        (lambda: expected_maximum(0), ValueError, "tokens = 0"),
        (lambda: small_correlation_slope(1), ValueError, "at least 2 tokens"),
        (lambda: large_vote_exponent(-1.0), ValueError, "r = -1: .* give r > -1"),
    ],
)
def test_bad_input_is_refused_with_a_remedy(call, error, words):
    with pytest.raises(error, match=words):
        call()

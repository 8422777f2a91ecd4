"""Soft votes against real softmax distributions, plain quadrature, two-token integrals and their limits.

Tolerances, fixed before the code.
"""

import itertools
import math

import pytest
import torch

from nslab.propagation import soft_quadrature
from nslab.propagation.soft_votes import agreement_mass
from nslab.propagation.votes import plurality_agreement

TOLERANCES = {
    "exact": 1e-8,  # quadrature against quadrature, up to 4096 tokens
    "slopes": 1e-6,  # relative, against Price's formula
    "differences": 1e-5,  # relative, against central differences
    "float32": 1e-6,
    "sigmas": 4.5,
}
SMALL_SPREADS = (0.4, 1.0, 2.0)  # where even grids of width 1/4 are fine enough for a Gumbel variable over tau


def brute_force(r, tau, counts):
    """The masses and Price's slopes in r from a four-dimensional sum: u, v and two Gumbel variables, nothing clever."""
    u = torch.arange(-36, 37, dtype=torch.float64) / 4.5  # u = z1, v = r z1 + sqrt(1 - r^2) z2
    bell = torch.exp(-u.square() / 2) / math.sqrt(2 * math.pi) / 4.5
    a = torch.arange(-8 - 4 / tau, 8 + 34 / tau, 0.2, dtype=torch.float64)
    v = r * u[:, None] + math.sqrt(1 - r**2) * u

    def law(gap):
        noise = torch.exp(-tau * gap)
        return torch.exp(-noise), tau * noise * torch.exp(-noise)

    one = law(a[:, None] - u)  # (a, z1)
    two = [part @ bell for part in law(a[:, None, None] - v)]  # (b, z1), the mean over z2
    joint, by_b, by_a, density = ((x * bell) @ y.T for x, y in itertools.product(one, two))
    values = [n * (density * joint ** (n - 1)).sum() * 0.04 for n in counts]
    pulls = [2 * density * joint ** (n - 2) + (n - 2) * joint ** max(n - 3, 0) * by_a * by_b for n in counts]
    slopes = [n * (n - 1) * (density * pull).sum() * 0.04 for n, pull in zip(counts, pulls, strict=True)]
    return torch.stack(values), torch.stack(slopes)


def of_two(r, tau):
    """Two tokens: softmax is the logistic function of the difference, which has deviation sqrt(2) tau."""
    x = torch.arange(-900, 901, dtype=torch.float64)[:, None] / 100
    y = torch.arange(-90, 91, dtype=torch.float64) / 10
    weight = torch.exp(-(x**2 + y**2) / 2) / (2 * math.pi) / 1000
    first, second = (
        torch.sigmoid(math.sqrt(2) * tau * (math.sqrt((1 + r) / 2) * y + sign * math.sqrt((1 - r) / 2) * x))
        for sign in (1, -1)
    )
    return (weight * (first * second + (1 - first) * (1 - second))).sum()


@pytest.mark.parametrize("tau", SMALL_SPREADS)
def test_masses_and_slopes_are_those_of_plain_quadrature(tau):
    counts = [2, 3, 16, 300]
    r = torch.tensor([-0.9, -0.5, 0.0, 0.3, 0.7, 0.95], dtype=torch.float64, requires_grad=True)
    value, slope = (torch.stack(x, -1) for x in zip(*(brute_force(x, tau, counts) for x in r.tolist()), strict=True))
    found = agreement_mass(r, tau, counts)
    assert (found - value).abs().max() < TOLERANCES["exact"]
    for row, expected in zip(found, slope, strict=True):
        (of_row,) = torch.autograd.grad(row.sum(), r, retain_graph=True)
        assert bool(((of_row - expected).abs() <= TOLERANCES["slopes"] * (1 + expected)).all())


@pytest.mark.parametrize("tau", [0.3, 1.0, 2.5, 6.0])
def test_two_tokens_are_a_logistic_function(tau):
    for r in (-1.0, -0.9, -0.3, 0.0, 0.4, 0.8, 0.97, 1.0):
        expected = of_two(r, tau)
        assert abs(agreement_mass(torch.tensor(r, dtype=torch.float64), tau, 2) - expected) < TOLERANCES["exact"], r


@pytest.mark.parametrize(("tau", "n"), list(itertools.product([0.5, 2.0, 8.0, 100.0], [3, 16, 64])))
def test_real_softmax_distributions_overlap_that_much(tau, n):
    g = torch.Generator().manual_seed(n)
    for r in (-0.5, 0.3, 0.9, 1.0):
        u, z = torch.randn(2, 300_000 // n, n, generator=g, dtype=torch.float64)
        v = r * u + math.sqrt(1 - r**2) * z
        mass = ((tau * u).softmax(-1) * (tau * v).softmax(-1)).sum(-1)
        error = mass.std() / math.sqrt(len(mass)) + 1 / len(mass)  # of hard votes that hardly ever agree, one may
        expected = agreement_mass(torch.tensor(r, dtype=torch.float64), tau, n)
        assert abs(mass.mean() - expected) < TOLERANCES["sigmas"] * error


def test_both_quadratures_give_one_answer(monkeypatch):
    r = torch.tensor([-0.8, -0.72, 0.72, 0.8], dtype=torch.float64)
    spread = torch.tensor([[2.0], [5.0], [40.0]], dtype=torch.float64)  # kappa |r| from 0.5 to 0.8
    near = agreement_mass(r, spread, [2, 16, 4096])
    monkeypatch.setattr(soft_quadrature, "SERIES", 0.9)
    assert (agreement_mass(r, spread, [2, 16, 4096]) - near).abs().max() < TOLERANCES["exact"]


def test_finer_grids_change_nothing(monkeypatch):
    r = torch.tensor([-1.0, -0.6, 0.4, 0.9, 0.999, 1.0], dtype=torch.float64)
    spread = torch.tensor([[0.02], [0.7], [4.0], [128.0], [1e4]], dtype=torch.float64)
    found = agreement_mass(r, spread, [2, 3, 64, 4096])
    monkeypatch.setattr(soft_quadrature, "STRIP", 0.22)
    monkeypatch.setattr(soft_quadrature, "REACH", 10.0)
    monkeypatch.setattr(soft_quadrature, "_step", lambda n, g: 0.3 * max(1 / math.sqrt(2 * math.log(n) + 2), g))
    assert (agreement_mass(r, spread, [2, 3, 64, 4096]) - found).abs().max() < TOLERANCES["exact"]


def test_the_limits_are_uniform_attention_and_hard_votes():
    r = torch.tensor([-1.0, -0.4, 0.0, 0.5, 0.9, 1.0], dtype=torch.float64)
    for n in (1, 2, 16, 1024):
        assert torch.equal(agreement_mass(r, 0.0, n), torch.full_like(r, 1 / n))
        assert torch.equal(agreement_mass(r, math.inf, n), plurality_agreement(r, n))
        assert torch.equal(agreement_mass(0.0 * r, 3.0, n), torch.full_like(r, 1 / n))
    # close to the limits: like tau^2 to 1/n, like 1/tau^2 to the hard vote, like 1/tau where votes can tie
    small = agreement_mass(r, torch.tensor([[1e-3], [1e-2]], dtype=torch.float64), 16) - 1 / 16
    assert torch.allclose(small[1], 100 * small[0], rtol=1e-3, atol=1e-9)
    hard = plurality_agreement(r, 16) - agreement_mass(r, torch.tensor([[1e2], [1e3]], dtype=torch.float64), 16)
    assert torch.allclose(hard[0, 1:-1], 100 * hard[1, 1:-1], rtol=0.05, atol=1e-7)
    assert torch.allclose(hard[0, -1], 10 * hard[1, -1], rtol=0.05)


def test_spreads_of_any_size_are_taken():
    """Large finite ones are the hard vote, small ones uniform attention; neither may overflow or lose its slopes."""
    r = torch.tensor([-0.7, 0.6, 0.9, 0.999], dtype=torch.float64)
    hard = plurality_agreement(r, 4096)
    for tau in (1e7, 1e300):
        assert (agreement_mass(r, tau, 4096) - hard).abs().max() < TOLERANCES["exact"]
    assert torch.equal(agreement_mass(r, 1e-300, 16), torch.full_like(r, 1 / 16))
    per_spread = []
    for tau in (1e3, 1e6, 1e300):
        one = torch.ones((), dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(agreement_mass(one, tau, 16), one)
        per_spread.append(float(slope) / min(tau, 1e6))
    assert max(per_spread) / min(per_spread) < 1.01  # at r = 1 the slope is proportional to the spread


def test_a_second_slope_is_refused_and_not_zero():
    r = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    with pytest.raises(RuntimeError, match="leave create_graph out, or take an AgreementTable"):
        torch.autograd.grad(agreement_mass(r, 3.0, 7), r, create_graph=True)
    (slope,) = torch.autograd.grad(agreement_mass(r, math.inf, 7), r, create_graph=True)  # a hard vote has all slopes
    assert torch.autograd.grad(slope, r)[0] > 0


def test_python_numbers_count_as_double_precision():
    exact = agreement_mass(torch.tensor(1 - 1e-9, dtype=torch.float64), math.inf, 16)
    assert torch.equal(agreement_mass(1 - 1e-9, math.inf, 16), exact)


def test_the_mass_rises_with_r_and_a_lone_token_always_wins():
    r = torch.linspace(-1, 1, 41, dtype=torch.float64)
    spread = torch.tensor([[0.3], [1.2], [5.0], [60.0]], dtype=torch.float64)
    found = agreement_mass(r, spread, [2, 16, 1024])
    assert bool((found.diff(dim=-1) > -1e-12).all())
    assert bool((found[:, :2].diff(dim=-1) > 0).all())
    assert torch.equal(agreement_mass(r, spread, 1), torch.ones(4, 41, dtype=torch.float64))


@pytest.mark.parametrize("tau", [0.5, 3.0, 25.0])
def test_slopes_are_those_of_central_differences(tau):
    r = torch.tensor([-0.95, -0.3, 0.3, 0.6, 0.9], dtype=torch.float64, requires_grad=True)
    spread = torch.full_like(r, tau).requires_grad_()
    for n in (2, 16, 1024):
        by_r, by_spread = torch.autograd.grad(agreement_mass(r, spread, n).sum(), (r, spread))
        with torch.no_grad():
            h = 1e-4
            differences = (agreement_mass(r + h, spread, n) - agreement_mass(r - h, spread, n)) / (2 * h)
            h = 1e-3 * tau
            others = (agreement_mass(r, spread + h, n) - agreement_mass(r, spread - h, n)) / (2 * h)
        assert bool(((by_r - differences).abs() <= TOLERANCES["differences"] * (1 + by_r)).all())
        assert bool(((by_spread - others).abs() <= TOLERANCES["differences"] * (1 + by_spread.abs())).all())


def test_slopes_are_finite_at_the_ends_for_finite_spreads():
    for tau in (0.0, 0.5, 5.0, 128.0):
        r = torch.tensor([-1.0, 1.0], dtype=torch.float64, requires_grad=True)
        spread = torch.tensor(tau, dtype=torch.float64, requires_grad=True)
        by_r, by_spread = torch.autograd.grad(agreement_mass(r, spread, 16).sum(), (r, spread))
        assert bool(by_r.isfinite().all())
        assert bool(by_spread.isfinite())
        one_sided = agreement_mass(torch.tensor([1.0, 1 - 1e-7], dtype=torch.float64), tau, 16)
        assert abs(by_r[1] - (one_sided[0] - one_sided[1]) / 1e-7) <= 0.02 * (0.1 + by_r[1])
    r = torch.tensor([0.5, 0.5], dtype=torch.float64, requires_grad=True)
    spread = torch.tensor([math.inf, 2.0], dtype=torch.float64, requires_grad=True)
    by_r, by_spread = torch.autograd.grad(agreement_mass(r, spread, 16).sum(), (r, spread))
    assert bool(by_r.isfinite().all())
    assert by_spread[0] == 0 < by_spread[1]


def test_shapes_kinds_and_devices(device):
    r = torch.linspace(-1, 1, 5, device=device)
    spread = torch.tensor([[0.0], [1.5], [math.inf]], device=device)
    found = agreement_mass(r, spread, torch.tensor([7, 2, 7]))
    assert found.shape == (3, 3, 5)
    assert found.dtype == torch.float32
    assert found.device.type == device.type
    double = agreement_mass(r.double().cpu(), spread.double().cpu(), [7, 2, 7])
    assert (found.double().cpu() - double).abs().max() < TOLERANCES["float32"]
    assert torch.equal(found[0], found[2])
    assert agreement_mass(0.5, 2, 16).shape == ()
    assert agreement_mass(torch.empty(0), 2.0, [3, 4]).shape == (2, 0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((1.01, 1.0, 4), r"r = 1.01 is outside \[-1, 1\]"),
        ((math.nan, 1.0, 4), "r = nan"),
        ((0.5, -2.0, 4), "spread = -2: .* give a number >= 0"),
        ((0.5, math.nan, 4), "spread = nan"),
        ((0.5, 1.0, 0), "tokens = 0: at least 1"),
    ],
)
def test_bad_input_is_refused_with_a_remedy(arguments, words):
    with pytest.raises(ValueError, match=words):
        agreement_mass(*arguments)

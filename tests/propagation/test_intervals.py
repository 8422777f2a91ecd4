"""Intervals of the moments: ends map to ends, copies, the hull's printed numbers, and the almost-sure bound."""

import itertools
import math

import pytest
import torch

from nslab.gaussian import relu_moment
from nslab.propagation.agreement_table import AgreementTable
from nslab.propagation.architecture import Architecture
from nslab.propagation.intervals import MomentIntervals, almost_sure_interval, propagate_intervals
from nslab.propagation.moments import Moments
from nslab.propagation.recursion import propagate
from nslab.propagation.votes import plurality_agreement
from tests.propagation.networks import limit

HULL = ((0.37, 0.73), (0.23, 0.75), (0.18, 0.77), (0.16, 0.78), (0.14, 0.80))  # m; rho = 0.7, random W, residual
TOLERANCES = {"printed": 0.0055, "exact": 1e-12, "table": 1e-5, "limit": 0.003}
EVERY = [
    {"residual": residual, "norm": norm, "scores": scores}
    for residual, norm, scores in itertools.product(("none", "scaled"), ("none", "rms"), ("random", "identity"))
] + [{"residual": "pre-norm", "norm": "layer"}, {"scores": "uniform"}, {"mlp": "none"}, {"mlp": "linear"}]


def number(*values):
    return [torch.tensor(value, dtype=torch.float64) for value in values]


@pytest.mark.parametrize("choice", EVERY)
def test_without_slack_the_recursion_is_inside_and_alone_where_no_token_is_copied(choice):
    shape = Architecture(16, 512, 5, **choice)
    rho = torch.linspace(0.05, 0.95, 7, dtype=torch.float64)
    found = propagate_intervals(Moments.inputs(rho), shape, slack=0)
    exact = propagate(Moments.inputs(rho), shape)
    assert bool(found.contains(exact).all())
    assert torch.allclose(found.ratios_low.p[:2], exact.token_correlation[:2], atol=1e-9)
    if shape.scores == "random":
        assert bool((found.width[1:] > 0).any())
    else:
        assert found.width.max() < 1e-9
        assert torch.allclose(found.high.m, exact.m, atol=1e-9)


def test_after_one_layer_of_hard_votes_the_upper_end_is_the_mixture_of_copies_and_others():
    """Rows that agree hold one token, rho-correlated; the others hold two: exact, and above the recursion."""
    rho = torch.linspace(0.1, 0.95, 5, dtype=torch.float64)
    found = propagate_intervals(Moments.inputs(rho), Architecture(16, 10**8, 1), slack=0)

    def he(c):
        return (torch.sqrt(1 - c**2) + c * (math.pi - torch.acos(c))) / math.pi

    agree = plurality_agreement(rho**2, 16)
    exact = agree * he(rho) + (1 - agree) / math.pi
    assert (found.ratios_high.m[1] - exact).abs().max() < 1e-3
    assert (found.ratios_low.m[1] - he(agree * rho)).abs().max() < 1e-3
    assert (found.ratios_high.p[1] - (1 / 16 + 15 / 16 / math.pi)).abs().max() < 1e-3


@pytest.mark.parametrize("residual", ["none", "scaled"])
@pytest.mark.parametrize("rho", [0.3, 0.8, 0.97])
def test_the_limit_of_infinite_width_copies_included_lies_inside_without_slack(residual, rho):
    found = limit(300, 16, 4096, 5, rho, generator=torch.Generator().manual_seed(5), residual=residual)
    ratios = found / found[:, 2:3].mean(-1, keepdim=True)
    mean, error = ratios.mean(-1)[1:], ratios.std(-1)[1:] / math.sqrt(300)
    bounds = propagate_intervals(Moments.inputs(rho), Architecture(16, 4096, 5, residual=residual), slack=0)
    for kind, (low, high) in enumerate(zip(bounds.ratios_low.parts(), bounds.ratios_high.parts(), strict=True)):
        slack = TOLERANCES["limit"] + 3 * error[:, kind]
        assert bool((mean[:, kind] > low[1:] - slack).all())
        assert bool((mean[:, kind] < high[1:] + slack).all())


@pytest.mark.parametrize("choice", EVERY)
def test_an_interval_holds_the_images_of_all_that_it_held(choice):
    shape, source = Architecture(16, 512, 4, **choice), torch.Generator().manual_seed(0)
    low, high = Moments(*number(0.5, 0.1, 1.0, 0.15)), Moments(*number(0.6, 0.2, 1.1, 0.25))
    draws = torch.rand(4, 200, generator=source, dtype=torch.float64)
    ends = zip(draws, low.parts(), high.parts(), strict=True)
    inside = Moments(*(left + share * (right - left) for share, left, right in ends))
    fits = (inside.q - inside.p >= inside.m - inside.o) & (inside.q > 0)
    inside = propagate(inside.each(lambda part: part[fits]), shape)
    start = MomentIntervals.of(low, high)
    for agreement in ("theory", "unknown"):
        outer = propagate_intervals(start, shape, slack=0, agreement=agreement)
        outer = MomentIntervals(*(box.each(lambda part: part[:, None]) for box in _boxes(outer)))
        assert bool(outer.contains(inside).all())


def _boxes(intervals):
    return intervals.low, intervals.high, intervals.ratios_low, intervals.ratios_high


def test_knowing_nothing_of_the_votes_gives_the_printed_hull():
    shape = Architecture(16, 512, 5, residual="scaled")
    hull = propagate_intervals(Moments.inputs(0.7), shape, slack=0, agreement="unknown")
    found = torch.stack([hull.low.m, hull.high.m], -1)[1:]
    assert (found - torch.tensor(HULL, dtype=torch.float64)).abs().max() < TOLERANCES["printed"]
    theory = propagate_intervals(Moments.inputs(0.7), shape)
    nothing = propagate_intervals(Moments.inputs(0.7), shape, agreement="unknown")
    assert bool(((nothing.low.m <= theory.low.m) & (nothing.high.m >= theory.high.m)).all())


def test_the_hull_of_one_layer_is_what_the_formula_says():
    rho, n = 0.7, 16
    hull = propagate_intervals(Moments.inputs(rho), Architecture(n, 64, 1, residual="scaled"), slack=0,
                               agreement="unknown")  # fmt: skip
    q, m = ((1 + 1 / n) / 2, 1.0), (rho / 2, rho)
    for side in (0, 1):
        expected = (m[side] + 2 * relu_moment(q[side], q[side], m[side]).item()) / 2
        assert (hull.low, hull.high)[side].m[1].item() == pytest.approx(expected, abs=1e-6)
        assert (hull.low, hull.high)[side].q[1].item() == pytest.approx(q[side], abs=TOLERANCES["exact"])


def test_the_relu_moment_is_monotone_in_all_three_arguments():
    source = torch.Generator().manual_seed(1)
    q, q_prime = 0.01 + 3 * torch.rand(2, 20_000, generator=source, dtype=torch.float64)
    kappa = (2 * torch.rand(20_000, generator=source, dtype=torch.float64) - 1) * (q * q_prime).sqrt()
    more = torch.rand(3, 20_000, generator=source, dtype=torch.float64)
    wider, wider_prime = q + more[0], q_prime + more[1]
    larger = torch.minimum(kappa + more[2], (wider * wider_prime).sqrt())
    assert bool((relu_moment(wider, wider_prime, larger) >= relu_moment(q, q_prime, kappa) - 1e-12).all())


@pytest.mark.parametrize("tokens", [2, 3, 16])
def test_agreement_mass_is_monotone_so_that_its_ends_are_at_the_ends(tokens):
    table = AgreementTable.of(tokens)
    r = torch.linspace(-1, 1, 81, dtype=torch.float64)
    spread = torch.linspace(0, 40, 161, dtype=torch.float64)
    mass = table(r, spread[:, None])  # (spread, r)
    assert mass.diff(dim=1).min() > -2 * TOLERANCES["table"]
    assert mass[:, r >= 0].diff(dim=0).min() > -2 * TOLERANCES["table"]
    assert mass[:, r <= 0].diff(dim=0).max() < 2 * TOLERANCES["table"]


def test_slack_is_set_by_the_width_alone_and_widens_everything():
    start = Moments.inputs(torch.tensor([0.3, 0.7]))
    for width in (256, 4096):
        shape = Architecture(16, width, 4, residual="scaled")
        given, default, more = (
            propagate_intervals(start, shape, slack=slack) for slack in (4 / math.sqrt(width), None, 0.5)
        )
        assert given.low.m.equal(default.low.m)
        assert bool((more.width >= default.width).all())
        assert bool((default.low.q <= default.high.q * math.exp(-6 / math.sqrt(width)))[1:].all())
        assert bool(default.contains(propagate(start, shape)).all())


def test_intervals_of_ratios_are_far_tighter_than_those_of_the_scale():
    found = propagate_intervals(Moments.inputs(0.7), Architecture(16, 1024, 4))
    assert bool((found.width[1:] < 0.4 * (found.high.m / found.low.m).log()[1:]).all())


def test_identical_runs_stay_identical():
    found = propagate_intervals(Moments.inputs(1.0), Architecture(16, 256, 5, residual="scaled"))
    assert found.ratios_high.m.equal(torch.ones(6, dtype=torch.float64))


@pytest.mark.parametrize("scale", [0.5, 1.5])
def test_products_of_one_sign_stay_in_the_almost_sure_interval_whatever_attends(scale):
    n, d, layers, source = 6, 5, 4, torch.Generator().manual_seed(2)
    x, y = 0.5 + torch.rand(2, 200, n, d, generator=source, dtype=torch.float64)  # any dependence, any law

    def products(a, b):
        return torch.einsum("bic,bjc->bijc", a, b)

    low, high = products(x, y).amin(), products(x, y).amax()
    found, weights = [(low, high)], []
    for _ in range(layers):
        value = torch.rand(d, d, generator=source, dtype=torch.float64)
        value = scale * value / value.sum(0) * (0.8 + 0.4 * torch.rand(d, generator=source, dtype=torch.float64))
        weights.append((value.sum(0).min().item(), value.sum(0).max().item()))
        wild = 30 * torch.randn(2, 200, n, n, generator=source, dtype=torch.float64)  # attention may depend on anything
        wild[0] += x @ x.mT
        x, y = (torch.relu(a.softmax(-1) @ h @ value) for a, h in zip(wild, (x, y), strict=True))
        found.append((products(x, y).amin(), products(x, y).amax()))
    lower, upper = almost_sure_interval(low, high, weights)
    for layer, (least, most) in enumerate(found):
        assert lower[layer] <= least + TOLERANCES["exact"]
        assert most <= upper[layer] + TOLERANCES["exact"]
    assert bool(upper[-1] < upper[0]) == (scale < 1)


def test_the_almost_sure_interval_keeps_a_floor_only_for_columns_of_weight_one():
    lower, upper = almost_sure_interval(0.5, 1.0, [(0.9, 0.95)] * 200)
    assert upper[-1] < 1e-8
    lower, upper = almost_sure_interval(torch.tensor([0.5, 0.2]), 1.0, [(1.0, 1.1)] * 3)
    assert lower.shape == (4, 2)
    assert lower[-1].equal(torch.tensor([0.5, 0.2]))


def test_dtype_and_device_are_kept(device):
    start = Moments.inputs(torch.linspace(0.1, 0.9, 3, device=device))
    found = propagate_intervals(start, Architecture(4, 256, 2, residual="scaled", norm="rms"))
    assert found.width.dtype == torch.float32
    assert found.width.device.type == device.type
    assert bool(found.contains(propagate(start, Architecture(4, 256, 2, residual="scaled", norm="rms"))).all())


def test_bad_requests_are_refused_with_the_remedy():
    start, shape = Moments.inputs(0.5), Architecture(4, 64, 1)
    with pytest.raises(ValueError, match="agreement = 'measured' is unknown: choose theory or unknown"):
        propagate_intervals(start, shape, agreement="measured")
    with pytest.raises(ValueError, match="slack = -1: give a finite number"):
        propagate_intervals(start, shape, slack=-1)
    with pytest.raises(ValueError, match="mlp = 'tanh': intervals need a moment monotone in q, relu, linear, none"):
        propagate_intervals(start, Architecture(4, 64, 1, mlp="tanh"))
    with pytest.raises(ValueError, match="without a mask only"):
        propagate_intervals(start, Architecture(4, 64, 1, causal=True))
    with pytest.raises(ValueError, match=r"m has the interval \[0.9, 0.5\]: the lower end comes first"):
        MomentIntervals.of(Moments.inputs(0.9), start)
    with pytest.raises(ValueError, match="products need 0 <= low <= high"):
        almost_sure_interval(-0.1, 1.0, [])
    with pytest.raises(ValueError, match=r"column_weights of layer 2 are \(0.9, 0.8\)"):
        almost_sure_interval(0.1, 1.0, [(1, 1), (0.9, 0.8)])


@pytest.mark.parametrize("tokens", [1, 4, 16])
@pytest.mark.parametrize("agreement", ["theory", "unknown"])
@pytest.mark.parametrize(("residual", "norm"), [("none", "none"), ("scaled", "none"), ("pre-norm", "rms")])
def test_at_small_widths_bounds_say_little_and_stay_bounds(tokens, agreement, residual, norm):
    """No tokens have p below -q/(n - 1), so q cannot reach 0 however large the slack is."""
    for width, scale in ((16, 1.0), (16, 0.25), (64, 1.0)):
        shape = Architecture(tokens, width, 12, residual=residual, norm=norm, score_scale=scale)
        found = propagate_intervals(Moments.inputs(torch.linspace(0, 1, 5).double()), shape, agreement=agreement)
        assert bool((found.low.q > 0).all())
        low, high = found.correlation
        assert bool(((low >= -1) & (low <= high) & (high <= 1)).all())

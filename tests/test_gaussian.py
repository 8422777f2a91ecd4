"""Gaussian space against closed forms, scipy, differentiation and plain Monte Carlo.

Tolerances, fixed before the code.
"""

import itertools
import math

import numpy as np
import pytest
import torch
from numpy.polynomial import hermite_e
from scipy import integrate, stats

from nslab import boolean as bf
from nslab import gaussian as gs

TOLERANCES = {
    "exact": 1e-12,  # closed form against quadrature in double precision
    "scipy": 1e-9,  # against adaptive integration
    "table": 1e-6,  # against numbers printed with six digits
    "differences": 1e-6,  # slopes against central differences
    "float32": 2e-6,
    "sigmas": 4.5,  # a sampled mean against its exact error
}
KINK = {"breaks": (0.0,)}
RHO = torch.tensor([-1.0, -0.999, -0.5, 0.0, 0.3, 0.9, 0.9999, 1.0], dtype=torch.float64)


def close(found, expected, tolerance="exact"):
    found, expected = torch.as_tensor(found), torch.as_tensor(expected, dtype=torch.float64)
    assert found.shape == expected.shape, (found.shape, expected.shape)
    return bool(((found.double() - expected).abs() <= TOLERANCES[tolerance] * expected.abs().clamp(min=1)).all())


def correlated(rho, draws, seed, dimension=1):
    g = torch.Generator().manual_seed(seed)
    x, z = torch.randn(2, draws, dimension, generator=g, dtype=torch.float64)
    return x, rho * x + math.sqrt(1 - rho**2) * z


def test_hermite_polynomials_are_those_of_numpy_normalised():
    x = torch.linspace(-5, 5, 41, dtype=torch.float64)
    for k in range(13):
        expected = hermite_e.hermeval(x.numpy(), [0] * k + [1]) / math.sqrt(math.factorial(k))
        assert close(gs.hermite(x, 12)[:, k] / np.abs(expected).max(), expected / np.abs(expected).max())


def test_noise_multiplies_a_hermite_polynomial_by_rho_to_its_degree():
    x = torch.linspace(-3, 3, 7, dtype=torch.float64)
    for k in range(6):
        found = gs.ornstein_uhlenbeck(lambda y, k=k: gs.hermite(y, k)[..., k], RHO, x)
        assert close(found, gs.hermite(x, k)[..., k, None] * RHO**k)


def test_the_slope_of_a_hermite_polynomial_is_the_one_below():
    x = torch.linspace(-2, 2, 9, dtype=torch.float64, requires_grad=True)
    for k in range(1, 6):
        (slope,) = torch.autograd.grad(gs.hermite(x, k)[:, k].sum(), x)
        assert close(slope, math.sqrt(k) * gs.hermite(x, k)[:, k - 1].detach())


def test_hermite_energies_of_relu_against_the_closed_form_and_scipy():
    energies = gs.relu_energies(40)
    assert close(gs.hermite_energies(torch.relu, 40, **KINK), energies)
    for k in range(7):

        def integrand(x, k=k):
            return x * hermite_e.hermeval(x, [0] * k + [1]) / math.sqrt(math.factorial(k)) * stats.norm.pdf(x)

        assert close(energies[k], integrate.quad(integrand, 0, np.inf)[0] ** 2, "scipy")
    assert close(gs.hermite_energies(torch.relu, 1000, **KINK), gs.relu_energies(1000))
    pi = math.pi
    assert close(energies[:7], [1 / (2 * pi), 1 / 4, 1 / (4 * pi), 0, 1 / (48 * pi), 0, 1 / (160 * pi)])
    for degree, percent in ((0, 31.8), (1, 81.8), (2, 97.7), (4, 99.1)):
        assert round(200 * energies[: degree + 1].sum().item(), 1) == percent


def test_without_its_break_a_sign_is_integrated_badly_and_with_it_exactly():
    """The kink must be named where it is not the end of a panel: sign(x - 0.1) has mean 2 Phi(-0.1) - 1."""
    expected = 1 - 2 * stats.norm.cdf(0.1)
    assert close(gs.gaussian_mean(lambda x: torch.sign(x - 0.1), breaks=(0.1,)), expected)
    assert not close(gs.gaussian_mean(lambda x: torch.sign(x - 0.1)), expected, "table")


@pytest.mark.parametrize(
    ("f", "rule", "closed_form"),
    [
        (torch.sign, KINK, gs.sign_stability),
        (torch.relu, KINK, gs.relu_map),
        (lambda x: x**3 - 3 * x, {}, lambda rho: 6 * rho**3),
        (lambda x: torch.exp(x / 2), {}, lambda rho: torch.exp((1 + rho) / 4)),
        (lambda x: (x > 0.7).to(x), {"breaks": (0.7,)}, lambda rho: gs.bivariate_normal_cdf(-0.7, -0.7, rho)),
    ],
)
def test_stability_by_quadrature_is_the_closed_form(f, rule, closed_form):
    assert close(gs.gaussian_stability(f, RHO, **rule), closed_form(RHO))


def test_stability_is_the_generating_function_of_the_energies():
    energies = gs.hermite_energies(torch.tanh, 60, nodes=48)
    inside = RHO[1:6]
    assert close(gs.stability_from_energies(energies, inside), gs.gaussian_stability(torch.tanh, inside), "table")
    batch = torch.stack([energies, 2 * energies])
    assert gs.stability_from_energies(batch, inside.reshape(5, 1)).shape == (2, 5, 1)


@pytest.mark.parametrize("f", [torch.tanh, torch.sin, lambda x: x**2 + x])
def test_the_slope_of_stability_at_one_is_the_mean_squared_gradient(f):
    """sum_k k W_k = E f'(X)**2, with f' by automatic differentiation, which the energies do not use."""

    def squared_slope(x):
        x = x.detach().requires_grad_()
        return torch.autograd.grad(f(x).sum(), x)[0].square()

    energies = gs.hermite_energies(f, 80, nodes=48)
    one = torch.ones((), dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(gs.stability_from_energies(energies, one), one)
    assert close(slope, gs.gaussian_mean(squared_slope), "table")


def test_sheppard_against_scipy_and_counting():
    for rho in (-0.8, -0.2, 0.0, 0.5, 0.95):
        quadrant = stats.multivariate_normal(cov=[[1, rho], [rho, 1]]).cdf([0, 0])
        expected = gs.sheppard(torch.tensor(rho, dtype=torch.float64)).item()
        assert abs(expected - 2 * quadrant) < 1e-6
        x, y = correlated(rho, 100_000, seed=1)
        agree = (torch.sign(x) == torch.sign(y)).double().mean().item()
        assert abs(agree - expected) < TOLERANCES["sigmas"] * math.sqrt(expected * (1 - expected) / 100_000)


def test_sign_stability_is_sheppard_as_a_correlation():
    assert close(gs.sign_stability(RHO), 2 * gs.sheppard(RHO) - 1)


def test_majority_tends_to_the_arcsine_at_the_rate_one_over_n():
    """n |Stab(majority_n) - 2/pi arcsin rho| stays bounded while the difference falls, up to 1001 voters."""
    rho = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    sizes = (11, 101, 1001)
    gaps = torch.stack([(bf.threshold_stability([1] * n, rho) - gs.sign_stability(rho)).abs() for n in sizes])
    assert bool((gaps[1:] < 0.15 * gaps[:-1]).all())
    assert bool((gaps * torch.tensor(sizes)[:, None] < 1).all())


def test_relu_map_of_the_specification():
    rho = torch.tensor([0.0, 0.25, 0.5, 0.75, 0.9, 1.0], dtype=torch.float64)
    assert close(gs.relu_map(rho), [1 / (2 * math.pi), 0.226655, 0.304499, 0.394001, 0.454769, 0.5], "table")
    for r, expected in zip(rho[:5].tolist(), gs.relu_map(rho).tolist(), strict=False):
        x, y = correlated(r, 200_000, seed=2)
        products = torch.relu(x) * torch.relu(y)
        assert abs(products.mean().item() - expected) < TOLERANCES["sigmas"] * products.std().item() / math.sqrt(2e5)


def test_relu_map_has_the_right_slope_everywhere_ends_included():
    rho = RHO.clone().requires_grad_()
    (slope,) = torch.autograd.grad(gs.relu_map(rho).sum(), rho)
    assert close(slope, [stats.multivariate_normal(cov=[[1, r], [r, 1]]).cdf([0, 0]) if abs(r) < 1 else (r > 0) / 2
                         for r in RHO.tolist()], "table")  # fmt: skip
    assert slope[0] == 0
    assert slope[-1] == 0.5
    assert torch.autograd.gradcheck(gs.relu_map, RHO[2:6].clone().requires_grad_())
    assert torch.autograd.gradgradcheck(gs.relu_map, RHO[2:6].clone().requires_grad_())


def test_relu_moment_against_sampling_and_in_closed_form():
    x, y = correlated(0.6, 200_000, seed=3)
    products = torch.relu(2 * x) * torch.relu(0.5 * y)
    found = gs.relu_moment(4.0, 0.25, 0.6).item()
    assert abs(products.mean().item() - found) < TOLERANCES["sigmas"] * products.std().item() / math.sqrt(2e5)
    one = torch.ones((), dtype=torch.float64)
    assert close(gs.relu_moment(one, 1.0, RHO), gs.relu_map(RHO))


def test_relu_moment_is_monotone_and_its_gradients_are_finite_at_full_correlation():
    g = torch.Generator().manual_seed(4)
    q, p = torch.rand(2, 50, generator=g, dtype=torch.float64) + 0.1
    kappa = (2 * torch.rand(50, generator=g, dtype=torch.float64) - 1) * (q * p).sqrt() * 0.99
    arguments = [value.requires_grad_() for value in (q, p, kappa)]
    assert torch.autograd.gradcheck(gs.relu_moment, arguments)
    full = [value.detach().clone() for value in (q, p)]
    full = [value.requires_grad_() for value in (*full, (full[0] * full[1]).sqrt())]
    for gradient in (
        *torch.autograd.grad(gs.relu_moment(*arguments).sum(), arguments),
        *torch.autograd.grad(gs.relu_moment(*full).sum(), full),
    ):
        assert bool(torch.isfinite(gradient).all())
        assert bool((gradient >= -TOLERANCES["exact"]).all())
    dead = [torch.tensor(value, requires_grad=True) for value in (0.0, 1.0, 0.0)]
    assert [g.item() for g in torch.autograd.grad(gs.relu_moment(*dead), dead)] == [0, 0, 0]


def test_bivariate_normal_against_adaptive_integration():
    """Phi_2 = integral of phi(x) Phi((k - rho x)/sigma) up to h, split where the inner distribution turns."""
    g = torch.Generator().manual_seed(5)
    h, k = 2 * torch.randn(2, 60, generator=g, dtype=torch.float64)
    k[:20] = h[:20] + 1e-3 * k[:20]
    rho = 2 * torch.rand(60, generator=g, dtype=torch.float64) - 1
    rho[:20] = 1 - 10 ** (-8 * torch.rand(20, generator=g, dtype=torch.float64))
    rho[10:20] *= -1

    def slowly(h, k, rho):
        sigma = math.sqrt(1 - rho**2)
        ends = [-12, *sorted(min(max((k + t * sigma) / rho, -12), h) for t in (-40, -8, -3, 0, 3, 8, 40)), h]
        inner = lambda x: stats.norm.pdf(x) * stats.norm.cdf((k - rho * x) / sigma)  # noqa: E731
        return sum(integrate.quad(inner, a, b)[0] for a, b in itertools.pairwise(ends) if b > a)

    expected = [slowly(*case) for case in zip(h.tolist(), k.tolist(), rho.tolist(), strict=True)]
    assert close(gs.bivariate_normal_cdf(h, k, rho), expected, "scipy")


def test_bivariate_normal_at_its_ends_and_its_gradients():
    h = torch.tensor([-1.0, 0.5, math.inf, -math.inf], dtype=torch.float64)
    k = torch.tensor([2.0, 0.5, 1.0, 1.0], dtype=torch.float64)
    p, q = torch.special.ndtr(h), torch.special.ndtr(k)
    assert close(gs.bivariate_normal_cdf(h, k, 0.0), p * q)
    assert close(gs.bivariate_normal_cdf(h, k, 1.0), torch.minimum(p, q))
    assert close(gs.bivariate_normal_cdf(h, k, -1.0), (p + q - 1).clamp(min=0))
    g = torch.Generator().manual_seed(6)
    arguments = [torch.randn(5, generator=g, dtype=torch.float64) for _ in range(2)]
    arguments = [v.requires_grad_() for v in (*arguments, torch.linspace(-0.9, 0.9, 5, dtype=torch.float64))]
    assert torch.autograd.gradcheck(gs.bivariate_normal_cdf, arguments)
    assert torch.autograd.gradgradcheck(gs.bivariate_normal_cdf, arguments)


def test_borell_a_half_space_attains_the_bound_and_no_other_function_beats_it():
    """Random functions R -> [0, 1] (clipped Hermite sums) at 24 seeds: none above the bound at its own mean."""
    rho = torch.tensor([0.0, 0.2, 0.6, 0.95, 1.0], dtype=torch.float64)
    for t in (-1.3, 0.0, 0.4):
        half = lambda x, t=t: (x <= t).to(x)  # noqa: E731
        mean = gs.gaussian_mean(half, breaks=(t,))
        assert close(gs.gaussian_stability(half, rho, breaks=(t,)), gs.borell_bound(rho, mean))
    below = 0
    for seed in range(24):
        weights = torch.randn(5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        f = lambda x, w=weights: torch.sigmoid(3 * gs.hermite(x, 4) @ w)  # noqa: E731
        bound = gs.borell_bound(rho, gs.gaussian_mean(f, nodes=48))
        below += bool((gs.gaussian_stability(f, rho, nodes=48) <= bound + 1e-9).all())
    assert below == 24


def test_borell_for_signs_is_sheppard_at_mean_zero_and_ordered_otherwise():
    rho = RHO[3:]
    assert close(gs.borell_bound_signs(rho, torch.tensor(0.0, dtype=torch.float64)), gs.sign_stability(rho))
    means = torch.tensor([-1.0, -0.4, 0.4], dtype=torch.float64)
    found = gs.borell_bound_signs(rho, means)
    assert found.shape == (3, len(rho))
    assert close(found[:, 0], means**2)
    assert close(found[:, -1], torch.ones(3))
    assert close(found[1], found[2])


def test_gradients_of_stability_agree_with_differences():
    rho = torch.tensor([-0.6, 0.0, 0.5, 0.9], dtype=torch.float64, requires_grad=True)
    for f, rule in ((torch.sign, KINK), (torch.relu, KINK), (torch.tanh, {})):
        (slope,) = torch.autograd.grad(gs.gaussian_stability(f, rho, **rule).sum(), rho)
        with torch.no_grad():
            step = [gs.gaussian_stability(f, rho + s, **rule) for s in (1e-5, -1e-5)]
        assert close(slope, (step[0] - step[1]) / 2e-5, "differences")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_and_device_are_kept(dtype, device):
    rho = torch.tensor([0.25, 0.5], dtype=dtype, device=device)
    for f in (
        gs.sheppard,
        gs.sign_stability,
        gs.relu_map,
        lambda r: gs.bivariate_normal_cdf(0.3, r, r),
        lambda r: gs.borell_bound(r, 0.2),
        lambda r: gs.ornstein_uhlenbeck(torch.relu, r, r, **KINK),
    ):
        found, exact = f(rho), f(rho.double().cpu())
        assert found.dtype == dtype
        assert found.device.type == device.type
        assert close(found.cpu(), exact, "exact" if dtype == torch.float64 else "float32")
    assert gs.gaussian_stability(torch.relu, rho, dtype=dtype, device=device, **KINK).dtype == dtype
    assert gs.relu_energies(3, dtype=dtype, device=device).dtype == dtype


def test_rho_is_the_last_axis_of_every_output():
    rho = RHO.reshape(2, 4)
    x = torch.tensor([[0.3], [-1.0], [2.0]], dtype=torch.float64)
    found = gs.ornstein_uhlenbeck(torch.relu, rho, x, **KINK)
    assert close(found[:, :, 1, 3], torch.relu(x))
    assert close(found[:, :, 0, 3], [[1 / math.sqrt(2 * math.pi)]] * 3)
    assert close(gs.gaussian_stability(torch.relu, rho, **KINK), gs.relu_map(rho))
    assert gs.gaussian_stability(torch.relu, torch.ones(3, 0)).shape == (3, 0)
    assert gs.borell_bound(rho[1:].abs(), x[:2].abs()).shape == (2, 1, 1, 4)


def test_at_the_ends_the_quadrature_has_no_slope_in_rho_rather_than_a_wrong_one():
    rho = torch.tensor([-1.0, 0.5, 1.0], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(gs.gaussian_stability(torch.tanh, rho).sum(), rho)
    assert torch.isnan(slope).tolist() == [True, False, True]
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(gs.gaussian_stability(lambda x: torch.tanh(scale * x), 1.0), scale)
    assert bool(torch.isfinite(slope))


def test_integers_and_work_in_place_change_nothing():
    one = torch.ones((), dtype=torch.int64)
    half = torch.tensor(0.5)
    assert torch.equal(gs.relu_moment(one, 1, 0.5), gs.relu_map(half))
    assert torch.equal(gs.bivariate_normal_cdf(0.3, 0.3, 0 * one), gs.bivariate_normal_cdf(0.3, 0.3, 0.0))
    assert gs.stability_from_energies(torch.tensor([0, 1, 0, 1]), 0.5).item() == 0.625
    assert gs.ornstein_uhlenbeck(torch.relu, half, one, **KINK).dtype == torch.float32
    assert gs.borell_bound(half, torch.tensor(0.1, dtype=torch.float64)).dtype == torch.float64
    assert torch.equal(gs.gaussian_stability(torch.relu_, RHO, **KINK), gs.gaussian_stability(torch.relu, RHO, **KINK))
    assert gs.ornstein_uhlenbeck(lambda x: x > 0, 1.0, RHO).dtype == torch.float64


@pytest.mark.parametrize("name", ["gaussian_mean", "hermite_energies", "ornstein_uhlenbeck", "gaussian_stability"])
def test_a_misspelt_rule_is_refused(name):
    more = {"hermite_energies": (2,), "ornstein_uhlenbeck": (0.5, RHO), "gaussian_stability": (0.5,)}.get(name, ())
    with pytest.raises(TypeError, match=r"unexpected argument 'brakes'.*breaks, nodes, dtype, device"):
        getattr(gs, name)(torch.relu, *more, brakes=(0.0,))
    with pytest.raises(ValueError, match=r"breaks = \(nan,\)"):
        getattr(gs, name)(torch.relu, *more, breaks=(math.nan,))


CASES = [
    (lambda: gs.sheppard(1.5), r"rho = 1.5 is outside \[-1, 1\].*correlation"),
    (lambda: gs.relu_map(torch.tensor([0.0, -2.0])), r"rho = -2 is outside"),
    (lambda: gs.sign_stability(math.nan), r"rho = nan"),
    (lambda: gs.gaussian_stability(torch.relu, 1.01), r"rho = 1.01"),
    (lambda: gs.hermite(torch.zeros(2), -1), r"degree = -1 is negative"),
    (lambda: gs.relu_energies(-1), r"degree = -1"),
    (lambda: gs.relu_moment(1.0, 1.0, 1.1), r"kappa = 1.1 exceeds sqrt"),
    (lambda: gs.relu_moment(-1.0, 1.0, 0.0), r"q = -1: a variance"),
    (lambda: gs.relu_moment(1.0, 0.0, 0.5), r"kappa = 0.5 exceeds"),
    (lambda: gs.borell_bound(-0.1, 0.5), r"rho = -0.1 is outside \[0, 1\].*non-negative"),
    (lambda: gs.borell_bound(0.5, -0.5), r"mean = -0.5.*borell_bound_signs"),
    (lambda: gs.borell_bound_signs(0.5, 1.5), r"mean = 1.5.*borell_bound"),
    (lambda: gs.bivariate_normal_cdf(math.nan, 0.0, 0.5), r"h = nan"),
    (lambda: gs.gaussian_mean(torch.log), r"f returned NaN or infinity at x = -1"),
    (lambda: gs.gaussian_mean(lambda x: x[:1]), r"f returned \(1,\).*elementwise"),
    (lambda: gs.gaussian_mean(torch.relu, nodes=0), r"nodes = 0"),
    (lambda: gs.gaussian_mean(torch.relu, breaks=(math.inf,)), r"breaks = \(inf,\)"),
    (lambda: gs.stability_from_energies(torch.ones(2, 0), 0.5), r"energies has shape \(2, 0\)"),
]


@pytest.mark.parametrize("case", range(len(CASES)))
def test_refused_by_name_with_value_and_remedy(case):
    call, message = CASES[case]
    with pytest.raises(ValueError, match=message):
        call()

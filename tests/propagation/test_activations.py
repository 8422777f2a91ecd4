"""Second moments of activations against quadrature written out, closed forms and Price's theorem."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, special, stats

from nslab.gaussian import hermite_energies, relu_moment, stability_from_energies
from nslab.propagation.activations import ACTIVATIONS, activation_gain, activation_moment

TOLERANCES = {"exact": 1e-11, "table": 1e-6, "scipy": 1e-9, "float32": 2e-5, "monotone": 1e-14}
SMOOTH = ["gelu", "silu", "tanh"]
TRIPLES = [(1.0, 1.0, 0.6), (0.3, 2.0, -0.5), (2.0, 2.0, 2.0), (1.5, 0.7, 0.0), (1.0, 1.0, -1.0), (4.0, 9.0, 5.9)]


def exact(*values):
    return [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in values]


def plane_mean(g, q, q_prime, kappa, step=0.02):
    """E g(u, v) by the trapezoid rule in the plane, which is spectrally accurate for smooth g."""
    x = np.arange(-9, 9 + step, step)
    c = kappa / math.sqrt(q * q_prime)
    one, two = x[:, None], x[None, :]
    u = math.sqrt(q) * (one + 0 * two)
    v = math.sqrt(q_prime) * (c * one + math.sqrt(max(0.0, 1 - c * c)) * two)
    return (g(u, v) * np.exp(-(one**2 + two**2) / 2)).sum() * step**2 / (2 * math.pi)


def gelu(x):
    return x * special.ndtr(x)


def gelu_slope(x):
    return special.ndtr(x) + x * stats.norm.pdf(x)


def gelu_bend(x):
    return (2 - x**2) * stats.norm.pdf(x)


def silu(x):
    return x * special.expit(x)


NUMPY = {"gelu": gelu, "silu": silu, "tanh": np.tanh, "linear": lambda x: x, "quadratic": lambda x: x**2}


@pytest.mark.parametrize("name", NUMPY)
@pytest.mark.parametrize("triple", TRIPLES)
def test_the_moment_is_the_double_integral(name, triple):
    f = NUMPY[name]
    expected = plane_mean(lambda u, v: f(u) * f(v), *triple)
    assert abs(activation_moment(name, *triple).item() - expected) < TOLERANCES["exact"] * max(1, abs(expected))


@pytest.mark.parametrize("name", SMOOTH)
def test_steep_activations_are_integrated_too_where_the_series_gives_up(name):
    for triple in ((100.0, 100.0, 95.0), (100.0, 0.01, -0.5)):
        f = NUMPY[name]
        expected = plane_mean(lambda u, v, f=f: f(u) * f(v), *triple, step=0.01)
        assert abs(activation_moment(name, *triple).item() - expected) < 1e-8 * max(1, abs(expected))


def test_the_relu_moment_f_against_quadrature():
    """F(q, q', kappa): given u, v is Gaussian and E ReLU(v) has a closed form; u is integrated by scipy."""
    for q, q_prime, kappa in ((1.0, 1.0, 0.5), (2.0, 0.5, -0.7), (3.0, 1.0, 1.7), (0.1, 5.0, 0.2)):
        c = kappa / math.sqrt(q * q_prime)
        spread = math.sqrt(q_prime * (1 - c * c))

        def integrand(x, q=q, q_prime=q_prime, c=c, spread=spread):
            middle = math.sqrt(q_prime) * c * x
            mean = middle * stats.norm.cdf(middle / spread) + spread * stats.norm.pdf(middle / spread)
            return math.sqrt(q) * x * mean * stats.norm.pdf(x)

        expected = integrate.quad(integrand, 0, 12, epsabs=1e-12)[0]
        assert abs(activation_moment("relu", q, q_prime, kappa).item() - expected) < TOLERANCES["scipy"]


def test_one_relu_layer_has_the_printed_values():
    rho = torch.tensor([0.0, 0.25, 0.5, 0.75, 0.9, 1.0], dtype=torch.float64)
    found = activation_moment("relu", 1.0, 1.0, rho)
    printed = torch.tensor([0.159155, 0.226655, 0.304499, 0.394001, 0.454769, 0.5], dtype=torch.float64)
    assert torch.allclose(found, printed, rtol=0, atol=TOLERANCES["table"])


def random_gaussians(count, seed):
    g = torch.Generator().manual_seed(seed)
    q, q_prime = torch.exp(2 * torch.randn(2, count, generator=g, dtype=torch.float64))
    c = torch.cos(math.pi * torch.rand(count, generator=g, dtype=torch.float64))  # many near ±1
    return q, q_prime, c * (q * q_prime).sqrt(), torch.rand(count, generator=g, dtype=torch.float64)


def test_f_is_monotone_in_each_of_its_three_arguments():
    """The fact on which intervals rest, searched for a counterexample at 200,000 random points and steps."""
    q, q_prime, kappa, step = random_gaussians(200_000, 0)
    here = activation_moment("relu", q, q_prime, kappa)
    slack = TOLERANCES["monotone"] * (q * q_prime).sqrt()
    assert bool((activation_moment("relu", q * (1 + step), q_prime, kappa) >= here - slack * 2).all())
    assert bool((activation_moment("relu", q, q_prime * (1 + step**4), kappa) >= here - slack * 2).all())
    more = kappa + step * ((q * q_prime).sqrt() - kappa)
    assert bool((activation_moment("relu", q, q_prime, more) >= here - slack).all())


@pytest.mark.parametrize("name", ["relu", "tanh", "linear"])
def test_an_increasing_activation_has_a_moment_that_increases_in_kappa(name):
    q, q_prime, kappa, step = (value[:400] for value in random_gaussians(400, 1))
    q, q_prime = q.clamp(0.1, 2), q_prime.clamp(0.1, 2)
    bound = (q * q_prime).sqrt()
    kappa = kappa.clamp(-bound, bound)
    more = kappa + step * (bound - kappa)
    gain = activation_moment(name, q, q_prime, more) - activation_moment(name, q, q_prime, kappa)
    assert bool((gain >= -TOLERANCES["exact"]).all())


def test_the_moment_of_tanh_falls_when_a_variance_grows():
    """Monotone in the variances is ReLU's property, not every activation's."""
    low, high = (activation_moment("tanh", q, 1.0, 0.5).item() for q in (1.0, 4.0))
    assert high < low - 0.01


def test_price_s_theorem_for_relu_counts_the_quadrant():
    q, q_prime, kappa = exact([1.0, 2.0, 0.5], [1.0, 0.3, 4.0], [0.5, -0.7, 1.4])
    (slope,) = torch.autograd.grad(activation_moment("relu", q, q_prime, kappa).sum(), kappa)
    c = (kappa / (q * q_prime).sqrt()).detach()
    for found, ratio in zip(slope.tolist(), c.tolist(), strict=True):
        quadrant = stats.multivariate_normal.cdf([0, 0], cov=[[1, ratio], [ratio, 1]])  # P[u > 0, v > 0]
        assert abs(found - quadrant) < TOLERANCES["scipy"]


@pytest.mark.parametrize("triple", TRIPLES)
def test_price_s_theorem_for_gelu_in_all_three_arguments(triple):
    """d/dkappa = E f'(u) f'(v), d/dq = E f''(u) f(v) / 2; at kappa = ±sqrt(q q') too."""
    q, q_prime, kappa = exact(*triple)
    found = torch.autograd.grad(activation_moment("gelu", q, q_prime, kappa), (q, q_prime, kappa))
    expected = (
        plane_mean(lambda u, v: gelu_bend(u) * gelu(v), *triple) / 2,
        plane_mean(lambda u, v: gelu(u) * gelu_bend(v), *triple) / 2,
        plane_mean(lambda u, v: gelu_slope(u) * gelu_slope(v), *triple),
    )
    for one, two in zip(found, expected, strict=True):
        assert abs(one.item() - two) < 1e-9


@pytest.mark.parametrize("triple", [*TRIPLES, (100.0, 0.01, 0.95), (1.0, 1.0, 0.9999)])
def test_a_kinked_activation_and_its_slopes_against_the_closed_form(triple):
    """Leaky ReLU is ReLU(u) - a ReLU(-u): its moment is (1 + a^2) F(kappa) - 2 a F(-kappa)."""
    a = 0.2
    one, two = exact(*triple), exact(*triple)
    found = activation_moment(lambda u: torch.where(u > 0, u, a * u), *one, breaks=(0.0,))
    expected = (1 + a * a) * relu_moment(*two) - 2 * a * relu_moment(two[0], two[1], -two[2])
    assert abs(found.item() - expected.item()) < TOLERANCES["exact"]
    found.backward()
    expected.backward()
    for left, right in zip(one, two, strict=True):
        assert abs(left.grad.item() - right.grad.item()) < 1e-10


def test_a_kink_away_from_zero_counts_when_it_is_named():
    """E ReLU(u - 1) ReLU(v - 1) by scipy, in one dimension as above."""
    c = 0.8

    def integrand(x):
        middle, spread = c * x - 1, math.sqrt(1 - c * c)
        mean = middle * stats.norm.cdf(middle / spread) + spread * stats.norm.pdf(middle / spread)
        return (x - 1) * mean * stats.norm.pdf(x)

    expected = integrate.quad(integrand, 1, 12, epsabs=1e-13)[0]
    found = activation_moment(lambda u: torch.relu(u - 1), 1.0, 1.0, c, breaks=(1.0,))
    assert abs(found.item() - expected) < TOLERANCES["exact"]


def test_a_jump_counts_in_the_value_and_has_no_slope_here():
    """Sheppard's formula: E sign(u) sign(v) = (2 / pi) arcsin c."""
    found = activation_moment(torch.sign, 2.0, 0.5, 0.7, breaks=(0.0,)).item()
    assert abs(found - 2 / math.pi * math.asin(0.7)) < TOLERANCES["exact"]
    kappa = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    with pytest.raises(ValueError, match=r"f jumps at u = 0: .* detach q and kappa"):
        activation_moment(torch.sign, 2.0, 0.5, kappa, breaks=(0.0,))


def test_a_second_slope_is_refused_where_only_the_first_is_known():
    kappa = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    found = activation_moment(torch.abs, 1.0, 1.0, kappa, breaks=(0.0,))
    with pytest.raises(RuntimeError, match="leave create_graph out"):
        torch.autograd.grad(found, kappa, create_graph=True)


@pytest.mark.parametrize("name", [*SMOOTH, "linear", "quadratic"])
def test_the_hermite_energies_are_the_power_series_of_the_moment(name):
    rho = torch.linspace(-1, 1, 21, dtype=torch.float64)
    energies = hermite_energies(ACTIVATIONS[name], 100)
    assert torch.allclose(activation_moment(name, 1.0, 1.0, rho), stability_from_energies(energies, rho), atol=1e-11)
    f = NUMPY[name]
    total = integrate.quad(lambda x: f(x) ** 2 * stats.norm.pdf(x), -12, 12, epsabs=1e-12)[0]
    assert abs(energies.sum().item() - total) < TOLERANCES["scipy"]


@pytest.mark.parametrize("name", SMOOTH)
def test_smooth_activations_are_of_low_degree_as_relu_is(name):
    energies = hermite_energies(ACTIVATIONS[name], 40)
    assert energies[:4].sum() / energies.sum() > 0.97
    mean = plane_mean(lambda u, v: NUMPY[name](u), 1.0, 1.0, 0.0)
    assert abs(energies[0].item() - mean**2) < TOLERANCES["exact"]


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_the_gain_restores_the_second_moment(name):
    assert abs((activation_gain(name) * activation_moment(name, 1.0, 1.0, 1.0)).item() - 1) < TOLERANCES["exact"]


def test_the_gain_of_relu_is_he_s():
    assert abs(activation_gain("relu").item() - 2) < TOLERANCES["exact"]
    assert abs(activation_gain("quadratic").item() - 1 / 3) < TOLERANCES["exact"]


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_axes_broadcast_and_dtype_and_device_are_kept(name, device):
    q = torch.rand(3, 1, device=device) + 0.5
    rho = torch.linspace(-1, 1, 5, device=device)
    found = activation_moment(name, q, q, q * rho)
    assert (found.shape, found.dtype, found.device.type) == ((3, 5), torch.float32, device.type)
    fine = activation_moment(name, q.double(), q.double(), q.double() * rho.double())
    assert torch.allclose(found.double(), fine, atol=TOLERANCES["float32"])
    assert activation_moment(name, 1.0, 1, 0.5).dtype == torch.float64


def test_rounding_beyond_a_correlation_of_one_is_forgiven_and_keeps_its_slope():
    q = torch.tensor(1.0, dtype=torch.float64)
    for name in ("relu", "gelu"):
        kappa = torch.tensor(1 + 1e-14, dtype=torch.float64, requires_grad=True)
        activation_moment(name, q, q, kappa).backward()
        at_one = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
        activation_moment(name, q, q, at_one).backward()
        assert abs(kappa.grad.item() - at_one.grad.item()) < TOLERANCES["exact"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("sigmoid", 1.0, 1.0, 0.5), "choose from relu, gelu"),
        (("relu", 0.0, 1.0, 0.0), "q = 0: a variance is finite and positive"),
        (("gelu", 1.0, -2.0, 0.0), "q_prime = -2: a variance is finite and positive"),
        (("gelu", math.nan, 1.0, 0.0), "q = nan: a variance"),
        (("gelu", 1.0, 1.0, 1.1), "kappa = 1.1 exceeds sqrt"),
        (("relu", 1.0, 1.0, math.nan), "kappa = nan exceeds"),
        ((torch.log, 1.0, 1.0, 0.5), "f returned NaN or infinity at u = -"),
        ((lambda u: u.sum(), 1.0, 1.0, 0.5), "it must act elementwise"),
    ],
)
def test_bad_input_is_named_with_the_remedy(arguments, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        activation_moment(*arguments)


def test_a_function_that_is_zero_has_no_gain():
    with pytest.raises(ValueError, match="f is zero"):
        activation_gain(lambda u: 0 * u)

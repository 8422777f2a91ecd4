"""The deep ReLU recursion under three normalisations, against quadrature, algebra and real wide networks."""

import math

import pytest
import torch
from scipy import integrate, optimize, stats

from nslab.propagation.depth_maps import fixed_point, he_distance, rate, relu_depth, relu_step

TOLERANCES = {"exact": 1e-12, "scipy": 1e-8, "simulation": 0.03}
NORMALISATIONS = ["paper", "he", "centred"]
RHO = torch.linspace(-1, 1, 41, dtype=torch.float64)


def f(rho):
    """E ReLU(X) ReLU(Y), by integration."""
    if rho >= 1:
        return 0.5
    spread = math.sqrt(1 - rho * rho)

    def integrand(x):
        mean = rho * x * stats.norm.cdf(rho * x / spread) + spread * stats.norm.pdf(rho * x / spread)
        return x * mean * stats.norm.pdf(x)

    return integrate.quad(integrand, 0, 12, epsabs=1e-13, epsrel=1e-12)[0]


MAPS = {
    "paper": f,
    "he": lambda rho: 2 * f(rho),
    "centred": lambda rho: (f(rho) - 1 / (2 * math.pi)) / (0.5 - 1 / (2 * math.pi)),
}


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_a_layer_is_the_integral_rescaled(normalisation):
    for rho in (-0.9, -0.3, 0.0, 0.25, 0.5, 0.75, 0.9, 1.0):
        assert abs(relu_step(rho, normalisation).item() - MAPS[normalisation](rho)) < TOLERANCES["scipy"]


def test_the_path_from_identical_inputs_has_the_printed_values():
    printed = [1, 0.5, 0.3045, 0.2427, 0.2245, 0.2193, 0.2178]
    assert [round(x, 4) for x in relu_depth(1.0, 6).tolist()] == printed


def test_the_centred_path_from_nine_tenths_has_the_printed_values():
    assert [round(x, 3) for x in relu_depth(0.9, 3, "centred").tolist()] == [0.9, 0.867, 0.827, 0.778]


def test_the_fixed_points_of_the_paper_s_map():
    assert fixed_point(order=1) == pytest.approx(2 / (3 * math.pi), abs=TOLERANCES["exact"])
    quadratic = (3 * math.pi / 2) * (1 - math.sqrt(1 - 8 / (9 * math.pi**2)))
    assert fixed_point(order=2) == pytest.approx(quadratic, abs=TOLERANCES["exact"])
    assert [round(fixed_point(order=k), 6) for k in (1, 2, 3, 200)] == [0.212207, 0.217213, 0.217213, 0.217234]
    assert round(fixed_point(), 6) == 0.217234
    assert fixed_point() == pytest.approx(optimize.brentq(lambda x: f(x) - x, 0, 0.9), abs=TOLERANCES["scipy"])


def test_the_other_fixed_points_and_what_truncation_hides():
    """Cut after any degree, the He map has a fixed point below 1: the slow march to 1 lives in the high degrees."""
    assert fixed_point("he") == 1
    assert [fixed_point("centred", order) for order in (None, 1, 2, 9)] == [0, 0, 0, 0]
    truncated = [fixed_point("he", order) for order in (1, 2, 4, 20, 200)]
    assert truncated[0] == pytest.approx(2 / math.pi, abs=TOLERANCES["exact"])
    assert truncated[1] == pytest.approx((math.pi - math.sqrt(math.pi**2 - 8)) / 2, abs=TOLERANCES["exact"])
    assert truncated == sorted(truncated)
    assert truncated[-1] < 1


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_fixed_points_stay_and_rates_are_slopes(normalisation):
    point = torch.tensor(fixed_point(normalisation), dtype=torch.float64, requires_grad=True)
    after = relu_step(point, normalisation)
    assert after.item() == pytest.approx(point.item(), abs=TOLERANCES["exact"])
    (slope,) = torch.autograd.grad(after, point)
    assert slope.item() == pytest.approx(rate(normalisation), abs=TOLERANCES["exact"])
    for at in (-0.5, 0.0, 0.7):
        differences = (MAPS[normalisation](at + 1e-4) - MAPS[normalisation](at - 1e-4)) / 2e-4
        assert rate(normalisation, at) == pytest.approx(differences, abs=1e-6)


def test_the_rates_have_the_printed_values():
    assert round(rate(), 3) == 0.285
    assert 1 / rate() == pytest.approx(3.5, abs=0.02)  # the distance shrinks 3.5 times a layer
    assert rate("he") == 1
    assert rate("centred") == pytest.approx((math.pi / 2) / (math.pi - 1), abs=TOLERANCES["exact"])
    assert rate("centred", at=1) == pytest.approx(math.pi / (math.pi - 1), abs=TOLERANCES["exact"])


def test_three_normalisations_three_fates():
    """From every correlation but the unstable ends: 0.2172, 1 and 0."""
    start = torch.linspace(-0.99, 0.99, 23, dtype=torch.float64)
    assert (relu_depth(start, 60, "paper")[-1] - fixed_point()).abs().max() < TOLERANCES["exact"]
    assert relu_depth(start, 150, "centred")[-1].abs().max() < 1e-9
    assert (1 - relu_depth(start, 2000, "he")[-1]).max() < 1.2e-5


def test_the_distance_shrinks_by_the_rate_in_the_end():
    for normalisation in ("paper", "centred"):
        gap = relu_depth(0.9, 40, normalisation) - fixed_point(normalisation)
        at = int((gap > 1e-8).nonzero().max())  # the last layer whose distance is far above rounding
        assert gap[at] / gap[at - 1] == pytest.approx(rate(normalisation), abs=1e-4)


def test_under_he_scaling_the_distance_to_one_follows_the_power_law():
    path = relu_depth(0.0, 2000, "he")
    scaled = [(depth**2 * (1 - path[depth])).item() for depth in (100, 500, 2000)]
    assert [round(x, 1) for x in scaled] == [35.8, 42.1, 43.7]
    assert he_distance(1) == pytest.approx(44.4, abs=0.02)
    below = [1 - (1 - path[depth]).item() / he_distance(depth) for depth in (100, 500, 2000)]
    assert [round(x, 2) for x in below] == [0.19, 0.05, 0.02]


def test_the_slope_of_a_path_is_the_product_of_the_slopes_of_its_layers():
    for normalisation in NORMALISATIONS:
        rho = torch.tensor([-1.0, 0.3, 1.0], dtype=torch.float64, requires_grad=True)
        path = relu_depth(rho, 5, normalisation)
        (slope,) = torch.autograd.grad(path[-1].sum(), rho)
        expected = [math.prod(rate(normalisation, at) for at in column) for column in path[:-1].T.tolist()]
        assert torch.allclose(slope, torch.tensor(expected, dtype=torch.float64), atol=TOLERANCES["exact"])


def wide_network(rho, layers, after, device):
    """The correlation of pairs in a real ReLU network, layer by layer; `after` rescales (runs, batch, width)."""
    g = torch.Generator().manual_seed(0)
    x, z = torch.randn(2, 1500, 1024, generator=g)
    h = torch.stack([x, rho * x + math.sqrt(1 - rho**2) * z]).to(device)
    path = []
    for _ in range(layers):
        weight = torch.randn(1024, 1024, generator=g).to(device) / 32
        h = after(torch.relu(h @ weight))
        path.append(((h[0] * h[1]).mean() / (h[0] ** 2).mean()).item())
    return path


def test_he_is_what_rms_normalisation_does(device):
    found = wide_network(0.3, 4, lambda h: h / h.square().mean(-1, keepdim=True).sqrt(), device)
    expected = relu_depth(0.3, 4, "he")[1:].tolist()
    assert max(abs(a - b) for a, b in zip(found, expected, strict=True)) < TOLERANCES["simulation"]


def test_centred_is_what_batch_normalisation_does(device):
    def batch_norm(h):
        return (h - h.mean((0, 1))) / h.std((0, 1))

    found = wide_network(0.9, 4, batch_norm, device)
    expected = relu_depth(0.9, 4, "centred")[1:].tolist()
    assert max(abs(a - b) for a, b in zip(found, expected, strict=True)) < TOLERANCES["simulation"]


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_axes_dtype_and_device_are_kept_and_the_ends_do_not_leave_the_interval(normalisation, device):
    rho = torch.linspace(-1, 1, 6, device=device).reshape(2, 3)
    found = relu_depth(rho, 40, normalisation)
    assert (found.shape, found.dtype, found.device.type) == ((41, 2, 3), torch.float32, device.type)
    assert found.abs().max() <= 1
    assert relu_depth(RHO, 0, normalisation).equal(RHO[None])
    assert relu_depth(torch.tensor([0, 1]), 0).dtype == relu_step(torch.tensor(1)).dtype == torch.float64


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: relu_depth(0.5, 3, "batch"), "normalisation = 'batch' is unknown: choose from paper, he, centred"),
        (lambda: relu_depth(0.5, 0, "batch"), "normalisation = 'batch' is unknown"),
        (lambda: relu_depth(1.5, 3), r"rho = 1.5 is outside \[-1, 1\]"),
        (lambda: relu_depth(0.5, -1), "layers = -1: give the depth"),
        (lambda: fixed_point(order=0), "order = 0: give 1 for the linear map"),
        (lambda: rate(at=2), r"at = 2 is outside \[-1, 1\]"),
        (lambda: he_distance(0), "layers = 0: the law is about large depth"),
    ],
)
def test_bad_input_is_named_with_the_remedy(call, message):
    with pytest.raises(ValueError, match=message):
        call()

"""The four-moment recursion against random networks, closed forms and a slow twin."""

import math

import pytest
import torch

from nslab.propagation.agreement_table import AgreementTable
from nslab.propagation.architecture import Architecture
from nslab.propagation.moments import Moments
from nslab.propagation.recursion import attention_masses, propagate
from nslab.propagation.soft_votes import agreement_mass
from tests.propagation.networks import run

TOLERANCES = {
    "networks": 0.03,  # theory of infinite width against the mean of 24 networks of width 512
    "masses": 0.02,  # one attention layer of width 2048 and 64 sequences
    "table": 2e-4,  # 5 layers of a table that is accurate to 1e-5
    "exact": 1e-12,
    "printed": 6e-4,  # three printed digits
}
PUBLISHED = {  # m/q after layers 1-5; n = 16, d = 512, rho = 0.7: networks measured for the specification, 24 draws
    "none": (0.416, 0.546, 0.668, 0.742, 0.798),
    "scaled": (0.521, 0.466, 0.478, 0.525, 0.570),
}
PREDICTED = {
    "none": (0.412, 0.526, 0.644, 0.726, 0.782),
    "scaled": (0.512, 0.453, 0.472, 0.519, 0.571),
}


def c_map(c):
    return (math.sqrt(max(0, 1 - c * c)) + c * (math.pi - math.acos(max(-1, min(1, c))))) / math.pi


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def exchangeable(tokens, width, m, o, q, p, sequences, source):
    """Pairs of sequences (sequences, tokens, width) with the given moments, from common and private Gaussians."""

    def pair(within, cross):
        a, b = torch.randn(2, sequences, tokens if within == q - p else 1, width, generator=source)
        c = cross / within
        return math.sqrt(within) * a, math.sqrt(within) * (c * a + math.sqrt(1 - c * c) * b)

    (x, y), (common, common_twin) = pair(q - p, m - o), pair(p, o)
    return x + common, y + common_twin


@pytest.mark.parametrize("residual", ["none", "scaled"])
def test_the_recursion_meets_the_mean_of_24_networks(residual):
    found = run(24, 16, 512, 5, 0.7, generator=seeded(), residual=residual)
    measured = (found[:, 0] / found[:, 2]).mean(-1)[1:].double()
    theory = propagate(Moments.inputs(0.7), Architecture(16, 512, 5, residual=residual)).correlation[1:]
    assert (theory - measured).abs().max() < TOLERANCES["networks"]
    assert (theory - torch.tensor(PUBLISHED[residual], dtype=torch.float64)).abs().max() < TOLERANCES["networks"]
    assert (theory - torch.tensor(PREDICTED[residual], dtype=torch.float64)).abs().max() < 3e-3  # theirs: Monte Carlo


@pytest.mark.parametrize(
    ("residual", "norm", "scores"),
    [("pre-norm", "rms", "random"), ("scaled", "layer", "random"), ("none", "rms", "identity")],
)
def test_all_four_moments_with_norms_and_residuals_meet_networks(residual, norm, scores):
    found = run(16, 16, 512, 3, 0.7, generator=seeded(1), residual=residual, norm=norm, scores=scores).mean(-1)
    shape = Architecture(16, 512, 3, scores=scores, residual=residual, norm=norm)
    theory = torch.stack(propagate(Moments.inputs(0.7), shape).parts(), 1)
    assert ((theory - found).abs() / theory[:, 2:3]).max() < TOLERANCES["networks"]


def test_identity_scores_leave_the_mlp_alone_to_act():
    theory = propagate(Moments.inputs(0.7), Architecture(16, 512, 3, scores="identity")).correlation
    c = [0.7]
    for _ in range(3):
        c.append(c_map(c[-1]))
    assert (theory - torch.tensor(c, dtype=torch.float64)).abs().max() < TOLERANCES["printed"]
    assert torch.allclose(theory[1:], torch.tensor([0.750, 0.788, 0.818], dtype=torch.float64), atol=6e-4)


def test_the_recursion_is_what_a_scalar_loop_with_exact_masses_gives():
    n, d, q = 5, 64, 1.0
    m, o, p = 0.6, 0.1, 0.2
    shape = Architecture(n, d, 4, residual="scaled", score_scale=0.3, gain=0.8)
    fast = propagate(Moments(*(torch.tensor(v, dtype=torch.float64) for v in (m, o, q, p))), shape)
    for layer in range(1, 5):
        tau, ratio = 0.3 * math.sqrt(d * (1 - p / q)), (m - o) / (q - p)
        s, t, s_a, t_a = (agreement_mass(r, tau, n).item() for r in (m / q * ratio, o / q * ratio, 1.0, p / q))
        block = [s * m + (1 - s) * o, t * m + (1 - t) * o, s_a * q + (1 - s_a) * p, t_a * q + (1 - t_a) * p]
        m, o, q, p = ((old + 0.64 * new) / 2 for old, new in zip((m, o, q, p), block, strict=True))
        m, o, q, p = ((old + q * c_map(old / q)) / 2 for old in (m, o, q, p))
        slow = torch.tensor([m, o, q, p], dtype=torch.float64)
        assert (torch.stack(fast[layer].parts()) - slow).abs().max() < TOLERANCES["table"]


@pytest.mark.parametrize(
    ("scores", "scale", "state"),
    [
        ("random", 1.0, (0.6, 0.2, 1.0, 0.3)),
        ("random", 0.05, (0.6, 0.2, 1.0, 0.3)),
        ("identity", 1.0, (0.95, 0.85, 1.0, 0.9)),  # collapsed so far that the diagonal leaks
        ("uniform", 1.0, (0.6, 0.2, 1.0, 0.3)),
    ],
)
def test_agreement_masses_are_those_of_attention_on_gaussian_tokens(scores, scale, state):
    n, d, source = 8, 2048, seeded(2)
    m, o, q, p = state
    x, y = exchangeable(n, d, m, o, q, p, 64, source)

    def weights(h, w):
        return torch.softmax(h @ w @ h.mT / (math.sqrt(d) * q) if scores != "uniform" else 0 * (h @ h.mT), -1)

    def masses(a, b):
        every = a @ b.mT  # (sequences, i, j)
        same = every.diagonal(dim1=-2, dim2=-1).mean().item()
        return same, (every.mean().item() * n - same) / (n - 1)

    found = torch.zeros(4)
    for _ in range(2):
        w = scale * (torch.randn(d, d, generator=source) if scores == "random" else torch.eye(d))
        a, b = weights(x, w), weights(y, w)
        found += torch.tensor([*masses(a, b), *masses(a, a)]) / 2
    shape = Architecture(n, d, 1, scores=scores, score_scale=scale)
    theory = attention_masses(Moments(*(torch.tensor(v, dtype=torch.float64) for v in state)), shape)
    theory = torch.stack([theory.s, theory.t, theory.s_a, theory.t_a])
    assert (theory - found).abs().max() < TOLERANCES["masses"]


def test_two_hard_votes_agree_as_sheppards_formula_says():
    rho = torch.linspace(-0.9, 0.9, 7, dtype=torch.float64)
    masses = attention_masses(Moments.inputs(rho), Architecture(2, 10**8, 1))
    assert (masses.s - (1 - torch.acos(rho**2) / math.pi)).abs().max() < 1e-3  # as hard as a spread of 10^4
    assert (masses.t - 0.5).abs().max() < 1e-4
    assert (masses.s_a - 1).abs().max() < 1e-3


def test_a_residual_that_adds_grows_the_signal_by_one_unit_a_block():
    shape = Architecture(16, 512, 4, scores="identity", residual="pre-norm", norm="rms")
    q = propagate(Moments.inputs(0.7), shape).q
    assert (q - torch.tensor([1.0, 3, 5, 7, 9], dtype=torch.float64)).abs().max() < 1e-3


def test_raw_stability_dies_while_the_correlation_rises():
    deep = propagate(Moments.inputs(0.7), Architecture(16, 512, 24, gain=0.7))
    assert deep.m[-1] < 1e-6
    assert bool((deep.correlation[2:] > deep.correlation[1:-1]).all())
    assert deep.correlation[-1] > 0.9
    unit = propagate(Moments.inputs(0.7), Architecture(16, 512, 24))
    assert torch.allclose(deep.correlation, unit.correlation, atol=1e-9)
    assert torch.allclose(deep.m, unit.m * 0.49 ** torch.arange(25, dtype=torch.float64), rtol=1e-9, atol=0)


def test_every_relu_map_without_a_norm_is_homogeneous():
    shape = Architecture(16, 512, 4, residual="scaled")
    small, large = (propagate(Moments.inputs(0.4).each(lambda part, c=c: c * part), shape) for c in (1, 50))
    assert torch.allclose(large.m, 50 * small.m, rtol=1e-9)


def test_depth_is_stable_up_to_collapse():
    for dtype in (torch.float32, torch.float64):
        rho = torch.linspace(0, 1, 11, dtype=dtype)
        deep = propagate(Moments.inputs(rho), Architecture(16, 512, 300))
        assert deep.m.dtype == dtype
        assert deep.m.shape == (301, 11)
        deep.check(16, layers=True)
        assert (1 - deep.correlation[-1, 0]) * 300**2 == pytest.approx(
            9 * math.pi**2 / 2, rel=0.15
        )  # the C-map's 44/L²
        assert deep.correlation[:, -1].min() > 1 - 1e-4


def test_both_norms_are_one_map_and_change_no_ratio_without_a_residual():
    plain, rms, layer = (
        propagate(Moments.inputs(0.6), Architecture(16, 512, 4, norm=norm)) for norm in ("none", "rms", "layer")
    )
    assert rms.q.equal(layer.q)
    assert torch.allclose(rms.correlation, plain.correlation, rtol=1e-9)


@pytest.mark.parametrize("mlp", ["gelu", "tanh", "quadratic"])
def test_other_activations_keep_the_scale_behind_a_norm(mlp):
    shape = Architecture(4, 64, 1, scores="identity", norm="rms", mlp=mlp)
    out = propagate(Moments.inputs(0.5), shape)[1]
    f = {"gelu": torch.nn.functional.gelu, "tanh": torch.tanh, "quadratic": torch.square}[mlp]
    u, v = torch.randn(2, 10**6, generator=seeded(3), dtype=torch.float64)
    v = 0.5 * u + math.sqrt(0.75) * v
    expected = (f(u) * f(v)).mean() / f(u).square().mean()
    assert out.q.item() == pytest.approx(1, abs=2e-3)
    assert out.m.item() == pytest.approx(expected.item(), abs=0.01)


def test_a_linear_mlp_is_none():
    linear, none = (propagate(Moments.inputs(0.5), Architecture(4, 64, 2, mlp=mlp)) for mlp in ("linear", "none"))
    assert torch.allclose(linear.m, none.m, rtol=1e-12)


def test_gains_and_score_scales_may_differ_by_layer_and_by_batch():
    rho = torch.tensor([0.3, 0.8], dtype=torch.float64)
    gains, scales = torch.tensor([0.5, 2.0]), torch.tensor([[[0.1], [1.0]], [[1.0], [0.2]]], dtype=torch.float64)
    found = propagate(Moments.inputs(rho), Architecture(8, 64, 2), gain=gains.double(), score_scale=scales)
    assert found.m.shape == (3, 2, 2)
    for batch in (0, 1):
        state = Moments.inputs(rho)
        for number in (0, 1):
            shape = Architecture(8, 64, 1, gain=float(gains[number]), score_scale=float(scales[number, batch, 0]))
            state = propagate(state, shape)[1]
            assert torch.allclose(found[number + 1].m[batch], state.m, rtol=1e-10)


def test_gradients_are_those_of_finite_differences():
    shape = Architecture(4, 16, 3, residual="scaled")
    values = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (0.5, 0.1, 1.1, 0.2, 0.9, 0.4)]

    def last(m, o, q, p, gain, scale):
        return torch.stack(propagate(Moments(m, o, q, p), shape, gain=gain, score_scale=scale)[-1].parts())

    assert torch.autograd.gradcheck(last, values, atol=1e-6)


def test_device_and_dtype_are_kept(device):
    rho = torch.linspace(0, 1, 5, device=device)
    found = propagate(Moments.inputs(rho), Architecture(4, 64, 2, residual="pre-norm", norm="rms"))
    assert found.m.device.type == device.type
    assert found.m.dtype == torch.float32
    on_cpu = propagate(Moments.inputs(rho.cpu()), Architecture(4, 64, 2, residual="pre-norm", norm="rms"))
    assert torch.allclose(found.m.cpu(), on_cpu.m, atol=1e-5)


def test_what_cannot_be_propagated_is_refused_with_the_remedy():
    start, shape = Moments.inputs(0.5), Architecture(4, 64, 2)
    with pytest.raises(ValueError, match="use propagate_causal"):
        propagate(start, Architecture(4, 64, 2, causal=True))
    with pytest.raises(ValueError, match=r"gain has shape \(3,\): its first axis is the layer, 2 of them"):
        propagate(start, shape, gain=torch.ones(3))
    with pytest.raises(ValueError, match="layer 1: the smallest moments are m 0, o 0, q 0, p 0"):
        propagate(start, shape, gain=0.0)
    with pytest.raises(ValueError, match="layer 2: the smallest moments are m nan"):
        propagate(start, shape, gain=torch.tensor([1.0, math.nan], dtype=torch.float64))
    with pytest.raises(
        ValueError, match=r"table is for tokens = 8 and the architecture has 4: .*AgreementTable\.of\(4\)"
    ):
        propagate(start, shape, table=AgreementTable.of(8))
    with pytest.raises(ValueError, match="no 4 Gaussian tokens"):
        propagate(Moments(start.m, start.m, start.q, start.p), shape)

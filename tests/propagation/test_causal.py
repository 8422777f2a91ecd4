"""The recursion under a causal mask: every pair of positions, against algebra and against networks."""

import math

import pytest
import torch

from nslab.propagation.architecture import Architecture
from nslab.propagation.causal import propagate_causal
from nslab.propagation.moments import Moments
from nslab.propagation.recursion import attention_masses, propagate
from tests.propagation.networks import run

TOLERANCES = {"networks": 0.03, "exact": 1e-12, "table": 3e-5, "single": 1e-4}
RHO = torch.tensor([0.2, 0.9])
MASKED = {"tokens": 8, "width": 512, "layers": 4, "causal": True}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    "choice",
    [
        {"residual": "scaled", "norm": "rms"},
        {"residual": "pre-norm", "norm": "rms"},
        {"residual": "scaled", "score_scale": 1 / math.sqrt(512)},
        {"residual": "scaled", "norm": "rms", "scores": "identity"},
        {"layers": 2},
    ],
)
def test_position_averages_meet_the_mean_of_16_networks(choice):
    shape = Architecture(**MASKED | choice)
    theory = torch.stack(propagate_causal(Moments.inputs(0.7), shape).average().parts(), 1)[..., 0]
    found = run(16, 8, 512, shape.layers, 0.7, generator=seeded(), pairs=8, scores=shape.scores,
                scale=shape.score_scale, residual=shape.residual, norm=shape.norm, causal=True).mean(-1)  # fmt: skip
    assert ((theory - found).abs() / theory[:, 2:3]).max() < TOLERANCES["networks"]


def test_uniform_attention_is_a_running_mean_of_tokens():
    n = 6
    shape = Architecture(n, 64, 2, scores="uniform", mlp="none", causal=True)
    found = propagate_causal(Moments.inputs(0.3), shape)
    mean = torch.tensor([[1 / (i + 1) if k <= i else 0.0 for k in range(n)] for i in range(n)], dtype=torch.float64)
    twice = mean @ mean
    assert (found.within[2, ..., 0] - twice @ twice.T).abs().max() < TOLERANCES["exact"]
    assert (found.cross[2, ..., 0] - 0.3 * twice @ twice.T).abs().max() < TOLERANCES["exact"]


def test_votes_in_the_first_layer_are_votes_among_the_tokens_that_are_seen():
    rho, d = 0.6, 256
    found = propagate_causal(Moments.inputs(rho), Architecture(5, d, 1, mlp="none", causal=True)).cross[1, ..., 0]
    for n in (2, 5):  # position n - 1 votes as any token of n does without a mask
        s = attention_masses(Moments.inputs(rho), Architecture(n, d, 1)).s.item()
        assert found[n - 1, n - 1].item() == pytest.approx(s * rho, abs=TOLERANCES["table"])
    t = attention_masses(Moments.inputs(rho), Architecture(2, d, 1)).t.item()  # independent votes: 1/2
    assert found[1, 4].item() == pytest.approx(rho * t * 2 / 5, abs=TOLERANCES["table"])


def test_the_first_position_feels_no_attention_and_later_ones_lose_more():
    rho = torch.linspace(0.1, 0.9, 5, dtype=torch.float64)
    c = propagate_causal(Moments.inputs(rho), Architecture(8, 512, 3, causal=True)).correlation
    alone = propagate(Moments.inputs(rho), Architecture(1, 512, 3)).correlation
    assert c.shape == (4, 8, 5)
    assert torch.allclose(c[:, 0], alone, atol=1e-9)
    assert bool((c[1].diff(dim=0) < 0).all())


def test_moments_stay_those_of_a_gaussian_at_every_pair_of_positions():
    found = propagate_causal(Moments.inputs(torch.tensor([0.2, 0.9])), Architecture(8, 64, 6, causal=True))
    cross, within = (part.movedim(-1, 1).double() for part in (found.cross, found.within))
    whole = torch.cat([torch.cat([within, cross], -1), torch.cat([cross, within], -1)], -2)
    assert torch.linalg.eigvalsh(whole).min() > -0.02  # votes are approximate; the covariance nearly stays one
    found.average().check(layers=True)


def test_batches_and_settings_of_each_layer_go_through_alone():
    shape = Architecture(4, 64, 2, residual="scaled", causal=True)
    rho = torch.tensor([0.3, 0.8], dtype=torch.float64)
    gain = torch.tensor([[[0.5, 0.5]], [[1.0, 1.0]]], dtype=torch.float64)
    both = propagate_causal(Moments.inputs(rho[None].expand(3, 2)), shape, gain=gain)
    assert both.cross.shape == (3, 3, 4, 4, 2)
    one = propagate_causal(Moments.inputs(0.8), shape, gain=gain[:, 0, 0])
    assert torch.allclose(both.cross[:, 1, ..., 1], one.cross[..., 0], rtol=1e-10)
    new = propagate_causal(Moments.inputs(rho), shape, gain=gain.expand(2, 3, 2))  # a batch that only the gain has
    assert torch.equal(new.cross, both.cross)


def test_it_is_differentiable():
    shape = Architecture(3, 16, 2, residual="scaled", causal=True)
    values = [torch.tensor([v], dtype=torch.float64, requires_grad=True) for v in (0.5, 0.1, 1.1, 0.2)]

    def last(m, o, q, p):
        return propagate_causal(Moments(m, o, q, p), shape).cross[-1]

    assert torch.autograd.gradcheck(last, values, atol=1e-6)


def test_a_signal_that_fades_keeps_its_correlations_in_single_precision():
    """q falls to 1e-31 here: a product of two q is 0 in single precision."""
    shape = Architecture(4, 64, 30, gain=0.3, causal=True)
    double, single = (
        propagate_causal(Moments.inputs(RHO.to(dtype)), shape) for dtype in (torch.float64, torch.float32)
    )
    assert (single.correlation - double.correlation).abs().max() < TOLERANCES["single"]


def test_single_precision_loses_no_slope_where_both_runs_are_one():
    found = []
    for dtype in (torch.float64, torch.float32):
        rho = torch.ones(1, dtype=dtype, requires_grad=True)
        last = propagate_causal(Moments.inputs(rho), Architecture(4, 64, 3, causal=True)).average().correlation[-1]
        found.append(torch.autograd.grad(last.sum(), rho)[0].item())
    assert found[1] == pytest.approx(found[0], rel=1e-3)


def test_bad_requests_are_refused():
    start = Moments.inputs(0.5)
    with pytest.raises(ValueError, match="use propagate, or causal = True"):
        propagate_causal(start, Architecture(4, 64, 1))
    with pytest.raises(ValueError, match="layer 1: a moment is not finite or a q not positive"):
        propagate_causal(start, Architecture(4, 64, 2, causal=True, gain=0, residual="none"))

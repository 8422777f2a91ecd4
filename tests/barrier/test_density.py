"""The log-density against the whole Jacobian by automatic differentiation, SciPy's Gaussians, and areas on the line."""

import math

import pytest
import torch
from scipy import integrate, stats

from nslab.barrier.blocks import jacobian_blocks
from nslab.barrier.density import density_parts, log_density
from nslab.barrier.stability_margins import block_margins

EXACT = 1e-12


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def slow_noise(u, scores, values):
    """The residual map, token by token."""
    rows = [u[0]]
    for i in range(1, len(u)):
        weights = torch.softmax(torch.stack([u[s] @ scores @ u[i] for s in range(i)]), 0)
        rows.append(u[i] - values @ sum(weights[s] * u[s] for s in range(i)))
    return torch.stack(rows)


@pytest.mark.parametrize("mapped", [False, True])
def test_the_density_is_that_of_the_noise_times_the_whole_jacobian(mapped):
    """The n p x n p Jacobian by automatic differentiation; its off-diagonal blocks do not enter."""
    for seed in range(5):
        u, scores, sigma = normal(6, 3, seed=seed), 2 * normal(3, 3, seed=10 + seed), 0.7
        values = normal(3, 3, seed=20 + seed) if mapped else torch.eye(3, dtype=torch.float64)
        whole = torch.autograd.functional.jacobian(lambda x, a=scores, m=values: slow_noise(x, a, m), u)
        volume = torch.linalg.slogdet(whole.reshape(18, 18))[1]
        noise = slow_noise(u, scores, values).numpy().ravel()
        expected = stats.multivariate_normal(None, sigma**2).logpdf(noise[:, None]).sum() + float(volume)
        given = {"values": values} if mapped else {}
        assert float(log_density(u, scores, sigma, **given)) == pytest.approx(expected, abs=1e-10)
        without = log_density(u, scores, sigma, jacobian=False, **given)
        assert float(without) == pytest.approx(expected - float(volume), abs=1e-10)


def test_two_tokens_are_a_gaussian_whatever_the_scores():
    """u_1 is noise, u_2 is u_1 plus noise: covariance sigma^2 (1 1; 1 2)."""
    u, sigma = normal(50, 2, 1), 1.3
    expected = stats.multivariate_normal([0, 0], [[sigma**2, sigma**2], [sigma**2, 2 * sigma**2]]).logpdf(u[..., 0])
    found = log_density(u, torch.tensor([[7.0]], dtype=torch.float64), sigma)
    assert torch.allclose(found, torch.as_tensor(expected), atol=EXACT)


def third(u, a, sigma):
    """exp of what a third token at u (points,) adds after -1 and 1, and the sign of its determinant."""
    x = torch.stack([-torch.ones_like(u), torch.ones_like(u), u], 1)[..., None]
    scores = torch.tensor([[a]], dtype=torch.float64)
    sign = block_margins(jacobian_blocks(x, scores)).sign[:, 2]
    return density_parts(x, scores, sigma).log_density[:, 2].exp(), sign


def fold(a):
    """The fold of u - tanh(a u), and the noise there."""
    place = math.acosh(math.sqrt(a)) / a if a > 1 else 0.0
    return place, math.tanh(a * place) - place


@pytest.mark.parametrize("a", [-3.0, 0.5, 1.0, 1.5, 2.0, 4.0])
def test_the_area_is_1_until_a_is_1_and_then_the_expected_number_of_preimages(a):
    """Z = 1 + 2 erf(eps_c / (sigma sqrt 2)); with the sign of the determinant the area is always 1."""
    sigma = 0.5
    place, noise = fold(a)
    area = signed = 0.0
    for low, high in ((-6.0, -place), (-place, place), (place, 6.0)):  # smooth between the folds
        u = torch.linspace(low, high, 2001, dtype=torch.float64)
        density, _ = third(u, a, sigma)
        density = density.where(density > 0, 0)  # exactly on a fold
        piece = integrate.simpson(density.numpy(), x=u.numpy()) if low < high else 0.0
        area, signed = area + piece, signed + piece * float(third(u[1000:1001], a, sigma)[1])
    expected = 1 + 2 * math.erf(noise / (sigma * math.sqrt(2)))
    assert area == pytest.approx(expected, abs=1e-6)
    assert signed == pytest.approx(1, abs=1e-6)
    assert (expected == 1) == (a <= 1)
    if a == 2:
        assert expected == pytest.approx(1.811711, abs=1e-6)


@pytest.mark.parametrize("a", [-3.0, 0.8])
def test_the_mean_barrier_is_the_entropy_that_attention_adds(a):
    """h(u_3 | past) = h(noise) + E[b_3], the left side by quadrature of -p log p."""
    sigma = 0.6
    u = torch.linspace(-6, 6, 4001, dtype=torch.float64)
    x = torch.stack([-torch.ones_like(u), torch.ones_like(u), u], 1)[..., None]
    parts = density_parts(x, torch.tensor([[a]], dtype=torch.float64), sigma)
    log_p, barrier = parts.log_density[:, 2], parts.barrier[:, 2]
    entropy = -torch.trapezoid(log_p.exp() * log_p, u)
    added = torch.trapezoid(log_p.exp() * barrier, u)
    noise = 0.5 * math.log(2 * math.pi * math.e * sigma**2)
    assert float(entropy) == pytest.approx(noise + float(added), abs=1e-9)
    assert (added > 0) == (a > 0)  # what attracts spreads tokens out, what repels holds them together


def test_the_parts_add_up_and_known_margins_are_not_computed_again():
    u, scores = normal(4, 5, 3), normal(3, 3, seed=1)
    parts = density_parts(u, scores, 0.9)
    assert torch.allclose(parts.log_density.sum(-1), log_density(u, scores, 0.9), atol=EXACT)
    margins = block_margins(jacobian_blocks(u, scores))
    assert torch.equal(log_density(u, scores, 0.9, margins=margins), log_density(u, scores, 0.9))
    doubled = block_margins(2 * jacobian_blocks(u, scores))  # taken at its word: 5 tokens, 3 log 2 each
    more = log_density(u, scores, 0.9, margins=doubled) - log_density(u, scores, 0.9)
    assert torch.allclose(more, torch.full_like(more, 15 * math.log(2)))
    assert torch.allclose(parts.mean_barrier, margins.barrier.mean(-1))
    assert not parts.barrier[:, :2].any()  # positions 0 and 1


def test_gradients_are_those_of_differences():
    u, scores = normal(4, 2).requires_grad_(), (0.4 * normal(2, 2, seed=1)).requires_grad_()
    assert torch.autograd.gradcheck(lambda u, a: log_density(u, a, 0.8), (u, scores))


def test_on_the_boundary_and_in_short_sequences_nothing_is_nan(device):
    u = torch.tensor([[1.0], [-1.0], [0.0]], device=device)
    one = torch.ones(1, 1, device=device)  # a = 1 and an undecided query: det J = 0
    parts = density_parts(u, one, 1.0)
    assert parts.barrier.tolist() == [0, 0, math.inf]
    assert float(log_density(u, one, 1.0)) == -math.inf
    empty = density_parts(u[:0], one, 1.0)
    assert float(empty.log_density.sum()) == 0
    assert float(empty.mean_barrier) == 0


def test_half_precision_is_upcast():
    u, scores = normal(4, 6, 8).bfloat16(), torch.eye(8).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = log_density(u, scores, 1.0)
    assert found.dtype == torch.float32
    assert torch.equal(found, log_density(u.float(), scores.float(), 1.0))


def test_bad_input_is_refused_with_the_remedy():
    u, scores = normal(5, 2), torch.eye(2, dtype=torch.float64)
    for sigma in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match=f"sigma is {sigma}: the noise needs a positive standard deviation"):
            log_density(u, scores, sigma)
    margins = block_margins(jacobian_blocks(u, scores, rows=torch.tensor([3, 4])))
    with pytest.raises(ValueError, match=r"margins has shape \(2,\), the sequences \(5,\): give the margins of all"):
        log_density(u, scores, 1.0, margins=margins)
    with pytest.raises(ValueError, match="square"):
        log_density(u, torch.ones(2, 3, dtype=torch.float64), 1.0)
    u[3, 0] = math.nan
    with pytest.raises(ValueError, match="position 3"):
        log_density(u, scores, 1.0)

"""Consistency of words by enumeration, of embeddings by quadrature; the sampler against integrated densities."""

import functools
import math

import numpy as np
import pytest
import torch
from scipy import integrate, optimize, stats

from nslab.barrier.blocks import jacobian_blocks, residuals
from nslab.barrier.density import density_parts, log_density
from nslab.barrier.process import (
    AttentionWords,
    consistency_gap,
    consistent_for_every_past,
    next_token_area,
    sample_process,
    solve_token,
    word_law,
)
from nslab.barrier.stability_margins import diameter, safe_temperature

ROUNDING = 1e-14
PAIR = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=generator(seed))


def score(a):
    return torch.tensor([[a]], dtype=torch.float64)


def kernel(**switches):
    return AttentionWords(normal(3, 4), normal(4, 4, seed=1), normal(6, 4, seed=2), **switches)


def test_the_law_of_words_is_the_product_of_its_kernels():
    """Two words written out, with the attention of the second slot over one word: all weight on it."""
    law, k = word_law(kernel(), 3, 2), kernel()
    first = (k.positions[0] @ k.embedding.T).softmax(-1)  # an empty past has mean 0
    for w in range(3):
        mean = k.embedding[w] + k.positions[0]
        second = ((mean + k.positions[1]) @ k.embedding.T).softmax(-1)
        assert torch.allclose(law[w], first[w] * second, atol=ROUNDING)


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5])
def test_marginalising_a_word_gives_the_law_of_one_word_fewer(length):
    assert float(consistency_gap(kernel(), 3, length)) < ROUNDING
    assert float(word_law(kernel(), 3, length).sum()) == pytest.approx(1, abs=ROUNDING)


def test_any_set_of_positions_has_one_law():
    """The law of words 1 and 3 is the same out of three words and out of five: the family is projective."""
    short, long = word_law(kernel(), 3, 3), word_law(kernel(), 3, 5)
    assert torch.allclose(short.sum(1), long.sum((1, 3, 4)), atol=ROUNDING)


@pytest.mark.parametrize("switch", [{"causal": False}, {"from_end": True}])
def test_a_kernel_that_knows_the_final_length_has_laws_that_do_not_fit(switch):
    for length in (1, 2, 3):
        law = word_law(kernel(**switch), 3, length)
        assert float(law.sum()) == pytest.approx(1, abs=ROUNDING)  # each is a law
        gap = float(consistency_gap(kernel(**switch), 3, length))
        slow = abs(word_law(kernel(**switch), 3, length + 1).numpy().sum(-1) - law.numpy()).sum() / 2
        assert gap == pytest.approx(slow, abs=ROUNDING)
        assert gap > 0.01


AREAS = [(0.7, 0.5, 0.0), (2.0, 0.5, 0.0), (2.0, 0.5, 0.3), (4.0, 1.0, -1.0)]


@pytest.mark.parametrize(("a", "sigma", "shift"), AREAS)
def test_the_area_of_the_next_token_after_two(a, sigma, shift):
    """Past -1 and 1, moved: mu(u) = shift + tanh(a u), so noise within eps_c of -shift has three tokens."""
    place = math.acosh(math.sqrt(a)) / a if a > 1 else 0.0
    noise = math.tanh(a * place) - place
    law = stats.norm(0, sigma)
    expected = 1 + 2 * (law.cdf(noise - shift) - law.cdf(-noise - shift))
    areas = next_token_area(torch.stack([PAIR + shift, PAIR]), score(a), sigma)
    assert float(areas[0]) == pytest.approx(expected, abs=1e-5)
    assert torch.equal(areas[1], next_token_area(PAIR, score(a), sigma))


def integral(past, a, sigma):
    """exp of the log-density of one more token, by Simpson's rule on a fine grid."""
    u = torch.linspace(-12, 12, 20_001, dtype=torch.float64)
    x = torch.cat([past.expand(len(u), -1, -1), u[:, None, None]], 1)
    return integrate.simpson(density_parts(x, score(a), sigma).log_density[:, -1].exp(), x=u)


@pytest.mark.parametrize("a", [-1.0, 3.0])
def test_the_area_after_four_tokens_is_the_integral_of_the_density(a):
    past, sigma = 1.5 * normal(4, 1), 0.4
    area = integral(past, a, sigma)
    assert float(next_token_area(past, score(a), sigma)) == pytest.approx(area, abs=1e-4)
    assert (area > 1.01) == (a > 0)
    for short in (past[:0], past[:1]):
        assert float(next_token_area(short, score(9.0), sigma)) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("a", [1e4, 1e6])
def test_hard_attention_is_counted_to_two_thousandths(a):
    """Past -1 and 1 with noise as wide, as in the magnet: the fold lies between two points of the grid."""
    place = math.asinh(math.sqrt(a - 1)) / a
    expected = 1 + 2 * math.erf((math.tanh(a * place) - place) / math.sqrt(2))
    assert 0 <= expected - float(next_token_area(PAIR, score(a), 1.0)) < 2.5e-3


@functools.cache
def cube(a, sigma, points, reach):
    """exp of the log-density of three tokens on a grid, with the grid."""
    x = torch.linspace(-reach, reach, points, dtype=torch.float64)
    grid = torch.cartesian_prod(x, x, x)
    scores = score(a)
    log_p = torch.cat([log_density(part[..., None], scores, sigma) for part in grid.split(200_000)])
    return x, log_p.exp().view(points, points, points)


def test_where_attention_repels_the_laws_of_two_and_three_tokens_fit():
    sigma = 0.8
    x, three = cube(-1.0, sigma, points=61, reach=5.5)
    step = float(x[1] - x[0])
    two = log_density(torch.cartesian_prod(x, x)[..., None], score(-1.0), sigma).exp().view(61, 61)
    assert float(three.sum()) * step**3 == pytest.approx(1, abs=1e-5)
    inner = x.abs() <= 3  # the third token has its tails inside the grid there
    assert torch.allclose((three.sum(-1) * step)[inner][:, inner], two[inner][:, inner], atol=1e-6)


def test_where_attention_attracts_they_do_not():
    """a = 2: marginalising u_3 gives Z(u_1, u_2) p(u_1, u_2), and all three integrate to E Z > 1."""
    a, sigma = 2.0, 1.0
    u = torch.linspace(-12, 12, 20_001, dtype=torch.float64)
    for u_1, u_2 in ((0.5, -0.5), (1.0, -1.5), (-2.0, 2.0)):
        pair = torch.tensor([[u_1], [u_2]], dtype=torch.float64)
        x = torch.cat([pair.expand(len(u), 2, 1), u[:, None, None]], 1)
        marginal = integrate.simpson(log_density(x, score(a), sigma).exp(), x=u)
        ratio = marginal / math.exp(float(log_density(pair, score(a), sigma)))
        assert ratio == pytest.approx(float(next_token_area(pair, score(a), sigma)), abs=1e-4)
        assert (ratio > 1.01) == (a * (u_1 - u_2) ** 2 > 4)
    x, three = cube(a, sigma, points=41, reach=7.0)  # against E Z over the Gaussian pair (u_1, u_1 + noise)
    step = float(x[1] - x[0])
    u_1, u_2 = torch.cartesian_prod(x, x).T
    weight = torch.as_tensor(stats.norm.pdf(u_1, 0, sigma) * stats.norm.pdf(u_2, u_1, sigma)) * step**2
    kept = weight > 1e-6
    pairs = torch.stack([u_1, u_2], 1)[kept][..., None]
    total = float((next_token_area(pairs, score(a), sigma) * weight[kept]).sum())
    assert float(three.sum()) * step**3 == pytest.approx(total, abs=2e-3)
    assert total > 1.02


@pytest.mark.parametrize("seed", range(20))
def test_consistency_for_every_past_is_a_matter_of_the_symmetric_part(seed):
    """No positive eigenvalue: all determinants are at least 1. One: tokens far apart along it turn the sign."""
    turn, half = normal(3, 3, seed=seed), normal(3, 3, seed=100 + seed)
    repel = -(half @ half.T) + 3 * (turn - turn.T)
    assert consistent_for_every_past(repel)
    blocks = jacobian_blocks(2 * normal(100, 6, 3, seed=200 + seed), repel)
    assert float(torch.linalg.det(blocks).min()) >= 1 - 1e-9
    attract = repel + 0.1 * torch.eye(3) + torch.outer(half[0], half[0]) * float(torch.linalg.matrix_norm(repel, 2))
    values, vectors = torch.linalg.eigh((attract + attract.T) / 2)
    if values[-1] > 0:
        assert not consistent_for_every_past(attract)
        delta = vectors[:, -1] * math.sqrt(5 / float(values[-1]))  # kappa = 5
        u = torch.stack([delta / 2, -delta / 2, torch.zeros(3, dtype=torch.float64)])
        assert float(torch.linalg.det(jacobian_blocks(u, attract)[-1])) == pytest.approx(1 - 5 / 4)
    assert not consistent_for_every_past(1e-6 * torch.eye(2))  # however small
    assert consistent_for_every_past(torch.zeros(2, 2))
    key, query = normal(8, 8, seed=seed).float(), normal(8, 8, seed=300 + seed).float()
    skew = torch.cat([key, query]).T @ torch.cat([query, -key])  # a symmetric part of rounding alone
    assert consistent_for_every_past(skew)


@pytest.mark.parametrize(("width", "strength"), [(1, 3.0), (1, -3.0), (3, 2.0), (8, 1.0)])
def test_draws_give_their_noise_back(width, strength, device):
    scores = strength * (torch.eye(width) + 0.3 * normal(width, width)).double().to(device)
    draws = sample_process(scores, 0.7, 6, 60, generator=torch.Generator(device).manual_seed(1))
    assert draws.words is None
    assert float((residuals(draws.embeddings, scores) - draws.noise).abs().max()) < 1e-11
    assert float(draws.noise.std()) == pytest.approx(0.7, rel=0.15)  # of 360 numbers at least


def law_of(density, grid):
    """The distribution function of a density on a grid, and its whole area."""
    cumulative = integrate.cumulative_trapezoid(density, grid, initial=0)
    return (lambda u: np.interp(u, grid, cumulative)), cumulative[-1]


def third_density(a, sigma, grid):
    x = torch.stack([-torch.ones_like(grid), torch.ones_like(grid), grid], 1)[..., None]
    return density_parts(x, score(a), sigma).log_density[:, 2].exp()


@pytest.mark.parametrize("a", [-2.0, 0.9])
def test_with_one_solution_the_draws_have_the_density(a):
    """20,000 third tokens after -1 and 1 against the integrated log-density: Kolmogorov-Smirnov."""
    sigma, grid = 0.5, torch.linspace(-5, 5, 20_001, dtype=torch.float64)
    noise = sigma * normal(20_000, 1, seed=3)
    u = solve_token(PAIR.expand(20_000, 2, 1), noise, score(a))[:, 0]
    law, area = law_of(third_density(a, sigma, grid), grid)
    assert area == pytest.approx(1, abs=1e-7)
    assert stats.kstest(u.numpy(), law).pvalue > 0.01
    off, _ = law_of(torch.exp(-(grid**2) / 2 / sigma**2) / (sigma * math.sqrt(2 * math.pi)), grid)
    assert stats.kstest(u.numpy(), off).pvalue < 1e-6  # the test can tell


def test_with_three_solutions_the_draws_have_the_density_of_the_tokens_that_are_taken():
    """a = 2, from the right: the rightmost solution. It lies right of u*, or left of where the lower branch begins."""
    a, sigma, place = 2.0, 0.5, math.acosh(math.sqrt(2)) / 2
    critical = math.tanh(a * place) - place
    noise = sigma * normal(10_000, 1, seed=4)
    far = torch.full((10_000, 1), 5.0, dtype=torch.float64)
    u = solve_token(PAIR.expand(10_000, 2, 1), noise, score(a), start=far)[:, 0]
    left = optimize.brentq(lambda u: u - math.tanh(a * u) + critical, -3, -place - 0.01)
    assert not bool(((u > left + 1e-6) & (u < place - 1e-6)).any())
    grid = torch.linspace(-5, 5, 40_001, dtype=torch.float64)
    taken = third_density(a, sigma, grid) * ((grid > place) | (grid < left))
    law, area = law_of(taken, grid)
    assert area == pytest.approx(1, abs=1e-3)  # all of them have Z = 1.81
    assert stats.kstest(u.numpy(), law).pvalue > 0.01


def test_below_the_safe_temperature_every_start_finds_the_same_token():
    past, noise = normal(40, 5, 3), normal(40, 3, seed=1)
    scores = normal(3, 3, seed=2)
    factor = safe_temperature(scores, diameter(torch.cat([past, noise[:, None]], 1))[:, -1]).min()
    found = solve_token(past, noise, 0.99 * factor * scores)
    for seed in range(5):
        start = 10 * normal(40, 3, seed=10 + seed)
        assert torch.allclose(solve_token(past, noise, 0.99 * factor * scores, start=start), found, atol=1e-10)
    iterated = noise.clone()  # and so does plain iteration, which contracts
    for _ in range(3000):
        weights = torch.einsum("bsi,ij,bj->bs", past, 0.5 * factor * scores, iterated).softmax(-1)
        iterated = torch.einsum("bs,bsi->bi", weights, past) + noise
    assert torch.allclose(solve_token(past, noise, 0.5 * factor * scores), iterated, atol=1e-10)


def test_moments_of_three_tokens_that_repel_are_those_of_the_density():
    sigma = 0.8
    x, three = cube(-1.0, sigma, points=61, reach=5.5)
    law = three / three.sum()
    draws = sample_process(score(-1.0), sigma, 3, 40_000, generator=generator(5)).embeddings[..., 0]
    for first, last in ((0, 2), (1, 2), (2, 2)):
        one = x.view([-1 if axis == first else 1 for axis in range(3)])
        other = x.view([-1 if axis == last else 1 for axis in range(3)])
        expected = float((law * one * other).sum())
        products = draws[:, first] * draws[:, last]
        assert abs(float(products.mean()) - expected) < 4 * float(products.std()) / 200


def test_words_follow_their_embeddings():
    """Two words of two: P(w) = E prod sigmoid(+-(u_i + 1/2)) over the Gaussian pair, by quadrature."""

    def decoder(u):
        yes = torch.sigmoid(u[:, -1] + 0.5)
        return torch.cat([1 - yes, yes], 1)

    sigma, count = 1.0, 20_000
    words = sample_process(score(1.0), sigma, 2, count, decoder=decoder, generator=generator(6)).words
    x = torch.linspace(-12, 12, 601, dtype=torch.float64)
    weight = torch.exp(-(x[:, None] ** 2 + (x[None] - x[:, None]) ** 2) / 2) / (2 * math.pi) * float(x[1] - x[0]) ** 2
    yes = torch.sigmoid(x + 0.5)
    chance = torch.stack([1 - yes, yes])
    expected = torch.einsum("ui,vj,ij->uv", chance, chance, weight)
    counts = torch.bincount(words[:, 0] * 2 + words[:, 1], minlength=4)
    assert stats.chisquare(counts.numpy(), (expected.flatten() * count / expected.sum()).numpy()).pvalue > 0.01


def test_the_same_seed_gives_the_same_draws_in_the_precision_of_the_scores():
    single, double = torch.float32, torch.float64
    for dtype, kept in ((double, double), (single, single), (torch.bfloat16, single)):
        scores = torch.eye(3).to(dtype)
        one, two = (sample_process(scores, 0.5, 5, 50, generator=generator(7)) for _ in range(2))
        assert torch.equal(one.embeddings, two.embeddings)
        assert one.embeddings.dtype == kept
        slack = 1e-12 if kept == double else 1e-4
        assert float((residuals(one.embeddings, scores) - one.noise).abs().max()) < slack
    assert sample_process(torch.eye(2), 1.0, 0, 5).embeddings.shape == (5, 0, 2)
    assert sample_process(torch.eye(2), 1.0, 4, 0).embeddings.shape == (0, 4, 2)
    assert sample_process(torch.eye(2), 1.0, 0, 5, decoder=torch.softmax).words.shape == (5, 0)  # never asked


def test_bad_input_is_refused_with_the_remedy():
    with pytest.raises(ValueError, match=r"vocabulary is 4, length 11: .*give fewer words or a shorter sequence"):
        word_law(kernel(), 4, 11)
    with pytest.raises(ValueError, match=r"kernel returned shape \(1, 3\): it must return probabilities \(1, 4\)"):
        word_law(kernel(), 4, 2)
    with pytest.raises(ValueError, match=r"no probabilities: apply softmax\(-1\)"):
        word_law(lambda words, length: torch.ones(len(words), 2), 2, 2)
    with pytest.raises(ValueError, match="length is 7, but there are 6 positions"):
        word_law(kernel(), 3, 7)
    for wrong in ((0.0, 3, 4), (1.0, -1, 4), (1.0, 3, -4)):
        with pytest.raises(ValueError, match="give a positive sigma and whole numbers"):
            sample_process(score(1.0), *wrong)
    with pytest.raises(ValueError, match="it must be square"):
        sample_process(torch.ones(2, 3), 1.0, 3, 4)
    with pytest.raises(ValueError, match="past is 2 wide: areas are computed on the line"):
        next_token_area(torch.ones(3, 2), torch.eye(2), 1.0)
    with pytest.raises(ValueError, match="sigma is 0: the noise needs"):
        next_token_area(PAIR, score(1.0), 0)
    with pytest.raises(ValueError, match=r"noise has shape \(3, 1\), the past \(2, 1\)"):
        solve_token(PAIR, torch.ones(3, 1, dtype=torch.float64), score(1.0))
    with pytest.raises(ValueError, match=r"start has shape \(1, 1\), the noise \(1,\): give one shape"):
        solve_token(PAIR, torch.ones(1, dtype=torch.float64), score(1.0), start=torch.ones(1, 1))
    with pytest.raises(ValueError, match="past has NaN or infinity in position 1"):
        solve_token(torch.tensor([[1.0], [math.nan]]), torch.ones(1), torch.ones(1, 1))


def test_a_token_between_folds_is_found_from_a_mixture_of_past_tokens(monkeypatch):
    """Scores of 20 draws: from the mean of the past and from each token Newton's method is caught at a fold."""
    past = torch.tensor([[-0.0631, -0.6061], [0.3842, 0.5735], [0.9325, 0.2327]], dtype=torch.float64)
    scores = torch.tensor([[45.0197, -10.9375], [-47.1980, -1.8350]], dtype=torch.float64)
    noise = torch.tensor([0.0796, 0.6170], dtype=torch.float64)
    u = solve_token(past, noise, scores)
    assert torch.allclose(u - (past @ scores @ u).softmax(-1) @ past, noise, atol=1e-12)
    monkeypatch.setattr("nslab.barrier.process.RANDOM_STARTS", 0)
    with pytest.raises(RuntimeError, match="within reach of 4 starts"):
        solve_token(past, noise, scores)


def test_tokens_without_a_solution_are_counted(monkeypatch):
    monkeypatch.setattr("nslab.barrier.process.NEWTON_STEPS", 0)
    with pytest.raises(RuntimeError, match=r"2 of 2 tokens have no solution .* scale the scores down, or pass start="):
        solve_token(PAIR.expand(2, 2, 1), torch.ones(2, 1, dtype=torch.float64), score(1.0))

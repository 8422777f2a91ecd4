"""Learned noise: its sizes to the unit, its shapes, its law, and the range of log sigma."""

import copy
import math
import warnings

import pytest
import torch

from nslab.attention.noise_families import LearnedNoise
from nslab.attention.settings import NoiseSettings

FAMILIES = ["scalar", "key", "relative", "amortised"]


def made(normal=None, seed=0, *, context=5, causal=True, width=6, heads=3, **settings):
    noise = LearnedNoise(
        NoiseSettings(**settings), width, heads, context, causal, generator=torch.Generator().manual_seed(0)
    ).double()
    for number, parameter in enumerate(noise.parameters()):
        if normal is not None:
            parameter.data = normal(*parameter.shape, seed=seed + number) / 2
    return noise


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("family", "v1", "v2"),
    [
        ("scalar", 2, 24),
        ("key", 128, 1536),
        ("relative", 2048, 24576),
        ("amortised", 2 * 4 * (768 + 64), 2 * 4 * (768 + 768)),
    ],
)
def test_parameters_of_a_layer_of_gpt2_base_to_the_unit(family, v1, v2):
    counts = []
    for per_head in (False, True):
        noise = LearnedNoise(NoiseSettings(family, "score", per_head, rank=4), 768, 12, 1024, True)
        counts.append(sum(parameter.numel() for parameter in noise.parameters()))
        vectors = family != "amortised"  # which a training spares from weight decay
        assert all((parameter.ndim == 1) == vectors for parameter in noise.parameters())
    assert counts == [v1, v2]
    both_sides = LearnedNoise(NoiseSettings(), 768, 12, 1024, False)
    assert sum(parameter.numel() for parameter in both_sides.parameters()) == 2 * 12 * 2047


@pytest.mark.parametrize("family", FAMILIES)
def test_it_starts_with_mean_0_and_log_sigma_as_set(normal, family):
    noise = made(family=family, log_sigma=-1)
    x, query = normal(2, 5, 6), normal(2, 3, 5, 2, seed=1)
    assert bool((noise.on_scores(x, query, sample=False) == 0).all())
    mean, log_sigma = noise.described()
    assert bool((mean == 0).all())
    assert bool((log_sigma == -1).all())


@pytest.mark.parametrize(("per_head", "groups"), [(False, 1), (True, 3)])
def test_draws_are_shared_by_the_heads_or_not(normal, device, per_head, groups):
    """V1: [B, 1, T, T] and [B, 1, T, d_h]; V2: [B, H, T, T] and [B, H, T, d_h]; every entry a draw of its own."""
    x, query = normal(4, 5, 6, device=device), normal(4, 3, 5, 2, seed=1, device=device)
    source = torch.Generator(device).manual_seed(0)
    for family in ("scalar", "relative"):
        drawn = made(family=family, per_head=per_head).to(device).on_scores(x, query, sample=True, generator=source)
        assert drawn.shape == (4, groups, 5, 5)
        seen = drawn[torch.ones_like(drawn, dtype=torch.bool).tril()]
        assert seen.unique().numel() == seen.numel()
    for family in ("scalar", "key", "amortised"):
        noise = made(family=family, space="key", per_head=per_head).to(device)
        drawn = noise.on_keys(x, sample=True, generator=source)
        assert drawn.shape == (4, groups, 5, 2)
        assert drawn.unique().numel() == drawn.numel()


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("length", [5, 3])
def test_relative_noise_is_indexed_by_query_minus_key(normal, causal, length):
    noise = made(normal, causal=causal)
    x, query = normal(1, length, 6), normal(1, 3, length, 2)
    table = noise.on_scores(x, query, sample=False)
    by_offset = noise.mean.view(3, -1)
    for i in range(length):
        for j in range(i + 1 if causal else length):
            assert torch.equal(table[:, i, j], by_offset[:, i - j + (0 if causal else 4)])
    assert torch.equal(noise.on_scores(x, query[:, :, -1:], sample=False), table[:, -1:])  # the last row on its own


def test_the_gradient_of_a_relative_mean_is_a_sum_along_a_diagonal(normal, tolerances):
    noise = made(normal)
    weight = normal(2, 3, 5, 5, seed=3).tril()
    drawn = noise.on_scores(normal(2, 5, 6), normal(2, 3, 5, 2), sample=True, generator=generator())
    mean, log_sigma = torch.autograd.grad((drawn * weight).sum(), (noise.mean, noise.log_sigma))
    with torch.no_grad():
        pull = weight * (drawn - noise.on_scores(normal(2, 5, 6), normal(2, 3, 5, 2), sample=False))
    for found, entries in ((mean, weight), (log_sigma, pull)):
        sums = [entries.diagonal(-offset, -2, -1).sum((0, 2)) for offset in range(5)]
        torch.testing.assert_close(found.view(3, 5), torch.stack(sums, 1), rtol=0, atol=tolerances["exact"])


@pytest.mark.parametrize("family", ["key", "amortised"])
@pytest.mark.parametrize("space", ["score", "key"])
def test_a_key_noise_has_the_mean_and_variance_that_it_induces_in_a_score(normal, family, space):
    """Either way score (i, j) gets q_i . mu_j on average, with variance sum over c of q_ic^2 sigma_jc^2."""
    noise, rows = made(normal, family=family, space=space), 20_000
    x, query = normal(1, 2, 6).expand(rows, 2, 6), normal(1, 3, 2, 2, seed=1).expand(rows, 3, 2, 2)
    with torch.no_grad():
        if space == "key":
            scores = query @ noise.on_keys(x, sample=True, generator=generator()).mT
        else:
            scores = noise.on_scores(x, query, sample=True, generator=generator())
        mean, log_sigma = (each[0] if family == "amortised" else each[:, None] for each in noise.described())
    expected = torch.zeros(3, 2, 2, dtype=torch.float64)
    variance = torch.zeros(3, 2, 2, dtype=torch.float64)
    for h, i, j in ((h, i, j) for h in range(3) for i in range(2) for j in range(2)):
        key = min(j, mean.shape[1] - 1)
        expected[h, i, j] = query[0, h, i] @ mean[h, key]
        variance[h, i, j] = (query[0, h, i] * log_sigma[h, key].exp()).square().sum()
    error = (scores.mean(0) - expected) / (variance / rows).sqrt()
    assert error.abs().max().item() < 4.5  # standard errors, 12 numbers
    assert (scores.var(0) / variance - 1).abs().max().item() < 4.5 * math.sqrt(2 / rows)


def test_a_query_of_zeros_leaves_every_gradient_finite(normal):
    noise = made(normal, family="amortised")
    query = torch.zeros(1, 3, 5, 2, dtype=torch.float64, requires_grad=True)
    noise.on_scores(normal(1, 5, 6), query, sample=True).sum().backward()
    assert bool(query.grad.isfinite().all())
    assert all(bool(parameter.grad.isfinite().all()) for parameter in noise.parameters())


@pytest.mark.parametrize("family", ["scalar", "amortised"])
def test_an_exploding_log_sigma_is_held_and_said_once(normal, family):
    noise = made(normal, family=family, space="key")
    with torch.no_grad():
        if family == "amortised":
            noise.up.mul_(1e4)
        else:
            noise.log_sigma.copy_(torch.tensor([50.0, -50, 0]))
    x = normal(2, 5, 6)
    with pytest.warns(RuntimeWarning, match=r"log sigma .* is held between -6 and 2: lower the learning rate, or"):
        drawn = noise.on_keys(x, sample=True, generator=generator())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        noise.on_keys(x, sample=True, generator=generator())  # the second time in silence
    _, log_sigma = noise.described()
    assert log_sigma.max().item() == 2
    assert log_sigma.min().item() == -6
    spread = (drawn - noise.on_keys(x, sample=False)).abs()
    assert spread.max().item() < 5 * math.exp(2)
    learned = noise.up if family == "amortised" else noise.log_sigma
    drawn.square().sum().backward()
    assert float(learned.grad.abs().max()) > 0


def test_what_is_held_can_come_back(normal):
    """At the bound the gradient of the KL, sigma^2 - 1, still reaches the parameter."""
    noise = made(family="scalar")
    with torch.no_grad():
        noise.log_sigma.fill_(7)
    with pytest.warns(RuntimeWarning, match="reached 7 and is held"):
        noise.on_keys(normal(1, 5, 6), sample=True)
    _, log_sigma = noise.described()
    torch.expm1(2 * log_sigma).sum().backward()
    assert bool((noise.log_sigma.grad > 100).all())


def test_a_copy_is_free_of_the_last_call(normal):
    noise = made(normal, family="amortised", space="key")
    noise.on_keys(normal(2, 5, 6), sample=True)
    twin = copy.deepcopy(noise)
    with pytest.raises(ValueError, match="call the network first"):
        twin.described()


def test_one_seed_gives_the_same_start_and_the_same_draws(normal):
    first, second = made(family="amortised", space="key"), made(family="amortised", space="key")
    assert torch.equal(first.down, second.down)
    assert first.down.std().item() == pytest.approx(0.02, rel=0.4)
    x = normal(2, 5, 6)
    draws = [noise.on_keys(x, sample=True, generator=generator(3)) for noise in (first, second)]
    assert torch.equal(*draws)
    assert not torch.equal(draws[0], first.on_keys(x, sample=True, generator=generator(4)))


def test_a_sequence_that_has_no_offsets_is_refused(normal):
    with pytest.raises(ValueError, match=r"sequence has 6 tokens and the noise offsets for 5: make the context longer"):
        made().on_scores(normal(1, 6, 6), normal(1, 3, 6, 2), sample=False)

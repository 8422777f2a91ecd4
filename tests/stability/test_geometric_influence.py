"""Geometric influence against Jacobians, separate backward passes and closed forms."""

import math

import pytest
import torch

from nslab.stability import (
    EmbeddingNoise,
    geometric_influence,
    geometric_influence_by_layer,
    smoothed_influence,
    tokens_holding,
)
from nslab.transformer import Transformer, TransformerConfig


@pytest.fixture
def network():
    config = TransformerConfig(vocabulary=11, context=6, width=12, layers=3, heads=2)
    return Transformer(config, generator=torch.Generator().manual_seed(0)).double().eval()


@pytest.fixture
def embeddings(network):
    return network.embed(torch.randint(11, (4, 6), generator=torch.Generator().manual_seed(1))).detach()


def last(model):
    return lambda e: model.from_embeddings(e, torch.full((len(e),), e.shape[1] - 1)).log_softmax(-1)[:, 3]


def last_traced(model):
    def trace(e):
        output, hidden = model.trace(e, torch.full((len(e),), e.shape[1] - 1))
        return output.log_softmax(-1)[:, 3], hidden

    return trace


class Score:
    """A score that is its prompt's own output of a model, at ids or at embeddings."""

    def __init__(self, model):
        self.model, self.prompts = model, []

    def for_prompts(self, prompt):
        return lambda ids: self.from_embeddings(self.model.embed(ids), prompt)

    def from_embeddings(self, e, prompt=None):
        return self.trace(e, prompt)[0]

    def trace(self, e, prompt=None):
        assert prompt is not None or len(e) == 4
        prompt = torch.arange(4) if prompt is None else prompt
        self.prompts += prompt.tolist()
        output, hidden = self.model.trace(e, torch.full((len(e),), 5))
        return output[torch.arange(len(e)), prompt], hidden


def test_it_is_the_norm_of_the_rows_of_the_jacobian(network, embeddings):
    f = last(network)
    expected = [
        torch.autograd.functional.jacobian(lambda e: f(e[None])[0], prompt).norm(dim=-1) for prompt in embeddings
    ]
    for batch in (None, 1, 3):
        torch.testing.assert_close(geometric_influence(f, embeddings, batch=batch), torch.stack(expected))


def test_it_is_the_largest_slope_in_any_direction_of_the_embedding(network, embeddings):
    """Finite differences along the gradient's direction, and no random direction beats them."""
    f, h, g = last(network), 1e-6, torch.Generator().manual_seed(2)
    found = geometric_influence(f, embeddings)[0]
    for position in range(6):
        directions = torch.randn(200, 12, generator=g, dtype=torch.float64)
        moved = embeddings[:1].repeat(200, 1, 1)
        moved[:, position] += h * directions / directions.norm(dim=-1, keepdim=True)
        with torch.no_grad():
            slopes = (f(moved) - f(embeddings[:1])).abs() / h
        assert slopes.max() <= found[position] * (1 + 1e-4)
        assert slopes.max() >= 0.5 * found[position]


def test_every_layer_is_a_backward_pass_of_its_own(network, embeddings):
    found = geometric_influence_by_layer(last_traced(network), embeddings)
    assert found.shape == (4, 4, 6)
    for layer in range(4):
        leaf = embeddings.clone().requires_grad_()
        values, hidden = last_traced(network)(leaf)
        hidden[layer].retain_grad()
        values.sum().backward()
        torch.testing.assert_close(found[layer], hidden[layer].grad.norm(dim=-1))
    torch.testing.assert_close(found[0], geometric_influence(last(network), embeddings))
    torch.testing.assert_close(geometric_influence_by_layer(last_traced(network), embeddings, batch=3), found)
    assert bool((found[-1, :, :-1] == 0).all())
    assert bool((found[-1, :, -1] > 0).all())


def test_one_backward_pass_serves_all_layers_and_parameters_are_left_alone(network, embeddings):
    passes, touched = [], []

    class Watch(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            passes.append(1)
            return gradient

    for parameter in network.parameters():
        assert parameter.requires_grad
        parameter.register_hook(lambda gradient: touched.append(1))
    trace = last_traced(network)
    geometric_influence_by_layer(lambda e: (lambda v, h: (Watch.apply(v), h))(*trace(e)), embeddings)
    assert len(passes) == 1
    assert not touched
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_it_works_where_gradients_are_switched_off_and_leaves_the_embeddings_alone(context, network):
    ids = torch.randint(11, (3, 6), generator=torch.Generator().manual_seed(3))
    expected = geometric_influence(last(network), network.embed(ids))
    with context():
        e = network.embed(ids)
        torch.testing.assert_close(geometric_influence(last(network), e), expected)
        assert not e.requires_grad


def test_half_precision_gives_norms_in_single_precision(network, embeddings, device):
    expected = geometric_influence(last(network), embeddings)
    half = network.to(device, torch.bfloat16)
    at = lambda e: half.from_embeddings(e, torch.full((len(e),), 5, device=device)).float().log_softmax(-1)[:, 3]  # noqa: E731
    found = geometric_influence(at, embeddings.to(device, torch.bfloat16))
    assert (found.dtype, found.device.type) == (torch.float32, device.type)
    torch.testing.assert_close(found.double().cpu(), expected, rtol=0.1, atol=0.02 * expected.max().item())


def test_a_score_learns_which_prompt_each_row_belongs_to(network, embeddings):
    score = Score(network)
    whole = geometric_influence(score.from_embeddings, embeddings)
    for f in (score, score.from_embeddings):
        torch.testing.assert_close(geometric_influence(f, embeddings, batch=3), whole)
    for trace in (score, score.trace):
        torch.testing.assert_close(geometric_influence_by_layer(trace, embeddings, batch=1)[0], whole)
    assert score.prompts[:4] == [0, 1, 2, 3]


def test_a_linear_function_has_the_same_influence_at_every_strength(seeded):
    e = torch.randn(3, 4, 5, generator=seeded(4), dtype=torch.float64)
    w = torch.rand(4, 5, generator=seeded(5), dtype=torch.float64)
    profile = lambda e: geometric_influence(lambda x: (x * w).sum((-1, -2)), e)  # noqa: E731
    found = smoothed_influence(profile, e, rho=torch.tensor([[0.0, 0.5], [0.9, 1.0]]), twins=3, generator=seeded(6))
    assert found.value.shape == (3, 4, 2, 2)
    torch.testing.assert_close(found.value, w.norm(dim=-1)[None, :, None, None].expand(3, 4, 2, 2))
    assert bool((found.stderr < 1e-12).all())


def test_smoothing_a_square_gives_the_mean_norm_of_the_twin(seeded):
    """f = |e|^2 / 2 has gradient e: at rho = 0 a standard Gaussian in 5 dimensions, whose mean norm is known."""
    e = 3 + torch.randn(40, 3, 5, generator=seeded(7), dtype=torch.float64)
    noise = EmbeddingNoise(torch.zeros(5), torch.ones(5))
    profile = lambda e: geometric_influence(lambda x: x.square().sum((-1, -2)) / 2, e)  # noqa: E731
    found = smoothed_influence(profile, e, rho=[0.0, 0.6, 1.0], twins=150, noise=noise, generator=seeded(8))
    chi = math.sqrt(2) * math.gamma(3) / math.gamma(2.5)
    error = found.stderr[..., 0].square().sum().sqrt() / 120
    assert abs(found.value[..., 0].mean() - chi) <= 4.5 * error
    torch.testing.assert_close(found.value[..., 2], e.norm(dim=-1))
    assert bool((found.stderr[..., 2] == 0).all())
    draws = 0.6 * e + 0.8 * torch.randn(4000, *e.shape, generator=seeded(9), dtype=torch.float64)
    gap = (found.value[..., 1] - draws.norm(dim=-1).mean(0)).abs()
    assert bool((gap <= 6 * found.stderr[..., 1]).all())


def test_positions_without_noise_stay_as_they_are(seeded):
    e = torch.randn(2, 3, 4, generator=seeded(10))
    noisy = torch.tensor([[True, False, True], [False, False, True]])
    seen = []
    smoothed_influence(
        lambda x: seen.append(x) or x.norm(dim=-1), e, rho=0.5, twins=2, noisy=noisy, generator=seeded(11)
    )
    for x in seen:
        assert torch.equal((x == e).all(-1), ~noisy)


def test_by_layer_and_over_rho_at_once(network, embeddings, seeded):
    profile = lambda e: geometric_influence_by_layer(last_traced(network), e)  # noqa: E731
    found = smoothed_influence(profile, embeddings, rho=[0.5, 1.0], twins=2, generator=seeded(12))
    assert found.value.shape == (4, 4, 6, 2)
    torch.testing.assert_close(found.value[..., 1], profile(embeddings))


def test_a_twin_has_the_mean_and_spread_of_the_table_and_the_correlation_asked_for(seeded):
    """Rows drawn from a table by a law: mean, deviation and correlation by counting, coordinate by coordinate."""
    table = torch.randn(6, 3, generator=seeded(13), dtype=torch.float64) * torch.tensor([1.0, 5.0, 0.1]) + 2
    law = torch.tensor([0.1, 0.2, 0.3, 0.1, 0.2, 0.1])
    noise = EmbeddingNoise.of(table, law)
    rows = torch.tensor([0, 1, 1, 2, 2, 2, 3, 4, 4, 5])  # ten rows, as likely as the law says
    mean, scale = table[rows].mean(0), table[rows].std(0, correction=0)
    torch.testing.assert_close(noise.mean, mean)
    torch.testing.assert_close(noise.scale, scale)
    e = table[rows].repeat(20_000, 1)
    for rho in (0.0, 0.7, 1.0):
        y = noise.twin(e, rho, noise.draw(e, seeded(14)))
        u, v = (e - mean) / scale, (y - mean) / scale
        bound = 4.5 / math.sqrt(len(e))
        assert bool((v.mean(0).abs() <= bound).all())
        assert bool(((v**2).mean(0) - 1).abs().max() <= 2 * bound)
        assert bool(((u * v).mean(0) - rho).abs().max() <= 2 * bound)
    assert noise.twin(e.bfloat16(), 0.5, noise.draw(e.bfloat16(), seeded(14))).dtype == torch.bfloat16


def test_the_sum_of_all_tokens_depends_on_all_of_them_equally():
    """The linear counterexample: maximal stability among functions of mean zero, and the flattest profile."""
    profile = geometric_influence(lambda e: e[..., 0].sum(-1) / 10, torch.zeros(1, 100, 1))
    assert tokens_holding(profile).item() == 90


class IdsOnly:
    def for_prompts(self, prompt):
        return lambda ids: ids.double().sum(-1)


E = torch.ones(2, 3, 4)
TOTAL = lambda e: e.sum((-1, -2))  # noqa: E731


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: geometric_influence(TOTAL, E.long()), r"dtype torch.int64: give floating-point.*model.embed"),
        (lambda: geometric_influence(TOTAL, E[:0]), r"embeddings has shape \(0, 3, 4\)"),
        (lambda: geometric_influence(lambda e: e.sum(-1), E), r"shape \(2, 3\) for 2 rows: .*select an output"),
        (lambda: geometric_influence(lambda e: TOTAL(e).detach(), E), r"without a gradient: .*detach"),
        (lambda: geometric_influence(lambda e: TOTAL(e) / 0, E), r"f returned NaN or infinity"),
        (
            lambda: geometric_influence(lambda e: (e - 1).norm(dim=-1).sqrt().sum(-1), E),
            r"the gradient of f is NaN or infinite in row 0 of 2: .*smooth f",
        ),
        (lambda: geometric_influence(IdsOnly(), E), r"IdsOnly has no method from_embeddings"),
        (lambda: geometric_influence_by_layer(IdsOnly(), E), r"IdsOnly has no method trace"),
        (lambda: geometric_influence_by_layer(TOTAL, E), r"trace returned Tensor: return \(numbers"),
        (lambda: geometric_influence_by_layer(lambda e: (TOTAL(e), [e, e.detach()]), E), r"without a gradient"),
        (lambda: smoothed_influence(TOTAL, E, rho=1.5, twins=2), r"rho is \[1.5\]: give numbers from 0 to 1"),
        (lambda: smoothed_influence(TOTAL, E, rho=0.5, twins=1), r"twins is 1: .*at least 2"),
        (
            lambda: smoothed_influence(TOTAL, E, rho=0.5, twins=2, noisy=torch.ones(3, 2) > 0),
            r"noisy has shape \(3, 2\)",
        ),
        (lambda: EmbeddingNoise(torch.zeros(2), torch.tensor([1.0, -1.0])), r"scale has -1"),
        (lambda: EmbeddingNoise(torch.zeros(2), torch.ones(3)), r"mean has shape \(2,\), scale \(3,\)"),
        (lambda: EmbeddingNoise.of(torch.ones(3, 2), torch.ones(2)), r"weights has shape \(2,\): .*3 rows"),
    ],
)
def test_bad_requests_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()

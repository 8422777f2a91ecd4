"""Attention: the fused path, the explicit path, a loop over positions and torch's own module say the same."""

import math

import pytest
import torch
from torch import nn

from nslab.attention import Attention, Rotary, attend, attend_explicitly

SHAPE = (2, 3, 7, 4)  # batch, heads, length, head width


def close(a, b, tolerance):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def one_query_at_a_time(query, key, value, causal):
    """The definition, position by position."""
    out = torch.zeros_like(value)
    for b, h, i in ((b, h, i) for b in range(2) for h in range(3) for i in range(7)):
        seen = range(i + 1) if causal else range(7)
        logits = [float(query[b, h, i] @ key[b, h, j]) / math.sqrt(4) for j in seen]
        total = sum(math.exp(logit) for logit in logits)
        out[b, h, i] = sum(math.exp(logit) / total * value[b, h, j] for logit, j in zip(logits, seen, strict=True))
    return out


@pytest.mark.parametrize("causal", [True, False])
def test_both_paths_follow_the_definition(normal, tolerances, causal):
    query, key, value = (normal(*SHAPE, seed=seed) for seed in range(3))
    expected = one_query_at_a_time(query, key, value, causal)
    close(attend(query, key, value, causal=causal), expected, tolerances["exact"])
    close(attend_explicitly(query, key, value, causal=causal).heads, expected, tolerances["exact"])


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_fused_path_has_the_values_and_gradients_of_the_explicit_one(normal, tolerances, device, dtype, causal):
    tolerance = tolerances["exact" if dtype == torch.float64 else "single"]
    inputs = [normal(*SHAPE, seed=seed, device=device, dtype=dtype).requires_grad_() for seed in range(3)]
    weight = normal(*SHAPE, seed=3, device=device, dtype=dtype)
    fused = attend(*inputs, causal=causal)
    explicit = attend_explicitly(*inputs, causal=causal).heads
    assert fused.dtype == dtype
    close(fused, explicit, tolerance)
    gradients = [torch.autograd.grad((out * weight).sum(), inputs) for out in (fused, explicit)]
    for ours, twin in zip(*gradients, strict=True):
        close(ours, twin, tolerance)


def test_weights_are_shares_of_the_keys_that_the_mask_leaves(normal, tolerances):
    attended = attend_explicitly(*(normal(*SHAPE, seed=seed) for seed in range(3)), causal=True)
    close(attended.weights.sum(-1), torch.ones(SHAPE[:-1], dtype=torch.float64), tolerances["exact"])
    future = torch.ones(7, 7, dtype=torch.bool).triu(1)
    assert bool((attended.weights[..., future] == 0).all())
    assert bool((attended.scores[..., future] == -math.inf).all())
    assert bool((attended.weights[..., ~future] > 0).all())
    odds = (attended.weights[..., 6, 2] / attended.weights[..., 6, 5]).log()
    close(odds, attended.scores[..., 6, 2] - attended.scores[..., 6, 5], tolerances["exact"])


def test_the_gradient_of_a_head_by_a_weight_is_the_value_it_weighs(normal, tolerances):
    query, key, value = (normal(*SHAPE, seed=seed).requires_grad_() for seed in range(3))
    attended = attend_explicitly(query, key, value, causal=True)
    (gradient,) = torch.autograd.grad(attended.heads[0, 1, 6, 2], attended.weights)
    close(gradient[0, 1, 6], value[0, 1, :, 2], tolerances["exact"])
    assert int(gradient.count_nonzero()) == 7


def test_the_explicit_path_can_be_differentiated_twice(normal):
    inputs = tuple(normal(1, 1, 3, 2, seed=seed).requires_grad_() for seed in range(3))
    assert torch.autograd.gradgradcheck(lambda *x: attend_explicitly(*x, causal=True).heads, inputs)


@pytest.mark.parametrize("causal", [True, False])
def test_the_module_agrees_with_multihead_attention_of_torch(normal, tolerances, causal):
    torch.manual_seed(0)
    theirs = nn.MultiheadAttention(12, 3, batch_first=True, dtype=torch.float64)
    ours = Attention(12, 3, causal=causal).double()
    nn.init.normal_(theirs.in_proj_bias)
    ours.load_state_dict(
        {
            "qkv.weight": theirs.in_proj_weight,
            "qkv.bias": theirs.in_proj_bias,
            "output.weight": theirs.out_proj.weight,
            "output.bias": theirs.out_proj.bias,
        }
    )
    x = normal(2, 7, 12)
    mask = torch.ones(7, 7, dtype=torch.bool).triu(1) if causal else None
    expected, weights = theirs(x, x, x, attn_mask=mask, average_attn_weights=False)
    found, parts = ours.look(x, ["weights"])
    close(ours(x), expected, tolerances["exact"])
    close(found, expected, tolerances["exact"])
    close(parts["weights"], weights, tolerances["exact"])


@pytest.mark.parametrize("names", [["query", "heads"], ["scores", "weights", "heads", "value", "key", "query"]])
def test_looking_changes_neither_the_output_nor_its_gradient(normal, tolerances, device, names):
    module = Attention(12, 3, causal=True, rotary=Rotary(4)).double().to(device)
    for seed, weight in enumerate(module.parameters()):
        weight.data = normal(*weight.shape, seed=seed, device=device) / 4
    x = normal(2, 7, 12, seed=9, device=device).requires_grad_()
    plain = module(x)
    looked, parts = module.look(x, names)
    assert list(parts) == names
    close(looked, plain, tolerances["exact"])
    gradients = [torch.autograd.grad(out.square().sum(), x)[0] for out in (plain, looked)]
    close(*gradients, tolerances["exact"])


def test_a_mask_needs_as_many_keys_as_queries(normal):
    with pytest.raises(ValueError, match=r"causal=True with 3 queries and 5 keys.*use causal=False"):
        attend(normal(1, 3, 4), normal(1, 5, 4), normal(1, 5, 4), causal=True)
    assert attend(normal(1, 3, 4), normal(1, 5, 4), normal(1, 5, 4)).shape == (1, 3, 4)


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match=r"width is 10, heads 3: make the width a multiple"):
        Attention(10, 3, causal=True)

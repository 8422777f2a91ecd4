"""Attention with a bias: the fused and the explicit path follow the definition, and the mask comes last."""

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from nslab.attention.biased import attend_with_bias, attend_with_bias_explicitly

SHAPES = [(), (3, 1, 1), (3, 6, 6), (2, 1, 6, 6), (2, 3, 6, 6), (2, 3, 6, 1)]


class Kernels(TorchDispatchMode):
    """The names of what torch runs."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(function.name())
        return function(*args, **(kwargs or {}))


def close(a, b, tolerance):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def one_query_at_a_time(query, key, value, bias, causal):
    """The definition, position by position; the queries are the last of the keys."""
    rows, keys = query.shape[2], key.shape[2]
    bias = bias.expand(2, 3, rows, keys)
    out = torch.zeros(2, 3, rows, value.shape[-1], dtype=torch.float64)
    for b, h, i in ((b, h, i) for b in range(2) for h in range(3) for i in range(rows)):
        seen = range(keys - rows + i + 1 if causal else keys)
        logits = [0.3 * float(query[b, h, i] @ key[b, h, j]) + float(bias[b, h, i, j]) for j in seen]
        total = sum(math.exp(logit) for logit in logits)
        out[b, h, i] = sum(math.exp(logit) / total * value[b, h, j] for logit, j in zip(logits, seen, strict=True))
    return out


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("width", [4, 7])
def test_both_paths_follow_the_definition(normal, tolerances, causal, shape, width):
    query, key, value = normal(2, 3, 6, width), normal(2, 3, 6, width, seed=1), normal(2, 3, 6, 4, seed=2)
    bias = normal(*shape, seed=3)
    expected = one_query_at_a_time(query, key, value, bias, causal)
    close(attend_with_bias(query, key, value, bias, scale=0.3, causal=causal), expected, tolerances["exact"])
    explicit = attend_with_bias_explicitly(query, key, value, bias, scale=0.3, causal=causal)
    close(explicit.heads, expected, tolerances["exact"])
    close(explicit.weights @ value, expected, tolerances["exact"])
    close(explicit.scores.softmax(-1), explicit.weights, tolerances["exact"])


@pytest.mark.parametrize("bias", [True, False])
def test_fewer_queries_are_the_last_ones(normal, tolerances, bias):
    query, key, value = (normal(2, 3, 6, 4, seed=seed) for seed in range(3))
    bias = normal(2, 3, 6, 6, seed=3) if bias else None
    whole = attend_with_bias(query, key, value, bias, scale=0.3, causal=True)
    last = bias if bias is None else bias[..., 4:, :]
    close(attend_with_bias(query[..., 4:, :], key, value, last, scale=0.3, causal=True), whole[..., 4:, :], 1e-12)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_two_paths_have_the_same_gradients(normal, tolerances, device, dtype, causal, shape):
    tolerance = tolerances["exact"] if dtype == torch.float64 else 5 * tolerances["single"]
    inputs = [normal(2, 3, 6, 4, seed=seed, device=device, dtype=dtype).requires_grad_() for seed in range(3)]
    weight = normal(2, 3, 6, 4, seed=9, device=device, dtype=dtype)
    for learned in (True, False):
        bias = normal(*shape, seed=3, device=device, dtype=dtype).requires_grad_(learned)
        wanted = [*inputs, bias] if learned else inputs
        heads = [
            attend_with_bias(*inputs, bias, scale=0.3, causal=causal),
            attend_with_bias_explicitly(*inputs, bias, scale=0.3, causal=causal).heads,
        ]
        close(*heads, tolerance)
        gradients = [torch.autograd.grad((each * weight).sum(), wanted) for each in heads]
        for ours, twin in zip(*gradients, strict=True):
            close(ours, twin, tolerance)


def test_the_explicit_path_can_be_differentiated_twice(normal):
    inputs = tuple(normal(1, 1, 3, 2, seed=seed).requires_grad_() for seed in range(3))
    bias = normal(3, 3, seed=3).requires_grad_()

    def heads(query, key, value, bias):
        return attend_with_bias_explicitly(query, key, value, bias, scale=0.3, causal=True).heads

    assert torch.autograd.gradcheck(heads, (*inputs, bias))
    assert torch.autograd.gradgradcheck(heads, (*inputs, bias))


@pytest.mark.parametrize("learned", [True, False])
def test_what_the_bias_holds_behind_the_mask_never_counts(normal, learned):
    query, key, value = (normal(2, 3, 6, 4, seed=seed) for seed in range(3))
    bias = normal(2, 3, 6, 6, seed=3)
    other = torch.where(torch.ones(6, 6, dtype=torch.bool).triu(1), 1e6 * normal(2, 3, 6, 6, seed=4), bias)
    heads = []
    for each in (bias, other):
        each.requires_grad_(learned)
        heads.append(attend_with_bias(query, key, value, each, scale=0.3, causal=True))
    assert torch.equal(*heads)
    if learned:
        heads[0].square().sum().backward()
        assert int(bias.grad.triu(1).count_nonzero()) == 0
        assert int(bias.grad.tril().count_nonzero()) > 0


@pytest.mark.parametrize("bias", [None, torch.zeros(3, 6, 6)])
@pytest.mark.parametrize("width", [4, 7])
def test_without_a_learned_bias_the_kernel_is_fused_and_wider_queries_do_not_leave_it(bias, width):
    query, key, value = torch.randn(2, 3, 6, width), torch.randn(2, 3, 6, width), torch.randn(2, 3, 6, 4)
    with Kernels() as kernels:
        attend_with_bias(query.requires_grad_(), key, value, bias, scale=0.3, causal=True)
    assert "aten::_scaled_dot_product_flash_attention_for_cpu" in kernels.names
    assert not {"aten::bmm", "aten::_softmax"} & set(kernels.names)


def test_a_mask_needs_at_least_as_many_keys_as_queries(normal):
    for attend in (attend_with_bias, attend_with_bias_explicitly):
        with pytest.raises(ValueError, match=r"causal=True with 5 queries and 3 keys.*use causal=False"):
            attend(normal(1, 1, 5, 4), normal(1, 1, 3, 4), normal(1, 1, 3, 4), scale=1.0, causal=True)

"""Rotary positions: they turn, they depend on differences only, and they are those of Llama."""

import copy
import math

import pytest
import torch

from nslab.attention import Rotary


def test_a_pair_turns_by_its_angle(tolerances):
    """Head width 4, base 100: pairs (0, 2) and (1, 3) turn by 1 and 1/10 a position."""
    x = torch.tensor([[1.0, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0]], dtype=torch.float64)
    turned = Rotary(4, base=100)(x)
    expected = [[1, 0, 0, 0], [math.cos(1), 0, math.sin(1), 0], [math.cos(2), 0, math.sin(2), 0]]
    expected += [[0, math.cos(0.3), 0, math.sin(0.3)]]
    torch.testing.assert_close(turned, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=tolerances["exact"])


def test_products_depend_on_the_difference_of_positions_only(normal, tolerances, device):
    """The same vectors, five positions later, have the same products; lengths stay."""
    rotary = Rotary(8)
    query, key = (normal(1, 8, seed=seed, device=device).expand(20, 8) for seed in range(2))
    products = rotary(query) @ rotary(key).T
    torch.testing.assert_close(products[5:, 5:], products[:-5, :-5], rtol=0, atol=tolerances["exact"])
    assert (products[0, 3] - products[3, 0]).abs() > 1e-3  # the sign of the difference matters
    lengths = rotary(query).norm(dim=-1)
    torch.testing.assert_close(lengths, query.norm(dim=-1), rtol=0, atol=tolerances["exact"])


def test_the_turns_are_those_of_llama(normal, tolerances):
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

    theirs = LlamaRotaryEmbedding(LlamaConfig(hidden_size=32, num_attention_heads=4, max_position_embeddings=64))
    query, key = (normal(2, 4, 50, 8, seed=seed, dtype=torch.float32) for seed in range(2))
    cosines, sines = theirs(query, torch.arange(50)[None])
    expected = apply_rotary_pos_emb(query, key, cosines, sines)
    rotary = Rotary(8)
    for found, reference in zip((rotary(query), rotary(key)), expected, strict=True):
        torch.testing.assert_close(found, reference, rtol=0, atol=10 * tolerances["other package"])


def test_tables_made_without_gradient_can_be_trained_with_later(normal):
    rotary = Rotary(4)
    with torch.inference_mode():
        rotary(normal(5, 4))
    x = normal(3, 4).requires_grad_()
    rotary(x).square().sum().backward()
    torch.testing.assert_close(x.grad, 2 * x.detach(), rtol=0, atol=1e-12)  # turning keeps lengths


def test_a_module_used_inside_torch_func_can_still_be_used_copied_and_trained(normal):
    """Tensors made inside `torch.func.grad` outlive it as wrappers without storage; copies must not carry them."""
    rotary, x = Rotary(4), normal(3, 4)
    for _ in range(2):
        gradient = torch.func.grad(lambda x: rotary(x).square().sum())(x)
        torch.testing.assert_close(gradient, 2 * x, rtol=0, atol=1e-12)
    assert torch.equal(copy.deepcopy(rotary)(x), Rotary(4)(x))
    assert torch.equal(rotary(x), Rotary(4)(x))


def test_longer_sequences_extend_the_tables(normal):
    rotary = Rotary(4)
    x = normal(9, 4)
    short = rotary(x[:3])
    assert torch.equal(rotary(x)[:3], short)
    assert torch.equal(Rotary(4)(x), rotary(x))


def test_odd_head_widths_are_refused():
    with pytest.raises(ValueError, match=r"head width is 5: rotary positions turn pairs, so make width / heads even"):
        Rotary(5)

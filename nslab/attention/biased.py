r"""Attention with a bias on every score: softmax(scale * query @ key^T + bias), fused where that is possible.

    heads = attend_with_bias(query, key, value, bias, scale=0.125, causal=True)

The bias is in the units of the logits, after the scaling. Fused kernels take it as a mask that is added.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from nslab.attention.flexible import compiled
from nslab.attention.standard import Attended


def attend_with_bias(
    query: Float[Tensor, "batch heads query width"],
    key: Float[Tensor, "batch heads key width"],
    value: Float[Tensor, "batch heads key value"],
    bias: Float[Tensor, "..."] | None = None,
    *,
    scale: float,
    causal: bool,
) -> Float[Tensor, "batch heads query value"]:
    r"""$\mathrm{softmax}(c\, Q K^\top + b)\, V$ for each head, keys after the query hidden where `causal`.

    Args:
        query: (batch, heads, query, width).
        key: (batch, heads, key, width).
        value: (batch, heads, key, value width).
        bias: $b$, broadcasts with (batch, heads, query, key); None for none. The mask comes after it: what it holds
            behind the mask never counts.
        scale: $c$.
        causal: whether the queries are the last positions of the keys and each sees only the keys up to its own.

    Returns:
        Each head's output, (batch, heads, query, value width), differentiable once.

    A bias that learns goes through flex_attention where that compiles. On a CPU it takes the explicit path, since the
    fused kernel there has no gradient for it; elsewhere torch then chooses the kernel.

    Errors: `ValueError` for a causal mask over more queries than keys.
    """
    rows, keys, width = query.shape[-2], key.shape[-2], value.shape[-1]
    if bias is not None and bias.requires_grad:
        if bias.device.type == "cpu":
            return _explicit(query, key, value, bias, scale=scale, causal=causal)
        flex = compiled(bias.device, _explicit) if query.shape[-1] == width and rows == keys else None
        if flex is not None:
            return flex(query, key, value, bias, scale=scale, causal=causal)
    if query.shape[-1] > width:  # fused kernels want one width; columns of zeros cost less than leaving the kernel
        value = F.pad(value, (0, query.shape[-1] - width))
    mask = hidden(rows, keys, query) if causal and (bias is not None or rows != keys) else None
    if bias is not None:
        bias = bias.to(query.dtype) if mask is None else bias.to(query.dtype) + mask
        bias = bias.reshape((1,) * (4 - bias.ndim) + bias.shape)  # kernels know no other rank
        mask = bias.expand(*bias.shape[:2], rows, keys)
    heads = F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=causal and mask is None, scale=scale
    )
    return heads[..., :width]


def attend_with_bias_explicitly(
    query: Float[Tensor, "batch heads query width"],
    key: Float[Tensor, "batch heads key width"],
    value: Float[Tensor, "batch heads key value"],
    bias: Float[Tensor, "..."] | None = None,
    *,
    scale: float,
    causal: bool,
) -> Attended:
    """As `attend_with_bias`, step by step: scores and weights as well, differentiable any number of times.

    Arguments and errors as there.

    Returns:
        `Attended`: heads, weights, and scores (scaled, with the bias, minus infinity behind the mask).
    """
    scores = (query * scale) @ key.mT
    if bias is not None:
        scores += bias  # in place: a product does not need its result for its gradient, and scores are large
    if causal:
        scores += hidden(query.shape[-2], key.shape[-2], scores)
    weights = scores.softmax(-1)
    return Attended(heads=weights.to(value.dtype) @ value, weights=weights, scores=scores)


def _explicit(*parts: Tensor, scale: float, causal: bool) -> Tensor:
    return attend_with_bias_explicitly(*parts, scale=scale, causal=causal).heads


def hidden(rows: int, keys: int, like: Tensor) -> Float[Tensor, "rows keys"]:
    """0 where the last `rows` of `keys` positions may look, minus infinity at what comes after them.

    >>> hidden(2, 3, torch.zeros(()))
    tensor([[0., 0., -inf],
            [0., 0., 0.]])
    """
    if rows > keys:
        raise ValueError(
            f"causal=True with {rows} queries and {keys} keys: the queries are the last positions of the keys, so give "
            "at least as many keys; use causal=False where every query may see every key"
        )
    return torch.full((rows, keys), -math.inf, dtype=like.dtype, device=like.device).triu(keys - rows + 1)

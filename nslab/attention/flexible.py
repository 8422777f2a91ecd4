r"""Attention with a learned bias through torch's flex_attention, where that compiles for a device and agrees.

Elsewhere `attend_with_bias` goes another way. Whether it works is found out once for each device, on a small example
whose values and gradients are compared with the explicit path.
"""

import math
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

AGREEMENT = 1e-2  # largest difference from the explicit path: kernels of an accelerator may round to 11 bits


@cache
def compiled(device: torch.device, explicit: Callable[..., Tensor]) -> Callable[..., Tensor] | None:
    """`flexible` with a kernel compiled for this device, or None where torch has none that learns a bias.

    A CPU has none: its compiled flex_attention goes forward only. `explicit` is what the kernel has to agree with.
    """
    if device.type == "cpu":
        return None
    from torch.nn.attention.flex_attention import flex_attention

    kernel = torch.compile(flex_attention)

    def attend(*parts: Tensor, scale: float, causal: bool) -> Tensor:
        return flexible(*parts, scale=scale, causal=causal, kernel=kernel)

    try:
        return attend if agrees(attend, explicit, device) else None
    except Exception:  # whatever keeps a compiler from compiling: no compiler, an old card, an unknown operation
        return None


def flexible(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor,
    *,
    scale: float,
    causal: bool,
    kernel: Callable[..., Tensor],
) -> Tensor:
    """Attention by flex_attention: `bias` broadcasts with (batch, heads, rows, keys), and gets its gradient.

    Args:
        query: (batch, heads, rows, width).
        key: (batch, heads, keys, width).
        value: (batch, heads, keys, value width).
        bias: added to the scaled scores, before the mask.
        scale: factor of the scores.
        causal: whether the rows are the last positions of the keys and see only what is not after them.
        kernel: `flex_attention`, compiled or not.
    """
    rows, keys = query.shape[-2], key.shape[-2]
    bias = bias.reshape((1,) * (4 - bias.ndim) + bias.shape).to(query.dtype)
    bias = bias.expand(*bias.shape[:2], rows, keys)
    batched, per_head = bias.shape[0] > 1, bias.shape[1] > 1

    # a compiler traces these: they are lambdas, which no checker of types wraps
    added = lambda score, row, head, i, j: score + bias[row if batched else 0, head if per_head else 0, i, j]  # noqa: E731
    masked = lambda score, row, head, i, j: torch.where(  # noqa: E731
        j <= i + keys - rows, added(score, row, head, i, j), -math.inf
    )
    return kernel(query, key, value, score_mod=masked if causal else added, scale=scale)


def agrees(attend: Callable[..., Tensor], explicit: Callable[..., Tensor], device: torch.device) -> bool:
    """Whether values and gradients on a small example are those of the explicit path, up to rounding."""
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(2, 2, 128, 16, generator=generator) for _ in range(3)]
    parts.append(torch.randn(1, 2, 128, 128, generator=generator))
    results = []
    for way in (attend, explicit):
        ours = [part.to(device).requires_grad_() for part in parts]
        heads = way(*ours, scale=0.25, causal=True)
        results.append([heads, *torch.autograd.grad(heads.square().sum(), ours)])
    return all(torch.allclose(a, b, rtol=AGREEMENT, atol=AGREEMENT) for a, b in zip(*results, strict=True))

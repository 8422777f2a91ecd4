"""Sums of outer products of tokens under attention weights: where nearly all the time of the barrier goes."""

import torch
from torch import Tensor

ROWS = 8
"""Rows that `_Streamed` takes at a time: their weighed tokens stay in the cache of a core."""

LARGE = 2**16
"""Numbers that ROWS rows of one member weigh; from about here a loop over members costs less than moving them."""


def weighted_products(weights: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Sums of a_is x_s y_s^T over s: weights (..., m, n), left (..., n, v), right (..., n, k) to (..., m, v, k).

    Three forms with the same number of products. Few rows, 2 m <= k: weigh `left` for each row, (..., m v, n), and
    multiply. Many rows: form the outer products once, (..., n, v k), and let all rows share them. On a CPU, where both
    are bound by memory as soon as they are large: a few rows at a time, skipping the tokens that none of them sees.
    A weight of exactly zero carries no gradient in the last form; a softmax passes none on there.
    """
    rows, (length, outer), inner = weights.shape[-2], right.shape[-2:], left.shape[-1]
    if weights.device.type == "cpu" and min(rows, ROWS) * length * inner >= LARGE:
        lead = torch.broadcast_shapes(weights.shape[:-2], left.shape[:-2], right.shape[:-2])
        flat = [x.expand(*lead, *x.shape[-2:]).reshape(-1, *x.shape[-2:]) for x in (weights, left, right)]
        return _Streamed.apply(flat[0], flat[1].mT.contiguous(), flat[2]).view(*lead, rows, inner, outer)
    if 2 * rows <= outer:
        weighed = (weights[..., :, None, :] * left.mT[..., None, :, :]).flatten(-3, -2)  # (..., m v, n)
        return (weighed @ right).unflatten(-2, (rows, inner))
    products = (left[..., :, None] * right[..., None, :]).flatten(-2)  # (..., n, v k)
    return (weights @ products).unflatten(-1, (inner, outer))


class _Streamed(torch.autograd.Function):
    """The first form, member by member and ROWS rows at a time; the backward pass weighs the tokens again.

    Second derivatives come of the first form at once, which holds (b, m, v, n) numbers: so do those of `torch.func`.
    """

    @staticmethod
    def forward(weights: Tensor, left: Tensor, right: Tensor) -> Tensor:
        """(b, m, n), (b, v, n), (b, n, k) to (b, m, v, k)."""
        sums = weights.new_empty(*weights.shape[:2], left.shape[1], right.shape[2])
        chunks = _chunks(weights)
        for member in range(len(weights)):
            for rows, end in chunks:
                weighed = weights[member, rows, None, :end] * left[member, :, :end]  # (rows, v, end)
                torch.mm(weighed.flatten(0, 1), right[member, :end], out=sums[member, rows].view(-1, right.shape[2]))
        return sums

    @staticmethod
    def setup_context(ctx, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        """Keep the arguments."""
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of the three arguments."""
        weights, left, right = ctx.saved_tensors
        if torch.is_grad_enabled():  # a graph of the gradients is wanted: no writing in place
            arrived, shared = grad.flatten(1, 2), left[:, None]  # (b, m v, k), (b, 1, v, n)
            back = (arrived @ right.mT).unflatten(1, grad.shape[1:3])  # (b, m, v, n)
            by_right = (weights[:, :, None] * shared).flatten(1, 2).mT @ arrived
            return (back * shared).sum(2), (back * weights[:, :, None]).sum(1), by_right
        by_weights, by_left, by_right = (torch.zeros_like(x) for x in (weights, left, right))
        chunks = _chunks(weights)
        for member in range(len(weights)):
            for rows, end in chunks:
                weight, token = weights[member, rows, None, :end], left[member, :, :end]
                arrived = grad[member, rows].flatten(0, 1)  # (rows v, k)
                by_right[member, :end].addmm_((weight * token).flatten(0, 1).T, arrived)
                back = (arrived @ right[member, :end].T).unflatten(0, (-1, len(token)))  # (rows, v, end)
                by_weights[member, rows, :end] = (back * token).sum(1)
                by_left[member, :, :end] += (back * weight).sum(0)
        return by_weights, by_left, by_right


def _chunks(weights: Tensor) -> list[tuple[slice, int]]:
    """ROWS rows at a time of weights (b, m, n), and how many of the first tokens they see."""
    ends = torch.arange(1, weights.shape[-1] + 1)
    reach = (weights.ne(0).any(0) * ends).amax(1).tolist()  # tokens up to here are seen by the row
    return [(slice(start, start + ROWS), max(reach[start : start + ROWS])) for start in range(0, len(reach), ROWS)]

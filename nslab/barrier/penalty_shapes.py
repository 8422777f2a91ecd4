r"""Walls around det J = 0, as penalties on Jacobian blocks: raw, clamped, one-sided, hinge, Kullback-Leibler.

A penalty must be finite and differentiable where the matrix is singular, because that is where training meets it. So
each block is factorised once, and a pivot that is exactly zero is moved by a rounding error before the inverse is
taken: that leaves det(J) J^{-T}, the gradient of the determinant, as it is. Nothing divides by zero, and nothing waits
for a GPU.
"""

import math
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from nslab.barrier.checks import upcast, without_autocast

Kind = Literal["raw", "clamped", "onesided", "hinge", "kl", "first-order"]
LARGEST = 80.0  # log of the largest determinant that a line tells from larger ones; e^88 is no float32


@without_autocast
def margin_penalty(
    blocks: Float[Tensor, "..."], kind: str = "hinge", delta: float | int = 0.05, clamp: float | int = 30
) -> Float[Tensor, "..."]:
    r"""How close each Jacobian block is to a singular matrix, in nats: one number a block.

    Formula, with D = det J and J of size p x p:

    - "raw": $-\log|D|$, the barrier itself;
    - "clamped": $-\max(\log|D|, -c)$ with c = `clamp`;
    - "onesided": $-\log D$ for $D \ge \delta$, and below that its tangent, $-\log\delta + (\delta - D)/\delta$;
    - "hinge": max(0, onesided);
    - "kl": $\frac12[\mathrm{tr}\,JJ^\top - \log\det(JJ^\top + \delta^2 I) - p]$;
    - "first-order": $p - \mathrm{tr}\,J$, which is $\mathrm{tr}(\Sigma A)$ for $J = I - \Sigma A$.

    Args:
        blocks: J (*batch, p, p), for example from `jacobian_blocks` or `head_blocks`.
        kind: the shape of the wall.
        delta: the determinant at which the logarithm goes over into its tangent; for "kl" the singular value below
            which the wall is soft. More than 0 and at most 1.
        clamp: the largest value of "clamped".

    Returns:
        (*batch), at least float32 (half precision is upcast, autocast is off inside). Differentiable once.

    How to read it:
        raw is infinite only where D is exactly 0, which no step ever hits: a long step jumps the wall, and where D < 0
        it then keeps the token on the wrong side. Beyond D = 1 raw is negative and rewards determinants without limit;
        so does onesided. hinge is zero from D = 1 on and pushes a negative determinant back: a constraint, and nothing
        else. kl is nearly the divergence of N(0, J J^T) from N(0, I). It is least, and 0 to within p delta^2 / 2,
        where J is orthogonal, of either sign of D; along a singular value of exactly 0 it has no gradient.
        first-order is what raw becomes for a small Sigma A, and no wall at all.

        At a singular matrix every gradient is finite. That of raw and clamped is zero there; that of onesided and
        hinge points out, unless the rank is below p - 1, where the determinant itself is flat.

    Errors: `ValueError` for blocks that are not square, an unknown kind, a delta outside (0, 1], a clamp that is not
    positive, and NaN or infinity in a block, which is named. On a GPU that last look would make training wait, so
    blocks with a gradient are not looked at there: a NaN in them gives the penalty NaN.

    Source: raw is arXiv 2602.22271's according to a third-party port, clamped is that port's; the others are *ours*.

    >>> determinants = torch.tensor([1.0, 0.1, 0.05, 0.01, 0.0, -0.1])
    >>> margin_penalty(determinants[:, None, None])
    tensor([0.0000, 2.3026, 2.9957, 3.7957, 3.9957, 5.9957])
    """
    (blocks,) = upcast(blocks)
    check_wall(kind, delta, clamp)
    if blocks.ndim < 2 or blocks.shape[-1] != blocks.shape[-2]:
        raise ValueError(f"blocks has shape {tuple(blocks.shape)}: give square matrices (*batch, p, p)")
    if not (blocks.is_cuda and blocks.requires_grad and torch.is_grad_enabled()):
        _refuse_nan(blocks.detach())
    return wall(blocks, kind, delta, clamp)


def wall(blocks: Tensor, kind: str, delta: float | int, clamp: float | int) -> Tensor:
    """`margin_penalty` of blocks in at least float32, without its checks: NaN gives NaN."""
    if kind == "first-order":
        return blocks.shape[-1] - blocks.diagonal(dim1=-2, dim2=-1).sum(-1)
    wanted = blocks.requires_grad and torch.is_grad_enabled()
    return _Wall.apply(blocks, kind, delta, clamp, wanted)[0]


def check_wall(kind: str, delta: float | int, clamp: float | int = 30) -> None:
    """Refuse an unknown kind of wall, and a delta or a clamp that makes none."""
    if kind not in Kind.__args__:
        raise ValueError(f"kind is {kind!r}: choose one of {', '.join(Kind.__args__)}")
    if not 0 < delta <= 1:
        raise ValueError(f"delta is {delta}: give a determinant where the wall turns straight, from above 0 up to 1")
    if not 0 < clamp < math.inf:
        raise ValueError(f"clamp is {clamp}: it is the largest penalty, so give a positive number, for example 30")


def check_weight(weight: float | int) -> None:
    """Refuse a lambda that would push towards the boundary."""
    if not 0 <= weight < math.inf:
        raise ValueError(f"weight is {weight}: give 0 or more; a negative one rewards degenerate attention")


def refuse_second_derivatives() -> None:
    """In a backward pass that is to be differentiated itself (`create_graph`): it would silently lose the wall."""
    if torch.is_grad_enabled():
        raise NotImplementedError(
            "the wall can be differentiated once: for second derivatives use torch.linalg.slogdet of the blocks"
        )


def wall_and_slope(
    blocks: Tensor, kind: str, delta: float | int, clamp: float | int, wanted: bool
) -> tuple[Tensor, Tensor]:
    """Penalties (*batch) and their slopes d penalty / d J (*batch, p, p), without graph or checks; NaN gives NaN.

    The slopes are empty unless they are `wanted`.
    """
    return _kl(blocks, delta, wanted) if kind == "kl" else _of_determinant(blocks, kind, delta, clamp, wanted)


class _Wall(torch.autograd.Function):
    """One factorisation for the value and for its slope, which is all that the backward pass needs."""

    @staticmethod
    def forward(
        ctx: Any, blocks: Tensor, kind: str, delta: float | int, clamp: float | int, wanted: bool
    ) -> tuple[Tensor, Tensor]:
        value, slope = wall_and_slope(blocks, kind, delta, clamp, wanted)
        ctx.save_for_backward(slope)
        ctx.mark_non_differentiable(slope)
        return value, slope

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple:
        refuse_second_derivatives()
        (slope,) = ctx.saved_tensors
        return gradient[..., None, None] * slope, None, None, None, None


def _of_determinant(
    blocks: Tensor, kind: str, delta: float | int, clamp: float | int, wanted: bool
) -> tuple[Tensor, Tensor]:
    """The walls that see J through its determinant. Their slope is -c J^{-T}, with one number c a block."""
    factors, pivots, _ = torch.linalg.lu_factor_ex(blocks.mT)  # of J^T, whose inverse is wanted
    diagonal = factors.diagonal(dim1=-2, dim2=-1)
    exchanged = pivots != torch.arange(1, pivots.shape[-1] + 1, device=pivots.device, dtype=pivots.dtype)
    negative = ((diagonal < 0) ^ exchanged).sum(-1) % 2 == 1
    log = diagonal.abs().log().sum(-1)  # log|D|, minus infinity where J is singular
    if kind in ("raw", "clamped"):
        value = -log if kind == "raw" else -log.clamp(min=-clamp)
        straight, flat = None, log < -clamp if kind == "clamped" else log == -math.inf
    else:
        straight = negative | (log < math.log(delta))
        size = log.clamp(max=LARGEST).exp()
        line = (1 - math.log(delta)) - torch.where(negative, -size, size) / delta
        value = torch.where(straight, line, -log)
        flat = value <= 0 if kind == "hinge" else None
        value = value if flat is None else value.masked_fill(flat, 0.0)
    if not wanted:
        return value, blocks.new_empty(0)
    diagonal.masked_fill_(diagonal == 0, torch.finfo(blocks.dtype).eps)
    strength = torch.ones_like(log)  # c: 1 where the wall is a logarithm, D / delta where it is a line
    if straight is not None:
        log = diagonal.abs().log().sum(-1)
        size = log.clamp(max=LARGEST).exp() / delta
        negative = ((diagonal < 0) ^ exchanged).sum(-1) % 2 == 1
        strength = torch.where(straight, torch.where(negative, -size, size), strength)
    if flat is not None:
        strength = strength.masked_fill(flat, 0)
    if kind == "hinge" and not blocks.is_cuda:  # only where the wall acts; to find out, a GPU would be waited for
        slope, acts = torch.zeros_like(blocks), ~flat
        slope[acts] = _scaled_inverse(factors[acts], pivots[acts], strength[acts])
        return value, slope
    return value, _scaled_inverse(factors, pivots, strength)


def _scaled_inverse(factors: Tensor, pivots: Tensor, strength: Tensor) -> Tensor:
    """-c J^{-T} from the factors of J^T."""
    right = torch.diag_embed((-strength)[..., None].expand(pivots.shape))
    return torch.linalg.lu_solve(factors, pivots, right).nan_to_num_(0, 0, 0)


def _kl(blocks: Tensor, delta: float | int, wanted: bool) -> tuple[Tensor, Tensor]:
    """The divergence, from a Cholesky factor in double precision, with slope J - (J J^T + delta^2 I)^{-1} J."""
    wide = blocks if blocks.device.type == "mps" else blocks.double()  # squares lose half of the digits
    gram = wide @ wide.mT
    trace = gram.diagonal(dim1=-2, dim2=-1).sum(-1)
    least = 8 * torch.finfo(wide.dtype).eps * trace  # what rounding may take from an eigenvalue
    gram.diagonal(dim1=-2, dim2=-1).add_((delta**2 + least)[..., None])
    factor = torch.linalg.cholesky_ex(gram)[0]
    log = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    value = ((trace - log - blocks.shape[-1]) / 2).to(blocks.dtype)
    if not wanted:
        return value, blocks.new_empty(0)
    return value, (wide - torch.cholesky_solve(wide, factor)).to(blocks.dtype)


def _refuse_nan(blocks: Tensor) -> None:
    """Refuse NaN and infinity, naming the first block that has one: a sum a block, then one look."""
    if bool(blocks.sum((-2, -1)).isfinite().all()):
        return
    bad = ~blocks.isfinite().flatten(-2).all(-1)
    if bool(bad.any()):  # else a sum has overflowed
        where = tuple(bad.nonzero()[0].tolist())
        place = f"at {where} (batch, then position)" if where else "given"
        raise ValueError(f"blocks has NaN or infinity in the block {place}: look at the embeddings and weights there")

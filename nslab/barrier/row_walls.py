r"""Walls at sampled rows of attention heads, with their gradient, for the price of a few small matrix products.

The block of row i is $J_i = I - R_i G\, C_i$, with $G = W_Q W_O / \sqrt k$, the rotation $R_i$ of its position (if
positions rotate), and the covariance $C_i$ of values and keys under its attention. To first order only
$\mathrm{tr}(G C_i)$ counts, for which no matrix is formed: each value is read once, $r_s = G v_s$, and attention
averages the numbers $r_s \cdot k_s$.

The gradient is written out by hand and taken in the same sweep, a few rows at a time: what is large stays in the cache,
and nothing of it is kept for the backward pass. The plain twin is `margin_penalty(head_blocks(stage, rows))`.
"""

import math

import torch
from torch import Tensor

from nslab.barrier.checks import attention_weights, without_autocast
from nslab.barrier.heads import HeadStage
from nslab.barrier.penalty_shapes import refuse_second_derivatives, wall_and_slope

CACHE = 2**18  # numbers in the blocks that a CPU takes at once; an accelerator takes all rows


def sampled_rows(
    batch: int, length: int, rows: int | None, first: int, generator: torch.Generator | None, device: torch.device
) -> tuple[Tensor, list[int]]:
    """Positions (batch, m) from `first` on, ascending, each equally often in the mean; and where each column ends.

    The positions are cut into as many strata of equal width as there are rows, and one is drawn from each: in whole
    ticks, `rows` of them a position, so that a position on a border has its share of both strata. With None, or with
    no more positions than rows, all of them.
    """
    free = max(length - first, 0)
    if rows is None or rows >= free:
        return torch.arange(first, first + free, device=device).expand(batch, -1), list(range(first, first + free))
    ticks = torch.randint(free, (batch, rows), generator=generator, device=device)
    drawn = (torch.arange(rows, device=device) * free + ticks) // rows + first
    return drawn, [first + ((column + 1) * free - 1) // rows for column in range(rows)]


@without_autocast
def row_walls(
    stage: HeadStage, rows: Tensor, ends: list[int], kind: str, delta: float | int, clamp: float | int, first: bool
) -> tuple[Tensor, Tensor]:
    """The sum of the walls of all heads at some rows, with a gradient, and each wall (B, H, m), without one.

    Args:
        stage: one layer, in at least float32.
        rows: positions (B, m), for each batch element its own.
        ends: for each of the m columns a position that none of its rows exceeds, ascending.
        kind: of the wall, which is not checked here.
        delta: of the wall.
        clamp: of the wall.
        first: whether it is the first-order one: "raw" is tr(G C) itself, "hinge" its positive part.
    """
    width = stage.key.shape[-1]
    coupling = stage.query_weight @ stage.output_weight / math.sqrt(width)  # (H, k, v)
    turns = None
    if stage.turn is not None:  # rotations R_i as matrices, (B, m, k, k)
        eye = torch.eye(width, dtype=coupling.dtype, device=rows.device)
        turned = stage.turn(eye[:, None].expand(-1, rows.numel(), -1), rows.flatten())  # row (j, i) is R_i e_j
        turns = turned.detach().permute(1, 2, 0).unflatten(0, rows.shape)
    entering = stage.query, stage.key, stage.value, coupling
    wanted = torch.is_grad_enabled() and any(part.requires_grad for part in entering)
    return _RowWalls.apply(*entering, turns, rows, ends, (kind, delta, clamp, first), wanted)


class _RowWalls(torch.autograd.Function):
    """Walls, and the slopes of their sum in query, key, value and coupling, which the backward pass only scales."""

    @staticmethod
    def forward(ctx, query, key, value, coupling, turns, rows, ends, wall, wanted):
        batch, heads, length, width = key.shape
        apart = (batch, heads)
        ctx.index = rows[:, None, :, None].expand(-1, heads, -1, width)
        query = (query.gather(2, ctx.index) / math.sqrt(width)).flatten(0, 1)  # (B H, m, k)
        key = key.flatten(0, 1)
        past = torch.arange(length, device=rows.device) < rows[..., None]  # (B, m, n)
        weights = attention_weights((query @ key.mT).unflatten(0, apart), past[:, None]).flatten(0, 1)
        coupling = coupling.repeat(batch, 1, 1)  # (B H, k, v)
        if wall[-1] and turns is None:
            walls, slopes = _traces(weights, key, value.flatten(0, 1), coupling, wall[0], wanted)
        else:
            turns = None if turns is None else turns.repeat_interleave(heads, 0)  # (B H, m, k, k)
            value = value.mT.flatten(0, 1)  # (B H, v, n)
            walls, slopes = _blocks(weights, key, value, coupling, turns, ends, wall, wanted)
        if wanted:
            of_weights, of_key, of_value, of_coupling = slopes
            of_logits = of_weights.sub_((weights * of_weights).sum(-1, keepdim=True)).mul_(weights)
            of_query = (of_logits @ key).div_(math.sqrt(width))
            slopes = of_query, of_key.baddbmm_(of_logits.mT, query), of_value, of_coupling
            *slopes, of_coupling = (part.unflatten(0, apart) for part in slopes)
            ctx.save_for_backward(*slopes, of_coupling.sum(0))
        walls = walls.unflatten(0, apart)
        ctx.mark_non_differentiable(walls)
        return walls.sum(), walls

    @staticmethod
    def backward(ctx, gradient, _):
        refuse_second_derivatives()
        of_query, of_key, of_value, of_coupling = ctx.saved_tensors
        batch, heads, length, _ = of_key.shape

        def laid(like: Tensor, *, fill: bool = False) -> Tensor:  # as a projection lays it out: (B, n, H k) in memory
            shape = (batch, length, heads, like.shape[-1])
            return (like.new_zeros(shape) if fill else like.new_empty(shape)).transpose(1, 2)

        of_query = laid(of_query, fill=True).scatter_add_(2, ctx.index, gradient * of_query)
        of_key, of_value = (torch.mul(part, gradient, out=laid(part)) for part in (of_key, of_value))
        return of_query, of_key, of_value, gradient * of_coupling, *[None] * 5


def _traces(weights, key, value, coupling, kind, wanted):
    """First-order walls (N, m), and their slopes in the weights, keys, values and couplings."""
    read = value @ coupling.mT  # r_s, (N, n, k)
    own = (read * key).sum(-1, keepdim=True)  # (N, n, 1)
    key_mean, read_mean = weights @ key, weights @ read  # (N, m, k)
    walls = (weights @ own)[..., 0] - (key_mean * read_mean).sum(-1)
    if kind == "hinge":
        walls = walls.clamp(min=0)
    if not wanted:
        return walls, None
    active = (walls > 0 if kind == "hinge" else torch.ones_like(walls))[..., None].to(walls)
    key_mean, read_mean = active * key_mean, active * read_mean
    share = weights.mT @ active  # (N, n, 1)
    of_weights = torch.baddbmm(active * own.mT, read_mean, key.mT, alpha=-1).baddbmm_(key_mean, read.mT, alpha=-1)
    of_key = read.mul_(share).baddbmm_(weights.mT, read_mean, alpha=-1)
    of_read = (share * key).baddbmm_(weights.mT, key_mean, alpha=-1)
    return walls, (of_weights, of_key, of_read @ coupling, of_read.mT @ value)


def _blocks(weights, key, value, coupling, turns, ends, wall, wanted):
    """Walls (N, m) from the blocks themselves, and the same slopes. Of each row only keys up to its end enter."""
    kind, delta, clamp, first = wall
    (count, rows, _), width, across = weights.shape, key.shape[-1], value.shape[-2]
    eye = torch.eye(width, dtype=key.dtype, device=key.device)
    key_mean, value_mean = weights @ key, weights @ value.mT
    of_weights, of_key, of_value = torch.zeros_like(weights), torch.zeros_like(key), torch.zeros_like(value)
    of_coupling = torch.zeros_like(coupling)
    walls = weights.new_empty(count, rows)
    step = max(1, CACHE // (count * width**2)) if key.device.type == "cpu" else max(1, rows)
    for start in range(0, rows, step):
        part = slice(start, min(start + step, rows))
        end = ends[part.stop - 1]
        share, values, keys = weights[:, part, None, :end], value[:, None, :, :end], key[:, :end]
        shared = (share * values).flatten(1, 2)  # (N, rows v, end)
        mean, other = key_mean[:, part, None], value_mean[:, part, :, None]
        inner = (other * -mean).flatten(1, 2).baddbmm_(shared, keys).unflatten(1, (-1, across))  # C, (N, rows, v, k)
        turned = coupling[:, None] if turns is None else turns[:, part] @ coupling[:, None]  # R_i G
        blocks = eye - turned @ inner
        if first:
            walls[:, part] = width - blocks.diagonal(dim1=-2, dim2=-1).sum(-1)
            active = walls[:, part] > 0 if kind == "hinge" else torch.ones_like(walls[:, part])
            walls[:, part] *= active
            slope = eye * -active[..., None, None].to(eye)
        else:
            walls[:, part], slope = wall_and_slope(blocks, kind, delta, clamp, wanted)
        if not wanted:
            continue
        pulled = slope @ inner.mT  # minus the slope in R_i G
        of_coupling -= (pulled if turns is None else turns[:, part].mT @ pulled).sum(1)
        slope = turned.mT @ slope  # minus the slope in C, (N, rows, v, k)
        moved, back = slope @ mean.mT, (other.mT @ slope)[:, :, 0]
        slope = slope.flatten(1, 2)
        of_key[:, :end].baddbmm_(shared.mT, slope, alpha=-1).baddbmm_(weights[:, part, :end].mT, back)
        pulled = (slope @ keys.mT).unflatten(1, (-1, across)).sub_(moved)  # (N, rows, v, end)
        if part.stop - start == 1:
            of_value[..., :end].addcmul_(pulled[:, 0], share[:, 0], value=-1)
        else:
            of_value[..., :end] -= (pulled * share).sum(1)
        of_weights[:, part, :end] = torch.baddbmm(pulled.mul_(values).sum(2), back, keys.mT, beta=-1)
    return walls, (of_weights, of_key, of_value.mT, of_coupling)

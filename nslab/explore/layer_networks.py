"""What stands beside the theory in the layer explorer: the causal mask, and one random network from a seed.

Both are twins of ``assets/layer-networks.js``. The random numbers are those of ``seeded_gaussians``, so that the
page and Python draw one and the same network. *Ours.*
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from nslab.explore.seeded_gaussians import gaussian_pairs
from nslab.gaussian import relu_moment
from nslab.propagation.agreement_table import AgreementTable
from nslab.propagation.architecture import Architecture

MOST_WIDTH = 128  # of a network that is drawn: wider ones take a page seconds
INPUTS = 2  # sequences a network is run on


def causal_recursion(rho: float | int, shape: Architecture, tables: Sequence[AgreementTable]) -> tuple[Tensor, Tensor]:
    """`propagate_causal` with given agreement tables, for n = 1, 2, ...

    Returns:
        Moments (m, o, q, p) averaged over positions, (4, layers + 1), and the masses (s, t, s_a, t_a) averaged over
        rows, (4, layers).
    """
    eye = torch.eye(shape.tokens, dtype=torch.float64)
    parts = torch.stack([rho * eye, eye])  # across and within runs, (2, i, j)
    states, masses = [_averages(parts)], []
    for _ in range(shape.layers):
        block, mass = _causal_attention(_normed(parts, shape), shape, tables)
        masses.append(_averages(mass))
        parts = _added(parts, shape.gain**2 * block, shape)
        if shape.mlp != "none":
            seen = _normed(parts, shape)
            own = seen[1].diagonal()
            bound = own[:, None].sqrt() * own.sqrt()
            parts = _added(parts, 2 * relu_moment(own[:, None], own, seen.clamp(-bound, bound)), shape)
        states.append(_averages(parts))
    return torch.stack(states, -1), torch.stack(masses, -1)


def _causal_attention(parts: Tensor, shape: Architecture, tables: Sequence[AgreementTable]) -> tuple[Tensor, Tensor]:
    """Moments after attention of gain 1, and masses, both (2, i, j)."""
    n, own = shape.tokens, parts[1].diagonal()
    mean, sharpness = own.mean(), shape.score_scale * math.sqrt(shape.width)
    if shape.scores != "random":
        logits = sharpness * parts[1] / mean * (shape.scores == "identity")
        weights = logits.masked_fill(torch.ones(n, n, dtype=torch.bool).triu(1), -math.inf).softmax(-1)
        return weights @ parts @ weights.mT, (weights @ weights.mT).expand_as(parts)
    counts = torch.arange(1, n + 1, dtype=torch.float64)
    fewer = torch.minimum(torch.arange(n)[:, None], torch.arange(n))
    total = parts.cumsum(-1).cumsum(-2)
    equal = parts.diagonal(dim1=-2, dim2=-1).cumsum(-1)  # (2, i)
    rest = total.diagonal(dim1=-2, dim2=-1) - equal
    gap = equal / counts - rest / (counts * (counts - 1)).clamp(min=1)
    apart = gap[1].clamp(min=torch.finfo(torch.float64).eps * mean)
    size = own[:, None].sqrt() * own.sqrt()
    spread = sharpness * (apart[fewer] / mean * (size / mean)).sqrt()
    r = (parts / size).clamp(-1, 1) * (gap / apart).clamp(-1, 1)[:, fewer]
    mass = torch.zeros_like(parts)
    for i in range(n):  # rows i and j >= i vote together among i + 1 tokens
        mass[:, i, i:] = mass[:, i:, i] = (i + 1) / counts[i:] * tables[i](r[:, i, i:], spread[i, i:])
    pairs = (counts[:, None] * counts - counts[fewer]).clamp(min=1)  # position 0 has no unequal pair, and mass 1
    unequal = (total - equal[:, fewer]) / pairs
    return mass * (equal / counts)[:, fewer] + (1 - mass) * unequal, mass


def random_network(rho: float | int, shape: Architecture, seed: int) -> tuple[Tensor, int]:
    """Measured moments of one random network on `INPUTS` Gaussian sequences and their twins.

    The network is at most `MOST_WIDTH` wide. Where that is less than the shape's width, its scores are scaled up, so
    that their spread is that of the full width.

    Returns:
        (m, o, q, p) before the first layer and after each, (4, layers + 1), and the width it was drawn at.
    """
    draw = _Stream(seed)
    d = min(shape.width, MOST_WIDTH)
    scale = shape.score_scale * math.sqrt(shape.width / d)
    x, z = (draw(INPUTS, shape.tokens, d) for _ in range(2))
    h = torch.stack([x, rho * x + math.sqrt((1 - rho) * (1 + rho)) * z])  # (runs, inputs, tokens, width)
    states = [_measured(h)]
    for _ in range(shape.layers):
        seen = _rms(h, shape)
        query = seen @ (scale * draw(d, d)) if shape.scores == "random" else scale * seen
        logits = query @ seen.mT / (math.sqrt(d) * seen.square().mean((-2, -1), keepdim=True))
        logits = logits * (shape.scores != "uniform")
        if shape.causal:
            logits = logits.masked_fill(torch.ones(logits.shape[-2:], dtype=torch.bool).triu(1), -math.inf)
        h = _run(h, logits.softmax(-1) @ seen @ (shape.gain / math.sqrt(d) * draw(d, d)), shape)
        if shape.mlp != "none":
            inner = (_rms(h, shape) @ (draw(d, d) / math.sqrt(d))).clamp(min=0)
            h = _run(h, inner @ (draw(d, d) * math.sqrt(2 / d)), shape)
        states.append(_measured(h))
    return torch.stack(states, -1), d


class _Stream:
    """Standard Gaussians one after the other, in pairs."""

    def __init__(self, seed: int):
        self.seed, self.at = seed, 0

    def __call__(self, *shape: int) -> Tensor:
        index = np.arange(self.at, self.at + math.prod(shape) // 2, dtype=np.uint32)
        self.at += len(index)
        return torch.from_numpy(np.stack(gaussian_pairs(self.seed, index), -1)).reshape(shape)  # (pairs, 2) -> shape


def _measured(h: Tensor) -> Tensor:
    """(m, o, q, p) of two runs (2, inputs, tokens, width); q and p are means of both."""
    x, y = h
    n, places = h.shape[2], x.numel()
    m, q = (x * y).sum() / places, h.square().sum() / (2 * places)
    sums = h.sum(2)
    o = ((sums[0] * sums[1]).sum() / places - m) / (n - 1)
    p = (sums.square().sum() / (2 * places) - q) / (n - 1)
    return torch.stack([m, o, q, p])


def _rms(h: Tensor, shape: Architecture) -> Tensor:
    return h if shape.norm == "none" else h / h.square().mean(-1, keepdim=True).sqrt()


def _run(h: Tensor, block: Tensor, shape: Architecture) -> Tensor:
    if shape.residual == "none":
        return block
    return h + block if shape.residual == "pre-norm" else (h + block) * math.sqrt(0.5)


def _normed(parts: Tensor, shape: Architecture) -> Tensor:
    if shape.norm == "none":
        return parts
    size = parts[1].diagonal().sqrt()
    return parts / (size[:, None] * size)


def _added(old: Tensor, block: Tensor, shape: Architecture) -> Tensor:
    if shape.residual == "none":
        return block
    return (0.5 if shape.residual == "scaled" else 1.0) * (old + block)


def _averages(parts: Tensor) -> Tensor:
    """Means of the diagonal and of the rest, across runs and then within, (4,)."""
    n = parts.shape[-1]
    equal = parts.diagonal(dim1=-2, dim2=-1).sum(-1)
    return torch.stack([equal / n, (parts.sum((-2, -1)) - equal) / (n * (n - 1))], -1).flatten()  # (2, 2) -> (4,)

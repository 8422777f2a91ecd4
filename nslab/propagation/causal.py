"""The recursion with a causal mask: token i sees tokens 0 to i only, so every pair of positions has its own moment."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from nslab.gaussian import relu_moment
from nslab.gaussian.ranges import Scalar
from nslab.propagation.activations import activation_gain, activation_moment
from nslab.propagation.agreement_table import AgreementTable
from nslab.propagation.architecture import Architecture
from nslab.propagation.moments import Moments
from nslab.propagation.recursion import cut, per_layer


@dataclass(frozen=True, eq=False)
class CausalMoments:
    r"""Moments of every pair of positions, before the first layer and after each.

    Attributes:
        cross: $\frac1d E \langle h_i, h'_j \rangle$, (layers + 1, *batch, tokens, tokens, rho).
        within: $\frac1d E \langle h_i, h_j \rangle$ in one run, the same shape.

    How to read it: the diagonal of cross over that of within is each position's correlation (`correlation`).
    """

    cross: Float[Tensor, "..."]
    within: Float[Tensor, "..."]

    @property
    def correlation(self) -> Float[Tensor, "..."]:
        """Correlation of each position with its twin, (layers + 1, *batch, tokens, rho)."""
        return (_diagonal(self.cross) / _diagonal(self.within)).movedim(-1, -2)

    def average(self) -> Moments:
        """(m, o, q, p) averaged over positions and pairs of them, as `propagate` states them and as one measures."""
        m, o = _averages(self.cross)
        q, p = _averages(self.within)
        return Moments(m, o, q, p)


def propagate_causal(
    moments: Moments,
    architecture: Architecture,
    *,
    gain: Scalar | None = None,
    score_scale: Scalar | None = None,
) -> CausalMoments:
    r"""The moments of all pairs of positions, layer by layer.

    Formula: attention is $M'_{ij} = g^2 \sum_{k \le i, l \le j} E[A_{ik} A'_{jl}] M_{kl}$. Of the weights only the
    agreement mass is kept. For i <= j, row j looks at one of row i's i + 1 tokens with probability (i+1)/(j+1), and
    then both vote among them: $s_{ij} = \frac{i+1}{j+1} G_{i+1}(r_{ij}, \tau_{ij})$. This mass is spread evenly over
    the pairs k = l, the rest evenly over the pairs k != l. With $D_i$ and $O_i$ the means of the diagonal and of the
    rest of the first i + 1 tokens' moments,
    $r_{ij} = \frac{M_{ij}}{\sqrt{Q_{ii} Q_{jj}}} \frac{D_i(M) - O_i(M)}{D_i(Q) - O_i(Q)}$ and
    $\tau_{ij}^2 = \beta^2 d \sqrt{Q_{ii} Q_{jj}}\, (D_i(Q) - O_i(Q)) / \hat q^2$, $\hat q$ the mean of $Q_{kk}$.
    The within-run matrix Q obeys the same with Q for M. For "identity" and "uniform" scores A is the softmax of the
    mean logits, $M' = g^2 A M A^\top$.

    Args:
        moments: before the first layer, equal at all positions, (*batch, rho); one rho without an axis gets one.
        architecture: the network; its `causal` must be True.
        gain: as in `propagate`.
        score_scale: likewise.

    Returns:
        `CausalMoments`. Differentiable in the moments, the gain and the score scale.

    How to read it: the first position attends to itself alone and feels no vote; later ones vote among more tokens
    and lose more. What is approximate: votes among unequal tokens are treated as votes among equal ones with their
    mean correlations (exact in the first layer, for tokens of one law), and whether row j's winner is one of row i's
    tokens as independent of which it is (exact for uniform weights and for independent runs). Beside networks of 16
    tokens the mean correlation is within 0.02 with a residual and a norm; with hard votes and neither it is up to 0.08
    too low (rho = 0.95, layer 2). Cost: tokens^2 agreement masses a layer.

    Errors: as `propagate`; `ValueError` when the architecture is not causal.

    Source: *ours*.

    >>> shape = Architecture(tokens=4, width=512, layers=1, scores="uniform", mlp="none", causal=True)
    >>> propagate_causal(Moments.inputs(0.5), shape).cross[1, :, 3, 0].tolist()
    [0.125, 0.125, 0.125, 0.125]
    """
    if not architecture.causal:
        raise ValueError("architecture has causal = False: use propagate, or causal = True")
    start = moments.check(architecture.tokens).each(torch.atleast_1d).broadcast()
    n = architecture.tokens
    eye = torch.eye(n, dtype=start.q.dtype, device=start.q.device)
    cross = start.o[..., None, None] + (start.m - start.o)[..., None, None] * eye  # (*batch, rho, i, j)
    within = start.p[..., None, None] + (start.q - start.p)[..., None, None] * eye
    gains = per_layer(gain, architecture.gain, architecture.layers, "gain")
    scales = per_layer(score_scale, architecture.score_scale, architecture.layers, "score_scale")
    states = [(cross, within)]
    for number, (g, scale) in enumerate(zip(gains, scales, strict=True), 1):
        square, beta = (_matrices(value) for value in (g**2, scale))
        seen = _normed(cross, within, architecture)
        cross, within = _added(
            (cross, within), [square * part for part in _attention(*seen, architecture, beta)], architecture
        )
        if architecture.mlp != "none":
            block = _activated(*_normed(cross, within, architecture), architecture.mlp)
            cross, within = _added((cross, within), block, architecture)
        _alive(cross, within, number)
        states.append((cross, within))
    several = (torch.broadcast_tensors(*parts) for parts in zip(*states, strict=True))  # a gain may bring batch axes
    return CausalMoments(*(torch.stack(parts).movedim(-3, -1) for parts in several))


def _attention(cross: Tensor, within: Tensor, architecture: Architecture, beta: Scalar) -> tuple[Tensor, Tensor]:
    """Cross and within after attention of gain 1, (*batch, rho, i, j)."""
    d, n = architecture.width, architecture.tokens
    own = within.diagonal(dim1=-2, dim2=-1)  # (*batch, rho, i)
    mean = own.mean(-1)[..., None, None]
    if architecture.scores != "random":
        logits = (
            beta * math.sqrt(d) * (within / mean if architecture.scores == "identity" else torch.zeros_like(within))
        )
        hidden = torch.ones(n, n, dtype=torch.bool, device=within.device).triu(1)
        weights = logits.masked_fill(hidden, -math.inf).softmax(-1)
        return weights @ cross @ weights.mT, weights @ within @ weights.mT
    size = _sizes(own)
    tiny = torch.finfo(own.dtype).eps * mean[..., 0]
    gaps = [_gap(part) for part in (cross, within)]  # (*batch, rho, i)
    apart = gaps[1].clamp(min=tiny)
    spread = beta * math.sqrt(d) * (_smaller(apart) / mean * (size / mean)).sqrt()
    ratios = [_smaller(cut(gap / apart, 1)) for gap in gaps]
    r = torch.stack([cut(part / size, 1) * ratio for part, ratio in zip((cross, within), ratios, strict=True)])
    masses = _masses(r, spread, n)
    return tuple(_spread_out(part, mass) for part, mass in zip((cross, within), masses, strict=True))


def _masses(r: Tensor, spread: Tensor, n: int) -> Tensor:
    """s_ij from symmetric r and spreads, (..., i, j): row by row, because each votes among another number of tokens."""
    spread = spread.expand(r.shape[1:])
    tables = AgreementTable.of(range(1, n + 1), dtype=r.dtype, device=r.device)
    rows = []
    for i in range(n):
        table = AgreementTable(i + 1, tables.coefficients[i])
        share = (i + 1) / torch.arange(i + 1, n + 1, dtype=r.dtype, device=r.device)
        found = share * table(r[..., i, i:], spread[..., i, i:])  # (..., j >= i)
        rows.append(torch.nn.functional.pad(found, (i, 0)))
    upper = torch.stack(rows, -2)
    return upper + upper.triu(1).mT


def _spread_out(part: Tensor, mass: Tensor) -> Tensor:
    """The mass on pairs of equal tokens, the rest on unequal ones, (..., i, j)."""
    counts = torch.arange(1, part.shape[-1] + 1, dtype=part.dtype, device=part.device)
    equal = part.diagonal(dim1=-2, dim2=-1).cumsum(-1)
    total = part.cumsum(-1).cumsum(-2)
    pairs = (counts[:, None] * counts - _smaller(counts)).clamp(min=1)  # position 0 has no unequal pair, and mass 1
    return mass * _smaller(equal / counts) + (1 - mass) * (total - _smaller(equal)) / pairs


def _gap(part: Tensor) -> Tensor:
    """Mean of the diagonal minus mean of the rest, of the first i + 1 tokens, (..., i)."""
    counts = torch.arange(1, part.shape[-1] + 1, dtype=part.dtype, device=part.device)
    equal = part.diagonal(dim1=-2, dim2=-1).cumsum(-1)
    total = part.cumsum(-1).cumsum(-2).diagonal(dim1=-2, dim2=-1)
    return equal / counts - (total - equal) / (counts * (counts - 1)).clamp(min=1)


def _sizes(own: Tensor) -> Tensor:
    """sqrt(q_i q_j), (..., i, j); root by root, because the product of two small q underflows."""
    root = own.sqrt()
    return root[..., None] * root[..., None, :]


def _smaller(values: Tensor) -> Tensor:
    """values[min(i, j)], (..., i, j)."""
    index = torch.arange(values.shape[-1], device=values.device)
    return values[..., torch.minimum(index[:, None], index)]


def _activated(cross: Tensor, within: Tensor, mlp: str) -> tuple[Tensor, Tensor]:
    own = within.diagonal(dim1=-2, dim2=-1)
    q, q_prime = torch.broadcast_tensors(own[..., None], own[..., None, :])
    bound = _sizes(own)
    parts = torch.stack([cut(part, bound) for part in (cross, within)])
    if mlp == "relu":
        return tuple(2 * relu_moment(q, q_prime, parts))
    return tuple(activation_gain(mlp).to(own) * activation_moment(mlp, q, q_prime, parts))


def _normed(cross: Tensor, within: Tensor, architecture: Architecture) -> tuple[Tensor, Tensor]:
    if architecture.norm == "none":
        return cross, within
    size = _sizes(within.diagonal(dim1=-2, dim2=-1))
    return cross / size, within / size


def _added(state: tuple, block: tuple | list, architecture: Architecture) -> tuple[Tensor, Tensor]:
    if architecture.residual == "none":
        return tuple(block)
    share = 0.5 if architecture.residual == "scaled" else 1.0
    return tuple(share * (old + new) for old, new in zip(state, block, strict=True))


def _alive(cross: Tensor, within: Tensor, number: int) -> None:
    own = within.detach().diagonal(dim1=-2, dim2=-1)
    if not bool((own > 0).all() and torch.isfinite(cross.detach()).all() and torch.isfinite(within.detach()).all()):
        raise ValueError(
            f"layer {number}: a moment is not finite or a q not positive, smallest {own.min().item():g};"
            " choose gain and score_scale so that the signal neither dies nor overflows"
        )


def _matrices(value: Scalar) -> Scalar:
    """One value for all pairs of positions."""
    return value[..., None, None] if isinstance(value, Tensor) and value.ndim else value


def _diagonal(matrix: Tensor) -> Tensor:
    """(..., i, j, rho) -> (..., rho, i)."""
    return matrix.diagonal(dim1=-3, dim2=-2)


def _averages(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of the diagonal and of the rest over positions, (..., rho)."""
    n = matrix.shape[-2]
    equal = _diagonal(matrix).sum(-1)
    return equal / n, (matrix.sum((-3, -2)) - equal) / max(n * (n - 1), 1)

r"""How far each token is from the degeneracy boundary det J_i = 0: three margins, support tokens, two guarantees.

The blocks $J_i = I - \Sigma_i A$ of strictly causal attention come from `nslab.barrier.jacobian_blocks`. The first two
positions have $\Sigma = 0$ and $J = I$: their margin reads 1, their barrier 0, and no query of theirs can reach the
boundary. They are never support tokens.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nslab.barrier.checks import check_embeddings, check_finite, check_matrix, positions, upcast, without_autocast
from nslab.barrier.moments import causal_moments

NEUTRAL = 2  # positions 0 and 1 see no past, or one token: nothing to be undecided between


@dataclass(frozen=True, eq=False)
class BlockMargins:
    r"""What decides how a block J treats noise, elementwise over (*batch, rows).

    Attributes:
        determinant: $m = |\det J|$, the determinant margin; 0 on the boundary, and inf where it overflows.
        sign: of $\det J$: 1, -1, or 0 on the boundary. A token with -1 is on the far side of the wall.
        log_determinant: $\log|\det J|$; -inf on the boundary, finite where the determinant overflows.
        spectral: $s = \sigma_{\min}(J)$, the 2-norm distance from J to the nearest singular matrix (Eckart-Young).

    How to read it: $s^p \le m \le s \|J\|^{p-1}$. A determinant near 1 can hide a small s, so look at both.
    """

    determinant: Float[Tensor, "..."]
    sign: Float[Tensor, "..."]
    log_determinant: Float[Tensor, "..."]
    spectral: Float[Tensor, "..."]

    @property
    def barrier(self) -> Float[Tensor, "..."]:
        r"""$b = -\log|\det J|$ in nats; inf on the boundary."""
        return -self.log_determinant


@dataclass(frozen=True, eq=False)
class NoiseGain:
    r"""The noise that a token answers most strongly, $J\, v = s\, w$ with the least singular value s.

    Attributes:
        gain: 1/s, the length of the answer to noise of length 1, to first order; inf on the boundary.
        noise: w (..., p), the unit noise that is amplified most.
        token: v (..., p), the unit direction in which the token then moves. The signs of w and v go together.
    """

    gain: Float[Tensor, "..."]
    noise: Float[Tensor, "..."]
    token: Float[Tensor, "..."]


@without_autocast
def block_margins(blocks: Float[Tensor, "..."]) -> BlockMargins:
    r"""Determinant and spectral margins of Jacobian blocks.

    Formula: $m = |\det J|$, $b = -\log m$, $s = \sigma_{\min}(J)$.

    Args:
        blocks: J (*batch, p, p), as `jacobian_blocks` gives them, (*batch, rows, p, p).

    Returns:
        `BlockMargins`, each part (*batch), in at least float32: half precision is upcast, and autocast is off inside.

    How to read it: see `BlockMargins`. Rounding leaves an s of about eps |J| where exact arithmetic has 0. On the
    boundary the gradient of the barrier is not finite; to train, take `margin_penalty`.

    Errors: `ValueError` for blocks that are not square, and NaN or infinity (the block is named).

    Source: arXiv 2602.22271 for "closest to the boundary"; |det| and sigma_min as its measures: *reconstructed*.

    >>> found = block_margins(torch.diag(torch.tensor([0.25, 1.0])))
    >>> found.barrier, found.spectral
    (tensor(1.3863), tensor(0.2500))
    """
    blocks = _checked(blocks)
    sign, logs = torch.linalg.slogdet(blocks)
    return BlockMargins(logs.exp(), sign, logs, torch.linalg.svdvals(blocks)[..., -1])


@without_autocast
def noise_gain(blocks: Float[Tensor, "..."]) -> NoiseGain:
    r"""How strongly a token can answer a small noise, and in which direction.

    Formula: $\delta u = J^{-1} \delta\varepsilon$, so $\max |\delta u| / |\delta\varepsilon| = 1/\sigma_{\min}(J)$.

    Args:
        blocks: J (*batch, p, p).

    Returns:
        `NoiseGain` with gain (*batch), directions (*batch, p).

    How to read it: support tokens are where the smallest noise makes the largest change. On the boundary the gain is
    infinite, and the token moves along the v of $\Sigma_i A v = v$: its mean follows, and its residual sees nothing.

    Errors: as `block_margins`.

    Source: *reconstructed*.

    >>> noise_gain(torch.diag(torch.tensor([0.25, 1.0]))).gain
    tensor(4.)
    """
    left, values, right = torch.linalg.svd(_checked(blocks))
    return NoiseGain(1 / values[..., -1], left[..., :, -1], right[..., -1, :])


@without_autocast
def eigen_margin(
    u: Float[Tensor, "..."], scores: Float[Tensor, "..."], rows: Tensor | None = None
) -> Float[Tensor, "..."]:
    r"""The margin of a symmetric positive semidefinite score matrix, as an eigenvalue.

    Formula: $\gamma_i = 1 - \lambda_{\max}(A^{1/2} \Sigma_i A^{1/2})$.

    Args:
        u: embeddings (*batch, n, p).
        scores: A (p, p), symmetric and positive semidefinite; leading axes broadcast. The gradient goes to u only.
        rows: positions (rows,), 0-based; all n by default.

    Returns:
        (*batch, rows), at most 1; exactly 1 at positions 0 and 1.

    How to read it: above 0 on the near side of the boundary. It is the closest to the margin of a support vector
    machine: $1 - \gamma$ grows linearly when $\Sigma$ is scaled, and $\gamma \ge g$ is a linear matrix inequality in
    $\Sigma$. It is concave in $\Sigma$, not linear: averaged covariances have at least the average margin.

    Errors: `ValueError` for a score matrix that is not symmetric or has a negative eigenvalue, beyond rounding;
    otherwise as `causal_moments`.

    Source: *reconstructed*.
    """
    u, scores = upcast(u, scores.detach())
    covariance = causal_moments(u, scores, rows=rows).covariance
    slack = torch.finfo(scores.dtype).eps ** 0.75 * float(scores.abs().max())
    worst = float((scores - scores.mT).abs().max())
    if worst > slack:
        raise ValueError(f"scores differs from its transpose by {worst:.2g}: make it symmetric, or take block_margins")
    values, vectors = torch.linalg.eigh(scores)
    if (least := float(values.min())) < -slack * values.shape[-1]:
        raise ValueError(f"scores has the eigenvalue {least:.4g}: it must have none below 0, or take block_margins")
    root = (vectors * values[..., None, :].clamp(min=0).sqrt() @ vectors.mT)[..., None, :, :]  # one for all rows
    return 1 - torch.linalg.eigvalsh(root @ covariance @ root)[..., -1]


def support_tokens(
    margins: BlockMargins | Float[Tensor, "..."], tolerance: float | int = 0.0, *, rows: Tensor | None = None
) -> Bool[Tensor, "..."]:
    r"""The tokens closest to the degeneracy boundary.

    Formula: all i with $m_i \le \min_j m_j + \tau\, |\min_j m_j|$, over positions from 2 on; for margins that are
    not negative this is $m_i \le (1 + \tau) \min_j m_j$.

    Args:
        margins: (*batch, rows), smaller is closer: a part of `BlockMargins` or eigen-margins. Of `BlockMargins` as a
            whole the determinant counts, by its logarithm.
        tolerance: $\tau \ge 0$; 0 keeps the minimum and exact ties with it.
        rows: the positions (rows,) of the margins, 0-based; by default they are 0, 1, 2, ...

    Returns:
        Mask (*batch, rows), on the device of the margins.

    How to read it: positions 0 and 1 never count, so a sequence of length 0, 1 or 2 has no support token. Without
    attention (A = 0) all margins are 1 and every later token is one.

    Errors: `ValueError` for a negative tolerance, NaN, and rows that do not fit the margins.

    Source: arXiv 2602.22271 ("closest to the boundary"); the tolerance: *reconstructed*.

    >>> support_tokens(torch.tensor([1.0, 1.0, 0.5, 0.9, 0.52]), 0.1)
    tensor([False, False,  True, False,  True])
    """
    if not tolerance >= 0:
        raise ValueError(f"tolerance is {tolerance}: give 0 for the least margin alone, or a positive number")
    logarithms = isinstance(margins, BlockMargins)  # they do not overflow
    margins = _one_margin(margins.log_determinant if logarithms else margins)
    counts = _counting(margins, rows)
    least = sequence_margin(margins, rows=rows)[..., None]
    bound = least + math.log1p(tolerance) if logarithms else least * (1 + tolerance * least.sign())
    return (margins <= bound) & counts


def sequence_margin(
    margins: BlockMargins | Float[Tensor, "..."], *, rows: Tensor | None = None
) -> Float[Tensor, "..."]:
    r"""The least margin of a sequence, $\min_{i \ge 2} m_i$.

    Args:
        margins: as in `support_tokens`.
        rows: the positions (rows,) of the margins, 0-based; by default they are 0, 1, 2, ...

    Returns:
        (*batch). Infinite for a sequence of length 0, 1 or 2: the distance to a boundary that does not exist. (The
        determinants there are 1.)

    Errors: `ValueError` for NaN, and rows that do not fit the margins.

    Source: *reconstructed*.

    >>> sequence_margin(torch.tensor([[1.0, 1.0, 0.5], [1.0, 1.0, 2.0]]))
    tensor([0.5000, 2.0000])
    >>> sequence_margin(torch.ones(2))
    tensor(inf)
    """
    margins = _one_margin(margins)
    kept = margins.masked_fill(~_counting(margins, rows), math.inf)
    return kept.amin(-1) if kept.shape[-1] else kept.new_full(kept.shape[:-1], math.inf)


def diameter(u: Float[Tensor, "..."], rows: Tensor | None = None) -> Float[Tensor, "..."]:
    r"""Diameter of the past of each row, $D_i = \max_{s,t<i} |u_s - u_t|$, in the units of u.

    Args:
        u: embeddings (*batch, n, p).
        rows: positions (rows,), 0-based; all n by default.

    Returns:
        (*batch, rows), in at least float32; 0 at positions 0 and 1.

    Errors: `ValueError` for rows outside the sequence, and NaN or infinity (the position is named).

    Source: *reconstructed*.

    >>> diameter(torch.tensor([[0.0], [3.0], [1.0], [-1.0], [9.0]]))
    tensor([0., 0., 3., 3., 4.])
    """
    (u,) = upcast(u)
    check_embeddings(u)
    rows = positions(rows, u.shape[-2], u.device)
    if not u.shape[-2]:
        return u.new_zeros(u.shape[:-2] + rows.shape)
    # Differences and not the product form, whose rounding would make copies of one token differ.
    apart = torch.cdist(u, u, compute_mode="donot_use_mm_for_euclid_dist").tril()  # (*batch, n, n), s <= t
    largest = apart.amax(-1).cummax(-1).values
    return torch.cat([torch.zeros_like(largest[..., :1]), largest[..., :-1]], -1)[..., rows]


@without_autocast
def safe_temperature(scores: Float[Tensor, "..."], diameter: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    r"""The factor below which the score matrix cannot bring a token to the boundary, wherever its query is.

    Formula: $t^* = 4 / (\|A\|_2 D^2)$. For $t < t^*$ the blocks of $tA$ have $s_i \ge 1 - t/t^* > 0$,
    $\det J_i \ge (1 - t/t^*)^p$ and $b_i \le -p \log(1 - t/t^*)$.

    Args:
        scores: A (p, p).
        diameter: D (*batch), of the past, as `diameter` gives it.

    Returns:
        $t^*$ (*batch), without a unit; infinite where D = 0 or A = 0. The bound is strict: $t^*$ itself is not safe.

    How to read it: above 1, the model as it is has no boundary in this context, and its density is normalised.
    Tight: two past tokens with equal weights and $u_1 - u_2$ along the top eigenvector of A meet the boundary at
    $t^*$. The reason is Popoviciu's inequality: a variance on an interval of length D is at most $D^2/4$.

    Errors: `ValueError` for a matrix that is not square, a diameter below 0, and NaN.

    Source: *reconstructed*.

    >>> safe_temperature(0.5 * torch.eye(3), torch.tensor(2.0))
    tensor(2.)
    """
    size, diameter = _size(scores, diameter)
    return _over(4, size * diameter**2)


@without_autocast
def certified_radius(
    spectral: Float[Tensor, "..."], scores: Float[Tensor, "..."], diameter: Float[Tensor, "..."]
) -> Float[Tensor, "..."]:
    r"""A ball around each token that holds no boundary, its past being fixed.

    Formula: $r_i = s_i / L$ with $L = \|A\|_2^2 D^3 / 4$, because $\|J(u) - J(u')\| \le L |u - u'|$: the covariance
    changes with the query through third central moments.

    Args:
        spectral: $s_i$ (*batch), `BlockMargins.spectral`.
        scores: A (p, p).
        diameter: D (*batch), of the past of each token, as `diameter` gives it.

    Returns:
        $r_i$ (*batch), in the units of u; infinite where L = 0.

    How to read it: a guarantee, and a careful one: the ball without a boundary is at least 2.6 times as wide. A third
    central moment on an interval of length D is at most $D^3 / (6\sqrt3)$, and a symmetric tensor attains its norm on
    one direction, so $2/(3\sqrt3) = 0.385$ of L would do. Two tokens on a line need that much.

    Errors: `ValueError` for margins or diameters below 0, a matrix that is not square, and NaN.

    Source: *reconstructed*.

    >>> certified_radius(torch.tensor(0.5), 0.5 * torch.eye(3), torch.tensor(2.0))
    tensor(1.)
    """
    size, diameter = _size(scores, diameter)
    _not_negative("spectral", spectral)
    return _over(spectral, size**2 * diameter**3 / 4)


def _checked(blocks: Tensor) -> Tensor:
    (blocks,) = upcast(blocks)
    bad = ~blocks.detach().isfinite().flatten(-2).all(-1)  # (*batch, p, p) -> (*batch)
    if bool(bad.any()):
        told = f"the block at {tuple(bad.nonzero()[0].tolist())}" if bad.ndim else "the block"
        raise ValueError(f"blocks has NaN or infinity in {told}: look at the embeddings and the scores it came from")
    check_matrix("blocks", blocks, blocks.shape[-1])
    return blocks


def _one_margin(margins: BlockMargins | Tensor) -> Tensor:
    margins = margins.determinant if isinstance(margins, BlockMargins) else margins
    if not margins.ndim:
        raise ValueError("margins is one number: give the margins of a sequence, (*batch, rows)")
    if bool(margins.isnan().any()):
        raise ValueError(f"margins has NaN at {tuple(margins.isnan().nonzero()[0].tolist())}: look at what computed it")
    return margins


def _counting(margins: Tensor, rows: Tensor | None) -> Tensor:
    """Which of the rows can be near a boundary at all, (rows,)."""
    if rows is None:
        rows = torch.arange(margins.shape[-1], device=margins.device)
    elif rows.shape != margins.shape[-1:]:
        raise ValueError(f"rows has shape {tuple(rows.shape)} for {margins.shape[-1]} margins: give one position each")
    return rows.to(margins.device) >= NEUTRAL


def _size(scores: Tensor, diameter: Tensor) -> tuple[Tensor, Tensor]:
    """The spectral norm of the score matrix, and the diameter in its dtype; both checked."""
    scores, diameter = upcast(scores, diameter)
    check_matrix("scores", scores, scores.shape[-1])
    _not_negative("diameter", diameter)
    return torch.linalg.matrix_norm(scores, 2), diameter


def _over(above: Tensor | int, below: Tensor) -> Tensor:
    """A quotient; where it is over 0, infinity without a gradient."""
    return torch.where(below > 0, above / below.where(below > 0, 1), math.inf)


def _not_negative(name: str, values: Tensor) -> None:
    check_finite(name, values)
    if bool((values < 0).any()):
        raise ValueError(f"{name} has {float(values.min()):.4g}: it cannot be below 0")

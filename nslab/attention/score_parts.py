r"""How symmetric is a head? The symmetric and the antisymmetric part of its scores, by its weights and on data.

A head's score of two inputs is a bilinear form, s(x, y) = x^T M y with M = W_Q^T W_K. M splits into a symmetric part,
which tied queries and keys could give, and an antisymmetric one, which they could not. M is d x d, but all that is
asked of it here stands in matrices of the head width: it is never formed.

On data a head's score matrix splits further. Its antisymmetric part holds differences a_i - a_j, which a row constant
can stand in for, since no softmax sees row constants; and what goes in circles, like rock-paper-scissors. Only the
circles are out of reach of every symmetric score.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class FormParts:
    """The parts of the bilinear forms of heads.

    Attributes:
        norm: squared norm of the form, (*batch); the parts are orthogonal and their squared norms add up to it.
        symmetric: share of the squared norm that is symmetric, (*batch), 0 to 1.
        positive: share of the symmetric part's squared norm that stands in positive eigenvalues, (*batch).
        signature: numbers of positive and negative eigenvalues of the symmetric part, (*batch, 2).
    """

    norm: Float[Tensor, "*batch"]
    symmetric: Float[Tensor, "*batch"]
    positive: Float[Tensor, "*batch"]
    signature: Float[Tensor, "*batch 2"]


def form_parts(query: Float[Tensor, "*batch head_width width"], key: Float[Tensor, "..."]) -> FormParts:
    r"""Symmetric and antisymmetric parts of $M = W_Q^\top W_K$, exactly, from its factors.

    Formula: with $G_Q = W_Q W_Q^\top$, $G_K = W_K W_K^\top$, $C = W_Q W_K^\top$ (head width squared each):
    $|M|^2 = \langle G_Q, G_K \rangle$, $\mathrm{tr}\, M^2 = \mathrm{tr}\, C^2$, and the symmetric share is
    $\frac12 (1 + \mathrm{tr}\, C^2 / |M|^2)$. The eigenvalues of $\frac12 (M + M^\top)$ other than 0 are those of
    $\frac12 R_1 R_2^\top + \frac12 R_2 R_1^\top$, $[W_Q^\top\, W_K^\top] = Q\, [R_1\, R_2]$ a QR decomposition.

    Args:
        query: W_Q of each head, (*batch, head width, width): queries are W_Q x.
        key: W_K, the same shape; grouped keys repeated.

    Returns:
        `FormParts`, in double precision. An eigenvalue counts where it exceeds 1e-9 of the largest.

    How to read it: 1 for tied queries and keys, 1/2 for factors that know nothing of each other
    (`random_symmetric_share`), 0 for a form that only tells directions, like "older than". The signature of any head
    whose 2 head width rows are independent is (head width, head width), by Sylvester's law of inertia, whatever else it
    does: telling is `positive`, 1 for tied factors, 1/2 for random ones. Negative eigenvalues are directions in which
    like repels like. Biases are left out: that of the queries adds a popularity of keys, that of the keys a row
    constant.

    Errors: `ValueError` when the shapes differ, or a form is 0.

    Source: ours; the split itself is elementary.

    >>> tied = torch.eye(2, 3)
    >>> swap = torch.tensor([[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]])
    >>> form_parts(torch.stack((tied, tied)), torch.stack((tied, swap))).symmetric
    tensor([1., 0.], dtype=torch.float64)
    """
    if query.shape != key.shape:
        raise ValueError(
            f"query has shape {tuple(query.shape)}, key {tuple(key.shape)}: give both as (*batch, head width, width), "
            "grouped keys repeated"
        )
    query, key = query.double(), key.double()
    crossed = query @ key.mT
    norm, twisted = ((query @ query.mT) * (key @ key.mT)).sum((-2, -1)), (crossed * crossed.mT).sum((-2, -1))
    _check_form(norm)
    factors = torch.cat((query, key), -2).mT  # (*batch, width, 2 * head width)
    first, second = torch.linalg.qr(factors)[1].chunk(2, -1)
    half = first @ second.mT / 2
    values = torch.linalg.eigvalsh(half + half.mT)
    squares = values.square()
    counted = values.abs() > 1e-9 * values.abs().amax(-1, keepdim=True)
    positive = torch.where(values > 0, squares, 0).sum(-1) / squares.sum(-1)
    signature = torch.stack([(counted & (values > 0)).sum(-1), (counted & (values < 0)).sum(-1)], -1)
    return FormParts(norm, (1 + twisted / norm) / 2, positive, signature.double())


def symmetric_share_at(
    query: Float[Tensor, "*batch head_width width"],
    key: Float[Tensor, "..."],
    turn: Float[Tensor, "*distances head_width head_width"],
) -> Float[Tensor, "*batch distances"]:
    r"""The symmetric share of a head with rotary positions, at given distances of query and key.

    Formula: the score of x at position i for y at j is $x^\top W_Q^\top R_{j-i} W_K\, y$, that of y for x is
    $y^\top W_Q^\top R_{i-j} W_K\, x$. They agree for all x, y where $M = W_Q^\top R W_K$ equals
    $N = W_K^\top R W_Q$, $R = R_{j-i}$. The share is $\frac12 |M + N|^2 / (|M|^2 + |N|^2)$, with
    $\langle M, N \rangle = \mathrm{tr}(R^\top C R\, C)$, $C = W_Q W_K^\top$, and $|M|^2 = \langle G_Q, R\, G_K R^\top
    \rangle$, $|N|^2 = \langle G_K, R\, G_Q R^\top \rangle$.

    Args:
        query: W_Q (*batch, head width, width).
        key: W_K, the same shape.
        turn: the rotations $R_\delta$, (distances, head width, head width), as from `turns`.

    Returns:
        (*batch, distances), in double precision.

    How to read it: as `form_parts`, which it equals at distance 0. Two tokens change places here, with their
    positions: that is the symmetry which tied queries and keys have at every distance, share 1. A tied head with rotary
    positions may still tell "before" from "after", as the forms of distances 3 and -3 differ.

    Errors: `ValueError` when the shapes of query and key differ, or a form is 0.

    Source: ours.
    """
    if query.shape != key.shape:
        raise ValueError(f"query has shape {tuple(query.shape)}, key {tuple(key.shape)}: give both alike")
    query, key = query.double()[..., None, :, :], key.double()[..., None, :, :]  # (*batch, 1, head width, width)
    of_queries, of_keys, crossed = query @ query.mT, key @ key.mT, query @ key.mT
    turn = turn.double()
    norms = ((turn.mT @ of_queries @ turn + turn @ of_queries @ turn.mT) * of_keys).sum((-2, -1)) / 2
    twisted = ((turn.mT @ crossed @ turn) * crossed.mT).sum((-2, -1))
    _check_form(norms)
    return (1 + twisted / norms) / 2


def turns(
    head_width: int, distances: Float[Tensor, "distances"], base: float | int = 10_000
) -> Float[Tensor, "distances head_width head_width"]:
    r"""The rotations $R_\delta$ of rotary positions for which $(R_i q) \cdot (R_j k) = q^\top R_{j - i}\, k$.

    Args:
        head_width: even; coordinates c and c + head width / 2 turn together, by $\delta\, b^{-2c/d}$.
        distances: $\delta$ = position of the key minus that of the query.
        base: b.

    Returns:
        (distances, head width, head width), in double precision.

    >>> (turns(2, torch.tensor([math.pi / 2]))[0] @ torch.tensor([2.0, 1.0]).double()).round()
    tensor([-1.,  2.], dtype=torch.float64)
    """
    half = head_width // 2
    speeds = base ** (-torch.arange(half, dtype=torch.float64, device=distances.device) / half)
    angles = distances.double()[:, None] * speeds
    cosines, sines = torch.diag_embed(angles.cos()), torch.diag_embed(angles.sin())
    return torch.cat((torch.cat((cosines, -sines), -1), torch.cat((sines, cosines), -1)), -2)


def random_symmetric_share(width: int) -> tuple[float, float]:
    r"""Mean and spread of the symmetric share of a head whose factors are independent Gaussian matrices.

    Formula: mean $\frac12 (1 + 1/d)$, from $E\, \mathrm{tr}\, M^2 = d\, d_h$ and $E |M|^2 = d^2 d_h$ at unit variance;
    standard deviation $1/(\sqrt2\, d)$. Both to the leading order in 1/d; the head width drops out of it.

    Args:
        width: d, of the inputs.

    >>> mean, spread = random_symmetric_share(768)
    >>> round(mean, 4), round(spread, 4)
    (0.5007, 0.0009)
    """
    return (1 + 1 / width) / 2, 1 / (math.sqrt(2) * width)


def degrees_of_freedom(width: int, head_width: int, *, tied: bool) -> int:
    r"""Dimension of the set of bilinear forms that a head can have.

    Formula: rank $d_h$ forms, $2 d\, d_h - d_h^2$; tied, positive semidefinite of rank $d_h$:
    $d\, d_h - d_h (d_h - 1)/2$.

    How to read it: factors that give the same form count once: an invertible, or for tied factors an orthogonal,
    matrix of the head width between them.

    >>> degrees_of_freedom(768, 64, tied=False), degrees_of_freedom(768, 64, tied=True)
    (94208, 47136)
    """
    if not 1 <= head_width <= width:
        raise ValueError(f"head_width is {head_width} and width {width}: give 1 to the width")
    if tied:
        return width * head_width - head_width * (head_width - 1) // 2
    return 2 * width * head_width - head_width**2


@dataclass(frozen=True)
class ScoreParts:
    """Shares of the variance of score matrices, (*batch). The first three add up to 1.

    Attributes:
        symmetric: of the symmetric part, about its mean.
        popularity: of the differences a_i - a_j in the antisymmetric part.
        circles: of the rest of the antisymmetric part.
        out_of_reach: the circles, relative to what the softmax sees: the scores less the mean of each row.
    """

    symmetric: Float[Tensor, "*batch"]
    popularity: Float[Tensor, "*batch"]
    circles: Float[Tensor, "*batch"]
    out_of_reach: Float[Tensor, "*batch"]


def score_parts(scores: Float[Tensor, "*batch n keys"]) -> ScoreParts:
    r"""How the variance of a score matrix splits into symmetric, popularity and circles.

    Formula: with $A = \frac12 (S - S^\top)$ and $a_i = \frac1n \sum_j A_{ij}$:
    $S = \frac12 (S + S^\top) + (a_i - a_j) + C$. The three are orthogonal; each share is a sum of squares, after the
    overall mean was taken off S. `out_of_reach` is $|C|^2 / \sum_{ij} (S_{ij} - \frac1n \sum_k S_{ik})^2$.

    Args:
        scores: (*batch, n, n), row i the query; all pairs in both directions, without a mask, in any units.

    Returns:
        `ScoreParts`.

    How to read it: a symmetric score plus row constants, which no softmax sees, can be anything but the circles: C is
    the least that stays between S and all such scores. Scores between randomly drawn numbers have shares of about 1/2,
    0 and 1/2. A causal mask hides one direction of each pair, so on a single text any scores could be symmetric behind
    it; the shares speak of the head and not of the masked pattern.

    Errors: `ValueError` for a matrix that is not square or constant.

    Source: ours; the split of an antisymmetric matrix is the Hodge decomposition of a complete graph.

    >>> circle = torch.tensor([[0.0, 1.0, -1.0], [-1.0, 0.0, 1.0], [1.0, -1.0, 0.0]])
    >>> float(score_parts(circle).circles)
    1.0
    """
    n = scores.shape[-1]
    if scores.shape[-2] != n:
        raise ValueError(f"scores has shape {tuple(scores.shape)}: give square matrices (*batch, n, n)")
    scores = scores - scores.mean((-2, -1), keepdim=True)
    total = scores.square().sum((-2, -1))
    if bool((total == 0).any()):
        raise ValueError("scores has a matrix whose entries are all equal: it has no variance to share out")
    turned = (scores - scores.mT) / 2
    lean = turned.mean(-1)
    popularity = 2 * n * lean.square().sum(-1)  # the sum over all i, j of (a_i - a_j)^2, as the a_i add up to 0
    antisymmetric = turned.square().sum((-2, -1))
    circles = (antisymmetric - popularity).clamp_min(0)
    seen = (scores - scores.mean(-1, keepdim=True)).square().sum((-2, -1))
    shares = (1 - antisymmetric / total, popularity / total, circles / total)
    return ScoreParts(*shares, torch.where(seen > 0, circles / seen, 0.0))


def _check_form(norm: Tensor) -> None:
    if bool((norm == 0).any()):
        raise ValueError("query and key give a form that is 0: it has no parts; leave this head out")

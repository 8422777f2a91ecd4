"""The map from embeddings to noise, and the diagonal blocks of its Jacobian: J_i = I - Sigma_i A.

The model: u_i = mu_i(u) + noise, where mu_i is what token i reads with its own query from the tokens before it. Solved
for the noise, e_i(u) = u_i - mu_i(u). Token i is on both sides, so the derivative of e_i by u_i is not the identity.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from nslab.barrier.checks import (
    attention_weights,
    check_embeddings,
    check_finite,
    check_matrix,
    positions,
    upcast,
    visible,
    without_autocast,
)
from nslab.barrier.moments import causal_moments

QUERIES = ("own", "previous")


@without_autocast
def residuals(
    u: Float[Tensor, "..."],
    scores: Float[Tensor, "..."],
    *,
    values: Float[Tensor, "..."] | None = None,
    query: str = "own",
    self_included: bool = False,
) -> Float[Tensor, "..."]:
    r"""The map e from embeddings to noise: what of each token its attention mean does not explain.

    Formula: $e_i(u) = u_i - \sum_h M_h \sum_{s<i} \alpha^h_{is} u_s$, $\alpha^h_{is} \propto \exp(u_s^\top A_h u_i)$.

    Args:
        u: embeddings (*batch, n, p).
        scores: A (p, p), or one for each head (heads, p, p); see `score_matrix`.
        values: M (p, p) or (heads, p, p); the identity by default.
        query: "own": token i asks with its own embedding, the model of the theory. "previous": with that of token
            i - 1, as a next-token model does (position 0 attends to nothing, so it needs no query).
        self_included: whether token i attends to itself too, s <= i.

    Returns:
        (*batch, n, p), in at least float32: half precision is upcast, and autocast is off inside.

    How to read it: with "previous", u_i is on the left side only. The Jacobian is then unit lower triangular, its
    log-determinant is 0 for every A, and there is no barrier at all: the own query makes the theory.

    Errors: `ValueError` for score or value matrices that are not square or of another width, an unknown query, NaN or
    infinity, and "previous" with `self_included` (the mean of token i would contain u_i).

    Source: the map with M = I, one head, own query: arXiv 2602.22271 as reported by a third-party port. The rest:
    *reconstructed*.

    >>> residuals(torch.tensor([[2.0], [3.0]]), torch.zeros(1, 1))  # the second token reads the first
    tensor([[2.],
            [1.]])
    """
    u, scores, values = _prepared(u, scores, values)
    if query not in QUERIES:
        raise ValueError(f"query is {query!r}: give one of {', '.join(map(repr, QUERIES))}")
    if query == "previous" and self_included:
        raise ValueError("query is 'previous' and self_included True: the mean of a token would hold it; drop one")
    rows = torch.arange(u.shape[-2], device=u.device)
    asked = u if query == "own" else u.roll(1, -2)  # the first row has no past, whatever it asks
    keys, asked = u[..., None, :, :], asked[..., None, :, :]  # (*batch, 1, n, p), against (heads, p, p)
    weights = attention_weights(asked @ scores.mT @ keys.mT, visible(rows, len(rows), self_included))
    means = weights @ keys  # (*batch, heads, n, p)
    return u - (means if values is None else means @ values.mT).sum(-3)


@without_autocast
def jacobian_blocks(
    u: Float[Tensor, "..."],
    scores: Float[Tensor, "..."],
    *,
    values: Float[Tensor, "..."] | None = None,
    rows: Tensor | None = None,
    self_included: bool = False,
) -> Float[Tensor, "..."]:
    r"""Diagonal blocks $J_i = \partial e_i / \partial u_i$ of the Jacobian of `residuals` with the own query.

    Formula: $J_i = I - \sum_h M_h \Sigma^h_i A_h$. Self-included, with $\bar u_i$ and $\Sigma_i$ over s <= i:
    $J_i = I - \sum_h M_h [\Sigma^h_i A_h + \alpha^h_{ii} (u_i - \bar u^h_i)(A_h u_i)^\top + \alpha^h_{ii} I]$.

    Args:
        u: embeddings (*batch, n, p).
        scores: A (p, p), or one for each head (heads, p, p).
        values: M (p, p) or (heads, p, p); the identity by default.
        rows: positions i (rows,), 0-based; all n by default.
        self_included: whether token i attends to itself too, as its own query, key and value.

    Returns:
        (*batch, rows, p, p), in at least float32: half precision is upcast, and autocast is off inside.

    How to read it: `det` of a block is the factor by which the map from u_i to the noise changes volume. Positions 0
    and 1 of strict attention have J = I exactly: the determinant is 1, and no query can reach the boundary. The
    Jacobian of the whole sequence is block lower triangular, so its log-determinant is the sum over blocks.
    Self-included with M = I, position 0 attends to itself alone: its block is 0, and so is its determinant.

    Errors: as `residuals`, and `ValueError` for rows outside the sequence or not whole.

    Source: one head with M = I: arXiv 2602.22271 as reported by a third-party port. The rest: *reconstructed*, checked
    against automatic differentiation.

    >>> u = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]])
    >>> jacobian_blocks(u, torch.diag(torch.tensor([0.75, 0.3])))[2]
    tensor([[0.2500, 0.0000],
            [0.0000, 1.0000]])
    """
    u, scores, values = _prepared(u, scores, values)
    rows = positions(rows, u.shape[-2], u.device)
    moments = causal_moments(u[..., None, :, :], scores, rows=rows, self_included=self_included)
    inner = moments.covariance @ scores[..., None, :, :]  # (*batch, heads, rows, p, p)
    eye = torch.eye(u.shape[-1], dtype=u.dtype, device=u.device)
    if self_included:
        query = u[..., None, rows, :]
        own = moments.weights.gather(-1, rows.expand(moments.weights.shape[:-1])[..., None])[..., None]
        inner = inner + own * ((query - moments.mean)[..., :, None] * (query @ scores.mT)[..., None, :] + eye)
    return eye - (inner if values is None else values[..., None, :, :] @ inner).sum(-4)


@without_autocast
def self_inclusive_factors(
    u: Float[Tensor, "..."], scores: Float[Tensor, "..."], *, rows: Tensor | None = None
) -> tuple[Float[Tensor, "..."], Float[Tensor, "..."]]:
    r"""What self-attention does to the determinant (one head, identity values): a factor, and a block without it.

    Formula: $\det J_i = (1 - \alpha_{ii})^p \det B_i$,
    $B_i = I - \Sigma_i A - \alpha_{ii} (u_i - \mu_i)\,[(A + A^\top) u_i - A^\top \mu_i]^\top$, with $\mu_i$ and
    $\Sigma_i$ of the strict past, s < i, and $\alpha_{ii}$ of the softmax over s <= i.

    Args:
        u: embeddings (*batch, n, p).
        scores: A (p, p).
        rows: positions i (rows,), 0-based; all n by default.

    Returns:
        $1 - \alpha_{ii}$ (*batch, rows), and $B_i$ (*batch, rows, p, p), in at least float32.

    How to read it: a token that attends to itself alone leaves no residual, $1 - \alpha_{ii} = 0$, whatever the others
    are: self-attention is degenerate by itself, which is why the model needs strict causality. Position 0 is always
    so. With A = 0 and i visible tokens the barrier is $-p \log(1 - 1/i)$.

    Errors: as `jacobian_blocks`; `ValueError` for more than one head.

    Source: *reconstructed*, checked against automatic differentiation.
    """
    u, scores = upcast(u, scores)
    if scores.ndim != 2:
        raise ValueError(f"scores has shape {tuple(scores.shape)}: give one head, (width, width)")
    strict = causal_moments(u, scores, rows=rows)
    rows = positions(rows, u.shape[-2], u.device)
    weights = causal_moments(u, scores, rows=rows, self_included=True).weights
    own = weights.gather(-1, rows.expand(weights.shape[:-1])[..., None])  # (*batch, rows, 1)
    others = (weights * visible(rows, u.shape[-2], False)).sum(-1)  # 1 - own, exact where own is nearly 1
    query, mean = u[..., rows, :], strict.mean
    pull = query @ scores.mT + (query - mean) @ scores  # (A + A^T) u_i - A^T mu_i
    bent = (own * (query - mean))[..., :, None] * pull[..., None, :]
    return others, torch.eye(u.shape[-1], dtype=u.dtype, device=u.device) - strict.covariance @ scores - bent


@without_autocast
def null_vector(blocks: Float[Tensor, "..."]) -> Float[Tensor, "*batch p"]:
    r"""The direction a block sees least: its right singular vector of the smallest singular value.

    Formula: the unit v that minimises $\lVert J_i v \rVert$; on the boundary $J_i v = 0$, that is $\Sigma_i A v = v$.

    Args:
        blocks: J_i (*batch, p, p), finite.

    Returns:
        Unit vectors (*batch, p), in at least float32, the entry of largest size positive.

    How to read it: move the token along v, and (nearly) all of the move is in its attention mean: the residual does
    not see it. Seen from the noise it is the direction of the largest gain, $1/\sigma_{\min}$. Where the smallest
    singular value is not simple (J = I, at positions 0 and 1) every direction would do, and one is given.

    Errors: `ValueError` for blocks that are not square, and NaN or infinity.

    Source: *reconstructed*.
    """
    (blocks,) = upcast(blocks)
    check_finite("blocks", blocks)
    if blocks.ndim < 2 or blocks.shape[-1] != blocks.shape[-2]:
        raise ValueError(f"blocks has shape {tuple(blocks.shape)}: they must be square, as jacobian_blocks gives them")
    direction = torch.linalg.svd(blocks)[2][..., -1, :]
    largest = direction.gather(-1, direction.abs().argmax(-1, keepdim=True))
    return direction * largest.sign()


def full_jacobian(
    u: Float[Tensor, "..."],
    scores: Float[Tensor, "..."],
    *,
    values: Float[Tensor, "..."] | None = None,
    query: str = "own",
    self_included: bool = False,
) -> Float[Tensor, "..."]:
    """The whole Jacobian of `residuals` at one sequence, by automatic differentiation: for pictures and checks.

    Args:
        u: one sequence (n, p).
        scores: A (p, p), or one for each head (heads, p, p).
        values: M (p, p) or (heads, p, p); the identity by default.
        query: "own" or "previous"; see `residuals`.
        self_included: whether token i attends to itself too.

    Returns:
        (n p, n p), without a graph: row i p + a is entry a of e_i, column j p + b is entry b of u_j.

    How to read it: everything above the diagonal blocks is 0, for a token does not depend on later ones. The blocks
    below it are not 0, and do not matter to the determinant.

    Errors: as `residuals`; `ValueError` for more than one sequence.

    Source: *ours*.
    """
    if u.ndim != 2:
        raise ValueError(f"u has shape {tuple(u.shape)}: give one sequence (length, width)")
    u, scores, values = _prepared(u, scores, values)
    if not u.numel():
        return u.new_zeros(0, 0)

    def flat(point: Tensor) -> Tensor:
        return residuals(point.view_as(u), scores, values=values, query=query, self_included=self_included).flatten()

    return torch.autograd.functional.jacobian(flat, u.flatten(), vectorize=True)


def _prepared(u: Tensor, scores: Tensor, values: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """One dtype, checked, with an axis of heads: u (*batch, n, p), scores and values (heads, p, p)."""
    given = {"scores": scores} if values is None else {"scores": scores, "values": values}
    u, *matrices = upcast(u, *given.values())
    check_embeddings(u)
    for name, matrix in zip(given, matrices, strict=True):
        check_matrix(name, matrix, u.shape[-1])
        if matrix.ndim > 3:
            raise ValueError(f"{name} has shape {tuple(matrix.shape)}: give (width, width) or (heads, width, width)")
    if len({len(matrix) for matrix in matrices if matrix.ndim == 3} - {1}) > 1:
        raise ValueError(f"scores has {len(matrices[0])} heads, values {len(matrices[1])}: give as many of both")
    scores, *values = (matrix if matrix.ndim == 3 else matrix[None] for matrix in matrices)
    return u, scores, values[0] if values else None

"""Mean and covariance of what a token attends to: the two moments that the whole theory is made of."""

from dataclasses import dataclass

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
from nslab.barrier.second_moments import weighted_products


@dataclass(frozen=True, eq=False)
class CausalMoments:
    """Moments of the past under the attention weights of each row.

    Attributes:
        weights: (*batch, rows, n), what each row gives to each token; zero for tokens it does not see.
        mean: (*batch, rows, p), the attention mean.
        covariance: (*batch, rows, p, p), the attention covariance, symmetric and positive semidefinite.
    """

    weights: Float[Tensor, "..."]
    mean: Float[Tensor, "..."]
    covariance: Float[Tensor, "..."]


@without_autocast
def score_matrix(key: Float[Tensor, "..."], query: Float[Tensor, "..."]) -> Float[Tensor, "*heads p p"]:
    r"""The bilinear score matrix $A = W_K^\top W_Q / \sqrt{k}$: the logit of query i and key s is $u_s^\top A u_i$.

    Args:
        key: W_K (*heads, k, p), rows are what a key reads.
        query: W_Q (*heads, k, p).

    Returns:
        A (*heads, p, p), in at least float32 (half precision is upcast).

    How to read it: $A v$ is the direction of keys that a query v likes. $A^\top \ne A$ in general: what I look for is
    not what I offer.

    Errors: `ValueError` for projections of different shapes or with no axis for the head, and NaN or infinity.

    Source: arXiv 2602.22271 as reported by a third-party port.

    >>> import torch
    >>> score_matrix(torch.eye(4), torch.eye(4)).diagonal()
    tensor([0.5000, 0.5000, 0.5000, 0.5000])
    """
    if key.shape != query.shape or key.ndim < 2:
        shapes = f"key has shape {tuple(key.shape)}, query {tuple(query.shape)}"
        raise ValueError(f"{shapes}: give both as (head width, embedding width)")
    key, query = upcast(key, query)
    check_finite("key", key)
    check_finite("query", query)
    return key.mT @ query / key.shape[-2] ** 0.5


@without_autocast
def causal_moments(
    u: Float[Tensor, "..."],
    scores: Float[Tensor, "..."],
    *,
    rows: Tensor | None = None,
    self_included: bool = False,
) -> CausalMoments:
    r"""Attention weights of each row over its past, with the mean and the covariance they give.

    Formula: $\alpha_{is} = \mathrm{softmax}_{s<i}(u_s^\top A u_i)$, $\mu_i = \sum_s \alpha_{is} u_s$,
    $\Sigma_i = \sum_s \alpha_{is} (u_s - \mu_i)(u_s - \mu_i)^\top$.

    Args:
        u: embeddings (*batch, n, p).
        scores: A (p, p); leading axes broadcast against those of u, so (heads, p, p) goes with u (..., 1, n, p).
        rows: positions i (rows,), 0-based, in any order; all n by default.
        self_included: whether a token attends to itself too, s <= i.

    Returns:
        `CausalMoments`, in at least float32: half precision is upcast, and autocast is off inside.

    How to read it: position 0 sees nothing; its weights, mean and covariance are zero. Position 1 sees one token, so
    its covariance is zero too. Position i (0-based) has a covariance of rank at most min(p, i - 1). Covariances are
    second moments about the mean of the sequence, minus a product of means: their rounding error is about eps times the
    squared spread of the *whole* sequence. Where one token is thousands of times further out than the others, take
    float64.

    Errors: `ValueError` for a score matrix that is not square or of another width, rows outside the sequence or not
    whole, and NaN or infinity (the position is named).

    Source: arXiv 2602.22271 as reported by a third-party port; the mean of an empty past: *reconstructed*.
    """
    moved, centre, weights = attend(u, scores, rows, self_included)
    mean = weights @ moved
    covariance = weighted_products(weights, moved, moved) - mean[..., :, None] * mean[..., None, :]
    return CausalMoments(weights, mean + weights.sum(-1, keepdim=True) * centre, covariance)


def attend(u: Tensor, scores: Tensor, rows: Tensor | None, self_included: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Checked embeddings minus their centre, the centre, and the attention weights of the rows.

    Covariances do not change with a shift, but rounding does: for tokens far from the origin the two terms of a
    covariance are nearly equal, and float32 would lose it.
    """
    u, scores = upcast(u, scores)
    check_embeddings(u)
    length, width = u.shape[-2:]
    check_matrix("scores", scores, width)
    rows = positions(rows, length, u.device)
    weights = attention_weights(u[..., rows, :] @ scores.mT @ u.mT, visible(rows, length, self_included))
    centre = u.detach().mean(-2, keepdim=True) if length else u.new_zeros(1, width)
    return u - centre, centre, weights

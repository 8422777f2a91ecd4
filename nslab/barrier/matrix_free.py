"""What can be said about Sigma_i A without forming it: its product with a vector, and its trace."""

from jaxtyping import Float
from torch import Tensor

from nslab.barrier.checks import check_finite, upcast, without_autocast
from nslab.barrier.moments import attend


@without_autocast
def covariance_products(
    u: Float[Tensor, "..."],
    scores: Float[Tensor, "..."],
    z: Float[Tensor, "..."],
    *,
    rows: Tensor | None = None,
    self_included: bool = False,
) -> Float[Tensor, "..."]:
    r"""The product $\Sigma_i A z_i$ at every row, in one pass of attention.

    Formula: with $t_{is} = u_s^\top A z_i$, $\Sigma_i A z_i = \sum_s \alpha_{is} t_{is} u_s - \mu_i \mu_i^\top A z_i$.

    Args:
        u: embeddings (*batch, n, p).
        scores: A (p, p).
        z: one vector a row (*batch, rows, p); leading axes broadcast, so (probes, 1.., rows, p) takes many at once.
        rows: positions (rows,), 0-based; all n by default.
        self_included: whether a token attends to itself too; the covariance is then over s <= i.

    Returns:
        (*batch, rows, p), in at least float32; $4 n^2 p$ operations for all rows, and no p x p matrix a row.

    How to read it: move token i by a small z and nothing else; this is how its attention mean moves (by the query
    only). $z_i$ minus it is $J_i z_i$. Repeated, it is a power iteration for the largest eigenvalue.

    Errors: as `causal_moments`; `ValueError` when z has not one vector for each row.

    Source: *ours*.
    """
    u, scores, z = upcast(u, scores, z)
    moved, _, weights = attend(u, scores, rows, self_included)
    if z.ndim < 2 or z.shape[-2:] != (weights.shape[-2], u.shape[-1]):
        wanted = (weights.shape[-2], u.shape[-1])
        raise ValueError(f"z has shape {tuple(z.shape)}: its last axes must be {wanted}, one vector for each row")
    check_finite("z", z)
    liked = z @ scores.mT  # A z_i
    mean = weights @ moved
    return (weights * (liked @ moved.mT)) @ moved - mean * (mean * liked).sum(-1, keepdim=True)


@without_autocast
def first_order(
    u: Float[Tensor, "..."],
    scores: Float[Tensor, "..."],
    rows: Tensor | None = None,
    *,
    self_included: bool = False,
) -> Float[Tensor, "..."]:
    r"""The trace of $\Sigma_i A$ at every row: the first term of the barrier, almost free.

    Formula: $\mathrm{tr}(\Sigma_i A) = \sum_s \alpha_{is}\, u_s^\top A u_s - \mu_i^\top A \mu_i$, and
    $-\log\lvert\det(I - \Sigma_i A)\rvert = \mathrm{tr}(\Sigma_i A) + \tfrac12 \mathrm{tr}((\Sigma_i A)^2) + \dots$

    Args:
        u: embeddings (*batch, n, p).
        scores: A (p, p).
        rows: positions (rows,), 0-based; all n by default.
        self_included: whether a token attends to itself too; the covariance is then over s <= i.

    Returns:
        (*batch, rows), in nats, in at least float32; $n p^2 + n^2$ operations beyond the attention weights.

    How to read it: positive where attention expands noise, negative where it damps it: the sign decides whether the
    raw barrier charges a token or pays it. The series converges only where all eigenvalues of $\Sigma_i A$ are below 1
    in size; far from that, the first term says little about the barrier.

    Errors: as `causal_moments`.

    Source: *ours*.

    >>> import torch
    >>> u = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]])
    >>> first_order(u, 0.5 * torch.eye(2))  # the third token attends equally to +1 and -1: variance 1
    tensor([0.0000, 0.0000, 0.5000])
    """
    moved, _, weights = attend(u, scores, rows, self_included)
    scores = scores.to(moved.dtype)
    own = ((moved @ scores.mT) * moved).sum(-1, keepdim=True)  # u_s^T A u_s, (*batch, n, 1)
    mean = weights @ moved
    return (weights @ own)[..., 0] - ((mean @ scores.mT) * mean).sum(-1)

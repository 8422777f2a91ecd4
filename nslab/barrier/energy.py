r"""The energy whose gradient is the residual: with score matrix $\beta I$ attention is a modern Hopfield network."""

import torch
from jaxtyping import Float
from torch import Tensor

from nslab.barrier.checks import upcast, without_autocast
from nslab.gaussian.ranges import Scalar, as_tensors


@without_autocast
def hopfield_energy(
    u: Float[Tensor, "*batch p"], memories: Float[Tensor, "... m q"], beta: Scalar
) -> Float[Tensor, "..."]:
    r"""$E(u) = \frac12 \|u\|^2 - \beta^{-1} \log \sum_s e^{\beta u \cdot u_s}$, the energy of a token u among memories.

    Args:
        u: tokens (*batch, p).
        memories: the past tokens u_s (m, p), at least one; leading axes, if any, broadcast against *batch.
        beta: the inverse temperature, above 0: a number or a tensor that broadcasts against *batch. The score matrix is
            beta times the identity.

    Returns:
        (*batch,), in at least float32: half precision is upcast, and autocast is off inside; so it is in all three.

    How to read it: a ball that rolls downhill comes to rest where a token equals its attention mean; see
    `hopfield_gradient`.

    Errors: `ValueError` for a beta that is not above 0, no memories, or widths that differ.

    Source: Ramsauer and others (2021), without their constants.

    >>> hopfield_energy(torch.zeros(1), torch.tensor([[-1.0], [1.0]]), 1.0).item()  # -log 2
    -0.693...
    """
    u, memories, beta = _checked(u, memories, beta)
    return u.square().sum(-1) / 2 - _logits(u, memories, beta).logsumexp(-1) / beta


@without_autocast
def hopfield_gradient(
    u: Float[Tensor, "*batch p"], memories: Float[Tensor, "... m q"], beta: Scalar
) -> Float[Tensor, "... p"]:
    r"""Gradient of `hopfield_energy`: $u - \mu(u)$, the residual that the noise has to explain.

    Args and errors as in `hopfield_energy`.

    Returns:
        (*batch, p).

    How to read it: noise $\varepsilon$ tilts the landscape: $u = \mu(u) + \varepsilon$ says that the slope of E is
    $\varepsilon$.

    Source: Ramsauer and others (2021); as a residual: *ours*.

    >>> hopfield_gradient(torch.ones(1), torch.tensor([[-1.0], [1.0]]), 1.0)  # 1 - tanh 1
    tensor([0.2384])
    """
    u, memories, beta = _checked(u, memories, beta)
    weights = _logits(u, memories, beta).softmax(-1)
    return u - (weights[..., None, :] @ memories)[..., 0, :]


@without_autocast
def hopfield_hessian(
    u: Float[Tensor, "*batch p"], memories: Float[Tensor, "... m q"], beta: Scalar
) -> Float[Tensor, "... p p"]:
    r"""Hessian of `hopfield_energy`: $I - \beta \Sigma(u)$, the Jacobian block of a token with score matrix beta I.

    Args and errors as in `hopfield_energy`.

    Returns:
        (*batch, p, p), symmetric.

    How to read it: positive definite inside a basin. Its determinant is 0 where a basin appears or two merge, which is
    the degeneracy boundary.

    Source: Ramsauer and others (2021); as a Jacobian block: *ours*.

    >>> hopfield_hessian(torch.zeros(1), torch.tensor([[-1.0], [1.0]]), 2.0)  # 1 - beta at the middle
    tensor([[-1.]])
    """
    u, memories, beta = _checked(u, memories, beta)
    weights = _logits(u, memories, beta).softmax(-1)[..., None]  # (*batch, m, 1)
    moved = memories - (weights * memories).sum(-2, keepdim=True)
    covariance = moved.mT @ (weights * moved)
    return torch.eye(u.shape[-1], dtype=u.dtype, device=u.device) - beta[..., None, None] * covariance


def _logits(u: Tensor, memories: Tensor, beta: Tensor) -> Tensor:
    return beta[..., None] * (memories @ u[..., None])[..., 0]


def _checked(u: Tensor, memories: Tensor, beta: Scalar) -> tuple[Tensor, Tensor, Tensor]:
    if memories.ndim < 2 or not memories.shape[-2]:
        raise ValueError(f"memories has shape {tuple(memories.shape)}: give at least one past token, (m, width)")
    if not u.ndim or u.shape[-1] != memories.shape[-1]:
        shapes = f"u has shape {tuple(u.shape)}, memories {tuple(memories.shape)}"
        raise ValueError(f"{shapes}: give tokens and memories of one width")
    u, memories, beta = upcast(*as_tensors(u, memories, beta))
    if not bool((beta > 0).all()):
        worst = beta.detach()[~(beta > 0)].flatten()[0].item()
        raise ValueError(f"beta = {worst:g} is not above 0: give the inverse temperature of the softmax")
    return u, memories, beta

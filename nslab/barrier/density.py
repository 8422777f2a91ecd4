r"""The density of a sequence of embeddings: Gaussian noise, seen through the map from embeddings to noise.

The map is block lower triangular, so that its log-determinant is a sum over tokens, and each token's share is minus
its barrier. Whether the formula is a density at all is another question: see `log_density`.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from nslab.barrier.blocks import jacobian_blocks, residuals
from nslab.barrier.stability_margins import BlockMargins


@dataclass(frozen=True, eq=False)
class DensityParts:
    r"""What each token adds to the log-density, in nats.

    Attributes:
        gaussian: (*batch, n), $-|u_i - \mu_i|^2 / (2\sigma^2) - \tfrac p2 \log(2\pi\sigma^2)$.
        barrier: (*batch, n), $b_i = -\log|\det J_i|$; 0 at positions 0 and 1, inf on the boundary.
    """

    gaussian: Float[Tensor, "..."]
    barrier: Float[Tensor, "..."]

    @property
    def log_density(self) -> Float[Tensor, "..."]:
        r"""Each token given its past, $\log p(u_i \mid u_{<i})$ (*batch, n): gaussian minus barrier."""
        return self.gaussian - self.barrier

    @property
    def mean_barrier(self) -> Float[Tensor, "..."]:
        r"""$\frac1n \sum_i b_i$ (*batch), in nats a token.

        How to read it: averaged over the model's own sequences it is the entropy that attention adds to the noise,
        $h(u_i \mid u_{<i}) = h(\varepsilon_i) + E[b_i]$. Negative: attention lets tokens spread less than the noise.
        """
        return self.barrier.sum(-1) / max(self.barrier.shape[-1], 1)


def density_parts(
    u: Float[Tensor, "..."],
    scores: Float[Tensor, "..."],
    sigma: float | int,
    *,
    values: Float[Tensor, "..."] | None = None,
    margins: BlockMargins | None = None,
) -> DensityParts:
    """The terms of `log_density`, token by token; arguments, errors and source as there."""
    if not (math.isfinite(sigma) and sigma > 0):
        raise ValueError(f"sigma is {sigma}: the noise needs a positive standard deviation")
    noise = residuals(u, scores, values=values)
    normaliser = 0.5 * u.shape[-1] * math.log(2 * math.pi * sigma**2)
    gaussian = -noise.square().sum(-1) / (2 * sigma**2) - normaliser
    if margins is None:
        barrier = -torch.linalg.slogdet(jacobian_blocks(u, scores, values=values))[1]
    elif margins.barrier.shape != gaussian.shape:
        raise ValueError(
            f"margins has shape {tuple(margins.barrier.shape)}, the sequences {tuple(gaussian.shape)}: give the "
            "margins of all positions, or leave them out"
        )
    else:
        barrier = margins.barrier
    return DensityParts(gaussian, barrier)


def log_density(
    u: Float[Tensor, "..."],
    scores: Float[Tensor, "..."],
    sigma: float | int,
    *,
    values: Float[Tensor, "..."] | None = None,
    jacobian: bool = True,
    margins: BlockMargins | None = None,
) -> Float[Tensor, "..."]:
    r"""Log-density of sequences of embeddings under $u_i = \mu_i(u_1..u_i) + \varepsilon_i$.

    Formula: $\log p(u) = \sum_i \left[ -\frac{|u_i - \mu_i|^2}{2\sigma^2} - \frac p2 \log(2\pi\sigma^2)
    + \log|\det(I - \Sigma_i A)| \right]$.

    Args:
        u: embeddings (*batch, n, p).
        scores: A (p, p).
        sigma: standard deviation of the noise in each direction, in the units of u.
        values: value map M (p, p); the identity by default.
        jacobian: whether the change of variables is paid for. Without it the formula is the likelihood of the noise,
            which is no density in u.
        margins: those of all positions, where they are known already; `jacobian_blocks` is then not run again.

    Returns:
        (*batch), in nats for embeddings in their own units; -inf on the boundary.

    How to read it: this is the logarithm of a density if every $\det J_i > 0$ for *all* values of $u_i$, given its
    past (`safe_temperature` above 1 is a check that suffices). Otherwise one noise explains several embeddings, and
    the integral over $u_i$ is the expected number of them, $Z(u_{<i}) \ge 1$ (`process.next_token_area` on the line).

    Errors: `ValueError` for sigma that is not positive, margins of other positions; otherwise as `residuals`.

    Source: the log-Jacobian term: arXiv 2602.22271 as reported by a third-party port; the form: *reconstructed*.

    >>> float(log_density(torch.zeros(1, 1), torch.eye(1), 1.0))  # one token: the noise itself
    -0.9189385175704956
    """
    parts = density_parts(u, scores, sigma, values=values, margins=margins)
    return (parts.log_density if jacobian else parts.gaussian).sum(-1)

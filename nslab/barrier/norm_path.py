"""What a norm before attention does to the query: its Jacobian, which multiplies the query's path on the right."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from nslab.barrier.checks import upcast, without_autocast


@dataclass(frozen=True, eq=False)
class NormJacobian:
    r"""The Jacobian of LayerNorm or RMSNorm at every token, as a common matrix and an outer product a token.

    Formula: $N = (\mathrm{diag}(w) P - \frac1d (w \odot \hat x)\, \hat x^\top) / s$ with $\hat x = P x / s$ and
    $s^2 = \lVert P x \rVert^2 / d + \epsilon$; $P = I - 1 1^\top / d$ for LayerNorm, $P = I$ for RMSNorm.

    Attributes:
        x: what goes into the norm (..., n, d), in the units of the residual stream.
        weight: w (d,); None stands for ones. A bias has no part in a Jacobian.
        epsilon: what the norm adds to the mean square.
        centred: True for LayerNorm, False for RMSNorm.

    How to read it: a norm forgets the length of x, up to epsilon, and LayerNorm also its mean: N has a null direction
    for each. Noise along those does not reach the query.

    Source: *reconstructed*, checked against automatic differentiation.
    """

    x: Float[Tensor, "..."]
    weight: Float[Tensor, "..."] | None = None
    epsilon: float | int = 1e-5
    centred: bool = True

    def project(self, matrices: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Matrices (..., d) times diag(w) P: what of N is the same at every token."""
        scaled = matrices if self.weight is None else matrices * self.weight
        return scaled - scaled.mean(-1, keepdim=True) if self.centred else scaled

    def parts(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Left and right vectors (..., rows, d) and scale (..., rows, 1): N = (diag(w) P - left right^T) / scale."""
        x = self.x[..., rows, :]
        x = x - x.mean(-1, keepdim=True) if self.centred else x
        scale = (x.square().mean(-1, keepdim=True) + self.epsilon).sqrt()
        right = x / scale
        return (right if self.weight is None else right * self.weight) / x.shape[-1], right, scale

    def matrices(self, rows: Tensor) -> Float[Tensor, "..."]:
        """N at each row, written out (..., rows, d, d)."""
        left, right, scale = self.parts(rows)
        common = self.project(torch.eye(self.x.shape[-1], dtype=self.x.dtype, device=self.x.device))
        return (common - left[..., :, None] * right[..., None, :]) / scale[..., None]


def layer_norm_jacobian(
    x: Float[Tensor, "*batch d"], weight: Float[Tensor, " d"] | None = None, epsilon: float | int = 1e-5
) -> Float[Tensor, "*batch d d"]:
    r"""Jacobian of LayerNorm at each x: $\mathrm{diag}(w)\,(I - 11^\top/d - \hat x \hat x^\top/d)/s$.

    Args:
        x: inputs (*batch, d).
        weight: w (d,); ones by default. A bias has no part in a Jacobian.
        epsilon: what the norm adds to the variance.

    Returns:
        (*batch, d, d), rows are outputs; in at least float32: half precision is upcast.

    How to read it: see `NormJacobian`.

    Source: *reconstructed*, checked against automatic differentiation.

    >>> jacobian = layer_norm_jacobian(torch.tensor([1.0, 2.0, 4.0]))
    >>> jacobian.sum(-1).abs().max().item() < 1e-6  # a shift of all coordinates is forgotten
    True
    """
    return _written_out(x, weight, epsilon, centred=True)


def rms_norm_jacobian(
    x: Float[Tensor, "*batch d"], weight: Float[Tensor, " d"] | None = None, epsilon: float | int = 1e-5
) -> Float[Tensor, "*batch d d"]:
    r"""Jacobian of RMSNorm at each x: $\mathrm{diag}(w)\,(I - \hat x \hat x^\top/d)/s$ with $\hat x = x/s$.

    Args, Returns and Source: as for `layer_norm_jacobian`; epsilon is added to the mean square.

    How to read it: see `NormJacobian`.

    >>> x = torch.tensor([3.0, 4.0])
    >>> (rms_norm_jacobian(x, epsilon=0) @ x).abs().max().item() < 1e-6  # a change of length is forgotten
    True
    """
    return _written_out(x, weight, epsilon, centred=False)


@without_autocast
def _written_out(x: Tensor, weight: Tensor | None, epsilon: float | int, *, centred: bool) -> Tensor:
    x, *rest = upcast(x) if weight is None else upcast(x, weight)
    norm = NormJacobian(x[..., None, :], rest[0] if rest else None, epsilon, centred)
    return norm.matrices(torch.zeros(1, dtype=torch.int64, device=x.device))[..., 0, :, :]

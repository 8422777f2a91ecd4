r"""A past of two tokens, solved: the degeneracy boundary is a pair of parallel hyperplanes, or nothing."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nslab.barrier.checks import check_finite, check_matrix, upcast, without_autocast


@dataclass(frozen=True, eq=False)
class Slab:
    r"""The slab between two hyperplanes normal . u = ± offset, in which the determinant is negative.

    Attributes:
        kappa: $\kappa = \delta^\top A \delta$ (*batch,), with $\delta$ the difference of the two tokens.
        offset: $2\,\mathrm{arccosh}(\sqrt\kappa / 2)$ (*batch,); NaN where there is no boundary.
        normal: $A^\top \delta$ (*batch, p); normal . u is the difference of the two logits of a query u.
        width: the distance of the two hyperplanes, twice the offset over the length of the normal (*batch,); 0 where
            there is no boundary.
    """

    kappa: Float[Tensor, "*batch"]
    offset: Float[Tensor, "*batch"]
    normal: Float[Tensor, "*batch p"]
    width: Float[Tensor, "*batch"]

    @property
    def exists(self) -> Bool[Tensor, "*batch"]:
        """Whether there is a boundary: kappa >= 4. At 4 the two hyperplanes are one."""
        return self.kappa >= 4


@without_autocast
def slab(first: Float[Tensor, "..."], second: Float[Tensor, "..."], scores: Float[Tensor, "..."]) -> Slab:
    r"""The degeneracy boundary of a token whose past are two tokens.

    Formula: with $\delta = u_1 - u_2$, $z = \delta^\top A u$ and $\kappa = \delta^\top A \delta$, the determinant
    $1 - \frac{\kappa}{4}\,\mathrm{sech}^2 \frac z2$ is 0 where $z = \pm 2\,\mathrm{arccosh}(\sqrt\kappa / 2)$.

    Args:
        first: one past token (*batch, p).
        second: the other.
        scores: A (p, p), not necessarily symmetric; leading axes broadcast.

    Returns:
        `Slab`, in at least float32: half precision is upcast, and autocast is off inside.

    How to read it: kappa is how much more two tokens like themselves than each other. Below 4 no query is in danger;
    above, those are whose two logits are nearly equal. In one dimension with tokens at ±1 and score a, kappa = 4 a.

    Errors: `ValueError` for a score matrix that is not square or of another width, tokens of different widths, and
    NaN or infinity.

    Source: arXiv 2602.22271 for the boundary; its shape for two tokens: *ours*.

    >>> found = slab(torch.tensor([1.0, 0.0]), torch.tensor([-1.0, 0.0]), 2 * torch.eye(2))
    >>> found.kappa.item(), found.offset.item(), found.width.item()
    (8.0, 1.7627..., 0.8813...)
    """
    normal, kappa = _difference(first, second, scores)
    opened = kappa > 4  # elsewhere, numbers whose gradient is finite
    beyond = torch.where(opened, kappa - 4, 1.0)
    offset = torch.where(opened, 2 * torch.asinh(beyond.sqrt() / 2), 0.0)  # arccosh, exact just above 4 as well
    length = torch.where(opened, normal.square().sum(-1), 1.0).sqrt()
    width = 2 * offset / length
    return Slab(kappa, torch.where(kappa >= 4, offset, math.nan), normal, width)


@without_autocast
def slab_determinant(
    u: Float[Tensor, "..."],
    first: Float[Tensor, "..."],
    second: Float[Tensor, "..."],
    scores: Float[Tensor, "..."],
) -> Float[Tensor, "..."]:
    r"""Determinant of the Jacobian block of a token u with two past tokens: $1 - \frac{\kappa}{4}\,\mathrm{sech}^2
    \frac z2$.

    Args:
        u: the token (*batch, p); a whole grid of them, say.
        first: one past token.
        second: the other.
        scores: A (p, p). All broadcast.

    Returns:
        (*batch,), in at least float32.

    How to read it: it depends on u through the difference z of its two logits only. Where the two are equal it is
    least, 1 - kappa / 4; where one wins, it is 1.

    Errors: as in `slab`.

    Source: *ours*.

    >>> slab_determinant(torch.zeros(2), torch.tensor([1.0, 0.0]), torch.tensor([-1.0, 0.0]), 2 * torch.eye(2)).item()
    -1.0
    """
    u, first, second, scores = upcast(u, first, second, scores)
    normal, kappa = _difference(first, second, scores)
    if u.shape[-1] != normal.shape[-1]:
        raise ValueError(
            f"u has shape {tuple(u.shape)} and the past tokens a width of {normal.shape[-1]}: give the same"
        )
    z = (normal * u).sum(-1)
    return 1 - kappa * torch.sigmoid(z) * torch.sigmoid(-z)


def _difference(first: Tensor, second: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    if first.shape[-1:] != second.shape[-1:]:
        shapes = f"first has shape {tuple(first.shape)}, second {tuple(second.shape)}"
        raise ValueError(f"{shapes}: give two tokens of one width")
    first, second, scores = upcast(first, second, scores)
    check_matrix("scores", scores, first.shape[-1])
    for name, token in (("first", first), ("second", second)):
        check_finite(name, token)
    delta = first - second
    normal = (delta[..., None, :] @ scores)[..., 0, :]  # the row delta^T A
    return normal, (normal * delta).sum(-1)

"""The agreement mass of soft votes from a table: thousands of values in milliseconds, differentiable."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

from nslab.gaussian.ranges import Scalar, inside
from nslab.propagation.doubles import as_doubles
from nslab.propagation.soft_votes import agreement_mass, check_spread
from nslab.propagation.votes import token_counts

NOISE = 1.5
"""The Gumbel noise counts as this much variance over tau²: its own is pi²/6; a little less makes the mass smoother."""
LARGEST = 1e6  # a larger spread counts as this one
DEGREES = 56  # in r
DEGREES_SPREAD = 48


@dataclass(frozen=True, eq=False)
class AgreementTable:
    r"""$G_n(r, \tau)$ of `agreement_mass` as a sum of Chebyshev polynomials.

    Formula: $G_n \approx \sum_{kj} c_{kj}\, T_k(2 x - 1)\, T_j(y)$ with $x = \sqrt{c / (\tau^2 + c)}$, $c = 1.5$,
    $\kappa = 1 - x^2$ and $y = \arcsin(\kappa r) / \arcsin \kappa$. Gumbel noise acts nearly like a factor $\kappa$ on
    the correlation, so that G is smooth in x and y although its slope in r reaches $\tau$ and more at r = 1. The
    absolute error is below 1e-5 up to 64 tokens and below 2e-5 up to 100,000, largest near tau = 500 and r = 1 - 3e-6.

    Attributes:
        tokens: n, or several, as given to `of`.
        coefficients: c, (spread degrees, r degrees); with several n (tokens, spread degrees, r degrees).

    How to read it: see `agreement_mass`. A twin in another language needs these coefficients and the three lines above.

    Source: ours.

    >>> table = AgreementTable.of(16)
    >>> bool((table(0.5, 3.0) - agreement_mass(0.5, 3.0, 16)).abs() < 1e-5)
    True
    """

    tokens: int | tuple[int, ...]
    coefficients: Float[Tensor, "..."]

    @staticmethod
    def of(
        tokens: int | Sequence[int],
        *,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str | None = None,
    ) -> "AgreementTable":
        """The table for n tokens, or for several n at once, which share most of the work.

        Args:
            tokens: n >= 1, or a sequence such as `range(1, 17)`.
            dtype: of the coefficients; the arithmetic is done in it, and single precision adds about 1e-6.
            device: of the coefficients; the r and spread of a call come from there too.

        Returns:
            `AgreementTable`, built in 1 to 3 seconds the first time and kept in memory.

        Errors: `ValueError` when n < 1.
        """
        key = int(token_counts(tokens)) if isinstance(tokens, int) else tuple(token_counts(tokens).tolist())
        return _moved(key, dtype, torch.device(device or "cpu"))

    def __call__(self, r: Scalar, spread: Scalar) -> Float[Tensor, "..."]:
        r"""$G_n(r, \tau)$.

        Args:
            r: correlations of the logits in [-1, 1], (*batch, rho).
            spread: $\tau \ge 0$, infinity included; broadcasts with r.

        Returns:
            The broadcast shape, in the dtype of r and spread (numbers: float64). With several n their axis stands
            before the last, (*batch, tokens, rho), and broadcasts too: r of shape (rho,) gives (tokens, rho), and r of
            shape (tokens, rho) is read row by row, each with its own n. Differentiable in both, with finite slopes;
            the slope in spread at 0 is 0.

        Errors: `ValueError` when r is outside [-1, 1], spread is negative, or either is NaN.
        """
        r, spread = as_doubles(r, spread)
        inside(r, "r", -1, 1, "r is the correlation of two logits of one token")
        check_spread(spread)
        dtype, number = r.dtype, r.ndim == spread.ndim == 0
        r, spread = (
            value.to(self.coefficients)[..., None] if value.ndim == 0 else value.to(self.coefficients)
            for value in (r, spread)
        )
        x, y = _coordinates(r, spread)
        levels, degrees = self.coefficients.shape[-2:]
        row = _chebyshev(2 * x - 1, levels) @ self.coefficients  # (*batch, [tokens,] rho or 1, degrees)
        found = (row * _chebyshev(y, degrees)).sum(-1).to(dtype)
        return found[..., 0] if number else found


def _coordinates(r: Tensor, spread: Tensor) -> tuple[Tensor, Tensor]:
    share = NOISE / (spread.clamp(max=LARGEST).square() + NOISE)  # of the noise in the variance
    kappa = (1 - share).clamp(1e-6, 1 - torch.finfo(share.dtype).eps)  # below, y is r; at 1 its slope is infinite
    return share.sqrt(), torch.asin(kappa * r) / torch.asin(kappa)


def _chebyshev(x: Tensor, count: int) -> Tensor:
    """T_0 .. T_{count - 1} at x, (*x, count), doubling their number with T_{m+i} = 2 T_m T_i - T_{m-i}."""
    found = torch.stack([torch.ones_like(x), x], -1)
    while (m := found.shape[-1] - 1) < count - 1:
        found = torch.cat([found, 2 * found[..., m:] * found[..., 1:] - found[..., :-1].flip(-1)], -1)
    return found[..., :count]


@lru_cache(maxsize=64)
def _moved(tokens: int | tuple[int, ...], dtype: torch.dtype, device: torch.device) -> AgreementTable:
    counts = (tokens,) if isinstance(tokens, int) else tokens
    coefficients = _coefficients(counts)
    return AgreementTable(tokens, (coefficients[0] if isinstance(tokens, int) else coefficients).to(device, dtype))


@lru_cache(maxsize=64)
def _coefficients(counts: tuple[int, ...]) -> Tensor:
    """(tokens, spread degrees, r degrees), from exact values at Chebyshev's points in both coordinates."""
    y, transform = _points(DEGREES)
    x, transform_spread = _points(DEGREES_SPREAD)
    values = []
    for level in ((x + 1) / 2).tolist():
        kappa = 1 - level**2
        r = torch.sin(y * math.asin(kappa)) / kappa if kappa else y
        values.append(agreement_mass(r.clamp(-1, 1), math.sqrt(NOISE * kappa) / level if level else math.inf, counts))
    return transform_spread @ torch.stack(values, -2) @ transform.T


def _points(count: int) -> tuple[Tensor, Tensor]:
    """Chebyshev's points with both ends (count,), and the matrix that takes values there to coefficients."""
    index = torch.arange(count, dtype=torch.float64)
    angle = index * math.pi / (count - 1)
    ends = torch.where((index == 0) | (index == count - 1), 0.5, 1.0).to(torch.float64)
    return torch.cos(angle), torch.cos(index[:, None] * angle) * ends * ends[:, None] * (2 / (count - 1))

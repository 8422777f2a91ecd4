"""Boolean analysis of any callable on {-1, 1}^n, at any n, by sampling: every number with its standard error.

A callable takes points (batch, n) with entries ±1 and returns one real number a row. Give either `samples`, how many
independent draws to average, or `stderr`, the standard error to reach. Randomness comes from `generator`, on the
device of the points. A draw evaluates f more than once where stated. Values of any real dtype are combined in double
precision (single on MPS), so that small integers cannot overflow.
"""

from collections.abc import Callable
from typing import TypedDict, Unpack

import torch
from jaxtyping import Float
from torch import Tensor

from nslab.boolean.checks import Scalar, as_correlation, coordinates, known_keys, positive, widened
from nslab.boolean.cube import number_a_row
from nslab.estimate import Estimate, sample_mean

Function = Callable[[Tensor], Tensor]

BATCH_NUMBERS = 2**22
"""Coordinates, or products where rho has more entries than x, drawn at once: 16 MiB in single precision."""


class Sampling(TypedDict, total=False):
    """How to sample: `samples` or `stderr` (one of them), `generator`, `device`, `dtype` of the points."""

    samples: int | None
    stderr: float | int | None
    generator: torch.Generator | None
    device: torch.device | str | None
    dtype: torch.dtype | None


def sampled_mean(f: Function, n: int, **sampling: Unpack[Sampling]) -> Estimate:
    """E[f(x)] for x uniform on {-1, 1}^n. One evaluation a draw.

    Raises:
        ValueError: if n < 1, not exactly one of `samples` and `stderr` is given, or f returns a wrong shape or a
            value that is not finite.

    >>> g = torch.Generator().manual_seed(0)
    >>> print(sampled_mean(lambda x: x[:, 0] * x[:, 0], 1000, samples=10, generator=g))
    1 ± 0
    """
    return _average(lambda x, rand: _values(f, x), n, sampling)


def sampled_influences(
    f: Function, n: int, relevant: list[int] | tuple[int, ...] | None = None, **sampling: Unpack[Sampling]
) -> Estimate:
    """Inf_i(f) = E[((f(x) - f(x with bit i flipped))/2)**2] for each coordinate, shape (n,).

    Args:
        f: the callable.
        n: number of coordinates.
        relevant: the coordinates to look at, all n by default; the result then has this many entries.
        **sampling: see `Sampling`.

    The coordinates share the points x, so their errors are correlated. 1 + len(relevant) evaluations a draw.

    >>> g = torch.Generator().manual_seed(0)
    >>> print(sampled_influences(lambda x: x[:, 0] * x[:, 1], 3, samples=10, generator=g))
    [1 ± 0, 1 ± 0, 0 ± 0]
    """
    chosen = coordinates(range(n) if relevant is None else relevant, n, "relevant")
    return _average(lambda x, rand: _squared_derivatives(f, x, chosen), n, sampling)


def sampled_total_influence(f: Function, n: int, **sampling: Unpack[Sampling]) -> Estimate:
    """I(f) = sum_i Inf_i(f), the average sensitivity. 1 + n evaluations a draw, all coordinates at the same x."""
    return _average(lambda x, rand: _squared_derivatives(f, x, tuple(range(n))).sum(-1), n, sampling)


def sampled_stability(f: Function, n: int, rho: Scalar, **sampling: Unpack[Sampling]) -> Estimate:
    """Stab_rho(f) = E[f(x) f(y)] at every rho of a tensor, shape (*rho), with common random numbers.

    All rho share x and one uniform number a bit, u_i, and y_i = x_i where u_i < (1 + rho)/2: the curve is as smooth
    as f allows and differences between rho are sharper than the error bars say. 1 + (number of rho) evaluations a
    draw.

    Args:
        f: the callable.
        n: number of coordinates.
        rho: correlations in [-1, 1], a number or a tensor (*rho).
        **sampling: see `Sampling`.

    Raises:
        ValueError: if rho is outside [-1, 1]; otherwise as `sampled_mean`.
    """
    rho = as_correlation(rho, torch.empty((), dtype=torch.float64))
    shares = ((1 + rho) / 2).flatten().tolist()

    def products(x: Tensor, rand: Callable[[], Tensor]) -> Tensor:
        at_x, uniform = _values(f, x), rand()
        found = [at_x * _values(f, torch.where(uniform < share, x, -x)) for share in shares]
        return torch.stack(found, -1).reshape(len(x), *rho.shape) if found else x.new_zeros(len(x), *rho.shape)

    return _average(products, n, sampling, width=max(n, len(shares)))


def _average(
    of: Callable[[Tensor, Callable[[], Tensor]], Tensor], n: int, sampling: Sampling, width: int | None = None
) -> Estimate:
    """Average `of(x, rand)` over uniform points x (k, n); rand() gives fresh uniform numbers of the same shape.

    The uniform numbers are never halves: 8 or 11 bits would move the correlation by more than the error. `width` is
    how many numbers a draw holds, n unless given.
    """
    known_keys(sampling, Sampling, "sampling")
    positive(n, "n", "give at least one coordinate")
    where = {"generator": sampling.get("generator"), "device": sampling.get("device")}
    dtype = sampling.get("dtype") or torch.get_default_dtype()

    def draw(k: int) -> Tensor:
        x = 1 - 2 * torch.randint(2, (k, n), **where).to(dtype)
        return of(x, lambda: torch.rand(k, n, dtype=widened(x[:0]).dtype, **where))

    with torch.no_grad():
        return sample_mean(
            draw,
            samples=sampling.get("samples"),
            stderr=sampling.get("stderr"),
            batch_size=max(1, min(65536, BATCH_NUMBERS // (width or n))),
        )


def _values(f: Function, x: Tensor) -> Float[Tensor, " batch"]:
    return number_a_row(f, x).to(torch.float32 if x.device.type == "mps" else torch.float64)


def _squared_derivatives(f: Function, x: Tensor, chosen: tuple[int, ...]) -> Float[Tensor, "batch chosen"]:
    """((f(x) - f(x with bit i flipped))/2)**2 for the chosen coordinates."""
    at_x = _values(f, x)
    flipped = x.clone()
    found = []
    for i in chosen:
        flipped[:, i] = -x[:, i]
        found.append(((at_x - _values(f, flipped)) / 2).square())
        flipped[:, i] = x[:, i]
    return torch.stack(found, -1) if found else x.new_zeros(len(x), 0)

"""The discrete cube {-1, 1}^n: its points in table order, and tables of functions on it.

Index i of a table stands for the point x whose coordinate j is (-1)**(binary digit j of i), least significant digit
first: index 0 is the point (1, ..., 1) and digit 1 means x_j = -1. With subsets S coded the same way,
chi_S(x_i) = (-1)**popcount(i & S), so the Walsh-Hadamard matrix is symmetric.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from nslab.boolean.checks import coordinate_count, positive
from nslab.protocols import evaluate


def points(
    n: int, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
) -> Float[Tensor, "points n"]:
    """All 2**n points of {-1, 1}^n in table order, one a row.

    >>> points(2).tolist()
    [[1.0, 1.0], [-1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]]

    Raises:
        ValueError: if n is negative or above 24.
    """
    index = torch.arange(2 ** coordinate_count(n), device=device)
    return _points(index, n, dtype)


def _points(index: Tensor, n: int, dtype: torch.dtype | None) -> Tensor:
    x = torch.empty(len(index), n, dtype=dtype or torch.get_default_dtype(), device=index.device)
    for j in range(n):  # one column at a time: the integer digits of all would take several times the result
        x[:, j] = 1 - 2 * (index >> j & 1)
    return x


def popcounts(n: int, *, device: torch.device | str | None = None) -> Int[Tensor, " table"]:
    """|S| for every subset S of n coordinates, coded as a bitmask 0 .. 2**n - 1: the degree of each coefficient.

    >>> popcounts(3).tolist()
    [0, 1, 1, 2, 1, 2, 2, 3]
    """
    counts = torch.zeros(1, dtype=torch.int64, device=device)
    for _ in range(coordinate_count(n, most=62)):
        counts = torch.cat([counts, counts + 1])
    return counts


def table(
    f: Callable[[Tensor], Tensor],
    n: int,
    *,
    batch_size: int = 65536,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Shaped[Tensor, " table"]:
    """The truth table of a callable: its value at each of the 2**n points, in table order.

    Args:
        f: takes points (batch, n) with entries ±1 and returns values (batch,).
        n: number of coordinates, at most 24.
        batch_size: points handed to f at once.
        dtype: of the points; the values keep the dtype that f gives them, and its gradient.
        device: of the points.

    Raises:
        ValueError: if n is too large (the message names the sampling functions), batch_size is not positive, or f
            returns a wrong shape or a value that is not finite.

    >>> table(lambda x: x[:, 0] * x[:, 1], 2).tolist()
    [1.0, -1.0, -1.0, 1.0]
    """
    positive(batch_size, "batch_size", "it is how many points f is handed at once")
    index = torch.arange(2 ** coordinate_count(n), device=device)
    return torch.cat([number_a_row(f, _points(batch, n, dtype)) for batch in index.split(batch_size)])


def number_a_row(f: Callable[[Tensor], Tensor], x: Float[Tensor, "batch n"]) -> Shaped[Tensor, " batch"]:
    """`f(x)`, refused unless it is one finite real number a row."""
    values = evaluate(f, x)
    if values.shape != x.shape[:1]:
        raise ValueError(
            f"f returned shape {tuple(values.shape)} for points of shape {tuple(x.shape)}: one number a row is needed,"
            " shape (batch,); select an output, for example lambda x: f(x)[:, 0]"
        )
    if values.is_complex():
        raise ValueError(f"f returned dtype {values.dtype}: real numbers are needed; take lambda x: f(x).real")
    return values


def by_coordinate(f: Float[Tensor, "*batch table"], i: int) -> Float[Tensor, "*batch high two low"]:
    """The table with coordinate i on an axis of its own: [..., 0, :] has x_i = +1 and [..., 1, :] has x_i = -1."""
    return f.unflatten(-1, (-1, 2, 2**i))  # (*batch, 2**(n-1-i), 2, 2**i)

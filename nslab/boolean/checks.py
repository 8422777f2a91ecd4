"""Argument checks of the Boolean room: every refusal names the argument, its value and the remedy."""

import math
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

EXACT_BITS = 24
"""Largest n for which a truth table is made from a callable: 2**24 values are 64 MiB in single precision."""

Scalar = Float[Tensor, "..."] | float | int
"""A number or a tensor of numbers; a number counts as a tensor without axes."""


def table_bits(f: Tensor, name: str = "f") -> int:
    """The number of coordinates n of a table whose last axis has length 2**n.

    Raises:
        ValueError: if the last axis is no power of two, or the entries are not real floating-point numbers.
    """
    length = f.shape[-1] if f.ndim else 0
    if length < 1 or length & (length - 1):
        raise ValueError(
            f"{name} has shape {tuple(f.shape)}: its last axis must have length 2**n, one value for every point of"
            " {-1, 1}^n; make one with boolean.table(function, n)"
        )
    if not f.is_floating_point():
        raise ValueError(f"{name} has dtype {f.dtype}: the mathematics is over the reals; convert with {name}.double()")
    return length.bit_length() - 1


def sign_table_bits(f: Tensor, name: str = "f") -> int:
    """As `table_bits`, for tables whose every entry is +1 or -1."""
    n = table_bits(f, name)
    wrong = f.abs() != 1
    if bool(wrong.any()):
        value = f[wrong][0].item()
        raise ValueError(
            f"{name} holds the value {value:g}: this quantity is defined for ±1-valued functions only; take the sign"
            " first (torch.where(f < 0, -1.0, 1.0)) or use the spectral functions, which accept real tables"
        )
    return n


def widened(f: Tensor) -> Tensor:
    """`f`, in single precision if it is a half: squared coefficients of half tables lie below the smallest half."""
    return f.float() if f.dtype in (torch.float16, torch.bfloat16) else f


def as_correlation(rho: Scalar, like: Tensor, name: str = "rho") -> Tensor:
    """`rho` as a tensor of the dtype and device of `like`, refused outside [-1, 1]."""
    rho = torch.as_tensor(rho, dtype=like.dtype, device=like.device)
    _refuse_outside(rho, (rho >= -1) & (rho <= 1), name, "[-1, 1]", "rho is the correlation E[x_i y_i]")
    return rho


def as_bias(p: Scalar, n: int, like: Tensor, name: str = "p") -> Tensor:
    """`p` as n probabilities in (0, 1) of the dtype and device of `like`: one number for all, or one a coordinate."""
    p = torch.as_tensor(p, dtype=like.dtype, device=like.device)
    if p.ndim > 1 or (p.ndim == 1 and len(p) != n):
        raise ValueError(f"{name} has shape {tuple(p.shape)}: give one number, or n = {n} of them, one a coordinate")
    _refuse_outside(p, (p > 0) & (p < 1), name, "(0, 1)", f"{name} is P[x_i = -1]; fix a coordinate by slicing f")
    return p.expand(n)


def _refuse_outside(value: Tensor, allowed: Tensor, name: str, interval: str, remedy: str) -> None:
    if not bool(allowed.all()):
        worst = value.detach()[~allowed].flatten()[0].item()
        raise ValueError(f"{name} = {worst:g} is outside {interval}: {remedy}")


def coordinate_count(n: int, name: str = "n", most: int = EXACT_BITS) -> int:
    """`n`, refused below zero and beyond the exact path."""
    if n < 0:
        raise ValueError(f"{name} = {n} is negative: it counts coordinates, give 0 or more")
    if n > most:
        raise ValueError(
            f"{name} = {n} needs a table of 2**{n} values, beyond the exact path ({name} <= {most}): use the sampling"
            " functions (boolean.sampled_stability, ...) or, for weighted votes, boolean.threshold_stability, ..."
        )
    return n


def coordinates(chosen: Sequence[int], n: int, name: str) -> tuple[int, ...]:
    """`chosen` as a tuple, refused if a coordinate repeats or lies outside range(n)."""
    chosen = tuple(int(i) for i in chosen)
    if any(not 0 <= i < n for i in chosen) or len(set(chosen)) < len(chosen):
        raise ValueError(f"{name} = {chosen}: give distinct coordinates from 0 to n - 1 = {n - 1}")
    return chosen


def known_keys(given: Mapping[str, object], known: type, what: str) -> None:
    """Refuse a keyword that the TypedDict `known` does not have: a misspelt one must not be ignored."""
    if unknown := sorted(set(given) - set(known.__annotations__)):
        raise TypeError(f"unexpected argument {unknown[0]!r}: {what} has {', '.join(known.__annotations__)}")


def finite(value: Tensor | float | int, name: str, meaning: str) -> None:
    """Refuse NaN and infinity, in a number or anywhere in a tensor."""
    value = torch.as_tensor(value, dtype=torch.float64)
    wrong = ~torch.isfinite(value)
    if bool(wrong.any()):
        raise ValueError(f"{name} holds {value[wrong][0].item():g}, which is not finite: {meaning}")


def positive(value: float | int, name: str, meaning: str) -> None:
    """Refuse a number that is not above zero."""
    if not value > 0 or math.isinf(value):
        raise ValueError(f"{name} = {value} must be positive and finite: {meaning}")

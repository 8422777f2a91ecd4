"""Argument checks of the Gaussian room: every refusal names the argument, its value and the remedy."""

import functools

import torch
from jaxtyping import Real
from torch import Tensor

Scalar = Real[Tensor, "..."] | float | int
"""A number or a tensor of numbers; a number counts as a tensor without axes."""


def as_tensors(*values: Scalar) -> list[Tensor]:
    """The values as tensors of one floating dtype, the widest among the tensors, and of the first tensor's device.

    Integer tensors do not decide the dtype: 0.5 beside one would be cut to 0. Without a floating one it is torch's own.
    """
    tensors = [value for value in values if isinstance(value, Tensor)]
    dtypes = [value.dtype for value in tensors if value.is_floating_point()] or [torch.get_default_dtype()]
    dtype, device = functools.reduce(torch.promote_types, dtypes), tensors[0].device if tensors else None
    return [torch.as_tensor(value, dtype=dtype, device=device) for value in values]


def inside(value: Tensor, name: str, low: float | int, high: float | int, meaning: str) -> Tensor:
    """`value`, refused unless every entry is in [low, high]; NaN is refused too."""
    allowed = (value >= low) & (value <= high)
    if not bool(allowed.all()):
        worst = value.detach()[~allowed].flatten()[0].item()
        raise ValueError(f"{name} = {worst:g} is outside [{low}, {high}]: {meaning}")
    return value


def correlation(rho: Tensor) -> Tensor:
    """`rho`, refused outside [-1, 1]."""
    return inside(rho, "rho", -1, 1, "rho is the correlation E[X Y] of two standard Gaussians")


def degree_count(degree: int) -> int:
    """`degree`, refused below zero."""
    if degree < 0:
        raise ValueError(f"degree = {degree} is negative: it is the highest degree wanted, give 0 or more")
    return degree

"""Arithmetic of intervals, each a pair of tensors: the lower and the upper end."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

Ends = tuple[Tensor, Tensor]
"""Lower and upper end of one number."""
Box = list[Ends]
"""The ends of m, o, q and p, in this order."""


def times(x: Ends, y: Ends) -> Ends:
    """The product of two numbers."""
    products = torch.stack(torch.broadcast_tensors(x[0] * y[0], x[0] * y[1], x[1] * y[0], x[1] * y[1]))
    return products.amin(0), products.amax(0)


def inverse(x: Ends) -> Ends:
    """One over a number that is not negative, finite where nothing keeps it above 0."""
    tiny = math.sqrt(torch.finfo(x[0].dtype).tiny)  # its square is finite too
    return 1 / x[1].clamp(min=tiny), 1 / x[0].clamp(min=tiny)


def hull(*several: Ends) -> Ends:
    """One of several."""
    return torch.stack([low for low, _ in several]).amin(0), torch.stack([high for _, high in several]).amax(0)


def met(x: Ends, y: Ends) -> Ends:
    """What two bounds of one number leave; rounding must not turn it around."""
    low = torch.maximum(x[0], y[0])
    return low, torch.maximum(low, torch.minimum(x[1], y[1]))


def slackened(ends: Ends, slack: float | int, there: Callable, back: Callable) -> Ends:
    """Both ends moved outwards by the slack in another coordinate."""
    return back(there(ends[0]) - slack), back(there(ends[1]) + slack)


def share(value: Tensor, ends: Ends) -> Tensor:
    """Where a value lies between two ends, in [0, 1]; 0 where they are one."""
    gap = (ends[1] - ends[0]).clamp(min=torch.finfo(value.dtype).eps)
    return ((value - ends[0]) / gap).clamp(0, 1)

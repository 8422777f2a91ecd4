"""The refusal of correlations and probabilities that are none."""

import torch
from jaxtyping import Float
from torch import Tensor

Scalar = Float[Tensor, "..."] | float | int
"""A number or a tensor of numbers; a number counts as a tensor without axes."""


def in_range(name: str, value: Scalar, low: float | int, high: float | int, meaning: str) -> Tensor:
    """`value` in double precision, on its own device; refused where it is outside [low, high] or not a number."""
    value = torch.as_tensor(value, dtype=torch.float64)
    outside = value[~((value >= low) & (value <= high))]
    if len(outside):
        raise ValueError(f"{name} has {outside[0].item():g}: {meaning}, a number in [{low}, {high}]")
    return value

"""Arguments of this room: Python numbers count as float64."""

import torch
from torch import Tensor

from nslab.gaussian.ranges import Scalar, as_tensors


def as_doubles(*values: Scalar) -> list[Tensor]:
    """As `as_tensors`, but values without a floating tensor among them, such as Python numbers, are float64."""
    floating = any(isinstance(value, Tensor) and value.is_floating_point() for value in values)
    anchor = [] if floating else [torch.zeros((), dtype=torch.float64)]
    return as_tensors(*values, *anchor)[: len(values)]

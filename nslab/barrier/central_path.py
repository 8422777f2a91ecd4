r"""Two constraints and a log-barrier, solved: how few of the multipliers survive as the barrier's weight goes to 0."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from nslab.gaussian.ranges import Scalar, as_tensors


@dataclass(frozen=True, eq=False)
class CentralPath:
    """The maximiser for each weight of the barrier.

    Attributes:
        point: the score a that is best (*weights,).
        margins: what is left of each constraint, m_i > 0 (*weights, 2), the tighter one first.
        multipliers: the pull of each constraint, nu_i = weight / m_i (*weights, 2).
    """

    point: Float[Tensor, "*weights"]
    margins: Float[Tensor, "*weights two"]
    multipliers: Float[Tensor, "*weights two"]


def central_path(barrier_weight: Scalar, limits: tuple[float | int, float | int] = (2.0, 4.0)) -> CentralPath:
    r"""Maximise a score a with two tokens in its way: $a + \lambda (\log m_1 + \log m_2)$, $m_i = 1 - a / L_i > 0$.

    Formula: $L_1 - a = \lambda - \frac d2 + \sqrt{\lambda^2 + d^2 / 4}$ with $d = L_2 - L_1$.

    Args:
        barrier_weight: lambda > 0, any shape.
        limits: L_1 <= L_2, above 0: the largest score that each token stands.

    Returns:
        `CentralPath`.

    How to read it: at the optimum $\sum_i \nu_i / L_i = 1$ with $\nu_i = \lambda / m_i$: every token pulls back with
    a force that grows as its margin shrinks, and $\nu_i m_i = \lambda$ is the same for all (complementary slackness of
    interior-point methods). As lambda goes to 0, a goes to L_1; the first multiplier stays, the second dies like
    lambda. The token that stays is a support token, as a support vector is.

    Errors: `ValueError` for a weight that is not above 0, and limits that do not rise from above 0.

    Source: *ours*; Boyd and Vandenberghe (2004), section 11.2, for the general case.

    >>> path = central_path(0.1)
    >>> path.point.item(), path.multipliers
    (1.895..., tensor([1.9050, 0.1900]))
    """
    (weight,) = as_tensors(barrier_weight)
    if not bool((weight > 0).all() and weight.isfinite().all()):
        worst = weight.detach()[~((weight > 0) & weight.isfinite())].flatten()[0].item()
        raise ValueError(
            f"barrier_weight = {worst:g} is not above 0 and finite: without a barrier the maximum is at a limit"
        )
    first, second = limits
    if not 0 < first <= second < math.inf:
        raise ValueError(f"limits = {limits} do not rise from above 0: give the tighter one first")
    gap = (second - first) / 2
    root = (weight.square() + gap**2).sqrt()
    stable = 2 * weight * gap / (root + (gap - weight).abs())  # the other form, where it would cancel
    room = torch.where(weight < gap, stable, weight - gap + root)
    margins = torch.stack([room / first, (room + 2 * gap) / second], -1)
    return CentralPath(first - room, margins, weight[..., None] / margins)

r"""How concentrated an influence profile is: on how many tokens, and at which positions.

A profile $p_1, \dots, p_n \ge 0$ has one number a position, the last axis; every function takes many at once.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int, Real
from torch import Tensor

from nslab.estimate import bootstrap
from nslab.stability.designs import double
from nslab.stability.prompts import OverPrompts


class Above(NamedTuple):
    """What stands out of a profile: `count` positions, their `share` of all positions, and the part `held` by them."""

    count: Int[Tensor, "..."]
    share: Float[Tensor, "..."]
    held: Float[Tensor, "..."]


@dataclass(frozen=True)
class ProfileSummary:
    """Means over prompts, each with its bootstrap interval.

    Attributes:
        prompts: number of profiles.
        length: positions of each.
        tokens_holding_90: k90.
        participation_ratio: effective number of positions.
        above_tenth: number of positions above a tenth of the prompt's maximum.
        smallest_to_largest: ratio of the extremes.
        first: share of the sum at the first position.
        last: share of the sum at the last position.
        by_position: mean share of the sum at each position (length,); 1/length everywhere is a flat profile.

    How to read it: with every position equal, k90 is 0.9 length and the participation ratio is the length.
    """

    prompts: int
    length: int
    tokens_holding_90: OverPrompts
    participation_ratio: OverPrompts
    above_tenth: OverPrompts
    smallest_to_largest: OverPrompts
    first: OverPrompts
    last: OverPrompts
    by_position: OverPrompts

    def __repr__(self) -> str:
        told = f"k90 {self.tokens_holding_90}, participation ratio {self.participation_ratio}"
        return f"ProfileSummary({self.prompts} prompts of {self.length} tokens: {told})"


def tokens_holding(profile: Real[Tensor, "*batch length"], share: float | int = 0.9) -> Int[Tensor, "*batch"]:
    """The smallest number of positions that hold `share` of the sum: k90 at the default, (*batch).

    Args:
        profile: (*batch, length), non-negative, not all zero.
        share: in (0, 1].

    Errors: `ValueError` for negative or zero profiles, or a share out of range.

    >>> tokens_holding(torch.tensor([5.0, 4.0, 1.0])).item()
    2
    """
    if not 0 < share <= 1:
        raise ValueError(f"share is {share}: give a number in (0, 1]")
    largest = _checked(profile).sort(-1, descending=True).values
    held = largest.cumsum(-1) / largest.sum(-1, keepdim=True)
    return (held < share - 1e-9).sum(-1).clamp(max=profile.shape[-1] - 1) + 1  # rounding must not add a position


def participation_ratio(profile: Real[Tensor, "*batch length"]) -> Float[Tensor, "*batch"]:
    r"""$(\sum_i p_i)^2 / \sum_i p_i^2$, the effective number of positions, from 1 to length, (*batch).

    How to read it: k equal entries among zeros give k. Errors: as `tokens_holding`.

    >>> participation_ratio(torch.tensor([2.0, 2.0, 0.0])).item()
    2.0
    """
    found = _checked(profile)
    found = found / found.amax(-1, keepdim=True)
    return found.sum(-1).square() / found.square().sum(-1)


def share_above(profile: Real[Tensor, "*batch length"], fraction: float | int = 0.1) -> Above:
    """The positions above `fraction` of the profile's maximum: how many, and how much of the sum they hold.

    Args:
        profile: (*batch, length), non-negative, not all zero.
        fraction: in [0, 1).

    Returns:
        `Above` with entries of shape (*batch).

    Errors: as `tokens_holding`.

    >>> share_above(torch.tensor([6.0, 3.0, 0.5, 0.5]))
    Above(count=tensor(2), share=tensor(0.5000, dtype=torch.float64), held=tensor(0.9000, dtype=torch.float64))
    """
    if not 0 <= fraction < 1:
        raise ValueError(f"fraction is {fraction}: give a number in [0, 1)")
    found = _checked(profile)
    above = found > fraction * found.amax(-1, keepdim=True)
    held = torch.where(above, found, 0).sum(-1) / found.sum(-1)
    return Above(above.sum(-1), above.double().mean(-1), held)


def smallest_to_largest(profile: Real[Tensor, "*batch length"]) -> Float[Tensor, "*batch"]:
    """The ratio of the smallest to the largest entry, (*batch): 0 only where a position has no influence at all."""
    found = _checked(profile)
    return found.amin(-1) / found.amax(-1)


def position_profile(profiles: Real[Tensor, "*batch prompts length"]) -> Float[Tensor, "*batch length"]:
    """The mean profile against position, each prompt first divided by its sum, so that no prompt outweighs another.

    Errors: as `tokens_holding`.
    """
    found = _checked(profiles)
    return (found / found.sum(-1, keepdim=True)).mean(-2)


def summarise_profiles(
    profiles: Real[Tensor, "prompts length"],
    *,
    level: float = 0.95,
    resamples: int = 2000,
    generator: torch.Generator | None = None,
) -> ProfileSummary:
    """All of the above over a set of prompts of one length, with percentile bootstrap intervals over the prompts.

    Args:
        profiles: one profile a prompt (prompts, length), non-negative.
        level: of the intervals.
        resamples: repetitions of the bootstrap.
        generator: source of randomness, on the device of the profiles.

    Errors: `ValueError` for fewer than 2 prompts, and as `tokens_holding`.
    """
    found = _checked(profiles)
    if len(found) < 2:
        raise ValueError(f"profiles holds {len(found)} prompt: an interval over prompts needs at least 2")
    share = found / found.sum(-1, keepdim=True)
    numbers = (
        tokens_holding(found).double(),
        participation_ratio(found),
        share_above(found).count.double(),
        smallest_to_largest(found),
        share[:, 0],
        share[:, -1],
    )
    rows = torch.cat([torch.stack(numbers, 1), share], 1)  # (prompts, numbers + length)
    interval = bootstrap(rows, level=level, resamples=resamples, generator=generator)
    mean = rows.mean(0)
    part = lambda at: OverPrompts(mean[at], type(interval)(interval.low[at], interval.high[at], level))  # noqa: E731
    return ProfileSummary(*found.shape, *(part(i) for i in range(len(numbers))), part(slice(len(numbers), None)))


def _checked(profile: Tensor) -> Tensor:
    if not profile.ndim or not profile.shape[-1]:
        raise ValueError(f"profile has shape {tuple(profile.shape)}: give at least one position on the last axis")
    found = double(profile.detach())
    if not bool((found >= 0).all()) or not bool(found.isfinite().all()):
        raise ValueError("profile has negative entries, NaN or infinity: influences are non-negative numbers")
    if not bool((found.sum(-1) > 0).all()):
        where = (found.sum(-1) == 0).nonzero()[0].tolist()
        raise ValueError(f"profile is zero everywhere at {where}: leave it out, nothing is concentrated there")
    return found

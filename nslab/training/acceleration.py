"""By how much a changed training is faster: one ratio over paired seeds, read both ways, in steps and in seconds.

    plain, changed = (first_passage(steps, accuracy, 0.99) for accuracy in (plain_accuracy, changed_accuracy))
    found = acceleration(plain, changed, plain_last=3000, changed_last=3000)
    print(found)                    # 1.36 [1.20, 1.50]: 36 % faster, 26 % of the steps saved
    print(found.in_seconds(2.05))   # the same, if a changed step takes 2.05 times as long

"36 % faster" and "36 % fewer steps" are different claims: the first saves 26 % of the steps, the second is 56 % faster.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from nslab.estimate import Interval, bootstrap

Series = Tensor | np.ndarray | Sequence[float | int]
Bounded = Literal["exact", "at most", "at least", "both ways"]


@dataclass(frozen=True, eq=False)
class Acceleration:
    r"""What `acceleration` found: $T_{\text{plain}} / T_{\text{changed}}$ a seed, and their geometric mean.

    Attributes:
        ratios: one a seed (seeds,), above 1 where the changed training is faster; NaN where neither got there.
        at_most: where the changed training never got there, so that the ratio is at most this. (seeds,)
        at_least: where the plain one never got there, so that it is at least this. (seeds,)
        interval: bootstrap interval of the geometric mean; NaN at both ends with fewer than two ratios.
        unit: what the T are counted in, "steps" or "seconds".

    How to read it: `bounded` says whether the number is one. Seeds that never got there entered with the end of their
    training; if all of these are bounds on one side, then so is `ratio`, so is each end of `interval`, and so are the
    two readings `faster` and `saved`. Bounds "both ways" leave a number without a meaning: train longer. With fewer
    than about 20 seeds the percentile interval is too short.
    """

    ratios: Float64[Tensor, " seeds"]
    at_most: Bool[Tensor, " seeds"]
    at_least: Bool[Tensor, " seeds"]
    interval: Interval
    unit: Literal["steps", "seconds"] = "steps"

    @property
    def ratio(self) -> float:
        """The geometric mean of the ratios, over the seeds that have one; NaN if none has."""
        return float(self.ratios[self.ratios.isfinite()].log().mean().exp())

    @property
    def seeds(self) -> int:
        """How many seeds have a ratio."""
        return len(self.ratios) - self.undecided

    @property
    def undecided(self) -> int:
        """How many have none, because neither training got there; they are in no mean."""
        return int(self.ratios.isnan().sum())

    @property
    def bounded(self) -> Bounded:
        """What `ratio` is: exact, a bound, or a mixture of bounds from both sides."""
        most, least = bool(self.at_most.any()), bool(self.at_least.any())
        if most and least:
            return "both ways"
        return "at most" if most else "at least" if least else "exact"

    @property
    def faster(self) -> float:
        """The ratio - 1: how much faster, as a share; 1 is twice as fast, and below 0 it is slower."""
        return self.ratio - 1

    @property
    def faster_interval(self) -> Interval:
        """Interval of `faster`."""
        return replace(self.interval, low=self.interval.low - 1, high=self.interval.high - 1)

    @property
    def saved(self) -> float:
        """1 - 1/ratio: the share of the steps, or seconds, that is no longer needed; below 0 they are more."""
        return 1 - 1 / self.ratio

    @property
    def saved_interval(self) -> Interval:
        """Interval of `saved`."""
        return replace(self.interval, low=1 - 1 / self.interval.low, high=1 - 1 / self.interval.high)

    def in_seconds(self, cost: float | int) -> "Acceleration":
        """The same in seconds: every ratio divided by the cost, the seconds of a changed step over a plain one.

        How to read it: the cost counts as exact, and its own error is not in the interval. Call it once: a second call
        divides again.

        Errors: `ValueError` for a cost that is not positive and finite.
        """
        if not 0 < cost < inf:
            raise ValueError(f"cost is {cost}: give seconds of a changed step over seconds of a plain one, above 0")
        interval = replace(self.interval, low=self.interval.low / cost, high=self.interval.high / cost)
        return replace(self, ratios=self.ratios / cost, interval=interval, unit="seconds")

    def __str__(self) -> str:
        around = f"[{self.interval.low:.2f}, {self.interval.high:.2f}]"
        if not self.seeds:
            return f"{self.ratio:.2f} {around}: undecided in all of {self.undecided} seeds"
        bound = {"at most": "at most ", "at least": "at least "}.get(self.bounded, "")
        mixed = " (bounds both ways)" if self.bounded == "both ways" else ""
        faster, saved = f"{100 * abs(self.faster):.0f} %", f"{100 * abs(self.saved):.0f} %"
        if self.ratio < 1:  # at most so fast is at least so much slower
            way = {"at most ": "at least ", "at least ": "at most "}.get(bound, "")
            read = f"{way}{faster} slower, {way}{saved} more {self.unit}"
        else:
            read = f"{bound}{faster} faster, {bound}{saved} of the {self.unit} saved"
        none = f"; {self.undecided} of {len(self.ratios)} seeds undecided" if self.undecided else ""
        return f"{bound}{self.ratio:.2f} {around}{mixed}: {read}{none}"


def acceleration(
    plain: Series,
    changed: Series,
    *,
    plain_last: Series | float | int,
    changed_last: Series | float | int,
    level: float = 0.95,
    generator: torch.Generator | None = None,
) -> Acceleration:
    r"""How much sooner a changed training gets there than a plain one, over paired seeds.

    Formula: $\exp\big(\frac1n \sum_s \log (T^{\text{plain}}_s / T^{\text{changed}}_s)\big)$, the geometric mean: the
    acceleration of the plain training over the changed one is its inverse, and `saved` is 1 - 1/ratio for the mean as
    for each seed.

    Args:
        plain: steps at which each seed got there, (seeds,), NaN where it never did, as from `first_passage`.
        changed: the same for the changed training, with the same seeds (weights and data) in the same order.
        plain_last: the last step of the plain training, a number or one a seed. It stands in for a seed that never got
            there: a lower bound of T, and the result says so.
        changed_last: the same for the changed training.
        level: of the interval, in (0, 1).
        generator: of the bootstrap, on the CPU; None is a fixed one, so that a history has one answer.

    Returns:
        `Acceleration`.

    How to read it: a step is known to the distance of two evaluations, and a ratio no better than that.

    Errors: `ValueError` when the shapes differ or there is no seed, a step is not positive or beyond its last, or a
    last step is not positive and finite.

    Source: ours. 4,500 and 3,300 steps are what a digest gives for the claim of 36 % in arXiv 2602.08287.

    >>> found = acceleration([4500], [3300], plain_last=5000, changed_last=5000)
    >>> round(found.faster, 3), round(found.saved, 3)
    (0.364, 0.267)
    >>> print(acceleration([500, 600, 550], [250, 400, 275], plain_last=3000, changed_last=3000))
    1.82 [1.50, 2.00]: 82 % faster, 45 % of the steps saved
    """
    plain, changed = _double(plain), _double(changed)
    if plain.ndim != 1 or plain.shape != changed.shape or not len(plain):
        shapes = f"plain is {tuple(plain.shape)} and changed {tuple(changed.shape)}"
        raise ValueError(f"{shapes}: give one step for each of the same seeds, (seeds,), at least one")
    first, second = _reached("plain", plain, plain_last), _reached("changed", changed, changed_last)
    never, lost = plain.isnan(), changed.isnan()
    ratios = (first / second).masked_fill(never & lost, torch.nan)
    logs = ratios[ratios.isfinite()].log()
    if len(logs) > 1:
        found = bootstrap(logs, level=level, generator=generator or torch.Generator().manual_seed(0))
        interval = replace(found, low=found.low.exp(), high=found.high.exp())
    else:
        none = torch.tensor(torch.nan, dtype=torch.float64)
        interval = Interval(none, none, level)
    return Acceleration(ratios, lost & ~never, never & ~lost, interval)


def _reached(name: str, steps: Tensor, last: Series | float | int) -> Tensor:
    """The steps, with the last step of the training where a seed never got there."""
    ends = _double(last)
    if ends.ndim and ends.shape != steps.shape:
        raise ValueError(
            f"{name}_last has shape {tuple(ends.shape)} for {len(steps)} seeds: give a number or one a seed"
        )
    ends = ends.expand(steps.shape)
    for what, values in ((name, steps[~steps.isnan()]), (f"{name}_last", ends)):
        if wrong := [one for one in values.tolist() if not 0 < one < inf]:
            raise ValueError(
                f"{what} has {wrong[0]}: give steps above 0; only `plain` and `changed` may have NaN, for never"
            )
    if beyond := (steps > ends).nonzero().flatten().tolist():
        step, end = steps[beyond[0]].item(), ends[beyond[0]].item()
        raise ValueError(f"{name} has step {step:g} for a training that ended at {end:g}: raise {name}_last")
    return torch.where(steps.isnan(), ends, steps)


def _double(values: Series | float | int) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float64, device="cpu")

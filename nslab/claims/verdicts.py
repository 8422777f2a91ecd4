"""What a check returns: a state, the evidence in words, and the numbers in it."""

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

LEAST_SEEDS = 5
# Student's t at 97.5 % for 4 .. 30 degrees of freedom; beyond 30 the value at 30, which errs towards wide intervals.
_T = (2.776445, 2.570582, 2.446912, 2.364624, 2.306004, 2.262157, 2.228139, 2.200985, 2.178813)
_T += (2.160369, 2.144787, 2.131450, 2.119905, 2.109816, 2.100922, 2.093024, 2.085963, 2.079614)
_T += (2.073873, 2.068658, 2.063899, 2.059539, 2.055529, 2.051831, 2.048407, 2.045230, 2.042272)


class State(StrEnum):
    """How a claim stands. `OPEN` is the state of everything that is not settled by evidence."""

    HOLDS = "holds"
    HOLDS_WITH_CHANGES = "holds with changes"
    NOT_REPRODUCED = "not reproduced"
    OPEN = "open"


def number_name(name: str) -> str:
    """A name as part of a number's name: letters and digits stay, and all else becomes an underscore."""
    return "".join(letter if letter.isalnum() else "_" for letter in name)


@dataclass(frozen=True)
class Comparison:
    """Our value, one number a seed, at the paper's setting, beside the paper's.

    Formula: the interval is mean ± t sd / sqrt(seeds), t the 97.5 % quantile of Student's distribution.

    Attributes:
        values: one finite number a seed, at least five.
        theirs: the paper's number.

    Errors: `ValueError` for fewer than five seeds, or a number that is not finite.
    """

    values: tuple[float | int, ...]
    theirs: float | int

    def __post_init__(self):
        if len(self.values) < LEAST_SEEDS:
            raise ValueError(f"values has {len(self.values)} seeds: a comparison needs at least {LEAST_SEEDS}")
        if not all(map(math.isfinite, (*self.values, self.theirs))):
            raise ValueError(f"values {self.values} and theirs {self.theirs}: each must be finite")

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the mean over seeds."""
        seeds = len(self.values)
        half = _T[min(seeds - LEAST_SEEDS, len(_T) - 1)] * statistics.stdev(self.values) / math.sqrt(seeds)
        mean = statistics.fmean(self.values)
        return mean - half, mean + half

    @property
    def excludes(self) -> bool:
        """Whether the paper's number lies outside the interval."""
        low, high = self.interval
        return not low <= self.theirs <= high


@dataclass(frozen=True)
class Verdict:
    """The answer of a check.

    Attributes:
        state: how the claim stands.
        evidence: one or two sentences, with the numbers in them; MyST, so $...$ is mathematics.
        numbers: the same numbers by name, each finite.
        comparison: needed for *not reproduced*, and then it must exclude the paper's number.

    Errors: `ValueError` for empty evidence, a number that is not finite, or *not reproduced* without such a
    comparison; `TypeError` for a state that is not a `State`.
    """

    state: State
    evidence: str
    numbers: Mapping[str, float | int] = field(default_factory=dict)
    comparison: Comparison | None = None

    def __post_init__(self):
        if not isinstance(self.state, State):
            raise TypeError(f"state is {self.state!r}: give a State, one of {', '.join(State.__members__)}")
        if not self.evidence.strip():
            raise ValueError("evidence is empty: say in a sentence what was computed")
        for name, value in self.numbers.items():
            if not math.isfinite(value):
                raise ValueError(f"numbers[{name!r}] is {value}: evidence is finite")
        if self.state is State.NOT_REPRODUCED and not (self.comparison and self.comparison.excludes):
            raise ValueError(
                f"state is 'not reproduced', which needs at least {LEAST_SEEDS} seeds at the paper's setting and a "
                "95 % interval that excludes the paper's number: use compare(values, theirs), or return State.OPEN"
            )


def settle(right: bool, evidence: str, numbers: Mapping[str, float | int], *, changed: bool = False) -> Verdict:
    """A verdict by computation: *holds* (or *holds with changes*) where it came out right, else *open*, saying so.

    >>> settle(2 < 1, "2 lies above 1.", {}).evidence
    'Our check fails: 2 lies above 1.'
    """
    if not right:
        return Verdict(State.OPEN, f"Our check fails: {evidence}", numbers)
    return Verdict(State.HOLDS_WITH_CHANGES if changed else State.HOLDS, evidence, numbers)


def not_run(what: str) -> Verdict:
    """*Open*, for want of a record of `what`."""
    return Verdict(State.OPEN, f"Not run yet: there is no record of {what} that can tell.")


def compare(
    values: tuple[float | int, ...] | list[float | int], theirs: float | int, *, null: float | int | None = None
) -> Verdict:
    """A verdict by experiment, from one number a seed at the paper's setting.

    Args:
        values: ours, one a seed.
        theirs: the paper's.
        null: the number that would mean "no effect", such as 1 for a ratio of speeds.

    Returns:
        *open* for fewer than five seeds, or when the 95 % interval holds both `theirs` and `null`; *holds* when it
        holds `theirs` alone; *not reproduced* when it excludes `theirs`.

    >>> compare([1.0, 1.1, 0.9, 1.0, 1.05], 1.36, null=1).state
    <State.NOT_REPRODUCED: 'not reproduced'>
    """
    if len(values) < LEAST_SEEDS:
        return Verdict(State.OPEN, f"{len(values)} of the {LEAST_SEEDS} seeds that a verdict needs.")
    comparison = Comparison(tuple(values), theirs)
    low, high = comparison.interval
    numbers = {"mean": statistics.fmean(values), "low": low, "high": high, "theirs": theirs, "seeds": len(values)}
    evidence = f"{numbers['mean']:.3g} over {len(values)} seeds, 95 % interval {low:.3g} to {high:.3g}; "
    if comparison.excludes:
        return Verdict(State.NOT_REPRODUCED, f"{evidence}it excludes {theirs:g}.", numbers, comparison)
    if null is not None and low <= null <= high:
        return Verdict(State.OPEN, f"{evidence}it holds {theirs:g}, but no effect ({null:g}) too.", numbers, comparison)
    return Verdict(State.HOLDS, f"{evidence}it holds {theirs:g}.", numbers, comparison)

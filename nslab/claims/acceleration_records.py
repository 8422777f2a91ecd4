"""Recorded races as the checks read them: which arm was sooner, beside a number of the paper, and in words.

Each setting comes from the strongest record that has it with the arms asked for. Unlike elsewhere a fresh run with
changed settings counts, unless its limit of steps was changed: the other things that `nslab rerun regulariser` lets one
change do not change what its settings and arms are.

A verdict rests on Student's interval of the logarithms of the ratios. Where seeds never got there it rests on the bound
of each seed instead, and then it can say faster or slower, and nothing about a number of the paper.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import exp, log, nan

from nslab import records
from nslab.claims.training_records import numbered, source
from nslab.claims.verdicts import LEAST_SEEDS, Comparison, State, Verdict, compare
from nslab.records.places import CUSTOM
from nslab.training.acceleration import Acceleration, acceleration


@dataclass(frozen=True)
class Race:
    """All arms of one setting, with the same seeds.

    Attributes:
        steps: the limit of the training.
        arrived: for each arm the steps at which its seeds reached 99 % test accuracy, None for never.
        source: which record.
    """

    steps: int
    arrived: Mapping[str, list[int | None]]
    source: str

    def count(self, arm: str) -> int:
        """How many seeds got there."""
        return sum(step is not None for step in self.arrived[arm])

    def sooner(self, arm: str, than: str = "plain") -> Acceleration:
        """Steps of the arm `than` over steps of `arm`, seed by seed: above 1 where `arm` is sooner."""
        first, second = ([nan if step is None else step for step in self.arrived[name]] for name in (than, arm))
        return acceleration(first, second, plain_last=self.steps, changed_last=self.steps)


def read_races(*arms: str, root: str | None = None) -> dict[str, Race]:
    """Every setting in the records of `regulariser` that has these arms, with at least five seeds."""
    found = {}
    for record in records.find("regulariser", root=root):
        if record.preset == CUSTOM and (record.stale or record.config["steps"] is not None):
            continue
        for name, one in record.result["settings"].items():
            arrived = {arm: told["generalised_at"] for arm, told in one["arms"].items()}
            if name not in found and set(arms) <= arrived.keys() and record.seeds >= LEAST_SEEDS:
                found[name] = Race(one["steps"], arrived, source(record))
    return found


def student(values: Iterable[float]) -> tuple[float, float]:
    """Student's 95 % interval of the mean; NaN at both ends for fewer values than a verdict needs."""
    values = tuple(values)
    return Comparison(values, 0).interval if len(values) >= LEAST_SEEDS else (nan, nan)


def ends(found: Acceleration) -> tuple[float, float]:
    """Student's 95 % interval of the ratio, on the logarithms. Without a meaning where a ratio is only a bound.

    The bootstrap interval of an `Acceleration` is too short for the five seeds that claims rest on.
    """
    low, high = student(_logs(found))
    return exp(low), exp(high)


def beside(found: Acceleration, theirs: float | int) -> Verdict:
    """What an acceleration says about the paper's ratio, by `compare` on the logarithms, where no effect is 0.

    With a seed that never got there, in either arm, it is *open*. The last step in its place makes a bound of the
    ratio, and Student's interval of such ratios bounds nothing: its upper end may rise when a seed gets slower.
    """
    if not _exact(found):
        words = brief(found)
        if not found.undecided and found.bounded == "at most" and found.ratios.max() < theirs:
            words += f", so that none is {theirs:g}"
        return Verdict(State.OPEN, words, counted("bound", found) | {"theirs": theirs})
    verdict = compare(_logs(found), log(theirs), null=0.0)
    if verdict.comparison is None:
        return Verdict(State.OPEN, f"{found.seeds} of the {LEAST_SEEDS} seeds that a verdict needs")
    low, high = ends(found)
    sides = " and ".join(
        f"holds {one:g}" if low <= one <= high else f"lies {'below' if high < one else 'above'} {one:g}"
        for one in (theirs, 1)
    )
    words = f"{found.ratio:.2f} over {found.seeds} seeds, 95 % interval {low:.2f} to {high:.2f}, which {sides}"
    numbers = {"ratio": found.ratio, "low": low, "high": high, "theirs": theirs, "seeds": found.seeds}
    return Verdict(verdict.state, words, numbers, verdict.comparison)


def together(verdicts: Mapping[str, Verdict], evidence: str, *, complete: bool = True) -> Verdict:
    """One verdict from several settings: *not reproduced* if it is in every one, likewise for *holds*, else *open*.

    It is *open*, too, while a setting that belongs to them is missing. It holds with changes at best: the settings are
    ours.
    """
    states = {one.state for one in verdicts.values()} if complete else {State.OPEN}
    numbers = numbered(**{f"{key}_{name}": one for name, part in verdicts.items() for key, one in part.numbers.items()})
    if states == {State.NOT_REPRODUCED}:
        return Verdict(State.NOT_REPRODUCED, evidence, numbers, next(iter(verdicts.values())).comparison)
    return Verdict(State.HOLDS_WITH_CHANGES if states == {State.HOLDS} else State.OPEN, evidence, numbers)


def above(found: Acceleration, level: float | int) -> bool:
    """Whether Student's interval lies above a level; with bounds from below in it, whether each ratio and bound does.

    The second is as rare by chance: without an effect five ratios all lie above 1 once in 32 times. A seed that got
    there in neither arm, or too few seeds, leave it undecided.
    """
    if found.undecided or found.seeds < LEAST_SEEDS or found.at_most.any():
        return False
    return bool((found.ratios.min() if found.at_least.any() else ends(found)[0]) > level)


def below(found: Acceleration, level: float | int) -> bool:
    """The same from the other side."""
    if found.undecided or found.seeds < LEAST_SEEDS or found.at_least.any():
        return False
    return bool((found.ratios.max() if found.at_most.any() else ends(found)[1]) < level)


def brief(found: Acceleration) -> str:
    """Ratio and Student's interval in words; where it is a bound, how many never got there and the outermost ratio."""
    if not found.seeds:
        return "no ratio, as neither ever gets there"
    if _exact(found):
        low, high = ends(found)
        return f"{found.ratio:.2f} [{low:.2f}, {high:.2f}]"
    all_, lost, never = len(found.ratios), int(found.at_most.sum()), int(found.at_least.sum())
    words = []
    if lost:
        words.append(f"{lost} of {all_} never get there")
    if never:
        words.append(f"{never} of {all_} that it is held against never get there")
    if found.undecided:
        words.append(f"{found.undecided} of {all_} get there in neither arm")
    if found.bounded == "at most":
        words.append(f"no ratio is above {found.ratios[found.ratios.isfinite()].max():.2f}")
    if found.bounded == "at least":
        words.append(f"no ratio is below {found.ratios[found.ratios.isfinite()].min():.2f}")
    bound = {"at most": "at most ", "at least": "at least ", "both ways": "about "}.get(found.bounded, "")
    return f"{bound}{found.ratio:.2f} ({', '.join(words)})"


def judged(found: Acceleration) -> str:
    """The same, and whether it is faster or slower."""
    side = "faster" if above(found, 1) else "slower" if below(found, 1) else "undecided"
    return f"{brief(found)}, {side}"


def counted(name: str, found: Acceleration) -> dict[str, float]:
    """The numbers of an acceleration, for a verdict; of a bound the ends are the outermost ratios."""
    if not found.seeds:
        return {}
    there = found.ratios[found.ratios.isfinite()]
    low, high = ends(found) if _exact(found) else (float(there.min()), float(there.max()))
    return {f"ratio_{name}": found.ratio, f"low_{name}": low, f"high_{name}": high}


def _exact(found: Acceleration) -> bool:
    """Whether every seed got there in both arms."""
    return found.bounded == "exact" and not found.undecided


def _logs(found: Acceleration) -> list[float]:
    return found.ratios[found.ratios.isfinite()].log().tolist()

"""Recorded trainings with learned noise as the checks read them: one arm less another, seed by seed, and in words.

The studies are `noiseformer-pretrain`, `noiseformer-finetune`, `noiseformer-glue` and `partner-tasks`. Intervals are
Student's, over paired seeds, and take five of them. "standard-again" less "standard" is what luck does, and is told
beside the others; so are arms that have no noise.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nslab.attention.settings import VARIANTS
from nslab.claims.acceleration_records import student
from nslab.claims.training_records import numbered, published, source
from nslab.claims.verdicts import LEAST_SEEDS

STANDARD, AGAIN, SYMMETRIC = "standard", "standard-again", "symmetric"
MATTHEWS = "cola"  # judged by Matthews' correlation, times 100; the other tasks by percent of right answers
STEP = "a training step, "  # what the rows of the benchmark begin with: a variant of the attention follows
SHAPE = "n = 256, d = 384"  # and this shape, on a CPU


@dataclass(frozen=True)
class Gap:
    """One arm less another, over paired seeds: the mean and Student's 95 % interval of it."""

    mean: float
    low: float
    high: float

    @property
    def above(self) -> bool:
        """Whether the whole interval is above 0."""
        return self.low > 0

    @property
    def below(self) -> bool:
        """Whether the whole interval is below 0."""
        return self.high < 0

    def __str__(self):
        width = self.high - self.low
        places = min(6, max(0, 1 - math.floor(math.log10(width)))) if width > 0 else 3  # two digits of the width
        mean, low, high = (f"{end:+.{places}f}" for end in (self.mean, self.low, self.high))
        return f"{mean} [{low}, {high}]"


def gap(first: Iterable[float], second: Iterable[float]) -> Gap:
    """The difference of two arms, one number a seed each; an interval of NaN for fewer than five seeds."""
    each = [one - other for one, other in zip(first, second, strict=True)]
    return Gap(float(np.mean(each)), *student(map(float, each)))


def study(experiment: str, *arms: str) -> tuple[Mapping, str] | None:
    """The result of the strongest record that has these arms and five seeds, and in words which it is."""
    for record in published(experiment):
        if record.seeds >= LEAST_SEEDS and {STANDARD, SYMMETRIC, *arms} <= record.result["arms"].keys():
            return record.result, source(record)
    return None


def partners() -> tuple[Mapping, str] | None:
    """The result of the strongest record of the tasks of partners with five seeds, and in words which it is."""
    for record in published("partner-tasks"):
        tasks = record.result["tasks"].values()
        if record.seeds >= LEAST_SEEDS and all({STANDARD, SYMMETRIC} <= task["arms"].keys() for task in tasks):
            return record.result, source(record)
    return None


def lost_by_tying() -> str:
    """What trained heads have that symmetric scores cannot give, in words; empty without a record."""
    record = next(published("head-symmetry"), None)
    if record is None or not record.result["models"]:
        return ""
    shares = [f"{one['text_mean']['out_of_reach']:.2f} in `{name}`" for name, one in record.result["models"].items()]
    return (
        " In trained heads, of what a softmax sees of the scores on text, this share is out of reach of symmetric ones:"
        f" {', '.join(shares)} ({source(record)})."
    )


def larger(keep: float) -> tuple[str, str]:
    """One larger network with noise by distance, in words: its loss by ways of answering, and how stable it is.

    Empty words without a record of `noiseformer-char-gpt` that is not a quick one.
    """
    record = next((one for one in published("noiseformer-char-gpt") if one.preset != "quick"), None)
    if record is None:
        return "", ""
    result, told = record.result, source(record)
    mean, without, average = (result["modes"][mode]["loss"] for mode in ("mean", "without mean", "average"))
    at = result["keep"].index(keep)
    twin, plain = (
        result["models"][name]["stability"]["normalised"]["value"][at] for name in ("noiseformer-char-gpt", "char-gpt")
    )
    one = "One larger network, a single seed:"
    return (
        f" {one} {mean:.4f} by the mean of the noise, {average:.4f} by the average of draws, {without:.4f} with the "
        f"mean set to 0 ({told}).",
        f" {one} {twin:.4f}, beside {plain:.4f} of char-gpt, whose attention is the standard one ({told}).",
    )


def noisy(result: Mapping) -> list[str]:
    """The arms of a study that are variants with learned noise, by their names; controls have other names."""
    return [name for name in result["arms"] if name in VARIANTS and VARIANTS[name].noise is not None]


def controls(result: Mapping) -> list[str]:
    """The arms that are neither variants with noise nor standard nor plain symmetric attention nor luck."""
    return [name for name in result["arms"] if name not in (STANDARD, AGAIN, SYMMETRIC, *noisy(result))]


def measured(result: Mapping, arm: str, measure: str, keep: float | None = None) -> np.ndarray:
    """A measure of an arm, one number a seed; of a measure by the noise of tokens that at one keep."""
    found = np.array(result["arms"][arm][measure])
    return found if keep is None else found[:, result["keep"].index(keep)]


def scores(result: Mapping, arm: str) -> np.ndarray:
    """What the networks of an arm reach after fine-tuning, in the mean over tasks, one number a seed."""
    each = []
    for name, task in result["arms"][arm]["tasks"].items():
        share = np.array(task["right"]) / result["tasks"][name]["held_out"]
        each.append(100 * (np.array(task["matthews"]) if name == MATTHEWS else share))
    return np.mean(each, axis=0)


def majority(result: Mapping) -> float:
    """What always giving the most frequent answer reaches, in the same mean."""
    lines = [0.0 if name == MATTHEWS else task["majority"] / task["held_out"] for name, task in result["tasks"].items()]
    return 100 * float(np.mean(lines))


def listed(found: Mapping[str, Gap], names: Sequence[str]) -> str:
    """Differences in words."""
    return ", ".join(f"`{name}` {found[name]}" for name in names)


def counted(found: Mapping[str, Gap]) -> dict[str, float]:
    """Differences, for a verdict."""
    ends = ("mean", "low", "high")
    return numbered(**{f"{end}_{name}": getattr(one, end) for name, one in found.items() for end in ends})


def luck(result: Mapping, values: Mapping[str, np.ndarray]) -> str:
    """What other batches alone do, in words; empty where the study has no such arm."""
    if AGAIN not in result["arms"]:
        return ""
    return f" Luck, the standard arm on other batches: {gap(values[AGAIN], values[STANDARD])}."


def timed_steps() -> tuple[list[Mapping], str] | None:
    """Rows of the newest benchmark of training steps with symmetric attention, and in words which it is."""
    for record in sorted(published("benchmarks"), key=lambda one: one.stamp, reverse=True):
        rows = [one for one in record.result["rows"] if one["name"].startswith(STEP) and one["name"].endswith(SHAPE)]
        if rows:
            return rows, source(record)
    return None


def variant_of(row: Mapping) -> str:
    """The variant that a row of the benchmark is about."""
    return row["name"].removeprefix(STEP).split()[0]

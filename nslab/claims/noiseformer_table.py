"""The GLUE table of *NoiseFormer* (2601.11619) as a digest has it, typed once, and what its digits give away.

We have not seen the table in the paper. The number of seeds, the split and the recipe of the fine-tuning are not known
to us. What is known is the sizes of GLUE's development sets: on all six tasks with an accuracy, every score of the
table is a whole number of right answers on them, cut off after two digits. Were they rounded, 7 of the 24 would be
impossible: of 5463 examples, for one, no number is 67.30 %.
"""

import math
from dataclasses import dataclass
from decimal import Decimal

BASE, SYMMETRIC, V1, V2 = "NanoGPT_Base", "SymAttn", "NoiseFormer_V1", "NoiseFormer_V2"
MATTHEWS = "CoLA"  # its score is Matthews' correlation; those of the others are percent of right answers

TABLE: dict[str, dict[str, float]] = {
    BASE: {"MRPC": 74.75, "CoLA": 0.15, "MNLI": 56.91, "QQP": 76.60, "RTE": 61.01, "QNLI": 67.30, "SST2": 81.65},
    SYMMETRIC: {"MRPC": 68.87, "CoLA": 0.22, "MNLI": 56.05, "QQP": 77.64, "RTE": 52.7, "QNLI": 68.16, "SST2": 87.04},
    V1: {"MRPC": 73.28, "CoLA": 0.09, "MNLI": 55.74, "QQP": 76.26, "RTE": 58.12, "QNLI": 66.88, "SST2": 82.68},
    V2: {"MRPC": 72.79, "CoLA": 0.10, "MNLI": 55.26, "QQP": 76.83, "RTE": 56.67, "QNLI": 66.73, "SST2": 82.56},
}
"""Scores by model and task, according to a digest, in its names and order."""

EXAMPLES: dict[str, int] = {
    "MRPC": 408,
    "CoLA": 1043,
    "MNLI": 9815,  # the matched set
    "QQP": 40430,
    "RTE": 277,
    "QNLI": 5463,
    "SST2": 872,
}
"""Examples of GLUE's development sets."""


@dataclass(frozen=True)
class Majority:
    """Who always gives the more frequent answer.

    Attributes:
        count: examples of the development set that this gets right.
        counted: whether the count was made on a public copy of the set; False: it is the one commonly quoted.
    """

    count: int
    counted: bool


MAJORITY: dict[str, Majority] = {
    "MRPC": Majority(279, False),
    "MNLI": Majority(3479, False),
    "QQP": Majority(25545, False),
    "RTE": Majority(146, True),
    "QNLI": Majority(2761, False),
    "SST2": Majority(444, True),
}
"""Majority lines by task. On CoLA a constant answer has the correlation 0."""


def right_answers(task: str, score: float, *, rounded: bool = False) -> list[int]:
    """Numbers of right answers that a score in percent may stand for, if it was cut off after two digits (or rounded).

    Errors: `ValueError` for CoLA, whose score is no share of right answers.

    >>> right_answers("RTE", 52.70), right_answers("RTE", 52.70, rounded=True)
    ([146], [])
    """
    if task == MATTHEWS:
        raise ValueError(f"task is {task!r}: Matthews' correlation does not tell the number of right answers")
    examples, hundredths = EXAMPLES[task], int(Decimal(str(score)) * 100)
    shift = examples // 2 if rounded else 0  # half of a hundredth of a percent, times 10,000 times the examples
    near = range(max(0, int(score * examples / 100) - 5), min(examples, int(score * examples / 100) + 5) + 1)
    return [count for count in near if (count * 10_000 + shift) // examples == hundredths]


def majority_score(task: str) -> float:
    """What always giving the more frequent answer scores, in percent; 0 on CoLA."""
    return 0.0 if task == MATTHEWS else 100 * MAJORITY[task].count / EXAMPLES[task]


def standard_error(task: str, score: float) -> float:
    """Standard error of a score in percent, in points: that of a share of so many independent examples.

    It tells of the choice of the examples alone: another seed of the training moves the score as well.

    Errors: `ValueError` for CoLA.
    """
    if task == MATTHEWS:
        raise ValueError(f"task is {task!r}: the error of Matthews' correlation needs the answers themselves")
    share = score / 100
    return 100 * math.sqrt(share * (1 - share) / EXAMPLES[task])


def ratio(task: str, first: str, second: str) -> float:
    """The score of one model less that of another, in standard errors of such a difference between independent sets.

    The two models saw the same examples, so that the true error is smaller by a share that only their answers tell.
    """
    scores = TABLE[first][task], TABLE[second][task]
    return (scores[0] - scores[1]) / math.hypot(*(standard_error(task, score) for score in scores))


def mean_score(model: str, *, with_cola: bool = False) -> float:
    """Mean over the six tasks with an accuracy, or over all seven with 100 times CoLA's correlation."""
    scores = [100 * one if task == MATTHEWS else one for task, one in TABLE[model].items()]
    return sum(scores) / 7 if with_cola else (sum(scores) - 100 * TABLE[model][MATTHEWS]) / 6

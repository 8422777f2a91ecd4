"""What the records of fine-tuning hold: which answers were right, and comparisons of arms made from them."""

import numpy as np

from nslab.records import Record
from nslab.training.comparisons import (
    Comparison,
    McNemar,
    Statistic,
    count_error,
    mcnemar,
    paired_bootstrap,
    scores,
    unpacked,
)


def beats_majority(result: dict, arm: str = "standard") -> str | None:
    """None if, on some task, the arm's mean count over seeds is two standard errors above the majority's."""
    missed = []
    for name, task in result["tasks"].items():
        right = float(np.mean(result["arms"][arm]["tasks"][name]["right"]))
        line = task["majority"] + 2 * task["held_out"] * count_error(round(right), task["held_out"])
        if right > line:
            return None
        missed.append(f"{name}: {right:.1f} of {task['held_out']}, wanted over {line:.1f}")
    return f"a task on which {arm} beats the majority by two standard errors ({'; '.join(missed)})"


def labels(record: Record | dict, task: str) -> np.ndarray:
    """The labels of the held-out examples, (examples,), as numbers of classes. Errors: as `answers`."""
    return np.array([int(digit) for digit in _told(record, task)["labels"]])


def answers(record: Record | dict, task: str, arm: str) -> np.ndarray:
    """Which held-out examples each network of an arm has right, (seeds, examples).

    Errors: `ValueError` for a task or an arm that the record has not.
    """
    count, arms = _told(record, task)["held_out"], _result(record)["arms"]
    if arm not in arms:
        raise ValueError(f"arm is {arm!r}: the record has {', '.join(arms)}")
    return np.array([unpacked(text, count) for text in arms[arm]["tasks"][task]["correct"]])


def each_score(record: Record | dict, task: str, arm: str, statistic: Statistic = "accuracy") -> np.ndarray:
    """A statistic of each network of an arm, (seeds,). Errors: as `answers`, and of `scores`."""
    return scores(answers(record, task, arm), labels(record, task), statistic=statistic)


def compared(
    record: Record | dict, task: str, arm: str, against: str = "standard", statistic: Statistic = "accuracy"
) -> Comparison:
    """A statistic of `arm` minus that of `against`, with the paired bootstrap over examples and seeds.

    Errors: as `answers`.
    """
    first, second = (answers(record, task, one) for one in (arm, against))
    return paired_bootstrap(first, second, labels(record, task), statistic=statistic)


def mcnemars(record: Record | dict, task: str, arm: str, against: str = "standard") -> list[McNemar]:
    """The exact test of McNemar, one for each seed. Errors: as `answers`."""
    pairs = zip(answers(record, task, arm), answers(record, task, against), strict=True)
    return [mcnemar(first, second) for first, second in pairs]


def _result(record: Record | dict) -> dict:
    return record if isinstance(record, dict) else record.result


def _told(record: Record | dict, task: str) -> dict:
    tasks = _result(record)["tasks"]
    if task not in tasks:
        raise ValueError(f"task is {task!r}: the record has {', '.join(tasks)}")
    return tasks[task]

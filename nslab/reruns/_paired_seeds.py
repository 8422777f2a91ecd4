"""One measure of two arms, seed by seed: the difference, and an interval of its mean."""

# `barrier_robustness` has a copy of this. It takes this one up when it is trained again next: any change of its source
# retires its records.

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import stdtrit

from nslab.estimate import Interval, bootstrap
from nslab.records import Record


@dataclass(frozen=True, eq=False)
class Difference:
    """One measure of an arm minus that of another, seed by seed.

    Attributes:
        each: (seeds, ...).
        mean: over seeds, (...).
        student: Student's 95 % interval of the mean, elementwise.
        bootstrap: the percentile bootstrap's, which is too short for few seeds.

    How to read it: an interval that holds 0 leaves open which arm is ahead.
    """

    each: np.ndarray
    mean: np.ndarray
    student: Interval
    bootstrap: Interval


def values(record: Record | dict, arm: str, measure: str) -> np.ndarray:
    """One measure of one arm, (seeds,) or (seeds, ...), from a record or its result: `result["arms"][arm][measure]`.

    Errors: `ValueError` for an arm or a measure that the record has not.
    """
    result = record if isinstance(record, dict) else record.result
    if arm not in result["arms"]:
        raise ValueError(f"arm is {arm!r}: the record has {', '.join(result['arms'])}")
    told = result["arms"][arm]
    if not isinstance(told.get(measure), list):
        known = ", ".join(key for key, value in told.items() if isinstance(value, list))
        raise ValueError(f"measure is {measure!r}: {arm} has {known}")
    return np.array(told[measure])


def paired_difference(record: Record | dict, measure: str, arm: str, against: str) -> Difference:
    """A measure of `arm` minus that of `against`, over the same seeds.

    Errors: as `values`, and `ValueError` for one seed alone.
    """
    each = torch.from_numpy(values(record, arm, measure) - values(record, against, measure))
    seeds, mean = len(each), each.mean(0)
    if seeds < 2:
        raise ValueError(f"the record has {seeds} seed: an interval of a mean takes at least 2")
    half = float(stdtrit(seeds - 1, 0.975)) / math.sqrt(seeds) * each.std(0)
    resampled = bootstrap(each, generator=torch.Generator().manual_seed(0))
    return Difference(each.numpy(), mean.numpy(), Interval(mean - half, mean + half, 0.95), resampled)

"""Which of two classifiers is better, and could one tell? Exact McNemar, paired bootstrap, Wilson, smallest difference.

What is compared is `correct`: for each seed and each held-out example whether the answer was right. Two arms that were
asked the same examples are compared pair by pair, which is far sharper than comparing two percentages.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np
import torch

from nslab.estimate import Interval

Statistic = Literal["accuracy", "matthews", "f1"]


@dataclass(frozen=True)
class McNemar:
    """Two classifiers on the same examples.

    Attributes:
        first: examples that the first alone has right.
        second: examples that the second alone has right.
        p: the exact two-sided p-value; 1 where they never differ.
    """

    first: int
    second: int
    p: float


def mcnemar(first: np.ndarray, second: np.ndarray) -> McNemar:
    r"""The exact test of McNemar: examples on which both are right, or both wrong, say nothing.

    Formula: of n = b + c examples that exactly one has right, b fall to the first. If neither is better, b is binomial
    (n, 1/2), and $p = \min(1,\, 2 \sum_{k \le \min(b, c)} \binom{n}{k} 2^{-n})$.

    Args:
        first: whether the first is right, (examples,), boolean.
        second: the same for the second, in the same order.

    Returns:
        `McNemar`. The sum is exact, in whole numbers, and rounded once.

    How to read it: it speaks of these two trained networks on examples like these. It does not speak of the two ways
    of training, for another seed may turn it round: make one test a seed, or take `paired_bootstrap`.

    Errors: `ValueError` when the two are not boolean, or not of one length.

    Source: McNemar (1947); the exact form is the sign test.

    >>> right = np.array([True] * 8 + [False] * 2)
    >>> mcnemar(right, ~right)
    McNemar(first=8, second=2, p=0.109375)
    """
    first, second = _answers(first, second, axes=1)
    b, c = int((first & ~second).sum()), int((second & ~first).sum())
    tail = sum(math.comb(b + c, k) for k in range(min(b, c) + 1))
    return McNemar(b, c, min(1.0, 2 * tail / 2 ** (b + c)))


@dataclass(frozen=True)
class Comparison:
    """A statistic of the first arm minus that of the second, in the mean over seeds.

    Attributes:
        difference: the mean difference.
        each: seed by seed.
        interval: of the difference, by the paired bootstrap.
        below: the share of resamples whose difference is under 0, those at 0 counted half.
    """

    difference: float
    each: tuple[float, ...]
    interval: Interval
    below: float


def paired_bootstrap(
    first: np.ndarray,
    second: np.ndarray,
    labels: np.ndarray | None = None,
    *,
    statistic: Statistic = "accuracy",
    level: float = 0.95,
    resamples: int = 4000,
    seed: int = 0,
) -> Comparison:
    """The difference of two arms with an interval that knows of both sources of chance: the examples and the seeds.

    A resample draws seeds with replacement, and, on its own, examples with replacement; both arms get the same ones,
    so that a hard example is hard for both.

    Args:
        first: whether each answer is right, (seeds, examples), boolean.
        second: the same for the other arm: same seeds, same examples.
        labels: 0 or 1, (examples,); "matthews" and "f1" need them.
        statistic: "accuracy", "matthews" (Matthews correlation) or "f1" (of class 1), taken of each seed's answers.
        level: of the interval, in (0, 1).
        resamples: repetitions.
        seed: of the resamples.

    Returns:
        `Comparison`, with float64 ends.

    How to read it: an interval that holds 0 leaves open which arm is ahead. The interval is a little too long: where
    examples and seeds are drawn independently, the noise that belongs to one answer is counted three times. With a
    single seed it speaks of these two networks alone; with two to four, the seeds' share is a guess.

    Errors: `ValueError` for shapes that differ, labels that are missing or no 0 and 1, or numbers out of range.

    Source: Efron & Tibshirani (1993); for two crossed samples Owen (2007), "The pigeonhole bootstrap".
    """
    first, second = _answers(first, second, axes=2)
    if not 0 < level < 1 or resamples < 1:
        raise ValueError(f"level is {level}, resamples {resamples}: give a level in (0, 1) and at least 1 resample")
    seeds, examples = first.shape
    truth = _truth(labels, examples, statistic)
    draws = np.random.default_rng(seed)
    one = np.ones((1, examples))
    each = (_statistic(first, truth, one, statistic) - _statistic(second, truth, one, statistic))[0]
    found = []
    for begin in range(0, resamples, 500):
        count = min(500, resamples - begin)
        weights = draws.multinomial(examples, np.full(examples, 1 / examples), size=count).astype(float)
        difference = _statistic(first, truth, weights, statistic) - _statistic(second, truth, weights, statistic)
        chosen = draws.multinomial(seeds, np.full(seeds, 1 / seeds), size=count)
        found.append((difference * chosen).sum(1) / seeds)
    repeated = np.concatenate(found).round(12)  # so that a tie is 0, and no rounding error
    low, high = (torch.tensor(end) for end in np.quantile(repeated, [(1 - level) / 2, (1 + level) / 2]))
    below = float((repeated < 0).mean() + (repeated == 0).mean() / 2)
    return Comparison(float(each.mean()), tuple(each.tolist()), Interval(low, high, level), below)


def scores(correct: np.ndarray, labels: np.ndarray | None = None, *, statistic: Statistic = "accuracy") -> np.ndarray:
    r"""A statistic of each seed's answers, (seeds,).

    Formula: accuracy is the share right; with counts of true and false positives and negatives, Matthews correlation is
    $(TP \cdot TN - FP \cdot FN) / \sqrt{(TP+FP)(TP+FN)(TN+FP)(TN+FN)}$ and F1 is $2 TP / (2 TP + FP + FN)$, each 0
    where it would be 0/0.

    Args:
        correct: whether each answer is right, (seeds, examples), boolean.
        labels: 0 or 1, (examples,); "matthews" and "f1" need them.
        statistic: as of `paired_bootstrap`.

    How to read it: whoever always answers the same has a Matthews correlation of 0, whatever the accuracy. But its F1
    is high where that answer is 1 and frequent.

    Errors: as `paired_bootstrap`.

    >>> scores(np.array([[True, True, True, False]]), np.array([1, 1, 0, 0]), statistic="matthews")
    array([0.57735027])
    """
    correct, _ = _answers(correct, correct, axes=2)
    truth = _truth(labels, correct.shape[1], statistic)
    return _statistic(correct, truth, np.ones((1, correct.shape[1])), statistic)[0]


def wilson(right: int, total: int, *, level: float = 0.95) -> Interval:
    r"""Wilson's interval of a share of which `right` of `total` were seen.

    Formula: the shares p with $|\hat p - p| \le z \sqrt{p (1 - p) / n}$, which is
    $\big(\hat p + \tfrac{z^2}{2n} \pm z \sqrt{\hat p (1 - \hat p)/n + z^2/4n^2}\big) / (1 + z^2/n)$.

    How to read it: see `Interval`. It stays inside [0, 1] and keeps its level for shares near 0 and 1.

    Errors: `ValueError` unless 0 <= right <= total, total is at least 1, and the level is in (0, 1).

    Source: Wilson (1927).

    >>> print(wilson(146, 277))
    [0.4683, 0.5851] at 95 %
    """
    share, z = _share(right, total), _normal(level)
    middle, spread = share + z * z / (2 * total), z * math.sqrt(share * (1 - share) / total + (z / (2 * total)) ** 2)
    low, high = ((middle + sign * spread) / (1 + z * z / total) for sign in (-1, 1))
    return Interval(*(torch.tensor(end, dtype=torch.float64) for end in (low, high)), level)


def count_error(right: int, total: int) -> float:
    r"""The standard error $\sqrt{\hat p (1 - \hat p) / n}$ of the share `right` / `total`.

    How to read it: what other held-out examples of the same kind would change, for the same trained network. Another
    seed changes more, and this number does not know it. The difference of two networks on the same examples has a
    smaller error than the two shares suggest: see `mcnemar`.

    Errors: as `wilson`.
    """
    share = _share(right, total)
    return math.sqrt(share * (1 - share) / total)


def majority(labels: np.ndarray) -> tuple[int, int]:
    """The most frequent label, the least of them in a tie, and how often it is there: the line to beat.

    Errors: `ValueError` when there are no labels, or they are no whole numbers from 0 on.

    >>> majority(np.array([0, 1, 1]))
    (1, 2)
    """
    if labels.ndim != 1 or not len(labels) or labels.dtype.kind not in "iu" or labels.min() < 0:
        raise ValueError(
            f"labels has shape {labels.shape}, dtype {labels.dtype}: give a row of whole numbers from 0 on"
        )
    counts = np.bincount(labels)
    return int(counts.argmax()), int(counts.max())


def smallest_difference(
    examples: int,
    seeds: int,
    *,
    disagreement: float | int,
    shared: float | int = 0,
    spread: float | int = 0,
    power: float = 0.8,
    level: float = 0.95,
) -> float:
    r"""The smallest difference in accuracy that so many examples and seeds would show.

    Formula: $\delta = (z_{level} + z_{power}) \sqrt{v}$ with
    $v = \frac{\pi}{N} \big(\rho + \frac{1 - \rho}{S}\big) + \frac{\tau^2}{S}$: the difference of two networks of one
    seed on one example is -1, 0 or 1, with variance close to $\pi$, the share of examples on which one alone is right.
    $z_{level}$ is the two-sided normal quantile, $z_{power}$ the one-sided.

    Args:
        examples: N, held-out examples.
        seeds: S, networks of each arm.
        disagreement: π, in (0, 1].
        shared: ρ, the correlation between two seeds of that difference, in [0, 1]; 0 where seeds err on examples of
            their own, 1 where every seed gives the same answers.
        spread: τ, how the true difference varies over seeds (a standard deviation, in accuracy).
        power: how often a difference of that size is to be found, in (0, 1).
        level: 1 minus the share of false alarms.

    Returns:
        δ, as a share: 0.05 are five points.

    How to read it: smaller differences may well be there; this experiment would miss them more often than not, or tell
    them from luck by luck. More seeds do not help against what all seeds share: then only more examples do. With a
    handful of seeds and an unknown spread the truth is larger, by Student's quantiles.

    Errors: `ValueError` naming the number that is out of range.

    >>> f"{smallest_difference(277, 1, disagreement=0.3):.3f}"  # RTE's development set, one run each
    '0.092'
    """
    for name, value in (("examples", examples), ("seeds", seeds)):
        if value < 1:
            raise ValueError(f"{name} is {value}: give at least 1")
    if not 0 < disagreement <= 1 or not 0 <= shared <= 1 or not 0 <= spread < math.inf:
        raise ValueError(
            f"disagreement is {disagreement}, shared {shared}, spread {spread}: give shares, the first of them not 0, "
            "and a spread of 0 or more"
        )
    if not 0 < power < 1:
        raise ValueError(f"power is {power}: give a number between 0 and 1, for example 0.8")
    variance = disagreement / examples * (shared + (1 - shared) / seeds) + spread**2 / seeds
    return (_normal(level) + NormalDist().inv_cdf(power)) * math.sqrt(variance)


def packed(bits: np.ndarray) -> str:
    """Booleans (n,) as hexadecimal digits, four to a digit, zeros at the end.

    >>> packed(np.array([True, False, False, True, True]))
    '98'
    """
    return np.packbits(bits.astype(bool)).tobytes().hex()


def unpacked(text: str, count: int) -> np.ndarray:
    """The booleans (count,) that `packed` made a text of. Errors: `ValueError` when the text has not so many."""
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(text), dtype=np.uint8))
    if not 0 <= len(bits) - count < 8:
        raise ValueError(f"count is {count} and the text has {len(bits)} bits: give the count that was packed")
    return bits[:count].astype(bool)


def _statistic(correct: np.ndarray, truth: np.ndarray, weights: np.ndarray, statistic: Statistic) -> np.ndarray:
    """(resamples, seeds), from how often each example counts (resamples, examples)."""
    right = (weights @ correct.T, weights @ (correct & truth).T)  # (resamples, seeds)
    total, positive = weights.sum(1, keepdims=True), weights @ truth.astype(float)[:, None]
    if statistic == "accuracy":
        return right[0] / total
    tp, tn = right[1], right[0] - right[1]
    fn, fp = positive - tp, total - positive - tn
    if statistic == "f1":
        over, under = 2 * tp, 2 * tp + fp + fn
    else:
        over, under = tp * tn - fp * fn, np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    return np.divide(over, under, out=np.zeros_like(over), where=under > 0)


def _answers(first: np.ndarray, second: np.ndarray, axes: int) -> tuple[np.ndarray, np.ndarray]:
    wanted = "(examples,)" if axes == 1 else "(seeds, examples)"
    for name, array in (("first", first), ("second", second)):
        if array.dtype != bool or array.ndim != axes or not array.size:
            raise ValueError(
                f"{name} has shape {array.shape}, dtype {array.dtype}: give booleans {wanted}, one or more"
            )
    if first.shape != second.shape:
        raise ValueError(f"first has shape {first.shape}, second {second.shape}: ask both the same examples")
    return first, second


def _truth(labels: np.ndarray | None, examples: int, statistic: Statistic) -> np.ndarray:
    if statistic == "accuracy":
        return np.zeros(examples, dtype=bool)  # not looked at
    if labels is None or labels.shape != (examples,) or not np.isin(labels, (0, 1)).all():
        raise ValueError(f"labels: {statistic} needs {examples} labels, each 0 or 1")
    return labels.astype(bool)


def _share(right: int, total: int) -> float:
    if not 0 <= right <= total or total < 1:
        raise ValueError(f"right is {right} of total {total}: give a count from 0 to total, of at least 1")
    return right / total


def _normal(level: float) -> float:
    if not 0 < level < 1:
        raise ValueError(f"level is {level}: give a number between 0 and 1, for example 0.95")
    return NormalDist().inv_cdf((1 + level) / 2)

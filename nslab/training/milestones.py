"""When something happens in a training: first passages, and whether one measure moves before another.

`lead_lag` asks whether noise stability leads or lags generalisation, by rules that are fixed before the data. Where
no source is named, a definition is ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from nslab.estimate import Interval, bootstrap

Series = Tensor | np.ndarray | Sequence[float | int]
Number = Tensor | np.ndarray | float | int

LEVEL = 0.99  # accuracy at which a set counts as known
FRACTIONS = (0.25, 0.5, 0.75)
SEEDS = 5  # the fewest from which an answer is drawn
EXCURSION = 0.5  # a series counts as having moved if its net way is at least this share of its range


def first_passage(
    steps: Series, values: Series, level: Number, *, rising: bool = True, interpolate: bool = False
) -> Float64[Tensor, "*seeds"]:
    r"""The first step at which a series reaches a level: $\min \{t : v_t \ge \text{level}\}$, or $\le$ if falling.

    Args:
        steps: increasing steps (or any clock) of the records, (records,).
        values: the series, (records, *seeds). NaN is "no value" and reaches nothing.
        level: a number, or one a seed (*seeds).
        rising: whether the level is reached from below.
        interpolate: give the point at which the straight line from the record before meets the level, in place of
            the record's own step.

    Returns:
        (*seeds); NaN where the level is never reached.

    How to read it: an uninterpolated passage is late, by up to the distance of two records. The first passage of a
    series that jitters is early; `last_passage` is its counterpart.

    Errors: `ValueError` when the steps do not increase, or do not fit the values.

    >>> first_passage([0, 100, 200], [0.1, 0.4, 0.9], 0.5).item()
    200.0
    >>> first_passage([0, 100, 200], [0.1, 0.4, 0.9], 0.5, interpolate=True).item()
    120.0
    """
    steps, values, level = _checked(steps, values, level)
    excess = values - level if rising else level - values
    return _first(steps, excess, excess >= 0, interpolate)


def last_passage(
    steps: Series, values: Series, level: Number, *, rising: bool = True, interpolate: bool = False
) -> Float64[Tensor, "*seeds"]:
    """The step from which on a series stays at or beyond a level: the record after the last one that is not there.

    Args, shapes, errors: as in `first_passage`. NaN where the last record with a value is not there.

    How to read it: the same as the first passage for a series that crosses the level once. Together they bracket the
    crossing of one that goes back and forth.

    >>> last_passage([0, 100, 200, 300], [0.1, 0.6, 0.4, 0.9], 0.5).item()
    300.0
    """
    steps, values, level = _checked(steps, values, level)
    excess = values - level if rising else level - values
    missing = excess.isnan()
    stays = ((excess >= 0) | missing).long().flip(0).cumprod(0).flip(0).bool()  # from here on, nothing falls short
    return _first(steps, excess, stays & ~missing, interpolate)


def halfway(
    steps: Series, values: Series, start: Number, end: Number, *, interpolate: bool = False
) -> Float64[Tensor, "*seeds"]:
    """The first passage of the middle between two levels, from the side of `start`.

    Args:
        steps: (records,).
        values: (records, *seeds).
        start: a level, a number or one a seed.
        end: another.
        interpolate: as in `first_passage`.

    Returns:
        (*seeds); NaN where it is never reached, or the two levels are equal.

    Errors: as in `first_passage`.

    >>> halfway([0, 100, 200], [0.9, 0.6, 0.3], start=0.9, end=0.4).item()
    100.0
    """
    steps, values, start = _checked(steps, values, start)
    _, _, end = _checked(steps, values, end)
    return first_passage(steps, (values - start) / (end - start), 0.5, interpolate=interpolate)


def decay_clock(steps: Number | Series, learning_rate: Number, weight_decay: Number) -> Float64[Tensor, "*shape"]:
    r"""Steps as e-foldings of weight decay, $t\, \eta\, \lambda$.

    Decoupled weight decay multiplies a weight by $1 - \eta\lambda$ a step: without gradients, what is left after one
    unit of this clock is 1/e.

    Args:
        steps: t.
        learning_rate: eta, constant in time; a number or a tensor that broadcasts.
        weight_decay: lambda, decoupled (AdamW); likewise.

    Returns:
        The product, broadcast, in double precision.

    How to read it: trainings whose curves agree on this clock, and not in steps, wait for decay.

    >>> decay_clock(500, learning_rate=0.01, weight_decay=1).item()
    5.0
    """
    return _double(steps) * _double(learning_rate) * _double(weight_decay)


@dataclass(frozen=True, eq=False)
class Lead:
    """By how much one milestone comes before another, over seeds.

    Attributes:
        differences: second - first, (seeds,), in the clock's unit; NaN where a seed lacks one of the two.
        mean: over the seeds that have both; NaN if none has.
        interval: bootstrap interval of the mean over these seeds; NaN at both ends with fewer than two of them.
        seeds: how many have both.
        missing: how many lack one.

    How to read it: positive where the first milestone comes first. Seeds are not missing by chance: in them something
    has not happened by the end. With fewer than about 20 seeds the percentile interval is too short, and where all
    agree in sign it cannot hold 0.
    """

    differences: Float64[Tensor, " seeds"]
    mean: float
    interval: Interval
    seeds: int
    missing: int


def lead(first: Series, second: Series, *, level: float = 0.95, generator: torch.Generator | None = None) -> Lead:
    """Paired differences second - first of two milestones, with a bootstrap interval of their mean over seeds.

    Args:
        first: steps (seeds,), NaN where a seed never got there, as `first_passage` returns them.
        second: another milestone of the same seeds.
        level: of the interval, in (0, 1).
        generator: of the bootstrap, on the CPU; None is a fixed one, so that a history has one answer.

    Errors: `ValueError` when the shapes differ or are not (seeds,).

    >>> found = lead([100.0, 150.0, 120.0], [180.0, 250.0, float("nan")])
    >>> found.mean, found.seeds, found.missing
    (90.0, 2, 1)
    """
    first, second = _double(first), _double(second)
    generator = generator or torch.Generator().manual_seed(0)
    if first.ndim != 1 or first.shape != second.shape:
        raise ValueError(f"first is {tuple(first.shape)}, second {tuple(second.shape)}: give one step a seed, (seeds,)")
    differences = second - first
    both = differences[differences.isfinite()]
    mean = both.mean()  # NaN of none
    none = torch.full_like(mean, torch.nan)
    interval = bootstrap(both, level=level, generator=generator) if len(both) > 1 else Interval(none, none, level)
    return Lead(differences, float(mean), interval, len(both), len(differences) - len(both))


@dataclass(frozen=True, eq=False)
class LeadLag:
    """What `lead_lag` found.

    Attributes:
        fractions: of the way from the window's first value to its last, (fractions,).
        memorised: where each seed's window begins, (seeds,); NaN for a seed that never knew its training set.
        against: passages of the series of reference, (seeds, 2, fractions): the first and the last passage of each
            fraction; NaN for a seed that was left out.
        measure: passages of the measure, likewise.
        ends: the measure itself at both ends of the window, (seeds, 2); NaN for a seed that was left out.
        first: a `Lead` for each fraction, positive where the measure moves first. last: the same by last passages.
        resolution: the largest distance of two records in a window: smaller leads mean nothing.
        left_out: how many seeds were left out, by reason.
    """

    fractions: tuple[float, ...]
    memorised: Float64[Tensor, " seeds"]
    against: Float64[Tensor, "seeds 2 fractions"]
    measure: Float64[Tensor, "seeds 2 fractions"]
    ends: Float64[Tensor, "seeds 2"]
    first: tuple[Lead, ...]
    last: tuple[Lead, ...]
    resolution: float
    left_out: dict[str, int]

    @property
    def answer(self) -> str:
        """One of "leads", "lags", "together" and "undecided".

        The measure leads (lags) if *every* interval, of first and of last passages at every fraction, lies above
        (below) zero by more than `resolution`; together, if all lie within it. Undecided with fewer than five seeds.
        """
        leads = (*self.first, *self.last)
        low = [float(one.interval.low) for one in leads]
        high = [float(one.interval.high) for one in leads]
        if min(one.seeds for one in leads) < SEEDS:
            return "undecided"
        if min(low) > self.resolution:
            return "leads"
        if max(high) < -self.resolution:
            return "lags"
        return "together" if min(low) >= -self.resolution and max(high) <= self.resolution else "undecided"


def lead_lag(
    steps: Series,
    train_accuracy: Series,
    test_accuracy: Series,
    measure: Series,
    *,
    against: Series | None = None,
    level: float = 0.95,
    generator: torch.Generator | None = None,
) -> LeadLag:
    r"""Does a measure move before generalisation, or after it? Paired over seeds, by rules fixed before the data.

    Formula: with $t_0$ the first record of training accuracy >= 0.99, $t_1$ the last record, and
    $u_v(t) = (v(t) - v(t_0)) / (v(t_1) - v(t_0))$, the lead at the fraction q is
    $\tau_q(u_{\text{reference}}) - \tau_q(u_{\text{measure}})$ for q = 1/4, 1/2, 3/4; $\tau_q$ is the first passage,
    and for a second answer the last. Passages are interpolated between records.

    Args:
        steps: (records,), or e-foldings of decay from `decay_clock`: the leads are in the same unit.
        train_accuracy: (records, seeds), NaN or constant after a seed has left.
        test_accuracy: (records, seeds); where train and test share mirrored pairs, that of the unseen pairs.
        measure: (records, seeds), for example `energy_stability(energies, keep)` divided by the sum of the energies:
            undivided it also rises with mere confidence.
        against: the series of reference, (records, seeds); the test accuracy by default.
        level: of the intervals.
        generator: as in `lead`.

    Left out, and counted: seeds that never reach 0.99 on the training set; that never reach it on the test set; that
    reach both at one record, so that there is no delay to look into; and those in which a series comes to an end less
    than half its range in the window away from where it began, so that the way there and back is not a passage.

    How to read it: `answer` says what holds for all six choices. Look at `ends` first: a measure that is almost where
    it ends when the window begins has done its work during memorisation, and the timing of the rest says little. Then
    give the mean *probability* of the right answer on the test set as `against`. That is generalisation itself in
    another unit, and out of step with the accuracy: an answer counts from the moment it wins, however narrowly. Only a
    lead against both says something of its own. Let the runs go on after generalisation (`EnsembleConfig.linger`): a
    window that ends too early cuts the slow end of a series off and lets it seem early.

    What it cannot show: that the measure causes anything. Both series are functions of one network; if both are
    monotone functions of one hidden variable, their shapes alone decide which comes first, and a rescaling that bends
    one of them changes it. Nor that the measure predicts generalisation: it must then stand still in runs that never
    generalise, and those are left out here.

    Errors: `ValueError` when the steps do not increase, or a series is not (records, seeds).

    Source: ours. The claim that stability leads is made for the regulariser of arXiv 2602.08287.
    """
    steps, train, _ = _checked(steps, train_accuracy, 0)
    if train.ndim != 2:
        raise ValueError(f"train_accuracy has shape {tuple(train.shape)}: give one column a seed, (records, seeds)")
    test, moving = _same("test_accuracy", test_accuracy, train), _same("measure", measure, train)
    reference = test if against is None else _same("against", against, train)
    memorised, generalised = first_passage(steps, train, LEVEL), first_passage(steps, test, LEVEL)
    inside = ~(train.isnan() | test.isnan() | reference.isnan() | moving.isnan()) & (steps[:, None] >= memorised)
    progress = {name: _progress(series, inside) for name, series in (("against", reference), ("measure", moving))}

    usable, left_out = torch.ones(train.shape[1], dtype=torch.bool), {}
    for reason, kept in (
        ("not memorised", memorised.isfinite()),
        ("not generalised", generalised.isfinite()),
        ("no delay", generalised > memorised),
        *((f"{name} did not move", ~way.isnan().all(0)) for name, way in progress.items()),
    ):
        left_out[reason] = int((usable & ~kept).sum())
        usable &= kept

    against_at, measure_at = (_passages(steps, way.masked_fill(~usable, torch.nan)) for way in progress.values())
    first, last = (
        tuple(lead(*pair, level=level, generator=generator) for pair in zip(of.T, reference_of.T, strict=True))
        for of, reference_of in zip(measure_at.unbind(1), against_at.unbind(1), strict=True)
    )
    resolution = max(steps[inside[:, usable].any(1)].diff().tolist(), default=float("nan"))
    ends = torch.stack(_ends(moving, inside), 1).masked_fill(~usable[:, None], torch.nan)
    return LeadLag(FRACTIONS, memorised, against_at, measure_at, ends, first, last, resolution, left_out)


def _ends(values: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
    """The values at the first and the last record inside, (seeds,) each."""
    records, last = torch.arange(len(values))[:, None], len(values) - 1
    begin, end = torch.where(inside, records, last).amin(0), torch.where(inside, records, 0).amax(0)
    return tuple(values.gather(0, at.unsqueeze(0)).squeeze(0) for at in (begin, end))


def _progress(values: Tensor, inside: Tensor) -> Tensor:
    """Each series from 0 at the first record inside to 1 at the last; NaN outside, and where it has no net way."""
    start, end = _ends(values, inside)
    way = end - start
    span = torch.where(inside, values, -torch.inf).amax(0) - torch.where(inside, values, torch.inf).amin(0)
    moved = (way.abs() >= EXCURSION * span) & (span > 0)
    return torch.where(inside & moved, (values - start) / way, torch.nan)


def _passages(steps: Tensor, progress: Tensor) -> Tensor:
    """First and last passages of all fractions, (seeds, 2, fractions)."""
    both = (first_passage, last_passage)
    found = [torch.stack([one(steps, progress, q, interpolate=True) for q in FRACTIONS], 1) for one in both]
    return torch.stack(found, 1)


def _first(steps: Tensor, excess: Tensor, there: Bool[Tensor, "records *seeds"], interpolate: bool) -> Tensor:
    """The step of the first record that is there, or where the line from the record before meets excess 0."""
    at = there.long().argmax(0, keepdim=True)  # (1, *seeds): the first True
    found = steps[at]
    if interpolate:
        before = (at - 1).clamp(min=0)
        low, high = excess.gather(0, before), excess.gather(0, at)
        between = steps[before] + (found - steps[before]) * low / (low - high)
        found = torch.where((low < 0) & (at > 0), between, found)
    return torch.where(there.any(0), found.squeeze(0), torch.nan)


def _checked(steps: Series, values: Series, level: Number) -> tuple[Tensor, Tensor, Tensor]:
    steps, values, level = _double(steps), _double(values), _double(level)
    if steps.ndim != 1 or len(steps) == 0 or not bool((steps.diff() > 0).all()):
        raise ValueError(f"steps has shape {tuple(steps.shape)} or does not increase: give one step a record, in order")
    if values.ndim == 0 or len(values) != len(steps):
        raise ValueError(f"values has shape {tuple(values.shape)} for {len(steps)} steps: give (records, *seeds)")
    return steps, values, level


def _same(name: str, series: Series, like: Tensor) -> Tensor:
    series = _double(series)
    if series.shape != like.shape:
        raise ValueError(
            f"{name} has shape {tuple(series.shape)}, not {tuple(like.shape)} as train_accuracy: make it so"
        )
    return series


def _double(values: Series | Number) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float64, device="cpu")

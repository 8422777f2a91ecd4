"""Numbers with error bars: a Monte Carlo mean, its standard error, and intervals.

Every sampled number in `nslab` is an `Estimate`: a reader can always ask how far off it may be, and what it cost.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Bool, Shaped
from torch import Tensor

PILOT = 1024  # draws made before a target standard error is turned into a number of draws


@dataclass(frozen=True, eq=False)
class Interval:
    """A confidence interval `low <= theta <= high`, elementwise.

    Attributes:
        low: lower ends, any shape, in the units of the estimated number.
        high: upper ends, the same shape.
        level: the share of repetitions of the whole experiment whose interval holds the truth, in (0, 1).

    How to read it: over many repetitions about `level` of the intervals hold the true value. Each element has this
    level on its own; all elements together have less.

    Errors: `ValueError` when the shapes differ or `level` is outside (0, 1). Two intervals are equal when both ends
    and the level are; intervals are not hashable.
    """

    low: Shaped[Tensor, "..."]
    high: Shaped[Tensor, "..."]
    level: float

    def __post_init__(self):
        if self.low.shape != self.high.shape:
            raise ValueError(f"low has shape {tuple(self.low.shape)}, high {tuple(self.high.shape)}: give one shape")
        _check_level(self.level)

    def contains(self, value: Tensor | float | int) -> Bool[Tensor, "..."]:
        """Is `low <= value <= high`? Elementwise, ends included; `value` broadcasts against the shape."""
        return (self.low <= value) & (value <= self.high)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Interval):
            return NotImplemented
        return self.level == other.level and _same(self.low, other.low) and _same(self.high, other.high)

    def __str__(self) -> str:
        texts = [f"[{low:.4g}, {high:.4g}]" for low, high in zip(*map(_flat, (self.low, self.high)), strict=True)]
        return f"{_shorten(texts, self.low.shape)} at {100 * self.level:g} %"


@dataclass(frozen=True, eq=False, repr=False)
class Estimate:
    """A Monte Carlo mean with its error and its price.

    Attributes:
        value: the estimate, any shape, in the units of the estimated number.
        stderr: one standard error of `value`, the same shape and units: s / sqrt(samples), s being the sample
            standard deviation with `samples - 1` in the denominator.
        samples: independent draws behind each element.
        seconds: wall-clock time of the draws. It never counts in `==` and is not in `repr`, so that two runs with one
            seed are equal and print alike.

    How to read it: the truth is within one `stderr` in about 68 % of runs and within two in about 95 %. Four times
    the draws halve the error.

    `e[0]` is the estimate of one element, `float(e)` the value of a single number. In `str` the error has one digit, or
    two when the first is a 1, and the value ends there too; numbers under 1e-4 or from 1e6 on share a power of ten.

    Errors: `ValueError` when the shapes differ, a `stderr` is negative or NaN, or `samples` is not positive.

    >>> print(Estimate(torch.tensor(0.41234), torch.tensor(0.00312), samples=1000, seconds=0.1))
    0.412 ± 0.003
    >>> print(Estimate(torch.tensor([0.5, 0.25]), torch.tensor([0.012, 0.02]), samples=1000, seconds=0.1))
    [0.500 ± 0.012, 0.25 ± 0.02]
    """

    value: Shaped[Tensor, "..."]
    stderr: Shaped[Tensor, "..."]
    samples: int
    seconds: float = field(compare=False)

    def __post_init__(self):
        if self.value.shape != self.stderr.shape:
            shapes = f"value has shape {tuple(self.value.shape)}, stderr {tuple(self.stderr.shape)}"
            raise ValueError(f"{shapes}: give one shape")
        if not bool((self.stderr >= 0).all()):
            raise ValueError(f"stderr is {self.stderr}: a standard error is zero or positive")
        if self.samples < 1:
            raise ValueError(f"samples is {self.samples}: an estimate needs at least one draw")

    def interval(self, level: float = 0.95) -> Interval:
        """Normal interval `value ± z stderr` with z = sqrt(2) erfinv(level); 1.96 at the default level.

        Right when the mean of `samples` draws is close to Gaussian; for few or very skewed draws use `bootstrap`.

        Errors: `ValueError` when `level` is outside (0, 1).
        """
        _check_level(level)
        half = math.sqrt(2) * float(torch.erfinv(torch.tensor(level, dtype=torch.float64))) * self.stderr
        return Interval(self.value - half, self.value + half, level)

    def __getitem__(self, index: Any) -> "Estimate":
        if not self.value.ndim:
            raise TypeError(f"this estimate, {self}, is one number: take float(e), e.value or e.stderr")
        return replace(self, value=self.value[index], stderr=self.stderr[index])

    def __float__(self) -> float:
        if self.value.numel() != 1:
            raise TypeError(f"this estimate has shape {tuple(self.value.shape)}: take one element, float(e[0])")
        return float(self.value)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Estimate):
            return NotImplemented
        return self.samples == other.samples and _same(self.value, other.value) and _same(self.stderr, other.stderr)

    def __str__(self) -> str:
        texts = [_with_error(value, error) for value, error in zip(_flat(self.value), _flat(self.stderr), strict=True)]
        return _shorten(texts, self.value.shape)

    def __repr__(self) -> str:
        return f"Estimate({self}, samples={self.samples})"


class TooFewSamples(RuntimeError):
    """The target standard error needs more than `max_samples` draws. `estimate` holds what was found so far."""

    def __init__(self, message: str, estimate: Estimate):
        super().__init__(message)
        self.estimate = estimate


def sample_mean(
    draw: Callable[[int], Tensor],
    *,
    samples: int | None = None,
    stderr: float | int | None = None,
    batch_size: int = 65536,
    max_samples: int = 2**26,
) -> Estimate:
    r"""Mean of independent draws, with its standard error, in one pass and constant memory.

    Formula: $\bar x = \frac1n \sum_i x_i$ and $\mathrm{stderr} = \sqrt{\sum_i (x_i - \bar x)^2 / (n (n-1))}$. Batches
    are merged in float64 by the update of Chan, Golub and LeVeque (1983): nothing is subtracted that is
    large, so a small spread on a large mean keeps its digits.

    Args:
        draw: `draw(k)` returns k independent draws, shape (k, *shape), real, integer or boolean. Its randomness and
            device are its own: close over a generator.
        samples: number of draws n, at least 2. Give this or `stderr`.
        stderr: target standard error, in the units of the draws. A pilot of 1024 draws measures the spread, then as
            many follow as are needed until *every* element is at or under the target.
        batch_size: the largest k that `draw` is asked for; it bounds memory, not the result.
        max_samples: the most draws a target may cost.

    Returns:
        `Estimate` of shape (*shape), float64, on the device of the draws (on the CPU where a device has no float64),
        without gradient.

    How to read it: see `Estimate`. Draws that are all equal give a standard error of 0. With a target this means that
    an event too rare for the pilot is taken for impossible: ask for `samples` there.

    Errors: `ValueError` when not exactly one of `samples` and `stderr` is given, a number is out of range, or a draw
    is not a finite real tensor of k rows; `TooFewSamples`, holding the estimate so far, when the target needs more
    than `max_samples`.

    >>> g = torch.Generator().manual_seed(0)
    >>> print(sample_mean(lambda k: torch.rand(k, generator=g), samples=10_000))
    0.500 ± 0.003
    """
    if (samples is None) == (stderr is None):
        raise ValueError(f"samples={samples} and stderr={stderr}: give exactly one of the two")
    if samples is not None and samples < 2:
        raise ValueError(f"samples is {samples}: a standard error needs at least 2 draws")
    if stderr is not None and not 0 < stderr < math.inf:
        raise ValueError(f"stderr is {stderr}: give a positive, finite target, or `samples` instead")
    for name, most, least in (("batch_size", batch_size, 1), ("max_samples", max_samples, 2)):
        if most < least:
            raise ValueError(f"{name} is {most}: give at least {least}")
    start = time.perf_counter()
    stream = _Stream(draw, batch_size)
    if samples is not None:
        stream.draw_until(samples)
        return stream.estimate(start)

    stream.draw_until(min(PILOT, max_samples))
    while stream.stderr.numel() and (worst := float(stream.stderr.max())) > stderr:
        needed = math.ceil(stream.count * (worst / stderr) ** 2)
        if needed > max_samples:
            reachable = worst * math.sqrt(stream.count / max_samples)
            raise TooFewSamples(
                f"stderr={stderr:g} needs about {needed:.3g} draws and max_samples is {max_samples}: "
                f"raise max_samples, or ask for stderr={reachable:.2g} or more. The estimate so far is in .estimate",
                stream.estimate(start),
            )
        stream.draw_until(max(needed, stream.count + 1))
    return stream.estimate(start)


def bootstrap(
    values: Shaped[Tensor, "samples *shape"],
    statistic: Callable[[Tensor, int], Tensor] = torch.mean,
    *,
    level: float = 0.95,
    resamples: int = 2000,
    generator: torch.Generator | None = None,
) -> Interval:
    """Percentile bootstrap interval of a statistic of independent rows.

    Formula: draw `samples` rows with replacement, take the statistic, repeat `resamples` times; the interval runs
    from the (1 - level)/2 to the (1 + level)/2 quantile of the repeated statistics.

    Args:
        values: independent rows, (samples, *shape), real; they are used in float64.
        statistic: `statistic(x, dim)` reduces dimension `dim`, as `torch.mean`, `torch.std` and `torch.amax` do.
        level: in (0, 1).
        resamples: repetitions; 2000 put about 50 beyond each end of a 95 % interval.
        generator: source of randomness, on the device of `values`.

    Returns:
        `Interval` with the shape that the statistic leaves.

    How to read it: see `Interval`. This is the plain percentile interval. The bias-corrected and accelerated one (BCa)
    is not used; with fewer than about 20 rows, or a biased statistic, the percentile interval is too short.

    Errors: `ValueError` for no rows, values that are not finite, numbers out of range, or a statistic that does not
    return a tensor with one row a resample.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
    """
    if values.ndim == 0 or values.numel() == 0:
        raise ValueError(f"values has shape {tuple(values.shape)}: give at least one row of one, shape (samples, ...)")
    _check_level(level)
    if resamples < 1:
        raise ValueError(f"resamples is {resamples}: give at least 1")
    rows = _double(values, "values")
    samples = len(rows)
    chunk = max(1, 2**24 // rows.numel())  # at most 128 MB of float64 at a time
    found = []
    for begin in range(0, resamples, chunk):
        size = min(chunk, resamples - begin)
        index = torch.randint(samples, (size, samples), generator=generator, device=values.device).to(rows.device)
        repeated = statistic(rows[index], 1)  # (size, samples, *shape) -> (size, *out)
        if not isinstance(repeated, Tensor) or repeated.ndim == 0 or len(repeated) != size:
            got = tuple(repeated.shape) if isinstance(repeated, Tensor) else type(repeated).__name__
            raise ValueError(
                "statistic must return a tensor that reduces the dimension it is given, (resamples, samples, ...) to "
                f"(resamples, ...); for {tuple(rows[index].shape)} it returned {got}"
            )
        found.append(repeated.to(rows.dtype))
    ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=rows.dtype, device=rows.device)
    low, high = torch.quantile(torch.cat(found), ends, dim=0)  # (resamples, *out) -> (2, *out)
    return Interval(low, high, level)


class _Stream:
    """Running count, mean and sum of squared deviations (M2) of what `draw` returns."""

    def __init__(self, draw: Callable[[int], Tensor], batch_size: int):
        self.draw, self.batch_size = draw, batch_size
        self.count = 0
        self.mean = self.m2 = torch.zeros(())

    @property
    def stderr(self) -> Tensor:
        return (self.m2 / (self.count * (self.count - 1))).sqrt()

    def draw_until(self, total: int) -> None:
        while self.count < total:
            size = min(self.batch_size, total - self.count)
            batch = self.draw(size)
            if not isinstance(batch, Tensor) or batch.ndim == 0 or len(batch) != size:
                got = tuple(batch.shape) if isinstance(batch, Tensor) else type(batch).__name__
                raise ValueError(f"draw({size}) returned {got}: return a tensor of shape ({size}, ...)")
            self._merge(_double(batch.detach(), f"draw({size})"))

    def _merge(self, batch: Tensor) -> None:
        if self.count and batch.shape[1:] != self.mean.shape:
            shapes = f"{tuple(batch.shape[1:])} after rows of shape {tuple(self.mean.shape)}"
            raise ValueError(f"draw({len(batch)}) returned rows of shape {shapes}: every draw needs one shape")
        mean = batch.mean(0)
        m2 = (batch - mean).square().sum(0)
        if self.count == 0:
            self.mean, self.m2, self.count = mean, m2, len(batch)
            return
        total = self.count + len(batch)
        delta = mean - self.mean
        self.mean = self.mean + delta * (len(batch) / total)
        self.m2 = self.m2 + m2 + delta.square() * (self.count * len(batch) / total)
        self.count = total

    def estimate(self, start: float) -> Estimate:
        return Estimate(self.mean, self.stderr, self.count, time.perf_counter() - start)


def _double(values: Tensor, name: str) -> Tensor:
    """`values` in float64, refused unless real and finite; on the CPU where the device has no float64."""
    if values.is_complex():
        raise ValueError(f"{name} is complex: give real numbers, for example the real part")
    if values.is_floating_point():
        finite = torch.isfinite(values)
        if not bool(finite.all()):
            row = int((~finite.reshape(len(values), -1)).any(1).nonzero()[0])
            raise ValueError(f"{name} is not finite in row {row}: remove NaN and infinity before averaging")
    return values.to(device="cpu" if values.device.type == "mps" else values.device).to(torch.float64)


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level is {level}: give a number between 0 and 1, for example 0.95")


def _same(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.device == b.device and torch.equal(a, b)


def _flat(values: Tensor) -> list[float]:
    return values.detach().flatten().tolist()


def _shorten(texts: list[str], shape: torch.Size) -> str:
    if len(shape) == 0:
        return texts[0]
    if len(shape) == 1 and len(texts) <= 4:
        return f"[{', '.join(texts)}]"
    shown = texts if len(texts) <= 3 else [*texts[:2], "…", texts[-1]]
    return f"[{', '.join(shown)}] of shape {tuple(shape)}"


def _with_error(value: float, error: float) -> str:
    """The value and its error to the error's first digit, or its first two when the first is a 1."""
    largest = max(abs(value), error)
    if not math.isfinite(largest):
        return f"{value} ± {error}"
    if largest and not 1e-4 <= largest < 1e6:
        power = math.floor(math.log10(largest))
        return f"({_with_error(value / 10.0**power, error / 10.0**power)})e{power:+03d}"
    if error == 0:
        return f"{value:.6g} ± 0"
    digits, power = f"{error:.1e}".split("e")
    decimals = (1 if digits[0] == "1" else 0) - int(power)
    shown = max(decimals, 0)
    return f"{round(value, decimals) + 0.0:.{shown}f} ± {round(error, decimals):.{shown}f}"

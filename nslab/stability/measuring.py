"""Noise stability of any callable: raw, normalised or centred, with its error and its price."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from nslab.batches import in_batches
from nslab.estimate import Estimate, TooFewSamples
from nslab.protocols import check_whole
from nslab.stability.designs import GROUP, GROUP_NUMBERS, count_outputs, draw, first_batch, outputs
from nslab.stability.moments import Moments
from nslab.stability.pilot import METHODS, MOST_FEATURES, Plan, decide, smallest_pilot
from nslab.stability.spaces import Scalar, Space, strengths

Version = Literal["raw", "normalised", "centred"]
Method = Literal["auto", "naive", "common", "antithetic", "nested", "linear", "antithetic+linear", "nested+linear"]

PILOT_SHARE = 1 / 30  # of the evaluations: if nothing better is found, the error grows by under 2 %
CENTRE = 256  # evaluations that estimate the mean of f before it is subtracted
PILOT_NUMBERS = 2**24  # coordinates, or features of the linear function, that a pilot may hold


@dataclass(frozen=True, eq=False, repr=False)
class StabilityEstimate(Estimate):
    """An `Estimate` of noise stability that says which of the three it is and how it was made.

    Attributes:
        method: the estimator used; with method="auto", the one chosen; "prompts" where prompts were given.
        evaluations: inputs at which f was evaluated, the pilot included, and but for two that told how many outputs f
            has. This is the price.
        eigenvalue: eigenvalue per degree of the noise, the same shape as `value`: rho for bits and Gaussians, keep for
            tokens. Spectral bounds (`tail_bound`) take this number.
        version: "raw", "normalised" or "centred"; never compare two stabilities of different versions.
    """

    method: str
    evaluations: int
    eigenvalue: Tensor
    version: Version

    def __getitem__(self, index: Any) -> "StabilityEstimate":
        return replace(super().__getitem__(index), eigenvalue=self.eigenvalue[index])

    def __repr__(self) -> str:
        return f"StabilityEstimate({self.version} {self}, method={self.method!r}, evaluations={self.evaluations})"


def noise_stability(
    f: Callable[[Tensor], Tensor],
    space: Space,
    *,
    rho: Scalar | None = None,
    keep: Scalar | None = None,
    version: Version = "raw",
    evaluations: int | None = None,
    stderr: float | int | None = None,
    method: Method = "auto",
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    batch_size: int | None = None,
    max_evaluations: int = 2**26,
) -> StabilityEstimate:
    r"""Stab(f) = E[f(x) f(y)] for x from a product space and y its noisy twin, at many strengths of the noise.

    Formula, with $S = E[f(x) f(y)]$ (an inner product where f has several outputs): `raw` $S$; `normalised`
    $S / E|f|^2$; `centred` $(S - |E f|^2) / (E|f|^2 - |E f|^2)$, the correlation of f(x) and f(y).

    Args:
        f: (batch, coordinates) to (batch,) or (batch, outputs), row by row: numbers that may be multiplied. Of a
            classifier give probabilities, or its class as a one-hot vector: numbers of classes mean nothing.
        space: `Cube(n)`, `Tokens(length, vocabulary)` or `GaussianSpace(dimension)`.
        rho: correlations in [-1, 1], a number or a tensor (*rho); for `Cube` and `GaussianSpace`.
        keep: probabilities in [0, 1] that a token is kept, (*rho); for `Tokens`.
        version: which of the three.
        evaluations: how many inputs f may be evaluated at, pilot included. Give this or `stderr`.
        stderr: target standard error, reached at every strength. The spread is first judged from 256 draws: an event
            too rare for them is taken for impossible, so ask for `evaluations` there.
        method: "naive", fresh pairs for each strength; "common", one x and one noise shared by all strengths;
            "antithetic", f(x) against two couples of mirrored twins; "nested", the mean over all pairs among six noisy
            copies of a hidden point; "+linear" (alone: with "common") subtracts products with a fitted linear function
            whose means are known. "auto" lets a pilot, a thirtieth of the evaluations, choose the smallest variance
            per evaluation; below about 46,000 evaluations a strength, too few for such a pilot, it is "common".
        generator: source of randomness, on `device`.
        device: where the points are made.
        dtype: of the points; torch's default dtype, and int64 for tokens.
        batch_size: the most inputs that f is handed at once, and of which a group of draws is made. By default f gets
            65,536, on `Tokens` as many as `nslab.batches` finds for a network, and half whenever memory runs out.
        max_evaluations: the most that a target may cost.

    Returns:
        `StabilityEstimate` of shape (*rho), float64, without gradient. `samples` counts independent draws.

    How to read it: raw stability contains $(E f)^2$ and scales with the square of f; normalised is 1 at strength 1 for
    every f and hears the mean; centred hears neither size nor mean: 0 at strength 0, 1 at strength 1. Errors at
    different strengths are correlated except with "naive", and the curve is smoother than its error bars. Raw values
    are unbiased; the other two are ratios with a bias of order 1/samples, far below their error.

    Errors: `ValueError` for rho with tokens or keep without, strengths out of range, not exactly one of `evaluations`
    and `stderr`, too few evaluations, a module in training mode, outputs that are not finite or not real numbers in a
    (batch,) or (batch, outputs) tensor, and versions that divide by zero; `TooFewSamples`, which says how many
    evaluations the target would need and holds the estimate so far.

    Source: arXiv 2602.08287, section 4, as reported in a digest; O'Donnell, Analysis of Boolean Functions (2014),
    sections 2.4, 8.3 and 11.1. The estimators: ours, from standard variance reduction.

    >>> from nslab.stability import Cube
    >>> g = torch.Generator().manual_seed(0)
    >>> found = noise_stability(lambda x: x[:, 0] * x[:, 1], Cube(5), rho=0.5, evaluations=100_000, generator=g)
    >>> bool((found.value - 0.25).abs() < 5 * found.stderr)
    True
    """
    start = time.perf_counter()
    levels = strengths(space, rho, keep)
    _check_request(version, method, evaluations, stderr, max_evaluations, batch_size)
    source = {"generator": generator, "device": device, "dtype": dtype}
    budget = "max_evaluations" if evaluations is None else "evaluations"
    with torch.no_grad():
        counted = _Counted(f, batch_size, space, source)
        work = _Work(counted, space, levels.flatten().tolist(), version, source, budget)
        if stderr is None:
            work.prepare(method, int(evaluations * PILOT_SHARE), evaluations)
            work.spend(evaluations)
        else:
            work.prepare(method, 2 * smallest_pilot(method, levels.numel()), max_evaluations)
            _reach(work, stderr, max_evaluations, levels, start)
    return work.report(levels, start)


class _Counted:
    """f with its outputs checked, in float64, (rows, outputs), less a constant; it counts its inputs from now on."""

    def __init__(self, f: Callable[[Tensor], Tensor], batch_size: int | None, space: Space, source: dict):
        self.f, self.group, self.batch = f, batch_size or GROUP, batch_size or first_batch(space)
        self.count, self.centre = 0, None
        self.outputs = 1 if batch_size else count_outputs(f, space, source)  # a given size bounds memory by itself

    def __call__(self, x: Tensor) -> Tensor:
        self.count += len(x)
        values = in_batches(lambda rows: outputs(self.f, rows).detach(), x, batch=self.batch)
        return values if self.centre is None else values - self.centre


class _Work:
    """One measurement under way: the plan and the moments so far. `budget` names the argument that limits the price."""

    def __init__(self, f: _Counted, space: Space, levels: list[float], version: Version, source: dict, budget: str):
        self.f, self.space, self.levels, self.version, self.source = f, space, levels, version, source
        self.budget = budget
        self.moments = Moments()
        self.plan: Plan | None = None

    def prepare(self, method: Method, pilot: int, most: int) -> None:
        """Subtract the mean if it is not wanted, then choose how to draw."""
        if self.version == "centred":
            x = self.space.draw(max(2, min(CENTRE, most // 8)), *self.source.values())
            self.f.centre = self.f(x).mean(0)
        least = smallest_pilot(method, len(self.levels))
        if method == "auto" and (pilot < least or 4 * pilot > most):
            method = "common"
        if method != "auto" and METHODS[method][1]:
            pilot = max(pilot, least)
            if 2 * pilot > most:
                raise ValueError(
                    f"{self.budget} = {most} is too few for method = {method!r}: its pilot alone takes {pilot} at"
                    f" {len(self.levels)} strengths; give at least {2 * pilot}, or use another method"
                )
        largest = max(self.space.coordinates, min(self.space.features, MOST_FEATURES), self.f.outputs)
        pilot = min(pilot, max(least, PILOT_NUMBERS // largest), 2**18)
        normalised = self.version != "raw"
        self.plan = decide(method, self.f, self.space, self.levels, pilot, normalised, self.source)

    @property
    def cost(self) -> int:
        return self.plan.design.cost(len(self.levels))

    def spend(self, total: int) -> None:
        """Draw until f has been evaluated `total` times or one draw short of it."""
        left = (total - self.f.count) // self.cost
        if left + self.moments.count < 2:
            least = self.f.count + 2 * self.cost
            raise ValueError(f"{self.budget} = {total} is too few: two draws need {least}, counting what was spent")
        numbers = max(self.space.coordinates, self.space.features if self.plan.linear else 0, self.f.outputs)
        rows = min(self.f.group, GROUP_NUMBERS // numbers)
        per_batch = max(1, rows // self.plan.design.cost(1))
        while left > 0:
            count = min(left, per_batch)
            left -= count
            found = draw(self.plan.design, self.f, self.space, self.levels, count, self.plan.linear, self.source)
            self.moments.add(self.plan.corrected(found), found.squares, found.mean)

    def result(self) -> tuple[Tensor, Tensor]:
        """Value and standard error so far, one a strength."""
        if self.version == "raw":
            return self.moments.raw()
        centred = self.version == "centred"
        offset = self.moments.offset()[0] if centred else 0.0
        size = self.moments.b + (0 if self.f.centre is None else self.f.centre.square().sum())
        if bool((self.moments.b - offset <= 1e-12 * size).any()):
            what = "is constant, to a part in a million," if centred else "is zero"
            raise ValueError(f"f {what} at every point drawn: its {self.version} stability is 0/0; use version='raw'")
        return self.moments.ratio(centred=centred)

    def report(self, levels: Float[Tensor, "..."], start: float) -> StabilityEstimate:
        """The estimate in the shape of the strengths."""
        value, error = (found.reshape(levels.shape) for found in self.result())
        seconds = time.perf_counter() - start
        eigenvalue = levels.to(value.device)
        made = self.plan.method, self.f.count, eigenvalue, self.version
        return StabilityEstimate(value, error, self.moments.count, seconds, *made)


def _reach(work: _Work, stderr: float | int, most: int, levels: Tensor, start: float) -> None:
    """Draw until every standard error is at or under the target, or say how many evaluations it would take."""
    work.spend(min(most, work.f.count + 256 * work.cost))
    while (worst := float(work.result()[1].max())) > stderr:
        draws = math.ceil(work.moments.count * (worst / stderr) ** 2)
        needed = work.f.count + (draws - work.moments.count) * work.cost
        if needed > most:
            room = max(1, (most - work.f.count) // work.cost) + work.moments.count
            reachable = worst * math.sqrt(work.moments.count / room)
            raise TooFewSamples(
                f"stderr={stderr:g} needs about {needed:.3g} evaluations and max_evaluations is {most}: raise"
                f" max_evaluations, or ask for stderr={reachable:.2g} or more. The estimate so far is in .estimate",
                work.report(levels, start),
            )
        work.spend(max(needed, work.f.count + work.cost))


def _check_request(
    version: str, method: str, evaluations: int | None, stderr: float | int | None, most: int, batch_size: int | None
):
    check_whole(evaluations=evaluations, max_evaluations=most, batch_size=batch_size)
    if version not in ("raw", "normalised", "centred"):
        raise ValueError(f"version = {version!r}: give 'raw', 'normalised' or 'centred'")
    if method != "auto" and method not in METHODS:
        raise ValueError(f"method = {method!r}: give 'auto' or one of {', '.join(METHODS)}")
    if (evaluations is None) == (stderr is None):
        raise ValueError(f"evaluations={evaluations} and stderr={stderr}: give exactly one of the two")
    if stderr is not None and not 0 < stderr < math.inf:
        raise ValueError(f"stderr is {stderr}: give a positive, finite target, or `evaluations` instead")
    if evaluations is not None and evaluations < 4:
        raise ValueError(f"evaluations = {evaluations} is too few: give at least two draws, 4 or more")
    if most < 4:
        raise ValueError(f"max_evaluations is {most}: give at least 4")
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}: give at least 1")

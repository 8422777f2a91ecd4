r"""The tail of a spectrum from both sides: total influence (Markov) and noise stability (Lemma 1), at the same prompts.

Both columns must use one noise. For resampled tokens the eigenvalue per degree is r = keep. The paper's rho means
keep = (1 + rho)/2: its noise at rho = 0.9 has r = 0.95, and B_T takes $1 - 0.95^T$.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float64
from torch import Tensor

from nslab.estimate import Interval
from nslab.stability.concentration import markov_bound, tail_bound
from nslab.stability.prompt_stability import PromptStability
from nslab.stability.prompts import OverPrompts, bootstrap_prompts
from nslab.stability.replacement import TotalInfluence

OTHER = 0.02  # relative difference of |f|**2 that no rounding explains


@dataclass(frozen=True)
class TailComparison:
    r"""Two bounds on the share of energy at degrees >= T, and what their ratio says about the spectrum.

    Attributes:
        degree: T.
        keep: eigenvalues r < 1 of the grid (strengths,).
        markov: I/T.
        bounds: B_T(r) at each r (strengths,).
        best: the smallest of them.
        best_keep: where it is.
        gain: markov / best; it does not depend on what the energy is measured by.
        coordinates: the highest degree there can be.

    How to read it: a bound above 1 says nothing. The minimum is taken anew in every bootstrap sample, and the minimum
    of noisy numbers lies low: on a fine grid with few prompts trust `bounds` at one r more than `best`. Where f never
    changed at the prompts of a bootstrap sample its bound is 0 and its gain infinite; a gain whose interval ends at
    infinity asks for more twins or prompts, or for keeps further from 1.
    """

    degree: int
    keep: Float64[Tensor, " strengths"]
    markov: OverPrompts
    bounds: OverPrompts
    best: OverPrompts
    best_keep: float
    gain: OverPrompts
    coordinates: int

    @property
    def implied_degree(self) -> int:
        """Some energy sits at this degree or above, if both columns use one noise: see `implied_degree`."""
        return implied_degree(float(self.gain.value), self.degree)

    @property
    def consistent(self) -> bool:
        """Can a spectrum have this gain? False where even the low end of its interval needs a degree that is too high.

        True proves nothing; False says that the columns do not belong to one noise and one law of prompts.
        """
        low = float(self.gain.interval.low)
        return low < math.inf and implied_degree(low, self.degree) <= self.coordinates

    def __str__(self) -> str:
        return (
            f"tail at degree >= {self.degree}: Markov {self.markov}, stability {self.best} at keep {self.best_keep:g},"
            f" gain {self.gain}"
        )


def implied_degree(gain: float | int, degree: int) -> int:
    r"""The degree K at or above which there must be energy when $(I/T) / B_T(r)$ = gain > 1: $K = \lceil g T \rceil$.

    If all energy sat at degrees <= K, K >= T, then B_T(r) >= I/K for every r, because $(1 - r^k)/k$ falls with k, and
    the gain would be at most K/T.

    Args:
        gain: g, Markov's bound over the bound from stability, both with one noise.
        degree: T >= 1.

    Returns:
        The degree; 0 for g <= 1, which every spectrum can have.

    Errors: `ValueError` for a negative gain or a degree below 1.

    Source: ours; the test of consistency for Table 1 of arXiv 2602.08287.

    >>> implied_degree(9.5, 15), implied_degree(6.0, 15), implied_degree(0.8, 15)
    (143, 90, 0)
    """
    if not 0 <= gain < math.inf:
        raise ValueError(f"gain is {gain}: it is a ratio of two bounds, give a finite number >= 0")
    if degree < 1:
        raise ValueError(f"degree is {degree}: the tail starts at T >= 1")
    return math.ceil(gain * degree * (1 - 1e-12)) if gain > 1 else 0


def tail_comparison(
    stability: PromptStability,
    influence: TotalInfluence,
    degree: int,
    *,
    per: Literal["energy", "variance"] = "energy",
    level: float = 0.95,
    resamples: int = 2000,
    generator: torch.Generator | None = None,
) -> TailComparison:
    r"""Markov's I/T beside $B_T(r) = (1 - \mathrm{Stab}_r) / (1 - r^T)$ over a grid of r = keep.

    $1 - \mathrm{Stab}_r$ is taken as $E|f(x) - f(y)|^2 / (2 E|f|^2)$. For prompts of the product law this is the same
    number, with less spread. At other prompts it keeps the columns comparable: $B_T \to I/T$ as r goes to 1.

    Args:
        stability: from `text_stability`, at keeps of which one at least is below 1.
        influence: from `total_influence`, with the same f, prompts (in order) and law; f and the prompts are known by
            |f(x)|**2 of each prompt.
        degree: T >= 1.
        per: the tail as a share of the "energy" E|f|**2, degree 0 included, or of the "variance".
        level: of the intervals.
        resamples: repetitions of the bootstrap. It draws prompts for all columns jointly.
        generator: source of randomness.

    Returns:
        `TailComparison`.

    How to read it: without energy above degree K >= T the gain is at most K/T, so that a large gain is a statement
    about very high degrees. Bounds hold for prompts of the product law; at real text they are only the paper's
    arithmetic.

    Errors: `ValueError` when the two do not share their f and prompts, no keep is below 1, f never changes under the
    noise, or f is constant or zero where that is divided by.

    Source: arXiv 2602.08287, Table 1, *reconstructed*; the paper's choice of f, noise and prompts is unknown.
    """
    if len(influence.by_prompt) != stability.prompts:
        raise ValueError(
            f"influence has {len(influence.by_prompt)} prompts and stability {stability.prompts}: measure both at the"
            " same prompts, in one order"
        )
    ours, theirs = stability.squares, influence.squares.to(stability.squares)
    if float((ours - theirs).abs().sum()) > OTHER * float(ours.sum()):
        at = int((ours - theirs).abs().argmax())
        raise ValueError(
            f"|f(x)|**2 at prompt {at} is {float(ours[at]):.4g} in stability and {float(theirs[at]):.4g} in influence:"
            " measure both with one f, at the same prompts in one order"
        )
    strengths = stability.eigenvalue.flatten()
    below = (strengths < 1).nonzero()[:, 0]
    if not len(below):
        raise ValueError(f"stability has only r = {strengths.tolist()}: B_T needs a keep below 1")
    r = strengths[below]
    by_prompt = influence.by_prompt.to(stability.squares)

    def columns(weights: Tensor) -> Tensor:
        """Markov, its part of Markov + best, best, and the bounds at each r, (rows, 3 + strengths)."""
        found = stability.versions(weights)
        size = found["energy"] if per == "energy" else found["energy"] - found["mean_square"]
        if not bool((size > 1e-12 * found["energy"]).all()):
            raise ValueError(f"f has no {per} at some of the prompts drawn: give more prompts, or another f")
        markov = markov_bound(weights @ by_prompt / weights.sum(1) / size, degree)
        bounds = tail_bound(1 - found["loss"][:, below] / size[:, None], r, degree)
        best = bounds.amin(1)
        split = (markov / (markov + best)).nan_to_num(0.5)  # stays finite where one is 0; a gain of 1 where both are
        return torch.cat([markov[:, None], split[:, None], best[:, None], bounds], 1)

    options = {"level": level, "resamples": resamples, "generator": generator}
    value, interval = bootstrap_prompts(columns, stability.prompts, stability.squares.device, **options)
    if not bool((value[3:] > 0).all()):
        still = r[value[3:] <= 0].tolist()
        raise ValueError(
            f"f never changes under the noise at keep = {still}: its bound would be 0; give more twins or prompts,"
            " keeps further from 1, or another f"
        )
    gain = Interval(*(end / (1 - end) for end in (interval.low[1], interval.high[1])), level)
    part = lambda at: OverPrompts(value[at], Interval(interval.low[at], interval.high[at], level))  # noqa: E731
    return TailComparison(
        degree=degree,
        keep=r,
        markov=part(0),
        bounds=part(slice(3, None)),
        best=part(2),
        best_keep=float(r[value[3:].argmin()]),
        gain=OverPrompts(value[0] / value[2], gain),
        coordinates=stability.coordinates,
    )

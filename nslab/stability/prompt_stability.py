"""Noise stability at prompts: what was measured, in three versions, with errors that know which prompt is which."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from nslab.estimate import Estimate
from nslab.stability.measuring import StabilityEstimate
from nslab.stability.prompts import OverPrompts, bootstrap_prompts

Version = Literal["raw", "normalised", "centred", "loss", "energy", "mean_square"]
STABILITIES = ("raw", "normalised", "centred")


@dataclass(frozen=True, eq=False, repr=False)
class PromptStability:
    r"""Noise stability of f at prompts x with noisy twins y, at each strength r of the noise.

    Attributes:
        eigenvalue: r (*r), float64: `keep` for resampled tokens, `rho` for embeddings.
        products: mean over twins of <f(x), f(y)> by prompt (prompts, strengths), strengths flattened.
        changes: mean over twins of |f(x) - f(y)|**2 / 2 by prompt (prompts, strengths).
        squares: |f(x)|**2 by prompt (prompts,).
        values: f(x) (prompts, outputs), turned so that there are at most as many outputs as prompts.
        twin_values: mean over twins of f(y), turned alike (prompts, strengths, outputs).
        coordinates: the most positions of a prompt that noise may act on; for resampled tokens no degree is higher.
        evaluations: inputs at which f was evaluated.
        seconds: wall-clock time; it never counts in comparisons.

    How to read it: prompts are the independent draws, so `samples` of every estimate is their number and errors are
    jackknife errors over prompts, whatever the number of twins. Errors at different strengths are correlated, since
    strengths share prompts and noise: the curve is smoother than its error bars.

    Errors: `ValueError` for a version that is 0/0 because f is zero, or the same at all prompts, when one is left out
    or in a bootstrap sample.
    """

    eigenvalue: Float[Tensor, "*r"]
    products: Float[Tensor, "prompts strengths"]
    changes: Float[Tensor, "prompts strengths"]
    squares: Float[Tensor, " prompts"]
    values: Float[Tensor, "prompts outputs"]
    twin_values: Float[Tensor, "prompts strengths outputs"]
    coordinates: int
    evaluations: int
    seconds: float

    @property
    def prompts(self) -> int:
        """Number of prompts."""
        return len(self.squares)

    @property
    def raw(self) -> Estimate:
        """E <f(x), f(y)> (*r): contains |E f|**2 and scales with the square of f."""
        return self.estimate("raw")

    @property
    def normalised(self) -> Estimate:
        """E <f(x), f(y)> / E|f(x)|**2 (*r): 1 where nothing is changed."""
        return self.estimate("normalised")

    @property
    def centred(self) -> Estimate:
        """(E <f(x), f(y)> - <E f(x), E f(y)>) / (E|f(x)|**2 - |E f(x)|**2) (*r).

        Products of means come from distinct prompts only, so numerator and denominator are unbiased: the sample
        covariance and variance. On prompts of the product law this is the correlation of f(x) and f(y), 0 at r = 0.
        """
        return self.estimate("centred")

    @property
    def loss(self) -> Estimate:
        """E |f(x) - f(y)|**2 / 2 (*r): what stability loses. It is E|f|**2 - Stab where x and y have one law."""
        return self.estimate("loss")

    @property
    def energy(self) -> Estimate:
        """E |f(x)|**2, a number."""
        return self.estimate("energy")

    @property
    def mean_square(self) -> Estimate:
        """|E f|**2 = W_0, a number: the mean of <f(x), f(x')> over pairs of distinct prompts. It may be negative."""
        return self.estimate("mean_square")

    def estimate(self, version: Version) -> Estimate:
        """One of the numbers above, by name; a stability as a `StabilityEstimate`, which knows its version."""
        value = self._defined(self.versions(torch.ones_like(self.squares)[None]), version)[0]
        left = self._defined(self._left_out(), version)  # (prompts, *strengths)
        spread = (left - left.mean(0)).square().sum(0) * (1 - 1 / self.prompts)
        found = self._shaped(value), self._shaped(spread.sqrt()), self.prompts, self.seconds
        if version not in STABILITIES:
            return Estimate(*found)
        return StabilityEstimate(*found, "prompts", self.evaluations, self.eigenvalue, version)

    def interval(
        self,
        version: Version,
        *,
        level: float = 0.95,
        resamples: int = 2000,
        generator: torch.Generator | None = None,
    ) -> OverPrompts:
        """The same number with its percentile bootstrap interval over the prompts.

        Args:
            version: "raw", "normalised", "centred", "loss", "energy" or "mean_square".
            level: of the interval.
            resamples: repetitions.
            generator: source of randomness.
        """
        options = {"level": level, "resamples": resamples, "generator": generator}
        statistic = lambda weights: self._defined(self.versions(weights), version)  # noqa: E731
        value, interval = bootstrap_prompts(statistic, self.prompts, self.squares.device, **options)
        ends = self._shaped(interval.low), self._shaped(interval.high)
        return OverPrompts(self._shaped(value), type(interval)(*ends, level))

    def __repr__(self) -> str:
        three = ", ".join(f"{version}={self._told(version)}" for version in STABILITIES)
        return f"PromptStability(r={self.eigenvalue.tolist()}, {three}, prompts={self.prompts})"

    def _told(self, version: Version) -> str:
        try:
            return str(self.estimate(version))
        except ValueError:
            return "0/0"

    def _shaped(self, found: Tensor) -> Tensor:
        return found.reshape(self.eigenvalue.shape) if found.ndim else found

    def versions(self, weights: Tensor) -> dict[str, Tensor]:
        """Every version for weights (rows, prompts) that say how often each prompt counts; (rows, strengths)."""
        drops, moves = self._lost()
        sums = (weights @ part for part in (drops, self.changes, self.squares, self.values))
        return _versions(weights.sum(1), *sums, torch.einsum("rp,pko->rko", weights, moves))

    def _lost(self) -> tuple[Tensor, Tensor]:
        """<f(x), f(y) - f(x)> and f(y) - f(x), means over twins: exactly 0 where nothing is changed."""
        return self.products - self.squares[:, None], self.twin_values - self.values[:, None]

    def _defined(self, versions: dict[str, Tensor], version: Version) -> Tensor:
        if not bool(versions[version].isfinite().all()):
            raise ValueError(
                f"the {version} number is 0/0: at some choice of the {self.prompts} prompts f is zero or the same at"
                " all of them; give more prompts or another f, or read 'raw' and 'loss', which always exist"
            )
        return versions[version]

    def _left_out(self) -> dict[str, Tensor]:
        """Every version with each prompt left out in turn, in closed form, (prompts, strengths)."""
        less = lambda rows: rows.sum(0) - rows  # noqa: E731
        drops, moves = self._lost()
        sums = map(less, (drops, self.changes, self.squares, self.values, moves))
        return _versions(torch.full_like(self.squares, self.prompts - 1), *sums)


def _versions(
    count: Tensor, drops: Tensor, changes: Tensor, squares: Tensor, values: Tensor, moves: Tensor
) -> dict[str, Tensor]:
    """From sums over `count` prompts; products of means leave each draw's product with itself out.

    A prompt drawn twice by a bootstrap counts as two draws: else the variance would depend on the mean of f.
    """
    pairs = count * (count - 1)
    drop, loss, energy = drops / count[:, None], changes / count[:, None], squares / count
    drop_across = ((values[:, None] * moves).sum(-1) - drops) / pairs[:, None]
    mean_square = (values.square().sum(-1) - squares) / pairs
    variance = energy - mean_square
    variance = torch.where(variance > 1e-12 * energy, variance, torch.nan)  # a constant's is rounding
    return {
        "raw": energy[:, None] + drop,
        "normalised": 1 + drop / energy[:, None],
        "centred": 1 + (drop - drop_across) / variance[:, None],
        "loss": loss,
        "energy": energy,
        "mean_square": mean_square,
    }

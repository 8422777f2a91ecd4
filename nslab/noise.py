"""Three noises, each a maker of correlated twins: flipped bits, resampled tokens, Ornstein-Uhlenbeck.

A noise takes a batch x and returns y, the twin: each coordinate of y is correlated with the same coordinate of x and
independent of the others. Noise stability is then E[f(x) f(y)] = sum_k eigenvalue(k) W_k, where W_k is the energy of
f at degree k. The eigenvalue per degree is therefore all that distinguishes one noise from another in the spectrum.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Float64, Int, Integer, Shaped
from torch import Tensor


@dataclass(frozen=True)
class Flip:
    r"""Keep a bit with probability (1 + rho)/2, flip it otherwise, each bit on its own.

    Formula: $y_i = x_i$ with probability $(1+\rho)/2$, else $-x_i$, so that $E[x_i y_i] = \rho$ and
    $E[\chi_S(x) \chi_S(y)] = \rho^{|S|}$ for uniform x.

    Attributes:
        rho: correlation of a bit with its twin, in [-1, 1]. 1 keeps all, 0 makes an independent copy, -1 flips all.

    Errors: `ValueError` when `rho` is outside [-1, 1].

    Source: O'Donnell, Analysis of Boolean Functions (2014), section 2.4. Others give
    the flip rate delta instead: rho = 1 - 2 delta.
    """

    rho: float | int

    def __post_init__(self):
        _check("rho", self.rho, -1, 1)

    def twin(self, x: Shaped[Tensor, "*batch"], generator: torch.Generator | None = None) -> Shaped[Tensor, "*batch"]:
        """The correlated twin of bits ±1, of any shape, in a signed dtype; dtype and device are kept.

        Errors: `ValueError` when an element is not ±1.
        """
        if not x.dtype.is_signed or not bool((x.abs() == 1).all()):
            raise ValueError("x has entries other than ±1: map bits {0, 1} by 1 - 2 * x, in a signed dtype, first")
        flipped = torch.rand(x.shape, generator=generator, device=x.device) < (1 - self.rho) / 2
        return torch.where(flipped, -x, x)

    def eigenvalue(self, degree: int | Shaped[Tensor, "..."]) -> float | Float[Tensor, "..."]:
        """Eigenvalue rho ** degree: what the noise leaves of a degree-k character. Degrees may be a tensor."""
        return _power(self.rho, degree)


@dataclass(frozen=True, eq=False)
class Resample:
    r"""Keep a token with probability `keep`, else draw a new one from a law, each position on its own.

    Formula: $y_i = x_i$ with probability `keep`, else $y_i \sim$ law. The draw may return the old token. For tokens
    drawn independently from the law, and f with the Efron-Stein parts $f^{=S}$,
    $E[f(x) f(y)] = \sum_S \mathrm{keep}^{|S|} \|f^{=S}\|^2$.

    Attributes:
        keep: probability that a token is kept, in [0, 1]. It is the eigenvalue per degree, and the correlation. The
            measures of `nslab.stability` at prompts take 0 only, where every token is drawn anew.
        vocabulary: number of token ids; ids run from 0 to vocabulary - 1.
        special: ids that noise never touches and never produces (padding, separators, masks). A position holding one
            keeps it; every other position stays without one. The positions of special tokens are thus the same in the
            twin, and the degree counts the other positions only.
        law: probabilities over all ids (vocabulary,), 0 on special ones, sum 1; it is kept on the CPU in double
            precision. None is the uniform law on the ids that are not special. `unigram_law` counts one in a text.

    How to read it: on natural text tokens are neither drawn from the law nor independent, so the sum above no longer
    holds exactly; `keep` is still the share of tokens kept on purpose. Two noises are equal when all four attributes
    are.

    Errors: `ValueError` when `keep` is outside [0, 1], `vocabulary` is not positive, `special` has a repeated id,
    one outside the vocabulary, or leaves no token to draw, or `law` is not such a law.

    Source: O'Donnell (2014), chapter 8 (general product spaces). With two equally likely tokens, keeping or resampling
    with `keep` is keeping or flipping with rho = keep.
    """

    keep: float | int
    vocabulary: int
    special: tuple[int, ...] = ()
    law: Float[Tensor, " ids"] | None = None

    def __post_init__(self):
        _check("keep", self.keep, 0, 1)
        if self.vocabulary < 1:
            raise ValueError(f"vocabulary is {self.vocabulary}: give the number of token ids, at least 1")
        if len(set(self.special)) != len(self.special):
            raise ValueError(f"special is {self.special}: give each id once")
        outside = [token for token in self.special if not 0 <= token < self.vocabulary]
        if outside:
            raise ValueError(f"special has {outside}: ids run from 0 to {self.vocabulary - 1}")
        if len(self.special) == self.vocabulary:
            raise ValueError(f"special holds all {self.vocabulary} ids: leave at least one token to draw")
        if self.law is not None:
            object.__setattr__(self, "law", _checked_law(self.law, self.vocabulary, self.special))

    def twin(self, x: Shaped[Tensor, "*batch"], generator: torch.Generator | None = None) -> Integer[Tensor, "*batch"]:
        """The correlated twin of token ids, of any shape; dtype and device are kept.

        Errors: `ValueError` when x is not of an integer dtype, its dtype is too small for the vocabulary, or an id is
        outside the vocabulary.
        """
        may_change = self.touches(x)
        changed = torch.rand(x.shape, generator=generator, device=x.device) >= self.keep
        fresh = self.draw(x.shape, generator=generator, device=x.device)
        return torch.where(changed & may_change, fresh.to(x.dtype), x)

    def touches(self, x: Shaped[Tensor, "*batch"]) -> Bool[Tensor, "*batch"]:
        """Where the noise acts on token ids: everywhere but on special ones. Errors: as `twin`."""
        if x.is_floating_point() or x.is_complex() or x.dtype == torch.bool:
            raise ValueError(f"x has dtype {x.dtype}: token ids are integers")
        if torch.iinfo(x.dtype).max < self.vocabulary - 1:  # a fresh id would wrap around
            raise ValueError(f"x has dtype {x.dtype}, too small for ids up to {self.vocabulary - 1}: use x.long()")
        outside = (x.long() < 0) | (x.long() >= self.vocabulary)
        if bool(outside.any()):
            raise ValueError(f"x has token id {int(x[outside][0])}: ids run from 0 to {self.vocabulary - 1}")
        ordinary = torch.ones(x.shape, dtype=torch.bool, device=x.device)
        for token in self.special:
            ordinary &= x != token
        return ordinary

    def draw(
        self,
        shape: Sequence[int],
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
    ) -> Int[Tensor, "..."]:
        """Independent tokens from the law, (*shape) in int64: fresh tokens, or whole prompts of the product law."""
        if self.law is None:
            return self._skip(torch.randint(self.ordinary, tuple(shape), generator=generator, device=device))
        fine = {} if torch.device(device or "cpu").type == "mps" else {"dtype": torch.float64}
        return self.quantile(torch.rand(tuple(shape), generator=generator, device=device, **fine))

    def quantile(self, uniform: Float[Tensor, "*batch"]) -> Int[Tensor, "*batch"]:
        """The tokens at which the cumulative law passes numbers from [0, 1): uniform numbers become draws."""
        if self.law is None:
            return self._skip((uniform * self.ordinary).long().clamp(max=self.ordinary - 1))
        where = torch.device("cpu") if uniform.device.type == "mps" else uniform.device
        found = torch.searchsorted(self._cumulative.to(where), uniform.to(where, torch.float64), right=True)
        return found.clamp(max=int(self._cumulative.argmax())).to(uniform.device)

    def probabilities(self) -> Float64[Tensor, " ids"]:
        """The law over all ids (vocabulary,), in double precision on the CPU, sum 1."""
        if self.law is not None:
            return self.law / self.law.sum()
        law = torch.ones(self.vocabulary, dtype=torch.float64)
        law[list(self.special)] = 0
        return law / self.ordinary

    def eigenvalue(self, degree: int | Shaped[Tensor, "..."]) -> float | Float[Tensor, "..."]:
        """Eigenvalue keep ** degree: what the noise leaves of the part of f that needs k tokens."""
        return _power(self.keep, degree)

    @property
    def ordinary(self) -> int:
        """Number of ids that are not special."""
        return self.vocabulary - len(self.special)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Resample):
            return NotImplemented
        if (self.law is None) != (other.law is None):
            return False
        return self._numbers == other._numbers and (self.law is None or torch.equal(self.law, other.law))

    def __hash__(self) -> int:
        return hash(self._numbers)

    @property
    def _numbers(self) -> tuple:
        return self.keep, self.vocabulary, self.special

    @cached_property
    def _cumulative(self) -> Tensor:
        total = self.law.cumsum(0)
        return total / total[-1]  # an id of probability 0 repeats its predecessor's value, and is never passed

    def _skip(self, ranks: Tensor) -> Tensor:
        """Ids from ranks among those not special: step over each special id, so the rest stay equally likely."""
        for token in sorted(self.special):
            ranks = ranks + (ranks >= token)
        return ranks


def unigram_law(
    ids: Integer[Tensor, "..."], vocabulary: int, special: tuple[int, ...] = (), smoothing: float | int = 0
) -> Float64[Tensor, " ids"]:
    r"""How often each token occurs in a text: $p_t = (c_t + \text{smoothing}) / \sum_s (c_s + \text{smoothing})$.

    Args:
        ids: token ids of any shape.
        vocabulary: number of token ids.
        special: ids that get probability 0, whatever their count.
        smoothing: added to the count c_t of every id that is not special, at least 0. At 0, tokens that the text lacks
            are never drawn.

    Returns:
        Probabilities (vocabulary,) in double precision on the CPU, to hand to `Resample` as `law`.

    Errors: `ValueError` for ids outside the vocabulary, a negative `smoothing`, or nothing left to count.

    >>> unigram_law(torch.tensor([0, 2, 2, 1]), 4, special=(1,)).tolist()
    [0.333..., 0.0, 0.666..., 0.0]
    """
    if not 0 <= smoothing < math.inf:
        raise ValueError(f"smoothing is {smoothing}: it is added to counts, give 0 or more")
    Resample(1, vocabulary, special).touches(ids)
    counts = torch.bincount(ids.flatten().long().cpu(), minlength=vocabulary).double() + smoothing
    counts[list(special)] = 0
    if not counts.sum() > 0:
        raise ValueError(f"ids holds no token outside special = {special}: give a text, or smoothing above 0")
    return counts / counts.sum()


@dataclass(frozen=True)
class OrnsteinUhlenbeck:
    r"""Mix a standard Gaussian with fresh noise: $y = \rho x + \sqrt{1 - \rho^2}\, z$, z an independent N(0, I).

    For x ~ N(0, I) the twin has the same law, $E[x_i y_i] = \rho$, and a Hermite polynomial of degree k satisfies
    $E[h_k(x) h_k(y)] = \rho^k$ (normalised, $E[h_k^2] = 1$).

    Attributes:
        rho: correlation of a coordinate with its twin, in [-1, 1].

    Errors: `ValueError` when `rho` is outside [-1, 1].

    Source: O'Donnell (2014), sections 11.1 and 11.2. In the semigroup form rho = exp(-t).
    """

    rho: float | int

    def __post_init__(self):
        _check("rho", self.rho, -1, 1)

    def twin(self, x: Shaped[Tensor, "*batch"], generator: torch.Generator | None = None) -> Float[Tensor, "*batch"]:
        """The correlated twin of Gaussian coordinates (unit variance), of any shape; dtype and device are kept.

        Differentiable in x. Errors: `ValueError` when x is not floating point.
        """
        if not x.is_floating_point():
            raise ValueError(f"x has dtype {x.dtype}: Gaussian noise needs a floating-point tensor")
        z = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        return self.rho * x + math.sqrt(1 - self.rho**2) * z

    def eigenvalue(self, degree: int | Shaped[Tensor, "..."]) -> float | Float[Tensor, "..."]:
        """Eigenvalue rho ** degree: what the noise leaves of a Hermite polynomial of total degree k."""
        return _power(self.rho, degree)


def paper_keep(rho: float | int) -> float:
    """The keep probability of the paper's regulariser, keep = (1 + rho)/2.

    Args:
        rho: the paper's parameter, in [-1, 1]; the paper takes it in (0, 1).

    Returns:
        The probability to hand to `Resample`.

    How to read it: (1 + rho)/2 is the probability for keeping or *flipping* a bit. The regulariser keeps or
    *resamples*, so its eigenvalue per degree is (1 + rho)/2 and not rho: rho = 0 still keeps half of the tokens.

    Errors: `ValueError` when `rho` is outside [-1, 1].

    Source: arXiv 2602.08287, Definition 6.1, as reported in a digest of the paper.

    >>> Resample(keep=paper_keep(0.25), vocabulary=113).eigenvalue(1)
    0.625
    """
    _check("rho", rho, -1, 1)
    return (1 + rho) / 2


def _check(name: str, value: float | int, low: int, high: int) -> None:
    if not low <= value <= high:  # NaN fails too
        raise ValueError(f"{name} is {value}: give a number from {low} to {high}")


def _checked_law(law: Tensor, vocabulary: int, special: tuple[int, ...]) -> Tensor:
    """The law on the CPU in double precision, refused unless it is one on the ids that are not special."""
    if law.shape != (vocabulary,):
        raise ValueError(f"law has shape {tuple(law.shape)}: give one probability for each id, shape ({vocabulary},)")
    law = law.detach().to("cpu", torch.float64, copy=True)
    if not bool((law >= 0).all()) or not bool(torch.isfinite(law).all()):
        where = int(((law >= 0) & law.isfinite()).logical_not().nonzero()[0])
        raise ValueError(f"law is {law[where]:g} at id {where}: probabilities are zero or positive")
    if taken := [token for token in special if law[token] > 0]:
        raise ValueError(f"law gives special ids {taken} a chance: set them to 0 and divide by the sum")
    if abs(float(law.sum()) - 1) > 1e-4:  # what single precision leaves of a long sum
        raise ValueError(f"law sums to {float(law.sum()):g}: divide it by its sum")
    return law


def _power(base: float | int, degree: int | Tensor) -> float | Tensor:
    """Base ** degree in float64 for integer degrees; 0 ** 0 is 1, since a constant feels no noise."""
    if isinstance(degree, Tensor):
        if bool((degree < 0).any()):
            raise ValueError(f"degree has {degree.min().item()}: degrees start at 0")
        if not degree.is_floating_point() and degree.device.type != "mps":  # MPS has no float64
            degree = degree.to(torch.float64)
        return float(base) ** degree
    if degree < 0:
        raise ValueError(f"degree is {degree}: degrees start at 0")
    return float(base) ** degree

"""Three product spaces and the noise that belongs to each: flipped bits, resampled tokens, mixed Gaussians.

The kind of space fixes the kind of noise. Bits and Gaussians have a correlation `rho`, tokens a keep probability
`keep`; the wrong word is refused, because (1 + rho)/2 keeps a bit and is the eigenvalue of tokens, and the two are
easily confused. Each space can draw points, draw the randomness of a noise apart from its strength (so that many
strengths share it), mirror that randomness (an antithetic twin), redraw one coordinate, and standardise coordinates.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from nslab.noise import Resample

Scalar = Float[Tensor, "..."] | Sequence[float | int] | float | int
"""A number, a sequence or a tensor of numbers; a number counts as a tensor without axes."""

Noise = tuple[Tensor, ...]

BELOW_ONE = 1 - 2.0**-24
"""The largest uniform number: what is kept with probability 1 stays kept in a mirror."""


@dataclass(frozen=True)
class Cube:
    """Uniform bits: x in {-1, 1}^n, and twins by flipping.

    Attributes:
        n: number of bits, at least 1.

    Noise: `rho` in [-1, 1]; each bit is flipped with probability (1 - rho)/2. Eigenvalue rho per degree.

    Errors: `ValueError` when n < 1.
    """

    n: int
    parameter: ClassVar[str] = "rho"
    lowest: ClassVar[float] = -1.0
    other: ClassVar[str] = (
        "the noise of Cube flips bits: give rho. Keeping or resampling a bit with probability keep is rho = keep;"
        " keeping or flipping it is rho = 2 * keep - 1"
    )

    def __post_init__(self):
        _at_least_one(self.n, "n", "the number of bits")

    @property
    def coordinates(self) -> int:
        """Number of coordinates."""
        return self.n

    @property
    def features(self) -> int:
        """Number of standardised features of degree 1."""
        return self.n

    def draw(self, count: int, generator=None, device=None, dtype=None) -> Float[Tensor, "count n"]:
        """Points with independent uniform bits ±1."""
        bits = torch.randint(2, (count, self.n), generator=generator, device=device)
        return 1 - 2 * bits.to(dtype or torch.get_default_dtype())

    def noise(self, x: Tensor, generator=None) -> Noise:
        """Uniform numbers, one a bit; with strength rho a bit flips where its number is above (1 + rho)/2."""
        fine = torch.promote_types(x.dtype, torch.float32)  # half precision would round the probability
        return (torch.rand(x.shape, generator=generator, device=x.device, dtype=fine),)

    def twin(self, x: Tensor, rho: float, noise: Noise) -> Tensor:
        """The twin of x that this randomness makes at strength rho."""
        return torch.where(noise[0] < (1 + rho) / 2, x, -x)

    def mirror(self, noise: Noise) -> Noise:
        """The same randomness seen from the other side: bits that nearly flipped come last."""
        return ((1 - noise[0]).clamp(max=BELOW_ONE),)

    def redraw(self, x: Tensor, i: int, generator=None) -> tuple[Tensor, float]:
        """The points with bit i flipped, and the factor w with Inf_i = w E[(f(x) - f(redrawn))**2]."""
        moved = x.clone()
        moved[:, i] = -x[:, i]
        return moved, 1 / 4

    def standardise(self, x: Tensor) -> Float[Tensor, "count features"]:
        """Features of degree 1 with mean 0 and variance 1: the bits themselves."""
        return x


@dataclass(frozen=True, eq=False)
class Tokens:
    """Tokens of one law: `length` independent ids from a vocabulary, and twins by keeping or resampling.

    Attributes:
        length: number of positions, at least 1.
        vocabulary: number of token ids, 0 .. vocabulary - 1.
        special: ids that are never drawn and never produced (padding, separators, masks).
        law: probabilities over all ids (vocabulary,), 0 on special ones, for example `nslab.noise.unigram_law`; uniform
            on the others by default.
        fresh: the noise that redraws every token; made, not given.

    Noise: `keep` in [0, 1]; each token is kept with probability keep, else drawn anew (perhaps the same one).
    Eigenvalue keep per degree. The paper's regulariser has keep = (1 + rho)/2 (`nslab.noise.paper_keep`), so its
    eigenvalue is (1 + rho)/2 and not rho.

    Errors: `ValueError` when length < 1, `special` repeats an id, has one outside the vocabulary or leaves none, or the
    law is not one on the ids that are left.
    """

    length: int
    vocabulary: int
    special: tuple[int, ...] = ()
    law: Float[Tensor, " ids"] | None = None
    fresh: Resample = field(init=False, repr=False)
    parameter: ClassVar[str] = "keep"
    lowest: ClassVar[float] = 0.0
    other: ClassVar[str] = (
        "the noise of Tokens keeps or resamples: give keep, which is the effective rho (the eigenvalue per degree). The"
        " paper's rho means keep = (1 + rho)/2: give keep=paper_keep(rho)"
    )

    def __post_init__(self):
        _at_least_one(self.length, "length", "the number of positions")
        _at_least_one(self.vocabulary, "vocabulary", "the number of token ids")
        fresh = Resample(0, self.vocabulary, self.special, self.law)
        object.__setattr__(self, "fresh", fresh)
        object.__setattr__(self, "law", fresh.law)

    @property
    def coordinates(self) -> int:
        """Number of coordinates."""
        return self.length

    @property
    def ordinary(self) -> int:
        """Number of ids that are not special."""
        return self.fresh.ordinary

    @property
    def features(self) -> int:
        """Number of standardised features of degree 1: one a position and ordinary id."""
        return self.length * self.ordinary

    def draw(self, count: int, generator=None, device=None, dtype=None) -> Shaped[Tensor, "count length"]:
        """Independent tokens of the law, in an integer dtype (int64)."""
        return self.fresh.draw((count, self.length), generator, device).to(dtype or torch.int64)

    def noise(self, x: Tensor, generator=None) -> Noise:
        """Uniform numbers, and ranks of fresh tokens (with a law their quantiles), one each a position."""
        source = {"generator": generator, "device": x.device}
        uniform = torch.rand(x.shape, **source)
        if self.law is None:
            return uniform, torch.randint(self.ordinary, x.shape, **source)
        fine = torch.float32 if x.device.type == "mps" else torch.float64
        return uniform, torch.rand(x.shape, dtype=fine, **source)

    def twin(self, x: Tensor, keep: float, noise: Noise) -> Tensor:
        """The twin of x that this randomness makes at strength keep."""
        uniform, ranks = noise
        fresh = self._ids(ranks) if self.law is None else self.fresh.quantile(ranks)
        return torch.where(uniform < keep, x, fresh.to(x.dtype))

    def mirror(self, noise: Noise) -> Noise:
        """Tokens that were nearly redrawn come last, and fresh ones move half the vocabulary, or of its law, on."""
        uniform, ranks = noise
        moved = (ranks + self.ordinary // 2) % self.ordinary if self.law is None else (ranks + 0.5) % 1
        return (1 - uniform).clamp(max=BELOW_ONE), moved

    def redraw(self, x: Tensor, i: int, generator=None) -> tuple[Tensor, float]:
        """The points with token i redrawn, and the factor w with Inf_i = w E[(f(x) - f(redrawn))**2].

        Where all tokens are equally likely, the new one is another one.
        """
        moved = x.clone()
        if self.law is not None:
            moved[:, i] = self.fresh.draw((len(x),), generator, x.device).to(x.dtype)
            return moved, 1 / 2
        if self.ordinary == 1:
            return x, 0.0
        step = torch.randint(1, self.ordinary, (len(x),), generator=generator, device=x.device)
        moved[:, i] = self._ids((self._ranks(x[:, i]) + step) % self.ordinary).to(x.dtype)
        return moved, (self.ordinary - 1) / (2 * self.ordinary)

    def standardise(self, x: Tensor) -> Float[Tensor, "count features"]:
        """Centred indicators ([x_i = t] - p_t) / sqrt(p_t) of ordinary ids t, isometric orthogonally to `roots`."""
        indicators = torch.nn.functional.one_hot(self._ranks(x), self.ordinary)  # (count, length, ids)
        fine = torch.float32 if x.device.type == "mps" else torch.float64  # a rounded p would bias what is subtracted
        root = self.roots.to(x.device, fine)
        return torch.where(root > 0, (indicators - root.square()) / root.clamp(min=1e-150), 0).flatten(1)

    @property
    def roots(self) -> Tensor:
        """Sqrt(p_t) of the ordinary ids (ordinary,), the direction in which features of a position do not vary."""
        ordinary = [token for token in range(self.vocabulary) if token not in self.special]
        return self.fresh.probabilities()[ordinary].sqrt()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tokens) and (self.length, self.fresh) == (other.length, other.fresh)

    def __hash__(self) -> int:
        return hash((self.length, self.fresh))

    def _ids(self, ranks: Tensor) -> Tensor:
        for token in sorted(self.special):  # step over each special id, so that the rest stay equally likely
            ranks = ranks + (ranks >= token)
        return ranks

    def _ranks(self, ids: Tensor) -> Tensor:
        ids = ids.long()
        return ids - sum((ids > token).long() for token in self.special) if self.special else ids


@dataclass(frozen=True)
class GaussianSpace:
    """Standard Gaussian vectors, and twins by Ornstein-Uhlenbeck noise y = rho x + sqrt(1 - rho**2) z.

    Attributes:
        dimension: number of coordinates, at least 1.

    Noise: `rho` in [-1, 1]. Eigenvalue rho per degree of a Hermite polynomial.

    Errors: `ValueError` when dimension < 1.
    """

    dimension: int
    parameter: ClassVar[str] = "rho"
    lowest: ClassVar[float] = -1.0
    other: ClassVar[str] = "the noise of GaussianSpace mixes: give rho, the correlation of a coordinate with its twin"

    def __post_init__(self):
        _at_least_one(self.dimension, "dimension", "the number of coordinates")

    @property
    def coordinates(self) -> int:
        """Number of coordinates."""
        return self.dimension

    @property
    def features(self) -> int:
        """Number of standardised features of degree 1."""
        return self.dimension

    def draw(self, count: int, generator=None, device=None, dtype=None) -> Float[Tensor, "count dimension"]:
        """Independent standard Gaussian points."""
        return torch.randn(count, self.dimension, generator=generator, device=device, dtype=dtype)

    def noise(self, x: Tensor, generator=None) -> Noise:
        """Fresh standard Gaussians."""
        return (torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype),)

    def twin(self, x: Tensor, rho: float, noise: Noise) -> Tensor:
        """The twin of x that this randomness makes at strength rho."""
        return rho * x + max(0.0, 1 - rho**2) ** 0.5 * noise[0]

    def mirror(self, noise: Noise) -> Noise:
        """The opposite noise."""
        return (-noise[0],)

    def redraw(self, x: Tensor, i: int, generator=None) -> tuple[Tensor, float]:
        """The points with coordinate i drawn anew, and the factor w with Inf_i = w E[(f(x) - f(redrawn))**2]."""
        moved = x.clone()
        moved[:, i] = torch.randn(len(x), generator=generator, device=x.device, dtype=x.dtype)
        return moved, 1 / 2

    def standardise(self, x: Tensor) -> Float[Tensor, "count features"]:
        """Features of degree 1 with mean 0 and variance 1: the coordinates themselves."""
        return x


Space = Cube | Tokens | GaussianSpace


def check_space(space: object) -> None:
    """Refuse what is no space, such as a number of bits."""
    if not isinstance(space, Space):
        raise ValueError(f"space is {space!r}: give Cube(n), Tokens(length, vocabulary) or GaussianSpace(dimension)")


def strengths(space: Space, rho: Scalar | None, keep: Scalar | None) -> Float[Tensor, "..."]:
    """The one of `rho` and `keep` that belongs to the space, in double precision, refused out of range."""
    check_space(space)
    given = {"rho": rho, "keep": keep}
    value = given.pop(space.parameter)
    ((wrong, misplaced),) = given.items()
    if misplaced is not None:
        raise ValueError(f"{wrong} = {misplaced} does not fit {space}: {space.other}")
    if value is None:
        raise ValueError(f"{space.parameter} is missing: {space.other}")
    value = torch.as_tensor(value, dtype=torch.float64, device="cpu").detach()
    allowed = (value >= space.lowest) & (value <= 1)
    if not bool(allowed.all()):
        worst = value[~allowed].flatten()[0].item()
        meaning = "it is the probability that a token is kept"
        if space.parameter == "rho":
            meaning = "it is the correlation of a coordinate with its twin"
        raise ValueError(f"{space.parameter} = {worst:g} is outside [{space.lowest:g}, 1]: {meaning}")
    if value.numel() == 0:
        raise ValueError(f"{space.parameter} has shape {tuple(value.shape)}: give at least one value")
    return value


def _at_least_one(value: int, name: str, meaning: str) -> None:
    if value < 1:
        raise ValueError(f"{name} = {value}: it is {meaning}, give at least 1")

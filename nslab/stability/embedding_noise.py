"""Gaussian noise on token embeddings: the Ornstein-Uhlenbeck twin, at the mean and the spread of the embeddings."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nslab.stability.spaces import Scalar


@dataclass(frozen=True, eq=False)
class EmbeddingNoise:
    r"""Mix an embedding with fresh noise: $y = m + \rho (e - m) + \sqrt{1 - \rho^2}\; s \odot z$, z ~ N(0, I).

    Attributes:
        mean: m (width,), the mean of each coordinate over embeddings.
        scale: s (width,), the standard deviation of each coordinate, not negative.

    How to read it: the noise does not know which coordinates vary together. Over embeddings with this mean and these
    deviations, y has the same ones, and each coordinate of y is rho-correlated with its own in e; for rho = 0 the
    token is forgotten. If the embeddings were Gaussian with independent coordinates, rho would be the eigenvalue per
    degree, as in `GaussianSpace`. Embeddings are points of a finite set, so this is a picture, not a theorem.

    Errors: `ValueError` when the shapes differ or a deviation is negative or not finite.
    """

    mean: Float[Tensor, "..."]
    scale: Float[Tensor, "..."]

    def __post_init__(self):
        if self.mean.shape != self.scale.shape or self.mean.ndim != 1:
            shapes = f"mean has shape {tuple(self.mean.shape)}, scale {tuple(self.scale.shape)}"
            raise ValueError(f"{shapes}: give one number a coordinate, twice")
        if not bool((self.scale >= 0).all()) or not bool(self.scale.isfinite().all()):
            raise ValueError(f"scale has {self.scale.min().item():g}: standard deviations are finite and not negative")

    @staticmethod
    def of(
        embeddings: Float[Tensor, "*rows width"], weights: Float[Tensor, " table"] | None = None
    ) -> "EmbeddingNoise":
        """The noise at the mean and the deviations of embeddings.

        Args:
            embeddings: rows in use (prompts, length, width), or an embedding table (vocabulary, width).
            weights: probabilities of a table's rows (vocabulary,), for example `unigram_law`; equal ones by default.

        Returns:
            `EmbeddingNoise` in at least single precision, on the device of the embeddings.
        """
        rows = embeddings.detach().flatten(0, -2)
        rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
        if weights is None:
            return EmbeddingNoise(rows.mean(0), rows.std(0, correction=0))
        if weights.shape != (len(rows),):
            raise ValueError(f"weights has shape {tuple(weights.shape)}: give one for each of {len(rows)} rows")
        share = (weights / weights.sum()).to(rows)[:, None]
        mean = (share * rows).sum(0)
        return EmbeddingNoise(mean, (share * (rows - mean) ** 2).sum(0).sqrt())

    def twin(
        self,
        embeddings: Float[Tensor, "*rows width"],
        rho: float | int | Float[Tensor, "..."],
        z: Float[Tensor, "*rows width"],
    ) -> Float[Tensor, "*rows width"]:
        """The twin that standard Gaussians z make at correlation rho (it broadcasts), in the embeddings' dtype."""
        rho = rho if isinstance(rho, Tensor) else torch.tensor(rho, dtype=torch.float64)
        fresh = ((1 - rho) * (1 + rho)).clamp(min=0).sqrt()  # before rounding: 1 - rho**2 is small next to 1
        mean, scale, rho, fresh = (part.to(z) for part in (self.mean, self.scale, rho, fresh))
        mixed = mean + rho * (embeddings.to(z.dtype) - mean) + fresh * scale * z
        return mixed.to(embeddings.dtype)

    def draw(self, embeddings: Float[Tensor, "*rows width"], generator: torch.Generator | None = None) -> Tensor:
        """Standard Gaussians of the shape of the embeddings, in at least single precision."""
        fine = torch.promote_types(embeddings.dtype, torch.float32)
        return torch.randn(embeddings.shape, generator=generator, device=embeddings.device, dtype=fine)


def correlations(rho: Scalar, name: str = "rho") -> Float[Tensor, "..."]:
    """Strengths (*rho) on the CPU in double precision, refused outside [0, 1] and when empty."""
    levels = torch.as_tensor(rho, dtype=torch.float64, device="cpu").detach()
    allowed = (levels >= 0) & (levels <= 1)
    if not bool(allowed.all()) or not levels.numel():
        wrong = levels[~allowed].flatten().tolist() or "empty"
        raise ValueError(f"{name} is {wrong}: give numbers from 0 to 1")
    return levels


def check_embeddings(embeddings: Tensor, noisy: Bool[Tensor, "..."] | None = None) -> None:
    """Refuse embeddings that are not (prompts, length, width) of real numbers, and a `noisy` of another shape."""
    if embeddings.ndim != 3 or 0 in embeddings.shape or not embeddings.is_floating_point():
        raise ValueError(
            f"embeddings has shape {tuple(embeddings.shape)} and dtype {embeddings.dtype}: give floating-point numbers"
            " (prompts, length, width), for example model.embed(ids)"
        )
    if noisy is not None and noisy.shape != embeddings.shape[:2]:
        raise ValueError(
            f"noisy has shape {tuple(noisy.shape)}: say for each position whether noise acts there, shape"
            f" {tuple(embeddings.shape[:2])}; for example resample.touches(ids)"
        )

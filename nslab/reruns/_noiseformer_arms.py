"""The arms of NoiseFormer's pre-training: what each network is, how wide its MLP, and what a token costs it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from nslab.attention.settings import VARIANTS, ScoreSettings
from nslab.training.noise_kl import NoiseKL, noise_regulariser
from nslab.transformer import Transformer, TransformerConfig
from nslab.transformer.accounting import block_products, hidden_for_equal_parameters, parameter_count
from nslab.transformer.noiseformer import network

STANDARD = "standard"


@dataclass(frozen=True)
class Arm:
    """One way of training.

    Attributes:
        says: what it is, in a phrase.
        variant: of the attention: "standard", or a name in `VARIANTS`.
        equal: whether the MLP is widened until the network has as many parameters as the standard one, or almost.
        regularised: whether the KL of the noise has its weight, or 0.
        other_batches: whether it sees other batches than the arms beside it.
    """

    says: str
    variant: str
    equal: bool = True
    regularised: bool = True
    other_batches: bool = False

    @property
    def scores(self) -> ScoreSettings | None:
        """The score function; None for standard attention."""
        return None if self.variant == STANDARD else VARIANTS[self.variant]

    @property
    def noisy(self) -> bool:
        """Whether the network has learned noise."""
        return self.scores is not None and self.scores.noise is not None

    def shape(self, standard: TransformerConfig) -> TransformerConfig:
        """The shape of the network, from that of the standard one."""
        if self.scores is None or not self.equal:
            return standard
        hidden = hidden_for_equal_parameters(standard, self.scores, parameter_count(standard))
        return replace(standard, hidden=hidden)

    def network(self, standard: TransformerConfig, seed: int, device: torch.device | str | None = None) -> Transformer:
        """A network with the initial weights of a seed."""
        generator = torch.Generator().manual_seed(seed)
        return network(self.shape(standard), self.scores, generator=generator, device=device)

    def penalties(self, beta: float | int) -> Sequence[tuple[float | int, NoiseKL]]:
        """What a trainer adds to the loss: the KL of the noise, if there is one."""
        return [noise_regulariser(beta if self.regularised else 0)] if self.noisy else []


ARMS = {
    STANDARD: Arm("queries and keys apart", STANDARD),
    "standard-again": Arm("the same on other batches: what luck alone can do", STANDARD, other_batches=True),
    "symmetric": Arm("queries and keys tied", "symmetric"),
    "pairwise": Arm("tied, with a matrix of coefficients a head", "pairwise"),
    "v1-relative": Arm("tied, with noise by distance that the heads share", "v1-relative"),
    "v2-relative": Arm("tied, with noise by distance of each head's own", "v2-relative"),
    "low-rank": Arm("tied, with an asymmetric term of low rank: a control without noise", "low-rank"),
    "v2-amortised": Arm("tied, with noise on the keys that depends on the token", "v2-amortised"),
    "symmetric-small": Arm("tied, with the standard MLP: fewer parameters, as in the paper", "symmetric", equal=False),
    "v2-relative-no-kl": Arm("as v2-relative, without the KL", "v2-relative", regularised=False),
}


def arms_of(names: Sequence[str]) -> dict[str, Arm]:
    """The arms by name.

    Errors: `ValueError` for an unknown arm, or without "standard".
    """
    if unknown := [name for name in names if name not in ARMS]:
        raise ValueError(f"arms has {unknown[0]!r}: choose from {', '.join(ARMS)}")
    if STANDARD not in names:
        raise ValueError(f"arms is {', '.join(names) or 'empty'}: add {STANDARD}, which all others are held against")
    return {name: ARMS[name] for name in names}


def training_flops(config: TransformerConfig, scores: ScoreSettings | None, length: int) -> int:
    r"""Floating point operations of a training step a token: what the matrix products of forward and backward cost.

    Formula: $6\,(P + V d + L\,T (2 d + r H))$ with $P$ the products of a token with the weights of the blocks
    (`accounting.block_products`), $V d$ those with the output matrix, $T$ the length, and $r H$ for scores of low rank.
    A product and a sum are two operations, and the backward pass costs two forward passes.

    Args:
        config: the shape.
        scores: its symmetric attention; None for standard attention.
        length: T. Each token counts as looking at all T, as is the custom; a causal kernel can do with half of that.

    Source: the counting of Chowdhery et al. (2022), PaLM, appendix B, which nanoGPT follows.
    """
    rank = scores.rank * config.heads if scores is not None and scores.kind == "low-rank" else 0
    pairs = config.layers * length * (2 * config.width + rank)
    return 6 * (block_products(config, scores) + config.output_width * config.width + pairs)

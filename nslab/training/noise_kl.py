"""The KL of learned attention noise as a penalty: what keeps the noise of a `NoiseFormer` from dying out.

model = network(shape, VARIANTS["v2-relative"], generator=generator)
Trainer(model, config, batch, penalties=[noise_regulariser(beta=1e-3)])
"""

from dataclasses import dataclass
from math import inf

import torch
from jaxtyping import Float
from torch import Tensor

from nslab.protocols import Model
from nslab.transformer.noiseformer import NoiseFormer

REDUCTIONS = ("parameters", "entries")


@dataclass(frozen=True)
class NoiseKL:
    r"""How far the learned noise of a network is from a standard normal one, in nats.

    Formula: of one noise variable $\frac12 (\mu^2 + \sigma^2 - 1 - \ln \sigma^2)$. "parameters": its mean over the
    parameters of a layer, and of that the mean over layers; where the noise depends on the token, also over tokens.
    "entries": its sum over all noise variables of the allowed entries, a predicted token.

    Args:
        reduction: "parameters" or "entries".

    Returns:
        From a call a scalar. It reads what the pass of the step has left behind, so it costs no pass of its own.

    How to read it: 0 where all noise is standard normal. "entries" is the literal bound on the likelihood; with the
    weight 1 it outweighs the loss thousands of times, and the noise learns nothing else.

    Errors: `ValueError` for an unknown reduction, or a network without learned noise.

    Source: arXiv 2601.11619 adds such a term according to a review; weight and reduction are not known to us, and ours
    are reconstructed. Kingma & Welling (2014), appendix B, for the formula.
    """

    reduction: str = "parameters"

    def __post_init__(self):
        if self.reduction not in REDUCTIONS:
            raise ValueError(f"reduction is {self.reduction!r}: choose one of {', '.join(REDUCTIONS)}")

    def __call__(
        self, model: Model, x: Tensor, output: Tensor, /, *, generator: torch.Generator | None = None
    ) -> Float[Tensor, ""]:
        """The KL, with its gradient, as `protocols.Penalty` wants it."""
        if not isinstance(model, NoiseFormer) or model.scores.noise is None:
            name = model.variant if isinstance(model, NoiseFormer) else type(model).__name__
            raise ValueError(
                f"model is {name}, which has no learned noise: drop this penalty, or train a variant with noise, such "
                "as VARIANTS['v2-relative']"
            )
        return model.kl(self.reduction)


def noise_regulariser(beta: float | int, reduction: str = "parameters") -> tuple[float | int, NoiseKL]:
    r"""The pair (weight, penalty) that a trainer takes.

    Args:
        beta: weight of the KL, at least 0. With "parameters" 1e-3 is a good start.
        reduction: as in `NoiseKL`.

    Errors: `ValueError` for a beta below 0 or not finite, or an unknown reduction.

    >>> noise_regulariser(1e-3)
    (0.001, NoiseKL(reduction='parameters'))
    """
    if not 0 <= beta < inf:
        raise ValueError(f"beta is {beta}: give 0 or more; a negative weight would blow the noise up")
    return beta, NoiseKL(reduction)

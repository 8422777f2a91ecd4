"""What is added to a training, one thing at a time: the arms of `nslab.reruns.barrier_robustness`."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from nslab.barrier.blocks import jacobian_blocks
from nslab.barrier.embedding_prior import EmbeddingPrior, embedded
from nslab.barrier.head_barrier import HeadBarrier
from nslab.barrier.moments import score_matrix
from nslab.protocols import Penalty
from nslab.reruns import _barrier_measures as measuring
from nslab.training.transformer_stack import TransformerStack
from nslab.transformer import Transformer, TransformerConfig

Kind = Literal["none", "heads", "embeddings", "spectral"]
STRENGTHS = (0.01, 0.02, 0.05, 0.1, 0.5)
DROPPED = 0.1
NOISE = 0.25  # on embeddings in training, in units of their root mean square
SPECTRAL = 0.01
GPT2_WIDTH = 768  # where matrices of standard deviation 0.02 are at home


@dataclass(frozen=True)
class Arm:
    """One way to train, held against the plain one.

    Attributes:
        says: what it does, in a sentence.
        kind: which penalty: "none"; "heads", on all real heads; "embeddings", an `EmbeddingPrior` on the embeddings
            with positions, which has weights of its own; "spectral", on the norms of the heads' score matrices.
        variant: of "heads" the shape of the barrier, of "embeddings" what is scored.
        strength: the penalty's weight, lambda.
        dropout: as in `TransformerStack`.
        noise: as in `TransformerStack`.
        decay: factor on the weight decay.
        batches: added to the seed of the batches.
    """

    says: str
    kind: Kind = "none"
    variant: str = ""
    strength: float = 0.0
    dropout: float = 0.0
    noise: float = 0.0
    decay: float = 1.0
    batches: int = 0


def _grid() -> dict[str, Arm]:
    found = {}
    for strength in STRENGTHS:
        for variant, says in (
            ("margin-only", "The barrier alone, on the input embeddings."),
            ("full", "The barrier and the size of the residuals, on the input embeddings."),
            ("residual-only", "The size of the residuals without the barrier, on the input embeddings."),
        ):
            found[f"embeddings-{variant}-{strength:g}"] = Arm(says, "embeddings", variant, strength)
        for variant, says in (
            ("raw", "Minus the logarithm of |det|, on the real heads."),
            ("onesided", "As raw, but with a wall for negative determinants."),
            ("hinge", "The wall without the reward: nothing is gained by a determinant above 1, on the real heads."),
            ("kl", "Heads whose query path keeps volumes and directions, on the real heads."),
        ):
            found[f"heads-{variant}-{strength:g}"] = Arm(says, "heads", variant, strength)
    return found


ARMS = {
    "none": Arm("Cross-entropy and weight decay, nothing else."),
    "none-again": Arm("Nothing is added and the batches are others: what luck alone can do.", batches=1000),
    **_grid(),
    "dropout": Arm(f"A share of {DROPPED:g} of the stream's coordinates is dropped.", dropout=DROPPED),
    "embedding-noise": Arm(f"Gaussian noise of {NOISE:g} root mean squares on the embeddings.", noise=NOISE),
    "spectral": Arm("The largest singular value of each head's score matrix is punished.", "spectral", "", SPECTRAL),
    "more-decay": Arm("Twice the weight decay.", decay=2.0),
}
"""All arms by name, "none" first: every other one is held against it."""


def untrained(shape: TransformerConfig, seeds: int, spread: float | int) -> list[Transformer]:
    """The networks that all arms start from: embeddings of one standard deviation, matrices that fit the width."""
    models = []
    for seed in range(seeds):
        model = Transformer(shape, generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if name in ("tokens.weight", "positions.weight"):
                    weight.mul_(spread / weight.std())
                elif weight.ndim == 2:
                    weight.mul_(math.sqrt(GPT2_WIDTH / shape.width))
        models.append(model)
    return models


def stack(arm: Arm, models: list[Transformer], rows: int, device: torch.device) -> TransformerStack:
    """The members of an arm, with the weights that its penalty trains, and its chance.

    Args:
        arm: which.
        models: the members, untrained.
        rows: as in `penalties`.
        device: where they are trained.
    """
    extras = []
    if arm.kind == "embeddings":
        width, drawn = models[0].config.width, [torch.Generator().manual_seed(seed) for seed in range(len(models))]
        extras = [EmbeddingPrior(width, variant=arm.variant, rows=rows, generator=one) for one in drawn]
    return TransformerStack(
        models, extras=extras, dropout=arm.dropout, noise=arm.noise, generator=torch.Generator(device).manual_seed(0)
    ).to(device)


def penalties(arm: Arm, rows: int) -> list[tuple[float, Penalty]]:
    """What a `Trainer` takes for a stack: the sum over members of what each alone would be charged.

    Args:
        arm: which.
        rows: positions on which a barrier is taken at each step, of each window for "heads", of all for "embeddings".
    """
    barrier = HeadBarrier(rows=rows, kind=arm.variant) if arm.kind == "heads" else None

    def penalty(
        model: TransformerStack, x: Tensor, output: Tensor, /, *, generator: torch.Generator | None = None
    ) -> Tensor:
        match arm.kind:
            case "heads":  # a mean over heads, those of all members
                return model.members * barrier.of(model.stages(), generator)
            case "spectral":
                return model.members * torch.linalg.matrix_norm(head_scores(model), 2).mean()
            case "embeddings":
                return sum(prior.of(model.entered[:, m], generator) for m, prior in enumerate(model.extras))

    return [] if arm.kind == "none" else [(arm.strength, penalty)]


def head_scores(model: TransformerStack) -> Tensor:
    """The score matrices A of all heads, (layers, members, heads, width, width)."""
    shape, found = model.config, []
    for number in range(shape.layers):
        qkv = model.weights[f"layers/{number}/attention/qkv/weight"].unflatten(1, (3, shape.heads, -1))
        found.append(score_matrix(qkv[:, 1], qkv[:, 0]))  # (members, heads, width, width)
    return torch.stack(found)


@torch.no_grad()
def prior_measures(prior: EmbeddingPrior, model: Transformer, x: Tensor) -> dict:
    """Of the prior's attention over embeddings: quantiles of log|det|, ends of the spectrum of A's symmetric part."""
    scores, u = prior.scores, prior.enter(embedded(model, x))
    blocks = jacobian_blocks(u, scores, rows=torch.arange(measuring.NEUTRAL, x.shape[1], device=x.device))
    eigenvalues = torch.linalg.eigvalsh((scores + scores.mT) / 2)
    return {
        "prior_quantiles": measuring.quantiles(torch.linalg.slogdet(blocks).logabsdet.cpu()),
        "prior_eigenvalues": [float(eigenvalues[0]), float(eigenvalues[-1])],
    }

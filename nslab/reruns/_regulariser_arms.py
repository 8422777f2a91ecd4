"""What is added to a training, one thing at a time: the arms of `nslab.reruns.regulariser`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Literal

from nslab.noise import Flip, Resample, paper_keep
from nslab.protocols import Penalty
from nslab.training.control_penalties import EmbeddingNoisePenalty, L1Penalty, LabelSmoothingPenalty
from nslab.training.penalties import (
    ConfidencePenalty,
    Outputs,
    SensitivityPenalty,
    StabilityPenalty,
    each_member,
)

Kind = Literal[
    "none", "stability", "low degree", "confidence", "sensitivity", "embedding noise", "label smoothing", "l1"
]
Task = Literal["pairs", "parity"]
BOTH: tuple[Task, ...] = ("pairs", "parity")
SPREAD = 0.3  # of the noise on embeddings, in units of their root mean square
SMOOTHING = 0.1  # the share of each label that is spread over all classes


@dataclass(frozen=True)
class Arm:
    """One way to train, held against the plain one.

    Attributes:
        says: what it does, in a sentence.
        kind: which penalty is added; "none" adds none.
        gamma: its weight, at least 0.
        rho: of the regulariser, the paper's: a token or bit is kept with probability (1 + rho)/2, else drawn anew.
        orientation: 1 rewards stability, low degree or confidence, 0 punishes it.
        detach: which branch is taken as a constant, as in `StabilityPenalty`.
        decay: factor on the setting's weight decay.
        batches: seed of the draws of batches, where there are any.
        tasks: which tasks it is tried on, "pairs" or "parity".

    Errors: `ValueError` for a gamma or decay below 0, or a rho outside [-1, 1].
    """

    says: str
    kind: Kind = "none"
    gamma: float = 0.0
    rho: float | None = None
    orientation: int = 1
    detach: Literal["twin", "input"] | None = None
    decay: float = 1.0
    batches: int = 0
    tasks: tuple[Task, ...] = ("pairs",)

    def __post_init__(self):
        if not 0 <= self.gamma < inf:
            raise ValueError(f"gamma has {self.gamma}: give 0 or more; to punish stability there is orientation 0")
        if not 0 <= self.decay < inf:
            raise ValueError(f"decay is {self.decay}: give a factor, 0 or more")
        if self.rho is not None:
            paper_keep(self.rho)


def _stability(says: str, gamma: float, rho: float, **changes: object) -> Arm:
    return Arm(says, "stability", gamma, rho, **changes)


ARMS = {
    "plain": Arm("Cross-entropy and weight decay, nothing else.", tasks=BOTH),
    "plain-again": Arm(
        "Nothing is added and the batches are others: what luck alone can do.", batches=1, tasks=("parity",)
    ),
    "paper": _stability(
        "The paper's regulariser for modular addition; the gradient flows through both branches.",
        gamma=0.75,
        rho=0.25,
        tasks=BOTH,
    ),
    "paper-twin-detached": _stability(
        "The paper's regulariser with the twin's answer as a constant: the gradient flows through the input alone.",
        gamma=0.75,
        rho=0.25,
        detach="twin",
        tasks=BOTH,
    ),
    "paper-input-detached": _stability(
        "The paper's regulariser with the input's answer as a constant: the gradient flows through the twin alone.",
        gamma=0.75,
        rho=0.25,
        detach="input",
    ),
    "weaker": _stability("The paper's regulariser at about a quarter of its weight.", gamma=0.2, rho=0.25),
    "weakest": _stability("The paper's regulariser at a fifteenth of its weight.", gamma=0.05, rho=0.25),
    "stabler-noise": _stability("The paper's regulariser with milder noise.", gamma=0.75, rho=0.8),
    "paper-parity": _stability(
        "The paper's regulariser for sparse parity; the gradient flows through both branches.",
        gamma=0.05,
        rho=0.05,
        tasks=("parity",),
    ),
    "discourage": _stability(
        "The regulariser turned round: stability is punished.", gamma=0.75, rho=0.25, orientation=0, tasks=BOTH
    ),
    "discourage-weaker": _stability(
        "Stability is punished, at about a quarter of the weight.", gamma=0.2, rho=0.25, orientation=0
    ),
    "discourage-parity": _stability(
        "Stability is punished, at the paper's weight and noise for sparse parity.",
        gamma=0.05,
        rho=0.05,
        orientation=0,
        tasks=("parity",),
    ),
    "low-degree-bonus": Arm(
        "The paper's regulariser without its reward for confidence: what is left rewards low degree.",
        "low degree",
        gamma=0.75,
        rho=0.25,
    ),
    "low-degree-tax": Arm(
        "The same turned round: low degree is punished, and confidence is neither rewarded nor punished.",
        "low degree",
        gamma=0.75,
        rho=0.25,
        orientation=0,
    ),
    "confidence": Arm("Confidence alone is rewarded: the regulariser without noise.", "confidence", 0.75, tasks=BOTH),
    "unconfidence": Arm("Confidence alone is punished.", "confidence", 0.75, orientation=0, tasks=BOTH),
    "sensitivity": Arm("The average sensitivity of the class probabilities is punished.", "sensitivity", 0.1),
    "sensitivity-weaker": Arm("Average sensitivity is punished, at a tenth of that weight.", "sensitivity", 0.01),
    "less-decay": Arm("Half the weight decay.", decay=0.5, tasks=BOTH),
    "more-decay": Arm("Twice the weight decay.", decay=2.0, tasks=BOTH),
    "embedding-noise": Arm(
        "The regulariser's agreement under Gaussian noise on the embeddings, in place of other tokens.",
        "embedding noise",
        0.75,
    ),
    "label-smoothing": Arm(
        "A tenth of each label is spread over all classes.", "label smoothing", LabelSmoothingPenalty.weight(SMOOTHING)
    ),
    "l1": Arm("A small L1 penalty on all weights.", "l1", 1e-6),
}
"""All arms by name, "plain" first: every other one is held against it."""


def around(name: str, rho: float, gammas: Sequence[float]) -> list[Arm]:
    """One arm at other weights and another noise."""
    return [replace(ARMS[name], gamma=gamma, rho=rho) for gamma in gammas]


def penalties(
    arms: Sequence[Arm],
    seeds: int,
    *,
    noise: Callable[[float], Resample | Flip],
    outputs: Outputs,
    tables: tuple[str, ...],
) -> list[tuple[tuple[float, ...], Penalty]]:
    """What an `EnsembleTrainer` takes, for arms that differ in gamma alone; members are arms times seeds, by arm.

    Args:
        arms: at least one.
        seeds: members of each arm.
        noise: makes the noise of a rho.
        outputs: as in `StabilityPenalty`.
        tables: names of the weights that hold embeddings.
    """
    arm = arms[0]
    gammas = [one.gamma for one in arms for _ in range(seeds)]
    sign = 1 if arm.orientation == 1 else -1
    match arm.kind:
        case "none":
            return []
        case "low degree":  # E p(x).p(y) = r^2 E|p|^2 + terms of low degree alone, for two operands kept with r
            penalty, stays = each_member(StabilityPenalty(noise(arm.rho), arm.orientation)), paper_keep(arm.rho) ** 2
            neutral = tuple(-sign * gamma * stays for gamma in gammas)
            return [(tuple(gammas), penalty), (neutral, each_member(ConfidencePenalty()))]
        case "stability":
            options = {"orientation": arm.orientation, "detach": arm.detach, "outputs": outputs}
            penalty = each_member(StabilityPenalty(noise(arm.rho), **options))
        case "confidence":
            penalty = each_member(ConfidencePenalty(outputs))
        case "sensitivity":
            penalty = each_member(SensitivityPenalty(noise(-1), outputs=outputs))  # of the noise its law alone is used
        case "embedding noise":
            penalty = each_member(EmbeddingNoisePenalty(SPREAD, tables))
        case "label smoothing":
            penalty = each_member(LabelSmoothingPenalty())
        case "l1":
            penalty = L1Penalty()
    factor = sign if arm.kind == "confidence" else 1
    return [(tuple(factor * gamma for gamma in gammas), penalty)]

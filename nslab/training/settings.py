"""The settings of a training run, frozen and checked, and the learning rate that they give each step."""

import math
from dataclasses import dataclass
from typing import Literal

Schedule = Literal["cosine", "linear", "constant"]


@dataclass(frozen=True)
class TrainingConfig:
    """Everything that fixes a training run except the model, the data and the loss.

    Attributes:
        steps: updates of the weights.
        batch: rows of a step's batch, over all processes together.
        learning_rate: the peak, reached after the warm-up.
        weight_decay: AdamW's decay, on matrices only (embeddings included; biases and norms are left alone). Each step
            shrinks a matrix by the factor 1 - learning rate * weight_decay.
        betas: AdamW's averaging rates of the gradient and of its square, each in [0, 1).
        epsilon: what AdamW adds to the root of the mean square.
        warmup: steps in which the learning rate climbs linearly from 0 to its peak.
        schedule: "cosine" or "linear" descent after the warm-up, or "constant".
        floor: where the descent ends, as a share of the peak.
        clip: the largest 2-norm of all gradients together; longer ones are scaled back. None leaves them.
        evaluate_every: steps between two evaluations, each of which makes one entry of the history.
        seed: fixes the batches and the noise of penalties. The initial weights are the model's own.
        autocast: "bfloat16" computes matrix products in it, with float32 weights; None computes in the weights' dtype.

    Errors: `ValueError` naming the field, its value and the remedy.
    """

    steps: int
    batch: int
    learning_rate: float | int
    weight_decay: float | int = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    epsilon: float = 1e-8
    warmup: int = 0
    schedule: Schedule = "cosine"
    floor: float | int = 0.1
    clip: float | int | None = 1.0
    evaluate_every: int = 100
    seed: int = 0
    autocast: Literal["bfloat16"] | None = None

    def __post_init__(self):
        for name in ("steps", "batch", "evaluate_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: give at least 1")
        for name in ("learning_rate", "epsilon", "clip"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} is {value}: give a positive, finite number" + ", or None" * (name == "clip"))
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay is {self.weight_decay}: give 0 or a positive number")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas is {self.betas}: give two numbers from 0 to less than 1, for example (0.9, 0.95)")
        if not 0 <= self.warmup <= self.steps:
            raise ValueError(f"warmup is {self.warmup} for {self.steps} steps: give 0 to steps")
        if not 0 <= self.floor <= 1:
            raise ValueError(f"floor is {self.floor}: it is a share of the peak learning rate, from 0 to 1")
        for name, known in (("schedule", Schedule.__args__), ("autocast", ("bfloat16", None))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}: choose one of {', '.join(map(str, known))}")


def learning_rate(config: TrainingConfig, step: int) -> float:
    r"""The learning rate of the update number `step`, 0 .. steps - 1.

    Formula: with peak $\eta$, warm-up w and floor f: $\eta (t + 1) / w$ for $t < w$; then, with
    $u = (t - w) / \max(1, T - w) \in [0, 1)$, $\eta\,(f + (1 - f)\, s(u))$ where s is $(1 + \cos \pi u) / 2$, $1 - u$
    or 1.

    How to read it: with w = 0 the first update already has the peak. The last update is one step short of the floor.

    >>> config = TrainingConfig(steps=8, batch=1, learning_rate=1.0, warmup=4, schedule="linear", floor=0)
    >>> [learning_rate(config, step) for step in range(8)]
    [0.25, 0.5, 0.75, 1.0, 1.0, 0.75, 0.5, 0.25]
    """
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    u = (step - config.warmup) / max(1, config.steps - config.warmup)
    left = {"cosine": (1 + math.cos(math.pi * u)) / 2, "linear": 1 - u, "constant": 1.0}[config.schedule]
    return config.learning_rate * (config.floor + (1 - config.floor) * left)

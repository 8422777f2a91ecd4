"""The settings of an ensemble's training, and losses that give one number a member."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn import functional as F

Rates = float | int | tuple[float | int, ...]


@dataclass(frozen=True)
class EnsembleConfig:
    """Everything that fixes the training of an ensemble except the networks, the data and the loss.

    Attributes:
        steps: updates at most.
        learning_rate: one for all, or a tuple with one a member.
        weight_decay: as the learning rate. AdamW's decay is decoupled, that of "sgd" is coupled; both act on all
            weights, biases included, and multiply them by 1 - rate * decay a step. The default is for AdamW at small
            rates; with "sgd" at rate 1 it would erase the weights.
        optimizer: "adamw" or "sgd" (no momentum).
        betas: AdamW's averaging rates of the gradient and of its square.
        epsilon: what AdamW adds to the root of the mean square.
        warmup: steps in which the learning rate climbs linearly from 0 to its value, where it stays.
        batch: rows drawn for each member and step, with replacement; None takes all rows at every step.
        evaluate_every: steps between two evaluations.
        leave_at: a member leaves when this test accuracy is reached; None keeps all to the end, and so do measures
            without "test_accuracy".
        linger: evaluations that a member stays after it has reached `leave_at`.
        seed: fixes the batches and the noise of penalties.
        threads: of the CPU, during `run`; None leaves what is set. Small matrices are slower with more.
        tf32: whether a GPU may round the factors of products to 10 bits. False is strict float32.

    Errors: `ValueError` naming the field, its value and the remedy.
    """

    steps: int
    learning_rate: Rates
    weight_decay: Rates = 1.0
    optimizer: Literal["adamw", "sgd"] = "adamw"
    betas: tuple[float, float] = (0.9, 0.98)
    epsilon: float = 1e-8
    warmup: int = 0
    batch: int | None = None
    evaluate_every: int = 25
    leave_at: float | int | None = 0.99
    linger: int = 0
    seed: int = 0
    threads: int | None = 1
    tf32: bool = False

    def __post_init__(self):
        for name in ("steps", "batch", "evaluate_every", "threads"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: give at least 1")
        for rate in each(self.learning_rate):
            if not 0 < rate < math.inf:
                raise ValueError(f"learning_rate has {rate}: give positive, finite numbers")
        for decay in each(self.weight_decay):
            if not 0 <= decay < math.inf:
                raise ValueError(f"weight_decay has {decay}: give 0 or positive numbers")
        if self.optimizer not in ("adamw", "sgd"):
            raise ValueError(f"optimizer is {self.optimizer!r}: choose 'adamw' or 'sgd'")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas is {self.betas}: give two numbers from 0 to less than 1, for example (0.9, 0.98)")
        if not 0 < self.epsilon < math.inf:
            raise ValueError(f"epsilon is {self.epsilon}: give a positive, finite number")
        if self.warmup < 0 or self.linger < 0:
            name = "warmup" if self.warmup < 0 else "linger"
            raise ValueError(f"{name} is {getattr(self, name)}: give 0 or a positive whole number")
        if self.leave_at is not None and not 0 < self.leave_at <= 1:
            raise ValueError(f"leave_at is {self.leave_at}: it is a test accuracy, in (0, 1], or None")


def cross_entropy_each(
    output: Float[Tensor, "members rows outputs"], y: Shaped[Tensor, "*members rows"]
) -> Float[Tensor, " members"]:
    """Mean cross-entropy of each member, in nats, for targets (rows,) or (members, rows)."""
    targets = y.expand(output.shape[:2])
    losses = F.cross_entropy(output.flatten(0, 1), targets.flatten(), reduction="none")
    return losses.view(targets.shape).mean(1)


def hinge_each(output: Float[Tensor, "members rows"], y: Shaped[Tensor, "*members rows"]) -> Float[Tensor, " members"]:
    """Mean hinge loss max(0, 1 - y f) of each member, for targets ±1."""
    return (1 - y * output).clamp(min=0).mean(1)


def each(value: object) -> Sequence:
    """A tuple or list as it is, anything else as a tuple of one."""
    return value if isinstance(value, tuple | list) else (value,)


def checked_each(name: str, value: Tensor, members: int) -> Tensor:
    """The value, if it is one number a member. Errors: `ValueError` naming what gave it."""
    if value.shape != (members,):
        raise ValueError(f"{name} gave shape {tuple(value.shape)} for {members} members: return one number a member")
    return value


@contextmanager
def steadily(config: EnsembleConfig) -> Iterator[None]:
    """One thread and no denormal numbers on a CPU (decay makes them, and they are slow); strict products on a GPU."""
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    torch.set_flush_denormal(True)
    torch.set_float32_matmul_precision("high" if config.tf32 else "highest")
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_flush_denormal(False)
        torch.set_float32_matmul_precision(precision)

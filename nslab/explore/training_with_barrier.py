"""A network that is trained in the page with a barrier on its attention, or without: what moves, and what does not.

`compute` is the Python twin of ``assets/barrier-training.js``. *Ours*, as is the figure.
"""

from __future__ import annotations

from collections.abc import Sequence

from nslab.explore.bracket_training import ARMS, LENGTH, SEQUENCES, BracketTraining
from nslab.explore.modules import Module, module

__all__ = ["barrier_training", "compute"]

PLACES = ("prior", "model")
STRENGTHS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
SEEDS = 10  # 0 to 9
DISCOVERY = (
    "With margin-only on its own stage the determinants grow into the tens, the lower eigenvalue of A falls far below "
    "zero, and the embeddings grow: repulsion pays. With the hinge no determinant is negative any more and most are "
    "above 1, and both curves of the loss lie where they lay without it. The full prior makes the embeddings small and "
    "lowers the loss under noise. So does the residual term alone, nearly as much; but without the wall beside it, it "
    "pulls A up and determinants below zero. So that gain is not the barrier’s."
)


def compute(state: dict) -> dict:
    """What a network is after some steps of training.

    Args:
        state: ``arm``, ``strength``, ``place`` and ``seed`` as in `BracketTraining`, and ``steps``.

    Returns:
        ``step``; on sequences it was not trained on ``loss`` and ``noisy_loss`` (with Gaussian noise on the
        embeddings) in nats, ``quantiles`` of det J (least, a tenth, median, nine tenths, greatest) from the third
        position on, and ``negative``, the share below 0; ``eigenvalues`` of the symmetric part of the A that the
        barrier is on; ``size``, the root mean square of the embeddings; ``embeddings`` of the five symbols.
    """
    training = BracketTraining(state)
    for _ in range(state["steps"]):
        training.step()
    return training.measure()


def barrier_training(
    *,
    arm: str = "none",
    place: str = "prior",
    strength: float | int = 0.05,
    seed: int = 1,
    strengths: Sequence[float | int] = STRENGTHS,
    label: str = "Train a network with a barrier in the page",
    alt: str = "",
    discovery: str = DISCOVERY,
) -> Module:
    """A figure in which a reader trains a tiny attention network, with a barrier or without, and compares runs.

    Args:
        arm: at the start: "none", "margin-only", "full", "residual" or "hinge".
        place: at the start: "prior", where the barrier has a score matrix of its own, or "model".
        strength: lambda at the start, one of ``strengths``.
        seed: of the weights at the start, from 0 to 9.
        strengths: what the slider offers, increasing, above 0 and at most 1.
        label: accessible name.
        alt: the figure in a sentence; by default its start.
        discovery: what to find out.

    Raises:
        ValueError: if a start is not among what its control offers, or the strengths are out of range.

    >>> figure = barrier_training(arm="hinge")
    >>> figure.twin({**figure.state, "steps": 3})["step"]
    3
    """
    levels = tuple(map(float, strengths))
    if not levels or list(levels) != sorted({each for each in levels if 0 < each <= 1}):
        raise ValueError(f"strengths={levels}: give numbers above 0 and at most 1, each larger than the last.")
    offered = {"arm": (arm, tuple(ARMS)), "place": (place, PLACES), "strength": (strength, levels)}
    for name, (value, known) in offered.items():
        if value not in known:
            raise ValueError(f"{name}={value!r} is not on the figure: choose from {', '.join(map(str, known))}.")
    if not 0 <= seed < SEEDS:
        raise ValueError(f"seed={seed} is not on its slider: give a whole number from 0 to {SEEDS - 1}.")
    state = {
        "arm": arm,
        "place": place,
        "strength": float(strength),
        "seed": seed,
        "steps": 0,
        "seeds": SEEDS,
        "strengths": list(levels),
    }
    alt = alt or (
        f"An attention network with two numbers a symbol learns to close brackets, from {SEQUENCES} sequences of "
        f"{LENGTH} symbols. Beside its loss stand the determinants of the blocks and the eigenvalues of A. Nothing is "
        "trained yet."
    )
    return module(
        ["seeded-gaussians.js", "small-plots.js", "bracket-training.js", "barrier-training.js"],
        twin=compute,
        state=state,
        cases=_cases(state),
        label=label,
        alt=alt,
        discovery=discovery,
    )


def _cases(state: dict) -> list[dict]:
    """States on which page and twin are compared: every arm at both places, other weights and seeds, up to 40 steps."""
    cases = [state, {**state, "arm": "hinge", "strength": state["strengths"][-1], "steps": 40}]
    for k, arm in enumerate(ARMS):
        for j, place in enumerate(PLACES):
            strength = state["strengths"][(2 * k + j) % len(state["strengths"])]
            cases.append(
                {**state, "arm": arm, "place": place, "strength": strength, "seed": 2 * k + j, "steps": 12 + 6 * k}
            )
    return cases

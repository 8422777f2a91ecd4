"""Five shapes of the barrier against the determinant, and a ball that gradient descent rolls along one of them.

`compute` is the Python twin of ``assets/five-walls.js``; walls and slopes are those of `nslab.barrier` where these are
finite, and torch's own chain rule where they are not. *Ours*, as is the figure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from nslab.barrier.penalty_shapes import margin_penalty
from nslab.explore.modules import Module, module

__all__ = ["WALLS", "compute", "five_walls"]

WALLS = ("raw", "clamped", "onesided", "hinge", "kl")
WEIGHT = 0.2  # lambda, of the barrier in the loss
WISH = -0.6  # the determinant that the rest of the loss wants, if it wants one
LOST = 1e6  # beyond it a ball is not followed
DELTAS = (0.02, 0.05, 0.1, 0.2, 0.5)
RATES = (0.01, 0.03, 0.1, 0.3, 0.6, 0.8, 1.0)
STARTS = tuple(round(-1 + 0.05 * k, 2) for k in range(81))  # -1 to 3
DISCOVERY = (
    "With small steps and δ = 0.1 every wall holds the ball on the right side. With a step of 0.8 it is through the "
    "raw wall at once and comes to rest on the wrong side: there the wall pushes it away from 0, and so from the way "
    "back. One-sided and hinge send it back; with δ = 0.1 they are so steep that it is thrown to and fro, with δ = 0.2 "
    "it stays. With δ = 0.5 no wall but the raw one holds, and a shorter step only takes longer: the clamped one has a "
    "hole, and the slopes of the others are weaker than the force. Take the wish away: from 1 the ball rolls to the "
    "right without end on raw, clamped and one-sided, for there is a reward beyond 1; on the hinge it stays, on kl it "
    "stops at almost 1. From −1, kl keeps it at almost −1. From 0 the ball is gone on raw and clamped, and on kl it "
    "does not move."
)


def compute(state: dict) -> dict:
    """The five walls at one determinant, and where gradient descent takes a ball from there.

    Args:
        state: ``kind`` of the wall, one of `WALLS`; ``delta``, where it bends (for "clamped" the barrier is at most
            -log delta); ``wish``, whether the rest of the loss is (det - WISH)²/2 or nothing; ``det``, where the ball
            starts; ``rate``, the step size; ``steps``.

    Returns:
        ``values`` and ``slopes`` of `WALLS` at det, by torch's chain rule; ``loss`` there; ``places``, of the ball
        after each step, the start first. None stands for what is not finite.
    """
    det, delta = state["det"], state["delta"]
    found = [_wall(kind, det, delta) for kind in WALLS]
    places = [det]
    for _ in range(state["steps"]):
        last = places[-1]
        if last is None or abs(last) > LOST:
            break
        places.append(_told(last - state["rate"] * _loss(state, last)[1]))
    return {
        "values": [_told(value) for value, _ in found],
        "slopes": [_told(slope) for _, slope in found],
        "loss": _told(_loss(state, det)[0]),
        "places": places,
    }


def _wall(kind: str, det: float, delta: float) -> tuple[float, float]:
    """Barrier and slope of a 1 x 1 block; raw and clamped without the mask of `margin_penalty`, as written down."""
    block = torch.tensor([[det]], dtype=torch.float64, requires_grad=True)
    if kind in ("raw", "clamped"):
        value: Tensor = torch.linalg.slogdet(block)[1]
        value = -(value if kind == "raw" else value.clamp(min=math.log(delta)))
    else:
        value = margin_penalty(block, kind, delta)
    (slope,) = torch.autograd.grad(value, block)
    return value.item(), slope.item()


def _loss(state: dict, det: float) -> tuple[float, float]:
    value, slope = _wall(state["kind"], det, state["delta"])
    pull = det - WISH if state["wish"] else 0.0
    return WEIGHT * value + pull * pull / 2, WEIGHT * slope + pull


def _told(value: float) -> float | None:
    return value if math.isfinite(value) else None


def five_walls(
    *,
    kind: str = "raw",
    delta: float | int = 0.1,
    det: float | int = 1.0,
    rate: float | int = 0.1,
    wish: bool = True,
    deltas: Sequence[float | int] = DELTAS,
    rates: Sequence[float | int] = RATES,
    label: str = "Five walls and a ball",
    alt: str = "",
    discovery: str = DISCOVERY,
) -> Module:
    """A figure of the barrier's five shapes, with a ball that gradient descent rolls along one of them.

    Args:
        kind: the wall at the start, one of "raw", "clamped", "onesided", "hinge", "kl".
        delta: at the start, one of ``deltas``.
        det: where the ball starts, from -1 to 3 in twentieths.
        rate: the step size at the start, one of ``rates``.
        wish: whether the rest of the loss wants a determinant of `WISH` at the start.
        deltas: what the slider of δ offers, increasing, in (0, 1].
        rates: what the slider of the step size offers, increasing, in (0, 1].
        label: accessible name.
        alt: the figure in a sentence; by default its start.
        discovery: what to find out.

    Raises:
        ValueError: if a start is not on its slider, or a slider's values are out of range.

    >>> five_walls().twin({**five_walls().state, "det": 0.0})["slopes"][:2]
    [None, None]
    """
    bends, steps = tuple(map(float, deltas)), tuple(map(float, rates))
    for name, values in (("deltas", bends), ("rates", steps)):
        if not values or list(values) != sorted({each for each in values if 0 < each <= 1}):
            raise ValueError(f"{name}={values}: give numbers above 0 and at most 1, each larger than the last.")
    starts = {"kind": (kind, WALLS), "delta": (delta, bends), "rate": (rate, steps), "det": (det, STARTS)}
    for name, (value, known) in starts.items():
        if value not in known:
            choices = "from -1 to 3 in twentieths" if name == "det" else f"one of {', '.join(map(str, known))}"
            raise ValueError(f"{name}={value!r} is not on the figure: give {choices}.")
    state = {
        "kind": kind,
        "delta": float(delta),
        "wish": bool(wish),
        "det": float(det),
        "rate": float(rate),
        "steps": 0,
        "deltas": list(bends),
        "rates": list(steps),
        "starts": list(STARTS),
    }
    alt = alt or (
        f"Five barriers against the determinant of a block, from -1 to 3: raw, clamped, one-sided, hinge and kl. A "
        f"ball lies at a determinant of {det:g} on the wall {kind!r}, ready to be released."
    )
    return module(
        ["small-plots.js", "five-walls.js"],
        twin=compute,
        state=state,
        cases=_cases(state),
        label=label,
        alt=alt,
        discovery=discovery,
    )


def _cases(state: dict) -> list[dict]:
    """States on which page and twin are compared: every wall, δ and step size, both wishes, singular starts."""
    cases = [state]
    for k, kind in enumerate(WALLS):
        for j, rate in enumerate(state["rates"]):
            place = {"det": (1.0, -1.0, 0.0, 0.35, 2.6)[(k + j) % 5], "delta": state["deltas"][(2 * k + j) % 5]}
            cases.append({**state, **place, "kind": kind, "rate": rate, "wish": j % 2 == 0, "steps": (12, 5)[j > 3]})
        cases.append({**state, "kind": kind, "det": 0.0, "steps": 3, "wish": k % 2 == 0})
    return cases

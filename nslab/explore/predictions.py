"""Predict first: the reader draws the curve that they expect, then the true one appears with a score.

`compute` is the Python twin of ``assets/predict.js``. A drawing is 61 heights at equal steps of the x axis; missing
ones are filled straight between drawn ones and flat beyond them. With d the mean absolute distance between drawing and
truth over these steps, in heights of the plot,

    score = 100 (1 - 4 d)_+ .

The same distance to each *distractor*, a plausible wrong curve, decides which explanation the reader gets. *Ours.*
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np

from nslab.explore.modules import Module, module

__all__ = ["compute", "predict"]

SAMPLES = 61
MISS = 0.25  # a mean miss of a quarter of the plot's height scores 0


def compute(state: dict) -> dict:
    """Score and verdict of a drawing.

    Args:
        state: ``x`` and ``curve`` (the truth), ``limits`` of the y axis, ``distractors`` (each with ``name``, ``y``,
            ``explanation``) and ``drawn``, a list of heights or None.

    Returns:
        ``score`` (0 to 100), ``nearest`` ("truth" or a distractor's name), its ``explanation`` (None for the truth),
        ``distances`` (truth first, in heights of the plot) and ``completed``; all None while nothing is drawn.
    """
    drawn = state["drawn"]
    known = [k for k, y in enumerate(drawn) if y is not None]
    if not known:
        return dict.fromkeys(("score", "nearest", "explanation", "distances", "completed"))
    own = np.interp(range(len(drawn)), known, [drawn[k] for k in known])
    x = state["x"]
    grid = np.linspace(x[0], x[-1], len(drawn))
    height = state["limits"][1] - state["limits"][0]
    shapes = [{"name": "truth", "y": state["curve"], "explanation": None}, *state["distractors"]]
    distances = [float(np.abs(np.interp(grid, x, shape["y"]) - own).mean()) / height for shape in shapes]
    best = 0  # the truth wins ties
    for k, distance in enumerate(distances):
        if distance < distances[best] - 1e-9:
            best = k
    return {
        "score": 100 * max(0.0, 1 - distances[0] / MISS),
        "nearest": shapes[best]["name"],
        "explanation": shapes[best]["explanation"],
        "distances": distances,
        "completed": own.tolist(),
    }


def predict(
    x: Iterable,
    curve: Iterable,
    *,
    label_x: str,
    label_y: str,
    prompt: str,
    alt: str,
    discovery: str,
    limits: tuple[float | int, float | int] | None = None,
    distractors: Sequence[tuple[str, Iterable, str]] = (),
    praise: str = "Your curve is nearest to the true one.",
    label: str = "Predict, then reveal",
) -> Module:
    """A plot in which the reader draws a curve (pointer, touch or keyboard) before the true one is shown.

    Args:
        x: where the curve is known, strictly increasing; list, array or tensor, at least 2 numbers.
        curve: the true curve at ``x``.
        label_x: name and unit of the x axis.
        label_y: name and unit of the y axis.
        prompt: what to draw, as a question.
        alt: the true curve in a sentence of its own ("The curve is ..."); said after the reveal, and shown where no
            script runs.
        discovery: what a reader should find out.
        limits: the y axis; by default the curves with an eighth of their range above and below. A tight axis makes a
            strict score.
        distractors: wrong curves as (name, heights at ``x``, explanation); the explanation of the one nearest to the
            drawing is shown when it is nearer than the truth.
        praise: what to say when the truth is nearest and the score at least 60.
        label: accessible name of the figure.

    Raises:
        ValueError: if lengths differ, ``x`` does not increase, a number is not finite, or a curve leaves ``limits``.

    >>> figure = predict([0, 1, 2], [0, 1, 4], label_x="depth", label_y="share", prompt="How does the share grow?",
    ...     alt="It grows faster and faster.", discovery="Growth is convex.",
    ...     distractors=[("a straight line", [0, 2, 4], "Growth is not constant: each layer adds more.")])
    >>> figure.twin({**figure.state, "drawn": [0.0] + [None] * 59 + [4.0]})["nearest"]
    'a straight line'
    """
    xs = _floats("x", x)
    if len(xs) < 2 or any(b <= a for a, b in pairwise(xs)):
        raise ValueError(f"x={_brief(xs)} does not increase: give at least 2 numbers, each larger than the last.")
    shapes = [("curve", curve), *((f"distractors[{k}] ({name})", y) for k, (name, y, _) in enumerate(distractors))]
    values = []
    for argument, y in shapes:
        values.append(_floats(argument, y))
        if len(values[-1]) != len(xs):
            raise ValueError(
                f"{argument} has {len(values[-1])} heights and x has {len(xs)}: give one height for each x."
            )
    names = [name for name, *_ in distractors]
    if len({"truth", *names}) != len(names) + 1:
        raise ValueError(f"distractors are named {names}: give each its own name, other than 'truth'.")
    for name, _, explanation in distractors:
        if not explanation.strip():
            raise ValueError(f"distractors: {name!r} has no explanation: say what is wrong with this shape.")
    if not prompt.strip():
        raise ValueError(f"prompt={prompt!r} is empty: ask the reader what to draw.")
    low, high = min(map(min, values)), max(map(max, values))
    if limits is None:
        room = (high - low) / 8 or 1.0
        limits = (low - room, high + room)
    low_limit, high_limit = _floats("limits", limits)
    rounding = 1e-9 * (high - low)
    if not low_limit - rounding <= low <= high <= high_limit + rounding or low_limit == high_limit:
        raise ValueError(f"limits={limits} do not hold the curves, which span {low:.4g} to {high:.4g}: widen them.")
    state = {
        "x": xs,
        "curve": values[0],
        "limits": [low_limit, high_limit],
        "distractors": [
            {"name": name, "y": y, "explanation": text}
            for (name, _, text), y in zip(distractors, values[1:], strict=True)
        ],
        "drawn": [None] * SAMPLES,
        "label_x": label_x,
        "label_y": label_y,
        "prompt": prompt,
        "praise": praise,
        "alt": alt,
    }
    return module(
        "predict.js", twin=compute, state=state, cases=_cases(state), label=label, alt=alt, discovery=discovery
    )


def _cases(state: dict) -> list[dict]:
    """Drawings on which page and twin are compared: none, each curve, one point, gaps, flat and wild lines."""
    draw = random.Random(3)
    grid = np.linspace(state["x"][0], state["x"][-1], SAMPLES)
    low, high = state["limits"]
    shapes = [state["curve"], *(each["y"] for each in state["distractors"])]
    drawings: list[list[float | None]] = [np.interp(grid, state["x"], y).tolist() for y in shapes]
    drawings += [[low] * SAMPLES, [high] * SAMPLES, [None] * 20 + [high] + [None] * 40]
    wild = [draw.uniform(low, high) for _ in range(SAMPLES)]
    drawings += [wild, [y if draw.random() < 0.2 else None for y in wild], [None] * 10 + wild[10:50] + [None] * 11]
    return [state, *({**state, "drawn": each} for each in drawings)]


def _floats(argument: str, values: Iterable) -> list[float]:
    numbers = [float(value) for value in values]
    if not all(map(math.isfinite, numbers)):
        raise ValueError(f"{argument}={_brief(numbers)} holds NaN or infinity: leave such points out.")
    return numbers


def _brief(numbers: list[float]) -> str:
    return f"[{', '.join(f'{each:.4g}' for each in numbers[:6])}{', ...' if len(numbers) > 6 else ''}]"

r"""Two queries in the plane: drag them, and see whether each can score the other higher than itself.

`compute` is the Python twin of ``assets/preference-plane.js``. The score of i for j is $q_i^{\mathsf T} W q_j$, with
W = I when query and key are tied. *Ours*, as is the figure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from nslab.explore.modules import Module, module
from nslab.style import Number

__all__ = ["KINDS", "PLACES", "compute", "preference_plane"]

Place = Sequence[Number]
REACH = 2.0  # the plane shown is a square from -2 to 2
GRID = 161  # places of b along a side
KINDS = ("tied", "mirror", "turn")  # W: the identity, diag(1, -1), a rotation

PLACES: dict[str, list[list[float]]] = {
    "alike": [[0.9, 0.5], [1.6, 0.7]],
    "right angle": [[1.0, 0.0], [0.0, 1.0]],
    "opposite": [[0.0, 1.0], [0.0, -1.0]],
}
DISCOVERY = (
    "Tied, a prefers b only beyond a straight line through a's tip, and b prefers a only inside the circle on a's "
    "arrow. Line and circle touch at the tip of a and nowhere overlap: only the shorter query can prefer the other, "
    "and never both. Turn W: up to 90° nothing overlaps; there a prefers b on one side of a line and b prefers a on "
    "the other. Past 90°, or with the mirror, some places let both prefer the other."
)


def compute(state: Mapping) -> dict:
    """Scores and weights of the two queries, who prefers the other, and the same for every place of b.

    Args:
        state: ``a`` and ``b`` (points), ``kind`` of W (one of `KINDS`), ``turn`` of W in degrees, ``grid`` (places of
            b along a side of the square from -2 to 2).

    Returns:
        ``matrix`` W; ``scores`` and ``weights`` (rows: of a, of b; the softmax divides by the root of the width, 2);
        ``lengths`` of the queries; ``prefers``: whether a scores b above itself, and b a; ``lowest`` eigenvalue of the
        symmetric part of W; ``map`` on the grid, rows from the lowest y: 1 where a prefers b, 2 where b prefers a, 3
        where both do, else 0; ``shares`` of the plane with 1, 2 and 3.
    """
    angle = math.radians(state["turn"]) if state["kind"] == "turn" else 0.0
    matrix = [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    if state["kind"] == "mirror":
        matrix = [[1.0, 0.0], [0.0, -1.0]]
    a, b = state["a"], state["b"]
    scores = [[_score(one, other, matrix) for other in (a, b)] for one in (a, b)]
    shares = [1 / (1 + math.exp((two - one) / math.sqrt(2))) for one, two in scores]
    side = 2 * REACH * np.arange(state["grid"]) / (state["grid"] - 1) - REACH
    place = (side[None, :], side[:, None])  # x along rows, y along columns
    forward = _score(a, place, matrix) > _score(a, a, matrix)
    backward = _score(place, a, matrix) > _score(place, place, matrix)
    codes = forward.astype(int) + 2 * backward.astype(int)
    (p, q), (r, s) = matrix
    return {
        "matrix": matrix,
        "scores": scores,
        "weights": [[share, 1 - share] for share in shares],
        "lengths": [math.hypot(*a), math.hypot(*b)],
        "prefers": [scores[0][1] > scores[0][0], scores[1][0] > scores[1][1]],
        "lowest": (p + s) / 2 - math.hypot((p - s) / 2, (q + r) / 2),
        "shares": [float((codes == code).mean()) for code in (1, 2, 3)],
        "map": codes.tolist(),
    }


def _score(one: Sequence, other: Sequence, matrix: list[list[float]]):
    """q_i · W q_j by hand, in the order in which the page does it; coordinates may be arrays."""
    (p, q), (r, s) = matrix
    return one[0] * (p * other[0] + q * other[1]) + one[1] * (r * other[0] + s * other[1])


def preference_plane(
    places: str | Sequence[Place] = "alike",
    *,
    kind: str = "tied",
    turn: Number = 120.0,
    label: str = "Can it want the other more than itself?",
    alt: str = "",
    discovery: str = DISCOVERY,
) -> Module:
    """A figure in which a reader drags two queries and switches a matrix W between them on and off.

    Args:
        places: one of `PLACES`, or the two queries, points of the square from -2 to 2.
        kind: of W at the start, one of `KINDS`.
        turn: of W where it is a rotation, 0 to 180 degrees.
        label: accessible name.
        alt: the figure in a sentence; by default its first numbers.
        discovery: what to find out.

    Raises:
        ValueError: for what the figure's controls do not reach.

    >>> first = preference_plane([(0, 1), (0, -1)], kind="mirror")
    >>> first.twin(first.state)["prefers"]
    [True, True]
    """
    if isinstance(places, str) and places not in PLACES:
        raise ValueError(f"places={places!r} is unknown: choose from {', '.join(PLACES)}, or give two points")
    points = [[float(x), float(y)] for x, y in (PLACES[places] if isinstance(places, str) else places)]
    if len(points) != 2:
        raise ValueError(f"places has {len(points)} points: give two queries")
    for point in points:
        if not all(abs(value) <= REACH for value in point):
            raise ValueError(f"{tuple(point)} is outside the plane: both numbers go from -{REACH:g} to {REACH:g}")
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r} is unknown: choose from {', '.join(KINDS)}")
    if not 0 <= turn <= 180:
        raise ValueError(f"turn={turn}: give degrees from 0 to 180")
    setting = {"a": points[0], "b": points[1], "kind": kind, "turn": float(turn), "grid": GRID}
    first = compute(setting)
    alt = alt or (
        f"Two queries in the plane. a scores itself {first['scores'][0][0]:.2f} and b {first['scores'][0][1]:.2f}; b "
        f"scores itself {first['scores'][1][1]:.2f} and a {first['scores'][1][0]:.2f}. On "
        f"{100 * first['shares'][2]:.0f} % of the plane b could stand so that both prefer the other."
    ).replace("-", "−")
    return module(
        "preference-plane.js",
        twin=compute,
        state={**setting, "places": PLACES},
        cases=_cases(),
        label=label,
        alt=alt,
        discovery=discovery,
    )


def _cases() -> list[dict]:
    """Short and long queries, near, far and opposed; each kind of W, turned by less and by more than 90 degrees."""
    places = [
        ((0.9, 0.5), (1.6, 0.7)),
        ((-1.31, 0.42), (0.88, -1.97)),
        ((0.13, -0.07), (-1.77, 1.61)),
        ((0.31, 1.2), (-0.29, -1.4)),
    ]
    turns = [("tied", 0.0), ("mirror", 0.0), *(("turn", turn) for turn in (25.0, 85.0, 95.0, 140.0, 180.0))]
    return [
        {"a": list(a), "b": list(b), "kind": kind, "turn": turn, "grid": 8 + (j + k) % 3}
        for j, (a, b) in enumerate(places)
        for k, (kind, turn) in enumerate(turns)
    ]

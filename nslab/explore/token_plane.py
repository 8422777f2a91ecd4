"""Tokens in the plane: drag past tokens and a query, and see where the Jacobian block of attention is singular.

`compute` is the Python twin of ``assets/token-plane.js``. Its numbers come from :mod:`nslab.barrier`: the block
J = I - Sigma A at the query and on a grid of queries, with A = β times a rotation. *Ours*, as is the figure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch

from nslab.barrier.blocks import jacobian_blocks
from nslab.barrier.moments import causal_moments
from nslab.barrier.stability_margins import certified_radius, diameter
from nslab.barrier.two_tokens import slab
from nslab.explore.modules import Module, module
from nslab.style import Number

__all__ = ["PLACES", "compute", "token_plane"]

Place = Sequence[Number]
LARGEST = 3.0  # the plane shown is a square from -3 to 3
GRID = 121  # queries along a side
FEW, MANY = 2, 6  # past tokens
STRONGEST = 4.0  # β
NOISE = 0.2  # radius of the ball of noise
ALIKE = 1e-3  # closer singular values have no direction of their own
SINGULAR = 1e-9  # a smaller one is 0

PLACES: dict[str, list[list[float]]] = {
    "two tokens": [[-1.0, 0.0], [1.0, 0.0]],
    "triangle": [[0.0, 1.3], [-1.2, -0.8], [1.2, -0.8]],
    "two clusters": [[-1.5, 0.3], [-1.2, -0.4], [1.4, 0.4], [1.1, -0.3]],
    "ring of six": [[1.5 * math.cos(k * math.pi / 3), 1.5 * math.sin(k * math.pi / 3)] for k in range(6)],
}
DISCOVERY = (
    "As long as κ is below 4 there is no boundary. Above it a street with straight kerbs opens where both logits are "
    "equal. A third token bends the kerbs where all three matter; far out there is one straight street for each "
    "two tokens that tie at the top. So danger is where attention is undecided, and not where tokens are near. Turn "
    "the scores: the streets turn and get narrower, and at 90° they are gone."
)


def compute(state: Mapping) -> dict:
    """The block at the query and its determinant everywhere.

    Args:
        state: ``past`` (2 to 6 points), ``query``, ``strength`` β, ``turn`` of the scores in degrees, ``noise`` (radius
            of a ball), ``grid`` (queries along a side of the square from -3 to 3).

    Returns:
        At the query: ``weights`` and ``mean`` of its attention, ``block`` J, its ``determinant`` and smallest singular
        value ``spectral``; the ``direction`` v that J shrinks most and what the mean does when the query moves by v,
        ``follows`` (None if J shrinks all alike); ``ellipse``, the matrix that takes the unit circle to the image of
        the ball of noise (None at a singular block); ``certified``, a radius without boundary (None if the past is one
        point); ``load``, ||A|| D²/4.
        ``street`` of two tokens: ``kappa``, ``normal``, and if κ > 4 ``offset`` and ``width``; None for more tokens.
        ``determinants`` on the grid, rows from the lowest y; the ``lowest`` of them and the share ``beyond`` 0.
    """
    past = torch.tensor(state["past"], dtype=torch.float64)
    query = torch.tensor(state["query"], dtype=torch.float64)
    scores = score_matrix(state["strength"], state["turn"])
    last = torch.tensor([len(past)])
    u = torch.cat([past, query[None]])
    moments = causal_moments(u, scores, rows=last)
    block = jacobian_blocks(u, scores, rows=last)[0]
    _, values, directions = torch.linalg.svd(block)
    direction = follows = None
    if values[0] - values[1] > ALIKE:
        direction = directions[1]
        direction = direction * direction[direction.abs().argmax()].sign()
        follows = (direction - block @ direction).tolist()
        direction = direction.tolist()
    singular = float(values[1]) < SINGULAR
    spread = diameter(u, last)[0]
    side = torch.linspace(-LARGEST, LARGEST, state["grid"], dtype=torch.float64)
    y, x = torch.meshgrid(side, side, indexing="ij")
    places = torch.stack([x, y], -1).reshape(-1, 1, 2)  # (grid², 1, 2)
    walks = torch.cat([past.expand(len(places), -1, -1), places], 1)  # (grid², n, 2)
    determinants = torch.linalg.det(jacobian_blocks(walks, scores, rows=last)).reshape(x.shape)
    return {
        "weights": moments.weights[0, :-1].tolist(),
        "mean": moments.mean[0].tolist(),
        "block": block.tolist(),
        "determinant": float(torch.linalg.det(block)),
        "spectral": float(values[1]),
        "direction": direction,
        "follows": follows,
        "ellipse": None if singular else (state["noise"] * torch.linalg.inv(block)).tolist(),
        "certified": float(certified_radius(values[1], scores, spread)) if spread > 0 else None,
        "load": float(state["strength"] * spread**2 / 4),
        "street": street(past, scores) if len(past) == FEW else None,
        "determinants": determinants.tolist(),
        "lowest": float(determinants.min()),
        "beyond": float((determinants < 0).double().mean()),
    }


def score_matrix(strength: Number, turn: Number) -> torch.Tensor:
    """A = β times the rotation by ``turn`` degrees."""
    angle = math.radians(turn)
    rotation = [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    return strength * torch.tensor(rotation, dtype=torch.float64)


def street(past: torch.Tensor, scores: torch.Tensor) -> dict:
    """The slab of two tokens as JSON."""
    found = slab(past[0], past[1], scores)
    open_ = float(found.kappa) > 4
    return {
        "kappa": float(found.kappa),
        "normal": found.normal.tolist(),
        "offset": float(found.offset) if open_ else None,
        "width": float(found.width) if open_ else None,
    }


def token_plane(
    past: str | Sequence[Place] = "two tokens",
    *,
    query: Place | None = None,
    strength: Number = 1.0,
    turn: Number = 0.0,
    label: str = "Tokens in the plane",
    alt: str = "",
    discovery: str = DISCOVERY,
) -> Module:
    """A figure in which a reader drags tokens and sees where a query would be on the degeneracy boundary.

    Args:
        past: one of `PLACES`, or 2 to 6 points of the square from -3 to 3.
        query: where the query starts; by default there is none, and only the map is shown.
        strength: β, above 0 and at most 4.
        turn: of the scores, 0 to 180 degrees.
        label: accessible name.
        alt: the figure in a sentence; by default its first numbers.
        discovery: what to find out.

    Raises:
        ValueError: for what the figure's controls do not reach.

    >>> first = token_plane(strength=2.0)
    >>> [round(first.twin(first.state)["street"][name], 3) for name in ("kappa", "width")]
    [8.0, 0.881]
    """
    if isinstance(past, str) and past not in PLACES:
        raise ValueError(f"past={past!r} is unknown: choose from {', '.join(PLACES)}, or give 2 to {MANY} points")
    points = [[float(x), float(y)] for x, y in (PLACES[past] if isinstance(past, str) else past)]
    if not FEW <= len(points) <= MANY:
        raise ValueError(f"past has {len(points)} tokens: give {FEW} to {MANY}")
    for point in [*points, query or (0, 0)]:
        if not all(abs(value) <= LARGEST for value in point):
            raise ValueError(f"{tuple(point)} is outside the plane: both numbers go from -{LARGEST:g} to {LARGEST:g}")
    if not 0 < strength <= STRONGEST:
        raise ValueError(f"strength={strength}: give a β above 0 and at most {STRONGEST:g}")
    if not 0 <= turn <= 180:
        raise ValueError(f"turn={turn}: give degrees from 0 to 180")
    setting = {
        "past": points,
        "query": [0.0, 0.0] if query is None else [float(value) for value in query],
        "strength": float(strength),
        "turn": float(turn),
        "noise": NOISE,
        "grid": GRID,
    }
    first = compute(setting)
    alt = alt or (
        f"{len(points)} past tokens in the plane. With β = {strength:g} the determinant of the block goes down to "
        f"{first['lowest']:.2f}; it is negative on {100 * first['beyond']:.0f} % of the queries shown."
    )
    return module(
        ["plane-blocks.js", "token-plane.js"],
        twin=compute,
        state={**setting, "asked": query is not None, "places": PLACES, "limits": [LARGEST, FEW, MANY, STRONGEST]},
        cases=_cases(),
        label=label,
        alt=alt,
        discovery=discovery,
    )


def _cases() -> list[dict]:
    """Two to six tokens; below and above the critical temperature; turned scores; far tokens; one token twice."""
    moved = {
        "far apart": [[-3.0, 2.9], [2.8, -3.0], [3.0, 3.0]],
        "one twice": [[0.5, 0.5], [0.5, 0.5], [-1.0, 0.2]],
        "all in one": [[0.4, -0.7], [0.4, -0.7]],
        "askew": [[-1.3, 0.4], [0.9, 1.1]],
        "five": [[-2.1, 0.3], [-0.4, 1.9], [1.7, 1.2], [2.0, -1.1], [-0.6, -1.6]],
    }
    cases = []
    for k, past in enumerate([*PLACES.values(), *moved.values()]):
        for j, strength in enumerate((0.3, 1.0, 2.2, 4.0)):
            query = [(0.31, -0.42), (-1.13, 0.7), (2.4, 2.9), (0.05, 0.02)][(k + j) % 4]
            turn = (0.0, 30.0, 75.0, 180.0, 140.0)[(k + 2 * j) % 5]
            cases.append({"past": past, "query": list(query), "strength": strength, "turn": turn})
    return [{**case, "noise": NOISE, "grid": 7 + k % 3} for k, case in enumerate(cases)]

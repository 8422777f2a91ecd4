"""Three tokens and six scores: each row chooses the other that it scores highest. Can the choices go round in a cycle?

`compute` is the Python twin of ``assets/winner-cycle.js``. Random score sets come from `seeded_gaussians`, six numbers
a set; with the lock on only three of them are used. *Ours*, as is the figure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np

from nslab.explore.modules import Module, module
from nslab.explore.seeded_gaussians import gaussian_pairs
from nslab.style import Number

__all__ = ["compute", "winner_cycle"]

LARGEST = 3.0  # scores go from -3 to 3
OTHERS = ((1, 2), (0, 2), (0, 1))  # in the row of a, b, c
DISCOVERY = (
    "Without the lock all eight patterns can be made, and chance makes each about equally often. With the lock on, "
    "six: the two cycles never close, however often you draw. The largest of the three scores belongs to a pair, and "
    "those two choose each other."
)


def compute(state: Mapping) -> dict:
    """What each row chooses, and a tally of random score sets.

    Args:
        state: ``scores`` (3 x 3; row i holds what token i gives to each, the diagonal is not looked at), ``locked``
            (whether random sets are symmetric), ``draws`` (how many random sets), ``seed``.

    Returns:
        ``choices``: for each row the index of the other it scores higher (None for a tie); ``pattern``: 0 to 7, bit i
        says whether row i takes the later of its two others (None with a tie); ``cycle``: whether no two choose each
        other, which for three tokens is a cycle; ``pairs`` that choose each other; ``counts`` of the eight patterns.
    """
    scores, draws = state["scores"], state["draws"]
    choices = [
        None if scores[i][j] == scores[i][k] else (j if scores[i][j] > scores[i][k] else k)
        for i, (j, k) in enumerate(OTHERS)
    ]
    decided = None not in choices
    pairs = [[i, j] for i, j in combinations(range(3), 2) if choices[i] == j and choices[j] == i]
    first, second = gaussian_pairs(state["seed"], np.arange(3 * draws, dtype=np.uint32).reshape(-1, 3))  # (draws, 3)
    ab, bc, ca = first.T
    ac, ba, cb = second.T
    if state["locked"]:
        ba, ca, cb = ab, ac, bc
    codes = (ac > ab) + 2 * (bc > ba) + 4 * (cb > ca)
    return {
        "choices": choices,
        "pattern": sum(2**i * OTHERS[i].index(choice) for i, choice in enumerate(choices)) if decided else None,
        "cycle": decided and not pairs,
        "pairs": pairs,
        "counts": np.bincount(codes, minlength=8).tolist(),
    }


def winner_cycle(
    scores: Sequence[Sequence[Number]] = ((0, 1.5, 0.4), (-0.6, 0, 0.8), (-0.2, 0.9, 0)),
    *,
    locked: bool = False,
    seed: int = 1,
    label: str = "The rock-paper-scissors machine",
    alt: str = "",
    discovery: str = DISCOVERY,
) -> Module:
    """A figure in which a reader tries to make three tokens choose each other in a cycle, with and without symmetry.

    Args:
        scores: 3 x 3 at the start, from -3 to 3; the diagonal is not looked at.
        locked: whether the symmetric lock is on at the start.
        seed: of the random score sets, at least 0.
        label: accessible name.
        alt: the figure in a sentence; by default its first numbers.
        discovery: what to find out.

    Raises:
        ValueError: for what the figure's controls do not reach, and for a lock on scores that are not symmetric.

    >>> closed = winner_cycle([[0, 1, 0], [0, 0, 1], [1, 0, 0]])
    >>> closed.twin(closed.state)["cycle"]
    True
    """
    table = [[float(value) for value in row] for row in scores]
    if [len(row) for row in table] != [3, 3, 3]:
        raise ValueError(f"scores has rows of {[len(row) for row in table]} numbers: give three rows of three")
    if not all(abs(value) <= LARGEST for row in table for value in row):
        raise ValueError(f"scores={table} go beyond the sliders: give numbers from -{LARGEST:g} to {LARGEST:g}")
    if locked and any(table[i][j] != table[j][i] for i, j in combinations(range(3), 2)):
        raise ValueError(f"scores={table} are not symmetric: give symmetric ones, or locked=False")
    if seed < 0:
        raise ValueError(f"seed={seed}: give 0 or more")
    setting = {"scores": table, "locked": locked, "draws": 0, "seed": seed}
    first = compute(setting)
    spoken = ", ".join(
        f"{'abc'[i]} {'cannot decide' if choice is None else 'chooses ' + 'abc'[choice]}"
        for i, choice in enumerate(first["choices"])
    )
    closed = "The cycle is closed." if first["cycle"] else "The cycle is not closed."
    return module(
        ["seeded-gaussians.js", "winner-cycle.js"],
        twin=compute,
        state=setting,
        cases=_cases(),
        label=label,
        alt=alt or f"Three tokens with six scores: {spoken}. {closed}",
        discovery=discovery,
    )


def _cases() -> list[dict]:
    """Every pattern, ties, both cycles; random sets with the lock and without."""
    high_low = [(1.0, -0.5), (0.3, 0.7)]
    cases = []
    for code in range(12):
        scores = [[0.0] * 3 for _ in range(3)]
        for i, (j, k) in enumerate(OTHERS):
            scores[i][j], scores[i][k] = high_low[code >> i & 1]
        if code >= 8:
            scores[code - 9 if code > 8 else 0] = [0.5, 0.5, 0.5]  # a tie in one row
        cases.append({"scores": scores, "locked": code % 2 == 1, "draws": 40 * (code % 4), "seed": code})
    return cases

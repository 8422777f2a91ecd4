"""The plurality vote: n tokens vote for themselves with scores, once on an input and once on its noisy twin.

`compute` is the Python twin of ``assets/plurality-vote.js``. Score k is a standard Gaussian u_k for the input and
r u_k + sqrt(1 - r²) z_k for the twin, r = ρ². Vote number j of a seed is a pure function: any Gaussian pair of
`seeded_gaussians` can be looked up without drawing those before it.

The exact agreement travels as one Chebyshev series for each n and spread, in y = asin(κ r) / asin κ, κ =
τ²/(τ² + 1.5): in y it is smooth also at r = 1, where its slope in r is infinite. *Ours*, as is the figure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from numpy.polynomial import chebyshev

from nslab.explore.modules import Module, module
from nslab.explore.seeded_gaussians import gaussian_pairs
from nslab.propagation.soft_votes import agreement_mass

__all__ = ["compute", "plurality_vote"]

TOKENS = (2, 3, 4, 8, 16, 32, 64)
SPREADS = (0.5, 1.0, 2.0, 3.0, 5.0, 10.0, math.inf)
DEGREE = 20  # of the series; with DIGITS good to 1e-6
DIGITS = 8
STEPS = 60  # of a curve
DISCOVERY = (
    "More tokens agree more rarely: at the same ρ each doubling of n costs nearly the same factor, at ρ = 0.5 "
    "between 0.61 and 0.63 from 4 tokens on; for ever more tokens it tends to 2^(−(1 − r)/(1 + r)) with r = ρ², here "
    "0.66. Near ρ = 1 the curve of a hard vote falls steepest: among 64 tokens about half of the agreement is gone at "
    "ρ = 0.95. A gentle softmax has no such cliff, but then even two equal inputs overlap by less than 1. Why ρ²: a "
    "score multiplies a query by a key, the noise touches both, and each keeps a correlation of ρ."
)


def compute(state: dict) -> dict:
    """One vote to look at, the tally of all votes, and the exact agreement.

    Args:
        state: ``rho`` in [0, 1], ``tokens`` and ``spread`` (None is infinite: a hard vote), ``seed``, ``votes`` (how
            many are counted: numbers 1 to votes; number 0 is a trial, shown while nothing is counted), and
            ``token_counts``, ``spreads``, ``series`` (spread, n, coefficient).

    Returns:
        ``correlation`` of the scores; ``scores``, ``weights`` and ``winner`` (from 1) of the last vote, each also
        ``_of_twin``, and their ``overlap``; ``agreements`` (votes with equal winners), ``mean`` overlap over the votes
        and its standard ``error`` (None without two different outcomes); ``exact``; and ``curves``, the exact
        agreement for every n at ρ = sin(πi/120), i = 0 to 60.
    """
    rho, n, votes = state["rho"], state["tokens"], state["votes"]
    r = rho * rho
    first = min(votes, 1)
    index = np.arange(first * n, (votes + 1) * n, dtype=np.uint32).reshape(-1, n)  # (votes, n)
    u, z = gaussian_pairs(state["seed"], index)
    v = r * u + math.sqrt(1 - r * r) * z
    a, b = (_weights(scores, state["spread"]) for scores in (u, v))
    winner, other = u.argmax(-1), v.argmax(-1)
    overlap = (a * b).sum(-1)
    varied = votes > 1 and overlap.min() < overlap.max()
    place, level = state["token_counts"].index(n), state["spreads"].index(state["spread"])
    grid = np.sin(np.arange(STEPS + 1) * math.pi / (2 * STEPS)) ** 2
    curves = [_evaluate(series, grid, state["spread"]).tolist() for series in state["series"][level]]
    return {
        "correlation": r,
        "exact": _evaluate(state["series"][level][place], np.array([r]), state["spread"]).item(),
        "votes": votes,
        "agreements": int((winner == other).sum()) if votes else 0,
        "mean": float(overlap.mean()) if votes else None,
        "error": float(overlap.std(ddof=1)) / math.sqrt(votes) if varied else None,
        "scores": u[-1].tolist(),
        "scores_of_twin": v[-1].tolist(),
        "weights": a[-1].tolist(),
        "weights_of_twin": b[-1].tolist(),
        "winner": int(winner[-1]) + 1,
        "winner_of_twin": int(other[-1]) + 1,
        "overlap": float(overlap[-1]),
        "curves": curves,
    }


def plurality_vote(
    *,
    rho: float | int = 0.7,
    tokens: int = 8,
    spread: float | int = math.inf,
    token_counts: Sequence[int] = TOKENS,
    spreads: Sequence[float | int] = SPREADS,
    seed: int = 1,
    label: str = "Attention as a plurality vote",
    alt: str = "",
    discovery: str = DISCOVERY,
) -> Module:
    """A figure in which a reader lets n tokens vote twice and counts how often the same one wins.

    Args:
        rho: correlation of the inputs at the start, in [0, 1]; the slider moves in hundredths.
        tokens: n at the start, one of ``token_counts``.
        spread: standard deviation τ of the logits at the start, one of ``spreads``; infinity is the hard vote.
        token_counts: what the slider of n offers, increasing, each at least 2.
        spreads: what the slider of τ offers, increasing, positive, infinity allowed.
        seed: of the votes, at least 0.
        label: accessible name.
        alt: the figure in a sentence; by default its start and the exact agreement there.
        discovery: what to find out.

    Raises:
        ValueError: if a start is not among the values of its slider, or the values are not as said above.

    >>> figure = plurality_vote(rho=0.5, tokens=3)
    >>> round(figure.twin({**figure.state, "votes": 0})["exact"], 4)  # A_3(1/4)
    0.4272
    """
    counts, levels = tuple(token_counts), tuple(float(each) for each in spreads)
    if not counts or list(counts) != sorted(set(counts)) or counts[0] < 2:
        raise ValueError(f"token_counts={counts}: give whole numbers from 2 on, each larger than the last.")
    if not levels or list(levels) != sorted(set(levels)) or not levels[0] > 0:
        raise ValueError(
            f"spreads={levels}: give positive numbers, each larger than the last; infinity is a hard vote."
        )
    if not 0 <= rho <= 1 or abs(100 * rho - round(100 * rho)) > 1e-9:
        raise ValueError(f"rho={rho} is no step of its slider: give a whole number of hundredths from 0 to 1.")
    if tokens not in counts:
        raise ValueError(f"tokens={tokens} is not among token_counts={counts}: add it, or start from one of them.")
    if spread not in levels:
        raise ValueError(f"spread={spread} is not among spreads={levels}: add it, or start from one of them.")
    if not 0 <= seed < 2**31:
        raise ValueError(f"seed={seed}: give a whole number from 0 to 2^31 - 1.")
    state = {
        "rho": float(rho),
        "tokens": tokens,
        "spread": _json(float(spread)),
        "seed": seed,
        "votes": 0,
        "token_counts": list(counts),
        "spreads": [_json(level) for level in levels],
        "series": [_series(level, counts) for level in levels],
    }
    kind = "a hard vote" if math.isinf(spread) else f"a softmax of spread {spread:g}"
    alt = alt or (
        f"{tokens} tokens vote for themselves with random scores, once on an input and once on its noisy twin, in "
        f"{kind}. Inputs of correlation {rho:g} give scores of correlation {rho * rho:.3g}; the two votes then agree "
        f"with probability {compute(state)['exact']:.3f}."
    )
    return module(
        ["seeded-gaussians.js", "plurality-vote.js"],
        twin=compute,
        state=state,
        cases=_cases(state),
        label=label,
        alt=alt,
        discovery=discovery,
    )


def _cases(state: dict) -> list[dict]:
    """States on which page and twin are compared: every spread, every n, both ends of ρ, none to 1000 votes."""
    cases = [state]
    for k, spread in enumerate(state["spreads"]):
        for j, tokens in enumerate(state["token_counts"]):
            rho = (0.0, 1.0, 0.31, 0.7, 0.99)[(k + 2 * j) % 5]
            votes = (0, 1, 2, 7, 100)[(2 * k + j) % 5]
            cases.append({**state, "spread": spread, "tokens": tokens, "rho": rho, "votes": votes, "seed": 100 * k + j})
    return [*cases, {**state, "votes": 1000}, {**state, "seed": 2**31 - 1, "votes": 3}]


def _weights(scores: np.ndarray, spread: float | None) -> np.ndarray:
    """Softmax of the scores times the spread, over the last axis; all on the winner if there is no spread."""
    if spread is None:
        return (np.arange(scores.shape[-1]) == scores.argmax(-1)[:, None]).astype(float)
    powers = np.exp(spread * (scores - scores.max(-1, keepdims=True)))
    return powers / powers.sum(-1, keepdims=True)


def _kappa(spread: float | None) -> float:
    return 1.0 if spread is None else spread * spread / (spread * spread + 1.5)


def _evaluate(series: list[float], r: np.ndarray, spread: float | None) -> np.ndarray:
    kappa = _kappa(spread)
    return chebyshev.chebval(2 * np.arcsin(kappa * r) / math.asin(kappa) - 1, series)


@lru_cache(maxsize=64)
def _series(spread: float, counts: tuple[int, ...]) -> list[list[float]]:
    """(n, coefficient): the exact agreement mass, interpolated at Chebyshev's points in y on [0, 1]."""
    kappa = _kappa(_json(spread))
    x = chebyshev.chebpts2(DEGREE + 1)
    r = (np.sin((x + 1) / 2 * math.asin(kappa)) / kappa).clip(0, 1)
    values = agreement_mass(torch.from_numpy(r), spread, counts).numpy()
    fitted = chebyshev.chebfit(x, values.T, DEGREE).T
    return [chebyshev.chebtrim(row, 10**-DIGITS / 2).round(DIGITS).tolist() for row in fitted]


def _json(spread: float) -> float | None:
    return None if math.isinf(spread) else spread

"""The checks of *Noise Stability of Transformer Models* (2602.08287) on one attention layer: Theorems 5.2 and 5.3.

Each sets a formula beside a real softmax on correlated inputs, with fixed seeds. A limit is looked at where the layer
is wide enough for it; how it is missed in narrower layers is part of the evidence.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from nslab.claims.verdicts import Verdict, settle
from nslab.estimate import Estimate
from nslab.propagation import (
    agreement_mass,
    attention_stability,
    distinct_share,
    expected_maximum,
    measure_attention,
    plurality_agreement,
)

TOKENS = 64
RHO = torch.tensor([0.3, 0.6, 0.9], dtype=torch.float64)
SIGMAS = 4
"""Standard errors that a measured mean may be off."""
CLOSE = 0.02
"""How near a limit is near, for a stability between 0 and 1."""
HARD = 100
"""A factor on the scores that makes any softmax a choice."""

Map = Callable[[Tensor], Tensor]


def identity_attention(limit: Map = lambda rho: rho) -> Verdict:
    """Theorem 5.2: with W = I a wide layer copies, and stability is rho; in a narrow one attention leaks."""
    wide, narrow = (_stability(1, width=width, scores="identity") for width in (256, 64))
    gap = _furthest(wide, limit(RHO))
    short = 1 - float((narrow.value / limit(RHO)).mean())
    evidence = (
        f"A real softmax over {TOKENS} tokens of width 256 gives {_row(wide.value)} at $\\rho$ = {_row(RHO, 1)}; the "
        f"limit is {_row(limit(RHO))}. At width 64 it falls {100 * short:.0f} % short: $\\ln n$ must be small against "
        "$\\sqrt d$."
    )
    return settle(gap < CLOSE, evidence, {"gap": gap, "short_at_64": short})


def low_rank_attention(limit: Map = lambda rho: rho, rank: int = 64) -> Verdict:
    """The same with W = U U^T of a rank well above ln n; and of a rank that is not."""
    enough, few = (_stability(2, width=512, scores="low-rank", rank=k) for k in (rank, 4))
    gap = _furthest(enough, limit(RHO))
    short = 1 - float((few.value / limit(RHO)).mean())
    evidence = (
        f"{TOKENS} tokens of width 512: rank {rank} gives {_row(enough.value)} at $\\rho$ = {_row(RHO, 1)}, the "
        f"limit is {_row(limit(RHO))}. Rank 4, about $\\ln n$, falls {100 * short:.0f} % short."
    )
    return settle(gap < CLOSE, evidence, {"gap": gap, "short_at_4": short})


def random_attention(
    same_choice: Callable[[Tensor, int], Tensor] = lambda rho, n: plurality_agreement(rho**2, n),
) -> Verdict:
    """Theorem 5.3 with s(rho) = A_n(rho^2): in a hard layer the choices agree so often, and the winner leans."""
    width = 128
    hard = measure_attention(
        RHO, tokens=TOKENS, width=width, score_scale=HARD, draws=64, generator=torch.Generator().manual_seed(3)
    )
    share = same_choice(RHO, TOKENS)
    lean = expected_maximum(TOKENS).item() ** 2 / width
    off = _sigmas(hard.agreement, share)
    off_leaning, off_plain = (_sigmas(hard.stability, RHO * (share + extra)) for extra in (lean, 0.0))
    soft = _stability(4, width=width, draws=64)
    off_soft = _sigmas(soft, attention_stability(RHO, tokens=TOKENS, width=width))
    evidence = (
        f"{TOKENS} tokens of width {width}, $\\rho$ = {_row(RHO, 1)}. With scores so large that the softmax chooses, "
        f"the choices agree with probability {_row(hard.agreement.value)}; $A_n(\\rho^2)$ is {_row(share)}. "
        f"Stability is {_row(hard.stability.value)}, while $\\rho\\, s$ is {_row(RHO * share)} and "
        f"$\\rho\\, (s + m_n^2/d)$ is {_row(RHO * (share + lean))}. With entries of variance 1 the softmax is still "
        f"softer than a choice, and stability is {_row(soft.value)}."
    )
    numbers = {"off": off, "off_leaning": off_leaning, "off_plain": off_plain, "off_soft": off_soft, "lean": lean}
    return settle(max(off, off_leaning, off_soft) < SIGMAS, evidence, numbers, changed=off_plain > SIGMAS)


def random_function(distinct: Callable[[int], float] = distinct_share) -> Verdict:
    """How many different tokens n rows of hard attention with random scores choose, as a share of n."""
    found = measure_attention(
        0.5, tokens=TOKENS, width=256, score_scale=HARD, draws=64, generator=torch.Generator().manual_seed(5)
    ).distinct_share
    share, error = found.value.item(), found.stderr.item()
    expected = distinct(TOKENS)
    evidence = (
        f"In {found.samples} layers of {TOKENS} tokens, width 256, the rows chose {share:.3f} ± {error:.3f} of the "
        f"tokens. A random function reaches {expected:.3f} of them on average, a permutation all."
    )
    numbers = {"share": share, "error": error, "expected": expected}
    right = abs(share - expected) < CLOSE + SIGMAS * error and share < 0.75
    return settle(right, evidence, numbers)


def usual_initialisation(spread: Callable[[int], float] = lambda width: 1.0) -> Verdict:
    """W = W_Q W_K^T with entries of variance 1/d in both factors: spread of the scores, agreement, largest weight."""
    width, rho, draws = 256, 0.5, 12
    generator = torch.Generator().manual_seed(6)
    rows = []
    for _ in range(draws):
        x, z = torch.randn(2, TOKENS, width, generator=generator)
        queries, keys = torch.randn(2, width, width, generator=generator) / math.sqrt(width)
        runs = torch.stack([x, rho * x + math.sqrt(1 - rho**2) * z])
        scores = (runs @ queries) @ (runs @ keys).mT / math.sqrt(width)  # (runs, tokens, tokens)
        on_x, on_y = scores.softmax(-1)
        rows.append([scores.std(-1).mean(), (on_x * on_y).sum(-1).mean(), on_x.amax(-1).mean()])
    found = torch.tensor(rows, dtype=torch.float64)
    (deviation, mass, largest), error = found.mean(0).tolist(), float(found[:, 1].std()) / math.sqrt(draws)
    soft = agreement_mass(rho**2, spread(width), TOKENS).item()
    hard = plurality_agreement(rho**2, TOKENS).item()
    evidence = (
        f"{TOKENS} tokens of width {width}, $\\rho$ = {rho}: the scores of a row have standard deviation "
        f"{deviation:.2f}, not $\\sqrt d$ = {math.sqrt(width):.0f}. The largest weight is {largest:.2f}, and the "
        f"agreement mass {mass:.4f}: a soft vote of spread {spread(width):g} gives {soft:.4f}, uniform weights "
        f"{1 / TOKENS:.4f}, and the vote of the theorem {hard:.4f}."
    )
    numbers = {"deviation": deviation, "mass": mass, "error": error, "largest": largest, "soft": soft, "hard": hard}
    right = abs(mass - soft) < SIGMAS * error + 0.05 * soft and soft < hard / 2 and largest < 0.2
    return settle(right, evidence, numbers)


def _stability(seed: int, *, width: int, scores: str = "random", rank: int | None = None, draws: int = 8) -> Estimate:
    generator = torch.Generator().manual_seed(seed)
    layer = {"tokens": TOKENS, "width": width, "scores": scores, "rank": rank}
    return measure_attention(RHO, **layer, draws=draws, generator=generator).stability


def _furthest(found: Estimate, expected: Tensor) -> float:
    return float((found.value - expected).abs().max())


def _sigmas(found: Estimate, expected: Tensor) -> float:
    return float(((found.value - expected) / found.stderr).abs().max())


def _row(values: Tensor, digits: int = 3) -> str:
    return ", ".join(f"{value:.{digits}f}" for value in values.tolist())

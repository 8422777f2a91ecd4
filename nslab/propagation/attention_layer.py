"""One softmax attention layer on noisy inputs: three kinds of score matrix, in theory and by direct simulation.

X holds n tokens of d independent standard Gaussians, Y their rho-correlated twins. The layer is A(X) X w with A the
row softmax of X W X^T / sqrt(d) and w a unit value column; its stability is E[(A(X) X w)_i (A(Y) Y w)_i]. Writing
s = E sum_k A_ik(X) A_ik(Y) for the agreement mass, theory says: rho times (s + what the chosen tokens have in common).

    "identity"   W = I: every token attends to itself, s is about 1, as long as log n << sqrt(d)
    "low-rank"   W = U U^T, U (d, k) with entries of variance 1/k: the same, as long as k >> log n
    "random"     W with independent entries of variance 1: a vote among the tokens, s = A_n(rho^2) for large d
"""

import math
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float
from torch import Tensor

from nslab.estimate import Estimate, sample_mean
from nslab.gaussian import hermite_coefficients, stability_from_energies
from nslab.gaussian.ranges import Scalar, correlation
from nslab.propagation.doubles import as_doubles
from nslab.propagation.soft_votes import agreement_mass
from nslab.propagation.votes import expected_maximum, plurality_agreement

SCORES = ("identity", "low-rank", "random")
DEGREE = 40
ELEMENTS = 2**23
"""Numbers that `measure_attention` holds at a time, about."""


def attention_stability(
    rho: Scalar,
    *,
    tokens: int,
    width: int,
    scores: str = "random",
    rank: int | None = None,
    score_scale: float | int = 1.0,
    corrected: bool = True,
    hard: bool = False,
) -> Float[Tensor, "..."]:
    r"""Raw stability of one attention layer with a unit value column.

    Formula: the limit is $\rho$ for "identity" and "low-rank" and $\rho\, A_n(\rho^2)$ for "random", with
    $A_n$ = `plurality_agreement`. Corrected for "random", with the spread $\tau = \beta \sqrt d$ of the scores,
    $\rho\, (G_n(\rho^2, \tau) + \mu^2/d)$, $G_n$ = `agreement_mass`, $\mu = \tau (1 - G_n(1, \tau))$ the mean standard
    score of what is attended to; hard: $\rho\, (A_n(\rho^2) + m_n^2/d)$, m_n the expected maximum. Corrected
    for the others, with the weights a, a' = A_ii(X), A_ii(Y) that a token keeps on itself,
    $\frac1d E[a a' \langle x_i, y_i \rangle] + \rho\, (2 \lambda E[a (1 - a')] + E[(1 - a)(1 - a')]\, (P + (1 - P)
    \lambda^2))$: what leaks agrees as a vote of the n - 1 others, $P = G_{n-1}(\rho^2, \sigma)$ with $\sigma$ = beta
    for "identity", $\beta \sqrt{1 + d/k}$ for "low-rank", and goes to tokens that resemble x_i, by
    $\lambda = \beta (1 - G_{n-1}(1, \sigma)) / \sqrt d$.

    Args:
        rho: correlations in [-1, 1], a number (float64) or a tensor (*rho).
        tokens: n >= 1.
        width: d >= 1.
        scores: "identity", "low-rank" or "random".
        rank: k >= 1, for "low-rank" only.
        score_scale: beta >= 0, a factor on W. For "random", 1/sqrt(d) is an ordinary initialisation, far from hard.
        corrected: whether to correct for finite n, d and k. The limit, d and k to infinity, knows none of them.
        hard: whether "random" scores choose one token each, as for infinite d, when corrected for the selection.

    Returns:
        (*rho), in the dtype of rho; differentiable in rho inside (-1, 1). Multiply by the squared norm of another
        value column.

    How to read it: an uncentred second moment; the column's output has mean 0, and at rho = 1 the value is its
    variance, not 1. Against simulation (n from 16 to 256, d from 64 to 512, k from 16) the corrected values are within
    0.012 for |rho| up to 0.9 and within 0.03 at 1. The hard ones are within 0.04 up to 0.9, but 0.07 to 0.4 high at 1,
    where a softmax still spreads its weight and a hard choice does not.

    Errors: `ValueError` for an unknown kind of scores, with the known ones, for sizes that no layer has, a `rank`
    missing or not wanted, and rho outside [-1, 1].

    Source: the limits: arXiv 2602.08287, Theorems 5.2 and 5.3, as reported in a digest, which leaves the probability
    in 5.3 without a formula. A_n, the scale of the logits and all corrections: *reconstructed*.

    >>> attention_stability(0.6, tokens=64, width=512, scores="identity", corrected=False).item()
    0.6
    """
    rho = _levels(rho)
    _check(tokens, width, scores, rank, score_scale)
    if hard and scores != "random":
        raise ValueError(f"hard = True with scores = {scores!r}: only 'random' scores vote; leave hard out")
    if not corrected:
        return rho * plurality_agreement(rho.square(), tokens) if scores == "random" else rho.clone()
    if scores == "random":
        spread = score_scale * math.sqrt(width)
        if hard:
            mass, lean = plurality_agreement(rho.square(), tokens), expected_maximum(tokens).item()
        else:
            mass = agreement_mass(rho.square(), spread, tokens)
            lean = _lean(spread, tokens)
        return rho * (mass + lean**2 / width)
    own, both, norms, rest, lean = _self_attention(rho, tokens, width, rank, score_scale)
    leaked = 1 - 2 * own + both
    return rho * (both + norms + 2 * lean * (own - both) + leaked * (rest + (1 - rest) * lean**2))


def attention_agreement(
    rho: Scalar,
    *,
    tokens: int,
    width: int,
    scores: str = "random",
    rank: int | None = None,
    score_scale: float | int = 1.0,
) -> Float[Tensor, "..."]:
    r"""The agreement mass $s = E \sum_k A_{ik}(X) A_{ik}(Y)$ of one attention layer at finite n, d and k.

    Formula: $G_n(\rho^2, \beta \sqrt d)$ for "random"; $E[a a'] + E[(1 - a)(1 - a')]\, P$ for the others, in the
    notation of `attention_stability`, where arguments, errors and source are too.

    Returns:
        (*rho), between 1/n (uniform attention) and 1.

    How to read it: the probability that a token drawn from the attention on X and one from the attention on Y are
    the same token.

    >>> round(attention_agreement(0.6, tokens=64, width=512, scores="identity").item(), 3)
    1.0
    """
    rho = _levels(rho)
    _check(tokens, width, scores, rank, score_scale)
    if scores == "random":
        return agreement_mass(rho.square(), score_scale * math.sqrt(width), tokens)
    own, both, _, rest, _ = _self_attention(rho, tokens, width, rank, score_scale)
    return both + (1 - 2 * own + both) * rest


def distinct_share(tokens: int) -> float:
    r"""Expected share of distinct tokens among n independent uniform choices: $1 - (1 - 1/n)^n$, to 1 - 1/e = 0.632.

    How to read it: rows of hard attention with random scores choose almost independently. The attention matrix is
    therefore a random function, not a random permutation, and a third of the tokens is lost in one layer: the
    start of rank collapse. A real layer has a little less: of 64 tokens 0.573, 0.619 and 0.631 at widths 64, 256 and
    1024, where this is 0.635.

    Errors: `ValueError` when tokens < 1.

    Source: *reconstructed*; digests of arXiv 2602.08287 speak of a permutation.

    >>> round(distinct_share(64), 3)
    0.635
    """
    if tokens < 1:
        raise ValueError(f"tokens = {tokens}: give the number of tokens, at least 1")
    return -math.expm1(tokens * math.log1p(-1 / tokens)) if tokens > 1 else 1.0


@dataclass(frozen=True)
class AttentionMeasurement:
    """What `measure_attention` saw, each an `Estimate` over draws of weights and inputs.

    Attributes:
        stability: (*rho), the mean over tokens, and over all unit value columns, of the output times its twin.
        agreement: (*rho), the agreement mass, the mean over tokens.
        largest_weight: (), the mean over tokens of the largest weight in a row of A(X).
        distinct_share: (), how many different tokens have the largest weight of some row, divided by n.
    """

    stability: Estimate
    agreement: Estimate
    largest_weight: Estimate
    distinct_share: Estimate


def measure_attention(
    rho: Scalar,
    *,
    tokens: int,
    width: int,
    scores: str = "random",
    rank: int | None = None,
    score_scale: float | int = 1.0,
    draws: int = 24,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> AttentionMeasurement:
    """A real softmax attention layer on correlated inputs, with fresh weights and inputs in every draw.

    Args:
        rho: correlations in [-1, 1], a number or a tensor (*rho); all use the same draws.
        tokens: n >= 1.
        width: d >= 1.
        scores: "identity", "low-rank" or "random".
        rank: k >= 1, for "low-rank" only.
        score_scale: a factor on W.
        draws: independent draws, at least 2.
        generator: source of randomness, on `device`.
        device: where to compute.
        dtype: in which precision.

    Returns:
        `AttentionMeasurement`. Its errors are those of means over draws; tokens of one draw are dependent.

    How to read it: the twin of `attention_stability`, `attention_agreement` and `distinct_share`. Averaged over
    value columns, the output's stability is <(A(X) X)_i, (A(Y) Y)_i> / d. Y = rho X + sqrt(1 - rho^2) Z is never
    formed: its scores are combinations of those of X and Z. A draw costs n d (d + n), and n^3 for each rho.

    Errors: as `attention_stability`, and `ValueError` for fewer than 2 draws.

    Source: *ours*.
    """
    _check(tokens, width, scores, rank, score_scale)
    rho = _levels(rho)
    flat = rho.flatten().tolist()
    place = {"generator": generator, "device": device, "dtype": dtype}
    inner = {"identity": 0, "low-rank": width * (rank or 0), "random": width**2}[scores]
    batch = max(1, ELEMENTS // (inner + 6 * tokens * width + 12 * tokens**2))

    def draw(count: int) -> Tensor:
        x, z = (torch.randn(count, tokens, width, **place) for _ in range(2))
        queries, keys = (x, z), (x, z)
        if scores == "random":
            weight = torch.randn(count, width, width, **place)
            queries = (x @ weight, z @ weight)
        elif scores == "low-rank":
            weight = torch.randn(count, width, rank, **place) / math.sqrt(rank)
            queries = keys = (x @ weight, z @ weight)
        scale = score_scale / math.sqrt(width)
        xx, xz, zx, zz = (scale * q @ k.mT for q in queries for k in keys)  # (count, tokens, tokens) each
        values_xx, values_xz = x @ x.mT / width, x @ z.mT / width
        attention = torch.softmax(xx, -1)
        stabilities, agreements = [], []
        for r in flat:
            s = math.sqrt((1 - r) * (1 + r))
            twin = torch.softmax(r * r * xx + r * s * (xz + zx) + s * s * zz, -1)
            stabilities.append((attention @ (r * values_xx + s * values_xz) * twin).sum(-1).mean(-1))
            agreements.append((attention * twin).sum(-1).mean(-1))
        chosen = torch.zeros_like(attention[..., 0]).scatter_(-1, attention.argmax(-1), 1.0)
        return torch.stack([*stabilities, *agreements, attention.amax(-1).mean(-1), chosen.mean(-1)], -1)

    found = sample_mean(draw, samples=draws, batch_size=batch)  # (2 rho + 2,)
    count = len(flat)
    shapes = (slice(0, count), rho.shape), (slice(count, 2 * count), rho.shape), (-2, ()), (-1, ())
    return AttentionMeasurement(
        **{
            field.name: Estimate(
                found.value[at].reshape(shape), found.stderr[at].reshape(shape), found.samples, found.seconds
            )
            for field, (at, shape) in zip(fields(AttentionMeasurement), shapes, strict=True)
        }
    )


def _self_attention(
    rho: Tensor, tokens: int, width: int, rank: int | None, score_scale: float | int
) -> tuple[float, Tensor, Tensor, Tensor, float]:
    """E a, E[a a'], what the norms add to it, the agreement P of the leaked weight, and its lean towards x_i.

    A token's score with itself is beta sqrt(d) xi, where xi = x^T U U^T x / d is a mean of chi-squares with k d/(k + d)
    degrees of freedom (the trace of (U U^T)^2 says so; d for the identity). Given xi, its scores with others are
    independent Gaussians. xi is a smooth function of one Gaussian (Wilson and Hilferty), which has correlation
    rho^2 with that of the twin: so E[a a'] is a power series in rho^2. What is left out is that the other scores
    of the two runs are correlated too, which matters where they rather than xi decide (rank below about 8).
    """
    like = {"dtype": torch.float64, "device": rho.device}
    if tokens == 1:
        return 1.0, torch.ones_like(rho), torch.zeros_like(rho), torch.ones_like(rho), 0.0
    freedom = width if rank is None else width * rank / (width + rank)
    spread = score_scale * math.sqrt(width / freedom)
    y = torch.arange(-4, 38, 0.5, **like)  # a standard Gumbel variable, and its mass
    gumbel = 0.5 * torch.exp(-y - torch.exp(-y))
    z = torch.arange(-85, 86, **like) / 10  # another token's standard score, and its mass
    normal = 0.1 * torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)

    def own_weight(g: Tensor) -> Tensor:
        """A softmax weight is the probability to win once each score has its own Gumbel noise."""
        xi = (1 - 2 / (9 * freedom) + math.sqrt(2 / (9 * freedom)) * g).clamp(min=0) ** 3
        level = score_scale * math.sqrt(width) * xi[..., None] + y  # (*g, y)
        other = spread * xi.sqrt()[..., None, None] * z  # (*g, 1, z)
        below = torch.exp(-torch.exp(other - level[..., None])) @ normal  # (*g, y)
        return below ** (tokens - 1) @ gumbel

    a = hermite_coefficients(own_weight, DEGREE, **like)
    r = rho.square()
    both = stability_from_energies(a.square(), r).to(rho.dtype)
    # Long tokens have both the larger weight and the larger products: E[a a' (<x, y>/d - rho)] / rho, by Stein's lemma
    degrees = torch.arange(1, DEGREE + 1, **like)
    norms = stability_from_energies(degrees.sqrt() * a[1:] * a[:-1], r).to(rho.dtype) * math.sqrt(8 * freedom) / width
    lean = _lean(spread, tokens - 1) * math.sqrt(freedom) / width
    return a[0].item(), both, norms, agreement_mass(r, spread, tokens - 1), lean


def _lean(spread: float, tokens: int) -> float:
    """The mean standard score of what is attended to, by Stein's lemma; from 1000 on that of a hard choice, to 1e-5."""
    spread = min(spread, 1000.0)
    return spread * (1 - agreement_mass(1.0, spread, tokens).item())


def _levels(rho: Scalar) -> Tensor:
    return correlation(*as_doubles(rho))


def _check(tokens: int, width: int, scores: str, rank: int | None, score_scale: float | int) -> None:
    if scores not in SCORES:
        raise ValueError(f"scores = {scores!r} is unknown: choose from {', '.join(SCORES)}")
    for name, size in (("tokens", tokens), ("width", width)):
        if size < 1:
            raise ValueError(f"{name} = {size}: give at least 1")
    if (scores == "low-rank") != (rank is not None):
        raise ValueError(f"rank = {rank} with scores = {scores!r}: give a rank for 'low-rank' scores, and only there")
    if rank is not None and rank < 1:
        raise ValueError(f"rank = {rank}: give at least 1")
    if not 0 <= score_scale < math.inf:
        raise ValueError(f"score_scale = {score_scale}: give a finite factor, 0 or more")

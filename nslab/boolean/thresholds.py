"""Weighted votes of any number of voters, exactly, by counting instead of tabulating.

f(x) = sign(w · x - bias) with integer weights and sign(0) = 0: **a tie is a third value**. With L the total weight of
the voters at -1 and T = sum |w_i|, w · x = T - 2L, so everything follows from the distribution of integers in
0 .. T. Sums of positive numbers in double precision: errors stay below 1e-12 (tests compare with exact integers).
Negative weights count as their absolute values, since x_i and -x_i are equally likely; results are on the CPU.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor

from nslab.boolean.checks import Scalar, as_correlation, finite

Weights = Num[Tensor, "..."] | Sequence[int]
"""One vector of n whole numbers."""

MAX_CELLS = 2**26
"""Most cells of a count: T for a distribution, n * T for influences (held at once, 512 MiB), T**2 / 2 for stability."""
BLOCK_CELLS = 2**18
"""Cells of the stability sum worked on at once: 2 MiB for the kernel and 4 MiB for each different weight."""


@dataclass(frozen=True)
class Outcomes:
    """The probabilities that a weighted vote is won (+1), tied (0) and lost (-1); they sum to 1."""

    win: float
    tie: float
    lose: float


def threshold_distribution(weights: Weights) -> tuple[Int[Tensor, " sums"], Float[Tensor, " sums"]]:
    """The distribution of w · x for uniform x: its T + 1 candidate values -T, -T + 2, .., T and their probabilities.

    Args:
        weights: integers, any number of them, any sign.

    Raises:
        ValueError: if a weight is no integer, or T exceeds 2**26.

    >>> sums, probabilities = threshold_distribution([1, 1])
    >>> sums.tolist(), probabilities.tolist()
    ([-2, 0, 2], [0.25, 0.5, 0.25])
    """
    sizes = _sizes(weights)
    _affordable(sum(sizes), f"T = {sum(sizes)}, the sum of |weights|,", "threshold_distribution")
    pmf = torch.ones(1, dtype=torch.float64)
    for size in sizes:
        pmf = _add_voter(pmf, size)
    total = sum(sizes)
    return torch.arange(-total, total + 1, 2), pmf  # the distribution of L is symmetric: L and T - L alike


def threshold_outcomes(weights: Weights, bias: float | int = 0) -> Outcomes:
    """P(w · x > bias), P(w · x = bias) and P(w · x < bias) for uniform x."""
    sums, pmf = threshold_distribution(weights)
    bias = _reachable(bias, int(sums[-1]))
    sums = sums.double()  # integers would meet a fractional bias in single precision
    return Outcomes(*(pmf[chosen].sum().item() for chosen in (sums > bias, sums == bias, sums < bias)))


def threshold_influences(weights: Weights, bias: float | int = 0) -> Float[Tensor, " n"]:
    """Inf_i(f) = E[Var_{x_i} f] for f = sign(w · x - bias) in {-1, 0, 1}, for all n voters in O(n T).

    Flipping voter i between -1 and +1 contributes 1, between a tie and ±1 contributes 1/4: without ties, the
    probability that voter i decides the vote.

    Args:
        weights: integers, any number of them (1001 equal votes, or the 51 of the electoral college with total 538).
        bias: the threshold; ties happen only where w · x can equal it.

    Raises:
        ValueError: if a weight is no integer, or n * T exceeds 2**26 (remedy in the message).

    Source: the Banzhaf power index; O'Donnell (2014), section 2.2. Prefix and suffix distributions: ours.

    >>> threshold_influences([2, 1, 1, 1]).tolist()
    [0.75, 0.25, 0.25, 0.25]
    """
    decided, grazed = _pivots(weights, bias)
    return decided + grazed / 4


def threshold_flip_influences(weights: Weights, bias: float | int = 0) -> Float[Tensor, " n"]:
    """P[f(x) != f(x with bit i flipped)], a change to or from a tie included; `threshold_influences` without ties."""
    decided, grazed = _pivots(weights, bias)
    return decided + grazed


def threshold_total_influence(weights: Weights, bias: float | int = 0) -> float:
    """I(f) = sum_i Inf_i(f) of f = sign(w · x - bias), the tie being 0."""
    return threshold_influences(weights, bias).sum().item()


def threshold_stability(weights: Weights, rho: Scalar, bias: float | int = 0) -> Float[Tensor, "*rho"]:
    r"""Stab_rho(f) = E[f(x) f(y)] for f = sign(w · x - bias) in {-1, 0, 1}, exactly, for many rho.

    Formula: with $M = T + 1$ and $G(a) = \sum_s f(s) e^{-i \pi a s / M}$ over the sums s = -T, -T + 2, .., T,
    $$\mathrm{Stab}_\rho = \frac1{M^2} \sum_{a,b=0}^{M-1} G(a) G(b) \prod_j \left( \cos\alpha_j \cos\beta_j
    - \rho \sin\alpha_j \sin\beta_j \right), \quad \alpha_j = \pi w_j a / M,\ \beta_j = \pi w_j b / M,$$
    the product being the joint characteristic function of (w · x, w · y). The work is T**2 / 2 times the number of
    *different* weights, for each rho.

    Args:
        weights: integers, any number of them, with T = sum |w_i| up to about 11,000.
        rho: correlations in [-1, 1], a number or a tensor (*rho); differentiable, at the price of holding
            T**2 / 2 numbers for each rho and different weight.
        bias: the threshold.

    Returns:
        float64, (*rho). At rho = 1 the probability of no tie, at rho = 0 the squared mean.

    Raises:
        ValueError: if rho is outside [-1, 1], a weight is no integer, the bias not finite, or T**2 / 2 exceeds
            2**26.

    >>> round(threshold_stability([1, 1, 1], 0.5).item(), 12)
    0.40625
    """
    sizes = _sizes(weights)
    modulus = sum(sizes) + 1
    bias = _reachable(bias, modulus - 1)
    rho = as_correlation(rho, torch.empty((), dtype=torch.float64))
    _affordable(modulus**2 // 2, f"T = {modulus - 1}, the sum of |weights|,", "threshold_stability")

    # Conjugate symmetry: (a, b) and (-a, -b) contribute alike, so half of the rows, most of them twice.
    rows = modulus // 2 + 1
    transform = _sign_transform(modulus, bias)
    twice = torch.full((rows,), 2.0, dtype=torch.float64)
    twice[0] = 1
    if modulus % 2 == 0:
        twice[-1] = 1
    waves = []
    for size in sorted(set(sizes)):
        angle = (torch.arange(modulus) * size % (2 * modulus)).double() * (math.pi / modulus)  # reduced exactly first
        waves.append((angle.cos(), angle.sin(), sizes.count(size)))

    values = torch.zeros(rho.numel(), dtype=torch.float64)
    for block in torch.arange(rows).split(max(1, BLOCK_CELLS // modulus)):
        kernel = ((twice * transform[:rows])[block, None] * transform).real / modulus**2  # (block, modulus)
        factors = [(cos[block, None] * cos, sin[block, None] * sin, count) for cos, sin, count in waves]
        sums = [_characteristic_sum(kernel, factors, r) for r in rho.flatten()]
        values = values + torch.stack(sums) if sums else values
    return values.reshape(rho.shape)


def _characteristic_sum(kernel: Tensor, factors: list[tuple[Tensor, Tensor, int]], rho: Tensor) -> Tensor:
    product = kernel
    for both_cosine, both_sine, multiplicity in factors:
        product = product * (both_cosine - rho * both_sine) ** multiplicity
    return product.sum()


def _sign_transform(modulus: int, bias: float | int) -> Tensor:
    """G(a) = sum_s sign(s - bias) exp(-i pi a s / modulus) over s = T - 2L, L = 0 .. T: (modulus,), complex."""
    total = modulus - 1
    index = torch.arange(modulus)
    signs = torch.sign((total - 2 * index).double() - bias)
    phase = (index * total % (2 * modulus)).double() * (-math.pi / modulus)
    return torch.polar(torch.ones_like(phase), phase) * torch.fft.ifft(signs) * modulus


def _pivots(weights: Weights, bias: float | int) -> tuple[Tensor, Tensor]:
    """For each voter, the probability that its flip turns a win into a loss, and that it makes or breaks a tie.

    With L' the weight of the *other* voters at -1, the vote is won iff L < c, tied iff L = c, where c = (T - bias)/2
    and L is L' (voter at +1) or L' + w (voter at -1). So the flip decides iff c - w < L' < c, and touches a tie iff
    L' = c or L' = c - w. L' is the sum of what comes before and after the voter, whose distributions we have.
    """
    sizes = _sizes(weights)
    total = sum(sizes)
    _affordable(len(sizes) * (total + 1), f"n * T = {len(sizes)} * {total}", "threshold_influences")
    after = [torch.ones(1, dtype=torch.float64)]
    for size in reversed(sizes):
        after.append(_add_voter(after[-1], size))
    cut = (total - _reachable(bias, total)) / 2
    below, above = math.ceil(cut) - 1, math.floor(cut)  # the last integer < cut, and the last <= cut

    decided, grazed = torch.zeros(2, len(sizes), dtype=torch.float64)
    before = torch.ones(1, dtype=torch.float64)
    for i, size in enumerate(sizes):
        suffix = after[len(sizes) - 1 - i]
        cdf = torch.cat([suffix.new_zeros(1), suffix.cumsum(0)])  # cdf[k] = P(sum after < k)
        start = torch.arange(len(before))

        def inside(low: int, high: int, cdf=cdf, start=start, before=before) -> Tensor:  # P(low <= L' <= high)
            top, bottom = (high + 1 - start).clamp(0, len(cdf) - 1), (low - start).clamp(0, len(cdf) - 1)
            return before @ (cdf[top] - cdf[bottom])

        if size:
            decided[i] = inside(above - size + 1, below)
            if below < above:  # the cut is an integer: ties exist
                grazed[i] = inside(above, above) + inside(above - size, above - size)
        before = _add_voter(before, size)
    return decided, grazed


def _add_voter(pmf: Tensor, size: int) -> Tensor:
    """The distribution of L + size * bit, from that of L: half stays, half moves up by size."""
    wider = torch.cat([pmf, pmf.new_zeros(size)])
    wider[size:] += pmf
    return wider / 2


def _sizes(weights: Weights) -> list[int]:
    """|w_i| as Python integers, refused unless whole numbers."""
    weights = torch.as_tensor(weights)
    if weights.ndim != 1:
        raise ValueError(f"weights has shape {tuple(weights.shape)}: give one vector of n integers")
    finite(weights, "weights", "give whole numbers of votes")
    if weights.is_floating_point() and not bool((weights == weights.round()).all()):
        value = weights[weights != weights.round()][0].item()
        raise ValueError(
            f"weights holds {value:g}: counting needs integers; multiply the weights and the bias by a common"
            " denominator, or use weighted_threshold (n <= 24) or the sampling functions"
        )
    return [abs(int(weight)) for weight in weights.tolist()]


def _reachable(bias: float | int, total: int) -> float | int:
    """The bias, refused unless finite; beyond ±T all decide alike, and numbers of any size become small ones."""
    finite(bias, "bias", "it is the sum of votes to exceed")
    return min(max(bias, -total - 2), total + 2)


def _affordable(cells: int, what: str, function: str) -> None:
    if cells > MAX_CELLS:
        raise ValueError(
            f"weights: {what} makes {function} count {cells:.2g} cells, more than {MAX_CELLS:.2g}: divide the weights"
            " by a common factor, round them, or use the sampling functions"
        )

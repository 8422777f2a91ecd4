"""How close a ±1-valued function is to a junta, a function of few coordinates; and Friedgut's theorem."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from nslab.boolean.checks import coordinates, positive, sign_table_bits
from nslab.boolean.cube import by_coordinate
from nslab.boolean.functions import junta
from nslab.boolean.spectral import flip_influences, total_influence

EXACT_WORK = 1e10
"""The exact search is made while binom(n, k) * 2**n is at most this."""


@dataclass(frozen=True, eq=False)
class JuntaFit:
    """A function f and the best junta found for it.

    Attributes:
        distance: P[f(x) != g(x)], from 0 (f is that junta) to 1/2 at most (a constant is as good).
        coordinates: what g reads, ascending.
        exact: True if no junta on as many coordinates is closer; False if `distance` is only an upper bound.
        table: g, (2**n,), ±1.
    """

    distance: float
    coordinates: tuple[int, ...]
    exact: bool
    table: Float[Tensor, " table"]


def best_junta(f: Float[Tensor, "..."], relevant: tuple[int, ...] | list[int], *, exact: bool = False) -> JuntaFit:
    """The closest junta on given coordinates J: g(x) = sign E[f | x_J], ties going to +1.

    Its distance is (1 - E|E[f | x_J]|)/2. `exact` is passed on to the result.

    Raises:
        ValueError: if f is not ±1-valued, or a coordinate repeats or is out of range.
    """
    n = _one_table(f)
    relevant = tuple(sorted(coordinates(relevant, n, "relevant")))
    means = _conditional_means(f.double(), relevant)
    core = torch.where(means < 0, -1.0, 1.0).to(f.dtype)
    return JuntaFit((1 - means.abs().mean().item()) / 2, relevant, exact, junta(n, relevant, core))


def junta_distance(f: Float[Tensor, "..."], k: int) -> JuntaFit:
    """The distance from f to the nearest function of k coordinates, min over |J| = k of P[f(x) != g(x_J)].

    Exact while binom(n, k) 2**n <= 1e10: subsets share the averages that they have in common, so the search costs
    far less than one pass over f for each. Beyond that greedy, one coordinate at a time, and labelled an upper bound.

    Args:
        f: one ±1-valued table, (2**n,), n <= 24.
        k: how many coordinates the junta may read, 0 .. n.

    Returns:
        `JuntaFit`. Its distance is 0 iff f is a k-junta, and never above 1/2.

    Raises:
        ValueError: if f is not ±1-valued, is a batch, or k is outside 0 .. n.

    >>> junta_distance(torch.tensor([1.0, 1.0, 1.0, -1.0]), 1).distance
    0.25
    """
    n = _one_table(f)
    if not 0 <= k <= n:
        raise ValueError(f"k = {k} is outside 0 .. n = {n}: a junta on k of the n coordinates is asked for")
    if math.comb(n, k) * 2**n <= EXACT_WORK:
        return best_junta(f, _best_subset(f, n, k), exact=True)
    return best_junta(f, _greedy_subset(f, n, k), exact=k == n)


@torch.no_grad()
def _best_subset(f: Tensor, n: int, k: int) -> tuple[int, ...]:
    """The J of size k with the largest sum |sum_{x outside J} f|.

    Coordinate by coordinate, from the highest: every partial table either keeps the coordinate or sums it away.
    `partial[j]` holds, for all sets that keep j of the coordinates seen, (sets, 2**j kept, 2**left): summed early,
    shared by all sets below, and scored as soon as the rest is forced. The sums are integers up to 2**24, exact in
    single precision.
    """
    if k in (0, n):
        return tuple(range(k))
    partial = {0: (f.float()[None, None], torch.zeros(1, dtype=torch.int64, device=f.device))}
    best, best_mask = -1.0, 0

    def score(sums: Tensor, masks: Tensor) -> None:
        nonlocal best, best_mask
        scores = sums.abs().sum((-2, -1), dtype=torch.float64)
        if (top := scores.max().item()) > best:
            best, best_mask = top, int(masks[scores.argmax()])

    for i in reversed(range(n)):
        following: dict[int, list[tuple[Tensor, Tensor]]] = {}
        for kept, (sums, masks) in partial.items():
            halves = sums.unflatten(-1, (2, 2**i))  # (sets, 2**kept, 2, 2**i)
            if kept + 1 == k:  # keep this one and sum all below away
                score(halves.sum(-1), masks | 1 << i)
            else:
                following.setdefault(kept + 1, []).append((halves.flatten(1, 2), masks | 1 << i))
            if kept + i == k:  # sum this one away and keep all below
                score(halves.sum(-2), masks | (1 << i) - 1)
            elif kept + i > k:
                following.setdefault(kept, []).append((halves.sum(-2), masks))
        partial = {
            kept: (torch.cat([sums for sums, _ in parts]), torch.cat([masks for _, masks in parts]))
            for kept, parts in following.items()
        }
    return tuple(i for i in range(n) if best_mask >> i & 1)


@torch.no_grad()
def _greedy_subset(f: Tensor, n: int, k: int) -> tuple[int, ...]:
    """Add the coordinate that helps most, k times; equal help is decided by the larger influence."""
    influence = flip_influences(f.double())
    chosen: list[int] = []
    for _ in range(k):
        rest = [i for i in range(n) if i not in chosen]
        gains = [_conditional_means(f.double(), sorted([*chosen, i])).abs().mean().item() for i in rest]
        chosen.append(max(zip(gains, influence[rest].tolist(), rest, strict=True))[2])
    return tuple(chosen)


def _one_table(f: Tensor) -> int:
    n = sign_table_bits(f)
    if f.ndim != 1:
        raise ValueError(f"f has shape {tuple(f.shape)}: one table (2**n,) is searched at a time; loop over the batch")
    return n


def _conditional_means(f: Tensor, relevant: tuple[int, ...] | list[int]) -> Tensor:
    """E[f | x_J] as a table over J (ascending): average the other coordinates away, highest first."""
    n = f.shape[-1].bit_length() - 1
    for i in reversed([i for i in range(n) if i not in relevant]):
        f = by_coordinate(f, i).mean(-2).flatten(-2)
    return f


def friedgut_bound(influence: float | int, eps: float | int) -> float:
    r"""Friedgut's junta theorem: how many coordinates suffice to be eps-close, $3^{2I/\epsilon} I^3/\epsilon^2$.

    A ±1-valued f of total influence I is eps-close to a junta on at most this many coordinates: those of
    `friedgut_junta`. The bound does not depend on n; it is enormous, and vacuous whenever it exceeds n.

    Proof. Let J = {i: Inf_i >= t}, so |J| <= I/t. The best junta on J is g = sign E[f | x_J], and since
    |u| >= u**2 on [-1, 1], P[f != g] = (1 - E|E[f | x_J]|)/2 <= (1 - E[E[f | x_J]**2])/2, which is half the weight of
    the subsets S not inside J. With d = I/eps, split these by size. Above d: at most I/d = eps (Markov). Up to d:
    each S holds some i outside J, so their weight is at most the sum over such i of the weight of D_i f up to degree
    d - 1, where (D_i f)(x) = (f(x, x_i = 1) - f(x, x_i = -1))/2 has values in {-1, 0, 1}. Hypercontractivity from
    4/3 to 2 bounds this by 3**(d-1) ||D_i f||_{4/3}**2 = 3**(d-1) Inf_i**(3/2) <= 3**d sqrt(t) Inf_i, in sum at
    most 3**d sqrt(t) I, which is eps for t = (eps / (I 3**d))**2. Together P[f != g] <= eps, and |J| <= I/t.

    Args:
        influence: I(f) = `total_influence(f)`, at least 0.
        eps: distance allowed, above 0.

    Returns:
        The bound, not rounded; infinity where it overflows. Below 1: f is eps-close to a constant.

    Raises:
        ValueError: if `influence` is negative or NaN, or `eps` not positive.

    Source: Friedgut (1998); the argument of O'Donnell (2014), section 9.6, whose constant in the exponent is left as
    O(I/eps); the constants here are the derivation above (which proves even a ninth of the bound).
    """
    positive(eps, "eps", "it is the allowed fraction of disagreement")
    if not influence >= 0:  # NaN fails too
        raise ValueError(
            f"influence = {influence} is negative or NaN: give the total influence, for example total_influence(f)"
        )
    if influence == 0:
        return 0.0
    logarithm = 2 * influence / eps * math.log(3) + 3 * math.log(influence) - 2 * math.log(eps)
    return math.exp(logarithm) if logarithm < 709 else math.inf


def friedgut_junta(f: Float[Tensor, "..."], eps: float | int) -> JuntaFit:
    """The junta of Friedgut's proof: the best one on J = {i: Inf_i >= t}, t = (eps / (I 3**(I/eps)))**2.

    The theorem promises distance <= eps and |J| <= `friedgut_bound(I, eps)`. For small tables t is so small that J is
    usually every coordinate with any influence at all; that is what a worst-case constant looks like.

    Raises:
        ValueError: if f is not ±1-valued, or `eps` not positive.
    """
    _one_table(f)
    positive(eps, "eps", "it is the allowed fraction of disagreement")
    influence = flip_influences(f.double())
    total = total_influence(f.double()).item()
    exponent = -total / eps * math.log(3)
    threshold = (eps / total * math.exp(exponent)) ** 2 if total > 0 else math.inf
    return best_junta(f, [i for i, value in enumerate(influence.tolist()) if value > 0 and value >= threshold])

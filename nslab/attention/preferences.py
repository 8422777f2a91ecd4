r"""What a symmetric score cannot want: each other more than oneself, and a cycle of winners.

Row i of a score matrix is what token i thinks of all tokens. Where queries and keys are tied, s_ij = q_i . q_j is
symmetric and positive semidefinite, and then

- two tokens cannot each prefer the other to themselves: (s_ij - s_ii) + (s_ji - s_jj) = -|q_i - q_j|^2;
- no symmetric score, definite or not, has winners that go in a circle of three or more:
  s_ab > s_ac = s_ca > s_cb = s_bc > s_ba = s_ab is a contradiction.

Nothing else is impossible: `scores_with` and `queries_with` build the scores for every other pattern of winners.
"""

import itertools
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor


def preference(scores: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch n n"]:
    r"""By how much each token prefers each other one to itself: $s_{ij} - s_{ii}$.

    Args:
        scores: (*batch, n, n), row i what token i thinks of the tokens j, in any units.

    Returns:
        (*batch, n, n), in the units of the scores; 0 on the diagonal.

    How to read it: positive where token i looks at j more than at itself. For tied scores $q_i \cdot q_j$ a positive
    entry needs $|q_j| > |q_i|$ (Cauchy-Schwarz), so at most one of two tokens prefers the other.

    >>> preference(torch.tensor([[1.0, 3.0], [0.0, 2.0]]))
    tensor([[ 0.,  2.],
            [-2.,  0.]])
    """
    return scores - scores.diagonal(dim1=-2, dim2=-1)[..., None]


def mutual_preference(scores: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch n n"]:
    r"""How far two tokens prefer each other to themselves: $\min(s_{ij} - s_{ii},\ s_{ji} - s_{jj})$.

    Args:
        scores: (*batch, n, n), in any units.

    Returns:
        (*batch, n, n), symmetric, in the units of the scores; 0 on the diagonal.

    How to read it: positive only where both prefer the other. The two terms of tied scores add up to
    $-|q_i - q_j|^2$, so it is then at most $-|q_i - q_j|^2/2$ and never positive.

    Source: ours, after the Cauchy-Schwarz inequality.

    >>> query = torch.tensor([[1.0, 0.0], [3.0, 1.0]])
    >>> mutual_preference(query @ query.mT)  # 2 and -7: the longer one prefers itself; the sum is -|(2, 1)|^2
    tensor([[ 0., -7.],
            [-7.,  0.]])
    """
    wish = preference(scores)
    return torch.minimum(wish, wish.mT)


def winners(scores: Float[Tensor, "*batch n n"], *, itself: bool = True) -> Int64[Tensor, "*batch n"]:
    """Which token each row prefers to all others.

    Args:
        scores: (*batch, n, n), in any units.
        itself: whether a token may win its own row; otherwise the diagonal is left out.

    Returns:
        (*batch, n), indices 0 .. n - 1; of equal scores the first.

    >>> winners(torch.tensor([[5.0, 1.0, 2.0], [0.0, 9.0, 1.0], [3.0, 1.0, 9.0]]), itself=False)
    tensor([2, 2, 0])
    """
    if itself:
        return scores.argmax(-1)
    own = torch.eye(scores.shape[-1], dtype=torch.bool, device=scores.device)
    return scores.masked_fill(own, -torch.inf).argmax(-1)


def patterns(tokens: int, *, itself: bool = True) -> Int64[Tensor, "patterns n"]:
    """All patterns of winners: n**n rows where a token may win its own row, (n - 1)**n where not.

    >>> len(patterns(3)), len(patterns(3, itself=False))
    (27, 8)
    """
    if tokens < 2:
        raise ValueError(f"tokens is {tokens}: give at least 2")
    choices = [[j for j in range(tokens) if itself or j != i] for i in range(tokens)]
    return torch.tensor(list(itertools.product(*choices)))


def longest_circle(pattern: Int64[Tensor, "*batch n"]) -> Int64[Tensor, "*batch"]:
    """Length of the longest circle when every token points at its winner; 1 where there are only tokens that win
    their own row.

    Args:
        pattern: winners (*batch, n).

    How to read it: a symmetric score has no circle longer than 2, a tied one none longer than 1. These are the only
    limits: `scores_with` and `queries_with`.

    >>> longest_circle(torch.tensor([[1, 2, 0], [1, 0, 0], [0, 0, 0]]))
    tensor([3, 2, 1])
    """
    n = pattern.shape[-1]
    start = torch.arange(n, device=pattern.device).expand(pattern.shape)
    length, at = torch.zeros_like(pattern), start
    for step in range(1, n + 1):
        at = pattern.gather(-1, at)
        length = torch.where((at == start) & (length == 0), step, length)
    return length.amax(-1)


def can_be_symmetric(pattern: Int64[Tensor, "*batch n"], *, tied: bool) -> Bool[Tensor, "*batch"]:
    r"""Whether a symmetric score can have these winners, strictly.

    Args:
        pattern: winners (*batch, n).
        tied: False: any symmetric scores, and no token wins its own row (the diagonal is left out). True: scores
            $q_i \cdot q_j$, and a token may win its own row.

    Returns:
        (*batch).

    How to read it: False means a theorem, True that `scores_with` or `queries_with` builds them. Of the 8 patterns of
    three rows without the diagonal all but the two circles are possible: 6. Of the $n^n$ patterns with the diagonal
    tied scores have those in which all paths end at tokens that win their own row, the rooted forests:
    $(n + 1)^{n - 1}$, 3 of 4 for two tokens and 16 of 27 for three.

    Errors: `ValueError` for indices outside 0 .. n - 1, or, with tied=False, a token that wins its own row.

    Source: ours; the count of rooted forests is Cayley's.

    >>> can_be_symmetric(patterns(3, itself=False), tied=False).sum(), can_be_symmetric(patterns(2), tied=True).sum()
    (tensor(6), tensor(3))
    """
    n = pattern.shape[-1]
    if pattern.numel() and not 0 <= int(pattern.min()) <= int(pattern.max()) < n:
        raise ValueError(f"pattern has winners outside 0 to {n - 1}: name one of the {n} tokens for each row")
    if not tied and bool((pattern == torch.arange(n, device=pattern.device)).any()):
        raise ValueError("pattern has a token that wins its own row: with tied=False the diagonal is left out")
    return longest_circle(pattern) <= (1 if tied else 2)


def scores_with(pattern: Sequence[int]) -> Float[Tensor, "n n"]:
    r"""A symmetric score matrix whose rows have these winners, the diagonal (0) left out.

    Formula: $s_{i, w(i)} = s_{w(i), i} = 1 / (1 + \mathrm{depth}_i)$, depth counted from the pair of tokens that
    choose each other; -1 elsewhere. A token's own choice is one step nearer to that pair than those who choose it.

    Args:
        pattern: winners, one index a row.

    Errors: `ValueError` for a pattern with a circle of three or more, which no symmetric score has, and as
    `can_be_symmetric`.

    >>> winners(scores_with([1, 2, 1]), itself=False)
    tensor([1, 2, 1])
    """
    depth = _depths(pattern, tied=False)
    n = len(depth)
    scores = torch.full((n, n), -1.0).fill_diagonal_(0)
    for i, j in enumerate(pattern):
        scores[i, j] = scores[j, i] = 1 / (1 + depth[i])
    return scores


def queries_with(pattern: Sequence[int]) -> Float[Tensor, "n n"]:
    r"""Queries whose tied scores $q_i \cdot q_j$ have these winners, the diagonal included.

    Formula: $q_i = 3^{-\mathrm{depth}_i} (e_i + e_{w(i)})$, and $q_i = e_i$ for a token that wins its own row (depth
    0): what a token chooses is three times as long as what chooses it.

    Args:
        pattern: winners, one index a row.

    Returns:
        (n, n), one query a row, as many coordinates as tokens.

    Errors: `ValueError` for a pattern with a circle of two or more, which no tied score has, and as
    `can_be_symmetric`.

    >>> q = queries_with([1, 1])
    >>> winners(q @ q.mT)
    tensor([1, 1])
    """
    depth = _depths(pattern, tied=True)
    unit = torch.eye(len(depth))
    rows = [unit[i] if i == j else 3.0 ** -depth[i] * (unit[i] + unit[j]) for i, j in enumerate(pattern)]
    return torch.stack(rows)


def partner_bound(payloads: int) -> float:
    r"""The most that a bare head with tied queries and keys reaches when two tokens must say each other's payload.

    Formula: for P payloads up to 8, $\frac34 + \frac1{4P}$. In general $\frac{1}{2P^2}\left(2P + \frac32 P(P-1) +
    \max(0, \lfloor P^2/4 \rfloor - 2P)\right)$.

    Args:
        payloads: P, at least 2; each of the two tokens has one of them, independently and uniformly.

    Returns:
        The largest share of right answers, over both tokens and all pairs of payloads. Ties count as wrong.

    How to read it: the bound holds for one head without residual and positions, whatever its values and its linear
    readout, and even if queries depend on the payloads. It is far above what pointing at one token reaches,
    (1 + 1/P)/2, for a mixture of both payloads can be read: for P up to 8 `partner_witness` attains it. A training need
    not find it.

    Why: row a answers from $A f(x) + B g(y)$, row b from $A' f(x) + B' g(y)$, with $B/A \le B'/A'$ where queries and
    keys are tied. If both are right at $x \ne y$, then f(x) favours y over x, and g(y) favours x over y. If that is so
    at (x, y) and at (y, x), both rows are wrong at (x, x) and at (y, y); and no three payloads are pairwise so. Without
    such pairs {x, y} at most 3 of their 4 answers are right; with them, Mantel's theorem counts.

    Errors: `ValueError` below two payloads.

    Source: ours.

    >>> partner_bound(8), partner_bound(2)
    (0.78125, 0.875)
    """
    if payloads < 2:
        raise ValueError(f"payloads is {payloads}: give at least 2, or there is nothing to say")
    mutual = max(0, payloads**2 // 4 - 2 * payloads)
    return (2 * payloads + 3 * payloads * (payloads - 1) // 2 + mutual) / (2 * payloads**2)


def partner_witness(payloads: int) -> tuple[Float[Tensor, "2 2"], Float[Tensor, "kinds payloads payloads"]]:
    r"""Queries of the two tokens, and what their values say to the readout, that reach $\frac34 + \frac1{4P}$.

    Returns:
        Queries (2, 2), a row a token, nearly equal; and logits (2, P, P): entry [k, x, z] is what a token of kind k
        with payload x says for the answer z, to be averaged by the weights softmax(q q^T) of the asking token.

    How to read it: both tokens look at both, a little more at themselves. The values say "the largest number from x on"
    and "the smallest number up to y", so that the row of a answers the larger and the row of b the smaller payload
    where x <= y; elsewhere both answer y.

    Source: ours.
    """
    z = torch.arange(float(payloads))
    ahead = z - z[:, None]  # [x, z]: z - x
    first = torch.where(ahead >= 0, ahead, 4 * ahead)
    second = torch.where(ahead <= 0, -ahead, -8 * ahead)
    return torch.tensor([[1.0, 0.1], [1.0, -0.1]]), torch.stack((first, second))


def _depths(pattern: Sequence[int], tied: bool) -> list[int]:
    """Steps from each token to the circle that its path ends in."""
    told = torch.tensor(list(pattern))
    if not bool(can_be_symmetric(told, tied=tied)):
        name, most = ("tied", "1: some token must win its own row") if tied else ("symmetric", "2")
        raise ValueError(
            f"pattern {list(pattern)} goes in a circle of {int(longest_circle(told))}, and no {name} score has one "
            f"longer than {most}; change the winner of one of its rows"
        )
    on_circle = [i for i, j in enumerate(pattern) if i == (j if tied else pattern[j])]
    depths = []
    for i in range(len(pattern)):
        steps = 0
        while i not in on_circle:
            i, steps = pattern[i], steps + 1
        depths.append(steps)
    return depths

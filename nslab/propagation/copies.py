r"""How far hard votes spread pairs of tokens around their mean: the part of a layer that four moments leave out.

Two rows that pick the same token become copies of it; other pairs stay apart. So the correlations of pairs scatter,
and a mean alone does not say what a curved map makes of them. A range that holds every pair does: for a convex map
the mean of the images lies between the image of the mean (Jensen) and the chord over the range.
"""

import math

import torch
from torch import Tensor

from nslab.propagation.agreement_table import AgreementTable
from nslab.propagation.architecture import Architecture
from nslab.propagation.ends import Box, Ends, share


def overlaps(own: Ends, tokens: int) -> list[Ends]:
    r"""Ranges of s, t, s_a and t_a for one pair of rows, from the ends of s_a.

    Formula: $[\frac{1 - s_a}{n - 1},\; s_a]$ for two rows, the ends of s_a for a row with itself.

    How to read it: no two rows overlap more than each with itself (Cauchy-Schwarz). Overlaps of independent rows have
    mean 1/n and variance $(s_a - \frac1n)^2 / (n - 1)$; two values at these ends have just that. Hard votes: 0 or 1.
    Uniform attention: 1/n. Source: *ours*.
    """
    pair = ((1 - own[1]) / max(tokens - 1, 1), own[1])
    return [pair, pair, own, pair]


def averaged(unit: Box, reach: Box, own: Ends) -> Box:
    """The range of what two rows can pick: for different tokens drawn to the mean, since soft rows average.

    The factor s_a is the standard deviation of a row's mean of independent pairs. m keeps its range. Source: *ours*.
    """
    drawn = [
        tuple(x + own[1] * (far - x) for x, far in zip(*ends, strict=True)) for ends in zip(unit, reach, strict=True)
    ]
    return [reach[0], drawn[1], reach[2], drawn[3]]


def agreements(
    unit: Box, reach: Box, own: Ends, architecture: Architecture, table: AgreementTable
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Upper ends of the chance that two rows pick copies of one token: same row and two runs, different rows and two
    runs, different rows in one run.

    Formula: with ratios to q, ranges $[m_-, m_+]$, $[o_-, o_+]$, $[p_-, p_+]$ of single pairs and upper ends
    $\bar m, \bar o, \bar p$ of the means:

    - copies among the n tokens of a run, a token beside itself counted: $c(p) = \lambda + \frac{1 - \lambda}{n}$,
      $\lambda = \frac{p - p_-}{1 - p_-}$; and between the runs $x = \nu + \frac{\mu - \nu}{n}$ with
      $\mu = \frac{\bar m - o_-}{m_+ - o_-}$, $\nu = \frac{\bar o - o_-}{m_+ - o_-}$;
    - 1/c tokens are distinct, so a vote agrees with chance $G_n(r)^\theta$, $\theta = -\log c / \log n$ (exact at
      r = 0, where it is c, and at r = 1; above the truth between, since $\log A_n$ is convex in $\log n$);
    - a run's winner has a copy in the other run with chance $\varphi = \min(1, x / c)$, where c = x brought into
      $[c(p), c(\bar p)]$, the worst there; within a run $\varphi = 1$ and $c = c(\bar p)$;
    - rows are a mixture of the ends of their range, keys are at most
      $k = \frac{m_+ - o_-}{1 - p_-}$ alike: for the same row $\varphi\,[u\, G_n(m_+ k)^\theta + (1 - u)\,
      G_n(m_- k)^\theta]$, $u = \frac{\bar m - m_-}{m_+ - m_-}$; for different rows the same with o for m; within one
      run with p for m and k = 1. Each $\varphi G^\theta$ is at most s_a. The spread is that of $p_-$.

    How to read it: without copies, at the first layer, these are s, t and t_a of `attention_masses`. Source: *ours*;
    the count of distinct tokens is exact for copies in equal numbers.
    """
    m, o, p = reach[0], reach[1], reach[3]
    n, eps = architecture.tokens, torch.finfo(own[1].dtype).eps
    apart = (1 - p[0]).clamp(min=eps)
    low, high = (1 - (1 - 1 / n) * ((1 - end) / apart).clamp(0, 1) for end in unit[3])
    same, other = (share(unit[kind][1], (o[0], m[1])) for kind in (0, 1))
    cross = other + (same - other) / n
    worst = torch.minimum(torch.maximum(cross, low), high)
    met = (cross / worst).clamp(max=1)
    keys = ((m[1] - o[0]) / apart).clamp(0, 1)
    spread = architecture.score_scale * math.sqrt(architecture.width) * apart.sqrt()
    one = torch.ones_like(keys)
    found = []
    for kind, key, copies, chance in ((0, keys, worst, met), (1, keys, worst, met), (3, one, high, one)):
        power = -torch.log(copies) / math.log(max(n, 2))
        votes = table(torch.stack([key * end for end in reach[kind]]).clamp(-1, 1), spread).clamp(0, 1)
        least, most = torch.minimum(chance * votes**power, own[1])
        found.append(least + share(unit[kind][1], reach[kind]) * (most - least))
    return tuple(found)

"""Hard plurality votes among n tokens: how often two correlated elections have the same winner.

With i.i.d. standard Gaussian pairs (u_k, v_k) of correlation r write u = alpha x + beta y and v = alpha x - beta y,
alpha = sqrt((1 + r)/2), beta = sqrt((1 - r)/2): x and y are independent standard Gaussians, and

    P[u_k <= u, v_k <= v] = P[alpha X + beta |Y - y| <= alpha x] = E Phi(x - t |Y - y|),   t = beta / alpha.

In x and y everything is smooth however close r is to 1, so even grids are exact to many digits. The mean over Y is a
product of two matrices, one of which does not know r. That is why a hundred values of r cost milliseconds.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from nslab.gaussian.ranges import Scalar, inside
from nslab.propagation.doubles import as_doubles

Tokens = int | Sequence[int] | Int[Tensor, "..."]
"""How many tokens vote: a number, or several, whose axes then lead the result."""

REACH = 8.5  # standard deviations
NODES = 72  # of the mean that makes Phi_2
STEP = 0.125  # of the grids in x and y
CHUNK = 8  # correlations at a time, so that what is computed stays in the cache


def plurality_agreement(r: Scalar, tokens: Tokens) -> Float[Tensor, "..."]:
    r"""$A_n(r) = P[\arg\max_k u_k = \arg\max_k v_k]$ for n i.i.d. pairs of standard Gaussians with correlation r.

    Formula: $A_n(r) = n \iint \varphi_2(u, v; r)\, \Phi_2(u, v; r)^{n-1}\, du\, dv$. $A_1 = 1$,
    $A_2 = 1 - \arccos(r)/\pi$, $A_3 = \frac13 + \frac{3}{4\pi} (\arcsin r + \arcsin \frac r2) + \frac{3}{4\pi^2}
    (\arcsin^2 r - \arcsin^2 \frac r2)$; from n = 4 on by quadrature.

    Args:
        r: correlations in [-1, 1], a number (float64) or a tensor (*r).
        tokens: n >= 1, a number or several (*tokens).

    Returns:
        (*tokens, *r), absolute error below 1e-9 up to 4096 tokens and below 1e-6 up to a million. For n >= 2 it rises
        from exactly 0 at r = -1 over 1/n at 0 to 1 at 1. Differentiable; the slope at r = 1 is infinite.

    How to read it: the probability that a hard attention head with random weights still picks the same token after
    its scores were disturbed. When query and key are both rho-correlated with their twins, r = rho**2.

    Errors: `ValueError` when r is outside [-1, 1] or NaN, or n < 1.

    Source: arXiv 2602.08287, Theorem 5.3, as reported in a digest, names the probability; what it is and this formula:
    *reconstructed*. n = 2 is Sheppard (1899).

    >>> plurality_agreement(torch.tensor([0.0, 0.25, 1.0], dtype=torch.float64), 16)
    tensor([0.0625, 0.1298, 1.0000], dtype=torch.float64)
    """
    (r,) = as_doubles(r)
    inside(r, "r", -1, 1, "r is the correlation of two scores of one token")
    counts = token_counts(tokens)
    flat = r.flatten().to(torch.float64)
    found = torch.cat([_chunk(piece, counts.flatten().tolist()) for piece in flat.split(CHUNK)], -1)
    return found.to(r.dtype).reshape((*counts.shape, *r.shape))


def expected_maximum(tokens: Tokens) -> Float[Tensor, "..."]:
    r"""$m_n = E \max(Z_1, \dots, Z_n)$ of n independent standard Gaussians, (*tokens), in double precision.

    Formula: $m_n = n \int z\, \varphi(z)\, \Phi(z)^{n-1}\, dz$; $m_1 = 0$, $m_2 = 1/\sqrt\pi$, about
    $\sqrt{2 \ln n}$ for large n.

    How to read it: by how much the winning score stands out, in standard deviations of a score.

    Errors: `ValueError` when n < 1.

    Source: standard (extreme order statistics).

    >>> round(expected_maximum(16).item(), 3)
    1.766
    """
    counts = token_counts(tokens)
    z = torch.arange(-480, 481, dtype=torch.float64) / 40  # finer and farther than elsewhere: all n at rounding
    n = counts.to(torch.float64)[..., None]
    return (n * z * normal(z) / 40 * torch.exp((n - 1) * torch.special.log_ndtr(z))).sum(-1)


def small_correlation_slope(tokens: Tokens) -> Float[Tensor, "..."]:
    r"""$A_n'(0) = m_n^2/(n - 1)$ with m_n = `expected_maximum`, (*tokens): $A_n(r) = \frac1n + A_n'(0)\, r + O(r^2)$.

    How to read it: how fast weakly correlated elections begin to agree. It falls like $2 \ln n / n$.

    Errors: `ValueError` when n < 2: a single token always wins.

    Source: *reconstructed*: Price's theorem at r = 0.

    >>> round(small_correlation_slope(16).item(), 3)
    0.208
    """
    counts = token_counts(tokens)
    if bool((counts < 2).any()):
        raise ValueError(f"tokens = {int(counts.min())}: a vote needs at least 2 tokens to depend on r")
    return expected_maximum(counts).square() / (counts - 1)


def large_vote_exponent(r: Scalar) -> Float[Tensor, "..."]:
    r"""$-(1 - r)/(1 + r)$: the slope of $\ln A_n(r)$ against $\ln n$ as n grows, the same shape as r.

    How to read it: $A_n(r) \approx n^{-(1-r)/(1+r)}$ up to powers of ln n. At r = 0 it is 1/n; agreement decays for
    every r < 1, slowly near 1. Finite n are steeper: -0.625 between 1024 and 4096 tokens where the limit is -0.6.

    Errors: `ValueError` when r is outside (-1, 1].

    Source: Khot, Kindler, Mossel and O'Donnell (2007).

    >>> round(large_vote_exponent(0.25).item(), 6)
    -0.6
    """
    (r,) = as_doubles(r)
    inside(r, "r", -1, 1, "r is the correlation of two scores of one token")
    if bool((r == -1).any()):
        raise ValueError("r = -1: opposite scores never agree, there is no exponent; give r > -1")
    return -(1 - r) / (1 + r)


def token_counts(tokens: Tokens) -> Int[Tensor, "..."]:
    """The numbers of tokens as an integer tensor on the CPU, refused below 1."""
    counts = torch.as_tensor(tokens, device="cpu")
    if counts.is_floating_point() or counts.dtype == torch.bool or not counts.numel():
        raise TypeError(f"tokens = {tokens!r}: give one whole number, or several")
    if bool((counts < 1).any()):
        raise ValueError(f"tokens = {int(counts.min())}: at least 1 token votes")
    return counts


def _chunk(r: Tensor, counts: list[int]) -> Tensor:
    """(counts, r) in double precision."""
    beside = r + (r.clamp(min=-1 + 1e-12) - r).detach()  # at -1 a slope would be 0 * infinity
    found = {1: 1 + 0 * r, 2: 1 - torch.acos(r) / math.pi, 3: _three(beside)}
    if rest := sorted(set(counts) - set(found)):
        found |= zip(rest, _by_quadrature(beside, rest), strict=True)
    values, n = torch.stack([found[n] for n in counts]), torch.tensor(counts).to(r)[:, None]
    exact = torch.where(r == 1, 1.0, torch.where(r == 0, 1.0 / n, torch.where((r == -1) & (n > 1), 0.0, values)))
    return values + (exact - values).detach()  # known values to the last bit, slopes as they are


def _three(r: Tensor) -> Tensor:
    full, half = torch.asin(r), torch.asin(r / 2)
    return 1 / 3 + 3 / (4 * math.pi) * (full + half) + 3 / (4 * math.pi**2) * (full - half) * (full + half)


def _by_quadrature(r: Tensor, counts: list[int]) -> Tensor:
    """(counts, r) for sorted counts."""
    x = _even(-REACH, REACH, r.device)
    y = _even(0.0, REACH, r.device)
    weight = normal(x)[:, None] * normal(y) * STEP**2 * torch.where(y == 0, 1.0, 2.0)  # y and -y count alike
    log_joint = torch.log(_joint(r, x, y).clamp(min=1e-300)).flatten(1)  # (r, x, y) -> (r, points)
    return torch.stack([n * (torch.exp((n - 1) * log_joint) @ weight.flatten()) for n in counts])


def _joint(r: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Phi_2 at u, v = alpha x ± beta y, (r, x, y), for y >= 0: a mean over s = |Y - y|, or over s = x - X for r < 0."""
    node, mass = (torch.from_numpy(a).to(r) for a in np.polynomial.legendre.leggauss(NODES))
    s, mass = REACH * (1 + node), REACH * mass  # on [0, 2 REACH]
    found = r.new_empty(*r.shape, *x.shape, *y.shape)
    near = r >= 0
    t = ((1 - r[near]).sqrt() / (1 + r[near]).sqrt())[:, None, None]  # not the root of the ratio: its slope at 1 is NaN
    density = (normal(y - s[:, None]) + normal(y + s[:, None])) * mass[:, None]  # (s, y)
    found[near] = cumulated(x[:, None] - t * s) @ density
    t = ((1 + r[~near]) / (1 - r[~near])).sqrt()[:, None, None]  # the inverse slope: 0 at r = -1
    between = cumulated(y + t * s[:, None]) - cumulated(y - t * s[:, None])  # (r, s, y)
    found[~near] = (normal(x[:, None] - s) * mass) @ between
    return found


def _even(low: float, high: float, device: torch.device) -> Tensor:
    return torch.arange(round(low / STEP), round(high / STEP) + 1, dtype=torch.float64, device=device) * STEP


def normal(x: Tensor) -> Tensor:
    """The density of a standard Gaussian."""
    return torch.exp(-x.square() / 2) / math.sqrt(2 * math.pi)


def cumulated(x: Tensor) -> Tensor:
    """Its distribution function, ten times as fast as `torch.special.ndtr`: relative errors in the tail do no harm."""
    return torch.erf(x / math.sqrt(2)) / 2 + 0.5

"""The integrals behind soft votes: joint laws of noisy score pairs on even grids, in double precision on the CPU.

A noisy score is a = u + g G: u a standard Gaussian of correlation r with its twin, G a Gumbel variable of its own,
g = 1/tau. With H(a, b) = P[score <= a, twin <= b] and its density h = H_ab the agreement of n votes is

    n ∫∫ h H^(n-1) da db,   and its slopes   n ∫∫ (δh H^(n-1) + (n-1) h H^(n-2) δH) da db

with δH = h for r (Price's theorem) and δH = (H_aa + 2 r h + H_bb) / tau for tau (the heat equation).

H comes by one of two ways. `_series`: Mehler's series in powers of r, whose terms the Gumbel noise damps further, so
that it falls like (kappa r)^k with kappa = tau² / (tau² + pi²/6), the share of the variance that is not noise.
`_near`: for kappa |r| > 1/2 write u = sqrt|r| w + sqrt(1-|r|) e; given the shared w the scores are independent with the
law L of sqrt(1-|r|) e + g G, and H is an integral over the narrow strip where w is close to both. In units of the
strip's width nothing depends on how narrow it is, so r = ±1 and tau in the thousands cost and err like anything else.

Sums over even grids converge faster than any power for such integrands; both ways were compared with halved steps.
"""

import math
from functools import lru_cache

import torch
from torch import Tensor

from nslab.propagation.votes import cumulated, normal

GUMBEL_VARIANCE = math.pi**2 / 6
SERIES = 0.5  # largest kappa |r| for the series: 46 terms
REACH = 9.0  # standard deviations of a Gaussian; with 8 an error of 3e-8 at 4096 tokens
LOW, HIGH = -3.7, 31.0  # of a Gumbel variable
STRIP = 0.34  # step across the strip, in widths


def agreement_masses(r: list[float], tau: float, counts: list[int], slopes: bool = False) -> Tensor:
    """G_n(r, tau) for each r and n (sorted) at one finite tau > 0, (r, counts); (r, counts, 3) with both slopes."""
    g, kappa = 1 / tau, tau**2 / (tau**2 + GUMBEL_VARIANCE)
    smooth = [abs(x) * kappa <= SERIES for x in r]
    terms = max((_terms(kappa * abs(x)) for x, s in zip(r, smooth, strict=True) if s), default=0)
    step = _step(max(counts), g)
    if any(smooth):
        grid = min(STRIP * max(1, g), step)
        a = _multiples(-REACH + LOW * g, REACH + (26 + math.log(max(counts))) * g, grid) * grid
        derivatives = _derivatives(a, g, terms + 6)
    found = []
    for x, s in zip(r, smooth, strict=True):
        if s:
            joint, weight = _series(x, derivatives[:, : _terms(kappa * abs(x)) + 6], slopes), grid**2
        else:
            joint, weight = _near(x, g, math.log(max(counts)), step, slopes)
        found.append(_integrals(*joint, weight, counts, tau))
    return torch.stack(found)


def _terms(ratio: float) -> int:
    return math.ceil(math.log(1e-13) / math.log(max(ratio, 1e-13)))


def _step(n: int, g: float) -> float:
    """For powers H^(n-1): the winning score of n is this much narrower than a score."""
    return 0.45 * max(1 / math.sqrt(2 * math.log(n) + 2), g)


def _integrals(
    joint: Tensor, density: Tensor, changes: list, weight: Tensor | float, counts: list[int], tau: float
) -> Tensor:
    """(counts,) or (counts, 3) from H and h on a grid and `changes` = [(δH, δh) for r, the same for tau, times tau]."""
    joint, density = joint.clamp(min=0), density * weight
    log_joint = joint.clamp(min=1e-300).log()
    scale = torch.tensor([1.0, 1.0, tau] if changes else [1.0], dtype=joint.dtype)
    found, power, last = [], torch.ones_like(joint), 2  # H^(n-2)
    for n in counts:
        if n == 1:  # a lone token always wins
            found.append(torch.eye(len(scale), dtype=joint.dtype)[0])
            continue
        if n > last:  # a run of counts costs a product each
            power = power * (joint if n == last + 1 else torch.exp((n - last) * log_joint))
            last = n
        row = [(density * joint * power).sum()]
        for change, density_change in changes:
            row.append(((density_change * joint * weight + (n - 1) * density * change) * power).sum())
        found.append(n * torch.stack(row) / scale)
    return torch.stack(found) if changes else torch.stack(found)[:, 0]


def _series(r: float, derivatives: Tensor, slopes: bool) -> tuple[Tensor, Tensor, list]:
    """H = Σ_k r^k/k! F^(k)(a) F^(k)(b) with F the law of one score; `derivatives` are F^(k)/sqrt(k!), (a, k)."""
    k = torch.arange(derivatives.shape[1] - 3, dtype=torch.float64)
    value, slope, second, third = (derivatives[:, j : j + len(k)] for j in range(4))
    slope = slope * (k + 1).sqrt()  # F^(k+1) / sqrt(k!), and so on
    power = r**k
    joint, density = (value * power) @ value.T, (slope * power) @ slope.T
    if not slopes:
        return joint, density, []
    second, third = second * ((k + 1) * (k + 2)).sqrt(), third * ((k + 1) * (k + 2) * (k + 3)).sqrt()
    mixed, bend, mixed_bend = (second * power) @ second.T, (second * power) @ value.T, (third * power) @ slope.T
    heat = bend + bend.T + 2 * r * density, mixed_bend + mixed_bend.T + 2 * r * mixed
    return joint, density, [(density, mixed), heat]


def _derivatives(a: Tensor, g: float, count: int) -> Tensor:
    """F^(k)(a) / sqrt(k!) for k = 0 .. count - 1, (a, count): the law of a score u + g G and its derivatives."""
    if g >= 0.5:  # sum over u, on whose scale everything is smooth
        u = _multiples(-REACH - 4, REACH + 4, 0.2) * 0.2
        noise = torch.exp(-(a[:, None] - u) / g)
        law = torch.exp(-noise)
        below, slope = law @ normal(u) * 0.2, law * noise / g * 0.2
        columns = [slope @ (h * normal(u)) for h in _hermites(u, count - 1)]
    else:  # sum over G
        gumbel, mass = _gumbel()
        u = a[:, None] - g * gumbel  # (a, gumbel)
        below, bell = cumulated(u) @ mass, normal(u)
        columns = [(h * bell) @ mass for h in _hermites(u, count - 1)]
    columns = [column * (-1) ** k / math.sqrt(k + 1) for k, column in enumerate(columns)]
    return torch.stack([below, *columns], -1)


def _hermites(x: Tensor, count: int):
    """The normalised Hermite polynomials of degree 0 .. count - 1 at x, one after the other."""
    below, here = torch.zeros_like(x), torch.ones_like(x)
    for k in range(count):
        yield here
        below, here = here, (x * here - math.sqrt(k) * below) / math.sqrt(k + 1)


def _near(r: float, g: float, log_n: float, step: float, slopes: bool) -> tuple[tuple, Tensor]:
    """H, h and their changes on a grid along the strip (rows A) and across it (columns B), and the grid's weights.

    a = A + B and b = ±(A - B), the sign that of r. With w = A - s, and L, l the law and the density of a score given w:
    h = ∫ φ(w) l(s + B) l(±(s - B)) ds and, by parts, H = ∫ Φ(w) (l(s + B) L(±(s - B)) ± L(s + B) l(±(s - B))) ds.
    """
    c, sign = abs(r), math.copysign(1, r)
    noise = math.sqrt(1 - c)
    across = min(STRIP * max(noise, g), step)
    reach = REACH * noise - LOW * g
    if r > 0:  # B and -B count alike
        columns = _multiples(0, 5 * noise + 11 * g, across)
        rows = _multiples(-REACH - 2 * g, REACH + (13 + log_n / 2) * g, step) * step
        inner = _multiples(-reach, REACH * noise + HIGH * g, across)
        twice = 2 - (columns == 0).to(rows)
    else:  # A and -A count alike
        far = 5 * noise + (11 + log_n / 2) * g
        columns = _multiples(-reach, far, across)
        rows = _multiples(0, REACH + 13 * g, step) * step
        inner = _multiples(-reach - far, reach + far, across)
        twice = 2 - (rows == 0).to(rows)[:, None]
    first, second = inner[:, None] + columns, sign * (inner[:, None] - columns)  # in steps: s + B and ±(s - B)
    low = torch.minimum(first.min(), second.min())
    points = torch.arange(float(low), float(torch.maximum(first.max(), second.max())) + 1, dtype=torch.float64)
    laws = _blurred(points * across, noise, g)
    (law, density, bend), (law_, density_, bend_) = (
        [table[(place - low).long()] for table in laws] for place in (first, second)
    )
    w = (rows[:, None] - inner * across) / math.sqrt(c)  # (A, s), standard
    bell = normal(w) * (across / math.sqrt(c))
    edges, peaks = density * law_ + sign * law * density_, density * density_
    joint, peak = (cumulated(w) * across) @ edges, bell @ peaks
    weight = 2 * step * across * twice
    if not slopes:
        return (joint, peak, []), weight
    mixed = bell @ (bend * bend_)
    heat = (-w * bell / math.sqrt(c)) @ edges - 2 * sign * (1 - c) * peak
    peak_heat = ((w.square() - 1) * bell / c) @ peaks - 2 * sign * (1 - c) * mixed
    return (joint, peak, [(peak, mixed), (heat, peak_heat)]), weight


def _blurred(x: Tensor, noise: float, g: float) -> tuple[Tensor, Tensor, Tensor]:
    """Law, density and its slope of noise * Gaussian + g * Gumbel: a sum over the narrower of the two."""
    if noise > g:
        gumbel, mass = _gumbel()
        z = (x[:, None] - g * gumbel) / noise
        bell = normal(z) / noise
        return cumulated(z) @ mass, bell @ mass, (-z * bell / noise) @ mass
    e = _multiples(-REACH, REACH, 0.4) * 0.4
    z = torch.exp(-(x[:, None] - noise * e) / g)
    law, mass = torch.exp(-z), normal(e) * 0.4
    return law @ mass, (law * z / g) @ mass, (law * z * (z - 1) / g**2) @ mass


@lru_cache(maxsize=1)
def _gumbel() -> tuple[Tensor, Tensor]:
    """Points and masses of a Gumbel variable, P[G <= x] = exp(-exp(-x))."""
    x = _multiples(LOW, HIGH + 3, 0.3) * 0.3
    mass = torch.exp(-x - torch.exp(-x))
    return x, mass / mass.sum()


def _multiples(low: float | int, high: float, step: float) -> Tensor:
    """The whole numbers that times `step` cover [low, high]."""
    return torch.arange(math.floor(low / step), math.ceil(high / step) + 1, dtype=torch.float64)

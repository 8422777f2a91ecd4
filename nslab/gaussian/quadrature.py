"""Functions of one Gaussian variable, exactly: means, Hermite coefficients, noise operator and stability.

A function is any callable that acts elementwise on a tensor of any shape. Integrals are composite Gauss-Legendre sums
on [-12, 12], beyond which a standard Gaussian has mass below 1e-32. Where f has a kink or a jump, say so in `breaks`
(`breaks=(0.0,)` for ReLU and sign): panels then end there and full accuracy returns. Everything is computed in
`dtype`, double precision by default, on `device`, and is differentiable in the parameters of f.
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TypedDict, Unpack

import numpy as np
import torch
from jaxtyping import Float, Real
from torch import Tensor

from nslab.gaussian.polynomials import hermite
from nslab.gaussian.ranges import Scalar, as_tensors, correlation, degree_count

Function = Callable[[Tensor], Tensor]

REACH = 12.0  # standard deviations
PANELS = 9  # on [-REACH, REACH], before breaks; odd: at 0 a moving break would meet a fixed end and lose its gradient
LAYER = (-8.0, -4.0, -2.0, 0.0, 2.0, 4.0, 8.0)
"""Where panels end around a smoothed jump, in units of the width of the smoothing."""


class Rule(TypedDict, total=False):
    """How to integrate: `breaks` of f, `nodes` a panel (24, more for high degrees), `dtype` (float64), `device`."""

    breaks: Sequence[float | int]
    nodes: int
    dtype: torch.dtype
    device: torch.device | str | None


def gaussian_mean(f: Function, **rule: Unpack[Rule]) -> Float[Tensor, ""]:
    """E f(X) for X ~ N(0, 1), a number.

    Raises:
        ValueError: if f changes the shape of its input or returns a value that is not finite, or `nodes` < 1.
        TypeError: if `rule` has another key than those of `Rule`.

    >>> round(gaussian_mean(torch.relu, breaks=(0.0,)).item(), 12) == round(1 / math.sqrt(2 * math.pi), 12)
    True
    """
    x, mass = _grid(rule)
    return (_values(f, x) * mass).sum()


def hermite_coefficients(f: Function, degree: int, **rule: Unpack[Rule]) -> Float[Tensor, " degrees"]:
    r"""$\tilde f(k) = E[f(X) h_k(X)]$ for k = 0 .. degree, with the normalised polynomials of `hermite`.

    Args:
        f: an elementwise function with E f(X)**2 finite.
        degree: the highest degree.
        **rule: see `Rule`; give the kinks of f as `breaks`.

    Returns:
        (degree + 1,).

    How to read it: f is the sum of $\tilde f(k) h_k$; the coefficient at 0 is the mean, the one at 1 the slope of the
    best linear fit.

    Errors: `ValueError` as in `gaussian_mean`, and for a negative degree.

    Source: O'Donnell (2014), section 11.2.
    """
    rule = {"nodes": 24 + degree_count(degree) // 25} | rule  # the polynomials turn faster the higher they are
    x, mass = _grid(rule)
    return (_values(f, x) * mass) @ hermite(x, degree)


def hermite_energies(f: Function, degree: int, **rule: Unpack[Rule]) -> Float[Tensor, " degrees"]:
    r"""$W_k = \tilde f(k)^2$ for k = 0 .. degree: the energy of f at each degree, (degree + 1,).

    All energies sum to E f(X)**2. See `hermite_coefficients` for arguments and errors.
    """
    return hermite_coefficients(f, degree, **rule).square()


def ornstein_uhlenbeck(
    f: Function, rho: Scalar, x: Real[Tensor, "*batch"], **rule: Unpack[Rule]
) -> Float[Tensor, "..."]:
    r"""$U_\rho f(x) = E f(\rho x + \sqrt{1 - \rho^2}\, Z)$, Z ~ N(0, 1): f as the noise lets one see it.

    Args:
        f: an elementwise function.
        rho: correlations in [-1, 1], a number or a tensor (*rho).
        x: points, (*batch).
        **rule: see `Rule`; `dtype` and `device` are those of x.

    Returns:
        (*batch, *rho). At rho = 1 it is f(x), at 0 the mean of f everywhere, at -1 f(-x). Differentiable in x, and in
        rho inside (-1, 1); the slope in rho at the ends is NaN.

    How to read it: a smoothing. $U_\rho h_k = \rho^k h_k$; with rho = exp(-t) it is the Mehler semigroup.

    Errors: `ValueError` when rho is outside [-1, 1]; otherwise as `gaussian_mean`.

    Source: O'Donnell (2014), section 11.1.
    """
    (x,) = as_tensors(x)
    _check_keys(rule)
    rule = rule | {"dtype": x.dtype, "device": x.device}
    rho = correlation(torch.as_tensor(rho, dtype=x.dtype, device=x.device))
    shape = (*x.shape, *rho.shape)
    found = [_smoothed(f, r, x, rule) for r in rho.flatten()]
    return torch.stack(found, -1).reshape(shape) if found else x.new_zeros(shape)


def gaussian_stability(f: Function, rho: Scalar, **rule: Unpack[Rule]) -> Float[Tensor, "..."]:
    r"""$\mathrm{Stab}_\rho(f) = E[f(X) f(Y)] = \sum_k \rho^k W_k$ for standard Gaussians with correlation rho.

    Args:
        f: an elementwise function of one variable.
        rho: correlations in [-1, 1], a number or a tensor (*rho).
        **rule: see `Rule`; give the kinks of f as `breaks`.

    Returns:
        (*rho), in `dtype`. Differentiable in the parameters of f, and in rho inside (-1, 1); at the ends the slope in
        rho is NaN here, and `stability_from_energies` gives it (E f'(X)**2 at 1).

    How to read it: an uncentred second moment: E f**2 at rho = 1 and (E f)**2 at 0. Divide by the value at 1 to compare
    functions of different size.

    Errors: `ValueError` when rho is outside [-1, 1]; otherwise as `gaussian_mean`.

    Source: arXiv 2602.08287, section 4, as reported in a digest; O'Donnell (2014), section 11.1. A function
    f(<w, x>) on R^d with |w| = 1 has the stability of f on R.

    >>> found = gaussian_stability(torch.sign, 0.5, breaks=(0.0,))
    >>> round(found.item(), 12) == round(2 / math.pi * math.asin(0.5), 12)
    True
    """
    _check_keys(rule)
    like = torch.empty((), dtype=rule.get("dtype", torch.float64), device=rule.get("device"))
    rho = correlation(torch.as_tensor(rho, dtype=like.dtype, device=like.device))
    found = []
    for r in rho.flatten():
        x, mass = _grid(rule, layers=r)
        found.append((_values(f, x) * _smoothed(f, r, x, rule) * mass).sum())
    return torch.stack(found).reshape(rho.shape) if found else like.new_zeros(rho.shape)


def _smoothed(f: Function, rho: Tensor, x: Tensor, rule: Rule) -> Tensor:
    """E f(rho x + sigma Z) at every x, the panels in Z ending where f has a break."""
    sigma = (1 - rho.square()).clamp(min=0).sqrt()
    if float(sigma.detach()) == 0:
        return _values(f, rho * x) + 0 * sigma  # f(rho x) alone would have a slope in rho, and a wrong one
    edges = _even_edges(x.dtype, x.device).expand(*x.shape, -1)
    if breaks := tuple(rule.get("breaks", ())):
        places = (torch.tensor(breaks, dtype=x.dtype, device=x.device) - rho * x[..., None]) / sigma
        edges = torch.cat([edges, places.clamp(-REACH, REACH)], -1).sort(-1).values
    z, mass = _panels(edges, rule.get("nodes", 24))
    return (_values(f, rho * x[..., None] + sigma * z) * mass).sum(-1)


def _grid(rule: Rule, layers: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Nodes and Gaussian weights on the line; with `layers` = rho also panels around what noise makes of a break."""
    _check_keys(rule)
    dtype, device = rule.get("dtype", torch.float64), rule.get("device")
    breaks = [float(b) for b in rule.get("breaks", ())]
    ends = list(breaks)
    if layers is not None and (rho := float(layers.detach())):
        sigma = math.sqrt(max(0.0, 1 - rho**2))
        ends += [(b + t * sigma) / rho for b in breaks for t in LAYER]
    extra = torch.tensor(ends, dtype=dtype, device=device).clamp(-REACH, REACH)
    return _panels(torch.cat([_even_edges(dtype, device), extra]).sort().values, rule.get("nodes", 24))


def _check_keys(rule: Rule) -> None:
    """A misspelt key must not be ignored: without its `breaks` an integral is silently wrong."""
    if unknown := sorted(set(rule) - set(Rule.__annotations__)):
        raise TypeError(f"unexpected argument {unknown[0]!r}: the rule has {', '.join(Rule.__annotations__)}")
    breaks = tuple(float(b) for b in rule.get("breaks", ()))
    if not all(map(math.isfinite, breaks)):
        raise ValueError(f"breaks = {breaks}: give finite points where f has a kink or a jump")


def _even_edges(dtype: torch.dtype, device: torch.device | str | None) -> Tensor:
    return torch.linspace(-REACH, REACH, PANELS + 1, dtype=dtype, device=device)


def _panels(edges: Tensor, nodes: int) -> tuple[Tensor, Tensor]:
    """Gauss-Legendre on each panel between sorted edges (*batch, e): nodes and Gaussian weights (*batch, points)."""
    if nodes < 1:
        raise ValueError(f"nodes = {nodes}: give at least 1 a panel; 24 is enough for smooth pieces")
    position, weight = (torch.from_numpy(a).to(edges) for a in _legendre(nodes))
    half = (edges[..., 1:] - edges[..., :-1]) / 2
    middle = (edges[..., 1:] + edges[..., :-1]) / 2
    x = (middle[..., None] + half[..., None] * position).flatten(-2)  # (*batch, panels, nodes) -> (*batch, points)
    width = (half[..., None] * weight).flatten(-2)
    return x, width * torch.exp(-x.square() / 2) / math.sqrt(2 * math.pi)


@lru_cache(maxsize=16)
def _legendre(nodes: int) -> tuple[np.ndarray, np.ndarray]:
    return np.polynomial.legendre.leggauss(nodes)


def _values(f: Function, x: Tensor) -> Tensor:
    values = f(x.clone())  # f may work in place, as torch.relu_ does
    if not isinstance(values, Tensor) or values.shape != x.shape:
        got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(f"f returned {got} for points of shape {tuple(x.shape)}: it must act elementwise")
    finite = torch.isfinite(values.detach())
    if not bool(finite.all()):
        raise ValueError(f"f returned NaN or infinity at x = {x.detach()[~finite][0].item():g}: E f(X) needs finite f")
    return values

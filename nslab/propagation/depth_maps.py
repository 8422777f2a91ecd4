"""The fate of a correlation in a deep ReLU network, which depends on what each layer does to the scale.

One layer turns the correlation rho of two standard Gaussians into the second moment f(rho) = `relu_map(rho)`. That is
not a correlation again: f(1) = 1/2. Three ways to feed it to the next layer, and three fates:

    "paper"    rho <- f(rho)                               to 0.2172, at the rate 0.285 a layer
    "he"       c <- 2 f(c)                                 to 1, slowly: 1 - c is about 44.4 / L^2
    "centred"  c <- (f(c) - f(0)) / (f(1) - f(0))          to 0, at the rate 0.7335; 1 is unstable

"paper" is the recursion as a digest reports it: an uncentred second moment fed back as if it were a correlation, so
that two identical inputs count as half-correlated after a layer. No network does this. "he" is a wide network with
He initialisation (weight variance 2/width), or with RMS normalisation of every layer: the variance is restored, the
mean stays, and the common mean makes all inputs alike. "centred" is batch normalisation (each unit's mean over inputs
removed, its variance restored): without the common mean the layer is a chaotic map, and inputs part.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from nslab.gaussian import relu_energies, relu_map, stability_from_energies
from nslab.gaussian.ranges import Scalar, correlation
from nslab.propagation.doubles import as_doubles

MEAN = 1 / (2 * math.pi)  # f(0), the square of a ReLU's mean

AFFINE = {"paper": (0.0, 1.0), "he": (0.0, 2.0), "centred": (MEAN, 1 / (0.5 - MEAN))}
"""The shift a and the factor b of each normalisation: a layer is rho -> b (f(rho) - a)."""


def relu_step(rho: Scalar, normalisation: str = "paper") -> Float[Tensor, "..."]:
    r"""One layer of the recursion: $b\, (f(\rho) - a)$ with f = `relu_map`.

    Formula: (a, b) = (0, 1) for "paper", (0, 2) for "he", $(\frac{1}{2\pi}, \frac{2\pi}{\pi - 1})$ for "centred".

    Args:
        rho: correlations in [-1, 1], any shape; a Python number counts as float64.
        normalisation: "paper", "he" or "centred", see the module.

    Returns:
        The same shape; differentiable on [-1, 1].

    How to read it: the curve of a cobweb diagram. Fixed points are where it meets the diagonal.

    Errors: `ValueError` for an unknown normalisation, with the known ones, or rho outside [-1, 1].

    Source: "paper": arXiv 2602.08287, section 5, as reported in a digest. "he": the correlation map of Poole et al.
    (2016) and Daniely et al. (2016). "centred": *ours*.

    >>> relu_step(1.0, "paper").item(), relu_step(1.0, "he").item(), relu_step(0.0, "centred").item()
    (0.5, 1.0, 0.0)
    """
    shift, factor = _affine(normalisation)
    rho = correlation(*as_doubles(rho))
    stepped = factor * (relu_map(rho) - shift)
    return stepped + (stepped.clamp(-1, 1) - stepped).detach()  # rounding beyond 1 is cut off, its gradient is kept


def relu_depth(rho: Scalar, layers: int, normalisation: str = "paper") -> Float[Tensor, "..."]:
    r"""The recursion through a deep ReLU network: $\rho_0 = \rho$, $\rho_{L+1} = $ `relu_step` $(\rho_L)$.

    Args:
        rho: correlations of the inputs in [-1, 1], a number (float64) or a tensor (*rho).
        layers: depth, 0 or more.
        normalisation: "paper", "he" or "centred", see the module.

    Returns:
        (layers + 1, *rho), first axis the layer; differentiable in rho.

    How to read it: whether depth destroys stability has no answer until the normalisation is fixed. From 0.9, the
    three go to 0.217, to 1 and to 0.

    Errors: as `relu_step`, and `ValueError` when `layers` is negative.

    Source: as `relu_step`.

    >>> [round(x, 4) for x in relu_depth(1.0, 3).tolist()]
    [1.0, 0.5, 0.3045, 0.2427]
    """
    if layers < 0:
        raise ValueError(f"layers = {layers}: give the depth of the network, 0 or more")
    _affine(normalisation)  # refused without a layer too
    path = [correlation(*as_doubles(rho))]
    for _ in range(layers):
        path.append(relu_step(path[-1], normalisation))
    return torch.stack(path)


def fixed_point(normalisation: str = "paper", order: int | None = None) -> float:
    r"""Where the recursion settles from any correlation in [0, 1), or where a truncated map does.

    Formula: $\rho = b\, (f(\rho) - a)$, with f, for an `order`, cut after that degree of its power series
    $f(\rho) = \frac{1}{2\pi} + \frac{\rho}{4} + \frac{\rho^2}{4\pi} + O(\rho^4)$.

    Args:
        normalisation: "paper", "he" or "centred".
        order: 1 for the linearised map, 2 for the quadratic one, and so on; None for the map itself.

    Returns:
        A number. "paper": 0.217234; order 1: $2/(3\pi)$ = 0.2122; order 2:
        $\frac{3\pi}{2} (1 - \sqrt{1 - 8/(9\pi^2)})$ = 0.217213. "he": 1. "centred": 0, at every order.

    How to read it: "weak dampening" is the paper's name for the first: stability falls, but to a positive level. The
    linearised value is 2 % low, the quadratic one 0.01 %.

    Errors: `ValueError` for an unknown normalisation or an order below 1.

    Source: $2/(3\pi)$: arXiv 2602.08287, as reported in a digest. All others: *reconstructed*.

    >>> round(fixed_point(), 6), round(fixed_point(order=1), 6), fixed_point("he"), fixed_point("centred")
    (0.217234, 0.212207, 1.0, 0.0)
    """
    shift, factor = _affine(normalisation)
    if order is not None and order < 1:
        raise ValueError(f"order = {order}: give 1 for the linear map, 2 for the quadratic one, or None for all of it")
    if normalisation == "he" and order is None:
        return 1.0  # a double root there, on which Newton's steps would be slow and inexact
    energies = relu_energies(order or 1)
    rho = torch.zeros((), dtype=torch.float64, requires_grad=True)
    for _ in range(60):  # Newton from below: the map is convex, so the steps never pass the root
        moment = relu_map(rho) if order is None else stability_from_energies(energies, rho)
        gap = factor * (moment - shift) - rho
        (slope,) = torch.autograd.grad(gap, rho)
        step = (gap / slope).detach()
        rho = (rho.detach() - step).clamp(0, 1).requires_grad_()
        if abs(step.item()) < 1e-16:
            break
    return rho.item()


def rate(normalisation: str = "paper", at: float | int | None = None) -> float:
    r"""The slope $b\, f'(\rho) = b\, (\pi - \arccos \rho) / 2\pi$ of a layer, at its stable fixed point or elsewhere.

    Args:
        normalisation: "paper", "he" or "centred".
        at: a correlation in [-1, 1]; None for `fixed_point(normalisation)`.

    Returns:
        A number. "paper": 0.2849 at 0.2172. "he": 1 at 1. "centred": $\frac{\pi/2}{\pi - 1}$ = 0.7335 at 0 and
        $\frac{\pi}{\pi - 1}$ = 1.4669 at 1.

    How to read it: below 1, the factor by which each layer shrinks the distance to the fixed point; above 1, the
    fixed point repels. At 1 neither: see `he_distance`.

    Errors: `ValueError` for an unknown normalisation, or `at` outside [-1, 1].

    Source: *reconstructed*.

    >>> round(rate(), 4), rate("he"), round(rate("centred"), 4), round(rate("centred", at=1), 4)
    (0.2849, 1.0, 0.7335, 1.4669)
    """
    factor = _affine(normalisation)[1]
    rho = fixed_point(normalisation) if at is None else at
    if not -1 <= rho <= 1:
        raise ValueError(f"at = {at} is outside [-1, 1]: give a correlation")
    return factor * (math.pi - math.acos(rho)) / (2 * math.pi)


def he_distance(layers: int) -> float:
    r"""The law of large depth for "he": $1 - c_L \approx \frac{9 \pi^2}{2 L^2} = 44.4 / L^2$, from any start.

    Formula: with $\delta = 1 - c$ a layer is $\delta \to \delta - \frac{2 \sqrt 2}{3 \pi} \delta^{3/2} + \dots$;
    integrated over depth, $\delta^{-1/2}$ grows by $\frac{\sqrt 2}{3 \pi}$ a layer.

    Args:
        layers: L, at least 1.

    Returns:
        A number. A path from 0 is 19 % below it at 100 layers, 5 % at 500 and 2 % at 2,000.

    How to read it: correlations go to 1, but no faster than a power: ten times the depth, a hundredth of the distance.

    Errors: `ValueError` when `layers` is below 1.

    Source: *reconstructed*.
    """
    if layers < 1:
        raise ValueError(f"layers = {layers}: the law is about large depth, give at least 1")
    return 9 * math.pi**2 / (2 * layers**2)


def _affine(normalisation: str) -> tuple[float, float]:
    if normalisation not in AFFINE:
        raise ValueError(f"normalisation = {normalisation!r} is unknown: choose from {', '.join(AFFINE)}")
    return AFFINE[normalisation]

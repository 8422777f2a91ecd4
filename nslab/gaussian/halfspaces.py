"""Half-spaces, the most stable sets: Sheppard's formula, the bivariate normal distribution, Borell's bound."""

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from nslab.gaussian.ranges import Scalar, as_tensors, correlation, inside

LEVELS = 26  # panels that halve towards the end of the arc, where the integrand may turn sharply
NODES = 20
FAR = 40.0  # the normal distribution function is 0 or 1 there, to the last bit of double precision


def sheppard(rho: Scalar) -> Float[Tensor, "..."]:
    r"""P[sign X = sign Y] for standard Gaussians with correlation rho: $1 - \arccos(\rho)/\pi$.

    Args:
        rho: correlations in [-1, 1], any shape. The slope is infinite at both ends.

    Returns:
        The same shape: 0 at -1, 1/2 at 0, 1 at 1.

    How to read it: the probability that a coin-flip election between two candidates with very many voters survives
    the noise; `sign_stability` is the same as a correlation.

    Errors: `ValueError` when rho is outside [-1, 1].

    Source: Sheppard (1899); O'Donnell (2014), section 5.2.

    >>> sheppard(0.5).item()
    0.6666...
    """
    (rho,) = as_tensors(rho)
    return 1 - torch.acos(correlation(rho)) / math.pi


def sign_stability(rho: Scalar) -> Float[Tensor, "..."]:
    r"""$\mathrm{Stab}_\rho(\mathrm{sign}) = \frac{2}{\pi} \arcsin \rho$, a half-space through the origin in any
    dimension, and the limit of majority's stability as voters grow.

    Args and errors as in `sheppard`, whose value p it turns into 2 p - 1.

    Source: O'Donnell (2014), section 5.2.

    >>> sign_stability(0.5).item()
    0.3333...
    """
    (rho,) = as_tensors(rho)
    return torch.asin(correlation(rho)) * (2 / math.pi)


class _BivariateNormal(torch.autograd.Function):
    """Phi_2 by quadrature, its derivatives by their own formulas (finite where the quadrature's would not be)."""

    @staticmethod
    def forward(h: Tensor, k: Tensor, rho: Tensor) -> Tensor:
        """Phi(h) Phi(k) plus the integral of the density along 0 .. rho, over the angle phi = arccos(correlation)."""
        position, weight = (torch.from_numpy(a).to(h) for a in np.polynomial.legendre.leggauss(NODES))
        last = torch.acos(rho.abs())
        edges = math.pi / 2 * 0.5 ** torch.arange(LEVELS, dtype=h.dtype, device=h.device)
        edges = torch.cat([torch.maximum(edges, last[..., None]), last[..., None]], -1)  # (*shape, LEVELS + 1)
        half = (edges[..., :-1] - edges[..., 1:]) / 2
        middle = (edges[..., :-1] + edges[..., 1:]) / 2
        phi = middle[..., None] + half[..., None] * position  # (*shape, LEVELS, NODES)
        sign = torch.where(rho < 0, -1.0, 1.0).to(h)[..., None, None]
        h_, k_ = h[..., None, None], k[..., None, None] * sign
        # h^2 + k^2 - 2 h k cos(phi), over 2 sin(phi)^2, without subtracting what is nearly equal
        exponent = ((h_ - k_) / torch.sin(phi)).square() / 2 + h_ * k_ / (1 + torch.cos(phi))
        integral = (torch.exp(-exponent) * weight * half[..., None]).sum((-2, -1)) / (2 * math.pi)
        return torch.special.ndtr(h) * torch.special.ndtr(k) + sign[..., 0, 0] * integral

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h, k, rho = ctx.saved_tensors
        room = (1 - rho) * (1 + rho)
        exponent = torch.where(h == k * torch.sign(rho), 0, (h - rho * k).square() / room) + k.square()
        exponent = torch.where((room == 0) & (h == k * torch.sign(rho)), h.square(), exponent)
        density = torch.exp(-exponent / 2) / (2 * math.pi)
        density = torch.where(density > 0, density / room.sqrt(), 0)
        return grad * _slope(h, k, rho), grad * _slope(k, h, rho), grad * density


def _slope(h: Tensor, k: Tensor, rho: Tensor) -> Tensor:
    """dPhi_2/dh = phi(h) Phi((k - rho h) / sqrt(1 - rho^2)); on the diagonal at rho = ±1 the mean of its two limits."""
    gap, room = k - rho * h, ((1 - rho) * (1 + rho)).sqrt()
    conditional = torch.where(gap == 0, 0.5, torch.special.ndtr(gap / room))
    return torch.exp(-h.square() / 2) / math.sqrt(2 * math.pi) * conditional


def bivariate_normal_cdf(h: Scalar, k: Scalar, rho: Scalar) -> Float[Tensor, "..."]:
    r"""$\Phi_2(h, k; \rho) = P[X \le h, Y \le k]$ for standard Gaussians with correlation rho.

    Formula: $\Phi(h) \Phi(k) + \frac{1}{2\pi} \int_0^{\arcsin \rho} \exp\left( - \frac{h^2 + k^2 - 2 h k \sin t}
    {2 \cos^2 t} \right) dt$, by Gauss-Legendre panels that halve towards the end of the arc.

    Args:
        h: first threshold, any real number, ±infinity included.
        k: second threshold; h, k and rho broadcast against each other.
        rho: correlation in [-1, 1].

    Returns:
        The broadcast shape, absolute error below 1e-14 in double precision. Differentiable in all three arguments by
        $\partial \Phi_2 / \partial \rho = \varphi_2(h, k; \rho)$ (infinite at rho = ±1 on the diagonal).

    Errors: `ValueError` when rho is outside [-1, 1] or a threshold is NaN.

    Source: Plackett (1954) for the derivative; Drezner and Wesolowsky (1990) for the arc. The panels: ours.

    >>> bivariate_normal_cdf(0.0, 0.0, 0.5).item()
    0.3333...
    """
    h, k, rho = torch.broadcast_tensors(*as_tensors(h, k, rho))
    for value, name in ((h, "h"), (k, "k")):
        if bool(torch.isnan(value).any()):
            raise ValueError(f"{name} = nan: give a threshold, ±infinity allowed")
    return _BivariateNormal.apply(h.clamp(-FAR, FAR), k.clamp(-FAR, FAR), correlation(rho))


def borell_bound(rho: Scalar, mean: Scalar) -> Float[Tensor, "..."]:
    r"""Borell's theorem: the largest $E[f(X) f(Y)]$ among functions $f : R^d \to [0, 1]$ with $E f = \mu$.

    Formula: $\Phi_2(t, t; \rho)$ with $t = \Phi^{-1}(\mu)$. The half-space $\{x_1 \le t\}$ attains it, in any
    dimension.

    Args:
        rho: correlations in [0, 1], a number or a tensor (*rho).
        mean: $\mu$ in [0, 1], a number or a tensor (*mean); `borell_bound_signs` takes functions into [-1, 1].

    Returns:
        (*mean, *rho), from $\mu^2$ at rho = 0 to $\mu$ at 1. Differentiable inside the intervals.

    How to read it: no classifier whose positive share is $\mu$ resists Gaussian noise better than a threshold of one
    linear score. A measured stability above it means a wrong mean or too few samples.

    Errors: `ValueError` when rho or mean is outside [0, 1]. Negative rho is refused: the theorem does not hold there.

    Source: Borell (1985); O'Donnell (2014), section 11.3.

    >>> borell_bound(0.5, 0.5).item()
    0.3333...
    """
    rho, mean = as_tensors(rho, mean)
    inside(rho, "rho", 0, 1, "Borell's theorem is about non-negative correlations")
    inside(mean, "mean", 0, 1, "f takes values in [0, 1]; for values in [-1, 1] use borell_bound_signs")
    threshold = torch.special.ndtri(mean)[(...,) + (None,) * rho.ndim]
    return bivariate_normal_cdf(threshold, threshold, rho)


def borell_bound_signs(rho: Scalar, mean: Scalar) -> Float[Tensor, "..."]:
    r"""Borell's bound for $f : R^d \to [-1, 1]$ with $E f = m$.

    Formula: $4 \Phi_2(t, t; \rho) - 2 m - 1$ with $\Phi(t) = (1 + m)/2$.

    Args:
        rho: correlations in [0, 1], a number or a tensor (*rho).
        mean: m in [-1, 1], a number or a tensor (*mean).

    Returns:
        (*mean, *rho), from $m^2$ at rho = 0 to 1 at 1. At m = 0 it is `sign_stability`.

    Errors: `ValueError` when rho is outside [0, 1] or mean outside [-1, 1].

    Source: as `borell_bound`, by f -> (1 + f)/2.

    >>> round(borell_bound_signs(0.5, 0.0).item(), 6)
    0.333333
    """
    rho, mean = as_tensors(rho, mean)
    inside(mean, "mean", -1, 1, "f takes values in [-1, 1]; for values in [0, 1] use borell_bound")
    return 4 * borell_bound(rho, (1 + mean) / 2) - (2 * mean + 1)[(...,) + (None,) * rho.ndim]

"""What one ReLU does to a correlation: the arc-cosine map, with finite gradients at both ends."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from nslab.gaussian.ranges import Scalar, as_tensors, correlation, degree_count


class _ReluMap(torch.autograd.Function):
    """The map with its derivative written out: the two infinite slopes of the formula cancel at rho = ±1."""

    @staticmethod
    def forward(rho: Tensor) -> Tensor:
        angle = torch.acos(rho)
        return (torch.sqrt((1 - rho) * (1 + rho)) + rho * (math.pi - angle)) / (2 * math.pi)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        (rho,) = ctx.saved_tensors
        return grad * (math.pi - torch.acos(rho)) / (2 * math.pi)


def relu_map(rho: Scalar) -> Float[Tensor, "..."]:
    r"""$E[\mathrm{ReLU}(X)\, \mathrm{ReLU}(Y)]$ for standard Gaussians X, Y with correlation rho.

    Formula: $f(\rho) = \frac{1}{2\pi} \left( \sqrt{1 - \rho^2} + \rho (\pi - \arccos \rho) \right)$, with
    $f'(\rho) = (\pi - \arccos \rho) / 2\pi = P[X > 0, Y > 0]$.

    Args:
        rho: correlations in [-1, 1], any shape.

    Returns:
        The same shape, from 0 at -1 over 1/(2 pi) at 0 to 1/2 at 1. Differentiable on all of [-1, 1]: the slope is 0
        at -1 and 1/2 at 1. The second derivative is infinite at both ends.

    How to read it: the noise stability of one ReLU unit with a unit weight vector. It is not 0 at rho = 0, because
    ReLU has a positive mean, and nearly linear, because 82 % of the energy is at degrees 0 and 1.

    Errors: `ValueError` when rho is outside [-1, 1].

    Source: arXiv 2602.08287, Theorem 5.1, as reported in a digest; half the degree-1 arc-cosine kernel of Cho and
    Saul (2009).

    >>> relu_map(torch.tensor([-1.0, 1.0])).tolist()
    [0.0, 0.5]
    """
    (rho,) = as_tensors(rho)
    return _ReluMap.apply(correlation(rho))


def relu_moment(q: Scalar, q_prime: Scalar, kappa: Scalar) -> Float[Tensor, "..."]:
    r"""$E[\mathrm{ReLU}(u)\, \mathrm{ReLU}(v)]$ for centred Gaussians with variances q, q' and covariance kappa.

    Formula: $F(q, q', \kappa) = \sqrt{q q'}\, f(\kappa / \sqrt{q q'})$ with f = `relu_map`. By Price's theorem
    $\partial F / \partial \kappa = P[u > 0, v > 0]$; F is nondecreasing in each of its three arguments.

    Args:
        q: variance of u, >= 0.
        q_prime: variance of v, >= 0.
        kappa: covariance, at most sqrt(q q') in size; the three broadcast.

    Returns:
        The broadcast shape. Gradients are finite for positive variances, at kappa = ±sqrt(q q') too; where a variance
        is 0 the value and the gradients are 0.

    How to read it: the second moment after one ReLU layer, in the squared units of the signal.

    Errors: `ValueError` for a negative variance, or |kappa| above sqrt(q q') by more than rounding.

    Source: *reconstructed* from the arc-cosine kernel; Price (1958) for the derivative.

    >>> relu_moment(4.0, 1.0, 2.0).item()
    1.0
    """
    q, q_prime, kappa = torch.broadcast_tensors(*as_tensors(q, q_prime, kappa))
    for value, name in ((q, "q"), (q_prime, "q_prime")):
        bad = ~((value >= 0) & torch.isfinite(value))
        if bool(bad.any()):
            raise ValueError(f"{name} = {value.detach()[bad].flatten()[0].item():g}: a variance is finite and >= 0")
    alive = (q > 0) & (q_prime > 0)
    scale = torch.where(alive, q, 1).sqrt() * torch.where(alive, q_prime, 1).sqrt()
    ratio = torch.where(alive, kappa, 0) / scale
    slack = 16 * torch.finfo(ratio.dtype).eps
    bad = ~(ratio.abs() <= 1 + slack) | (~alive & (kappa.abs() > slack))
    if bool(bad.any()):
        worst = kappa.detach()[bad].flatten()[0].item()
        raise ValueError(f"kappa = {worst:g} exceeds sqrt(q * q_prime): no two Gaussians have this covariance")
    ratio = ratio + (ratio.clamp(-1, 1) - ratio).detach()  # rounding beyond ±1 is cut off, its gradient is kept
    return torch.where(alive, scale * _ReluMap.apply(ratio), 0)


def relu_energies(
    degree: int, *, dtype: torch.dtype = torch.float64, device: torch.device | str | None = None
) -> Float[Tensor, " degrees"]:
    r"""Hermite energies $W_0, \dots, W_{degree}$ of ReLU, in closed form, (degree + 1,).

    Formula: $W_0 = \frac{1}{2\pi}$, $W_1 = \frac14$, $W_{2m} = \frac{((2m-3)!!)^2}{2\pi\,(2m)!}$ with $(-1)!! = 1$; odd
    degrees from 3 on have none. They sum to 1/2.

    How to read it: degrees 0, 1, 2 hold 97.7 % of the energy: one ReLU layer is already a low-degree function.

    Errors: `ValueError` when `degree` is negative.

    Source: *reconstructed*: the power series of `relu_map`.

    >>> (2 * relu_energies(2)).sum().item()  # share of the energy up to degree 2
    0.9774...
    """
    energies = [1 / (2 * math.pi), 0.25]
    even = 1 / (4 * math.pi)
    for k in range(2, degree_count(degree) + 1):
        energies.append(0.0 if k % 2 else even)
        even *= 1.0 if k % 2 else (k - 1) ** 2 / ((k + 1) * (k + 2))
    return torch.tensor(energies[: degree + 1], dtype=dtype, device=device)

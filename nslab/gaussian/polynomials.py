"""Hermite polynomials, the eigenfunctions of Gaussian noise, and the curve that their energies draw."""

import torch
from jaxtyping import Float, Real
from torch import Tensor

from nslab.gaussian.ranges import Scalar, as_tensors, correlation, degree_count


def hermite(x: Float[Tensor, "*batch"], degree: int) -> Float[Tensor, "*batch degrees"]:
    r"""Normalised probabilists' Hermite polynomials $h_0(x), \dots, h_{degree}(x)$, last axis by degree.

    Formula: $h_0 = 1$, $h_1 = x$, $\sqrt{k+1}\, h_{k+1} = x h_k - \sqrt{k}\, h_{k-1}$, so that for standard Gaussian X
    $E[h_j(X) h_k(X)] = [j = k]$ and, with correlation rho, $E[h_j(X) h_k(Y)] = \rho^k [j = k]$.

    Args:
        x: points on the line, any shape.
        degree: the highest degree, 0 or more.

    Returns:
        (*batch, degree + 1), in the dtype of x; differentiable, $h_k' = \sqrt{k}\, h_{k-1}$.

    How to read it: $h_k$ is to Gaussian space what a parity of k bits is to the cube.

    Errors: `ValueError` when `degree` is negative.

    Source: O'Donnell, Analysis of Boolean Functions (2014), section 11.2. The physicists' polynomials use the weight
    exp(-x**2); the unnormalised He_k is sqrt(k!) h_k.

    >>> hermite(torch.tensor(2.0), 2).tolist()
    [1.0, 2.0, 2.1213204860687256]
    """
    found = [torch.ones_like(x)]
    for k in range(degree_count(degree)):
        below = found[-2] * k**0.5 if k else 0
        found.append((x * found[-1] - below) / (k + 1) ** 0.5)
    return torch.stack(found, -1)


def stability_from_energies(energies: Real[Tensor, "*batch degrees"], rho: Scalar) -> Float[Tensor, "..."]:
    r"""$\mathrm{Stab}_\rho = \sum_k \rho^k W_k$ from energies by degree: the spectrum's generating function.

    Args:
        energies: $W_0, W_1, \dots$ along the last axis, (*batch, degrees): Hermite energies, or the level weights of a
            Boolean function.
        rho: correlations in [-1, 1], a number or a tensor (*rho); differentiable, at the ends too.

    Returns:
        (*batch, *rho).

    How to read it: see `gaussian_stability`. Energies cut off at a degree K leave out at most $|\rho|^{K+1}$ times the
    energy beyond K.

    Errors: `ValueError` when rho is outside [-1, 1] or `energies` has no axis.

    >>> stability_from_energies(torch.tensor([0.0, 0.5, 0.0, 0.5]), 0.5).item()
    0.3125
    """
    if energies.ndim == 0 or energies.shape[-1] == 0:
        raise ValueError(f"energies has shape {tuple(energies.shape)}: give one energy a degree along the last axis")
    (energies,) = as_tensors(energies)
    rho = correlation(torch.as_tensor(rho, dtype=energies.dtype, device=energies.device))
    spread = (...,) + (None,) * rho.ndim
    total = energies[..., -1][spread].expand((*energies.shape[:-1], *rho.shape))
    for k in range(energies.shape[-1] - 2, -1, -1):  # Horner
        total = total * rho + energies[..., k][spread]
    return total

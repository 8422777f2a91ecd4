"""Analysis in Gaussian space: Hermite energies, Ornstein-Uhlenbeck noise, and the stability of functions on the line.

    from nslab import gaussian as gs
    gs.gaussian_stability(torch.relu, torch.linspace(0, 1, 101), breaks=(0.0,))

Everything is exact, by closed form or by quadrature, and differentiable. X and Y are standard Gaussians with
E[X Y] = rho, and rho is always the last output axis.
"""

from nslab.gaussian.arccosine import relu_energies, relu_map, relu_moment
from nslab.gaussian.halfspaces import (
    bivariate_normal_cdf,
    borell_bound,
    borell_bound_signs,
    sheppard,
    sign_stability,
)
from nslab.gaussian.polynomials import hermite, stability_from_energies
from nslab.gaussian.quadrature import (
    gaussian_mean,
    gaussian_stability,
    hermite_coefficients,
    hermite_energies,
    ornstein_uhlenbeck,
)

__all__ = [
    "bivariate_normal_cdf",
    "borell_bound",
    "borell_bound_signs",
    "gaussian_mean",
    "gaussian_stability",
    "hermite",
    "hermite_coefficients",
    "hermite_energies",
    "ornstein_uhlenbeck",
    "relu_energies",
    "relu_map",
    "relu_moment",
    "sheppard",
    "sign_stability",
    "stability_from_energies",
]

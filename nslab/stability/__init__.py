"""Noise stability and influences of any callable over a product space, and what they say about its spectrum.

    from nslab.stability import Cube, noise_stability
    noise_stability(model, Cube(40), rho=[0.5, 0.9], evaluations=100_000)

The space fixes the noise: `Cube` flips bits and `GaussianSpace` mixes, both at a correlation `rho`; `Tokens` keeps or
resamples with a probability `keep`. Every measured number is an `Estimate`.
"""

from nslab.stability.concentration import (
    TailBound,
    best_tail_bound,
    concentration_degree,
    markov_bound,
    spectral_tail_bound,
    tail_bound,
)
from nslab.stability.efron_stein import average_sensitivity, gradient_energy, influences
from nslab.stability.measuring import StabilityEstimate, noise_stability
from nslab.stability.spaces import Cube, GaussianSpace, Space, Tokens

__all__ = [
    "Cube",
    "GaussianSpace",
    "Space",
    "StabilityEstimate",
    "TailBound",
    "Tokens",
    "average_sensitivity",
    "best_tail_bound",
    "concentration_degree",
    "gradient_energy",
    "influences",
    "markov_bound",
    "noise_stability",
    "spectral_tail_bound",
    "tail_bound",
]

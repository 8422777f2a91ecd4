"""Exact and sampled Fourier analysis of functions on the discrete cube {-1, 1}^n.

    from nslab import boolean as bf
    f = bf.majority(5)
    bf.stability(f, torch.linspace(0, 1, 101))

A truth table is a tensor (*batch, 2**n); index i is the point whose coordinate j is -1 where binary digit j of i is 1
(digit 0 the least significant), and a coefficient's index is the bitmask of its subset. Stability is the correlation
E[f(x) f(y)], total influence the average sensitivity, and rho is always the last output axis.
"""

from nslab.boolean.biased import (
    biased_influences,
    biased_level_weights,
    biased_mean,
    biased_spectrum,
    biased_stability,
)
from nslab.boolean.cube import points, popcounts, table
from nslab.boolean.functions import (
    address,
    conjunction,
    dictator,
    disjunction,
    iterated_majority,
    junta,
    majority,
    parity,
    random,
    tribes,
    weighted_threshold,
)
from nslab.boolean.juntas import JuntaFit, best_junta, friedgut_bound, friedgut_junta, junta_distance
from nslab.boolean.sampling import sampled_influences, sampled_mean, sampled_stability, sampled_total_influence
from nslab.boolean.spectral import (
    degree,
    flip_influences,
    influences,
    level_weights,
    max_sensitivity,
    noise_operator,
    sensitivity,
    stability,
    total_influence,
)
from nslab.boolean.thresholds import (
    Outcomes,
    threshold_distribution,
    threshold_flip_influences,
    threshold_influences,
    threshold_outcomes,
    threshold_stability,
    threshold_total_influence,
)
from nslab.boolean.transform import inverse_spectrum, spectrum, wht

__all__ = [
    "JuntaFit",
    "Outcomes",
    "address",
    "best_junta",
    "biased_influences",
    "biased_level_weights",
    "biased_mean",
    "biased_spectrum",
    "biased_stability",
    "conjunction",
    "degree",
    "dictator",
    "disjunction",
    "flip_influences",
    "friedgut_bound",
    "friedgut_junta",
    "influences",
    "inverse_spectrum",
    "iterated_majority",
    "junta",
    "junta_distance",
    "level_weights",
    "majority",
    "max_sensitivity",
    "noise_operator",
    "parity",
    "points",
    "popcounts",
    "random",
    "sampled_influences",
    "sampled_mean",
    "sampled_stability",
    "sampled_total_influence",
    "sensitivity",
    "spectrum",
    "stability",
    "table",
    "threshold_distribution",
    "threshold_flip_influences",
    "threshold_influences",
    "threshold_outcomes",
    "threshold_stability",
    "threshold_total_influence",
    "total_influence",
    "tribes",
    "weighted_threshold",
    "wht",
]

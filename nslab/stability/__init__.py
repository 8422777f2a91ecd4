"""Noise stability and influences of any callable over a product space, and what they say about its spectrum.

    from nslab.stability import Cube, noise_stability
    noise_stability(model, Cube(40), rho=[0.5, 0.9], evaluations=100_000)

At the prompts of a language model, tokens are drawn anew or embeddings moved:

    from nslab.stability import discrete_influence, geometric_influence, text_stability
    geometric_influence(score, score.embeddings)                       # every position, one backward pass
    discrete_influence(score, score.ids, resample, samples=100)        # resample: nslab.noise.Resample(0, ...)
    text_stability(score, score.ids, resample, keep=[0.5, 0.9]).normalised

A function known at every point of a small space needs no sampling: `efron_stein_energies`, `energy_stability`.

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
from nslab.stability.embedding_noise import EmbeddingNoise
from nslab.stability.gradients import geometric_influence, geometric_influence_by_layer, smoothed_influence
from nslab.stability.measuring import StabilityEstimate, noise_stability
from nslab.stability.profiles import (
    Above,
    ProfileSummary,
    participation_ratio,
    position_profile,
    share_above,
    smallest_to_largest,
    summarise_profiles,
    tokens_holding,
)
from nslab.stability.prompt_stability import PromptStability
from nslab.stability.prompts import OverPrompts
from nslab.stability.replacement import TotalInfluence, discrete_influence, total_influence
from nslab.stability.spaces import Cube, GaussianSpace, Space, Tokens
from nslab.stability.tabulated import efron_stein_energies, energy_sensitivity, energy_stability
from nslab.stability.tails import TailComparison, implied_degree, tail_comparison
from nslab.stability.text import embedding_stability, text_stability

__all__ = [
    "Above",
    "Cube",
    "EmbeddingNoise",
    "GaussianSpace",
    "OverPrompts",
    "ProfileSummary",
    "PromptStability",
    "Space",
    "StabilityEstimate",
    "TailBound",
    "TailComparison",
    "Tokens",
    "TotalInfluence",
    "average_sensitivity",
    "best_tail_bound",
    "concentration_degree",
    "discrete_influence",
    "efron_stein_energies",
    "embedding_stability",
    "energy_sensitivity",
    "energy_stability",
    "geometric_influence",
    "geometric_influence_by_layer",
    "gradient_energy",
    "implied_degree",
    "influences",
    "markov_bound",
    "noise_stability",
    "participation_ratio",
    "position_profile",
    "share_above",
    "smallest_to_largest",
    "smoothed_influence",
    "spectral_tail_bound",
    "summarise_profiles",
    "tail_bound",
    "tail_comparison",
    "text_stability",
    "tokens_holding",
    "total_influence",
]

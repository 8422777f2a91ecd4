"""A token that explains itself: causal attention as a probabilistic model of its own embeddings, and its barrier.

    from nslab import barrier, zoo
    found = barrier.margins(zoo.load("char-gpt"), "To be, or not to be")  # which tokens are support tokens, by head
    blocks = barrier.jacobian_blocks(u, scores)                           # J_i = I - Sigma_i A of your embeddings
    weight, penalty = barrier.head_regulariser(0.5)                       # keeps a training away from the boundary

The model is u_i = mu_i(u) + noise, where mu_i is what token i reads with its own query. From embeddings to noise it is
a change of variables, and the logarithm of its Jacobian determinant is the barrier. What is known of arXiv 2602.22271
is its abstract, a post of its authors and a port's report; the rest is reconstructed, and each docstring says which.
"""

from nslab.barrier.blocks import full_jacobian, jacobian_blocks, null_vector, residuals, self_inclusive_factors
from nslab.barrier.density import DensityParts, density_parts, log_density
from nslab.barrier.embedding_prior import EmbeddingPrior, PriorReport, prior_regulariser
from nslab.barrier.energy import hopfield_energy, hopfield_gradient, hopfield_hessian
from nslab.barrier.head_barrier import HeadBarrier, head_regulariser
from nslab.barrier.heads import (
    HeadStage,
    cross_covariances,
    head_blocks,
    head_spectral_margins,
    head_traces,
    joint_head_blocks,
    whole_blocks,
)
from nslab.barrier.magnet import (
    critical_noise,
    expected_preimages,
    fixed_point_iterations,
    fold_points,
    magnet_density,
    magnet_determinant,
    magnet_mean,
    solutions,
    sweep,
)
from nslab.barrier.matrix_free import covariance_products, first_order
from nslab.barrier.moments import CausalMoments, causal_moments, score_matrix
from nslab.barrier.norm_path import layer_norm_jacobian, rms_norm_jacobian
from nslab.barrier.penalty_shapes import margin_penalty
from nslab.barrier.process import (
    AttentionWords,
    JointSample,
    consistency_gap,
    consistent_for_every_past,
    next_token_area,
    sample_process,
    solve_token,
    word_law,
)
from nslab.barrier.real_heads import Watched, stages, watching
from nslab.barrier.stability_margins import (
    BlockMargins,
    NoiseGain,
    block_margins,
    certified_radius,
    diameter,
    eigen_margin,
    noise_gain,
    safe_temperature,
    sequence_margin,
    support_tokens,
)
from nslab.barrier.text_margins import SupportToken, TextMargins, margins, rank_agreement
from nslab.barrier.two_tokens import Slab, slab, slab_determinant

__all__ = [
    "AttentionWords",
    "BlockMargins",
    "CausalMoments",
    "DensityParts",
    "EmbeddingPrior",
    "HeadBarrier",
    "HeadStage",
    "JointSample",
    "NoiseGain",
    "PriorReport",
    "Slab",
    "SupportToken",
    "TextMargins",
    "Watched",
    "block_margins",
    "causal_moments",
    "certified_radius",
    "consistency_gap",
    "consistent_for_every_past",
    "covariance_products",
    "critical_noise",
    "cross_covariances",
    "density_parts",
    "diameter",
    "eigen_margin",
    "expected_preimages",
    "first_order",
    "fixed_point_iterations",
    "fold_points",
    "full_jacobian",
    "head_blocks",
    "head_regulariser",
    "head_spectral_margins",
    "head_traces",
    "hopfield_energy",
    "hopfield_gradient",
    "hopfield_hessian",
    "jacobian_blocks",
    "joint_head_blocks",
    "layer_norm_jacobian",
    "log_density",
    "magnet_density",
    "magnet_determinant",
    "magnet_mean",
    "margin_penalty",
    "margins",
    "next_token_area",
    "noise_gain",
    "null_vector",
    "prior_regulariser",
    "rank_agreement",
    "residuals",
    "rms_norm_jacobian",
    "safe_temperature",
    "sample_process",
    "score_matrix",
    "self_inclusive_factors",
    "sequence_margin",
    "slab",
    "slab_determinant",
    "solutions",
    "solve_token",
    "stages",
    "support_tokens",
    "sweep",
    "watching",
    "whole_blocks",
    "word_law",
]

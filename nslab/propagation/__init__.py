"""What one layer, and many, do to the correlation of two runs of a network: on an input, and on its noisy twin.

    from nslab.propagation import Architecture, Moments, propagate, simulate
    network = Architecture(tokens=16, width=512, layers=6, residual="scaled")
    propagate(Moments.inputs(torch.linspace(0, 1, 101)), network).correlation      # (7, 101)
    simulate(network, rho=[0.7], inputs=8, generator=generator)                     # the same, measured

One layer: `relu_step` and `activation_moment` for activations, `plurality_agreement` and `agreement_mass` for the votes
of attention, `attention_stability` for a whole attention layer. Depth: `propagate`, with a causal mask
`propagate_causal`, and with guarantees `propagate_intervals`. Real networks: `measure` and `measure_layers`.
"""

from nslab.propagation.activations import ACTIVATIONS, activation, activation_gain, activation_moment
from nslab.propagation.agreement_table import AgreementTable
from nslab.propagation.architecture import Architecture
from nslab.propagation.attention_layer import (
    AttentionMeasurement,
    attention_agreement,
    attention_stability,
    distinct_share,
    measure_attention,
)
from nslab.propagation.causal import CausalMoments, propagate_causal
from nslab.propagation.damage import Damage, layer_damage
from nslab.propagation.depth_maps import fixed_point, he_distance, rate, relu_depth, relu_step
from nslab.propagation.intervals import MomentIntervals, almost_sure_interval, propagate_intervals
from nslab.propagation.measuring import measure, measure_layers
from nslab.propagation.moments import Moments
from nslab.propagation.random_networks import simulate
from nslab.propagation.recursion import Masses, attention_masses, propagate
from nslab.propagation.results import AgreementMass, MeasuredMoments, Measurement, moments_between
from nslab.propagation.soft_votes import agreement_mass
from nslab.propagation.votes import expected_maximum, large_vote_exponent, plurality_agreement, small_correlation_slope

__all__ = [
    "ACTIVATIONS",
    "AgreementMass",
    "AgreementTable",
    "Architecture",
    "AttentionMeasurement",
    "CausalMoments",
    "Damage",
    "Masses",
    "MeasuredMoments",
    "Measurement",
    "MomentIntervals",
    "Moments",
    "activation",
    "activation_gain",
    "activation_moment",
    "agreement_mass",
    "almost_sure_interval",
    "attention_agreement",
    "attention_masses",
    "attention_stability",
    "distinct_share",
    "expected_maximum",
    "fixed_point",
    "he_distance",
    "large_vote_exponent",
    "layer_damage",
    "measure",
    "measure_attention",
    "measure_layers",
    "moments_between",
    "plurality_agreement",
    "propagate",
    "propagate_causal",
    "propagate_intervals",
    "rate",
    "relu_depth",
    "relu_step",
    "simulate",
    "small_correlation_slope",
]

"""Which layer kills stability: derivatives against finite differences and against what they must be."""

import dataclasses

import pytest
import torch

from nslab.propagation.architecture import Architecture
from nslab.propagation.damage import layer_damage
from nslab.propagation.moments import Moments
from nslab.propagation.recursion import propagate

RHO = torch.tensor([0.2, 0.6, 0.9], dtype=torch.float64)
SHAPE = Architecture(8, 64, 3, residual="scaled", norm="rms", gain=0.9, score_scale=0.5)
STEP = 1e-5
TOLERANCES = {
    "difference": 1e-7,
    "exact": 1e-12,
    "single": 1e-3,
}  # the map is evaluated to 1e-16 and its third derivatives are < 100


def one_layer(state, **changes):
    return propagate(state, dataclasses.replace(SHAPE, layers=1, **changes))[1]


def run(noise=None, share=0.0, **changes):
    """Twin: layer by layer; `share` of noise before layer `noise`, or settings of one layer, (layer, {name: value})."""
    layer, setting = changes.get("changed", (None, {}))
    state = Moments.inputs(RHO)
    for number in range(SHAPE.layers + 1):
        if number == noise:
            state = Moments((1 - share) * state.m, (1 - share) * state.o, state.q, state.p)
        if number < SHAPE.layers:
            state = one_layer(state, **(setting if number == layer else {}))
    return state.correlation


def test_noise_before_each_layer_costs_what_a_finite_difference_says():
    damage = layer_damage(Moments.inputs(RHO), SHAPE).noise
    assert damage.shape == (4, 3)
    for layer in range(4):
        slope = -(run(layer, STEP) - run(layer, -STEP)) / (2 * STEP)
        assert (damage[layer] - slope).abs().max() < TOLERANCES["difference"]


@pytest.mark.parametrize("name", ["gain", "score_scale"])
def test_settings_of_each_layer_matter_as_a_finite_difference_says(name):
    slopes = getattr(layer_damage(Moments.inputs(RHO), SHAPE), name)
    assert slopes.shape == (3, 3)
    for layer in range(3):
        up, down = (run(changed=(layer, {name: getattr(SHAPE, name) + sign * STEP})) for sign in (1, -1))
        assert (slopes[layer] - (up - down) / (2 * STEP)).abs().max() < TOLERANCES["difference"]


def test_noise_at_the_output_costs_the_correlation_itself():
    state = Moments.inputs(RHO)
    damage = layer_damage(state, SHAPE).noise
    assert (damage[-1] - propagate(state, SHAPE).correlation[-1]).abs().max() < TOLERANCES["exact"]


@pytest.mark.parametrize("choice", [{}, {"scores": "identity"}, {"mlp": "gelu"}], ids=str)
def test_single_precision_loses_no_slope_where_both_runs_are_one(choice):
    """At rho = 1 rounding leaves correlations beyond 1; cut back, they still have their slope."""
    shape = Architecture(4, 64, 3, **choice)
    double, single = (
        layer_damage(Moments.inputs(torch.ones(3, dtype=dtype)), shape) for dtype in (RHO.dtype, torch.float32)
    )
    assert (single.noise / double.noise - 1).abs().max() < TOLERANCES["single"]


def test_a_gain_cannot_matter_where_every_map_is_homogeneous():
    damage = layer_damage(Moments.inputs(RHO), Architecture(8, 64, 3))
    assert damage.gain.abs().max() < TOLERANCES["exact"]
    assert damage.score_scale.abs().max() > 1e-3


def test_relu_layers_heal_so_early_noise_costs_less_than_late_noise():
    damage = layer_damage(Moments.inputs(RHO), Architecture(8, 512, 5, scores="identity")).noise
    assert bool((damage.diff(dim=0) > 0).all())


def test_scores_that_do_not_vote_have_no_score_scale():
    damage = layer_damage(Moments.inputs(RHO), Architecture(8, 64, 2, scores="uniform"))
    assert not damage.score_scale.any()


def test_nothing_is_left_attached_and_gradient_mode_does_not_matter():
    state = Moments.inputs(RHO.clone().requires_grad_())
    with torch.no_grad():
        damage = layer_damage(state, SHAPE)
    assert not damage.noise.requires_grad
    assert damage.noise.equal(layer_damage(state, SHAPE).noise)


def test_a_masked_network_is_refused():
    with pytest.raises(ValueError, match="attention without a mask only"):
        layer_damage(Moments.inputs(0.5), Architecture(4, 64, 1, causal=True))

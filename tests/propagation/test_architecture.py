"""What kind of network: defaults, and the refusal of networks that do not exist."""

import math

import pytest

from nslab.propagation.activations import ACTIVATIONS
from nslab.propagation.architecture import MLPS, Architecture


def test_the_defaults_are_the_papers_network():
    shape = Architecture(tokens=16, width=512, layers=5)
    assert (shape.scores, shape.score_scale, shape.gain) == ("random", 1.0, 1.0)
    assert (shape.residual, shape.norm, shape.mlp, shape.causal) == ("none", "none", "relu", False)
    assert shape == Architecture(16, 512, 5)
    assert hash(shape) == hash(Architecture(16, 512, 5))


def test_every_named_activation_may_stand_in_the_mlp():
    assert set(MLPS) == {*ACTIVATIONS, "none"}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"scores": "low-rank"}, "scores = 'low-rank' is unknown: choose from random, identity, uniform"),
        ({"residual": "post"}, "choose from none, scaled, pre-norm"),
        ({"norm": "batch"}, "choose from none, rms, layer"),
        ({"mlp": "swish"}, "choose from relu, gelu, silu, tanh, linear, quadratic, none"),
        ({"residual": "pre-norm"}, "choose norm 'rms' or 'layer'"),
        ({"tokens": 0}, "tokens = 0: give an integer of at least 1"),
        ({"layers": -1}, "layers = -1"),
        ({"gain": -0.5}, "gain = -0.5: give a finite number, 0 or more"),
        ({"score_scale": math.nan}, "score_scale = nan"),
    ],
)
def test_networks_that_do_not_exist_are_refused_with_what_does(wrong, message):
    with pytest.raises(ValueError, match=message):
        Architecture(**{"tokens": 4, "width": 8, "layers": 1} | wrong)


def test_a_misspelt_choice_is_refused():
    with pytest.raises(TypeError, match="residuals"):
        Architecture(4, 8, 1, residuals="scaled")

"""`run` and `trace`: every intermediate is what its name says, and none of them changes the output."""

import math

import pytest
import torch
from torch.nn import functional as F

from nslab.transformer import TransformerConfig

SHAPES = [
    {},
    {"norm": "rms", "positions": "rotary", "activation": "relu", "tied": False},
    {"norm": "none", "positions": "none", "activation": "quadratic", "causal": False, "layers": 1},
]


def close(a, b, tolerance=1e-12):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("shape", SHAPES)
def test_looking_changes_neither_the_output_nor_its_gradient(network, prompts, device, shape):
    model, ids = network(device, **shape), prompts(device=device)
    plain = model(ids)
    for names in (model.names(), ["final"], ["layers.0.mlp.hidden"], []):
        output, seen = model.run(ids, names)
        assert list(seen) == names
        close(output, plain)
    output, _ = model.run(ids, model.names())
    weights = list(model.parameters())
    ours, twin = (torch.autograd.grad(out.square().mean(), weights) for out in (output, plain))
    for one, other in zip(ours, twin, strict=True):
        close(one, other, 1e-10)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_last_residual_is_the_sum_of_all_that_was_added(network, prompts, shape):
    model, ids = network(**shape), prompts()
    last = model.config.layers
    _, seen = model.run(ids, model.names())
    total = seen["layers.0.residual"]
    for layer in range(last):
        total = total + seen[f"layers.{layer}.attention.output"]
        close(total, seen[f"layers.{layer}.middle"], 1e-10)
        total = total + seen[f"layers.{layer}.mlp.output"]
        close(total, seen[f"layers.{layer + 1}.residual"], 1e-10)
    positions = 0 if model.positions is None else model.positions.weight[:9]
    close(seen["layers.0.residual"], seen["embedding"] + positions)


@pytest.mark.parametrize("shape", SHAPES)
def test_each_part_of_a_layer_follows_from_the_one_before(network, prompts, shape):
    model, ids = network(**shape), prompts()
    _, seen = model.run(ids, model.names())
    layer, part = model.layers[0], lambda name: seen[f"layers.0.{name}"]
    queries = part("attention.query"), part("attention.key")
    scores = queries[0] @ queries[1].mT / math.sqrt(12 / 3)
    visible = torch.ones(9, 9, dtype=torch.bool).tril() if model.config.causal else torch.ones(9, 9, dtype=torch.bool)
    close(part("attention.scores")[..., visible], scores[..., visible])
    close(part("attention.weights"), part("attention.scores").softmax(-1))
    close(part("attention.heads"), part("attention.weights") @ part("attention.value"))
    joined = part("attention.heads").transpose(1, 2).reshape(4, 9, 12)
    close(part("attention.output"), joined @ layer.attention.output.weight.T + layer.attention.output.bias)
    close(part("mlp.preactivation"), part("mlp.input") @ layer.mlp.input.weight.T + layer.mlp.input.bias)
    x = part("mlp.preactivation")
    normal_law = torch.distributions.Normal(torch.zeros((), dtype=x.dtype), 1)
    by_hand = {"gelu": x * normal_law.cdf(x), "relu": (x + x.abs()) / 2, "quadratic": x * x}
    close(part("mlp.hidden"), by_hand[model.config.activation])
    close(part("mlp.output"), part("mlp.hidden") @ layer.mlp.output.weight.T + layer.mlp.output.bias)


@pytest.mark.parametrize("norm", ["layer", "rms", "none"])
def test_norms_are_their_formulas(network, prompts, norm):
    model = network(norm=norm, epsilon=1e-3)
    _, seen = model.run(prompts(), ["layers.1.residual", "layers.1.attention.input"])
    x, found = seen.values()
    weights = model.layers[1].attention_norm
    by_hand = {
        "layer": lambda: (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + 1e-3).sqrt(),
        "rms": lambda: x / (x.square().mean(-1, keepdim=True) + 1e-3).sqrt(),
        "none": lambda: x,
    }[norm]()
    scaled = {
        "layer": lambda: by_hand * weights.weight + weights.bias,
        "rms": lambda: by_hand * weights.weight,
        "none": lambda: by_hand,
    }[norm]()
    close(found, scaled)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_gradient_by_a_traced_state_is_that_of_the_rest_of_the_network(network, prompts, device, shape):
    """Twin: cut the network at layer l, enter there, differentiate."""
    model, ids = network(device, **shape), prompts(device=device)
    at = torch.tensor([8, 0, 3, 5], device=device)
    output, hidden = model.trace(model.embed(ids), at)
    assert len(hidden) == model.config.layers + 1
    close(output, model(ids, at))
    gradients = torch.autograd.grad(output.square().sum(), hidden)
    matrix = model.tokens.weight if model.output is None else model.output.weight
    for number, (state, found) in enumerate(zip(hidden, gradients, strict=True)):
        x = entry = state.detach().requires_grad_()
        for layer in model.layers[number:]:
            x = layer(x)
        rest = F.linear(model.final_norm(x), matrix)[torch.arange(4, device=device), at]
        (expected,) = torch.autograd.grad(rest.square().sum(), entry)
        close(found, expected, 1e-10)


def test_traced_states_are_the_residual_stream_by_name(network, prompts):
    model, ids = network(), prompts()
    _, hidden = model.trace(model.embed(ids))
    _, seen = model.run(ids, [f"layers.{number}.residual" for number in range(4)])
    for state, named in zip(hidden, seen.values(), strict=True):
        close(state, named)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_look_is_the_trace_with_the_weights_of_every_head(network, prompts, device, shape):
    model, ids = network(device, **shape), prompts(device=device)
    at = torch.tensor([8, 0, 3, 5], device=device)
    output, hidden, weights = model.look(model.embed(ids), at)
    plain, states = model.trace(model.embed(ids), at)
    close(output, plain)
    for state, found in zip(states, hidden, strict=True):
        close(found, state)
    names = [f"layers.{layer}.attention.weights" for layer in range(model.config.layers)]
    for found, named in zip(weights, model.run(ids, names)[1].values(), strict=True):
        assert found.shape == (4, 3, 9, 9)
        close(found, named)
    assert torch.autograd.grad(output.sum(), weights[-1])[0].abs().sum() > 0


def test_the_final_state_at_a_position_goes_with_the_output_there(network, prompts):
    model, ids, at = network(), prompts(), torch.tensor([1, 2, 3, 4])
    output, seen = model.run(ids, ["final", "layers.3.residual"], at)
    assert seen["final"].shape == (4, 12)
    assert seen["layers.3.residual"].shape == (4, 9, 12)
    close(output, seen["final"] @ model.tokens.weight.T)


def test_names_of_a_layer_do_not_run_into_those_of_another(network, prompts):
    model = network(layers=11, width=6)
    _, seen = model.run(prompts(), ["layers.1.residual", "layers.11.residual", "layers.10.mlp.output"])
    _, hidden = model.trace(model.embed(prompts()))
    close(seen["layers.1.residual"], hidden[1])
    close(seen["layers.11.residual"], hidden[11])
    assert TransformerConfig(vocabulary=2, context=2, width=2, layers=1, heads=1).hidden_width == 8

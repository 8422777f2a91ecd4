"""What the structure promises: causality, symmetry, tying, entry at the embeddings, reading at one position."""

import pytest
import torch
from torch.func import functional_call, stack_module_state, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from nslab.protocols import Model, TokenModel
from nslab.transformer import CHAR_GPT, Transformer

SHAPES = [
    {},
    {"norm": "rms", "positions": "rotary", "activation": "relu", "tied": False, "bias": False},
    {"norm": "none", "positions": "none", "activation": "quadratic", "causal": False, "layers": 1},
    {"width": 30, "heads": 6, "outputs": 3, "tied": False},
]


def close(a, b, tolerance=1e-12):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_is_a_model_of_tokens_with_the_promised_outputs(network, prompts, device, shape):
    model, ids = network(device, **shape), prompts(device=device)
    assert isinstance(model, TokenModel)
    assert isinstance(model, Model)
    output = model(ids)
    assert output.shape == (4, 9, shape.get("outputs", 11))
    assert (output.dtype, output.device.type) == (torch.float64, device.type)
    assert bool(torch.isfinite(output).all())


@pytest.mark.parametrize("positions", ["learned", "rotary", "none"])
def test_a_causal_network_never_sees_the_future(network, prompts, device, positions):
    model, ids = network(device, positions=positions), prompts(device=device)
    changed = ids.clone()
    changed[:, 5:] = (ids[:, 5:] + 3) % 11
    before, after = model(ids), model(changed)
    close(after[:, :5], before[:, :5])
    assert bool(((after - before)[:, 5:].abs().amax(-1) > 1e-6).all())
    embeddings = model.embed(ids).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(model.from_embeddings(embeddings)[:, 4].square().sum(), embeddings)
    assert bool((gradient[:, 5:] == 0).all())
    assert bool((gradient[:, :5].abs().amax(-1) > 0).all())


def test_a_bidirectional_network_sees_everything(network, prompts):
    model, ids = network(causal=False), prompts()
    embeddings = model.embed(ids).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(model.from_embeddings(embeddings)[:, 0].square().sum(), embeddings)
    assert bool((gradient.abs().amax(-1) > 0).all())


def test_without_positions_and_mask_tokens_can_be_reordered(network, prompts, device):
    """Permutation equivariance: f(x P) = f(x) P. Positions, or a mask, break it."""
    order = torch.tensor([3, 0, 8, 1, 7, 2, 6, 4, 5], device=device)
    ids = prompts(device=device)
    blind = network(device, positions="none", causal=False)
    close(blind(ids[:, order]), blind(ids)[:, order])
    for shape in ({"positions": "none"}, {"causal": False}, {"causal": False, "positions": "rotary"}):
        model = network(device, **shape)
        assert (model(ids[:, order]) - model(ids)[:, order]).abs().max() > 1e-3


def test_rotary_positions_are_relative(network):
    """One token repeated: every query averages equal values, so rotary positions cannot be told from the output.

    Learned positions are added to the stream, and can.
    """
    ids = torch.full((1, 9), 4)
    rotary = network(positions="rotary")(ids)
    close(rotary, rotary[:, :1].expand_as(rotary))
    learned = network(positions="learned")(ids)
    assert (learned - learned[:, :1]).abs().max() > 1e-3


def test_scores_of_a_rotary_layer_depend_on_the_distance_only(network):
    model, ids = network(positions="rotary", causal=False), torch.full((1, 9), 4)
    _, seen = model.run(ids, ["layers.0.attention.scores"])
    scores = seen["layers.0.attention.scores"]
    close(scores[..., 1:, 1:], scores[..., :-1, :-1])
    assert (scores[..., 0, 0] - scores[..., 0, 1]).abs().max() > 1e-3


@pytest.mark.parametrize("shape", SHAPES)
def test_a_row_depends_on_its_prompt_only(network, prompts, shape):
    model, ids = network(**shape), prompts()
    close(model(ids)[1:2], model(ids[1:2]))


@pytest.mark.parametrize("shape", SHAPES)
def test_reading_at_one_position_is_slicing(network, prompts, device, shape):
    model, ids = network(device, **shape), prompts(device=device)
    at = torch.tensor([8, 0, 3, 3], device=device)
    rows = torch.arange(4, device=device)
    close(model(ids, at), model(ids)[rows, at])
    close(model(ids, at.int()), model(ids, at))


@pytest.mark.parametrize("shape", SHAPES)
def test_entering_at_the_embeddings_is_the_same_network(network, prompts, shape):
    model, ids, at = network(**shape), prompts(), torch.tensor([1, 2, 3, 4])
    assert torch.equal(model.from_embeddings(model.embed(ids)), model(ids))
    assert torch.equal(model.from_embeddings(model.embed(ids), at), model(ids, at))
    assert torch.equal(model.embed(ids), model.tokens.weight[ids])


def test_tied_weights_share_their_storage(network, prompts):
    tied, untied, ids = network(), network(tied=False), prompts()
    _, seen = tied.run(ids, ["final"])
    close(tied(ids), seen["final"] @ tied.tokens.weight.T)
    before = tied(ids), untied(ids)
    with torch.no_grad():
        for model in (tied, untied):
            model.tokens.weight[10 if 10 not in ids else int(ids.max())] += 1
    assert (tied(ids) - before[0]).abs().max() > 1e-3
    assert sum(w.numel() for w in untied.parameters()) - sum(w.numel() for w in tied.parameters()) == 11 * 12


def test_char_gpt_has_as_many_weights_as_counted_by_hand():
    width, hidden = 128, 512
    block = 2 * 2 * width + (width + 1) * 3 * width + (width + 1) * width + (width + 1) * hidden + (hidden + 1) * width
    total = 81 * width + 128 * width + 4 * block + 2 * width
    assert sum(weight.numel() for weight in Transformer(CHAR_GPT).parameters()) == total == 820_096


def test_second_derivatives_exist_where_the_weights_are_asked_for(network, prompts):
    """The fused path can be differentiated once; the explicit one twice."""
    model, ids = network(layers=1), prompts(length=4)
    names = ["embedding", "layers.0.attention.weights"]
    output, seen = model.run(ids, names)
    (gradient,) = torch.autograd.grad(output.square().sum(), seen["embedding"], create_graph=True)
    gradient.square().sum().backward()
    assert model.layers[0].attention.qkv.weight.grad.abs().max() > 0


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("training", [False, True])
def test_many_networks_can_be_run_at_once(network, prompts, shape, training):
    """Weights stacked and mapped over by `torch.func.vmap`, the ids shared, against one network after the other."""
    members, ids = [network(**shape).train(training) for _ in range(3)], prompts()
    with torch.no_grad():
        for number, model in enumerate(members):
            model.tokens.weight.add_(number)
    weights, _ = stack_module_state(members)
    with sdpa_kernel(SDPBackend.MATH):
        together = vmap(lambda weights: functional_call(members[0], weights, (ids,)))(weights)
    together.square().sum().backward()
    for number, model in enumerate(members):
        close(together[number], model(ids))
        (gradient,) = torch.autograd.grad(model(ids).square().sum(), model.tokens.weight)
        close(weights["tokens.weight"].grad[number], gradient, 1e-10)

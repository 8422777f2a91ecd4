"""The transformer from tables against the formula, pair by pair, and against nslab's Transformer over three positions.

That the module of a member has its values and gradients is in `test_pair_networks`, and in `test_ensemble`.
"""

import math

import pytest
import torch

from nslab.noise import Resample
from nslab.propagation import measure
from nslab.protocols import TokenModel
from nslab.stability import text_stability
from nslab.tasks import ModularArithmetic
from nslab.training.ensemble_settings import cross_entropy_each
from nslab.training.pair_networks import take_member
from nslab.training.table_transformer import TokenTableTransformer, _ReluHead
from nslab.transformer import Transformer
from tests.training.ensembles import NETWORKS, data_for, drawn

NETWORK = NETWORKS["transformer"]


@pytest.fixture
def weights():
    """Three members whose biases are not zero."""
    found = drawn(NETWORK, 3)
    generator = torch.Generator().manual_seed(9)
    for name in ("input_bias", "output_bias"):
        found[name] = torch.randn(found[name].shape, generator=generator, dtype=torch.float64)
    return found


def one_pair(w, a, b, equals, heads):
    """The formula for one member and one pair. Logits, what enters the hidden units, attention (heads, 3)."""
    stream = torch.stack([w["tokens"][token] + w["positions"][place] for place, token in enumerate((a, b, equals))])
    query, key, value = (stream @ w[name] for name in ("query", "key", "value"))
    size = query.shape[1] // heads
    read, shares = [], []
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        scores = [math.exp(query[2, part] @ key[place, part] / math.sqrt(size)) for place in range(3)]
        shares.append([score / sum(scores) for score in scores])
        read.append(sum(share * value[place, part] for place, share in enumerate(shares[-1])))
    r = stream[2] + torch.cat(read) @ w["projection"]
    hidden = r @ w["input"] + w["input_bias"]
    final = r + hidden.relu() @ w["output"] + w["output_bias"]
    return final @ w["logits"], hidden, torch.tensor(shares, dtype=torch.float64)


def test_call_and_look_are_the_formula(weights):
    x = data_for(NETWORK, 3)[0]
    logits, look = NETWORK(weights, x), NETWORK.look(weights, x)
    for member in range(3):
        w = take_member(weights, member)
        for row, (a, b) in enumerate(x[member].tolist()):
            expected = one_pair(w, a, b, NETWORK.task.modulus, NETWORK.heads)
            for found, one in zip((logits, look.hidden, look.attention), expected, strict=True):
                torch.testing.assert_close(found[member, row], one, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(look.logits, logits, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(look.attention.sum(-1), torch.ones(3, 24, 2).double(), rtol=1e-14, atol=0)


@pytest.mark.parametrize("operation", ["add", "divide"])
def test_what_is_seen_inside_is_inside_the_transformer(operation, device):
    """`look` against the parts of the module's `Transformer`, at the last of all three positions."""
    network = TokenTableTransformer(ModularArithmetic(7, operation), width=8, heads=2, hidden=12)
    weights, task = drawn(network, 2, device=device), network.task
    look = network.look(weights, task.pairs.to(device))
    for member in range(2):
        inside = network.module(take_member(weights, member)).network
        names = ["layers.0.attention.weights", "layers.0.mlp.preactivation"]
        output, seen = inside.run(task.prompts.to(device), names)
        torch.testing.assert_close(output[:, -1], look.logits[member], rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(seen[names[0]][:, :, -1], look.attention[member], rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(seen[names[1]][:, -1], look.hidden[member], rtol=1e-11, atol=1e-11)


def test_the_model_of_the_paper_has_its_number_of_weights():
    """226,816 at p = 113, d = 128, 4 heads, 512 hidden units; the module trains the same ones."""
    network = TokenTableTransformer(ModularArithmetic(113))
    weights = network.initial(torch.Generator().manual_seed(0))
    assert sum(weight.numel() for weight in weights.values()) == 226_816
    module = network.module(weights)
    assert sum(weight.numel() for weight in module.parameters() if weight.requires_grad) == 226_816
    for name, weight in weights.items():
        if name.endswith("bias"):
            assert not weight.any()
        else:
            expected = 1 / (114 if name == "logits" else 128)
            assert abs(weight.var().item() / expected - 1) < 4 * math.sqrt(2 / weight.numel())


def test_measures_of_models_take_the_module(weights):
    """It is a `TokenModel`: noise stability at prompts, and moments layer by layer, need nothing else."""
    inside = NETWORK.module(take_member(weights, 0)).network.eval()
    task = NETWORK.task
    assert isinstance(inside, Transformer)
    assert isinstance(inside, TokenModel)
    assert (inside.vocabulary, inside.context, inside.special) == (8, 3, (7,))
    torch.testing.assert_close(inside.from_embeddings(inside.embed(task.prompts)), inside(task.prompts))

    resample = Resample(0, vocabulary=inside.vocabulary, special=inside.special)
    probabilities = lambda ids: inside(ids)[:, -1, :7].softmax(-1)  # noqa: E731
    found = text_stability(probabilities, task.prompts, resample, keep=[0.5, 1.0], generator=torch.Generator().manual_seed(0), twins=200)  # noqa: E501 # fmt: skip
    table = probabilities(task.prompts).view(7, 7, 7)  # (a, b, outputs): "=" is special and stays
    rows, columns, mean = table.mean(1), table.mean(0), table.mean((0, 1))
    exact = (table.square().sum() / 49 + rows.square().sum() / 7 + columns.square().sum() / 7 + mean.square().sum()) / 4
    assert abs(found.raw.value[0] - exact) < 0.003  # 49 prompts, each once, with 200 twins
    torch.testing.assert_close(found.raw.value[1], table.square().sum() / 49)

    found = measure(inside, inside.embed(task.prompts), [0.5, 1.0], weights=True)
    torch.testing.assert_close(found.moments.m[..., 1], found.moments.q[..., 1])  # the twin at rho = 1 is the prompt
    assert (found.moments.m[..., 0] < found.moments.q[..., 0]).all()
    attention = inside.run(task.prompts, ["layers.0.attention.weights"])[1]["layers.0.attention.weights"]
    torch.testing.assert_close(found.agreement.s_a[:, 0, :, 1], attention.square().sum(-1).mean(-1))
    assert found.agreement.s_a.shape == (49, 1, 2, 2)


def test_gradients_of_the_head():
    generator = torch.Generator().manual_seed(2)
    shapes = ((2, 5, 4), (2, 4, 6), (2, 4, 3), (2, 6, 3))
    inputs = [torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True) for shape in shapes]
    assert torch.autograd.gradcheck(_ReluHead.apply, inputs)
    z, into, direct, outer = inputs
    torch.testing.assert_close(_ReluHead.apply(*inputs), z @ direct + (z @ into).relu() @ outer)


def test_gradients_of_the_whole(weights):
    """Finite differences of the loss in each weight."""
    x, y = data_for(NETWORK, 3, rows=6)
    loss = lambda *parts: cross_entropy_each(NETWORK(dict(zip(weights, parts, strict=True)), x), y)  # noqa: E731
    parts = [weight.requires_grad_() for weight in weights.values()]
    assert torch.autograd.gradcheck(loss, parts, fast_mode=True)


def test_two_backward_passes_give_the_same(weights):
    """Nothing that is kept for the backward pass is overwritten by it."""
    parts = [weight.requires_grad_() for weight in weights.values()]
    total = NETWORK(weights, data_for(NETWORK, 3)[0]).square().sum()
    first = torch.autograd.grad(total, parts, retain_graph=True)
    second = torch.autograd.grad(total, parts)
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def test_a_second_derivative_is_refused(weights):
    """The call can be differentiated once, as its docstring says; `look` and the module more often."""
    x = data_for(NETWORK, 3)[0]
    tokens = weights["tokens"].requires_grad_()
    (slope,) = torch.autograd.grad(NETWORK(weights, x).square().sum(), tokens, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        slope.sum().backward()
    (slope,) = torch.autograd.grad(NETWORK.look(weights, x).logits.square().sum(), tokens, create_graph=True)
    slope.square().sum().backward()
    assert tokens.grad.isfinite().all()


def test_a_width_that_heads_do_not_share_is_refused():
    with pytest.raises(ValueError, match="heads is 4 and width 10: make the width a multiple"):
        TokenTableTransformer(ModularArithmetic(7), width=10, heads=4)

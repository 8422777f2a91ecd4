"""The ReLU network against its formula, nn.Linear's law and a parity solved by hand. Its module: test_pair_networks."""

import itertools

import pytest
import torch
from torch import nn

from nslab.training.ensemble_settings import hinge_each
from nslab.training.parity_networks import ReluNetwork
from tests.training.ensembles import data_for, drawn


def test_scores_are_the_formula():
    """f(x) = sum_j u_j max(0, sum_i x_i W_ij + b_j) + c, number by number."""
    network = ReluNetwork(4, 3)
    weights, x = drawn(network, 2), data_for(network, 2, rows=5)[0]
    found = network(weights, x)
    for member, row in itertools.product(range(2), range(5)):
        matrix, bias, out, constant = (weights[name][member].tolist() for name in ("input", "input_bias", "output", "output_bias"))  # noqa: E501 # fmt: skip
        bits = x[member, row].tolist()
        score = constant
        for j in range(3):
            score += out[j] * max(0.0, sum(bit * line[j] for bit, line in zip(bits, matrix, strict=True)) + bias[j])
        assert abs(found[member, row].item() - score) < 1e-14


def test_two_units_solve_the_parity_of_two_bits():
    """|x_1 + x_2| - 1 is x_1 x_2, and |s| is ReLU(s) + ReLU(-s); the other bits are not read."""
    network = ReluNetwork(4, 2)
    matrix = torch.zeros(4, 2)
    matrix[[0, 2]] = torch.tensor([1.0, -1.0])
    weights = {
        "input": matrix,
        "input_bias": torch.zeros(2),
        "output": torch.ones(2),
        "output_bias": torch.tensor(-1.0),
    }
    x = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=4)))
    expected = x[:, 0] * x[:, 2]
    scores = network({name: weight[None] for name, weight in weights.items()}, x)
    assert torch.equal(scores[0], expected)
    assert torch.equal(network.module(weights)(x), expected)
    assert hinge_each(scores, expected).tolist() == [0.0]


def test_initial_weights_have_the_law_of_linear_layers():
    """Uniform on ±1/sqrt(inputs): the same bounds, mean squares of a third of their square, as in nn.Linear."""
    network = ReluNetwork(49, 400)
    weights = network.initial(torch.Generator().manual_seed(0))
    assert {name: tuple(weight.shape) for name, weight in weights.items()} == {
        "input": (49, 400),
        "input_bias": (400,),
        "output": (400,),
        "output_bias": (),
    }
    torch.manual_seed(0)
    for names, linear in (
        (("input", "input_bias"), nn.Linear(49, 400)),
        (("output", "output_bias"), nn.Linear(400, 1)),
    ):
        reach = linear.in_features**-0.5
        for name, theirs in zip(names, (linear.weight, linear.bias), strict=True):
            ours = weights[name]
            assert ours.abs().max() <= reach
            assert theirs.abs().max() <= reach * (1 + 1e-6)
            if ours.numel() > 1:  # E w^4 - (E w^2)^2 = 4/45
                deviation = (4 / 45 / ours.numel()) ** 0.5
                assert abs((ours / reach).square().mean() - 1 / 3) < 4 * deviation
                assert abs((theirs / reach).square().mean() - 1 / 3) < 4 * deviation
                assert abs((ours / reach).mean()) < 4 * (3 * ours.numel()) ** -0.5
    again = network.initial(torch.Generator().manual_seed(0))
    assert all(torch.equal(weight, again[name]) for name, weight in weights.items())


@pytest.mark.parametrize("name", ["input", "input_bias", "output", "output_bias"])
def test_gradients_of_each_weight(name):
    network = ReluNetwork(4, 5)
    weights, (x, y) = drawn(network, 2), data_for(network, 2)
    loss = lambda weight: hinge_each(network(weights | {name: weight}, x), y)  # noqa: E731
    assert torch.autograd.gradcheck(loss, weights[name].requires_grad_())

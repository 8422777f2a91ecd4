"""The quadratic network against its formula, its plain module, and weights that solve addition by design."""

import itertools
import math

import pytest
import torch

from nslab.tasks import ModularArithmetic
from nslab.training.ensemble_settings import cross_entropy_each
from nslab.training.pair_networks import (
    EnsembleNetwork,
    QuadraticNetwork,
    normal_weights,
    rows_of,
    stack_members,
    take_member,
)
from nslab.training.parity_networks import ReluNetwork
from nslab.training.table_transformer import TokenTableTransformer
from tests.training.ensembles import NETWORKS, data_for, drawn

OPERATIONS = ("add", "subtract", "multiply", "divide")
EXACT = 1e-12


@pytest.mark.parametrize("operation", OPERATIONS)
def test_logits_are_squares_of_sums(operation):
    """logits[c] = sum_j (A[a, j] + B[b, j])^2 U[j, c]; B has no row for b = 0 in division."""
    network = QuadraticNetwork(ModularArithmetic(5, operation), 3)
    weights = drawn(network, 2)
    found = network(weights, network.task.pairs)
    smallest = int(operation == "divide")
    for member in range(2):
        table = {name: weight[member].tolist() for name, weight in weights.items()}
        for row, (a, b) in enumerate(network.task.pairs.tolist()):
            hidden = [table["first"][a][j] + table["second"][b - smallest][j] for j in range(3)]
            for c in range(5):
                expected = sum(hidden[j] ** 2 * table["output"][j][c] for j in range(3))
                assert math.isclose(found[member, row, c].item(), expected, rel_tol=EXACT, abs_tol=EXACT)


@pytest.mark.parametrize("modulus", [5, 6, 7])
def test_cosines_solve_addition(modulus):
    """Units cos(k a + s) + cos(k b + t), outputs cos(k c + s + t), phases in quarter turns: p [c = a + b] - 1.

    Over the phases, (cos x + cos y)^2 cos z leaves only cos(x + y - z) / 2; over the frequencies k that is the answer.
    """
    units = list(itertools.product(range(1, modulus), range(4), range(4)))
    network = QuadraticNetwork(ModularArithmetic(modulus), len(units))
    residues = torch.arange(modulus, dtype=torch.float64)[:, None]
    k, s, t = torch.tensor(units, dtype=torch.float64).T
    s, t = s * math.pi / 2, t * math.pi / 2
    angles = 2 * math.pi * residues * k / modulus
    weights = {"first": (angles + s).cos(), "second": (angles + t).cos(), "output": (angles + s + t).cos().T / 8}
    logits = network({name: weight[None] for name, weight in weights.items()}, network.task.pairs)[0]
    right = torch.zeros(modulus**2, modulus, dtype=torch.float64)
    right[torch.arange(modulus**2), network.task.labels] = 1
    torch.testing.assert_close(logits, modulus * right - 1, rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_module_of_a_member_is_the_member(name, device):
    """Values, and gradients with respect to all weights, at rows shared by all and at rows of each."""
    network = NETWORKS[name]
    for shared in (False, True):
        weights = {key: weight.requires_grad_() for key, weight in drawn(network, 3, device=device).items()}
        x = data_for(network, 3)[0].to(device)
        outputs = network(weights, x[0] if shared else x)
        towards = torch.randn(outputs.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(device)
        (outputs * towards).sum().backward()
        for member in range(3):
            module = network.module(take_member(weights, member))
            found = module(x[0 if shared else member])
            (found * towards[member]).sum().backward()
            torch.testing.assert_close(outputs[member], found, rtol=EXACT, atol=EXACT)
            gradients = network.module({key: weight.grad[member] for key, weight in weights.items()})
            pairs = zip(gradients.parameters(), module.parameters(), strict=True)
            for ours, theirs in ((one.detach(), other.grad) for one, other in pairs if other.requires_grad):
                torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", NETWORKS)
def test_modules_stand_on_their_own(name, dtype):
    """They keep dtype, share nothing with the ensemble, and making one draws nothing from the global generator."""
    network = NETWORKS[name]
    weights = drawn(network, 2, dtype)
    before, state = network(weights, data_for(network, 2, dtype)[0]), torch.random.get_rng_state()
    module = network.module(take_member(weights, 1))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert {weight.dtype for weight in module.parameters()} == {dtype}
    with torch.no_grad():
        for weight in module.parameters():
            weight.zero_()
    assert torch.equal(network(weights, data_for(network, 2, dtype)[0]), before)


@pytest.mark.parametrize("name", NETWORKS)
def test_members_do_not_mix(name, device):
    """A member's outputs are the same alone; NaN in another one stays there, in outputs and gradients."""
    network = NETWORKS[name]
    weights, x = drawn(network, 3, device=device), data_for(network, 3)[0].to(device)
    outputs = network(weights, x)
    for member in range(3):
        only = network({key: weight[member : member + 1] for key, weight in weights.items()}, x[member : member + 1])
        torch.testing.assert_close(only[0], outputs[member], rtol=EXACT, atol=EXACT)
    spoilt = {key: weight.clone().index_fill_(0, torch.tensor([1], device=device), torch.nan).requires_grad_() for key, weight in weights.items()}  # noqa: E501 # fmt: skip
    found = network(spoilt, x)
    found.square().flatten(1).mean(1).sum().backward()
    assert found.isfinite().flatten(1).all(1).tolist() == [True, False, True]
    for weight in spoilt.values():
        assert weight.grad[[0, 2]].isfinite().all()


@pytest.mark.parametrize("name", ["quadratic", "quadratic, divide"])
def test_look_is_the_call_with_what_is_before_the_squares(name):
    network = NETWORKS[name]
    weights, x = drawn(network, 3), data_for(network, 3)[0]
    look = network.look(weights, x)
    assert torch.equal(look.logits, network(weights, x))
    assert look.attention is None
    torch.testing.assert_close(look.hidden.square() @ weights["output"], look.logits)
    smallest = network.task.outputs - network.task.shape[1]
    a, b = x[2, 5].tolist()
    assert torch.equal(look.hidden[2, 5], weights["first"][2, a] + weights["second"][2, b - smallest])


def test_gradients_of_the_quadratic_network():
    network = NETWORKS["quadratic, divide"]
    weights, (x, y) = drawn(network, 2), data_for(network, 2)
    loss = lambda *parts: cross_entropy_each(network(dict(zip(weights, parts, strict=True)), x), y)  # noqa: E731
    assert torch.autograd.gradcheck(loss, [weight.requires_grad_() for weight in weights.values()])


def test_rows_of_tables_and_their_gradient(device):
    """Row ids[m, i] of member m's own table; the gradient adds up where an id comes twice."""
    table = torch.randn(3, 5, 2, dtype=torch.float64, device=device, requires_grad=True)
    for ids in (torch.tensor([4, 0, 4, 2], device=device), torch.randint(5, (3, 4), device=device)):
        table.grad = None
        found = rows_of(table, ids)
        every = ids.expand(3, 4)
        assert torch.equal(found, torch.stack([table[member][every[member]] for member in range(3)]))
        found.square().sum().backward()
        expected = torch.zeros_like(table)
        for member, row in itertools.product(range(3), range(4)):
            expected[member, every[member, row]] += 2 * table.detach()[member, every[member, row]]
        torch.testing.assert_close(table.grad, expected, rtol=EXACT, atol=EXACT)


def spread(weight, expected):
    """Standard deviations of a sample variance from that of the normal law."""
    return abs(weight.var().item() / expected**2 - 1) / math.sqrt(2 / weight.numel())


def test_initial_weights_have_their_law():
    """Variance 1/8 in the tables, 1/m in the output: logits of about unit size for each m."""
    network = QuadraticNetwork(ModularArithmetic(31), 200)
    weights = network.initial(torch.Generator().manual_seed(3))
    assert {name: tuple(weight.shape) for name, weight in weights.items()} == {"first": (31, 200), "second": (31, 200), "output": (200, 31)}  # noqa: E501 # fmt: skip
    for name, expected in (("first", 8**-0.5), ("second", 8**-0.5), ("output", 200**-0.5)):
        assert spread(weights[name], expected) < 4
        assert abs(weights[name].mean().item()) < 4 * expected / weights[name].numel() ** 0.5
    again = network.initial(torch.Generator().manual_seed(3))
    assert all(torch.equal(weight, again[name]) for name, weight in weights.items())
    assert not torch.equal(weights["first"], network.initial(torch.Generator().manual_seed(4))["first"])


def test_weights_are_drawn_one_after_the_other():
    """In the order of the shapes, so that a new weight at the end changes none before it; a spread of 0 gives zeros."""
    shapes = {"one": (3, 2), "two": (4,), "three": (2,)}
    found = normal_weights(shapes, {"one": 2.0, "two": 0.5, "three": 0}, torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(0)
    assert torch.equal(found["one"], 2 * torch.randn(3, 2, generator=generator))
    assert torch.equal(found["two"], 0.5 * torch.randn(4, generator=generator))
    assert found["three"].tolist() == [0, 0]


def test_stacking_and_taking_are_inverse():
    members = [NETWORKS["parity"].initial(torch.Generator().manual_seed(seed)) for seed in range(3)]
    stacked = stack_members(members)
    for number, member in enumerate(members):
        taken = take_member(stacked, number)
        assert all(torch.equal(weight, taken[name]) for name, weight in member.items())
        taken["input"].zero_()  # a copy
        assert torch.equal(stacked["input"][number], member["input"])


@pytest.mark.parametrize("kind", [QuadraticNetwork, TokenTableTransformer, ReluNetwork])
def test_networks_keep_the_contract(kind):
    network = next(network for network in NETWORKS.values() if isinstance(network, kind))
    assert isinstance(network, EnsembleNetwork)
    assert network.units in {size for weight in network.initial(torch.Generator()).values() for size in weight.shape}
    assert network == kind(*(getattr(network, field) for field in network.__dataclass_fields__))
    with pytest.raises(AttributeError):
        network.width = 3

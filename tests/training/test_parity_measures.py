"""Measures of networks on parities against a network that knows the parity, loops over flips, and enumeration."""

import itertools
import math

import numpy as np
import pytest
import torch

from nslab.tasks import SparseParity
from nslab.training import parity_measures
from nslab.training.pair_networks import stack_members
from nslab.training.parity_measures import ParityMeasures
from nslab.training.parity_networks import ReluNetwork

TOLERANCES = {"double": 1e-12, "single": 1e-5, "sigmas": 4.5}


def seeded(seed=0, device="cpu"):
    return torch.Generator(device).manual_seed(seed)


def ensemble(network, members=3, dtype=torch.float64):
    """Members whose answers are both +1 and -1: fresh ones with as much weight on one sign as on the other."""
    weights = stack_members([network.initial(seeded(seed)) for seed in range(members)])
    weights["output"] = weights["output"] - weights["output"].mean(1, keepdim=True)
    weights["output_bias"] = torch.zeros(members)
    return {name: weight.to(dtype) for name, weight in weights.items()}


def every_point(bits):
    return torch.tensor(list(itertools.product([1.0, -1.0], repeat=bits)), dtype=torch.float64)


def knows_parity_of_two(bits):
    """|x_0 + x_1| - 1 from two units: the parity of the first two bits, with hinge loss 0."""
    layer = torch.zeros(1, bits, 2, dtype=torch.float64)
    layer[0, :2] = torch.tensor([1.0, -1.0])
    one = torch.ones(1, dtype=torch.float64)
    return {"input": layer, "input_bias": torch.zeros(1, 2).double(), "output": torch.ones(1, 2).double()} | {
        "output_bias": -one
    }


def test_a_network_that_knows_the_parity_has_the_parity_measures():
    task = SparseParity(10, 2)
    x, y = task.draw(3000, seeded(1))
    data = (x.double(), y.double())
    rho = (-1.0, -0.5, 0.0, 0.5, 0.9, 1.0)
    measures = ParityMeasures(task, train=data, test=data, rho=rho, twins=3000, generator=seeded(2))
    found = measures(ReluNetwork(10, 2), knows_parity_of_two(10), [0])
    for name in ("train_accuracy", "test_accuracy", "coefficient", "relevant_share"):
        assert found[name].item() == 1
    assert found["train_loss"].item() == found["test_loss"].item() == 0
    assert found["sensitivity"].item() == 2
    assert found["sensitivity_error"].item() == 0
    assert found["input_energy"][0].tolist() == [2.0, 2.0] + [0.0] * 8
    assert found["weight_norm"].item() == pytest.approx(math.sqrt(4 + 2 + 1))
    gap = (found["stability"][0] - task.stability(torch.tensor(rho))).abs()
    assert (gap <= TOLERANCES["sigmas"] * found["stability_error"][0]).all()
    assert gap[0] == gap[-1] == 0  # all bits flipped, and none: an even function
    assert found["stability"].shape == found["stability_error"].shape == (1, 6)


def test_stability_of_any_network_is_near_that_of_its_truth_table():
    """E sign f(x) sign f(y) with each bit of y flipped with probability (1 - rho)/2, summed over all x and y."""
    task, network = SparseParity(6, 3), ReluNetwork(6, 5)
    weights, x = ensemble(network), every_point(6)
    signs = np.where(network(weights, x).numpy() >= 0, 1, -1)
    assert all(0.1 < (member > 0).mean() < 0.9 for member in signs)
    flips = (x[:, None] != x).sum(-1).numpy()
    many = x.repeat(100, 1)
    data = (many, task.target(many))
    rho = (0.3, 0.8)
    measures = ParityMeasures(task, train=data, test=data, rho=rho, twins=len(many), generator=seeded(3))
    found = measures(network, weights, [0, 1, 2])
    for i, one in enumerate(rho):
        chance = ((1 - one) / 2) ** flips * ((1 + one) / 2) ** (6 - flips)
        expected = np.einsum("mx,xy,my->m", signs, chance, signs) / 64
        gap = (found["stability"][:, i] - torch.from_numpy(expected)).abs()
        assert (gap <= TOLERANCES["sigmas"] * found["stability_error"][:, i]).all()


def test_all_else_is_exact_on_all_points_one_point_and_one_flip_at_a_time():
    task, network = SparseParity(5, 2, relevant=(1, 4)), ReluNetwork(5, 7)
    weights, x = ensemble(network), every_point(5)
    noisy = task.target(x) * torch.where(torch.arange(32) % 7 == 0, -1, 1)
    initial = weights["input"] + 0.5
    measures = ParityMeasures(task, train=(x[:9], noisy[:9]), test=(x, noisy), flips=32, initial=initial)
    found = measures(network, weights, [0, 1, 2])
    for member in range(3):
        one = {name: weight[member : member + 1] for name, weight in weights.items()}
        score = lambda point: network(one, point[None]).item()  # noqa: B023, E731
        answer = lambda point: 1 if score(point) >= 0 else -1  # noqa: B023, E731
        pivotal = coefficient = 0
        for point in x:
            coefficient += answer(point) * point[1] * point[4]
            for bit in range(5):
                flipped = point.clone()
                flipped[bit] *= -1
                pivotal += answer(flipped) != answer(point)
        assert found["sensitivity"][member].item() == pytest.approx(pivotal / 32)
        assert found["coefficient"][member].item() == pytest.approx(coefficient.item() / 32)
        for name, rows in (("train", 9), ("test", 32)):
            pairs = [(score(point), label.item()) for point, label in zip(x[:rows], noisy[:rows], strict=True)]
            hinge = np.mean([max(0.0, 1 - label * value) for value, label in pairs])
            right = np.mean([(value >= 0) == (label > 0) for value, label in pairs])
            assert found[f"{name}_loss"][member].item() == pytest.approx(hinge, abs=TOLERANCES["double"])
            assert found[f"{name}_accuracy"][member].item() == pytest.approx(right, abs=TOLERANCES["double"])
        energy = [sum(value**2 for value in row) for row in one["input"][0].tolist()]
        assert found["input_energy"][member].tolist() == pytest.approx(energy)
        assert found["relevant_share"][member].item() == pytest.approx((energy[1] + energy[4]) / sum(energy))
        assert found["movement"][member].item() == pytest.approx(math.sqrt(35 * 0.25))


def test_a_constant_network_is_stable_and_insensitive():
    """Weights that decay has removed: score 0 everywhere, which counts as the answer +1."""
    task, network = SparseParity(6, 2), ReluNetwork(6, 4)
    weights = {name: torch.zeros_like(weight) for name, weight in ensemble(network, 1).items()}
    x = every_point(6)
    found = ParityMeasures(task, train=(x, task.target(x)), test=(x, task.target(x)))(network, weights, [0])
    assert found["stability"].tolist() == [[1.0, 1.0]]
    assert found["sensitivity"].item() == found["coefficient"].item() == 0
    assert found["test_accuracy"].item() == 0.5


def test_members_may_have_data_of_their_own_and_may_leave():
    task, network = SparseParity(8, 3), ReluNetwork(8, 5)
    weights = ensemble(network)
    drawn = [task.draw(40, seeded(seed)) for seed in range(3)]
    x, y = torch.stack([x for x, _ in drawn]).double(), torch.stack([y for _, y in drawn]).double()
    initial = torch.zeros(3, 8, 5, dtype=torch.float64)
    measures = ParityMeasures(task, train=(x, y), test=(x, y), initial=initial, generator=seeded(1))
    everything = measures(network, weights, [0, 1, 2])
    some = measures(network, {name: weight[[2, 0]] for name, weight in weights.items()}, [2, 0])
    for name, value in some.items():
        assert torch.allclose(value, everything[name][[2, 0]], rtol=0, atol=TOLERANCES["double"]), name
    for member in range(3):
        alone = ParityMeasures(task, train=drawn[member], test=drawn[member])
        one = {name: weight[member : member + 1].float() for name, weight in weights.items()}
        found = alone(network, one, [0])
        assert found["train_loss"].item() == pytest.approx(everything["train_loss"][member].item(), rel=1e-5)
        assert found["coefficient"].item() == pytest.approx(everything["coefficient"][member].item(), abs=1e-6)


@pytest.mark.parametrize("shared", [True, False])
def test_batches_of_rows_change_nothing(shared, monkeypatch):
    task, network = SparseParity(8, 3), ReluNetwork(8, 5)
    weights = ensemble(network)
    x, y = task.draw(50, seeded())
    x, y = (x.double(), y.double()) if shared else (x.double().expand(3, 50, 8), y.double().expand(3, 50))
    measures = ParityMeasures(task, train=(x, y), test=(x, y), generator=seeded(1))
    whole = measures(network, weights, [0, 1, 2])
    for numbers in (1, 200):
        monkeypatch.setattr(parity_measures, "CPU_NUMBERS", numbers)
        parts = measures(network, weights, [0, 1, 2])
        assert all(torch.allclose(parts[name], whole[name], rtol=0, atol=TOLERANCES["double"]) for name in whole)


def test_the_points_and_their_twins_stay_the_same():
    """Two calls agree to the bit, and so do two objects from one seed: checkpoints can be compared."""
    task, network = SparseParity(8, 3), ReluNetwork(8, 5)
    weights, data = ensemble(network, dtype=torch.float32), task.draw(50, seeded())
    measures = [ParityMeasures(task, train=data, test=data, generator=seeded(1)) for _ in range(2)]
    first = measures[0](network, weights, [0, 1, 2])
    for again in (measures[0](network, weights, [0, 1, 2]), measures[1](network, weights, [0, 1, 2])):
        assert first.keys() == again.keys()
        assert all(torch.equal(first[name], again[name]) for name in first)
    assert "movement" not in first  # no initial weights were given


def test_on_any_device(device):
    task, network = SparseParity(8, 3), ReluNetwork(8, 5)
    weights = {name: weight.to(device) for name, weight in ensemble(network, dtype=torch.float32).items()}
    data = tuple(part.to(device) for part in task.draw(100, seeded()))
    found = ParityMeasures(task, train=data, test=data, generator=seeded(1, device))(network, weights, [0, 1, 2])
    reference = network({name: weight.double().cpu() for name, weight in weights.items()}, data[0].double().cpu())
    losses = (1 - data[1].cpu() * reference).clamp(min=0).mean(1)
    assert all(value.device.type == device.type and len(value) == 3 for value in found.values())
    assert torch.allclose(found["test_loss"].cpu(), losses, rtol=0, atol=TOLERANCES["single"])


def test_bad_input_is_refused_with_a_remedy():
    task = SparseParity(8, 3)
    x, y = task.draw(50, seeded())
    with pytest.raises(ValueError, match=r"test has x \(50, 7\) and y \(50,\): give x \(rows, 8\)"):
        ParityMeasures(task, train=(x, y), test=(x[:, :7], y))
    with pytest.raises(ValueError, match=r"train has x \(50, 8\) and y \(49,\)"):
        ParityMeasures(task, train=(x, y[1:]), test=(x, y))
    with pytest.raises(ValueError, match="rho is empty: give at least one"):
        ParityMeasures(task, train=(x, y), test=(x, y), rho=())
    with pytest.raises(ValueError, match="rho"):
        ParityMeasures(task, train=(x, y), test=(x, y), rho=(1.5,))
    with pytest.raises(ValueError, match="test has 1 points: give at least 2"):
        ParityMeasures(task, train=(x, y), test=(x[:1], y[:1]))
    for name in ("twins", "flips"):
        with pytest.raises(ValueError, match=f"{name} has 1 points: give at least 2"):
            ParityMeasures(task, train=(x, y), test=(x, y), **{name: 1})

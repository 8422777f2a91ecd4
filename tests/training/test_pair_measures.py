"""Measures on all pairs against loops, enumeration, least squares and a network that is known to be perfect."""

import math

import numpy as np
import pytest
import torch

from nslab.stability.tabulated import energy_stability
from nslab.tasks import ModularArithmetic, split_pairs
from nslab.training import pair_measures
from nslab.training.pair_measures import PairMeasures
from nslab.training.pair_networks import Look, QuadraticNetwork, stack_members
from nslab.training.table_transformer import TokenTableTransformer

TOLERANCES = {"double": 1e-10, "single": 1e-5, "half": 1e-3}
TASKS = [(7, "add"), (8, "add"), (7, "subtract"), (7, "multiply"), (7, "divide")]


def ensemble(network, members=3, dtype=torch.float64, scale=1.0):
    weights = stack_members([network.initial(torch.Generator().manual_seed(seed)) for seed in range(members)])
    return {name: scale * weight.to(dtype) for name, weight in weights.items()}


def splits_of(task, members=3, kind="random", fraction=0.5):
    return [split_pairs(task, fraction, kind, generator=torch.Generator().manual_seed(10 + m)) for m in range(members)]


def measured(network, weights, kind="random"):
    members = len(next(iter(weights.values())))
    return PairMeasures(network.task, splits_of(network.task, members, kind))(network, weights, list(range(members)))


def networks(task):
    return [QuadraticNetwork(task, 6), TokenTableTransformer(task, 8, heads=2, hidden=6)]


class FixedLogits:
    """A network that has learned nothing and says the same whatever its weights are."""

    def __init__(self, task, logits):
        self.task, self.logits = task, logits

    def look(self, weights, x):
        rows = x[:, 0] * self.task.shape[1] + x[:, 1]
        return Look(self.logits[None, rows], self.logits.new_zeros(1, len(x), 1))


@pytest.mark.parametrize("which", [0, 1])
def test_losses_and_accuracies_are_means_over_the_rows_of_each_group(which):
    """One row at a time, in double precision, with the groups of the split."""
    task = ModularArithmetic(7)
    network = networks(task)[which]
    weights, splits = ensemble(network, scale=2.0), splits_of(task)
    found = PairMeasures(task, splits)(network, weights, [0, 1, 2])
    logits = network(weights, task.pairs).numpy()
    for member, split in enumerate(splits):
        rows = [
            (math.log(np.exp(row - row[label]).sum()), int(row.argmax() == label))
            for row, label in zip(logits[member], task.labels.tolist(), strict=True)
        ]
        for group in ("train", "test", "mirrored", "unseen"):
            chosen = [row for row, there in zip(rows, getattr(split, group).tolist(), strict=True) if there]
            loss, accuracy = np.mean(chosen, axis=0)
            assert found[f"{group}_accuracy"][member].item() == pytest.approx(accuracy)
            if f"{group}_loss" in found:
                assert found[f"{group}_loss"][member].item() == pytest.approx(loss, rel=TOLERANCES["double"])
        probability = np.mean([math.exp(-loss) for (loss, _), t in zip(rows, split.test.tolist(), strict=True) if t])
        assert found["test_probability"][member].item() == pytest.approx(probability, rel=TOLERANCES["double"])
        bits = np.unpackbits(found["correct"][member].numpy(), count=len(rows))
        assert bits.tolist() == [right for _, right in rows]


@pytest.mark.parametrize("operation", ["add", "divide"])
@pytest.mark.parametrize("which", [0, 1])
def test_energies_give_the_stability_of_the_probabilities_under_all_noise(operation, which):
    """E sum_c p_c(X) p_c(Y), summed over all pairs X and Y with the chance that noise turns X into Y."""
    task = ModularArithmetic(5, operation)
    network = networks(task)[which]
    weights, keep = ensemble(network, scale=2.0), 0.6
    energies = measured(network, weights)["energies"]
    probabilities = network(weights, task.pairs).softmax(-1)
    firsts, seconds = task.shape
    same = (task.pairs[:, None] == task.pairs).double()  # (rows, rows, 2)
    chance = torch.stack([keep * same[..., i] + (1 - keep) / v for i, v in enumerate((firsts, seconds))]).prod(0)
    expected = torch.einsum("mxc,xy,myc->m", probabilities, chance, probabilities) / len(task.pairs)
    assert torch.allclose(energy_stability(energies, keep), expected, rtol=0, atol=TOLERANCES["double"])


def test_attention_energies_are_the_mean_over_heads():
    task = ModularArithmetic(5)
    network = TokenTableTransformer(task, 8, heads=2, hidden=6)
    weights = ensemble(network, scale=3.0)
    table = network.look(weights, task.pairs).attention.unflatten(1, (5, 5)).numpy()  # (members, 5, 5, heads, 3)
    mean, first, second = table.mean((1, 2)), table.mean(2), table.mean(1)
    both = table - first[:, :, None] - second[:, None] + mean[:, None, None]
    parts = [mean, first - mean[:, None], second - mean[:, None], both]
    expected = [(part**2).sum(-1).mean(-1).reshape(3, -1).mean(1) for part in parts]
    found = measured(network, weights)["attention_energies"]
    assert np.allclose(found.numpy(), np.stack(expected, -1), rtol=0, atol=TOLERANCES["double"])


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize(("modulus", "operation"), TASKS)
def test_spectrum_is_the_least_squares_fit_by_waves_in_label_minus_answer(modulus, operation, which):
    """cos and sin(2 pi k (l - c) / N) with l and c the logarithms of label and answer, all pairs without token 0."""
    task = ModularArithmetic(modulus, operation)
    network = networks(task)[which]
    weights = ensemble(network)
    found = measured(network, weights)
    logits = network(weights, task.pairs).numpy()
    logarithm = task.logarithms.tolist()
    order = max(logarithm) + 1
    answers = [c for c in range(modulus) if logarithm[c] >= 0]
    rows = [r for r, pair in enumerate(task.pairs.tolist()) if all(logarithm[token] >= 0 for token in pair)]
    distance = np.array([[logarithm[task.labels[r]] - logarithm[c] for c in answers] for r in rows])
    assert found["spectrum"].shape == (3, modulus // 2)
    for member in range(3):
        z = logits[member][np.ix_(rows, answers)]
        z = z - z.mean(1, keepdims=True)
        for k in range(1, order // 2 + 1):
            angle = 2 * np.pi * k * distance.ravel() / order
            waves = np.stack([np.cos(angle), np.sin(angle)], 1)
            fit = waves @ np.linalg.lstsq(waves, z.ravel(), rcond=None)[0]
            expected = (fit**2).sum() / (z**2).sum()
            assert found["spectrum"][member, k - 1].item() == pytest.approx(expected, abs=TOLERANCES["double"])
    assert torch.allclose(found["fourier_share"], found["spectrum"].sum(-1))


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize(("modulus", "operation"), TASKS)
def test_neurons_have_the_dominant_frequency_of_the_first_operands_effect(modulus, operation, which):
    """numpy's transform, written out, of the mean over second operands, in the order of the group."""
    task = ModularArithmetic(modulus, operation)
    network = networks(task)[which]
    weights = ensemble(network)
    found = measured(network, weights)
    hidden = network.look(weights, task.pairs).hidden.unflatten(1, task.shape).numpy()
    logarithm = task.logarithms.tolist()
    order = max(logarithm) + 1
    tokens = [logarithm.index(place) for place in range(order)]
    seconds = tokens if operation != "divide" else range(order)  # division's second operand starts at 1
    effect = hidden[:, tokens][:, :, sorted(seconds)].mean(2)  # (members, order, hidden)
    for member in range(3):
        for unit in range(6):
            values = effect[member, :, unit] - effect[member, :, unit].mean()
            waves = [np.exp(-2j * np.pi * k * np.arange(order) / order) @ values for k in range(order)]
            energies = [
                abs(waves[k]) ** 2 + (abs(waves[-k]) ** 2 if 2 * k != order else 0) for k in range(1, order // 2 + 1)
            ]
            assert found["neuron_frequency"][member, unit].item() == 1 + int(np.argmax(energies))
            share = max(energies) / (order * (values**2).sum())
            assert found["neuron_share"][member, unit].item() == pytest.approx(share, abs=TOLERANCES["half"])
    assert found["neuron_frequency"].dtype == torch.int16


def cosine_solution(task, frequencies):
    """Weights of a quadratic network that answers with a sum of cos(2 pi k (label - c) / N), exactly.

    Each frequency has nine units, at three phases of either operand: all other products of cosines cancel.
    """
    logarithm = task.logarithms.double()
    order = int(logarithm.max()) + 1
    inside = (logarithm >= 0).double()
    sign = -1 if task.operation in ("subtract", "divide") else 1
    third = 2 * math.pi / 3
    units = [(k, i * third, j * third) for k in frequencies for i in range(3) for j in range(3)]
    k, one, two = torch.tensor(units, dtype=torch.float64).T
    angle = 2 * math.pi / order * logarithm[:, None] * k  # (tokens, units)
    first = (angle + one).cos() * inside[:, None]
    second = (sign * angle + two).cos() * inside[:, None]
    output = (angle + one + two).cos() * inside[:, None]
    return {"first": first, "second": second[-task.shape[1] :], "output": output.T}, k


@pytest.mark.parametrize(("modulus", "operation"), [(13, "add"), (13, "subtract"), (11, "multiply"), (11, "divide")])
def test_the_cosine_solution_is_perfect(modulus, operation):
    """Gromov's solution (exercise G5): every measure is at its ideal value."""
    task = ModularArithmetic(modulus, operation)
    order = modulus if operation in ("add", "subtract") else modulus - 1
    frequencies = [k for k in range(1, order // 2 + 1) if 2 * k < order]
    weights, k = cosine_solution(task, frequencies)
    weights["output"] *= 20
    found = measured(QuadraticNetwork(task, len(k)), stack_members([weights]))
    assert found["fourier_share"].item() == pytest.approx(1)
    expected = [1 / len(frequencies) if k in frequencies else 0 for k in range(1, modulus // 2 + 1)]
    assert found["spectrum"][0].tolist() == pytest.approx(expected, abs=TOLERANCES["double"])
    assert found["neuron_frequency"][0].tolist() == k.tolist()
    assert found["neuron_share"][0].tolist() == pytest.approx([1.0] * len(k), abs=TOLERANCES["half"])
    if operation in ("add", "subtract"):
        assert found["train_accuracy"].item() == found["test_accuracy"].item() == 1
        assert found["test_loss"].item() < 1e-6
        assert torch.allclose(found["energies"][0], task.energies, rtol=0, atol=1e-5)


def test_mirrored_pairs_are_missing_from_an_unordered_split():
    network = QuadraticNetwork(ModularArithmetic(7), 6)
    found = measured(network, ensemble(network), kind="unordered")
    assert found["mirrored_accuracy"].isnan().all()
    assert torch.equal(found["unseen_accuracy"], found["test_accuracy"])


def test_tiny_and_huge_losses_keep_their_digits():
    """In single precision: e^-50, where the log of a rounded probability is 0, and 200, where it is infinite."""
    task = ModularArithmetic(5)
    for margin, expected in ((50.0, 4 * math.exp(-50)), (-200.0, 200 + math.log(4))):
        logits = torch.zeros(25, 5).scatter(1, task.labels[:, None], margin)
        found = PairMeasures(task, splits_of(task, 1))(FixedLogits(task, logits), {"none": torch.zeros(1, 1)}, [0])
        assert found["train_loss"].item() == pytest.approx(expected, rel=1e-6)
        assert found["test_accuracy"].item() == (margin > 0)


@pytest.mark.parametrize("numbers", [1, 200, 500])
def test_chunks_of_members_and_rows_change_nothing(numbers, monkeypatch):
    for network in networks(ModularArithmetic(7, "divide")):
        weights = ensemble(network)
        whole = measured(network, weights)
        monkeypatch.setattr(pair_measures, "CPU_NUMBERS", numbers)
        parts = measured(network, weights)
        monkeypatch.undo()
        assert whole.keys() == parts.keys()
        for name, value in whole.items():
            assert value.dtype == parts[name].dtype
            assert torch.allclose(value.double(), parts[name].double(), rtol=0, atol=TOLERANCES["double"]), name


def test_members_that_are_left_keep_their_own_splits():
    network = QuadraticNetwork(ModularArithmetic(7), 6)
    weights = ensemble(network)
    measures = PairMeasures(network.task, splits_of(network.task))
    everything = measures(network, weights, [0, 1, 2])
    some = measures(network, {name: weight[[2, 0]] for name, weight in weights.items()}, [2, 0])
    for name, value in some.items():
        assert torch.allclose(value.double(), everything[name][[2, 0]].double(), rtol=0, atol=TOLERANCES["double"])


def test_a_member_that_is_not_finite_leaves_the_others_alone():
    network = QuadraticNetwork(ModularArithmetic(7), 6)
    weights = ensemble(network)
    good = measured(network, weights)
    weights["output"][1] = torch.nan
    found = measured(network, weights)
    assert found["test_loss"][1].isnan()
    assert found["energies"][1].isnan().all()
    for name, value in good.items():
        assert torch.equal(found[name][[0, 2]], value[[0, 2]]), name


def test_a_task_without_a_group_has_no_spectrum():
    network = QuadraticNetwork(ModularArithmetic(6, "multiply"), 6)
    found = measured(network, ensemble(network))
    assert "energies" in found
    assert not {"spectrum", "fourier_share", "neuron_frequency", "neuron_share"} & found.keys()


def test_units_that_the_first_operand_does_not_reach_have_frequency_zero():
    network = QuadraticNetwork(ModularArithmetic(7), 6)
    weights = ensemble(network)
    weights["first"][:, :, 2] = 0
    weights["second"][:, :, 2] = 0
    found = measured(network, weights)
    assert found["neuron_frequency"][:, 2].tolist() == found["neuron_share"][:, 2].tolist() == [0, 0, 0]
    assert (found["neuron_frequency"][:, [0, 1, 3, 4, 5]] > 0).all()


def test_weight_norm_is_that_of_all_weights_together():
    network = TokenTableTransformer(ModularArithmetic(5), 8, heads=2, hidden=6)
    weights = ensemble(network)
    flat = torch.cat([weight.flatten(1) for weight in weights.values()], 1)
    assert torch.allclose(measured(network, weights)["weight_norm"], flat.norm(dim=1))


def test_single_precision_on_any_device(device):
    task = ModularArithmetic(11)
    for network in networks(task):
        weights = ensemble(network, dtype=torch.float32)
        exact = measured(network, {name: weight.double() for name, weight in weights.items()})
        found = measured(network, {name: weight.to(device) for name, weight in weights.items()})
        for name, value in found.items():
            assert value.device.type == device.type
            assert torch.allclose(value.cpu().double(), exact[name].double(), rtol=0, atol=TOLERANCES["half"]), name
        for name in ("energies", "spectrum", "train_loss"):
            assert torch.allclose(found[name].cpu().double(), exact[name], rtol=0, atol=TOLERANCES["single"]), name


def test_splits_of_another_task_are_refused():
    task = ModularArithmetic(7)
    with pytest.raises(ValueError, match=r"splits\[1\] has 25 rows and the task 49: split this task"):
        PairMeasures(task, [*splits_of(task, 1), *splits_of(ModularArithmetic(5), 1)])
    with pytest.raises(ValueError, match="splits is empty: give one split for each member"):
        PairMeasures(task, [])


def test_a_member_without_a_split_is_refused():
    task = ModularArithmetic(5)
    network = QuadraticNetwork(task, 4)
    splits = [split_pairs(task, 0.5, generator=torch.Generator().manual_seed(0))]
    weights = stack_members([network.initial(torch.Generator().manual_seed(seed)) for seed in range(2)])
    with pytest.raises(ValueError, match="there are 1 splits, and none for member 1: give one split a member"):
        PairMeasures(task, splits)(network, weights, [0, 1])

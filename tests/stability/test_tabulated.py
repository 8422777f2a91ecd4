"""Efron-Stein energies of tables against inclusion and exclusion, and stability against the sum over noise outcomes."""

import itertools

import numpy as np
import pytest
import torch

from nslab.stability.tabulated import efron_stein_energies, energy_sensitivity, energy_stability
from nslab.tasks import ModularArithmetic

TOLERANCES = {"single": 2e-6, "gradient": 1e-6}


@pytest.mark.parametrize("shape", [(5,), (3, 4), (2, 3, 2), (2, 2, 2, 2)])
def test_energies_are_those_of_inclusion_and_exclusion(shape, parts, tolerances):
    """f^{=S} = sum_{T in S} (-1)^{|S - T|} E[f | x_T], one output at a time, whose energies add up."""
    tables = np.random.default_rng(1).normal(size=(2, *shape, 3))
    found = efron_stein_energies(torch.from_numpy(tables), len(shape))
    assert found.shape == (2, 2 ** len(shape))
    for energies, table in zip(found, tables, strict=True):
        norms = [parts(table[..., output]) for output in range(3)]
        for subset in norms[0]:
            index = sum(2**i for i in subset)
            assert energies[index].item() == pytest.approx(sum(n[subset] for n in norms), abs=tolerances["exact"])
        assert energies.sum().item() == pytest.approx((table**2).sum(-1).mean(), abs=tolerances["exact"])


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.9, 1.0])
def test_stability_is_the_sum_over_all_pairs_and_all_outcomes_of_the_noise(keep, tolerances):
    """E sum_c f_c(X) f_c(Y): each operand kept with probability keep, else any of its values, by enumeration."""
    table = np.random.default_rng(2).normal(size=(3, 4, 2))
    expected = 0.0
    inputs = list(itertools.product(range(3), range(4)))
    for x in inputs:
        for y in inputs:
            chance = np.prod([(keep * (a == b) + (1 - keep) / v) / v for a, b, v in zip(x, y, (3, 4), strict=True)])
            expected += chance * table[x] @ table[y]
    energies = efron_stein_energies(torch.from_numpy(table), 2)
    assert energy_stability(energies, keep).item() == pytest.approx(expected, abs=tolerances["exact"])


def test_sensitivity_is_the_slope_at_one_and_the_sum_of_mean_variances(tolerances):
    table = np.random.default_rng(3).normal(size=(3, 4, 2))
    energies = efron_stein_energies(torch.from_numpy(table), 2)
    keep = torch.ones((), dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(energy_stability(energies, keep), keep)
    variances = sum(table.var(axis=axis).sum(-1).mean() for axis in (0, 1))
    assert energy_sensitivity(energies).item() == pytest.approx(slope.item(), abs=tolerances["exact"])
    assert energy_sensitivity(energies).item() == pytest.approx(variances, abs=tolerances["exact"])


@pytest.mark.parametrize(("modulus", "operation"), [(7, "add"), (8, "subtract"), (6, "multiply"), (7, "divide")])
def test_the_one_hot_label_of_a_task_has_the_tasks_energies_and_stability(modulus, operation, tolerances):
    task = ModularArithmetic(modulus, operation)
    table = torch.eye(modulus, dtype=torch.float64)[task.labels].unflatten(0, task.shape)
    energies = efron_stein_energies(table, 2)
    assert torch.allclose(energies, task.energies, rtol=0, atol=tolerances["exact"])
    keep = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    assert torch.allclose(energy_stability(energies, keep), task.stability(keep), rtol=0, atol=tolerances["exact"])
    assert energy_sensitivity(energies).item() == pytest.approx(task.sensitivity, abs=tolerances["exact"])


def test_small_energies_beside_a_large_constant_keep_their_digits():
    """In single precision, where a difference of squares would leave nothing of them: the parts are squared."""
    table = 1000 + 1e-2 * torch.tensor([[1.0, -1.0], [-1.0, 1.0]])[..., None]
    constant, first, second, both = efron_stein_energies(table.float(), 2).tolist()
    assert constant == pytest.approx(1e6)
    assert both == pytest.approx(1e-4, rel=0.01)
    assert 0 <= first < 1e-7
    assert 0 <= second < 1e-7


def test_batches_keeps_dtypes_and_devices(device):
    table = torch.randn(4, 3, 5, 5, 6, generator=torch.Generator().manual_seed(0)).softmax(-1)
    exact = efron_stein_energies(table.double(), 2)
    found = efron_stein_energies(table.to(device), 2)
    assert found.device.type == device.type
    assert found.dtype == torch.float32
    assert torch.allclose(found.cpu().double(), exact, rtol=0, atol=TOLERANCES["single"])
    keep = torch.tensor([[0.1, 0.5], [0.9, 1.0]], device=device)
    assert energy_stability(found, keep).shape == (4, 3, 2, 2)
    assert energy_stability(found, 0.5).shape == energy_sensitivity(found).shape == (4, 3)
    assert efron_stein_energies(table.bfloat16().to(device), 2).dtype == torch.float32


def test_gradients_are_those_of_finite_differences():
    table = torch.randn(3, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    stability = lambda t, keep: energy_stability(efron_stein_energies(t, 2), keep)  # noqa: E731
    keep = torch.tensor([0.2, 0.7], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(stability, (table, keep), atol=TOLERANCES["gradient"])
    assert torch.autograd.gradcheck(lambda t: energy_sensitivity(efron_stein_energies(t, 2)), (table,))


@pytest.mark.parametrize(
    ("wrong", "remedy"),
    [
        (lambda: efron_stein_energies(torch.ones(3, 3, 2), 0), "inputs is 0: give at least 1"),
        (lambda: efron_stein_energies(torch.ones(3, 3), 2), r"shape \(3, 3\) and inputs is 2.*table\[\.\.\., None\]"),
        (lambda: efron_stein_energies(torch.ones(3, 0, 2), 2), "need at least one value"),
        (lambda: energy_stability(torch.ones(4), 1.5), r"keep has 1.5.*in \[0, 1\]"),
        (lambda: energy_stability(torch.ones(4), torch.tensor([0.5, float("nan")])), "keep has nan"),
        (lambda: energy_stability(torch.ones(3), 0.5), r"energies has shape \(3,\)"),
        (lambda: energy_sensitivity(torch.ones(3)), r"energies has shape \(3,\)"),
    ],
)
def test_bad_input_is_refused_with_a_remedy(wrong, remedy):
    with pytest.raises(ValueError, match=remedy):
        wrong()

"""Modular arithmetic against its definition, and its closed forms against enumeration over pairs and noise."""

from fractions import Fraction
from itertools import product

import numpy as np
import pytest
import torch

from nslab.tasks import ModularArithmetic

PRIMES, COMPOSITES = (3, 5, 7), (4, 6, 8, 9)
EVERY = [(op, p) for op in ("add", "subtract", "multiply") for p in sorted(PRIMES + COMPOSITES)]
EVERY += [("divide", p) for p in (*PRIMES, 11)]


def answer(operation, p, a, b):
    """By definition; a quotient is searched for."""
    if operation == "divide":
        (quotient,) = [c for c in range(p) if c * b % p == a]
        return quotient
    return {"add": a + b, "subtract": a - b, "multiply": a * b}[operation] % p


def ranges(operation, p):
    return range(p), range(1, p) if operation == "divide" else range(p)


@pytest.mark.parametrize(("operation", "p"), EVERY)
def test_pairs_labels_and_prompts_are_those_of_the_definition(operation, p):
    task = ModularArithmetic(p, operation)
    firsts, seconds = ranges(operation, p)
    expected = [(a, b) for a in firsts for b in seconds]
    assert task.shape == (len(firsts), len(seconds))
    assert task.outputs == p
    assert task.vocabulary == p + 1
    assert task.pairs.tolist() == [list(pair) for pair in expected]
    assert task.labels.tolist() == [answer(operation, p, a, b) for a, b in expected]
    assert task.prompts.tolist() == [[a, b, p] for a, b in expected]
    assert task.mirror.tolist() == [expected.index((b, a)) if (b, a) in expected else -1 for a, b in expected]
    assert {task.pairs.dtype, task.labels.dtype, task.prompts.dtype, task.mirror.dtype} == {torch.int64}


@pytest.mark.parametrize(("operation", "p"), EVERY)
def test_stability_is_the_agreement_over_all_pairs_and_all_outcomes_of_the_noise(operation, p):
    """Each operand is kept (probability keep), or replaced by any value of its range (1 - keep, evenly)."""
    firsts, seconds = ranges(operation, p)
    label = {(a, b): answer(operation, p, a, b) for a in firsts for b in seconds}
    kept = dict.fromkeys(product((True, False), repeat=2), Fraction(0))  # which operands are kept -> P(same label)
    for a, b in label:
        for keeps_a, keeps_b in kept:
            twins = [(y, z) for y in ([a] if keeps_a else firsts) for z in ([b] if keeps_b else seconds)]
            agreements = sum(label[twin] == label[a, b] for twin in twins)
            kept[keeps_a, keeps_b] += Fraction(agreements, len(twins) * len(label))
    keeps = [Fraction(k, 10) for k in (0, 1, 4, 7, 10)]
    chance = [
        sum((k if x else 1 - k) * (k if y else 1 - k) * agreement for (x, y), agreement in kept.items()) for k in keeps
    ]
    measured = ModularArithmetic(p, operation).stability(torch.tensor([float(k) for k in keeps], dtype=torch.float64))
    torch.testing.assert_close(measured, torch.tensor([float(c) for c in chance], dtype=torch.float64))


@pytest.mark.parametrize(("operation", "p"), EVERY)
def test_energies_are_those_of_the_parts_of_the_table(operation, p):
    """The Efron-Stein parts, made by averaging the one-hot table and subtracting what is already explained."""
    firsts, seconds = ranges(operation, p)
    table = np.eye(p)[[[answer(operation, p, a, b) for b in seconds] for a in firsts]]  # (first, second, label)
    constant = table.mean((0, 1), keepdims=True)
    first = table.mean(1, keepdims=True) - constant
    second = table.mean(0, keepdims=True) - constant
    both = table - constant - first - second
    expected = [(np.broadcast_to(part, table.shape) ** 2).sum(-1).mean() for part in (constant, first, second, both)]
    energies = ModularArithmetic(p, operation).energies
    torch.testing.assert_close(energies, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-14)
    assert energies.sum().item() == pytest.approx(1, abs=1e-15)


@pytest.mark.parametrize(("operation", "p"), EVERY)
def test_sensitivity_counts_the_labels_that_change_and_is_the_slope_at_one(operation, p):
    firsts, seconds = ranges(operation, p)
    changes = Fraction(0)
    for a, b in product(firsts, seconds):
        here = answer(operation, p, a, b)
        changes += Fraction(sum(answer(operation, p, y, b) != here for y in firsts), len(firsts))
        changes += Fraction(sum(answer(operation, p, a, z) != here for z in seconds), len(seconds))
    task = ModularArithmetic(p, operation)
    assert task.sensitivity == pytest.approx(float(changes / (len(firsts) * len(seconds))), rel=1e-13)
    keep = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(task.stability(keep), keep)
    assert slope.item() == pytest.approx(task.sensitivity, rel=1e-13)


def test_addition_has_the_closed_form_of_a_latin_square():
    """keep**2 + (1 - keep**2)/p; at p = 113 and keep = (1 + rho)/2 it is 0.2820, 0.3960, 0.5664, 0.9034."""
    task = ModularArithmetic(113)
    keep = (1 + torch.tensor([0.05, 0.25, 0.5, 0.9], dtype=torch.float64)) / 2
    torch.testing.assert_close(task.stability(keep), keep**2 + (1 - keep**2) / 113)
    assert [round(value, 4) for value in task.stability(keep).tolist()] == [0.2820, 0.3960, 0.5664, 0.9034]
    assert task.energies.tolist() == [1 / 113, 0, 0, 112 / 113]
    assert task.energies.tolist() == ModularArithmetic(113, "subtract").energies.tolist()
    assert task.sensitivity == pytest.approx(2 * (1 - 1 / 113))


def test_stability_keeps_the_shape_and_device_of_keep(device):
    keep = torch.rand(2, 3, device=device)
    stability = ModularArithmetic(5, "multiply").stability(keep)
    assert stability.shape == keep.shape
    assert stability.device == keep.device
    assert stability.dtype == torch.float64
    assert ModularArithmetic(5).stability(1).item() == 1


@pytest.mark.parametrize("operation", ["multiply", "divide"])
@pytest.mark.parametrize("p", [3, 5, 7, 23, 31, 41])
def test_logarithms_are_exponents_of_the_smallest_primitive_root(operation, p):
    root = next(g for g in range(2, p) if len({g**k % p for k in range(p - 1)}) == p - 1)
    logarithms = ModularArithmetic(p, operation).logarithms.tolist()
    assert logarithms[0] == -1
    assert sorted(logarithms[1:]) == list(range(p - 1))
    assert all(root ** logarithms[residue] % p == residue for residue in range(1, p))


@pytest.mark.parametrize("operation", ["add", "subtract", "multiply", "divide"])
def test_the_operation_adds_or_subtracts_logarithms(operation):
    task = ModularArithmetic(13, operation)
    order = 13 if operation in ("add", "subtract") else 12
    assert task.logarithms.max() + 1 == order
    a, b = task.logarithms[task.pairs].unbind(1)
    result = task.logarithms[task.labels]
    inside = (a >= 0) & (b >= 0)
    combined = a - b if operation in ("subtract", "divide") else a + b
    assert torch.equal(result[inside], combined[inside] % order)
    assert bool((result[~inside] == -1).all())  # where an operand is 0, so is the product or quotient


@pytest.mark.parametrize("modulus", [1, 0, -5, 2])
def test_a_small_modulus_is_refused(modulus):
    with pytest.raises(ValueError, match=f"modulus is {modulus}: give at least 3"):
        ModularArithmetic(modulus)


@pytest.mark.parametrize(("modulus", "below", "above"), [(4, 3, 5), (91, 89, 97), (114, 113, 127)])
def test_division_by_a_composite_is_refused_and_the_nearest_primes_are_named(modulus, below, above):
    with pytest.raises(ValueError, match=f"modulus is {modulus}, .* take {below} or {above}, the nearest primes"):
        ModularArithmetic(modulus, "divide")
    composite = ModularArithmetic(modulus, "multiply")  # multiplication itself needs no prime
    with pytest.raises(ValueError, match=f"no logarithm: take {below} or {above}"):
        _ = composite.logarithms


def test_an_unknown_operation_is_refused():
    with pytest.raises(ValueError, match="operation is 'power': choose one of add, subtract, multiply, divide"):
        ModularArithmetic(5, "power")


@pytest.mark.parametrize("keep", [-0.1, 1.5, float("nan")])
def test_a_keep_that_is_no_probability_is_refused(keep):
    with pytest.raises(ValueError, match=rf"keep has {keep:g}: .* a number in \[0, 1\]"):
        ModularArithmetic(5).stability(torch.tensor([0.5, keep]))

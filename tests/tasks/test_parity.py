"""Sparse parity against its definition, and its closed forms against enumeration over points and noise."""

from itertools import product
from math import prod

import pytest
import torch

from nslab.tasks import SparseParity

TASKS = [(4, 1, (2,)), (4, 2, (3, 1)), (4, 3, (0, 1, 3)), (3, 3, None)]


def target(relevant, x):
    return prod(x[i] for i in relevant)


@pytest.mark.parametrize(("bits", "order", "relevant"), TASKS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int8, torch.int64])
def test_the_target_is_the_product_of_the_relevant_bits(bits, order, relevant, dtype):
    task = SparseParity(bits, order, relevant=relevant)
    assert task.relevant == (relevant or tuple(range(order)))
    points = list(product((-1, 1), repeat=bits))
    values = task.target(torch.tensor(points, dtype=dtype).reshape(2, -1, bits))
    assert values.dtype == dtype
    assert values.flatten().tolist() == [target(task.relevant, x) for x in points]
    assert values.shape == (2, 2 ** (bits - 1))


@pytest.mark.parametrize(("bits", "order", "relevant"), TASKS)
def test_stability_is_the_correlation_over_all_points_and_all_flips(bits, order, relevant):
    task = SparseParity(bits, order, relevant=relevant)
    rhos = [-1.0, -0.3, 0.0, 0.6, 1.0]
    correlations = []
    for rho in rhos:
        total = 0.0
        for x, flips in product(product((-1, 1), repeat=bits), product((False, True), repeat=bits)):
            chance = prod((1 - rho) / 2 if flip else (1 + rho) / 2 for flip in flips)
            y = [-bit if flip else bit for bit, flip in zip(x, flips, strict=True)]
            total += chance * target(task.relevant, x) * target(task.relevant, y)
        correlations.append(total / 2**bits)
    measured = task.stability(torch.tensor(rhos, dtype=torch.float64))
    torch.testing.assert_close(measured, torch.tensor(correlations, dtype=torch.float64), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("noise", [0, 0.1, 0.4])
@pytest.mark.parametrize(("bits", "order", "relevant"), TASKS)
def test_probability_stability_is_that_of_the_law_of_the_noisy_label(bits, order, relevant, noise):
    """Each bit is kept, or drawn anew as -1 or +1; the class probabilities are counted from target and flip."""
    task = SparseParity(bits, order, noise, relevant)

    def probabilities(x):
        right = target(task.relevant, x)
        return [1 - noise if label == right else noise for label in (-1, 1)]

    keeps = [0.0, 0.35, 1.0]
    expected = []
    for keep in keeps:
        outcome = {None: keep, -1: (1 - keep) / 2, 1: (1 - keep) / 2}  # None: the bit stays
        total = 0.0
        for x, news in product(product((-1, 1), repeat=bits), product(outcome, repeat=bits)):
            y = [bit if new is None else new for bit, new in zip(x, news, strict=True)]
            agreement = sum(p * q for p, q in zip(probabilities(x), probabilities(y), strict=True))
            total += prod(outcome[new] for new in news) * agreement
        expected.append(total / 2**bits)
    measured = task.probability_stability(torch.tensor(keeps, dtype=torch.float64))
    torch.testing.assert_close(measured, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-12)


def test_a_noisy_parity_of_three_bits_has_the_known_value():
    """1/2 + (1 - 2 eta)**2 keep**3 / 2 with keep = 0.525 and eta = 0.1 is 0.546."""
    assert round(SparseParity(40, 3, 0.1).probability_stability(0.525).item(), 3) == 0.546


def test_sensitivity_counts_the_flips_that_change_the_target_and_is_the_slope_at_one():
    task = SparseParity(5, 3, relevant=(4, 0, 2))
    points = list(product((-1, 1), repeat=5))
    flips = [(x, [-b if j == i else b for j, b in enumerate(x)]) for x in points for i in range(5)]
    changed = sum(target(task.relevant, x) != target(task.relevant, y) for x, y in flips)
    assert task.sensitivity == changed / len(points)
    rho = torch.tensor(1.0, requires_grad=True)
    (slope,) = torch.autograd.grad(task.stability(rho), rho)
    assert slope.item() == task.sensitivity


def test_draws_are_uniform_and_labels_are_wrong_at_the_stated_rate(device):
    task = SparseParity(12, 3, 0.2, relevant=(7, 2, 11))
    samples = 40_000
    x, labels = task.draw(samples, torch.Generator(device).manual_seed(0), device)
    assert x.shape == (samples, 12)
    assert labels.shape == (samples,)
    assert {x.dtype, labels.dtype} == {torch.float32}
    assert {x.device.type, labels.device.type} == {device.type}
    assert bool((x.abs() == 1).all())
    assert bool((labels.abs() == 1).all())
    tolerance = 5 / samples**0.5
    assert x.mean(0).abs().max() < tolerance
    assert (x.T @ x / samples - torch.eye(12, device=device)).abs().max() < tolerance
    wrong = (labels != x[:, 7] * x[:, 2] * x[:, 11]).double().mean()
    assert abs(wrong - 0.2) < tolerance * (0.2 * 0.8) ** 0.5
    assert ((labels * x[:, 0]).mean()).abs() < tolerance  # a bit that is not relevant says nothing


def test_without_label_noise_every_label_is_the_target():
    task = SparseParity(10, 4)
    x, labels = task.draw(500, torch.Generator().manual_seed(3))
    assert torch.equal(labels, x[:, :4].prod(1))


def test_one_state_gives_one_draw_and_another_state_another():
    task = SparseParity(20, 3, 0.1)
    first, again, other = (task.draw(50, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])


def test_stabilities_keep_the_shape_and_device(device):
    task, values = SparseParity(4, 2), torch.rand(3, 2, device=device)
    for stability in (task.stability(values), task.probability_stability(values)):
        assert stability.shape == values.shape
        assert stability.device == values.device
        assert stability.dtype == torch.float64


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"order": 6}, "order is 6 with bits 5: give an order from 1 to the number of bits"),
        ({"order": 0}, "order is 0 with bits 5"),
        ({"order": 2, "relevant": (1, 1)}, r"relevant is \(1, 1\): give 2 positions, as order says, each once"),
        ({"order": 2, "relevant": (1, 2, 3)}, "give 2 positions"),
        ({"order": 2, "relevant": (1, 5)}, r"relevant has \[5\]: positions run from 0 to 4"),
        ({"order": 2, "relevant": (-1, 2)}, r"relevant has \[-1\]: positions run from 0 to 4"),
        ({"order": 2, "label_noise": 0.5}, r"label_noise is 0.5: give a probability in \[0, 1/2\)"),
        ({"order": 2, "label_noise": -0.1}, "label_noise is -0.1"),
        ({"order": 2, "label_noise": float("nan")}, "label_noise is nan"),
    ],
)
def test_settings_that_are_no_parity_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        SparseParity(5, **arguments)


def test_bits_that_are_none_are_refused():
    task = SparseParity(3, 2)
    with pytest.raises(ValueError, match=r"x has shape \(4, 2\): the last axis holds the 3 bits"):
        task.target(torch.ones(4, 2))
    for wrong in (torch.zeros(4, 3), torch.ones(4, 3, dtype=torch.uint8)):
        with pytest.raises(ValueError, match=r"entries other than ±1: map bits \{0, 1\} by 1 - 2 \* x"):
            task.target(wrong)
    with pytest.raises(ValueError, match="samples is 0: draw at least 1"):
        task.draw(0)
    with pytest.raises(ValueError, match=r"rho has 1.5: .* a number in \[-1, 1\]"):
        task.stability(1.5)
    with pytest.raises(ValueError, match=r"keep has -0.5: .* a number in \[0, 1\]"):
        task.probability_stability(-0.5)

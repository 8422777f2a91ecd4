"""Influences against enumeration, and the slope of stability at 1 against the mean squared gradient."""

import math

import numpy as np
import pytest
import torch

from nslab import boolean as bf
from nslab import gaussian as gs
from nslab.stability import Cube, GaussianSpace, Tokens, average_sensitivity, gradient_energy, influences


@pytest.mark.parametrize("shape", [(2, 2, 2, 2), (3, 3, 3), (5, 5)])
def test_influences_are_sums_of_efron_stein_parts_by_enumeration(shape, parts, on_tokens, seeded, within_error):
    """Inf_i = sum over S containing i of |f^{=S}|^2, and I = sum |S| |f^{=S}|^2, on uniform alphabets."""
    table = np.random.default_rng(1).normal(size=shape)
    norms, space = parts(table), Tokens(len(shape), shape[0])
    many = {"samples": 30_000, "generator": seeded(1)}
    expected = [sum(v for s, v in norms.items() if i in s) for i in range(len(shape))]
    assert within_error(influences(on_tokens(table), space, **many), expected)
    assert within_error(influences(on_tokens(table), space, [1], **many), expected[1:2])
    total = sum(len(s) * v for s, v in norms.items())
    assert within_error(average_sensitivity(on_tokens(table), space, **many), total)
    assert math.isclose(total, sum(expected))


def test_influence_is_the_mean_of_the_variance_along_the_coordinate(on_tokens, seeded, within_error):
    """The definition E[Var_{x_i} f], which the estimator does not use."""
    table = np.random.default_rng(2).normal(size=(4, 4, 4))
    expected = [table.var(axis=i).mean() for i in range(3)]
    found = influences(on_tokens(table), Tokens(3, 4), samples=30_000, generator=seeded(2))
    assert within_error(found, expected)


def test_special_tokens_are_never_drawn_and_do_not_count(on_tokens, seeded, within_error):
    table = np.full((5, 5), 100.0)
    ordinary = np.ix_([0, 2, 4], [0, 2, 4])
    table[ordinary] = np.random.default_rng(3).normal(size=(3, 3))
    expected = [table[ordinary].var(axis=i).mean() for i in range(2)]
    found = influences(on_tokens(table), Tokens(2, 5, special=(1, 3)), samples=30_000, generator=seeded(3))
    assert within_error(found, expected)
    assert influences(on_tokens(table), Tokens(2, 5, special=(0, 1, 2, 3)), samples=10).value.tolist() == [0, 0]


def test_on_the_cube_they_are_the_exact_influences(seeded, within_error):
    f = bf.weighted_threshold([3, 2, 2, 1, 1], dtype=torch.float64)
    function = lambda x: f[((x < 0) * 2 ** torch.arange(5)).sum(-1)]  # noqa: E731
    many = {"samples": 20_000, "generator": seeded(4)}
    assert within_error(influences(function, Cube(5), **many), bf.influences(f))
    assert within_error(average_sensitivity(function, Cube(5), **many), bf.total_influence(f))


def test_in_gaussian_space_they_are_energies_of_hermite_parts(seeded, within_error):
    """f = x_0 + x_0 x_1 + h_2(x_1): Inf = (2, 2), total influence 4 but gradient energy 1 + 2 + 2 = 5."""
    f = lambda x: x[:, 0] + x[:, 0] * x[:, 1] + (x[:, 1] ** 2 - 1) / math.sqrt(2)  # noqa: E731
    many = {"samples": 100_000, "generator": seeded(5)}
    assert within_error(influences(f, GaussianSpace(2), **many), [2.0, 2.0])
    assert within_error(average_sensitivity(f, GaussianSpace(2), **many), 4.0)
    assert within_error(gradient_energy(f, GaussianSpace(2), **many), 5.0)


@pytest.mark.parametrize(("f", "rule"), [(torch.tanh, {}), (torch.relu, {"breaks": (0.0,)}), (torch.sin, {})])
def test_the_slope_of_stability_at_one_is_the_gradient_energy(f, rule, seeded, within_error):
    """A one-sided difference of exact stabilities near 1; for ReLU the closed form E 1[X > 0] = 1/2."""
    h = 1e-5
    at = gs.gaussian_stability(f, torch.tensor([1.0, 1 - h, 1 - 2 * h], dtype=torch.float64), **rule)
    slope = (3 * at[0] - 4 * at[1] + at[2]) / (2 * h)
    w = torch.tensor([0.6, 0.8])
    found = gradient_energy(lambda x: f(x @ w), GaussianSpace(2), samples=50_000, generator=seeded(6))
    assert abs(found.value - slope) <= 4.5 * found.stderr + 2e-3


def test_several_outputs_add_up_and_the_seed_decides(seeded):
    f = lambda x: torch.stack([x[:, 0], 2 * x[:, 1]], -1)  # noqa: E731
    assert influences(f, Cube(2), samples=10).value.tolist() == [1.0, 4.0]
    assert gradient_energy(f, GaussianSpace(2), samples=10).value.item() == 5.0
    runs = [average_sensitivity(f, GaussianSpace(2), samples=100, generator=seeded(s)) for s in (7, 7, 8)]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


def test_f_may_work_in_place():
    f = lambda x: x.neg_()[:, 0] * x[:, 1]  # noqa: E731
    assert influences(f, Cube(2), samples=10).value.tolist() == [1.0, 1.0]
    assert gradient_energy(lambda x: x.mul_(3)[:, 0], GaussianSpace(2), samples=10).value.item() == 9.0


def test_a_target_and_a_device(device, seeded):
    request = {"generator": seeded(0, device), "device": device}
    found = influences(lambda x: x.relu().sum(-1), GaussianSpace(3), stderr=0.01, **request)
    assert bool((found.stderr <= 0.01).all())
    assert found.value.device.type == device.type
    variance = 0.5 - 1 / (2 * math.pi)
    assert bool(((found.value - variance).abs() <= 4.5 * found.stderr).all())

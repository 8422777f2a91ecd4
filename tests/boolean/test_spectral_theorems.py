"""Theorems about the spectrum of a function on the cube, each against a reference that does not use the spectrum."""

import itertools
import math

import pytest
import torch

from nslab import boolean as bf
from nslab.boolean import spectral, transform


def slow_coefficient(values, points, subset):
    return sum(v * math.prod(x[i] for i in subset) for v, x in zip(values, points, strict=True)) / len(values)


def test_coefficients_follow_the_definition_and_parseval_holds(zoo, all_points, close):
    """fhat(S) = E[f chi_S] for every S, index = bitmask of S; sum of squares = 1 for ±1-valued f."""
    for f in zoo.values():
        n = len(f).bit_length() - 1
        if n > 6:
            continue
        subsets = [[i for i in range(n) if mask >> i & 1] for mask in range(2**n)]
        expected = [slow_coefficient(f.tolist(), all_points(n), subset) for subset in subsets]
        assert close(bf.spectrum(f), expected)
        assert close(bf.spectrum(f).square().sum(), 1.0)
        weights = [sum(c**2 for c, s in zip(expected, subsets, strict=True) if len(s) == k) for k in range(n + 1)]
        assert close(bf.level_weights(f), weights)
        assert bf.degree(f) == max(len(s) for c, s in zip(expected, subsets, strict=True) if abs(c) > 1e-9)


def test_influence_is_the_mean_variance_over_one_coordinate(zoo, all_points, close):
    """Inf_i = E[Var_{x_i} f], by plain loops; for ±1-valued f also the probability that a flip changes f."""
    for f in [*zoo.values(), torch.randn(32, dtype=torch.float64, generator=torch.Generator().manual_seed(2))]:
        values, n = f.tolist(), len(f).bit_length() - 1
        pairs = [[(values[i], values[i ^ 1 << j]) for i in range(2**n)] for j in range(n)]
        assert close(bf.influences(f), [sum(((a - b) / 2) ** 2 for a, b in row) / 2**n for row in pairs])
        if bool((f.abs() == 1).all()):
            flips = [sum(a != b for a, b in row) / 2**n for row in pairs]
            assert close(bf.flip_influences(f), flips)


def test_total_influence_is_average_sensitivity_and_mean_degree(zoo, close):
    """sum_i Inf_i = E[s(f, x)] = sum_k k W_k."""
    for f in zoo.values():
        weights = bf.level_weights(f)
        by_degree = (torch.arange(len(weights)) * weights).sum()
        assert close(bf.total_influence(f), by_degree)
        assert close(bf.sensitivity(f).mean(), by_degree)


def test_sensitivity_counts_the_neighbours_that_differ(zoo, all_points):
    for f in zoo.values():
        values, n = f.tolist(), len(f).bit_length() - 1
        expected = [sum(values[i] != values[i ^ 1 << j] for j in range(n)) for i in range(2**n)]
        assert bf.sensitivity(f).tolist() == expected
        assert bf.max_sensitivity(f) == max(expected)


def test_degree_is_at_most_the_square_of_the_sensitivity(seeded):
    """Huang's theorem, on 40 random functions."""
    f = bf.random(5, 40, generator=seeded())
    assert bool((bf.degree(f) <= bf.max_sensitivity(f) ** 2).all())


@pytest.mark.parametrize("rho", [-1.0, -0.3, 0.0, 0.5, 1.0])
def test_stability_is_the_correlation_over_all_pairs(zoo, slow_stability, close, rho):
    """sum_k rho**k W_k = E[f(x) f(y)] over rho-correlated pairs, enumerated one by one."""
    for f in zoo.values():
        if len(f) <= 32:
            assert close(bf.stability(f, rho), slow_stability(f, rho))


def test_noise_operator_averages_over_the_twin_and_gives_stability(zoo, close):
    """T_rho f(x) = E[f(y) | x] by enumeration, and Stab_rho = E[f T_rho f]."""
    rho = torch.tensor([[-1.0, -0.5, 0.0], [0.3, 0.9, 1.0]], dtype=torch.float64)
    for f in zoo.values():
        if len(f) > 64:
            continue
        n = len(f).bit_length() - 1
        distance = bf.popcounts(n)[torch.arange(2**n)[:, None] ^ torch.arange(2**n)]
        kernel = ((1 + rho) / 2)[..., None, None] ** (n - distance) * ((1 - rho) / 2)[..., None, None] ** distance
        smoothed = bf.noise_operator(f, rho)
        assert smoothed.shape == (2**n, 2, 3)
        assert close(smoothed, (kernel @ f).movedim(-1, 0))
        assert close((f[:, None, None] * smoothed).mean(0), bf.stability(f, rho))


def test_slope_of_stability_at_one_is_total_influence(zoo, close):
    """d/drho Stab_rho = I(f) at rho = 1, by automatic differentiation; the second derivative is E[k (k - 1)]."""
    for f in zoo.values():
        rho = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(bf.stability(f, rho), rho, create_graph=True)
        assert close(slope.detach(), bf.total_influence(f), "derivative")
        if slope.requires_grad and len(f) > 2:
            (curvature,) = torch.autograd.grad(slope, rho)
            k = torch.arange(len(f).bit_length())
            assert close(curvature, (k * (k - 1) * bf.level_weights(f)).sum(), "derivative")


def test_gradients_in_the_table_and_in_rho_at_zero():
    f = torch.randn(2, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(3), requires_grad=True)
    rho = torch.tensor([0.0, -0.4, 0.7], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(bf.stability, (f, rho))
    assert torch.autograd.gradcheck(bf.noise_operator, (f, rho))
    assert torch.autograd.gradcheck(bf.influences, f)
    assert torch.autograd.gradcheck(bf.level_weights, f)
    assert torch.autograd.gradgradcheck(bf.stability, (f, rho))


def test_majority_has_its_closed_forms(close):
    """Majority of 3 is (x1 + x2 + x3 - x1 x2 x3)/2, so Stab = 3/4 rho + 1/4 rho**3, and Sheppard's limit in n."""
    rho = torch.linspace(-1, 1, 21, dtype=torch.float64)
    assert close(bf.stability(bf.majority(3, dtype=torch.float64), rho), 0.75 * rho + 0.25 * rho**3)
    gaps = [(bf.stability(bf.majority(n, dtype=torch.float64), 0.5) - 1 / 3).item() for n in (5, 9, 13, 17)]
    assert all(a > b > 0 for a, b in itertools.pairwise(gaps)), "2/pi arcsin(1/2) = 1/3 from above"


def test_batches_lead_and_rho_comes_last(seeded, close):
    f = bf.random(4, 2, 3, generator=seeded(), dtype=torch.float64)
    rho = torch.rand(5, 7, generator=seeded(1), dtype=torch.float64)
    shapes = {
        bf.spectrum: (2, 3, 16),
        bf.level_weights: (2, 3, 5),
        bf.influences: (2, 3, 4),
        bf.flip_influences: (2, 3, 4),
        bf.total_influence: (2, 3),
        bf.sensitivity: (2, 3, 16),
        bf.max_sensitivity: (2, 3),
        bf.degree: (2, 3),
        lambda f: bf.stability(f, rho): (2, 3, 5, 7),
        lambda f: bf.noise_operator(f, rho): (2, 3, 16, 5, 7),
        lambda f: bf.stability(f, 0.5): (2, 3),
        lambda f: bf.noise_operator(f, 0.5): (2, 3, 16),
    }
    for function, shape in shapes.items():
        result = function(f)
        assert result.shape == shape
        assert close(result[1, 2], function(f[1, 2])), "a batch is the stack of its members"


@pytest.mark.parametrize("n", [0, 1, 2, 7, 8, 11])
def test_sums_over_levels_and_members_at_every_split(n, close):
    f = torch.randn(2**n, dtype=torch.float64, generator=torch.Generator().manual_seed(n))
    squares, counts = bf.spectrum(f).square(), bf.popcounts(n)
    assert close(bf.level_weights(f), torch.stack([squares[counts == k].sum() for k in range(n + 1)]))
    members = [squares[torch.arange(2**n) >> i & 1 == 1].sum() for i in range(n)]
    assert close(bf.influences(f), torch.stack(members) if members else torch.zeros(0))


def test_dtype_and_device_are_kept():
    for dtype in (torch.float32, torch.float64):
        f = bf.majority(3, dtype=dtype)
        for result in (bf.spectrum(f), bf.stability(f, torch.linspace(0, 1, 3)), bf.influences(f), bf.sensitivity(f)):
            assert result.dtype == dtype


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves_lose_digits_but_no_small_coefficients(seeded, close, dtype):
    """f = ±1/64: its squared coefficients, about 1e-8, are below the smallest half, their sums are not."""
    f = bf.random(14, 2, generator=seeded(), dtype=torch.float64) / 64
    half, rho = f.to(dtype), torch.tensor([0.3, 0.9], dtype=torch.float64)
    for function in (
        bf.level_weights,
        bf.influences,
        bf.total_influence,
        lambda f: bf.stability(f, rho),
        lambda f: bf.biased_level_weights(f, 0.3),
        lambda f: bf.biased_influences(f, 0.3),
        lambda f: bf.biased_stability(f, rho, 0.3),
        lambda f: bf.noise_operator(f, 0.9),
    ):
        found, expected = function(half), function(f)
        assert found.dtype == dtype
        assert close(found / expected.max(), expected / expected.max(), dtype)
    assert bf.degree(half).tolist() == [14, 14]


@pytest.mark.parametrize("n", [0, 1, 3, 9])
def test_empty_batches_keep_their_shape(n):
    f, rho = torch.zeros(2, 0, 2**n), torch.tensor([0.1, 0.5, 0.9])
    for function, shape in {
        bf.level_weights: (n + 1,),
        bf.influences: (n,),
        bf.flip_influences: (n,),
        bf.total_influence: (),
        bf.max_sensitivity: (),
        bf.degree: (),
        lambda f: bf.stability(f, rho): (3,),
        lambda f: bf.noise_operator(f, rho): (2**n, 3),
        lambda f: bf.biased_spectrum(f, 0.3): (2**n,),
        lambda f: bf.biased_influences(f, 0.3): (n,),
        lambda f: bf.biased_stability(f, rho, 0.3): (3,),
        lambda f: bf.biased_mean(f, 0.3): (),
    }.items():
        assert function(f).shape == (2, 0, *shape)
    assert bf.stability(torch.ones(4, 2**n), torch.zeros(0)).shape == (4, 0)


def test_function_transforms_and_inference_mode_leave_no_trace(close):
    """The small matrices are kept from call to call: whoever asks first, everybody after must be able to use them."""
    f = torch.randn(3, 2**9, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    expected = [(f.unflatten(-1, (-1, 2, 2**i)).diff(dim=-2) / 2).square().sum((-3, -2, -1)) / 2**8 for i in range(9)]
    gradients = []
    for first in ("inference", "grad", "vmap"):
        spectral._members.cache_clear()
        transform._hadamard.cache_clear()
        if first == "inference":
            with torch.inference_mode():
                assert close(bf.influences(f), torch.stack(expected, -1))
        elif first == "grad":
            torch.func.grad(lambda f: bf.total_influence(f).sum())(f)
        else:
            gradients.append(torch.func.vmap(torch.func.grad(bf.total_influence))(f))
        leaf = f.clone().requires_grad_()
        assert close(bf.influences(leaf).detach(), torch.stack(expected, -1))
        bf.total_influence(leaf).sum().backward()
        gradients.append(leaf.grad)
    assert all(close(gradient, gradients[0]) for gradient in gradients)

"""Sampled quantities against the exact ones, within their own standard errors."""

import math

import pytest
import torch

from nslab import boolean as bf
from nslab.tasks import electoral_college

N = 9
INDEX = 2 ** torch.arange(N)


@pytest.fixture(scope="module")
def tabulated():
    return bf.weighted_threshold([5, 4, 4, 3, 2, 2, 1, 1, 1], dtype=torch.float64)


@pytest.fixture(scope="module")
def callable_(tabulated):
    return lambda x: tabulated[((x < 0) * INDEX).sum(-1)]


def test_every_estimate_covers_the_exact_value(tabulated, callable_, seeded, within_error):
    rho = torch.tensor([[-0.5, 0.0], [0.3, 0.9]])
    many = {"samples": 20_000, "generator": seeded(1)}
    assert within_error(bf.sampled_mean(callable_, N, **many), tabulated.mean())
    assert within_error(bf.sampled_influences(callable_, N, **many), bf.influences(tabulated))
    assert within_error(bf.sampled_influences(callable_, N, [6, 0], **many), bf.influences(tabulated)[[6, 0]])
    assert within_error(bf.sampled_total_influence(callable_, N, **many), bf.total_influence(tabulated))
    assert within_error(bf.sampled_stability(callable_, N, rho, **many), bf.stability(tabulated, rho))
    assert within_error(bf.sampled_stability(callable_, N, 0.7, **many), bf.stability(tabulated, 0.7))


def test_real_valued_functions_too(seeded, within_error):
    """f = sum_i w_i x_i + x_0 x_1: Inf_0 = w_0**2 + 1, Stab = rho |w|**2 + rho**2."""
    weights = torch.tensor([0.5, -1.0, 2.0])
    linear = lambda x: x @ weights + x[:, 0] * x[:, 1]  # noqa: E731
    many = {"samples": 50_000, "generator": seeded(2)}
    assert within_error(bf.sampled_influences(linear, 3, **many), [1.25, 2.0, 4.0])
    assert within_error(bf.sampled_stability(linear, 3, torch.tensor([0.5]), **many), [0.5 * 5.25 + 0.25])


def test_large_votes_agree_with_counting(seeded, within_error):
    weights = electoral_college().weights
    vector = torch.tensor(weights, dtype=torch.float32)
    vote = lambda x: torch.sign(x @ vector)  # noqa: E731
    rho = torch.tensor([0.2, 0.8])
    many = {"samples": 20_000, "generator": seeded(3)}
    assert within_error(bf.sampled_stability(vote, 51, rho, **many), bf.threshold_stability(weights, rho))
    assert within_error(bf.sampled_influences(vote, 51, [0, 50], **many), bf.threshold_influences(weights)[[0, 50]])


def test_ten_thousand_voters(seeded):
    """Beyond every exact path: Sheppard's 2/pi arcsin(rho) to within the error and the O(1/n) of the limit."""
    found = bf.sampled_stability(lambda x: torch.sign(x.sum(-1)), 10_001, 0.5, samples=4000, generator=seeded(4))
    assert abs(found.value.item() - 2 / math.pi * math.asin(0.5)) < 4.5 * found.stderr.item() + 1e-3


def test_a_target_standard_error_is_reached(callable_, seeded):
    found = bf.sampled_stability(callable_, N, torch.tensor([0.2, 0.9]), stderr=0.01, generator=seeded(5))
    assert bool((found.stderr <= 0.01).all())


def test_common_random_numbers_make_the_ends_exact(callable_, seeded):
    """At rho = 1 the twin is x itself, so f(x) f(y) = 1 in every draw: no error at all."""
    found = bf.sampled_stability(callable_, N, torch.tensor([1.0]), samples=100, generator=seeded(6))
    assert found.value.tolist() == [1.0]
    assert found.stderr.tolist() == [0.0]


def test_the_generator_decides_everything(callable_, seeded):
    for sample in (bf.sampled_mean, bf.sampled_total_influence):
        runs = [sample(callable_, N, samples=500, generator=seeded(s)) for s in (7, 7, 8)]
        assert runs[0] == runs[1]
        assert runs[0] != runs[2]


def test_points_have_the_requested_dtype():
    seen = set()

    def spy(x):
        seen.add(x.dtype)
        return x[:, 0]

    bf.sampled_stability(spy, 4, 0.5, samples=10, dtype=torch.float64)
    assert seen == {torch.float64}


def test_points_live_on_the_device(device):
    generator = torch.Generator(device).manual_seed(0)
    found = bf.sampled_influences(lambda x: x[:, 0], 2, samples=10, generator=generator, device=device)
    assert found.value.device.type == device.type
    assert found.value.tolist() == [1.0, 0.0]


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int8, torch.float16])
def test_values_of_any_real_dtype_are_combined_without_overflow(dtype, seeded, within_error):
    """f = 1[x_0 = 1], times 100 where that fits: Inf_0 = scale**2/4 and Stab = scale**2 (1 + rho)/4."""
    scale = 1 if dtype == torch.bool else 100
    indicator = lambda x: ((x[:, 0] > 0) * scale).to(dtype)  # noqa: E731
    many = {"samples": 5000, "generator": seeded(9)}
    assert within_error(bf.sampled_influences(indicator, 2, **many), [scale**2 / 4, 0])
    assert within_error(bf.sampled_stability(indicator, 2, 0.5, **many), scale**2 * 1.5 / 4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_points_keep_the_correlation(dtype, seeded, within_error):
    """Uniform numbers of 8 bits would give 0.516 for a dictator at rho = 0.51, seven standard errors away."""
    found = bf.sampled_stability(lambda x: x[:, 0], 2, 0.51, samples=10**6, generator=seeded(0), dtype=dtype)
    assert within_error(found, 0.51)


def test_a_thousand_rho_do_not_multiply_the_memory():
    largest = []

    def spy(x):
        largest.append(len(x))
        return x[:, 0]

    bf.sampled_stability(spy, 2, torch.linspace(-1, 1, 1000), samples=5000)
    assert max(largest) * 1000 <= 2**22

"""Error bars that mean what they say: coverage by counting, streaming against two passes, clear refusals.

Tolerances, fixed before the code: counts of covering intervals lie in the central 99.9 % of the binomial law;
streaming and two-pass results agree to 1e-12 relative.
"""

import itertools
import math

import pytest
import torch
from scipy import stats

from nslab.estimate import Estimate, Interval, TooFewSamples, bootstrap, sample_mean

SEEDS = 300
RTOL = 1e-12


def generator(seed, device="cpu"):
    return torch.Generator(device).manual_seed(seed)


def plausible(covered, level, trials):
    """Is the count inside the central 99.9 % of Binomial(trials, level)?"""
    low, high = stats.binom.interval(0.999, trials, level)
    return low <= covered <= high


def estimate(value, stderr, samples=100, seconds=0.0):
    return Estimate(
        torch.tensor(value, dtype=torch.float64), torch.tensor(stderr, dtype=torch.float64), samples, seconds
    )


@pytest.mark.parametrize("level", [0.5, 0.95])
def test_the_interval_of_a_fixed_sample_covers_the_mean_at_its_level(level):
    covered = 0
    for seed in range(SEEDS):
        g = generator(seed)
        found = sample_mean(lambda k, g=g: torch.rand(k, generator=g), samples=500)
        covered += bool(found.interval(level).contains(0.5))
    assert plausible(covered, level, SEEDS)


def test_the_interval_of_a_target_error_covers_the_mean_at_its_level():
    covered = 0
    for seed in range(SEEDS):
        g = generator(seed)
        found = sample_mean(lambda k, g=g: torch.rand(k, generator=g), stderr=0.005)
        covered += bool(found.interval(0.95).contains(0.5))
    assert plausible(covered, 0.95, SEEDS)


@pytest.mark.parametrize("batch_size", [1, 7, 1000, 65536])
@pytest.mark.parametrize("offset", [0.0, 1e8])
def test_streaming_equals_two_passes(batch_size, offset):
    data = offset + torch.randn(1000, 3, 2, dtype=torch.float64, generator=generator(0))
    rows = iter(data.split(batch_size))
    found = sample_mean(lambda k: next(rows), samples=1000, batch_size=batch_size)
    mean = data.mean(0)
    stderr = ((data - mean).square().sum(0) / (1000 * 999)).sqrt()
    torch.testing.assert_close(found.value, mean, rtol=RTOL, atol=0)
    # A spread of 1 on a mean of 1e8 leaves 8 of 16 digits in each difference.
    torch.testing.assert_close(found.stderr, stderr, rtol=RTOL if offset == 0 else 1e-7, atol=0)
    assert found.samples == 1000


def test_a_target_error_is_met_by_every_element_at_the_expected_price():
    g = generator(1)
    scale = torch.tensor([0.1, 1.0, 2.0])
    found = sample_mean(lambda k: scale * torch.randn(k, 3, generator=g), stderr=0.01)
    assert bool((found.stderr <= 0.01).all())
    assert found.samples == pytest.approx((2.0 / 0.01) ** 2, rel=0.15)  # variance / target squared


def test_a_target_that_the_pilot_meets_costs_the_pilot_only():
    found = sample_mean(lambda k: torch.ones(k), stderr=0.1)
    assert (found.samples, found.value.item(), found.stderr.item()) == (1024, 1.0, 0.0)


def test_a_target_out_of_reach_keeps_what_was_found_and_names_the_remedy():
    g = generator(2)
    with pytest.raises(TooFewSamples, match=r"raise max_samples, or ask for stderr=0\.0") as caught:
        sample_mean(lambda k: torch.randn(k, generator=g), stderr=1e-6, max_samples=10_000)
    assert caught.value.estimate.samples == 1024


def test_one_seed_gives_one_estimate_and_seconds_do_not_count(device):
    def run():
        g = generator(3, device)
        return sample_mean(lambda k: torch.rand(k, 2, generator=g, device=device), samples=100, batch_size=30)

    first, second = run(), run()
    assert first == second
    assert first.value.device.type == device.type
    assert first.value.dtype == torch.float64
    assert first.seconds > 0
    assert first != sample_mean(lambda k: torch.ones(k, 2, device=device), samples=100)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64, torch.int32, torch.bool])
def test_any_real_dtype_is_averaged_in_double(dtype):
    coins = torch.tensor([0, 1, 1, 1]).to(dtype)
    found = sample_mean(lambda k: coins, samples=4)
    assert found.value.item() == 0.75
    assert found.stderr.item() == pytest.approx(0.25)  # s^2 = 1/4, n = 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "give exactly one"),
        ({"samples": 10, "stderr": 0.1}, "give exactly one"),
        ({"samples": 0}, "samples is 0"),
        ({"samples": 1}, "samples is 1: a standard error needs at least 2"),
        ({"stderr": 0.0}, r"stderr is 0\.0"),
        ({"stderr": math.nan}, "stderr is nan"),
        ({"samples": 10, "batch_size": 0}, "batch_size is 0"),
        ({"stderr": 0.1, "max_samples": 1}, "max_samples is 1"),
    ],
)
def test_sample_mean_refuses_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        sample_mean(lambda k: torch.zeros(k), **arguments)


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda k: torch.zeros(k + 1), r"draw\(10\) returned \(11,\): return a tensor of shape \(10, \.\.\.\)"),
        (lambda k: torch.zeros(()), r"draw\(10\) returned \(\)"),
        (lambda k: [0.0] * k, r"draw\(10\) returned list"),
        (lambda k: torch.tensor([0.0] * (k - 1) + [math.nan]), r"draw\(10\) is not finite in row 9"),
        (lambda k: torch.full((k, 2), math.inf), r"draw\(10\) is not finite in row 0"),
        (lambda k: torch.zeros(k, dtype=torch.complex64), r"draw\(10\) is complex"),
    ],
)
def test_sample_mean_refuses_bad_draws(draw, message):
    with pytest.raises(ValueError, match=message):
        sample_mean(draw, samples=10)


def test_sample_mean_refuses_draws_that_change_shape():
    shapes = iter([(10, 2), (10, 3)])
    with pytest.raises(ValueError, match=r"rows of shape \(3,\) after rows of shape \(2,\)"):
        sample_mean(lambda k: torch.zeros(next(shapes)), samples=20, batch_size=10)


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (0.41234, 0.00312, "0.412 ± 0.003"),
        (0.41234, 0.0013, "0.4123 ± 0.0013"),
        (0.41234, 0.0099, "0.412 ± 0.010"),
        (1234.0, 123.0, "1230 ± 120"),
        (-0.0004, 0.02, "0.00 ± 0.02"),
        (0.5, 0.0, "0.5 ± 0"),
        (0.0, 0.0, "0 ± 0"),
        (4.12e-10, 3e-12, "(4.12 ± 0.03)e-10"),
        (2.5e7, 1e5, "(2.500 ± 0.010)e+07"),
        (1.0, math.inf, "1.0 ± inf"),
        ([0.1] * 101, [0.02] * 101, "[0.10 ± 0.02, 0.10 ± 0.02, …, 0.10 ± 0.02] of shape (101,)"),
        ([[0.1, 0.2]], [[0.02, 0.02]], "[0.10 ± 0.02, 0.20 ± 0.02] of shape (1, 2)"),
        ([], [], "[]"),
    ],
)
def test_an_estimate_prints_the_digits_it_knows(value, error, text):
    assert str(estimate(value, error)) == text


def test_repr_has_no_seconds_so_that_pages_print_alike():
    assert repr(estimate(0.5, 0.02, samples=10, seconds=1.0)) == "Estimate(0.50 ± 0.02, samples=10)"
    assert estimate(0.5, 0.02, seconds=1.0) == estimate(0.5, 0.02, seconds=2.0)
    assert estimate(0.5, 0.02) != estimate(0.5, 0.03)
    assert estimate(0.5, 0.02) != "0.50 ± 0.02"


@pytest.mark.parametrize("level", [0.5, 0.9, 0.95, 0.999])
def test_the_normal_interval_agrees_with_the_normal_quantile(level):
    interval = estimate(2.0, 0.5).interval(level)
    low, high = stats.norm.interval(level, 2.0, 0.5)
    assert (interval.low.item(), interval.high.item()) == pytest.approx((low, high), rel=1e-9)
    assert interval.contains(2.0)
    assert not interval.contains(high + 1)


def test_intervals_compare_by_ends_and_level_and_print():
    one, two = estimate(2.0, 0.5).interval(), estimate(2.0, 0.5).interval()
    assert one == two
    assert one != estimate(2.0, 0.5).interval(0.9)
    assert one != 3
    assert str(one) == "[1.02, 2.98] at 95 %"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: estimate([1.0], 0.1), "value has shape"),
        (lambda: estimate(1.0, -0.1), "stderr is .*zero or positive"),
        (lambda: estimate(1.0, math.nan), "stderr is .*zero or positive"),
        (lambda: estimate(1.0, 0.1, samples=0), "samples is 0"),
        (lambda: estimate(1.0, 0.1).interval(1.0), r"level is 1\.0"),
        (lambda: Interval(torch.zeros(2), torch.zeros(3), 0.9), "low has shape"),
        (lambda: Interval(torch.zeros(2), torch.zeros(2), 95.0), r"level is 95\.0"),
    ],
)
def test_estimates_and_intervals_refuse_what_makes_no_sense(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_bootstrap_of_three_rows_equals_enumeration_of_all_27_resamples():
    values = torch.tensor([0.0, 1.0, 5.0])
    means = torch.tensor([sum(rows) / 3 for rows in itertools.product([0.0, 1.0, 5.0], repeat=3)], dtype=torch.float64)
    expected = torch.quantile(means, torch.tensor([0.2, 0.8], dtype=torch.float64), interpolation="nearest")
    found = bootstrap(values, level=0.6, resamples=20_000, generator=generator(0))
    torch.testing.assert_close(torch.stack([found.low, found.high]), expected)


def test_the_bootstrap_interval_covers_the_mean_at_its_level():
    covered = 0
    for seed in range(SEEDS):
        g = generator(seed)
        covered += bool(bootstrap(torch.randn(100, generator=g), resamples=500, generator=g).contains(0.0))
    # With 100 rows the interval is about 1 % too short (n - 1 against n, and t against z): 0.945.
    assert plausible(covered, 0.945, SEEDS)


def test_bootstrap_keeps_trailing_shape_and_takes_any_reduction():
    values = torch.randn(40, 3, 2, generator=generator(0))
    found = bootstrap(values, torch.std, resamples=300, generator=generator(1))
    assert found.low.shape == (3, 2)
    assert bool(found.contains(values.double().std(0)).all())
    assert found == bootstrap(values, torch.std, resamples=300, generator=generator(1))


def test_bootstrap_in_chunks_equals_bootstrap_at_once():
    values = torch.randn(2**15, generator=generator(0))  # 2**24 / 2**15 = 512 resamples a chunk
    g = generator(1)
    index = torch.cat([torch.randint(2**15, (size, 2**15), generator=g) for size in (512, 88)])
    means = values.double()[index].mean(1)
    ends = torch.tensor([0.025, 0.975], dtype=torch.float64)
    found = bootstrap(values, resamples=600, generator=generator(1))
    torch.testing.assert_close(torch.stack([found.low, found.high]), torch.quantile(means, ends))


@pytest.mark.parametrize(
    ("values", "arguments", "message"),
    [
        (torch.zeros(0), {}, "values has shape"),
        (torch.zeros(3, 0), {}, r"values has shape \(3, 0\)"),
        (torch.tensor([1.0, math.nan]), {}, "values is not finite in row 1"),
        (torch.ones(3), {"level": 0.0}, "level is 0"),
        (torch.ones(3), {"resamples": 0}, "resamples is 0"),
        (torch.ones(3), {"statistic": lambda x, dim: x.mean()}, "statistic must return a tensor"),
        (torch.ones(3), {"statistic": lambda x, dim: 1.0}, "it returned float"),
    ],
)
def test_bootstrap_refuses_bad_input(values, arguments, message):
    with pytest.raises(ValueError, match=message):
        bootstrap(values, **arguments)


def test_one_element_is_taken_like_one_of_a_tensor():
    table = estimate([[0.5, 0.25], [1.0, 2.0]], [[0.1, 0.2], [0.0, 0.3]], samples=7)
    assert table[0] == estimate([0.5, 0.25], [0.1, 0.2], samples=7)
    assert table[1, 0] == estimate(1.0, 0.0, samples=7)
    assert table[:, 1] == estimate([0.25, 2.0], [0.2, 0.3], samples=7)
    assert [str(row) for row in table] == [str(table[0]), str(table[1])]
    assert f"{float(table[0, 1]):.2f}" == "0.25"
    with pytest.raises(IndexError):
        table[2]


def test_a_number_is_no_table_and_a_table_no_number():
    with pytest.raises(TypeError, match=r"0\.50 ± 0\.10, is one number: take float\(e\)"):
        list(estimate(0.5, 0.1))
    with pytest.raises(TypeError, match=r"has shape \(2,\): take one element, float\(e\[0\]\)"):
        float(estimate([0.5, 0.25], [0.1, 0.2]))

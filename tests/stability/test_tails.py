"""Both bounds on the tail against enumeration over a non-uniform alphabet, and what their ratio may be."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from nslab.noise import Resample, paper_keep
from nslab.stability import (
    PromptStability,
    TotalInfluence,
    best_tail_bound,
    discrete_influence,
    implied_degree,
    participation_ratio,
    tail_bound,
    tail_comparison,
    text_stability,
    tokens_holding,
    total_influence,
)

LAW = torch.tensor([0.25, 0.5, 0.25], dtype=torch.float64)
QUARTERS = [1, 2, 1]
KEEP = torch.tensor([0.2, 0.5, 0.8, 0.95, 0.999, 1.0], dtype=torch.float64)


@pytest.fixture
def enumerated(every_prompt, weighted_parts):
    """What an infinite measurement would return: all strings as prompts, twins and redraws averaged by the kernel."""

    def measure(table, keep=KEEP):
        law, length = LAW.numpy(), table.ndim
        ids = every_prompt(QUARTERS, length)
        at = tuple(ids.unbind(1))
        smooth = []
        for r in keep.tolist():
            kernel = r * np.eye(3) + (1 - r) * law
            both = np.stack([table, table**2])  # E[f(y) | x] and E[f(y)^2 | x]
            for axis in range(1, length + 1):
                both = np.moveaxis(np.tensordot(both, kernel, (axis, 1)), -1, axis)
            smooth.append(both)
        damped, damped_square = (torch.from_numpy(np.stack([s[k] for s in smooth], -1))[at] for k in (0, 1))
        values = torch.from_numpy(table)[at]
        redrawn = 0
        for axis in range(length):
            square = np.expand_dims(np.tensordot(table**2, law, (axis, 0)), axis)
            mean = np.expand_dims(np.tensordot(table, law, (axis, 0)), axis)
            redrawn = redrawn + (table**2 - 2 * table * mean + square) / 2
        products = values[:, None] * damped
        changes = (values.square()[:, None] - 2 * products + damped_square) / 2
        stability = PromptStability(
            keep, products, changes, values.square(), values[:, None], damped[..., None], length, 1, 0.0
        )
        by_prompt = torch.from_numpy(redrawn)[at]
        influence = TotalInfluence(by_prompt.mean(), by_prompt.std(), len(ids), 0.0, by_prompt, 1, 1, values.square())
        weights = torch.zeros(length + 1, dtype=torch.float64)
        for s, norm in weighted_parts(table, law).items():
            weights[len(s)] += norm
        return stability, influence, weights

    return measure


def random_table(seed, length=4):
    return np.random.default_rng(seed).normal(size=(3,) * length) + 0.3


def few_at_a_time(seed, degree, length=4):
    """A sum of functions of `degree` tokens each: no energy above that degree."""
    rng, table = np.random.default_rng(seed), np.zeros((3,) * length)
    for first in range(length - degree + 1):
        shape = [3 if first <= axis < first + degree else 1 for axis in range(length)]
        table = table + rng.normal(size=shape)
    return table


@pytest.mark.parametrize("degree", [1, 2, 4, 15])
def test_both_columns_are_their_spectral_sums(degree, enumerated, tolerances):
    """Sums over the Efron-Stein parts, per unit energy and per unit variance."""
    stability, influence, weights = enumerated(random_table(0))
    variance = weights[1:].sum() * 256 / 255  # from distinct prompts: the sample variance of the 256 strings
    for per, size in (("energy", weights.sum()), ("variance", variance)):
        found = tail_comparison(stability, influence, degree, per=per, resamples=20)
        share = weights / size
        degrees = torch.arange(5)
        markov = (degrees * share).sum() / degree
        bounds = [(share * (1 - r**degrees)).sum() / (1 - r**degree) for r in KEEP[:-1]]
        torch.testing.assert_close(found.bounds.value, torch.stack(bounds), rtol=1e-9, atol=tolerances["exact"])
        assert found.markov.value.item() == pytest.approx(markov.item(), abs=tolerances["exact"])
        assert found.best.value == found.bounds.value.min()
        assert found.best_keep == KEEP[found.bounds.value.argmin()]
        assert found.gain.value == found.markov.value / found.best.value
        tail = share[degree:].sum()
        assert bool((found.bounds.value >= tail - 1e-12).all())
        assert found.markov.value >= tail - 1e-12


@pytest.mark.parametrize("degree", [1, 3, 15])
def test_as_the_noise_vanishes_the_bound_becomes_markovs(degree, enumerated, tolerances):
    near = torch.tensor([1 - 1e-7], dtype=torch.float64)
    stability, influence, _ = enumerated(random_table(1), near)
    found = tail_comparison(stability, influence, degree, resamples=20)
    assert found.gain.value.item() == pytest.approx(1, abs=10 * tolerances["limit"])


@pytest.mark.parametrize("top", [1, 2, 3, 4])
def test_the_gain_is_at_most_the_highest_degree_over_t(top, enumerated):
    """For T <= K; the fifth of the keeps is close to the limit, where every gain is 1."""
    for seed in range(5):
        stability, influence, weights = enumerated(few_at_a_time(seed, top))
        assert weights[top + 1 :].sum() < 1e-12 * weights.sum()
        for degree in range(1, top + 1):
            found = tail_comparison(stability, influence, degree, resamples=20)
            assert found.gain.value <= top / degree + 1e-9
            assert found.implied_degree <= top
            assert found.consistent


def test_a_thin_part_of_high_degree_is_what_makes_gains(enumerated):
    """One coordinate and a little parity-like part of all six: the gain exceeds 1 and its bound is nearly reached."""
    law = LAW.numpy()
    one = np.array([1.0, 0.0, -1.0]) / math.sqrt(0.5)
    assert law @ one == 0
    parity = one
    for _ in range(5):
        parity = np.multiply.outer(parity, one)
    table = 0.3 * parity + np.sqrt(1 - 0.09) * one.reshape(3, 1, 1, 1, 1, 1)
    stability, influence, weights = enumerated(table, torch.linspace(0.05, 0.95, 19, dtype=torch.float64))
    found = tail_comparison(stability, influence, 2, resamples=20)
    best = best_tail_bound(weights, 2)
    assert 1 < found.gain.value <= 3
    assert found.best.value.item() == pytest.approx(best.bound, rel=0.01)
    assert found.best_keep == pytest.approx(best.rho, abs=0.05)
    assert 2 < found.implied_degree <= 6


def test_columns_of_two_noises_are_found_inconsistent(enumerated):
    """The other column from f with its energy at 20 times the degree: no function of 4 tokens has such a gain."""
    stability, influence, _ = enumerated(random_table(2))
    by_prompt = 20 * influence.by_prompt
    other = dataclasses.replace(influence, by_prompt=by_prompt)
    found = tail_comparison(stability, other, 2, resamples=200)
    assert found.implied_degree > 4
    assert not found.consistent


def test_the_papers_gains_need_very_high_degrees():
    """Table 1: 0.19 / 0.02 and 0.003 / 0.0005 at T = 15."""
    assert implied_degree(0.19 / 0.02, 15) == 143
    assert implied_degree(0.003 / 0.0005, 15) == 90
    assert implied_degree(1.0, 15) == 0


def test_r_and_not_the_papers_rho_belongs_into_the_bound():
    """rho = 0.9 keeps 0.95: 1 - 0.95^15 = 0.537, where 0.9 would give 0.794."""
    assert 1 - paper_keep(0.9) ** 15 == pytest.approx(0.537, abs=5e-4)
    assert tail_bound(0.99, paper_keep(0.9), 15).item() == pytest.approx(0.01 / 0.5367, rel=1e-3)


def test_sampled_columns_agree_with_enumeration_and_their_intervals_cover(on_tokens, seeded, enumerated):
    table = few_at_a_time(3, 2) + 0.5
    keep = [0.5, 0.8, 0.95]
    exact = tail_comparison(*enumerated(table, torch.tensor(keep, dtype=torch.float64))[:2], 2, resamples=20)
    resample, f = Resample(0, 3, law=LAW), on_tokens(table)
    inside = dict.fromkeys(("markov", "bounds", "gain"), 0)
    for seed in range(40):
        g = seeded(seed)
        ids = resample.draw((300, 4), g)
        stability = text_stability(f, ids, resample, keep=keep, twins=3, generator=g)
        influence = total_influence(f, ids, resample, pairs=1200, generator=g)
        found = tail_comparison(stability, influence, 2, resamples=300, generator=g)
        for name in inside:
            column = getattr(found, name)
            inside[name] += float(column.interval.contains(getattr(exact, name).value).double().mean())
    assert all(count >= 33 for count in inside.values()), inside


def test_where_f_seldom_changes_the_interval_of_the_gain_may_end_at_infinity():
    """One prompt of ten shows a change: where a bootstrap leaves it out the bound is 0, and the comparison stands."""
    zeros, one = torch.zeros(10, dtype=torch.float64), torch.eye(10, dtype=torch.float64)[0]
    squares = torch.ones(10, dtype=torch.float64)
    changes = torch.stack([one, squares], 1)
    keep = torch.tensor([0.9, 0.5], dtype=torch.float64)
    stability = PromptStability(
        keep,
        squares[:, None] - changes,
        changes,
        squares,
        squares[:, None],
        zeros[:, None, None].repeat(1, 2, 1),
        4,
        1,
        0.0,
    )
    influence = TotalInfluence(squares.mean(), zeros.mean(), 10, 0.0, squares, 10, 20, squares)
    found = tail_comparison(stability, influence, 2)
    assert found.best.value.item() == pytest.approx(0.1 / (1 - 0.81))
    assert found.gain.value.item() == pytest.approx(0.5 / (0.1 / (1 - 0.81)))
    assert (found.best.interval.low, found.gain.interval.high) == (0, math.inf)
    assert 0 < found.gain.interval.low < found.gain.value
    assert found.consistent


def test_the_interval_of_the_gain_comes_from_joint_draws_and_not_from_the_energy(enumerated, seeded):
    """The same draws by hand: one set of weights for influence and stability."""
    stability, influence, _ = enumerated(random_table(4))
    per_energy = tail_comparison(stability, influence, 2, resamples=500, generator=seeded(0)).gain
    per_variance = tail_comparison(stability, influence, 2, per="variance", resamples=500, generator=seeded(0)).gain
    index = torch.randint(256, (500, 256), generator=seeded(0))
    bounds = stability.changes[:, :-1][index].mean(1) / (1 - KEEP[:-1] ** 2)
    gains = influence.by_prompt[index].mean(1) / 2 / bounds.amin(1)
    ends = gains.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64))
    for gain in (per_energy, per_variance):
        torch.testing.assert_close(torch.stack([gain.interval.low, gain.interval.high]), ends, rtol=1e-6, atol=0)


def test_the_linear_function_is_as_stable_as_a_centred_function_can_be_and_needs_all_tokens(seeded, within_error):
    """f = sum of standardised tokens / sqrt(n): stability r, and every token matters equally."""
    one = torch.tensor([1.0, 0.0, -1.0], dtype=torch.float64) / math.sqrt(0.5)
    f = lambda ids: one[ids].sum(-1) / math.sqrt(20)  # noqa: E731
    resample = Resample(0, 3, law=LAW)
    ids = resample.draw((2000, 20), seeded(5))
    found = text_stability(f, ids, resample, keep=[0.25, 0.9], generator=seeded(6))
    assert within_error(found.normalised, [0.25, 0.9])
    profile = discrete_influence(f, ids[:400], resample, samples="exact").value.mean(0)
    assert tokens_holding(profile).item() >= 17
    assert participation_ratio(profile).item() > 19.5
    influence = total_influence(f, ids, resample, pairs=20_000, generator=seeded(7))
    comparison = tail_comparison(found, influence, 15, resamples=200, generator=seeded(8))
    assert abs(comparison.gain.value - (1 / 15) / (0.1 / (1 - 0.9**15))) < 0.01
    assert comparison.implied_degree == 0


STABILITY = text_stability(
    lambda ids: ids.double().sum(-1),
    torch.arange(20).reshape(10, 2) % 4,
    Resample(0, 4),
    keep=[0.5, 1.0],
    generator=torch.Generator().manual_seed(0),
)
INFLUENCE = total_influence(
    lambda ids: ids.double().sum(-1), torch.arange(20).reshape(10, 2) % 4, Resample(0, 4), pairs=10
)
SHUFFLED = total_influence(
    lambda ids: ids.double().sum(-1), (torch.arange(20).reshape(10, 2) % 4).flip(0), Resample(0, 4), pairs=10
)
ONE = lambda ids: 0.0 * ids.sum(-1) + 1  # noqa: E731
CONSTANT = text_stability(ONE, torch.zeros(10, 2).long(), Resample(0, 4), keep=[0.5])
STILL = total_influence(ONE, torch.zeros(10, 2).long(), Resample(0, 4), pairs=10)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: implied_degree(-1, 15), r"gain is -1"),
        (
            lambda: tail_comparison(STABILITY, STILL, 3),
            r"\|f\(x\)\|\*\*2 at prompt \d is .* in stability and 1 in influence: .*one f, at the same prompts",
        ),
        (
            lambda: tail_comparison(STABILITY, SHUFFLED, 3),
            r"\|f\(x\)\|\*\*2 at prompt \d is (1|25) in stability and (1|25) in influence: .*one order",
        ),
        (lambda: implied_degree(2, 0), r"degree is 0"),
        (lambda: tail_comparison(STABILITY, INFLUENCE, 0), r"degree = 0"),
        (
            lambda: tail_comparison(CONSTANT, STILL, 3),
            r"f never changes under the noise at keep = \[0.5\]: .*more twins",
        ),
        (lambda: tail_comparison(CONSTANT, STILL, 3, per="variance"), r"f has no variance at some"),
        (
            lambda: tail_comparison(
                text_stability(ONE, torch.zeros(10, 2).long(), Resample(0, 4), keep=1.0),
                STILL,
                3,
            ),
            r"stability has only r = \[1.0\]: .*keep below 1",
        ),
        (
            lambda: tail_comparison(
                text_stability(lambda ids: ids.double().sum(-1), torch.zeros(9, 2).long(), Resample(0, 4), keep=0.5),
                INFLUENCE,
                3,
            ),
            r"influence has 10 prompts and stability 9: .*same prompts",
        ),
    ],
)
def test_bad_requests_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()

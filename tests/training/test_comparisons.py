"""Comparisons of classifiers, against SciPy, enumeration and simulation."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from nslab.training import comparisons as cp


def answers(seeds=5, examples=200, share=0.7, seed=0):
    return np.random.default_rng(seed).random((seeds, examples)) < share


def test_mcnemar_is_scipys_binomial_test_of_the_examples_that_one_alone_has_right():
    for b, c, both, none in [(9, 2, 30, 5), (2, 9, 0, 0), (4, 4, 1, 1), (0, 13, 7, 0), (0, 0, 6, 3), (700, 800, 3, 0)]:
        first = np.repeat([True, False, True, False], [b, c, both, none])
        second = np.repeat([False, True, True, False], [b, c, both, none])
        order = np.random.default_rng(b).permutation(len(first))
        found = cp.mcnemar(first[order], second[order])
        assert (found.first, found.second) == (b, c)
        wanted = stats.binomtest(b, b + c, 0.5).pvalue if b + c else 1.0
        assert found.p == pytest.approx(wanted, rel=1e-9)


def test_mcnemar_rejects_the_better_of_two_equals_at_most_as_often_as_it_says():
    """Enumeration of all 2^11 ways in which 11 differing examples can fall."""
    table = [cp.mcnemar(np.arange(11) < b, np.arange(11) >= b).p for b in range(12)]
    ways = [table[sum(fall)] for fall in itertools.product((0, 1), repeat=11)]
    for alpha in (0.01, 0.05, 0.2, 0.5):
        assert np.mean(np.array(ways) <= alpha) <= alpha


@pytest.mark.parametrize(("right", "total"), [(0, 10), (10, 10), (146, 277), (1, 2), (759, 872)])
def test_wilson_is_scipys(right, total):
    for level in (0.5, 0.95):
        wanted = stats.binomtest(right, total).proportion_ci(level, method="wilson")
        found = cp.wilson(right, total, level=level)
        assert (float(found.low), float(found.high)) == pytest.approx((wanted.low, wanted.high), abs=1e-12)


def test_the_error_of_a_count_is_the_spread_of_counts():
    draws = np.random.default_rng(0).binomial(277, 161 / 277, size=40_000) / 277
    assert cp.count_error(161, 277) == pytest.approx(draws.std(), rel=0.02)


def test_the_majority_is_the_most_frequent_label():
    assert cp.majority(np.array([2, 0, 2, 1])) == (2, 2)
    assert cp.majority(np.array([1, 0])) == (0, 1)


def test_scores_are_the_correlation_and_the_harmonic_mean_of_precision_and_recall():
    labels = (np.random.default_rng(1).random(200) < 0.4).astype(int)
    correct = answers()
    predicted = np.where(correct, labels, 1 - labels)
    found = {name: cp.scores(correct, labels, statistic=name) for name in ("accuracy", "matthews", "f1")}
    for seed, guess in enumerate(predicted):
        assert found["accuracy"][seed] == pytest.approx((guess == labels).mean())
        assert found["matthews"][seed] == pytest.approx(np.corrcoef(guess, labels)[0, 1])
        precision, recall = labels[guess == 1].mean(), guess[labels == 1].mean()
        assert found["f1"][seed] == pytest.approx(stats.hmean([precision, recall]))


def test_who_always_answers_the_same_has_no_matthews_correlation():
    labels = np.array([1, 1, 0])
    assert cp.scores(labels[None] == 1, labels, statistic="matthews") == 0
    assert cp.scores(labels[None] == 1, labels, statistic="f1") == pytest.approx(0.8)
    assert cp.scores(labels[None] == 0, labels, statistic="f1") == 0


def test_the_bootstrap_of_three_examples_and_two_seeds_is_the_enumeration_of_all_resamples():
    first = np.array([[True, True, False], [True, False, True]])
    second = np.array([[False, True, True], [False, False, True]])
    labels = np.array([1, 0, 1])
    all_examples, all_seeds = (list(itertools.product(range(n), repeat=n)) for n in (3, 2))
    for statistic in ("accuracy", "matthews", "f1"):
        values = []
        for rows in all_examples:
            chosen = list(rows)
            one, other = (cp.scores(arm[:, chosen], labels[chosen], statistic=statistic) for arm in (first, second))
            values += [float((one - other)[list(pair)].mean()) for pair in all_seeds]
        values = np.array(values)
        found = cp.paired_bootstrap(first, second, labels, statistic=statistic, resamples=20_000, level=0.8)
        below = (values < -1e-12).mean() + (np.abs(values) < 1e-12).mean() / 2
        assert found.below == pytest.approx(below, abs=0.015)
        for end, share in ((found.interval.low, 0.1), (found.interval.high, 0.9)):
            assert (values < float(end) - 1e-9).mean() <= share + 0.015
            assert (values <= float(end) + 1e-9).mean() >= share - 0.015


def test_the_bootstrap_pairs_hard_examples():
    """Two arms that differ in one example of 200 are told apart far more sharply than their shares are known."""
    first = np.tile(answers(1), (5, 1))
    second = first.copy()
    second[:, np.flatnonzero(first[0])[0]] = False
    found = cp.paired_bootstrap(first, second)
    assert found.difference == pytest.approx(1 / 200)
    assert found.each == pytest.approx([1 / 200] * 5)
    assert float(found.interval.high) <= 5 / 200
    wide = cp.paired_bootstrap(first, answers(seed=9)).interval  # the same accuracy, other examples
    assert float(wide.high - wide.low) > 0.1


def test_the_interval_holds_the_truth_as_often_as_it_says_or_a_little_more():
    """Fresh examples and fresh seeds; an arm is better by 0.1 in truth."""
    draws, held = np.random.default_rng(3), 0
    for repeat in range(150):
        hard, luck = draws.normal(0, 0.15, 120), draws.normal(0, 0.04, (2, 8, 1))
        chance = 0.6 + hard + luck + np.array([0.1, 0.0])[:, None, None]
        first, second = draws.random((2, 8, 120)) < chance
        interval = cp.paired_bootstrap(first, second, resamples=300, seed=repeat).interval
        held += bool(interval.contains(0.1))
    assert 0.92 <= held / 150 <= 1


def test_one_seed_gives_one_answer():
    first, second = answers(seed=1), answers(seed=2)
    assert cp.paired_bootstrap(first, second, seed=4) == cp.paired_bootstrap(first, second, seed=4)
    assert cp.paired_bootstrap(first, second, seed=4) != cp.paired_bootstrap(first, second, seed=5)


@pytest.mark.parametrize(("shared", "spread"), [(0.0, 0.0), (1.0, 0.0), (0.4, 0.0), (0.0, 0.02)])
def test_the_smallest_difference_is_found_as_often_as_asked(shared, spread):
    """Simulated answers: each example's difference is that of all seeds with probability sqrt(shared), else its own."""
    examples, seeds, disagreement, draws = 600, 4, 0.2, np.random.default_rng(5)
    delta = cp.smallest_difference(examples, seeds, disagreement=disagreement, shared=shared, spread=spread)
    found, repeats = 0, 2000
    for _ in range(repeats):
        truth = delta + spread * draws.normal(size=(seeds, 1))
        up = (disagreement + truth) / 2
        uniform = np.where(
            draws.random((seeds, examples)) < math.sqrt(shared),
            draws.random(examples),
            draws.random((seeds, examples)),
        )
        each = (uniform < up) * 1.0 - (uniform > 1 - disagreement + up)
        error = delta / (1.959964 + 0.841621)
        found += abs(each.mean()) > 1.959964 * error
    assert found / repeats == pytest.approx(0.8, abs=0.04)


def test_more_of_either_shows_less_unless_all_seeds_agree():
    base = cp.smallest_difference(400, 1, disagreement=0.3)
    assert cp.smallest_difference(1600, 1, disagreement=0.3) == pytest.approx(base / 2)
    assert cp.smallest_difference(400, 4, disagreement=0.3) == pytest.approx(base / 2)
    assert cp.smallest_difference(400, 4, disagreement=0.3, shared=1) == pytest.approx(base)


@pytest.mark.parametrize("count", [1, 7, 8, 9, 100])
def test_packed_bits_come_back(count):
    bits = answers(1, count, 0.5, seed=count)[0]
    text = cp.packed(bits)
    assert len(text) == 2 * math.ceil(count / 8)
    assert int(text, 16) == sum(1 << (4 * len(text) - 1 - i) for i in np.flatnonzero(bits).tolist())
    assert np.array_equal(cp.unpacked(text, count), bits)


BITS = answers(2, 6)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: cp.mcnemar(BITS[0].astype(int), BITS[1].astype(int)), r"first has shape \(6,\), dtype int64"),
        (lambda: cp.mcnemar(BITS[0], BITS[1, :5]), r"second \(5,\): ask both the same examples"),
        (lambda: cp.paired_bootstrap(BITS[0], BITS[1]), r"give booleans \(seeds, examples\)"),
        (lambda: cp.paired_bootstrap(BITS, BITS, statistic="matthews"), "matthews needs 6 labels, each 0 or 1"),
        (lambda: cp.paired_bootstrap(BITS, BITS, np.arange(6), statistic="f1"), "f1 needs 6 labels, each 0 or 1"),
        (lambda: cp.paired_bootstrap(BITS, BITS, level=95.0), r"level is 95.0, resamples 4000: give a level in \(0, 1"),
        (lambda: cp.wilson(3, 2), "right is 3 of total 2: give a count from 0 to total"),
        (lambda: cp.wilson(0, 0), "right is 0 of total 0"),
        (lambda: cp.wilson(1, 2, level=1.0), "level is 1.0: give a number between 0 and 1"),
        (lambda: cp.majority(np.array([])), r"labels has shape \(0,\), dtype float64"),
        (lambda: cp.smallest_difference(0, 5, disagreement=0.3), "examples is 0: give at least 1"),
        (lambda: cp.smallest_difference(9, 0, disagreement=0.3), "seeds is 0: give at least 1"),
        (lambda: cp.smallest_difference(9, 1, disagreement=0.0), "disagreement is 0.0, shared 0, spread 0: give"),
        (lambda: cp.smallest_difference(9, 1, disagreement=0.3, power=1.0), "power is 1.0: give a number between"),
        (lambda: cp.unpacked("ff", 9), "count is 9 and the text has 8 bits"),
    ],
)
def test_bad_input_is_named_with_a_remedy(call, words):
    with pytest.raises(ValueError, match=words):
        call()

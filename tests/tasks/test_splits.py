"""Splits have exact counts and are repeatable; a random one leaks mirrors into train, an unordered one none."""

import pytest
import torch

from nslab.tasks import ModularArithmetic, split_pairs

TASKS = [("add", 3), ("add", 4), ("multiply", 6), ("subtract", 5), ("divide", 5), ("divide", 7)]


def seeded(seed, device="cpu"):
    return torch.Generator(device).manual_seed(seed)


def named(task, mask):
    """The pairs under a mask, as a set."""
    return {tuple(pair) for pair in task.pairs[mask].tolist()}


@pytest.mark.parametrize("kind", ["random", "unordered"])
@pytest.mark.parametrize(("operation", "p"), TASKS)
def test_every_count_is_exact_and_every_row_is_in_one_group(operation, p, kind):
    """Every possible count, so that also those are met which single rows alone cannot fill up."""
    task = ModularArithmetic(p, operation)
    rows = len(task.pairs)
    for count in range(1, rows):
        for seed in range(10):
            split = split_pairs(task, (count + 0.5) / rows, kind, generator=seeded(seed))
            assert split.train.sum() == count
            assert bool((split.train.int() + split.mirrored.int() + split.unseen.int() == 1).all())
            assert torch.equal(split.test, ~split.train)
            train = named(task, split.train)
            leaked = {(a, b) for a, b in named(task, split.test) if (b, a) in train}
            assert named(task, split.mirrored) == leaked
            assert kind == "random" or not leaked


@pytest.mark.parametrize("kind", ["random", "unordered"])
def test_thirty_percent_of_113_squared_are_3830_rows(kind):
    split = split_pairs(ModularArithmetic(113), 0.3, kind, generator=seeded(0))
    assert split.train.sum() == 3830
    assert split.test.sum() == 12769 - 3830


@pytest.mark.parametrize(("p", "fraction"), [(31, 0.5), (53, 0.4)])
def test_a_random_split_leaks_the_mirrors_of_f_times_one_minus_one_over_p(p, fraction):
    """Of N rows k are in train: a test row is off the diagonal with 1 - 1/p, and its mirror is one of k in N - 1."""
    task = ModularArithmetic(p)
    splits = [split_pairs(task, fraction, generator=seeded(seed)) for seed in range(60)]
    leaks = torch.stack([split.mirrored.sum() / split.test.sum() for split in splits]).double()
    count, rows = int(fraction * p**2), p**2
    exact = (1 - 1 / p) * count / (rows - 1)
    assert abs(exact - fraction * (1 - 1 / p)) < 1e-3
    assert abs(leaks.mean() - exact) < 5 * leaks.std() / len(leaks) ** 0.5
    assert leaks.std() < 0.05


@pytest.mark.parametrize("kind", ["random", "unordered"])
def test_the_diagonal_gets_its_share_of_train(kind):
    """Making the count exact costs less than one diagonal pair in the mean."""
    task = ModularArithmetic(31)
    diagonal = task.pairs[:, 0] == task.pairs[:, 1]
    counts = [split_pairs(task, 0.5, kind, generator=seeded(s)).train[diagonal].sum().item() for s in range(200)]
    assert abs(sum(counts) / len(counts) - 0.5 * 31) < 1


@pytest.mark.parametrize("kind", ["random", "unordered"])
def test_one_state_gives_one_split_and_another_state_another(kind, device):
    task = ModularArithmetic(11, "divide")
    first, again, other = (split_pairs(task, 0.5, kind, generator=seeded(s, device)) for s in (1, 1, 2))
    assert torch.equal(first.train, again.train)
    assert torch.equal(first.mirrored, again.mirrored)
    assert not torch.equal(first.train, other.train)
    assert first.train.device.type == "cpu"
    generator = seeded(1, device)
    one, two = (split_pairs(task, 0.5, kind, generator=generator) for _ in range(2))
    assert not torch.equal(one.train, two.train)  # drawing moves the generator on


@pytest.mark.parametrize("fraction", [0, 0.0, 1, 1.0, -0.1, 1.2, float("nan")])
def test_a_fraction_that_leaves_one_side_empty_is_refused(fraction):
    with pytest.raises(ValueError, match=f"fraction is {fraction}: give more than 0 and less than 1"):
        split_pairs(ModularArithmetic(5), fraction, generator=seeded(0))


@pytest.mark.parametrize("kind", ["random", "unordered"])
def test_a_fraction_below_one_row_is_refused_and_one_just_below_1_leaves_one_test_row(kind):
    task = ModularArithmetic(5)
    with pytest.raises(ValueError, match=r"fraction is 0.039 and leaves train without a row: give more than 1/25"):
        split_pairs(task, 0.039, kind, generator=seeded(0))
    assert split_pairs(task, 0.041, kind, generator=seeded(0)).train.sum() == 1
    below_one = torch.nextafter(torch.tensor(1.0, dtype=torch.float64), torch.tensor(0.0, dtype=torch.float64)).item()
    assert split_pairs(task, below_one, kind, generator=seeded(0)).test.sum() == 1


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="kind is 'mirrored': choose one of random, unordered"):
        split_pairs(ModularArithmetic(5), 0.5, "mirrored", generator=seeded(0))

"""The named functions against their definitions, point by point, and against their closed forms."""

import math

import pytest
import torch

from nslab import boolean as bf

DOUBLE = {"dtype": torch.float64}


def sign(value):
    return (value > 0) - (value < 0)


def slow_tribes(x, width):
    tribes = [x[i : i + width] for i in range(0, len(x), width)]
    return -1 if any(all(bit == -1 for bit in tribe) for tribe in tribes) else 1


def slow_address(x, k):
    return x[k + sum(2**j for j in range(k) if x[j] == -1)]


def slow_iterated(x):
    return x[0] if len(x) == 1 else slow_iterated([sign(sum(x[i : i + 3])) for i in range(0, len(x), 3)])


DEFINITIONS = [
    (bf.dictator(5, 3), lambda x: x[3]),
    (bf.parity(5), math.prod),
    (bf.parity(5, [1, 4]), lambda x: x[1] * x[4]),
    (bf.majority(7), lambda x: sign(sum(x))),
    (bf.weighted_threshold([3, 2, 2, 1], 2), lambda x: sign(3 * x[0] + 2 * x[1] + 2 * x[2] + x[3] - 2)),
    (bf.conjunction(4), lambda x: -1 if all(bit == -1 for bit in x) else 1),
    (bf.disjunction(4), lambda x: 1 if all(bit == 1 for bit in x) else -1),
    (bf.tribes(3, 3), lambda x: slow_tribes(x, 3)),
    (bf.address(2), lambda x: slow_address(x, 2)),
    (bf.address(3), lambda x: slow_address(x, 3)),
    (bf.iterated_majority(2), slow_iterated),
    (bf.junta(6, [4, 1], bf.weighted_threshold([2, 1])), lambda x: sign(2 * x[4] + x[1])),
]


@pytest.mark.parametrize("case", range(len(DEFINITIONS)))
def test_tables_follow_the_definition_point_by_point(case, all_points):
    f, definition = DEFINITIONS[case]
    n = len(f).bit_length() - 1
    assert f.tolist() == [definition(x) for x in all_points(n)]


def test_points_and_popcounts_are_in_table_order(all_points):
    for n in range(6):
        assert [tuple(row) for row in bf.points(n).tolist()] == all_points(n)
        assert bf.popcounts(n).tolist() == [i.bit_count() for i in range(2**n)]


def test_table_tabulates_a_callable_in_batches():
    f = bf.random(7, generator=torch.Generator().manual_seed(0))
    index = 2 ** torch.arange(7)
    looked_up = bf.table(lambda x: f[((x < 0) * index).sum(-1)], 7, batch_size=5)
    assert torch.equal(looked_up, f)


def test_influences_have_their_closed_forms(close):
    n, width, count, k = 9, 3, 4, 2
    assert close(bf.influences(bf.majority(n, **DOUBLE)), [math.comb(n - 1, n // 2) / 2 ** (n - 1)] * n)
    assert close(bf.influences(bf.conjunction(n, **DOUBLE)), [2.0 ** (1 - n)] * n)
    tribal = 2.0 ** (1 - width) * (1 - 2.0**-width) ** (count - 1)
    assert close(bf.influences(bf.tribes(width, count, **DOUBLE)), [tribal] * (width * count))
    assert close(bf.influences(bf.address(k, **DOUBLE)), [0.5] * k + [2.0**-k] * 2**k)
    assert bf.degree(bf.address(k)) == k + 1
    assert close(bf.total_influence(bf.iterated_majority(2, **DOUBLE)), 1.5**2)


def test_stability_has_its_closed_forms(close):
    rho = torch.linspace(-1, 1, 9, dtype=torch.float64)
    assert close(bf.stability(bf.dictator(4, 1, **DOUBLE), rho), rho)
    assert close(bf.stability(bf.parity(6, [0, 2, 5], **DOUBLE), rho), rho**3)
    once = bf.stability(bf.majority(3, **DOUBLE), rho)
    assert close(bf.stability(bf.iterated_majority(2, **DOUBLE), rho), bf.stability(bf.majority(3, **DOUBLE), once))


def test_random_tables_repeat_with_their_generator_and_look_random(seeded):
    assert torch.equal(bf.random(5, 3, generator=seeded(7)), bf.random(5, 3, generator=seeded(7)))
    f = bf.random(10, 50, generator=seeded(8), **DOUBLE)
    mean = bf.total_influence(f).mean().item()
    assert abs(mean - 5) < 0.05, "the mean total influence of random functions is n/2"


def test_a_core_may_be_a_batch():
    core = bf.random(2, 4, generator=torch.Generator().manual_seed(0))
    f = bf.junta(5, [3, 0], core)
    assert f.shape == (4, 32)
    assert bool((bf.influences(f)[:, [1, 2, 4]] == 0).all())


def test_dtypes_follow_the_request():
    for f in (bf.majority(3, **DOUBLE), bf.tribes(1, 2, **DOUBLE), bf.address(1, **DOUBLE), bf.random(2, **DOUBLE)):
        assert f.dtype == torch.float64
    assert bf.conjunction(2).dtype == bf.weighted_threshold([1, 2]).dtype == torch.get_default_dtype()

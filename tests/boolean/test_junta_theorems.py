"""Junta distance against a search over all juntas, and Friedgut's theorem on many functions."""

import itertools
import math

import pytest
import torch

from nslab import boolean as bf
from nslab.boolean import juntas


def slow_distance(f, k):
    """Over all k-subsets, give each setting of the kept bits the majority value; plain loops."""
    values, n = f.tolist(), len(f).bit_length() - 1
    best = 1.0
    for subset in itertools.combinations(range(n), k):
        cells = {}
        for i, value in enumerate(values):
            cells.setdefault(tuple(i >> j & 1 for j in subset), []).append(value)
        best = min(best, sum(min(cell.count(1), cell.count(-1)) for cell in cells.values()) / len(values))
    return best


def test_distance_is_the_minimum_over_all_juntas(zoo, close):
    for f in zoo.values():
        n = len(f).bit_length() - 1
        for k in range(min(n, 6) + 1):
            fit = bf.junta_distance(f, k)
            assert fit.exact
            assert len(fit.coordinates) == k
            assert close(fit.distance, slow_distance(f, k))
            assert close((fit.table != f).double().mean(), fit.distance)
            others = [i for i in range(n) if i not in fit.coordinates]
            assert not bf.influences(fit.table)[others].any(), "the fitted table reads its coordinates only"


def test_a_hidden_junta_is_found():
    core = bf.parity(4)
    fit = bf.junta_distance(bf.junta(16, [2, 7, 11, 13], core), 4)
    assert fit.coordinates == (2, 7, 11, 13)
    assert fit.distance == 0


def test_distance_falls_with_k_from_the_minority_to_zero(seeded):
    f = bf.random(8, generator=seeded(4))
    distances = [bf.junta_distance(f, k).distance for k in range(9)]
    assert distances == sorted(distances, reverse=True)
    assert distances[0] == (1 - abs(f.mean().item())) / 2
    assert distances[8] == 0


def test_greedy_is_labelled_and_never_below_the_exact_distance(zoo, monkeypatch):
    exact = {name: bf.junta_distance(f, 2) for name, f in zoo.items()}
    monkeypatch.setattr(juntas, "EXACT_WORK", 1)
    for name, f in zoo.items():
        greedy = bf.junta_distance(f, 2)
        assert not greedy.exact
        assert greedy.distance >= exact[name].distance - 1e-12
        assert abs((greedy.table != f).double().mean().item() - greedy.distance) < 1e-12


def friedgut_cases():
    generator = torch.Generator().manual_seed(11)
    for k in range(1, 5):
        for _ in range(5):  # 20 random juntas on up to 4 of 9 coordinates
            relevant = torch.randperm(9, generator=generator)[:k].tolist()
            yield bf.junta(9, relevant, bf.random(k, generator=generator, dtype=torch.float64))
    for n in (3, 5, 7, 9):
        yield bf.majority(n, dtype=torch.float64)
    yield from (bf.tribes(2, 4, dtype=torch.float64), bf.address(2, dtype=torch.float64))
    rare = bf.conjunction(9, dtype=torch.float64)
    yield from (rare, rare * bf.dictator(9, 4, dtype=torch.float64), bf.conjunction(1, dtype=torch.float64))


@pytest.mark.parametrize("eps", [0.05, 0.2, 0.45])
def test_friedguts_theorem(eps):
    """f is eps-close to a junta on at most 3**(2I/eps) I**3 / eps**2 coordinates, the ones that the proof names."""
    cases = list(friedgut_cases())
    assert len(cases) >= 25
    for f in cases:
        fit = bf.friedgut_junta(f, eps)
        assert fit.distance <= eps
        assert abs((fit.table != f).double().mean().item() - fit.distance) < 1e-12
        assert len(fit.coordinates) <= bf.friedgut_bound(bf.total_influence(f).item(), eps)


def test_the_steps_of_friedguts_proof(zoo):
    """Each inequality in the docstring, for every threshold and degree, not only for those the proof picks."""
    for f in zoo.values():
        n = len(f).bit_length() - 1
        squares, sizes = bf.spectrum(f).square(), bf.popcounts(n)
        influence = bf.influences(f)
        total = influence.sum().item()
        for d in range(1, n + 1):
            assert squares[sizes > d].sum() <= total / d + 1e-12, "Markov"
            for i in range(n):
                has_i = torch.arange(2**n) >> i & 1 == 1
                low = squares[has_i & (sizes <= d)].sum()
                assert low <= 3 ** (d - 1) * influence[i] ** 1.5 + 1e-12, "hypercontractivity of a derivative"
        for threshold in influence.unique().tolist():
            chosen = [i for i in range(n) if influence[i] >= threshold]
            inside = torch.tensor([all(i in chosen for i in range(n) if s >> i & 1) for s in range(2**n)])
            assert juntas.best_junta(f, chosen).distance <= squares[~inside].sum() / 2 + 1e-12, "half the weight"


def test_the_bound_has_the_stated_constants():
    assert bf.friedgut_bound(2.0, 0.5) == pytest.approx(3**8 * 8 / 0.25)
    assert bf.friedgut_bound(0.0, 0.1) == 0
    assert bf.friedgut_bound(50.0, 0.01) == math.inf


def test_majority_is_no_junta_though_stable():
    """Majority has stability close to 2/pi arcsin(rho) for every n and yet no small junta is close to it."""
    distances = [bf.junta_distance(bf.majority(n), 3).distance for n in (5, 9, 13)]
    assert distances == sorted(distances)
    assert distances[-1] > 0.25

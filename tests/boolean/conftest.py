"""The tolerances of the Boolean tests, fixed in one table, and the slow references that several files share."""

import itertools

import pytest
import torch

TOLERANCES = {
    # (relative to the largest expected value, at least 1)
    "float64": 1e-12,  # an identity in double precision, a few thousand operations
    "float32": 2e-6,
    "float16": 2e-3,
    "bfloat16": 2e-2,
    "counting": 1e-12,  # thresholds against exact integers
    "derivative": 1e-9,  # autodiff against a formula
    "sigmas": 4.5,  # a sampled number against its standard error: one false alarm in 150,000
}


def close(found, expected, tolerance: str | torch.dtype = "float64") -> bool:
    name = tolerance if isinstance(tolerance, str) else str(tolerance).removeprefix("torch.")
    found, expected = (torch.as_tensor(value, dtype=torch.float64) for value in (found, expected))
    assert found.shape == expected.shape, (found.shape, expected.shape)
    scale = max(1.0, expected.abs().max().item()) if expected.numel() else 1.0
    return bool(((found - expected).abs() <= TOLERANCES[name] * scale).all())


@pytest.fixture(name="close")
def _close():
    return close


@pytest.fixture(name="within_error")
def _within_error():
    def within(estimate, truth) -> bool:
        truth = torch.as_tensor(truth, dtype=torch.float64)
        assert estimate.value.shape == truth.shape
        return bool(((estimate.value - truth).abs() <= TOLERANCES["sigmas"] * estimate.stderr + 1e-12).all())

    return within


def all_points(n: int) -> list[tuple[int, ...]]:
    """The points of the cube in table order, from the definition: digit j of the index is 1 where x_j = -1."""
    return [tuple(-1 if i >> j & 1 else 1 for j in range(n)) for i in range(2**n)]


@pytest.fixture(name="all_points")
def _all_points():
    return all_points


@pytest.fixture
def slow_stability():
    """E[f(x) f(y)] by summing over all pairs of points with their joint probability, in plain Python."""

    def stability(f, rho: float, p: float = 0.5) -> float:
        values = f.tolist()
        n = len(values).bit_length() - 1
        law = {1: 1 - p, -1: p}
        total = 0.0
        for (i, x), (j, y) in itertools.product(enumerate(all_points(n)), repeat=2):
            probability = 1.0
            for a, b in zip(x, y, strict=True):
                probability *= law[a] * (rho * (a == b) + (1 - rho) * law[b])
            total += probability * values[i] * values[j]
        return total

    return stability


@pytest.fixture
def seeded():
    return lambda seed=0: torch.Generator().manual_seed(seed)


@pytest.fixture
def zoo():
    """Small ±1-valued functions of different kinds, in double precision."""
    from nslab import boolean as bf

    double = {"dtype": torch.float64}
    return {
        "constant": -torch.ones(8, **double),
        "dictator": bf.dictator(4, 2, **double),
        "parity": bf.parity(5, [0, 3, 4], **double),
        "majority": bf.majority(5, **double),
        "and": bf.conjunction(4, **double),
        "or": bf.disjunction(3, **double),
        "tribes": bf.tribes(2, 3, **double),
        "address": bf.address(2, **double),
        "weighted": bf.weighted_threshold([4, 3, 2, 1, 1], **double),
        "random": bf.random(6, generator=torch.Generator().manual_seed(1), **double),
        "recursive": bf.iterated_majority(2, **double),
    }

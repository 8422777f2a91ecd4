"""The tolerances of the stability tests, fixed in one table, and the slow references that several files share."""

import itertools
import math

import numpy as np
import pytest
import torch

TOLERANCES = {
    "exact": 1e-12,  # an identity in double precision
    "sigmas": 4.5,  # one sampled number against its own error: one false alarm in 150,000
    "binomial": 3.5,  # a count of covered runs against its expectation, in binomial standard deviations
    "never worse": 1.02,  # standard error against naive pairs at equal evaluations
    "majority": 0.7,  # the same for majority of 15 at rho = 1/2: the target
    "limit": 1e-6,  # a bound at rho close to 1 against its limit
}


@pytest.fixture
def tolerances():
    return TOLERANCES


@pytest.fixture
def seeded():
    return lambda seed=0, device="cpu": torch.Generator(device).manual_seed(seed)


@pytest.fixture
def within_error():
    def within(estimate, truth) -> bool:
        truth = torch.as_tensor(truth, dtype=torch.float64)
        assert estimate.value.shape == truth.shape
        gap = (estimate.value.cpu() - truth).abs()
        return bool((gap <= TOLERANCES["sigmas"] * estimate.stderr.cpu() + 1e-12).all())

    return within


@pytest.fixture
def covered():
    """How many runs hold the truth within one standard error, against the binomial law of that count."""

    def check(estimates, truth) -> None:
        inside = sum(bool((e.value - truth).abs() <= e.stderr) for e in estimates)
        expected, runs = math.erf(math.sqrt(0.5)), len(estimates)
        spread = math.sqrt(runs * expected * (1 - expected))
        assert abs(inside - runs * expected) <= TOLERANCES["binomial"] * spread, (inside, runs * expected)
        mean = sum(e.value.item() for e in estimates) / runs
        error = math.sqrt(sum(e.stderr.item() ** 2 for e in estimates)) / runs
        assert abs(mean - truth) <= TOLERANCES["sigmas"] * error, (mean, truth, error)

    return check


def efron_stein(table: np.ndarray) -> dict[tuple[int, ...], float]:
    """The squared norms of the Efron-Stein parts of a function on uniform alphabets, by inclusion and exclusion."""
    axes = range(table.ndim)
    subsets = [s for size in range(table.ndim + 1) for s in itertools.combinations(axes, size)]
    conditional = {s: table.mean(axis=tuple(set(axes) - set(s)), keepdims=True) for s in subsets}
    norms = {}
    for s in subsets:
        part = sum((-1) ** (len(s) - len(t)) * conditional[t] for t in subsets if set(t) <= set(s))
        norms[s] = float((part**2).mean())
    return norms


@pytest.fixture
def weighted_parts():
    """As `parts`, for a law on the alphabet: the projections P_S = prod (1 - E_i) prod E_j, one axis at a time."""

    def norms(table: np.ndarray, law: np.ndarray) -> dict[tuple[int, ...], float]:
        found = {}
        for kinds in itertools.product([False, True], repeat=table.ndim):
            part = table
            for axis, needed in enumerate(kinds):
                mean = np.expand_dims(np.tensordot(part, law, (axis, 0)), axis) + 0 * part
                part = part - mean if needed else mean
            square = part**2
            for _ in kinds:
                square = law @ square
            found[tuple(axis for axis, needed in enumerate(kinds) if needed)] = float(square)
        return found

    return norms


@pytest.fixture
def every_prompt():
    """All strings over a law of quarters, each as often as it is likely: an exact sample of the product law."""

    def strings(quarters: list[int], length: int) -> torch.Tensor:
        symbols = [token for token, times in enumerate(quarters) for _ in range(times)]
        return torch.tensor(list(itertools.product(symbols, repeat=length)))

    return strings


@pytest.fixture
def parts():
    return efron_stein


@pytest.fixture
def on_tokens():
    """A table over a product of alphabets as a callable on token ids 0 .. v-1."""

    def function(table: np.ndarray):
        values = torch.from_numpy(table)
        return lambda ids: values[tuple(ids.unbind(-1))]

    return function

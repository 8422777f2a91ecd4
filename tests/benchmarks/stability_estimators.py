"""The error of the chosen stability estimator against naive pairs at equal evaluations, and what the choosing costs."""

import math

import torch

from nslab import boolean as bf
from nslab.stability import Cube, noise_stability
from tests.benchmarks.harness import Row, as_long, cpu_seconds

BITS = 15
EVALUATIONS = 120_000
SEEDS = 10
FUNCTIONS = {
    "dictator": (lambda x: x[:, 0], lambda: bf.dictator(BITS, dtype=torch.float64), 1.02),
    "majority": (lambda x: torch.sign(x.sum(-1)), lambda: bf.majority(BITS, dtype=torch.float64), 1.02),
    "tribes": (  # five tribes of three
        lambda x: 1 - 2 * (x.unflatten(-1, (5, 3)) == -1).all(-1).any(-1).to(x.dtype),
        lambda: bf.tribes(3, 5, dtype=torch.float64),
        1.02,
    ),
    "parity": (lambda x: x.prod(-1), lambda: bf.parity(BITS, dtype=torch.float64), 1.02),
}


def rows() -> list[Row]:
    """Twelve errors, and the overhead on a callable that costs nothing."""
    compared = [_errors(name, rho) for name in FUNCTIONS for rho in (0.3, 0.5, 0.9)]
    return [*compared, _overhead("auto"), _overhead("naive")]


def _errors(name: str, rho: float) -> Row:
    """Root mean square of the reported errors over seeds; the true error is checked against the exact value."""
    f, table, target = FUNCTIONS[name]
    runs = {method: [_run(f, rho, method, seed) for seed in range(SEEDS)] for method in ("auto", "naive")}
    exact = bf.stability(table(), rho)
    for estimate in (estimate for found in runs.values() for estimate in found):
        assert abs(estimate.value - exact) < 5 * estimate.stderr + 1e-9
        assert estimate.evaluations <= EVALUATIONS
    error = {method: math.sqrt(sum(float(e.stderr) ** 2 for e in found) / SEEDS) for method, found in runs.items()}
    seconds = {method: cpu_seconds(lambda method=method: _run(f, rho, method, 0), repeats=3) for method in runs}
    chosen = sorted({e.method for e in runs["auto"]})
    return Row(
        f"error of the stability of {name}({BITS}) at {rho}",
        seconds["auto"],
        "naive pairs, equal evaluations",
        seconds["naive"],
        error["auto"] / error["naive"],
        0.7 if (name, rho) == ("majority", 0.5) else target,
        "of naive's error",
        f"{', '.join(chosen)} in {SEEDS} seeds; {EVALUATIONS} evaluations, the pilot included",
    )


def _overhead(method: str) -> Row:
    """Seconds for a trivial f, against only making the pairs and multiplying."""
    trivial = lambda x: x[:, 0]  # noqa: E731
    generator = torch.Generator().manual_seed(0)

    def by_hand():
        for _ in range(4):
            x = 1.0 - 2 * torch.randint(2, (EVALUATIONS // 8, BITS), generator=generator)
            y = torch.where(torch.rand(x.shape, generator=generator) < 0.75, x, -x)
            (trivial(x) * trivial(y)).double().mean()

    return as_long(
        f"stability of a trivial callable, method {method!r}",
        cpu_seconds(lambda: _run(trivial, 0.5, method, 0)),
        "pairs by hand",
        cpu_seconds(by_hand),
        note=f"{EVALUATIONS} evaluations of {BITS} bits: drawing, checks, errors, and for 'auto' the pilot",
    )


def _run(f, rho: float, method: str, seed: int):
    generator = torch.Generator().manual_seed(seed)
    return noise_stability(f, Cube(BITS), rho=rho, evaluations=EVALUATIONS, method=method, generator=generator)

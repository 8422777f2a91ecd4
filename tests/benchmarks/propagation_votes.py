"""Votes among n tokens: the fast quadrature against its slow twin, and what the agreement table costs and saves."""

import math

import torch

from nslab import gaussian as gs
from nslab.propagation import agreement_table
from nslab.propagation.agreement_table import AgreementTable
from nslab.propagation.soft_votes import agreement_mass
from nslab.propagation.votes import plurality_agreement
from tests.benchmarks.harness import Row, as_long, cpu_seconds, faster

COUNTS = [3, *(2**k for k in range(1, 13))]
R = torch.linspace(-1, 1, 101, dtype=torch.float64)
LAYERS = 48


def rows() -> list[Row]:
    """Hard votes, building a table, and looking up what 48 layers need."""
    return [*_hard_votes(), *_building(), _looking_up()]


def _hard_votes() -> list[Row]:
    sample = R[1:-1:14]  # the twin has no rotated coordinates at r = ±1
    error = float((plurality_agreement(sample, COUNTS) - _slow(sample)).abs().max())
    assert error < 1e-6, error
    seconds = cpu_seconds(lambda: plurality_agreement(R, COUNTS))
    theirs = cpu_seconds(lambda: _slow(sample[:1]), repeats=3) * len(R)
    name = f"A_n(r), n = 3 and powers of two to {COUNTS[-1]}, {len(R)} values of r"
    note = f"largest difference {error:.0e}; the twin timed at one r and scaled up"
    return [
        as_long(name, seconds, "one second", 1.0, 1, "one thread"),
        faster(name, seconds, "bivariate_normal_cdf on an even grid", theirs, note=note),
    ]


def _slow(r: torch.Tensor) -> torch.Tensor:
    """(counts, r) with the general bivariate normal distribution, shared by all counts."""
    x = torch.arange(-60, 61, dtype=torch.float64)[:, None] / 8
    y = torch.arange(0, 61, dtype=torch.float64) / 8
    weight = torch.exp(-(x**2 + y**2) / 2) / (2 * math.pi) / 64 * torch.where(y == 0, 1.0, 2.0)
    found = []
    for one in r.tolist():
        alpha, beta = math.sqrt((1 + one) / 2), math.sqrt((1 - one) / 2)
        joint = gs.bivariate_normal_cdf(alpha * x + beta * y, alpha * x - beta * y, one)
        found.append(torch.stack([n * (weight * joint ** (n - 1)).sum() for n in COUNTS]))
    return torch.stack(found, -1)


def _building() -> list[Row]:
    build = agreement_table._coefficients.__wrapped__  # past the cache
    single, several = (cpu_seconds(lambda n=n: build(n), repeats=1) for n in ((16,), tuple(range(1, 17))))
    size = f"{agreement_table.DEGREES_SPREAD} x {agreement_table.DEGREES} integrals; once, then kept in memory"
    return [
        as_long("agreement table, n = 16", single, "three seconds", 3.0, 1, size),
        as_long("agreement tables for all n from 1 to 16", several, "the table for n = 16", single, 2),
    ]


def _looking_up() -> Row:
    """What a recursion over 48 layers asks of the table: four correlations a layer and a rho, a spread a layer."""
    table = AgreementTable.of(16)
    r, spread = R.expand(4, -1), torch.linspace(0.5, 40, LAYERS, dtype=torch.float64)
    few = r[:, ::20]
    error = max(float((table(few, tau) - agreement_mass(few, tau, 16)).abs().max()) for tau in spread[::6])
    assert error < 1e-5, error
    ours = cpu_seconds(lambda: [table(r, tau) for tau in spread])
    theirs = cpu_seconds(lambda: [agreement_mass(few, tau, 16) for tau in spread[::12]], repeats=3)
    theirs *= r.numel() / few.numel() * LAYERS / len(spread[::12])
    note = f"layer by layer; largest difference {error:.0e}; the integrals timed on a sample and scaled up"
    return faster(f"G_16(r, tau), {LAYERS} layers x 4 x {len(R)}", ours, "the integrals", theirs, note=note)

"""The moment recursion through 48 layers at 101 correlations: the promised figure of the room, and its slow twin.

The target is absolute, 50 ms on one thread once the agreement table is there. The peer of each row is the same
recursion in another way: with its table built anew, with exact agreement masses in place of the table, and one
correlation at a time.
"""

import torch

from nslab.propagation import agreement_table
from nslab.propagation.agreement_table import AgreementTable
from nslab.propagation.architecture import Architecture
from nslab.propagation.intervals import propagate_intervals
from nslab.propagation.moments import Moments
from nslab.propagation.recursion import propagate
from nslab.propagation.soft_votes import agreement_mass
from tests.benchmarks.harness import Row, as_long, cpu_seconds, faster, in_words

SHAPE = Architecture(tokens=16, width=512, layers=48, residual="scaled")
RHO = torch.linspace(0, 1, 101, dtype=torch.float64)
EXACT_LAYERS = 2  # of 48: exact masses take too long for all
TARGET = 0.05


def rows() -> list[Row]:
    """Ours against a budget of 50 ms, then against three slower ways."""
    start = Moments.inputs(RHO)
    build = cpu_seconds(_build_table)
    table = AgreementTable.of(SHAPE.tokens)
    ours = cpu_seconds(lambda: propagate(start, SHAPE))
    bounds = cpu_seconds(lambda: propagate_intervals(start, SHAPE))
    each = cpu_seconds(lambda: [propagate(Moments.inputs(rho), SHAPE) for rho in RHO[::10]]) * 101 / 11
    few = Architecture(tokens=16, width=512, layers=EXACT_LAYERS, residual="scaled")
    exact = cpu_seconds(lambda: propagate(start, few, table=_exact)) * SHAPE.layers / EXACT_LAYERS
    error = (propagate(start, few, table=_exact).m - propagate(start, few, table=table).m).abs().max().item()
    name = "recursion, 48 layers x 101 rho"
    return [
        as_long(name, ours, "budget of 50 ms", TARGET, 1, f"table cached; to build it once takes {in_words(build)}"),
        faster(name, ours, "table built anew", ours + build),
        faster(name, ours, "exact masses", exact, note=f"{EXACT_LAYERS} layers timed; differs by {error:.0e}"),
        faster(name, ours, "one rho at a time", each, note="11 of 101 timed"),
        as_long("intervals, 48 layers x 101 rho", bounds, "the recursion", ours),
    ]


def _exact(r: torch.Tensor, spread: torch.Tensor) -> torch.Tensor:
    return agreement_mass(r, spread, SHAPE.tokens)


def _build_table() -> None:
    agreement_table._coefficients.cache_clear()
    agreement_table._moved.cache_clear()
    AgreementTable.of(SHAPE.tokens)

"""Stability curves, influences and weighted votes against boofun."""

import warnings

import torch

from nslab import boolean as bf
from tests.benchmarks.harness import Row, cpu_seconds, faster

DOUBLE = {"dtype": torch.float64}


def rows() -> list[Row]:
    """Each computed from a truth table, as a caller would."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"(?s).*reflected list")  # boofun hands lists to Numba
        return [_stability_curve(15), *_influences(15), _weighted_vote()]


def _stability_curve(n: int) -> Row:
    import boofun

    f, theirs = bf.majority(n, **DOUBLE), boofun.majority(n)
    rho = torch.linspace(0, 1, 101, dtype=torch.float64)
    grid = rho.tolist()
    curve = [theirs.noise_stability(r) for r in grid]  # all 101 calls, before any timing
    assert (bf.stability(f, rho) - torch.tensor(curve, dtype=torch.float64)).abs().max() < 1e-12
    ours = cpu_seconds(lambda: bf.stability(f, rho))
    public = cpu_seconds(lambda: [theirs.noise_stability(r) for r in grid])
    note = "101 calls, as its interface demands; each transforms the table again"
    return faster(
        f"101-point stability curve, majority({n})", ours, "boofun f.noise_stability(rho)", public, 1000, note
    )


def _influences(n: int) -> list[Row]:
    import boofun

    f, theirs = bf.majority(n, **DOUBLE), boofun.majority(n)
    expected = torch.from_numpy(theirs.influences())
    assert (bf.influences(f) - expected).abs().max() < 1e-12
    name = f"all influences, majority({n})"
    public = cpu_seconds(theirs.influences)
    return [
        faster(f"{name}, influences", cpu_seconds(lambda: bf.influences(f)), "boofun f.influences()", public),
        faster(f"{name}, flip_influences", cpu_seconds(lambda: bf.flip_influences(f)), "boofun f.influences()", public),
    ]


def _weighted_vote() -> Row:
    import boofun

    weights = [17, 15, 13, 12, 11, 9, 8, 7, 6, 5, 4, 3, 2, 2, 1]
    found = torch.from_numpy(boofun.weighted_majority(weights).influences())
    assert (bf.threshold_influences(weights) - found).abs().max() < 1e-12
    ours = cpu_seconds(lambda: bf.threshold_influences(weights))
    public = cpu_seconds(lambda: boofun.weighted_majority(weights).influences())
    note = "counting against tabulating, 15 voters; at 51 or 1001 voters only counting remains"
    return faster("influences of a weighted vote", ours, "boofun weighted_majority", public, None, note)

"""Random networks of many shapes: measured moments beside the recursion, and inside the intervals or not.

Each setting is drawn `seeds` times at each width, with the same inputs for all rho. Beside the means over networks
stand the recursion (for a causal mask its position-resolved form) and two intervals: "theory", version B with slack
4/sqrt(width) and agreement masses from theory, and "hull", which knows nothing of the masses. Both are fixed before a
network is drawn. A network is covered when all its moments and ratios, after every layer and at all rho, are inside;
before the first layer there is nothing but the sampling error of the inputs.
"""

import math
from dataclasses import asdict, dataclass

import torch

from nslab.propagation.architecture import Architecture
from nslab.propagation.causal import propagate_causal
from nslab.propagation.intervals import propagate_intervals
from nslab.propagation.moments import Moments
from nslab.propagation.random_networks import simulate
from nslab.propagation.recursion import attention_masses, propagate
from nslab.records import RunLog

SETTINGS = {
    "paper": {},
    "identity": {"scores": "identity"},
    "damped": {"gain": 0.8},
    "residual": {"residual": "scaled"},
    "pre-norm": {"residual": "pre-norm", "norm": "rms"},
    "soft pre-norm": {"residual": "pre-norm", "norm": "layer", "score_scale": None},
    "causal": {"residual": "pre-norm", "norm": "rms", "causal": True},
}
"""What differs from `Architecture`'s defaults; a `score_scale` of None stands for 1/sqrt(width)."""

NEAR, COVERED = 0.03, 0.99  # of a correlation; of the networks


@dataclass(frozen=True)
class Config:
    """What is drawn.

    Attributes:
        seeds: networks of each setting and width.
        settings: names in `SETTINGS`.
        widths: of the networks.
        tokens: of a sequence.
        layers: of a network.
        rho: correlations of the inputs, in (0, 1).
        inputs: sequences a network is run on. Where votes are hard, few of them leave an error that no width removes:
            at 4, a tenth of the networks without a residual leave the interval; at 16, about one in a hundred.
    """

    seeds: int
    settings: tuple[str, ...] = tuple(SETTINGS)
    widths: tuple[int, ...] = (256, 512)
    tokens: int = 16
    layers: int = 6
    rho: tuple[float, ...] = (0.3, 0.5, 0.7, 0.9)
    inputs: int = 16


PRESETS = {
    "quick": Config(seeds=40, settings=("residual", "pre-norm"), widths=(256,), layers=4, rho=(0.3, 0.7)),
    "laptop": Config(seeds=200),
    "full": Config(seeds=1000, widths=(256, 512, 1024, 2048), layers=12),
}


def architecture(config: Config, setting: str, width: int) -> Architecture:
    """The networks of a setting. Errors: `ValueError` for an unknown setting, with the known ones."""
    if setting not in SETTINGS:
        raise ValueError(f"settings has {setting!r}: choose from {', '.join(SETTINGS)}")
    changes = dict(SETTINGS[setting])
    if "score_scale" in changes:
        changes["score_scale"] = 1 / math.sqrt(width)
    return Architecture(config.tokens, width, config.layers, **changes)


def run(config: Config, log: RunLog, *, device: torch.device) -> dict:
    """Draw and measure setting by setting; a kill loses the setting at work."""
    done = log.restored["done"] if log.restored else {}
    cells = [(setting, width) for setting in config.settings for width in config.widths]
    shapes = {cell: architecture(config, *cell) for cell in cells}
    for number, (setting, width) in enumerate(cells):
        name = f"{setting}/{width}"
        log.progress(number, len(cells), name)
        if name not in done:
            done[name] = cell(config, shapes[setting, width], number, device)
            log.save({"done": done})
        log.record(0, **{f"{name}/{key}": value.float() for key, value in done[name]["series"].items()})
    log.progress(len(cells), len(cells))
    told = {name: one["told"] for name, one in done.items()}
    bounded = [one["theory"]["covered"] for one in told.values() if "theory" in one]
    return {"config": asdict(config), "covered": sum(bounded) / len(bounded) if bounded else None, "cells": told}


def phenomenon(result: dict) -> str | None:
    """With a residual, theory is near the mean and its interval holds the networks; a gain under 1 kills m alone."""
    for name, one in result["cells"].items():
        setting = SETTINGS[name.split("/")[0]]
        if "residual" in setting:
            if max(one["gap"]) > NEAR:
                return f"{name}: a recursion within {NEAR} of the mean correlation; it is {max(one['gap']):.3f} off"
            if "theory" in one and one["theory"]["covered"] < COVERED:
                return f"{name}: {COVERED:.0%} of the networks in the interval; it holds {one['theory']['covered']:.1%}"
        if "gain" in setting and not (
            one["raw"][-1] < one["raw"][1] and one["correlation"][-1] > one["correlation"][1]
        ):
            return f"{name}: raw stability that dies while the correlation rises"
    return None


def cell(config: Config, shape: Architecture, number: int, device: torch.device) -> dict:
    """One setting at one width: what the result tells, and the series of the history."""
    rho = torch.tensor(config.rho, dtype=torch.float64)
    start = Moments.inputs(rho)
    predicted = propagate_causal(start, shape).average() if shape.causal else propagate(start, shape)
    generator = torch.Generator(device).manual_seed(number)
    found = simulate(shape, rho, inputs=config.inputs, networks=config.seeds, generator=generator)
    measured = found.moments
    each = Moments(
        *(part.cpu() for part in (measured.m, measured.o, measured.q, measured.p))
    )  # (networks, layers, rho)
    means = each.each(lambda part: part.mean(0))
    series = {
        "measured": torch.stack(means.parts()),
        "stderr": torch.stack([measured.estimate(name).stderr.cpu() for name in ("m", "correlation")]),
        "predicted": torch.stack(predicted.parts()),
        "agreement": torch.stack([getattr(found.agreement, name).mean(0).cpu() for name in ("s", "t", "s_a", "t_a")]),
    }
    told = {
        "raw": means.m.tolist(),
        "correlation": means.correlation.tolist(),
        "predicted": predicted.correlation.tolist(),
        "gap": (means.correlation - predicted.correlation).abs().amax(-1).tolist(),
    }
    if shape.causal:
        return {"told": told, "series": series}
    masses = attention_masses(predicted[:-1], shape)
    series["agreement_predicted"] = torch.stack([masses.s, masses.t, masses.s_a, masses.t_a])
    for name, agreement in (("theory", "theory"), ("hull", "unknown")):
        intervals = propagate_intervals(start, shape, agreement=agreement)
        inside = intervals.contains(each)[:, 1:]  # (networks, layers, rho)
        told[name] = {
            "covered": inside.flatten(1).all(1).double().mean().item(),
            "covered_by_layer": inside.all(-1).double().mean(0).tolist(),
            "median_width": intervals.width[1:].median(-1).values.tolist(),
        }
        low, high = intervals.correlation
        series[f"{name}_low"] = torch.stack([*intervals.low.parts(), low])
        series[f"{name}_high"] = torch.stack([*intervals.high.parts(), high])
    return {"told": told, "series": series}

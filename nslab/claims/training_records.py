"""Recorded trainings as the checks read them: series over steps and seeds, when something was known, and it in words.

Each setting comes from the strongest record that has it. Runs with changed settings do not count: their settings are
not what their names say.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from nslab import records
from nslab.claims.verdicts import number_name
from nslab.records.places import CUSTOM
from nslab.reruns import grokking, parity
from nslab.stability.tabulated import energy_stability
from nslab.training.milestones import LEVEL, first_passage, last_passage


@dataclass(frozen=True)
class Run:
    """The networks of one setting during training. Series are (records, seeds).

    Attributes:
        steps: of the records, (records,).
        train: accuracy on the train set.
        test: accuracy on what was never seen, mirrored pairs apart.
        mirrored: accuracy on test pairs whose mirror is in the train set; NaN where there are none.
        readings: noise stability, read in one way or in several.
        target: that of the target.
        source: which record.
    """

    steps: np.ndarray
    train: np.ndarray
    test: np.ndarray
    mirrored: np.ndarray
    readings: Mapping[str, np.ndarray]
    target: float
    source: str

    @property
    def memorised(self) -> Tensor:
        """First step at which each seed knows its train set; infinite for never."""
        return first_passage(self.steps, self.train, LEVEL).nan_to_num(math.inf)

    @property
    def generalised(self) -> Tensor:
        """First step at which each seed knows what it never saw; infinite for never."""
        return first_passage(self.steps, self.test, LEVEL).nan_to_num(math.inf)

    def at(self, steps: Tensor, series: np.ndarray) -> np.ndarray:
        """The value of each seed at a recorded step of its own, (seeds,); NaN where the step is infinite."""
        index = np.searchsorted(self.steps, steps.numpy()).clip(max=len(self.steps) - 1)
        return np.where(steps.isfinite(), series[index, np.arange(series.shape[1])], np.nan)

    def took(self, steps: Tensor) -> str:
        """Steps of all seeds, in words."""
        there = steps[steps.isfinite()].tolist()
        told = [f"{span(there, '.0f')} steps"] if there else []
        if missing := len(steps) - len(there):
            told.append(f"{missing} of {len(steps)} not by step {self.steps[-1]}")
        return ", ".join(told)


@dataclass(frozen=True)
class ParityRun(Run):
    """A run on a sparse parity.

    Attributes:
        margin: least first-layer weight energy of a relevant bit over the largest of another.
        share: of the weight energy that lies on the relevant bits.
        movement: distance of the first layer from its start.
    """

    margin: np.ndarray
    share: np.ndarray
    movement: np.ndarray

    @property
    def revealed(self) -> Tensor:
        """First step from which on the relevant bits have the largest weights, for good; infinite for never."""
        return last_passage(self.steps, self.margin, 1).nan_to_num(math.inf)


def read_grokking(keep: float, root: str | None = None) -> dict[str, Run]:
    """Every setting of the records of `grokking`, with stability as it is ("raw") and divided by its value at keep 1.

    Args:
        keep: of the noise.
        root: the folder of all records; `records.root()` by default.
    """
    found = {}
    for record, name, told in _settings("grokking", root):
        steps, energies = grokking.curves(record, name, "energies")
        train, unseen, mirrored = (
            grokking.curves(record, name, f"{rows}_accuracy")[1].astype(float)
            for rows in ("train", "unseen", "mirrored")
        )
        raw, whole = (energy_stability(torch.from_numpy(energies).double(), one).numpy() for one in (keep, 1))
        target = float(energy_stability(torch.tensor(told["energies_of_the_task"], dtype=torch.float64), keep))
        readings = {"raw": raw, "divided": raw / whole}
        found[name] = Run(steps, train, unseen, mirrored, readings, target, source(record))
    return found


def read_parity(rho: float, root: str | None = None) -> dict[str, ParityRun]:
    """Every setting of the records of `parity`, with the stability of the answers ±1 at a recorded `rho` ("signs")."""
    found = {}
    for record, name, told in _settings("parity", root):
        keys = ("train_accuracy", "test_accuracy", "stability", "margin", "relevant_share", "movement")
        steps = parity.curves(record, name, "margin")[0]
        train, test, stability, *weights = (parity.curves(record, name, key)[1].astype(float) for key in keys)
        readings = {"signs": stability[..., record.result["rho"].index(rho)]}
        nowhere = np.full_like(test, np.nan)
        found[name] = ParityRun(steps, train, test, nowhere, readings, rho ** told["order"], source(record), *weights)
    return found


def published(experiment: str, root: str | None = None) -> Iterator[records.Record]:
    """The records of an experiment whose settings were not changed, the strongest first."""
    return (record for record in records.find(experiment, root=root) if record.preset != CUSTOM)


def _settings(experiment: str, root: str | None) -> Iterator[tuple[records.Record, str, dict]]:
    """Record, name and result of each setting."""
    seen = set()
    for record in published(experiment, root):
        for name, told in record.result["settings"].items():
            if name not in seen:
                seen.add(name)
                yield record, name, told


def source(record: records.Record) -> str:
    """Which record, and whether it is stale, in words."""
    age = f", stale: {record.stale_because}" if record.stale else ""
    return f"{record.preset} record of {record.experiment} of {record.date}{age}"


@runtime_checkable
class Recorded(Protocol):
    """What was read from a record, and says in words from which."""

    source: str


def sources(runs: Mapping[str, Recorded]) -> str:
    """Which records, in words."""
    return "; ".join(sorted({one.source for one in runs.values()}))


def span(values: Iterable[float], digits: str) -> str:
    """The smallest and the largest of some numbers."""
    values = list(values)
    low, high = format(min(values), digits), format(max(values), digits)
    return low if low == high else f"{low} to {high}"


def names(settings: Iterable[str]) -> str:
    """Names of settings in a sentence."""
    return ", ".join(f"`{name}`" for name in settings)


def numbered(**numbers: float | int | np.generic | Tensor) -> dict[str, float]:
    """Numbers for a verdict: letters and digits in their names, and without those of seeds that never got there."""
    told = {number_name(name): one for name, one in numbers.items()}
    return {name: float(one) for name, one in told.items() if math.isfinite(one)}

r"""Where grokking happens, and when: weight decay against train fraction, and the clock of decay.

A cell is a modulus, a learning rate, a weight decay and a train fraction. In every cell the same seeds train the
quadratic network, each on the split and from the weights that `nslab.reruns.grokking` gives it. Two sets of cells:

- the diagram: decay against fraction at one learning rate. A network ends in one of five phases, see `phase`.
- the clock: learning rate against decay at one fraction. Grokking takes a number of *steps* that spreads widely, and a
  number of e-foldings of decay, $t\, \eta\, \lambda$, that does not.

A network leaves once it has generalised, or at its limit, a fixed number of e-foldings. Cells with one fraction and one
limit are trained as one ensemble, with a rate and a decay for each member.

Cost of `full`: 20 million seed-steps at most, about eight hours of one CPU thread by the rate of the laptop record.
"""

from dataclasses import asdict, dataclass
from itertools import product
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from nslab.records import Record, RunLog
from nslab.reruns.grokking import Setting, prepare
from nslab.tasks import ModularArithmetic, Split
from nslab.training.ensemble import EnsembleTrainer
from nslab.training.ensemble_settings import EnsembleConfig
from nslab.training.milestones import LEVEL, first_passage
from nslab.training.pair_measures import PairMeasures
from nslab.training.pair_networks import QuadraticNetwork, Weights

SAVE_EVERY = 20  # evaluations
CURVES = ("train_accuracy", "test_accuracy")
LAST = (*CURVES, "energies", "weight_norm")
PHASES = ("confusion", "memorisation", "partial", "grokking", "comprehension")
PART = 0.5  # test accuracy from which a network that never reaches LEVEL has learned a part of the rule
DELAY = 2  # generalisation this many times later than memorisation is grokking
RANGE, SPREAD = 10, 2.5  # where rate times decay differ by a factor RANGE, e-foldings until grokking do by SPREAD


@dataclass(frozen=True)
class Config:
    """What is trained.

    Attributes:
        seeds: networks of each cell.
        moduli: of the addition; each has a diagram and a clock of its own.
        width: hidden units.
        decays: of the diagram.
        fractions: of the diagram.
        learning_rate: of the diagram.
        clock_rates: learning rates of the clock.
        clock_decays: decays of the clock, above 0.
        clock_fraction: train fraction of the clock.
        efoldings: of decay, after which a network leaves, whether it has generalised or not.
        steps: after which it leaves in any case.
        steps_without_decay: after which it leaves where there is no decay.
    """

    seeds: int
    moduli: tuple[int, ...] = (31,)
    width: int = 128
    decays: tuple[float, ...] = (0.0, 0.3, 1.0, 3.0, 10.0)
    fractions: tuple[float, ...] = (0.2, 0.3, 0.4, 0.5, 0.6)
    learning_rate: float = 1e-2
    clock_rates: tuple[float, ...] = (1e-3, 3e-3, 1e-2)
    clock_decays: tuple[float, ...] = (0.5, 1.0, 2.0)
    clock_fraction: float = 0.5
    efoldings: float = 25.0
    steps: int = 20_000
    steps_without_decay: int = 3000


PRESETS = {
    "quick": Config(
        seeds=2,
        decays=(0.0, 0.6, 2.0),
        fractions=(0.5,),
        clock_rates=(3e-3, 1e-2),
        clock_decays=(0.6, 2.0),
        steps=4000,
        steps_without_decay=1000,
    ),
    "laptop": Config(seeds=8),
    "full": Config(
        seeds=16,
        moduli=(31, 59),
        decays=(0.0, 0.1, 0.3, 0.5, 1.0, 2.0, 3.0, 10.0),
        fractions=(0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.7),
        clock_decays=(0.3, 0.5, 1.0, 2.0),
        steps=50_000,
        steps_without_decay=10_000,
    ),
}


class Cell(NamedTuple):
    """What the networks of a cell have in common."""

    modulus: int
    learning_rate: float
    weight_decay: float
    fraction: float


class Ensemble(NamedTuple):
    """What the cells that are trained together have in common."""

    modulus: int
    fraction: float
    limit: int


def run(config: Config, log: RunLog, *, device: torch.device) -> dict:
    """Train ensemble by ensemble; a kill loses a few checkpoints of the one at work."""
    diagram, clock = cells_of(config)
    ensembles: dict[Ensemble, list[Cell]] = {}
    for cell in dict.fromkeys(diagram + clock):
        together = Ensemble(cell.modulus, cell.fraction, limit(config, cell))
        ensembles.setdefault(together, []).append(cell)
    begun = {one: begin(config, one) for one in ensembles}  # refuses bad fractions before anything is trained
    found = {}
    for one, cells in ensembles.items():
        name = f"p{one.modulus}-f{one.fraction:g}-{one.limit}"

        def work(_: int, log: RunLog, one: Ensemble = one, cells: list[Cell] = cells) -> dict:
            return {"cells": train(config, one, cells, *begun[one], log, device)}

        [told] = log.each_seed(1, work, name=name)
        for cell, values in zip(cells, told["cells"], strict=True):
            found[cell] = cell._asdict() | {"limit": one.limit, "series": f"{name}_{series(cell)}"} | values
    named = {"diagram": diagram, "clock": clock}
    return {"config": asdict(config)} | {name: [found[cell] for cell in cells] for name, cells in named.items()}


def phenomenon(result: dict) -> str | None:
    """Nothing generalises without decay; more decay groks sooner; e-foldings until then agree where steps do not."""
    for cell in result["diagram"]:
        if cell["weight_decay"] == 0 and any(step is not None for step in cell["generalised_at"]):
            return f"{cell['series']}: no network at {LEVEL:.0%} test accuracy without decay; some got there"
    for modulus in result["config"]["moduli"]:
        clock = [cell for cell in result["clock"] if cell["modulus"] == modulus]
        steps = [_median(cell["generalised_at"]) for cell in clock]
        speeds = [cell["learning_rate"] * cell["weight_decay"] for cell in clock]
        if slow := [cell["series"] for cell, step in zip(clock, steps, strict=True) if step == np.inf]:
            return f"{slow[0]}: most networks of the clock at {LEVEL:.0%} test accuracy; most are not"
        for (one, sooner), (other, later) in product(zip(clock, steps, strict=True), repeat=2):
            alike = one["learning_rate"] == other["learning_rate"]
            if alike and one["weight_decay"] > other["weight_decay"] and sooner >= later:
                names = one["series"], other["series"]
                return f"more decay groks sooner; {names[0]} takes {sooner:.0f} steps, {names[1]} {later:.0f}"
        foldings = [step * speed for step, speed in zip(steps, speeds, strict=True)]
        if max(speeds) / min(speeds) < RANGE:
            return f"p = {modulus}: rate times decay over a factor {RANGE}; it is {max(speeds) / min(speeds):.1f}"
        if (spread := max(foldings) / min(foldings)) >= SPREAD:
            return f"p = {modulus}: e-foldings until grokking within a factor {SPREAD}; they differ by {spread:.1f}"
    return None


def _median(steps: list[int | None]) -> float:
    """The median of the steps, where a network that never got there counts as later than all others."""
    return float(np.median([np.inf if step is None else step for step in steps]))


def cells_of(config: Config) -> tuple[list[Cell], list[Cell]]:
    """The cells of the diagram, decay by decay for each fraction, and those of the clock, decay by decay for each rate.

    Errors: `ValueError` for an empty tuple, a limit that is none, and a clock without decay, which stands still.
    """
    for name in ("moduli", "decays", "fractions", "clock_rates", "clock_decays"):
        if not getattr(config, name):
            raise ValueError(f"{name} is empty: give at least one")
    for name in ("steps", "steps_without_decay"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name} is {getattr(config, name)}: give at least 1")
    if still := [decay for decay in config.clock_decays if not decay > 0]:
        raise ValueError(f"clock_decays has {still[0]}: give positive numbers, as without decay the clock stands still")
    if not config.efoldings > 0:
        raise ValueError(f"efoldings is {config.efoldings}: give a positive number, for example 15")
    diagram = product(config.moduli, [config.learning_rate], config.fractions, config.decays)
    clock = product(config.moduli, config.clock_rates, [config.clock_fraction], config.clock_decays)
    return tuple([Cell(p, rate, decay, part) for p, rate, part, decay in cells] for cells in (diagram, clock))


def limit(config: Config, cell: Cell) -> int:
    """Steps after which a network of this cell leaves."""
    speed = cell.learning_rate * cell.weight_decay
    return min(config.steps, max(1, round(config.efoldings / speed))) if speed > 0 else config.steps_without_decay


def begin(config: Config, one: Ensemble) -> tuple[list[Split], Weights]:
    """The split and the initial weights of each seed."""
    network = QuadraticNetwork(ModularArithmetic(one.modulus), config.width)
    return prepare(Setting(network, one.fraction, one.limit), range(config.seeds))


def train(
    config: Config,
    one: Ensemble,
    cells: list[Cell],
    splits: list[Split],
    weights: Weights,
    log: RunLog,
    device: torch.device,
) -> list[dict]:
    """All seeds of all these cells at once: milestones and last measures of each cell, and its curves in the log."""
    task = ModularArithmetic(one.modulus)
    members = [(cell, split) for cell in cells for split in splits]
    trainer = EnsembleTrainer(
        QuadraticNetwork(task, config.width),
        {key: torch.cat([weight] * len(cells)).to(device) for key, weight in weights.items()},
        EnsembleConfig(
            steps=one.limit,
            learning_rate=tuple(cell.learning_rate for cell, _ in members),
            weight_decay=tuple(cell.weight_decay for cell, _ in members),
            evaluate_every=max(1, min(25, one.limit // 100), one.limit // 800),
            leave_at=LEVEL,
        ),
        torch.stack([task.pairs[split.train] for _, split in members]),
        torch.stack([task.labels[split.train] for _, split in members]),
        measure=PairMeasures(task, [split for _, split in members]),
    )
    if log.restored:
        trainer.load_state(log.restored["trainer"])
    by_cell = ByCell(log, cells, log.restored["last"] if log.restored else {})
    trainer.run(
        log=by_cell,
        save=lambda state: log.save({"trainer": state, "last": by_cell.last}),
        save_every=SAVE_EVERY,
        progress=log.progress,
    )
    curves, told = log.arrays(), []
    milestones = {
        "generalised_at": [step if step >= 0 else None for step in trainer.generalised_at.tolist()],
        "left_at": trainer.left_at.tolist(),
        "diverged": trainer.diverged.tolist(),
    } | {key: by_cell.last[key].tolist() for key in LAST}
    for number, cell in enumerate(cells):
        name = f"{series(cell)}_train_accuracy"
        known = first_passage(curves[f"{name}_step"], curves[name], LEVEL).tolist()
        mine = slice(number * config.seeds, (number + 1) * config.seeds)
        told.append({"memorised_at": [int(step) if step == step else None for step in known]})
        told[-1] |= {key: values[mine] for key, values in milestones.items()}
    return told


class ByCell(NamedTuple):
    """A recorder that keeps the curves of each cell, (seeds,) in single precision, and the last values of `LAST`."""

    log: RunLog
    cells: list[Cell]
    last: dict[str, Tensor]

    def record(self, step: int, /, **values: Tensor) -> None:
        """Pass on what is kept."""
        self.last.update({key: values[key].cpu().clone() for key in LAST})
        kept = {}
        for key in CURVES:
            by_cell = values[key].float().unflatten(0, (len(self.cells), -1))  # (cells, seeds)
            kept |= {f"{series(cell)}_{key}": value for cell, value in zip(self.cells, by_cell, strict=True)}
        self.log.record(step, **kept)


def series(cell: Cell) -> str:
    """What the curves of a cell are called within its ensemble."""
    return f"lr{cell.learning_rate:g}-wd{cell.weight_decay:g}"


def phase(memorised_at: int | None, generalised_at: int | None, test_accuracy: float) -> str:
    """What a network ended as, one of `PHASES`, from its milestones and its last test accuracy.

    Confusion: it never knew its train set. Memorisation: it knew that and no more. Partial: it knew half of the test
    set as well, and never all. Grokking: it knew the test set, and that took at least twice as many steps as the train
    set. Comprehension: it took less.

    Source: all but the partial phase after Liu et al. (2022), arXiv 2205.10343; where we draw the lines is ours.
    """
    if memorised_at is None:
        return "confusion"
    if generalised_at is None:
        return "partial" if test_accuracy >= PART else "memorisation"
    return "grokking" if generalised_at >= DELAY * memorised_at else "comprehension"


def curves(record: Record, cell: dict) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Steps (records,) and the accuracies `CURVES`, (records, seeds) each, of a cell of the result.

    A network that has left keeps its last values.
    """
    found = {key: record.series(f"{cell['series']}_{key}") for key in CURVES}
    return found["test_accuracy"][0], {key: values[:, 0] for key, (_, values) in found.items()}

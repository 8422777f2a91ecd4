"""Grokking: networks on modular arithmetic know their train pairs early and all pairs late, measured on the way.

Every setting is trained from `seeds` seeds as one ensemble; a seed fixes the split and the initial weights. At each
checkpoint the exact measures of `PairMeasures` are kept, over all pairs: losses and accuracies, the energies of the
class probabilities (from which follows the noise stability at any keep), the Fourier spectrum of the logits, the
frequency of each hidden unit, the weight norm, the energies of attention. They are called `<setting>_<measure>`;
`curves` reads them. Series with a number for each unit or pair are kept for the first seed alone, and less often.

Cost of `full`: about six minutes of one CPU thread a seed, by the record of five; a GPU trains all at once.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from nslab.records import Record, RunLog
from nslab.tasks import ModularArithmetic, Split, split_pairs
from nslab.training.ensemble import EnsembleTrainer
from nslab.training.ensemble_settings import EnsembleConfig
from nslab.training.pair_measures import PairMeasures
from nslab.training.pair_networks import QuadraticNetwork, Weights, stack_members
from nslab.training.table_transformer import TokenTableTransformer

PICTURES = ("correct", "neuron_frequency", "neuron_share")  # a number for each unit or pair
LEVEL = 0.99  # accuracy at which pairs count as known
SAVE_EVERY = 10  # evaluations


@dataclass(frozen=True)
class Setting:
    """A task, a network and how it is trained.

    Attributes:
        network: what is trained; it holds the task.
        fraction: share of the pairs to train on.
        steps: at most.
        learning_rate: of AdamW; betas are 0.9 and 0.98.
        weight_decay: of AdamW, decoupled, on all weights.
        split: "random" or "unordered".
        warmup: steps.
        evaluate_every: steps between two checkpoints.
        pictures_every: checkpoints between two that keep the pictures.
    """

    network: QuadraticNetwork | TokenTableTransformer
    fraction: float
    steps: int
    learning_rate: float = 1e-2
    weight_decay: float = 1.0
    split: str = "random"
    warmup: int = 0
    evaluate_every: int = 10
    pictures_every: int = 1


def _mlp(modulus: int, width: int, operation: str = "add") -> QuadraticNetwork:
    return QuadraticNetwork(ModularArithmetic(modulus, operation), width)


_SMALL = TokenTableTransformer(ModularArithmetic(53), width=64, heads=4, hidden=256)

SETTINGS = {
    "mlp-23": Setting(_mlp(23, 128), 0.6, steps=1000),
    "mlp-31": Setting(_mlp(31, 128), 0.5, steps=1000),
    "mlp-31-slow": Setting(_mlp(31, 128), 0.5, steps=6000, learning_rate=1e-3, evaluate_every=50),
    "mlp-31-no-decay": Setting(_mlp(31, 128), 0.5, steps=1000, weight_decay=0.0),
    "mlp-31-subtract": Setting(_mlp(31, 128, "subtract"), 0.5, steps=1000),
    "mlp-31-multiply": Setting(_mlp(31, 128, "multiply"), 0.5, steps=1000),
    "mlp-31-divide": Setting(_mlp(31, 128, "divide"), 0.5, steps=1000),
    "mlp-97": Setting(_mlp(97, 256), 0.3, steps=1000),
    "transformer-53": Setting(_SMALL, 0.5, steps=1000),
    "transformer-53-unordered": Setting(_SMALL, 0.75, steps=1000, split="unordered"),  # as many different sums
    "transformer-53-unordered-half": Setting(_SMALL, 0.5, steps=5000, split="unordered", evaluate_every=50),
    "transformer-113": Setting(
        TokenTableTransformer(ModularArithmetic(113)),
        0.3,
        steps=50_000,
        learning_rate=1e-3,
        warmup=10,
        evaluate_every=100,
        pictures_every=5,
    ),
}
"""What can be trained. The last one is the canonical setting of Nanda et al. (2023), with its loss in float32."""


@dataclass(frozen=True)
class Config:
    """What is trained.

    Attributes:
        seeds: networks of each setting.
        settings: names in `SETTINGS`.
        learning_rate, weight_decay, fraction, steps, split: replace those of all settings; None leaves them.
        linger: evaluations that a network is still trained after it has reached 99 % test accuracy.
        ensembles: equal parts of the seeds, trained one after the other; `torchrun` spreads them over its processes.
    """

    seeds: int
    settings: tuple[str, ...]
    learning_rate: float | None = None
    weight_decay: float | None = None
    fraction: float | None = None
    steps: int | None = None
    split: str | None = None
    linger: int = 10
    ensembles: int = 1


PRESETS = {
    "quick": Config(seeds=5, settings=("mlp-23",)),
    "laptop": Config(seeds=5, settings=tuple(name for name in SETTINGS if name not in ("mlp-23", "transformer-113"))),
    "full": Config(seeds=16, settings=("transformer-113",)),
}


def setting(config: Config, name: str) -> Setting:
    """A setting with the configuration's changes laid over it. Errors: `ValueError` for an unknown one."""
    if name not in SETTINGS:
        raise ValueError(f"settings has {name!r}: choose from {', '.join(SETTINGS)}")
    names = ("learning_rate", "weight_decay", "fraction", "steps", "split")
    changes = {key: getattr(config, key) for key in names if getattr(config, key) is not None}
    return replace(SETTINGS[name], **changes)


def run(config: Config, log: RunLog, *, device: torch.device) -> dict:
    """Train setting by setting, ensemble by ensemble; a kill loses a few checkpoints of the ensemble at work."""
    if config.ensembles < 1 or config.seeds % config.ensembles:
        raise ValueError(f"ensembles is {config.ensembles}: give a number that divides the {config.seeds} seeds")
    if not config.settings:
        raise ValueError(f"settings is empty: give some of {', '.join(SETTINGS)}")
    settings = {name: setting(config, name) for name in config.settings}
    told = {}
    for name, one in settings.items():
        size = config.seeds // config.ensembles

        def work(number: int, log: RunLog, one: Setting = one, size: int = size) -> dict:
            return train(one, range(number * size, (number + 1) * size), config.linger, log, device)

        found = log.each_seed(config.ensembles, work, name=name)
        joined = {key: [value for part in found for value in part[key]] for key in found[0]}
        about = {"weight_decay": one.weight_decay, "energies_of_the_task": one.network.task.energies.tolist()}
        told[name] = about | joined
    return {"settings": told}


def phenomenon(result: dict) -> str | None:
    """Every network with decay knows all train pairs early and 99 % of the test pairs later; without decay, never."""
    for name, one in result["settings"].items():
        steps = one["generalised_at"]
        if one["weight_decay"] == 0:
            if any(step is not None for step in steps):
                return f"{name}: no network at {LEVEL:.0%} test accuracy; some got there, at steps {steps}"
        elif None in steps:
            return f"{name}: every network at {LEVEL:.0%} test accuracy; {steps.count(None)} of {len(steps)} are not"
        elif late := [seed for seed, step in enumerate(steps) if step <= one["memorised_at"][seed]]:
            return f"{name}: generalisation after memorisation; it is not so for seeds {late}"
    return None


def prepare(one: Setting, seeds: range) -> tuple[list[Split], Weights]:
    """The split and the initial weights of each seed: the same for all settings with the same task and network."""
    splits = [
        split_pairs(one.network.task, one.fraction, one.split, generator=torch.Generator().manual_seed(2 * seed))
        for seed in seeds
    ]
    weights = [one.network.initial(torch.Generator().manual_seed(2 * seed + 1)) for seed in seeds]
    return splits, stack_members(weights)


def train(one: Setting, seeds: range, linger: int, log: RunLog, device: torch.device) -> dict:
    """One ensemble: milestones and last measures of each seed, and the history in the log."""
    task = one.network.task
    splits, weights = prepare(one, seeds)
    trainer = EnsembleTrainer(
        one.network,
        {key: weight.to(device) for key, weight in weights.items()},
        EnsembleConfig(
            steps=one.steps,
            learning_rate=one.learning_rate,
            weight_decay=one.weight_decay,
            warmup=one.warmup,
            evaluate_every=one.evaluate_every,
            leave_at=LEVEL,
            linger=linger,
        ),
        torch.stack([task.pairs[split.train] for split in splits]),
        torch.stack([task.labels[split.train] for split in splits]),
        measure=PairMeasures(task, splits),
    )
    if log.restored:
        trainer.load_state(log.restored)
    thinned = Thinned(log, one.evaluate_every * one.pictures_every)
    trainer.run(log=thinned, save=log.save, save_every=SAVE_EVERY, progress=log.progress)
    arrays = log.arrays()
    known = arrays["train_accuracy"] >= LEVEL  # (records, seeds)
    memorised = arrays["train_accuracy_step"][known.argmax(0)].tolist()
    last = {key: arrays[key][-1].tolist() for key in ("test_accuracy", "energies", "fourier_share", "weight_norm")}
    return {
        "memorised_at": [step if ever else None for step, ever in zip(memorised, known.any(0), strict=True)],
        "generalised_at": [step if step >= 0 else None for step in trainer.generalised_at.tolist()],
        "left_at": trainer.left_at.tolist(),
        "diverged": trainer.diverged.tolist(),
        **last,
    }


class Thinned(NamedTuple):
    """A recorder that keeps pictures of the first member only, at multiples of `every`, and all in single precision."""

    log: RunLog
    every: int

    def record(self, step: int, /, **values: Tensor) -> None:
        """Pass on what is kept."""
        kept = {name: value[:1] if name in PICTURES else value for name, value in values.items()}
        if step % self.every:
            kept = {name: value for name, value in kept.items() if name not in PICTURES}
        single = {name: value.float() if value.dtype == torch.float64 else value for name, value in kept.items()}
        self.log.record(step, **single)


def curves(record: Record, setting: str, measure: str) -> tuple[np.ndarray, np.ndarray]:
    """One measure of one setting: steps (records,) and values (records, seeds, ...), from the history of a record.

    A network that has left keeps its last values; its steps end at `left_at` of the result. Pictures have one seed.

    Errors: `KeyError` naming the series there are.
    """
    steps, values = record.series(f"{setting}_{measure}")
    return steps, values.reshape(len(values), -1, *values.shape[3:])

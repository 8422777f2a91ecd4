r"""Sparse parity: networks find the few bits that matter long before an answer shows it.

A network with one layer of ReLU units sees the same few examples again and again, with weight decay. First it knows
them by heart; later it knows the rule. At each checkpoint the measures of `ParityMeasures` are kept: losses and
accuracies, the coefficient of the target, the noise stability and average sensitivity of the answer beside rho^k and k,
and three views of the first layer's weights: `margin`, `relevant_share` and `movement`. The margin is the least energy
of a relevant bit over the largest of another: above 1, whoever ranks the bits by their weights knows the rule. The test
labels are never noisy. Series are called `<setting>_<measure>`; `curves` reads them. The energy at every single bit,
`input_energy`, is kept for the first seed alone.

Cost of `full`: five to ten minutes of one CPU thread, by trials at five of its ten sizes; no GPU is needed.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from nslab.records import Record, RunLog
from nslab.tasks import SparseParity
from nslab.training.ensemble import EnsembleTrainer
from nslab.training.ensemble_settings import EnsembleConfig, hinge_each
from nslab.training.milestones import LEVEL, first_passage, halfway, last_passage
from nslab.training.pair_networks import stack_members
from nslab.training.parity_measures import ParityMeasures
from nslab.training.parity_networks import ReluNetwork

RHO = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
SAVE_EVERY = 5  # evaluations


@dataclass(frozen=True)
class Setting:
    """A task, a network and how it is trained, by plain gradient descent on the hinge loss.

    Attributes:
        bits: n.
        samples: examples to learn from.
        width: hidden units.
        steps: at most.
        order: k, the number of relevant bits.
        label_noise: share of wrong labels among the examples.
        learning_rate, weight_decay: the decay is coupled, that is, part of the gradient.
        batch: examples a step, drawn with replacement.
    """

    bits: int
    samples: int
    width: int
    steps: int
    order: int = 3
    label_noise: float = 0.0
    learning_rate: float = 0.1
    weight_decay: float = 0.01
    batch: int = 32


SETTINGS = {
    "20-3": Setting(20, samples=500, width=100, steps=4000),
    "40-3": Setting(40, samples=1000, width=200, steps=15_000),
    "40-3-wide": Setting(40, samples=1000, width=1000, steps=15_000),
    "40-3-noisy": Setting(40, samples=2000, width=200, steps=15_000, label_noise=0.1, weight_decay=0.02),
    **{f"scaling-{n}": Setting(n, samples=35 * n, width=1000, steps=30_000) for n in range(10, 101, 10)},
}
"""What can be trained. "40-3-wide" is after Merrill et al. (2023); "scaling-n" has 35 examples a bit, our choice."""


@dataclass(frozen=True)
class Config:
    """What is trained.

    Attributes:
        seeds: networks of each setting; each has its own examples.
        settings: names in `SETTINGS`.
        samples, width, steps, label_noise, learning_rate, weight_decay: replace those of all settings; None leaves
            them.
        test: fresh examples for each network, at which accuracy and stability are measured.
        evaluate_every: steps between two checkpoints.
        linger: evaluations that a network is still trained after it has reached 99 % test accuracy.
    """

    seeds: int
    settings: tuple[str, ...]
    samples: int | None = None
    width: int | None = None
    steps: int | None = None
    label_noise: float | None = None
    learning_rate: float | None = None
    weight_decay: float | None = None
    test: int = 1000
    evaluate_every: int = 100
    linger: int = 5


PRESETS = {
    "quick": Config(seeds=5, settings=("20-3",), evaluate_every=50),
    "laptop": Config(seeds=5, settings=("40-3", "40-3-wide", "40-3-noisy")),
    "full": Config(seeds=16, settings=tuple(name for name in SETTINGS if name.startswith("scaling"))),
}


def setting(config: Config, name: str) -> Setting:
    """A setting with the configuration's changes laid over it. Errors: `ValueError` for an unknown one."""
    if name not in SETTINGS:
        raise ValueError(f"settings has {name!r}: choose from {', '.join(SETTINGS)}")
    names = ("samples", "width", "steps", "label_noise", "learning_rate", "weight_decay")
    changes = {key: getattr(config, key) for key in names if getattr(config, key) is not None}
    return replace(SETTINGS[name], **changes)


def run(config: Config, log: RunLog, *, device: torch.device) -> dict:
    """Train setting by setting, all seeds as one ensemble; a kill loses a few checkpoints of the one at work."""
    if not config.settings:
        raise ValueError(f"settings is empty: give some of {', '.join(SETTINGS)}")
    settings = {name: setting(config, name) for name in config.settings}
    tasks = {name: SparseParity(one.bits, one.order, one.label_noise) for name, one in settings.items()}
    told = {}
    for name, one in settings.items():

        def work(_: int, log: RunLog, one: Setting = one, task: SparseParity = tasks[name]) -> dict:
            return train(config, one, task, log, device)

        [told[name]] = log.each_seed(1, work, name=name)
        told[name] |= {"bits": one.bits, "order": one.order, "label_noise": one.label_noise}
    return {"rho": list(RHO), "settings": told}


def phenomenon(result: dict) -> str | None:
    """All networks know the rule, none before its examples; and their weights name the bits before answers go half way.

    Wrong labels are left out of the second point: a network that knows the rule answers them right.
    """
    for name, one in result["settings"].items():
        known, learned = one["memorised_at"], one["generalised_at"]
        if None in learned:
            return (
                f"{name}: every network at {LEVEL:.0%} test accuracy; {learned.count(None)} of {len(learned)} are not"
            )
        early = [seed for seed, step in enumerate(learned) if known[seed] is None or step < known[seed]]
        if early and not one["label_noise"]:
            return f"{name}: no generalisation before memorisation; it is so for seeds {early}"
        pairs = zip(one["revealed_at"], one["accuracy_halfway"], strict=True)
        if late := [seed for seed, (weights, answers) in enumerate(pairs) if weights is None or weights >= answers]:
            return f"{name}: weights that name the bits before the answers are half way; not so for seeds {late}"
    return None


def train(config: Config, one: Setting, task: SparseParity, log: RunLog, device: torch.device) -> dict:
    """One ensemble: milestones and last measures of each seed, and the history in the log."""
    network = ReluNetwork(one.bits, one.width)
    clean = SparseParity(one.bits, one.order)
    draws = [torch.Generator().manual_seed(2 * seed) for seed in range(config.seeds)]
    train_set, test_set = (
        tuple(torch.stack(parts).to(device) for parts in zip(*(law.draw(rows, draw) for draw in draws), strict=True))
        for law, rows in ((task, one.samples), (clean, config.test))
    )
    starts = [network.initial(torch.Generator().manual_seed(2 * seed + 1)) for seed in range(config.seeds)]
    weights = {key: weight.to(device) for key, weight in stack_members(starts).items()}
    measures = ParityMeasures(
        clean,
        train=train_set,
        test=test_set,
        rho=RHO,
        initial=weights["input"],
        generator=torch.Generator(device).manual_seed(0),
    )
    trainer = EnsembleTrainer(
        network,
        weights,
        EnsembleConfig(
            steps=one.steps,
            learning_rate=one.learning_rate,
            weight_decay=one.weight_decay,
            optimizer="sgd",
            batch=one.batch,
            evaluate_every=config.evaluate_every,
            leave_at=LEVEL,
            linger=config.linger,
        ),
        *train_set,
        loss=hinge_each,
        measure=measures,
    )
    if log.restored:
        trainer.load_state(log.restored)
    trainer.run(log=Kept(log, task), save=log.save, save_every=SAVE_EVERY, progress=log.progress)
    found = log.arrays()
    steps = found["margin_step"]
    passages = {
        "memorised_at": first_passage(steps, found["train_accuracy"], LEVEL),
        "revealed_at": last_passage(steps, found["margin"], 1),
    }
    for name, key in (("share", "relevant_share"), ("movement", "movement"), ("accuracy", "test_accuracy")):
        passages[f"{name}_halfway"] = halfway(steps, found[key], found[key][0], found[key][-1], interpolate=True)
    last = ("train_accuracy", "test_accuracy", "coefficient", "stability", "sensitivity", "relevant_share")
    return {
        **{key: [step if step == step else None for step in seeds.tolist()] for key, seeds in passages.items()},
        "generalised_at": [step if step >= 0 else None for step in trainer.generalised_at.tolist()],
        "left_at": trainer.left_at.tolist(),
        "diverged": trainer.diverged.tolist(),
        **{key: found[key][-1].tolist() for key in last},
    }


class Kept(NamedTuple):
    """A recorder that adds the margin, keeps the energy at each bit for the first member only, and single precision."""

    log: RunLog
    task: SparseParity

    def record(self, step: int, /, **values: Tensor) -> None:
        """Pass on what is kept."""
        energy = values["input_energy"]  # (members, bits)
        relevant = torch.zeros(self.task.bits, dtype=torch.bool, device=energy.device)
        relevant[list(self.task.relevant)] = True
        values["margin"] = energy[:, relevant].amin(1) / energy[:, ~relevant].amax(1)
        values["input_energy"] = energy[:1]
        kept = {name: value.float() for name, value in values.items() if not name.endswith("_error")}
        self.log.record(step, **kept)


def curves(record: Record, setting: str, measure: str) -> tuple[np.ndarray, np.ndarray]:
    """One measure of one setting: steps (records,) and values (records, seeds, ...), from the history of a record.

    A network that has left keeps its last values; its steps end at `left_at` of the result.

    Errors: `KeyError` naming the series there are.
    """
    steps, values = record.series(f"{setting}_{measure}")
    return steps, values[:, 0]

"""What the arms of `nslab.reruns.regulariser` are tried on: tasks, networks, and the ensembles that train them."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from nslab.noise import Flip, Resample, paper_keep
from nslab.reruns import grokking, parity
from nslab.reruns._regulariser_arms import Arm, Task, penalties
from nslab.tasks import SparseParity
from nslab.training.ensemble import EnsembleTrainer
from nslab.training.ensemble_settings import EnsembleConfig
from nslab.training.milestones import LEVEL
from nslab.training.pair_measures import PairMeasures
from nslab.training.pair_networks import stack_members
from nslab.training.parity_measures import ParityMeasures
from nslab.training.parity_networks import ReluNetwork
from nslab.training.table_transformer import TokenTableTransformer

Setting = grokking.Setting | parity.Setting

_MLP = grokking.SETTINGS["mlp-31"]
_CANONICAL = replace(grokking.SETTINGS["transformer-113"], steps=20_000)
_FAST = replace(_CANONICAL, steps=2500, learning_rate=1e-2, evaluate_every=10)
_CLEAN = replace(parity.SETTINGS["40-3"], steps=10_000, learning_rate=0.3)
_NOISY = replace(parity.SETTINGS["40-3-noisy"], steps=15_000, weight_decay=0.014)

SETTINGS: dict[str, Setting] = {
    "mlp-23": replace(grokking.SETTINGS["mlp-23"], steps=1000),
    "mlp-31": replace(_MLP, steps=1500),
    "transformer-53": replace(grokking.SETTINGS["transformer-53"], steps=1500),
    "transformer-113": _CANONICAL,
    "transformer-113-fast": _FAST,
    "parity-40-3": _CLEAN,
    "parity-40-3-noisy": _NOISY,
}
"""Those of `grokking` and `parity` with other limits: several times what a plain network takes. The paper's learning
rate is not known, so that modular addition modulo 113 has the canonical rate of Nanda et al. (2023) and one ten times
as high. Parity is trained on the logistic loss, since the penalties need probabilities; its rates and the decay of the
noisy one are those at which plain networks generalise within the limit."""

MEASURES: dict[Task, tuple[str, ...]] = {
    "pairs": ("train_accuracy", "test_accuracy", "test_loss", "test_probability", "energies", "weight_norm"),
    "parity": ("train_accuracy", "test_accuracy", "coefficient", "stability", "relevant_share", "weight_norm"),
}
"""What is kept at checkpoints. The stability of parity is that of the answers ±1, at `RHO`."""

RHO = (0.5, 0.9)
PARITY_EVERY = 50  # steps between two checkpoints
PARITY_TEST = 1000  # fresh points for each network


def task_of(one: Setting) -> Task:
    """Which kind of task it is."""
    return "pairs" if isinstance(one, grokking.Setting) else "parity"


def about(one: Setting) -> dict:
    """What a reader of the result needs to know of a setting; for pairs the energies of a perfect network."""
    told = {"task": task_of(one), "steps": one.steps, "weight_decay": one.weight_decay}
    if isinstance(one, grokking.Setting):
        return told | {"target_energies": one.network.task.energies.tolist()}
    return told | {"bits": one.bits, "order": one.order, "label_noise": one.label_noise, "rho": list(RHO)}


def ensemble(one: Setting, arms: Sequence[Arm], seeds: int, linger: int, device: torch.device) -> EnsembleTrainer:
    """All seeds of arms that differ in gamma alone; members are arms times seeds, by arm.

    A seed has the same data, initial weights and batches whatever the arm.
    """
    make = _on_pairs if isinstance(one, grokking.Setting) else _on_parity
    settings = {
        "steps": one.steps,
        "learning_rate": one.learning_rate,
        "weight_decay": one.weight_decay * arms[0].decay,
        "leave_at": LEVEL,
        "linger": linger,
        "seed": arms[0].batches,
    }
    return make(one, arms, seeds, settings, device)


def _on_pairs(
    one: grokking.Setting, arms: Sequence[Arm], seeds: int, settings: dict, device: torch.device
) -> EnsembleTrainer:
    splits, weights = grokking.prepare(one, range(seeds))
    network, task = one.network, one.network.task
    tables = ("tokens",) if isinstance(network, TokenTableTransformer) else ("first", "second")
    members = splits * len(arms)
    measure = PairMeasures(task, members)
    measure.order = 0  # no Fourier analysis: it is not kept
    return EnsembleTrainer(
        network,
        {name: _copies(weight, arms).to(device) for name, weight in weights.items()},
        EnsembleConfig(**settings, warmup=one.warmup, evaluate_every=one.evaluate_every),
        torch.stack([task.pairs[split.train] for split in members]),
        torch.stack([task.labels[split.train] for split in members]),
        penalties=penalties(
            arms,
            seeds,
            noise=lambda rho: Resample(paper_keep(rho), task.modulus),
            outputs="softmax",
            tables=tables,
        ),
        measure=measure,
    )


def _on_parity(
    one: parity.Setting, arms: Sequence[Arm], seeds: int, settings: dict, device: torch.device
) -> EnsembleTrainer:
    network = ReluNetwork(one.bits, one.width)
    task, clean = (SparseParity(one.bits, one.order, noise) for noise in (one.label_noise, 0.0))
    draws = [torch.Generator().manual_seed(2 * seed) for seed in range(seeds)]
    train, test = (
        tuple(
            _copies(torch.stack(parts), arms).to(device)
            for parts in zip(*(law.draw(rows, draw) for draw in draws), strict=True)
        )
        for law, rows in ((task, one.samples), (clean, PARITY_TEST))
    )
    starts = [network.initial(torch.Generator().manual_seed(2 * seed + 1)) for seed in range(seeds)]
    return EnsembleTrainer(
        network,
        {name: _copies(weight, arms).to(device) for name, weight in stack_members(starts).items()},
        EnsembleConfig(**settings, optimizer="sgd", batch=one.batch, evaluate_every=PARITY_EVERY),
        *train,
        loss=logistic_each,
        penalties=penalties(arms, seeds, noise=lambda rho: Flip(paper_keep(rho)), outputs="sigmoid", tables=()),
        measure=ParityMeasures(
            clean,
            train=train,
            test=test,
            rho=RHO,
            flips=2,  # the sensitivity is not kept
            generator=torch.Generator(device).manual_seed(0),
        ),
    )


def logistic_each(output: Float[Tensor, "members rows"], y: Float[Tensor, "members rows"]) -> Float[Tensor, " members"]:
    """Mean cross-entropy of each member, log(1 + exp(-y f)) in nats, for log-odds f and targets ±1."""
    return F.softplus(-y * output).mean(1)


def _copies(values: Tensor, arms: Sequence[Arm]) -> Tensor:
    """(seeds, ...) once for each arm: (arms * seeds, ...)."""
    return torch.cat([values] * len(arms))

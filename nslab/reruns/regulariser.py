r"""Does the noise-stability regulariser make networks generalise sooner? Against a plain training and its controls.

In each setting every arm trains the same seeds: same data, same initial weights, and for parity the same batches. Only
what the arm adds differs, so that an arm is compared with "plain" seed by seed; `paired` does it. What the arms add is
told by `ARMS`; the noise of an arm is redrawn at every step. "plain-again" adds nothing and has other batches: its
distance from "plain" is luck.

The grid varies gamma and rho of three of them on one setting. All gammas of one rho are trained as one ensemble, so
that a cell at an arm's own gamma and rho has the arm's seeds and other draws of the noise.

Curves are called `<setting>_<arm>_<measure>`; `curves` reads them. Of the grid milestones alone are kept.

The paper's learning rate is not known. `full` trains addition modulo 113 at a rate of 0.01, where the canonical 0.001
takes over ten times as many steps; for that one, filed as `custom`:

    nslab rerun regulariser --preset full --set settings=transformer-113 --set arms=plain,paper --seeds 5

Cost of `full`: about an hour of one CPU thread, by trials of some arms with half its seeds. The canonical rate: half
an hour for five plain networks, by the record of `grokking`, and one to two hours with the regulariser.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import nan

import numpy as np
import torch
from torch import Tensor

from nslab.records import Record, RunLog
from nslab.reruns._regulariser_arms import ARMS, Arm, around
from nslab.reruns._regulariser_settings import MEASURES, SETTINGS, Setting, about, ensemble, task_of
from nslab.training.acceleration import Acceleration, acceleration
from nslab.training.milestones import LEVEL

SAVE_EVERY = 20  # evaluations
GRID = ("paper", "paper-twin-detached", "discourage")


@dataclass(frozen=True)
class Config:
    """What is trained.

    Attributes:
        seeds: networks of each arm.
        settings: names in `SETTINGS`.
        arms: names in `ARMS`, "plain" among them; each setting trains those that are meant for its task. None takes
            all.
        grid: the setting on which gamma and rho are varied, one of `settings` on pairs; None for no grid.
        gammas: of the grid.
        rhos: of the grid.
        steps: replaces the limit of all settings; None leaves them.
        linger: evaluations that a network is still trained after it has reached 99 % test accuracy; 0 in the grid.
    """

    seeds: int
    settings: tuple[str, ...]
    arms: None | tuple[str, ...] = None  # noqa: RUF036 (`--set` tries types in order, and text none is None)
    grid: str | None = None
    gammas: tuple[float, ...] = (0.02, 0.05, 0.2, 0.75, 2.0)
    rhos: tuple[float, ...] = (0.0, 0.25, 0.5, 0.8, 0.95)
    steps: int | None = None
    linger: int = 5


PRESETS = {
    "quick": Config(
        seeds=5,
        settings=("mlp-23",),
        arms=("plain", "paper", "paper-twin-detached", "discourage", "label-smoothing"),
        steps=800,
    ),
    "laptop": Config(seeds=5, settings=("mlp-31", "transformer-53", "parity-40-3"), grid="mlp-31"),
    "full": Config(
        seeds=10,
        settings=("transformer-113-fast", "parity-40-3", "parity-40-3-noisy"),
        arms=(
            "plain",
            "plain-again",
            "paper",
            "weaker",
            "paper-parity",
            "discourage",
            "discourage-parity",
            "confidence",
        ),
    ),
}


def run(config: Config, log: RunLog, *, device: torch.device) -> dict:
    """Train arm by arm, all seeds as one ensemble; a kill loses a few checkpoints of the one at work."""
    chosen = arms_of(config)
    settings = {name: setting(config, name) for name in chosen}
    grid = {(name, rho): around(name, rho, config.gammas) for name in GRID for rho in config.rhos}  # checks them
    told = {}
    for name, arms in chosen.items():
        told[name] = about(settings[name]) | {"arms": {}}
        for arm in arms:
            work = _one_ensemble(settings[name], [ARMS[arm]], config.seeds, config.linger, device, curves=True)
            [found] = log.each_seed(1, work, name=f"{name}_{arm}")
            told[name]["arms"][arm] = _described(ARMS[arm]) | {"says": ARMS[arm].says} | found["arms"][0]
    if config.grid is None:
        return {"settings": told, "grid": None}
    cells = []
    for (name, rho), arms in grid.items():
        work = _one_ensemble(settings[config.grid], arms, config.seeds, 0, device, curves=False)
        [found] = log.each_seed(1, work, name=f"grid_{name}-{rho:g}")
        cells += [{"arm": name} | _described(arm) | one for arm, one in zip(arms, found["arms"], strict=True)]
    axes = {"setting": config.grid, "arms": list(GRID), "gammas": list(config.gammas), "rhos": list(config.rhos)}
    return {"settings": told, "grid": axes | {"cells": cells}}


def phenomenon(result: dict) -> str | None:
    """Every plain network generalises, so that there is something to be sooner than, and no arm diverges.

    What the arms do is the question, and nothing is asked of it here.
    """
    for name, one in result["settings"].items():
        steps = one["arms"]["plain"]["generalised_at"]
        if None in steps:
            return (
                f"{name}: every plain network at {LEVEL:.0%} test accuracy; {steps.count(None)} of {len(steps)} are not"
            )
        if torn := [arm for arm, told in one["arms"].items() if any(told["diverged"])]:
            return f"{name}: no network diverges; with {torn[0]} {sum(one['arms'][torn[0]]['diverged'])} did"
    return None


def setting(config: Config, name: str) -> Setting:
    """A setting, with the configuration's limit. Errors: `ValueError` for an unknown one."""
    if name not in SETTINGS:
        raise ValueError(f"settings has {name!r}: choose from {', '.join(SETTINGS)}")
    return SETTINGS[name] if config.steps is None else replace(SETTINGS[name], steps=config.steps)


def arms_of(config: Config) -> dict[str, list[str]]:
    """The arms that each setting trains, in the order of `ARMS`.

    Errors: `ValueError` for no setting, an unknown setting or arm, arms without "plain", an arm that is meant for none
    of the settings, or a grid on another setting, on parity (whose batches depend on the size of an ensemble), or
    without an axis.
    """
    if not config.settings:
        raise ValueError(f"settings is empty: give some of {', '.join(SETTINGS)}")
    wanted = tuple(ARMS) if config.arms is None else config.arms
    if unknown := [arm for arm in wanted if arm not in ARMS]:
        raise ValueError(f"arms has {unknown[0]!r}: choose from {', '.join(ARMS)}")
    if "plain" not in wanted:
        raise ValueError(f"arms is {', '.join(wanted) or 'empty'}: add plain, which all others are held against")
    tasks = {name: task_of(setting(config, name)) for name in config.settings}
    chosen = {name: [arm for arm in ARMS if arm in wanted and task in ARMS[arm].tasks] for name, task in tasks.items()}
    used = {arm for arms in chosen.values() for arm in arms}
    if config.arms is not None and (useless := [arm for arm in wanted if arm not in used]):
        arm, names = useless[0], ", ".join(config.settings)
        raise ValueError(f"arms has {arm}, which is meant for {ARMS[arm].tasks[0]}: {names} cannot train it; drop it")
    if config.grid is not None:
        pairs = [name for name, task in tasks.items() if task == "pairs"]
        if config.grid not in pairs:
            raise ValueError(f"grid is {config.grid!r}: give one of settings on pairs, {', '.join(pairs)}, or none")
        if empty := [axis for axis in ("gammas", "rhos") if not getattr(config, axis)]:
            raise ValueError(f"{empty[0]} is empty: give at least one, or grid=none")
    return chosen


def _one_ensemble(one: Setting, arms: Sequence[Arm], seeds: int, linger: int, device: torch.device, *, curves: bool):
    """Work for `RunLog.each_seed`: milestones and last measures of each arm, and the curves of the only one."""
    measures = MEASURES[task_of(one)]

    def work(_: int, log: RunLog) -> dict:
        trainer = ensemble(one, arms, seeds, linger, device)
        kept = Kept(log, measures if curves else ())
        if log.restored:
            trainer.load_state(log.restored["trainer"])
            kept.load_state(log.restored["kept"])
        trainer.run(
            log=kept,
            save=lambda state: log.save({"trainer": state, "kept": kept.state()}),
            save_every=SAVE_EVERY,
            progress=log.progress,
        )
        found = {
            "generalised_at": [step if step >= 0 else None for step in trainer.generalised_at.tolist()],
            "memorised_at": [step if step >= 0 else None for step in kept.memorised_at.tolist()],
            "left_at": trainer.left_at.tolist(),
            "diverged": trainer.diverged.tolist(),
        } | {name: kept.last[name].tolist() for name in (measures if curves else ("test_accuracy",))}
        parts = [slice(number * seeds, (number + 1) * seeds) for number in range(len(arms))]
        return {"arms": [{name: values[part] for name, values in found.items()} for part in parts]}

    return work


class Kept:
    """A recorder that keeps some measures in single precision, and of all the last values and who has memorised."""

    def __init__(self, log: RunLog, measures: tuple[str, ...]):
        self.log, self.measures = log, measures
        self.last: dict[str, Tensor] = {}
        self.memorised_at = torch.tensor(-1)  # (members,) from the first record on

    def record(self, step: int, /, **values: Tensor) -> None:
        """Pass on what is kept."""
        self.last = {name: value.cpu().clone() for name, value in values.items()}
        new = (self.last["train_accuracy"] >= LEVEL) & (self.memorised_at < 0)
        self.memorised_at = torch.where(new, step, self.memorised_at)
        if self.measures:
            self.log.record(step, **{name: self.last[name].float() for name in self.measures})

    def state(self) -> dict:
        """For a checkpoint."""
        return {"last": self.last, "memorised_at": self.memorised_at}

    def load_state(self, state: dict) -> None:
        """Go on from a checkpoint."""
        self.last, self.memorised_at = state["last"], state["memorised_at"]


def _described(arm: Arm) -> dict:
    """The numbers of an arm, for the result."""
    names = ("kind", "gamma", "rho", "orientation", "detach", "decay")
    return {name: getattr(arm, name) for name in names}


def curves(record: Record, setting: str, arm: str, measure: str) -> tuple[np.ndarray, np.ndarray]:
    """One measure of one arm: steps (records,) and values (records, seeds, ...), from the history of a record.

    Of pairs "energies" gives the stability at any keep, with `energy_stability`. A network that has left keeps its last
    values; its steps end at `left_at` of the result.

    Errors: `KeyError` naming the series there are.
    """
    steps, values = record.series(f"{setting}_{arm}_{measure}")
    return steps, values[:, 0]


def paired(result: Mapping, setting: str, arm: str | Mapping, *, level: float = 0.95) -> Acceleration:
    """By how many steps an arm is sooner at 99 % test accuracy than the plain training of the same seeds.

    Args:
        result: of a record.
        setting: a name in its "settings".
        arm: a name in its "arms", or a cell of its "grid".
        level: of the interval.

    Errors: `KeyError` naming the arms there are.
    """
    one = result["settings"][setting]
    if isinstance(arm, str) and arm not in one["arms"]:
        raise KeyError(f"{setting} has no arm {arm!r}; it has {', '.join(one['arms'])}")
    changed = one["arms"][arm] if isinstance(arm, str) else arm
    steps = (
        [nan if step is None else step for step in told["generalised_at"]] for told in (one["arms"]["plain"], changed)
    )
    return acceleration(*steps, plain_last=one["steps"], changed_last=one["steps"], level=level)

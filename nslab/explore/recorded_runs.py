r"""A scrubber of recorded training runs: accuracy, noise stability, Fourier bloom and right cells, step by step.

`frame` returns the numbers of one step; ``assets/training-run.js`` computes the same from a packed run, and
`training_run` is the figure. *Ours.*
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from nslab.explore.modules import Module, module
from nslab.explore.run_packing import GROUPS, RecordedRun, packed, unpacked

__all__ = ["QUANTITIES", "RecordedRun", "compute", "frame", "training_run"]

QUANTITIES = ("stability", "normalised", "sensitivity")
LEARNED = 0.99


def frame(run: RecordedRun, index: int, keep: float | int) -> dict:
    r"""The numbers of one frame of the figure.

    Formula: raw stability :math:`S(r) = W_0 + r (W_a + W_b) + r^2 W_{ab}`, normalised :math:`S(r) / S(1)`, average
    sensitivity :math:`W_a + W_b + 2 W_{ab}`, of the energies :math:`W` of the class probabilities.

    Args:
        run: the run.
        index: number of the checkpoint, from 0.
        keep: the probability r with which the noise keeps an operand, in [0, 1].

    Returns:
        At the checkpoint: ``step``; ``folds``, the e-foldings of weight decay (step times rate times decay); the four
        accuracies (None in an empty group); ``stability``, ``normalised``, ``sensitivity``, each also as ``target_``;
        ``weight_norm``; ``fourier_share``, the sum of ``spectrum``; ``spectrum``; ``frequency`` and ``share`` of the
        neurons; ``cells``, first operand first: 4 for a training pair, 2 for a mirrored one, 0 for any other, plus 1
        if it is right. Over all checkpoints: ``curves`` of the three quantities, and ``attention``, the same of the
        attention weights or None.

    How to read it: a model that knows the answers for sure has the target's stability at every keep.

    Errors:
        ValueError if there is no such checkpoint, or keep is outside [0, 1].

    Source: *ours*.
    """
    if not 0 <= index < len(run.steps):
        raise ValueError(f"index={index}: the run has checkpoints 0 to {len(run.steps) - 1}.")
    if not 0 <= keep <= 1:
        raise ValueError(f"keep={keep} is no probability: give a number from 0 to 1.")
    curves, target = _measured(run.energies, keep), _measured(run.target_energies, keep)
    attention = None if run.attention_energies is None else _measured(run.attention_energies, keep)
    cells = run.correct[index].astype(int)  # (p, p)
    if run.train is not None:
        cells += np.where(run.train, 4, np.where(run.train.T, 2, 0))
    accuracies = {f"{group}_accuracy": float(getattr(run, f"{group}_accuracy")[index]) for group in GROUPS}
    return {
        "step": run.steps[index].item(),
        "folds": float(run.steps[index] * run.learning_rate * run.weight_decay),
        **{name: None if math.isnan(value) else value for name, value in accuracies.items()},
        **{name: curve[index] for name, curve in curves.items()},
        **{f"target_{name}": value for name, value in target.items()},
        "weight_norm": float(run.weight_norm[index]),
        "fourier_share": float(run.spectrum[index].sum()),
        "spectrum": run.spectrum[index].tolist(),
        "frequency": run.neuron_frequency[index].tolist(),
        "share": run.neuron_share[index].tolist(),
        "cells": cells.ravel().tolist(),  # (p * p,)
        "curves": curves,
        "attention": attention,
    }


def compute(state: dict) -> dict:
    """Python twin of the page: the frame of run ``state["run"]`` of ``["runs"]`` at ``["index"]`` and ``["keep"]``."""
    return frame(unpacked(state["runs"][state["run"]]), state["index"], state["keep"])


def training_run(
    runs: Sequence[RecordedRun] | Mapping[str, RecordedRun],
    *,
    discovery: str,
    index: int | None = None,
    keep: float | int = 0.8,
    quantity: str = "stability",
    label: str = "Recorded training runs, step by step",
    alt: str = "",
) -> Module:
    """A figure in which a reader scrubs through recorded training runs.

    Args:
        runs: what the reader chooses from, each with a name of its own; of a mapping, its values.
        discovery: what to find out. A test can assert it on the numbers of a frame:
            `figure.twin({**figure.state, "run": 0, "index": 3, "keep": 0.5})`.
        index: the checkpoint of the first run at the start. By default every run starts where it has learned its
            training pairs (99 %).
        keep: probability of keeping an operand at the start; the slider moves in hundredths.
        quantity: what is plotted beside its target at the start: "stability", "normalised" or "sensitivity".
        label: accessible name.
        alt: the figure in a sentence; by default its start.

    Errors:
        ValueError if there is no run, two have one name, or a start is out of reach.

    Source: *ours*.
    """
    chosen = list(runs.values() if isinstance(runs, Mapping) else runs)
    names = [run.name for run in chosen]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"runs are named {names}: give at least one, each with a name of its own.")
    if quantity not in QUANTITIES:
        raise ValueError(f"quantity={quantity!r} is unknown: choose from {', '.join(QUANTITIES)}.")
    if abs(100 * keep - round(100 * keep)) > 1e-9:
        raise ValueError(f"keep={keep} is no step of its slider: give a whole number of hundredths.")
    starts = [int(np.argmax(run.train_accuracy >= LEARNED)) for run in chosen]
    if index is not None:
        starts[0] = index
    first = frame(chosen[0], starts[0], keep)
    alt = alt or (
        f"{names[0]} at step {first['step']} of {chosen[0].steps[-1]}: {first['train_accuracy']:.0%} of the training "
        f"pairs are right, {first['test_accuracy']:.0%} of the others. At keep {keep:g} the stability is "
        f"{first['stability']:.3f}, that of the right answers {first['target_stability']:.3f}."
    )
    state = {
        "runs": [packed(run) for run in chosen],
        "run": 0,
        "starts": starts,
        "index": starts[0],
        "keep": float(keep),
        "quantity": quantity,
    }
    return module(
        ["training-run-panels.js", "training-run.js"],
        twin=compute,
        state=state,
        cases=_cases(state),
        label=label,
        alt=alt,
        discovery=discovery,
    )


def _measured(energies: np.ndarray, keep: float | int) -> dict:
    """Each quantity: a number, or a list over the checkpoints."""
    constant, first, second, both = np.moveaxis(energies, -1, 0)
    stability = constant + keep * (first + second) + keep**2 * both
    values = (stability, stability / energies.sum(-1), first + second + 2 * both)
    return {name: value.tolist() for name, value in zip(QUANTITIES, values, strict=True)}


def _cases(state: dict) -> list[dict]:
    """States on which page and twin are compared: of every run both ends and the middle, at several keeps."""
    return [
        {**state, "runs": [run], "index": round(place * (len(run["steps"]) - 1)), "keep": keep}
        for run in state["runs"]
        for place, keep in ((0, 0.0), (0.5, 0.37), (0.5, 1.0), (1, 0.9))
    ]

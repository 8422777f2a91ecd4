r"""A recorded training run, checked, and its packed form: what travels to the page of `nslab.explore.recorded_runs`.

Packed, right cells are bits and neurons are bytes, in base64, one text a checkpoint; numbers are rounded to what a
picture needs. A run of modulus 97 with 256 neurons takes 2.6 kB a checkpoint. *Ours.*
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, fields

import numpy as np

__all__ = ["GROUPS", "RecordedRun", "packed", "unpacked"]

GROUPS = ("train", "test", "mirrored", "unseen")
MOST = 255  # a pixel a pair on the narrowest page
SPECTRUM_UNIT = 10**5


@dataclass(frozen=True, eq=False)
class RecordedRun:
    """One training run on a table of p x p pairs, as recorded at its T checkpoints.

    Attributes:
        name: what a reader chooses it by, such as "MLP, p = 31".
        modulus: p; the operands and the answer are 0 to p - 1.
        steps: optimiser steps at the checkpoints, (T,), increasing.
        train_accuracy: share of right answers on the training pairs, (T,).
        test_accuracy: on all other pairs, (T,).
        mirrored_accuracy: on the test pairs (a, b) for which (b, a) is trained on, (T,); NaN if there are none.
        unseen_accuracy: on the other test pairs, (T,); NaN if there are none.
        energies: Efron-Stein energies of the class probabilities, (T, 4): constant, first, second, both.
        target_energies: the same of the right answer, (4,).
        spectrum: share of the logits' energy at frequency k = 1 to p // 2 of label - c, (T, p // 2).
        neuron_frequency: dominant frequency of each hidden unit, (T, m), 1 to p // 2; 0 for a unit without one.
        neuron_share: its share of the energy of the unit's main effect of the first operand, (T, m).
        weight_norm: Euclidean norm of all weights, (T,).
        correct: which pairs are answered right, (T, p, p), first operand first.
        train: which pairs are trained on, (p, p); None if that is not known.
        attention_energies: Efron-Stein energies of the attention weights, (T, 4); None without attention.
        learning_rate: of the optimiser.
        weight_decay: decoupled: every step multiplies the weights by 1 - learning_rate * weight_decay.

    Errors:
        ValueError if a shape, a range or the order of the steps is wrong, a number is not finite, or the right cells
        disagree with the accuracies.

    Source: *ours*.
    """

    name: str
    modulus: int
    steps: np.ndarray
    train_accuracy: np.ndarray
    test_accuracy: np.ndarray
    mirrored_accuracy: np.ndarray
    unseen_accuracy: np.ndarray
    energies: np.ndarray
    target_energies: np.ndarray
    spectrum: np.ndarray
    neuron_frequency: np.ndarray
    neuron_share: np.ndarray
    weight_norm: np.ndarray
    correct: np.ndarray
    train: np.ndarray | None
    attention_energies: np.ndarray | None
    learning_rate: float | int
    weight_decay: float | int

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.ndarray) and value.dtype.kind == "f":
                object.__setattr__(self, field.name, value.astype(np.float64))
        _check_shapes(self)
        _check_numbers(self)
        _check_cells(self)


def packed(run: RecordedRun) -> dict:
    """The run as JSON."""
    share = np.nan_to_num(run.neuron_share).clip(0, 1)
    neurons = np.stack([np.where(share > 0, run.neuron_frequency, 0), (share * 255).round()], 1)  # (T, 2, m)
    attention = run.attention_energies
    return {
        **{name: getattr(run, name) for name in ("name", "modulus", "learning_rate", "weight_decay")},
        "steps": run.steps.tolist(),
        **{f"{group}_accuracy": _rounded(getattr(run, f"{group}_accuracy"), 4) for group in GROUPS},
        "energies": _rounded(run.energies, 5),
        "target_energies": run.target_energies.tolist(),
        "attention_energies": None if attention is None else _rounded(attention, 5),
        "weight_norm": _rounded(run.weight_norm, 3),
        "spectrum": (run.spectrum * SPECTRUM_UNIT).round().astype(int).tolist(),
        "neurons": [_text(row) for row in neurons],
        "correct": [_text(np.packbits(cells)) for cells in run.correct],
        "train": None if run.train is None else _text(np.packbits(run.train)),
    }


def unpacked(state: dict) -> RecordedRun:
    """The run again, as far as packing kept it."""
    p = state["modulus"]
    neurons = np.stack([_bytes(row).reshape(2, -1) for row in state["neurons"]], 1)  # (2, T, m)

    def cells(text: str) -> np.ndarray:
        return np.unpackbits(_bytes(text), count=p * p).reshape(p, p).astype(bool)  # a-major

    attention, train = state["attention_energies"], state["train"]
    return RecordedRun(
        **{name: state[name] for name in ("name", "modulus", "learning_rate", "weight_decay")},
        **{name: np.array(state[name]) for name in ("steps", "energies", "target_energies", "weight_norm")},
        **{f"{group}_accuracy": np.array(state[f"{group}_accuracy"], dtype=float) for group in GROUPS},  # None is NaN
        attention_energies=None if attention is None else np.array(attention),
        spectrum=np.array(state["spectrum"]) / SPECTRUM_UNIT,
        neuron_frequency=neurons[0],
        neuron_share=neurons[1] / 255,
        correct=np.stack([cells(text) for text in state["correct"]]),
        train=None if train is None else cells(train),
    )


def _check_shapes(run: RecordedRun) -> None:
    if not run.name.strip():
        raise ValueError(f"name={run.name!r} is empty: name the run as a reader should choose it.")
    if not 3 <= run.modulus <= MOST:
        raise ValueError(f"modulus={run.modulus}: the figure shows 3 to {MOST}.")
    steps = run.steps
    if steps.ndim != 1 or len(steps) < 2 or steps[0] < 0 or (np.diff(steps) <= 0).any():
        raise ValueError(f"steps={steps}: give at least two checkpoints, each at a larger step than the last.")
    times, p, neurons = len(steps), run.modulus, run.neuron_frequency.shape[-1:]
    shapes = {
        **{f"{group}_accuracy": (times,) for group in GROUPS},
        **{"weight_norm": (times,), "energies": (times, 4), "attention_energies": (times, 4), "target_energies": (4,)},
        **{"spectrum": (times, p // 2), "neuron_frequency": (times, *neurons), "neuron_share": (times, *neurons)},
        **{"correct": (times, p, p), "train": (p, p)},
    }
    for name, shape in shapes.items():
        value = getattr(run, name)
        if value is not None and value.shape != shape:
            raise ValueError(
                f"{name} has shape {value.shape}, not {shape}: at modulus {p} with {times} checkpoints give that of "
                "one seed, without an axis of members."
            )
    for name in ("correct", "train"):
        value = getattr(run, name)
        if value is not None and value.dtype != bool:
            raise ValueError(f"{name} holds {value.dtype}, not bool: unpack bits with numpy.unpackbits, then astype.")


def _check_numbers(run: RecordedRun) -> None:
    finite = ["train_accuracy", "test_accuracy", "energies", "target_energies", "spectrum", "weight_norm"]
    if run.attention_energies is not None:
        finite.append("attention_energies")
    for name in finite:
        if not np.isfinite(getattr(run, name)).all():
            raise ValueError(f"{name} is not finite: cut a run that diverged before the step where it did.")
    shares = [f"{group}_accuracy" for group in GROUPS] + ["neuron_share", "spectrum"]
    for name in {*finite, *shares}:
        value = getattr(run, name)
        if (value < -1e-4).any() or (name in shares and (value > 1 + 1e-4).any()):
            top = "1" if name in shares else "infinity"
            raise ValueError(f"{name} goes from {np.nanmin(value):.4g} to {np.nanmax(value):.4g}: give 0 to {top}.")
    frequency = run.neuron_frequency
    if (frequency < 0).any() or (frequency > run.modulus // 2).any():
        raise ValueError(
            f"neuron_frequency goes from {frequency.min()} to {frequency.max()}: give 1 to {run.modulus // 2}, or 0 "
            "for a unit without one."
        )
    if not run.learning_rate > 0 or not run.weight_decay >= 0:
        raise ValueError(
            f"learning_rate={run.learning_rate}, weight_decay={run.weight_decay}: give a positive rate and a decay of "
            "at least 0."
        )


def _check_cells(run: RecordedRun) -> None:
    """Refuse right cells that are not those the accuracies were counted on: the wrong member, order or bits."""
    if run.train is None:
        return
    for name, pairs in (("train_accuracy", run.train), ("test_accuracy", ~run.train)):
        given, counted = getattr(run, name), run.correct[:, pairs].sum(-1) / max(1, pairs.sum())
        if (apart := np.abs(given - counted) > 1e-3).any():
            k = int(apart.argmax())
            raise ValueError(
                f"{name} is {given[k]:.4f} at step {run.steps[k]}, but of these pairs {counted[k]:.4f} are right in "
                "`correct`: take both from one member, and rows with the first operand first."
            )


def _rounded(values: np.ndarray, digits: int) -> list:
    """Nested lists, with None for NaN."""
    found = values.astype(float).round(digits)
    return np.where(np.isnan(found), None, found).tolist()


def _text(values: np.ndarray) -> str:
    return base64.b64encode(values.astype(np.uint8).tobytes()).decode()


def _bytes(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), dtype=np.uint8)

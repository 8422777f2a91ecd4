"""What a run measured on its way: named series, each with the steps at which it was recorded."""

import io
import operator
from collections.abc import Mapping

import numpy as np


class History:
    """Series by name. Each has increasing steps, and values of one shape and one type.

    Different series may have different steps: a loss every 10 steps, an accuracy every 100.
    """

    def __init__(self):
        self._steps: dict[str, list[int]] = {}
        self._values: dict[str, list[np.ndarray]] = {}

    def add(self, step: object, values: Mapping[str, object]) -> None:
        """Keep the values of one step.

        Errors: `ValueError` naming the series when a value has another shape or type than before, when the step does
        not lie after the last one, or when a name is taken by the layout of `history.npz`.
        """
        try:
            step = operator.index(step)
        except TypeError:
            raise ValueError(f"step = {step!r}: give a whole number, such as the number of updates so far") from None
        arrays = {name: self._checked(name, step, _array(name, value)) for name, value in values.items()}
        for name, array in arrays.items():  # all or none
            self._steps.setdefault(name, []).append(step)
            self._values.setdefault(name, []).append(array)

    def _checked(self, name: str, step: int, array: np.ndarray) -> np.ndarray:
        if name in ("file", "allow_pickle"):  # numpy's own words, with which `packed` would fail at the very end
            raise ValueError(f"{name}: numpy cannot write a series of this name: call it otherwise")
        if name.endswith("_step"):
            raise ValueError(f"{name}: names that end in _step hold the steps of a series: call it otherwise")
        if name not in self._steps:
            return array
        first, last = self._values[name][0], self._steps[name][-1]
        if step <= last:
            raise ValueError(
                f"{name} has a value at step {last}, and {step} does not lie after it: steps increase, and a resumed "
                "run goes on from the state in log.restored"
            )
        if array.shape != first.shape:
            raise ValueError(
                f"{name} has shape {array.shape} at step {step} and had {first.shape} before: a series keeps its "
                "shape; give the new one another name"
            )
        if array.dtype != first.dtype:
            if not np.can_cast(array.dtype, first.dtype, "safe"):
                raise ValueError(
                    f"{name} is {array.dtype} at step {step} and was {first.dtype} before: record one type from the "
                    "first step on"
                )
            array = array.astype(first.dtype)
        return array

    def arrays(self) -> dict[str, np.ndarray]:
        """`<name>` (records, *shape) and `<name>_step` (records,) for each series."""
        found = {}
        for name, steps in self._steps.items():
            found[name] = np.stack(self._values[name])
            found[f"{name}_step"] = np.array(steps, dtype=np.int64)
        return found

    def state(self) -> dict:
        """All of it in lists and tensors, for a checkpoint."""
        import torch

        return {
            name: {"steps": list(steps), "values": torch.from_numpy(np.stack(self._values[name]))}
            for name, steps in self._steps.items()
        }

    @classmethod
    def from_state(cls, state: dict) -> "History":
        """The history that `state` told of."""
        history = cls()
        for name, series in state.items():
            history._steps[name] = list(series["steps"])
            history._values[name] = list(series["values"].numpy())
        return history


def stack_seeds(histories: list[History], prefix: str = "") -> dict[str, np.ndarray]:
    """The histories of seeds 0, 1, ... side by side: `<name>` (records, seeds, *shape) and `<name>_step` (records,).

    The steps are those at which any seed has a value; where another has none (it ended earlier), it gets NaN.

    Errors: `ValueError` when the shape of a series differs between seeds.
    """
    found = {}
    seeds = [history.arrays() for history in histories]
    for name in dict.fromkeys(name for history in histories for name in history._steps):
        steps = np.unique(np.concatenate([one[f"{name}_step"] for one in seeds if name in one]))
        shapes = {one[name].shape[1:] for one in seeds if name in one}
        if len(shapes) > 1:
            raise ValueError(f"{name} has the shapes {sorted(shapes)} for different seeds: record one shape")
        rows = [np.searchsorted(steps, one[f"{name}_step"]) if name in one else np.array([], int) for one in seeds]
        dtype = np.result_type(*(one[name].dtype for one in seeds if name in one))
        if any(len(row) < len(steps) for row in rows) and dtype.kind not in "fc":
            dtype = np.dtype(np.float64)  # whole numbers have no NaN
        stacked = np.full((len(steps), len(seeds), *shapes.pop()), np.nan if dtype.kind in "fc" else 0, dtype)
        for seed, (one, row) in enumerate(zip(seeds, rows, strict=True)):
            if name in one:
                stacked[row, seed] = one[name]
        found[prefix + name], found[f"{prefix}{name}_step"] = stacked, steps
    return found


def packed(arrays: Mapping[str, np.ndarray]) -> bytes:
    """The bytes of `history.npz`: the same arrays give the same bytes."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{name: arrays[name] for name in sorted(arrays)})
    return buffer.getvalue()


def _array(name: str, value: object) -> np.ndarray:
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = (value.float() if str(value.dtype) == "torch.bfloat16" else value).numpy()
    array = np.array(value)  # a copy: the caller may go on writing into its own
    if array.dtype.kind not in "biufc":
        raise ValueError(f"{name} is {value!r}: record numbers, or tensors of numbers")
    return array

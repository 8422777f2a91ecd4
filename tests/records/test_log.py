"""What an experiment records is what is read, across kills; what cannot be read back is refused when it is given."""

import errno
import os
import re

import numpy as np
import pytest
import torch
from torch import Tensor

from nslab.protocols import Recorder
from nslab.records import RecordError, RunLog
from nslab.records.history import History, packed, stack_seeds


def test_series_keep_their_own_steps_shapes_and_types(tmp_path):
    log = RunLog(tmp_path)
    assert isinstance(log, Recorder)
    for step in range(6):
        log.record(step, loss=1.0 / (step + 1), hits=torch.tensor([step, 2 * step]))
        if step % 3 == 0:
            log.record(step, half=torch.tensor(step, dtype=torch.bfloat16))
    found = log.arrays()
    assert found["loss"].tolist() == [1.0 / (step + 1) for step in range(6)]
    assert found["hits"].shape == (6, 2)
    assert found["hits"].dtype == np.int64
    assert found["half_step"].tolist() == [0, 3]
    assert found["half"].dtype == np.float32


def test_a_recorded_tensor_may_be_written_into_afterwards(tmp_path):
    log, x = RunLog(tmp_path), torch.zeros(2)
    log.record(0, x=x)
    x += 1
    log.record(1, x=x)
    assert log.arrays()["x"].tolist() == [[0, 0], [1, 1]]


@pytest.mark.parametrize(
    ("step", "value", "message"),
    [
        (1, torch.zeros(3), r"x has shape \(3,\) at step 1 and had \(2,\) before"),
        (0, torch.zeros(2), "has a value at step 0, and 0 does not lie after it"),
        (1, torch.zeros(2, dtype=torch.float64), "x is float64 at step 1 and was float32 before"),
        (1, "high", "x is 'high': record numbers"),
        (1.5, torch.zeros(2), "step = 1.5: give a whole number"),
    ],
)
def test_a_value_that_does_not_fit_its_series_is_refused_and_nothing_is_kept(step, value, message):
    history = History()
    history.add(0, {"x": torch.zeros(2), "y": 1.0})
    with pytest.raises(ValueError, match=message):
        history.add(step, {"y": 2.0, "x": value})
    assert history.arrays()["y"].tolist() == [1.0]


def test_names_of_the_layout_are_refused(tmp_path):
    with pytest.raises(ValueError, match="loss_step: names that end in _step hold the steps"):
        RunLog(tmp_path).record(0, loss_step=1)
    with pytest.raises(ValueError, match="file: numpy cannot write a series of this name"):
        RunLog(tmp_path).record(0, file=1)
    for name in ("run.json", "a/b", "../x", ".hidden"):
        with pytest.raises(ValueError, match="give a plain file name"):
            RunLog(tmp_path).artifact(name)


def test_a_new_log_in_the_same_folder_goes_on_from_the_last_save(tmp_path):
    log = RunLog(tmp_path)
    assert log.restored is None
    state = {"w": torch.arange(3.0), "at": (1, 2.5, "x", None, True), "moments": {0: [torch.ones(2)]}}
    log.record(0, loss=1.0)
    log.save({"old": 1})
    log.record(1, loss=0.5)
    log.save(state)
    log.record(2, loss=0.25)  # lost: after the last save
    again = RunLog(tmp_path)
    assert torch.equal(again.restored["w"], state["w"])
    assert again.restored["at"] == state["at"]
    assert torch.equal(again.restored["moments"][0][0], torch.ones(2))
    again.record(2, loss=0.125)
    assert again.arrays()["loss"].tolist() == [1.0, 0.5, 0.125]


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"a": {"b": [object()]}}, r"state['a']['b'][0] is a object: a checkpoint holds tensors"),
        ({"x": np.zeros(2)}, "state['x'] is a ndarray"),
        ({"x": {1.5: 1}}, "state['x'] has the key 1.5: use text or whole numbers"),
    ],
)
def test_a_state_that_could_not_be_read_back_is_refused_when_it_is_saved(tmp_path, state, message):
    log = RunLog(tmp_path)
    log.save({"good": 1})
    with pytest.raises(TypeError, match=re.escape(message)):
        log.save(state)
    assert RunLog(tmp_path).restored == {"good": 1}


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b[:-300] + b"\x01" + b[-299:], lambda b: b""])
def test_a_damaged_checkpoint_is_named_with_the_remedy(tmp_path, damage):
    RunLog(tmp_path).save({"w": torch.zeros(1000)})
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(RecordError, match=r"checkpoint.pt: this checkpoint is damaged.*delete the folder") as refusal:
        RunLog(tmp_path)
    assert "without --resume" in str(refusal.value)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_leaves_the_last_checkpoint(tmp_path, monkeypatch, number):
    log = RunLog(tmp_path)
    log.save({"done": 1})

    def full(handle):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(RecordError, match=r"checkpoint.pt: .*there is no room left: make some"):
            log.save({"done": 2})
    assert RunLog(tmp_path).restored == {"done": 1}
    assert not list(tmp_path.glob(".checkpoint*"))


def seeds_by_hand(values: dict[int, dict[int, float]]) -> tuple[list[int], list[list[float]]]:
    """The slow twin of `stack_seeds`: steps, and one row a step with NaN where a seed has nothing."""
    steps = sorted({step for seed in values.values() for step in seed})
    return steps, [[seed.get(step, float("nan")) for seed in values.values()] for step in steps]


def test_seeds_side_by_side_have_nan_where_one_has_ended():
    values = {0: {0: 1.0, 10: 2.0, 20: 3.0}, 1: {0: 4.0}, 2: {5: 5.0, 10: 6.0}}
    histories = []
    for seed in values.values():
        history = History()
        for step, value in seed.items():
            history.add(step, {"x": value})
        histories.append(history)
    found = stack_seeds(histories)
    steps, rows = seeds_by_hand(values)
    assert found["x_step"].tolist() == steps
    assert np.array_equal(found["x"], np.array(rows), equal_nan=True)


def test_seeds_one_after_the_other_are_filed_as_seeds_at_once(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    at_once, in_turn = RunLog(tmp_path / "a"), RunLog(tmp_path / "b")

    def value(seed: int, step: int) -> Tensor:
        return torch.tensor([seed + step / 8, -seed], dtype=torch.float32)

    def one(seed: int, log: RunLog) -> dict:
        for step in range(4):
            log.record(step, x=value(seed, step))
        return {"last": seed + step / 8}

    for step in range(4):
        at_once.record(step, x=torch.stack([value(seed, step) for seed in range(3)]))
    assert in_turn.each_seed(3, one) == [{"last": seed + 3 / 8} for seed in range(3)]
    assert packed(in_turn.arrays()) == packed(at_once.arrays())


def test_a_seed_that_is_done_is_not_run_again_and_a_seed_at_work_goes_on(tmp_path):
    runs = []

    def one(seed: int, log: RunLog) -> dict:
        runs.append((seed, log.restored))
        log.record(0 if log.restored is None else 1, x=float(seed))
        log.save({"half": seed})
        if seed == 1 and len(runs) == 2:
            raise KeyboardInterrupt
        return {"seed": seed}

    with pytest.raises(KeyboardInterrupt):
        RunLog(tmp_path).each_seed(3, one, name="plain")
    log = RunLog(tmp_path)
    assert log.each_seed(3, one, name="plain") == [{"seed": 0}, {"seed": 1}, {"seed": 2}]
    assert runs == [(0, None), (1, None), (1, {"half": 1}), (2, None)]
    assert log.arrays()["plain_x"].shape == (2, 3)
    with pytest.raises(ValueError, match="plain_x was recorded twice: give each_seed a name"):
        log.each_seed(3, one, name="plain")

"""Sparse parity: the record holds the curves of a plain loop and what its weights reveal; a killed run goes on."""

import copy
import dataclasses
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

from nslab import records, reruns
from nslab.records import changed
from nslab.reruns import parity
from nslab.tasks import SparseParity
from nslab.training.parity_networks import ReluNetwork

FILES = ("config.json", "history.npz", "result.json")
TINY = ["samples=100", "width=20", "steps=60", "test=200", "evaluate_every=5", "label_noise=0.1"]
CONFIG = dataclasses.replace(changed(parity.PRESETS["quick"], TINY), seeds=2)
TOLERANCES = {"loop": 1e-3}  # relative, of a loss or an energy after 60 steps in single precision


def perform(folder, config=CONFIG, resume=False):
    experiment = dataclasses.replace(reruns.load("parity"), presets={"quick": config})
    return records.perform(experiment, "quick", records=folder, resume=resume)


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    return perform(tmp_path_factory.mktemp("parity"))


def test_the_record_holds_the_curves_of_a_plain_loop(record):
    """Twin: one plain module, torch's own SGD and the hinge loss written out, on the batches of the ensemble."""
    batches = torch.Generator().manual_seed(0)
    draws = [torch.randint(100, (2, 32), generator=batches) for _ in range(60)]
    for seed in range(2):
        data = torch.Generator().manual_seed(2 * seed)
        x, y = SparseParity(20, 3, 0.1).draw(100, data)
        x_test, y_test = SparseParity(20, 3).draw(200, data)
        assert torch.equal(y_test, x_test[:, 0] * x_test[:, 1] * x_test[:, 2])  # no wrong labels here
        network = ReluNetwork(20, 20)
        module = network.module(network.initial(torch.Generator().manual_seed(2 * seed + 1)))
        first = module[0].weight.detach().clone()
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1, weight_decay=0.01)
        told = {"train_loss": [], "test_accuracy": [], "movement": [], "relevant_share": [], "margin": []}
        for step in range(61):
            if step % 5 == 0:
                with torch.no_grad():
                    energy = module[0].weight.square().sum(0)  # (bits,)
                    told["train_loss"].append((1 - y * module(x)).clamp(min=0).mean().item())
                    told["test_accuracy"].append(((module(x_test) > 0) == (y_test > 0)).double().mean().item())
                    told["movement"].append((module[0].weight - first).norm().item())
                    told["relevant_share"].append((energy[:3].sum() / energy.sum()).item())
                    told["margin"].append((energy[:3].min() / energy[3:].max()).item())
            if step < 60:
                rows = draws[step][seed]
                optimizer.zero_grad()
                (1 - y[rows] * module(x[rows])).clamp(min=0).mean().backward()
                optimizer.step()
        for name, theirs in told.items():
            _, mine = parity.curves(record, "20-3", name)
            np.testing.assert_allclose(mine[:, seed], theirs, rtol=TOLERANCES["loop"], atol=1e-4, err_msg=name)
        if seed == 0:
            _, mine = parity.curves(record, "20-3", "input_energy")
            np.testing.assert_allclose(mine[-1, 0], energy, rtol=TOLERANCES["loop"])


def test_a_run_that_is_killed_in_the_middle_of_an_ensemble_ends_as_an_uninterrupted_one(record, tmp_path):
    script = f"""
import dataclasses, os, signal, sys
from nslab import records, reruns
from nslab.reruns import parity

real = parity.Kept.record
def dying(self, step, /, **values):
    if step == 55:
        os.kill(os.getpid(), signal.SIGKILL)
    real(self, step, **values)
parity.Kept.record = dying
experiment = dataclasses.replace(reruns.load("parity"), presets={{"quick": parity.{CONFIG}}})
records.perform(experiment, "quick", records=sys.argv[1])
"""
    killed = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    [checkpoint] = tmp_path.rglob("*.pt")
    assert not records.find("parity", root=tmp_path)
    resumed = perform(tmp_path, resume=True)
    assert not checkpoint.exists()
    for name in FILES:
        assert (resumed.path / name).read_bytes() == (record.path / name).read_bytes()


def test_milestones_are_those_of_the_curves(tmp_path):
    """On a task so small that it is learned at once: three bits of five."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(parity.SETTINGS, "5-3", parity.Setting(5, samples=200, width=50, steps=600))
        record = perform(tmp_path, parity.Config(seeds=3, settings=("5-3",), test=100, evaluate_every=20, linger=2))
    told = record.result["settings"]["5-3"]
    names = ("train_accuracy", "test_accuracy", "margin", "stability")
    (steps, *_), (train, test, margin, stability) = zip(
        *(parity.curves(record, "5-3", name) for name in names), strict=True
    )
    for seed in range(3):
        assert told["memorised_at"][seed] == steps[train[:, seed] >= 0.99][0]
        assert told["generalised_at"][seed] == steps[test[:, seed] >= 0.99][0] == told["left_at"][seed] - 40
        below = np.flatnonzero(margin[:, seed] < 1)
        assert told["revealed_at"][seed] == (steps[below[-1] + 1] if len(below) else 0)
        middle = (test[0, seed] + test[-1, seed]) / 2
        after = np.flatnonzero(test[:, seed] >= middle)[0]
        assert steps[after - 1] < told["accuracy_halfway"][seed] <= steps[after]
    assert told["sensitivity"] == [3.0] * 3
    assert stability[-1, :, parity.RHO.index(0.9)] == pytest.approx(0.9**3, abs=5 * (1 - 0.9**6) ** 0.5 / 10)


def test_settings_take_changes_and_unknown_keys_are_refused_with_the_nearest():
    noisy = parity.setting(CONFIG, "40-3")
    assert (noisy.bits, noisy.samples, noisy.width, noisy.label_noise) == (40, 100, 20, 0.1)
    full = [parity.setting(parity.PRESETS["full"], name) for name in parity.PRESETS["full"].settings]
    assert [(one.bits, one.samples) for one in full] == [(n, 35 * n) for n in range(10, 101, 10)]
    with pytest.raises(ValueError, match="unknown key 'setings': did you mean 'settings'"):
        changed(parity.PRESETS["laptop"], ["setings=20-3"])
    with pytest.raises(ValueError, match=r"settings has '30-3': choose from 20-3, 40-3"):
        parity.setting(CONFIG, "30-3")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"label_noise": 0.5}, "label_noise is 0.5"),
        ({"test": 0}, "samples is 0: draw at least 1"),
        ({"steps": 0}, "steps is 0: give at least 1"),
        ({"settings": ()}, "settings is empty: give some of 20-3"),
        ({"width": 0}, "width is 0: give at least 1"),
    ],
)
def test_bad_settings_are_refused_before_training(tmp_path, monkeypatch, changes, said):
    monkeypatch.setattr(parity.EnsembleTrainer, "run", lambda *given, **named: pytest.fail("training began"))
    with pytest.raises(ValueError, match=said):
        perform(tmp_path, dataclasses.replace(CONFIG, **changes))


def test_what_is_no_phenomenon_is_said():
    grown = {
        "label_noise": 0.0,
        "memorised_at": [1600.0, 2800.0],
        "generalised_at": [3500, 11000],
        "revealed_at": [1600.0, 8300.0],
        "accuracy_halfway": [2600.0, 9900.0],
    }
    assert parity.phenomenon({"settings": {"40-3": grown}}) is None
    assert parity.phenomenon({"settings": {"40-3": grown | {"label_noise": 0.1, "memorised_at": [None] * 2}}}) is None
    for change, said in [
        ({"generalised_at": [3500, None]}, "40-3: every network at 99% test accuracy; 1 of 2 are not"),
        ({"memorised_at": [3600.0, 2800.0]}, r"no generalisation before memorisation; it is so for seeds \[0\]"),
        ({"memorised_at": [1600.0, None]}, r"no generalisation before memorisation; it is so for seeds \[1\]"),
        ({"revealed_at": [2600.0, 8300.0]}, r"name the bits before the answers are half way; not so for seeds \[0\]"),
        ({"revealed_at": [1600.0, None]}, r"name the bits before the answers are half way; not so for seeds \[1\]"),
    ]:
        worse = {"settings": {"40-3": copy.deepcopy(grown) | change}}
        with pytest.raises(AssertionError, match=said):
            assert not parity.phenomenon(worse), parity.phenomenon(worse)

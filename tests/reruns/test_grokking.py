"""Grokking: the record holds the curves of a plain loop, a cut run goes on to the same bits, bad settings are told."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from nslab import records, reruns
from nslab.records import changed
from nslab.reruns import grokking
from nslab.tasks import ModularArithmetic
from nslab.training import milestones
from nslab.training.pair_networks import QuadraticNetwork, take_member

FILES = ("config.json", "history.npz", "result.json")
MLP = QuadraticNetwork(ModularArithmetic(11), 32)
TINY = grokking.Setting(MLP, 0.6, steps=60, evaluate_every=5, pictures_every=2)
CONFIG = grokking.Config(seeds=3, settings=("tiny",))
TOLERANCES = {"loop": 2e-3}  # of a loss, an accuracy or a stability after 60 steps in single precision


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(grokking.SETTINGS, "tiny", TINY)


def perform(folder, config=CONFIG, resume=False):
    experiment = dataclasses.replace(reruns.load("grokking"), presets={"quick": config})
    return records.perform(experiment, "quick", records=folder, resume=resume)


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(grokking.SETTINGS, "tiny", TINY)
        return perform(tmp_path_factory.mktemp("grokking"))


def test_the_record_holds_the_curves_of_a_plain_loop(record):
    """Twin: one plain module and torch's own AdamW for each seed, with the measures written out over all pairs."""
    keep, task = 0.5, MLP.task
    p, pairs, labels = task.modulus, task.pairs, task.labels
    kept = keep * np.eye(p) + (1 - keep) / p  # law of a noisy operand, given the clean one
    splits, weights = grokking.prepare(TINY, range(3))
    for seed in range(3):
        module, train = MLP.module(take_member(weights, seed)), splits[seed].train
        optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2, weight_decay=1.0, betas=(0.9, 0.98))
        told = []
        for step in range(TINY.steps + 1):
            logits = module(pairs)
            if step % TINY.evaluate_every == 0:
                right = (logits.argmax(1) == labels).double()
                table = logits.detach().softmax(1).double().view(p, p, p).numpy()  # (a, b, answer)
                stable = np.einsum("abc,ad,be,dec->", table, kept, kept, table, optimize=True) / p**2
                loss = F.cross_entropy(logits[~train], labels[~train]).item()
                told.append((right[train].mean().item(), right[~train].mean().item(), loss, stable))
            optimizer.zero_grad()
            F.cross_entropy(logits[train], labels[train]).backward()
            optimizer.step()
        energies = grokking.curves(record, "tiny", "energies")[1][:, seed]
        found = [grokking.curves(record, "tiny", f"{name}")[1][:, seed] for name in
                 ("train_accuracy", "test_accuracy", "test_loss")]  # fmt: skip
        found.append(energies @ [1, keep, keep, keep**2])
        for name, mine, theirs in zip(("train", "test", "loss", "stability"), found, np.transpose(told), strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=TOLERANCES["loop"], atol=TOLERANCES["loop"], err_msg=name)


def test_milestones_are_those_of_the_curves(record):
    told = record.result["settings"]["tiny"]
    steps, train = grokking.curves(record, "tiny", "train_accuracy")
    _, test = grokking.curves(record, "tiny", "test_accuracy")
    assert steps.tolist() == list(range(0, 61, 5))
    for seed in range(3):
        for name, accuracy in (("memorised_at", train), ("generalised_at", test)):
            reached = [int(step) for step, value in zip(steps, accuracy[:, seed], strict=True) if value >= 0.99]
            assert told[name][seed] == (reached[0] if reached else None)
    assert told["energies_of_the_task"] == pytest.approx([1 / 11, 0, 0, 10 / 11])


def test_pictures_are_kept_of_the_first_seed_now_and_then(record):
    for name, width in (("correct", 16), ("neuron_frequency", 32), ("neuron_share", 32)):
        steps, pictures = grokking.curves(record, "tiny", name)
        assert steps.tolist() == list(range(0, 61, 10))
        assert pictures.shape == (7, 1, width)
    _, pictures = grokking.curves(record, "tiny", "correct")
    _, train = grokking.curves(record, "tiny", "train_accuracy")
    _, test = grokking.curves(record, "tiny", "test_accuracy")
    right = np.unpackbits(pictures[:, 0], axis=-1, count=121).sum(1)
    assert right == pytest.approx(72 * train[::2, 0] + 49 * test[::2, 0], abs=1e-3)


def test_a_seed_fixes_split_and_weights_whatever_else_is_trained():
    """So that settings are compared seed by seed."""
    splits, weights = grokking.prepare(TINY, range(3))
    alone_splits, alone = grokking.prepare(dataclasses.replace(TINY, weight_decay=0.0), range(2, 3))
    assert torch.equal(splits[2].train, alone_splits[0].train)
    assert all(torch.equal(weights[name][2], alone[name][0]) for name in weights)
    assert not torch.equal(splits[0].train, splits[1].train)


def test_two_ensembles_tell_what_one_does(tmp_path):
    config = dataclasses.replace(CONFIG, seeds=2)
    whole, parts = perform(tmp_path / "1", config), perform(tmp_path / "2", dataclasses.replace(config, ensembles=2))
    for name in ("train_accuracy", "energies", "correct"):
        one, two = (grokking.curves(record, "tiny", name)[1] for record in (whole, parts))
        assert one[:, 0] == pytest.approx(two[:, 0], abs=TOLERANCES["loop"])
    assert [len(told["memorised_at"]) for told in parts.result["settings"].values()] == [2]
    with pytest.raises(ValueError, match="ensembles is 3: give a number that divides the 2 seeds"):
        perform(tmp_path / "3", dataclasses.replace(config, ensembles=3))


def test_a_run_cut_in_the_middle_of_an_ensemble_ends_as_an_uninterrupted_one(record, tmp_path, monkeypatch):
    real = grokking.Thinned.record

    def cut(self, step, /, **values):
        if step == 55:
            raise KeyboardInterrupt
        real(self, step, **values)

    with monkeypatch.context() as patch:
        patch.setattr(grokking.Thinned, "record", cut)
        with pytest.raises(KeyboardInterrupt):
            perform(tmp_path)
    begun = []
    monkeypatch.setattr(
        grokking.Thinned, "record", lambda self, step, **values: [begun.append(step), real(self, step, **values)]
    )
    resumed = perform(tmp_path, resume=True)
    assert begun == [55, 60]  # the last checkpoint was at 50
    for name in FILES:
        assert (resumed.path / name).read_bytes() == (record.path / name).read_bytes()


def test_a_diverged_seed_is_told(tmp_path):
    record = perform(tmp_path, dataclasses.replace(CONFIG, learning_rate=1e30, steps=10))
    told = record.result["settings"]["tiny"]
    assert told["diverged"] == [True] * 3
    assert told["left_at"] == [5] * 3
    assert "3 of 3 are not" in grokking.phenomenon(record.result)


@pytest.mark.parametrize("fraction", [0.0, 1.0])
def test_an_empty_train_or_test_set_is_refused_before_training(tmp_path, monkeypatch, fraction):
    monkeypatch.setattr(grokking, "EnsembleTrainer", lambda *given, **named: pytest.fail("training began"))
    with pytest.raises(ValueError, match=f"fraction is {fraction}: give more than 0 and less than 1"):
        perform(tmp_path, dataclasses.replace(CONFIG, fraction=fraction))


def test_no_setting_at_all_is_refused(tmp_path):
    with pytest.raises(ValueError, match="settings is empty: give some of mlp-23"):
        perform(tmp_path, dataclasses.replace(CONFIG, settings=()))


def test_unknown_settings_are_refused_with_the_nearest():
    with pytest.raises(ValueError, match="unknown key 'setings': did you mean 'settings'"):
        changed(grokking.PRESETS["laptop"], ["setings=mlp-31"])
    with pytest.raises(ValueError, match=r"settings has 'mlp-32': choose from mlp-23, mlp-31"):
        grokking.setting(CONFIG, "mlp-32")
    lowered = changed(CONFIG, ["weight_decay=0.5", "split=unordered"])
    assert grokking.setting(lowered, "tiny") == dataclasses.replace(TINY, weight_decay=0.5, split="unordered")


def test_what_is_no_phenomenon_is_said():
    grown = {"memorised_at": [50, 25], "generalised_at": [400, 500], "weight_decay": 1.0}
    settings = {"mlp-31": grown, "mlp-31-no-decay": grown | {"generalised_at": [None, None], "weight_decay": 0.0}}
    assert grokking.phenomenon({"settings": settings}) is None
    for name, steps, said in [
        ("mlp-31", [400, None], "mlp-31: every network at 99% test accuracy; 1 of 2 are not"),
        ("mlp-31", [400, 25], r"generalisation after memorisation; it is not so for seeds \[1\]"),
        ("mlp-31-no-decay", [None, 500], "no network at 99% test accuracy; some got there"),
    ]:
        worse = copy.deepcopy(settings)
        worse[name]["generalised_at"] = steps
        with pytest.raises(AssertionError, match=said):
            assert not grokking.phenomenon({"settings": worse}), grokking.phenomenon({"settings": worse})


def test_pairs_count_as_known_where_the_trainer_counts_them_so():
    assert grokking.LEVEL == milestones.LEVEL

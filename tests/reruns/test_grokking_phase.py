"""The phase diagram and the clock: cells share networks and ensembles, each keeps its own rates, a cut run goes on."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from nslab import records, reruns
from nslab.records import changed
from nslab.reruns import grokking_phase as gp
from nslab.reruns.grokking import Setting, prepare
from nslab.tasks import ModularArithmetic
from nslab.training.pair_networks import QuadraticNetwork, take_member

FILES = ("config.json", "history.npz", "result.json")
CONFIG = gp.Config(
    seeds=2,
    moduli=(11,),
    width=32,
    decays=(0.0, 1.0),
    fractions=(0.4, 0.6),
    clock_rates=(5e-3, 1e-2),
    clock_decays=(1.0, 2.0),
    clock_fraction=0.6,
    efoldings=0.25,
    steps=32,
    steps_without_decay=30,
)
TOLERANCES = {"loop": 2e-3}  # of an accuracy after 32 steps in single precision


def perform(folder, config=CONFIG, resume=False):
    experiment = dataclasses.replace(reruns.load("grokking-phase"), presets={"quick": config})
    return records.perform(experiment, "quick", records=folder, resume=resume)


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    return perform(tmp_path_factory.mktemp("phase"))


def test_the_cells_are_all_combinations_and_their_limits_a_number_of_e_foldings():
    diagram, clock = gp.cells_of(CONFIG)
    assert [(cell.fraction, cell.weight_decay) for cell in diagram] == [(0.4, 0.0), (0.4, 1.0), (0.6, 0.0), (0.6, 1.0)]
    assert {cell.learning_rate for cell in diagram} == {1e-2}
    assert [(cell.learning_rate, cell.weight_decay) for cell in clock] == [(5e-3, 1), (5e-3, 2), (1e-2, 1), (1e-2, 2)]
    assert [gp.limit(CONFIG, cell) for cell in diagram + clock] == [30, 25, 30, 25, 32, 25, 25, 12]


def test_cells_with_one_fraction_and_one_limit_are_trained_together_and_no_cell_twice(record):
    series = [cell["series"] for cell in record.result["diagram"] + record.result["clock"]]
    ensembles = {
        name.split("_")[0]: {one for one in series if one.startswith(name.split("_")[0] + "_")} for name in series
    }
    assert {name: len(cells) for name, cells in ensembles.items()} == {
        "p11-f0.4-30": 1,
        "p11-f0.4-25": 1,
        "p11-f0.6-30": 1,
        "p11-f0.6-25": 2,
        "p11-f0.6-32": 1,
        "p11-f0.6-12": 1,
    }
    assert record.result["diagram"][3] == record.result["clock"][2]
    assert len([name for name in record.history if name.endswith("test_accuracy")]) == len(set(series))


def test_each_cell_holds_the_curves_of_a_plain_loop_at_its_own_rates(record):
    """Twin: one plain module and torch's own AdamW for each seed, also where cells were trained together."""
    network = QuadraticNetwork(ModularArithmetic(11), 32)
    pairs, labels = network.task.pairs, network.task.labels
    for cell in record.result["clock"]:
        splits, weights = prepare(Setting(network, cell["fraction"], cell["limit"]), range(2))
        steps, curves = gp.curves(record, cell)
        assert steps.tolist() == list(range(cell["limit"] + 1))
        for seed in range(2):
            module, train = network.module(take_member(weights, seed)), splits[seed].train
            options = {"lr": cell["learning_rate"], "weight_decay": cell["weight_decay"], "betas": (0.9, 0.98)}
            optimizer = torch.optim.AdamW(module.parameters(), **options)
            told = []
            for _ in steps:
                logits = module(pairs)
                right = (logits.argmax(1) == labels).double()
                told.append((right[train].mean().item(), right[~train].mean().item()))
                optimizer.zero_grad()
                F.cross_entropy(logits[train], labels[train]).backward()
                optimizer.step()
            for name, theirs in zip(gp.CURVES, np.transpose(told), strict=True):
                np.testing.assert_allclose(curves[name][:, seed], theirs, rtol=0, atol=TOLERANCES["loop"])
                assert cell[name][seed] == pytest.approx(theirs[-1], abs=TOLERANCES["loop"])
            reached = [step for step, (accuracy, _) in enumerate(told) if accuracy >= 0.99]
            assert cell["memorised_at"][seed] == (reached[0] if reached else None)
            assert cell["generalised_at"][seed] is None
            assert cell["left_at"][seed] == cell["limit"]
            assert sum(cell["energies"][seed]) < 1


def test_a_run_cut_in_the_middle_of_an_ensemble_ends_as_an_uninterrupted_one(record, tmp_path, monkeypatch):
    real = gp.ByCell.record
    seen = []

    def cut(self, step, /, **values):
        if len(seen) == 113:
            raise KeyboardInterrupt
        seen.append((len(self.cells), step))
        real(self, step, **values)

    with monkeypatch.context() as patch:
        patch.setattr(gp.ByCell, "record", cut)
        with pytest.raises(KeyboardInterrupt):
            perform(tmp_path)
    assert seen[-1] == (2, 24)  # the fourth ensemble; its last checkpoint was at 20
    resumed = perform(tmp_path, resume=True)
    for name in FILES:
        assert (resumed.path / name).read_bytes() == (record.path / name).read_bytes()


def test_phases_follow_from_two_steps_and_the_last_accuracy():
    assert gp.phase(None, None, 0.6) == "confusion"
    assert gp.phase(50, None, 0.49) == "memorisation"
    assert gp.phase(50, None, 0.5) == "partial"
    assert gp.phase(50, 100, 0.99) == "grokking"
    assert gp.phase(50, 99, 0.99) == "comprehension"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"fractions": (0.5, 0.0)}, "fraction is 0.0: give more than 0 and less than 1"),
        ({"clock_fraction": 1.0}, "fraction is 1.0: give more than 0 and less than 1"),
        ({"clock_decays": (1.0, 0.0)}, "clock_decays has 0.0: give positive numbers"),
        ({"efoldings": 0.0}, "efoldings is 0.0: give a positive number"),
        ({"moduli": (31, 2)}, "modulus"),
        ({"clock_rates": ()}, "clock_rates is empty: give at least one"),
        ({"steps": 0}, "steps is 0: give at least 1"),
        ({"width": 0}, "width is 0: give at least 1 hidden unit"),
    ],
)
def test_bad_settings_are_refused_before_training(tmp_path, monkeypatch, changes, said):
    monkeypatch.setattr(gp, "EnsembleTrainer", lambda *given, **named: pytest.fail("training began"))
    with pytest.raises(ValueError, match=said):
        perform(tmp_path, dataclasses.replace(CONFIG, **changes))


def test_unknown_keys_are_refused_with_the_nearest():
    with pytest.raises(ValueError, match="unknown key 'fraction': did you mean 'fractions'"):
        changed(gp.PRESETS["laptop"], ["fraction=0.3"])
    assert changed(CONFIG, ["fractions=0.3"]).fractions == (0.3,)


def test_what_is_no_phenomenon_is_said():
    def cell(rate, decay, steps):
        names = {"modulus": 31, "learning_rate": rate, "weight_decay": decay, "series": f"lr{rate:g}-wd{decay:g}"}
        return names | {"generalised_at": steps}

    shown = {
        "config": {"moduli": [31]},
        "diagram": [cell(1e-2, 0, [None, None]), cell(1e-2, 10, [None, 20])],
        "clock": [cell(1e-3, 1, [3500, 3700]), cell(1e-3, 3, [None, 1600, 1800]), cell(1e-2, 1, [500, 600])],
    }
    assert gp.phenomenon(shown) is None
    for which, number, steps, said in [
        ("diagram", 0, [None, 900], "lr0.01-wd0: no network at 99% test accuracy without decay"),
        ("clock", 1, [None, None, 1600], "lr0.001-wd3: most networks of the clock at 99% test accuracy; most are not"),
        ("clock", 1, [3600, 3700], "more decay groks sooner; lr0.001-wd3 takes 3650 steps, lr0.001-wd1 3600"),
        ("clock", 2, [1000, 1000], "p = 31: e-foldings until grokking within a factor 2.5; they differ by 2.8"),
    ]:
        worse = copy.deepcopy(shown)
        worse[which][number]["generalised_at"] = steps
        with pytest.raises(AssertionError, match=said):
            assert not gp.phenomenon(worse), gp.phenomenon(worse)
    narrow = shown | {"clock": shown["clock"][:2]}
    with pytest.raises(AssertionError, match=r"rate times decay over a factor 10; it is 3\.0"):
        assert not gp.phenomenon(narrow), gp.phenomenon(narrow)

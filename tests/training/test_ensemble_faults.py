"""What can go wrong with an ensemble: members that diverge, a kill, other threads, bad input."""

import math

import pytest
import torch

import nslab.training.ensemble as module_under_test
from nslab.records import checkpoint
from nslab.training.ensemble_settings import EnsembleConfig
from nslab.training.pair_networks import take_member
from tests.training.ensembles import NETWORKS, History, Scripted, alone, data_for, distance, drawn, ensemble, noisy

FROZEN = 1e-12  # members beside a broken one, in double precision, against a run without it


def same(one, other):
    """The same bits in two states: dicts and lists of tensors and numbers. NaN equals NaN."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, torch.Tensor):
        equal = torch.equal(one, other)
        return one.dtype == other.dtype and (equal or torch.equal(one.nan_to_num(7), other.nan_to_num(7)))
    return one == other


def broken(network, fault, device):
    """Data and weights of three members of whom number 1 is broken in the data or in the weights."""
    data, weights = data_for(network, 3), drawn(network, 3, device=device)
    if fault == "data":
        data[0][1, 5, 2] = torch.nan
    if fault == "weights":
        next(iter(weights.values()))[1, 0] = torch.inf
    return {"data": data, "weights": weights}


@pytest.mark.parametrize(("name", "fault"), [("parity", "data"), *((name, "weights") for name in NETWORKS)])
def test_a_broken_member_is_frozen_and_the_others_go_on(name, fault, device):
    network = NETWORKS[name]
    measure, log = Scripted(), History()
    trainer = ensemble(network, measure=measure, **broken(network, fault, device))
    start = take_member(trainer.weights, 1)
    healthy = ensemble(network, device=device)
    twin, _, _ = alone(healthy, 2, 20)
    healthy.run()
    trainer.run(log=log)
    left = 0 if fault == "weights" else 5  # bad weights are seen at once, bad data at the first evaluation after it
    assert trainer.diverged.tolist() == [False, True, False]
    assert trainer.left_at.tolist() == [20, left, 20]
    assert trainer.generalised_at.tolist() == [-1] * 3
    assert same(take_member(trainer.weights, 1), start)
    for member in (0, 2):
        for key, weight in trainer.weights.items():
            assert (weight[member] - healthy.weights[key][member]).abs().max() < FROZEN
    assert distance(trainer, 2, twin) < 1e-10
    assert measure.calls[-1] == [0, 2]
    for _, values in log.entries[1:]:
        assert values["loss"].isfinite().tolist() == [True, False, True]  # it never had a loss: NaN
        assert fault == "weights" or torch.equal(values["weights"][1], log.entries[0][1]["weights"][1])


def test_a_rate_that_is_too_large_keeps_the_last_good_evaluation():
    """With rate 1e6 and decay 1 a weight grows a million times each step; after 52 steps it passes 1e308."""
    network, log = NETWORKS["quadratic"], History()
    rates = (1e-2, 1e6, 1e-2)
    trainer = ensemble(network, steps=80, learning_rate=rates, measure=Scripted({1: 0}), linger=1000)
    calm = ensemble(network, steps=80)
    calm.run()
    trainer.run(log=log)
    left = trainer.left_at[1].item()
    assert trainer.diverged.tolist() == [False, True, False]
    assert 5 <= left <= 55
    at = dict(log.entries)
    good = at[left - 5]["weights"][1]
    assert torch.equal(trainer.weights["first"][1].flatten(), good)
    assert good.isfinite().all()
    assert left > 5
    assert at[80]["loss"][1].isfinite()
    assert torch.equal(at[80]["loss"][1], at[left - 5]["loss"][1])
    assert trainer.generalised_at.tolist() == [-1, 0, -1]  # what it reached before stays reported
    for member in (0, 2):
        for key, weight in trainer.weights.items():
            assert (weight[member] - calm.weights[key][member]).abs().max() < FROZEN


def test_an_infinite_loss_is_no_generalisation():
    """Weights and accuracy are fine, the loss is not: the member has diverged."""

    def loss(output, y):
        endless = torch.tensor([0.0, torch.inf, 0.0], dtype=output.dtype)[: len(output)]
        return output.square().mean((1, 2)) + endless

    trainer = ensemble(NETWORKS["quadratic"], loss=loss, measure=Scripted({1: 1}))
    trainer.run(until=5)
    assert trainer.diverged.tolist() == [False, True, False]
    assert trainer.generalised_at[1] == -1


def test_the_run_ends_when_all_have_diverged():
    network = NETWORKS["parity"]
    x, y = data_for(network, 3)
    trainer, log, saved = ensemble(network, data=(x * torch.nan, y), steps=1000), History(), []
    trainer.run(log=log, save=saved.append)
    assert trainer.step == 5
    assert trainer.present == []
    assert trainer.diverged.all()
    assert same(trainer.weights, drawn(network, 3))
    again = ensemble(network, data=(x * torch.nan, y), steps=1000)
    again.load_state(saved[-1])
    again.run()
    assert again.step == 5
    assert same(again.state(), trainer.state())


SITUATIONS = {
    "all rows": {"warmup": 12},
    "minibatches": {"batch": 5, "seed": 4},
    "minibatches and noise": {"batch": 5, "seed": 4, "penalties": [((0.1, 0.0, 0.3, 0.1), noisy)]},
    "descent with noise": {"optimizer": "sgd", "learning_rate": 0.05, "penalties": [(0.1, noisy)]},
}


@pytest.mark.parametrize("situation", SITUATIONS)
@pytest.mark.parametrize("name", ["quadratic", "transformer", "parity"])
def test_a_resumed_run_is_the_uninterrupted_one(name, situation, tmp_path, device, monkeypatch):
    """Members 2 and 0 leave at steps 15 and 20, 3 diverges before. Cut at each evaluation; states go through a file."""
    network = NETWORKS[name]
    monkeypatch.setattr(module_under_test, "CACHE", 2 * 24 * network.units * 4)

    def make():
        settings = {"steps": 28, "learning_rate": 1e-2, "measure": Scripted({2: 2, 0: 3}), "linger": 1}
        settings |= {"dtype": torch.float32, "device": device} | SITUATIONS[situation]
        usual = settings["learning_rate"]
        return ensemble(network, 4, **settings | {"learning_rate": (usual, usual, usual, 1e6)})

    whole, log, saved = make(), History(), []
    whole.run(log=log, save=lambda state: saved.append((state, len(log.entries))))
    assert [state["step"] for state, _ in saved] == [5, 10, 15, 20, 25, 28]
    assert whole.left_at.tolist()[:3] == [20, 28, 15]
    assert whole.left_at[3] in (5, 10)
    assert whole.diverged.tolist() == [False, False, False, True]
    for state, entries in saved:
        checkpoint.save(tmp_path / "state.pt", state)
        torch.manual_seed(99)  # another process
        again, rest = make(), History()
        again.load_state(checkpoint.load(tmp_path / "state.pt"))
        again.measure.calls[:] = [[]] * entries
        again.run(log=rest)
        assert same(again.state(), whole.state())
        assert same([list(entry) for entry in rest.entries], [list(entry) for entry in log.entries[entries:]])


def test_a_trainer_can_go_back_to_an_earlier_state():
    """Members have left since: their averages come back with them."""
    trainer, saved = ensemble(NETWORKS["transformer"], measure=Scripted({0: 2, 1: 3})), []
    trainer.run(save=saved.append)
    end = trainer.state()
    trainer.load_state(saved[0])
    assert trainer.present == [0, 1, 2]
    assert trainer.step == 5
    trainer.measure.calls[:] = [[]] * 2
    trainer.run()
    assert same(trainer.state(), end)


def test_saved_states_are_copies_at_the_promised_steps():
    trainer, saved = ensemble(NETWORKS["quadratic"], steps=23), []
    trainer.run(save=saved.append, save_every=2)
    assert [state["step"] for state in saved] == [10, 20, 23]
    assert not same(saved[0]["weights"], saved[1]["weights"])
    assert same(saved[-1]["weights"], trainer.weights)


@pytest.mark.parametrize(("key", "value"), [("seed", 1), ("learning_rate", (1e-2, 1e-2, 3e-2)), ("linger", 3)])
def test_a_state_of_other_settings_is_refused(key, value):
    saved = ensemble(NETWORKS["quadratic"]).state()
    with pytest.raises(ValueError, match=rf"state was made with {key} = .* \(now .*resume with the same settings"):
        ensemble(NETWORKS["quadratic"], **{key: value}).load_state(saved)


@pytest.mark.parametrize(("name", "members"), [("quadratic", 2), ("quadratic", 5), ("quadratic, divide", 3)])
def test_a_state_of_another_ensemble_is_refused(name, members):
    saved = ensemble(NETWORKS["quadratic"], 3).state()
    with pytest.raises(ValueError, match="give the same network and members"):
        ensemble(NETWORKS[name], members).load_state(saved)


@pytest.mark.parametrize("name", ["quadratic", "transformer", "parity"])
def test_one_seed_gives_one_result(name, device):
    """Twice the same bits; another seed draws other batches and another noise."""
    extras = {"dtype": torch.float32, "device": device, "batch": 5, "penalties": [(0.1, noisy)]}
    first, second, other = (ensemble(NETWORKS[name], seed=seed, **extras) for seed in (1, 1, 2))
    for trainer in (first, second, other):
        trainer.run()
        torch.manual_seed(trainer.step)  # nothing hangs on the global state
    assert same(first.state(), second.state())
    assert not same(first.weights, other.weights)


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize(("threads", "tf32"), [(1, False), (None, True)])
def test_a_run_leaves_the_process_as_it_was(threads, tf32, fails, device):
    """During a run: the wanted threads, no denormal numbers, strict products; before and after, those of the user."""
    seen = []

    def state():
        flushed = (torch.tensor(1e-310, dtype=torch.float64) * 1).item() == 0
        return torch.get_num_threads(), flushed, torch.get_float32_matmul_precision()

    def measure(network, weights, members):
        seen.append(state())
        if fails and len(seen) > 1:
            raise RuntimeError("no more")
        return {}

    threads_before, precision_before = torch.get_num_threads(), torch.get_float32_matmul_precision()
    try:
        torch.set_num_threads(2)
        torch.set_float32_matmul_precision("medium")
        trainer = ensemble(NETWORKS["quadratic"], device=device, steps=5, threads=threads, tf32=tf32, measure=measure)
        if fails:
            with pytest.raises(RuntimeError, match="no more"):
                trainer.run()
        else:
            trainer.run()
        assert set(seen) == {(threads or 2, True, "high" if tf32 else "highest")}
        assert state() == (2, False, "medium")
    finally:
        torch.set_num_threads(threads_before)
        torch.set_float32_matmul_precision(precision_before)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rate": (0.1, 0.2)}, "learning_rate has 2 numbers for 3 members: give one, or one a member"),
        ({"weight_decay": (0.1,) * 4}, "weight_decay has 4 numbers for 3 members: give one, or one a member"),
        ({"learning_rate": ()}, "learning_rate has 0 numbers for 3 members"),
        ({"penalties": [(0.1, noisy), ((1, 2), noisy)]}, "a penalty's weight has 2 numbers for 3 members"),
        ({"members": (2, 3)}, "x has 2 sets of rows for 3 members: give one a member"),
        ({"members": (3, 4)}, "y has 4 sets of rows for 3 members: give one a member"),
        ({"rows": (24, 1)}, r"x has shape \(3, 24, 2\) and y \(3, 1\): give one target for each row"),
        ({"rows": (24, 10)}, r"x has shape \(3, 24, 2\) and y \(3, 10\): give one target for each row"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    members, rows = changes.pop("members", (3, 3)), changes.pop("rows", (24, 24))
    x, y = data_for(NETWORKS["quadratic"], 4)
    data = x[: members[0], : rows[0]], y[: members[1], : rows[1]]
    with pytest.raises(ValueError, match=message):
        ensemble(NETWORKS["quadratic"], 3, data=data, **changes)


def test_weights_of_different_members_are_refused():
    weights = drawn(NETWORKS["quadratic"], 3)
    with pytest.raises(ValueError, match="make them with stack_members"):
        ensemble(NETWORKS["quadratic"], weights=weights | {"output": weights["output"][:2]})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps is 0: give at least 1"),
        ({"batch": 0}, "batch is 0: give at least 1"),
        ({"evaluate_every": -1}, "evaluate_every is -1: give at least 1"),
        ({"threads": 0}, "threads is 0: give at least 1"),
        ({"learning_rate": 0.0}, "learning_rate has 0.0: give positive, finite numbers"),
        ({"learning_rate": (0.1, math.nan)}, "learning_rate has nan: give positive, finite numbers"),
        ({"learning_rate": math.inf}, "learning_rate has inf: give positive, finite numbers"),
        ({"weight_decay": (0.1, -1)}, "weight_decay has -1: give 0 or positive numbers"),
        ({"weight_decay": math.nan}, "weight_decay has nan: give 0 or positive numbers"),
        ({"betas": (0.9, 1.0)}, r"betas is \(0.9, 1.0\): give two numbers from 0 to less than 1"),
        ({"epsilon": 0.0}, "epsilon is 0.0: give a positive, finite number"),
        ({"warmup": -1}, "warmup is -1: give 0 or a positive whole number"),
        ({"linger": -2}, "linger is -2: give 0 or a positive whole number"),
        ({"leave_at": 1.5}, r"leave_at is 1.5: it is a test accuracy, in \(0, 1\], or None"),
        ({"leave_at": 0}, "leave_at is 0: it is a test accuracy"),
    ],
)
def test_bad_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        EnsembleConfig(**{"steps": 10, "learning_rate": 0.1} | changes)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("optimizer", "adam", "optimizer is 'adam': choose 'adamw' or 'sgd'"),
        ("betas", (0.9,), r"betas is \(0.9,\): give two numbers"),
    ],
)
def test_settings_of_a_wrong_type_are_refused_by_name(name, value, message):
    """Where types are not checked as they are here."""
    config = EnsembleConfig(steps=10, learning_rate=0.1)
    object.__setattr__(config, name, value)
    with pytest.raises(ValueError, match=message):
        config.__post_init__()

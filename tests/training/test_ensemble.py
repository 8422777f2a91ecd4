"""An ensemble is its members, each trained alone by torch's own optimiser; those who have generalised leave."""

import itertools
import math

import pytest
import torch

import nslab.training.ensemble as module_under_test
from nslab.training.ensemble_settings import cross_entropy_each, hinge_each
from nslab.training.pair_networks import take_member
from tests.training.ensembles import (
    NETWORKS,
    History,
    Scripted,
    alone,
    data_for,
    distance,
    drawn,
    ensemble,
    neighbour,
    noisy,
)

RATES, DECAYS = (1e-2, 3e-3, 2e-2), (1.0, 0.3, 0.0)
DESCENT = {"optimizer": "sgd", "learning_rate": (0.1, 0.03, 0.2), "weight_decay": (0.01, 0.1, 0.0)}
CASES = {
    "plain": {},
    "warmup": {"warmup": 7, "betas": (0.8, 0.95), "epsilon": 1e-6},
    "descent": DESCENT,
    "descent, warmup": DESCENT | {"warmup": 7},
}
ROUND_OFF = 1e-10  # in double precision, after 20 updates
SINGLE = 1e-3  # outputs of size 1 to 12; round-off may switch a hinge or a ReLU. Found on a CPU: 3e-6


@pytest.mark.parametrize("members_a_pass", [1, 2, 3])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", NETWORKS)
def test_each_member_is_the_plain_module_trained_alone(name, case, members_a_pass, monkeypatch):
    """With weights, data, rate and decay of its own; in passes of one member, of 2 and then 1, and of all."""
    network = NETWORKS[name]
    monkeypatch.setattr(module_under_test, "CACHE", members_a_pass * 24 * network.units * 8)
    trainer = ensemble(network, steps=18, **{"learning_rate": RATES, "weight_decay": DECAYS} | CASES[case])
    twins = [alone(trainer, member, 18) for member in range(3)]
    log = History()
    trainer.run(log=log)
    for member, (module, losses, _) in enumerate(twins):
        assert distance(trainer, member, module) < ROUND_OFF
        for (start, _), (end, values) in itertools.pairwise(log.entries):
            since = losses[start:end]  # the mean since the evaluation before
            assert math.isclose(values["loss"][member].item(), sum(since) / len(since), rel_tol=1e-10)
    assert max((trainer.weights[key] - weight).abs().max() for key, weight in drawn(network, 3).items()) > 0.01
    assert [step for step, _ in log.entries] == [0, 5, 10, 15, 18]
    assert "loss" not in log.entries[0][1]


@pytest.mark.parametrize("strengths", [0.3, (0.3,), (0.3, 0.0, 0.1)])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_penalty_adds_its_weight_times_its_value(name, strengths, monkeypatch):
    """loss + gamma * penalty with one gamma a member; both are recorded apart."""
    network = NETWORKS[name]
    monkeypatch.setattr(module_under_test, "CACHE", 2 * 24 * network.units * 8)
    trainer = ensemble(network, learning_rate=RATES, penalties=[(strengths, neighbour)])
    of_member = [0.3] * 3 if strengths in (0.3, (0.3,)) else strengths
    twins = [alone(trainer, member, 20, neighbour, of_member[member]) for member in range(3)]
    log = History()
    trainer.run(log=log)
    for member, (module, losses, penalties) in enumerate(twins):
        assert distance(trainer, member, module) < ROUND_OFF
        assert math.isclose(log.entries[-1][1]["loss"][member].item(), sum(losses[15:]) / 5, rel_tol=1e-10)
        assert math.isclose(log.entries[-1][1]["penalty_0"][member].item(), sum(penalties[15:]) / 5, rel_tol=1e-10)


def test_two_penalties_are_added():
    network = NETWORKS["quadratic"]
    size = lambda model, x, output, /, *, generator=None: output.square().mean((1, 2))  # noqa: E731
    both = lambda model, x, output: 0.2 * neighbour(model, x, output) + 0.1 * size(model, x, output)  # noqa: E731
    trainer = ensemble(network, penalties=[(0.2, neighbour), (0.1, size)])
    module, _, _ = alone(trainer, 1, 20, both, 1.0)
    log = History()
    trainer.run(log=log)
    assert distance(trainer, 1, module) < ROUND_OFF
    assert {"loss", "penalty_0", "penalty_1"} == log.entries[-1][1].keys()


@pytest.mark.parametrize("name", NETWORKS)
def test_minibatches_are_those_drawn_for_all_members(name):
    """At each step one draw (members, batch) with replacement, from a stream of its own."""
    network = NETWORKS[name]
    trainer = ensemble(network, batch=5, seed=3, learning_rate=RATES)
    generator = torch.Generator().manual_seed(2 * 3)
    batches = [torch.randint(24, (3, 5), generator=generator) for _ in range(20)]
    twins = [alone(trainer, member, 20, batches=batches)[0] for member in range(3)]
    trainer.run()
    assert max(distance(trainer, member, module) for member, module in enumerate(twins)) < ROUND_OFF


def test_batches_do_not_hang_on_noise():
    """A penalty of weight 0 that draws noise changes nothing, although fewer draw it once member 0 has left."""
    plain, penalised = (
        ensemble(NETWORKS["parity"], batch=5, measure=Scripted({0: 1}), penalties=penalties)
        for penalties in ([], [(0.0, noisy)])
    )
    plain.run()
    penalised.run()
    assert all(torch.equal(weight, penalised.weights[name]) for name, weight in plain.weights.items())


@pytest.mark.parametrize("name", NETWORKS)
def test_single_precision_stays_near(name):
    """Adam divides round-off by its own size where a gradient vanishes, so outputs are compared, not weights."""
    network = NETWORKS[name]
    trainer = ensemble(network, dtype=torch.float32, learning_rate=RATES, weight_decay=DECAYS, warmup=5)
    twins = [alone(trainer, member, 20)[0] for member in range(3)]
    trainer.run()
    outputs = network(trainer.weights, trainer.x)
    assert outputs.dtype == torch.float32
    for member, module in enumerate(twins):
        torch.testing.assert_close(outputs[member], module(trainer.x[member]), rtol=SINGLE, atol=SINGLE)


@pytest.mark.parametrize(("linger", "batch"), [(0, None), (2, 5)])
@pytest.mark.parametrize("name", NETWORKS)
def test_members_leave_and_the_others_do_not_notice(name, linger, batch):
    """Member 2 generalises at step 10, member 0 at 15: they leave `linger` evaluations later. 1 and 3 stay."""
    network = NETWORKS[name]
    measure, log = Scripted({0: 3, 2: 2}), History()
    rates, strengths = (1e-2, 3e-3, 2e-2, 1e-2), (0.0, 0.3, 0.2, 0.1)
    settings = {"steps": 33, "warmup": 3, "linger": linger, "batch": batch, "measure": measure}
    trainer = ensemble(network, 4, learning_rate=rates, penalties=[(strengths, neighbour)], **settings)
    left = [15 + 5 * linger, 33, 10 + 5 * linger, 33]
    generator = torch.Generator().manual_seed(0)
    batches = batch and [torch.randint(24, (4, batch), generator=generator) for _ in range(33)]
    twins = [alone(trainer, i, left[i], neighbour, strengths[i], batches)[0] for i in range(4)]
    trainer.run(log=log)

    assert trainer.generalised_at.tolist() == [15, -1, 10, -1]
    assert trainer.left_at.tolist() == left
    assert not trainer.diverged.any()
    assert trainer.present == []
    assert trainer.step == 33
    assert max(distance(trainer, member, module) for member, module in enumerate(twins)) < ROUND_OFF
    assert [step for step, _ in log.entries] == [0, 5, 10, 15, 20, 25, 30, 33]
    assert measure.calls == [[member for member in range(4) if left[member] >= step] for step, _ in log.entries]
    first = next(iter(trainer.weights.values())).flatten(1)
    at = dict(log.entries)
    for member in range(4):
        for step, values in log.entries:  # a member that has left keeps its last values, of every type
            for key in values.keys() & at[left[member]].keys():
                if step > left[member]:
                    assert torch.equal(values[key][member], at[left[member]][key][member])
        assert torch.equal(at[33]["weights"][member], first[member])
        assert torch.equal(at[33]["signs"][member], (first[member] > 0).to(torch.uint8))
    assert at[33]["signs"].dtype == torch.uint8
    assert at[33]["test_accuracy"].tolist() == [1, 0, 1, 0]


def test_a_member_that_falls_back_leaves_all_the_same():
    measure = Scripted({1: 1}, falls=True)
    trainer = ensemble(NETWORKS["quadratic"], steps=40, linger=3, measure=measure)
    trainer.run()
    assert trainer.generalised_at.tolist() == [-1, 5, -1]
    assert trainer.left_at.tolist() == [40, 20, 40]


def test_the_run_ends_with_its_last_member():
    trainer = ensemble(NETWORKS["quadratic"], steps=1000, measure=Scripted({0: 1, 1: 3, 2: 2}))
    said = []
    trainer.run(progress=lambda *told: said.append(told))
    assert trainer.step == 15
    assert trainer.left_at.tolist() == [5, 15, 10]
    assert said[-1] == (15, 1000, "0 of 3 still training")
    trainer.run()  # there is nothing left to do
    assert trainer.step == 15


@pytest.mark.parametrize("changes", [{"leave_at": None}, {"measure": None}, {"leave_at": 1.0}])
def test_without_a_reason_nobody_leaves_early(changes):
    def nearly(network, weights, members):
        return {"test_accuracy": torch.full((len(members),), 0.999)}

    trainer = ensemble(NETWORKS["quadratic"], **{"measure": nearly} | changes)
    trainer.run(until=19)
    assert trainer.step == 20
    assert trainer.left_at.tolist() == [20] * 3
    assert (trainer.generalised_at == -1).all()


def test_a_member_may_leave_before_the_first_step():
    measure = Scripted({0: 0})
    trainer = ensemble(NETWORKS["quadratic"], measure=measure)
    start = take_member(trainer.weights, 0)
    trainer.run()
    assert trainer.left_at.tolist() == [0, 20, 20]
    assert measure.calls[1] == [1, 2]
    assert all(torch.equal(weight, start[name]) for name, weight in take_member(trainer.weights, 0).items())


def test_given_weights_and_data_are_left_alone():
    network = NETWORKS["transformer"]
    weights, (x, y) = drawn(network, 3), data_for(network, 3)
    before = [part.clone() for part in (*weights.values(), x, y)]
    ensemble(network, weights=weights, data=(x, y)).run()
    assert all(torch.equal(now, then) for now, then in zip((*weights.values(), x, y), before, strict=True))


@pytest.mark.parametrize("shared", [False, True])
def test_losses_are_those_of_each_member(shared):
    generator = torch.Generator().manual_seed(1)
    output = torch.randn(4, 9, 5, generator=generator, dtype=torch.float64)
    labels = torch.randint(5, (9,) if shared else (4, 9), generator=generator)
    signs = 1 - 2 * torch.randint(2, (9,) if shared else (4, 9), generator=generator)
    for member in range(4):
        y, sign = (labels, signs) if shared else (labels[member], signs[member])
        surprise = [-math.log(row.exp()[label] / row.exp().sum()) for row, label in zip(output[member], y, strict=True)]
        assert math.isclose(cross_entropy_each(output, labels)[member].item(), sum(surprise) / 9, rel_tol=1e-12)
        scores = output[..., 0]
        margin = [max(0.0, 1 - s * f) for s, f in zip(sign.tolist(), scores[member].tolist(), strict=True)]
        assert math.isclose(hinge_each(scores, signs)[member].item(), sum(margin) / 9, rel_tol=1e-12)


def test_a_run_in_pieces_is_the_whole_run():
    """`until` between two evaluations means the next one."""
    whole, pieces = (ensemble(NETWORKS["transformer"], steps=18, measure=Scripted({1: 2})) for _ in range(2))
    logs = History(), History()
    whole.run(log=logs[0])
    for until, step in ((1, 5), (5, 5), (11, 15), (100, 18)):
        pieces.run(log=logs[1], until=until)
        assert pieces.step == step
        assert pieces.left_at.tolist() == [18 if step == 18 else -1, 10 if step > 5 else -1, 18 if step == 18 else -1]
    assert [step for step, _ in logs[0].entries] == [step for step, _ in logs[1].entries]
    assert all(torch.equal(weight, whole.weights[name]) for name, weight in pieces.weights.items())


@pytest.mark.parametrize("name", NETWORKS)
def test_each_device_trains_the_plain_module(name, device):
    """In double precision to round-off; in single precision as near as on a CPU, since products are strict."""
    network, settings = NETWORKS[name], {"learning_rate": RATES, "weight_decay": DECAYS, "warmup": 5}
    for dtype, tolerance in ((torch.float64, ROUND_OFF), (torch.float32, SINGLE)):
        trainer = ensemble(network, dtype=dtype, device=device, **settings)
        twins = [alone(trainer, member, 20)[0] for member in range(3)]
        trainer.run()
        outputs = network(trainer.weights, trainer.x)
        for member, module in enumerate(twins):
            expected = module(trainer.x[member])
            torch.testing.assert_close(outputs[member], expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("penalties", [(), ((0.1, noisy),)], ids=["plain", "penalty"])
@pytest.mark.parametrize("batch", [None, 5])
@pytest.mark.parametrize("name", NETWORKS)
def test_updates_replayed_from_a_graph_are_the_updates(name, batch, penalties, device, monkeypatch):
    """On a GPU one update is recorded, and again after a member has left; on a CPU none is, nor with penalties."""
    network, captured = NETWORKS[name], []
    settings = {"steps": 25, "learning_rate": RATES, "warmup": 12, "batch": batch, "penalties": penalties}

    def make():
        return ensemble(network, device=device, measure=Scripted({0: 1, 2: 3}), **settings)

    replayed, stepped = make(), make()
    record = replayed._capture
    monkeypatch.setattr(replayed, "_capture", lambda: captured.append(replayed.step) or record())
    monkeypatch.setattr(stepped, "_capture", lambda: None)
    logs = History(), History()
    replayed.run(log=logs[0])
    stepped.run(log=logs[1])
    assert captured == ([0, 5, 15] if device.type == "cuda" and not penalties else [])
    assert replayed.left_at.tolist() == stepped.left_at.tolist() == [5, 25, 15]
    for (_, ours), (_, theirs) in zip(logs[0].entries, logs[1].entries, strict=True):
        for key in ours:
            torch.testing.assert_close(ours[key], theirs[key], rtol=1e-12, atol=1e-12)
    if penalties:
        assert (logs[0].entries[2][1]["penalty_0"] != logs[0].entries[1][1]["penalty_0"])[1]  # noise is drawn anew


def test_a_loss_or_penalty_that_is_no_number_a_member_is_refused():
    """A mean over all members would train each at a fraction of its learning rate, and let one spoil all."""
    network = NETWORKS["quadratic"]
    with pytest.raises(ValueError, match=r"loss gave shape \(\) for 3 members: return one number a member"):
        ensemble(network, loss=lambda output, y: output.square().mean()).run()
    with pytest.raises(ValueError, match=r"a penalty gave shape \(\) for 3 members"):
        ensemble(network, penalties=[(0.1, lambda model, x, output, *, generator: output.square().mean())]).run()

"""A run that is cut and taken up again is the uninterrupted run, to the bit; one that diverges keeps its last state."""

import io
import math

import pytest
import torch
from torch import nn

from nslab.training import Diverged, Trainer


def noisy(model, x, output, /, *, generator=None):
    """A penalty that draws noise."""
    return (output * torch.randn(output.shape, generator=generator, device=output.device)).square().mean()


def through_a_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, map_location="cpu", weights_only=True)


def same(one, other):
    assert one.keys() == other.keys()
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("cut", [6, 7, 13, 20])
def test_a_resumed_run_is_the_uninterrupted_one(trainer, history, device, cut):
    """At an evaluation, between two, and at the end; the entries of the history are the same too."""
    make = lambda: trainer(penalties=[(0.1, noisy)], device=device, evaluate=lambda model: {"sum": float(model.tokens.weight.sum())})  # noqa: E731, E501 # fmt: skip
    whole, log = make(), history()
    whole.run(log=log)
    first, log_of_first = make(), history()
    first.run(until=cut, log=log_of_first)
    saved = through_a_file(first.state())
    torch.manual_seed(99)  # another process
    second = make()
    second.load_state(saved)
    assert second.step == cut
    second.run(log=log_of_first)
    assert same(second.model.state_dict(), whole.model.state_dict())
    assert log_of_first.entries == log.entries


def test_dropout_resumes_too(trainer):
    def make():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 16), nn.Dropout(0.5), nn.Linear(16, 3))
        target = lambda generator: (torch.randn(4, 4, generator=generator), torch.tensor([0, 1, 2, 0]))  # noqa: E731
        return Trainer(model, trainer().config, target)

    whole, first = make(), make()
    torch.manual_seed(1)
    whole.run()
    torch.manual_seed(1)
    first.run(until=9)
    saved = through_a_file(first.state())
    second = make()
    second.load_state(saved)
    second.run()
    assert same(second.model.state_dict(), whole.model.state_dict())


def test_saved_states_are_copies_taken_at_the_promised_steps(trainer):
    saved = []
    learner = trainer()
    learner.run(save=saved.append, save_every=8)
    assert [state["step"] for state in saved] == [8, 16, 20]
    assert same(saved[-1]["model"], learner.model.state_dict())
    assert not same(saved[0]["model"], saved[1]["model"])
    for state in saved:
        again = trainer()
        again.load_state(state)
        again.run()
        assert same(again.model.state_dict(), learner.model.state_dict())


def test_other_settings_are_refused_by_name(trainer):
    state = trainer().state()
    with pytest.raises(ValueError, match=r"state was made with steps = 20 \(now 30\): resume with the same settings"):
        trainer(steps=30).load_state(state)
    with pytest.raises(ValueError, match=r"state was made with 0 penalties and there are 1: give the same ones"):
        trainer(penalties=[(0.1, noisy)]).load_state(state)


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_divergence_keeps_the_last_good_state(trainer, poison):
    calls = []

    def loss(output, y):
        calls.append(1)
        value = nn.functional.cross_entropy(output.flatten(0, 1), y.flatten())
        return value * poison if len(calls) == 9 else value

    saved, learner = [], trainer(loss=loss)
    with pytest.raises(
        Diverged, match=r"between step 6 and 12: the mean loss is (nan|inf).*Lower learning_rate"
    ) as error:
        learner.run(save=saved.append)
    assert error.value.step == 6
    assert [state["step"] for state in saved] == [6]  # nothing bad was ever saved
    assert all(bool(torch.isfinite(weight).all()) for weight in error.value.state["model"].values())
    learner.load_state(error.value.state)
    learner.run()
    healthy = trainer()
    healthy.run()
    assert same(learner.model.state_dict(), healthy.model.state_dict())


def test_a_bad_state_is_not_saved_between_evaluations(trainer):
    saved = []
    learner = trainer(loss=lambda output, y: output.sum() * math.nan)
    with pytest.raises(Diverged):
        learner.run(save=saved.append, save_every=2)
    assert saved == []

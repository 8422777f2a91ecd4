"""A step passed in parts is the step of the whole batch: same gradient, same weights, same history, same state."""

import os
import subprocess
import sys

import pytest
import torch
from torch.nn import functional as F

from nslab.training import TextBatches, Trainer, TrainingConfig
from nslab.training.accumulation import AccumulatingTrainer
from nslab.transformer import Transformer
from tests.training.conftest import SETTINGS, SHAPE


def energy(model, x, output, /, *, generator=None):
    """A mean over rows, with a second pass."""
    return output.square().mean() + model(x.flip(1)).square().mean()


def size(model, x, output, /, *, generator=None):
    """Of the weights alone."""
    return model.tokens.weight.square().sum()


PENALTIES = [(0.3, energy), (0.2, size)]


@pytest.fixture
def make(text):
    def made(micro, device="cpu", **changes):
        config = TrainingConfig(**SETTINGS | changes)
        model = Transformer(SHAPE, generator=torch.Generator().manual_seed(0), device=device).double()
        batch = TextBatches(text.to(device), SHAPE.context, config.batch)
        if micro is None:
            return Trainer(model, config, batch, penalties=PENALTIES)
        return AccumulatingTrainer(model, config, batch, penalties=PENALTIES, micro=micro)

    return made


def gradients_of_a_step(trainer):
    kept = []
    trainer.optimizer.register_step_pre_hook(lambda *_: kept.extend(one.grad.clone() for one in trainer.weights))
    trainer.run(until=1)
    return kept


@pytest.mark.parametrize("micro", [1, 2, 4])
def test_the_gradient_is_that_of_the_whole_batch(make, device, tolerances, micro):
    """Against autograd on all rows at once, without any trainer."""
    trainer = make(micro, device, clip=None)
    model = make(None, device).model
    x, y = trainer.batch(trainer._seeded("batch"))
    output = model(x)
    loss = F.cross_entropy(output.flatten(0, 1), y.flatten())
    total = loss + sum(weight * penalty(model, x, output) for weight, penalty in PENALTIES)
    expected = torch.autograd.grad(total, list(model.parameters()))
    for found, wanted in zip(gradients_of_a_step(trainer), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=tolerances["exact"])


@pytest.mark.parametrize("micro", [1, 2])
def test_weights_and_history_are_the_plain_trainers(make, history, tolerances, micro):
    """Twenty steps with clipping; loss, penalties and gradient norm are those of the whole batch."""
    plain, parts, logs = make(None), make(micro), (history(), history())
    plain.run(log=logs[0])
    parts.run(log=logs[1])
    for one, other in zip(plain.weights, parts.weights, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=tolerances["processes"])
    for (step, one), (other_step, other) in zip(*(log.entries for log in logs), strict=True):
        assert step == other_step
        assert one == pytest.approx(other, abs=tolerances["processes"])


def test_one_part_is_the_plain_trainer_to_the_bit(make):
    plain, whole = make(None), make(4)
    plain.run()
    whole.run()
    assert all(torch.equal(one, other) for one, other in zip(plain.weights, whole.weights, strict=True))


def test_it_resumes_to_the_bit_also_from_a_plain_state(make):
    whole, first, second = make(2), make(2), make(2)
    whole.run()
    first.run(until=9)
    second.load_state(first.state())
    second.run()
    assert all(torch.equal(one, other) for one, other in zip(whole.weights, second.weights, strict=True))
    plain, after = make(None), make(1)
    plain.run(until=9)
    after.load_state(plain.state())
    after.run()
    assert after.step == 20


def test_parts_that_do_not_fit_are_refused(make):
    for micro in (0, 3, 8):
        with pytest.raises(ValueError, match=rf"micro is {micro}, config.batch 4 .* multiple of micro \* processes"):
            make(micro)
    trainer = make(2)
    trainer.batch = lambda generator: (torch.zeros(2, 8).long(), torch.zeros(2, 8).long())
    with pytest.raises(ValueError, match=r"batch returned 2 rows and config.batch is 4: make them equal"):
        trainer.run()


SCRIPT = """
import sys, torch
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from nslab.training import join_processes, process_rank
from tests.training.test_accumulation import PENALTIES, SETTINGS, SHAPE
from nslab.training import TextBatches, TrainingConfig
from nslab.training.accumulation import AccumulatingTrainer
from nslab.transformer import Transformer

with join_processes("cpu"):
    torch.set_num_threads(1)
    model = Transformer(SHAPE, generator=torch.Generator().manual_seed(0)).double()
    text = torch.load(f"{sys.argv[1]}/text.pt")
    batch = TextBatches(text, SHAPE.context, 4)
    trainer = AccumulatingTrainer(model, TrainingConfig(**SETTINGS), batch, penalties=PENALTIES, micro=1)
    sent = []
    def hook(state, bucket):
        sent.append(trainer.step)
        return allreduce_hook(None, bucket)
    trainer._network.register_comm_hook(None, hook)
    trainer.run()
    torch.save({"weights": model.state_dict(), "sent": sent}, f"{sys.argv[1]}/{process_rank()}.pt")
"""


def test_two_processes_exchange_gradients_once_a_step_and_train_the_weights_of_one(make, text, tmp_path, tolerances):
    (tmp_path / "train.py").write_text(SCRIPT)
    torch.save(text, tmp_path / "text.pt")
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [sys.executable, *launch, str(tmp_path / "train.py"), str(tmp_path)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": os.getcwd()},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    alone = make(None)
    alone.run()
    for name, weight in alone.model.state_dict().items():
        assert torch.equal(first["weights"][name], second["weights"][name])
        torch.testing.assert_close(first["weights"][name], weight, rtol=0, atol=tolerances["processes"])
    buckets = len(first["sent"]) // SETTINGS["steps"]  # DDP may send the gradients in several
    assert buckets in (1, 2)
    assert first["sent"] == [step for step in range(SETTINGS["steps"]) for _ in range(buckets)]

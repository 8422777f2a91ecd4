"""Two processes that share each batch train the weights that one process trains."""

import os
import subprocess
import sys

import pytest
import torch

from nslab.training import join_processes, process_count, process_rank

SCRIPT = """
import sys, torch
from nslab.training import TextBatches, Trainer, TrainingConfig, join_processes, process_rank
from nslab.transformer import Transformer, TransformerConfig

def energy(model, x, output, /, *, generator=None):
    return output.square().mean() + model(x.flip(0)).square().mean()

class Log(list):
    def record(self, step, /, **values):
        self.append((step, values))

def train(seed, parallel):
    shape = TransformerConfig(vocabulary=7, context=8, width=12, layers=2, heads=3)
    model = Transformer(shape, generator=torch.Generator().manual_seed(seed)).double()
    config = TrainingConfig(steps=20, batch=4, learning_rate=1e-2, evaluate_every=5, seed=seed)
    log, saved = Log(), []
    trainer = Trainer(
        model, config, TextBatches(torch.arange(500) * 3 % 7, 8, 4), penalties=[(0.1, energy)],
        evaluate=lambda model: {"rank": float(process_rank())}, parallel=parallel,
    )
    trainer.run(log=log, save=saved.append)
    return {"weights": model.state_dict(), "log": list(log), "saved": len(saved)}
"""
START = """
with join_processes("cpu"):
    torch.set_num_threads(1)
    found = {"shared": train(0, True), "apart": train(process_rank(), False)}
    torch.save(found, f"{sys.argv[1]}/{process_rank()}.pt")
"""


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """What each of two processes found that torchrun started: on shared batches, then with a network each."""
    folder = tmp_path_factory.mktemp("processes")
    (folder / "train.py").write_text(SCRIPT + START)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [sys.executable, *launch, str(folder / "train.py"), str(folder)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.fixture(scope="module")
def alone():
    """The same training in this process, without a process group."""
    names = {}
    exec(SCRIPT, names)
    return names["train"](0, True)


def test_two_processes_train_the_weights_of_one(both, alone, tolerances):
    first, second = (found["shared"] for found in both)
    for name, weight in alone["weights"].items():
        assert torch.equal(first["weights"][name], second["weights"][name])
        torch.testing.assert_close(first["weights"][name], weight, rtol=0, atol=tolerances["processes"])
    assert (len(first["log"]), second["log"], first["saved"], second["saved"]) == (4, [], 4, 0)  # only rank 0 records
    for (step, ours), (_, expected) in zip(first["log"], alone["log"], strict=True):
        assert abs(ours["loss"] - expected["loss"]) < tolerances["processes"], step
        assert abs(ours["penalty_0"] - expected["penalty_0"]) < tolerances["processes"], step


def test_processes_can_also_train_a_network_each(both, alone, tolerances):
    first, second = (found["apart"] for found in both)
    assert [run["log"][0][1]["rank"] for run in (first, second)] == [0.0, 1.0]
    assert not torch.equal(first["weights"]["tokens.weight"], second["weights"]["tokens.weight"])
    for name, weight in alone["weights"].items():
        torch.testing.assert_close(first["weights"][name], weight, rtol=0, atol=tolerances["processes"])


def test_alone_nothing_is_joined(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with join_processes("cpu") as device:
        assert device == torch.device("cpu")
        assert not torch.distributed.is_initialized()
        assert (process_count(), process_rank()) == (1, 0)


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "64")
    monkeypatch.setenv("LOCAL_RANK", "63")
    with pytest.raises(RuntimeError, match=r"process 63 .*at most one process a GPU \(--nproc-per-node\)"), \
            join_processes("cuda"):  # fmt: skip
        pass


def test_rows_must_divide_among_the_processes(monkeypatch):
    from nslab.training import parallel

    monkeypatch.setattr(parallel, "process_count", lambda: 3)
    with pytest.raises(ValueError, match=r"batch has 4 rows for 3 processes: make it a multiple of the processes"):
        parallel.share(torch.zeros(4, 2))

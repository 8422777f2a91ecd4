"""The tolerances of the training tests, fixed in one table, and one small problem that several files train on."""

import pytest
import torch

from nslab.training import TextBatches, Trainer, TrainingConfig
from nslab.transformer import Transformer, TransformerConfig

TOLERANCES = {
    "exact": 1e-12,  # an identity in double precision
    "another optimiser": 1e-10,  # twenty updates in double precision by another implementation
    "processes": 1e-10,  # twenty updates in double precision, gradients added up in another order
    "bfloat16": 0.02,  # a loss of about 2.4 nats with products rounded to 8 bits
    "binomial": 4.5,  # a count against its expectation, in standard deviations
}
SHAPE = TransformerConfig(vocabulary=7, context=8, width=12, layers=2, heads=3)
SETTINGS = {"steps": 20, "batch": 4, "learning_rate": 1e-2, "warmup": 5, "evaluate_every": 6, "clip": 0.5}


@pytest.fixture
def tolerances():
    return TOLERANCES


@pytest.fixture
def text():
    """A Markov chain of 7 symbols: after a comes 3 a or 3 a + 1, equally likely. 4,000 ids."""
    ids = [1]
    for up in torch.randint(2, (3999,), generator=torch.Generator().manual_seed(5)).tolist():
        ids.append((3 * ids[-1] + up) % 7)
    return torch.tensor(ids)


@pytest.fixture
def trainer(text):
    """A trainer for a small Transformer on that text; keywords change the settings or go to `Trainer`."""

    def make(dtype=torch.float32, device="cpu", seed=0, penalties=(), **changes):
        extras = {name: changes.pop(name) for name in ("loss", "evaluate", "batch_from", "parallel") if name in changes}
        config = TrainingConfig(**SETTINGS | {"seed": seed} | changes)
        model = Transformer(SHAPE, generator=torch.Generator().manual_seed(0), device=device).to(dtype)
        batch = extras.pop("batch_from", None) or TextBatches(text.to(device), SHAPE.context, config.batch)
        return Trainer(model, config, batch, penalties=penalties, **extras)

    return make


class History:
    """A recorder that keeps everything."""

    def __init__(self):
        self.entries = []

    def record(self, step, /, **values):
        self.entries.append((step, values))


@pytest.fixture
def history():
    return History

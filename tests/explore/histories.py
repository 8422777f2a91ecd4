"""Made-up training runs: a table of logits that learns its training pairs first, and the rest later."""

import numpy as np

from nslab.explore.recorded_runs import RecordedRun


def probabilities(p, times, seed):
    """Class probabilities (T, p, p, p) of a + b mod p, and the training pairs (p, p)."""
    random = np.random.default_rng(seed)
    right = np.eye(p)[np.add.outer(np.arange(p), np.arange(p)) % p]  # (p, p, p)
    train = random.random((p, p)) < 0.5
    chance = random.normal(size=(p, p, p))
    u = np.linspace(0, 1, times)[:, None, None, None]
    logits = chance * (1 - u) + 9 * right * (np.minimum(1, 3 * u) * train[..., None] + u**3)
    powers = np.exp(logits)
    return powers / powers.sum(-1, keepdims=True), train


def energies_of(table):
    """Efron-Stein energies (..., 4) of a table (..., p, p, outputs) of two uniform operands, by its marginal means."""
    constant = table.mean((-3, -2), keepdims=True)
    first, second = table.mean(-2, keepdims=True) - constant, table.mean(-3, keepdims=True) - constant
    parts = (constant, first, second, table - constant - first - second)
    return np.stack([np.square(part).sum(-1).mean((-2, -1)) for part in parts], -1)


def made_up_run(p=7, times=7, neurons=6, seed=0, attention=False, **changes):
    table, train = probabilities(p, times, seed)
    random = np.random.default_rng(seed)
    answer = np.add.outer(np.arange(p), np.arange(p)) % p
    correct = table.argmax(-1) == answer  # (T, p, p)
    mirrored = ~train & train.T
    spectrum = np.linspace(0, 0.9, times)[:, None] * random.dirichlet(np.ones(p // 2))
    numbers = {
        "name": f"made up, p = {p}",
        "modulus": p,
        "steps": 25 * np.arange(times),
        "train_accuracy": correct[:, train].mean(-1),
        "test_accuracy": correct[:, ~train].mean(-1),
        "mirrored_accuracy": correct[:, mirrored].mean(-1),
        "unseen_accuracy": correct[:, ~train & ~mirrored].mean(-1),
        "energies": energies_of(table),
        "target_energies": energies_of(np.eye(p)[answer]),
        "spectrum": spectrum,
        "neuron_frequency": random.integers(1, p // 2 + 1, (times, neurons)),
        "neuron_share": random.random((times, neurons)),
        "weight_norm": 20 + 10 * random.random(times),
        "correct": correct,
        "train": train,
        "attention_energies": np.tile([0.4, 0.1, 0.05, 0.02], (times, 1)) if attention else None,
        "learning_rate": 0.01,
        "weight_decay": 1.0,
    }
    return RecordedRun(**{**numbers, **changes})

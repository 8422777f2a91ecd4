"""A quadratic network that learns modular addition, in numpy: what the page's own training is held to.

Twin of ``assets/pair-training.js``. Weights and splits come from `seeded_gaussians`, so that a seed gives one and the
same run in Python and in the page; sums are taken in another order, so that the two part by rounding alone. *Ours.*
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from nslab.explore.seeded_gaussians import gaussian_pairs

BETAS = (0.9, 0.98)  # of AdamW
EPSILON = 1e-8
TABLE_VARIANCE = 1 / 8  # of A and B at the start


def trained_pairs(state: Mapping) -> np.ndarray:
    """Which pairs (a, b), row a p + b, are trained on: bool (p²,), exactly int(fraction p²) of them.

    The split "random" takes any; "unordered" never parts (a, b) from (b, a).
    """
    p, fraction = state["modulus"], state["fraction"]
    places = np.arange(2 * p * state["width"], 2 * p * state["width"] + p * p, dtype=np.uint32)
    order = gaussian_pairs(state["seed"], places)[0].argsort()
    count = int(fraction * (p * p))
    a, b = np.divmod(order, p)
    if state["split"] == "random":
        chosen = order[:count]
    else:
        diagonal = math.floor(fraction * p)
        diagonal += (count - diagonal) % 2  # the rest comes in twos
        half = (count - diagonal) // 2
        above, below = order[a < b][:half], (b * p + a)[a < b][:half]
        chosen = np.concatenate([order[a == b][:diagonal], above, below])
    trained = np.zeros(p * p, dtype=bool)
    trained[chosen] = True
    return trained


class PairTraining:
    """One run: logits = (A[a] + B[b])² U of (a + b) mod p, cross-entropy over the trained pairs, AdamW.

    Args:
        state: ``modulus`` p, ``width`` m, ``fraction`` and ``split`` of the pairs, ``learning_rate``,
            ``weight_decay``, ``seed``.

    Attributes:
        weights: A by first operand, B by second and U by class, each (p, m) float64.
        trained: the trained pairs, bool (p²,).
        steps: steps taken.
    """

    def __init__(self, state: Mapping):
        p, m = state["modulus"], state["width"]
        self.state, self.modulus, self.trained, self.steps = state, p, trained_pairs(state), 0
        places = np.arange(p * m, dtype=np.uint32)
        tables = [math.sqrt(TABLE_VARIANCE) * drawn for drawn in gaussian_pairs(state["seed"], places)]
        output = gaussian_pairs(state["seed"], places + np.uint32(p * m))[0] / math.sqrt(m)
        self.weights = [drawn.reshape(p, m) for drawn in (*tables, output)]  # (p m,) -> (p, m)
        self._moments = [(np.zeros((p, m)), np.zeros((p, m))) for _ in self.weights]
        self._first, self._second = np.divmod(np.arange(p * p), p)
        self._classes = np.eye(p)[(self._first + self._second) % p]

    def step(self) -> None:
        """One step of AdamW on all trained pairs."""
        one_hot, trained = np.eye(self.modulus), self.trained
        first, second = one_hot[self._first[trained]], one_hot[self._second[trained]]  # (rows, p)
        hidden = first @ self.weights[0] + second @ self.weights[1]
        chances, _ = self._softmax(hidden)
        slope = (chances - self._classes[trained]) / len(hidden)
        back = 2 * hidden * (slope @ self.weights[2])
        rate, decay = self.state["learning_rate"], self.state["weight_decay"]
        self.steps += 1
        size, root = rate / (1 - BETAS[0] ** self.steps), math.sqrt(1 - BETAS[1] ** self.steps)
        gradients = (first.T @ back, second.T @ back, slope.T @ hidden**2)
        for weights, gradient, (mean, square) in zip(self.weights, gradients, self._moments, strict=True):
            mean += (1 - BETAS[0]) * (gradient - mean)
            square += (1 - BETAS[1]) * (gradient**2 - square)
            weights *= 1 - rate * decay
            weights -= size * mean / (np.sqrt(square) / root + EPSILON)

    def measure(self) -> dict:
        """Loss, accuracies, energies and the right pairs, as `compute` of the figure returns them."""
        p, trained = self.modulus, self.trained
        chances, logs = self._softmax(self.weights[0][self._first] + self.weights[1][self._second])
        right = chances.argmax(-1) == self._classes.argmax(-1)
        return {
            "step": self.steps,
            "e_foldings": self.steps * self.state["learning_rate"] * self.state["weight_decay"],
            "train_loss": float(-logs[self._classes > 0][trained].mean()),
            "train_accuracy": float(right[trained].mean()),
            "test_accuracy": float(right[~trained].mean()),
            "energies": pair_energies(chances.reshape(p, p, p)),
            "trained": trained.astype(int).tolist(),
            "right": right.astype(int).tolist(),
        }

    def _softmax(self, hidden: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        logits = hidden**2 @ self.weights[2].T
        logits -= logits.max(-1, keepdims=True)
        logits -= np.log(np.exp(logits).sum(-1, keepdims=True))
        return np.exp(logits), logits


def pair_energies(table: np.ndarray) -> list[float]:
    """Efron-Stein energies of a table (a, b, class) of uniform operands: constant, first alone, second alone, both."""
    mean = table.mean((0, 1))
    first, second = table.mean(1) - mean, table.mean(0) - mean  # (a, class), (b, class)
    both = table - mean - first[:, None] - second
    return [float((part**2).sum(-1).mean()) for part in (mean, first, second, both)]


def energy_stability(energies: list[float], keep: float) -> float:
    """E Σ_c f_c(X) f_c(Y) where each operand of Y is X's with probability keep, and else drawn anew."""
    none, one, other, both = energies
    return none + keep * (one + other) + keep * keep * both

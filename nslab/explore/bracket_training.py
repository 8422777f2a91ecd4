"""A tiny attention network that learns to close brackets, with a barrier on its attention: the page's own training.

Twin of ``assets/bracket-training.js``, which takes the same steps with gradients written out by hand; here they come
from torch, and blocks and walls from `nslab.barrier`. Text, weights and noise come from `seeded_gaussians`, so that a
seed gives one and the same run in Python and in the page. *Ours.*
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from nslab.barrier.blocks import jacobian_blocks
from nslab.barrier.moments import causal_moments
from nslab.barrier.penalty_shapes import margin_penalty
from nslab.explore.seeded_gaussians import gaussian_pairs

SYMBOLS = "([)]·"  # openers, their closers in the same order, and the filler
FILLER = 4
SEQUENCES, LENGTH, WIDTH = 16, 12, 2
TRAIN_TEXT, OTHER_TEXT, NOISE = 1000, 1001, 1002  # seeds that all runs share
DRAWS = 4  # of noise on the embeddings, when the loss under noise is measured
NOISE_SIZE = 0.5  # in units of the embeddings' root mean square
ARMS = {"none": None, "margin-only": "raw", "full": "raw", "residual": None, "hinge": "hinge"}  # to the wall's shape
SQUARED = ("full", "residual")  # arms with half the squared residual, sigma = 1
DELTA = 0.05
QUANTILES = (0.0, 0.1, 0.5, 0.9, 1.0)
RATE = 0.02  # of Adam


def bracket_text(seed: int) -> Tensor:
    """Sequences (16, 12) of symbols: an opener, one or more fillers, its closer, and again. Two coins decide."""
    coins = gaussian_pairs(seed, np.arange(SEQUENCES * LENGTH, dtype=np.uint32))[0] < 0
    rows = []
    for row in coins.reshape(SEQUENCES, LENGTH).tolist():
        written: list[int] = []
        for heads in row:
            last = written[-1] if written else None
            if last is None or last in (2, 3):
                written.append(0 if heads else 1)
            elif last == FILLER and not heads:
                opener = next(one for one in reversed(written) if one < 2)
                written.append(opener + 2)
            else:
                written.append(FILLER)
        rows.append(written)
    return torch.tensor(rows)


class BracketTraining:
    """One run. Logits of the next symbol are R [u_i; mu_i] + c, u_i an embedding, mu_i the attention mean of the past.

    Args:
        state: ``arm`` one of `ARMS`, ``strength`` lambda, ``place`` "prior" (the barrier has a score matrix of its own
            on the same embeddings) or "model" (it is on the attention that predicts), ``seed``.

    Attributes:
        weights: embeddings (5, 2), score matrix of the model (2, 2), readout (5, 4) and offset (5,), score matrix of
            the prior (2, 2).
        steps: steps taken.
    """

    def __init__(self, state: Mapping):
        drawn = torch.from_numpy(gaussian_pairs(state["seed"], np.arange(38, dtype=np.uint32))[0])
        parts, self.weights = drawn.split([10, 4, 20, 4]), {}
        shapes = {"embeddings": (5, 2, 1.0), "scores": (2, 2, 0.3), "readout": (5, 4, 0.5), "prior": (2, 2, 0.3)}
        for (name, (rows, columns, spread)), part in zip(shapes.items(), parts, strict=True):
            self.weights[name] = (spread * part.view(rows, columns)).requires_grad_()
        self.weights["offset"] = torch.zeros(5, dtype=torch.float64, requires_grad=True)
        self.state, self.steps = state, 0
        self.text, self.other = bracket_text(TRAIN_TEXT), bracket_text(OTHER_TEXT)
        self._optimiser = torch.optim.Adam(self.weights.values(), lr=RATE)

    @property
    def watched(self) -> Tensor:
        """The score matrix that the barrier is on."""
        return self.weights["prior" if self.state["place"] == "prior" else "scores"]

    def step(self) -> None:
        """One step of Adam on all training sequences."""
        u = self.weights["embeddings"][self.text]
        self._optimiser.zero_grad()
        (self._loss(u, self.text) + self.state["strength"] * self._penalty(u)).backward()
        self._optimiser.step()
        self.steps += 1

    @torch.no_grad()
    def measure(self) -> dict:
        """What the network is now, on sequences it was not trained on; as `compute` of the figure returns it."""
        u, scores = self.weights["embeddings"][self.other], self.watched
        size = u.square().mean().sqrt()
        places = np.arange(DRAWS * SEQUENCES * LENGTH, dtype=np.uint32)
        unit = np.stack(gaussian_pairs(NOISE, places), -1).reshape(DRAWS, SEQUENCES, LENGTH, WIDTH)
        noisy = u + NOISE_SIZE * size * torch.from_numpy(unit)
        determinants = torch.linalg.det(jacobian_blocks(u, scores)[:, 2:]).flatten()
        return {
            "step": self.steps,
            "loss": self._loss(u, self.other).item(),
            "noisy_loss": self._loss(noisy, self.other.expand(DRAWS, -1, -1)).item(),
            "quantiles": determinants.quantile(torch.tensor(QUANTILES, dtype=torch.float64)).tolist(),
            "negative": (determinants < 0).double().mean().item(),
            "eigenvalues": torch.linalg.eigvalsh((scores + scores.mT) / 2).tolist(),
            "size": size.item(),
            "embeddings": self.weights["embeddings"].tolist(),
        }

    def _loss(self, u: Tensor, text: Tensor) -> Tensor:
        """Cross-entropy of the next symbol, in nats, over all positions but the last."""
        seen = torch.cat([u, causal_moments(u, self.weights["scores"]).mean], -1)[..., :-1, :]
        logits = seen @ self.weights["readout"].mT + self.weights["offset"]
        return F.cross_entropy(logits.flatten(0, -2), text[..., 1:].flatten())

    def _penalty(self, u: Tensor) -> Tensor:
        """The mean over all positions of what the arm adds."""
        arm, penalty = self.state["arm"], u.new_zeros(())
        if ARMS[arm] is not None:
            penalty = penalty + margin_penalty(jacobian_blocks(u, self.watched), ARMS[arm], DELTA).mean()
        if arm in SQUARED:
            penalty = penalty + (u - causal_moments(u, self.watched).mean).square().sum(-1).mean() / 2
        return penalty

"""What is asked of a small language model: its predictions, their stability under token noise, and its spectral tail.

Real text is disturbed by the noise of the regulariser, to which all tokens are equally likely. The tail bounds need
independent tokens: there prompts and noise follow the frequencies of tokens.
"""

import math
import time
from collections.abc import Sequence

import torch
from torch import Tensor

from nslab.estimate import Estimate
from nslab.noise import Resample
from nslab.protocols import Model
from nslab.stability import tail_comparison, text_stability, total_influence
from nslab.training import cross_entropy
from nslab.training.calibration import Calibration, calibration
from nslab.transformer import Transformer
from nslab.zoo import distribution

ROWS = 64  # windows at once; it bounds memory, not the result
RESAMPLES = 1000  # of the bootstraps


def windows(ids: Tensor, context: int) -> tuple[Tensor, Tensor]:
    """A text as windows that follow one another, and the tokens after each of theirs, both (windows, context)."""
    return tuple(part[: (len(ids) - 1) // context * context].view(-1, context) for part in (ids[:-1], ids[1:]))


@torch.no_grad()
def predictions(model: Model, x: Tensor, y: Tensor) -> tuple[dict[str, float], Calibration]:
    """Loss, mean confidence, accuracy and calibration error at windows x with the tokens y after them; and the bins."""
    logits = torch.cat([model(part) for part in x.split(ROWS)])
    bins = calibration(logits.softmax(-1), y)
    told = {
        "held_out_loss": float(cross_entropy(logits, y)),
        "confidence": bins.mean_confidence,
        "accuracy": bins.mean_accuracy,
        "calibration_error": bins.error,
    }
    return told, bins


@torch.no_grad()
def position_stability(
    model: Model, ids: Tensor, noise: Resample, keep: Sequence[float], generator: torch.Generator | None = None
) -> dict[str, Estimate]:
    r"""Stability of the next-token distribution p, each number a mean over windows x and their positions.

    Args:
        model: (rows, length) to logits (rows, length, vocabulary).
        ids: windows x of real text (windows, length).
        noise: `Resample(0, ...)`, of which the law is used.
        keep: probabilities that a token is kept, else drawn anew; all share their randomness.
        generator: of one twin y a window, on the device of the ids; None is a fixed one, the same at every call.

    Returns:
        `Estimate`s (keep,) with errors over windows: "stability", E <p(x), p(y)>; "normalised_stability", that over
        E |p(x)|^2, with the error of the delta method; "twin_energy", E |p(y)|^2.

    How to read it: the raw number rises with mere confidence. The normalised one is 1 at keep = 1, and everywhere for a
    network that knows the frequencies of tokens and nothing else. On real text it can pass 1, where the network is
    surer at twins than at text: `twin_energy` tells.
    """
    start = time.perf_counter()
    generator = generator or torch.Generator(ids.device).manual_seed(0)
    uniform = torch.rand(ids.shape, generator=generator, device=ids.device)
    fresh = noise.draw(ids.shape, generator, ids.device)
    agreement = lambda p, q: torch.linalg.vecdot(p, q).mean(1).cpu().double()  # noqa: E731
    parts = []
    for x, u, other in zip(ids.split(ROWS), uniform.split(ROWS), fresh.split(ROWS), strict=True):
        p = model(x).softmax(-1)
        at_level = []
        for level in keep:
            q = model(torch.where(u < level, x, other)).softmax(-1)
            at_level.append(torch.stack([agreement(p, q), agreement(p, p), agreement(q, q)]))
        parts.append(torch.stack(at_level, -1))  # (3, rows, keep)
    products, squares, twins = torch.cat(parts, 1)  # (windows, keep) each
    ratio = products.mean(0) / squares.mean(0)
    linear = ratio + (products - ratio * squares) / squares.mean(0)  # has the mean and, to first order, the error
    seconds = time.perf_counter() - start
    named = {"stability": products, "normalised_stability": linear, "twin_energy": twins}
    error = len(ids) ** -0.5
    return {name: Estimate(rows.mean(0), rows.std(0) * error, len(ids), seconds) for name, rows in named.items()}


def tails(
    model: Transformer, noise: Resample, keep: Sequence[float], degree: int, *, prompts: int, twins: int, pairs: int
) -> dict | None:
    """Two bounds on the spectral mass of the last position's distribution at degrees >= `degree`.

    Prompts are independent draws from the law of the noise, and both columns have that noise: only so are the bounds
    theorems. Noise and prompts are the same at every call.

    Args:
        model: its answer is that at the last position of prompts as long as its context.
        noise: `Resample(0, ...)` with the frequencies of tokens as its law.
        keep: eigenvalues per degree for the bound from stability.
        degree: T.
        prompts: how many.
        twins: noisy twins of each, at each keep.
        pairs: (prompt, position) pairs for the total influence.

    Returns:
        As shares of the "energy", which holds degree 0, and of the "variance": [value, low, high] over prompts of
        "markov", the "best" bound from stability, and the "gain" of this one; "best_keep" and "implied_degree". None
        for a network that has become constant.
    """
    device = next(model.parameters()).device
    generator = torch.Generator(device).manual_seed(0)
    ids, f = noise.draw((prompts, model.context), generator, device), distribution(model)
    options = {"generator": generator, "batch": 4 * ROWS}
    stability = text_stability(f, ids, noise, keep=keep, twins=twins, **options)
    influence = total_influence(f, ids, noise, pairs=pairs, **options)
    if not bool(stability.loss.value[stability.eigenvalue < 1].all()) or not float(influence):
        return None
    told = {}
    for per in ("energy", "variance"):
        fixed = torch.Generator().manual_seed(0)
        found = tail_comparison(stability, influence, degree, per=per, resamples=RESAMPLES, generator=fixed)
        three = lambda one: finite(torch.stack([one.value, one.interval.low, one.interval.high]))  # noqa: E731
        told[per] = {name: three(getattr(found, name)) for name in ("markov", "best", "gain")}
        told[per] |= {"best_keep": found.best_keep, "implied_degree": found.implied_degree}
    return told


def finite(values: Tensor) -> list[float | None]:
    """Plain numbers for a record, None where there is none."""
    return [value if math.isfinite(value) else None for value in values.tolist()]

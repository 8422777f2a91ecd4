"""Does the margin of a token go with what a disturbance of it does to the loss? Rank correlations over tokens."""

from collections.abc import Iterator

import torch
from torch import Tensor

from nslab.barrier.text_margins import spearman
from nslab.estimate import bootstrap

PREDICTORS = ("barrier", "gain", "entropy")  # -log |det J|, log 1/s, entropy of the weights over the past
TARGETS = ("replaced", "noise")
NEUTRAL = 2  # positions that see fewer than two tokens


def pairs(texts: dict[str, Tensor]) -> Iterator[tuple[str, str, Tensor, Tensor]]:
    """Each predictor with each target, (texts, layers, heads, tokens) or 1 for layers and heads.

    The tokens are those that have a past and a loss.
    """
    tokens = slice(NEUTRAL, texts["replaced"].shape[1])
    targets = {target: texts[target][:, None, None, tokens] for target in TARGETS}
    targets["entropy"] = texts["entropy"][..., tokens]
    for predictor in PREDICTORS:
        for target, y in targets.items():
            if predictor != target:
                yield predictor, target, texts[predictor][..., tokens], y


def correlations(texts: dict[str, Tensor]) -> dict:
    """Rank correlations of each predictor with each target.

    "network" takes the means over all heads, and "given_position" the same with the position held fixed; "heads" takes
    each head by itself; "position" says how each goes with the position.
    """
    told = {table: {predictor: {} for predictor in PREDICTORS} for table in ("network", "given_position", "heads")}
    told["position"] = {}
    for predictor, target, x, y in pairs(texts):
        told["heads"][predictor][target] = _heads(spearman(x, y))
        x, y = x.mean((1, 2)), y.mean((1, 2))
        position = torch.arange(x.shape[-1], dtype=x.dtype)
        told["network"][predictor][target] = _interval(spearman(x, y))
        told["given_position"][predictor][target] = _interval(partial(x, y, position))
        told["position"] |= {
            name: _interval(spearman(values, position)) for name, values in ((predictor, x), (target, y))
        }
    return told


def partial(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """Partial rank correlation of x and y with z held fixed, from the three plain ones."""
    xy, xz, yz = spearman(x, y), spearman(x, z), spearman(y, z)
    return (xy - xz * yz) / ((1 - xz.square()) * (1 - yz.square())).sqrt()


def _interval(by_text: Tensor) -> dict:
    found = bootstrap(by_text, generator=torch.Generator().manual_seed(0))
    return {"value": by_text.mean().item(), "low": found.low.item(), "high": found.high.item()}


def _heads(by_text: Tensor) -> dict:
    """Quantiles over the heads of the mean over texts, and the shares of heads beyond two standard errors of 0."""
    mean = by_text.nanmean(0).flatten()
    error = by_text.flatten(1).std(0) / len(by_text) ** 0.5
    positive, negative = ((sign * mean > 2 * error).double().mean().item() for sign in (1, -1))
    return quantiles(mean) | {"positive": positive, "negative": negative}


def quantiles(values: Tensor) -> dict:
    """The 10, 50 and 90 % quantiles of the values that are numbers."""
    values = values[~values.isnan()].double()
    return {name: values.quantile(q).item() for name, q in (("low", 0.1), ("median", 0.5), ("high", 0.9))}


def series(texts: dict[str, Tensor]) -> dict[str, Tensor]:
    """What the history keeps of the texts: means over heads for every token, and every head's mean correlations."""
    means = {part: texts[part].mean((1, 2)) for part in PREDICTORS}
    maps = {f"{predictor}_{target}": spearman(x, y).nanmean(0) for predictor, target, x, y in pairs(texts)}
    return means | maps | {part: texts[part] for part in TARGETS}

"""Calibration: how often a network is right when it says how sure it is.

    found = calibration(model(x).softmax(-1), y)
    print(found.error, found.mean_confidence - found.mean_accuracy)   # the second is above 0 where it is too sure

It sorts predictions into bins by confidence, and compares the mean confidence of each bin with the share that is right.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Integer
from torch import Tensor

SUM = 1e-3  # a distribution may be off by so much, as in float16; in bfloat16 it is off by more


@dataclass(frozen=True, eq=False)
class Calibration:
    """What `calibration` found.

    Attributes:
        confidence: mean confidence of the predictions in each bin, (bins,); NaN in an empty one.
        accuracy: share of them that are right, (bins,); NaN in an empty bin.
        share: share of all predictions that are in the bin, (bins,); they sum to 1.
        error: the expected calibration error, between 0 and 1.

    How to read it: `accuracy` against `confidence` is the reliability diagram; below the diagonal the network is too
    sure.
    """

    confidence: Float64[Tensor, " bins"]
    accuracy: Float64[Tensor, " bins"]
    share: Float64[Tensor, " bins"]
    error: float

    @property
    def mean_confidence(self) -> float:
        """The mean confidence of all predictions."""
        return float((self.share * self.confidence).nansum())

    @property
    def mean_accuracy(self) -> float:
        """The share of all predictions that are right."""
        return float((self.share * self.accuracy).nansum())


def calibration(
    probabilities: Float[Tensor, "... classes"], targets: Integer[Tensor, "..."], bins: int = 15
) -> Calibration:
    r"""Reliability bins and expected calibration error of the top class.

    Formula: with the confidence $\hat p_i = \max_c p_c(x_i)$ and the bins $B_m = (\frac{m-1}M, \frac mM]$ of
    predictions by confidence, $\mathrm{ECE} = \sum_m \frac{|B_m|}n \left| \mathrm{acc}(B_m) - \mathrm{conf}(B_m)
    \right|$.

    Args:
        probabilities: of all classes (*batch, classes); for next-token prediction (rows, length, vocabulary).
        targets: the right classes (*batch).
        bins: M, of equal width.

    Returns:
        `Calibration`.

    How to read it: 0 is perfect. Of n predictions even a perfectly calibrated network gets about
    $0.8 \sum_m \sqrt{a_m (1 - a_m) |B_m|} / n$, $a_m$ being the accuracy in the bin, since each bin's gap counts
    without its sign: compare networks at one n and with the same bins. It sees the top class only: a language model
    whose top token is calibrated may be wrong about all others. The constant prediction of the most frequent class with
    its frequency is calibrated too.

    Errors: `ValueError` for probabilities that are negative or do not sum to 1 (logits, perhaps), no prediction at all,
    targets of another shape or outside the classes, or bins below 1.

    Source: Guo et al. (2017), section 2, equations 2 and 3.

    >>> probabilities = torch.tensor([[0.75, 0.25]] * 4)
    >>> [calibration(probabilities, torch.tensor(targets)).error for targets in ([0, 0, 0, 1], [0, 0, 0, 0])]
    [0.0, 0.25]
    """
    if targets.shape != probabilities.shape[:-1] or not targets.numel():
        shapes = f"targets has shape {tuple(targets.shape)} and probabilities {tuple(probabilities.shape)}"
        raise ValueError(f"{shapes}: give one class for each distribution, and at least one")
    if bins < 1:
        raise ValueError(f"bins is {bins}: give at least 1")
    if not bool((probabilities >= 0).all()) or not bool(((probabilities.sum(-1) - 1).abs() < SUM).all()):
        raise ValueError("probabilities are negative or do not sum to 1: of logits take softmax(-1) first")
    if not bool(((targets >= 0) & (targets < probabilities.shape[-1])).all()):
        raise ValueError(
            f"targets has a class outside 0 .. {probabilities.shape[-1] - 1}: take other classes out first"
        )
    confidence, top = (part.flatten() for part in probabilities.max(-1))
    confidence = confidence.cpu().double()
    right = (top == targets.flatten()).cpu().double()
    place = (confidence * bins).ceil().long().clamp(1, bins) - 1
    count, sure, correct = (
        torch.zeros(bins, dtype=torch.float64).index_add_(0, place, each)
        for each in (torch.ones_like(right), confidence, right)
    )
    error = float((correct - sure).abs().sum()) / len(right)
    return Calibration(sure / count, correct / count, count / len(right), error)

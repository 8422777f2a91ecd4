"""What networks that learn a sparse parity do at a checkpoint: accuracy, stability, sensitivity, hidden progress.

    measures = ParityMeasures(task, train=(x, y), test=(x_test, y_test), rho=[0.5, 0.9], generator=generator)
    EnsembleTrainer(network, weights, config, x, y, loss=hinge_each, measure=measures)

The points, their noisy twins and the points whose bits are flipped are drawn once: two checkpoints, or two members, are
compared at the same points.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from nslab.noise import Flip
from nslab.tasks import SparseParity
from nslab.training.pair_measures import weight_norm
from nslab.training.pair_networks import Weights

CPU_NUMBERS = 2**17  # hidden units times rows at once: what a cache holds
ACCELERATOR_NUMBERS = 2**27

Data = tuple[Tensor, Tensor]
Scores = Callable[[Weights, Tensor], Tensor]  # weights (members, ...), x (rows, bits) or (members, rows, bits)


class ParityMeasures:
    r"""Measures of networks with one score a row, whose sign is the answer: `measures(network, weights, members)`.

    Args:
        task: which bits matter.
        train: inputs ±1 and labels ±1 on the device of the weights: x (rows, bits) and y (rows,) shared by all
            members, or with a leading members axis, one set a member.
        test: as `train`, fresh points, at least 2: with one there are no standard errors (NaN).
        rho: correlations of a bit with its twin, in [-1, 1].
        twins: how many of the test points have a twin at each rho, for the stability; all, where there are fewer.
        flips: how many of the test points have each of their bits flipped in turn, for the sensitivity, which
            costs flips * bits rows; all, where there are fewer.
        initial: weights of the first layer before training, (members, bits, width), for "movement"; without them that
            is not measured.
        first: name of the first layer's weights, (bits, width) a member.
        generator: draws the twins, on the device of the test points.

    A call takes the weights of some members and their numbers, and returns, with the leading axis members:

    - train_loss, test_loss: mean hinge loss max(0, 1 - y f). train_accuracy, test_accuracy. With label noise the
      labels are those given: draw the test set of a task without it for the accuracy against the truth.
    - coefficient: mean of sign f(x) times the parity of x, over the test points: the Fourier coefficient of the answer
      at the relevant set, 1 for a perfect network and about 0 for a guess.
    - stability (members, rho) and stability_error: mean of sign f(x) sign f(y) over test points and their twins, and
      its standard error. Its target is `task.stability(rho)`.
    - sensitivity and sensitivity_error: average number of bits whose flip turns the answer. Its target is the order.
    - input_energy (members, bits): squared norm of the first layer's weights at each bit.
    - relevant_share: share of it on the relevant bits; order / bits when all bits are alike.
    - movement: Euclidean distance of the first layer from its initial weights.
    - weight_norm: Euclidean norm of all weights together.

    How to read it: accuracy stays at a half while relevant_share climbs: the network makes progress that no answer
    shows. Neither share nor movement knows whether the bits are *used*; the coefficient does. A score of 0 counts as
    the answer +1. Standard errors are over test points, for one network; differences between checkpoints and members
    have smaller ones, as the points are the same.

    Errors: `ValueError` when shapes do not fit the task, `rho` is empty or outside [-1, 1], or `twins` or `flips`
    is below 2.

    Source: ours. Movement as a measure of hidden progress: Barak et al. (2022), arXiv 2207.08799.
    """

    def __init__(
        self,
        task: SparseParity,
        *,
        train: Data,
        test: Data,
        rho: Sequence[float | int] = (0.5, 0.9),
        twins: int = 512,
        flips: int = 32,
        initial: Float[Tensor, "members bits width"] | None = None,
        first: str = "input",
        generator: torch.Generator | None = None,
    ):
        for name, (x, y) in (("train", train), ("test", test)):
            if x.shape[-1] != task.bits or x.shape[:-1] != y.shape:
                raise ValueError(
                    f"{name} has x {tuple(x.shape)} and y {tuple(y.shape)}: give x (rows, {task.bits}) and y "
                    "(rows,), both with a leading members axis or both without"
                )
        if not len(rho):
            raise ValueError("rho is empty: give at least one correlation of a bit with its twin, for example [0.9]")
        for name, points in (("twins", twins), ("flips", flips), ("test", test[0].shape[-2])):
            if points < 2:
                raise ValueError(f"{name} has {points} points: give at least 2, without which there is no error")
        self.task, self.first, self.rho = task, first, tuple(rho)
        self.train, self.test, self.initial = train, test, initial
        x = test[0]
        self.twins, self.flips = (min(points, x.shape[-2]) for points in (twins, flips))
        self._parity = task.target(x)
        base = x[..., : self.twins, :]
        self._twins = torch.cat([Flip(one).twin(base, generator) for one in rho], dim=-2)  # (..., rho * twins, bits)
        signs = 1 - 2 * torch.eye(task.bits, dtype=x.dtype, device=x.device)
        self._flipped = (x[..., : self.flips, None, :] * signs).flatten(-3, -2)  # (..., flips * bits, bits)

    @torch.no_grad()
    def __call__(self, network: Scores, weights: Weights, members: list[int]) -> dict[str, Tensor]:
        """The measures of the weights of some members, whose numbers among all are `members`."""
        score = lambda x: _scores(network, weights, self._of(x, 3, members))  # noqa: E731
        found = {}
        for name, (x, y) in (("train", self.train), ("test", self.test)):
            scores, labels = score(x), self._of(y, 2, members)
            found[f"{name}_loss"] = (1 - labels * scores).clamp(min=0).mean(1, dtype=torch.float64)
            answers = _signs(scores)
            found[f"{name}_accuracy"] = (answers == labels).double().mean(1)
        found["coefficient"] = (answers * self._of(self._parity, 2, members)).mean(1, dtype=torch.float64)

        twins = _signs(score(self._twins)).unflatten(1, (len(self.rho), -1))  # (members, rho, twins)
        found["stability"], found["stability_error"] = _mean_and_error(twins * answers[:, None, : self.twins])
        flipped = _signs(score(self._flipped)).unflatten(1, (self.flips, -1))  # (members, flips, bits)
        changes = (flipped != answers[:, : self.flips, None]).sum(2)
        found["sensitivity"], found["sensitivity_error"] = _mean_and_error(changes)

        layer = weights[self.first].double()
        energy = layer.square().sum(2)
        found["input_energy"] = energy
        found["relevant_share"] = energy[:, list(self.task.relevant)].sum(1) / energy.sum(1)
        if self.initial is not None:
            found["movement"] = (layer - self.initial[members].to(layer)).square().sum((1, 2)).sqrt()
        found["weight_norm"] = weight_norm(weights)
        return found

    def _of(self, data: Tensor, whole: int, members: list[int]) -> Tensor:
        """The data of these members: as they are where all share them, that is, have fewer than `whole` axes."""
        return data[members] if data.ndim == whole else data


def _scores(network: Scores, weights: Weights, x: Tensor) -> Tensor:
    """Scores (members, rows) for x (rows, bits) or (members, rows, bits), some rows at a time."""
    units = max(weight.shape[-1] * len(weight) for weight in weights.values())  # numbers a row, over all members
    most = CPU_NUMBERS if x.device.type == "cpu" else ACCELERATOR_NUMBERS
    return torch.cat([network(weights, rows) for rows in x.split(max(1, most // units), dim=-2)], dim=1)


def _signs(scores: Tensor) -> Tensor:
    return torch.where(scores >= 0, 1.0, -1.0)


def _mean_and_error(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and its standard error over the last axis, in double precision."""
    values = values.double()
    return values.mean(-1), values.std(-1) / values.shape[-1] ** 0.5

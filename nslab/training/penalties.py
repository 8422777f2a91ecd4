"""Penalties on how a network answers a disturbed twin of its input: noise stability, confidence, average sensitivity.

    gamma, penalty = stability_regulariser(gamma=0.75, rho=0.25, vocabulary=113)
    Trainer(model, config, batch, penalties=[(gamma, penalty)])                                # one network
    EnsembleTrainer(network, weights, config, x, y, penalties=[(gamma, each_member(penalty))])   # many

A penalty keeps the loss's units; what it is multiplied by, gamma, belongs to the trainer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from nslab.noise import Flip, Resample, paper_keep
from nslab.protocols import Model, Penalty
from nslab.training.penalty_rows import (
    changed_rows,
    check_output,
    check_outputs,
    probabilities,
    some_rows,
    special_mask,
)

Outputs = Literal["softmax", "sigmoid"]


@runtime_checkable
class RowPenalty(Protocol):
    """A penalty that can also be had row by row, before the mean is taken."""

    def rows(self, model: Model, x: Tensor, output: Tensor, /, *, generator: torch.Generator | None = None) -> Tensor:
        """One number a row, or one a row and position: (*members, rows) or (*members, rows, length)."""
        ...


@dataclass(frozen=True)
class StabilityPenalty:
    r"""The paper's noise-stability regulariser: how much the answers to an input and to its noisy twin agree.

    Formula: $R_S(x) = (-1)^S \sum_c p_c(x)\, p_c(y)$, y the twin of x, p the class probabilities; the penalty is its
    mean over rows, and for a language model over rows and positions. One twin a row and call.

    Args:
        noise: makes the twins: a `Resample` for token ids, a `Flip` for bits ±1. Definition 6.1 has
            `Resample(paper_keep(rho), vocabulary)`.
        orientation: S: 1 rewards agreement, 0 punishes it.
        detach: which of the two answers is taken as a constant: None lets the gradient flow through both; "twin"
            through p(x) alone, and the second pass then needs no backward pass; "input" through p(y) alone.
        share: of the rows, drawn anew at each call, on which the agreement is asked for; an unbiased estimate at that
            share of the price.
        special_positions: positions in the sequence that are never disturbed, counted from the end if negative, such
            as (-1,) for a closing "=". Special *ids* belong to the noise.
        outputs: "softmax" where the network returns logits, (..., classes); "sigmoid" where it returns one log-odds a
            row, which stands for two classes.

    Returns:
        From a call a scalar, from `rows` one number a row (and position).

    How to read it: for S = 1 it lies between -1 and 0, and -1 is reached by every constant answer of full confidence.
    With keep = 1 the twin is the input and it rewards confidence alone: a control (`ConfidencePenalty` has it at no
    price). It sees the network at twins, without labels; where there are few inputs, these are also test inputs.

    Cost: a second pass, forward and backward, or forward alone with "twin". A row that the noise happens to spare, all
    tokens kept or drawn as they were, is its own twin and is not passed again: of pairs with keep = 0.625 some 39 %.

    Errors: `ValueError` for an orientation other than 0 and 1, an unknown `detach` or `outputs`, a share outside
    (0, 1], positions outside the sequence or given twice, or an output that has no probabilities for each row.

    Source: Definition 6.1 of arXiv 2602.08287, according to a digest; only S = 1 was tried there. Which branch had a
    gradient is not known to us, nor which positions entered in language modelling: ours is the mean over all.
    """

    noise: Resample | Flip
    orientation: int = 1
    detach: Literal["twin", "input"] | None = None
    share: float | int = 1
    special_positions: tuple[int, ...] = ()
    outputs: Outputs = "softmax"

    def __post_init__(self):
        if self.orientation not in (0, 1):
            raise ValueError(f"orientation is {self.orientation}: 1 rewards stability, 0 punishes it")
        if self.detach not in (None, "twin", "input"):
            raise ValueError(f"detach is {self.detach!r}: choose 'twin', 'input' or None")
        if not 0 < self.share <= 1:
            raise ValueError(f"share is {self.share}: it is a share of the rows, more than 0 and at most 1")
        check_outputs(self.outputs)

    def __call__(
        self, model: Model, x: Tensor, output: Tensor, /, *, generator: torch.Generator | None = None
    ) -> Float[Tensor, ""]:
        """The mean of `rows`, as `protocols.Penalty` wants it; `output` is `model(x)`."""
        return self.rows(model, x, output, generator=generator).mean()

    def rows(
        self, model: Model, x: Tensor, output: Tensor, /, *, generator: torch.Generator | None = None
    ) -> Float[Tensor, "..."]:
        """One number for each row looked at, (*members, rows) or (*members, rows, length)."""
        check_output(x, output, self.outputs)
        x, output = some_rows(x, output, self.share, generator)
        fixed = special_mask(x, self.special_positions)
        twin = self.noise.twin(x, generator)
        if fixed is not None:
            twin = torch.where(fixed, x, twin)
        own = probabilities(output, self.outputs)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.detach != "twin"):
            other = self._at_twins(model, x, twin, own.detach() if self.detach == "twin" else own)
        agreement = ((own.detach() if self.detach == "input" else own) * other).sum(-1)
        return -agreement if self.orientation == 1 else agreement

    def _at_twins(self, model: Model, x: Tensor, twin: Tensor, own: Tensor) -> Tensor:
        """Probabilities at the twins. A row that the noise has spared has them already, and is not asked again."""
        batch = x.ndim - 1
        asked = changed_rows(x, twin)
        if asked is not None:
            if not len(asked):
                return own
            twin = twin.flatten(0, -2)[asked].view(*x.shape[:-2], -1, x.shape[-1])  # (*members, asked, length)
        found = probabilities(model(twin), self.outputs)
        wanted = (*twin.shape[:-1], *own.shape[batch:])
        if found.shape != wanted:
            given = f"model gave probabilities of shape {tuple(found.shape)} for twins"
            raise ValueError(f"{given}: make it {wanted}, as for the inputs")
        if asked is None:
            return found
        return own.flatten(0, batch - 1).index_copy(0, asked, found.flatten(0, batch - 1)).view_as(own)


@dataclass(frozen=True)
class ConfidencePenalty:
    r"""The control at keep = 1, where input and twin are the same: $-\sum_c p_c(x)^2$, at the price of no second pass.

    Args:
        outputs: as in `StabilityPenalty`.

    How to read it: the negative collision probability. It lowers the entropy of the answers and knows no noise: what
    it does as well as the regulariser is not owed to stability.

    Errors: as `StabilityPenalty`.

    Source: ours, as a control.
    """

    outputs: Outputs = "softmax"

    def __post_init__(self):
        check_outputs(self.outputs)

    def __call__(
        self, model: Model, x: Tensor, output: Tensor, /, *, generator: torch.Generator | None = None
    ) -> Float[Tensor, ""]:
        """The mean of `rows`."""
        return self.rows(model, x, output, generator=generator).mean()

    def rows(
        self, model: Model, x: Tensor, output: Tensor, /, *, generator: torch.Generator | None = None
    ) -> Float[Tensor, "..."]:
        """One number for each row, (*members, rows) or (*members, rows, length)."""
        check_output(x, output, self.outputs)
        return -probabilities(output, self.outputs).square().sum(-1)


@dataclass(frozen=True)
class SensitivityPenalty:
    r"""Average sensitivity of the class probabilities, in the sense of Efron and Stein: one changed token at a time.

    Formula: $I = \sum_i \frac12 \mathbb E \lVert p(x) - p(x^{(i)}) \rVert^2$, $x^{(i)}$ being x with token i drawn
    anew. Each call draws one position a row, uniformly among the L that may change, and returns
    $\frac L2 \lVert p(x) - p(x^{(i)}) \rVert^2$, which is right in the mean.

    Args:
        noise: its law of fresh tokens is used and its special ids stay; its `keep` plays no part.
        special_positions: as in `StabilityPenalty`.
        outputs: as in `StabilityPenalty`.

    How to read it: between 0 and L. Unlike the regulariser it gives nothing for confidence: the uniform answer has
    none. A row all of whose tokens are special has 0.

    Errors: as `StabilityPenalty`.

    Source: ours; a reviewer of arXiv 2602.08287 asks for the comparison.
    """

    noise: Resample
    special_positions: tuple[int, ...] = ()
    outputs: Outputs = "softmax"

    def __post_init__(self):
        check_outputs(self.outputs)

    def __call__(
        self, model: Model, x: Tensor, output: Tensor, /, *, generator: torch.Generator | None = None
    ) -> Float[Tensor, ""]:
        """The mean of `rows`."""
        return self.rows(model, x, output, generator=generator).mean()

    def rows(
        self, model: Model, x: Tensor, output: Tensor, /, *, generator: torch.Generator | None = None
    ) -> Float[Tensor, "..."]:
        """One number for each row, (*members, rows) or (*members, rows, length)."""
        check_output(x, output, self.outputs)
        fixed = special_mask(x, self.special_positions)
        free = self.noise.touches(x)
        if fixed is not None:
            free = free & ~fixed
        ranks = torch.rand(x.shape, generator=generator, device=x.device).masked_fill(~free, -1)
        chosen = ranks.argmax(-1, keepdim=True)  # (*batch, 1): uniform among the free positions
        fresh = self.noise.draw(chosen.shape, generator=generator, device=x.device).to(x.dtype)
        twin = x.scatter(-1, chosen, torch.where(free.gather(-1, chosen), fresh, x.gather(-1, chosen)))
        gap = probabilities(output, self.outputs) - probabilities(model(twin), self.outputs)
        squares = gap.square().sum(-1) / 2
        counts = free.sum(-1).to(squares)
        return squares * counts.view(*counts.shape, *[1] * (squares.ndim - counts.ndim))


def stability_regulariser(
    gamma: float | int | Sequence[float | int], rho: float | int, vocabulary: int, **options: object
) -> tuple[float | int | tuple[float | int, ...], StabilityPenalty]:
    r"""The pair (weight, penalty) that a trainer takes, from the paper's two numbers.

    Args:
        gamma: weight of the penalty, at least 0; for an ensemble also one a member.
        rho: the paper's; tokens are kept with probability (1 + rho)/2, which is the eigenvalue per degree.
        vocabulary: number of token ids.
        options: of `StabilityPenalty`; `special`, ids that noise leaves alone and never draws, goes to its `Resample`.
            Division modulo p needs special=(0,): a network for it has no second operand 0.

    Errors: `ValueError` for a gamma below 0 or not finite, or a rho outside [-1, 1]; `TypeError` for an unknown option.

    Source: Definition 6.1 of arXiv 2602.08287, according to a digest.

    >>> gamma, penalty = stability_regulariser(0.75, 0.25, vocabulary=113)
    >>> gamma, penalty.noise.keep
    (0.75, 0.625)
    """
    each = tuple(gamma) if isinstance(gamma, Sequence) else (gamma,)
    if wrong := [one for one in each if not 0 <= one < inf]:
        raise ValueError(f"gamma has {wrong[0]}: give 0 or more; to punish stability use orientation=0")
    noise = Resample(paper_keep(rho), vocabulary, special=tuple(options.pop("special", ())))
    return (each if isinstance(gamma, Sequence) else gamma), StabilityPenalty(noise, **options)


def each_member(penalty: RowPenalty) -> Penalty:
    """A penalty with one number a member, (members,), as `EnsembleTrainer` wants it: means over all but that axis."""

    def of_each(
        model: Model, x: Tensor, output: Tensor, /, *, generator: torch.Generator | None = None
    ) -> Float[Tensor, " members"]:
        return penalty.rows(model, x, output, generator=generator).flatten(1).mean(1)

    return of_each

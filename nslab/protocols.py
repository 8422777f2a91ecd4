"""What theory, networks and experiments agree on: models, scores, penalties, recorders, and how a model is called.

The protocols are structural: nothing needs to inherit from them, and any function of the right shape will do.
`isinstance` can only see that the method is there, not its arguments.
"""

from collections.abc import Callable
from numbers import Integral
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

STEADY = 1e-3  # relative to the largest output: rounding is far below, dropout far above


@runtime_checkable
class Model(Protocol):
    """Anything that maps a batch to a batch: (batch, ...) to (batch, ...). A `torch.nn.Module` or a plain function."""

    def __call__(self, x: Tensor, /) -> Tensor:
        """Outputs for a batch of inputs, row by row: row i of the result depends on row i of x only."""
        ...


@runtime_checkable
class TokenModel(Protocol):
    """A network over token ids that can be entered at its embeddings and read at one position.

    Every language model of `nslab.zoo` is one, and so is `nslab.transformer.Transformer`.

    Attributes:
        vocabulary: number of token ids, 0 .. vocabulary - 1.
        context: the longest sequence it takes, in tokens.
        special: ids that noise must not touch and must not produce (padding, separators, masks).
    """

    vocabulary: int
    context: int
    special: tuple[int, ...]

    def __call__(self, ids: Tensor, /, at: Tensor | None = None) -> Tensor:
        """Outputs (batch, length, outputs) for ids (batch, length); with `at` (batch,), one position of each row."""
        ...

    def embed(self, ids: Tensor, /) -> Tensor:
        """Token embeddings (batch, length, width), before positions are added."""
        ...

    def from_embeddings(self, embeddings: Tensor, /, at: Tensor | None = None) -> Tensor:
        """As a call, from embeddings: `m.from_embeddings(m.embed(ids), at)` equals `m(ids, at)`."""
        ...


@runtime_checkable
class PromptScore(Protocol):
    """One number a prompt, fixed at given prompts: for example the log-probability of each prompt's top next token.

    It differs from a plain callable in that a row must know its prompt, because each prompt has a token of its own.
    It may have `ids`, the prompts it was made for (prompts, length); the measures then refuse other prompts, which it
    would answer for the wrong ones.
    """

    def for_prompts(self, prompt: Tensor, /) -> Model:
        """The score for rows that are variants of the prompts with these indices (rows,): ids to (rows,)."""
        ...


@runtime_checkable
class Penalty(Protocol):
    """A term that a training loop adds to its loss, for example a noise-stability regulariser."""

    def __call__(
        self, model: Model, x: Tensor, output: Tensor, /, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """The penalty: a scalar tensor with a gradient, in the units of the loss (nats).

        `output` is `model(x)`, already computed with its gradient, so that a penalty pays only for what it adds.
        """
        ...


@runtime_checkable
class Recorder(Protocol):
    """Where a training loop puts what it measures. It returns nothing and never changes the run."""

    def record(self, step: int, /, **values: float | Tensor) -> None:
        """Keep the named values of one step: floats or tensors of any shape, the same names and shapes each time."""
        ...


def evaluate(f: Callable[[Tensor], Tensor], x: Shaped[Tensor, "batch ..."], *, name: str = "f") -> Tensor:
    """`f(x)`, checked: a tensor with one row for each row of x, every entry finite.

    Args:
        f: the callable under study, (batch, ...) to (batch, ...).
        x: inputs, batch first.
        name: what the caller calls `f`; errors use it.

    Returns:
        What `f` returned, with its gradient.

    Errors: `ValueError` naming `name` when the result is not a tensor, has another batch size, or holds NaN or
    infinity (the first such row is named).

    >>> evaluate(lambda x: x.sum(-1), torch.ones(2, 3))
    tensor([3., 3.])
    """
    output = f(x)
    if not isinstance(output, Tensor):
        raise ValueError(f"{name} returned {type(output).__name__}: it must return a tensor of shape ({len(x)}, ...)")
    if output.ndim == 0 or len(output) != len(x):
        raise ValueError(
            f"{name} returned shape {tuple(output.shape)} for {len(x)} inputs: "
            f"it must return one row for each input, shape ({len(x)}, ...)"
        )
    if output.is_floating_point() or output.is_complex():
        bad = ~torch.isfinite(output.detach())
        if bool(bad.any()):
            row = int(bad.reshape(len(x), -1).any(1).nonzero()[0])
            raise ValueError(
                f"{name} returned NaN or infinity in row {row} of {len(x)}: "
                f"look at the input in that row, or scale the outputs of {name}"
            )
    return output


def check_mode(f: object, name: str) -> None:
    """Refuse an `nn.Module` in training mode, or a method of one: it is not one function of a row.

    Dropout would count as noise; batch norm would mix the rows, and learn from them.
    """
    owner = getattr(f, "__self__", f)
    if isinstance(owner, nn.Module) and owner.training:
        raise ValueError(
            f"{name} is in training mode: call eval() first, or its dropout counts as noise and its batch norm learns "
            "from what it is asked"
        )


def check_steady(answer: Callable[[], Tensor], name: str) -> None:
    """Ask twice, and refuse two answers: whatever is behind a callable, dropout shows here."""
    with torch.no_grad():
        first, second = answer(), answer()
    if float((first - second).abs().max()) > STEADY * float(first.abs().max()):
        raise ValueError(f"{name} gives two answers to one prompt: it is random (dropout? call eval() on the network)")


def check_whole(**counts: object) -> None:
    """Refuse a count, by its name, that is given and is no whole number."""
    for name, count in counts.items():
        if count is not None and not isinstance(count, Integral):
            raise ValueError(f"{name} is {count!r}: it counts, so give a whole number (1000 and not 1e3)")

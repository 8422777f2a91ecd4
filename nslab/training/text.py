"""Text as training data: random windows for the steps, consecutive windows for the held-out loss."""

import torch
from jaxtyping import Float, Integer, Shaped
from torch import Tensor
from torch.nn import functional as F

from nslab.protocols import Model


def cross_entropy(output: Float[Tensor, "*batch outputs"], target: Integer[Tensor, "*batch"]) -> Float[Tensor, ""]:
    r"""$-\frac1n \sum_i \log \mathrm{softmax}(output_i)_{target_i}$ in nats, the mean over all rows and positions.

    For next-token prediction `target` holds the following tokens; for a classifier, the classes. Computed in float32
    at least.

    How to read it: exp of it is the perplexity; divided by log 2 it counts bits. A uniform guess costs log(outputs).
    """
    output = output.float() if output.dtype in (torch.bfloat16, torch.float16) else output
    return F.cross_entropy(output.flatten(0, -2), target.flatten())


class TextBatches:
    """Random windows of a text with the tokens that follow: the data of next-token training.

    Every start is equally likely, windows may overlap, and the device of `ids` is the device of the batches.

    Args:
        ids: the text as token ids, (tokens,), of any integer dtype: uint8 keeps a text of characters small.
        context: length of a window.
        batch: windows a batch.

    Errors: `ValueError` when the text is not one row of integers or is not longer than the context, or for a context
    or batch under 1.

    >>> x, y = TextBatches(torch.arange(100), context=5, batch=2)(torch.Generator().manual_seed(0))
    >>> torch.equal(y, x + 1)
    True
    """

    def __init__(self, ids: Shaped[Tensor, "..."], context: int, batch: int):
        _check_text(ids, context, batch=batch)
        self.ids, self.batch = ids, batch
        self.offsets = torch.arange(context + 1, device=ids.device)

    def __call__(
        self, generator: torch.Generator | None = None
    ) -> tuple[Integer[Tensor, "batch context"], Integer[Tensor, "batch context"]]:
        """Inputs and targets, both (batch, context), int64: the target at a position is the token after it."""
        count = len(self.ids) - len(self.offsets) + 1
        starts = torch.randint(count, (self.batch, 1), generator=generator, device=self.ids.device)
        window = self.ids[starts + self.offsets].long()  # (batch, context + 1)
        return window[:, :-1], window[:, 1:]


@torch.no_grad()
def text_loss(
    model: Model, ids: Shaped[Tensor, "..."], context: int, *, windows: int | None = None, batch: int = 64
) -> float:
    """Mean cross-entropy of the next token over a held-out text, in nats a token.

    The text is cut into windows of `context` tokens that follow one another, and every token but the first of the text
    is predicted once, from what its window holds before it.

    Args:
        model: next-token model, (batch, length) to (batch, length, outputs).
        ids: the text, (tokens,), of any integer dtype.
        context: length of a window; early positions of a window see little, so a longer one gives a lower loss.
        windows: look only at this many windows, evenly spread over the text; None for all.
        batch: windows at once; it bounds memory, not the result.

    Returns:
        The loss. Fewer tokens at the end than a window are left out.

    A network with dropout must be in evaluation mode (`model.eval()`), as `Trainer` sees to.

    Errors: `ValueError` when the text is not one row of integers or is not longer than the context, or for a context,
    batch or number of windows under 1.
    """
    _check_text(ids, context, batch=batch, windows=1 if windows is None else windows)
    inputs, targets = (part[: (len(ids) - 1) // context * context].view(-1, context) for part in (ids[:-1], ids[1:]))
    if windows is not None:
        chosen = torch.linspace(0, len(inputs) - 1, min(windows, len(inputs)), device=ids.device).round().long()
        inputs, targets = inputs[chosen], targets[chosen]
    total = 0.0
    for x, y in zip(inputs.split(batch), targets.split(batch), strict=True):
        total += float(cross_entropy(model(x.long()), y.long())) * len(x)
    return total / len(inputs)


def _check_text(ids: Tensor, context: int, **counts: int) -> None:
    if ids.ndim != 1 or ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise ValueError(f"ids has shape {tuple(ids.shape)} and dtype {ids.dtype}: give one row of integers, (tokens,)")
    for name, count in {"context": context, **counts}.items():
        if count < 1:
            raise ValueError(f"{name} is {count}: give at least 1")
    if len(ids) <= context:
        raise ValueError(
            f"ids has {len(ids)} tokens and the context is {context}: give a longer text, or a shorter context"
        )

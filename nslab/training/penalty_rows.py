"""What penalties share: class probabilities row by row, checked, and which rows and positions may be disturbed."""

from typing import Literal

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

OUTPUTS = ("softmax", "sigmoid")


def probabilities(output: Float[Tensor, "..."], outputs: Literal["softmax", "sigmoid"]) -> Float[Tensor, "... classes"]:
    """Class probabilities: the softmax of logits (..., classes), or (sigma(f), sigma(-f)) of log-odds f (...)."""
    output = wide(output)
    if outputs == "softmax":
        return output.softmax(-1)
    return torch.stack([output, -output], -1).sigmoid()


def wide(output: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Logits in single precision at least: probabilities of half precision would not sum to 1."""
    return output.float() if output.dtype in (torch.bfloat16, torch.float16) else output


def check_outputs(outputs: str) -> None:
    """Refuse an unknown kind of output."""
    if outputs not in OUTPUTS:
        raise ValueError(f"outputs is {outputs!r}: choose 'softmax' for logits or 'sigmoid' for one log-odds a row")


def check_output(x: Shaped[Tensor, "..."], output: Shaped[Tensor, "..."], outputs: str) -> None:
    """Refuse an output that has no probabilities for each row of x (*members, rows, length)."""
    batch, given = x.shape[:-1], output.shape
    softmax = outputs == "softmax"
    if not batch or not (given[:-1] in (batch, x.shape) if softmax else given == batch):
        logits = f"{(*batch, 'classes')} or {(*x.shape, 'classes')}".replace("'", "")
        wanted = logits if softmax else f"{tuple(batch)}, one log-odds a row"
        found = f"output has shape {tuple(given)} for inputs {tuple(x.shape)}"
        raise ValueError(f"{found}: with outputs={outputs!r} a penalty on probabilities needs {wanted}")
    if softmax and given[-1] < 2:
        raise ValueError(f"output has shape {tuple(given)}: one class has no probabilities; for log-odds use 'sigmoid'")


def some_rows(
    x: Tensor, output: Tensor, share: float | int, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """A random share of the rows of x (*members, rows, length), at least one, and of the output that belongs to it."""
    axis, rows = x.ndim - 2, x.shape[-2]
    count = max(1, round(share * rows))
    if count == rows:
        return x, output
    chosen = torch.randperm(rows, generator=generator, device=x.device)[:count]
    return x.index_select(axis, chosen), output.index_select(axis, chosen)


def changed_rows(x: Tensor, twin: Tensor) -> Tensor | None:
    """Rows in which the twin differs, as indices into all rows of all members; None where nothing is saved.

    Each member gets as many as the one with the most, so that they can be asked together: some have not changed.
    """
    changed = (x != twin).any(-1).view(-1, x.shape[-2])  # (members or 1, rows)
    counts = changed.sum(1)
    most = int(counts.max())
    if most == x.shape[-2]:
        return None
    filling = (~changed).cumsum(1) <= (most - counts).unsqueeze(1)
    return (changed | filling).flatten().nonzero().squeeze(1)  # (members * most,), in order


def special_mask(x: Shaped[Tensor, "..."], positions: tuple[int, ...]) -> Bool[Tensor, " length"] | None:
    """True at the positions that stay, (length,); None for none. Errors: `ValueError` for one outside the sequence."""
    if not positions:
        return None
    length = x.shape[-1]
    if outside := [one for one in positions if not -length <= one < length]:
        given = f"special_positions has {outside[0]} for sequences of {length}"
        raise ValueError(f"{given}: give positions from {-length} to {length - 1}")
    if len({one % length for one in positions}) < len(positions):
        raise ValueError(f"special_positions is {positions} for sequences of {length}: give each position once")
    mask = torch.zeros(length, dtype=torch.bool, device=x.device)
    mask[list(positions)] = True
    return mask

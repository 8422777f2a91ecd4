"""What every function of the room asks of its arguments: precision, rows, and numbers that are numbers."""

import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import is_dataclass

import torch
from torch import Tensor

HALVES = (torch.float16, torch.bfloat16)


def upcast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Half precision to float32, and all to one dtype: a determinant has no meaning in bfloat16.

    Raises `ValueError` for tensors that are not real floating point.
    """
    for tensor in tensors:
        if not tensor.is_floating_point():
            raise ValueError(f"a tensor has dtype {tensor.dtype}: give floating-point numbers (embeddings, not ids)")
    dtype = functools.reduce(torch.promote_types, (tensor.dtype for tensor in tensors))
    dtype = torch.float32 if dtype in HALVES else dtype
    return tuple(tensor.to(dtype) for tensor in tensors)


def without_autocast(function: Callable) -> Callable:
    """A function of tensors, run with autocast off on the device of the first: inside, float32 stays float32."""

    @functools.wraps(function)
    def precise(*args, **kwargs):
        first = next(_tensors((*args, *kwargs.values())), None)
        with torch.autocast("cpu" if first is None else first.device.type, enabled=False):
            return function(*args, **kwargs)

    return precise


def _tensors(values: Iterable[object]) -> Iterator[Tensor]:
    """The tensors among arguments, and among the fields of those that are dataclasses."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif is_dataclass(value):
            yield from _tensors(vars(value).values())


def all_finite(values: Tensor) -> bool:
    """Whether no entry is NaN or infinite: one sum as a rule, and a look at every entry when the sum is not finite."""
    return bool(values.detach().sum().isfinite()) or bool(values.detach().isfinite().all())


def check_finite(name: str, values: Tensor) -> None:
    """Refuse NaN and infinity in a tensor, naming the first entry that has one."""
    if not all_finite(values):
        where = tuple((~values.isfinite()).nonzero()[0].tolist())
        raise ValueError(f"{name} has {values[where].item()} at {where}: look at what computed it, or scale it down")


def check_embeddings(u: Tensor, name: str = "u") -> None:
    """Refuse what is no sequence of embeddings: fewer than two axes, or NaN and infinity (the position is named)."""
    if u.ndim < 2:
        raise ValueError(f"{name} has shape {tuple(u.shape)}: give embeddings (*batch, length, width)")
    if not all_finite(u):
        *batch, position, _ = (~u.isfinite()).nonzero()[0].tolist()
        told = f"sequence {tuple(batch)}, " if batch else ""
        raise ValueError(f"{name} has NaN or infinity in {told}position {position}: look at what computed it")


def check_matrix(name: str, matrix: Tensor, width: int) -> None:
    """Refuse a matrix (..., width, width) that is not square, does not fit the embeddings, or is not finite."""
    if matrix.ndim < 2 or matrix.shape[-1] != matrix.shape[-2]:
        raise ValueError(
            f"{name} has shape {tuple(matrix.shape)}: it must be square, (width, width); "
            "score_matrix(key, query) makes one from two projections"
        )
    if matrix.shape[-1] != width:
        raise ValueError(f"{name} is {matrix.shape[-1]} wide and the embeddings {width}: give both the same width")
    check_finite(name, matrix)


def positions(rows: Tensor | None, length: int, device: torch.device) -> Tensor:
    """The rows asked for, as positions on the device: all for None; others are checked."""
    if rows is None:
        return torch.arange(length, device=device)
    if rows.ndim != 1 or rows.is_floating_point() or rows.is_complex() or rows.dtype == torch.bool:
        shape = tuple(rows.shape)
        raise ValueError(f"rows has shape {shape} and dtype {rows.dtype}: give one axis of whole positions, 0-based")
    outside = rows[(rows < 0) | (rows >= length)]
    if outside.numel():
        where = f"positions are 0 .. {length - 1}" if length else "leave rows out"
        raise ValueError(f"rows holds {int(outside[0])}, outside a sequence of length {length}: {where}")
    return rows.to(device=device, dtype=torch.int64)


def visible(rows: Tensor, length: int, self_included: bool) -> Tensor:
    """Which keys a query at each row sees, (rows, length): the strict past, or the past and itself."""
    keys = torch.arange(length, device=rows.device)
    return keys <= rows[:, None] if self_included else keys < rows[:, None]


def attention_weights(logits: Tensor, seen: Tensor) -> Tensor:
    """Softmax of logits (..., rows, length) over the keys that are seen; all zeros where none is.

    The fill is the least finite number and not minus infinity: a row without a past then meets no NaN on the way, which
    the second mask would hide, but anomaly detection would not.
    """
    filled = logits.masked_fill(~seen, torch.finfo(logits.dtype).min)
    return filled.softmax(-1).masked_fill(~seen, 0.0)

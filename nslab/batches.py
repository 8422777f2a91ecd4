"""Rows in batches: a size is found by itself, and halved when memory runs out."""

from collections.abc import Callable

import torch
from torch import Tensor

CPU_POSITIONS = 2**11  # rows x positions handed over at once: what stays in a cache; more are slower on a CPU
ACCELERATOR_POSITIONS = 2**16
OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")


class BatchSize:
    """How many rows go at once: unknown at first, then what fitted. Hand one object to many calls to keep the size.

    Attributes:
        rows: rows at once so far; None before the first call.

    How to read it: the first call starts from 2,048 positions (rows times the second axis) on a CPU and 65,536 on an
    accelerator. Whenever memory runs out the size is halved, and it stays there.
    """

    def __init__(self, rows: int | None = None):
        if rows is not None and rows < 1:
            raise ValueError(f"rows is {rows}: give at least 1, or None to find the size")
        self.rows = rows

    def __repr__(self) -> str:
        return f"BatchSize(rows={self.rows})"


def in_batches(
    f: Callable[..., Tensor],
    *rows: Tensor,
    batch: int | BatchSize | None = None,
) -> Tensor:
    """`f(*rows)`, computed in slices along the first axis and put together again.

    Args:
        f: takes a slice of each of `rows` and returns a tensor with one row for each. Row i must depend on row i only.
        *rows: tensors (rows, ...) with equally many rows, at least one row.
        batch: rows at once. A number is taken as it is, and an error of memory is raised. A `BatchSize` starts where
            its last call ended and remembers. None starts afresh.

    Returns:
        What `f` returns for all rows, in order. The slices are as equal as possible.

    How to read it: on a CPU the slices depend on shapes alone, so that one seed gives one result, unless memory ran
    out; slices that were done then are not done again.

    Errors: `ValueError` for no tensors, no rows, tensors of different lengths, or a `batch` under 1. The error of
    memory itself when a single row does not fit, with a note that says so.

    >>> in_batches(lambda x, y: x + y, torch.arange(5), torch.ones(5, dtype=torch.int64), batch=2)
    tensor([1, 2, 3, 4, 5])
    """
    total = _count(rows)
    automatic = not isinstance(batch, int)
    size = batch if isinstance(batch, BatchSize) else BatchSize(batch)
    if size.rows is None:
        size.rows = _first_size(rows[0])
    found: list[Tensor] = []
    done = 0
    while done < total:
        slices = -(-(total - done) // size.rows)
        end = done + -(-(total - done) // slices)
        fitted = True
        try:
            found.append(f(*(tensor[done:end] for tensor in rows)))
        except (RuntimeError, MemoryError) as error:
            if not automatic or not is_out_of_memory(error):
                raise
            if end - done == 1:
                error.add_note("a single row does not fit into memory: give shorter rows, or use another device")
                raise
            fitted = False  # the error goes with this block: its traceback holds the tensors that filled the memory
        if fitted:
            done = end
            continue
        size.rows = (end - done) // 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return found[0] if len(found) == 1 else torch.cat(found)


def is_out_of_memory(error: BaseException) -> bool:
    """Is this the error of a full memory, of a CPU or of an accelerator?

    >>> is_out_of_memory(MemoryError()), is_out_of_memory(RuntimeError("shapes differ"))
    (True, False)
    """
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY)


def _count(rows: tuple[Tensor, ...]) -> int:
    if not rows:
        raise ValueError("rows is empty: give at least one tensor")
    shapes = [tuple(tensor.shape) for tensor in rows]
    if any(not shape for shape in shapes) or len({shape[0] for shape in shapes}) > 1:
        raise ValueError(f"rows have shapes {shapes}: give tensors with equally many rows")
    if not shapes[0][0]:
        raise ValueError(f"rows have shapes {shapes}: give at least one row")
    return shapes[0][0]


def _first_size(rows: Tensor) -> int:
    positions = rows.shape[1] if rows.ndim > 1 else 1
    most = CPU_POSITIONS if rows.device.type == "cpu" else ACCELERATOR_POSITIONS
    return max(1, most // max(1, positions))

"""Data parallel training through torch.distributed: `torchrun` starts the processes, each takes its share of a batch.

    torchrun --nproc-per-node 2 train.py        # a script with `with join_processes() as device:` around the run

Nothing else changes: a `Trainer` that finds a process group wraps its model in DistributedDataParallel, and only
process 0 records.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, distributed


@contextmanager
def join_processes(device: torch.device | str | None = None) -> Iterator[torch.device]:
    """Join the processes that `torchrun` started, for the length of a `with` block; alone, do nothing.

    Args:
        device: "cpu", "cuda" or a device; None takes CUDA where there is one. With CUDA each process gets the GPU of
            its local rank, and the processes talk through nccl; on the CPU through gloo.

    Yields:
        The device of this process.

    Errors: `RuntimeError` when CUDA is asked for and there are fewer GPUs than processes on this machine.
    """
    device = torch.device(device if device is not None else "cuda" if torch.cuda.is_available() else "cpu")
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or distributed.is_initialized():
        yield device
        return
    if device.type == "cuda":
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if local >= torch.cuda.device_count():
            raise RuntimeError(
                f"process {local} of this machine finds {torch.cuda.device_count()} GPUs: start at most one process a "
                "GPU (--nproc-per-node), or use device='cpu'"
            )
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield device
    finally:
        distributed.destroy_process_group()


def process_count() -> int:
    """How many processes train together; 1 without a process group."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def process_rank() -> int:
    """The number of this process, 0 .. process_count() - 1. Process 0 records."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def share(x: Tensor) -> Tensor:
    """This process's rows of a batch: consecutive, equally many for all, so that a mean of means is the mean.

    Errors: `ValueError` when the rows cannot be divided equally.
    """
    count = process_count()
    if len(x) % count:
        raise ValueError(f"batch has {len(x)} rows for {count} processes: make it a multiple of the processes")
    return x.chunk(count)[process_rank()]


def mean_over_processes(x: Tensor) -> Tensor:
    """The mean of x over the processes, on each of them. All must call it."""
    x = x / process_count()
    distributed.all_reduce(x)
    return x

"""The processes of one run: one, or as many as `torchrun` started."""

import contextlib
import os
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from nslab.records.files import RecordError


@contextlib.contextmanager
def group(device: str) -> Iterator[tuple[int, int, str]]:
    """Rank, number of processes, and device of this one. Under `torchrun` they form a group for the time being."""
    world = int(os.environ.get("WORLD_SIZE", 1))
    if world == 1:
        yield 0, 1, device
        return
    import torch
    import torch.distributed as dist

    backend = "gloo"
    if device.startswith("cuda"):
        local, there = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local >= there:
            raise RecordError(
                f"process {local} of this machine finds {there} GPUs: start at most one process a GPU "
                "(--nproc-per-node), or give --device cpu"
            )
        device, backend = f"cuda:{local}", "cpu:gloo,cuda:nccl"
        torch.cuda.set_device(device)
    # seeds take unlike times, and torchrun ends all processes when one fails: so waiting long does no harm
    dist.init_process_group(backend, timeout=timedelta(days=7))
    try:
        yield dist.get_rank(), world, device
    finally:
        dist.destroy_process_group()


def from_first(value: Any, world: int) -> Any:
    """What rank 0 gave, on every rank."""
    return gathered(value, world)[0]


def gathered(value: Any, world: int) -> list:
    """What each rank gave, in the order of ranks, on every rank. All wait for each other."""
    if world == 1:
        return [value]
    import torch.distributed as dist

    found: list = [None] * world
    dist.all_gather_object(found, value)
    return found

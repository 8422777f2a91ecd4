"""What a piece of work takes, in seconds that say something on a machine with other work to do."""

import time
from collections.abc import Callable

import torch


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """What `work()` takes: seconds of the processor on a CPU, which other work disturbs little; else of the clock."""
    if device.type == "cpu":
        clock, wait = time.process_time, lambda: None
    else:
        clock, wait = time.perf_counter, lambda: torch.accelerator.synchronize(device)
    wait()
    start = clock()
    work()
    wait()
    return clock() - start

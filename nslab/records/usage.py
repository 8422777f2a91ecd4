"""What a run costs, over all calls that it took: each call keeps a small file beside the checkpoints."""

import contextlib
import json
import os
import time
from datetime import UTC, datetime
from pathlib import Path

from nslab.records.machine import peak_memory

STAMP = "%Y-%m-%dT%H:%M:%SZ"


class Usage:
    """Seconds and memory of this call on this rank, noted at every checkpoint so that a kill loses little of it."""

    def __init__(self, folder: Path, rank: int = 0, device: str = "cpu"):
        now = datetime.now(UTC)
        self._path = folder / f"call-{now:%Y%m%dT%H%M%S%f}-{rank}-{os.getpid()}.json"
        self._started, self._device = now.strftime(STAMP), device
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def note(self) -> None:
        """Write it down. A full disk is left to the checkpoint to complain of: only these numbers suffer here."""
        told = {
            "started": self._started,
            "seconds": time.perf_counter() - self._wall,
            "cpu_seconds": time.process_time() - self._cpu,
            "peak_memory": peak_memory(),
        }
        if self._device.startswith("cuda"):
            import torch

            told["peak_device_memory"] = torch.cuda.max_memory_allocated(self._device)
        beside = self._path.with_suffix(".new")
        with contextlib.suppress(OSError):
            beside.write_text(json.dumps(told), encoding="utf-8")
            beside.replace(self._path)


def total(folder: Path) -> dict:
    """All calls together: when the first began, seconds of rank 0, CPU seconds of all ranks, the most memory of one."""
    calls = {}
    for path in sorted(folder.glob("call-*.json")):
        with contextlib.suppress(OSError, ValueError):  # empty after a crash of the machine: no reason to lose the run
            calls[path] = json.loads(path.read_text(encoding="utf-8"))
    first_rank = [told for path, told in calls.items() if path.stem.split("-")[2] == "0"]
    found = {
        "started": min((told["started"] for told in first_rank), default=None),
        "calls": len(first_rank),
        "seconds": round(sum(told["seconds"] for told in first_rank), 1),
        "cpu_seconds": round(sum(told["cpu_seconds"] for told in calls.values()), 1),
    }
    for key in ("peak_memory", "peak_device_memory"):
        if sizes := [told[key] for told in calls.values() if told.get(key)]:
            found[f"{key}_mib"] = max(sizes) // 2**20
    return found

"""The circumstances of a run: machine, versions, threads, memory."""

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("nslab", "torch", "numpy")


def circumstances(device: str = "cpu", packages: tuple[str, ...] = PACKAGES) -> dict:
    """What `run.json` says of the machine: device, its name, CPU model, cores, threads, system, Python, packages."""
    import torch

    told = {"device": device}
    if device.startswith("cuda"):
        told["device_name"] = torch.cuda.get_device_name(device)
        told["cuda"] = torch.version.cuda
    return told | {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {name: found for name in packages if (found := _version(name))},
    }


def hardware(run: dict) -> str:
    """A phrase for prose.

    >>> hardware({"device": "cpu", "cpu": "Intel Xeon", "threads": 2})
    '2 threads of an Intel Xeon'
    """
    if name := run.get("device_name"):
        ranks = run.get("processes", 1)
        return f"{ranks} × {name}" if ranks > 1 else f"one {name}"
    threads, cpu = run.get("threads"), str(run.get("cpu", "unknown CPU"))
    article = "an" if cpu[:1].lower() in "aeiou" else "a"
    counted = "one thread" if threads == 1 else f"{threads or 'unknown'} threads"
    ranks = run.get("processes", 1)
    each = f"{ranks} processes with {counted} each" if ranks > 1 else counted
    return f"{each} of {article} {cpu}"


def peak_memory() -> int | None:
    """The most memory this process has held, in bytes; None where the system does not tell."""
    try:  # getrusage's peak starts from that of the process that started this one; the own one is here
        with open("/proc/self/status", encoding="ascii", errors="replace") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        pass
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def cpu_model() -> str:
    """The name of the CPU, or else of its architecture."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    named = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), None)
    return named or platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None

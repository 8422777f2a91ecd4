"""A random walk, to try records on: it can be told to die.

It walks all seeds at once, or one after the other with `batched=False`.
"""

import os
import signal
from dataclasses import dataclass, field

import torch

from nslab.estimate import Interval


@dataclass(frozen=True)
class Step:
    size: float = 1.0
    kind: str = "normal"


@dataclass(frozen=True)
class Config:
    seeds: int = 3
    steps: int = 40
    batched: bool = True
    drift: float = 0.5
    large: int = 0
    names: tuple[str, ...] = ("a",)
    step: Step = field(default_factory=Step)

    def __post_init__(self):
        if self.steps < 1:
            raise ValueError(f"steps = {self.steps}: give 1 or more")


PRESETS = {"quick": Config(), "laptop": Config(steps=60), "full": Config(seeds=5, steps=80)}
EVERY = 10


def run(config, log, *, device):
    if not config.batched:
        ends = log.each_seed(config.seeds, lambda seed, log: {"end": walk(config, log, [seed], device)[0]}, name="one")
        ends = [end["end"] for end in ends]
    else:
        ends = walk(config, log, range(config.seeds), device)
    if config.large:
        log.artifact("weights.bin").write_bytes(os.urandom(config.large))
    interval = Interval(torch.tensor(min(ends)), torch.tensor(max(ends)), 0.9)
    return {"ends": ends, "low": float(interval.low), "high": float(interval.high)}


def walk(config, log, seeds, device):
    generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]
    at, begin = torch.zeros(len(generators), device=device), 0
    if log.restored:
        at, begin = log.restored["at"].to(device), log.restored["done"]
        for generator, state in zip(generators, log.restored["generators"], strict=True):
            generator.set_state(state)
    for step in range(begin, config.steps):
        if os.environ.get("TOY_DIES_AT") == f"{seeds[-1]}:{step}":
            os.kill(os.getpid(), getattr(signal, os.environ.get("TOY_DIES_OF", "SIGKILL")))
        draws = torch.stack([torch.randn((), generator=generator, device=device) for generator in generators])
        at = at + config.drift + config.step.size * draws
        log.record(step, at=at if config.batched else at[0])
        if step % 5 == 0:
            log.record(step, largest=at.abs().max().item())
        if (step + 1) % EVERY == 0:
            states = [generator.get_state() for generator in generators]
            log.save({"at": at, "done": step + 1, "generators": states})
        log.progress(step + 1, config.steps, "walking")
    return at.tolist()


def phenomenon(result):
    return None if result["high"] > 0 else "no walk ended above 0"

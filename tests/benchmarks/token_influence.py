"""What it costs to ask a Transformer which tokens matter, against one string at a time and against plain forwards."""

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from nslab.noise import Resample
from nslab.stability import discrete_influence, text_stability, total_influence
from nslab.transformer import CHAR_GPT, Transformer, TransformerConfig
from tests.benchmarks.harness import Row, as_long, cpu_seconds, faster

SAMPLES = 1000
LOOP = 20  # prompts that the loop really takes, with every position redrawn; its seconds are scaled
SMALL = TransformerConfig(vocabulary=20, context=20, width=64, layers=4, heads=4, causal=False)
KEEP = [0.5, 0.8, 0.9, 0.95, 0.99]
PROMPTS, TWINS = 24, 4


def rows() -> list[Row]:
    """Two sensitivities of a small network, and the stability of the shape of char-gpt."""
    return [_sensitivity(), _prompts(), _stability()]


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _first(model: Transformer) -> Callable[[Tensor], Tensor]:
    """The logits at position 0 of every string."""
    return lambda ids: model(ids, at=torch.zeros(len(ids), dtype=torch.int64))


def _loop(f: Callable[[Tensor], Tensor], replacements: int) -> float:
    """CPU seconds for so many replacements at every position, one string at a time, measured on a few."""
    generator = _seeded()

    def work():
        found = torch.zeros(SMALL.context)
        with torch.no_grad():
            for _ in range(LOOP):
                ids = torch.randint(SMALL.vocabulary, (1, SMALL.context), generator=generator)
                base = f(ids)
                for position in range(SMALL.context):
                    changed = ids.clone()
                    changed[0, position] = int(torch.randint(SMALL.vocabulary, (1,), generator=generator))
                    found[position] += (f(changed) - base).square().sum() / 2
        return found

    return cpu_seconds(work, repeats=3) * replacements / LOOP


def _sensitivity() -> Row:
    """Total influence over random strings, the average sensitivity: 1,000 strings, each with every token redrawn."""
    f, resample = _first(Transformer(SMALL, generator=_seeded()).eval()), Resample(0, SMALL.vocabulary)
    ids, pairs = resample.draw((SAMPLES, SMALL.context), _seeded()), SAMPLES * SMALL.context
    ours = cpu_seconds(lambda: total_influence(f, ids, resample, pairs=pairs, generator=_seeded()), repeats=3)
    return faster(
        f"sensitivity over random strings, 4 layers, d 64, length 20, {SAMPLES} samples",
        ours,
        "one string at a time",
        _loop(f, SAMPLES),
        4.0,
        f"{SAMPLES + pairs} strings for the loop, ours leaves out unchanged ones; the loop took {LOOP} and was scaled",
    )


def _prompts() -> Row:
    """The same network at given prompts: 20 replacements at each position of 50 prompts."""
    f = _first(Transformer(SMALL, generator=_seeded()).eval())
    resample = Resample(0, SMALL.vocabulary)
    ids = resample.draw((50, SMALL.context), _seeded())
    ours = cpu_seconds(lambda: discrete_influence(f, ids, resample, samples=20, generator=_seeded()), repeats=3)
    return faster(
        "influence of every position of 50 prompts, 20 replacements each, the same network",
        ours,
        "one string at a time",
        _loop(f, 50 * 20),
        4.0,
        f"ours evaluates equal strings once; the loop took {LOOP} prompts with one replacement and was scaled",
    )


def _stability() -> Row:
    """Noise stability of all logits at five keeps against forwards of equally many strings, in batches as large."""
    model = Transformer(CHAR_GPT, generator=_seeded()).eval()
    resample = Resample(0, CHAR_GPT.vocabulary)
    ids = resample.draw((PROMPTS, CHAR_GPT.context), _seeded())
    strings = PROMPTS * (1 + TWINS * len(KEEP))

    def measure():
        f = lambda ids: model(ids).flatten(1)  # noqa: E731
        found = text_stability(f, ids, resample, keep=KEEP, twins=TWINS, batch=16, generator=_seeded())
        assert found.evaluations == strings
        return found.normalised

    def forward():
        with torch.no_grad():
            for begin in range(0, strings, 16):
                model(ids[: min(16, strings - begin)])

    ours, theirs = [], []
    for _ in range(8):  # in turn, because a busy machine drifts by more than the difference
        for work, found in ((measure, ours), (forward, theirs)):
            start = time.process_time()
            work()
            found.append(time.process_time() - start)
    return as_long(
        "stability of the shape of char-gpt, all logits",
        statistics.median(ours[1:]),
        "plain forwards",
        statistics.median(theirs[1:]),
        1 / 0.9,
        f"{strings} strings of {CHAR_GPT.context} tokens in batches of 16, random weights; medians of 7 runs in turn",
    )

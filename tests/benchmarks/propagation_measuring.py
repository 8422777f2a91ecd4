"""What it costs to measure the moments of every layer, against plain forwards of the same strings."""

import statistics
import time

import torch

from nslab.propagation.measuring import measure
from nslab.transformer import Transformer, TransformerConfig
from tests.benchmarks.harness import Row, as_long

DEEP = TransformerConfig(vocabulary=81, context=128, width=256, layers=12, heads=4)
RHO = torch.linspace(0, 1, 21, dtype=torch.float64)
PROMPTS, ROUNDS = 2, 7


def rows() -> list[Row]:
    """Moments of a Transformer at 21 rhos, with and without the agreement mass of its heads."""
    return [_measured(weights=False), _measured(weights=True)]


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@torch.no_grad()
def _measured(*, weights: bool) -> Row:
    model = Transformer(DEEP, generator=_seeded()).eval()
    embeddings = model.embed(torch.randint(81, (PROMPTS, 128), generator=_seeded()))
    strings = embeddings.repeat(1 + len(RHO), 1, 1)
    at = torch.zeros(1 + len(RHO), dtype=torch.int64)

    def forwards():
        for batch in strings.split(len(at)):
            model.look(batch, at) if weights else model.from_embeddings(batch, at)

    def ours():
        measure(model, embeddings, RHO, weights=weights, generator=_seeded())

    found = [], []
    for _ in range(ROUNDS + 1):  # in turn, because a busy machine drifts by more than the difference
        for work, seconds in zip((ours, forwards), found, strict=True):
            start = time.process_time()
            work()
            seconds.append(time.process_time() - start)
    what, peer = (
        ("moments and agreement mass", "forwards that keep the weights") if weights else ("moments", "forwards")
    )
    return as_long(
        f"{what} of every layer, 12 layers, d 256, 21 rhos",
        statistics.median(found[0][1:]),
        peer,
        statistics.median(found[1][1:]),
        1.3,
        f"{len(strings)} strings of 128 tokens, {len(at)} at once; medians of {ROUNDS} runs in turn",
    )

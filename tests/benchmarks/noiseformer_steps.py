"""What symmetric attention and learned noise cost: training steps beside standard ones, memory, and a plain loop.

The network has 256 tokens, width 384 and 6 heads in each of 3 layers; every layer does the same work, so that more of
them change no ratio. A step is forward, backward and AdamW on one batch, with the divergence of the noise in the loss
where there is noise. All sides of a comparison are timed in turns.
"""

import itertools
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nslab.attention.settings import VARIANTS
from nslab.records.machine import peak_memory
from nslab.reruns import noiseformer_pretrain
from nslab.reruns._noiseformer_arms import ARMS, STANDARD, Arm
from nslab.training import TextBatches, Trainer, TrainingConfig
from nslab.training.noise_kl import noise_regulariser
from nslab.transformer import Transformer, TransformerConfig
from nslab.transformer.accounting import noise_bytes
from nslab.transformer.noiseformer import network
from tests.benchmarks.harness import Row, as_long

SHAPE = TransformerConfig(vocabulary=81, context=256, width=384, layers=3, heads=6)
ON_A_GPU = TransformerConfig(vocabulary=81, context=1024, width=768, layers=3, heads=12)
BATCH = 8
RUNS = 9  # of each side, in turns
BETA = 1e-3
THRESHOLD = 31 * 2**20  # bytes
MB = 1e6

TARGETS = {  # how many times as long as the standard step each may take
    "symmetric": 1.1,
    "v2-key": 1.1,
    "v2-amortised": 1.1,
    "low-rank": None,
    "pairwise": None,
    "v1-relative": None,
    "v2-relative": None,
}
Step = Callable[[], float]
"""One training step; it returns its seconds."""


def rows() -> list[Row]:
    """Steps of each variant, on a GPU too where there is one; the arms of `noiseformer-pretrain`; the plain loop."""
    torch.empty(THRESHOLD, dtype=torch.uint8)  # as in regularised_steps: what is freed is kept, and not faulted in anew
    found = [*_variants("n = 256, d = 384", SHAPE, "cpu"), *_arms_of_the_study(), _plain_loop()]
    if torch.cuda.is_available():
        found += _variants("n = 1024, d = 768, GPU", ON_A_GPU, "cuda")
    else:
        print("  a GPU, n = 1024 and d = 768: not timed; there is no CUDA device")
    return found


def _variants(what: str, shape: TransformerConfig, device: str) -> list[Row]:
    """A row for each variant, with the memory of its step beside what the noise alone takes by the formula."""
    seconds = _in_turns({name: _variant(shape, name, device) for name in (STANDARD, *TARGETS)})
    memory = {name: _memory(shape, name, device) for name in seconds}
    where = "" if device == "cpu" else f"; seconds of the wall clock on {torch.cuda.get_device_name()}"
    return [
        as_long(
            f"a training step, {name} attention: {what}",
            seconds[name],
            "standard attention, fused",
            seconds[STANDARD],
            target,
            f"batch {BATCH}, {shape.layers} layers; medians of {RUNS} runs in turns{where}; at its peak the step holds "
            f"{(memory[name] - memory[STANDARD]) / MB:+.0f} MB beside the standard one{_of_the_noise(shape, name)}",
        )
        for name, target in TARGETS.items()
    ]


def _arms_of_the_study() -> list[Row]:
    """Every arm of `noiseformer-pretrain` at its laptop shape; chapter 15 stretches its time axis by these."""
    config = noiseformer_pretrain.PRESETS["laptop"]
    ids = _text(config.model, "cpu")
    text = noiseformer_pretrain.Text(ids, ids[:1000], (1, 1))

    def step(arm: Arm) -> Step:
        return _of(noiseformer_pretrain.trainer_of(config, arm, arm.network(config.model, 0), text, 0))

    seconds = _in_turns({name: step(ARMS[name]) for name in config.arms})
    shape, batch = config.model, config.training.batch
    note = f"{shape.layers} layers, batch {batch}; medians of {RUNS} runs in turns"
    return [
        as_long(
            f"a step of noiseformer-pretrain, {name}: n = {shape.context}, d = {shape.width}",
            seconds[name],
            "its standard arm",
            seconds[STANDARD],
            None,
            f"{ARMS[name].says}; {note}",
        )
        for name in config.arms
        if name != STANDARD
    ]


def _plain_loop() -> Row:
    """Our `Trainer` with the standard network beside a short loop around a short network, as one would write both."""
    ids = _text(SHAPE, "cpu")
    ours = Transformer(SHAPE, generator=torch.Generator().manual_seed(0))
    theirs = PlainNetwork(SHAPE)
    with torch.no_grad():
        for mine, other in zip(theirs.parameters(), ours.parameters(), strict=True):
            mine.copy_(other)
    x = ids[None, : SHAPE.context]
    torch.testing.assert_close(theirs(x), ours(x), rtol=1e-4, atol=1e-5)
    seconds = _in_turns({"ours": _trainer(ours, ids), "theirs": _loop(theirs, ids)})
    rates = {name: BATCH * SHAPE.context / one for name, one in seconds.items()}
    return as_long(
        f"a training step of the Trainer: n = {SHAPE.context}, d = {SHAPE.width}",
        seconds["ours"],
        "a plain loop in nanoGPT's manner",
        seconds["theirs"],
        1 / 0.97,
        f"{rates['ours']:,.0f} tokens a second beside {rates['theirs']:,.0f}; batch {BATCH}, {SHAPE.layers} layers, "
        f"fused attention and fused AdamW on both sides; medians of {RUNS} runs in turns",
    )


class PlainNetwork(nn.Module):
    """The same network, in as few lines as it takes."""

    def __init__(self, shape: TransformerConfig):
        super().__init__()
        width, self.heads = shape.width, shape.heads
        self.tokens = nn.Embedding(shape.vocabulary, width)
        self.positions = nn.Embedding(shape.context, width)
        self.blocks = nn.ModuleList(
            nn.ModuleList(
                [
                    nn.LayerNorm(width),
                    nn.Linear(width, 3 * width),
                    nn.Linear(width, width),
                    nn.LayerNorm(width),
                    nn.Linear(width, 4 * width),
                    nn.Linear(4 * width, width),
                ]
            )
            for _ in range(shape.layers)
        )
        self.last = nn.LayerNorm(width)

    def forward(self, ids: Tensor) -> Tensor:
        """Logits, (batch, length, vocabulary)."""
        x = self.tokens(ids) + self.positions.weight[: ids.shape[1]]
        for first, qkv, merge, second, up, down in self.blocks:
            parts = qkv(first(x)).chunk(3, -1)
            query, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
            mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)  # (batch, heads, length, ...)
            x = x + merge(mixed.transpose(1, 2).flatten(2))
            x = x + down(F.gelu(up(second(x))))
        return self.last(x) @ self.tokens.weight.T


def _loop(model: PlainNetwork, ids: Tensor) -> Step:
    groups = [[weight for weight in model.parameters() if (weight.ndim >= 2) is matrix] for matrix in (True, False)]
    decays = [{"params": group, "weight_decay": decay} for group, decay in zip(groups, (0.1, 0.0), strict=True)]
    optimizer = torch.optim.AdamW(decays, lr=1e-6, betas=(0.9, 0.95), fused=True)
    length = SHAPE.context

    def step() -> float:
        start = time.process_time()
        places = torch.randint(len(ids) - length, (BATCH,)).tolist()
        x, y = (torch.stack([ids[at + shift : at + shift + length] for at in places]) for shift in (0, 1))
        loss = F.cross_entropy(model(x).flatten(0, 1), y.flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return time.process_time() - start

    return step


def _variant(shape: TransformerConfig, name: str, device: str) -> Step:
    """A step of a network by the name of its attention; "standard" is an ordinary Transformer."""
    scores = None if name == STANDARD else VARIANTS[name]
    model = network(shape, scores, generator=torch.Generator().manual_seed(0), device=device)
    noisy = scores is not None and scores.noise is not None
    return _trainer(model, _text(shape, device), [noise_regulariser(BETA)] if noisy else [])


def _trainer(model: Transformer, ids: Tensor, penalties: Sequence = ()) -> Step:
    config = TrainingConfig(steps=10**6, batch=BATCH, learning_rate=1e-6, evaluate_every=10**6)
    return _of(Trainer(model, config, TextBatches(ids, model.context, BATCH), penalties=penalties))


def _of(trainer: Trainer) -> Step:
    clock = time.process_time if trainer.device.type == "cpu" else _synchronised

    def step() -> float:
        start = clock()
        trainer.run(until=trainer.step + 1)
        return clock() - start

    return step


def _synchronised() -> float:
    torch.cuda.synchronize()
    return time.perf_counter()


def _text(shape: TransformerConfig, device: str) -> Tensor:
    return torch.randint(shape.vocabulary, (100_000,), generator=torch.Generator().manual_seed(0)).to(device)


def _in_turns(steps: dict[str, Step]) -> dict[str, float]:
    """Median seconds of each step, all run in turns; the first of each only warms up."""
    found = {name: [] for name in steps}
    for _, (name, step) in itertools.product(range(RUNS + 1), steps.items()):
        found[name].append(step())
    return {name: statistics.median(seconds[1:]) for name, seconds in found.items()}


def _memory(shape: TransformerConfig, name: str, device: str) -> int:
    """Bytes that are held at the peak of three steps: on the CPU by a process of their own, with all that it loads."""
    if device == "cpu":
        code = f"from tests.benchmarks.noiseformer_steps import peak; print(peak({name!r}))"
        told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
        return int(told.stdout)
    step = _variant(shape, name, device)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    for _ in range(3):
        step()
    return torch.cuda.max_memory_allocated() - before


def peak(name: str) -> int:
    """Peak memory of this process after three steps at `SHAPE`, in bytes."""
    torch.set_num_threads(1)
    step = _variant(SHAPE, name, "cpu")
    for _ in range(3):
        step()
    return peak_memory()


def _of_the_noise(shape: TransformerConfig, name: str) -> str:
    """What the drawn numbers alone take by the formula, kept for the way back; empty without noise."""
    if VARIANTS[name].noise is None:
        return ""
    drawn = shape.layers * noise_bytes(shape, VARIANTS[name], BATCH, shape.context)
    return f"; by the formula the noise of all layers takes {drawn / MB:.1f} MB"

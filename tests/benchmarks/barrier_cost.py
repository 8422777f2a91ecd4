"""What the barrier on the heads costs: training steps with it beside plain ones, and determinants beside a loop.

The network has 256 tokens, width 384 and 6 heads of width 64 in each of 3 layers; every layer does the same work, so
that more of them change no ratio. Positions are sampled for each row of the batch and the same in all layers. The
first-order form is the trace alone. Both sides are timed in turns.

Some of the price does not grow with the rows, and the first-order form shows it: the products that every key and value
of the sequence takes part in are about 5 % of a plain step, and their gradients on the way back (scaled, laid side by
side, added to those of the loss) are memory traffic of about 4 %.
"""

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from nslab.barrier.head_barrier import HeadBarrier
from nslab.barrier.heads import HeadStage, head_blocks
from nslab.barrier.penalty_shapes import margin_penalty
from nslab.barrier.real_heads import stages
from nslab.training import TextBatches, Trainer, TrainingConfig
from nslab.transformer import CHAR_GPT, Transformer, TransformerConfig
from tests.benchmarks.harness import Row, as_long, faster

SHAPE = TransformerConfig(vocabulary=81, context=256, width=384, layers=3, heads=6)
BATCH = 8
RUNS = 9  # of each side, in turns
WEIGHT = 0.5
THRESHOLD = 31 * 2**20  # bytes
SPREAD = 6.0  # what the drawn projections are multiplied by: determinants from 0.5 to 2, as in a trained network

FIRST = {"kind": "raw", "order": "first"}
ARMS = {  # what is added to a step, and how many times as long it may then take
    "16 rows": ({"rows": 16}, 1.7),
    "4 rows": ({"rows": 4}, 1.2),
    "16 rows, first order": ({"rows": 16} | FIRST, 1.05),
    "16 rows, kl": ({"rows": 16, "kind": "kl"}, None),
}


def rows() -> list[Row]:
    """Costs of a training step on one thread; determinants beside a loop; the same on a GPU where there is one."""
    torch.empty(THRESHOLD, dtype=torch.uint8)  # as in regularised_steps: what is freed is kept, and not faulted in anew
    found = [*_steps("n = 256, d = 384, heads of 64", SHAPE, ARMS, RUNS, "cpu")]
    found += _steps("n = 256, d = 384, heads of 64", SHAPE, {"all rows": ({"rows": None}, None)}, 3, "cpu")
    found += _steps("CHAR_GPT, n = 128, heads of 32", CHAR_GPT, {"16 rows": ({"rows": 16}, None)}, RUNS, "cpu")
    found.append(_determinants())
    if torch.cuda.is_available():
        found += _steps("n = 256, d = 384, heads of 64, GPU", SHAPE, ARMS, RUNS, "cuda")
    else:
        print("  a GPU: not timed; there is no CUDA device")
    return found


def _steps(what: str, shape: TransformerConfig, arms: dict, runs: int, device: str) -> list[Row]:
    steps = {"plain": _step(shape, None, device)}
    steps |= {name: _step(shape, options, device) for name, (options, _) in arms.items()}
    seconds = {name: [] for name in steps}
    for _ in range(runs + 1):  # the first of each only warms up
        for name, step in steps.items():
            seconds[name].append(step())
    middle = {name: statistics.median(found[1:]) for name, found in seconds.items()}
    note = f"batch {BATCH}, {shape.layers} layers; medians of {runs} runs in turns"
    if device == "cuda":
        note += f"; seconds of the wall clock on {torch.cuda.get_device_name()}"
    return [
        as_long(f"a step with the barrier, {name}: {what}", middle[name], "without it", middle["plain"], target, note)
        for name, (_, target) in arms.items()
    ]


def _step(shape: TransformerConfig, options: dict | None, device: str) -> Callable[[], float]:
    model = _network(shape).to(device)
    ids = torch.randint(shape.vocabulary, (100_000,), generator=torch.Generator().manual_seed(0)).to(device)
    config = TrainingConfig(steps=10**6, batch=BATCH, learning_rate=1e-6)
    penalties = [] if options is None else [(WEIGHT, HeadBarrier(**options).watch(model))]
    trainer = Trainer(model, config, TextBatches(ids, shape.context, BATCH), penalties=penalties)
    clock = time.process_time if device == "cpu" else time.perf_counter

    def step() -> float:
        if device == "cuda":
            torch.cuda.synchronize()
        start = clock()
        trainer.run(until=trainer.step + 1)
        if device == "cuda":
            torch.cuda.synchronize()
        return clock() - start

    return step


@torch.no_grad()
def _network(shape: TransformerConfig) -> Transformer:
    model = Transformer(shape, generator=torch.Generator().manual_seed(0))
    for layer in model.layers:
        layer.attention.qkv.weight *= SPREAD
        layer.attention.output.weight *= SPREAD
    return model


def _determinants() -> Row:
    """Log-determinants of all heads at all positions of a batch, with their gradient in queries, keys and values."""
    model = _network(SHAPE).eval()
    ids = torch.randint(SHAPE.vocabulary, (1, SHAPE.context), generator=torch.Generator().manual_seed(0))
    stage = stages(model, ids)[0]
    parts = [getattr(stage, name).detach().requires_grad_() for name in ("query", "key", "value")]
    stage = HeadStage(*parts, stage.query_weight.detach(), stage.output_weight.detach())
    barrier = HeadBarrier(rows=None, kind="raw")

    def ours() -> Tensor:
        return barrier.of([stage])

    def loop() -> Tensor:
        query, key, value = (part[0] for part in parts)
        width, total = SHAPE.width // SHAPE.heads, 0.0
        for head in range(SHAPE.heads):
            coupling = stage.query_weight[head] @ stage.output_weight[head] / width**0.5
            for row in range(2, SHAPE.context):
                keys, values = key[head, :row], value[head, :row]
                weights = (keys @ query[head, row] / width**0.5).softmax(0)
                centred = values - weights @ values
                covariance = (centred * weights[:, None]).T @ (keys - weights @ keys)
                total = total - torch.linalg.slogdet(torch.eye(width) - coupling @ covariance)[1]
        return total / (SHAPE.heads * SHAPE.context)

    def blocks() -> Tensor:
        return margin_penalty(head_blocks(stage), "raw").mean()

    for other in (loop, blocks):
        assert torch.allclose(ours(), other(), rtol=1e-3, atol=1e-4)
    found = {}
    for _ in range(4):
        for name, work in {"ours": ours, "loop": loop, "blocks": blocks}.items():
            start = time.process_time()
            torch.autograd.grad(work(), parts)
            found.setdefault(name, []).append(time.process_time() - start)
    seconds = {name: statistics.median(times[1:]) for name, times in found.items()}
    note = f"values and gradients; all blocks at once by head_blocks and margin_penalty: {seconds['blocks']:.2f} s"
    what = f"log-determinants of {SHAPE.heads} heads at {SHAPE.context} positions"
    return faster(what, seconds["ours"], "a loop over heads and positions", seconds["loop"], 3, note)

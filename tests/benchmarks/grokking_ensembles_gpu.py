"""64 seeds of the p = 113 transformer on a GPU: seed-steps a second beside the plain eager loop, and the roofline.

Both sides run on the same GPU, in turns, timed by the clock on the wall, the device idle at both ends. The roofline is
the rate of one large matrix product, measured in the same precision on the same device. The notes also say when
networks generalise that are trained to the end in either precision. Without a CUDA device there are no rows, and a line
says so.
"""

import statistics
import time

import torch

from nslab.reruns import grokking
from nslab.tasks import ModularArithmetic
from nslab.training import EnsembleConfig, EnsembleTrainer, PairMeasures, TokenTableTransformer
from tests.benchmarks.grokking_ensembles import (
    Side,
    ensemble,
    gigaflops,
    initial,
    interleaved,
    loop,
    train_pairs,
)
from tests.benchmarks.harness import Row, faster

DEVICE = "cuda"
SEEDS = 64
STEPS = 25  # of a run, and between two evaluations
SIDE = 8192  # of the matrices whose product is the roofline
TO_THE_END = 16  # seeds of the p = 53 transformer that are trained until they generalise


def rows() -> list[Row]:
    """One row in strict float32, one in TF32, against the plain loop in the same precision."""
    if not torch.cuda.is_available():
        print("  a GPU: not timed; there is no CUDA device")
        return []
    before = torch.get_float32_matmul_precision()
    try:
        return [_row("strict float32", False, 8), _row("TF32", True, None)]
    finally:
        torch.set_float32_matmul_precision(before)


def _row(precision: str, tf32: bool, target: float | None) -> Row:
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    network = TokenTableTransformer(ModularArithmetic(113))
    given = initial(network, SEEDS, DEVICE), *train_pairs(network.task, 0.3, SEEDS, DEVICE)
    sides = {"ours": ensemble(network, *given, every=STEPS, tf32=tf32), "plain": loop(network, *given)}
    seconds = interleaved({name: _on_the_wall(side) for name, side in sides.items()}, STEPS)
    ours, plain = (SEEDS / seconds[side] for side in ("ours", "plain"))
    work, peak = gigaflops(network, plain=False, device=DEVICE), _gigaflops_a_second()
    note = (
        f"seconds of the wall clock on {torch.cuda.get_device_name()}; {ours:,.0f} against {plain:,.0f} seed-steps a "
        f"second; {ours * work / 1000:.1f} TFLOP/s, {ours * work / peak:.0%} of the {peak / 1000:.1f} that a product "
        f"of two {SIDE} x {SIDE} matrices reaches; at p = 53 {_when_they_generalise(tf32)}"
    )
    what = f"{SEEDS} seeds of a transformer, p = 113, GPU, {precision}"
    return faster(what, seconds["ours"], "all three positions, in an eager loop", seconds["plain"], target, note)


def _when_they_generalise(tf32: bool, device: str = DEVICE) -> str:
    """The steps to 99 % test accuracy of a smaller network trained to the end, in words."""
    one = grokking.SETTINGS["transformer-53"]
    splits, weights = grokking.prepare(one, range(TO_THE_END))
    task, settings = one.network.task, {"learning_rate": one.learning_rate, "evaluate_every": one.evaluate_every}
    trainer = EnsembleTrainer(
        one.network,
        {name: weight.to(device) for name, weight in weights.items()},
        EnsembleConfig(steps=2 * one.steps, tf32=tf32, **settings),
        torch.stack([task.pairs[split.train] for split in splits]),
        torch.stack([task.labels[split.train] for split in splits]),
        measure=PairMeasures(task, splits),
    )
    trainer.run()
    steps = [step for step in trainer.generalised_at.tolist() if step >= 0]
    if not steps:
        return f"none of {TO_THE_END} seeds generalises"
    return (
        f"{len(steps)} of {TO_THE_END} seeds generalise, after {min(steps)} to {max(steps)} steps, median "
        f"{statistics.median(steps):g}"
    )


def _on_the_wall(side: Side) -> Side:
    def timed(steps: int) -> float:
        torch.cuda.synchronize()
        start = time.perf_counter()
        side(steps)
        torch.cuda.synchronize()
        return time.perf_counter() - start

    return timed


def _gigaflops_a_second() -> float:
    """The best of several large products, in the precision that is set."""
    a, b = torch.randn(2, SIDE, SIDE, device=DEVICE)
    product = _on_the_wall(lambda steps: [torch.mm(a, b) for _ in range(steps)])
    product(3)
    return 2 * SIDE**3 / min(product(3) / 3 for _ in range(5)) / 1e9

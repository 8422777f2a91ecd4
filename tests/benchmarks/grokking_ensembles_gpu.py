"""64 seeds of the p = 113 transformer on a GPU: seed-steps a second beside the plain eager loop, and the roofline.

Both sides run on the same GPU, in turns, timed by the clock on the wall, the device idle at both ends. The roofline is
the rate of one large matrix product, measured in the same precision on the same device. Without a CUDA device there
are no rows, and a line says so.
"""

import time

import torch

from nslab.tasks import ModularArithmetic
from nslab.training import TokenTableTransformer
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


def rows() -> list[Row]:
    """One row in strict float32, one in TF32, against the plain loop in the same precision."""
    if not torch.cuda.is_available():
        print("  a GPU: not timed; there is no CUDA device")
        return []
    before = torch.backends.cuda.matmul.allow_tf32
    try:
        return [_row("strict float32", False, 8), _row("TF32", True, None)]
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def _row(precision: str, tf32: bool, target: float | None) -> Row:
    torch.backends.cuda.matmul.allow_tf32 = tf32
    network = TokenTableTransformer(ModularArithmetic(113))
    given = initial(network, SEEDS, DEVICE), *train_pairs(network.task, 0.3, SEEDS, DEVICE)
    sides = {"ours": ensemble(network, *given, every=STEPS, tf32=tf32), "plain": loop(network, *given)}
    seconds = interleaved({name: _on_the_wall(side) for name, side in sides.items()}, STEPS)
    ours, plain = (SEEDS / seconds[side] for side in ("ours", "plain"))
    work, peak = gigaflops(network, plain=False, device=DEVICE), _gigaflops_a_second()
    note = (
        f"seconds of the wall clock on {torch.cuda.get_device_name()}; {ours:,.0f} against {plain:,.0f} seed-steps a "
        f"second; {ours * work / 1000:.1f} TFLOP/s, {ours * work / peak:.0%} of the {peak / 1000:.1f} that a product "
        f"of two {SIDE} x {SIDE} matrices reaches"
    )
    what = f"{SEEDS} seeds of a transformer, p = 113, GPU, {precision}"
    return faster(what, seconds["ours"], "all three positions, in an eager loop", seconds["plain"], target, note)


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

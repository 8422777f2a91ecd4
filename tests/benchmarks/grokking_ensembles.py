"""Ensembles of small networks that grok: `EnsembleTrainer` beside plain loops over seeds, in seed-steps per CPU second.

A seed-step is one update of one seed. The plain loop trains the module that `network.module` gives, one seed after the
other, with torch's fused optimisers. Pairs are trained on in full batches: 3,830 at p = 113 (30 %), 480 at p = 31
(50 %); parity has batches of 32.

TransformerLens 3.9.0 is the last version with `HookedTransformer`. It gets an environment of its own; name its
interpreter in NSLAB_TRANSFORMER_LENS, for example after

    python -m venv lens && lens/bin/pip install torch==2.13.0 transformer-lens==3.9.0

Without it that row is left out, and a line says so. The peer is the model of its grokking demo, biases frozen as there,
with 114 outputs as ours, so that both compute the same logits. The demo's test loss at every step and its double
precision in the loss are left out: they would only slow it down.
"""

import math
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from nslab.tasks import ModularArithmetic, SparseParity, split_pairs
from nslab.training import (
    EnsembleConfig,
    EnsembleTrainer,
    QuadraticNetwork,
    ReluNetwork,
    TokenTableTransformer,
    hinge_each,
    stack_members,
    take_member,
)
from tests.benchmarks.harness import Row, faster

SEEDS = 5
RUNS = 5  # of each side, in turns
ADAMW = {"weight_decay": 1.0, "betas": (0.9, 0.98)}
Side = Callable[[int], float]  # trains all seeds for that many steps, and says how long it took

PEER = """
import sys, time, warnings
warnings.simplefilter("ignore")
import torch
from torch.nn.functional import cross_entropy, pad
from transformer_lens import HookedTransformer, HookedTransformerConfig
torch.set_num_threads(1)
heads, members, x, y, gamma, keep = torch.load("given.pt")
models, optimizers = [], []
def loss(model, ids, labels):
    logits = model(ids)[:, -1]
    found = cross_entropy(logits, labels)
    if gamma:
        twins = torch.where(torch.rand(ids.shape) < keep, ids, torch.randint(tokens - 1, ids.shape))
        twins[:, -1] = tokens - 1
        found = found - gamma * (logits.softmax(1) * model(twins)[:, -1].softmax(1)).sum(1).mean()
    return found
for w in members:
    (tokens, d), hidden = w["tokens"].shape, w["input"].shape[1]
    model = HookedTransformer(HookedTransformerConfig(
        n_layers=1, n_heads=heads, d_model=d, d_head=d // heads, d_mlp=hidden, act_fn="relu", normalization_type=None,
        d_vocab=tokens, d_vocab_out=tokens, n_ctx=3, init_weights=True, device="cpu", seed=0))
    block = model.blocks[0]
    pairs = [(model.embed.W_E, w["tokens"]), (model.pos_embed.W_pos, w["positions"]), (model.unembed.W_U, w["logits"]),
             (block.mlp.W_in, w["input"]), (block.mlp.W_out, w["output"]),
             (block.attn.W_O, w["projection"].view(heads, -1, d))]
    pairs += [(getattr(block.attn, "W_" + name[0].upper()), w[name].view(d, heads, -1).transpose(0, 1))
              for name in ("query", "key", "value")]
    with torch.no_grad():
        for mine, weight in pairs:
            mine.copy_(weight)
    for name, weight in model.named_parameters():
        weight.requires_grad_("b_" not in name)
    models.append(model)
    optimizers.append(torch.optim.AdamW(
        [weight for weight in model.parameters() if weight.requires_grad], lr=1e-3, weight_decay=1.0,
        betas=(0.9, 0.98), fused=True))
prompts = pad(x, (0, 1), value=tokens - 1)
with torch.no_grad():
    torch.save(torch.stack([model(ids)[:, -1] for model, ids in zip(models, prompts)]), "logits.pt")
print("ready", flush=True)
for line in sys.stdin:
    start = time.process_time()
    for _ in range(int(line)):
        for model, optimizer, ids, labels in zip(models, optimizers, prompts, y):
            loss(model, ids, labels).backward()
            optimizer.step()
            optimizer.zero_grad()
    print(time.process_time() - start, flush=True)
"""


def rows() -> list[Row]:
    """Four comparisons with the plain loop, and one with TransformerLens where it is installed."""
    return [*_canonical(), *_smaller(), _parity()]


def _canonical() -> Iterator[Row]:
    network = TokenTableTransformer(ModularArithmetic(113))
    given = initial(network, SEEDS), *train_pairs(network.task, 0.3, SEEDS)
    factorised, plain = flop_formulas(network)
    counted = {side: gigaflops(network, plain=side == "plain") for side in ("ours", "plain")}
    sides = {"ours": ensemble(network, *given, every=2), "plain": loop(network, *given)}
    with transformer_lens(network, *given) as lens:
        seconds = interleaved(sides | ({"lens": lens} if lens else {}), steps=2)
    what = f"{SEEDS} seeds of a transformer, p = 113"
    note = (
        f"{rates(seconds, 'plain')}; the FLOPs' ratio is {plain / factorised:.2f} by the formula of the factorised "
        f"network and {counted['plain'] / counted['ours']:.2f} as counted in both programs "
        f"({counted['plain']:.1f} and {counted['ours']:.2f} GFLOP a seed-step)"
    )
    yield faster(what, seconds["ours"], "all three positions, in a loop", seconds["plain"], 3.5, note)
    if lens:
        note = f"{rates(seconds, 'lens')}; equal logits before the first step"
        yield faster(what, seconds["ours"], "TransformerLens 3.9.0, in a loop", seconds["lens"], 4, note)


def _smaller() -> Iterator[Row]:
    task = ModularArithmetic(31)
    for name, network, peer, steps, target in (
        ("transformer", TokenTableTransformer(task, width=64, hidden=256), "all three positions, in a loop", 20, 4),
        ("quadratic MLP", QuadraticNetwork(task), "one-hot inputs, in a loop", 50, None),
    ):
        given = initial(network, SEEDS), *train_pairs(task, 0.5, SEEDS)
        seconds = interleaved({"ours": ensemble(network, *given, every=steps), "plain": loop(network, *given)}, steps)
        what = f"{SEEDS} seeds of a {name}, p = 31"
        yield faster(what, seconds["ours"], peer, seconds["plain"], target, rates(seconds, "plain"))


def _parity() -> Row:
    network, steps = ReluNetwork(40), 200
    samples = [SparseParity(40, 3).draw(1000, generator=torch.Generator().manual_seed(seed)) for seed in range(SEEDS)]
    x, y = (torch.stack(part) for part in zip(*samples, strict=True))  # (seeds, rows, bits), (seeds, rows)
    weights = initial(network, SEEDS)
    rule = {"optimizer": "sgd", "learning_rate": 0.1, "weight_decay": 0.01, "batch": 32}
    config = EnsembleConfig(steps=10**6, evaluate_every=steps, leave_at=None, **rule)
    trainer = EnsembleTrainer(network, weights, config, x, y, loss=hinge_each)
    modules = [network.module(take_member(weights, seed)) for seed in range(SEEDS)]
    optimizers = [torch.optim.SGD(module.parameters(), lr=0.1, weight_decay=0.01, fused=True) for module in modules]

    def update(module: nn.Module, bits: Tensor, labels: Tensor) -> Tensor:
        chosen = torch.randint(len(bits), (32,))
        return (1 - labels[chosen] * module(bits[chosen])).clamp(min=0).mean()

    plain = _timed(lambda steps: _train(modules, optimizers, x, y, update, steps))
    seconds = interleaved(
        {"ours": _timed(lambda steps: trainer.run(until=trainer.step + steps)), "plain": plain}, steps
    )
    what = f"{SEEDS} seeds of a ReLU network, parity (40, 3)"
    return faster(what, seconds["ours"], "the same in a loop", seconds["plain"], note=rates(seconds, "plain"))


def initial(network, seeds: int, device: str = "cpu") -> dict[str, Tensor]:
    """The weights of an ensemble before the first step."""
    weights = stack_members([network.initial(torch.Generator().manual_seed(seed)) for seed in range(seeds)])
    return {name: weight.to(device) for name, weight in weights.items()}


def train_pairs(task: ModularArithmetic, fraction: float, seeds: int, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """Pairs (seeds, rows, 2) and labels (seeds, rows), a split of its own for each seed."""
    drawn = [split_pairs(task, fraction, generator=torch.Generator().manual_seed(seed)).train for seed in range(seeds)]
    x, y = (torch.stack([part[train] for train in drawn]) for part in (task.pairs, task.labels))
    return x.to(device), y.to(device)


def ensemble(
    network, weights: dict[str, Tensor], x: Tensor, y: Tensor, every: int = 1, tf32: bool = False, penalties=()
) -> Side:
    """Our side: all seeds in one `EnsembleTrainer`, with an evaluation without measures after `every` steps."""
    config = EnsembleConfig(steps=10**6, learning_rate=1e-3, evaluate_every=every, leave_at=None, tf32=tf32, **ADAMW)
    trainer = EnsembleTrainer(network, weights, config, x, y, penalties=penalties)
    return _timed(lambda steps: trainer.run(until=trainer.step + steps))


def plain_loss(module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy."""
    return F.cross_entropy(module(x), y)


def loop(network, weights: dict[str, Tensor], x: Tensor, y: Tensor, loss: Callable = plain_loss) -> Side:
    """The plain side: one module a seed, in a Python loop."""
    modules = [network.module(take_member(weights, seed)) for seed in range(len(x))]
    trained = [[weight for weight in module.parameters() if weight.requires_grad] for module in modules]
    optimizers = [torch.optim.AdamW(each, lr=1e-3, fused=True, **ADAMW) for each in trained]
    return _timed(lambda steps: _train(modules, optimizers, x, y, loss, steps))


def _train(modules, optimizers, x: Tensor, y: Tensor, loss: Callable, steps: int) -> None:
    for _ in range(steps):
        for module, optimizer, inputs, labels in zip(modules, optimizers, x, y, strict=True):
            loss(module, inputs, labels).backward()
            optimizer.step()
            optimizer.zero_grad()


def _timed(work: Callable[[int], None]) -> Side:
    def side(steps: int) -> float:
        start = time.process_time()
        work(steps)
        return time.process_time() - start

    return side


def interleaved(sides: dict[str, Side], steps: int) -> dict[str, float]:
    """Median seconds of one step of all seeds, over runs in turns, after a warm-up."""
    for side in sides.values():
        side(steps)
    found = [[side(steps) / steps for side in sides.values()] for _ in range(RUNS)]
    return dict(zip(sides, map(statistics.median, zip(*found, strict=True)), strict=True))


def rates(seconds: dict[str, float], peer: str) -> str:
    """Both sides in seed-steps a second."""
    ours, theirs = (SEEDS / seconds[side] for side in ("ours", peer))
    return f"{ours:,.1f} against {theirs:,.1f} seed-steps a CPU second, medians of {RUNS} runs in turns"


def flop_formulas(network: TokenTableTransformer) -> tuple[int, int]:
    """Multiplications and additions a pair and pass, halved: of the factorised network, and of all three positions."""
    d, m, outputs = network.width, network.hidden, network.task.vocabulary
    return d * d + 2 * d * m + d * outputs, 3 * (4 * d * d + 2 * d * m + d * outputs)


def gigaflops(network: TokenTableTransformer, *, plain: bool, device: str = "cpu") -> float:
    """GFLOP of the matrix products in one seed-step, as torch counts them in the running program."""
    weights, (x, y) = initial(network, 1, device), train_pairs(network.task, 0.3, 1, device)
    module = network.module(take_member(weights, 0))
    weights = {name: weight.requires_grad_() for name, weight in weights.items()}
    in_place = {torch.ops.aten.baddbmm_: lambda _, a, b, **__: 2 * math.prod(a) * b[-1]}  # torch's table lacks it
    with FlopCounterMode(display=False, custom_mapping=in_place) as counter:
        output = module(x[0]) if plain else network(weights, x)[0]
        F.cross_entropy(output, y[0]).backward()
    return counter.get_total_flops() / 1e9


@contextmanager
def transformer_lens(
    network: TokenTableTransformer,
    weights: dict[str, Tensor],
    x: Tensor,
    y: Tensor,
    gamma: float = 0,
    keep: float = 1,
) -> Iterator[Side | None]:
    """The peer in its own process, which trains when it is told to; None where it is not installed.

    With gamma it also has the stability penalty, at twins whose operands are kept with probability `keep`.
    """
    interpreter = os.environ.get("NSLAB_TRANSFORMER_LENS")
    if not interpreter:
        print("  TransformerLens: not timed; name an interpreter that has it in NSLAB_TRANSFORMER_LENS")
        yield None
        return
    members = [take_member(weights, seed) for seed in range(len(x))]
    with tempfile.TemporaryDirectory() as folder:  # an empty one: nothing in it can shadow a module of the peer
        torch.save((network.heads, members, x, y, gamma, keep), Path(folder) / "given.pt")
        with subprocess.Popen(
            [interpreter, "-c", PEER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=folder,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        ) as process:
            ready = process.stdout.readline()
            assert ready == "ready\n", f"TransformerLens did not start: {ready!r}"
            gap = (network(weights, x) - torch.load(Path(folder) / "logits.pt")).abs().max()
            assert gap < 1e-3, f"the logits of the two models differ by {gap:.1e}"

            def side(steps: int) -> float:
                print(steps, file=process.stdin, flush=True)
                return float(process.stdout.readline())

            yield side  # leaving closes the peer's input, and with it the peer

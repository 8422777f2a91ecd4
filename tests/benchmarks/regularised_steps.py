"""What the stability penalty costs: a regularised step beside the plain one, and regularised ensembles beside loops.

The penalty is the paper's, gamma 0.75 and rho 0.25: of two operands both are kept, or drawn again as they were, in 39 %
of the rows at p = 113. Such a row is its own twin, and ours does not ask the network about it twice. Of 128 characters
some always change, so there the second pass is whole.

The loops beside ours have the same penalty, plainly written: a second pass over all rows. `grokking_ensembles` says
what they train, and how TransformerLens comes in.
"""

import time
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nslab.noise import paper_keep
from nslab.tasks import ModularArithmetic
from nslab.training import QuadraticNetwork, TextBatches, TokenTableTransformer, Trainer, TrainingConfig
from nslab.training.penalties import each_member, stability_regulariser
from nslab.transformer import CHAR_GPT, Transformer
from tests.benchmarks.grokking_ensembles import (
    RUNS,
    SEEDS,
    Side,
    ensemble,
    initial,
    interleaved,
    loop,
    rates,
    train_pairs,
    transformer_lens,
)
from tests.benchmarks.harness import Row, as_long, faster

GAMMA, RHO = 0.75, 0.25
BOTH, DETACHED = 2.05, 1.4  # how many times as long as a plain step a regularised one may take
BATCH = 8  # rows of 128 characters
THRESHOLD = 31 * 2**20  # bytes
TIMED = f"medians of {RUNS} runs in turns"


def rows() -> list[Row]:
    """Costs of a step for two ensembles and a language model; then three regularised ensembles beside loops."""
    torch.empty(THRESHOLD, dtype=torch.uint8)  # a block this large, freed, has glibc keep what smaller ones leave:
    # else each step may hand memory back and fault it in again, as chance and what ran before will have it
    return [*_steps_of_ensembles(), *_steps_of_a_language_model(), *_canonical(), *_smaller()]


def _steps_of_ensembles() -> Iterator[Row]:
    for name, network, fraction, steps in (
        ("a transformer, p = 113", TokenTableTransformer(ModularArithmetic(113)), 0.3, 2),
        ("a quadratic MLP, p = 31", QuadraticNetwork(ModularArithmetic(31)), 0.5, 50),
    ):
        given = initial(network, SEEDS), *train_pairs(network.task, fraction, SEEDS)
        sides = {"plain": ensemble(network, *given, every=steps)}
        for side, options in (("both", {}), ("detached", {"detach": "twin"})):
            sides[side] = ensemble(network, *given, every=steps, penalties=_penalties(network, **options))
        seconds = interleaved(sides, steps)
        spared = (paper_keep(RHO) + (1 - paper_keep(RHO)) / network.task.modulus) ** 2
        note = f"{TIMED}; {spared:.0%} of the rows are their own twins and are not passed again"
        yield from _costs(f"a regularised step, {SEEDS} seeds of {name}", seconds, note)


def _steps_of_a_language_model() -> Iterator[Row]:
    ids = torch.randint(CHAR_GPT.vocabulary, (1_000_000,), generator=torch.Generator().manual_seed(0))
    arms = {"plain": None, "both": {}, "detached": {"detach": "twin"}, "quarter": {"share": 0.25}}
    seconds = interleaved({name: _language_model(ids, options) for name, options in arms.items()}, steps=4)
    what = f"a regularised step of CHAR_GPT, {BATCH} x {CHAR_GPT.context} characters"
    yield from _costs(what, seconds, f"{TIMED}; almost every row has a twin that differs")


def _costs(what: str, seconds: dict[str, float], note: str) -> Iterator[Row]:
    for side, how, target in (
        ("both", "gradient through both answers", BOTH),
        ("detached", "the twin's answer detached", DETACHED),
        ("quarter", "both, on a quarter of the rows", None),
    ):
        if side in seconds:
            yield as_long(f"{what}: {how}", seconds[side], "without penalty", seconds["plain"], target, note)


def _canonical() -> Iterator[Row]:
    network = TokenTableTransformer(ModularArithmetic(113))
    given = initial(network, SEEDS), *train_pairs(network.task, 0.3, SEEDS)
    sides = _both_sides(network, given, steps=2)
    with transformer_lens(network, *given, gamma=GAMMA, keep=paper_keep(RHO)) as lens:
        seconds = interleaved(sides | ({"lens": lens} if lens else {}), steps=2)
    what = f"{SEEDS} seeds of a transformer with the penalty, p = 113"
    peer, note = "all three positions, in a loop", rates(seconds, "plain")
    yield faster(what, seconds["ours"], peer, seconds["plain"], 3.5, note)
    if lens:
        peer, note = "TransformerLens 3.9.0, in a loop", rates(seconds, "lens")
        yield faster(what, seconds["ours"], peer, seconds["lens"], 4, note)


def _smaller() -> Iterator[Row]:
    task = ModularArithmetic(31)
    for name, network, peer, steps, target in (
        ("transformer", TokenTableTransformer(task, width=64, hidden=256), "all three positions, in a loop", 20, 4),
        ("quadratic MLP", QuadraticNetwork(task), "one-hot inputs, in a loop", 50, None),
    ):
        given = initial(network, SEEDS), *train_pairs(task, 0.5, SEEDS)
        seconds = interleaved(_both_sides(network, given, steps), steps)
        what = f"{SEEDS} seeds of a {name} with the penalty, p = 31"
        yield faster(what, seconds["ours"], peer, seconds["plain"], target, rates(seconds, "plain"))


def _both_sides(network, given: tuple, steps: int) -> dict[str, Side]:
    """Ours, and modules in a loop with the penalty as one would write it."""

    def loss(module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        logits = module(x)
        twins = torch.where(torch.rand(x.shape) < paper_keep(RHO), x, torch.randint(network.task.modulus, x.shape))
        agreement = (logits.softmax(1) * module(twins).softmax(1)).sum(1).mean()
        return F.cross_entropy(logits, y) - GAMMA * agreement

    ours = ensemble(network, *given, every=steps, penalties=_penalties(network))
    return {"ours": ours, "plain": loop(network, *given, loss=loss)}


def _penalties(network, **options) -> list:
    gamma, penalty = stability_regulariser(GAMMA, RHO, network.task.modulus, **options)
    return [(gamma, each_member(penalty))]


def _language_model(ids: Tensor, options: dict | None) -> Side:
    penalties = [] if options is None else [stability_regulariser(GAMMA, RHO, CHAR_GPT.vocabulary, **options)]
    model = Transformer(CHAR_GPT, generator=torch.Generator().manual_seed(0))
    config = TrainingConfig(steps=10**6, batch=BATCH, learning_rate=1e-3)
    trainer = Trainer(model, config, TextBatches(ids, CHAR_GPT.context, BATCH), penalties=penalties)

    def side(steps: int) -> float:
        start = time.process_time()
        trainer.run(until=trainer.step + steps)
        return time.process_time() - start

    return side

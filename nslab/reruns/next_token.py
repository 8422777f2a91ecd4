"""Next-token prediction: does the stability regulariser save a tiny language model steps, and what else does it change?

The network is the paper's as far as one digest tells it: 4 layers, width 30, 6 heads, a vocabulary of 500, 1,000
training items. We read these as byte pairs and as sequences of 64 tokens; all else in the shape is ours. The arms of
one seed have the same initial weights and see the same batches; only the penalty differs. "plain-again" has no penalty
and other batches: its distance from "plain" is luck.

gamma and rho of the paper's language model are not known to us: ours, 0.75 and 0.25, are those that a digest gives for
modular addition. The learning rate is constant after the warm-up, since a schedule would have a say in when a threshold
is passed.

The text is Wikipedia's: 1,000 passages of a pinned package, whole passages of it held out. The paper has WikiText-2,
also Wikipedia, but good and featured articles only; `source="hub"` takes paragraphs of that, and needs a network once.
Those that are next to each other may be of one article.

When an arm "gets there" is told by the plain network of its seed: `reached` is the step at which the held-out loss has
made a fraction of the plain network's own way from its start to its best; `paired` turns two such lists into an
acceleration. Series are called `<arm>_<measure>`; `curves` reads them. On the way the measures look at a few held-out
windows, the same at each evaluation and in each arm, under the same noise; at the end at all of them.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from nslab.corpora import passages
from nslab.corpora.byte_pairs import learn_byte_pairs
from nslab.noise import Resample, paper_keep, unigram_law
from nslab.protocols import Penalty
from nslab.records import Record, RunLog
from nslab.reruns._next_token_measures import finite, position_stability, predictions, tails, windows
from nslab.reruns.char_gpt import table_loss
from nslab.training import Trainer, TrainingConfig
from nslab.training.acceleration import Acceleration, acceleration
from nslab.training.milestones import first_passage
from nslab.training.penalties import ConfidencePenalty, stability_regulariser
from nslab.transformer import Transformer, TransformerConfig

FRACTIONS = (0.5, 0.75, 0.9, 0.95, 0.99, 1.0)
TINY = TransformerConfig(vocabulary=500, context=64, width=30, layers=4, heads=6)

OTHER_BATCHES = 1000  # added to a seed: batches that no other network of the seed sees

# What each kind of arm adds to the loss, from gamma, rho and the vocabulary.
KINDS = {
    "plain": lambda gamma, rho, vocabulary: [],
    "plain-again": lambda gamma, rho, vocabulary: [],  # on other batches: what luck alone can do
    "paper": lambda gamma, rho, vocabulary: [stability_regulariser(gamma, rho, vocabulary)],
    "confidence": lambda gamma, rho, vocabulary: [(gamma, ConfidencePenalty())],  # keep = 1
    "detached": lambda gamma, rho, vocabulary: [stability_regulariser(gamma, rho, vocabulary, detach="twin")],
    "discourage": lambda gamma, rho, vocabulary: [stability_regulariser(gamma, rho, vocabulary, orientation=0)],
}


@dataclass(frozen=True)
class Config:
    """What is trained, on what, and what is looked at.

    Attributes:
        seeds: networks of each arm.
        model: the shape.
        training: the settings; their `seed` is replaced by 0 .. seeds - 1.
        arms: kinds of training, names in `KINDS`; "plain" is the first.
        gammas: weights of the penalty.
        rhos: the paper's rho of the noise; tokens are kept with probability (1 + rho)/2. Kinds are trained at each
            gamma and rho that they have, and called `paper-<gamma>-<rho>` where there are several.
        sequences: training sequences, each as long as the context.
        held_out: passages that are only evaluated on, the last ones.
        source: "package", or "hub" for WikiText-2.
        windows: held-out windows of an evaluation on the way.
        noisy: how many of them are disturbed, for stability.
        keep: probabilities that a token is kept, on the way.
        keep_at_end: the same for the trained networks.
        prompts: prompts of independent tokens for the tail bounds.
        twins: noisy twins of each, at each keep.
        pairs: (prompt, position) pairs for the total influence; 128 prompts of 64 positions have 8192.
        degree: the degree from which on spectral mass counts as tail.
        save_every: steps between two checkpoints.
    """

    seeds: int
    model: TransformerConfig
    training: TrainingConfig
    arms: tuple[str, ...] = ("plain", "paper", "confidence")
    gammas: tuple[float, ...] = (0.75,)
    rhos: tuple[float, ...] = (0.25,)
    sequences: int = 1000
    held_out: int = 100
    source: Literal["package", "hub"] = "package"
    windows: int = 128
    noisy: int = 16
    keep: tuple[float, ...] = (0.3, 0.5, 0.625, 0.8, 0.95)
    keep_at_end: tuple[float, ...] = (0.1, 0.3, 0.5, 0.625, 0.8, 0.9, 0.95, 0.98)
    prompts: int = 128
    twins: int = 2
    pairs: int = 8192
    degree: int = 15
    save_every: int = 250


PRESETS = {
    "quick": Config(
        seeds=2,
        model=TransformerConfig(vocabulary=320, context=32, width=24, layers=2, heads=4),
        training=TrainingConfig(
            steps=150, batch=16, learning_rate=1e-2, warmup=15, schedule="constant", evaluate_every=15
        ),
        sequences=500,
        held_out=30,
        windows=32,
        noisy=8,
        keep=(0.5, 0.9),
        keep_at_end=(0.5, 0.9),
        prompts=16,
        pairs=512,
        save_every=75,
    ),
    "laptop": Config(
        seeds=5,
        model=TINY,
        training=TrainingConfig(
            steps=900, batch=32, learning_rate=3e-3, warmup=50, schedule="constant", evaluate_every=25
        ),
        arms=("plain", "plain-again", "paper", "confidence"),
    ),
    "full": Config(
        seeds=5,
        model=TINY,
        training=TrainingConfig(
            steps=1200, batch=32, learning_rate=3e-3, warmup=50, schedule="constant", evaluate_every=25
        ),
        arms=("plain", "plain-again", "paper", "discourage", "confidence"),
        gammas=(0.05, 0.2, 0.75),
        rhos=(0.0, 0.25, 0.8),
    ),
}


class Arm(NamedTuple):
    """One way of training: a kind of `KINDS`, and the penalty's numbers where it has them."""

    kind: str
    gamma: float | None
    rho: float | None

    def penalties(self, vocabulary: int) -> list[tuple[float, Penalty]]:
        """The pairs that a trainer takes."""
        return KINDS[self.kind](self.gamma, self.rho, vocabulary)


class Text(NamedTuple):
    """Token ids: `train` (sequences * context + 1,), and the text of the passages held out (tokens,)."""

    train: Tensor
    held_out: Tensor


def run(config: Config, log: RunLog, *, device: torch.device) -> dict:
    """Train arm by arm, seed by seed; a kill loses a few evaluations of the network at work.

    Of each arm the result has lists over seeds: what `train` returns, and `milestones`.
    """
    trained, text = arms(config), texts(config)
    told = {}
    for name, arm in trained.items():

        def work(seed: int, log: RunLog, arm: Arm = arm) -> dict:
            return train(config, arm, text, seed, log, device)

        found = log.each_seed(config.seeds, work, name=name)
        told[name] = arm._asdict() | {key: [seed[key] for seed in found] for key in found[0]}
    history, vocabulary = log.arrays(), config.model.vocabulary
    for name in trained:
        told[name] |= milestones(history, name)
    tables = {name: table_loss(*text, vocabulary, order=order) for name, order in (("unigram", 0), ("bigram", 1))}
    return {
        "steps": config.training.steps,
        "fractions": list(FRACTIONS),
        "keep": list(config.keep),
        "keep_at_end": list(config.keep_at_end),
        "degree": config.degree,
        "arms": told,
        **{f"{name}_loss": loss for name, loss in tables.items()},
        "train_tokens": len(text.train) - 1,
        "held_out_tokens": len(text.held_out),
        "parameters": sum(weight.numel() for weight in Transformer(config.model).parameters()),
    }


def phenomenon(result: dict) -> str | None:
    """Every plain network predicts unseen passages better than the frequencies of tokens do."""
    worst = max(result["arms"]["plain"]["held_out_loss"])
    if worst < result["unigram_loss"]:
        return None
    return f"a held-out loss under the unigram law's {result['unigram_loss']:.3f}: a plain network has {worst:.3f}"


def arms(config: Config) -> dict[str, Arm]:
    """The arms by name.

    Errors: `ValueError` for an unknown kind, a gamma below 0, a rho outside [-1, 1], or plain training missing: it sets
    the thresholds.
    """
    if unknown := [kind for kind in config.arms if kind not in KINDS]:
        raise ValueError(f"arms has {unknown[0]!r}: choose from {', '.join(KINDS)}")
    if "plain" not in config.arms:
        raise ValueError(f"arms is {config.arms}: add 'plain', whose losses are the thresholds of all")
    if wrong := [gamma for gamma in config.gammas if not 0 <= gamma < math.inf]:
        raise ValueError(f"gammas has {wrong[0]}: give 0 or more; to punish stability there is the arm 'discourage'")
    for rho in config.rhos:
        paper_keep(rho)
    found = {}
    for kind in config.arms:
        gammas = (None,) if kind.startswith("plain") else config.gammas
        rhos = config.rhos if kind not in ("plain", "plain-again", "confidence") else (None,)
        for gamma in gammas:
            for rho in rhos:
                numbers = [f"{one:g}" for one, all_ in ((gamma, gammas), (rho, rhos)) if len(all_) > 1]
                found["-".join([kind, *numbers])] = Arm(kind, gamma, rho)
    return found


def texts(config: Config) -> Text:
    """The passages as ids. The byte pairs are learnt from all passages that are not held out.

    Errors: `ValueError` when there are too few passages or tokens; `corpora.NotFetched`; `corpora.HubFailed`.
    """
    found = passages("wikipedia", source=config.source)
    if not 0 < config.held_out < len(found):
        raise ValueError(f"held_out is {config.held_out} of {len(found)} passages: hold out some, and keep some")
    parts = found[: -config.held_out], found[-config.held_out :]
    encoding = learn_byte_pairs(parts[0], config.model.vocabulary)
    ids, unseen = (encoding.encode("\n\n".join(part)) for part in parts)
    wanted = config.sequences * config.model.context + 1
    if len(ids) < wanted:
        most = (len(ids) - 1) // config.model.context
        raise ValueError(f"sequences is {config.sequences}: the passages that are not held out give {most}")
    return Text(ids[:wanted], unseen)


def train(config: Config, arm: Arm, text: Text, seed: int, log: RunLog, device: torch.device) -> dict:
    """One network: its history in the log, and what it is in the end."""
    shape = config.model
    model = Transformer(shape, generator=torch.Generator().manual_seed(seed), device=device)
    seen, unseen = (windows(ids.to(device), shape.context) for ids in text)
    some = [part[_spread(len(part), config.windows)] for part in unseen]
    few = some[0][_spread(len(some[0]), config.noisy)]
    even = Resample(0, shape.vocabulary)  # the noise of the regulariser

    def batch(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        chosen = torch.randint(len(seen[0]), (config.training.batch,), generator=generator, device=device)
        return seen[0][chosen], seen[1][chosen]

    def measures(model: Transformer) -> dict:
        found = position_stability(model, few, even, config.keep)
        return predictions(model, *some)[0] | {name: one.value for name, one in found.items()}

    trainer = Trainer(
        model,
        replace(config.training, seed=seed + OTHER_BATCHES if arm.kind == "plain-again" else seed),
        batch,
        penalties=arm.penalties(shape.vocabulary),
        evaluate=measures,
        parallel=False,
    )
    if log.restored:
        trainer.load_state(log.restored)
    else:
        log.record(0, **measures(model.eval()))
    trainer.run(log=log, save=log.save, save_every=config.save_every, progress=log.progress)
    model.eval()
    told, bins = predictions(model, *unseen)
    stable = position_stability(model, unseen[0], even, config.keep_at_end)
    return told | {
        "perplexity": math.exp(told["held_out_loss"]),
        "bins": {name: finite(getattr(bins, name)) for name in ("confidence", "accuracy", "share")},
        **{name: {"value": one.value.tolist(), "stderr": one.stderr.tolist()} for name, one in stable.items()},
        "tails": tails(
            model,
            Resample(0, shape.vocabulary, law=unigram_law(text.train, shape.vocabulary)),
            config.keep_at_end,
            config.degree,
            prompts=config.prompts,
            twins=config.twins,
            pairs=config.pairs,
        ),
    }


def milestones(history: dict[str, np.ndarray], arm: str) -> dict:
    """Best held-out loss on the way and its step, and the step at which each fraction was reached, all (seeds,)."""
    steps, losses = history[f"{arm}_held_out_loss_step"], history[f"{arm}_held_out_loss"]
    plain = history["plain_held_out_loss"]
    start, best = plain[0], plain.min(0)
    levels = {str(fraction): best + (1 - fraction) * (start - best) for fraction in FRACTIONS}
    return {
        "best_held_out_loss": losses.min(0).tolist(),
        "best_at": steps[losses.argmin(0)].tolist(),
        "reached": {
            key: finite(first_passage(steps, losses, level, rising=False, interpolate=True))
            for key, level in levels.items()
        },
    }


def paired(record: Record | dict, arm: str, fraction: float | int = 1.0) -> Acceleration:
    """Steps of plain training over steps of an arm, to a fraction of the plain network's fall in held-out loss.

    Args:
        record: a record of this experiment, or its result.
        arm: a name in the result's "arms".
        fraction: one of its "fractions"; 1 is the plain network's best.

    How to read it: the best of a curve that shakes is a lucky evaluation: a second plain network may never see it.
    Fractions below 1 do not have this flaw to that extent.

    Errors: `ValueError` for an arm or a fraction that the record has not.
    """
    result = record if isinstance(record, dict) else record.result
    for name, one, known in (("arm", arm, list(result["arms"])), ("fraction", fraction, result["fractions"])):
        if one not in known:
            raise ValueError(f"{name} is {one!r}: the record has {', '.join(map(str, known))}")
    reached = (
        [math.nan if step is None else step for step in result["arms"][one]["reached"][str(float(fraction))]]
        for one in ("plain", arm)
    )
    return acceleration(*reached, plain_last=result["steps"], changed_last=result["steps"])


def curves(record: Record, arm: str, measure: str) -> tuple[np.ndarray, np.ndarray]:
    """One measure of one arm: steps (records,) and values (records, seeds) or (records, seeds, keep).

    The measures: "held_out_loss", "confidence", "accuracy", "calibration_error", "stability", "normalised_stability"
    and "twin_energy" from step 0 on; "loss", "gradient_norm" and "penalty_0", means since the last evaluation, later.

    Errors: `KeyError` naming the series there are.
    """
    return record.series(f"{arm}_{measure}")


def _spread(rows: int, count: int) -> Tensor:
    """The numbers of so many rows, evenly spread; all of them if there are fewer."""
    return torch.linspace(0, rows - 1, min(count, rows)).round().long()

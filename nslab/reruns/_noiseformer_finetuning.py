"""Pre-train small networks arm by arm, fine-tune each on tasks of classification, and keep every answer.

The arms of one seed are pre-trained from the same initial weights, as far as they have weights in common, on the same
batches of the same text, so on equally many tokens. All have the same width. That is how the paper compares, and it
means that the symmetric networks have fewer parameters. Then each network is fine-tuned on each task from its own
pre-trained weights, with the same head at the start and the same batches: its noise is drawn in training, as in
pre-training, and takes its mean in the evaluation. "standard-again" is "standard" on other batches, before and after,
from the same initial weights and the same examples: what luck alone can do at least. "untrained" is "standard" without
pre-training: what pre-training is good for.

A record keeps for each task, arm and seed which held-out answers were right, one bit each: `_noiseformer_answers` reads
and compares them.
"""

import copy
import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nslab.corpora.byte_pairs import BytePairs, learn_byte_pairs
from nslab.corpora.labelled import Labelled
from nslab.protocols import Penalty
from nslab.records import RunLog
from nslab.reruns._noiseformer_arms import ARMS, STANDARD, Arm
from nslab.reruns.noiseformer_pretrain import DOCUMENTS
from nslab.training import TextBatches, Trainer, TrainingConfig, cross_entropy, text_loss
from nslab.training.classification import EpochBatches, Examples, LastTokenClassifier, encoded, logits
from nslab.training.comparisons import Statistic, majority, packed, scores
from nslab.transformer import Transformer, TransformerConfig
from nslab.transformer.accounting import parameter_count

END = "\0"  # a byte that is in no text: after every text to be classified, and new to the pre-trained networks
UNTRAINED = "untrained"
OTHER_BATCHES = 1000  # added to the seed of "standard-again"
HEAD = 2000  # added to a seed: what the head is drawn from, for the network has drawn from the seed itself
CURVE = 5  # losses on the way, of each fine-tuning


@dataclass(frozen=True)
class FineTuning:
    """How a pre-trained network is trained on a task: AdamW, a linear warm-up, a linear descent to 0.

    Attributes:
        epochs: how often each training example is seen.
        batch: examples of a step.
        learning_rate: the peak.
        weight_decay: as of `TrainingConfig`.
        warmup: the share of the steps in which the learning rate climbs.
        examples: at most so many training examples of a task, the same for all; None for all there are.
    """

    epochs: int = 3
    batch: int = 32
    learning_rate: float | int = 1e-3
    weight_decay: float | int = 0.01
    warmup: float | int = 0.1
    examples: int | None = None


@dataclass(frozen=True)
class Config:
    """What is pre-trained, on what, and what on it is fine-tuned.

    Attributes:
        seeds: networks of each arm.
        tasks: names; what there is, the experiment says.
        model: the shape of all; its vocabulary is that of the byte pairs, its context the length of a window of text
            and of the longest example.
        pretraining: the settings; their `seed` is replaced by that of the network.
        fine_tuning: the settings.
        arms: names of `arms_of`, "standard" among them.
        beta: weight of the KL of learned noise, in pre-training and in fine-tuning.
        text: what is pre-trained on: "wikipedia", "openwebtext", "brown" and "plays", some of them.
        held_out: every so many-th document of each is only evaluated on.
        save_every: steps between two checkpoints.
    """

    seeds: int
    tasks: tuple[str, ...]
    model: TransformerConfig
    pretraining: TrainingConfig
    fine_tuning: FineTuning
    arms: tuple[str, ...] = ("standard", "standard-again", "symmetric", "v1-relative", "v2-relative", UNTRAINED)
    beta: float | int = 1e-3
    text: tuple[str, ...] = ("wikipedia", "openwebtext")
    held_out: int = 20
    save_every: int = 100


@dataclass(frozen=True)
class Task:
    """Labelled texts, in two parts, as the source splits them.

    Attributes:
        train: what is trained on.
        held_out: what is asked.
        classes: the labels, in the order of their numbers.
        says: which split this is.
        statistic: what the task is usually judged by.
    """

    train: Sequence[Labelled]
    held_out: Sequence[Labelled]
    classes: tuple[int | str, ...]
    says: str
    statistic: Statistic = "accuracy"


@dataclass(frozen=True, eq=False)
class Text:
    """Running text as ids, `train` and `held_out` (tokens,), and their encoding."""

    encoding: BytePairs
    train: Tensor
    held_out: Tensor


def checked_tasks(asked: Sequence[str], known: Sequence[str]) -> None:
    """Refuse an unknown task, with those there are, or none at all. Errors: `ValueError`."""
    if unknown := [name for name in asked if name not in known] or ([] if asked else [""]):
        raise ValueError(f"tasks has {unknown[0]!r}: there are {', '.join(known)}")


def run_arms(config: Config, tasks: dict[str, Task], log: RunLog, device: torch.device) -> dict:
    """Arm by arm and seed by seed; a kill loses a few steps of the network at work.

    Returns the result of an experiment: of each task its sizes, the count of the majority and the labels that were
    asked; of each arm, lists over seeds of what `one_network` returns.
    """
    arms = arms_of(config.arms)
    text = running_text(config)
    sides = {name: examples_of(config, task, text, device) for name, task in tasks.items()}
    told, standard = {}, parameter_count(config.model)
    for name, arm in arms.items():

        def work(seed: int, log: RunLog, name: str = name, arm: Arm = arm) -> dict:
            return one_network(config, arm, name != UNTRAINED, text, sides, seed, log, device)

        found = log.each_seed(config.seeds, work, name=name)
        parameters = parameter_count(arm.shape(config.model), arm.scores)
        told[name] = {
            "says": arm.says,
            "parameters": parameters,
            "fewer_parameters": standard - parameters,
            "pretraining_loss": [one["pretraining_loss"] for one in found],
            "tasks": {task: {key: [one[task][key] for one in found] for key in found[0][task]} for task in tasks},
        }
    return {
        "arms": told,
        "tasks": {name: described(tasks[name], *sides[name]) for name in tasks},
        "pretraining_tokens": config.pretraining.steps * config.pretraining.batch * config.model.context,
        "text_tokens": len(text.train),
        "beta": config.beta,
    }


def one_network(
    config: Config,
    arm: Arm,
    pretrained: bool,
    text: Text,
    sides: dict[str, tuple[Examples, Examples]],
    seed: int,
    log: RunLog,
    device: torch.device,
) -> dict:
    """Pre-train one network, or not, and fine-tune copies of it: its held-out loss, and `asked` of each task."""
    body = arm.network(config.model, seed, device)
    batches = seed + OTHER_BATCHES * arm.other_batches
    state = log.restored or {"found": {}, "base": None, "trainer": None}

    def train(trainer: Trainer, name: str) -> None:
        if state["trainer"] is not None:
            trainer.load_state(state["trainer"])
        trainer.run(
            log=Series(log, name),
            save=lambda now: log.save(state | {"trainer": now}),
            save_every=config.save_every,
            progress=lambda step, steps, words: log.progress(step, steps, f"{name}, {words}"),
        )

    def done(**found: dict | float) -> None:
        state["found"] |= found
        state["trainer"] = None
        log.save(state)

    if pretrained and state["base"] is None:
        train(
            Trainer(
                body,
                dataclasses.replace(config.pretraining, seed=batches),
                TextBatches(text.train.to(device), config.model.context, config.pretraining.batch),
                penalties=arm.penalties(config.beta),
                parallel=False,
            ),
            "pretraining",
        )
        state["base"] = copy.deepcopy(body.state_dict())
    elif state["base"] is not None:
        body.load_state_dict(state["base"])
    if "pretraining_loss" not in state["found"]:
        with torch.no_grad():
            done(pretraining_loss=text_loss(body.eval(), text.held_out.to(device), config.model.context))
    for name, (trained_on, held_out) in sides.items():
        if name not in state["found"]:
            model = fine_tuned(config, arm, body, trained_on, batches, seed, lambda one, name=name: train(one, name))
            done(**{name: asked(model.eval(), held_out)})
    return state["found"]


def arms_of(names: Sequence[str]) -> dict[str, Arm]:
    """The arms by name, all of one width. Errors: `ValueError` for an unknown arm, or without "standard"."""
    known = {name: dataclasses.replace(arm, equal=False) for name, arm in ARMS.items() if arm.equal} | {
        UNTRAINED: Arm("standard, not pre-trained", STANDARD)
    }
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"arms has {unknown[0]!r}: choose from {', '.join(known)}")
    if STANDARD not in names:
        raise ValueError(f"arms is {', '.join(names) or 'empty'}: add {STANDARD}, which all others are held against")
    return {name: known[name] for name in names}


def fine_tuned(
    config: Config,
    arm: Arm,
    body: Transformer,
    examples: Examples,
    batches: int,
    seed: int,
    train: Callable[[Trainer], None],
) -> LastTokenClassifier:
    """A copy of the network with a head, trained: `batches` fixes the order of the examples, `seed` the head."""
    settings, device = config.fine_tuning, body.tokens.weight.device
    generator = torch.Generator().manual_seed(HEAD + seed)
    model = LastTokenClassifier(copy.deepcopy(body).cpu(), examples.classes, generator).to(device)
    data = EpochBatches(examples, settings.batch, settings.epochs, batches)
    training = TrainingConfig(
        steps=data.steps,
        batch=settings.batch,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        warmup=round(settings.warmup * data.steps),
        schedule="linear",
        floor=0,
        evaluate_every=max(1, data.steps // CURVE),
        seed=batches,
    )
    kl = [(weight, OnBody(penalty)) for weight, penalty in arm.penalties(config.beta)]
    trainer = Trainer(model, training, lambda _: data(trainer.step), penalties=kl, parallel=False)
    train(trainer)
    return model


def asked(model: LastTokenClassifier, examples: Examples) -> dict:
    """The answers to held-out examples, learned noise at its mean.

    "right" of them, the cross-entropy "loss", how often each class was answered ("answers"), "correct", `packed`, and
    of two classes "matthews" and "f1".
    """
    found = logits(model, examples)
    guesses = found.argmax(1)
    correct = (guesses == examples.labels).cpu().numpy()
    told = {
        "right": int(correct.sum()),
        "loss": float(cross_entropy(found, examples.labels)),
        "answers": guesses.bincount(minlength=examples.classes).tolist(),
        "correct": packed(correct),
    }
    if examples.classes == 2:
        truth = examples.labels.cpu().numpy()
        told |= {name: float(scores(correct[None], truth, statistic=name)[0]) for name in ("matthews", "f1")}
    return told


@dataclass(frozen=True)
class OnBody:
    """A penalty on the network inside a classifier."""

    penalty: Penalty

    def __call__(self, model: LastTokenClassifier, x: Tensor, output: Tensor, /, *, generator=None) -> Tensor:
        """The penalty of `model.body`."""
        return self.penalty(model.body, x, output, generator=generator)


@dataclass(frozen=True)
class Series:
    """A recorder that keeps the loss alone, as `<name>_loss`."""

    log: RunLog
    name: str

    def record(self, step: int, /, **values: float | Tensor) -> None:
        """Keep the loss of a step."""
        self.log.record(step, **{f"{self.name}_loss": values["loss"]})


def running_text(config: Config) -> Text:
    """The documents as byte pairs, a blank line between two; the pairs are learnt from those that are trained on.

    Errors: `ValueError` for an unknown text; `corpora.NotFetched`.
    """
    if unknown := [name for name in config.text if name not in DOCUMENTS]:
        raise ValueError(f"text has {unknown[0]!r}: there are {', '.join(DOCUMENTS)}")
    parts = [], []
    for name in config.text:
        for number, document in enumerate(DOCUMENTS[name](), start=1):
            parts[number % config.held_out == 0].append(document)
    encoding = learn_byte_pairs(parts[0], config.model.vocabulary)
    train, held_out = (encoding.encode("\n\n".join(part)) for part in parts)
    return Text(encoding, train, held_out)


def examples_of(config: Config, task: Task, text: Text, device: torch.device) -> tuple[Examples, Examples]:
    """Both parts of a task; of the first at most `config.fine_tuning.examples`, drawn once for all.

    What is asked word for word is taken out of the first part.
    """
    unseen = {(one.text, one.text2) for one in task.held_out}
    allowed = [one for one in task.train if (one.text, one.text2) not in unseen]
    draw = torch.randperm(len(allowed), generator=torch.Generator().manual_seed(0))
    chosen = [allowed[k] for k in draw[: config.fine_tuning.examples].sort().values.tolist()]
    [end] = text.encoding.encode(END).tolist()
    told = {"classes": task.classes, "context": config.model.context, "separator": end}
    train, held_out = (encoded(part, text.encoding.encode, **told).to(device) for part in (chosen, task.held_out))
    return train, held_out


def described(task: Task, train: Examples, held_out: Examples) -> dict:
    """Sizes, the line to beat, the labels that were asked, a digit each, and a hash of all examples."""
    labels = held_out.labels.cpu().numpy()
    return {
        "says": task.says,
        "statistic": task.statistic,
        "classes": list(task.classes),
        "train": len(train),
        "held_out": len(labels),
        "majority": majority(labels)[1],
        "majority_of_training": int((labels == majority(train.labels.cpu().numpy())[0]).sum()),
        "cut": [train.cut, held_out.cut],
        "empty": [train.empty, held_out.empty],
        "labels": "".join(map(str, labels)),
        "sha256": hashlib.sha256(b"".join(part.ids.cpu().numpy().tobytes() for part in (train, held_out))).hexdigest(),
    }

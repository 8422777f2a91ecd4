"""Symmetric attention and learned noise on tasks of GLUE: counts, majority lines and error bars beside the digits.

The paper's table has one run of each network on seven tasks, on their development sets. Here every arm has several
seeds, and the result says for each task how many examples were asked and what the most frequent answer alone would
reach. See `nslab.reruns._noiseformer_finetuning` for what the arms share.

`quick` and `laptop` read the JSON lines of $NSLAB_GLUE (CoLA, SST-2, MRPC, RTE); a folder may hold other rows than the
hub, so the counts are in the result. `full` takes the paper's seven tasks from the hub, with a larger network; it is
not the paper's, which has GPT-2's shape and a pre-training that is not known. Trained on "train", asked on "validation"
(MNLI: matched). Settings were tried on the last rows of the training sets; none of `laptop` or `full` was chosen by the
answers to "validation". "stsb" has scores in place of classes, and is refused.

Source: Wang et al. (2019) for the tasks; which statistic is usual is theirs.
"""

from dataclasses import dataclass
from typing import Literal

import torch

from nslab import corpora
from nslab.records import RunLog
from nslab.reruns import _noiseformer_finetuning as finetuning
from nslab.reruns._noiseformer_answers import answers, beats_majority, compared, each_score, labels, mcnemars
from nslab.reruns._noiseformer_finetuning import FineTuning, Task, checked_tasks, run_arms
from nslab.training import TrainingConfig
from nslab.transformer import TransformerConfig

__all__ = ["answers", "compared", "each_score", "labels", "mcnemars"]  # what chapters ask the record

PAPER = ("mrpc", "cola", "mnli", "qqp", "rte", "qnli", "sst2")
CLASSES = [name for name, task in corpora.GLUE.items() if task.labels]
STATISTICS = {"cola": "matthews", "mrpc": "f1", "qqp": "f1"}  # all others: accuracy


@dataclass(frozen=True)
class Config(finetuning.Config):
    """As `_noiseformer_finetuning.Config`.

    Attributes:
        source: "folder" for $NSLAB_GLUE, or "hub".
    """

    source: Literal["folder", "hub"] = "folder"


PRESETS = {
    "quick": Config(
        seeds=2,
        tasks=("sst2",),
        model=TransformerConfig(vocabulary=512, context=64, width=32, layers=1, heads=4),
        pretraining=TrainingConfig(steps=60, batch=16, learning_rate=5e-3, warmup=10, evaluate_every=30),
        fine_tuning=FineTuning(epochs=2, learning_rate=3e-3, examples=2500),
        arms=("standard", "v2-relative"),
        text=("wikipedia",),
    ),
    "laptop": Config(
        seeds=5,
        tasks=("cola", "sst2", "mrpc", "rte"),
        model=TransformerConfig(vocabulary=1024, context=128, width=64, layers=2, heads=4),
        pretraining=TrainingConfig(steps=250, batch=12, learning_rate=3e-3, warmup=30, evaluate_every=50),
        fine_tuning=FineTuning(epochs=2, learning_rate=2e-3, examples=2500),
    ),
    "full": Config(
        seeds=5,
        tasks=PAPER,
        model=TransformerConfig(vocabulary=8000, context=256, width=320, layers=6, heads=5),
        pretraining=TrainingConfig(
            steps=3000, batch=32, learning_rate=1e-3, warmup=200, evaluate_every=100, autocast="bfloat16"
        ),
        fine_tuning=FineTuning(epochs=3, learning_rate=1e-4),
        text=("wikipedia", "openwebtext", "brown", "plays"),
        source="hub",
    ),
}


def run(config: Config, log: RunLog, *, device: torch.device) -> dict:
    """Pre-train, fine-tune, ask: see `run_arms`.

    Errors: `ValueError` for an unknown task or arm, or a task of scores; as `corpora.glue` for the data.
    """
    if scores := [name for name in config.tasks if name in corpora.GLUE and name not in CLASSES]:
        raise ValueError(
            f"tasks has {scores[0]!r}, whose labels are scores from 0 to 5 and no classes: a classifier cannot learn "
            f"them; choose from {', '.join(CLASSES)}"
        )
    checked_tasks(config.tasks, CLASSES)
    return run_arms(config, {name: glue_task(name, config.source) for name in config.tasks}, log, device)


phenomenon = beats_majority


def glue_task(name: str, source: str) -> Task:
    """One task: trained on "train", asked on "validation", where the labels are public."""
    held_out = "validation_matched" if name == "mnli" else "validation"
    train, asked = (corpora.glue(name, part, source=source) for part in ("train", held_out))
    classes = tuple(range(len(corpora.GLUE[name].labels)))
    return Task(train, asked, classes, f"{source}: train, {held_out}", STATISTICS.get(name, "accuracy"))

"""Symmetric attention and learned noise after fine-tuning: film reviews and sarcastic headlines, five seeds an arm.

The shape of the paper's comparison, small: networks of one width, pre-trained arm by arm on the same batches of the
same text, then fine-tuned on each task. See `nslab.reruns._noiseformer_finetuning` for what the arms share. The paper
has one run of each, on GLUE; its recipe is unknown to us. Pre-training is short here: about one pass of a short text.

The tasks:

- "reviews": is a sentence of a film review from a fresh or a rotten one? Trained on the films of the split "train",
  asked on those of "test"; no film is on both sides (`corpora.film_split`). Plots are left out.
- "sarcasm": is a headline from the satirical paper? Split by a hash of the headline: a tenth is asked, a tenth is put
  aside, the rest is trained on. Equal headlines are one.

The parts put aside ("validation") are what settings were tried on; no setting of `laptop` or `full` was chosen by the
answers to the parts asked.

Source: the arms follow `nslab.attention.settings.VARIANTS`, our reading of arXiv 2601.11619; tasks and sizes are ours.
"""

import hashlib

import torch

from nslab import corpora
from nslab.records import RunLog
from nslab.reruns._noiseformer_answers import answers, beats_majority, compared, each_score, labels, mcnemars
from nslab.reruns._noiseformer_finetuning import Config, FineTuning, Task, checked_tasks, run_arms
from nslab.training import TrainingConfig
from nslab.transformer import TransformerConfig

__all__ = ["answers", "compared", "each_score", "labels", "mcnemars"]  # what chapters ask the record

SMALL = TransformerConfig(vocabulary=1024, context=96, width=64, layers=2, heads=4)
PRESETS = {
    "quick": Config(
        seeds=2,
        tasks=("sarcasm",),
        model=TransformerConfig(vocabulary=512, context=64, width=32, layers=1, heads=4),
        pretraining=TrainingConfig(steps=60, batch=16, learning_rate=5e-3, warmup=10, evaluate_every=30),
        fine_tuning=FineTuning(epochs=2, learning_rate=3e-3, examples=2000),
        arms=("standard", "v2-relative"),
        text=("wikipedia",),
    ),
    "laptop": Config(
        seeds=5,
        tasks=("reviews", "sarcasm"),
        model=SMALL,
        pretraining=TrainingConfig(steps=300, batch=16, learning_rate=3e-3, warmup=30, evaluate_every=50),
        fine_tuning=FineTuning(epochs=2, learning_rate=2e-3, examples=4000),
    ),
    "full": Config(
        seeds=5,
        tasks=("reviews", "sarcasm"),
        model=TransformerConfig(vocabulary=8000, context=256, width=320, layers=6, heads=5),
        pretraining=TrainingConfig(
            steps=3000, batch=32, learning_rate=1e-3, warmup=200, evaluate_every=100, autocast="bfloat16"
        ),
        fine_tuning=FineTuning(epochs=3, learning_rate=1e-4),
        text=("wikipedia", "openwebtext", "brown", "plays"),
    ),
}


def run(config: Config, log: RunLog, *, device: torch.device) -> dict:
    """Pre-train, fine-tune, ask: see `run_arms`. Errors: `ValueError` for an unknown task or arm."""
    checked_tasks(config.tasks, list(TASKS))
    return run_arms(config, {name: TASKS[name]() for name in config.tasks}, log, device)


phenomenon = beats_majority


def review_task(held_out: str = "test") -> Task:
    """Fresh against rotten, split by film; `held_out` is the part that is asked."""
    train, asked = ([one for one in corpora.reviews(part) if one.label != "plot"] for part in ("train", held_out))
    return Task(train, asked, ("rotten", "fresh"), f"by film: train, {held_out}")


def sarcasm_task(held_out: str = "test") -> Task:
    """Satirical against other headlines, split by a hash of the headline."""
    parts = {"train": [], "validation": [], "test": []}
    for one in corpora.sarcasm():
        tenth = hashlib.sha256(one.text.encode("utf-8")).digest()[0] * 10 // 256
        parts["test" if tenth == 0 else "validation" if tenth == 1 else "train"].append(one)
    return Task(parts["train"], parts[held_out], (0, 1), f"by a hash of the headline: train, {held_out}")


TASKS = {"reviews": review_task, "sarcasm": sarcasm_task}

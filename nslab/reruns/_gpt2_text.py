"""Text in GPT-2's byte pairs: the packages' passages, or a whole OpenWebText that was prepared for nanoGPT."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from nslab.corpora import gpt2_bpe, passages

END = 50256  # <|endoftext|>, after every document
FOLDER = "NSLAB_OPENWEBTEXT"


class Tokens(NamedTuple):
    """Two texts as ids, one row of 16-bit numbers each."""

    train: np.ndarray
    held_out: np.ndarray


def tokens(source: str, held_out: int = 10) -> Tokens:
    """The text as ids.

    Args:
        source: "package": passages of Wikipedia and OpenWebText, every `held_out`-th of each held out. "openwebtext":
            the files train.bin and val.bin of the folder that $NSLAB_OPENWEBTEXT names, as the script
            data/openwebtext/prepare.py of nanoGPT writes them: 9 billion ids, little-endian and 16 bits each. They are
            mapped, not read.
        held_out: for the package.

    Errors: `ValueError` for an unknown source; `FileNotFoundError` for a folder that is not named or lacks a file;
    `corpora.NotFetched`.
    """
    if source == "package":
        texts = [text for name in ("wikipedia", "openwebtext") for text in enumerate(passages(name), start=1)]
        kept = [text for number, text in texts if number % held_out]
        return Tokens(encoded(kept), encoded([text for number, text in texts if number % held_out == 0]))
    if source != "openwebtext":
        raise ValueError(f"source is {source!r}: use 'package' or 'openwebtext'")
    folder = os.environ.get(FOLDER)
    if not folder:
        raise FileNotFoundError(
            f"${FOLDER} is not set: let it name the folder with the train.bin and val.bin that nanoGPT's "
            "data/openwebtext/prepare.py writes, or set text=package"
        )
    files = [Path(folder) / name for name in ("train.bin", "val.bin")]
    if absent := [path for path in files if not path.is_file()]:
        raise FileNotFoundError(f"{absent[0]} is not there: nanoGPT's data/openwebtext/prepare.py writes it")
    return Tokens(*(np.memmap(path, dtype="<u2", mode="r") for path in files))


def encoded(texts: Sequence[str]) -> np.ndarray:
    """Texts as one row of GPT-2's ids, with <|endoftext|> after each.

    Errors: `ImportError` without the package `tokenizers`; `corpora.NotFetched`.
    """
    try:
        from tokenizers import Tokenizer, models, pre_tokenizers
    except ImportError:
        raise ImportError('GPT-2\'s byte pairs need the package tokenizers: pip install "nslab[models]"') from None
    files = gpt2_bpe()
    merges = files["vocab.bpe"].decode("utf-8").strip("\n").split("\n")[1:]  # the first line is a version
    pairs = [tuple(line.split(" ")) for line in merges]
    tokenizer = Tokenizer(models.BPE(vocab=json.loads(files["encoder.json"]), merges=pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    found = [[*one.ids, END] for one in tokenizer.encode_batch(list(texts))]
    return np.array([number for one in found for number in one], dtype="<u2")


class ArrayBatches:
    """Random windows of a long row of ids that stays where it is, with the tokens that follow.

    As `nslab.training.TextBatches`, for ids in a numpy array, which may be a file mapped into memory.

    Args:
        ids: the text (tokens,).
        context: length of a window.
        batch: windows a batch.
        device: of the batches.

    Errors: `ValueError` for a text that is not longer than the context.
    """

    def __init__(self, ids: np.ndarray, context: int, batch: int, device: torch.device | str = "cpu"):
        if len(ids) <= context:
            raise ValueError(f"ids has {len(ids)} tokens and the context is {context}: give a longer text")
        self.ids, self.context, self.batch, self.device = ids, context, batch, device

    def __call__(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Inputs and targets, both (batch, context), int64."""
        count = len(self.ids) - self.context
        starts = torch.randint(count, (self.batch,), generator=generator, device=generator.device).tolist()
        rows = np.stack([self.ids[start : start + self.context + 1] for start in starts])
        window = torch.from_numpy(rows.astype(np.int64)).to(self.device)  # (batch, context + 1)
        return window[:, :-1], window[:, 1:]


def spread_windows(ids: np.ndarray, context: int, count: int, device: torch.device | str) -> tuple[Tensor, Tensor]:
    """So many windows of a text, evenly spread, and the tokens after each of theirs, both (count, context)."""
    starts = np.linspace(0, len(ids) - context - 1, count).round().astype(int)
    rows = np.stack([ids[start : start + context + 1] for start in starts])
    window = torch.from_numpy(rows.astype(np.int64)).to(device)
    return window[:, :-1], window[:, 1:]

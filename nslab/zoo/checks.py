"""What every model of the zoo refuses: ids, positions and texts that it cannot take."""

import torch
from torch import Tensor


class CannotLoad(RuntimeError):
    """A model that is not there, not allowed, or of a kind the zoo does not read. The message names the remedy."""


def as_rows(ids: object) -> Tensor:
    """Ids as (rows, length): one sequence is a row. Refused unless a tensor."""
    if not isinstance(ids, Tensor):
        remedy = "encode it first, model.encode(text)" if isinstance(ids, str) else "give torch.tensor(ids)"
        raise ValueError(f"ids is {ids!r:.40}, of type {type(ids).__name__}: {remedy}")
    return ids[None] if ids.ndim == 1 else ids


def check_ids(ids: Tensor, vocabulary: int, context: int) -> None:
    """Refuse ids unless they are whole numbers of the vocabulary, (batch, length), no longer than the context."""
    as_rows(ids)
    if ids.ndim == 3 and ids.is_floating_point():
        raise ValueError(
            f"ids has shape {tuple(ids.shape)} and dtype {ids.dtype}, as embeddings have: enter them by "
            "model.from_embeddings, or measure a score, zoo.top_token_score(model, ids)"
        )
    if ids.ndim != 2:
        raise ValueError(f"ids has shape {tuple(ids.shape)}: give (batch, length); for one sequence, ids[None]")
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise ValueError(f"ids has dtype {ids.dtype}: token ids are integers, use ids.long()")
    if not len(ids):
        raise ValueError("ids holds no sequence: give at least one row")
    check_length(ids.shape[1], context, "ids")
    low, high = (int(end) for end in ids.aminmax())
    if low < 0 or high >= vocabulary:
        raise ValueError(
            f"ids has token id {low if low < 0 else high}: ids run from 0 to {vocabulary - 1}; encode the text with "
            "this model's own encode(text)"
        )


def check_embeddings(embeddings: Tensor, width: int | None, context: int) -> None:
    """Refuse embeddings unless they are floating point, (batch, length, width), no longer than the context."""
    if embeddings.ndim != 3 or (width is not None and embeddings.shape[-1] != width):
        raise ValueError(
            f"embeddings has shape {tuple(embeddings.shape)}: give (batch, length, {width or 'width'}), as from "
            "embed(ids)"
        )
    if not embeddings.is_floating_point():
        raise ValueError(f"embeddings has dtype {embeddings.dtype}: give what embed(ids) returns")
    check_length(embeddings.shape[1], context, "embeddings")


def check_length(length: int, context: int, name: str) -> None:
    """Refuse an empty sequence, and one longer than the context."""
    if length == 0:
        raise ValueError(f"{name} holds an empty sequence: give at least one token")
    if length > context:
        raise ValueError(
            f"{name} has {length} positions and the context is {context}: cut the sequence, for example "
            f"encode(text, truncate={context})"
        )


def check_positions(at: Tensor, rows: int, length: int) -> None:
    """Refuse positions unless they are one whole number a row, 0 .. length - 1."""
    if at.shape != (rows,) or at.dtype not in (torch.int64, torch.int32):
        raise ValueError(
            f"at has shape {tuple(at.shape)} and dtype {at.dtype}: give one whole number a row, shape ({rows},)"
        )
    if bool(((at < 0) | (at >= length)).any()):
        raise ValueError(f"at is {at.tolist()}: positions run from 0 to {length - 1}")


def as_text(text: str | bytes) -> str:
    """The text, refused where it is empty or not UTF-8."""
    try:
        found = text.decode("utf-8") if isinstance(text, bytes) else text
        found.encode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"text is not UTF-8: byte 0x{error.object[error.start]:02x} at offset {error.start}; decode it with its "
            'own encoding first, for example text.decode("latin-1")'
        ) from error
    except UnicodeEncodeError as error:
        raise ValueError(
            f"text holds the lone surrogate U+{ord(error.object[error.start]):04X} at character {error.start}, which "
            'no UTF-8 text has: read the file with errors="replace"'
        ) from error
    if not found:
        raise ValueError("text is empty: give at least one character")
    return found


def pick(values: Tensor, at: Tensor) -> Tensor:
    """One position of each row: (batch, length, ...) to (batch, ...)."""
    return values[torch.arange(len(values), device=values.device), at.to(values.device)]

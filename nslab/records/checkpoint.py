"""One file that holds the state of a run and all it has measured, so that the two can never disagree."""

import hashlib
import io
from collections import OrderedDict
from pathlib import Path

from nslab.records.files import RecordError, write_whole

_HEAD = b"nslab checkpoint 1 "  # then the SHA-256 of the rest, and a line feed
_PLAIN = (str, int, float, bool, bytes, type(None))


def save(path: Path, content: dict) -> None:
    """Replace the checkpoint at `path`, or leave the old one intact.

    Errors: `RecordError` when the disk is full; `TypeError` for a content that could not be read back.
    """
    import torch

    _refuse_strange(content, "")
    buffer = io.BytesIO()
    torch.save(content, buffer)
    body = buffer.getvalue()
    write_whole(path, _HEAD + hashlib.sha256(body).hexdigest().encode() + b"\n" + body)


def load(path: Path) -> dict:
    """What was saved, with tensors on the CPU.

    Errors: `RecordError` when the file is not as it was written.
    """
    import torch

    try:
        content = path.read_bytes()
    except OSError as error:
        raise RecordError(f"{path}: {error.strerror}: the checkpoint cannot be read") from None
    head, _, body = content.partition(b"\n")
    if head != _HEAD + hashlib.sha256(body).hexdigest().encode():
        raise RecordError(
            f"{path}: this checkpoint is damaged (its checksum differs): delete the folder {path.parent}, "
            "and start again without --resume"
        )
    return torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)


def _refuse_strange(value: object, where: str) -> None:
    """Only what can be read back without running code: refused now, and not when it is needed."""
    import torch

    if type(value) in (dict, OrderedDict):
        for key, part in value.items():
            if not isinstance(key, str | int):
                raise TypeError(f"{where or 'state'} has the key {key!r}: use text or whole numbers")
            _refuse_strange(part, f"{where}[{key!r}]" if where else str(key))
    elif type(value) in (list, tuple):
        for index, part in enumerate(value):
            _refuse_strange(part, f"{where}[{index}]")
    elif type(value) not in _PLAIN and not isinstance(value, torch.Tensor):
        raise TypeError(
            f"{where} is a {type(value).__name__}: a checkpoint holds tensors, numbers, text, and dicts, lists and "
            "tuples of these; save its state_dict(), or convert it"
        )

"""A network in one safetensors file: weights, shape and facts. The same network and facts give the same bytes."""

import json
import os
from dataclasses import asdict
from pathlib import Path

import torch

from nslab.transformer.network import Transformer
from nslab.transformer.shape import TransformerConfig


def save_transformer(
    path: str | Path, model: Transformer, facts: dict[str, str] | None = None, *, dtype: torch.dtype | None = None
) -> None:
    """Write a network to a safetensors file, which `load_transformer` and any reader of safetensors can open.

    Args:
        path: the file; it is whole or absent, since it is written beside its place and renamed.
        model: the network; a tied output matrix is stored once, as `tokens.weight`.
        facts: text to keep with the weights, by name: an alphabet, the provenance. "config" is taken.
        dtype: `torch.float16` halves the file and rounds the weights to 11 bits; None keeps them as they are.

    Errors: `ValueError` for a fact called "config"; `OSError` when the file cannot be written.
    """
    from safetensors.torch import save

    facts = dict(facts or {})
    if "config" in facts:
        raise ValueError("facts has the name 'config', which holds the shape of the network: call the fact otherwise")
    facts["config"] = json.dumps(asdict(model.config))
    weights = {name: weight.detach().to("cpu", dtype).contiguous() for name, weight in model.state_dict().items()}
    unfinished = Path(path).with_name(f".{Path(path).name}.unfinished")
    try:
        unfinished.write_bytes(_in_order(save(weights, facts)))
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def load_transformer(path: str | Path, *, device: torch.device | str = "cpu") -> tuple[Transformer, dict[str, str]]:
    """The network of a file that `save_transformer` wrote, in float32 and in evaluation mode, and the facts beside it.

    Errors: `FileNotFoundError`; `ValueError` naming the file when it is cut short or holds something else.
    """
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path}: give one that save_transformer wrote")
    try:
        with safe_open(str(path), "pt") as file:
            facts = file.metadata() or {}
            weights = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118 - it is no mapping
        settings = json.loads(facts.pop("config"))
        model = Transformer(TransformerConfig(**settings | {"special": tuple(settings["special"])}))
        model.load_state_dict(weights)
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"{path} is not a whole network of nslab ({type(error).__name__}: {error}): write it again with "
            "save_transformer, or fetch it again"
        ) from error
    return model.eval().to(device), facts


def _in_order(content: bytes) -> bytes:
    """The same file with the names in its header sorted; safetensors leaves those of the facts in a random order."""
    length = int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8 : 8 + length]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # the format wants the weights to start at a multiple of 8
    return len(header).to_bytes(8, "little") + header + content[8 + length :]

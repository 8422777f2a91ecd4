"""A NoiseFormer in one safetensors file: weights, shape, score settings and facts.

    save_noiseformer("twin.safetensors", model, {"alphabet": alphabet}, dtype=torch.float16)
    model, facts = load_noiseformer("twin.safetensors", expect=VARIANTS["v2-relative"])

The same network and facts give the same bytes.
"""

import json
import os
from dataclasses import asdict
from pathlib import Path

import torch

from nslab.attention.settings import NoiseSettings, ScoreSettings, variant_name
from nslab.transformer.files import _in_order
from nslab.transformer.noiseformer import NoiseFormer
from nslab.transformer.shape import TransformerConfig

TAKEN = ("config", "scores")
STATE = "_extra_state"  # where the training noise stands: belongs to a checkpoint, not to a network


def save_noiseformer(
    path: str | Path, model: NoiseFormer, facts: dict[str, str] | None = None, *, dtype: torch.dtype | None = None
) -> None:
    """Write a network to a safetensors file, which `load_noiseformer` and any reader of safetensors can open.

    Args:
        path: the file; it is whole or absent, since it is written beside its place and renamed.
        model: the network. A file does not hold where its training noise stands: a checkpoint of `Trainer` does.
        facts: text to keep with the weights, by name; "config" and "scores" are taken.
        dtype: `torch.float16` halves the file and rounds the weights to 11 bits; None keeps them as they are.

    Errors: `ValueError` for a fact with a name that is taken; `OSError` when the file cannot be written.
    """
    from safetensors.torch import save

    facts = dict(facts or {})
    for name in TAKEN:
        if name in facts:
            raise ValueError(f"facts has the name {name!r}, which holds settings of the network: call it otherwise")
    facts["config"] = json.dumps(asdict(model.config))
    facts["scores"] = json.dumps(asdict(model.scores))
    state = {name: weight for name, weight in model.state_dict().items() if name != STATE}
    weights = {name: weight.detach().to("cpu", dtype).contiguous() for name, weight in state.items()}
    unfinished = Path(path).with_name(f".{Path(path).name}.unfinished")
    try:
        unfinished.write_bytes(_in_order(save(weights, facts)))
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def load_noiseformer(
    path: str | Path, *, expect: ScoreSettings | None = None, device: torch.device | str = "cpu"
) -> tuple[NoiseFormer, dict[str, str]]:
    """The network of a file that `save_noiseformer` wrote, in float32 and in evaluation mode, and the facts beside it.

    Args:
        path: the file.
        expect: the score settings that the file must have; None takes any.
        device: where the network goes.

    Errors: `FileNotFoundError`; `ValueError` naming both variants when the file holds another one or a standard
    network; `ValueError` naming the file when it is cut short or holds something else.
    """
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path}: give one that save_noiseformer wrote")
    try:
        with safe_open(str(path), "pt") as file:
            facts = file.metadata() or {}
            weights = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118 - it is no mapping
        shape = json.loads(facts.pop("config"))
        scores = _scores(facts.pop("scores", None))
        config = TransformerConfig(**shape | {"special": tuple(shape["special"])})
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise _damaged(path, error) from error
    if scores is None or (expect is not None and scores != expect):
        wanted = "a NoiseFormer" if expect is None else f"the variant '{variant_name(expect)}'"
        remedy = "load it with load_transformer" if scores is None else f"expect '{variant_name(scores)}'"
        raise ValueError(
            f"{path} holds the variant '{variant_name(scores)}', expected is {wanted}: {remedy}, or give another file"
        )
    try:
        model = NoiseFormer(config, scores)
        model.load_state_dict(weights | {STATE: model.get_extra_state()})
    except RuntimeError as error:
        raise _damaged(path, error) from error
    return model.eval().to(device), facts


def _scores(text: str | None) -> ScoreSettings | None:
    if text is None:
        return None
    settings = json.loads(text)
    noise = settings.pop("noise")
    return ScoreSettings(**settings, noise=None if noise is None else NoiseSettings(**noise))


def _damaged(path: str | Path, error: Exception) -> ValueError:
    return ValueError(
        f"{path} is not a whole network of nslab ({type(error).__name__}: {error}): write it again with "
        "save_noiseformer, or fetch it again"
    )

"""W_Q and W_K of every head of a network, and its scores on a text before any mask."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from nslab import zoo
from nslab.barrier.head_families import Turn


@dataclass(frozen=True)
class Projections:
    """The projections to queries and keys in one attention module.

    Attributes:
        modules: the submodules that are watched: one that gives queries and keys together, or two.
        weights: W_Q and W_K, each (heads, head width, width); grouped keys repeated.
        split: the outputs of `modules` to queries and keys, each (batch, length, all heads of them).
        scale: what scores are multiplied by.
    """

    modules: tuple[nn.Module, ...]
    weights: tuple[Tensor, Tensor]
    split: Callable[[list[Tensor]], tuple[Tensor, Tensor]]
    scale: float


def projections(model: zoo.LanguageModel) -> dict[str, tuple[nn.Module, Projections]]:
    """The attention modules of a network by name, in order, with their projections.

    Known by the names of their parts: `qkv` (nslab), `q_proj` and `k_proj` (Llama), `query` and `key` (BERT), `c_attn`
    (GPT-2).

    Errors: `ValueError` for a network without any of these.
    """
    found = {name: (part, told) for name, part in model.module.named_modules() if (told := _read(part)) is not None}
    if not found:
        raise ValueError(
            f"models has {model.name!r}, whose attention has none of qkv, q_proj and k_proj, query and key, c_attn: "
            "leave it out"
        )
    return found


def _read(part: nn.Module) -> Projections | None:
    if hasattr(part, "qkv"):
        weights = tuple(part.qkv.weight.chunk(3)[:2])
        return _made((part.qkv,), weights, part.heads, lambda seen: seen[0].chunk(3, -1)[:2])
    if hasattr(part, "q_proj") and hasattr(part, "k_proj"):
        weights = part.q_proj.weight, part.k_proj.weight
        heads = len(weights[0]) // part.head_dim
        return _made((part.q_proj, part.k_proj), weights, heads, tuple, getattr(part, "scaling", None))
    if isinstance(getattr(part, "query", None), nn.Linear) and isinstance(getattr(part, "key", None), nn.Linear):
        return _made((part.query, part.key), (part.query.weight, part.key.weight), part.num_attention_heads, tuple)
    if hasattr(part, "c_attn") and hasattr(part, "num_heads"):
        weights = tuple(part.c_attn.weight.mT.chunk(3)[:2])  # this family keeps its matrices transposed
        return _made((part.c_attn,), weights, part.num_heads, lambda seen: seen[0].chunk(3, -1)[:2])
    return None


def _made(
    modules: tuple[nn.Module, ...],
    weights: tuple[Tensor, Tensor],
    heads: int,
    split: Callable[[list[Tensor]], tuple[Tensor, Tensor]],
    scale: float | None = None,
) -> Projections:
    query, key = weights
    head_width = len(query) // heads
    query, key = (one.unflatten(0, (-1, head_width)) for one in (query, key))  # (heads, head width, width)
    key = key.repeat_interleave(heads // len(key), 0)
    return Projections(modules, (query, key), split, head_width**-0.5 if scale is None else scale)


@dataclass(frozen=True, eq=False)
class Scored:
    """One layer at one text.

    Attributes:
        inputs: what queries and keys are made from, (length, width).
        scores: (heads, length, length), row the query, all pairs, before the mask.
        turn: the rotary positions, or None.
    """

    inputs: Tensor
    scores: Tensor
    turn: Turn | None


@torch.no_grad()
def scored(model: zoo.LanguageModel, ids: Tensor) -> list[Scored]:
    """Every layer of a model at one text (length,), with rotary positions as the model applies them."""
    known, caught, hooks = projections(model), {}, []

    def keep(name: str, number: int, module: nn.Module, given: tuple, output: Tensor) -> None:
        caught[name, number] = given[0][0], output[0]

    def keep_turn(name: str, module: nn.Module, given: tuple, options: dict) -> None:
        if (tables := options.get("position_embeddings")) is not None:
            caught[name, "turn"] = Turn(*(table[0] for table in tables))

    for name, (part, told) in known.items():
        hooks.append(part.register_forward_pre_hook(partial(keep_turn, name), with_kwargs=True))
        for number, module in enumerate(told.modules):
            hooks.append(module.register_forward_hook(partial(keep, name, number)))
    try:
        model(ids[None])
    finally:
        for hook in hooks:
            hook.remove()
    layers = []
    for name, (part, told) in known.items():
        query, key = told.split([caught[name, number][1] for number in range(len(told.modules))])
        head_width = told.weights[0].shape[1]
        query, key = (one.unflatten(-1, (-1, head_width)).transpose(0, 1) for one in (query, key))  # (heads, length, k)
        turn = caught.get((name, "turn")) or _own_turn(part, query)
        if turn is not None:
            query, key = turn(query), turn(key)
        key = key.repeat_interleave(len(query) // len(key), 0)
        layers.append(Scored(caught[name, 0][0], told.scale * query @ key.mT, turn))
    return layers


def random_scores(layer: Scored, head_width: int, heads: int, generator: torch.Generator) -> Tensor:
    """Scores of heads with independent Gaussian factors at the same inputs and positions, (heads, length, length)."""
    x = layer.inputs
    factors = torch.randn(2, heads, x.shape[-1], head_width, generator=generator).to(x) / math.sqrt(x.shape[-1])
    query, key = x @ factors[0], x @ factors[1]  # (heads, length, head width)
    if layer.turn is not None:
        query, key = layer.turn(query), layer.turn(key)
    return query @ key.mT


def _own_turn(part: nn.Module, query: Tensor) -> Turn | None:
    """The rotary positions of a network of nslab, as tables."""
    if getattr(part, "rotary", None) is None:
        return None
    half = torch.ones_like(query[0]).chunk(2, -1)[0]
    cosines, sines = part.rotary(torch.cat((half, 0 * half), -1)).chunk(2, -1)  # the pair (1, 0), turned
    return Turn(cosines.repeat(1, 2), sines.repeat(1, 2))

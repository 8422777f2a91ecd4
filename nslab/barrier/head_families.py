"""How the attention of a known kind of network is recognised, and read as queries, keys, values and projections.

A family is known by the names of its submodules. To add one, give those names, the name of the norm before it, and a
function that reads what was caught of its projections.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Caught(NamedTuple):
    """One call of a projection or a norm: its input, its output, and its weight as it was then."""

    given: Tensor
    output: Tensor
    weight: Tensor


class Turn(NamedTuple):
    """Rotary positions as a network applies them: the pair (j, j + k/2) turns by an angle of the position.

    Attributes:
        cosines, sines: of those angles, (length, k); the second half of k repeats the first.
    """

    cosines: Tensor
    sines: Tensor

    def __call__(self, x: Float[Tensor, "*batch rows k"], rows: Tensor | None = None) -> Float[Tensor, "*batch rows k"]:
        """Vectors (*batch, rows, k), each turned as at its position in `rows` (rows,); None: positions 0, 1, ..."""
        rows = slice(x.shape[-2]) if rows is None else rows
        first, second = x.chunk(2, -1)
        return x * self.cosines[rows] + torch.cat((-second, first), -1) * self.sines[rows]


class Heads(NamedTuple):
    """Queries, keys and values of a layer as its scores use them, its projections, and its rotary positions."""

    query: Tensor  # (batch, heads, length, k)
    key: Tensor
    value: Tensor
    query_weight: Tensor  # (heads k, width)
    output_weight: Tensor  # (width, heads v)
    turn: Turn | None


def _from_nslab(attention: nn.Module, seen: dict[str, Any]) -> Heads:
    qkv, out = seen["qkv"], seen["output"].weight
    query, key, value = (_split(part, attention.heads) for part in qkv.output.chunk(3, -1))
    turn, width = None, qkv.output.shape[-1] // 3
    if attention.rotary is not None:
        half = torch.ones_like(query[0, 0].detach()).chunk(2, -1)[0]
        cosines, sines = attention.rotary(torch.cat((half, 0 * half), -1)).chunk(2, -1)  # the pair (1, 0), turned
        turn = Turn(cosines.repeat(1, 2), sines.repeat(1, 2))
        query, key = turn(query), turn(key)
    return Heads(query, key, value, qkv.weight[:width], out, turn)


def _from_llama(attention: nn.Module, seen: dict[str, Any]) -> Heads:
    k, turn = attention.head_dim, None
    query, key, value = (_split(part := seen[f"{name}_proj"].output, part.shape[-1] // k) for name in "qkv")
    if (tables := seen.get("turn")) is not None:
        turn = Turn(*(table[0] for table in tables))  # (1 or batch, length, k)
        if (turned := turn.cosines.shape[-1]) != k:
            raise ValueError(
                f"model is {type(attention).__name__}, whose rotary positions turn {turned} of the {k} coordinates of "
                "a head: give a network that turns all of them"
            )
        query, key = turn(query), turn(key)
    group = query.shape[-3] // key.shape[-3]
    key, value = key.repeat_interleave(group, -3), value.repeat_interleave(group, -3)
    query, weight = _scaled(attention, query, seen["q_proj"].weight)
    return Heads(query, key, value, weight, seen["o_proj"].weight, turn)


def _from_gpt2(attention: nn.Module, seen: dict[str, Any]) -> Heads:
    qkv, k = seen["c_attn"], attention.head_dim
    query, key, value = (_split(part, attention.num_heads) for part in qkv.output.chunk(3, -1))
    weight = qkv.weight[:, : attention.num_heads * k].mT  # this family keeps its matrices transposed
    query, weight = _scaled(attention, query, weight)
    return Heads(query, key, value, weight, seen["c_proj"].weight.mT, None)


def _scaled(attention: nn.Module, query: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Queries and their projection such that scores are products over sqrt(k), whatever the network divides by."""
    root = math.sqrt(attention.head_dim)
    factor = getattr(attention, "scaling", 1 / root) * root
    return (query, weight) if math.isclose(factor, 1) else (factor * query, factor * weight)


@dataclass(frozen=True)
class Family:
    """How a kind of network is known, and read.

    Attributes:
        parts: submodules of its attention; the last one is the output projection.
        norm: the norm before the attention, in the same block.
        read: attention module and what was caught of it, to `Heads`.
    """

    parts: tuple[str, ...]
    norm: str
    read: Callable[[nn.Module, dict[str, Any]], Heads]


FAMILIES = (
    Family(("qkv", "output"), "attention_norm", _from_nslab),
    Family(("q_proj", "k_proj", "v_proj", "o_proj"), "input_layernorm", _from_llama),
    Family(("c_attn", "c_proj"), "ln_1", _from_gpt2),
)


def family_of(module: nn.Module) -> Family | None:
    """The family whose parts a module has; None for other modules."""
    return next((one for one in FAMILIES if all(hasattr(module, part) for part in one.parts)), None)


def attention_layers(module: nn.Module) -> dict[str, nn.Module]:
    """The attention modules of known families in a network, by name.

    Errors: `ValueError` when there is none; it says what was looked for.
    """
    found = {name: part for name, part in module.named_modules() if family_of(part) is not None}
    if not found:
        sought = ", or ".join(" and ".join(family.parts) for family in FAMILIES)
        raise ValueError(
            f"model is {type(module).__name__} and has no attention of a known kind: a submodule with {sought} was "
            "looked for"
        )
    return found


def _split(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(-1, (heads, -1)).transpose(-3, -2)  # (batch, length, heads k) -> (batch, heads, length, k)

r"""The attention heads of a real network, caught while it runs: every layer of a forward pass as a `HeadStage`.

    with watching(model) as seen:
        loss = criterion(model(ids), targets)
        stages = seen.stages()          # one a layer, in the graph of this pass

Hooks on the projections keep queries, keys and values as they are computed, so that a penalty on the heads pays for no
second pass. Networks are known by the names of their parts and not by their class:

- `nslab.transformer`: `qkv` and `output`; learned, rotary or no positions;
- Llama and its kin in `transformers`: `q_proj`, `k_proj`, `v_proj`, `o_proj`; grouped keys, rotary positions;
- GPT-2 in `transformers`: `c_attn` and `c_proj`.

The first pass is checked: causal softmax attention over the caught queries, keys and values must give what the output
projection was given. A network that caps its scores, looks through a window, or turns its keys in another way is
refused then, and not measured wrongly. (Where attention drops weights, in training, nothing can be compared: the first
pass without dropout is checked. A window longer than that pass, or a cap that its scores do not reach, is not seen.)
"""

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor, nn
from torch.nn import functional as F

from nslab.barrier.checks import HALVES, upcast, without_autocast
from nslab.barrier.head_families import Caught, attention_layers, family_of
from nslab.barrier.heads import HeadStage
from nslab.barrier.norm_path import NormJacobian


class Watched:
    """What `watching` returns: the hooks, and what they caught in the latest forward pass."""

    def __init__(self, module: nn.Module, norm: bool, check: bool):
        self.module, self.norm, self.check = module, norm, check
        self._hooks: list[Any] = []
        self.forget()

    def start(self) -> "Watched":
        """Set the hooks. From now on every forward pass replaces what was caught in the one before."""
        if self._hooks:
            raise ValueError("start: the hooks are set already: call stop() first")
        self._layers, self._proven = attention_layers(self.module), not self.check
        for name, attention in self._layers.items():
            family = family_of(attention)
            watched = {part: getattr(attention, part) for part in family.parts}
            if self.norm:
                watched["norm"] = _norm_before(self.module, name, family.norm)
            for part, module in watched.items():
                self._hooks.append(module.register_forward_hook(partial(self._keep_call, name, part)))
            before = partial(self._keep_turn, name)
            self._hooks.append(attention.register_forward_pre_hook(before, with_kwargs=True))
        return self

    def stop(self) -> None:
        """Take the hooks away, and let go of what they caught."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        self.forget()

    def __enter__(self) -> "Watched":
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stages(self) -> list[HeadStage]:
        """One `HeadStage` a layer, in the order in which the latest pass called them, with their graph.

        Half precision is upcast to float32.

        Errors: `ValueError` when no hooks are set, the model was not called since, a layer was left out or called twice
        in the pass, the layers changed since the hooks were set, or the network computes something else than causal
        softmax attention over what was caught.
        """
        if not self._hooks:
            raise ValueError("stages: no hooks are set: call it inside `with watching(model)`, or after start()")
        now = attention_layers(self.module)
        if list(now.items()) != list(self._layers.items()):
            raise ValueError("stages: the layers of the model changed since the hooks were set: stop(), then start()")
        if not self._seen:
            raise ValueError("stages: the model was not called since the hooks were set: call model(ids) first")
        for name, attention in now.items():
            for part in family_of(attention).parts:
                if part not in self._seen.get(name, {}):
                    raise ValueError(f"stages: the latest pass left out {name}.{part}: let the model run to its end")
        if self._twice:
            raise ValueError(
                f"stages: {self._twice} was called twice in the latest pass: layers that share one attention module "
                "cannot be told apart"
            )
        found, proven = [], True
        for name, seen in self._seen.items():
            stage = _stage(now[name], seen)
            proven &= self._proven or _prove(name, now[name], stage, seen)
            if self.norm:
                norm = _norm_before(self.module, name, family_of(now[name]).norm)
                stage = replace(stage, norm_jacobian=_norm_jacobian(norm, seen["norm"]))
            found.append(stage)
        self._proven = proven
        return found

    def forget(self) -> None:
        """Let go of the latest pass, and of its graph."""
        self._seen: dict[str, dict[str, Any]] = {}
        self._twice = ""

    def _keep(self, layer: str, part: str, value: Any) -> None:
        if part in self._seen.get(layer, {}):
            if layer == next(iter(self._seen)):  # the first layer again: a new pass
                self.forget()
            else:
                self._twice = layer
        self._seen.setdefault(layer, {})[part] = value

    def _keep_call(self, layer: str, part: str, module: nn.Module, given: tuple, output: Tensor) -> None:
        self._keep(layer, part, Caught(given[0], output, getattr(module, "weight", None)))

    def _keep_turn(self, layer: str, module: nn.Module, given: tuple, options: dict) -> None:
        if (tables := options.get("position_embeddings")) is not None:
            self._keep(layer, "turn", tables)


def watching(model: Any, *, norm: bool = False, check: bool = True) -> Watched:
    """Hooks that catch the attention heads of every forward pass of a model.

    Args:
        model: a network of one of the families above, or what holds one: a model of `nslab.zoo`, or a wrapper whose
            `module` (or wrapped function) it is.
        norm: whether the stages also hold the Jacobian of the norm before each attention, so that their blocks are
            taken with respect to the residual stream and not to the normalised input.
        check: whether the first pass is checked as said above. Inside `torch.func.vmap` no number can be looked at:
            give False there, and take the blocks of the stages outside of it: they look at numbers too.

    Returns:
        `Watched`. As a context manager, or with `.start()` and `.stop()` around a training loop; `.stages()` in between
        gives a `HeadStage` for each layer of the latest forward pass. Whole sequences without padding are meant: of a
        pass that continues a cache only the new tokens are caught.

    How to read it: the stages are part of the graph of the pass, so a loss made of them trains the network. Keep none
    of them beyond the step, or its graph stays in memory too. When a model is called twice (on a batch and on a noisy
    twin), the stages are those of the second call. The weights of a stage are those that the pass used.

    Errors: `ValueError` for a model without attention of a known family (it says what was looked for), one whose
    attention is not causal, and, for `norm`, one without a LayerNorm or RMSNorm before its attention.

    Source: *ours*.
    """
    module = _module_of(model)
    for name, attention in attention_layers(module).items():
        for mark in ("causal", "is_causal"):
            if getattr(attention, mark, True) is False:
                raise ValueError(
                    f"model: {name} is not causal, so a token sees its future and the Jacobian is not block "
                    "triangular: give a causal language model"
                )
        if norm:
            _norm_before(module, name, family_of(attention).norm)
    return Watched(module, norm, check)


def stages(model: Any, ids: Shaped[Tensor, "batch length"], *, norm: bool = False) -> list[HeadStage]:
    """The attention layers of a model at a batch of token ids, one `HeadStage` each.

    Args:
        model: as in `watching`.
        ids: token ids (batch, length), nothing padded.
        norm: as in `watching`.

    Returns:
        One `HeadStage` a layer, with its graph (none inside `torch.no_grad()`).

    Errors: as `watching` and `Watched.stages`.

    Source: *ours*.
    """
    with watching(model, norm=norm) as seen:
        model(ids)
        return seen.stages()


def _module_of(model: Any) -> nn.Module:
    for holder in (model, getattr(model, "module", None), getattr(model, "f", None)):
        owner = getattr(holder, "__self__", holder)  # a bound method is asked for its object
        if isinstance(owner, nn.Module):
            return owner
    raise ValueError(f"model is {type(model).__name__} and shows no torch module: give the network itself")


def _norm_before(module: nn.Module, attention: str, name: str) -> nn.Module:
    norm = getattr(module.get_submodule(attention.rpartition(".")[0]), name, None)
    if not isinstance(norm, nn.LayerNorm | nn.RMSNorm | nn.Identity) and not hasattr(norm, "variance_epsilon"):
        raise ValueError(
            f"norm: no LayerNorm or RMSNorm called {name} stands beside {attention}: leave norm out, and take the "
            "blocks with respect to the input of the attention"
        )
    return norm


def _norm_jacobian(norm: nn.Module, caught: Caught) -> NormJacobian | None:
    if isinstance(norm, nn.Identity):
        return None
    centred = isinstance(norm, nn.LayerNorm)
    epsilon = norm.variance_epsilon if hasattr(norm, "variance_epsilon") else norm.eps
    epsilon = torch.finfo(caught.given.dtype).eps if epsilon is None else epsilon
    return NormJacobian(caught.given, caught.weight, epsilon, centred)


def _stage(attention: nn.Module, seen: dict[str, Any]) -> HeadStage:
    heads = family_of(attention).read(attention, seen)
    query, key, value, query_weight, output_weight = upcast(*heads[:5])
    count = query.shape[-3]
    return HeadStage(
        query=query,
        key=key,
        value=value,
        query_weight=query_weight.unflatten(0, (count, -1)),  # (heads k, width) -> (heads, k, width)
        output_weight=output_weight.unflatten(-1, (count, -1)).transpose(-3, -2),  # (width, heads v) -> heads first
        turn=heads.turn,
    )


@torch.no_grad()
@without_autocast
def _prove(name: str, attention: nn.Module, stage: HeadStage, seen: dict[str, Any]) -> bool:
    """Causal softmax attention over what was caught gives what the output projection was given; False: cannot say."""
    given = seen[family_of(attention).parts[-1]].given
    if attention.training and _dropout(attention):
        return False  # weights that were partly dropped cannot be compared
    mixed = F.scaled_dot_product_attention(stage.query, stage.key, stage.value, is_causal=True)
    found, expected = mixed.transpose(-3, -2).flatten(-2), given.to(mixed.dtype)
    slack = 5e-2 if given.dtype in HALVES else 1e-3
    if float((found - expected).abs().max()) > slack * float(expected.abs().max()):
        raise ValueError(
            f"model: {name} does more than causal softmax attention over its queries, keys and values (capped scores, "
            "a window, a padding mask, or rotary positions of another kind): its margins would be wrong"
        )
    return True


def _dropout(attention: nn.Module) -> float:
    rate = getattr(attention, "attention_dropout", None) or getattr(attention, "attn_dropout", 0.0)
    return rate.p if isinstance(rate, nn.Dropout) else rate

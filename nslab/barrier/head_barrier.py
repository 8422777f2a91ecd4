"""The barrier on the real attention heads of a network, as a penalty for a training loop.

    weight, penalty = head_regulariser(0.5, rows=16)
    Trainer(model, config, batch, penalties=[(weight, penalty)]).run()
    penalty.stop()

The heads are caught in the forward pass that the loss needs anyway, so that no second one is paid for.
"""

import weakref
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nslab.barrier.heads import HeadStage, joint_head_blocks
from nslab.barrier.penalty_shapes import check_wall, check_weight, margin_penalty
from nslab.barrier.real_heads import Watched, watching
from nslab.barrier.row_walls import row_walls, sampled_rows
from nslab.protocols import Model, check_whole

NEUTRAL = 2  # positions at the start of a sequence whose block is the identity: their past has no covariance


@dataclass(frozen=True)
class HeadBarrier:
    r"""How close the attention heads of a network are to a degenerate Jacobian: a wall on det(I - G C) of each head.

    Formula: the mean over layers, heads, rows of the batch, and all n positions of `margin_penalty` of
    $J_i = I_k - G\, C_i$ (see `head_blocks`, strictly causal, with respect to what enters $W_Q$). Positions 0 and 1
    have $J_i = I$ and count as 0; of the others `rows` are sampled, and their mean is multiplied by (n - 2)/n.

    Args:
        rows: positions sampled at each call, for each row of the batch its own, the same in all layers; one from each
            of `rows` equal strata of 2 .. n - 1. None takes all.
        kind: the wall, as in `margin_penalty`.
        delta: as in `margin_penalty`.
        clamp: as in `margin_penalty`.
        layers: numbers of the layers that count; all by default.
        joint: whether the determinant is that of all heads of a layer together, one number a position. It is taken of
            matrices of size H k, and so costs much more; the rows are then shared by the batch.
        order: "exact", or "first" for $\mathrm{tr}(G C_i)$ in place of the barrier, without a matrix. Then kind "raw"
            is the trace itself and "hinge" its positive part; the others have no such form. With rotary positions the
            matrices are formed all the same.

    Returns:
        From a call a scalar in nats, to be added to a loss; its weight, lambda, belongs to the trainer.

    How to read it: an unbiased estimate of the mean over all positions. Its gradient reaches the projections and all
    that is below them, through queries, keys and values. It is differentiable once.

    Cost on one thread at n = 256, width 384, heads of 64: a step takes about 1.65 times as long with 16 rows, 1.25 with
    4, and 1.1 to first order. Rows that the whole batch shared would be no cheaper.

    In training (a model in training mode, and a gradient) the first call passes the batch once more and leaves hooks on
    the model. From then on every call uses the forward pass that gave `output`, so it must come before penalties that
    call the model again. `watch(model)` sets the hooks beforehand and saves that pass; `stop()` takes them away. In
    evaluation, without hooks, each call passes the batch once more and leaves nothing behind. Copy or save the whole
    module after `stop()`; `state_dict()` is never touched. Hooks do not see into a network under `torch.compile`; give
    a `DistributedDataParallel` training the plain module, as `Trainer` does.

    Errors: `ValueError` for rows below 1, an unknown kind or order, a kind that has no first order, a layer that the
    model does not have, a model without attention of a known kind (it says what was looked for), an `output` that is
    not that of the latest pass, and, without gradient, NaN in a wall (its layer, row of the batch, head and position
    are named). With a gradient NaN goes into the loss, where `Trainer` finds it and keeps the last good state.

    Source: *ours*, on the heads; arXiv 2602.22271 has one attention over the input embeddings according to a
    third-party port, see `EmbeddingPrior`.
    """

    rows: int | None = 16
    kind: str = "hinge"
    delta: float | int = 0.05
    clamp: float | int = 30
    layers: tuple[int, ...] | None = None
    joint: bool = False
    order: str = "exact"
    _watch: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self):
        check_wall(self.kind, self.delta, self.clamp)
        check_whole(rows=self.rows)
        if self.rows is not None and self.rows < 1:
            raise ValueError(f"rows is {self.rows}: sample at least one position, or give None for all")
        if self.order not in ("exact", "first"):
            raise ValueError(f"order is {self.order!r}: choose 'exact' or 'first'")
        if self.order == "first" and (self.joint or self.kind not in ("raw", "hinge")):
            raise ValueError(
                f"order is 'first' with kind {self.kind!r}, joint {self.joint}: to first order there are 'raw' and "
                "'hinge', head by head; choose one of them, or order='exact'"
            )
        if self.kind == "first-order":
            raise ValueError("kind is 'first-order': give kind='raw', order='first', which forms no matrix")

    def __call__(
        self, model: Model, x: Tensor, output: Tensor, /, *, generator: torch.Generator | None = None
    ) -> Float[Tensor, ""]:
        """The penalty of `model` at x; `output` is `model(x)`, already computed."""
        return self.of(self._stages(model, x, output), generator)

    def of(self, stages: list[HeadStage], generator: torch.Generator | None = None) -> Float[Tensor, ""]:
        """The penalty of layers that are at hand, for example `real_heads.stages(model, ids)`.

        Errors: `ValueError` for a layer that is not there, and for stages with the Jacobian of a norm.
        """
        numbers = range(len(stages)) if self.layers is None else self.layers
        if wrong := [number for number in numbers if not 0 <= number < len(stages)]:
            raise ValueError(f"layers has {wrong[0]}: the model has the layers 0 to {len(stages) - 1}")
        if any(stages[number].norm_jacobian is not None for number in numbers):
            raise ValueError("stages hold the Jacobian of a norm: make them with norm=False")
        batch, _, length, _ = stages[0].key.shape
        device = stages[0].key.device
        if length <= NEUTRAL:
            return torch.zeros((), device=device)
        rows, ends = sampled_rows(1 if self.joint else batch, length, self.rows, NEUTRAL, generator, device)
        means = [self._mean(number, stages[number], rows, ends) for number in numbers]
        return torch.stack(means).mean() * ((length - NEUTRAL) / length)

    def watch(self, model: Model) -> "HeadBarrier":
        """Set hooks on a model, so that every pass from now on is caught; those on another model are taken away."""
        self.stop()
        seen = watching(model).start()

        def keep(module: nn.Module, given: tuple, output: Any) -> None:
            self._watch["output"] = weakref.ref(output) if isinstance(output, Tensor) else None

        self._watch.update(seen=seen, hook=seen.module.register_forward_hook(keep))
        return self

    def stop(self) -> None:
        """Take the hooks away from the model."""
        if self._watch:
            self._watch["hook"].remove()
            self._watch["seen"].stop()
            self._watch.clear()

    def _stages(self, model: Model, x: Tensor, output: Tensor) -> list[HeadStage]:
        seen: Watched | None = self._watch.get("seen")
        fresh = watching(model)
        if seen is not None and seen.module is fresh.module:
            latest = self._watch.pop("output", None)
            if latest is None or (model is seen.module and latest() is not output):
                raise ValueError(
                    "output is not of the latest pass of model: call this penalty once a pass, and put it before "
                    "penalties that call the model again"
                )
        elif torch.is_grad_enabled() and fresh.module.training:
            self.watch(model)
            model(x)
            seen = self._watch["seen"]
        else:
            with fresh:
                model(x)
                return fresh.stages()
        stages = seen.stages()
        seen.forget()  # else the graph of this pass would live until the next one
        return stages

    def _mean(self, number: int, stage: HeadStage, rows: Tensor, ends: list[int]) -> Tensor:
        if self.joint:
            return margin_penalty(joint_head_blocks(stage, rows[0]), self.kind, self.delta, self.clamp).mean()
        total, walls = row_walls(stage, rows, ends, self.kind, self.delta, self.clamp, self.order == "first")
        if not total.requires_grad and bool(walls.isnan().any()):
            row, head, column = walls.isnan().nonzero()[0].tolist()
            raise ValueError(
                f"the wall of layer {number}, row {row} of the batch, head {head}, position {int(rows[row, column])} "
                "is NaN: look at the weights and the input of that layer"
            )
        return total / walls.numel()


def head_regulariser(weight: float | int, **options: Any) -> tuple[float | int, HeadBarrier]:
    """The pair (weight, penalty) that a trainer takes.

    Args:
        weight: lambda, at least 0.
        options: of `HeadBarrier`.

    Errors: `ValueError` for a weight below 0 or not finite; otherwise as `HeadBarrier`.

    >>> head_regulariser(0.5, kind="kl")[0]
    0.5
    """
    check_weight(weight)
    return weight, HeadBarrier(**options)

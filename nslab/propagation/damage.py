"""Which layer kills stability? Derivatives of the last correlation with respect to each layer's noise and settings."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from nslab.propagation.agreement_table import AgreementTable
from nslab.propagation.architecture import Architecture
from nslab.propagation.moments import Moments
from nslab.propagation.recursion import layer, table_for


@dataclass(frozen=True, eq=False)
class Damage:
    r"""How the correlation c = m/q after the last layer answers to small changes, layer by layer.

    Attributes:
        noise: $-\partial c / \partial \epsilon$ when independent noise replaces a share epsilon of the signal, so that
            m and o are multiplied by 1 - epsilon and q and p stay, (layers + 1, *batch, rho): entry l is noise before
            layer l + 1, the last entry is noise at the output.
        gain: $\partial c / \partial g$ of each layer's value gain, (layers, *batch, rho).
        score_scale: the same for each layer's score scale.

    How to read it: `noise` at the output is c itself, the loss that nothing amplifies or heals. A layer with a larger
    entry passes noise on enlarged; one with a smaller entry stands before layers that forget it. Where an attention
    layer breaks ties between nearly equal votes, `score_scale` says whether softer votes would help (negative) or not.
    """

    noise: Float[Tensor, "points *shape"]
    gain: Float[Tensor, "layers *shape"]
    score_scale: Float[Tensor, "layers *shape"]


def layer_damage(moments: Moments, architecture: Architecture, *, table: AgreementTable | None = None) -> Damage:
    r"""The derivatives of the last layer's correlation, by one backward pass through `propagate`'s layers.

    Args:
        moments: before the first layer, (*batch, rho).
        architecture: the network, not causal.
        table: as in `propagate`.

    Returns:
        `Damage`, without a graph.

    How to read it: see `Damage`. The gain cannot matter without residual, norm and with ReLU: every map is then
    homogeneous, and its derivative is 0.

    Errors: as `propagate`.

    Source: *ours*.

    >>> shape = Architecture(tokens=16, width=512, layers=2, scores="identity")
    >>> [round(loss, 3) for loss in layer_damage(Moments.inputs(0.7), shape).noise.tolist()]
    [0.403, 0.578, 0.788]
    """
    if architecture.causal:
        raise ValueError("architecture has causal = True: damage is known for attention without a mask only")
    with torch.enable_grad():
        state = moments.check(architecture.tokens).broadcast().each(Tensor.detach)
        table = table_for(architecture, state.q, table)
        shape = state.q.shape
        fresh = state.q.new_zeros(architecture.layers + 1, *shape, requires_grad=True)
        gain = state.q.new_full((architecture.layers, *shape), architecture.gain, requires_grad=True)
        scale = state.q.new_full((architecture.layers, *shape), architecture.score_scale, requires_grad=True)
        for number in range(architecture.layers):
            noisy = _with_noise(state, fresh[number])
            state = layer(noisy, architecture, table, gain[number], scale[number], number + 1)
        last = _with_noise(state, fresh[-1]).correlation
        noise, gain, scale = torch.autograd.grad(last.sum(), (fresh, gain, scale), materialize_grads=True)
    return Damage(-noise, gain, scale)


def _with_noise(state: Moments, share: Tensor) -> Moments:
    return Moments((1 - share) * state.m, (1 - share) * state.o, state.q, state.p)

"""Four moments through a Transformer of infinite width, layer by layer.

A layer of random weights is a map of (m, o, q, p): attention mixes same-token with different-token moments, by how
often two votes agree; the MLP applies the second moment of its activation; a residual adds, because independent
zero-mean weights leave no cross terms; a norm divides by q. *Reconstructed*: the paper's recursion is not known to us.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from nslab.gaussian import relu_moment
from nslab.gaussian.ranges import Scalar
from nslab.propagation.activations import activation_gain, activation_moment
from nslab.propagation.agreement_table import AgreementTable
from nslab.propagation.architecture import Architecture
from nslab.propagation.moments import Moments


@dataclass(frozen=True, eq=False)
class Masses:
    r"""Agreement masses: the chance that two rows of attention weights pick the same token.

    Attributes:
        s: same row, two runs, $E \sum_k A_{ik} A'_{ik}$.
        t: different rows, two runs.
        s_a: the same row twice in one run; 1 for hard votes, 1/n for uniform attention over n tokens.
        t_a: different rows, one run.
    """

    s: Float[Tensor, "..."]
    t: Float[Tensor, "..."]
    s_a: Float[Tensor, "..."]
    t_a: Float[Tensor, "..."]


def propagate(
    moments: Moments,
    architecture: Architecture,
    *,
    table: AgreementTable | None = None,
    gain: Scalar | None = None,
    score_scale: Scalar | None = None,
) -> Moments:
    r"""The moments before the first layer and after each.

    Formula: attention with masses s, t, s_a, t_a of `attention_masses` and value gain g,
    $m \leftarrow g^2 [s m + (1-s) o]$, $o \leftarrow g^2 [t m + (1-t) o]$,
    $q \leftarrow g^2 [s_a q + (1-s_a) p]$, $p \leftarrow g^2 [t_a q + (1-t_a) p]$;
    MLP with activation a, $\kappa \leftarrow E[a(u) a(v)] / E a(Z)^2$ for $\kappa$ in {m, o, q, p}, with Gaussians u
    and v of variance q and covariance $\kappa$. Around each block the norm divides all by q, and the residual adds the
    block's moments to the old ones ("scaled": and halves).

    Args:
        moments: before the first layer, (*batch, rho); `Moments.inputs(rho)` for independent Gaussian tokens.
        architecture: the network; `causal` ones go to `propagate_causal`.
        table: agreement masses for this number of tokens; None takes the cached one.
        gain: in place of the architecture's: a number, or one for each layer along the first axis, (layers, ...), that
            broadcasts with the moments; gains measured in a trained network, for example.
        score_scale: likewise.

    Returns:
        `Moments` (layers + 1, *batch, rho). Differentiable in all tensors.

    How to read it: `correlation` is what the noise leaves of a token. Raw m follows the scale of the signal, g^2 a
    layer, and can die while the correlation rises. Exact as the width goes to infinity, if votes at all rows saw
    Gaussian tokens with equal correlations. They do in the first layer. After hard votes some tokens are copies of one
    another and others are not; the recursion keeps only their mean, and without a residual is then too low for rho
    near 1: after layer 2 by 0.1 to 0.2 at rho = 0.95 and 16 tokens, in networks of width 256 and 1024 alike; with a
    residual by less than 0.04. At finite width q is then too low, too, since to average copies costs no length; deep
    in and for small rho, m/q is too high, at widths 256 and 512 by up to 0.04. The "layer" norm also removes each
    token's mean over coordinates, which is 0 in this limit: the two norms are one.

    Errors: `ValueError` for moments that no Gaussian could have, a causal architecture, a table for another number of
    tokens, a first axis of `gain` or `score_scale` that is not the number of layers, and a signal that dies, overflows
    or turns NaN (the layer is named).

    Source: *reconstructed*; the deep recursion of arXiv 2602.08287 is not known to us.

    >>> shape = Architecture(tokens=16, width=512, layers=3, scores="identity")
    >>> [round(c, 3) for c in propagate(Moments.inputs(0.7), shape).correlation.tolist()]
    [0.7, 0.75, 0.788, 0.818]
    """
    if architecture.causal:
        raise ValueError("architecture has causal = True: positions differ, use propagate_causal")
    state = moments.check(architecture.tokens)
    table = table_for(architecture, state.q, table)
    gains = per_layer(gain, architecture.gain, architecture.layers, "gain")
    scales = per_layer(score_scale, architecture.score_scale, architecture.layers, "score_scale")
    states = [state]
    for number, (g, scale) in enumerate(zip(gains, scales, strict=True), 1):
        state = layer(state, architecture, table, g, scale, number)
        states.append(state)
    return Moments.stack(states)


def layer(
    state: Moments, architecture: Architecture, table: AgreementTable | None, gain: Scalar, scale: Scalar, number: int
) -> Moments:
    """Moments after one layer; `number` is its name in errors."""
    seen = normed(state, architecture)
    masses = attention_masses(seen, architecture, table=table, score_scale=scale)
    state = added(state, mixed(seen, masses, gain), architecture).alive(number)
    if architecture.mlp == "none":
        return state
    return added(state, activated(normed(state, architecture), architecture.mlp), architecture).alive(number)


def attention_masses(
    moments: Moments,
    architecture: Architecture,
    *,
    table: AgreementTable | None = None,
    score_scale: Scalar | None = None,
) -> Masses:
    r"""Agreement masses of the attention that acts on these moments.

    Formula: "random": $s = G_n(r_s, \tau)$, $t = G_n(r_t, \tau)$, $s_a = G_n(1, \tau)$, $t_a = G_n(p/q, \tau)$, where
    $\tau = \beta \sqrt{d (1 - p/q)}$ is the spread of the logits (beta the score scale),
    $r_s = \frac mq \frac{m-o}{q-p}$ and $r_t = \frac oq \frac{m-o}{q-p}$. "identity": the softmax of the mean logits,
    which are $\Delta = \beta \sqrt d (1 - p/q)$ higher on the diagonal; with $x = e^{-\Delta}$,
    $s = s_a = \frac{1 + (n-1) x^2}{(1 + (n-1) x)^2}$ and $t = t_a = \frac{2x + (n-2) x^2}{(1 + (n-1) x)^2}$.
    "uniform": all 1/n.

    Args:
        moments: before the layer, any shape; a stack over layers gives the masses of every layer.
        architecture: says which scores.
        table: as in `propagate`.
        score_scale: in place of the architecture's, broadcasting with the moments.

    Returns:
        `Masses` of the broadcast shape.

    How to read it: r_s is the correlation of one row's scores in the two runs: both the query and the keys are noisy,
    so it is rho^2 in the first layer. As tokens collapse, p -> q, the spread and Delta go to 0 and all masses to 1/n.
    For the identity the logits also scatter, by about beta; where the diagonal wins that does not matter, and where it
    does not, the scatter is small, as long as beta and log n are far below sqrt(d).

    Source: *reconstructed*; the leak of the identity is *ours*.
    """
    m, o, q, p = moments.parts()
    n, beta = architecture.tokens, architecture.score_scale if score_scale is None else score_scale
    apart = (1 - p / q).clamp(min=torch.finfo(q.dtype).eps)  # collapsed tokens: rounding must not make it negative
    if architecture.scores == "uniform":
        share = torch.full_like(apart, 1 / n)
        return Masses(share, share, share, share)
    if architecture.scores == "identity":
        x = torch.exp(-beta * math.sqrt(architecture.width) * apart)
        total = (1 + (n - 1) * x).square()
        same, other = (1 + (n - 1) * x.square()) / total, (2 * x + (n - 2) * x.square()) / total
        return Masses(same, other, same, other)
    table = table_for(architecture, q, table)
    spread = beta * math.sqrt(architecture.width) * apart.sqrt()
    shared = cut((m - o) / q / apart, 1) / q
    parts = torch.broadcast_tensors(m * shared, o * shared, torch.ones_like(q), p / q, spread)
    return Masses(*table(cut(torch.stack(parts[:4]), 1), spread).unbind())


def mixed(seen: Moments, masses: Masses, gain: Scalar) -> Moments:
    """Moments of the attention block's output."""
    m, o, q, p = seen.parts()
    return Moments(
        gain**2 * (o + masses.s * (m - o)),
        gain**2 * (o + masses.t * (m - o)),
        gain**2 * (p + masses.s_a * (q - p)),
        gain**2 * (p + masses.t_a * (q - p)),
    )


def activated(seen: Moments, mlp: str) -> Moments:
    """Moments of the MLP block's output."""
    if mlp == "none":
        return seen
    m, o, q, p = seen.broadcast().parts()
    kappas = cut(torch.stack((m, o, p)), q)
    if mlp == "relu":
        m, o, p = (2 * relu_moment(q, q, kappas)).unbind()
        return Moments(m, o, q, p)
    gain = activation_gain(mlp).to(q)
    m, o, p, q = (gain * activation_moment(mlp, q, q, torch.cat((kappas, q[None])))).unbind()
    return Moments(m, o, q, p)


def normed(state: Moments, architecture: Architecture) -> Moments:
    """What a block sees."""
    return state if architecture.norm == "none" else state.each(lambda moment: moment / state.q)


def added(state: Moments, block: Moments, architecture: Architecture) -> Moments:
    """The residual."""
    if architecture.residual == "none":
        return block
    share = 0.5 if architecture.residual == "scaled" else 1.0
    return Moments(*(share * (old + new) for old, new in zip(state.parts(), block.parts(), strict=True)))


def cut(values: Tensor, bound: Tensor | int) -> Tensor:
    """Cut off at ±bound; what rounding leaves beyond keeps its slope, or none would be left where both runs are one."""
    return values.clamp(-bound, bound).detach() + (values - values.detach())


def table_for(architecture: Architecture, like: Tensor, table: AgreementTable | None = None) -> AgreementTable | None:
    """The table, or the cached one in the dtype and on the device of `like`; only random scores need one."""
    tokens = architecture.tokens
    if table is None:
        random = architecture.scores == "random"
        return AgreementTable.of(tokens, dtype=like.dtype, device=like.device) if random else None
    if isinstance(table, AgreementTable) and table.tokens != tokens:
        raise ValueError(
            f"table is for tokens = {table.tokens} and the architecture has {tokens}: pass AgreementTable.of({tokens})"
        )
    return table


def per_layer(given: Scalar | None, default: float | int, layers: int, name: str) -> list[Scalar]:
    """One value for each layer, from a number or a tensor with the layer as its first axis."""
    value = default if given is None else given
    if not isinstance(value, Tensor) or value.ndim == 0:
        return [value] * layers
    if len(value) != layers:
        raise ValueError(f"{name} has shape {tuple(value.shape)}: its first axis is the layer, {layers} of them")
    return list(value)

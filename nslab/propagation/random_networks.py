"""The other side of the recursion: random networks of an `Architecture`, drawn, run and measured."""

import math
import time

import torch
from torch import Tensor

from nslab.gaussian.ranges import correlation
from nslab.propagation.activations import activation, activation_gain
from nslab.propagation.architecture import Architecture
from nslab.propagation.results import AgreementMass, MeasuredMoments, Measurement, agreement, pair_moments, refuse_nan
from nslab.protocols import check_whole
from nslab.stability.spaces import Scalar


@torch.no_grad()
def simulate(
    architecture: Architecture,
    rho: Scalar,
    *,
    inputs: int = 8,
    networks: int = 1,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Measurement:
    r"""Run random networks on Gaussian sequences X and their twins $\rho X + \sqrt{1 - \rho^2}\, Z$, and measure.

    Args:
        architecture: the blocks, and the laws of their weights; all weights are Gaussian.
        rho: correlations in [-1, 1], a number or a tensor (*rho).
        inputs: sequences a network is run on; all rho share X and Z, and X goes through once.
        networks: networks drawn, one after the other.
        generator: source of inputs and weights. Weights are drawn layer by layer and thrown away after use.
        device: where it runs; by default the generator's.
        dtype: of weights and states. Moments are summed up in float64.

    Returns:
        `Measurement`: `moments` (networks, layers + 1, *rho) and `agreement` (networks, layers, *rho; None without
        layers), each averaged over inputs and tokens. One network is one sample: `estimate` needs at least 2.

    How to read it: the recursion speaks of infinite width. One network of width d strays from it by about 1/sqrt(d),
    the mean over networks by less; what stays is what the recursion leaves out.

    Errors: `ValueError` for rho outside [-1, 1], counts under 1, and a layer with NaN (named), such as the one after a
    gain of 0 has killed the signal.

    Source: *ours*; the paper's setting is that of `Architecture`.

    >>> found = simulate(Architecture(4, 256, 1), 0.7, inputs=32, generator=torch.Generator().manual_seed(0))
    >>> [round(moment, 1) for moment in found.moments.moments.correlation.tolist()]
    [0.7, 0.5]
    """
    start = time.perf_counter()
    check_whole(inputs=inputs, networks=networks)
    if inputs < 1 or networks < 1:
        raise ValueError(f"inputs is {inputs}, networks {networks}: give at least 1 of each")
    device = torch.device(device or (generator.device if generator is not None else "cpu"))
    levels = correlation(torch.as_tensor(rho, dtype=torch.float64)).to(device)
    states, masses = [], []
    for _ in range(networks):
        source = {"generator": generator, "device": device, "dtype": dtype}
        x, z = torch.randn(2, inputs, architecture.tokens, architecture.width, **source)
        level = levels.reshape(-1, 1, 1, 1)
        fresh = ((1 - level) * (1 + level)).sqrt()
        found = _run(torch.cat([x[None], level.to(dtype) * x + fresh.to(dtype) * z]), architecture, generator)
        states.append(_mean_over_inputs(found[0]))
        masses.append(_mean_over_inputs(found[1]))
    five, four = ([torch.stack(part) for part in zip(*several, strict=True)] for several in (states, masses))
    refuse_nan(five, [f"layer {number}" for number in range(architecture.layers + 1)])
    five, four = ([_shaped(part, levels) for part in parts] for parts in (five, four))
    seconds = time.perf_counter() - start
    mass = AgreementMass(*four, seconds) if four else None
    return Measurement(levels, MeasuredMoments(*five, seconds), mass, {}, seconds)


def _run(h: Tensor, shape: Architecture, generator: torch.Generator | None) -> tuple[list, list]:
    """States (runs, inputs, tokens, width) through all layers; what is measured before and after each."""
    d = shape.width

    def matrix(spread: float) -> Tensor:
        return torch.randn(d, d, generator=generator, device=h.device, dtype=h.dtype) * spread

    restore = 1.0 if shape.mlp == "none" else math.sqrt(activation_gain(shape.mlp).item() / d)
    states, masses = [pair_moments(h)], []
    for _ in range(shape.layers):
        x = _normed(h, shape.norm)
        weights = _weights(x, shape, matrix(shape.score_scale) if shape.scores == "random" else None)
        masses.append(agreement(weights))
        h = _added(h, weights @ x @ matrix(shape.gain / math.sqrt(d)), shape.residual)
        if shape.mlp != "none":
            inner = activation(shape.mlp)(_normed(h, shape.norm) @ matrix(1 / math.sqrt(d)))
            h = _added(h, inner @ matrix(restore), shape.residual)
        states.append(pair_moments(h))
    return states, masses


def _normed(h: Tensor, norm: str) -> Tensor:
    """Each token divided by its root mean square, its mean over coordinates removed first for "layer"."""
    if norm == "none":
        return h
    h = h - h.mean(-1, keepdim=True) if norm == "layer" else h
    return h / h.square().mean(-1, keepdim=True).sqrt()


def _weights(x: Tensor, shape: Architecture, w: Tensor | None) -> Tensor:
    """Row softmax of x_i^T W x_k / (sqrt(d) q), q the mean square of the sequence, (runs, inputs, query, key)."""
    if shape.scores == "uniform":
        logits = x.new_zeros(*x.shape[:-1], x.shape[-2])
    else:
        query = shape.score_scale * x if w is None else x @ w
        logits = query @ x.mT / (math.sqrt(shape.width) * x.square().mean((-2, -1), keepdim=True))
    if shape.causal:
        hidden = torch.ones(logits.shape[-2:], dtype=torch.bool, device=x.device).triu(1)
        logits = logits.masked_fill(hidden, -math.inf)
    return logits.softmax(-1)


def _added(h: Tensor, block: Tensor, residual: str) -> Tensor:
    if residual == "none":
        return block
    return h + block if residual == "pre-norm" else (h + block) / math.sqrt(2)


def _mean_over_inputs(layers: list[tuple[Tensor, ...]]) -> list[Tensor]:
    """Layers of numbers (inputs, rho), each averaged and stacked: (layers, rho)."""
    return [torch.stack(part).mean(1) for part in zip(*layers, strict=True)]


def _shaped(part: Tensor, levels: Tensor) -> Tensor:
    return part.unflatten(-1, levels.shape) if levels.ndim else part[..., 0]

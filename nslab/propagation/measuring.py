"""Running any network on inputs and on their noisy twins, and reducing each layer to its moments at once."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from nslab.batches import ACCELERATOR_POSITIONS, CPU_POSITIONS
from nslab.propagation.results import (
    AgreementMass,
    MeasuredMoments,
    Measurement,
    agreement,
    equalised,
    pair_moments,
    refuse_nan,
)
from nslab.protocols import check_mode, check_whole
from nslab.stability import EmbeddingNoise
from nslab.stability.embedding_noise import check_embeddings, correlations
from nslab.stability.spaces import Scalar


@torch.no_grad()
def measure(
    model: Any,
    embeddings: Float[Tensor, "..."],
    rho: Scalar,
    *,
    noise: EmbeddingNoise | None = None,
    noisy: Bool[Tensor, "..."] | None = None,
    draws: int = 1,
    weights: bool = False,
    parts: Sequence[str] = (),
    skip: int = 0,
    equal_lengths: bool = False,
    generator: torch.Generator | None = None,
) -> Measurement:
    r"""Moments and agreement mass at every layer of a network that is entered at its embeddings.

    Args:
        model: has `trace(embeddings, at)`, as `nslab.transformer.Transformer` and every model of `nslab.zoo`; for
            `weights` also `look(embeddings, at)`.
        embeddings: (prompts, length, width), for example `model.embed(ids)`.
        rho: correlations in [0, 1], a number or a tensor (*rho).
        noise: makes the twins; by default `EmbeddingNoise.of(embeddings)`.
        noisy: where noise acts, (prompts, length); everywhere by default.
        draws: twins of each prompt at each rho; all rho share their randomness.
        weights: whether to measure the agreement mass of every head; takes the slower path that forms the weights.
        parts: names of submodules whose outputs are measured too, such as "layers.0.attention_norm".
        skip: tokens at the beginning that are left out of the averages (as keys of attention they stay).
        equal_lengths: whether every token is scaled to the length of a typical one (the geometric mean over its
            sequence) before the moments are taken; m/q is then the mean cosine.
        generator: source of randomness, on the device of the embeddings.

    Returns:
        `Measurement`; its samples are the prompts, each averaged over its tokens and draws.

    How to read it: many trained models make a few states, the first token's among them, a hundred times longer than
    all others. Their squares are then nearly all there is of m and q. `equal_lengths` lets all tokens count alike, as
    the norm before each block does. A prompt goes through the network once, together with all its twins, and its states
    are reduced before the next one comes.

    Errors: `ValueError` for rho outside [0, 1], embeddings of a wrong shape, a model in training mode or without
    `trace`, a part that is unknown or not called just once, and NaN or infinity in a layer (named).

    Source: *ours*.
    """
    start = time.perf_counter()
    levels = correlations(rho)
    check_embeddings(embeddings, noisy)
    if not hasattr(model, "trace"):
        raise ValueError(f"model is {type(model).__name__} and has no trace: measure_layers takes any other module")
    if weights and not hasattr(model, "look"):
        raise ValueError(f"model is {type(model).__name__} and has no look: leave weights=True out")
    module = model if isinstance(model, nn.Module) else getattr(model, "module", None)
    check_mode(module, "model")
    check_whole(draws=draws, skip=skip)
    if draws < 1 or not 0 <= skip < embeddings.shape[1]:
        raise ValueError(f"draws is {draws}, skip {skip}: draw at least once, and leave at least one token")
    noise = noise or EmbeddingNoise.of(embeddings)
    fresh = [noise.draw(embeddings, generator) for _ in range(draws)]
    runs = 1 + draws * levels.numel()
    found = {"hidden": [], "weights": [], **{name: [] for name in parts}}
    for rows in _slices(len(embeddings), runs * embeddings.shape[1], embeddings.device):
        acts = None if noisy is None else noisy[rows]
        stack = _twins(embeddings[rows], [z[rows] for z in fresh], levels, noise, acts)
        shape, at = stack.shape[:2], stack.new_zeros(stack.shape[:2].numel(), dtype=torch.int64)  # one logit a row

        def reduced(states: Tensor, shape: torch.Size = shape) -> tuple[Tensor, ...]:
            states = states.unflatten(0, shape)[:, :, skip:]  # (runs, batch, tokens, width)
            return pair_moments(equalised(states) if equal_lengths else states)

        def keep(name: str, states: Tensor, reduced: Callable = reduced) -> None:
            found[name].append([reduced(states)])

        with _watched(module, parts, keep):
            _, hidden, *looked = (model.look if weights else model.trace)(stack.flatten(0, 1), at)
        found["hidden"].append([reduced(states) for states in hidden])
        for one in looked:
            found["weights"].append([agreement(heads.unflatten(0, shape)[..., skip:, :]) for heads in one])
    seconds = time.perf_counter() - start
    grid = (draws, levels)
    layers = _joined(found["hidden"], *grid, [f"layer {number}" for number in range(len(hidden))])
    mass = AgreementMass(*_joined(found["weights"], *grid), seconds) if weights else None
    told = {name: [part[:, 0] for part in _joined(found[name], *grid, [name])] for name in parts}
    told = {name: MeasuredMoments(*five, seconds) for name, five in told.items()}
    return Measurement(levels.to(embeddings.device), MeasuredMoments(*layers, seconds), mass, told, seconds)


@torch.no_grad()
def measure_layers(
    module: nn.Module,
    x: Float[Tensor, "batch *shape"],
    rho: Scalar,
    *,
    layers: Sequence[str],
    noise: EmbeddingNoise | None = None,
    draws: int = 1,
    arrange: Callable[[Tensor], Tensor] | None = None,
    generator: torch.Generator | None = None,
) -> Measurement:
    r"""Moments of any module on inputs and twins $\rho x + \sqrt{1 - \rho^2}\, z$: a perceptron, a convolution.

    Args:
        module: in evaluation mode; row i of its output depends on row i of its input (for torch's recurrent and
            attention modules: `batch_first=True`).
        x: inputs (batch, ...), for example standard Gaussian.
        rho: correlations in [0, 1], a number or a tensor (*rho).
        layers: names of submodules, from `module.named_modules()`; "" is the module itself.
        noise: makes the twins; standard Gaussian by default.
        draws: twins of each input at each rho; all rho share their randomness.
        arrange: a layer's output (rows, ...) to (rows, tokens, width). By default (rows, tokens, width) stays, images
            (rows, channels, height, width) have a token for each pixel (for the (rows, channels, length) of a Conv1d
            pass `lambda h: h.mT`), and of (rows, width) the rows are the tokens of one sample: o and p then come from
            different inputs, and "centred" is the correlation over inputs.
        generator: source of randomness, on the device of x.

    Returns:
        `Measurement`, whose moments are (samples, layers, *rho).

    How to read it: see `MeasuredMoments`. For standard errors give a perceptron its inputs as (groups, rows, width).

    Errors: `ValueError` for rho outside [0, 1], a layer that is unknown or not called just once, a module in training
    mode, outputs of another shape, and NaN or infinity in a layer (named).

    Source: *ours*.

    >>> relu = nn.Sequential(nn.ReLU()).eval()
    >>> x = torch.randn(100_000, 1, generator=torch.Generator().manual_seed(0))
    >>> found = measure_layers(relu, x, 0.5, layers=["0"], generator=torch.Generator().manual_seed(1))
    >>> round(found.moments.m.item(), 2)  # Theorem 5.1: 0.304
    0.3
    """
    start = time.perf_counter()
    levels = correlations(rho)
    check_mode(module, "module")
    check_whole(draws=draws)
    if draws < 1 or not layers:
        raise ValueError(f"draws is {draws}, layers {list(layers)}: draw at least once, and name at least one layer")
    noise = noise or EmbeddingNoise(x.new_zeros(1), x.new_ones(1))
    stack = _twins(x, [noise.draw(x, generator) for _ in range(draws)], levels, noise, None)
    shape, found = stack.shape[:2], {}

    def keep(name: str, output: Tensor) -> None:
        states = (arrange or _arranged)(output)
        if states.ndim not in (2, 3) or len(states) != shape.numel():
            raise ValueError(
                f"layer {name!r} gives {tuple(states.shape)} for {shape.numel()} inputs: pass arrange= to turn it into "
                "(rows, tokens, width)"
            )
        states = states.unflatten(0, shape)
        found[name] = pair_moments(states if states.ndim == 4 else states[:, None])

    with _watched(module, layers, keep):
        module(stack.flatten(0, 1))
    counts = {name: len(found[name][0]) for name in layers}
    if other := [name for name in layers if counts[name] != counts[layers[0]]]:
        raise ValueError(
            f"layers: {layers[0]!r} has {counts[layers[0]]} samples, {other[0]!r} has {counts[other[0]]}: ask for them "
            "in two calls, or pass arrange="
        )
    five = _joined([[found[name] for name in layers]], draws, levels, [f"layer {name!r}" for name in layers])
    seconds = time.perf_counter() - start
    return Measurement(levels.to(x.device), MeasuredMoments(*five, seconds), None, {}, seconds)


def _slices(prompts: int, positions: int, device: torch.device) -> list[slice]:
    """Prompts that go through the network together, `positions` being what one of them and its twins take."""
    step = max(1, (CPU_POSITIONS if device.type == "cpu" else ACCELERATOR_POSITIONS) // positions)
    return [slice(begin, begin + step) for begin in range(0, prompts, step)]


def _twins(x: Tensor, fresh: list[Tensor], levels: Tensor, noise: EmbeddingNoise, noisy: Tensor | None) -> Tensor:
    """The clean x and then its twins, draw by draw, (1 + draws * rho, batch, ...)."""
    rho = levels.reshape(-1, *[1] * x.ndim)
    all_rho = (len(rho), *x.shape)
    stack = torch.cat([x[None], *(noise.twin(x.expand(all_rho), rho, z.expand(all_rho)) for z in fresh)])
    return stack if noisy is None else torch.where(noisy[..., None], stack, x)


def _arranged(output: Tensor) -> Tensor:
    return output.flatten(2).mT if output.ndim > 3 else output  # (rows, channels, *pixels) -> (rows, pixels, channels)


@contextlib.contextmanager
def _watched(module: nn.Module | None, names: Sequence[str], keep: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Hand the output of each named submodule to `keep` while the context is open; each must be called just once."""
    known = {} if module is None else dict(module.named_modules(remove_duplicate=False))
    if unknown := [name for name in names if name not in known]:
        some = ", ".join(repr(name) for name in list(known)[1:4])
        raise ValueError(f"there is no submodule {unknown[0]!r}: take names from named_modules(), such as {some}")
    called = set()
    with contextlib.ExitStack() as hooks:
        for name in dict.fromkeys(names):

            def hook(_: nn.Module, given: tuple, output: Any, name: str = name) -> None:
                output = output[0] if isinstance(output, tuple | list) else output
                if name in called:
                    raise ValueError(f"submodule {name!r} is called more than once: its states would be mixed up")
                if not isinstance(output, Tensor):
                    raise ValueError(
                        f"submodule {name!r} returns {type(output).__name__}: name one that returns a tensor"
                    )
                called.add(name)
                keep(name, output)

            hooks.callback(known[name].register_forward_hook(hook).remove)
        yield
    if silent := [name for name in names if name not in called]:
        raise ValueError(f"submodule {silent[0]!r} is never called: name submodules that compute")


def _joined(
    batches: list[list[tuple[Tensor, ...]]], draws: int, levels: Tensor, names: Sequence[str] = ()
) -> list[Tensor]:
    """Batches of layers of numbers (batch, ..., draws * rho), each put together as (samples, layers, ..., *rho)."""
    found = []
    for number in range(len(batches[0][0])):
        whole = torch.cat([torch.stack([layer[number] for layer in batch], 1) for batch in batches])
        found.append(whole.unflatten(-1, (draws, -1)).mean(-2).unflatten(-1, levels.shape or (1,)))
    refuse_nan(found, names)
    return found if levels.ndim else [part[..., 0] for part in found]

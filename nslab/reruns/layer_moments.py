"""Layer by layer through trained networks: four moments, agreement of every head, and where theory parts from them.

Prompts go through a trained network beside noisy twins of their embeddings. At every layer stand the moments
m, o, q, p of the residual stream, of what the attention and MLP blocks read and of what they add, and the agreement
mass of every head. All tokens count alike (`measure(equal_lengths=True)`): a few states of trained networks are a
hundred times longer than the others. `raw` has the stream as it is.

Theory is then given what it cannot know of trained weights, and asked for the rest:

- plugged in: the gain of every attention and MLP block and the mean square of the MLP's preactivations, both of the
  clean run, and the agreement masses, means over heads, at each rho;
- predicted: m, o, q, p of the stream. A block reads the stream divided by its root mean square. Attention mixes the
  moments by the masses, the MLP applies the second moment of its activation, and what they add is uncorrelated with
  what is there. The gains are read off the clean run's q, so that q says little there; m, o and p are the test.

"start" predicts from the embeddings on, "ahead" each layer from the measured stream before it, "attention_ahead" and
"mlp_ahead" each block's output from its measured input. `cross` is the share of q that comes from the correlation of
blocks and stream, 0 in theory.
"""

from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from nslab import zoo
from nslab.propagation.activations import activation_moment
from nslab.propagation.measuring import measure
from nslab.propagation.moments import Moments
from nslab.propagation.recursion import Masses, mixed
from nslab.propagation.results import MeasuredMoments
from nslab.records import RunLog
from nslab.reruns.who_matters import prompt_texts

PARTS = ("attention_input", "attention_output", "mlp_input", "preactivation", "mlp_output")


@dataclass(frozen=True)
class Config:
    """What is measured, for each model.

    Attributes:
        seeds: independent draws of prompts and noise, each with `prompts` prompts.
        models: names for `nslab.zoo.load`: a `Transformer` with GELU, or a model built like Llama.
        text: "corpus" for the prompts of who-matters, which must be fetched, or "own": the model writes them.
        prompts: prompts a seed.
        length: tokens a prompt; a model with a shorter context gets that many.
        rho: correlations of noisy embeddings with the clean ones; the last is 1.
        draws: noisy twins of a prompt at each rho.
        skip: tokens at the beginning that are left out of the averages: the first sees nothing but itself.
        dtype: floating-point type of the model.
    """

    seeds: int = 1
    models: tuple[str, ...] = ("char-gpt", "smollm2-135m")
    text: str = "corpus"
    prompts: int = 32
    length: int = 128
    rho: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)
    draws: int = 1
    skip: int = 1
    dtype: str = "float32"


PRESETS = {
    "quick": Config(models=("char-gpt",), text="own", prompts=16, length=64, rho=(0.25, 0.5, 0.75, 0.9, 1.0)),
    "laptop": Config(),
    "full": Config(seeds=4, prompts=64, draws=4),
}


@dataclass(frozen=True)
class Layout:
    """Names of the submodules of layer {}, one for each of `PARTS`, and the kind of the MLP.

    Attributes:
        parts: see above.
        activation: of the MLP.
        gated: whether its hidden layer is activation(gate) * up, with another linear map for up.
        last: a layer, for models whose last hidden state is told after the final norm.
    """

    parts: tuple[str, ...]
    activation: str
    gated: bool
    last: str | None


_OURS = ("attention_norm", "attention.output", "mlp_norm", "mlp.input", "mlp.output")
_LLAMA = ("input_layernorm", "self_attn.o_proj", "post_attention_layernorm", "mlp.gate_proj", "mlp.down_proj")
LAYOUTS = (
    Layout(tuple(f"layers.{{}}.{name}" for name in _OURS), "gelu", gated=False, last=None),
    Layout(tuple(f"model.layers.{{}}.{name}" for name in _LLAMA), "silu", gated=True, last="model.layers.{}"),
)


def run(config: Config, log: RunLog, *, device: torch.device) -> dict:
    """Measure model by model and seed by seed; a kill loses the seed at work."""
    if config.rho[-1] != 1:
        raise ValueError(f"rho ends with {config.rho[-1]}: let it end with 1, where the gains are read off")
    done = log.restored["done"] if log.restored else {}
    total, told = config.seeds * len(config.models), {}
    for name in config.models:
        model = zoo.load(name, device=device, dtype=getattr(torch, config.dtype))
        for seed in range(config.seeds):
            log.progress(len(done), total, name)
            if f"{name}/{seed}" not in done:
                done[f"{name}/{seed}"] = measured(config, model, seed)
                log.save({"done": done})
        seeds = [done[f"{name}/{seed}"] for seed in range(config.seeds)]
        whole = {key: torch.cat([one[key] for one in seeds]) for key in seeds[0]}
        told[name], series = compared(whole, layout_of(model))
        told[name] |= {"provenance": model.provenance, "length": min(config.length, model.context)}
        log.record(0, **{f"{name}/{key}": value.float() for key, value in series.items()})
    log.progress(total, total)
    return {"config": asdict(config), "models": told}


def phenomenon(result: dict) -> str | None:
    """Under strong noise what tokens have of their own loses correlation; and theory loses the track layer by layer."""
    for name, model in result["models"].items():
        for first, last, rho in zip(model["centred"][0], model["centred"][-1], result["config"]["rho"], strict=True):
            if rho <= 0.5 and last >= first:
                return f"{name}: a centred correlation that falls with depth; at rho {rho} it goes to {last:.3f}"
        if model["gap"]["start"][-1] <= model["gap"]["ahead"][-1]:
            return f"{name}: a prediction from the start that is worse than the one from the layer before"
    return None


def layout_of(model: zoo.LanguageModel) -> Layout:
    """How the model names its blocks. Errors: `ValueError` for a model of another family."""
    known = dict(model.module.named_modules())
    for layout in LAYOUTS:
        if all(name.format(0) in known for name in layout.parts):
            return layout
    raise ValueError(f"models has {model.name!r}, whose blocks have other names than those of a Transformer or a Llama")


def measured(config: Config, model: zoo.LanguageModel, seed: int) -> dict[str, Tensor]:
    """Moments of every prompt (prompts, m o q p and clean q, layers, rho), and agreement masses with heads."""
    layout, length = layout_of(model), min(config.length, model.context)
    generator = torch.Generator(model.device).manual_seed(seed)
    if config.text == "own":
        ids = written(model, config.prompts, length, generator)
    else:
        ids = model.prompts(prompt_texts(model, config.prompts, length, seed)[0], length)
    named = {
        part: [name.format(n) for n in range(model.layers)] for part, name in zip(PARTS, layout.parts, strict=True)
    }
    last = [layout.last.format(model.layers - 1)] if layout.last else []
    asked = {"draws": config.draws, "skip": config.skip}
    subject = (model, model.embed(ids), torch.tensor(config.rho, dtype=torch.float64))
    noise = lambda: torch.Generator(model.device).manual_seed(10_000 + seed)  # noqa: E731
    raw = measure(*subject, parts=last, generator=noise(), **asked)
    parts = [*last, *(name for names in named.values() for name in names)]
    found = measure(*subject, weights=True, parts=parts, equal_lengths=True, generator=noise(), **asked)
    told = {part: torch.stack([_numbers(found.parts[name]) for name in names], 2) for part, names in named.items()}
    for key, one in (("stream", found), ("raw", raw)):
        told[key] = _numbers(one.moments)
        for name in last:
            told[key][:, :, -1] = _numbers(one.parts[name])
    mass = found.agreement
    told["agreement"] = torch.stack([mass.s, mass.t, mass.s_a, mass.t_a], 1)
    return {name: value.cpu() for name, value in told.items()}


def written(model: zoo.LanguageModel, prompts: int, length: int, generator: torch.Generator) -> Tensor:
    """Texts that the model writes itself, token by token after a line break, (prompts, length)."""
    ids = model.encode("\n").expand(prompts, -1)
    with torch.no_grad():
        while ids.shape[1] < length:
            at = torch.full((prompts,), ids.shape[1] - 1, device=ids.device)
            ids = torch.cat([ids, model(ids, at).float().softmax(-1).multinomial(1, generator=generator)], 1)
    return ids


@dataclass(frozen=True)
class Plugged:
    """What theory is told of one layer, or of all, with the layer as first axis.

    Attributes:
        attention: the gain of the attention block: the norm of a column of values and output together.
        mlp: the mean square of what the MLP adds.
        preactivation: mean square of what its activation is applied to.
        masses: agreement masses at each rho.
    """

    attention: Tensor
    mlp: Tensor
    preactivation: Tensor
    masses: Masses

    def layer(self, number: int) -> "Plugged":
        """What theory is told of one layer."""
        masses = Masses(*(getattr(self.masses, name)[number] for name in ("s", "t", "s_a", "t_a")))
        return Plugged(self.attention[number], self.mlp[number], self.preactivation[number], masses)


def step(stream: Moments, plugged: Plugged, layout: Layout) -> Moments:
    """One layer of theory: the stream after it, from the stream before it."""
    middle = _sum(stream, mixed(_unit(stream), plugged.masses, plugged.attention))
    return _sum(middle, activated(_unit(middle), plugged, layout))


def activated(seen: Moments, plugged: Plugged, layout: Layout) -> Moments:
    r"""What the MLP adds: $g^2\, C(c)/C(1)$ for c in (m, o, q, p), C the second moment of its hidden layer.

    With a gate the hidden layer is a product of two independent factors, and so is its second moment.
    """
    q = plugged.preactivation

    def hidden(c: Tensor) -> Tensor:
        moment = activation_moment(layout.activation, q, q, q * c.clamp(-1, 1))
        return moment * c if layout.gated else moment

    scale = plugged.mlp / hidden(torch.ones_like(q))
    m, o, p = (scale * hidden(c) for c in (seen.m, seen.o, seen.p))
    return Moments(m, o, plugged.mlp.expand_as(m), p)


def compared(whole: dict[str, Tensor], layout: Layout) -> tuple[dict, dict[str, Tensor]]:
    """Theory beside the measurement of one model: what the result tells, and the series of the history."""
    means = {
        name: value.mean(0) for name, value in whole.items()
    }  # (5, layers, rho); agreement (4, layers, heads, rho)
    stream, read, added, into, out = (
        Moments(*means[name][:4])
        for name in ("stream", "attention_input", "attention_output", "mlp_input", "mlp_output")
    )
    masses = Masses(*means["agreement"].mean(2))
    full = mixed(_unit(read), masses, 1.0).q[:, -1:]  # what a gain of 1 would add, in the clean run
    clean = {name: means[name][4, :, -1:] for name in PARTS}  # (layers, 1)
    gain = (clean["attention_output"] / full).sqrt()
    plugged = Plugged(gain, clean["mlp_output"], clean["preactivation"], masses)
    states = [stream[0]]
    for number in range(len(gain)):
        states.append(step(states[-1], plugged.layer(number), layout))
    start, ahead = Moments.stack(states), step(stream[:-1], plugged, layout)
    error = MeasuredMoments(*whole["stream"].unbind(1), 0.0).estimate
    series = means | {
        "stderr": torch.stack([error("correlation").stderr, error("centred").stderr]),
        "start": torch.stack(start.parts()),
        "ahead": torch.stack(ahead.parts()),
        "attention_ahead": torch.stack(mixed(_unit(read), masses, gain).parts()),
        "mlp_ahead": torch.stack(activated(_unit(into), plugged, layout).parts()),
        "gains": torch.stack([gain, plugged.mlp.sqrt(), plugged.preactivation.sqrt()])[..., 0],
        "cross": (stream.q[1:] - stream.q[:-1] - added.q - out.q) / stream.q[1:],
    }
    noisy = slice(None, -1)  # all rho but 1
    gaps = {
        "start": (start.correlation - stream.correlation)[1:, noisy],
        "ahead": (ahead.correlation - stream.correlation[1:])[:, noisy],
        "attention": (Moments(*series["attention_ahead"]).correlation - added.correlation)[:, noisy],
        "mlp": (Moments(*series["mlp_ahead"]).correlation - out.correlation)[:, noisy],
    }
    told = {
        "prompts": len(whole["stream"]),
        "correlation": stream.correlation.tolist(),
        "centred": ((stream.m - stream.o) / (stream.q - stream.p)).tolist(),
        "token_correlation": stream.token_correlation.tolist(),
        "drift": ((2 * stream.q - means["stream"][4]) / means["stream"][4]).tolist(),
        "gap": {name: gap.abs().mean(-1).tolist() for name, gap in gaps.items()},
    }
    return told, series


def _numbers(found: MeasuredMoments) -> Tensor:
    """(samples, m o q p and clean q, ..., rho)."""
    return torch.stack([found.m, found.o, found.q, found.p, found.clean], 1)


def _unit(stream: Moments) -> Moments:
    """What a block reads: the norm before it divides by the root mean square."""
    return stream.each(lambda moment: moment / stream.q)


def _sum(stream: Moments, block: Moments) -> Moments:
    return Moments(*(old + new for old, new in zip(stream.parts(), block.parts(), strict=True)))

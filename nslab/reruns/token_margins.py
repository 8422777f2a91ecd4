"""Which tokens of real sentences are support tokens, and do their margins foretell what a disturbance does to the loss?

For each model, two things. First the margins of every token of a few sentences, in every layer and head, at several
temperatures. Then, on longer texts at temperature 1, three numbers a head and token, the barrier -log |det J_i|, the
gain 1/s_i and the entropy of the attention weights, set against the change of the loss when that token is disturbed.

The loss is the local one: -log p of token i + 1, read at position i. Token i is disturbed alone, in two ways: it is
*replaced* by another token, drawn from the frequencies of the corpus; or Gaussian *noise* is added to its embedding.
Earlier tokens stay as they are. The change is the mean of |loss after - loss before| over the draws. All correlations
are Spearman's, taken within one text over its tokens and then averaged over texts, so that no text counts for its
level. Margins shrink and losses settle along a text: each correlation is therefore also told with the position held
fixed (partial rank correlation).
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor

from nslab import zoo
from nslab.barrier.text_margins import margins, rank_agreement
from nslab.noise import unigram_law
from nslab.records import Record, RunLog
from nslab.reruns._token_correlations import NEUTRAL, TARGETS, correlations, quantiles, series
from nslab.reruns.who_matters import SENTENCES, prompt_texts

NEAR = 0.5  # a determinant below this is near the boundary


@dataclass(frozen=True)
class Config:
    """What is measured, for each model.

    Attributes:
        seeds: independent draws of texts and disturbances.
        models: names for `nslab.zoo.load`; stories260k is another, where NSLAB_MODELS holds it.
        temperature: factors of the logits at which the sentences are looked at; 1 must be among them.
        texts: texts a seed.
        length: tokens of each.
        draws: replacements, and as many noises, of each token.
        noise: standard deviation of the noise, in units of the root mean square of the text's embeddings.
        dtype: floating-point type of the model.
    """

    seeds: int = 1
    models: tuple[str, ...] = ("char-gpt",)
    temperature: tuple[float, ...] = (0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0)
    texts: int = 20
    length: int = 32
    draws: int = 4
    noise: float = 0.5
    dtype: str = "float32"


PRESETS = {
    "quick": Config(),
    "laptop": Config(models=("char-gpt", "smollm2-135m")),
    "full": Config(seeds=5, models=("char-gpt", "smollm2-135m"), length=64, draws=8),
}


def run(config: Config, log: RunLog, *, device: torch.device) -> dict:
    """Measure model by model and text by text; a kill loses the text at work."""
    if 1 not in config.temperature:
        raise ValueError(f"temperature is {config.temperature}: 1, the model as it is, must be among them")
    done = log.restored["done"] if log.restored else {}
    total = len(config.models) * (1 + config.seeds * config.texts)
    models = {}
    for name in config.models:
        model = zoo.load(name, device=device, dtype=getattr(torch, config.dtype))
        if f"{name}/sentences" not in done:
            done[f"{name}/sentences"] = _sentences(config, model)
            log.save({"done": done})
        for key, ids, law, generator in _texts(config, model):
            log.progress(len(done), total, f"{name}: margins and losses")
            if key not in done:
                done[key] = _measured(config, model, ids, law, generator)
                log.save({"done": done})
        parts = [found for key, found in done.items() if key.startswith(f"{name}/text/")]
        texts = {part: torch.stack([found[part] for found in parts]) for part in parts[0]}
        models[name] = _result(config, model, done[f"{name}/sentences"], texts)
        for number, found in enumerate(done[f"{name}/sentences"]):
            parts = {f"{name}/sentence_{number}/{part}": found[part] for part in ("barrier", "sign", "spectral")}
            log.record(0, **parts)
        log.record(0, **{f"{name}/{part}": value for part, value in series(texts).items()})
    log.progress(total, total)
    return {"config": asdict(config), "models": models}


def phenomenon(result: dict) -> str | None:
    """The first two tokens are neutral, some head brings a token near the boundary, and which one hangs on beta."""
    for name, model in result["models"].items():
        if model["neutral"] > 1e-6:
            return f"{name}: the barrier of the first two tokens is {model['neutral']:.1e} and not 0"
        if not model["near"] > 0:
            return f"{name}: no head brings a token of a sentence near the boundary"
        if all(len({closest["position"] for closest in told["closest"]}) == 1 for told in model["sentences"]):
            return f"{name}: the support token is the same at every temperature, in every sentence"
    return None


def _sentences(config: Config, model: zoo.LanguageModel) -> list[dict]:
    """Margins of the fixed sentences at every temperature, in half the bytes."""
    found = []
    for text in SENTENCES:
        ids = model.encode(text, truncate=model.context, unknown="skip")
        one = margins(model, ids, temperature=torch.tensor(config.temperature))
        parts = {"barrier": one.barrier.half(), "sign": one.sign.to(torch.int8), "spectral": one.spectral.half()}
        found.append({"text": text, "pieces": list(one.pieces), **{part: value.cpu() for part, value in parts.items()}})
    return found


def _texts(config: Config, model: zoo.LanguageModel) -> Iterator[tuple[str, Tensor, Tensor, torch.Generator]]:
    """Name, ids, unigram law and generator of every text; the generator does not hang on what was done before."""
    for seed in range(config.seeds):
        texts, corpus = prompt_texts(model, config.texts, config.length, seed)
        known = torch.cat([model.encode(text, truncate=model.context, unknown="skip").cpu() for text in corpus])
        law = unigram_law(known, model.vocabulary, model.special)
        for number, ids in enumerate(model.prompts(texts, config.length)):
            generator = torch.Generator().manual_seed(1000 * seed + number)
            yield f"{model.name}/text/{seed}/{number}", ids, law, generator


def _measured(
    config: Config, model: zoo.LanguageModel, ids: Tensor, law: Tensor, generator: torch.Generator
) -> dict[str, Tensor]:
    """Of one text: barrier, gain and entropy (layers, heads, n); changes of the loss (n - 1,) and rank agreement."""
    found = margins(model, ids)
    with torch.no_grad():
        weights = torch.stack(model.look(model.embed(ids[None]))[2])[:, 0].float()  # (layers, heads, n, n)
    parts = {
        "barrier": found.barrier,
        "gain": -found.spectral.log(),
        "entropy": _entropy(weights),
        **_changes(config, model, ids, law, generator),
        "agreement": rank_agreement(found),
    }
    return {part: value.float().cpu() for part, value in parts.items()}


def _entropy(weights: Tensor) -> Tensor:
    """Entropy in nats of the weights over the strict past, as the margins take them; 0 where there is none."""
    past = weights.tril(-1)
    past = past / past.sum(-1, keepdim=True).clamp(min=torch.finfo(past.dtype).tiny)
    return torch.special.entr(past).sum(-1)


@torch.no_grad()
def _changes(
    config: Config, model: zoo.LanguageModel, ids: Tensor, law: Tensor, generator: torch.Generator
) -> dict[str, Tensor]:
    """Mean |change| of the loss at position i when token i is replaced, or its embedding disturbed, (n - 1,)."""
    clean = model.embed(ids[None])  # (1, n, width)
    scale = config.noise * clean.square().mean().sqrt()
    changes = {target: [] for target in TARGETS}
    for i in range(len(ids) - 1):  # the model is causal: later tokens have no part in the loss at i
        others = law.clone()
        others[int(ids[i])] = 0
        fresh = torch.multinomial(others, config.draws, replacement=True, generator=generator).to(ids)
        noise = torch.randn(config.draws, clean.shape[-1], generator=generator).to(clean)
        rows = clean[:, : i + 1].repeat(1 + 2 * config.draws, 1, 1)
        rows[1 : 1 + config.draws, i] = model.embed(fresh[:, None])[:, 0]
        rows[1 + config.draws :, i] += scale * noise
        at = ids.new_full((len(rows),), i)
        loss = -model.from_embeddings(rows, at).float().log_softmax(-1)[:, ids[i + 1]]
        change = (loss[1:] - loss[0]).abs().view(2, config.draws).mean(1)
        for target, value in zip(TARGETS, change, strict=True):
            changes[target].append(value)
    return {target: torch.stack(values) for target, values in changes.items()}


def _result(config: Config, model: zoo.LanguageModel, sentences: list[dict], texts: dict[str, Tensor]) -> dict:
    """What is told of one model."""
    one = config.temperature.index(1)
    barrier = torch.cat([found["barrier"][:, :, NEUTRAL:, one].flatten() for found in sentences]).float()
    sign = torch.cat([found["sign"][:, :, NEUTRAL:, one].flatten() for found in sentences])
    first = torch.cat([found["barrier"][:, :, :NEUTRAL].flatten() for found in sentences]).float()
    agreement = texts["agreement"].nanmean(0).flatten()
    return {
        "shape": list(texts["barrier"].shape[1:3]),
        "neutral": max(first.abs().max().item(), texts["barrier"][..., :NEUTRAL].abs().max().item()),
        "near": (barrier > -np.log(NEAR)).double().mean().item(),
        "crossed": (sign < 0).double().mean().item(),
        "agreement": quantiles(agreement),
        "correlations": correlations(texts),
        "sentences": [
            {
                "text": found["text"],
                "pieces": found["pieces"],
                "closest": [_closest(found, number) for number in range(len(config.temperature))],
            }
            for found in sentences
        ],
    }


def _closest(found: dict, number: int) -> dict:
    """The support token over all heads at one temperature: the largest barrier."""
    barrier = found["barrier"][..., number].float()  # (layers, heads, n)
    counted = barrier[:, :, NEUTRAL:]
    layer, head, position = (int(i) for i in np.unravel_index(int(counted.argmax()), counted.shape))
    position += NEUTRAL
    return {
        "layer": layer,
        "head": head,
        "position": position,
        "piece": found["pieces"][position],
        "margin": float(np.exp(-barrier[layer, head, position].item())),
    }


@dataclass(frozen=True, eq=False)
class Ribbon:
    """The margins of one sentence in every head, as a record holds them.

    Attributes:
        text: the sentence.
        pieces: what each token adds to it.
        temperature: factors of the logits (beta,).
        barrier: -log |det J|, (layers, heads, n, beta), rounded to 11 bits.
        sign: of the determinant, the same shape.
        spectral: smallest singular value of the head's d x d matrix, the same shape.
        closest: for each temperature layer, head, position, piece and margin of the token closest to the boundary.
    """

    text: str
    pieces: tuple[str, ...]
    temperature: np.ndarray
    barrier: np.ndarray
    sign: np.ndarray
    spectral: np.ndarray
    closest: tuple[dict, ...]

    @property
    def gain(self) -> np.ndarray:
        """The logarithm of the gain 1/s, (layers, heads, n, beta)."""
        return -np.log(self.spectral)

    def worst(
        self, beta: float | int, *, layer: int | None = None, head: int | None = None, measure: str = "barrier"
    ) -> np.ndarray:
        """The largest barrier, or gain, of each token over the chosen heads (None: all) at a temperature, (n,)."""
        layers = slice(None) if layer is None else slice(layer, layer + 1)
        heads = slice(None) if head is None else slice(head, head + 1)
        return self._at(beta, measure)[layers, heads].max((0, 1))

    def share(self, beta: float | int, measure: str = "barrier") -> np.ndarray:
        """The share of all heads in which each token is the support token, (n,), sum 1; neutral tokens have 0."""
        counted = self._at(beta, measure)[:, :, NEUTRAL:]
        chosen = counted.argmax(-1).ravel() + NEUTRAL
        return np.bincount(chosen, minlength=len(self.pieces)) / len(chosen)

    def _at(self, beta: float | int, measure: str) -> np.ndarray:
        if measure not in ("barrier", "gain"):
            raise ValueError(f"measure is {measure!r}: choose 'barrier' or 'gain'")
        number = np.flatnonzero(np.isclose(self.temperature, beta))
        if not len(number):
            known = ", ".join(map(str, self.temperature.tolist()))
            raise ValueError(f"beta is {beta}: the record has the temperatures {known}")
        return getattr(self, measure)[..., int(number[0])]


def read(record: Record) -> dict[str, list[Ribbon]]:
    """The sentences of a record, for each model by its name; the other numbers are in `record.result["models"]`.

    Of the longer texts `record.history` holds `<model>/barrier`, `gain` and `entropy`, means over all heads, (1, texts,
    tokens), `<model>/replaced` and `noise` (1, texts, tokens - 1), and for each predictor and target, as in
    `<model>/gain_replaced`, the mean rank correlation in each head, (1, layers, heads).
    """
    found = {}
    for name, told in record.result["models"].items():
        found[name] = []
        for number, sentence in enumerate(told["sentences"]):
            parts = [record.history[f"{name}/sentence_{number}/{part}"][0] for part in ("barrier", "sign", "spectral")]
            barrier, sign, spectral = (part.astype(np.float32) for part in parts)
            ribbon = Ribbon(
                text=sentence["text"],
                pieces=tuple(sentence["pieces"]),
                temperature=np.array(record.result["config"]["temperature"]),
                barrier=barrier,
                sign=sign,
                spectral=spectral,
                closest=tuple(sentence["closest"]),
            )
            found[name].append(ribbon)
    return found

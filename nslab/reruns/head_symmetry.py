"""How symmetric are the heads of trained networks? By their weights, and on real text.

A head's score is a bilinear form, x^T W_Q^T W_K y. Tied queries and keys can only have its symmetric part. Of every
head of every layer this tells:

- by weights: the share of the form's squared norm that is symmetric, exactly, beside that of independent random
  factors, a half; the share of the symmetric part that stands in positive eigenvalues, and the signature. With rotary
  positions this is the form at distance 0, and `at` has the share at further distances, where two tokens change places
  together with their positions. Biases are left out; the gain of the norm before the attention is part of the input;
- on text: how the variance of the score matrix splits into symmetric, popularity and circles
  (`nslab.attention.score_parts`), over all pairs in both directions, as the weights know no mask, biases and rotary
  positions included; and what share no symmetric score can give, relative to what the softmax sees. Beside it stand
  random factors at the same inputs.

A model that is not there (a package not fetched, a network without a record) is left out, and `missing` says why.
"""

from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from nslab import corpora, records, zoo
from nslab.attention.score_parts import form_parts, random_symmetric_share, score_parts, symmetric_share_at, turns
from nslab.records import RunLog
from nslab.reruns._head_factors import projections, random_scores, scored
from nslab.reruns.layer_moments import written
from nslab.reruns.who_matters import prompt_texts

ON_TEXT = ("symmetric", "popularity", "circles", "out_of_reach")
DIGITS = 5  # of what the result tells


@dataclass(frozen=True)
class Config:
    """What is measured.

    Attributes:
        seeds: independent draws of texts and random factors.
        models: names for `nslab.zoo.load`, or of experiments whose strongest record holds a character model.
        text: "corpus" for the prompts of who-matters, which must be fetched, or "own": the model writes them.
        texts: texts a seed.
        length: tokens of each; a model with a shorter context gets that many.
        distances: of query and key, for rotary positions.
        random: heads with random factors for each layer and text.
    """

    seeds: int = 1
    models: tuple[str, ...] = ("char-gpt", "stable-char-gpt", "barrier-char-gpt", "smollm2-135m", "minilm")
    text: str = "corpus"
    texts: int = 8
    length: int = 128
    distances: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    random: int = 8


PRESETS = {
    "quick": Config(models=("char-gpt",), text="own", texts=4, length=64),
    "laptop": Config(),
    "full": Config(seeds=5, models=("gpt2", "bert-base-uncased", "smollm2-135m"), texts=16, length=256),
}


def run(config: Config, log: RunLog, *, device: torch.device) -> dict:
    """Measure model by model; a kill loses the model at work."""
    done = log.restored["done"] if log.restored else {}
    missing = log.restored["missing"] if log.restored else {}
    for number, name in enumerate(config.models):
        log.progress(number, len(config.models), name)
        if name not in done and name not in missing:
            try:
                model = found(name, device)
            except (corpora.NotFetched, zoo.CannotLoad) as error:
                missing[name] = str(error)
            else:
                done[name] = by_weights(model, config) | on_text(model, config) | {"provenance": model.provenance}
            log.save({"done": done, "missing": missing})
    log.progress(len(config.models), len(config.models))
    return {"config": asdict(config), "models": done, "missing": missing}


def phenomenon(result: dict) -> str | None:
    """No trained network has symmetric heads: a part of every layer's scores on text is out of their reach."""
    if not result["models"]:
        return "a network to look at; all are missing"
    for name, model in result["models"].items():
        low, high = min(map(min, model["symmetric"])), max(map(max, model["symmetric"]))
        if not 0 < low <= high < 0.95:
            return f"{name}: heads that are not symmetric; their shares go from {low:.3f} to {high:.3f}"
        if min(map(max, model["text"]["out_of_reach"])) < 0.01:
            return f"{name}: in every layer a head whose scores are out of reach of symmetric ones"
    return None


def found(name: str, device: torch.device) -> zoo.LanguageModel:
    """A network by name. Errors: `zoo.CannotLoad`, `corpora.NotFetched`."""
    if not name.endswith("-char-gpt"):
        return zoo.load(name, device=device)
    record = records.strongest(name)
    if record is None:
        raise zoo.CannotLoad(f"{name} has no record: make one with `nslab rerun {name}`")
    model = zoo.char_gpt_from(record.path / "model.safetensors", name=name)
    model.module.to(device)
    return model


@torch.no_grad()
def by_weights(model: zoo.LanguageModel, config: Config) -> dict:
    """Parts of the form of every head, as lists over layers and heads."""
    told = {"symmetric": [], "positive": [], "signature": [], "at": []}
    speeds = _rotary_base(model)
    for _, layer in projections(model).values():
        query, key = layer.weights
        parts = form_parts(query, key)
        told["symmetric"].append(_rounded(parts.symmetric))
        told["positive"].append(_rounded(parts.positive))
        told["signature"].append(parts.signature.int().tolist())
        if speeds is not None:
            distances = torch.tensor(config.distances, dtype=torch.float64, device=query.device)
            told["at"].append(_rounded(symmetric_share_at(query, key, turns(query.shape[1], distances, speeds))))
    mean, spread = random_symmetric_share(query.shape[-1])
    shares = torch.tensor(told["symmetric"], dtype=torch.float64)
    return told | {
        "width": query.shape[-1],
        "head_width": query.shape[1],
        "random": {"mean": mean, "spread": spread},
        "mean": shares.mean().item(),
        "beyond_two_spreads": {
            "above": int((shares > mean + 2 * spread).sum()),
            "below": int((shares < mean - 2 * spread).sum()),
            "heads": shares.numel(),
        },
    }


@torch.no_grad()
def on_text(model: zoo.LanguageModel, config: Config) -> dict:
    """Shares of the variance of the scores, means over texts, as lists over layers and heads; and of random factors."""
    length = min(config.length, model.context)
    totals, random = 0.0, 0.0
    for seed in range(config.seeds):
        generator = torch.Generator().manual_seed(seed)
        if config.text == "own":
            ids = written(model, config.texts, length, torch.Generator(model.device).manual_seed(seed))
        else:
            ids = model.prompts(prompt_texts(model, config.texts, length, seed)[0], length)
        for text in ids:
            layers = scored(model, text)
            totals = totals + torch.stack([_shares(layer.scores) for layer in layers])  # (layers, parts, heads)
            width = next(iter(projections(model).values()))[1].weights[0].shape[1]
            drawn = [_shares(random_scores(layer, width, config.random, generator)).mean(-1) for layer in layers]
            random = random + torch.stack(drawn)  # (layers, parts)
    count = config.seeds * config.texts
    shares, at_random = totals / count, random / count
    return {
        "length": length,
        "text": {part: [_rounded(layer[number]) for layer in shares] for number, part in enumerate(ON_TEXT)},
        "text_random": {part: _rounded(at_random[:, number]) for number, part in enumerate(ON_TEXT)},
        "text_mean": {part: shares[:, number].mean().item() for number, part in enumerate(ON_TEXT)},
    }


def _shares(scores: Tensor) -> Tensor:
    """The parts in the order of `ON_TEXT`, (parts, heads)."""
    parts = score_parts(scores.double())
    return torch.stack([getattr(parts, part) for part in ON_TEXT]).cpu()


def _rotary_base(model: zoo.LanguageModel) -> float | None:
    """The base of the rotary angles, None without rotary positions."""
    config = getattr(model.module, "config", None)
    if getattr(config, "positions", None) == "rotary":
        return float(config.rotary_base)
    told = getattr(config, "rope_parameters", None) or {}
    base = told.get("rope_theta") or getattr(config, "rope_theta", None)
    return None if base is None else float(base)


def _rounded(values: Tensor) -> list:
    return values.double().cpu().mul(10**DIGITS).round().div(10**DIGITS).tolist()

"""Who matters in a real language model? Influence of every token, stability under noise, and the tail bounds.

For each model: the geometric influence of every position on the log-probability of the model's own top token, at every
layer; the stability of its output distribution when tokens are redrawn, at natural prompts and at prompts whose tokens
are independent draws from the same unigram law; its total influence under the same noise; and the two bounds on the
spectral mass at high degree that follow. Only for independent tokens are the bounds theorems.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from nslab import corpora, zoo
from nslab.noise import Resample, unigram_law
from nslab.records import RunLog
from nslab.stability import (
    EmbeddingNoise,
    OverPrompts,
    discrete_influence,
    embedding_stability,
    geometric_influence_by_layer,
    smoothed_influence,
    summarise_profiles,
    tail_comparison,
    text_stability,
    total_influence,
)

LAWS = ("natural", "independent")
PLAYS = ("Twelfth Night", "Richard II", "The Tempest", "Macbeth")  # kept from the training of char-gpt
SENTENCES = (
    "The keys that I left on the kitchen table are",
    "When the bell rang, all the children ran out of the",
    "My sister never told me where she had hidden",
    "O Romeo, Romeo, wherefore art thou",
)
MASKED_SENTENCES = tuple(f"{sentence} there." for sentence in SENTENCES)  # `there` is masked: "." and a marker follow


@dataclass(frozen=True)
class Config:
    """What is measured, for each model.

    Attributes:
        seeds: independent draws of prompts and noise, each with `prompts` prompts.
        models: names for `nslab.zoo.load`.
        small: those of them that are cheap to run: their discrete profile is measured too, and they get `more` times
            the twins and the pairs.
        more: see `small`.
        prompts: prompts a seed.
        length: tokens a prompt; a model with a shorter context gets that many.
        keep: probabilities that a token is kept; the eigenvalue per degree.
        rho: correlations of noisy embeddings with the clean ones.
        twins: noisy twins a prompt and strength.
        pairs: (prompt, position) pairs for the total influence.
        samples: redraws a position for the discrete profile.
        degree: the degree from which on spectral mass counts as tail.
        dtype: floating-point type of the model.
    """

    seeds: int = 1
    models: tuple[str, ...] = ("char-gpt",)
    small: tuple[str, ...] = ("char-gpt",)
    more: int = 16
    prompts: int = 16
    length: int = 256
    keep: tuple[float, ...] = (0.2, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99)
    rho: tuple[float, ...] = (0.25, 0.5, 0.75, 0.9, 1.0)
    twins: int = 1
    pairs: int = 160
    samples: int = 8
    degree: int = 15
    dtype: str = "float32"


PRESETS = {
    "quick": Config(prompts=8, length=48, pairs=64, samples=2, keep=(0.5, 0.9), rho=(0.5, 1.0), more=1),
    "laptop": Config(models=("char-gpt", "minilm", "smollm2-135m"), prompts=32, twins=2, pairs=512),
    "full": Config(
        seeds=5,
        models=("gpt2", "bert-base-uncased", "roberta-base", "google/gemma-2b"),
        small=(),
        twins=4,
        pairs=1024,
    ),
}


def run(config: Config, log: RunLog, *, device: torch.device) -> dict:
    """Measure model by model and stage by stage; a kill loses the stage at work."""
    done = log.restored["done"] if log.restored else {}
    total = len(config.models) * config.seeds * len(STAGES)
    models = {}
    for name in config.models:
        subject = None
        for seed in range(config.seeds):
            for stage, measure in STAGES.items():
                key = f"{name}/{seed}/{stage}"
                log.progress(len(done), total, f"{name}: {stage}")
                if key not in done:
                    subject = subject if subject and subject.seed == seed else Subject(config, name, seed, device)
                    done[key] = measure(subject)
                    log.save({"done": done})
        models[name] = _result(config, name, done)
        for series, values in _series(config, name, done).items():
            log.record(0, **{f"{name}/{series}": values})
        del subject
    log.progress(total, total)
    return {"config": asdict(config), "models": models}


def phenomenon(result: dict) -> str | None:
    """Influence is uneven, and nowhere zero: k90 is below nine tenths of the positions, every ratio is positive."""
    for name, model in result["models"].items():
        profile = model["geometric"]
        if profile["tokens_holding_90"]["value"] >= 0.9 * model["length"]:
            return f"{name}: influence is spread evenly"
        if profile["smallest_to_largest"]["value"] <= 0:
            return f"{name}: some token has no influence at all"
    return None


class Subject:
    """A model with its prompts, its noise and its readings, for one seed."""

    def __init__(self, config: Config, name: str, seed: int, device: torch.device):
        self.config, self.seed, self.small = config, seed, name in config.small
        self.more = config.more if self.small else 1
        self.model = zoo.load(name, device=device, dtype=getattr(torch, config.dtype))
        self.length = min(config.length, self.model.context)
        texts, corpus = prompt_texts(self.model, config.prompts, self.length, seed)
        self.score = zoo.top_token_score(self.model, self.model.prompts(texts, self.length))
        self.ids = self.score.ids
        self.noise = EmbeddingNoise.of(self.score.embeddings)  # a short sentence has too few tokens for its own
        known = torch.cat(
            [self.model.encode(text, truncate=self.model.context, unknown="skip").cpu() for text in corpus]
        )
        law = unigram_law(known, self.model.vocabulary, self.model.special)
        self.resample = Resample(0, self.model.vocabulary, self.model.special, law=law.to(self.ids.device))

    def generator(self, purpose: int) -> torch.Generator:
        """Randomness of one stage, the same whether or not other stages ran before."""
        return torch.Generator(self.ids.device).manual_seed(1000 * self.seed + purpose)

    def prompts(self, law: str) -> Tensor:
        """Natural prompts, or the same with every ordinary token drawn anew and independently."""
        if law == "natural":
            return self.ids
        fresh = self.resample.draw(self.ids.shape, self.generator(1), self.ids.device)
        return torch.where(self.resample.touches(self.ids), fresh, self.ids)

    def output(self) -> Callable[[Tensor], Tensor]:
        """The black box: ids to the output distribution at the place that is read, or to the mean hidden state."""
        if self.model.kind == "encoder":
            return lambda ids: zoo.pooled(self.model, ids)
        return zoo.distribution(self.model)

    def output_from_embeddings(self) -> Callable[[Tensor], Tensor]:
        """The same black box, entered at the embeddings."""
        if self.model.kind == "encoder":
            return lambda e: self.model.from_embeddings(e).mean(1)
        at = self.score.at[:1]
        if bool((self.score.at != at).any()):
            raise ValueError("the prompts are read at different positions: give prompts that end alike")
        return lambda e: self.model.from_embeddings(e, at.expand(len(e))).softmax(-1)


def prompt_texts(model: zoo.LanguageModel, count: int, length: int, seed: int) -> tuple[list[str], list[str]]:
    """`count` texts of at least `length` tokens, and the corpus that gives the unigram law.

    Models of characters get windows of Shakespeare's plays; the others passages of an encyclopaedia, joined until they
    are long enough.
    """
    generator = torch.Generator().manual_seed(seed)
    if model.vocabulary < 256:
        text = "\n".join(corpora.plays()[title] for title in PLAYS)
        starts = torch.randint(len(text) - length, (count,), generator=generator).tolist()
        corpus = [text[start : start + length] for start in range(0, len(text), length)]
        return [text[start : start + length] for start in starts], corpus
    passages = corpora.passages("wikipedia")
    order = iter(torch.randperm(len(passages), generator=generator).tolist())
    texts = []
    while len(texts) < count:
        joined = passages[next(order)]
        while len(model.encode(joined, truncate=length)) < length:
            joined += "\n\n" + passages[next(order)]
        texts.append(joined)
    return texts, passages


def _geometric(subject: Subject) -> dict:
    by_layer = geometric_influence_by_layer(subject.score.trace, subject.score.embeddings, batch=len(subject.ids))
    return {"by_layer": by_layer.float().cpu(), "scores": subject.score.value.float().cpu()}


def _discrete(subject: Subject) -> dict:
    if not subject.small:
        return {}
    source = {"samples": subject.config.samples, "generator": subject.generator(2)}
    found = discrete_influence(subject.score, subject.ids, subject.resample, **source)
    return {"value": found.value.float().cpu(), "stderr": found.stderr.float().cpu()}


def _tails(law: str) -> Callable[[Subject], dict]:
    """Stability and total influence of the output under one law of prompts, and the two bounds they give."""

    def measure(subject: Subject) -> dict:
        config, ids, f = subject.config, subject.prompts(law), subject.output()
        twins, pairs = config.twins * subject.more, config.pairs * subject.more
        stability = text_stability(
            f, ids, subject.resample, keep=config.keep, twins=twins, generator=subject.generator(3)
        )
        total = total_influence(f, ids, subject.resample, pairs=pairs, generator=subject.generator(4))
        tails = tail_comparison(stability, total, degree=config.degree, generator=torch.Generator().manual_seed(0))
        versions = {
            version: _numbers(stability.estimate(version), stability.interval(version, generator=_fixed()).interval)
            for version in ("raw", "normalised", "centred")
        }
        influence = _numbers(total) | {"by_prompt": total.by_prompt.tolist()}
        return versions | {"energy": stability.energy.value.item(), "influence": influence, "tails": _told(tails)}

    return measure


def _embeddings(subject: Subject) -> dict:
    found = embedding_stability(
        subject.output_from_embeddings(),
        subject.score.embeddings,
        rho=[rho for rho in subject.config.rho if rho < 1],
        twins=subject.config.twins * subject.more,
        noise=subject.noise,
        noisy=subject.resample.touches(subject.ids),
        generator=subject.generator(5),
    )
    return {version: _numbers(found.estimate(version)) for version in ("normalised", "centred")}


def _sentences(subject: Subject) -> dict:
    """Influence of each token of a few short sentences, at every layer and at every rho."""
    told = {}
    for number, text in enumerate(MASKED_SENTENCES if subject.model.kind == "masked" else SENTENCES):
        ids = subject.model.encode(text, truncate=subject.model.context, unknown="skip")
        score = zoo.top_token_score(subject.model, ids, at=-3 if subject.model.kind == "masked" else None)
        profile = lambda e, score=score: geometric_influence_by_layer(score.trace, e)[:, 0]  # noqa: E731
        found = smoothed_influence(
            profile,
            score.embeddings,
            rho=subject.config.rho,
            twins=16,
            noise=subject.noise,
            noisy=subject.resample.touches(score.ids),
            generator=subject.generator(10 + number),
        )
        told[str(number)] = {
            "text": text,
            "pieces": subject.model.pieces(score.ids[0]),
            "answer": score.token_text[0] if score.token is not None else "",
            "influence": found.value.float().cpu(),
        }
    return told


STAGES = {
    "geometric": _geometric,
    "discrete": _discrete,
    **{law: _tails(law) for law in LAWS},
    "embeddings": _embeddings,
    "sentences": _sentences,
}


def _fixed() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _numbers(found, interval=None) -> dict:
    """An estimate, and an interval where there is one, as plain numbers."""
    told = {"value": found.value.tolist(), "stderr": found.stderr.tolist()}
    return told | ({"low": interval.low.tolist(), "high": interval.high.tolist()} if interval else {})


def _over(found: OverPrompts) -> dict:
    return {"value": found.value.tolist(), "low": found.interval.low.tolist(), "high": found.interval.high.tolist()}


def _told(tails) -> dict:
    """A comparison of tail bounds as plain numbers."""
    columns = {name: _over(getattr(tails, name)) for name in ("markov", "bounds", "best", "gain")}
    return columns | {
        "keep": tails.keep.tolist(),
        "best_keep": tails.best_keep,
        "implied_degree": tails.implied_degree,
        "consistent": tails.consistent,
    }


def _result(config: Config, name: str, done: dict) -> dict:
    """What is told of one model: summaries over the prompts of all seeds, the tails seed by seed."""
    parts = [{stage: done[f"{name}/{seed}/{stage}"] for stage in STAGES} for seed in range(config.seeds)]
    profiles = torch.cat([part["geometric"]["by_layer"][0] for part in parts])  # (prompts, length)
    summary = summarise_profiles(profiles, generator=_fixed())
    numbers = ("tokens_holding_90", "participation_ratio", "above_tenth", "smallest_to_largest", "first", "last")
    sentences = parts[0]["sentences"]
    return {
        "length": summary.length,
        "prompts": summary.prompts,
        "geometric": {number: _over(getattr(summary, number)) for number in numbers},
        "tails": {law: [part[law] for part in parts] for law in LAWS},
        "embeddings": [part["embeddings"] for part in parts],
        "sentences": [{key: told[key] for key in ("text", "pieces", "answer")} for told in sentences.values()],
    }


def _series(config: Config, name: str, done: dict) -> dict[str, Tensor]:
    """What the history keeps of one model: every profile, and the sentences at every layer and rho."""
    seeds = range(config.seeds)
    series = {"geometric": torch.cat([done[f"{name}/{seed}/geometric"]["by_layer"] for seed in seeds], 1)}
    if found := [done[f"{name}/{seed}/discrete"] for seed in seeds if done[f"{name}/{seed}/discrete"]]:
        series["discrete"] = torch.cat([one["value"] for one in found])
        series["discrete_stderr"] = torch.cat([one["stderr"] for one in found])
    for number, told in done[f"{name}/0/sentences"].items():
        series[f"sentence_{number}"] = told["influence"]
    return series

"""Does influence find the word that licenses another? Minimal pairs from BLiMP, with the cheap answers beside it.

A minimal pair is one beginning with two endings, of which grammar allows one: *Katherine can't help herself/himself*.
The score is log p(allowed) - log p(forbidden) of the first token in which the endings differ, given what both share.
The word that decides is known: the licensor. The experiment asks how often the licensor has the largest geometric
influence on the score, and how often a rule that never looks at the model ("take the first word", "take the last
word") is right. Before each beginning stands, in turn, nothing and a neutral carrier sentence: a licensor that is also
the first word of the text proves nothing.
"""

import itertools
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from nslab import corpora, zoo
from nslab.estimate import bootstrap
from nslab.records import RunLog
from nslab.stability import geometric_influence

CARRIERS = {"none": "", "carrier": "It rained all day in the old town. "}
DETERMINERS = set(
    "a all an any each every few her his its many most my no our several some that the their these this those".split()  # noqa: SIM905
)  # before a noun: the first word is then not the one that licenses
ANTECEDENT, SUBJECT = "anaphor_gender_agreement", "regular_plural_subject_verb_agreement_1"


@dataclass(frozen=True)
class Config:
    """What is measured: `pairs` of each paradigm under each carrier, for one causal language model."""

    seeds: int = 1
    model: str = "smollm2-135m"
    paradigms: tuple[str, ...] = (ANTECEDENT, SUBJECT)
    pairs: int = 200
    dtype: str = "float32"


PRESETS = {
    "quick": Config(pairs=8),
    "laptop": Config(),
    "full": Config(pairs=1000, model="gpt2"),
}


@dataclass(frozen=True)
class Item:
    """One minimal pair: the words of the beginning, which of them licenses, and the two endings."""

    words: tuple[str, ...]
    licensor: int
    allowed: str
    forbidden: str


def run(config: Config, log: RunLog, *, device: torch.device) -> dict:
    """Influence of every word of every beginning, and how often the licensor leads."""
    model = zoo.load(config.model, device=device, dtype=getattr(torch, config.dtype))
    if model.kind != "causal":
        raise ValueError(f"model = {config.model!r} is {model.kind}: minimal pairs are read from a causal model")
    cells = [(paradigm, carrier) for paradigm in config.paradigms for carrier in CARRIERS]
    done = log.restored["cells"] if log.restored else {}
    for number, (paradigm, carrier) in enumerate(cells):
        log.progress(number, len(cells), f"{paradigm}, {carrier}")
        name = f"{paradigm}/{carrier}"
        if name in done:
            continue
        chosen, measured = [], []
        for item in items(paradigm):
            if found := _measure(model, item, CARRIERS[carrier]):
                chosen.append(item)
                measured.append(found)
            if len(chosen) == config.pairs:
                break
        done[name] = _summary(chosen, measured)
        log.record(0, **{f"{name}/{key}": torch.tensor(value) for key, value in _series(measured).items()})
        log.save({"cells": done})
    log.progress(len(cells), len(cells))
    return {"model": config.model, "provenance": model.provenance, "config": asdict(config), "cells": done}


def phenomenon(result: dict) -> str | None:
    """The model prefers the allowed ending more often than not, in every cell; influence is then worth reading."""
    weak = [name for name, cell in result["cells"].items() if cell["accuracy"]["value"] <= 0.5]
    return f"the model prefers the forbidden ending in {', '.join(weak)}" if weak else None


def items(paradigm: str) -> list[Item]:
    """The pairs of a paradigm with one differing word, at least two words before it, and a licensor that is one word.

    The licensor of a reflexive is the name that comes first; pairs that begin with a determiner are left out. That of a
    verb is the word before it.

    Errors: `ValueError` where no pair says where its sentences part, as on the hub.
    """
    found = []
    for pair in corpora.blimp(paradigm):
        words = tuple((pair.prefix or "").split())
        if len(words) < 2 or not pair.word_good or not pair.word_bad:
            continue
        if paradigm == ANTECEDENT and words[0].lower() in DETERMINERS:
            continue
        licensor = 0 if paradigm == ANTECEDENT else len(words) - 1
        found.append(Item(words, licensor, pair.word_good, pair.word_bad))
    if not found:
        raise ValueError(
            f"paradigms has {paradigm!r}, whose pairs here do not say in which word they differ: set NSLAB_BLIMP to a "
            "folder with BLiMP's own files, such as anaphor_gender_agreement.jsonl"
        )
    return found


def _measure(model: zoo.LanguageModel, item: Item, carrier: str) -> dict | None:
    """Influence of each word of one beginning (a word's tokens added up), and the score in nats.

    None where the tokens of one ending begin the other, as *boycott* begins *boycotts*: there is no token to compare.
    """
    starts = [len(model.encode(carrier + " ".join(item.words[: n + 1]))) for n in range(len(item.words))]
    first = len(model.encode(carrier.rstrip())) if carrier else 0
    beginning = " ".join(item.words)
    endings = [model.encode(f"{carrier}{beginning} {ending}") for ending in (item.allowed, item.forbidden)]
    if (parts := fork(*endings)) is None:
        return None
    shared, allowed, forbidden = parts
    at = torch.tensor([len(shared) - 1], device=shared.device)

    def preference(embeddings: Tensor) -> Tensor:
        logs = model.from_embeddings(embeddings, at).float().log_softmax(-1)
        return logs[:, allowed] - logs[:, forbidden]

    embeddings = model.embed(shared[None])
    tokens = geometric_influence(preference, embeddings)[0].cpu()
    edges = [0, *([first] if first else []), *starts]
    words = torch.stack([tokens[begin:end].sum() for begin, end in itertools.pairwise(edges)])
    if first:
        words = words[1:]  # the words of the pair compete among themselves
    with torch.no_grad():
        score = preference(embeddings).item()
    return {"words": words.tolist(), "carrier": tokens[:first].sum().item(), "score": score, "licensor": item.licensor}


def fork(allowed: Tensor, forbidden: Tensor) -> tuple[Tensor, int, int] | None:
    """What two token sequences share, and the first token of each after that; None where one begins the other."""
    shorter = min(len(allowed), len(forbidden))
    differ = (allowed[:shorter] != forbidden[:shorter]).nonzero()
    if not len(differ) or not int(differ[0]):
        return None
    at = int(differ[0])
    return allowed[:at], int(allowed[at]), int(forbidden[at])


def _series(measured: list[dict]) -> dict[str, list]:
    """What the history keeps of one cell: per pair the score, the leader and the licensor's share."""
    return {
        "score": [one["score"] for one in measured],
        "leader": [_leader(one) for one in measured],
        "licensor_share": [one["words"][one["licensor"]] / sum(one["words"]) for one in measured],
    }


def _leader(one: dict) -> int:
    return max(range(len(one["words"])), key=one["words"].__getitem__)


def _summary(chosen: list[Item], measured: list[dict]) -> dict:
    """Shares over the pairs with 95 % bootstrap intervals; `chance` is one over the number of words."""
    pairs = list(zip(chosen, measured, strict=True))
    found = {
        "accuracy": [one["score"] > 0 for one in measured],
        "licensor_leads": [_leader(one) == one["licensor"] for one in measured],
        "first_word": [item.licensor == 0 for item in chosen],
        "last_word": [item.licensor == len(item.words) - 1 for item in chosen],
        "chance": [1 / len(item.words) for item in chosen],
        "licensor_share": _series(measured)["licensor_share"],
    }
    summary = {"pairs": len(pairs)}
    for name, values in found.items():
        column = torch.tensor([float(value) for value in values], dtype=torch.float64)
        interval = bootstrap(column, generator=torch.Generator().manual_seed(0))
        summary[name] = {"value": column.mean().item(), "low": interval.low.item(), "high": interval.high.item()}
    return summary

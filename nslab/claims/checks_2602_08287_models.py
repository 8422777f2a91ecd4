"""The checks of *Noise Stability of Transformer Models* (2602.08287) that need language models: they read records.

Nothing is measured here. Each check looks at every model that a record of `nslab rerun who-matters` holds, in the
strongest record that has it. The models, the prompts and the number of seeds are not the paper's, so the best that a
claim of the paper can get is *holds with changes*; without a record, or where the numbers do not show it, it is *open*.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from nslab import boolean as bf
from nslab import records
from nslab.claims.checks_2602_08287 import RHOS, SLACK, TAIL_TABLE
from nslab.claims.verdicts import State, Verdict, not_run, number_name, settle
from nslab.estimate import bootstrap
from nslab.stability import position_profile, share_above, smallest_to_largest, tokens_holding

FEW = 10
"""The most tokens that the digest calls sizeable; we call sizeable what exceeds a tenth of the largest."""
SPELLED = {"minilm": "MiniLM", "smollm2-135m": "SmolLM2"}
"""How the models of the records are written; others as they are called there."""
LONG = 100
"""Shorter prompts say nothing about few tokens: ten of twelve are not few."""
DEGREE = 15
"""From which degree on Table 1 counts, and the presets of `who-matters` too."""


@dataclass(frozen=True)
class Measured:
    """One model as a record has it.

    Attributes:
        profiles: geometric influence of each position of each prompt, at the embeddings (prompts, length).
        tails: for each law of prompts, the tail comparison of each seed.
        source: which record, for the evidence.
    """

    profiles: Tensor
    tails: Mapping[str, list[dict]]
    source: str


Models = Mapping[str, Measured]


def read(root: str | None = None) -> dict[str, Measured]:
    """Every model of the records of `who-matters`, each from the strongest record that holds it; empty without records.

    Args:
        root: the folder of all records; `records.root()` by default.
    """
    found = {}
    for record in records.find("who-matters", root=root):
        for name, told in record.result["models"].items():
            if name not in found:
                by_layer = torch.from_numpy(record.series(f"{name}/geometric")[1][0])
                tails = {law: [seed["tails"] for seed in seeds] for law, seeds in told["tails"].items()}
                found[name] = Measured(by_layer[0].double(), tails, dated(record))
    return found


def dated(record: records.Record) -> str:
    """Which record, and whether it is stale, in words, where the experiment is clear."""
    age = f", stale: {record.stale_because}" if record.stale else ""
    return f"{record.preset} record of {record.date}{age}"


def few_tokens(models: Models | None = None) -> Verdict:
    """How many tokens exceed a tenth of the prompt's largest influence, in long prompts.

    Geometric influence is a length, and by lengths the claim is judged. The evidence has the squares as well: they are
    the kind of influence that adds up to total influence, and they need far fewer tokens.
    """
    models = {name: one for name, one in _given(models).items() if one.profiles.shape[1] >= LONG}
    if not models:
        return not_run("who-matters")
    numbers, words, few = {}, [], []
    for name, one in models.items():
        count = share_above(one.profiles).count.double()
        interval = bootstrap(count, generator=torch.Generator().manual_seed(0))
        mean, high = count.mean().item(), interval.high.item()
        squares = one.profiles.square()
        most, most_squares = (tokens_holding(found).double().mean().item() for found in (one.profiles, squares))
        above = share_above(squares).count.double().mean().item()
        numbers |= {
            f"above_tenth_{number_name(name)}": mean,
            f"above_tenth_high_{number_name(name)}": high,
            f"k90_{number_name(name)}": most,
        }
        numbers |= {f"above_tenth_squares_{number_name(name)}": above, f"k90_squares_{number_name(name)}": most_squares}
        length = one.profiles.shape[1]
        words.append(
            f"{_spelled(name)}: {mean:.0f} of {length} ({interval.low.item():.0f} to {high:.0f}), and {most:.0f} hold "
            f"90 % of the sum; of the squares {above:.0f} exceed a tenth, and {most_squares:.0f} hold 90 %"
        )
        few.append(high <= FEW)
    told = "Tokens above a tenth of their prompt's largest influence, mean and 95 % interval over prompts"
    evidence = f"{told}: {_told(words, models)}"
    return _verdict(all(few), evidence, numbers)


def first_and_last(models: Models | None = None) -> Verdict:
    """Where the first and the last position stand in the mean profile, each prompt divided by its sum."""
    models = _given(models)
    if not models:
        return not_run("who-matters")
    numbers, words, largest = {}, [], []
    for name, one in models.items():
        mean = position_profile(one.profiles)
        ranks = mean.argsort(descending=True).argsort() + 1
        first, last = ranks[0].item(), ranks[-1].item()
        times = (mean[0] * len(mean)).item(), (mean[-1] * len(mean)).item()
        numbers |= {f"rank_first_{number_name(name)}": first, f"rank_last_{number_name(name)}": last}
        numbers |= {f"times_first_{number_name(name)}": times[0], f"times_last_{number_name(name)}": times[1]}
        words.append(
            f"{_spelled(name)}: the first position is number {first} of {len(mean)} with {times[0]:.1f} times an "
            f"equal share, the last is number {last} with {times[1]:.1f} times"
        )
        largest.append({first, last} == {1, 2})
    return _verdict(all(largest), f"In the mean profile: {_told(words, models)}", numbers)


def never_zero(models: Models | None = None) -> Verdict:
    """The smallest ratio of the smallest to the largest influence within a prompt."""
    models = _given(models)
    if not models:
        return not_run("who-matters")
    ratios = {name: smallest_to_largest(one.profiles).min().item() for name, one in models.items()}
    words = [
        f"{_spelled(name)}: {ratio:.1e} over {len(models[name].profiles)} prompts" for name, ratio in ratios.items()
    ]
    evidence = f"The smallest influence over the largest of its prompt, at worst: {_told(words, models)}"
    return _verdict(
        min(ratios.values()) > 0, evidence, {f"ratio_{number_name(name)}": ratio for name, ratio in ratios.items()}
    )


def tail_table_ours(models: Models | None = None) -> Verdict:
    """Markov's bound over the bound of stability, with one noise in both, against the smallest factor of Table 1."""
    models = {name: one for name, one in _given(models).items() if one.tails}
    if not models:
        return not_run("who-matters")
    least = min(sensitivity / stability for sensitivity, stability in TAIL_TABLE.values())
    numbers, words, below = {"least_of_table": least}, [], []
    for name, one in models.items():
        for law in ("independent", "natural"):
            gains = [tail["gain"] for tail in one.tails[law]]
            low, mean, high = (sum(gain[key] for gain in gains) / len(gains) for key in ("low", "value", "high"))
            numbers |= {f"{law}_{number_name(name)}": mean, f"{law}_high_{number_name(name)}": high}
            words.append(f"{_spelled(name)}, {law} tokens: {mean:#.3g} ({low:#.3g} to {high:#.3g})")
            if law == "independent":
                below.append(high < least)
    evidence = (
        f"Gain of stability over Markov at degree {DEGREE}, with 95 % intervals over prompts: {_told(words, models)} "
        f"The smallest factor in the table is {least:.1f}."
    )
    return Verdict(State.HOLDS if all(below) else State.OPEN, evidence, numbers)


def stability_is_not_sparsity(n: int = 12, largest: Callable[[Tensor], Tensor] = lambda rho: rho) -> Verdict:
    """The normalised sum: stability rho, and nine tenths of the coordinates to hold nine tenths of the influence."""
    spread = bf.points(n).double().sum(1) / math.sqrt(n)
    tables = torch.stack([bf.dictator(n).double(), spread])
    gap = (bf.stability(tables, RHOS) - largest(RHOS)).abs().max().item()
    weights = bf.level_weights(tables)  # unit energy without degree 0: then sum of rho**k W_k <= rho
    unit = (weights[:, 0].abs().max() + (weights.sum(1) - 1).abs().max()).item()
    one, many = tokens_holding(bf.influences(tables)).tolist()
    evidence = (
        f"The dictator $x_1$ and $(x_1 + \\dots + x_{{{n}}})/\\sqrt{{{n}}}$ have mean 0, energy 1 and stability "
        f"$\\rho$, the largest that such a function can have; {one} and {many} of {n} inputs hold "
        "90 % of their influence."
    )
    right = gap < SLACK and unit < SLACK and one == 1 and many == math.ceil(0.9 * n)
    return settle(right, evidence, {"gap": gap, "inputs_dictator": one, "inputs_sum": many})


def _given(models: Models | None) -> Models:
    return read() if models is None else models


def _verdict(shown: bool, evidence: str, numbers: dict) -> Verdict:
    """Other models than the paper's: a claim of the paper holds with changes, or it is open."""
    return Verdict(State.HOLDS_WITH_CHANGES if shown else State.OPEN, evidence, numbers)


def _told(words: list[str], models: Models) -> str:
    sources = sorted({one.source for one in models.values()})
    return f"{'; '.join(words)} ({'; '.join(sources)})."


def _spelled(name: str) -> str:
    return SPELLED.get(name, name)

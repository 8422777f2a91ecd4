"""Recorded trainings with a barrier as the checks read them: each arm less plain training, seed by seed, and in words.

The study is `nslab rerun barrier-robustness`. Intervals are Student's, over paired seeds. Its arm "none-again", plain
training on other batches, shows what luck does, and is told beside every other one.
"""

from collections.abc import Mapping

import torch

from nslab.claims.training_records import numbered, published, source
from nslab.claims.verdicts import LEAST_SEEDS
from nslab.records import Record
from nslab.reruns.barrier_robustness import PLAIN, paired, values

AGAIN = "none-again"
ALONE = "margin-only"  # the barrier on the embeddings without the other term of the full prior
OTHER_TERM = "residual-only"  # and that other term, which is a control: it has no barrier
MODEST = (0.02, 0.05)  # the strengths that a third-party port has
SHOWN = 6  # arms that are told one by one

Difference = tuple[float, float, float]
"""Mean, low and high."""


def study(result: Mapping | None = None, told: str = "") -> tuple[Mapping, str] | None:
    """What is given, or the strongest record of the study that has the seeds and the arms of a verdict."""
    if result is not None:
        return result, told
    for record in published("barrier-robustness"):
        if record.seeds >= LEAST_SEEDS and ALONE in modest(record.result):
            return record.result, source(record)
    return None


def latest(experiment: str) -> Record | None:
    """The strongest record of an experiment."""
    return next(published(experiment), None)


def larger_network() -> str:
    """What a hinge on the heads does to the area of a larger network, in words; empty without a record."""
    record = next((one for one in published("barrier-char-gpt") if one.preset != "quick"), None)
    if record is None:
        return ""
    models = record.result["models"]
    area, plain = (models[name]["disturbed"]["noise_area"] for name in ("barrier-char-gpt", "char-gpt"))
    return (
        f" One larger network, a single seed: the area is {area:.3f} with a hinge on its heads and {plain:.3f} without "
        f"({source(record)})."
    )


def barriers(result: Mapping, *places: str) -> list[str]:
    """The arms with a barrier at these places: "embeddings", "heads"."""
    return [n for n, arm in result["arms"].items() if arm["kind"] in places and arm["variant"] != OTHER_TERM]


def controls(result: Mapping) -> list[str]:
    """The arms without a barrier, but for plain training and its repetition."""
    barred = barriers(result, "embeddings", "heads")
    return [name for name in result["arms"] if name not in (PLAIN, AGAIN, *barred)]


def variants(result: Mapping, *wanted: str) -> list[str]:
    """The arms of these variants."""
    return [name for name, arm in result["arms"].items() if arm["variant"] in wanted]


def modest(result: Mapping) -> dict[str, list[str]]:
    """Each variant of the barrier on the embeddings, with its arms at the port's strengths."""
    found = {}
    for name in barriers(result, "embeddings"):
        if MODEST[0] <= result["arms"][name]["strength"] <= MODEST[1]:
            found.setdefault(result["arms"][name]["variant"], []).append(name)
    return found


def differences(result: Mapping, measure: str) -> dict[str, Difference]:
    """Every arm less plain training; of several sizes of a disturbance the largest."""
    found = {}
    for name in result["arms"]:
        if name != PLAIN:
            one = paired(result, measure, name)
            ends = (torch.as_tensor(end).flatten()[-1] for end in (one.mean, one.student.low, one.student.high))
            mean, low, high = map(float, ends)
            found[name] = mean, low, high
    return found


def plain(result: Mapping, measure: str) -> str:
    """A measure in plain training, in words."""
    found = values(result, PLAIN, measure)
    return f"{found.mean():.3f} in plain training, the mean of {len(found)} seeds"


def compared(result: Mapping, measure: str, found: Mapping[str, Difference]) -> str:
    """A measure in plain training and the differences of all arms to it, in words."""
    paper = [name for group in modest(result).values() for name in group]
    groups = {
        "a barrier on the embeddings": paper,
        "at other strengths": [name for name in barriers(result, "embeddings") if name not in paper],
        "a barrier on the heads": barriers(result, "heads"),
        "controls": controls(result),
        "luck": [name for name in found if name == AGAIN],
    }
    listed = "; ".join(f"{words}: {several(found, group)}" for words, group in groups.items() if group)
    return f"{plain(result, measure)}. Differences to it: {listed}."


def several(found: Mapping[str, Difference], group: list[str]) -> str:
    """The differences of some arms, one by one, or the outermost of many."""
    words = ", ".join(f"`{name}` {bracket(*found[name])}" for name in _outermost({one: found[one][0] for one in group}))
    if len(group) <= SHOWN:
        return words
    below, above = sum(found[name][2] < 0 for name in group), sum(found[name][1] > 0 for name in group)
    return f"{words} are the outermost of {len(group)}, {below} of them below 0 and {above} above"


def each(found: Mapping[str, float]) -> str:
    """A number of some arms, one by one, or the outermost of many."""
    return ", ".join(f"{found[name]:.2f} with `{name}`" for name in _outermost(found))


def bracket(mean: float, low: float, high: float) -> str:
    """A number with its interval."""
    return f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]"


def counted(found: Mapping[str, Difference]) -> dict[str, float]:
    """Differences, for a verdict."""
    ends = {"mean": 0, "low": 1, "high": 2}
    return numbered(**{f"{end}_{name}": one[place] for name, one in found.items() for end, place in ends.items()})


def _outermost(found: Mapping[str, float]) -> list[str]:
    """Names by rising numbers: all of a few, else the first and the last."""
    ordered = sorted(found, key=found.__getitem__)
    return ordered if len(ordered) <= SHOWN else [ordered[0], ordered[-1]]

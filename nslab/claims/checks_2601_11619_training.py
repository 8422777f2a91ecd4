"""The checks of *NoiseFormer* (2601.11619): experiments.

What the abstract says of experiments it says in words; a digest has a table of GLUE, one run each. Pre-training, sizes
and recipes of the paper are not known to us, so nothing here can be refuted: what our studies do not confirm stays
*open*, and the evidence says what came out. The rules were fixed before the studies were run at five seeds, though not
before smaller trials: of the tasks of partners we knew what relative noise does, roughly, and the line in `sampling`
was drawn after a quick run whose differences were tiny.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from nslab.claims.noiseformer_records import (
    STANDARD,
    SYMMETRIC,
    controls,
    counted,
    gap,
    larger,
    listed,
    lost_by_tying,
    luck,
    majority,
    measured,
    noisy,
    partners,
    scores,
    study,
)
from nslab.claims.noiseformer_table import BASE, EXAMPLES, MATTHEWS, TABLE, V1, V2, ratio
from nslab.claims.noiseformer_table import SYMMETRIC as TIED
from nslab.claims.verdicts import State, Verdict, not_run
from nslab.reruns.partner_tasks import ARMS as PARTNER_ARMS

KEEP = 0.9  # of the tokens, where noise stability is read
NORMAL = 1.96  # standard errors
USEFUL = 1e-3  # of a loss: what falls by less did not fall
PRETRAIN, FINETUNE, GLUE = "noiseformer-pretrain", "noiseformer-finetune", "noiseformer-glue"
VERSIONS = ("v1-relative", "v2-relative")
OVER_SEEDS = "Intervals are over seeds, on the same held-out examples."
Scores = Callable[[Mapping, str], np.ndarray]


def restores_asymmetry(result: Mapping | None = None, told: str = "given", heads: str | None = None) -> Verdict:
    """Accuracies on both tasks of partners: how much of the gap from symmetric to standard attention noise closes.

    It holds if for some family of noise the accuracy is above the middle of the gap on each task, by Student's interval
    over paired seeds.

    Args:
        result: of `partner-tasks`.
        told: where it is from.
        heads: what is said of trained heads; by default that of the record.
    """
    if result is None:
        if (given := partners()) is None:
            return not_run("`partner-tasks` with five seeds")
        result, told = given
    parts, found = [], {}
    for task, one in result["tasks"].items():
        values = {arm: np.array(measures["accuracy"]) for arm, measures in one["arms"].items()}
        ends = values[SYMMETRIC], values[STANDARD]
        closed = {arm: (each - ends[0]).mean() / (ends[1] - ends[0]).mean() for arm, each in values.items()}
        with_noise = [arm for arm in values if PARTNER_ARMS[arm].scores and PARTNER_ARMS[arm].scores.noise]
        without = [arm for arm in ("pairwise", "low-rank") if arm in values]
        middle = (ends[0] + ends[1]) / 2
        for arm in with_noise:
            found.setdefault(arm, {})[task] = gap(values[arm], middle)
        parts.append(
            f"{task}: {ends[0].mean():.3f} with symmetric and {ends[1].mean():.3f} with standard attention; of the gap "
            f"{_shares(closed, with_noise)} is closed by noise, and {_shares(closed, without)} without"
        )
    evidence = (
        f"Accuracies of a bare layer, the noise at its mean, {len(middle)} seeds. {'. '.join(parts)}. The scalar noise "
        f"has a mean that changes no pattern; that of the relative one knows the distance alone ({told})."
        f"{lost_by_tying() if heads is None else heads}"
    )
    right = any(all(one.above for one in tasks.values()) for tasks in found.values())
    numbers = counted({f"{task}_{arm}": one for arm, tasks in found.items() for task, one in tasks.items()})
    return Verdict(State.HOLDS_WITH_CHANGES if right else State.OPEN, evidence, numbers)


def between(result: Mapping | None = None, told: str = "given", *, score: Scores = scores) -> Verdict:
    """Fine-tuned on tasks of GLUE: scores of V1 and V2 less those of symmetric attention, and of the base less theirs.

    It holds if both differences are above 0 by their intervals, for V1 and for V2.

    Args:
        result: of `noiseformer-glue`.
        told: where it is from.
        score: of an arm, one number a seed.
    """
    if result is None:
        if (given := study(GLUE, *VERSIONS)) is None:
            return not_run(f"`{GLUE}` with five seeds")
        result, told = given
    values = {arm: score(result, arm) for arm in result["arms"]}
    above = {name: gap(values[name], values[SYMMETRIC]) for name in VERSIONS}
    under = {name: gap(values[STANDARD], values[name]) for name in VERSIONS}
    inside = {model: _between(model) for model in (V1, V2)}
    evidence = (
        f"In the table of the digest V1 lies between on {len(inside[V1])} of {len(TABLE[V1])} tasks "
        f"({', '.join(inside[V1])}), V2 on {len(inside[V2])} ({', '.join(inside[V2])}). Ours: {_tasks(result)}; "
        f"scores in points, in the mean over tasks: {values[STANDARD].mean():.2f} for standard attention, "
        f"{values[SYMMETRIC].mean():.2f} for symmetric. Less symmetric: {listed(above, VERSIONS)}. Standard less "
        f"these: {listed(under, VERSIONS)}.{luck(result, values)} {OVER_SEEDS} ({told})"
    )
    right = all(one.above for one in (*above.values(), *under.values()))
    numbers = counted({f"above_{name}": one for name, one in above.items()})
    numbers |= counted({f"under_{name}": one for name, one in under.items()})
    numbers |= {"table_v1": len(inside[V1]), "table_v2": len(inside[V2])}
    return Verdict(State.HOLDS_WITH_CHANGES if right else State.OPEN, evidence, numbers)


def beats_symmetric(
    finetune: Mapping | None = None, glue: Mapping | None = None, told: str = "given", *, score: Scores = scores
) -> Verdict:
    """Scores of the arms with noise less those of plain symmetric attention, in both studies of fine-tuning.

    It holds if each interval, of each arm with noise in each study, is above 0.

    Args:
        finetune: result of `noiseformer-finetune`.
        glue: result of `noiseformer-glue`.
        told: where they are from.
        score: of an arm, one number a seed.
    """
    if finetune is None or glue is None:
        given = [study(name, *VERSIONS) for name in (FINETUNE, GLUE)]
        if None in given:
            return not_run(f"`{FINETUNE}` and `{GLUE}` with five seeds")
        finetune, glue = (result for result, _ in given)
        told = "; ".join(words for _, words in given)
    parts, found = [], {}
    for study_name, result in ((FINETUNE, finetune), (GLUE, glue)):
        values = {arm: score(result, arm) for arm in result["arms"]}
        gaps = {arm: gap(values[arm], values[SYMMETRIC]) for arm in values if arm != SYMMETRIC}
        arms = noisy(result)
        found |= {f"{study_name}_{arm}": gaps[arm] for arm in arms}
        parts.append(
            f"`{study_name}`, {_tasks(result)}: symmetric attention reaches {values[SYMMETRIC].mean():.2f} in the mean "
            f"over tasks, always the most frequent answer {majority(result):.2f}. Less symmetric: "
            f"{listed(gaps, arms)}; without noise {listed(gaps, [STANDARD, *controls(result)])}.{luck(result, values)}"
        )
    gains = {name: ratio(name, V1, TIED) for name in ("RTE", "MRPC", "SST2")}
    evidence = (
        f"In the table of the digest V1 less symmetric is {gains['RTE']:+.1f} standard errors on RTE, "
        f"{gains['MRPC']:+.1f} on MRPC and {gains['SST2']:+.1f} on SST2. Ours, in points. {' '.join(parts)} "
        f"{OVER_SEEDS} ({told})"
    )
    right = all(one.above for one in found.values())
    return Verdict(State.HOLDS_WITH_CHANGES if right else State.OPEN, evidence, counted(found))


def sampling(result: Mapping | None = None, told: str = "given", one_more: str | None = None) -> Verdict:
    """Held-out losses of the average over draws of the noise, less those by the mean of the noise.

    It holds if in each arm with noise the interval of the difference ends below -0.1 % of the loss: any less is none.

    Args:
        result: of `noiseformer-pretrain`.
        told: where it is from.
        one_more: what is said of a larger network; by default that of the record.
    """
    if result is None:
        if (given := study(PRETRAIN, *VERSIONS)) is None:
            return not_run(f"`{PRETRAIN}` with five seeds")
        result, told = given
    arms = noisy(result)
    average, one = (
        {arm: gap(*(measured(result, arm, name) for name in (measure, "held_out_loss"))) for arm in arms}
        for measure in ("average_loss", "sample_loss")
    )
    line = {arm: -USEFUL * measured(result, arm, "held_out_loss").mean() for arm in arms}
    evidence = (
        f"Held-out losses in nats a token, less that by the mean of the noise. The average of the probabilities of "
        f"{result['draws']} draws: {listed(average, arms)}. A single draw: {listed(one, arms)}. A tenth of a percent "
        f"of the loss is {-max(line.values(), default=0):.4f} or more ({told})."
        f"{larger(KEEP)[0] if one_more is None else one_more}"
    )
    right = bool(arms) and all(found.high < line[arm] for arm, found in average.items())
    numbers = counted(average) | counted({f"single_{arm}": found for arm, found in one.items()})
    return Verdict(State.HOLDS_WITH_CHANGES if right else State.OPEN, evidence, numbers)


def steadier(result: Mapping | None = None, told: str = "given", one_more: str | None = None) -> Verdict:
    """Normalised noise stability of the next-token probabilities, less that of plain symmetric attention.

    It holds if in each arm with noise the interval of the difference is above 0. What disturbed tokens cost stands
    beside it: a network that answers everything alike is stable, and loses little since it has little to lose.

    Args:
        result: of `noiseformer-pretrain`.
        told: where it is from.
        one_more: what is said of a larger network; by default that of the record.
    """
    if result is None:
        if (given := study(PRETRAIN, *VERSIONS)) is None:
            return not_run(f"`{PRETRAIN}` with five seeds")
        result, told = given
    stable, rise, loss = (
        {arm: measured(result, arm, name, keep) for arm in result["arms"]}
        for name, keep in (("normalised_stability", KEEP), ("disturbed_rise", KEEP), ("held_out_loss", None))
    )
    arms, others = noisy(result), [STANDARD, *controls(result)]
    found, cost, worse = (
        {arm: gap(values[arm], values[SYMMETRIC]) for arm in (*arms, *others)} for values in (stable, rise, loss)
    )
    evidence = (
        f"Normalised stability with {100 * KEEP:.0f} % of the tokens kept: {stable[SYMMETRIC].mean():.4f} with "
        f"symmetric attention. Differences to it: with noise {listed(found, arms)}; controls {listed(found, others)}."
        f"{luck(result, stable)} The rise of the loss by the disturbed tokens, in nats, differs by "
        f"{listed(cost, arms)}; the loss on clean text by {listed(worse, arms)} ({told})."
        f"{larger(KEEP)[1] if one_more is None else one_more}"
    )
    right = bool(arms) and all(found[arm].above for arm in arms)
    numbers = counted({arm: found[arm] for arm in arms}) | {"symmetric": float(stable[SYMMETRIC].mean())}
    return Verdict(State.HOLDS if right else State.OPEN, evidence, numbers)


def shared_or_per_head(
    studies: Sequence[tuple[str, Mapping]] | None = None,
    told: str = "given",
    *,
    errors: Callable[[str, str, str], float] = ratio,
) -> Verdict:
    """V2 less V1: task by task in the table of the digest, and over seeds in our studies.

    It holds if in the table no difference is of two standard errors, and if each interval of ours holds 0.

    Args:
        studies: names and results; by default those on record, which must be all three.
        told: where they are from.
        errors: the difference of two models on a task of the table, in standard errors.
    """
    if studies is None:
        names = (PRETRAIN, FINETUNE, GLUE)
        given = [study(name, *VERSIONS) for name in names]
        if None in given:
            return not_run(", ".join(f"`{name}`" for name in names) + ", all with five seeds,")
        studies = [(name, result) for name, (result, _) in zip(names, given, strict=True)]
        told = "; ".join(words for _, words in given)
    table = {task: errors(task, V2, V1) for task in EXAMPLES if task != MATTHEWS}
    farthest = max(table, key=lambda task: abs(table[task]))
    found = {}
    for name, result in studies:
        first, second = (
            measured(result, arm, "held_out_loss") if name == PRETRAIN else scores(result, arm)
            for arm in VERSIONS[::-1]
        )
        found[name] = gap(first, second)
    evidence = (
        f"V2 less V1, in the table of the digest: at most {abs(table[farthest]):.1f} standard errors, on {farthest}, "
        f"over {len(table)} tasks. Ours, losses of `{PRETRAIN}` in nats a token and scores in points: "
        f"{listed(found, list(found))} ({told})."
    )
    right = abs(table[farthest]) < NORMAL and not any(one.above or one.below for one in found.values())
    numbers = counted(found) | {"table": abs(table[farthest])}
    return Verdict(State.HOLDS if right else State.OPEN, evidence, numbers)


def _between(model: str) -> list[str]:
    """The tasks of the table on which a model lies strictly between symmetric attention and the base."""
    ends = {task: sorted((TABLE[BASE][task], TABLE[TIED][task])) for task in EXAMPLES}
    return [task for task, (low, high) in ends.items() if low < TABLE[model][task] < high]


def _tasks(result: Mapping) -> str:
    return "on " + ", ".join(f"{name} ({task['held_out']} examples)" for name, task in result["tasks"].items())


def _shares(closed: Mapping[str, float], arms: Sequence[str]) -> str:
    return ", ".join(f"{100 * closed[arm]:.0f} % (`{arm}`)" for arm in arms)

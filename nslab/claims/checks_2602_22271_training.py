"""The checks of *Support Tokens, Stability Margins, and a New Foundation for Robust LLMs* (2602.22271): experiments.

What the abstract says of experiments it says in words. No number, model, data or perturbation of the paper is known to
us; a third-party port has its strengths of the barrier, 0.02 to 0.05. So nothing here can be refuted: what our study
does not confirm stays *open*, and the evidence says what came out.

The rules were fixed before `barrier-robustness` was run, though not before a smaller pilot. Beside it stand
`token-margins`, the heads of trained models on real text, and `barrier-char-gpt`, one larger network.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from nslab.barrier.blocks import jacobian_blocks
from nslab.barrier.moments import causal_moments
from nslab.barrier.penalty_shapes import margin_penalty
from nslab.barrier.stability_margins import BlockMargins, block_margins
from nslab.barrier.text_margins import spearman
from nslab.claims.acceleration_records import student
from nslab.claims.barrier_records import (
    ALONE,
    barriers,
    bracket,
    compared,
    controls,
    counted,
    differences,
    each,
    larger_network,
    latest,
    modest,
    plain,
    several,
    study,
    variants,
)
from nslab.claims.training_records import numbered, source, span
from nslab.claims.verdicts import State, Verdict, not_run, settle
from nslab.reruns.barrier_robustness import PLAIN, values

KEPT = 0.01  # a loss is kept that rises by less than this share
DOUBLED = math.log(2)
USEFUL = 0.1  # a smaller rank correlation foretells next to nothing
DAMAGES = ("substitution_rise", "swap_rise", "adversarial_rise")
PREDICTORS = {"gain": "$1/s_i$", "barrier": "$-\\log|\\det J_i|$", "entropy": "the entropy of the weights"}
SEQUENCES, LENGTH, WIDTH, NEUTRAL = 200, 16, 8, 2  # random ones; the first two tokens never count
FACTORS = (1.0, 10.0, 100.0, 1000.0)
STUDY = "`barrier-robustness`"


def robustness(result: Mapping | None = None, told: str = "given", larger: str | None = None) -> Verdict:
    """What noise on the embeddings costs beyond the clean loss, with a barrier and without.

    It holds if with the barrier alone on the embeddings, at each modest strength on record, the area under the rise of
    the loss is smaller than in plain training, and so is the loss itself under the largest noise: a network that is
    worse to begin with has less to lose.
    """
    if (given := study(result, told)) is None:
        return not_run(STUDY)
    result, told = given
    area, loudest = differences(result, "noise_area"), differences(result, "noise")
    better = [name for name in area if max(area[name][2], loudest[name][2]) < 0]
    barred, without = barriers(result, "embeddings", "heads"), controls(result)
    won, rivals = ([name for name in group if name in better] for group in (barred, without))
    looks = [found[name] for found in (differences(result, damage) for damage in DAMAGES) for name in barred]
    below, above = sum(high < 0 for _, _, high in looks), sum(low > 0 for _, low, _ in looks)
    evidence = (
        f"The rise of the loss under noise on the embeddings, as an area over the size of the noise, is "
        f"{compared(result, 'noise_area', area)} A network that is worse to begin with has less to lose, so we ask for "
        f"a smaller loss under the largest noise as well: its differences are {several(loudest, barred)}, and of "
        f"controls {several(loudest, without)}. Better in both, by the whole interval, are {len(won)} of {len(barred)} "
        f"arms with a barrier, and {len(rivals)} of {len(without)} controls. Substitutions, swaps and an adversarial "
        f"step: of {len(looks)} intervals of the rise with a barrier {below} lie below 0 and {above} above; luck puts "
        f"one in forty on either side.{larger_network() if larger is None else larger} ({told})"
    )
    return _decided(result, better, evidence, counted(area) | {"won": len(won), "barriers": len(barred)})


def clean_accuracy(result: Mapping | None = None, told: str = "given") -> Verdict:
    """The loss on clean held-out text: kept if, at every modest strength, the interval of its rise ends below 1 %."""
    if (given := study(result, told)) is None:
        return not_run(STUDY)
    result, told = given
    loss, limit = differences(result, "loss"), KEPT * values(result, PLAIN, "loss").mean()
    asked = [name for group in modest(result).values() for name in group]
    lost = [name for name in asked if loss[name][2] > limit]
    evidence = (
        f"The loss on clean held-out text, in nats, is {compared(result, 'loss', loss)} A rise of {limit:.3f}, 1 %, is "
        f"excluded for {len(asked) - len(lost)} of {len(asked)} arms at a modest strength ({told})."
    )
    return Verdict(State.OPEN if lost else State.HOLDS_WITH_CHANGES, evidence, counted(loss) | {"lost": len(lost)})


def margin_concentrated(result: Mapping | None = None, told: str = "given") -> Verdict:
    """The spread of b = -log |det J| over the tokens of the real heads, with a barrier and without.

    It holds if with the barrier alone on the embeddings, at each modest strength on record, it is smaller than in plain
    training.
    """
    if (given := study(result, told)) is None:
        return not_run(STUDY)
    result, told = given
    spread, heads = differences(result, "barrier_spread"), barriers(result, "heads")
    least = {name: values(result, name, "determinant_quantiles")[:, 1].mean() for name in result["arms"]}
    narrow = [name for name in spread if spread[name][2] < 0]
    tight = [name for name in heads if name in narrow]
    evidence = (
        "The standard deviation of $-\\log|\\det J_i|$ over the tokens of the real heads is "
        f"{compared(result, 'barrier_spread', spread)} It is smaller with {len(tight)} of {len(heads)} barriers on "
        f"these heads themselves. One determinant in a hundred is below {least[PLAIN]:.2f} in plain training, and "
        f"below {each({name: least[name] for name in barriers(result, 'embeddings', 'heads')})} ({told})."
    )
    return _decided(result, narrow, evidence, counted(spread) | numbered(least=least[PLAIN], tight=len(tight)))


def raw_term_is_a_reward(
    result: Mapping | None = None, told: str = "given", *, penalty: Callable[..., Tensor] = margin_penalty
) -> Verdict:
    """-log |det(I + t Sigma)| as t grows, beside the hinge; and the determinants of heads trained with either.

    It holds if the term falls like a logarithm or faster; if in each arm that has it on the heads its mean is below
    that of plain training, at the largest strength by log 2; and if in no arm with the hinge it is so by log 2.
    """
    if (given := study(result, told)) is None:
        return not_run(STUDY)
    result, told = given
    paid, walled = variants(result, "raw", "onesided"), variants(result, "hinge")
    if not paid or not walled:
        return not_run(f"{STUDY} with the raw or the one-sided term and the hinge on the heads")
    covariance = causal_moments(*_drawn()).covariance[:, NEUTRAL:]
    grown = [torch.eye(WIDTH, dtype=torch.float64) + factor * covariance for factor in FACTORS]
    raw, hinge = ([float(penalty(blocks, kind).mean()) for blocks in grown] for kind in ("raw", "hinge"))
    mean = differences(result, "barrier_mean")
    middle = {name: values(result, name, "determinant_quantiles")[:, 3].mean() for name in (PLAIN, *paid, *walled)}
    own = {name: values(result, name, "prior_quantiles")[:, 3].mean() for name in variants(result, ALONE)}
    evidence = (
        f"Random sequences, $J_i = I + t \\Sigma_i$ with t from {FACTORS[0]:g} to {FACTORS[-1]:g}: the term goes from "
        f"{raw[0]:.1f} to {raw[-1]:.1f}, and the hinge from {hinge[0]:.1f} to {hinge[-1]:.1f}. Over the tokens of "
        f"trained heads the mean of the term is {plain(result, 'barrier_mean')}. The differences to it are, with the "
        f"raw or the one-sided term, {several(mean, paid)}, and with the hinge {several(mean, walled)}. The median of "
        f"$|\\det J_i|$ is {each(middle)}."
    )
    if own:
        evidence += f" In the prior's own attention that of $\\log |\\det J_i|$ is {each(own)}."
    steps = [earlier - later for earlier, later in itertools.pairwise(raw)]
    falls = steps[0] > 1 and steps == sorted(steps) and not any(hinge)  # a tenfold t never takes it down by less
    strongest = max(paid, key=lambda name: result["arms"][name]["strength"])
    grew = all(mean[name][2] < 0 for name in paid) and mean[strongest][2] < -DOUBLED
    held = all(mean[name][1] > -DOUBLED for name in walled)
    numbers = counted({name: mean[name] for name in paid + walled}) | {"first": raw[0], "last": raw[-1]}
    return settle(falls and grew and held, f"{evidence} ({told})", numbers)


def margin_predicts_loss(result: Mapping | None = None, heads: Mapping | None = None, told: str = "given") -> Verdict:
    """Rank correlations of 1/s_i with the change of the loss when noise is put on token i alone.

    Args:
        result: of `barrier-robustness`: over all tokens of small networks, plainly trained, one number a seed.
        heads: of `token-margins`: within texts, for the mean over heads, with the position held fixed.
        told: where they are from.
    """
    if result is None or heads is None:
        given, record = study(), latest("token-margins")
        if given is None or record is None:
            return not_run(f"{STUDY}, or of `token-margins`,")
        result, heads, told = given[0], record.result, f"{given[1]}; {source(record)}"
    seeds = values(result, PLAIN, "local_correlation").tolist()
    mean, (low, high) = sum(seeds) / len(seeds), student(seeds)
    models = {
        name: {key: model["correlations"]["given_position"][key]["noise"] for key in PREDICTORS}
        for name, model in heads["models"].items()
    }
    shown = []
    for name, found in models.items():
        parts = (f"{PREDICTORS[key]} {bracket(one['value'], one['low'], one['high'])}" for key, one in found.items())
        shown.append(f"`{name}`: {', '.join(parts)}")
    evidence = (
        f"Rank correlations with the change of the loss under noise on one token. In {len(seeds)} small networks, "
        f"plainly trained, $1/s_i$ has {bracket(mean, low, high)}. In trained models, within texts and with the "
        f"position held fixed: {'; '.join(shown)}. What is "
        f"below {USEFUL:g} we call useless ({told})."
    )
    numbers = {"mean": mean, "low": low, "high": high}
    numbers |= {f"{key}_{name}": one["value"] for name, found in models.items() for key, one in found.items()}
    right = low > USEFUL and all(found["gain"]["low"] > USEFUL for found in models.values())
    return settle(right, evidence, numbered(**numbers))


def support_tokens(
    heads: Mapping | None = None,
    told: str = "given",
    *,
    distance: Callable[[Tensor], Tensor] = lambda blocks: block_margins(blocks).spectral,
) -> Verdict:
    """The margin as a distance, on random sequences; and how close tokens of real sentences come in trained heads.

    At the distance there is a singular matrix: the block without its last singular pair. Nearer there is none: no
    smaller step changes the sign of the determinant.
    """
    if heads is None:
        if (record := latest("token-margins")) is None:
            return not_run("`token-margins`")
        heads, told = record.result, source(record)
    blocks = jacobian_blocks(*_drawn())[:, NEUTRAL:].flatten(0, 1)  # (sequences, rows) to one axis
    far = distance(blocks)[:, None, None]
    left, _, right = torch.linalg.svd(blocks)
    pair = left[:, :, -1:] * right[:, -1:, :]
    singular = float(torch.linalg.svdvals(blocks - far * pair)[:, -1].max())
    drawn = torch.randn(blocks.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ways = torch.stack([-pair, drawn / torch.linalg.matrix_norm(drawn, 2, keepdim=True)])
    crossed = int((torch.linalg.det(blocks + 0.999 * far * ways).sign() != torch.linalg.det(blocks).sign()).sum())
    models, at = heads["models"], heads["config"]["temperature"].index(1)
    shown = []
    for name, model in models.items():
        closest = span((one["closest"][at]["margin"] for one in model["sentences"]), ".2f")
        near = f"{100 * model['near']:.2f} %, and $\\det J_i$ below 0 for {100 * model['crossed']:.2f} %,"
        shown.append(f"`{name}`: {closest}; it is below a half for {near} of all tokens in all heads")
    evidence = (
        f"{len(blocks)} blocks of random sequences: at the distance $s_i$ is a matrix whose smallest singular value is "
        f"{singular:.1g} or less; {crossed} of {2 * len(blocks)} steps of length $0.999\\, s_i$ cross the boundary. "
        f"$|\\det J_i|$ of the support tokens of real sentences, over all heads: {'. '.join(shown)} ({told})."
    )
    numbers = {"singular": singular, "crossed": crossed} | {f"near_{name}": one["near"] for name, one in models.items()}
    right = singular < 1e-9 and not crossed and all(model["near"] > 0 for model in models.values())
    return settle(right, evidence, numbered(**numbers), changed=True)


def margin_is_not_conditioning(
    heads: Mapping | None = None, told: str = "given", *, margins: Callable[[Tensor], BlockMargins] = block_margins
) -> Verdict:
    """Support tokens by |det J| and by the smallest singular value, in random sequences; ranks in trained heads."""
    if heads is None:
        if (record := latest("token-margins")) is None:
            return not_run("`token-margins`")
        heads, told = record.result, source(record)
    blocks = jacobian_blocks(*_drawn())[:, NEUTRAL:]
    found, norm = margins(blocks), torch.linalg.matrix_norm(blocks, 2)
    other = float((found.determinant.argmin(-1) != found.spectral.argmin(-1)).double().mean())
    ranks = float(spearman(found.determinant, found.spectral).mean())
    least, most = found.spectral**WIDTH, found.spectral * norm ** (WIDTH - 1)
    slack = float((least / found.determinant).maximum(found.determinant / most).max())
    agreement = {name: model["agreement"] for name, model in heads["models"].items()}
    shown = [f"`{name}` {one['median']:.2f} ({one['low']:.2f} to {one['high']:.2f})" for name, one in agreement.items()]
    evidence = (
        f"In {100 * other:.0f} % of {SEQUENCES} random sequences of {LENGTH} tokens the two name different support "
        f"tokens; the rank correlation over the tokens of a sequence is {ranks:.2f} in the mean. In the heads of "
        f"trained models, on real text, its median over heads, and the middle 80 % of them, are {'; '.join(shown)} "
        f"({told})."
    )
    numbers = {"other": other, "ranks": ranks, "slack": slack}
    numbers |= {f"median_{name}": one["median"] for name, one in agreement.items()}
    right = slack < 1 + 1e-9 and other > 0 and all(one["high"] < 1 for one in agreement.values())
    return settle(right, evidence, numbered(**numbers))


def _decided(result: Mapping, confirming: Iterable[str], evidence: str, numbers: Mapping) -> Verdict:
    """*Holds with changes* if the barrier alone confirms it at each modest strength, else *open*.

    The full prior does not decide: whatever it brings, its other term may bring without a barrier.
    """
    holding = set(modest(result)[ALONE]) <= set(confirming)
    return Verdict(State.HOLDS_WITH_CHANGES if holding else State.OPEN, evidence, numbers)


def _drawn() -> tuple[Tensor, Tensor]:
    """Random sequences (sequences, length, width), and random scores."""
    generator = torch.Generator().manual_seed(0)
    u = torch.randn(SEQUENCES, LENGTH, WIDTH, generator=generator, dtype=torch.float64)
    return u, torch.randn(WIDTH, WIDTH, generator=generator, dtype=torch.float64) / math.sqrt(WIDTH)

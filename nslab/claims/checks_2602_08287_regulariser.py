"""The checks of *Noise Stability of Transformer Models* (2602.08287) about its regulariser on algorithmic tasks.

The algebra is held against enumerations. Who generalises sooner is read from the records of `nslab rerun regulariser`;
without a record a claim is *open*. Of the paper's addition modulus, gamma, rho, "a small Transformer" and iterations as
the unit are known; its optimiser, learning rate, weight decay, batch, split, network and threshold are not, to anybody.
So its numbers can hold with changes at best, and are *not reproduced* only if every setting on record with the paper's
modulus excludes them, the canonical public recipe of Nanda et al. (2023) among them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from nslab.claims.acceleration_records import (
    Race,
    above,
    below,
    beside,
    brief,
    counted,
    judged,
    read_races,
    together,
)
from nslab.claims.checks_2602_08287 import SLACK
from nslab.claims.training_records import names, numbered, sources
from nslab.claims.verdicts import Verdict, not_run, settle
from nslab.noise import Resample, paper_keep
from nslab.protocols import Penalty
from nslab.reruns.regulariser import SETTINGS
from nslab.stability.tabulated import efron_stein_energies
from nslab.tasks import ModularArithmetic
from nslab.training.penalties import RowPenalty, StabilityPenalty

GAMMA, KEEP = 0.75, paper_keep(0.25)  # the paper's for modular addition
KEEPS = (0.0, 0.3, KEEP, 0.9, 1.0)
ADDITION, PARITY = "transformer-113", "parity-40-3-noisy"  # other rates of addition have names that begin so
SMALL = ("mlp-31", "transformer-53")
TENTH = 0.1  # a ratio that is off 1 by less changes little
AVERAGES = r"Geometric means of $T_{\text{plain}} / T_{\text{paper}}$, Student's interval of the logarithms"
BOUNDS = "a network that never gets there counts with the last step, which makes a bound"


def modular_addition(races: Mapping[str, Race] | None = None) -> Verdict:
    """At each learning rate: steps of plain training over those of the paper's regulariser, beside 1.36."""
    races = _with(read_races("plain", "paper") if races is None else races, ADDITION, "paper")
    if not races:
        return not_run("`regulariser` with addition modulo 113")
    found = {name: beside(one.sooner("paper"), 1.36) for name, one in races.items()}
    evidence = f"{_at_rates(found)}.{_missing(races)} {AVERAGES}; {BOUNDS} ({sources(races)})."
    return together(found, evidence, complete=ADDITION in races)


def algorithmic_speed_up(races: Mapping[str, Race] | None = None) -> Verdict:
    """The same beside 1.35, with noisy sparse parity at the paper's gamma and rho for it."""
    races = read_races("plain", "paper") | read_races("plain", "paper-parity") if races is None else races
    additions, parities = _with(races, ADDITION, "paper"), _with(races, PARITY, "paper-parity")
    if not additions | parities:
        return not_run("`regulariser` with addition modulo 113 or noisy parity")
    found = {name: beside(one.sooner("paper"), 1.35) for name, one in additions.items()}
    found |= {name: beside(one.sooner("paper-parity"), 1.35) for name, one in parities.items()}
    missing = "" if additions and parities else " The other task is not run yet."
    missing += _missing(additions) if additions else ""
    luck = "".join(f" {_luck(name, one)}." for name, one in parities.items() if "plain-again" in one.arrived)
    evidence = f"{_at_rates(found)}.{luck}{missing} {AVERAGES}; {BOUNDS} ({sources(additions | parities)})."
    return together(found, evidence, complete=ADDITION in additions and bool(parities))


def punishing_stability(races: Mapping[str, Race] | None = None) -> Verdict:
    """S = 0 and S = 1 against plain training on the quadratic network; other settings are told beside it."""
    name = SMALL[0]
    races = read_races("plain", "paper", "discourage") if races is None else races
    if name not in races:
        return not_run(f"`regulariser` with `{name}`")
    punished, rewarded = races[name].sooner("discourage"), races[name].sooner("paper")
    others = [one for one in races if one in SMALL[1:] or one.startswith("parity")]
    evidence = f"Plain steps over steps. {_opposites(name, races[name])}."
    for arm, said in (("more-decay", "twice the weight decay"), ("label-smoothing", "label smoothing")):
        if arm in races[name].arrived:
            evidence += f" With no regulariser but {said}: {brief(races[name].sooner(arm))}."
    evidence += "".join(f" Beside it, {_opposites(one, races[one])}." for one in others)
    evidence += f" Geometric means, Student's interval ({sources({one: races[one] for one in (name, *others)})})."
    numbers = {}
    for one in (name, *others):
        for arm in ("discourage", "paper", "plain-again"):
            if arm in races[one].arrived:
                numbers |= counted(f"{arm}_{one}", races[one].sooner(arm))
    return settle(above(punished, 1) and below(rewarded, 1), evidence, numbered(**numbers))


LOW_DEGREE = ("low-degree-bonus", "low-degree-tax", "confidence", "unconfidence")
WHOLE = ("paper", "discourage", "paper-twin-detached", "paper-input-detached")


def low_degree_decides(races: Mapping[str, Race] | None = None) -> Verdict:
    """The regulariser, its low-degree part alone and confidence alone, and each of its branches, with both signs."""
    name = SMALL[0]
    races = read_races("plain", *LOW_DEGREE, *WHOLE) if races is None else races
    if name not in races:
        return not_run(f"`regulariser` with `{name}` and the arms {names(LOW_DEGREE + WHOLE)}")
    one = races[name]
    bonus, tax, sure, unsure = (one.sooner(arm) for arm in LOW_DEGREE)
    fined, detached = one.sooner("discourage"), one.sooner("paper-twin-detached")
    beyond = one.sooner("low-degree-tax", than="discourage")
    arms = ("plain", "paper", "low-degree-bonus", "paper-input-detached", "paper-twin-detached")
    seeds, arrived = len(one.arrived["plain"]), {arm: one.count(arm) for arm in arms}
    plain, *others = arrived.values()
    evidence = (
        "Of {} networks of `{}` these generalise by step {}: plain: {}; S = 1: {}; its bonus for low degrees alone: "
        "{}; S = 1 with the input's answer as a constant: {}, with the twin's: {}. "
    ).format(seeds, name, one.steps, plain, *others)
    evidence += (
        f"Plain steps over steps, S = 0: {brief(fined)}; the tax on low degrees alone: {brief(tax)}, which is "
        f"{brief(beyond)} times as fast as S = 0; confidence alone, rewarded: {brief(sure)}, punished: "
        f"{brief(unsure)}; S = 1 with the twin's answer as a constant: {brief(detached)}."
    )
    for beside_it in SMALL[1:]:
        if beside_it in races:
            two = [judged(races[beside_it].sooner(arm)) for arm in LOW_DEGREE[:2]]
            evidence += f" Beside it, `{beside_it}`: with the bonus {two[0]}; with the tax {two[1]}."
    evidence += f" Geometric means, Student's interval ({one.source})."
    harm = plain == seeds and not any(arrived[arm] for arm in arms[1:4])
    good = above(fined, 1) and above(tax, 1) and above(beyond, 1 - TENTH)
    little = all(above(found, 1 - TENTH) and below(found, 1 + TENTH) for found in (sure, unsure))
    numbers = {f"arrived_{arm}": count for arm, count in arrived.items()}
    found = {"bonus": bonus, "tax": tax, "punished": fined, "beyond": beyond, "detached": detached}
    for key, ratio in (found | {"confidence": sure, "unconfidence": unsure}).items():
        numbers |= counted(key, ratio)
    return settle(harm and good and little and above(detached, 1 - TENTH), evidence, numbered(**numbers))


def ledger(energies: Tensor, keep: float | int) -> Tensor:
    r"""$-r^2 \sum_S E_S - (1 - r^2) E_\emptyset - (r - r^2)(E_1 + E_2)$ for the energies of two operands (4,)."""
    nothing, first, second, _ = energies
    return -(keep**2) * energies.sum() - (1 - keep**2) * nothing - (keep - keep**2) * (first + second)


def regulariser_is_a_degree_tax(
    formula: Callable[[Tensor, float], Tensor] = ledger,
    penalty: Callable[[Resample], RowPenalty | Penalty] = StabilityPenalty,
    target: Callable[[int], Tensor] = lambda p: ModularArithmetic(p).energies,
) -> Verdict:
    """The ledger against the penalty's mean over all pairs and all their twins, each with its probability."""
    p, gaps = 4, []
    logits = 2 * torch.randn(p, p, p, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    pairs = ModularArithmetic(p).pairs
    x, y = pairs.repeat_interleave(p * p, 0), pairs.repeat(p * p, 1)  # every pair with every twin: (p**4, 2)

    def model(ids: Tensor) -> Tensor:
        return logits[ids[:, 0], ids[:, 1]]

    rows = penalty(_Given(1, p, twins=y)).rows(model, x, model(x))
    energies = efron_stein_energies(logits.softmax(-1), 2)
    for keep in KEEPS:
        law = (keep * (x == y).double() + (1 - keep) / p).prod(1) / p**2
        gaps.append(float((law * rows).sum() - formula(energies, keep)))
    perfect = torch.tensor([1 / p, 0, 0, 1 - 1 / p], dtype=torch.float64)
    gap, off = max(map(abs, gaps)), float((target(p) - perfect).abs().max())
    bare, single = GAMMA * (1 - KEEP**2), GAMMA * (KEEP - KEEP**2)
    evidence = (
        f"Random class probabilities on {p * p} pairs, all {p**4} pairs of pair and twin, {len(KEEPS)} values of $r$: "
        f"the penalty's mean and the formula differ by {gap:.1g} at most. The energies of addition differ from $1/p$, "
        f"0 and $1 - 1/p$ by {off:.1g}. At $r$ = {KEEP:g}, a unit of energy that moves from degree 2 to degree 1 earns "
        f"{single:.3f} for $\\gamma$ = {GAMMA:g}, and one that moves to degree 0 {bare:.3f}."
    )
    numbers = {"gap": gap, "off_target": off, "earned_by_constant": bare, "earned_by_degree_1": single}
    return settle(max(gap, off) < SLACK, evidence, numbers)


@dataclass(frozen=True)
class _Given(Resample):
    """A noise whose twins are told."""

    twins: Tensor | None = None

    def twin(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return self.twins


def share(keep: float | int, p: int) -> float:
    r"""$(1 - r) / (1 + r + (1 - r)/p)$: the votes for the right answer of an unlabelled pair, in fair shares."""
    return (1 - keep) / (1 + keep + (1 - keep) / p)


def neighbours_know_nothing(
    operation: str = "add", other: str = "multiply", p: int = 7, formula: Callable[[float, int], float] = share
) -> Verdict:
    """Each pair in turn as one without a label: the votes of all others; and the pay for each class at all pairs.

    A random train set has each other pair with the same probability. So their votes are its mean votes, up to a factor.
    """
    task, other = ModularArithmetic(p, operation), ModularArithmetic(p, other)
    (near, votes), (near_other, _) = _votes_for_the_right(task), _votes_for_the_right(other)
    uneven, uneven_other = _uneven(task), _uneven(other)
    gap = float((votes - formula(KEEP, p)).abs().max())
    evidence = (
        f"$r$ = {KEEP:g}, modulo {p}, each pair in turn without a label. Of the others that share an operand with it "
        f"{near} vote for its right answer where the task is to {task.operation}, and up to {near_other} where it is "
        f"to {other.operation}. The right answer has {votes.mean():.4f} of a fair share of all votes; the formula is "
        f"off by {gap:.1g} at most, and for large $p$ it is {formula(KEEP, 10**9):.4f}. Asked at all pairs, this one "
        f"too, the pay for a class, less $r^2$ for the pair's own answer, differs between classes by {uneven:.1g} at "
        f"most ({other.operation}: by up to {uneven_other:.2f})."
    )
    right = near == 0 < near_other and max(gap, uneven) < SLACK < uneven_other
    numbers = {"near": near, "near_other": near_other, "share": votes.mean(), "gap": gap, "uneven_task": uneven}
    return settle(bool(right), evidence, numbered(**numbers, uneven_other=uneven_other))


def _votes_for_the_right(task: ModularArithmetic) -> tuple[int, Tensor]:
    """Most voters for a pair's right answer among those that share one operand with it; its votes, in fair shares."""
    same = (task.pairs[:, None] == task.pairs).double()  # (voter, pair, operand)
    reach = torch.stack([KEEP * one + (1 - KEEP) / size for one, size in zip(same.unbind(-1), task.shape, strict=True)])
    reach = reach.prod(0).fill_diagonal_(0)  # (voter, pair): the chance that the pair is the voter's twin
    right = task.labels[:, None] == task.labels
    near = (right & (same.sum(-1) == 1)).sum(0).max().item()
    return near, task.outputs * (reach * right).sum(0) / reach.sum(0)


def _uneven(task: ModularArithmetic) -> float:
    r"""Largest difference between classes of $E[p_c(X) \mid Y] - r^2 p_c(Y)$, over all pairs Y."""
    answers = torch.nn.functional.one_hot(task.labels, task.outputs).double().view(*task.shape, -1)
    first, second = (KEEP * torch.eye(size).double() + (1 - KEEP) / size for size in task.shape)
    rest = torch.einsum("ac,bd,abk->cdk", first, second, answers) - KEEP**2 * answers
    return (rest.amax(-1) - rest.amin(-1)).max().item()


def _with(races: Mapping[str, Race], prefix: str, arm: str) -> dict[str, Race]:
    """The settings whose names begin so, if they have an arm."""
    return {name: one for name, one in races.items() if name.startswith(prefix) and arm in one.arrived}


def _at_rates(found: Mapping[str, Verdict]) -> str:
    rates = {name: f" (learning rate {SETTINGS[name].learning_rate:g})" for name in found if name in SETTINGS}
    return "; ".join(f"`{name}`{rates.get(name, '')}: {one.evidence}" for name, one in found.items())


def _missing(additions: Mapping[str, Race]) -> str:
    return "" if ADDITION in additions else f" The canonical rate, `{ADDITION}`, is not run yet, and so it stays open."


def _opposites(name: str, one: Race) -> str:
    """What became of S = 0 and of S = 1, and of luck alone where the record knows."""
    words = f"`{name}`, S = 0: {judged(one.sooner('discourage'))}; S = 1: {judged(one.sooner('paper'))}"
    return f"{words}; {_luck(name, one)}" if "plain-again" in one.arrived else words


def _luck(name: str, one: Race) -> str:
    return f"plain training again, on other batches, {brief(one.sooner('plain-again'))} by luck alone"

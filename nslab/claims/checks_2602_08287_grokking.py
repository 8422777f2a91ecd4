"""The checks of *Noise Stability of Transformer Models* (2602.08287) about training: grokking and sparse parity.

Nothing is trained here. The closed forms are held against enumerations. The rest is read from the records of
`nslab rerun grokking`, `grokking-phase` and `parity`; without a record a claim is *open*. Where the paper measured
stability during training is not known to us: what it says of that can hold with changes at best, and nothing here can
refute it.
"""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from nslab.boolean import points
from nslab.claims.checks_2602_08287 import SLACK
from nslab.claims.training_records import (
    ParityRun,
    Run,
    names,
    numbered,
    published,
    read_grokking,
    read_parity,
    source,
    sources,
    span,
)
from nslab.claims.verdicts import LEAST_SEEDS, State, Verdict, not_run, settle
from nslab.noise import paper_keep
from nslab.reruns import grokking
from nslab.tasks import ModularArithmetic, SparseParity
from nslab.training import milestones

RHO = 0.25  # the paper's for modular addition
KEEP = paper_keep(RHO)
FLIP = 0.5  # of the parities: for bits, flips at 0.525 are what the paper's rho = 0.05 is with resampling
NEAR = 0.05  # stability that ends this close to the target's has come to it
APART = 10  # factor by which learning rate times decay differs, at least
ALIKE = 3  # factor by which e-foldings differ, less than this
HALF_RIGHT = 3 / 4  # of the answers ±1: half-way between a guess and all
KEEPS = torch.linspace(0, 1, 9, dtype=torch.float64)
READINGS = {
    "raw": r"$\operatorname{Stab}_r$ of the class probabilities",
    "divided": r"$\operatorname{Stab}_r / \operatorname{Stab}_1$",
    "signs": rf"$\operatorname{{Stab}}_\rho$, $\rho$ = {FLIP:g}, of the answers ±1 to a parity",
}
ANSWERS = {"leads": "leads in", "lags": "lags in", "together": "moves with them in"}


def target_stability(
    addition: Callable[[int, Tensor], Tensor] = lambda p, keep: ModularArithmetic(p).stability(keep),
    signs: Callable[[SparseParity, Tensor], Tensor] = SparseParity.stability,
    classes: Callable[[SparseParity, Tensor], Tensor] = SparseParity.probability_stability,
) -> Verdict:
    """The closed forms against sums over all inputs and all their twins, each with its probability."""
    gaps = {}
    for p in (4, 7):
        a = torch.arange(p)
        label = (a[:, None] + a) % p
        same = (label[:, :, None, None] == label).double()  # (a, b, a of the twin, b of the twin)
        twin = KEEPS[:, None, None] * torch.eye(p).double() + (1 - KEEPS)[:, None, None] / p  # (keep, a, a of the twin)
        summed = torch.einsum("abcd,kac,kbd->k", same, twin, twin) / p**2
        gaps[f"addition_{p}"] = (addition(p, KEEPS) - summed).abs().max().item()
    bits, wrong = 5, 0.1
    x = points(bits).double()
    law = ((1 + KEEPS[:, None, None, None] * x[:, None] * x) / 2).prod(-1) / len(x)  # (rho, x, twin)
    for order in (1, 3):
        f = x[:, :order].prod(1)
        likely = (1 + (1 - 2 * wrong) * torch.stack([f, -f])) / 2  # (classes, x)
        task = SparseParity(bits, order, wrong)
        summed = torch.einsum("kxy,x,y->k", law, f, f), torch.einsum("kxy,cx,cy->k", law, likely, likely)
        gaps[f"parity_{order}"] = (signs(task, KEEPS) - summed[0]).abs().max().item()
        gaps[f"classes_{order}"] = (classes(task, KEEPS) - summed[1]).abs().max().item()
    worst = max(gaps.values())
    canonical = float(addition(113, torch.tensor(KEEP, dtype=torch.float64)))
    evidence = (
        f"Sums over all inputs and all twins, for $p$ = 4 and 7, and for parities of 1 and 3 of {bits} bits "
        f"with a tenth of the labels flipped: the largest difference is {worst:.0e}. Addition modulo 113 at "
        f"$\\rho$ = {RHO:g}, that is $r$ = {KEEP:g}, has {canonical:.3f}."
    )
    return settle(worst < SLACK, evidence, gaps | {"canonical": canonical})


def stability_falls_to_target(runs: Mapping[str, Run] | None = None) -> Verdict:
    """Where stability starts and ends beside the target's, and whether it moves before the answers, by `lead_lag`.

    The claim holds (with changes) if, by one reading of stability for each kind of task, it falls to the target's value
    and leads in every setting in which networks generalise. What it does where none does is told.
    """
    if runs is None:
        runs = read_grokking(KEEP) | {f"parity {name}": one for name, one in read_parity(FLIP).items()}
    learned = {name for name, one in runs.items() if bool(one.generalised.isfinite().any())}
    if not learned:
        return not_run("grokking or parity")
    numbers, words, shown = {}, [], {}
    for reading, title in READINGS.items():
        ways, stuck, answers = {}, {}, {}
        for name, one in runs.items():
            if reading not in one.readings:
                continue
            series, key = one.readings[reading], f"{reading}_{name}"
            kept = one.generalised.isfinite().numpy() if name in learned else slice(None)
            start, known, end = (
                values[kept].mean() for values in (series[0], one.at(one.memorised, series), series[-1])
            )
            (ways if name in learned else stuck)[name] = start, known, end, one.target
            numbers |= {f"start_{key}": start, f"known_{key}": known, f"end_{key}": end, f"target_{key}": one.target}
            if name in learned:
                found = milestones.lead_lag(one.steps, one.train, one.test, series, generator=_generator())
                answers.setdefault(found.answer, []).append(name)
                numbers |= _lead(key, found.first[1])
        if ways:
            falls = [start > target and abs(end - target) <= NEAR for start, _, end, target in ways.values()]
            shown[reading] = all(falls) and answers.keys() == {"leads"}
            told = [f"{verb} {names(answers[answer])}" for answer, verb in ANSWERS.items() if answer in answers]
            if open_ := len(answers.get("undecided", [])):
                told.append(f"is undecided in {open_} of {len(ways)} settings")
            rest = f" Where nothing generalises, in {names(stuck)}, it {_ways(stuck)}." if stuck else ""
            words.append(f"{title} {_ways(ways)}. It {', '.join(told)}.{rest}")
    kinds = {tuple(one.readings) for name, one in runs.items() if name in learned}
    right = all(any(shown[reading] for reading in kind) for kind in kinds)
    evidence = (
        f"Means over seeds, $r$ = {KEEP:g}. From when the train set is known, stability leads (lags) if a quarter, "
        "half and three quarters of its way come before (after) those of the accuracy on unseen inputs, by 95 % "
        f"intervals over seeds. {' '.join(words)} ({sources(runs)})"
    )
    return Verdict(State.HOLDS_WITH_CHANGES if right else State.OPEN, evidence, numbered(**numbers))


def decay_clock(result: Mapping | None = None, told: str = "given") -> Verdict:
    """Median steps and e-foldings of decay over the cells of the clock; the cells beyond it, and without decay."""
    if result is None:
        record = next(published("grokking-phase"), None)
        if record is None:
            return not_run("grokking-phase")
        result, told = record.result, source(record)
    numbers, words, right = {}, [], []
    for p in sorted({cell["modulus"] for cell in result["clock"]}):
        clock = [cell for cell in result["clock"] if cell["modulus"] == p]
        diagram = [cell for cell in result["diagram"] if cell["modulus"] == p]
        strongest = max(cell["weight_decay"] for cell in clock)
        beyond = [
            cell for cell in diagram if cell["weight_decay"] > strongest and cell["fraction"] == clock[0]["fraction"]
        ]
        still = [cell for cell in diagram if cell["weight_decay"] == 0]
        speeds, steps, foldings = _medians(clock)
        with np.errstate(invalid="ignore"):  # no network of any cell generalises: infinite over infinite
            pace, waits, turns = (float(values.max() / values.min()) for values in (speeds, steps, foldings))
        slow = _medians(beyond)[2]
        known, never = (_all_steps(still, key) for key in ("memorised_at", "generalised_at"))
        numbers |= {f"pace_{p}": pace, f"steps_{p}": waits, f"foldings_{p}": turns, f"most_{p}": foldings.max()}
        numbers |= {f"without_decay_{p}": np.isfinite(never).sum(), f"slow_{p}": slow.min(initial=np.inf)}
        stronger = [
            f"{cell['weight_decay']:g} (rate {cell['learning_rate']:g}) {_count(one)}"
            for cell, one in zip(beyond, slow, strict=True)
        ]
        words.append(
            f"$p$ = {p}, {len(clock)} pairs of rate and decay, whose product differs by a factor of {pace:.0f}: the "
            f"median number of steps differs by a factor of {waits:.1f}; that of e-foldings, {span(foldings, '.1f')}, "
            f"by one of {turns:.1f}. Decay {', '.join(stronger) or 'beyond these was not tried'}. Without decay "
            f"{np.isfinite(known).sum()} of {known.size} networks come to know their train set, and "
            f"{np.isfinite(never).sum()} generalise"
        )
        enough = min(len(cell["generalised_at"]) for cell in clock) >= LEAST_SEEDS and known.size > 0
        clocked = pace >= APART and turns < ALIKE and bool((slow > foldings.max()).all())
        right.append(enough and clocked and bool(np.isfinite(known).all()) and not np.isfinite(never).any())
    return settle(all(right), f"{'. '.join(words)} ({told}).", numbered(**numbers))


MIXED, PAIRED, HALF = "transformer-53", "transformer-53-unordered", "transformer-53-unordered-half"
SEPARATE = "mlp-31"  # a table for each operand


def mirror_leak(runs: Mapping[str, Run] | None = None) -> Verdict:
    """Mirrored and unseen pairs when the train set is known, and the steps that three splits take."""
    runs = read_grokking(KEEP) if runs is None else runs
    if missing := [name for name in (MIXED, PAIRED, HALF, SEPARATE) if name not in runs]:
        return not_run(f"grokking with {names(missing)}")
    runs = {name: runs[name] for name in (MIXED, PAIRED, HALF, SEPARATE)}
    mirrored, unseen = (
        runs[MIXED].at(runs[MIXED].memorised, getattr(runs[MIXED], pairs)) for pairs in ("mirrored", "test")
    )
    apart = runs[SEPARATE].at(runs[SEPARATE].memorised, runs[SEPARATE].mirrored)
    late = {name: runs[name].generalised for name in (MIXED, PAIRED, HALF)}
    shares = {name: _different_sums(grokking.SETTINGS[name]) for name in late}
    took = {
        name: f"{runs[name].took(steps)} ({shares[name]:.0%} of the different sums trained on)"
        for name, steps in late.items()
    }
    numbers = {f"share_{name}": share for name, share in shares.items()}
    numbers |= {"mirrored": mirrored.mean(), "unseen": unseen.mean(), "mirrored_separate": apart.mean()}
    numbers |= {f"first_{name}": steps.min() for name, steps in late.items()}
    numbers |= {f"last_{name}": steps.max() for name, steps in late.items()}
    evidence = (
        f"When Transformers first know their train set, a random half of the pairs, they answer {mirrored.mean():.0%} "
        f"of the mirrored pairs and {unseen.mean():.1%} of the unseen ones; networks with a table for each operand "
        f"answer {apart.mean():.1%} of the mirrored ones. 99 % of the unseen pairs are right after {took[MIXED]}; "
        f"where mirrored pairs stay together, after {took[PAIRED]} with {grokking.SETTINGS[PAIRED].fraction:.0%} of "
        f"the pairs, and after {took[HALF]} with half. Means or ranges over seeds ({sources(runs)})."
    )
    leaks = mirrored.mean() > 1 / 2 and (mirrored - unseen).min() > 1 / 4 and apart.mean() < 1 / 10
    slower = late[HALF].min() > max(late[MIXED].max(), late[PAIRED].max())
    return settle(bool(leaks and slower), evidence, numbered(**numbers))


def hidden_progress(runs: Mapping[str, ParityRun] | None = None) -> Verdict:
    """When the weights name the relevant bits, how good the answers are then, and what is half-way first."""
    runs = read_parity(FLIP) if runs is None else runs
    if not runs:
        return not_run("parity")
    numbers, leads, right = {}, [], []
    accuracy, done, moved = [], [], []  # of every network
    for name, one in runs.items():
        answers = one.at(one.revealed, one.test)
        share, movement, test = (
            milestones.halfway(one.steps, series, series[0], series[-1], interpolate=True)
            for series in (one.share, one.movement, one.test)
        )
        lead = milestones.lead(share, test, generator=_generator())
        numbers |= {f"accuracy_{name}": answers.mean(), f"most_{name}": answers.max()} | _lead(name, lead)
        leads.append(-lead.mean)
        accuracy += answers.tolist()
        done += (one.revealed / one.generalised).tolist()
        moved += (movement / one.generalised).tolist()
        early = bool((answers < HALF_RIGHT).all()) and bool((one.revealed < one.generalised).all())
        right.append(early and len(answers) >= LEAST_SEEDS and bool(lead.interval.high < 0))
    evidence = (
        f"In {names(runs)}, {len(accuracy)} networks, the relevant bits have the largest first-layer weights, for "
        f"good, from a test accuracy of {span(accuracy, '.2f')} on, after {span(done, '.0%')} of the steps to an "
        "accuracy of 99 %. Their share of the weight energy is half-way later than the accuracy, in the mean of a "
        f"setting by {span(leads, '.0f')} steps. The first layer's distance from its start is half-way after "
        f"{span(moved, '.0%')} of the steps ({sources(runs)})."
    )
    return settle(all(right), evidence, numbered(**numbers))


def _all_steps(cells: list[dict], key: str) -> np.ndarray:
    """One milestone of all networks of some cells; infinite for never."""
    return np.array([np.inf if step is None else step for cell in cells for step in cell[key]])


def _medians(cells: list[dict]) -> np.ndarray:
    """Rate times decay, and the median steps and e-foldings until generalisation, of each cell: (3, cells)."""
    speeds = np.array([cell["learning_rate"] * cell["weight_decay"] for cell in cells])
    steps = np.array([np.median(_all_steps([cell], "generalised_at")) for cell in cells])
    return np.stack([speeds, steps, milestones.decay_clock(steps, speeds, 1).numpy()])


def _count(foldings: float) -> str:
    return f"takes {foldings:.1f}" if np.isfinite(foldings) else "leaves most networks where they are"


def _different_sums(one: grokking.Setting) -> float:
    """Share of the unordered pairs of operands of which the train set has at least one order; mean over five seeds."""
    mirror = one.network.task.mirror
    splits, _ = grokking.prepare(one, range(LEAST_SEEDS))
    either = torch.stack([split.train | split.train[mirror] for split in splits])
    return either[:, torch.arange(len(mirror)) <= mirror].double().mean().item()


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _lead(name: str, lead: milestones.Lead) -> dict:
    return {f"lead_{name}": lead.mean, f"low_{name}": lead.interval.low, f"high_{name}": lead.interval.high}


def _ways(ways: Mapping[str, tuple[float, float, float, float]]) -> str:
    """From where to where, in words; what lies behind once the train set is known, only where it ever is."""
    starts, known, ends, targets = (np.array(values) for values in zip(*ways.values(), strict=True))
    side = "above" if (starts > targets).all() else "below" if (starts < targets).all() else "on both sides of"
    with np.errstate(divide="ignore", invalid="ignore"):
        behind = (known - starts) / (ends - starts)
    behind = behind[np.isfinite(behind)]
    memorised = f"; {span(behind, '.0%')} of the way lie behind once the train set is known" if len(behind) else ""
    return (
        f"starts at {span(starts, '.2f')}, {side} the target, which has {span(targets, '.3f')}, and ends within "
        f"{abs(ends - targets).max():.3f} of it{memorised}"
    )

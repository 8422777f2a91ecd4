"""The checks of *Noise Stability of Transformer Models* (2602.08287) about its regulariser in language modelling.

They read the records of `nslab rerun next-token`; without one a claim is *open*. gamma and rho of the paper's language
model are not known to us. Those of modular addition stand in for them, and one pair of numbers cannot refute the paper.
Nor is the finishing line known. The plain network's best is a lucky look, and no verdict rests on it: a second plain
network, told beside the regularised ones, often never gets there either.
"""

from collections.abc import Mapping

import numpy as np

from nslab.claims.acceleration_records import above, below, beside, brief, counted, student
from nslab.claims.training_records import numbered, published, source, span
from nslab.claims.verdicts import LEAST_SEEDS, State, Verdict, not_run, settle
from nslab.noise import paper_keep
from nslab.records import Record
from nslab.reruns.next_token import curves, paired

GAMMA, RHO = 0.75, 0.25  # a digest's for modular addition
GRID = 3  # gammas, and as many rhos, that are a sweep
LINES = (0.9, 0.95)  # parts of the plain network's way to its best held-out loss, all of which must agree
LATE = 0.99  # where some never get there; a refutation needs it too, if only by bounds
FELL = 0.1  # a stability that falls loses more than this share of its start,
LESS = 0.5  # and one that stays less than this share of the other one's loss


def next_token(result: Mapping | None = None, told: str = "given") -> Verdict:
    """Steps of plain training over the regulariser's, to several parts of the plain network's way, at each gamma, rho.

    It holds if it does at every one of `LINES`, at the numbers of modular addition or in more than one cell. It is not
    reproduced if each line refutes it in every cell of a sweep, and so does `LATE`, by its interval or by each bound.
    """
    if result is None:
        if (record := _record()) is None:
            return not_run("`next-token`")
        result, told = record.result, source(record)
    cells = {name: one for name, one in result["arms"].items() if one["kind"] == "paper"}
    found = {name: [beside(paired(result, name, line), 1.75) for line in LINES] for name in cells}
    holding, refuting = (
        [name for name, verdicts in found.items() if all(one.state is state for one in verdicts)]
        for state in (State.HOLDS, State.NOT_REPRODUCED)
    )
    late = {name: paired(result, name, LATE) for name in cells}
    refuting = [name for name in refuting if below(late[name], 1.75) or above(late[name], 1.75)]
    gammas, rhos = ({one[key] for one in cells.values()} for key in ("gamma", "rho"))
    swept = min(len(gammas), len(rhos)) >= GRID and len(cells) == len(gammas) * len(rhos)
    name, again = _arm(result, "paper"), _arm(result, "plain-again")
    shown = [line for line in result["fractions"] if line >= LINES[0]]
    told_at = {line: beside(paired(result, name, line), 1.75).evidence for line in shown}
    evidence = (
        f"Steps of plain training over steps with the regulariser, at $\\gamma$ = {GAMMA:g} and $\\rho$ = {RHO:g}, to "
        f"parts of the plain network's way to its best held-out loss. {_listed(told_at)}. "
    )
    if again:
        luck = {line: brief(paired(result, again, line)) for line in shown}
        evidence += f"A second plain network on other batches, by luck alone, has {_listed(luck)}. "
    if len(cells) > 1:
        ratios = [paired(result, cell, LINES[-1]).ratio for cell in cells]
        evidence += (
            f"In {len(cells)} pairs of $\\gamma$ ({span(gammas, 'g')}) and $\\rho$ ({span(rhos, 'g')}) the ratios to "
            f"{LINES[-1]:g} are {span(ratios, '.2f')}; {len(refuting)} exclude 1.75, {len(holding)} hold it and not 1. "
        )
    evidence += f"A network that never gets there counts with the last step, which makes a bound ({told})."
    numbers = {"cells": len(cells), "holding": len(holding), "refuting": len(refuting)}
    for kind, arm in (("paper", name), ("again", again)):
        for line in shown if arm else ():
            numbers |= counted(f"{kind}_{line:g}", paired(result, arm, line))
    if name in holding or len(holding) > 1:
        return Verdict(State.HOLDS_WITH_CHANGES, evidence, numbered(**numbers))
    if swept and len(refuting) == len(cells):
        return Verdict(State.NOT_REPRODUCED, evidence, numbered(**numbers), found[name][-1].comparison)
    return Verdict(State.OPEN, evidence, numbered(**numbers))


def _listed(told: Mapping[float, str]) -> str:
    """What is told of each part of the way."""
    return "; ".join(f"{line:g}: {words}" for line, words in told.items())


Series = Mapping[str, tuple[np.ndarray, np.ndarray]]


def stays_stable(stability: Series | None = None, told: str = "given") -> Verdict:
    """Where the stability of next-token distributions starts and ends, plainly trained and regularised.

    Args:
        stability: for "plain" and "paper" the normalised and the raw stability at the regulariser's own noise,
            (records, seeds) each.
        told: where they are from.

    How to read it: the intervals are Student's, of differences over paired seeds.
    """
    if stability is None:
        if (record := _record()) is None:
            return not_run("`next-token`")
        stability, told = _read_stability(record), source(record)
    ends = {name: [series[[0, -1]].astype(float) for series in both] for name, both in stability.items()}
    (plain, raw), (paper, paper_raw) = ends["plain"], ends["paper"]  # (start and end, seeds)
    lost = {name: (start - end) / start for name, (start, end) in (("plain", plain), ("paper", paper))}
    fall, gap = student(lost["plain"].tolist()), student((paper[1] - plain[1]).tolist())
    numbers = {
        "start_plain": plain[0].mean(),
        "end_plain": plain[1].mean(),
        "start_paper": paper[0].mean(),
        "end_paper": paper[1].mean(),
        "gap": (paper[1] - plain[1]).mean(),
        "gap_low": gap[0],
        "gap_high": gap[1],
        "raw_end_plain": raw[1].mean(),
        "raw_end_paper": paper_raw[1].mean(),
    }
    evidence = (
        f"Tokens kept with probability {paper_keep(RHO):g}, means over {plain.shape[1]} seeds. Divided by its value "
        f"without noise, stability goes from {plain[0].mean():.3f} to {plain[1].mean():.3f} in plain training, and "
        f"from {paper[0].mean():.3f} to {paper[1].mean():.3f} with the regulariser, {numbers['gap']:+.3f} "
        f"[{gap[0]:+.3f}, {gap[1]:+.3f}] seed by seed. Undivided it goes from {raw[0].mean():.3f} to "
        f"{raw[1].mean():.3f}, and from {paper_raw[0].mean():.3f} to {paper_raw[1].mean():.3f} ({told})."
    )
    falls = fall[0] > FELL
    stays = gap[0] > 0 and lost["paper"].mean() < LESS * lost["plain"].mean()
    return settle(bool(falls and stays), evidence, numbered(**numbers), changed=True)


def penalty_buys_confidence(result: Mapping | None = None, told: str = "given") -> Verdict:
    """Confidence less accuracy, and calibration error beside that of the plain network of the same seed.

    The intervals are Student's.
    """
    if result is None:
        if (record := _record()) is None:
            return not_run("`next-token`")
        result, told = record.result, source(record)
    values = {
        kind: {key: np.array(result["arms"][name][key]) for key in KEYS}
        for kind in ("plain", "paper", "confidence")
        if (name := _arm(result, kind))
    }
    excess = {kind: one["confidence"] - one["accuracy"] for kind, one in values.items()}
    errors = {kind: one["calibration_error"] for kind, one in values.items()}
    seeds = len(errors["paper"])
    sure, worse = student(excess["paper"].tolist()), student((errors["paper"] - errors["plain"]).tolist())
    numbers = {f"excess_{kind}": one.mean() for kind, one in excess.items()}
    numbers |= {f"error_{kind}": one.mean() for kind, one in errors.items()}
    numbers |= {"excess_low": sure[0], "excess_high": sure[1], "worse_low": worse[0], "worse_high": worse[1]}
    control = ""
    if "confidence" in values:
        control = (
            f". With confidence alone rewarded they are {excess['confidence'].mean():+.3f} and "
            f"{errors['confidence'].mean():.3f}"
        )
    evidence = (
        f"On held-out text, means over {seeds} seeds: confidence less accuracy is {excess['plain'].mean():+.3f} after "
        f"plain training and {excess['paper'].mean():+.3f} [{sure[0]:+.3f}, {sure[1]:+.3f}] with the "
        f"regulariser; the calibration error is {errors['plain'].mean():.3f} and {errors['paper'].mean():.3f}, "
        f"{(errors['paper'] - errors['plain']).mean():+.3f} [{worse[0]:+.3f}, {worse[1]:+.3f}] seed "
        f"by seed{control} ({told})."
    )
    return settle(sure[0] > 0 and worse[0] > 0, evidence, numbered(**numbers))


KEYS = ("confidence", "accuracy", "calibration_error")


def _record() -> Record | None:
    """The strongest record with the plain network and the regulariser at the numbers of modular addition.

    The quick preset has a smaller network, and does not look at the regulariser's own noise: it is none, whatever its
    seeds.
    """
    for record in published("next-token"):
        told = record.result
        if (
            record.seeds >= LEAST_SEEDS
            and paper_keep(RHO) in told["keep"]
            and _arm(told, "plain")
            and _arm(told, "paper")
        ):
            return record
    return None


def _arm(result: Mapping, kind: str) -> str | None:
    """The name of an arm of a kind, at the numbers of modular addition if it has numbers."""
    for name, one in result["arms"].items():
        if one["kind"] == kind and one["gamma"] in (None, GAMMA) and one["rho"] in (None, RHO):
            return name
    return None


def _read_stability(record: Record) -> Series:
    keep = record.result["keep"].index(paper_keep(RHO))
    names = {kind: _arm(record.result, kind) for kind in ("plain", "paper")}
    return {
        kind: tuple(curves(record, name, key)[1][..., keep] for key in ("normalised_stability", "stability"))
        for kind, name in names.items()
    }

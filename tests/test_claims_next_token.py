"""Checks about the regulariser in language modelling: toy records whose numbers are known, and worse ones."""

import json

import numpy as np
import pytest

from nslab.claims import State
from nslab.claims import checks_2602_08287_next_token as checks

HOLD, CHANGED, REFUTED, OPEN = State.HOLDS, State.HOLDS_WITH_CHANGES, State.NOT_REPRODUCED, State.OPEN
PLAIN = [1000, 1100, 1200, 1300, 1400]
NEVER = [None] * 5
LAST = 3000


def times(factor, wobble=0.03):
    """Steps of an arm that takes about `factor` times as many as the plain one."""
    return [round(step * factor * (1 + wobble * way)) for step, way in zip(PLAIN, (-1, 1, 0, -1, 1), strict=True)]


def arm(kind, reached=None, gamma=0.75, rho=0.25, sure=0.20, right=0.12, error=0.09, early=None, late=None):
    """`reached`: at the plain network's best; `late`: at 0.99, by default the same; `early`: before, half of it."""
    seeds = np.arange(5) * 0.002
    told = {"confidence": sure + seeds, "accuracy": right + seeds, "calibration_error": error + seeds}
    told = {key: values.tolist() for key, values in told.items()}
    best = PLAIN if reached is None else reached
    early = [step and step // 2 for step in best] if early is None else early
    reached = {"0.5": early, "0.9": early, "0.95": early, "0.99": best if late is None else late, "1.0": best}
    return {"kind": kind, "gamma": gamma, "rho": rho, "reached": reached} | told


def language(**arms):
    told = {"plain": arm("plain", gamma=None, rho=None, sure=0.15, error=0.03)}
    told |= arms or {"paper": arm("paper", times(1.1))}
    return {"steps": LAST, "fractions": [0.5, 0.9, 0.95, 0.99, 1.0], "keep": [0.5, 0.625], "arms": told}


def grid(steps, early=None, late=None, **one):
    """Three gammas and three rhos; `one` replaces the steps of single cells."""
    cells = {f"paper-{gamma:g}-{rho:g}": (gamma, rho) for gamma in (0.05, 0.2, 0.75) for rho in (0.0, 0.25, 0.8)}
    return {
        name: arm("paper", one.get(name, steps), gamma=gamma, rho=rho, early=early, late=late)
        for name, (gamma, rho) in cells.items()
    }


@pytest.mark.parametrize(
    ("result", "state"),
    [
        (language(paper=arm("paper", times(1.1))), OPEN),  # one gamma and one rho refute nothing
        (language(paper=arm("paper", NEVER)), OPEN),
        (language(paper=arm("paper", times(1 / 1.75))), CHANGED),
        (language(paper=arm("paper", NEVER, early=times(1 / 3.5))), CHANGED),  # whatever the lucky best says
        (language(paper=arm("paper", times(1 / 1.75), early=times(0.5))), OPEN),  # at the lucky best alone
        (language(**grid(times(1.1))), REFUTED),
        (language(**grid(NEVER, early=times(0.55))), REFUTED),  # at 0.99 no ratio reaches it
        (language(**grid(NEVER)), OPEN),  # none gets anywhere: bounds alone
        (language(**grid([800, *NEVER[1:]], early=times(0.55), late=[500, *NEVER[1:]])), OPEN),  # one does, at 0.99
        (language(**grid(times(1.1), late=times(1 / 1.75))), OPEN),
        (language(**grid(times(1.1), **{"paper-0.2-0": [500, 2000, 600, 1900, 700]})), OPEN),
        (language(**grid(times(1.1), **{"paper-0.2-0": times(1 / 1.75)})), OPEN),  # one cell of nine, and not ours
        (language(**grid(times(1.1), **{"paper-0.75-0.25": times(1 / 1.75)})), CHANGED),
        (language(**grid(times(1.1), **{"paper-0.2-0": times(1 / 1.75), "paper-0.2-0.8": times(1 / 1.75)})), CHANGED),
        (language(**dict(list(grid(times(1.1)).items())[3:])), OPEN),  # two gammas
        (language(**dict(list(grid(times(1.1)).items())[1:])), OPEN),  # a hole
    ],
)
def test_a_claim_without_gamma_and_rho_is_refuted_by_a_whole_grid_alone(result, state):
    assert checks.next_token(result).state is state


def test_each_line_luck_and_the_grid_are_told():
    early = [step // 2 for step in PLAIN]
    again = arm("plain-again", [*PLAIN[:3], None, None], gamma=None, rho=None, early=early)
    verdict = checks.next_token(language(paper=arm("paper", NEVER, early=early), again=again))
    assert verdict.numbers["ratio_paper_0_9"] == 1
    assert "0.9: 1.00 over 5 seeds, 95 % interval 1.00 to 1.00, which lies below 1.75 and holds 1" in verdict.evidence
    assert "1: at most 0.40 (5 of 5 never get there, no ratio is above 0.47), so that none is 1.75" in verdict.evidence
    luck = verdict.evidence.partition("by luck alone")[2]
    assert "0.95: 1.00 [1.00, 1.00]" in luck
    assert "1: at most 0.73 (2 of 5 never get there, no ratio is above 1.00)" in luck
    assert "0.5:" not in verdict.evidence
    told = checks.next_token(language(**grid(times(1.0, 0), **{"paper-0.05-0.8": times(0.8, 0)})))
    assert (
        "In 9 pairs of $\\gamma$ (0.05 to 0.75) and $\\rho$ (0 to 0.8) the ratios to 0.95 are 1.00 to 1.25"
        in told.evidence
    )
    assert "9 exclude 1.75, 0 hold it and not 1" in told.evidence


def stability(plain, paper, seeds=5):
    """From 1 to the given ends, in three records; undivided a twentieth."""

    def series(end):
        values = np.array([1.0, (1 + end) / 2, end])[:, None] * (1 + 0.001 * np.arange(seeds))
        return values, values / 20

    return {"plain": series(plain), "paper": series(paper)}


@pytest.mark.parametrize(
    ("series", "state"),
    [
        (stability(0.5, 0.9), CHANGED),
        (stability(0.95, 0.99), OPEN),  # the plain one is stable as well
        (stability(0.5, 0.45), OPEN),
        (stability(0.5, 0.6), OPEN),  # higher, and not high
        (stability(0.5, 0.9, seeds=4), OPEN),
    ],
)
def test_stability_that_stays_loses_less_than_half(series, state):
    verdict = checks.stays_stable(series)
    assert verdict.state is state
    assert verdict.numbers["gap"] == pytest.approx(verdict.numbers["end_paper"] - verdict.numbers["end_plain"])


@pytest.mark.parametrize(
    ("paper", "state"),
    [
        (arm("paper"), HOLD),
        (arm("paper", error=0.03), OPEN),  # calibrated like the plain one
        (arm("paper", sure=0.10, error=0.09), OPEN),  # off, but too modest
    ],
)
def test_bought_confidence_is_above_accuracy_and_worse_than_plain(paper, state):
    verdict = checks.penalty_buys_confidence(language(paper=paper))
    assert verdict.state is state
    assert verdict.numbers["excess_plain"] == pytest.approx(0.03)
    assert "confidence alone" not in verdict.evidence
    control = {"confidence": arm("confidence", rho=None, sure=0.3)}
    assert (
        "With confidence alone rewarded they are +0.180 and 0.094"
        in checks.penalty_buys_confidence(language(**control, paper=paper)).evidence
    )


@pytest.fixture
def record(tmp_path):
    """``record(name, result, ...)``: a record of ``next-token``, stale as it names no sources."""

    def write(name, result, *, seeds=5, series=None):
        folder = tmp_path / "next-token" / name
        folder.mkdir(parents=True)
        (folder / "run.json").write_text(json.dumps({"seeds": seeds}))
        (folder / "result.json").write_text(json.dumps(result))
        np.savez(folder / "history.npz", **(series or {}))

    return write


def test_language_models_are_read_at_the_numbers_of_addition(record, tmp_path, monkeypatch):
    monkeypatch.setenv("NSLAB_RECORDS", str(tmp_path))
    series = {}
    for name, end in (("plain", 0.5), ("paper-0.75-0.25", 0.9)):
        for measure, scale in (("stability", 0.05), ("normalised_stability", 1.0)):
            values = np.array([1.0, end])[:, None, None] * np.array([0.0, scale])  # keep = 0.5, 0.625
            series |= {f"{name}_{measure}": np.repeat(values, 5, 1), f"{name}_{measure}_step": np.array([0, 900])}
    record("quick-cpu-20260101T000000", language(), seeds=2)
    record("quick-cpu-20260102T000000", language() | {"keep": [0.5, 0.9]})  # five seeds make no network of the claim's
    for check in (checks.next_token, checks.stays_stable, checks.penalty_buys_confidence):
        assert "Not run yet" in check().evidence
    record("full-cuda-20260101T000000", language(**grid(times(1.1))), series=series)
    assert checks.next_token().state is REFUTED
    verdict = checks.stays_stable()
    assert verdict.state is CHANGED
    assert verdict.numbers["end_paper"] == pytest.approx(0.9)
    assert verdict.numbers["raw_end_plain"] == pytest.approx(0.025)
    assert checks.penalty_buys_confidence().state is HOLD
    record("custom-cpu-20260102T000000", language(paper=arm("paper", times(1 / 1.75))))
    assert checks.next_token().state is REFUTED, "changed settings are not those of the preset"

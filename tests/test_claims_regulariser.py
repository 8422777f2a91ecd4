"""Checks about the regulariser: algebra against wrong algebra, and toy races that change states."""

import json
import math

import numpy as np
import pytest
import torch
from scipy.stats import t

from nslab.claims import State
from nslab.claims import checks_2602_08287_regulariser as checks
from nslab.claims.acceleration_records import Race, above, below, beside, brief, read_races, student
from nslab.records import file_hashes
from nslab.tasks import ModularArithmetic, split_pairs
from nslab.training.penalties import ConfidencePenalty, StabilityPenalty

HOLD, CHANGED, REFUTED, OPEN = State.HOLDS, State.HOLDS_WITH_CHANGES, State.NOT_REPRODUCED, State.OPEN
PLAIN = [1000, 1100, 1200, 1300, 1400]
NEVER = [None] * 5
LAST = 3000


def times(factor, wobble=0.03):
    """Steps of an arm that takes about `factor` times as many as the plain one."""
    return [round(step * factor * (1 + wobble * way)) for step, way in zip(PLAIN, (-1, 1, 0, -1, 1), strict=True)]


def race(**arms):
    return Race(LAST, {"plain": PLAIN} | {name.replace("_", "-"): steps for name, steps in arms.items()}, "a toy")


# What ratios say


def found(plain, changed):
    return Race(LAST, {"plain": plain, "changed": changed}, "a toy").sooner("changed")


def test_the_interval_is_students_and_longer_than_the_bootstraps():
    changed = [900, 1200, 1000, 1500, 1100]
    ratios = found(PLAIN, changed)
    logs = np.log(np.array(PLAIN) / np.array(changed))
    low, high = t.interval(0.95, 4, logs.mean(), logs.std(ddof=1) / 5**0.5)
    assert student(logs.tolist()) == pytest.approx((low, high), rel=1e-5)
    assert brief(ratios) == f"{math.exp(logs.mean()):.2f} [{math.exp(low):.2f}, {math.exp(high):.2f}]"
    assert math.isnan(student(logs[:4].tolist())[0])
    five = found([410, 180, 260, 680, 210], [300, 170, 240, 520, 215])  # the bootstrap calls it faster
    assert five.interval.low > 1
    assert not above(five, 1)


def test_a_side_is_taken_by_every_bound_or_not_at_all():
    cases = [
        (PLAIN, times(0.5), "above"),
        (PLAIN, times(2.0), "below"),
        (PLAIN, [500, 2000, 900, 1700, 800], ""),
        (PLAIN, NEVER, "below"),
        (PLAIN, [1100, 1200, 1300, None, None], "below"),
        (PLAIN, [900, None, None, None, None], ""),  # one is faster
        (PLAIN, [*times(0.1)[:4], None], ""),
        (NEVER, PLAIN, "above"),
        ([*PLAIN[:4], None], times(0.5), "above"),
        ([*PLAIN[:4], None], [*times(2.0)[:3], 3000, 2900], ""),  # a bound from below says nothing of slower
        ([500, 600, *NEVER[2:]], [250, 290, *NEVER[2:]], ""),  # three of five in neither arm
        (PLAIN[:4], times(0.5)[:4], ""),  # four
        (NEVER, NEVER, ""),
    ]
    for plain, changed, side in cases:
        ratios = found(plain, changed)
        assert ("above" * above(ratios, 1) + "below" * below(ratios, 1)) == side, (plain, changed)


def test_no_bound_is_held_against_the_papers_number():
    """A seed that gets slower may make the interval longer, so that one with its last step in it excludes nothing."""
    late = found(PLAIN, [1000, 1100, 1200, 1300, None])
    assert beside(late, 3.5).state is OPEN
    assert beside(found(PLAIN, [1000, 1100, 1200, 1300, 2999]), 3.5).state is REFUTED
    assert brief(late).endswith("(1 of 5 never get there, no ratio is above 1.00)")
    assert beside(late, 1.36).evidence.endswith("so that none is 1.36")
    assert "so that none" not in beside(late, 0.9).evidence
    assert beside(found([500, 600, *NEVER[2:]], [250, 290, *NEVER[2:]]), 2).state is OPEN
    assert "3 of 5 get there in neither arm" in brief(found([500, 600, *NEVER[2:]], [250, 290, *NEVER[2:]]))
    assert brief(found(NEVER, NEVER)) == "no ratio, as neither ever gets there"


# The paper's ratios


def additions(slow=None, fast=None):
    slow, fast = slow or times(1.0), fast or times(0.95)
    return {"transformer-113": race(paper=slow), "transformer-113-fast": race(paper=fast)}


@pytest.mark.parametrize(
    ("races", "state"),
    [
        (additions(), REFUTED),
        (additions(slow=times(1 / 1.36)), OPEN),  # the two rates disagree
        (additions(times(1 / 1.36), times(1 / 1.35)), CHANGED),
        (additions(slow=[700, 2000, 900, 1700, 800]), OPEN),  # anything is possible
        (additions(slow=NEVER), OPEN),  # at most a third, and yet a bound
        (additions(slow=times(0.4)), REFUTED),  # 2.5 is not 1.36 either
        (additions(slow=[*times(1.0)[:3], 2900, None]), OPEN),
        (additions(slow=[500, 550, 600, 1300, None]), OPEN),  # at most 1.36 or so is no 1.36
        ({"transformer-113": race(paper=times(1.0))}, REFUTED),
        ({"transformer-113-fast": race(paper=times(1.0))}, OPEN),  # without the canonical rate
        ({"transformer-113-fast": race(paper=times(1 / 1.36))}, OPEN),
        ({"transformer-53": race(paper=times(1.0))}, OPEN),
        ({}, OPEN),
    ],
)
def test_addition_is_not_reproduced_only_if_every_rate_excludes_the_ratio(races, state):
    assert checks.modular_addition(races).state is state


def test_a_plain_network_that_never_arrives_refutes_nothing():
    late = Race(LAST, {"plain": [*PLAIN[:4], None], "paper": times(1.0)}, "a toy")
    verdict = checks.modular_addition({"transformer-113": late})
    assert verdict.state is OPEN
    assert "at least" in verdict.evidence


def test_the_verdict_on_a_number_is_students_for_the_logarithms():
    changed = [900, 1200, 1000, 1500, 1100]
    told = beside(found(PLAIN, changed), 1.36)
    logs = np.log(np.array(PLAIN) / np.array(changed))
    ends = np.exp(t.interval(0.95, 4, logs.mean(), logs.std(ddof=1) / 5**0.5))
    assert told.numbers["ratio"] == pytest.approx(math.exp(logs.mean()))
    assert [told.numbers[key] for key in ("low", "high")] == pytest.approx(ends, rel=1e-5)
    assert told.evidence.endswith("which lies below 1.36 and holds 1")
    turned = beside(found(changed, PLAIN), 1 / 1.36)
    assert turned.numbers["low"] == pytest.approx(1 / ends[1], rel=1e-5), "no side is favoured"
    assert turned.evidence.endswith("which lies above 0.735294 and holds 1")


def test_the_evidence_names_rate_side_and_bound():
    evidence = checks.modular_addition(additions(slow=NEVER)).evidence
    assert "`transformer-113` (learning rate 0.001): at most 0.40 (5 of 5 never get there, no ratio is" in evidence
    assert "above 0.47), so that none is 1.36" in evidence
    assert "`transformer-113-fast` (learning rate 0.01): 1.0" in evidence
    assert "counts with the last step, which makes a bound (a toy)" in evidence
    assert "lies above 1.36 and lies above 1" in checks.modular_addition(additions(slow=times(0.4))).evidence
    alone = checks.modular_addition({"transformer-113-fast": race(paper=times(0.95))}).evidence
    assert "which lies below 1.36 and lies above 1. The canonical rate, `transformer-113`, is not run yet" in alone
    renamed = checks.modular_addition({"transformer-113-slower": race(paper=times(0.95))}).evidence
    assert renamed.startswith("`transformer-113-slower`: 1.0"), "a record outlives the settings of the code"


def parity(steps):
    return {"parity-40-3-noisy": race(paper_parity=steps, paper=times(0.5), plain_again=times(0.8))}


@pytest.mark.parametrize(
    ("races", "state"),
    [
        (additions() | parity(times(1.0)), REFUTED),
        (additions() | parity(times(1 / 1.35)), OPEN),  # one of two
        (additions(times(1 / 1.35), times(1 / 1.36)) | parity(times(1 / 1.34)), CHANGED),
        (additions(), OPEN),  # parity is missing
        ({"transformer-113-fast": race(paper=times(0.95))} | parity(times(1.0)), OPEN),  # the canonical rate is
        (parity(times(1.0)), OPEN),
        (additions() | {"parity-40-3-noisy": race(paper=times(1.0))}, OPEN),  # not at the paper's numbers for parity
        ({}, OPEN),
    ],
)
def test_the_claim_about_both_tasks_needs_both(races, state):
    verdict = checks.algorithmic_speed_up(races)
    assert verdict.state is state
    luck = "plain training again, on other batches, 1.25 [1.20, 1.30] by luck alone"
    assert (luck in verdict.evidence) == ("paper-parity" in races.get("parity-40-3-noisy", race()).arrived)


# Ours


def small(punished=0.6, rewarded=NEVER):
    late = rewarded if isinstance(rewarded, list) else times(rewarded)
    return {
        "mlp-31": race(discourage=times(punished), paper=late, more_decay=times(0.5)),
        "transformer-53": race(discourage=[500, 2000, 900, 1700, 800], paper=times(1.1)),
        "parity-40-3": race(discourage=times(1.2), paper=times(0.9), plain_again=times(0.8)),
    }


@pytest.mark.parametrize(
    ("races", "state"),
    [
        (small(), HOLD),
        (small(rewarded=1.2), HOLD),
        ({"mlp-31": small()["mlp-31"]}, HOLD),  # the others are told beside it
        (small(punished=1.2), OPEN),  # no faster than plain
        (small(punished=1.0), OPEN),
        (small(rewarded=0.9), OPEN),  # to reward it is faster
        (small(rewarded=[*NEVER[:4], 900]), OPEN),  # for one seed
        ({"transformer-53": race(discourage=times(0.6), paper=NEVER)}, OPEN),
        ({}, OPEN),
    ],
)
def test_punishing_stability_must_be_faster_and_rewarding_it_slower(races, state):
    assert checks.punishing_stability(races).state is state


def test_the_evidence_tells_opposites_luck_and_the_old_dial():
    verdict = checks.punishing_stability(small())
    assert verdict.numbers["ratio_discourage_mlp_31"] == pytest.approx(1 / 0.6, rel=0.03)
    assert verdict.numbers["ratio_paper_mlp_31"] == pytest.approx(np.exp(np.log(PLAIN).mean()) / LAST)
    for said in (
        "S = 1: at most 0.40 (5 of 5 never get there, no ratio is above 0.47), slower",
        "With no regulariser but twice the weight decay: 2.0",
        "`transformer-53`, S = 0: 1.",
        "undecided; S = 1: 0.9",
        "`parity-40-3`, S = 0: 0.8",
        "plain training again, on other batches, 1.25 [1.20, 1.30] by luck alone",
    ):
        assert said in verdict.evidence, said
    assert "label smoothing" not in verdict.evidence, "no record has it"


def halves(bonus=NEVER, tax=0.6, sure=1.0, unsure=1.02, paper=NEVER, input=NEVER, twin=0.95, punished=0.6):
    arms = {"paper": paper, "paper_input_detached": input, "low_degree_bonus": bonus, "low_degree_tax": times(tax)}
    arms |= {"paper_twin_detached": times(twin) if isinstance(twin, float) else twin, "discourage": times(punished)}
    return {"mlp-31": race(**arms, confidence=times(sure, 0.01), unconfidence=times(unsure, 0.01))}


@pytest.mark.parametrize(
    ("races", "state"),
    [
        (halves(), HOLD),
        (halves(bonus=[*NEVER[:4], 2000]), OPEN),
        (halves(tax=1.1), OPEN),
        (halves(sure=0.8), OPEN),
        (halves(unsure=1.2), OPEN),
        (halves(tax=0.7), OPEN),  # more of the good is due to the rest
        (halves(punished=1.1), OPEN),  # there is no good
        (halves(paper=[*NEVER[:4], 2000]), OPEN),  # there is no such harm
        (halves(input=[*NEVER[:4], 2000]), OPEN),
        (halves(twin=1.3), OPEN),  # some of the harm is left
        (halves(twin=[*times(0.9)[:4], None]), OPEN),
        ({"mlp-31": Race(LAST, halves()["mlp-31"].arrived | {"plain": NEVER}, "a toy")}, OPEN),
        ({}, OPEN),
    ],
)
def test_the_halves_decide_only_if_each_does_what_it_should(races, state):
    assert checks.low_degree_decides(races).state is state


def test_the_ledger_is_that_of_the_penalty_and_a_wrong_one_falls():
    verdict = checks.regulariser_is_a_degree_tax()
    assert verdict.state is HOLD
    assert verdict.numbers["earned_by_constant"] == pytest.approx(0.75 * (1 - 0.625**2))
    wrong = (
        {"formula": lambda energies, keep: -(keep**2) * energies.sum()},  # confidence alone
        {"formula": lambda energies, keep: -energies @ torch.tensor([1, keep, keep, keep]).double()},
        {"penalty": lambda noise: StabilityPenalty(noise, orientation=0)},
        {"penalty": lambda noise: ConfidencePenalty()},
        {"target": lambda p: torch.tensor([1 / p, 0.1, 0, 0.9 - 1 / p]).double()},
    )
    for change in wrong:
        assert checks.regulariser_is_a_degree_tax(**change).state is OPEN


def test_neighbours_never_vote_for_the_right_answer_in_a_latin_square_alone():
    verdict = checks.neighbours_know_nothing()
    assert verdict.state is HOLD
    assert checks.neighbours_know_nothing("subtract", p=6).state is HOLD
    assert checks.neighbours_know_nothing("multiply").state is OPEN
    assert checks.neighbours_know_nothing("divide").state is OPEN  # by 0 divided by anything
    assert checks.neighbours_know_nothing(other="subtract").state is OPEN, "then the check could not fail"
    for wrong in (lambda r, p: (1 - r) / (1 + r), lambda r, p: r * (1 - r), lambda r, p: 1.0):
        assert checks.neighbours_know_nothing(formula=wrong).state is OPEN
    p, keep, paid = 7, 0.625, torch.zeros(7)
    for a in range(p):  # everything but the pair (2, 3) itself
        for b in range(p):
            chance = math.prod(keep * (one == pair) + (1 - keep) / p for one, pair in ((a, 2), (b, 3)))
            paid[(a + b) % p] += chance * ((a, b) != (2, 3))
    assert verdict.numbers["share"] == pytest.approx(float(paid[5] / paid.mean()), rel=1e-6)


def test_a_drawn_train_set_votes_so_in_the_mean():
    task, keep = ModularArithmetic(31), 0.625
    train = split_pairs(task, 0.6, generator=torch.Generator().manual_seed(0)).train
    law = keep * torch.eye(31) + (1 - keep) / 31
    labels = torch.eye(31)[task.labels] * train[:, None]
    votes = torch.einsum("ac,bd,abk->cdk", law, law, labels.view(31, 31, 31)).flatten(0, 1)[~train]
    right = votes.gather(1, task.labels[~train, None])
    assert float(right.mean() / votes.mean()) == pytest.approx(checks.share(keep, 31), rel=0.02)
    assert checks.share(keep, 10**6) == pytest.approx(3 / 13, abs=1e-6)


# Which records are read


@pytest.fixture
def record(tmp_path):
    """``record(name, result)``: a record of ``regulariser``, fresh unless told otherwise."""

    def write(name, result, *, fresh=True, seeds=5, steps=None):
        folder = tmp_path / "regulariser" / name
        folder.mkdir(parents=True)
        sources = file_hashes("nslab.estimate") if fresh else {"nslab/estimate.py": "0"}
        run = {"code": ["nslab.estimate"], "sources": sources, "seeds": seeds}
        for file, content in (("run", run), ("result", result), ("config", {"steps": steps})):
            (folder / f"{file}.json").write_text(json.dumps(content))

    return write


def raced(setting, paper, arm="paper"):
    arms = {"plain": {"generalised_at": PLAIN}, arm: {"generalised_at": paper}}
    return {"settings": {setting: {"steps": LAST, "arms": arms}}}


def test_changed_settings_count_while_they_are_what_their_names_say(record, tmp_path):
    record("custom-cpu-20260101T000000", raced("a", times(0.5)))
    record("custom-cpu-20260102T000000", raced("b", times(0.5)), fresh=False)
    record("custom-cpu-20260103T000000", raced("c", times(0.5)), steps=50)
    record("laptop-cpu-20260101T000000", raced("d", times(0.5)), fresh=False)
    record("full-cpu-20260101T000000", raced("e", times(0.5)[:4]), seeds=4)
    record("full-cpu-20260102T000000", raced("f", times(0.5), arm="discourage"))
    found = read_races("plain", "paper", root=str(tmp_path))
    assert found.keys() == {"a", "d"}
    assert found["a"].sooner("paper").ratio == pytest.approx(2, rel=0.02)
    assert found["a"].source == "custom record of regulariser of 2026-01-01"
    assert "stale" in found["d"].source
    record("full-cpu-20260103T000000", raced("a", times(1.0, 0)))
    assert read_races("plain", "paper", root=str(tmp_path))["a"].sooner("paper").ratio == pytest.approx(1)


def test_checks_read_the_records_and_say_which(record, tmp_path, monkeypatch):
    monkeypatch.setenv("NSLAB_RECORDS", str(tmp_path))
    ours = (checks.modular_addition, checks.algorithmic_speed_up, checks.punishing_stability, checks.low_degree_decides)
    for check in ours:
        verdict = check()
        assert verdict.state is OPEN
        assert "Not run yet" in verdict.evidence
    record("full-cuda-20260101T000000", raced("transformer-113-fast", times(1.0)))
    verdict = checks.modular_addition()
    assert verdict.state is OPEN
    assert verdict.evidence.endswith("(full record of regulariser of 2026-01-01).")
    record("custom-cuda-20260101T000000", raced("transformer-113", times(1.0)))
    assert checks.modular_addition().state is REFUTED
    assert "The other task is not run yet." in checks.algorithmic_speed_up().evidence
    record("full-cuda-20260102T000000", raced("parity-40-3-noisy", times(1.0), arm="paper-parity"))
    assert "`parity-40-3-noisy`" in checks.algorithmic_speed_up().evidence

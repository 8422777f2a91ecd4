"""Each figure of chapter 8 makes a discovery, its prose tells findings; both are asserted from the figures' data."""

import math
from itertools import pairwise

import numpy as np
import pytest

pytestmark = pytest.mark.book


@pytest.fixture(scope="module")
def names(chapter):
    return chapter("ch08-grokking")


def test_the_network_in_the_page_memorises_first_and_without_decay_that_is_all(names):
    figure = names["clock"]
    early = figure.twin({**figure.state, "steps": 50})
    assert early["train_accuracy"] == 1
    assert early["test_accuracy"] < 1 / figure.state["modulus"]
    late = figure.twin({**figure.state, "steps": 700})
    assert late["test_accuracy"] > 0.97
    never = figure.twin({**figure.state, "steps": 700, "weight_decay": 0.0})
    assert never["train_accuracy"] == 1
    assert never["test_accuracy"] < 0.1


def test_a_memoriser_is_worse_than_chance_as_it_believes_in_answers_it_has_met(names):
    lowest = min(values["test_accuracy"].mean() for step, values in names["diary"] if step <= 40)
    assert lowest < 0.5 / 23
    assert names["belief"] < 0.5 * names["share"]
    assert names["trainer"].generalised_at.min() > 10 * names["known"] > 0


def test_the_target_is_that_of_addition_and_nearly_that_of_random_answers(names):
    energies = names["efron_stein_energies"](names["answers"], inputs=2)
    np.testing.assert_allclose(energies, [1 / 23, 0, 0, 22 / 23], atol=1e-6)
    by_chance = names["energy_stability"](names["efron_stein_energies"](names["random_answers"], inputs=2), 0.5).item()
    assert by_chance == pytest.approx(0.25 + 0.75 / 23, abs=0.03)
    end = names["efron_stein_energies"](names["chances"], inputs=2)
    early = names["diary"][4][1]["energies"][0]
    assert names["diary"][4][0] == 40
    assert end[1:3].max() < 0.2 * early[1:3].min(), "energy on one operand goes as the network generalises"


def test_the_spectrum_blooms_before_the_answers_come_right(names):
    figure = names["scrubber"]
    for number, name in enumerate(names["shown"]):
        run = figure.state["runs"][number]
        at = figure.state["starts"][number]
        frames = [figure.twin({**figure.state, "run": number, "index": index}) for index in (at, len(run["steps"]) - 1)]
        assert frames[0]["train_accuracy"] > 0.98
        unseen = "mirrored_accuracy" if frames[0]["unseen_accuracy"] is None else "unseen_accuracy"
        assert frames[0][unseen] < 0.1
        assert frames[0]["stability"] < frames[0]["target_stability"], "raw stability stands below its line"
        if "no-decay" in name:
            assert frames[1]["test_accuracy"] < 0.05
            assert frames[1]["fourier_share"] < 0.2
        else:
            assert frames[1]["test_accuracy"] > 0.98
            assert frames[1]["stability"] > 0.9 * frames[1]["target_stability"]
            assert frames[1]["fourier_share"] > 3 * frames[0]["fourier_share"]
            used = frames[1]["spectrum"] > np.max(frames[1]["spectrum"]) / 4
            assert used.sum() <= 5 if "transformer" in name else used.mean() > 0.3, "on a few frequencies, or on most"
    steps, accuracy, bloom = names["steps"], names["accuracy"], names["bloom"]
    assert accuracy[: names["learned"] + 1].min() < 0.5 * names["chance"]
    assert bloom[names["tenth"]] > 2 * bloom[names["learned"]]
    assert steps[names["tenth"]] > 2 * steps[names["learned"]]


def test_normalised_stability_comes_down_while_the_network_memorises(names):
    figure = names["coming_down"]
    for run in names["WATCHED"]:
        for keep in names["KEEPS"]:
            frame = figure.data(run=run, keep=keep)
            raw, normal = frame["raw S(r)"][:, 1], frame["normalised S(r)/S(1)"][:, 1]
            goal = frame["target beside raw S(r)"][0, 1]
            known = frame["normalised S(r)/S(1) at ^"][0, 1]
            assert normal[0] > 0.88
            assert (normal > goal - (1e-6 if run.startswith("MLP") else 1e-3)).all(), "the target is the floor"
            assert (normal[0] - known) / (normal[0] - goal) > 0.85, "nearly all of its way"
            assert raw[0] < 0.6 * goal
            assert (raw < goal + 0.01).all(), "from below"
            assert ("raw S(r) at v" in frame) == ("no decay" not in run)
    assert min(names["WAYS"], key=names["WAYS"].get) == "mlp-31-slow"
    assert names["WAYS"]["mlp-31-slow"] > 75
    for name, p in (("mlp-31", 31), ("transformer-53", 53)):  # the excess over the floor, at keep 1/2
        steps, energies = names["series"](name, "energies")
        constant, first, second, both = energies[np.searchsorted(steps, names["told"](name)["memorised_at"][0]), 0]
        whole = constant + first + second + both
        unsure, alone = 0.75 * (constant / whole - 1 / p), 0.25 * (first + second) / whole
        normal = (constant + (first + second) / 2 + both / 4) / whole
        assert unsure + alone == pytest.approx(normal - names["ModularArithmetic"](p).stability(0.5).item(), abs=1e-5)
        assert min(unsure, alone) > 0.25 * (unsure + alone)
    assert names["WAYS"]["mlp-31-no-decay"] > min(names["WAYS"].values())
    assert np.max(names["series"]("mlp-31-no-decay", "test_accuracy")[1]) < 0.05
    steps, unseen = names["series"]("transformer-53-unordered-half", "unseen_accuracy")
    early = unseen[(steps >= 50) & (steps <= 1000), 0]
    assert early.max() < 0.02, "nearly as stable as the task for a thousand steps, and wrong"


def test_of_the_pairs_seen_in_neither_order_few_are_right_when_the_training_pairs_are_known(names):
    for name in names["WATCHED"].values():
        steps, unseen = names["series"](name, "unseen_accuracy")
        assert unseen[np.searchsorted(steps, names["told"](name)["memorised_at"][0]), 0] < 0.1


def test_transformers_that_wait_long_meet_the_edge_of_precision_and_jump(names):
    for name in ("transformer-53-unordered-half", names["CANONICAL"]):
        if name:
            steps, losses = names["series"](name, "train_loss")
            for seed, left in enumerate(names["told"](name)["left_at"]):
                own = losses[steps <= left, seed]
                assert 1e-7 < own.min() < 5e-7
                assert (own[1:] > 10 * own[:-1]).any()
    assert names["series"]("mlp-31-no-decay", "train_loss")[1].min() < 1e-7
    if names["CANONICAL"]:
        steps, unseen = names["series"](names["CANONICAL"], "unseen_accuracy")
        for seed, late in enumerate(names["told"](names["CANONICAL"])["generalised_at"]):
            assert steps[np.argmax(unseen[:, seed] > 0.05)] > late / 2, "most of the wait is silence"
    assert names["series"]("mlp-31-slow", "train_loss")[1].min() > 1e-6


def halves(figure, clock, rate, decays):
    """When each curve passes a half."""
    frame = figure.data(clock=clock, rate=rate)
    return np.array([frame[f"λ = {decay:g}"][np.argmax(frame[f"λ = {decay:g}"][:, 1] >= 0.5), 0] for decay in decays])


def test_grokking_keeps_the_clock_of_decay(names):
    figure, decays = names["two_clocks"], names["DECAYS"]
    for rate in names["RATES"]:
        steps = halves(figure, "steps", rate, decays)
        folds = halves(figure, "e-foldings of decay", rate, decays)
        np.testing.assert_allclose(folds, steps * rate * np.array(decays))
        assert (np.diff(steps) < 0).all(), "more decay, fewer steps"
        assert folds.max() / folds.min() < steps.max() / steps.min()
    assert max(names["in_folds"]) / min(names["in_folds"]) < 3
    assert max(names["speeds"]) / min(names["speeds"]) >= 10
    assert min(names["in_folds"]) < 5 < max(names["in_folds"])
    order = np.argsort(names["speeds"])
    slow, fast = np.array(names["in_folds"])[order][:3], np.array(names["in_folds"])[order][-3:]
    assert slow.mean() < fast.mean(), "the slower the clock, the fewer e-foldings"
    assert names["WAITS"].keys() == names["CELLS"].keys(), "every cell of the clock generalises"


def test_the_norm_falls_in_the_transformer_and_stays_in_the_mlp(names):
    def kept(name):
        steps, norms = names["series"](name, "weight_norm")
        ends = [names["told"](name)[key][0] for key in ("memorised_at", "left_at")]
        known, left = (float(norms[np.searchsorted(steps, end), 0]) for end in ends)
        return left / known

    assert kept("transformer-53") < 0.85
    assert 0.9 < kept("mlp-31") < 1.1
    assert 1.2 < kept("mlp-31-slow") < 1.3


def test_patience_pays_for_little_decay_and_not_for_few_pairs(names):
    down, across = names["DOWN"], names["ACROSS"]
    counts = [names["counted"]("generalised_at", within) for within in names["PATIENCE"]]
    assert all((later >= sooner).all() for sooner, later in pairwise(counts))
    final = counts[-1]
    assert final[down.index(0.0)].sum() == 0, "without decay never"
    assert final[:, 0].sum() == 0, "the smallest fraction never"
    column = [next(k for k, count in enumerate(counts) if count[down.index(d), -1]) for d in down if 0 < d <= 3]
    assert (np.diff(column) <= 0).all(), "less decay fills up later"
    assert column[0] > column[-1]
    known = names["counted"]("memorised_at", names["PATIENCE"][-1])
    assert known[:-1].min() == names["PHASES"].config["seeds"] or known[-1].sum() == 0
    assert len(across) >= 2
    assert names["waiting"].frame(known="other pairs", within=1000).alt.startswith("After 1,000 steps")


def test_mirrored_pairs_are_known_by_reflection(names):
    figure = names["mirror"]
    assert max(names["unknown"]) < 0.3 < np.median(names["reflected"])
    assert min(r - u for r, u in zip(names["reflected"], names["unknown"], strict=True)) > 0.3
    last = figure.data(run="Transformer, random split", at=names["MOMENTS"])
    seen = [figure.data(run="Transformer, random split", at=at) for at in range(1, names["MOMENTS"] + 1)]
    assert any(f["mirrored here"][0, 1] > 0.95 and f["unseen here"][0, 1] < 0.05 for f in seen)
    assert last["unseen here"][0, 1] > 0.97
    unordered = figure.data(run="Transformer, unordered split", at=1)
    assert "mirrored" not in unordered
    for at in range(1, names["MOMENTS"] + 1):
        frame = figure.data(run="MLP, random split", at=at)
        assert frame["mirrored here"][0, 1] == pytest.approx(frame["unseen here"][0, 1], abs=0.1), "together"
    assert names["plateau"] == pytest.approx(0.5, abs=0.05)
    assert max(names["leak_y"]) > 0.99


def test_the_honest_split_takes_longer_and_different_sums_explain_it(names):
    told = names["told"]
    leaky, matched, honest = (
        told(name)["generalised_at"]
        for name in ("transformer-53", "transformer-53-unordered", "transformer-53-unordered-half")
    )
    assert min(honest) > max(leaky + matched)
    assert names["typical"]("transformer-53-unordered-half") > 3 * names["typical"]("transformer-53")
    different = names["DIFFERENT"]
    assert different["transformer-53"] == pytest.approx(different["transformer-53-unordered"], abs=0.02)
    assert different["transformer-53-unordered-half"] == pytest.approx(0.5, abs=0.02)


def test_stability_leads_here_and_lags_there_and_the_losses_lead(names):
    def answer(run, text, keep=0.5):
        return names["lead_of"](run, text, keep).answer

    four = ["MLP, p = 31", "MLP, p = 31, slow", "MLP, p = 97", "Transformer, p = 53"]
    for run in four:
        assert answer(run, "training loss") == answer(run, "test loss") == "leads"
        assert sum(names["lead_of"](run, "raw stability", 0.5).left_out.values()) == 0
        if run.startswith("MLP"):
            assert answer(run, "test probability") == "lags"
    for keep in names["KEEPS"]:
        assert answer("MLP, p = 31, slow", "raw stability", keep) == "leads"
        assert answer("MLP, p = 97", "raw stability", keep) == "lags"
    assert answer("MLP, p = 31", "raw stability") == "undecided"
    assert answer("MLP, p = 31, slow", "normalised stability") == "leads"
    assert {answer(run, "normalised stability") for run in four if "slow" not in run} == {"undecided"}
    quarter, _, last = names["lead_of"]("MLP, p = 31", "raw stability", 0.5).first
    assert quarter.mean > 0 > last.mean
    for run in four:
        quarter, _, last = names["lead_of"](run, "normalised stability", 0.5).first
        assert quarter.mean > 0.15
        if "slow" not in run:
            assert abs(last.mean) < 0.5 * quarter.mean, "about level later"
        quarter, _, last = names["lead_of"](run, "Fourier share", 0.5).first
        assert quarter.mean > last.mean
    assert "leads" not in {raw for raw, _ in names["BESIDE"].values()}
    assert [run for run, (_, normal) in names["BESIDE"].items() if normal == "leads"] == ["MLP, p = 31, slow"]
    assert "lags" not in {
        answer(run, "normalised stability", keep) for run in names["ASKED"] for keep in names["KEEPS"]
    }
    drawn = names["who_first"].data(run="MLP, p = 97", keep=0.5)
    assert drawn["raw stability, a half"][0, 0] < 0 < drawn["training loss, a half"][0, 0]


def test_relevant_bits_stand_out_while_answers_are_near_a_guess(names):
    assert 0.4 < min(names["accuracies"]) <= max(names["accuracies"]) < 0.65
    steps = names["needle_steps"]
    revealed = names["GROWN"]["revealed_at"][0]
    figure = names["needle"]
    for rho in names["RHOS"]:
        shown = [int(steps[stop]) for stop in names["STOPS"]]
        early, late = shown[0], next(step for step in shown if step >= revealed)
        frame = figure.data(step=early, rho=rho)
        assert frame["relevant"][:, 1].min() < frame["the others"][:, 1].max()
        frame = figure.data(step=late, rho=rho)
        assert frame["relevant"][:, 1].min() > frame["the others"][:, 1].max()
        end = figure.data(step=shown[-1], rho=rho)
        error = math.sqrt((1 - rho**6) / names["TWINS"])
        assert abs(end["stability"][-1, 1] - rho**3) < 3.5 * error
        assert end["relevant"][:, 1].min() > 5 * end["the others"][:, 1].max()
        assert end["test accuracy"][-1, 1] > 0.99
    line = figure.data(step=0, rho=0.9)
    hidden = (line["test accuracy"][:, 1] < 0.7) & (line["test accuracy"][:, 0] > 0.4)
    assert line["stability"][hidden, 1].mean() < 0.9**3 - 0.03, "below its line until the answers come"
    near = names["needle"].data(step=0, rho=0.7)["stability"][hidden, 1]
    assert abs(near.mean() - 0.7**3) < 0.05, "close to the line before the answers are right"
    assert names["halves"]["movement"] < names["halves"]["accuracy"] < names["halves"]["share"]
    assert np.mean(names["restless"]) > 3.5


def test_the_formula_of_the_saving(names):
    assert names["ratio"] == pytest.approx(3.91, abs=0.01)
    assert names["whole"] / names["merged"] == pytest.approx(4.575, abs=0.01)
    assert names["whole"] / (names["merged"] + names["shared"] / 3830) == pytest.approx(4.37, abs=0.02)
    assert names["SparseParity"](40, 3).stability(0.5).item() == pytest.approx(0.125)

"""Training with a barrier in the page: a text that closes its brackets, the right penalty, and a true discovery."""

import math
from functools import lru_cache
from itertools import pairwise

import pytest
import torch

from nslab.explore.bracket_training import (
    ARMS,
    FILLER,
    OTHER_TEXT,
    SYMBOLS,
    TRAIN_TEXT,
    BracketTraining,
    bracket_text,
)
from nslab.explore.training_with_barrier import PLACES, STRENGTHS, barrier_training, compute

STATE = barrier_training().state


@pytest.mark.parametrize("seed", [TRAIN_TEXT, OTHER_TEXT])
def test_text_closes_each_bracket_with_its_like(seed):
    for row in bracket_text(seed).tolist():
        word = "".join(SYMBOLS[k] for k in row)
        for pair in ("(·)", "[·]"):
            while word.replace("··", "·") != word:
                word = word.replace("··", "·")
            word = word.replace(pair, "")
        assert word in ("", "(", "[", "(·", "[·"), word


def test_fillers_go_on_with_probability_one_half():
    """Of the symbols after a filler about half are fillers, within four standard errors."""
    pairs = [(a, b) for row in bracket_text(TRAIN_TEXT).tolist() for a, b in pairwise(row)]
    after = [b == FILLER for a, b in pairs if a == FILLER]
    assert abs(sum(after) / len(after) - 0.5) < 4 * math.sqrt(0.25 / len(after))


def by_loops(training, kind):
    """The penalty token by token: softmax weights, covariance, and the determinant of a 2 x 2 matrix written out."""
    a, total = training.watched, 0.0
    for symbols in training.text:
        u = training.weights["embeddings"][symbols]
        for i in range(len(u)):
            mean = torch.zeros(2, dtype=torch.float64)
            block = torch.eye(2, dtype=torch.float64)
            if i:
                alpha = torch.softmax(torch.stack([u[s] @ a @ u[i] for s in range(i)]), 0)
                mean = sum(alpha[s] * u[s] for s in range(i))
                covariance = sum(alpha[s] * torch.outer(u[s] - mean, u[s] - mean) for s in range(i))
                block = block - covariance @ a
            det = block[0, 0] * block[1, 1] - block[0, 1] * block[1, 0]
            wall = -det.abs().log()
            if kind in ("full", "margin-only"):
                total = total + wall
            if kind == "hinge":
                line = -math.log(0.05) + (0.05 - det) / 0.05
                total = total + (wall if det >= 0.05 else line).clamp(min=0)
            if kind in ("full", "residual"):
                total = total + (u[i] - mean) @ (u[i] - mean) / 2
    return total / training.text.numel()


@pytest.mark.parametrize(
    ("arm", "place"), [("full", "prior"), ("residual", "prior"), ("margin-only", "model"), ("hinge", "prior")]
)
def test_penalty_of_each_arm_and_its_gradient_are_those_by_loops(arm, place):
    training = BracketTraining({**STATE, "arm": arm, "place": place, "strength": 0.5})
    found = training._penalty(training.weights["embeddings"][training.text])
    expected = by_loops(training, arm)
    assert found.item() == pytest.approx(expected.item(), abs=1e-12)
    named = [training.weights["embeddings"], training.watched]
    slopes, others = (torch.autograd.grad(value, named) for value in (found, expected))
    for one, other in zip(slopes, others, strict=True):
        torch.testing.assert_close(one, other, atol=1e-10, rtol=1e-8)
    if place == "prior":  # its A moves by the penalty alone, and Adam's first step is the rate times a sign
        before = training.watched.detach().clone()
        training.step()
        torch.testing.assert_close(before - training.watched.detach(), 0.02 * slopes[1].sign(), atol=1e-6, rtol=0)


def test_loss_of_an_untrained_network_is_the_cross_entropy_by_loops():
    training = BracketTraining(STATE)
    weights, total = training.weights, 0.0
    for symbols in training.other:
        u = weights["embeddings"][symbols]
        for i in range(len(u) - 1):
            alpha = torch.softmax(torch.stack([u[s] @ weights["scores"] @ u[i] for s in range(i)]), 0) if i else []
            mean = sum((alpha[s] * u[s] for s in range(i)), torch.zeros(2, dtype=torch.float64))
            logits = weights["readout"] @ torch.cat([u[i], mean]) + weights["offset"]
            total -= torch.log_softmax(logits, 0)[symbols[i + 1]].item()
    assert training.measure()["loss"] == pytest.approx(total / (16 * 11), abs=1e-12)


# ---------------------------------------------------------------- what there is to discover


@lru_cache(maxsize=16)
def trained(arm, seed):
    return compute({**STATE, "arm": arm, "seed": seed, "strength": 0.05, "steps": 250})


SEEDS = (1, 4)


@pytest.mark.parametrize("seed", SEEDS)
def test_discovery_margin_only_is_repulsive_and_grows(seed):
    none, found = trained("none", seed), trained("margin-only", seed)
    assert found["quantiles"][3] > 10
    assert found["eigenvalues"][0] < -2.5 < none["eigenvalues"][0]
    assert found["size"] > 1.05 * none["size"]


@pytest.mark.parametrize("seed", SEEDS)
def test_discovery_the_hinge_moves_margins_and_not_the_loss(seed):
    none, found = trained("none", seed), trained("hinge", seed)
    assert none["negative"] > 0.1
    assert found["negative"] == 0
    assert found["quantiles"][2] > max(1, 1.1 * none["quantiles"][2])
    assert abs(found["loss"] - none["loss"]) < 0.003
    assert abs(found["noisy_loss"] - none["noisy_loss"]) < 0.03


@pytest.mark.parametrize("seed", SEEDS)
def test_discovery_most_of_the_full_priors_gain_is_the_residual_terms(seed):
    none, full, residual = (trained(arm, seed) for arm in ("none", "full", "residual"))
    assert max(full["size"], residual["size"]) < 0.8 * none["size"]
    gains = [none["noisy_loss"] - one["noisy_loss"] for one in (full, residual)]
    assert gains[0] > 0.05
    assert gains[1] > 0.6 * gains[0]
    assert full["negative"] == 0
    assert residual["negative"] > 0.1
    assert residual["eigenvalues"][0] > 0.5


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arm": "raw"}, "arm='raw' is not on the figure: choose from none, margin-only, full, residual, hinge"),
        ({"place": "head"}, "place='head' is not on the figure: choose from prior, model"),
        ({"strength": 0.3}, "strength=0.3 is not on the figure: choose from 0.01"),
        ({"strengths": (0.5, 0.1)}, r"strengths=\(0.5, 0.1\): give numbers above 0 and at most 1, each larger"),
        ({"strengths": (0,)}, r"strengths=\(0.0,\): give numbers above 0"),
        ({"seed": 10}, "seed=10 is not on its slider: give a whole number from 0 to 9"),
    ],
)
def test_bad_input_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        barrier_training(**changes)


def test_enough_is_compared():
    cases = barrier_training().cases
    assert {(case["arm"], case["place"]) for case in cases if case["steps"]} == {(a, b) for a in ARMS for b in PLACES}
    assert {case["strength"] for case in cases} >= set(STRENGTHS[::2])


# ---------------------------------------------------------------- the page


def said(page):
    return page.locator(".ns-barrier-said").text_content().strip()


@pytest.mark.browser
def test_keyboard_alone_one_run_and_another_beside_it(show):
    """Three single steps say what the twin finds; another arm starts anew and keeps the old run in the table."""
    page = show(barrier_training(arm="hinge"))
    page.get_by_role("button", name="One step").focus()
    for _ in range(3):
        page.keyboard.press("Enter")
    found = compute({**STATE, "arm": "hinge", "steps": 3})
    low, high = found["eigenvalues"]
    assert "hinge, λ 0.05, on its own stage, seed 1" in said(page)
    assert f"Step 3: loss {found['loss']:.3f}, under noise {found['noisy_loss']:.2f};" in said(page)
    assert f"eigenvalues of A −{abs(low):.2f} and {high:.2f}." in " ".join(said(page).split())
    assert page.get_by_role("status").text_content().strip() == said(page)
    page.get_by_label("Arm").select_option("margin-only")
    assert "Press Start" in said(page)
    rows = page.locator(".ns-bt-runs tbody tr")
    assert rows.count() == 2
    cells = rows.nth(1).locator("th, td").all_text_contents()
    minimum, median = (f"{found['quantiles'][k]:.2f}".replace("-", "−") for k in (0, 2))
    assert cells[0].strip() == "hinge 0.05, 1"
    assert cells[1:6] == ["3", f"{found['loss']:.3f}", f"{found['noisy_loss']:.2f}", minimum, median]


@pytest.mark.browser
def test_a_run_comes_to_rest_and_nothing_moves(show):
    page = show(barrier_training())
    places = [picture.bounding_box() for picture in page.get_by_role("img").all()]
    page.get_by_role("button", name="Start", exact=True).click()
    page.wait_for_function("document.querySelector('.ns-barrier-said').textContent.includes('rests')", timeout=60_000)
    assert said(page).startswith("no barrier, watched: its own stage, seed 1. Step 600")
    assert page.get_by_role("button", name="Go on").is_disabled()
    assert [picture.bounding_box() for picture in page.get_by_role("img").all()] == places

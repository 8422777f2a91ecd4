"""Training in the page: the right split, law and optimiser, and a discovery that is true."""

import math
import re
from functools import lru_cache
from itertools import product

import numpy as np
import pytest
import torch

from nslab.explore.pair_training import PairTraining, energy_stability, pair_energies, trained_pairs
from nslab.explore.training_in_page import DECAYS, DISCOVERY, RATES, compute, live_training

STATE = live_training().state
CHANCE = 1 / 23


# ---------------------------------------------------------------- the split, the start, a step, the measures


@pytest.mark.parametrize("modulus", [3, 8, 23])
@pytest.mark.parametrize("fraction", [0.3, 0.5, 0.6, 0.8])
def test_split_has_the_exact_count_and_never_parts_mirrored_pairs(modulus, fraction):
    for split, seed in product(("random", "unordered"), range(10)):
        trained = trained_pairs({**STATE, "modulus": modulus, "fraction": fraction, "split": split, "seed": seed})
        assert trained.sum() == int(fraction * modulus**2)
        square = trained.reshape(modulus, modulus)
        if split == "unordered":
            assert (square == square.T).all()


def test_random_split_is_uniform():
    """Each pair of 5 x 5 is trained in a share 0.6 of 500 seeds, within 4 standard errors; most part mirrored pairs."""
    drawn = np.stack([trained_pairs({**STATE, "modulus": 5, "seed": seed}) for seed in range(500)])
    assert abs(drawn.mean(0) - 0.6).max() < 4 * math.sqrt(0.6 * 0.4 / 500)
    squares = drawn.reshape(-1, 5, 5)
    assert (squares != squares.transpose(0, 2, 1)).any((1, 2)).mean() > 0.95


def test_weights_start_with_variances_one_eighth_and_one_over_the_width():
    first, second, output = PairTraining({**STATE, "width": 256}).weights
    for drawn, variance in [(first, 1 / 8), (second, 1 / 8), (output, 1 / 256)]:
        x = drawn.ravel() / math.sqrt(variance)
        assert abs(x.mean()) < 4 / math.sqrt(x.size)
        assert abs((x**2).mean() - 1) < 4 * math.sqrt(2 / x.size)
    assert abs((first * second).mean() * 8) < 4 / math.sqrt(first.size)


@pytest.mark.parametrize(("decay", "split"), [(0.0, "random"), (1.0, "unordered")])
def test_steps_are_those_of_autograd_and_torch(decay, split):
    """20 steps from the same weights: one-hot inputs, cross_entropy, autograd and torch.optim.AdamW, within 1e-10."""
    state = {**STATE, "weight_decay": decay, "split": split}
    training = PairTraining(state)
    one_hot = torch.eye(23, dtype=torch.float64)
    a, b = (part.flatten() for part in torch.meshgrid(torch.arange(23), torch.arange(23), indexing="ij"))
    inputs = torch.cat([one_hot[a], one_hot[b]], -1)  # (529, 46)
    table = torch.from_numpy(np.concatenate(training.weights[:2])).requires_grad_()  # copies: concatenate, T, clone
    output = torch.from_numpy(training.weights[2].T).clone().requires_grad_()
    optimiser = torch.optim.AdamW([table, output], lr=0.01, betas=(0.9, 0.98), weight_decay=decay)
    trained = torch.from_numpy(training.trained)
    for _ in range(20):
        optimiser.zero_grad()
        logits = (inputs @ table).square() @ output
        torch.nn.functional.cross_entropy(logits[trained], ((a + b) % 23)[trained]).backward()
        optimiser.step()
        training.step()
    torch.testing.assert_close(
        torch.from_numpy(np.concatenate(training.weights[:2])), table.detach(), atol=1e-10, rtol=0
    )
    torch.testing.assert_close(torch.from_numpy(training.weights[2].T), output.detach(), atol=1e-10, rtol=0)
    with torch.no_grad():
        logits = (inputs @ table).square() @ output
        right = logits.argmax(-1) == (a + b) % 23
        loss = torch.nn.functional.cross_entropy(logits[trained], ((a + b) % 23)[trained])
    found = training.measure()
    assert found["right"] == right.int().tolist()
    assert found["trained"] == trained.int().tolist()
    assert found["train_accuracy"] == pytest.approx(right[trained].double().mean().item())
    assert found["test_accuracy"] == pytest.approx(right[~trained].double().mean().item())
    assert found["train_loss"] == pytest.approx(loss.item(), abs=1e-10)


@pytest.mark.parametrize("keep", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("one_hot", [True, False])
def test_stability_is_the_expectation_over_kept_and_redrawn_operands(one_hot, keep):
    """E Σ_c f_c(X) f_c(Y) by enumeration of X, Y on 5 x 5, and for the answer itself the figure's target."""
    draw = np.random.default_rng(3)
    table = draw.dirichlet(np.ones(5), size=(5, 5))
    if one_hot:
        table = np.eye(5)[np.add.outer(np.arange(5), np.arange(5)) % 5]
    move = keep * np.eye(5) + (1 - keep) / 5  # P(Y's operand | X's)
    expected = np.einsum("abc,ax,by,xyc->", table, move, move, table) / 25
    energies = pair_energies(table)
    assert energy_stability(energies, keep) == pytest.approx(expected, abs=1e-14)
    if one_hot:
        target = compute({**STATE, "modulus": 5, "keep": keep})["target"]
        assert target == pytest.approx(expected, abs=1e-14)
        assert energies == pytest.approx([1 / 5, 0, 0, 4 / 5], abs=1e-14)


# ---------------------------------------------------------------- what there is to discover


@lru_cache(maxsize=32)
def history(decay, rate=0.01, seed=1, most=1500):
    """What is measured on the way, at about every fiftieth more steps, until 99 % of the test pairs or `most` steps."""
    training = PairTraining({**STATE, "weight_decay": decay, "learning_rate": rate, "seed": seed})
    found = [training.measure()]
    while training.steps < most and found[-1]["test_accuracy"] < 0.99:
        training.step()
        if training.steps >= min(most, 1.02 * found[-1]["step"]):
            found.append(training.measure())
    return found


def clock(found, level):
    """e-foldings of decay until a share of the test pairs is right."""
    return next(each["e_foldings"] for each in found if each["test_accuracy"] >= level)


@pytest.mark.parametrize("seed", range(3))
def test_discovery_memorised_at_once_generalised_at_five_e_foldings(seed):
    assert "four to six e-foldings" in DISCOVERY
    found = history(1.0, seed=seed)
    assert next(each["step"] for each in found if each["train_accuracy"] == 1) < 50
    assert min(each["test_accuracy"] for each in found) < CHANCE / 2
    assert 150 < clock(found, 0.5) * 100 < 250
    assert 4 < clock(found, 0.99) < 6


def test_discovery_without_decay_it_memorises_and_stays_at_chance():
    found = history(0.0)
    assert next(each["step"] for each in found if each["train_accuracy"] == 1) < 50
    assert found[-1]["step"] == 1500
    assert max(each["test_accuracy"] for each in found[50:]) < CHANCE
    assert found[-1]["e_foldings"] == 0


def test_discovery_curves_of_other_decays_nearly_coincide_against_e_foldings():
    """Half of the test pairs: the steps differ by more than 4, the e-foldings by less than 1.5."""
    assert "decays from 0.3 to 2 nearly coincide" in DISCOVERY
    foldings = [clock(history(decay, most=700), 0.5) for decay in (0.3, 1.0, 2.0)]
    steps = [value / decay for value, decay in zip(foldings, (0.3, 1.0, 2.0), strict=True)]
    assert max(steps) > 4 * min(steps)
    assert max(foldings) < 1.5 * min(foldings)


def test_discovery_learning_rate_has_its_own_say():
    assert clock(history(1.0, rate=0.003), 0.99) < 3
    assert clock(history(1.0, rate=0.03), 0.99) > 10


def test_discovery_stability_waits_below_the_target_and_its_share_comes_from_above():
    found = [compute({**STATE, "steps": steps})["energies"] for steps in (0, 60, 1000)]
    for keep in (0.5, 0.7):
        start, memorised, late = (energy_stability(energies, keep) for energies in found)
        target = keep**2 + (1 - keep**2) / 23
        assert start < memorised < 0.75 * target
        assert late == pytest.approx(target, rel=0.01)
        share = [value / sum(energies) for value, energies in zip((start, memorised, late), found, strict=True)]
        assert share[0] > 0.9
        assert share[0] > share[1] > 1.05 * target
        assert share[2] == pytest.approx(target, rel=0.01)
    alone = [sum(energies[1:3]) for energies in found[1:]]
    assert alone[0] > 0.02
    assert alone[1] < 0.002


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"modulus": 2}, "modulus=2: give 3 to 32; larger networks are too slow for a page: use nslab.training"),
        ({"modulus": 97}, "modulus=97: give 3 to 32"),
        ({"width": 512}, "width=512: give 8 to 256"),
        ({"fraction": 0.0}, "fraction=0.0 of 529 pairs leaves none on one side: give a number well inside"),
        ({"fraction": 1.0}, "fraction=1.0 of 529 pairs leaves none"),
        ({"fraction": 0.1, "modulus": 3}, "fraction=0.1 of 9 pairs leaves none"),
        ({"split": "sorted"}, "split='sorted' is unknown: choose from random, unordered"),
        ({"weight_decay": 0.5}, r"weight_decay=0.5 is not among decays=.*: add it"),
        ({"learning_rate": 0.5}, r"learning_rate=0.5 is not among rates=.*: add it"),
        ({"decays": (1.0, 0.0)}, r"decays=\(1.0, 0.0\): give numbers from 0 to 10, each larger than the last"),
        ({"decays": ()}, r"decays=\(\): give numbers"),
        ({"decays": (math.nan,)}, r"decays=\(nan,\): give numbers"),
        ({"rates": (0.0, 0.01)}, r"rates=\(0.0, 0.01\): a learning rate of 0 learns nothing"),
        ({"rates": (0.01, 3)}, r"rates=\(0.01, 3.0\): give numbers from 0 to 0.1"),
        ({"seed": 21}, "seed=21 is not on its slider: give a whole number from 0 to 20"),
        ({"seed": -1}, "seed=-1 is not on its slider"),
        ({"keep": 0.33}, "keep=0.33 is no step of its slider: give a whole number of twentieths from 0 to 1"),
        ({"keep": math.nan}, "keep=nan is no step"),
        ({"alt": " "}, "alt=' ' is empty"),
    ],
)
def test_bad_input_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        live_training(**changes)


def test_another_start_is_taken_and_enough_is_compared():
    size = {"modulus": 13, "width": 64, "fraction": 0.8}
    figure = live_training(weight_decay=4, decays=(0, 4), rates=(0.02,), learning_rate=0.02, split="unordered", **size)
    assert [figure.state[key] for key in ("weight_decay", "decays", "split")] == [4, [0, 4], "unordered"]
    assert re.match(r"A network of 64 squared neurons learns \(a \+ b\) mod 13 from 135 of the 169 pairs", figure.alt)
    cases = live_training().cases
    assert {case["weight_decay"] for case in cases} == set(DECAYS)
    assert {case["learning_rate"] for case in cases} == set(RATES)
    assert {(case["split"], case["steps"] >= 20) for case in cases} == set(
        product(("random", "unordered"), (True, False))
    )

"""The schedule against closed forms and torch's own, and refusals that name the remedy."""

import math

import pytest
import torch

from nslab.training import TrainingConfig, learning_rate

PLAIN = {"steps": 100, "batch": 1, "learning_rate": 0.3}


def rates(**changes):
    config = TrainingConfig(**PLAIN | changes)
    return [learning_rate(config, step) for step in range(config.steps)]


def test_the_cosine_is_that_of_torch(tolerances):
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=0.3)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=100, eta_min=0.3 * 0.1)
    for found in rates(schedule="cosine", floor=0.1):
        assert math.isclose(found, optimizer.param_groups[0]["lr"], rel_tol=1e-9)
        optimizer.step()
        theirs.step()


def test_the_linear_descent_is_a_straight_line_after_a_straight_climb(tolerances):
    found = torch.tensor(rates(schedule="linear", floor=0.5, warmup=20), dtype=torch.float64)
    step = torch.arange(100, dtype=torch.float64)
    climb, fall = 0.3 * (step + 1) / 20, 0.3 * (1 - 0.5 * (step - 20) / 80)
    torch.testing.assert_close(found, torch.where(step < 20, climb, fall), rtol=0, atol=tolerances["exact"])


def test_a_constant_rate_stays_at_its_peak():
    assert rates(schedule="constant", floor=0.0, warmup=2) == [0.15, 0.3] + [0.3] * 98


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_no_schedule_leaves_the_range_between_floor_and_peak(schedule):
    for warmup in (0, 1, 99, 100):
        found = rates(schedule=schedule, floor=0.1, warmup=warmup)
        assert max(found) == 0.3
        assert min(found[warmup:], default=0.3) >= 0.03


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, r"steps is 0: give at least 1"),
        ({"batch": -1}, r"batch is -1: give at least 1"),
        ({"learning_rate": math.nan}, r"learning_rate is nan: give a positive, finite number"),
        ({"clip": 0}, r"clip is 0: give a positive, finite number, or None"),
        ({"weight_decay": -1}, r"weight_decay is -1: give 0 or a positive number"),
        ({"betas": (0.9, 1.0)}, r"betas is \(0.9, 1.0\): give two numbers from 0 to less than 1"),
        ({"warmup": 101}, r"warmup is 101 for 100 steps: give 0 to steps"),
        ({"floor": 2}, r"floor is 2: it is a share of the peak"),
    ],
)
def test_impossible_settings(changes, message):
    with pytest.raises(ValueError, match=message):
        TrainingConfig(**PLAIN | changes)


def test_misspelt_settings():
    with pytest.raises(TypeError, match="'warm_up'"):
        TrainingConfig(**PLAIN, warm_up=3)

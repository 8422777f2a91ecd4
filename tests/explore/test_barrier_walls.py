"""Five walls and a ball: the walls' values and slopes, the steps, and a discovery that is true."""

import math
from itertools import pairwise

import numpy as np
import pytest

from nslab.explore.barrier_walls import DELTAS, RATES, STARTS, WALLS, WEIGHT, WISH, compute, five_walls

STATE = five_walls().state


def places(kind, **changes):
    return compute({**STATE, "kind": kind, "steps": 200, **changes})["places"]


def by_hand(kind, det, delta):
    """Each wall as its definition reads."""
    line = -math.log(delta) + (delta - det) / delta
    onesided = -math.log(det) if det >= delta else line
    return {
        "raw": -math.log(abs(det)),
        "clamped": min(-math.log(abs(det)), -math.log(delta)),
        "onesided": onesided,
        "hinge": max(0, onesided),
        "kl": (det**2 - math.log(det**2 + delta**2) - 1) / 2,
    }[kind]


@pytest.mark.parametrize("delta", DELTAS)
@pytest.mark.parametrize("det", [-0.8, -0.013, 0.013, 0.3, 0.9, 1.1, 2.7])
def test_walls_are_their_definitions_and_slopes_their_differences(det, delta):
    found = compute({**STATE, "det": det, "delta": delta})
    for kind, value, slope in zip(WALLS, found["values"], found["slopes"], strict=True):
        assert value == pytest.approx(by_hand(kind, det, delta), abs=1e-12)
        step = 1e-6
        difference = (by_hand(kind, det + step, delta) - by_hand(kind, det - step, delta)) / (2 * step)
        assert slope == pytest.approx(difference, rel=1e-5, abs=1e-8)


def test_at_zero_two_walls_have_no_finite_slope_and_three_have():
    found = compute({**STATE, "det": 0.0})
    assert found["slopes"][:2] == [None, None]
    assert found["slopes"][2:] == pytest.approx([-1 / STATE["delta"], -1 / STATE["delta"], 0.0])
    assert [value is None for value in found["values"]] == [True, False, False, False, False]


def test_a_step_goes_down_the_loss_with_the_wish():
    first, second = places("kl", det=0.5, rate=0.3, steps=1)
    grid = np.array([0.5 - 1e-6, 0.5 + 1e-6])
    losses = [WEIGHT * by_hand("kl", det, STATE["delta"]) + (det - WISH) ** 2 / 2 for det in grid]
    assert second == pytest.approx(first - 0.3 * (losses[1] - losses[0]) / 2e-6, abs=1e-8)


# ---------------------------------------------------------------- what there is to discover


def test_discovery_small_steps_every_wall_holds():
    for kind in WALLS:
        for rate in (0.01, 0.03, 0.1):
            path = places(kind, rate=rate, delta=0.1, steps=600)
            assert min(path) > 0
            assert abs(path[-1] - path[-2]) < 1e-6


def test_discovery_a_long_step_tunnels_through_raw_and_is_trapped():
    path = places("raw", rate=0.8)
    assert path[1] < 0
    assert max(path[1:]) < 0
    assert path[-1] == pytest.approx((WISH - math.sqrt(WISH**2 + 4 * WEIGHT)) / 2, abs=1e-6)  # x (x - WISH) = WEIGHT


@pytest.mark.parametrize("kind", ["onesided", "hinge"])
def test_discovery_onesided_and_hinge_send_it_back(kind):
    to_and_fro = places(kind, rate=0.8, delta=0.1)
    assert sum(a * b < 0 for a, b in pairwise(to_and_fro)) > 100
    stays = places(kind, rate=0.8, delta=0.2)
    assert stays[1] < 0
    assert min(stays[2:]) > 0


def test_discovery_with_a_large_delta_only_raw_holds():
    for kind in WALLS:
        assert (places(kind, rate=0.01, delta=0.5, steps=1000)[-1] > 0) == (kind == "raw")


def test_discovery_without_the_wish_there_is_a_reward_beyond_one():
    free = {"wish": False, "rate": 0.3, "steps": 400}
    for kind in ("raw", "clamped", "onesided"):
        path = places(kind, **free)
        assert np.diff(path).min() > 0
        assert path[-1] == pytest.approx(math.sqrt(1 + 2 * 0.3 * WEIGHT * 400), rel=0.01)  # of x' = WEIGHT / x
    assert set(places("hinge", **free)) == {1.0}
    assert places("kl", **free)[-1] == pytest.approx(math.sqrt(1 - 0.1**2), abs=1e-6)
    assert places("kl", det=-1.0, **free)[-1] == pytest.approx(-math.sqrt(1 - 0.1**2), abs=1e-6)
    for kind in ("raw", "clamped"):
        assert places(kind, det=0.0, **free) == [0.0, None]
    assert set(places("kl", det=0.0, **free)) == {0.0}


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "log"}, "kind='log' is not on the figure: give one of raw, clamped"),
        ({"delta": 0.3}, "delta=0.3 is not on the figure: give one of 0.02"),
        ({"det": 4}, "det=4 is not on the figure: give from -1 to 3 in twentieths"),
        ({"rate": 2.0}, "rate=2.0 is not on the figure"),
        ({"deltas": (0.0, 0.1)}, r"deltas=\(0.0, 0.1\): give numbers above 0 and at most 1"),
        ({"rates": ()}, r"rates=\(\): give numbers"),
        ({"rates": (0.3, 0.1)}, "each larger than the last"),
    ],
)
def test_bad_input_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        five_walls(**changes)


def test_enough_is_compared():
    cases = five_walls().cases
    assert {case["kind"] for case in cases} == set(WALLS)
    assert {case["rate"] for case in cases} == set(RATES)
    assert {case["kind"] for case in cases if case["det"] == 0} == set(WALLS)
    assert set(STARTS) >= {-1.0, 0.0, 1.0, 3.0}


# ---------------------------------------------------------------- the page


def said(page):
    return page.locator(".ns-barrier-said").text_content().strip()


@pytest.mark.browser
def test_keyboard_alone_releases_the_ball_and_tunnels(show):
    page = show(five_walls())
    page.get_by_label("Step size").focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")  # 0.1 to 0.8
    page.get_by_role("button", name="One step").focus()
    page.keyboard.press("Enter")
    path = places("raw", rate=0.8)
    assert said(page) == (
        f"raw, 1 step from 1.00: det = −{abs(path[1]):.3f}, on the wrong side. It went through the wall once."
    )
    assert page.get_by_role("status").text_content().strip() == said(page)
    page.get_by_role("button", name="Release").focus()
    page.keyboard.press("Enter")
    page.wait_for_function(
        "document.querySelector('.ns-barrier-said').textContent.includes('60 steps')", timeout=30_000
    )
    assert said(page) == (
        f"raw, 60 steps from 1.00: det = −{abs(path[60]):.3f}, on the wrong side, and at rest. "
        "It went through the wall once."
    )
    assert page.get_by_role("button", name="Release").is_disabled()
    page.get_by_role("button", name="Put back").click()
    assert "the ball lies at det = 1.00" in said(page)


@pytest.mark.browser
def test_at_zero_the_ball_is_gone_and_the_table_says_so(show):
    page = show(five_walls(det=0, kind="clamped"))
    assert page.locator(".ns-barrier-table tbody tr").nth(1).locator("td").all_text_contents() == ["2.303", "∞ or NaN"]
    page.get_by_role("button", name="One step").click()
    assert said(page) == (
        "clamped, as ported, 1 step from 0.00: the slope at det = 0 is not a finite number, and the ball is gone. "
        "The chain rule took 0 times infinity: NaN."
    )
    assert page.get_by_role("button", name="One step").is_disabled()

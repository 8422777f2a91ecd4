"""Two queries in the plane: the discovery is true against geometry of its own, and the queries can be moved."""

import math
import re

import numpy as np
import pytest

from nslab.explore.preference_plane import DISCOVERY, GRID, PLACES, compute, preference_plane

SIDE = np.linspace(-2, 2, 101)


def play(a=(0.9, 0.5), b=(1.6, 0.7), kind="tied", turn=0.0, grid=101):
    return compute({"a": list(a), "b": list(b), "kind": kind, "turn": turn, "grid": grid})


def codes(**setting):
    return np.array(play(**setting)["map"])


def test_scores_and_weights_are_those_of_attention():
    """The Gram matrix of the two queries, and the softmax of its rows over the root of the width."""
    result = play()
    gram = np.array([[0.9, 0.5], [1.6, 0.7]]) @ np.array([[0.9, 0.5], [1.6, 0.7]]).T
    np.testing.assert_allclose(result["scores"], gram)
    powers = np.exp(gram / math.sqrt(2))
    np.testing.assert_allclose(result["weights"], powers / powers.sum(1, keepdims=True))


@pytest.mark.parametrize("a", [(0.9, 0.5), (-0.4, 1.1), (1.3, -1.2)])
def test_discovery_a_line_and_a_circle_that_touch_at_the_tip_of_a(a):
    """a prefers b beyond the line through a across its arrow; b prefers a inside Thales' circle over a's arrow."""
    assert "Line and circle touch at the tip of a" in DISCOVERY
    found = codes(a=a)
    x, y = np.meshgrid(SIDE, SIDE)
    beyond = (x - a[0]) * a[0] + (y - a[1]) * a[1]
    inside = math.hypot(*a) / 2 - np.hypot(x - a[0] / 2, y - a[1] / 2)
    for code, distance in ((1, beyond), (2, inside)):
        clear = abs(distance) > 1e-9
        assert ((found == code) == (distance > 0))[clear].all()
        assert (found == code).any()
    assert not (found == 3).any()


def test_discovery_only_the_shorter_prefers_the_other():
    generator = np.random.default_rng(0)
    for a, b in generator.uniform(-2, 2, (300, 2, 2)):
        result = play(a, b, grid=2)
        (length_a, length_b), (forward, backward) = result["lengths"], result["prefers"]
        assert not (forward and backward)
        assert not (forward and length_b < length_a)
        assert not (backward and length_a < length_b)


@pytest.mark.parametrize("a", [(0.9, 0.5), (-0.4, 1.1)])
def test_discovery_room_for_both_opens_beyond_a_right_angle_and_with_the_mirror(a):
    for turn in range(0, 181, 5):
        result = play(a, kind="turn", turn=float(turn))
        assert (result["shares"][2] > 0) == (turn > 90) == (result["lowest"] < -1e-9)
    quarter = codes(a=a, kind="turn", turn=90.0)
    assert set(np.unique(quarter)) <= {0, 1, 2}
    assert (quarter > 0).mean() > 0.98, "one prefers the other nearly everywhere"
    assert play(a, kind="mirror")["shares"][2] > 0
    assert play(*PLACES["opposite"], kind="mirror")["prefers"] == [True, True]


def test_lowest_is_the_eigenvalue_of_the_symmetric_part():
    for kind, turn in (("tied", 0.0), ("mirror", 0.0), ("turn", 35.0), ("turn", 150.0)):
        result = play(kind=kind, turn=turn, grid=2)
        matrix = np.array(result["matrix"])
        assert result["lowest"] == pytest.approx(np.linalg.eigvalsh((matrix + matrix.T) / 2)[0])


def test_enough_is_compared():
    cases = preference_plane().cases
    assert {case["kind"] for case in cases} == {"tied", "mirror", "turn"}
    answers = [compute(case) for case in cases]
    assert {tuple(answer["prefers"]) for answer in answers} == {
        (one, two) for one in (False, True) for two in (False, True)
    }
    assert compute(preference_plane().state)["map"][0].__len__() == GRID


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"places": "far"}, "places='far' is unknown: choose from alike, right angle, opposite, or give two points"),
        ({"places": [(0, 0)]}, "places has 1 points: give two queries"),
        ({"places": [(0, 0), (3, 0)]}, r"\(3.0, 0.0\) is outside the plane: both numbers go from -2 to 2"),
        ({"kind": "free"}, "kind='free' is unknown: choose from tied, mirror, turn"),
        ({"turn": 190}, "turn=190: give degrees from 0 to 180"),
    ],
)
def test_bad_input_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        preference_plane(**arguments)


@pytest.fixture
def page(show):
    return show(preference_plane())


def shown(page):
    return page.get_by_role("status").text_content().replace("−", "-")


@pytest.mark.browser
def test_arrow_keys_move_a_query(page):
    assert shown(page).startswith("a prefers b, and b prefers itself. a is 1.03 long")
    query = page.get_by_role("slider", name="Query of b")
    query.focus()
    for _ in range(10):
        page.keyboard.press("ArrowLeft")
    page.keyboard.press("Shift+ArrowDown")
    assert query.get_attribute("aria-valuetext") == "at (0.60, 0.69)"
    assert shown(page).startswith("b prefers a, and a prefers itself. a is 1.03 long and gives 47 % to b; b is 0.91")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Query of b"


@pytest.mark.browser
def test_the_switch_makes_room_for_both(page):
    page.get_by_role("button", name="opposite").click()
    assert "Nowhere in the plane" in shown(page)
    page.get_by_label("Pairwise W").select_option("mirror")
    assert shown(page).startswith("Both prefer the other.")
    turn = page.get_by_label("Turn of W in degrees")
    assert turn.is_disabled()
    page.get_by_label("Pairwise W").select_option("turn")
    turn.focus()
    page.keyboard.press("Home")
    assert "Nowhere in the plane" in shown(page)
    assert "Neither" in page.locator(".ns-want-plane svg").get_attribute("aria-label")


@pytest.mark.browser
def test_a_drag_moves_one_query(page):
    handle = page.get_by_role("slider", name="Query of a")
    other = page.get_by_role("slider", name="Query of b").get_attribute("aria-valuetext")
    box = page.locator(".ns-want-plane svg").bounding_box()
    at = handle.bounding_box()
    page.mouse.move(at["x"] + at["width"] / 2, at["y"] + at["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 4, box["y"] + box["height"] / 2, steps=4)
    page.mouse.up()
    numbers = [
        float(number) for number in re.findall(r"-?\d+\.\d+", handle.get_attribute("aria-valuetext").replace("−", "-"))
    ]
    assert numbers == pytest.approx([-1, 0], abs=0.03)
    assert page.get_by_role("slider", name="Query of b").get_attribute("aria-valuetext") == other

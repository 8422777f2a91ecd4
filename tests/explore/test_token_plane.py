"""Tokens in the plane: the numbers are those of closed forms, the discovery is true, and tokens can be moved."""

import math
import re

import pytest
import torch

from nslab.explore.token_plane import DISCOVERY, PLACES, compute, token_plane

STATE = token_plane(query=(0.3, -0.2)).state


def play(**changes):
    return compute({**STATE, "grid": 61, **changes})


def block_by_differences(past, query, strength, turn, step=1e-6):
    """J of u - mean(u) by central differences, from a softmax of its own."""

    def residual(x, y):
        c, s = strength * math.cos(math.radians(turn)), strength * math.sin(math.radians(turn))
        asked = (c * x - s * y, s * x + c * y)
        powers = [math.exp(a * asked[0] + b * asked[1]) for a, b in past]
        return [
            value - sum(w * token[k] for w, token in zip(powers, past, strict=True)) / sum(powers)
            for k, value in enumerate((x, y))
        ]

    x, y = query
    columns = [
        (residual(x + dx, y + dy), residual(x - dx, y - dy)) for dx, dy in ((step, 0), (0, step))
    ]  # one for each direction
    return [[(ahead[k] - behind[k]) / (2 * step) for ahead, behind in columns] for k in range(2)]


@pytest.mark.parametrize("past", PLACES)
@pytest.mark.parametrize(("strength", "turn"), [(0.7, 0.0), (1.9, 50.0)])
def test_block_is_the_derivative_of_the_residual(past, strength, turn):
    result = play(past=PLACES[past], strength=strength, turn=turn)
    expected = block_by_differences(PLACES[past], STATE["query"], strength, turn)
    torch.testing.assert_close(torch.tensor(result["block"]), torch.tensor(expected), atol=1e-7, rtol=0)


def test_ellipse_and_direction_undo_the_block():
    """J E = noise radius times I; |J v| = s; the mean follows with v - J v."""
    result = play(past=PLACES["triangle"], strength=1.1)
    block, ellipse = torch.tensor(result["block"]), torch.tensor(result["ellipse"])
    torch.testing.assert_close(block @ ellipse, STATE["noise"] * torch.eye(2))
    v, follows = torch.tensor(result["direction"]), torch.tensor(result["follows"])
    assert (block @ v).norm().item() == pytest.approx(result["spectral"])
    torch.testing.assert_close(follows, v - block @ v)


def test_discovery_a_street_opens_at_four_and_goes_through_the_origin():
    assert "below 4" in DISCOVERY
    for past in ([[-1.0, 0.0], [1.0, 0.0]], [[1.0, 0.0], [3.0, 0.0]]):
        below, above = (play(past=past, strength=strength) for strength in (0.99, 1.1))
        assert (below["beyond"], below["street"]["width"]) == (0, None)
        assert above["beyond"] > 0
        assert above["street"]["kappa"] == pytest.approx(4.4)
        middle = torch.tensor(above["determinants"])[:, 30]  # the queries with x = 0
        torch.testing.assert_close(middle, torch.full_like(middle, 1 - 1.1))


def test_discovery_the_width_of_the_street():
    """It rises with β and falls again, and stays below 0.448 of the distance of the tokens."""
    widths = [play(strength=strength)["street"]["width"] for strength in (1.1, 1.7, 2.5, 4.0)]
    assert widths[0] < widths[1]
    assert widths[1] > widths[2] > widths[3]
    for strength, width in zip((1.1, 1.7, 2.5, 4.0), widths, strict=True):
        kappa = 4 * strength
        assert width == pytest.approx(4 * math.acosh(math.sqrt(kappa) / 2) / (2 * strength))
    assert max(widths) < 0.448 * 2


def test_discovery_kerbs_are_straight_far_out_and_bent_in_the_middle():
    """Along the street between the two lower tokens of the triangle: the kerbs part where the third one matters."""
    result = play(past=PLACES["triangle"], strength=1.0, grid=121)
    negative = torch.tensor(result["determinants"]) < 0
    width = negative[:, 30:91].sum(1)  # of the street that runs down along x = 0
    low = width[:30]
    assert low.max() - low.min() <= 1
    assert width[50:].max() > 2 * low.max()


def test_discovery_an_island_where_three_tie():
    """Two eigenvalues of Sigma A above 1 at the origin: det is positive there, and negative around."""
    result = play(past=PLACES["triangle"], strength=2.0, query=[0.0, 0.0])
    assert result["determinant"] > 0
    eigenvalues = torch.linalg.eigvals(torch.tensor(result["block"])).real
    assert (eigenvalues < 0).all()
    assert torch.tensor(result["determinants"])[30, 24] < 0


def test_discovery_a_quarter_turn_leaves_nothing():
    for past in PLACES.values():
        assert play(past=past, strength=3.0)["beyond"] > 0
        assert play(past=past, strength=3.0, turn=90.0)["lowest"] >= 1 - 1e-9
    straight, turned = (play(strength=1.5, turn=turn)["street"] for turn in (0.0, 30.0))
    assert turned["width"] < straight["width"]
    assert turned["kappa"] == pytest.approx(straight["kappa"] * math.cos(math.radians(30)))


def test_certified_radius_keeps_its_promise():
    """No sign change of det within the radius, at 400 points around each of several queries."""
    turn = torch.linspace(0, 2 * math.pi, 41, dtype=torch.float64)[:-1]
    for past, query in (("triangle", (0.9, 0.4)), ("two clusters", (1.2, -1.0)), ("ring of six", (0.1, 0.0))):
        here = play(past=PLACES[past], query=list(query), strength=0.8)
        for share in (0.5, 1.0):
            for x, y in zip(turn.cos().tolist(), turn.sin().tolist(), strict=True):
                at = [query[0] + share * here["certified"] * x, query[1] + share * here["certified"] * y]
                there = play(past=PLACES[past], query=at, strength=0.8, grid=2)
                assert there["determinant"] * here["determinant"] > 0


def test_enough_is_compared():
    cases = token_plane().cases
    answers = [compute(case) for case in cases]
    assert len(cases) >= 30
    assert {len(case["past"]) for case in cases} == {2, 3, 4, 5, 6}
    assert sum(answer["beyond"] > 0 for answer in answers) >= 8
    assert any(answer["certified"] is None for answer in answers)
    assert any(answer["direction"] is None for answer in answers)
    assert any(answer["street"] and answer["street"]["width"] for answer in answers)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"past": "five"}, r"past='five' is unknown: choose from two tokens, .*or give 2 to 6 points"),
        ({"past": [(0, 0)]}, "past has 1 tokens: give 2 to 6"),
        ({"past": [(0, 0), (4, 0)]}, r"\(4.0, 0.0\) is outside the plane: both numbers go from -3 to 3"),
        ({"query": (0, -3.1)}, r"\(0, -3.1\) is outside the plane"),
        ({"strength": 0}, "strength=0: give a β above 0 and at most 4"),
        ({"turn": 190}, "turn=190: give degrees from 0 to 180"),
    ],
)
def test_bad_input_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        token_plane(**arguments)


@pytest.fixture
def page(show):
    return show(token_plane(strength=0.8, query=(0.3, 0.5)))


def shown(page):
    return page.get_by_role("status").text_content().replace("−", "-")


@pytest.mark.browser
def test_arrow_keys_move_a_token(page):
    """Ten steps of 0.1 to the left take κ from 0.8 · 2² to 0.8 · 3²; Shift makes the step small."""
    assert "κ = 3.20" in shown(page)
    token = page.get_by_role("slider", name="Past token 1")
    token.focus()
    for _ in range(10):
        page.keyboard.press("ArrowLeft")
    assert "κ = 7.20: a street of width" in shown(page)
    page.keyboard.press("Shift+ArrowUp")
    assert token.get_attribute("aria-valuetext") == "at (−2.00, 0.01)"
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Past token 1"


@pytest.mark.browser
def test_a_drag_moves_the_query_and_only_it(page):
    before = page.get_by_role("slider", name="Past token 2").get_attribute("aria-valuetext")
    handle = page.get_by_role("slider", name="Query")
    box = page.locator(".ns-plane svg").bounding_box()
    at = handle.bounding_box()
    page.mouse.move(at["x"] + at["width"] / 2, at["y"] + at["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 4, steps=4)
    page.mouse.up()
    numbers = [float(number) for number in re.findall(r"-?\d+\.\d+", handle.get_attribute("aria-valuetext"))]
    assert numbers == pytest.approx([0, 1.5], abs=0.03)
    assert page.get_by_role("slider", name="Past token 2").get_attribute("aria-valuetext") == before


@pytest.mark.browser
def test_a_finger_moves_a_token(browser, tmp_path):
    """Touch: the events of a finger on token 2, dragged to the upper right."""
    context = browser.new_context(has_touch=True, viewport={"width": 390, "height": 900})
    page = context.new_page()
    page.set_content(f"<!doctype html><meta charset=utf-8><body>{token_plane().html}</body>")
    page.wait_for_selector("[aria-label='Past token 2']")
    at = page.get_by_role("slider", name="Past token 2").bounding_box()
    x, y = at["x"] + at["width"] / 2, at["y"] + at["height"] / 2
    client = context.new_cdp_session(page)
    for kind, points in (
        ("touchStart", [{"x": x, "y": y}]),
        ("touchMove", [{"x": x + 40, "y": y - 50}]),
        ("touchEnd", []),
    ):
        client.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    moved = page.get_by_role("slider", name="Past token 2").get_attribute("aria-valuetext").replace("−", "-")
    numbers = [float(number) for number in re.findall(r"-?\d+\.\d+", moved)]
    assert numbers[0] > 1.3
    assert numbers[1] > 0.4
    context.close()


@pytest.mark.browser
def test_buttons_start_anew_and_change_the_number_of_tokens(page):
    page.get_by_role("button", name="ring of six").click()
    assert page.get_by_role("slider", name="Past token").count() == 6
    assert page.get_by_role("button", name="Add a token").is_disabled()
    page.get_by_role("button", name="Remove one").click()
    assert page.get_by_role("slider", name="Past token").count() == 5
    page.get_by_role("button", name="two tokens").click()
    assert page.get_by_role("button", name="Remove one").is_disabled()
    page.get_by_role("slider", name="Inverse temperature β").focus()
    page.keyboard.press("End")
    assert "κ = 16.00" in shown(page)


@pytest.mark.browser
def test_the_choice_around_the_query(page):
    assert page.locator(".ns-plane-image").count() == 2  # in the plane and in the key
    page.get_by_label("Around the query").select_option("safe")
    assert page.locator(".ns-plane svg .ns-plane-image").count() == 0
    assert page.locator(".ns-plane svg .ns-plane-safe").count() == 1


@pytest.mark.browser
def test_an_update_fits_in_two_screen_refreshes(show):
    """Median script time of a step with six tokens; a figure ten times too slow would fail."""
    page = show(token_plane("ring of six", query=(0.5, 0.5)))
    times = page.evaluate(
        """() => { const slider = document.querySelector("[data-part=strength]");
        return Array.from({ length: 15 }, (_, k) => {
          slider.value = 1 + k / 10;
          const start = performance.now();
          slider.dispatchEvent(new Event("input"));
          return performance.now() - start; }); }"""
    )
    assert torch.tensor(times).median() < 160

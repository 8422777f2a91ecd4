"""Predict first: the score is what the formula says, the right explanation comes, and nothing is shown too early."""

import math
import re

import pytest
import torch

from nslab.explore.predictions import SAMPLES, compute, predict

LAYERS = list(range(13))
TRUTH = [1 - math.exp(-layer / 2) for layer in LAYERS]
TEXTS = {
    "label_x": "layer",
    "label_y": "mean correlation",
    "prompt": "How does the correlation grow?",
    "alt": "It grows fast, then levels off at 1.",
    "discovery": "Most of the change happens in the first three layers.",
}
WRONG = [
    ("a straight line", [layer / 12 for layer in LAYERS], "Each layer removes a share of what is left."),
    ("no change", [0.0] * 13, "Averaging pulls tokens together."),
]


def make(**changes):
    arguments = {"x": LAYERS, "curve": TRUTH, "limits": (-0.5, 1.5), "distractors": WRONG, **TEXTS, **changes}
    return predict(arguments.pop("x"), arguments.pop("curve"), **arguments)


@pytest.fixture
def figure():
    return make()


def drawn(figure, heights):
    return compute({**figure.state, "drawn": heights})


def on_grid(values):
    grid = torch.linspace(0, 12, SAMPLES, dtype=torch.float64)
    low = grid.floor().clamp(max=11).long()
    values = torch.tensor(values, dtype=torch.float64)
    return (values[low] + (values[low + 1] - values[low]) * (grid - low)).tolist()


def test_discovery_of_the_scale(figure):
    """The truth scores 100; shifted by 5 % of the plot 80; by a quarter 0; nothing drawn has no score."""
    truth = on_grid(TRUTH)
    assert drawn(figure, truth)["score"] == pytest.approx(100)
    assert drawn(figure, [y + 0.1 for y in truth])["score"] == pytest.approx(80)
    assert drawn(figure, [y + 0.5 for y in truth])["score"] == pytest.approx(0)
    assert drawn(figure, [y - 1.5 for y in truth])["score"] == 0
    assert set(drawn(figure, [None] * SAMPLES).values()) == {None}


@pytest.mark.parametrize("k", [0, 1])
def test_each_wrong_shape_gets_its_explanation(figure, k):
    name, values, explanation = WRONG[k]
    answer = drawn(figure, [y + 0.01 for y in on_grid(values)])
    assert (answer["nearest"], answer["explanation"]) == (name, explanation)


def test_nearest_shape_is_the_smallest_distance(figure):
    """Distances agree with torch's own mean, and the truth has no explanation."""
    heights = [0.9 * y for y in on_grid(TRUTH)]
    answer = drawn(figure, heights)
    shapes = torch.tensor([on_grid(values) for values in (TRUTH, *(values for _, values, _ in WRONG))])
    expected = (shapes - torch.tensor(heights)).abs().mean(-1) / 2
    assert answer["distances"] == pytest.approx(expected.tolist(), rel=1e-5)
    assert (answer["nearest"], answer["explanation"]) == ("truth", None)


def test_missing_heights_are_filled(figure):
    """Flat beyond the drawn part, straight between."""
    heights = [None] * SAMPLES
    heights[10], heights[20] = 0.0, 1.0
    filled = drawn(figure, heights)["completed"]
    assert filled[:11] == [0.0] * 11
    assert filled[15] == pytest.approx(0.5)
    assert filled[20:] == [1.0] * 41


def test_tensors_are_accepted():
    a = make(x=torch.arange(13), curve=torch.tensor(TRUTH, dtype=torch.float64))
    assert a.state == make().state


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": [*LAYERS[:-1], 11]}, r"x=\[0, 1, 2, 3, 4, 5, ...\] does not increase"),
        ({"curve": TRUTH[:-1]}, "curve has 12 heights and x has 13"),
        ({"curve": [*TRUTH[:-1], math.inf]}, "curve=.* holds NaN or infinity"),
        ({"limits": (0.0, 0.5)}, "do not hold the curves, which span 0 to 1"),
        ({"distractors": [("flat", [0.0], "no")]}, r"distractors\[0\] \(flat\) has 1 heights"),
        ({"distractors": [("flat", [0.0] * 13, " ")]}, "'flat' has no explanation: say what is wrong"),
        ({"distractors": [("truth", [0.0] * 13, "no")]}, "give each its own name, other than 'truth'"),
        ({"prompt": ""}, "prompt='' is empty: ask"),
        ({"alt": ""}, "alt='' is empty: say"),
        ({"discovery": ""}, "discovery='' is empty: say"),
    ],
)
def test_bad_input_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        make(**changes)


def line(page, dash):
    return page.locator(f".ns-plot > path[stroke-dasharray='{dash}']").get_attribute("d")


TRUE, NEAREST = "9 4", "2 3"


@pytest.mark.browser
def test_draw_by_pointer_reveal_and_clear(figure, show):
    """Nothing to reveal before drawing; after it the truth, the score and why the drawing is wrong."""
    page = show(figure)
    reveal, clear = page.get_by_role("button", name="Reveal"), page.get_by_role("button", name="Clear")
    assert reveal.is_disabled()
    assert not line(page, TRUE)
    box = page.locator(".ns-plot").bounding_box()
    left, right, low, high = box["x"] + 58, box["x"] + box["width"] - 14, box["height"] - 46, 12

    def point(share):  # the straight line from 0 to 1 in a plot from -0.5 to 1.5
        return left + share * (right - left), box["y"] + low + (high - low) * (0.25 + share / 2)

    page.mouse.move(*point(0))
    page.mouse.down()
    for k in range(1, 11):
        page.mouse.move(*point(k / 10))
    page.mouse.up()
    assert not line(page, TRUE)
    reveal.click()
    assert line(page, TRUE).startswith("M58.0")
    assert line(page, NEAREST)
    status = page.get_by_role("status").text_content()
    expected = round(drawn(figure, on_grid(WRONG[0][1]))["score"])
    assert abs(int(re.match(r"Score (\d+) of 100\.", status)[1]) - expected) <= 2
    assert status.endswith(f"{WRONG[0][2]} {TEXTS['alt']}")  # the sentence stands by itself, with nothing before it
    assert reveal.is_disabled()
    clear.click()
    assert not line(page, TRUE)
    assert reveal.is_disabled()
    assert page.evaluate("document.activeElement.getAttribute('role')") == "slider"


@pytest.mark.browser
@pytest.mark.parametrize(("key", "said"), [("ArrowUp", "Quite so."), ("Home", "Where does your curve leave")])
def test_praise_is_for_good_curves_only(key, said, show):
    """A flat truth at 0.5 in a plot from 0 to 1: a step up is near it; the bottom is not, though nothing is nearer."""
    page = show(make(curve=[0.5] * 13, limits=(0.0, 1.0), distractors=(), praise="Quite so."))
    page.get_by_role("slider").first.press(key)
    page.get_by_role("button", name="Reveal").click()
    assert said in page.get_by_role("status").text_content()


@pytest.mark.browser
def test_draw_by_keyboard_alone(figure, show):
    """Tab reaches one point; arrows move it and go to its neighbours; the drawing is then worth a score."""
    page = show(figure)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "mean correlation at layer = 0"
    sliders = page.get_by_role("slider")
    assert sliders.count() == 11
    assert sliders.first.get_attribute("aria-valuetext") == "not drawn yet"
    page.keyboard.press("Home")
    for _ in range(10):
        page.keyboard.press("ArrowUp")
    assert float(sliders.first.get_attribute("aria-valuenow")) == pytest.approx(0.0)
    page.keyboard.press("ArrowRight")
    page.keyboard.press("PageUp")
    page.keyboard.press("ArrowUp")
    assert sliders.nth(1).get_attribute("aria-valuetext") == "0.3"
    assert sliders.nth(10).get_attribute("aria-valuetext") == "0.3"
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    heights = [0.0, *[None] * 5, 0.3, *[None] * 54]
    answer = drawn(figure, heights)
    status = page.get_by_role("status").text_content()
    assert status.startswith(f"Score {round(answer['score'])} of 100.")
    assert page.evaluate("document.activeElement.textContent") == "Clear"
    sliders.first.press("End")  # after the reveal the drawing stands
    assert float(sliders.first.get_attribute("aria-valuenow")) == pytest.approx(0.0)


@pytest.mark.browser
def test_touch_draws_instead_of_scrolling(figure, browser):
    context = browser.new_context(has_touch=True, is_mobile=True, viewport={"width": 390, "height": 800})
    page = context.new_page()
    page.set_content(figure.html)
    plot = page.locator(".ns-plot")
    plot.wait_for()
    assert plot.evaluate("node => getComputedStyle(node).touchAction") == "none"
    page.touchscreen.tap(*(plot.bounding_box()[k] + 150 for k in "xy"))
    assert page.get_by_role("button", name="Reveal").is_enabled()
    context.close()


@pytest.mark.browser
def test_a_new_width_keeps_the_drawing(figure, show):
    page = show(figure)
    page.get_by_role("slider").nth(5).press("End")
    page.set_viewport_size({"width": 360, "height": 800})
    page.wait_for_function("document.querySelector('.ns-plot').clientWidth < 360")
    assert page.get_by_role("slider").nth(5).get_attribute("aria-valuetext") == "1.5"
    assert page.get_by_role("button", name="Reveal").is_enabled()


@pytest.mark.browser
@pytest.mark.parametrize(
    ("limits", "shown"),
    [((-0.5, 1.5), "−0.5 0 0.5 1 1.5"), ((0.0, 1.0), "0 0.2 0.4 0.6 0.8 1"), ((-1.0, 1e-3 + 1), "−1 −0.5 0 0.5 1")],
)
def test_ticks_are_round_numbers(limits, shown, show):
    page = show(make(limits=limits))
    labels = page.locator(".ns-plot text[text-anchor=end]").all_text_contents()
    assert " ".join(labels) == shown

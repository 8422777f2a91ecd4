"""The page that trains a network: what it says is the twin's, nothing jumps, the keyboard suffices, frames go on."""

import math
import re
import statistics

import pytest

from nslab.explore.training_in_page import compute, live_training

STATE = live_training().state
SMALL = {"modulus": 13, "width": 64, "fraction": 0.8}  # finds the rule after some hundred steps, each a third of a ms


@pytest.fixture
def page(show):
    return show(live_training(**SMALL))


def said(page):
    return page.locator(".ns-train-said").text_content().strip()


def press(page, button):
    page.get_by_role("button", name=button, exact=True).click()


def slider(page, name):
    return page.get_by_role("slider", name=name)


def rested(page):
    page.wait_for_function("document.querySelector('.ns-train-said').textContent.includes('It rests')", timeout=60_000)


def row(page, number=0):
    return page.locator(".ns-train-runs tbody tr").nth(number).locator("th, td").all_text_contents()


def sentence(found, rows=135, others=34):
    train, test = round(found["train_accuracy"] * rows), round(found["test_accuracy"] * others)
    return f"{train} of {rows} train and {test} of {others} test pairs are right."


@pytest.mark.browser
def test_one_run_from_start_to_rest(page):
    """Start, and the page trains until twice the steps to 99 %; what it says is what the twin finds."""
    state = {**STATE, **SMALL}
    assert said(page) == (
        "Press Start: 64 neurons learn (a + b) mod 13 from 135 of 169 pairs. So far " + sentence(compute(state))
    )
    pictures = page.get_by_role("img")
    places = [picture.bounding_box() for picture in pictures.all()]
    press(page, "Start")
    assert page.get_by_role("button", name="One step").is_disabled()
    rested(page)
    steps = int(re.match(r"Step (\d+), ", said(page))[1])
    found = compute({**state, "steps": steps})
    start = f"Step {steps}, {found['e_foldings']:.2f} e-foldings of decay: "
    assert said(page) == f"{start}{sentence(found)} It rests, at twice its steps to 99 %."
    assert page.get_by_role("status").text_content() == said(page)
    assert [picture.bounding_box() for picture in pictures.all()] == places  # nothing moved
    name, memorised, half, grown = row(page)
    assert name == "λ 1, η 0.01, seed 1"
    assert grown == f"{steps // 2} ({steps / 200:.2f})"
    for text, key, level in [(memorised, "train_accuracy", 1), (half, "test_accuracy", 0.5)]:
        at = int(text.split()[0])
        assert compute({**state, "steps": at})[key] >= level
        assert compute({**state, "steps": math.ceil(at / 1.02) - 1})[key] < level
    told = [picture.get_attribute("aria-label") for picture in pictures.all()]
    accuracy = f"At step {steps}: train {found['train_accuracy']:.3f}, test {found['test_accuracy']:.3f}."
    assert " ".join(told[0].split()) == f"Accuracy against steps, on a logarithmic axis. {accuracy}"
    assert told[1].endswith(
        f"keep 0.7: {found['stability']:.3f} at step {steps}; the task itself has {found['target']:.3f}."
    )
    assert f"All 169 pairs: 135 train and {sum(found['right']) - 135} test pairs are right." == told[2]
    energies = page.locator(".ns-train-pairs tbody td").all_text_contents()
    none, one, other, both = found["energies"]
    assert energies[::2] == [f"{value:.3f}" for value in (none, one + other, both, none + one + other + both)]
    assert energies[1::2] == [f"{value:.3f}" for value in (1 / 13, 0, 12 / 13, 1)]


@pytest.mark.browser
def test_keyboard_alone_one_step_at_a_time(page):
    """Tab through the controls in order; three single steps; the stability slider changes the curve, not the run."""
    parts = []
    for _ in range(10):
        page.keyboard.press("Tab")
        parts.append(page.evaluate("document.activeElement.dataset.part"))
    assert parts == ["decay", "rate", "seed", "split", "go", "one", "anew", "clock", "keep", "share"]
    page.get_by_role("button", name="One step").focus()
    for _ in range(3):
        page.keyboard.press("Enter")
    found = compute({**STATE, **SMALL, "steps": 3})
    assert said(page) == f"Step 3, 0.03 e-foldings of decay: {sentence(found)}"
    assert page.get_by_role("status").text_content().strip() == said(page)
    assert page.evaluate("document.activeElement.textContent") == "One step"
    slider(page, "Keep").press("End")
    stability = page.get_by_role("img", name="Noise stability")
    assert f"at keep 1: {sum(found['energies']):.3f} at step 3; the task itself has 1.000." in stability.aria_snapshot()
    page.get_by_role("checkbox", name="÷ value at keep 1").press("Space")
    assert "divided by its value at keep 1: 1.000 at step 3" in stability.aria_snapshot()
    assert said(page).startswith("Step 3, ")


@pytest.mark.browser
def test_another_setting_begins_anew_and_the_old_run_stays_as_a_thin_line(page):
    for _ in range(5):
        press(page, "One step")
    old = page.locator(".ns-train-plots svg[role=img] .ns-train-old")
    assert old.count() == 0
    slider(page, "Weight decay").press("Home")
    assert said(page).startswith("Press Start")
    assert row(page) == ["λ 0, η 0.01, seed 1", "–", "–", "–"]
    assert row(page, 1)[0] == "λ 1, η 0.01, seed 1"
    assert old.count() == 1
    assert "no decay: its clock stands still" in page.locator(".ns-train-plots").inner_text()
    press(page, "One step")
    assert said(page).startswith("Step 1, no decay: ")
    press(page, "Start anew")
    assert page.get_by_role("status").text_content() == "A new run: λ 0, η 0.01, seed 1."
    assert old.count() == 1  # a run of the same setting takes the place of its like
    slider(page, "Seed").press("ArrowRight")
    page.get_by_role("combobox", name="Split").select_option("unordered")
    press(page, "One step")
    assert row(page)[0] == "λ 0, η 0.01, seed 2, unordered"
    slider(page, "Learning rate").press("ArrowLeft")
    assert page.locator(".ns-train-runs tbody tr").count() == 3
    press(page, "One step")
    slider(page, "Learning rate").press("ArrowLeft")
    press(page, "One step")
    slider(page, "Learning rate").press("End")
    assert page.locator(".ns-train-runs tbody tr").count() == 4  # this one and three before it
    dashes = old.evaluate_all("all => all.map((path) => path.getAttribute('stroke-dasharray'))")
    assert len(set(dashes)) == 3


@pytest.mark.browser
def test_curves_shift_between_steps_and_e_foldings(page):
    """Read back from the path: step t stands at log t, or at log(t η λ); both axes carry their ticks there."""
    for _ in range(10):
        press(page, "One step")
    axis = page.locator(".ns-train-plots svg[role=img]").first.locator("path.ns-axis").get_attribute("d")
    left, right = (float(value) for value in re.match(r"M(\S+) \S+H?V\S+H([\d.]+)", axis).groups())

    def places():
        path = page.locator("svg[role=img] .ns-train-test").get_attribute("d")
        return [(float(x) - left) / (right - left) * 4 for x in re.findall(r"[ML](\S+) ", path)]

    assert places() == pytest.approx([math.log10(t) for t in range(1, 11)], abs=0.01)
    page.get_by_role("combobox", name="Axis").select_option("foldings")
    assert places() == pytest.approx([math.log10(t) for t in range(1, 11)], abs=0.01)  # 0.01 e-foldings a step
    slider(page, "Weight decay").press("End")  # 3
    for _ in range(10):
        press(page, "One step")
    expected = [math.log10(3 * t) for t in range(1, 11)]
    assert places() == pytest.approx(expected, abs=0.01)
    ticks = (
        page.locator(".ns-train-plots svg[role=img]")
        .first.locator("text")
        .evaluate_all("all => all.map((node) => [node.textContent, +node.getAttribute('x')])")
    )
    at = dict(ticks)["100"]  # steps: three e-foldings
    assert (at - left) / (right - left) * 4 - 2 == pytest.approx(math.log10(3), abs=0.01)
    slider(page, "Weight decay").press("Home")
    press(page, "One step")
    assert page.locator("svg[role=img] .ns-train-test").get_attribute("d") == ""


@pytest.mark.browser
def test_pause_go_on_and_a_new_width_keep_the_run(page):
    press(page, "Start")
    page.wait_for_function("/^Step [0-9]{2}/.test(document.querySelector('.ns-train-said').textContent)")
    press(page, "Pause")
    steps = int(re.match(r"Step (\d+), .* Paused\.$", said(page))[1])
    assert sentence(compute({**STATE, **SMALL, "steps": steps})) in said(page)
    before = said(page)
    page.set_viewport_size({"width": 390, "height": 800})
    page.wait_for_function("document.querySelector('.ns-train-plots svg[role=img]').clientWidth < 380")
    assert said(page) == before
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.get_by_role("button", name="Go on").evaluate("button => [1, 2, 3].forEach(() => button.click())")
    assert page.get_by_role("button", name="Pause").is_visible()  # on, off, and on again
    rested(page)
    assert int(re.match(r"Step (\d+), ", said(page))[1]) > steps


@pytest.mark.browser
@pytest.mark.parametrize("width", [320, 390, 800])
def test_sentences_fit_the_space_that_is_kept_for_them(width, show):
    """Neither the first sentence nor the longest that may follow makes the figure jump."""
    page = show(live_training(), width=width)
    line = page.locator(".ns-train-said")
    kept = line.evaluate("node => parseFloat(getComputedStyle(node).minHeight)")
    assert line.bounding_box()["height"] == pytest.approx(kept, abs=0.5)
    longest = (
        "Step 9,984, 99.84 e-foldings of decay: 317 of 317 train and 212 of 212 test pairs are right. "
        "It rests, at twice its steps to 99 %."
    )
    line.evaluate("(node, words) => { node.textContent = words; }", longest)
    assert line.bounding_box()["height"] == pytest.approx(kept, abs=0.5)


@pytest.mark.browser
def test_page_stays_responsive_and_a_step_is_quick(show):
    """At p = 23 and 128 neurons: a step with all its pictures takes some milliseconds, and frames go on in training."""
    page = show(live_training())
    clicks = """() => { const button = document.querySelectorAll(".ns-stage button")[1];
      return Array.from({ length: 40 }, () => {
        const start = performance.now(); button.click(); return performance.now() - start; }); }"""
    assert statistics.median(page.evaluate(clicks)[10:]) < 60
    press(page, "Go on")
    frames = page.evaluate(
        """() => new Promise((done) => { const start = performance.now(); let frames = 0;
        (function frame() { frames++; if (performance.now() < start + 1000) requestAnimationFrame(frame);
          else done(frames); })(); })"""
    )
    assert frames > 8
    assert int(re.match(r"Step (\d+), ", said(page))[1]) > 60


@pytest.mark.browser
def test_training_ends_with_the_figure(page):
    """A figure that a notebook takes away stops: no frame of it trains on."""
    press(page, "Start")
    page.evaluate("""() => { window.stage = document.querySelector(".ns-stage"); stage.remove(); }""")
    told = "stage.querySelector('.ns-train-said').textContent"
    page.wait_for_timeout(100)
    before = page.evaluate(told)
    page.wait_for_timeout(200)
    assert page.evaluate(told) == before

"""Recorded training runs: a frame's numbers are right, packing keeps them, and the page shows them and can be played.

`tests/explore/test_modules.py` holds the page to the Python twin.
"""

import dataclasses
import itertools
import json
import re

import numpy as np
import pytest

from nslab.explore.recorded_runs import compute, frame, training_run
from nslab.explore.run_packing import packed, unpacked
from tests.explore.histories import made_up_run, probabilities

RUN = made_up_run()
OTHER = made_up_run(p=5, times=4, neurons=3, seed=1, attention=True)
DISCOVERY = "Training pairs come first."


def figure(*runs, **changes):
    return training_run(runs or (RUN, OTHER), discovery=DISCOVERY, **changes)


# ---------------------------------------------------------------- the numbers of a frame


def agreement(f, keep):
    """E sum_c f_c(X) f_c(Y) over all pairs X and Y: each operand kept with probability keep, else drawn anew."""
    p = len(f)
    law = keep * np.eye(p) + (1 - keep) / p  # of an operand given the other's
    return np.einsum("abc,ax,by,xyc->", f, law, law, f) / p**2


@pytest.mark.parametrize("keep", [0, 0.3, 1.0])
def test_stability_is_the_agreement_of_two_noisy_readings(keep):
    """By enumeration, for the model at every checkpoint and for the right answers; normalised by keep = 1."""
    table, _ = probabilities(7, 7, 0)
    target = np.eye(7)[np.add.outer(np.arange(7), np.arange(7)) % 7]
    found = frame(RUN, 3, keep)
    expected = np.array([agreement(f, keep) for f in table])
    whole = np.array([agreement(f, 1) for f in table])
    assert found["curves"]["stability"] == pytest.approx(expected.tolist())
    assert found["curves"]["normalised"] == pytest.approx((expected / whole).tolist())
    assert found["stability"] == pytest.approx(expected[3])
    assert found["target_stability"] == pytest.approx(agreement(target, keep))
    assert found["target_stability"] == pytest.approx(keep**2 + (1 - keep**2) / 7)


def test_sensitivity_is_the_slope_of_the_stability_at_keep_one():
    h = 1e-6
    low, high = (frame(RUN, 4, 1 - k * h) for k in (1, 0))
    assert (high["stability"] - low["stability"]) / h == pytest.approx(high["sensitivity"], rel=1e-5)
    assert high["target_sensitivity"] == pytest.approx(2 * (1 - 1 / 7))


def test_cells_tell_training_pairs_their_mirrors_and_right_answers():
    found = np.array(frame(RUN, 2, 0.5)["cells"]).reshape(7, 7)
    for a, b in itertools.product(range(7), repeat=2):
        group = 4 if RUN.train[a, b] else 2 if RUN.train[b, a] else 0
        assert found[a, b] == group + RUN.correct[2, a, b]
    for group, name in {4: "train", 2: "mirrored", 0: "unseen"}.items():
        share = np.mean(found[(found == group) | (found == group + 1)] % 2)
        assert frame(RUN, 2, 0.5)[f"{name}_accuracy"] == pytest.approx(share)


def test_decay_clock_and_fourier_share():
    found = frame(made_up_run(learning_rate=1e-3, weight_decay=0.5), 4, 0.5)
    assert (found["step"], found["folds"]) == (100, pytest.approx(0.05))
    assert found["fourier_share"] == pytest.approx(0.9 * 4 / 6)


def test_training_pairs_come_first_and_learning_ends_at_the_target():
    """What the made-up runs are made to show, read from two frames as a discovery test reads them."""
    shown = figure()
    start = shown.twin(shown.state)
    assert start["train_accuracy"] == 1 > 0.5 > start["test_accuracy"]
    end = shown.twin({**shown.state, "index": 6})
    assert end["test_accuracy"] == 1
    assert end["stability"] == pytest.approx(end["target_stability"], abs=0.005)


# ---------------------------------------------------------------- packing


@pytest.mark.parametrize("run", [RUN, OTHER, made_up_run(train=None)], ids=["plain", "attention", "no split"])
def test_packing_keeps_what_a_picture_shows(run):
    again = unpacked(json.loads(json.dumps(packed(run))))
    for field in dataclasses.fields(run):
        before, after = getattr(run, field.name), getattr(again, field.name)
        if before is None or isinstance(before, (str, int, float)) or before.dtype.kind in "bi":
            np.testing.assert_array_equal(before, after)
        else:
            np.testing.assert_allclose(after, before, rtol=0, atol=2e-3)  # a byte for a share


def test_units_without_a_frequency_and_empty_groups_survive_packing():
    shares = np.full((7, 6), np.nan)
    run = made_up_run(neuron_share=shares, mirrored_accuracy=np.full(7, np.nan))
    again = unpacked(packed(run))
    assert not again.neuron_frequency.any()
    assert frame(again, 0, 0.5)["mirrored_accuracy"] is None
    assert compute(figure(run).state)["mirrored_accuracy"] is None


def largest():
    """A figure as large as the book's: sixty checkpoints of p = 31, 97 and 53."""
    runs = []
    for p, neurons, attention in ((31, 128, False), (97, 256, False), (53, 256, True)):
        run = made_up_run(p, 2, neurons, attention=attention)
        long = {
            name: np.repeat(getattr(run, name), 30, 0) for name in vars(run) if np.shape(getattr(run, name))[:1] == (2,)
        }
        runs.append(dataclasses.replace(run, **{**long, "steps": np.arange(60) * 10}))
    return figure(*runs)


def test_state_of_three_large_runs_is_small():
    assert len(json.dumps(largest().state)) < 350_000


def test_enough_is_compared():
    cases = figure().cases
    assert {case["runs"][0]["name"] for case in cases} == {RUN.name, OTHER.name}
    assert {case["keep"] for case in cases} >= {0.0, 1.0}
    assert {0, len(RUN.steps) - 1} <= {case["index"] for case in cases}


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": " "}, "name=' ' is empty: name the run"),
        ({"modulus": 1000}, "modulus=1000: the figure shows 3 to 255"),
        ({"steps": np.array([0, 25, 25, 50, 75, 100, 125])}, "steps=.*each at a larger step than the last"),
        ({"energies": RUN.energies[None]}, r"energies has shape \(1, 7, 4\), not \(7, 4\).*without an axis of members"),
        ({"spectrum": RUN.spectrum[:, 1:]}, r"spectrum has shape \(7, 2\), not \(7, 3\)"),
        ({"neuron_share": RUN.neuron_share[:, 1:]}, "neuron_share has shape"),
        ({"correct": RUN.correct.astype(np.uint8)}, "correct holds uint8, not bool: unpack"),
        ({"weight_norm": RUN.weight_norm + np.inf}, "weight_norm is not finite: cut a run that diverged"),
        ({"test_accuracy": 100 * RUN.test_accuracy}, "test_accuracy goes from .* to 100: give 0 to 1"),
        ({"energies": -RUN.energies}, "energies goes from -.* give 0 to infinity"),
        ({"neuron_frequency": RUN.neuron_frequency + 3}, "neuron_frequency goes from 4 to 6: give 1 to 3, or 0"),
        ({"learning_rate": 0}, "learning_rate=0, weight_decay=1.0: give a positive rate"),
        (
            {"correct": ~RUN.correct},
            r"train_accuracy is .* at step 0, but of these pairs .*: take both from one member",
        ),
        ({"correct": np.roll(RUN.correct, 1, -1)}, "take both from one member, and rows with the first operand first"),
    ],
)
def test_run_that_cannot_be_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        made_up_run(**changes)


@pytest.mark.parametrize(
    ("runs", "changes", "message"),
    [
        ([], {}, r"runs are named \[\]: give at least one"),
        ([RUN, RUN], {}, "runs are named .*: give at least one, each with a name of its own"),
        ([RUN], {"index": 7}, "index=7: the run has checkpoints 0 to 6"),
        ([RUN], {"keep": 1.5}, "keep=1.5 is no probability"),
        ([RUN], {"keep": 0.123}, "keep=0.123 is no step of its slider"),
        ([RUN], {"quantity": "loss"}, "quantity='loss' is unknown: choose from stability, normalised, sensitivity"),
        ([RUN], {"discovery": ""}, "discovery='' is empty"),
    ],
)
def test_figure_that_cannot_start_is_refused(runs, changes, message):
    with pytest.raises(ValueError, match=message):
        training_run(runs, **{"discovery": DISCOVERY, **changes})


# ---------------------------------------------------------------- played in a page


def said(page):
    return page.get_by_role("status").locator("span").all_text_contents()


def go(page, index):
    page.get_by_role("slider", name="Checkpoint").fill(str(index))


def test_figure_starts_where_the_training_pairs_are_learned_and_takes_a_mapping():
    start = int(np.flatnonzero(RUN.train_accuracy >= 0.99)[0])
    shown = training_run({"one": RUN, "two": OTHER}, discovery=DISCOVERY)
    assert (shown.state["index"], [run["name"] for run in shown.state["runs"]]) == (start, [RUN.name, OTHER.name])
    assert shown.alt.startswith(f"made up, p = 7 at step {25 * start} of 150: 100% of the training pairs are right")


@pytest.mark.browser
def test_play_words_hold_the_numbers_of_the_frame(show):
    page = show(figure(keep=0.5))
    go(page, 4)
    found = compute({**figure().state, "index": 4, "keep": 0.5})
    shares = [f"{name} {100 * found[f'{name}_accuracy']:.1f} %" for name in ("train", "test", "mirrored", "unseen")]
    assert said(page) == [
        f"Step 100 of 150: 1.00 e-foldings of weight decay, weight norm {found['weight_norm']:.1f}.",
        f"Right answers: {shares[0]}, {shares[1]} ({shares[2]}, {shares[3]}).",
        f"Raw stability at keep 0.50: {found['stability']:.3f}, target {found['target_stability']:.3f}.",
    ]
    page.get_by_role("checkbox").uncheck()
    assert said(page)[1] == f"Right answers: {shares[0]}, {shares[1]}."
    page.get_by_role("slider", name="Keep").press("Home")
    assert said(page)[2].endswith("target 0.143.")  # 1/7
    page.get_by_role("combobox", name="Compare").select_option("sensitivity")
    assert said(page)[2] == f"Average sensitivity: {found['sensitivity']:.3f}, target 1.714."


@pytest.mark.browser
def test_play_pictures_hold_the_numbers_of_the_frame(show):
    """Lengths of strokes are counts of cells; heights, read back through the axes, are the spectrum and the shares."""
    page = show(figure())
    go(page, 3)
    found = compute({**figure().state, "index": 3})
    lengths = """paths => paths.flatMap((path) => [...path.getAttribute("d").matchAll(/M(\\d+) [\\d.]+H(\\d+)/g)])
      .reduce((sum, [, from, to]) => sum + (to - from), 0)"""
    for group, base in (("train", 4), ("mirrored", 2), ("unseen", 0)):
        cells = f"[data-part=cells] .ns-run-{group}"
        for rest, kind in (("", base + 1), (".ns-run-wrong", base)):
            chosen = cells + (rest or ":not(.ns-run-wrong)")
            assert page.locator(chosen).evaluate_all(lengths) == found["cells"].count(kind)
    bars = re.findall(r"M\S+ 96V(\S+?)(?=M|$)", page.locator(".ns-run-bars").get_attribute("d"))
    heights = np.array([96 - float(top) for top in bars])
    assert heights / heights.max() == pytest.approx(np.array(found["spectrum"]) / max(found["spectrum"]), abs=0.01)
    dots = re.findall(r"M\S+ (\S+?)h0", page.locator(".ns-run-neurons").get_attribute("d"))
    assert [(196 - float(y)) / 80 for y in dots] == pytest.approx(found["share"], abs=1e-3)
    pictures = [picture.get_attribute("aria-label") for picture in page.get_by_role("img").all()]
    right = sum(kind % 2 for kind in found["cells"])
    assert pictures[3] == f"{right} of the 7 × 7 pairs are answered right at step 75."
    assert "the target has" in pictures[1]


@pytest.mark.browser
def test_play_button_runs_to_the_end_and_again(show):
    page = show(figure())
    button = page.locator("[data-part=play]")
    assert button.text_content() == "▶ Play"
    button.click()
    assert button.text_content() == "❚❚ Pause"
    page.wait_for_function("document.querySelector('[data-part=play]').textContent.includes('Play')")
    assert said(page)[0].startswith("Step 150 of 150")
    button.click()
    assert int(re.match(r"Step (\d+)", said(page)[0])[1]) < 150
    button.click()
    assert button.text_content() == "▶ Play"
    assert page.get_by_role("status").get_attribute("aria-live") == "polite"


@pytest.mark.browser
def test_play_each_run_keeps_its_place(show):
    page = show(figure())
    go(page, 5)
    run = page.get_by_role("combobox", name="Run")
    run.select_option(OTHER.name)
    slider = page.get_by_role("slider", name="Checkpoint")
    assert slider.get_attribute("max") == "3"
    assert "attention" in page.locator(".ns-caption").nth(1).text_content()
    assert page.locator(".ns-run-line.ns-run-attention").count() == 2  # the curve, and its swatch
    run.select_option(RUN.name)
    assert slider.get_attribute("aria-valuetext") == "step 125 of 150"
    assert "attention" not in page.locator(".ns-caption").nth(1).text_content()


@pytest.mark.browser
@pytest.mark.parametrize("area", ["accuracy", "stability"])
def test_pressing_in_a_history_goes_to_the_nearest_checkpoint(area, show):
    page = show(figure())
    box = page.locator(f"[data-part={area}] svg").bounding_box()
    axis = page.locator(f"[data-part={area}] path.ns-axis").last.get_attribute("d")
    left, right = map(float, re.fullmatch(r"M(\S+) \S+H(\S+)", axis).groups())
    for index, shift in ((2, 4), (5, -4)):
        page.mouse.click(box["x"] + left + (right - left) * index / 6 + shift, box["y"] + 60)
        assert said(page)[0].startswith(f"Step {25 * index} of")
        here = page.locator(f"[data-part={area}] .ns-run-here").get_attribute("d")
        assert float(re.match(r"M([\d.]+)", here)[1]) == pytest.approx(left + (right - left) * index / 6, abs=0.1)


@pytest.mark.browser
def test_play_by_keyboard_alone(show):
    page = show(figure())
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.value") == "1"
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("End")
    assert said(page)[0].startswith("Step 75 of 75")
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    assert "at keep 0.81" in said(page)[2]


@pytest.mark.browser
def test_run_of_unknown_split_is_drawn_in_ink(show):
    page = show(figure(made_up_run(train=None, mirrored_accuracy=np.full(7, np.nan))))
    assert page.locator("[data-part=cells] .ns-run-any").count() == 2
    assert page.locator(".ns-caption").last.text_content() == "rightpale: wrong"
    assert "mirrored none" in said(page)[1]


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 800])
def test_nothing_jumps_while_a_reader_plays(width, show):
    """Every panel stays where it is at every step, keep and quantity."""
    page = show(figure(), width=width)
    places = """() => [...document.querySelectorAll(".ns-stage :is(p, [data-part])")].map((node) => {
      const { x, y, width, height } = node.getBoundingClientRect(); return [x, y, width, height].map(Math.round); })"""
    before = page.evaluate(places)
    for index, keep, quantity in ((0, "0", "normalised"), (6, "100", "sensitivity"), (3, "5", "stability")):
        go(page, index)
        page.get_by_role("slider", name="Keep").fill(keep)
        page.get_by_role("combobox", name="Compare").select_option(quantity)
        assert page.evaluate(places) == before


@pytest.mark.browser
def test_a_step_of_a_large_run_is_drawn_at_once(show):
    """Milliseconds from an input event to the laid-out figure at p = 97, best of ten; a busy machine doubles them."""
    page = show(largest())
    page.get_by_role("combobox", name="Run").select_option("made up, p = 97")
    best = page.evaluate(
        """() => { const slider = document.querySelector("[data-part=index]"); let best = Infinity;
        for (let k = 0; k < 10; k++) { const start = performance.now(); slider.value = 25 + k;
          slider.dispatchEvent(new Event("input")); document.body.offsetHeight;
          best = Math.min(best, performance.now() - start); }
        return best; }"""
    )
    assert best < 16

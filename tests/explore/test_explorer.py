"""One definition, two worlds: the live widget and the stored frames show the same thing; limits are refused clearly."""

import json
import re
from base64 import b64decode

import numpy as np
import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

from nslab.explore import explore
from nslab.explore.explorer import Control
from nslab.explore.frames import pack, unpack


@pytest.fixture
def wave():
    @explore(
        rho=[0.0, 0.5, 1.0], layer=range(3), discovery="The line is rho times the layer.", labels={"rho": "correlation"}
    )
    def wave(ax, rho, layer):
        ax.plot([0, 1], [0, rho * layer], label="line")
        ax.bar([0, 1], [layer, 1], label="bars")
        ax.plot([0.5], [0.5], "o", label="_hidden")
        ax.set(xlim=(0, 1), ylim=(0, 2))
        return f"A line of slope {rho * layer:g}."

    return wave


def payload(figure):
    return json.loads(
        re.search(r'<script type="application/json">(.*)</script>', figure.html, re.DOTALL)[1].replace("<\\/", "</")
    )


def test_stored_frames_are_the_drawn_frames(wave):
    """Every stored frame, rebuilt from differences, is the frame drawn for its values, in the page's order."""
    stored = payload(wave)
    index = 0
    for rho in (0.0, 0.5, 1.0):
        for layer in range(3):
            frame = wave.frame(rho=rho, layer=layer)
            assert unpack(stored, index) == frame.svg
            assert stored["frames"][index]["alt"] == frame.alt == f"A line of slope {rho * layer:g}."
            index += 1
    assert index == len(stored["frames"])


def test_frames_with_fixed_axes_are_stored_as_few_lines(wave):
    stored = payload(wave)
    assert all("lines" in frame and len(frame["lines"]) / 2 < 0.2 * len(stored["base"]) for frame in stored["frames"])


def test_frames_of_other_length_are_stored_whole(wave):
    first, second = wave.frame(rho=0.5, layer=1), wave.frame(rho=1.0, layer=2)
    longer = type(second)(second.svg + "\n<!-- one more line -->", second.alt, second.data)
    packed = pack([first, longer])
    assert "whole" in packed["frames"][1]
    assert unpack(packed, 0) == first.svg
    assert unpack(packed, 1) == longer.svg


def test_data_is_read_from_labelled_artists(wave):
    data = wave.data(rho=0.5, layer=2)
    assert set(data) == {"line", "bars"}
    np.testing.assert_array_equal(data["line"], [[0, 0], [1, 1]])
    np.testing.assert_array_equal(data["bars"], [2, 1])


def test_live_widget_redraws_when_a_slider_moves(wave):
    box = wave.widget()
    _, first_row, _, stage, spoken, question = box.children
    slider, play = first_row.children
    assert wave.frame(rho=0.5, layer=1).svg in stage.value
    slider.index = 2
    assert wave.frame(rho=1.0, layer=1).svg in stage.value
    assert "A line of slope 1." in spoken.value
    assert "The line is rho times the layer." in question.value
    assert (play.min, play.max) == (0, 2)


def test_the_book_gets_html_and_the_notebook_a_widget_and_a_still_picture(wave, monkeypatch):
    formatter = InteractiveShell.instance().display_formatter
    with capture_output() as live:
        assert formatter.format(wave) == ({}, {}), "the figure displays itself"
    widget, still = (output.data for output in live.outputs)
    assert "application/vnd.jupyter.widget-view+json" in widget
    assert "run this cell to bring its sliders to life" in still["text/html"]
    picture = re.search(r'src="data:image/svg\+xml;base64,([^"]+)"', still["text/html"])[1]
    assert b64decode(picture).decode() == wave.frame(rho=0.5, layer=1).svg
    assert '<p class="ns-alt">A line of slope 0.5.</p>' in still["text/html"]
    monkeypatch.setenv("NSLAB_STATIC", "1")
    with capture_output() as book:
        bundle, _ = formatter.format(wave)
    assert book.outputs == []
    assert bundle == {"text/html": wave.html, "text/plain": "Explorer(wave: rho (3), layer (3))"}


def test_the_live_figure_says_what_went_wrong_and_recovers(wave):
    def half(ax, rho, layer):
        if rho == 1.0:
            raise ZeroDivisionError("no <room>")
        return f"Drawn at {rho}."

    wave.draw = half
    box = wave.widget()
    _, first_row, _, stage, spoken, _ = box.children
    first_row.children[0].index = 2
    assert "wave could not be drawn at rho = 1, layer = 1: ZeroDivisionError: no &lt;room&gt;" in stage.value
    assert "Traceback" in stage.value
    assert "in half" in stage.value
    assert spoken.value == ""
    first_row.children[0].index = 0
    assert 'aria-label="Drawn at 0.0."' in stage.value
    first_row.children[0].index = 1
    with pytest.raises(ZeroDivisionError):
        wave.frame(rho=1.0, layer=1)


def test_a_changed_function_changes_every_frame():
    """Nothing drawn before a reader changed what the figure shows is shown again."""
    heights = {"now": 1}

    @explore(k=[1, 2, 3], start={"k": 1}, discovery="d")
    def tall(ax, k):
        return f"{heights['now']} at {k}."

    box = tall.widget()
    slider, stage = box.children[1].children[0], box.children[2]
    heights["now"] = 2
    slider.index = 1
    slider.index = 0
    assert 'aria-label="2 at 1."' in stage.value
    assert tall.frame(k=1).alt == "2 at 1."


def test_html_names_every_control_and_speaks_its_value(wave):
    assert '<label for="ns-wave-rho">correlation</label>' in wave.html
    assert 'aria-valuetext="0.5"' in wave.html
    assert 'aria-live="polite">A line of slope 0.5.' in wave.html
    assert wave.html.count("<style") == 0, "a style inside an inline SVG would reach the whole page"
    ids = re.findall(r'\bid="([^"]+)"', wave.html.split("<script")[0])
    assert len(ids) == len(set(ids))


def test_values_may_be_tensors_and_words():
    control = Control.of("p", torch.tensor([0.5, -0.25]))
    assert control.values == (0.5, -0.25)
    assert control.texts == ("0.5", "−0.25")
    assert Control.of("family", ["odd-even", "plain"]).texts == ("odd-even", "plain")
    assert Control.of("k", [1000], form="{:,}").texts == ("1,000",)


def draw(ax, **controls):
    return "A picture."


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rho": []}, "rho has no values"),
        ({"rho": range(51), "layer": range(3)}, "153 frames, over the limit of 150"),
        ({"a": [1], "b": [1], "c": [1]}, "1 to 2 controls; got 3"),
        ({}, "1 to 2 controls; got 0"),
        ({"rho": [1], "discovery": " "}, "discovery is empty"),
        ({"rho": [1], "labels": {"rh": "x"}}, "labels names 'rh', which is not a control"),
    ],
)
def test_bad_arguments_name_the_argument_and_the_remedy(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        explore(**{"discovery": "d", **arguments})(draw)


def test_a_start_that_is_no_value_is_refused():
    with pytest.raises(
        ValueError, match=re.escape("start['rho'] is 0.3, which is not one of its values; they are 0.1, 0.2")
    ):
        explore(rho=[0.1, 0.2], start={"rho": 0.3}, discovery="d")(draw)


@pytest.mark.parametrize("returned", [None, "", "  ", 3])
def test_a_frame_without_alt_text_is_refused(returned):
    figure = explore(rho=[1], discovery="d")(lambda ax, rho: returned)
    with pytest.raises(ValueError, match=r"returned .* for rho=1; it must return the frame's alt text"):
        figure.frame(rho=1)


def test_frames_over_two_megabytes_are_refused():
    @explore(k=range(40), discovery="d")
    def heavy(ax, k):
        generator = np.random.default_rng(k)
        ax.plot(generator.random(3000), generator.random(3000))
        return "Noise."

    with pytest.raises(ValueError, match=r"take \d+\.\d MB, over 2 MB; fix the axis limits"):
        _ = heavy.html


def test_unknown_values_are_refused(wave):
    with pytest.raises(ValueError, match="frame takes rho, layer; got rho"):
        wave.frame(rho=0.5)
    with pytest.raises(ValueError, match=re.escape("'rho'] is 0.7")):
        wave.frame(rho=0.7, layer=1)

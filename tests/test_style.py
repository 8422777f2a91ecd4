"""Figures keep the promises of style: readable colours, unique ids, the same text for the same drawing."""

import re

import pytest

from nslab import style

WHITE, DARK_PAGE = "#ffffff", "#121212"


def luminance(colour: str) -> float:
    """Relative luminance of WCAG 2.1."""
    channels = (int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5))
    red, green, blue = (c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(a: str, b: str) -> float:
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("colour", style.COLOURS)
@pytest.mark.parametrize("ground", [WHITE, DARK_PAGE])
def test_line_colours_keep_three_to_one_on_both_grounds(colour, ground):
    assert contrast(colour, ground) >= 3


def drawn(name="one"):
    with style.drawing():
        fig, (left, right) = style.figure((6, 3), columns=2)
        left.plot([0, 1], [0, 1], label="a line")
        left.legend()
        right.scatter([0, 1], [1, 0])
        return style.svg(fig, name)


def test_the_same_drawing_gives_the_same_text():
    assert drawn() == drawn()


def test_ink_follows_the_page_and_nothing_reaches_it():
    text = drawn()
    assert text.startswith("<svg ")
    assert text.rstrip().endswith("</svg>")
    assert "currentColor" in text
    assert style.INK not in text
    assert "<style" not in text
    assert "<metadata" not in text
    assert "DejaVu" not in text


def test_ids_are_unique_to_the_figure_and_every_reference_resolves():
    first, second = drawn("one"), drawn("two")
    ids = {name: set(re.findall(r'\bid="([^"]+)"', text)) for name, text in (("one", first), ("two", second))}
    assert ids["one"]
    assert not ids["one"] & ids["two"]
    referenced = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', first))
    assert referenced <= ids["one"]


def test_axes_stand_where_the_margins_say():
    with style.drawing():
        _, axes = style.figure((6, 4), rows=2, columns=2, margins={"left": 1, "right": 0.5, "wspace": 0.5})
    boxes = [ax.get_position().bounds for ax in axes]
    assert boxes[0][0] == pytest.approx(1 / 6)
    assert boxes[1][0] - boxes[0][0] - boxes[0][2] == pytest.approx(0.5 / 6)
    assert boxes[1][0] + boxes[1][2] == pytest.approx(5.5 / 6)
    assert boxes[0][1] > boxes[2][1], "reading order: the first row is on top"


def test_unknown_margins_and_missing_alt_are_refused():
    with style.drawing():
        with pytest.raises(ValueError, match="margins has the unknown key 'lef'"):
            style.figure(margins={"lef": 1})
        fig, _ = style.figure()
        with pytest.raises(ValueError, match="alt is '': a figure needs one sentence"):
            style.picture(fig, alt="")
        assert 'role="img" aria-label="A &quot;line&quot;."' in style.picture(fig, alt='A "line".')._repr_html_()

"""Self-checks: numbers are read as people write them, and each answer gets feedback that fits it."""

import pytest

from nslab.explore.modules import parity
from nslab.explore.selfcheck import numeric_check, parse_number, verdict

CHECKS = {  # answer, tolerance: a count, a share that no decimal ends, a negative number
    "calls": numeric_check(
        label="Calls", answer=80_000, tolerance=1, mistakes=[(20_000, "Half.")], right="Yes.", hint="Look at (4.2)."
    ),
    "share": numeric_check(
        label="Share", answer=13 / 32, tolerance=0.001, mistakes=[(3 / 8, "Level 1 only.")], right=""
    ),
    "slope": numeric_check(
        label="Slope", answer=-1.125, tolerance=0.001, mistakes=[(1.125, "The sign.")], right="Yes."
    ),
}


def message(name, given):
    return verdict({**CHECKS[name].state, "given": given})["message"]


@pytest.mark.browser
@pytest.mark.parametrize("name", CHECKS)
def test_page_reads_and_judges_as_the_twin(name, browser):
    page = browser.new_page()
    assert parity(CHECKS[name], page) == []
    page.close()


@pytest.mark.parametrize("space", [" ", "\u00a0", "\u2007", "\u2009", "\u202f", "_"])
def test_digits_may_be_grouped(space):
    """By an ordinary, fixed, figure, thin or narrow space, or an underscore, in threes; a mixed number is not 11/2."""
    assert parse_number(f"80{space}000") == 80_000
    assert parse_number(f"−1{space}234{space}567.5") == -1_234_567.5
    assert parse_number(f"1{space}1/2") is None
    assert parse_number(f"1{space}0000") is None


def test_comma_groups_thousands_where_thousands_are_expected():
    assert message("calls", "80,000").startswith("Right.")
    assert message("calls", "80,000.0").startswith("Right.")
    assert message("share", "0,406").startswith("Right.")
    assert parse_number("80,000", expected=-1000) == 80_000
    assert parse_number("80,000", expected=999) == 80
    assert parse_number("80,5", expected=80_000) == 80.5
    assert parse_number("1,234,567", expected=1) == 1_234_567


@pytest.mark.parametrize(("text", "value"), [("33%", 0.33), ("97.7 %", 0.977), ("−5\u00a0%", -0.05), ("1/4%", 0.0025)])
def test_percent_is_a_hundredth(text, value):
    assert parse_number(text) == pytest.approx(value, rel=1e-15)


@pytest.mark.parametrize(
    "text", ["", " ", "%", "5%%", "1/0", "1/2/3", "1e999", "nan", "inf", "0x10", "٣", "1_0", "1,2,3"]
)
def test_anything_else_is_no_number(text):
    assert parse_number(text) is None


@pytest.mark.parametrize("given", ["0.41", "41 %"])
def test_rounded_right_answer_is_close(given):
    """13/32 = 0.40625: 0.41 is its rounding. 0.4 is, too, to one decimal; 0.42 and 0.414 are not."""
    assert message("share", given) == "Close. Give the fraction, or three decimals."
    assert message("share", "0.4") == "Close. Give the fraction, or three decimals."
    assert {message("share", other) for other in ("0.42", "0.414", "0")} == {"Not yet."}


def test_half_may_be_rounded_up_or_down():
    assert message("slope", "-1.13").startswith("Close.")
    assert message("slope", "-1.12").startswith("Close.")
    assert message("slope", "-1") == "Not yet."  # a rounding too, but 11 % off


def test_wrong_answers_get_their_reason_then_the_hint_and_no_default_advice():
    assert message("calls", "20 000") == "Not yet. Half."
    assert message("calls", "79 000") == "Not yet. Look at (4.2)."
    assert message("slope", "7") == "Not yet."
    assert message("slope", "seven") == "That is not a number yet. Write it like 0.375 or 3/8."


def test_mistake_too_near_to_the_answer_is_refused():
    with pytest.raises(ValueError, match=r"mistakes has 0.38, within 0.01 of the answer 0.375; lower the tolerance"):
        numeric_check(label="Share", answer=0.375, mistakes=[(0.38, "Rounded.")], right="Yes.")

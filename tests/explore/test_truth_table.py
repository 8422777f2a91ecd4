"""The truth-table figure: formulas mean what they say, mistakes are named, and the page answers clicks and keys."""

import random
import re

import pytest
import torch

from nslab import boolean
from nslab.explore import formula
from nslab.explore.truthtable import DISCOVERY, MISTAKES, PRESETS, compute, random_formula, truth_table


def analyse(text, n=None):
    result = compute({"formula": text, "n": n})
    assert "error" not in result, result
    return result


@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("dictator", lambda: boolean.dictator(3, 0)),
        ("majority of 5", lambda: boolean.majority(5)),
        ("parity of 4", lambda: boolean.parity(4)),
        ("AND of 4", lambda: boolean.conjunction(4)),
        ("tribes, 2 of 3", lambda: boolean.tribes(3, 2)),
        ("address, 2 bits choose 1 of 4", lambda: boolean.address(2)),
        ("weighted vote", lambda: boolean.weighted_threshold([3, 1, 1, 1, 1])),
    ],
)
def test_presets_are_the_functions_of_the_package(name, table):
    assert formula.table(*PRESETS[name]).tolist() == table().tolist()


def test_values_are_those_of_python():
    """Each operator against Python's own on all 8 inputs, -1 as true: an oracle without the parser."""
    meanings = {
        "x1 & x2 | x3": lambda a, b, c: (a and b) or c,
        "x1 & (x2 | x3)": lambda a, b, c: a and (b or c),
        "~x1 | x2 ^ x3": lambda a, b, c: (not a) or (b != c),
        "not x1 and x2 xor x3": lambda a, b, c: ((not a) and b) != c,
        "x1 * x2 & x3": lambda a, b, c: (a != b) and c,
        "-x1 * x2 ^ true | x3 & false": lambda a, b, c: (((not a) != b) != True) or (c and False),  # noqa: E712
        "maj(x1, ~x2, x3)": lambda a, b, c: a + (not b) + c >= 2,
        "sign(2*x1 - x2 + x3 + 1)": lambda a, b, c: 2 * (1 - 2 * a) - (1 - 2 * b) + (1 - 2 * c) + 1 < 0,
        "sign(3 - 5*x1*x2 + (x1 | x3))": lambda a, b, c: 3 - 5 * (1 - 2 * (a != b)) + (1 - 2 * (a or c)) < 0,
        "¬x1 ∧ x2 ⊕ x3": lambda a, b, c: ((not a) and b) != c,
        "maj(x1)": lambda a, b, c: a,
    }
    for text, meaning in meanings.items():
        bits = [[bool(i >> j & 1) for j in range(3)] for i in range(8)]
        assert formula.table(text, 3).tolist() == [-1 if meaning(*each) else 1 for each in bits], text


def test_numbers_of_known_functions():
    """Majority of 3: influence 1/2 each, degree 3; parity: all weight on top; a constant: nothing moves."""
    majority = analyse("maj(x1, x2, x3)")
    assert majority["influences"] == [0.5, 0.5, 0.5]
    assert majority["coefficients"] == [0, 0.5, 0.5, 0, 0.5, 0, 0, -0.5]
    assert (majority["degree"], majority["max_sensitivity"], majority["mean"]) == (3, 2, 0)
    parity = analyse("x1^x2^x3^x4")
    assert (parity["total_influence"], parity["level_weights"]) == (4, [0, 0, 0, 0, 1])
    constant = analyse("true")
    assert (constant["n"], constant["mean"], constant["total_influence"], constant["degree"]) == (1, -1, 0, 0)
    assert analyse("x1 & x2", 12)["n"] == 12


def test_discovery_one_cell_moves_every_coefficient_by_the_same_amount():
    """Two states, before and after a click: |change| = 2/2^n for all S; and parity has the largest influence."""
    assert "2/2ⁿ" in DISCOVERY
    table = analyse("maj(x1, x2, x3)")["table"]
    before = compute({"table": table})["coefficients"]
    for i in range(8):
        after = compute({"table": [-value if k == i else value for k, value in enumerate(table)]})["coefficients"]
        assert [abs(a - b) for a, b in zip(after, before, strict=True)] == [2 / 8] * 8
    totals = [
        compute({"table": [1 - 2 * (index >> i & 1) for i in range(8)]})["total_influence"] for index in range(2**8)
    ]
    largest = [index for index, total in enumerate(totals) if total == max(totals)]
    parity = sum(1 << i for i in range(8) if i.bit_count() % 2)
    assert (max(totals), largest) == (3, sorted([parity, 255 - parity]))


@pytest.mark.parametrize("text", MISTAKES)
def test_a_mistake_is_named_with_its_place_and_a_remedy(text):
    error = compute({"formula": text, "n": None})["error"]
    at = error["position"] - 1
    assert text[at : at + len(error["token"])] == error["token"]
    assert 0 <= at <= len(text)
    assert re.search(r"[a-z].*\.$", error["message"])


@pytest.mark.parametrize(
    ("text", "position", "token", "message"),
    [
        ("maj(x1, x2", 11, "", 'The parenthesis opened at position 4 is not closed: add ")".'),
        ("x1 + x2", 4, "+", r'"+" makes a number, not a bit: put the sum inside sign(...), as in sign(x1 + x2 + x3).'),
        ("x1 & sign(x1 + x2)", 6, "sign", "sign(...) is 0 at x = - +: add 1 inside it, which breaks every tie."),
        ("x1 | maj(x1, x2)", 6, "maj", "maj needs an odd number of arguments, and here are 2: add or drop one."),
    ],
)
def test_messages_read_well(text, position, token, message):
    assert compute({"formula": text, "n": None})["error"] == {"position": position, "token": token, "message": message}


def test_variable_beyond_n_and_bad_tables_are_refused():
    assert compute({"formula": "x1 & x5", "n": 3})["error"]["message"] == (
        '"x5" is beyond n = 3: choose n = 5, or use x1 to x3 only.'
    )
    for table in ([1], [1, -1, 1], [1, 0], [1] * 2**13):
        assert "2^n entries" in compute({"table": table})["error"]["message"]


def test_random_formulas_parse_and_obey_parseval():
    draw = random.Random(1)
    for _ in range(40):
        result = analyse(random_formula(draw, 6, depth=4))
        assert sum(result["level_weights"]) == pytest.approx(1, abs=1e-12)
        assert sum(k * w for k, w in enumerate(result["level_weights"])) == pytest.approx(result["total_influence"])
        assert result["degree"] <= result["max_sensitivity"] ** 2  # Huang 2019


def test_enough_is_compared():
    cases = truth_table().cases
    answers = [compute(case) for case in cases]
    assert len(cases) >= 25
    assert sum("error" in answer for answer in answers) >= 20
    assert sum(answer.get("n") == 12 for answer in answers) >= 3


def test_bad_formula_is_refused():
    with pytest.raises(ValueError, match=r"formula='x1 \+' with n=None: position 4: \"\+\" makes a number, not a bit"):
        truth_table(formula="x1 +")
    with pytest.raises(ValueError, match=r"presets\['mine'\]='maj\(x1, x2\)' with n=None: position 1: maj needs"):
        truth_table(presets={"mine": ("maj(x1, x2)", None)})
    with pytest.raises(formula.FormulaError, match="is empty"):
        formula.table("  ")


def numbers(page):
    return dict(zip(*(page.locator(f".ns-numbers {tag}").all_text_contents() for tag in ("dt", "dd")), strict=True))


@pytest.fixture
def page(show):
    return show(truth_table())


@pytest.mark.browser
def test_click_flips_one_cell(page):
    cell = page.get_by_role("button", name="x = + - +, f = 1")
    cell.click()
    assert page.get_by_role("button", name="x = + - +, f = -1").get_attribute("aria-pressed") == "true"
    flipped = analyse("maj(x1, x2, x3)")["table"]
    flipped[2] *= -1
    expected = compute({"table": flipped})
    assert numbers(page)["Mean"] == f"{expected['mean']:g}".replace("-", "−")
    assert numbers(page)["Total influence = average sensitivity"] == f"{expected['total_influence']:g}"
    assert page.get_by_label("f(x) =").input_value() == ""
    assert page.get_by_role("status").text_content().startswith("The table as clicked: ")
    page.get_by_label("f(x) =").press_sequentially("x5")  # the number of bits was the table's, so the formula sets it
    assert page.locator(".ns-cell").count() == 32


@pytest.mark.browser
def test_arrows_walk_over_the_table_and_space_flips(page):
    page.get_by_label("f(x) =").press("Tab")
    focused = "document.activeElement.getAttribute('aria-label')"
    assert page.evaluate(focused) == "x = + + +, f = 1"
    for key, place in [("ArrowRight", "- + +"), ("ArrowDown", "- + -"), ("End", "- - -"), ("ArrowUp", "- - +")]:
        page.keyboard.press(key)
        assert page.evaluate(focused).startswith(f"x = {place},")
    page.keyboard.press("Space")
    assert page.evaluate(focused) == "x = - - +, f = 1"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.tagName") == "SUMMARY"  # one stop for the whole table


@pytest.mark.browser
def test_mistake_keeps_the_last_good_function(page):
    box = page.get_by_label("f(x) =")
    before = numbers(page)
    box.fill("maj(x1, x2) | x3")
    box.press("Enter")
    assert box.get_attribute("aria-invalid") == "true"
    described = [page.locator(f"#{name}").text_content() for name in box.get_attribute("aria-describedby").split()]
    assert "Position 1: maj needs an odd number of arguments, and here are 2: add or drop one." in described[0]
    assert page.locator("mark").text_content() == "maj"
    assert numbers(page) == before
    box.fill("x1 | x2 & x3")
    assert box.get_attribute("aria-invalid") == "false"
    assert page.locator(".ns-error").text_content() == ""
    assert numbers(page)["Degree"] == "3"


@pytest.mark.browser
def test_half_typed_formula_is_not_a_mistake_at_once(page):
    box = page.get_by_label("f(x) =")
    box.fill("x1 &")
    assert box.get_attribute("aria-invalid") == "false"
    page.locator(".ns-error", has_text="ends too early").wait_for(timeout=3000)


@pytest.mark.browser
@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_shows_its_numbers(name, page):
    page.get_by_label("Example").select_option(label=name)
    expected = analyse(*PRESETS[name])
    shown = numbers(page)
    assert float(shown["Total influence = average sensitivity"]) == pytest.approx(expected["total_influence"], abs=1e-4)
    assert (shown["Maximum sensitivity"], shown["Degree"]) == (
        str(expected["max_sensitivity"]),
        str(expected["degree"]),
    )
    assert page.locator(".ns-cell").count() == (2 ** expected["n"] if expected["n"] <= 6 else 0)
    bars = 2 ** expected["n"] if expected["n"] <= 6 else expected["n"] + 1
    assert page.locator(".ns-chart").last.locator("rect").count() == bars


@pytest.mark.browser
def test_number_of_bits_can_be_chosen(page):
    """More bits leave f alone: a new coordinate has no influence; a clicked table is carried over."""
    bits = page.get_by_label("Bits")
    bits.select_option("5")
    assert page.locator(".ns-cell").count() == 32
    assert numbers(page)["Total influence = average sensitivity"] == "1.5"
    page.get_by_role("button", name="x = + + + + +, f = 1").click()
    bits.select_option("6")
    assert numbers(page)["Degree"] == "5"
    bits.select_option("2")
    assert page.locator(".ns-cell").count() == 4


@pytest.mark.browser
def test_an_update_on_twelve_bits_fits_in_a_screen_refresh(page):
    """Median script time of typing one more 12-bit formula, under 16 ms."""
    times = page.evaluate(
        """() => { const box = document.querySelector("[data-part=formula]");
        return Array.from({ length: 31 }, (_, k) => {
          box.value = `maj(x1, x2, x3, x4, x5) ^ (x6 & x7 & x8 | x9 & x10 & x11) * x${12 - (k % 2)}`;
          const start = performance.now();
          box.dispatchEvent(new Event("input"));
          return performance.now() - start; }); }"""
    )
    assert torch.tensor(times).median() < 16

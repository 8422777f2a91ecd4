"""The rock-paper-scissors machine: what symmetric scores reach, against enumeration; sliders, lock and tally work."""

from itertools import permutations, product

import numpy as np
import pytest

from nslab.explore.winner_cycle import DISCOVERY, OTHERS, compute, winner_cycle


def play(scores, locked=False, draws=0, seed=1):
    return compute({"scores": scores, "locked": locked, "draws": draws, "seed": seed})


def symmetric(ab, ac, bc):
    return [[0, ab, ac], [ab, 0, bc], [ac, bc, 0]]


def test_choices_are_the_largest_of_each_row():
    generator = np.random.default_rng(0)
    for table in generator.uniform(-3, 3, (100, 3, 3)):
        np.fill_diagonal(table, -np.inf)
        result = play(table.tolist())
        assert result["choices"] == table.argmax(1).tolist()
        assert result["pattern"] == sum(2**i * (result["choices"][i] == OTHERS[i][1]) for i in range(3))


def test_discovery_symmetric_scores_reach_six_patterns_and_no_cycle():
    assert "six" in DISCOVERY
    reached = [play(symmetric(*order)) for order in permutations((1, 2, 3))]
    assert len({one["pattern"] for one in reached}) == 6
    assert not any(one["cycle"] for one in reached)
    for one, order in zip(reached, permutations((1, 2, 3)), strict=True):
        assert len(one["pairs"]) == 1
        i, j = one["pairs"][0]
        assert symmetric(*order)[i][j] == 3, "the pair with the largest score"
    every = {play([[0, a, 1 - a], [b, 0, 1 - b], [c, 1 - c, 0]])["pattern"] for a, b, c in product((0, 1), repeat=3)}
    assert len(every) == 8


def test_discovery_chance_makes_each_pattern_about_equally_often():
    free = play(symmetric(1, 2, 3), draws=8000)["counts"]
    locked = play(symmetric(1, 2, 3), locked=True, draws=6000)["counts"]
    assert sum(free) == 8000
    assert min(free) > 1000 - 5 * 30
    cycles = {play([[0, 1, 0], [0, 0, 1], [1, 0, 0]])["pattern"], play([[0, 0, 1], [1, 0, 0], [0, 1, 0]])["pattern"]}
    assert {code for code, count in enumerate(locked) if count == 0} == cycles
    assert min(count for count in locked if count) > 1000 - 5 * 30


def test_a_tie_is_no_choice():
    result = play([[0, 1, 1], [2, 0, 1], [0, 3, 0]])
    assert result["choices"] == [None, 0, 1]
    assert result["pattern"] is None
    assert not result["cycle"]


def test_enough_is_compared():
    answers = [compute(case) for case in winner_cycle().cases]
    assert {answer["pattern"] for answer in answers} == {None, *range(8)}
    assert sum(answer["cycle"] for answer in answers) >= 2
    assert {(case["locked"], case["draws"] > 0) for case in winner_cycle().cases} >= {(True, True), (False, True)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scores": [[0, 1], [1, 0]]}, r"scores has rows of \[2, 2\] numbers: give three rows of three"),
        ({"scores": [[0, 4, 0], [0, 0, 0], [0, 0, 0]]}, "go beyond the sliders: give numbers from -3 to 3"),
        ({"locked": True}, "are not symmetric: give symmetric ones, or locked=False"),
        ({"seed": -1}, "seed=-1: give 0 or more"),
    ],
)
def test_bad_input_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        winner_cycle(**arguments)


@pytest.fixture
def page(show):
    return show(winner_cycle())


def shown(page):
    return page.get_by_role("status").text_content()


def slide(page, name, value):
    slider = page.get_by_label(name, exact=True)
    slider.fill(str(value))


@pytest.mark.browser
def test_a_cycle_closes_without_the_lock_and_opens_with_it(page):
    for name, value in (("a scores b", 2), ("a scores c", 0), ("b scores c", 2), ("b scores a", 0)):
        slide(page, name, value)
    slide(page, "c scores a", 2)
    slide(page, "c scores b", 0)
    assert "a chooses b, b chooses c, c chooses a: the cycle is closed" in shown(page)
    page.get_by_label("symmetric lock").check()
    assert "undecided" in shown(page), "all three scores are now 1"
    slide(page, "c scores a", 1.5)
    assert page.get_by_label("a scores c").input_value() == "1.5"
    assert "b cannot decide" in shown(page)
    slide(page, "b scores c", 1.2)
    assert "b chooses c, c chooses a: a and c choose each other. You have made 1 of 8" in shown(page)


@pytest.mark.browser
def test_the_tally_and_its_end(page):
    page.get_by_label("symmetric lock").check()
    page.get_by_role("button", name="Draw 1000 at random").click()
    assert "Of 1000 random sets 6 patterns came up." in shown(page)
    counts = [int(text.strip("✓ ×")) for text in page.locator(".ns-cycle-patterns > div").all_text_contents()]
    assert sum(counts) == 1000
    assert counts.count(0) == 2
    page.get_by_role("button", name="Forget what was found").click()
    assert "random" not in shown(page)


@pytest.mark.browser
def test_a_slider_is_moved_by_keys_and_speaks(page):
    slider = page.get_by_label("b scores a", exact=True)
    slider.focus()
    page.keyboard.press("ArrowRight")
    assert slider.get_attribute("aria-valuetext") == "−0.5"

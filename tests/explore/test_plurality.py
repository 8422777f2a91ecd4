"""The plurality vote: honest random numbers, the exact agreement, a discovery that is true, and a page that counts."""

import json
import math
import re
import statistics
from itertools import pairwise, product

import pytest
import torch

from nslab.explore.plurality import DISCOVERY, SPREADS, TOKENS, compute, plurality_vote
from nslab.propagation.soft_votes import agreement_mass

STATE = plurality_vote().state
LEVELS = STATE["spreads"]  # infinity is None


def play(**changes):
    return compute({**STATE, **changes})


def reference_uniforms(seed, start, count):
    """mulberry32 as its author wrote it, one word at a time, from word `start` of the stream that `seed` opens."""

    def word(a):
        t = a
        t = (t ^ t >> 15) * (t | 1) % 2**32
        t ^= (t + (t ^ t >> 7) * (t | 61)) % 2**32
        return t ^ t >> 14

    assert word(0x6D2B79F5) / 2**32 == 0.26642920868471265  # the first number of seed 0
    return [(word((word(seed) + i * 0x6D2B79F5) % 2**32) + 0.5) / 2**32 for i in range(start, start + count)]


@pytest.mark.parametrize("number", [0, 1, 12])
def test_a_vote_is_a_function_of_seed_and_number(number):
    """The scores of one vote against Box and Muller's formula on a scalar generator."""
    result = play(seed=77, votes=number, tokens=4, rho=0.6)
    uniforms = reference_uniforms(77, 8 * number, 8)
    for k in range(4):
        radius, angle = math.sqrt(-2 * math.log(uniforms[2 * k])), 2 * math.pi * uniforms[2 * k + 1]
        u, z = radius * math.cos(angle), radius * math.sin(angle)
        found = result["scores"][k], result["scores_of_twin"][k]
        assert found == pytest.approx((u, 0.36 * u + math.sqrt(1 - 0.36**2) * z), abs=1e-12)


def test_scores_are_gaussian_with_correlation_rho_squared():
    """Moments of 32000 pairs, votes of several seeds, within 4 standard errors."""
    pairs = [play(tokens=64, seed=seed, votes=vote, rho=0.8) for seed in range(5) for vote in range(1, 101)]
    u, v = (torch.tensor([pair[key] for pair in pairs]).flatten() for key in ("scores", "scores_of_twin"))
    count = len(u)
    for x in (u, v):
        assert abs(x.mean()) < 4 / count**0.5
        assert abs(x.square().mean() - 1) < 4 * (2 / count) ** 0.5
        assert abs(x.pow(4).mean() - 3) < 4 * (96 / count) ** 0.5
    assert abs((u * v).mean() - 0.64) < 4 * ((1 + 0.64**2) / count) ** 0.5


@pytest.mark.parametrize("spread", [None, 2.0])
def test_tally_counts_its_votes(spread):
    """Nine votes one by one: winners, overlap, mean and error are those of the written-out formulas."""
    single = [play(votes=k, spread=spread) for k in range(1, 10)]
    overlaps = []
    for each in single:
        rows = each["scores"], each["scores_of_twin"]
        a, b = ([math.exp((spread or 1e6) * (s - max(row))) for s in row] for row in rows)
        overlaps.append(sum(x * y for x, y in zip(a, b, strict=True)) / sum(a) / sum(b))
        assert each["overlap"] == pytest.approx(overlaps[-1], abs=1e-12)
        assert [each["winner"], each["winner_of_twin"]] == [1 + row.index(max(row)) for row in rows]
        assert sum(each["weights"]) == pytest.approx(1)
    last = single[-1]
    assert last["agreements"] == sum(each["winner"] == each["winner_of_twin"] for each in single)
    assert last["mean"] == pytest.approx(statistics.mean(overlaps))
    assert last["error"] == pytest.approx(statistics.stdev(overlaps) / 3)
    trial = play(votes=0, spread=spread)
    assert (trial["agreements"], trial["mean"], trial["error"]) == (0, None, None)
    assert trial["scores"] != single[0]["scores"]


def test_error_is_unknown_where_outcomes_do_not_differ():
    assert play(votes=1)["error"] is None
    equal = play(votes=50, rho=1.0)
    assert (equal["agreements"], equal["mean"], equal["error"]) == (50, 1.0, None)
    assert equal["scores"] == equal["scores_of_twin"]


@pytest.mark.parametrize("spread", SPREADS)
def test_series_are_the_exact_agreement(spread):
    """Every n, 21 values of ρ, both ends among them, within 1e-6 of the quadrature."""
    rho = torch.linspace(0, 1, 21, dtype=torch.float64)
    expected = agreement_mass(rho.square(), spread, TOKENS)
    level = None if math.isinf(spread) else spread
    found = [[play(rho=x, tokens=n, spread=level)["exact"] for x in rho.tolist()] for n in TOKENS]
    torch.testing.assert_close(torch.tensor(found, dtype=torch.float64), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("rho", [0.0, 0.3, 0.7, 0.99, 1.0])
def test_few_tokens_in_closed_form(rho):
    """Sheppard's formula for two tokens, and the one for three; and the curves hold the same numbers."""
    r = rho * rho
    full, half = math.asin(r), math.asin(r / 2)
    three = 1 / 3 + 3 / (4 * math.pi) * (full + half) + 3 / (4 * math.pi**2) * (full**2 - half**2)
    assert play(rho=rho, tokens=2)["exact"] == pytest.approx(1 - math.acos(r) / math.pi, abs=1e-6)
    assert play(rho=rho, tokens=3)["exact"] == pytest.approx(three, abs=1e-6)
    assert play()["curves"][0][20] == pytest.approx(play(rho=math.sin(math.pi / 6), tokens=2)["exact"], abs=1e-12)


@pytest.mark.parametrize(("tokens", "rho", "spread"), [(2, 0.5, None), (16, 0.9, None), (8, 0.7, 2.0), (64, 0.95, 5.0)])
def test_votes_tend_to_the_exact_agreement(tokens, rho, spread):
    """4000 votes lie within 4 standard errors of the exact value, and closer than 0.03."""
    result = play(tokens=tokens, rho=rho, spread=spread, votes=4000)
    assert abs(result["mean"] - result["exact"]) < 4 * result["error"]
    assert result["error"] < 0.0081


def test_discovery_more_tokens_agree_more_rarely():
    assert "between 0.61 and 0.63 from 4 tokens on" in DISCOVERY
    for level, rho in product(LEVELS, (0.0, 0.3, 0.7, 0.95)):
        values = [play(rho=rho, tokens=n, spread=level)["exact"] for n in TOKENS]
        assert values == sorted(values, reverse=True)
    factors = [b / a for a, b in pairwise(play(rho=0.5, tokens=n)["exact"] for n in (4, 8, 16, 32, 64))]
    assert all(0.605 < factor < 0.635 for factor in factors)
    assert factors == sorted(factors)  # on their way to the limit
    assert round(2 ** -((1 - 0.25) / (1 + 0.25)), 2) == 0.66


def test_discovery_the_hard_curve_falls_steepest_near_one():
    """Its slope is largest in the last of 100 steps; a gentle softmax loses little there, and stays below 1."""
    assert "about half of the agreement is gone at ρ = 0.95" in DISCOVERY
    for n in TOKENS:
        steps = [b - a for a, b in pairwise(play(rho=k / 100, tokens=n)["exact"] for k in range(101))]
        assert max(steps) == steps[-1] > 2 * steps[-2]
    assert play(rho=0.95, tokens=64)["exact"] == pytest.approx(0.5, abs=0.02)
    assert all(play(rho=1.0, tokens=n, spread=level)["exact"] < 0.999 for level in LEVELS[:-1] for n in TOKENS)
    for level, n in product((0.5, 1.0, 2.0), TOKENS):
        at, near, below = (play(rho=rho, tokens=n, spread=level)["exact"] for rho in (1.0, 0.99, 0.98))
        assert at - near < 1.1 * (near - below)


def test_discovery_a_score_keeps_rho_squared():
    """x^T W y with both vectors rho-correlated with their twins: the scores' correlation is rho², within 4 errors."""
    draw = torch.Generator().manual_seed(5)
    rho, count, width = 0.7, 20000, 16
    x, y, zx, zy = torch.randn(4, count, width, generator=draw)
    matrix = torch.randn(width, width, generator=draw)
    twin = [rho * value + math.sqrt(1 - rho**2) * z for value, z in ((x, zx), (y, zy))]
    scores = torch.einsum("ci,ij,cj->c", x, matrix, y), torch.einsum("ci,ij,cj->c", twin[0], matrix, twin[1])
    product = scores[0] * scores[1] / (scores[0].std() * scores[1].std())
    assert abs(product.mean() - rho**2) < 4 * product.std() / count**0.5
    assert abs(product.mean() - rho) > 8 * product.std() / count**0.5


def test_state_is_small_and_enough_is_compared():
    figure = plurality_vote()
    assert len(json.dumps(figure.state)) < 12_000
    assert len({(case["spread"], case["tokens"]) for case in figure.cases}) == len(SPREADS) * len(TOKENS)
    assert {case["rho"] for case in figure.cases} >= {0.0, 1.0}
    assert max(case["votes"] for case in figure.cases) >= 1000


def test_another_start_is_taken():
    figure = plurality_vote(rho=0.25, tokens=5, spread=4, token_counts=(5, 9), spreads=(4, 20), seed=3)
    assert (figure.state["tokens"], figure.state["spread"], figure.state["seed"]) == (5, 4.0, 3)
    assert figure.twin(figure.state)["exact"] == pytest.approx(agreement_mass(0.0625, 4.0, 5).item(), abs=1e-6)
    assert re.match("5 tokens .* a softmax of spread 4", figure.alt)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rho": 1.2}, r"rho=1.2 is no step of its slider: give a whole number of hundredths from 0 to 1"),
        ({"rho": math.nan}, r"rho=nan is no step"),
        ({"tokens": 7}, r"tokens=7 is not among token_counts=\(2, 3, .*: add it"),
        ({"spread": 2.5}, r"spread=2.5 is not among spreads=.*: add it"),
        ({"token_counts": (8, 4)}, r"token_counts=\(8, 4\): give whole numbers from 2 on, each larger"),
        ({"token_counts": (1, 8)}, r"token_counts=\(1, 8\): give whole"),
        ({"token_counts": ()}, r"token_counts=\(\): give whole numbers"),
        ({"spreads": (0.0, 1.0)}, r"spreads=\(0.0, 1.0\): give positive numbers"),
        ({"spreads": (math.nan,)}, r"spreads=\(nan,\): give positive"),
        ({"seed": -1}, r"seed=-1: give a whole number from 0"),
        ({"discovery": ""}, "discovery='' is empty"),
    ],
)
def test_bad_input_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        plurality_vote(**changes)


@pytest.fixture
def page(show):
    return show(plurality_vote())


def said(page):
    return page.get_by_role("status").text_content()


def press(page, button, times=1):
    for _ in range(times):
        page.get_by_role("button", name=button).click()


def slider(page, name):
    return page.get_by_role("slider", name=name)


@pytest.mark.browser
def test_reader_votes_and_the_page_counts(page):
    """A trial first; then one vote, then a hundred: the sentence holds the twin's numbers."""
    trial = play()
    picture = page.get_by_role("img").first
    top = picture.bounding_box()["y"]
    assert said(page) == (
        "Press One vote or 100 votes to start counting. Shown below is only a trial: "
        f"token {trial['winner']} wins, in the twin token {trial['winner_of_twin']}; "
        f"exactly A8(0.49) = {trial['exact']:.3f}."
    )
    press(page, "One vote")
    one = r"Vote 1: token \d wins.*; [01] of 1 vote agrees, too few for an error bar; exactly .*\."
    assert re.fullmatch(one, said(page))
    press(page, "100 votes")
    tally = play(seed=STATE["seed"] + 1, votes=101)
    gap = abs(tally["mean"] - tally["exact"]) / tally["error"]
    assert said(page).split("; ", 1)[1] == (
        f"{tally['agreements']} of 101 votes agree, {tally['mean']:.3f} ± {tally['error']:.3f}; "
        f"exactly A8(0.49) = {tally['exact']:.3f}, {gap:.1f} standard errors away."
    )
    assert picture.bounding_box()["y"] == top  # no longer sentence pushed it down
    assert f"in the input token {tally['winner']} wins with score" in picture.get_attribute("aria-label")
    assert picture.locator(".ns-vote-bar").count() == 16
    assert picture.locator(".ns-vote-crown").count() == 2
    assert picture.locator(".ns-vote-same").count() == (tally["winner"] == tally["winner_of_twin"])
    names = page.locator(".ns-vote-name").all_text_contents()  # of every curve
    assert sorted(names) == sorted(["n = 2", *map(str, TOKENS[1:])])


@pytest.mark.browser
def test_both_rows_stand_upright_and_are_equal_at_rho_one(page):
    """Equal inputs: the twin's bars are the input's moved down, with the same fill, and the same winner is marked."""
    slider(page, "Input correlation").press("End")
    read = "all => all.map((bar) => ['y', 'height', 'fill-opacity', 'x'].map((name) => +bar.getAttribute(name)))"
    boxes = page.locator(".ns-vote-bar").evaluate_all(read)
    upper, lower = boxes[:8], boxes[8:]
    shift = lower[0][0] - upper[0][0]
    for a, b in zip(upper, lower, strict=True):
        assert b == pytest.approx([a[0] + shift, *a[1:]], abs=0.2)
    winner = play(rho=1.0)["winner"] - 1
    assert min(y for y, *_ in lower) == lower[winner][0]  # the highest score is the highest bar
    assert page.locator(".ns-vote-same").count() == 1
    press(page, "100 votes")
    assert "100 of 100 votes agree, all alike, which gives no error bar; exactly A8(1) = 1.000." in said(page)


@pytest.mark.browser
def test_keyboard_alone_and_measured_points_stay(page):
    """Tab to ρ, move it, vote, move again, vote: two points; back at the first its tally is found again."""
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.dataset.part") == "rho"
    page.keyboard.press("ArrowRight")
    rho = slider(page, "Input correlation")
    assert rho.get_attribute("aria-valuetext") == "0.71; of scores ρ² = 0.5041"
    for _ in range(4):
        page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "100 votes"
    page.keyboard.press("Enter")
    first = said(page)
    rho.press("PageUp")
    assert said(page).startswith("Press One vote")
    press(page, "100 votes", 2)
    points = page.locator("g.ns-vote-point:has(title)")
    assert points.count() == 2
    assert "200 votes" in said(page)
    rho.press("PageDown")
    assert said(page) == first
    told = page.get_by_role("img").last.aria_snapshot()
    assert re.search(r"Measured: 0\.\d+ at ρ = 0.71, 0\.\d+ at ρ = 0.81\.", told)
    slider(page, "Tokens").press("ArrowRight")  # points of another n stay, quietly
    assert page.locator("g.ns-vote-other:has(title)").count() == 2
    slider(page, "Spread").press("ArrowLeft")  # those of another spread do not belong here
    assert points.count() == 0
    press(page, "Start again")
    slider(page, "Spread").press("ArrowRight")
    press(page, "100 votes")
    assert points.count() == 1


@pytest.mark.browser
def test_error_bars_are_one_standard_error(page):
    """Read back from the plot: the bar's half-length and the point's height, through the axis' own ticks."""
    press(page, "100 votes")
    tally = play(seed=STATE["seed"] + 1, votes=100)
    point = page.locator("g.ns-vote-point:has(title)")
    high, foot = (float(point.locator("line").first.get_attribute(end)) for end in ("y1", "y2"))
    axis = page.locator("svg[role=img]").last.locator("path.ns-axis").get_attribute("d")
    top, bottom = (float(value) for value in re.fullmatch(r"M\S+ (\S+)V(\S+)H\S+", axis).groups())
    scale = bottom - top
    assert (foot - high) / 2 / scale == pytest.approx(tally["error"], abs=1e-3)
    height = bottom - float(point.locator("circle").get_attribute("cy"))
    assert height / scale == pytest.approx(tally["mean"], abs=1e-3)


@pytest.mark.browser
def test_soft_votes_overlap(page):
    """A finite spread: overlaps are averaged, and a bar's fill is its share."""
    spread = slider(page, "Spread")
    assert spread.get_attribute("aria-valuetext") == "∞, a hard vote"
    for _ in range(4):
        spread.press("ArrowLeft")
    assert spread.get_attribute("aria-valuetext") == "2"
    press(page, "100 votes")
    tally = play(seed=STATE["seed"] + 1, votes=100, spread=2.0)
    exact = f"exactly G8(0.49, τ = 2) = {tally['exact']:.3f}"
    assert f"; mean overlap of 100 votes {tally['mean']:.3f} ± {tally['error']:.3f}; {exact}, " in said(page)
    fills = page.locator(".ns-vote-bar").evaluate_all("all => all.map((bar) => +bar.getAttribute('fill-opacity'))")
    shares = [0.1 + 0.9 * share for share in (*tally["weights"], *tally["weights_of_twin"])]
    assert fills == pytest.approx(shares, abs=1e-3)


@pytest.mark.browser
def test_start_again_brings_other_votes_and_a_new_width_keeps_them(page):
    press(page, "100 votes")
    first = said(page)
    press(page, "Start again")
    assert said(page).startswith("Press One vote")
    press(page, "100 votes")
    before = said(page)
    assert before != first
    assert before.count("of 100 votes agree") == 1
    page.set_viewport_size({"width": 390, "height": 800})
    page.wait_for_function("document.querySelector('.ns-vote-panels svg').clientWidth < 380")
    assert said(page) == before
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.mark.browser
def test_hundred_votes_of_64_tokens_are_quick_and_there_is_an_end(page):
    """Median script time of a click; after 5000 votes at one setting the buttons rest, other settings still vote."""
    slider(page, "Tokens").press("End")
    clicks = """() => { const button = [...document.querySelectorAll(".ns-stage button")][1];
      return Array.from({ length: 50 }, () => {
        const start = performance.now(); button.click(); return performance.now() - start; }); }"""
    times = page.evaluate(clicks)
    assert statistics.median(times[:11]) < 50
    assert page.get_by_role("button", name="100 votes").is_disabled()
    assert "of 5000 votes agree" in said(page)
    assert float(re.search(r"([\d.]+) standard errors away", said(page))[1]) < 4
    slider(page, "Input correlation").press("ArrowLeft")
    assert page.get_by_role("button", name="100 votes").is_enabled()

"""The layer explorer: its numbers are the package's, its networks have the right law, playing it shows what it says.

`tests/explore/test_modules.py` holds the page to the Python twin.
"""

import json
import math
from itertools import pairwise

import pytest
import torch

from nslab.explore.layer_networks import _Stream, random_network
from nslab.explore.layers import BASE, PRESETS, compute, layer_explorer, short_tables
from nslab.propagation.agreement_table import AgreementTable
from nslab.propagation.architecture import Architecture
from nslab.propagation.causal import propagate_causal
from nslab.propagation.intervals import propagate_intervals
from nslab.propagation.moments import Moments
from nslab.propagation.random_networks import simulate
from nslab.propagation.recursion import propagate
from nslab.propagation.soft_votes import agreement_mass

PAPER, RESIDUAL, USUAL, REAL = PRESETS


def setting(preset=PAPER, **changes):
    return {**BASE, **PRESETS[preset], "networks": [], "tables": short_tables(), **changes}


def architecture(state):
    return Architecture(layers=state["depth"], **{key: state[key] for key in BASE if key not in ("rho", "depth")})


# ---------------------------------------------------------------- what there is to discover


def test_discovery_raw_stability_dies_while_the_correlation_rises():
    found = compute(setting())
    assert found["m"][6] / found["m"][0] == pytest.approx(1 / 20, rel=0.05)
    assert all(a > b for a, b in pairwise(found["m"]))
    after = found["correlation"][1:]
    assert after[0] < 0.5
    assert all(a < b for a, b in pairwise(after))
    assert after[-1] > 0.9 > BASE["rho"]


@pytest.mark.parametrize(("preset", "layer", "collapsed"), [(PAPER, 3, 0.84), (PAPER, 4, 0.97), (RESIDUAL, 3, 0.50)])
def test_discovery_tokens_collapse_without_a_residual(preset, layer, collapsed):
    assert compute(setting(preset))["token_correlation"][layer] == pytest.approx(collapsed, abs=0.005)


def test_discovery_usual_initialisation_is_nearly_uniform():
    found = compute(setting(USUAL))
    assert found["s_a"][0] < 3 / 16  # a hard vote has 1, uniform attention 1/16
    assert found["token_correlation"][2] > 0.99


def test_discovery_networks_scatter_about_the_recursion_or_stay_near_it():
    def spread(preset):
        found = compute(setting(preset, networks=list(range(1, 9))))
        ends = torch.tensor([network["correlation"][-1] - found["correlation"][-1] for network in found["networks"]])
        return ends.square().mean().sqrt()

    assert spread(PAPER) > 0.1
    assert spread(REAL) < 0.05


# ---------------------------------------------------------------- the numbers are the package's


def test_short_tables_are_close_to_the_exact_agreement():
    generator = torch.Generator().manual_seed(3)
    r = torch.rand(200, generator=generator, dtype=torch.float64) * 2 - 1
    spread = torch.exp(torch.rand(200, generator=generator, dtype=torch.float64) * 8 - 3)
    for tokens in (1, 2, 5, 8, 16):
        rows = short_tables()[tokens - 1]
        dense = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.float64)
        for k, row in enumerate(rows):
            dense[k, : len(row)] = torch.tensor(row, dtype=torch.float64) / 1e8
        error = AgreementTable(tokens, dense)(r, spread) - agreement_mass(r, spread, tokens)
        assert error.abs().max() < 2.5e-5
    assert len(json.dumps(layer_explorer().state)) < 150_000


@pytest.mark.parametrize("preset", PRESETS)
def test_moments_are_those_of_the_recursion(preset):
    state = setting(preset)
    exact = AgreementTable(16, AgreementTable.of(range(1, 17)).coefficients[15])
    expected = propagate(Moments.inputs(state["rho"]), architecture(state), table=exact)
    found = compute(state)
    for name, values in zip("moqp", expected.parts(), strict=True):
        torch.testing.assert_close(torch.tensor(found[name], dtype=torch.float64), values, rtol=0, atol=5e-4)


@pytest.mark.parametrize("scores", ["random", "identity", "uniform"])
@pytest.mark.parametrize("preset", [PAPER, REAL])
def test_causal_moments_are_those_of_the_package(preset, scores):
    state = setting(preset, causal=True, scores=scores, depth=4)
    expected = propagate_causal(Moments.inputs(state["rho"]), architecture(state)).average()
    found = compute(state)
    for name, values in zip("moqp", expected.parts(), strict=True):
        torch.testing.assert_close(torch.tensor(found[name], dtype=torch.float64), values[:, 0], rtol=0, atol=5e-4)
    assert found["intervals"] is None
    assert found["hull"] is None


@pytest.mark.parametrize(("name", "agreement"), [("intervals", "theory"), ("hull", "unknown")])
def test_bounds_are_those_of_the_package(name, agreement):
    state = setting(RESIDUAL, width=1024, depth=6)
    exact = AgreementTable(16, AgreementTable.of(range(1, 17)).coefficients[15])
    start = Moments.inputs(state["rho"])
    expected = propagate_intervals(start, architecture(state), agreement=agreement, table=exact)
    found = compute(state)[name]
    for key, ends in {"correlation": expected.correlation, "q": (expected.low.q, expected.high.q)}.items():
        torch.testing.assert_close(torch.tensor(found[key], dtype=torch.float64), torch.stack(ends), rtol=0, atol=2e-3)


def test_bounds_of_a_narrow_network_say_little_and_stay_bounds():
    """At width 64 the slack eats nearly everything; q stays positive and a correlation inside [-1, 1] all the way."""
    found = compute(setting(REAL, width=64, score_scale=1 / 8))
    for bounds in (found["intervals"], found["hull"]):
        assert len(bounds["q"][0]) == 13
        assert min(bounds["q"][0]) > 0
        assert -1 <= min(bounds["correlation"][0]) <= max(bounds["correlation"][1]) <= 1


# ---------------------------------------------------------------- the networks


def test_stream_is_gaussian_and_uncorrelated():
    values = _Stream(5)(4, 50_000).flatten()
    count = len(values)
    for power, moment, variance in [(1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)]:
        assert abs((values**power).mean() - moment) < 4 * math.sqrt(variance / count)
    for lag in (1, 2, 3, 128, 50_000):
        assert abs((values[lag:] * values[:-lag]).mean()) < 4 / math.sqrt(count - lag)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"scores": "identity", "residual": "scaled", "mlp": "none"},
        {"scores": "uniform", "residual": "pre-norm", "norm": "rms"},
        {"causal": True, "norm": "rms", "score_scale": 0.5},
    ],
)
def test_networks_have_the_law_of_simulate(changes):
    """Means over 24 networks of width 64, against those of the package's own, within 4 standard errors."""
    shape = Architecture(tokens=8, width=64, layers=2, gain=0.9, **changes)
    drawn = torch.stack([random_network(0.6, shape, seed)[0] for seed in range(24)])  # (networks, moments, layers)
    law = simulate(shape, 0.6, inputs=2, networks=96, generator=torch.Generator().manual_seed(1)).moments
    for k, name in enumerate("moqp"):
        expected = law.estimate(name)
        own = drawn[:, k]
        error = (own.var(0) / len(own) + expected.stderr**2).sqrt()
        assert ((own.mean(0) - expected.value).abs() < 4 * error + 1e-9).all(), name


def test_wide_networks_are_drawn_narrow_with_the_same_spread_of_scores():
    """In the first layer the mass of a row with itself, seen through q, depends on the spread alone."""
    wide, narrow = (Architecture(16, width, 1, score_scale=4 / math.sqrt(width), mlp="none") for width in (4096, 128))
    (found, width), (expected, _) = (random_network(0.7, shape, 3) for shape in (wide, narrow))
    assert width == 128
    torch.testing.assert_close(found, expected)


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"preset": "mine"}, "preset = 'mine' is unknown: choose from the paper"),
        ({"layers": 3}, "layers: unknown; choose from rho, depth"),
        ({"quantity": "s"}, "quantity = 's' is unknown: choose from correlation"),
        ({"depth": 25}, "depth = 25: the figure goes from 1 to 24"),
        ({"rho": -0.5}, "rho = -0.5: the figure goes from 0 to 1"),
        ({"tokens": 12}, "tokens = 12: the figure has 8, 16"),
        ({"norm": "layer"}, "norm = 'layer': the figure has none, rms"),
        ({"mlp": "gelu"}, "mlp = 'gelu': the figure has relu, none"),
        ({"width": 100}, "width = 100: the figure has powers of two"),
        ({"score_scale": 0.3}, "score_scale = 0.3: the figure has 1, 4/sqrt"),
        ({"residual": "pre-norm"}, "choose norm 'rms'"),
    ],
)
def test_settings_out_of_reach_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        layer_explorer(**changes)


# ---------------------------------------------------------------- played in a page


def status(page):
    return page.get_by_role("status").text_content()


def mark(page, layer):
    page.get_by_role("slider", name="Marked layer").fill(str(layer))
    return status(page)


@pytest.mark.browser
def test_play_raw_stability_dies_while_the_correlation_rises(show):
    page = show(layer_explorer())
    found = compute(setting())
    assert mark(page, 1).startswith("After layer 1 of 12: correlation m/q = 0.418,")
    assert f"raw m = {found['m'][12]:.5f}" in mark(page, 12)
    assert "correlation m/q = 0.917" in status(page)
    high = page.locator(".ns-layer-dot").last.get_attribute("cy")
    page.get_by_role("combobox", name="Plot").select_option("m")
    low = page.locator(".ns-layer-dot").last.get_attribute("cy")
    assert float(low) > float(high) + 100  # in pixels, down
    assert "m is within" in status(page)


@pytest.mark.browser
def test_play_a_residual_keeps_tokens_apart(show):
    page = show(layer_explorer())
    assert "token correlation p/q = 0.967" in mark(page, 4)
    page.get_by_role("button", name=RESIDUAL, exact=True).click()
    assert "token correlation p/q = 0.495" in mark(page, 3)
    page.get_by_role("button", name=USUAL).click()
    assert "token correlation p/q = 0.992" in mark(page, 2)
    assert "s = 0.0658" in page.locator(".ns-layer-more").text_content()


@pytest.mark.browser
def test_play_networks_are_drawn_named_and_cleared(show):
    page = show(layer_explorer(width=512))
    draw, points = page.locator("[data-part=draw]"), page.locator(".ns-layer-plot .ns-layer-net")
    assert draw.text_content() == "Draw a random network"
    first = compute(setting(width=512, networks=[1, 2]))["networks"]
    draw.click()
    assert points.count() == 13
    assert f"Measured m/q: {first[0]['correlation'][3]:.3g}." in mark(page, 3)
    assert (
        "drawn at width 128, its scores scaled up to spread as at width 512" in page.locator(".ns-help").text_content()
    )
    draw.click()
    assert f"{first[0]['correlation'][3]:.3g}, {first[1]['correlation'][3]:.3g}." in status(page)
    for _ in range(3):
        assert draw.text_content() == "Again: another network"
        draw.click()
    assert draw.is_disabled()
    assert points.count() == 65
    page.get_by_role("combobox", name="Plot").select_option("q")
    assert points.count() == 65
    page.get_by_role("slider", name="Gain").press("ArrowRight")
    assert points.count() == 0
    draw.click()
    page.get_by_role("button", name="Clear").click()
    assert points.count() == 0
    assert page.evaluate("document.activeElement.textContent") == "Draw a random network"


@pytest.mark.browser
def test_play_controls_that_depend_on_one_another(show):
    page = show(layer_explorer())
    norm, scale = page.get_by_role("combobox", name="Norm"), page.get_by_role("combobox", name="Score scale")
    page.get_by_role("combobox", name="Residual").select_option("pre-norm")
    assert (norm.input_value(), norm.is_disabled()) == ("rms", True)
    page.get_by_role("combobox", name="Residual").select_option("none")
    assert norm.is_enabled()
    page.get_by_role("combobox", name="Scores").select_option("uniform")
    assert scale.is_disabled()
    page.get_by_role("button", name=REAL).click()
    assert page.locator("[aria-pressed=true]").all_text_contents() == [REAL]
    page.get_by_role("checkbox", name="causal mask").check()
    assert page.locator("[aria-pressed=true]").count() == 0
    assert "no interval for this choice" in page.locator(".ns-caption").text_content()
    assert page.locator(".ns-layer-plot .ns-layer-band").count() == 0
    mark(page, 12)
    page.get_by_role("slider", name="Depth").fill("5")
    assert status(page).startswith("After layer 5 of 5")


@pytest.mark.browser
def test_play_by_keyboard_alone(show):
    page = show(layer_explorer())
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.locator("[aria-pressed=true]").text_content() == RESIDUAL
    for _ in range(3):
        page.keyboard.press("Tab")
    page.keyboard.press("End")
    slider = page.get_by_role("slider", name="Input correlation")
    assert slider.get_attribute("aria-valuetext") == "1"
    assert mark(page, 12).startswith("After layer 12 of 12: correlation m/q = 1,")


@pytest.mark.browser
@pytest.mark.parametrize(("causal", "limit"), [(False, 30), (True, 60)])
def test_a_slider_moves_the_figure_at_once(causal, limit, show):
    """Milliseconds from an input event to the drawn figure at 24 layers, best of ten; a busy machine doubles them."""
    page = show(layer_explorer(depth=24, causal=causal))
    best = page.evaluate(
        """() => { const slider = document.querySelector("[data-part=gain]"); let best = Infinity;
        for (let k = 0; k < 10; k++) { const start = performance.now(); slider.value = 10 + k;
          slider.dispatchEvent(new Event("input")); best = Math.min(best, performance.now() - start); }
        return best; }"""
    )
    assert best < limit

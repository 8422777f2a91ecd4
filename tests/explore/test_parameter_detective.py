"""The 5.77 % detective: counts to the unit, parts that add up, and a discovery that is true."""

import math

import pytest

from nslab.attention.settings import VARIANTS
from nslab.explore.parameter_detective import BOXES, compute, parameter_detective
from nslab.transformer.parameter_puzzle import every_counting

STATE = parameter_detective().state
D, LAYERS, CONTEXT = 768, 12, 1024  # of GPT-2 base
BIASES = LAYERS * (3 + 1 + 5 + 2) * D + D  # into attention, out of it, MLP, two norms; and the last norm


def found(**changes):
    return compute({**STATE, **changes})


def ways(figure="5.77", how="rounded", **fixed):
    """All ways of counting a share of a whole network that give the figure."""
    fields = (*BOXES, "variant", "relative_to")
    states = [{**STATE, **{name: getattr(one, name) for name in fields}} for one in every_counting()]
    chosen = [one for one in states if all(one[key] == value for key, value in fixed.items())]
    return [one for one in chosen if compute(one)[how] == figure]


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("positions", [False, True])
def test_the_base_is_its_tables_blocks_and_norms(padded, bias, positions):
    rows = (50304 if padded else 50257) + CONTEXT * positions
    expected = rows * D + LAYERS * (12 * D * D + 2 * D) + D + BIASES * bias
    assert found(padded=padded, base_bias=bias, positions=positions)["base"] == expected


@pytest.mark.parametrize(
    ("variant", "added"),
    [
        ("symmetric", 0),
        ("v1-scalar", 2),
        ("v2-scalar", 24),
        ("v1-key", 128),
        ("v2-key", 1536),
        ("v1-relative", 2048),
        ("v2-relative", 24576),
        ("pairwise", 12 * 64 * 64),
    ],
)
def test_noise_adds_what_its_shapes_say(variant, added):
    assert found(variant=variant)["added"] == LAYERS * added
    assert found(variant=variant)["new"] == found()["new"] + LAYERS * added


def test_the_parts_are_the_saving():
    for relative_to in ("base", "new", "matrices"):
        for variant in VARIANTS:
            for bias in ((True, True), (True, False), (False, True), (False, False)):
                one = found(relative_to=relative_to, variant=variant, base_bias=bias[0], new_bias=bias[1])
                assert one["keys"] + one["biases"] - one["added"] == one["saved"] == one["base"] - one["new"]
                whole = one["new" if relative_to == "new" else "base"]
                assert one["percent"] == pytest.approx(100 * one["saved"] / whole, abs=1e-12)
    assert found()["biases"] == LAYERS * D, "the biases of the keys alone"
    assert found(new_bias=False)["biases"] == BIASES


def test_of_the_block_matrices_a_twelfth_is_saved():
    assert found(relative_to="matrices")["percent"] == pytest.approx(100 / 12, abs=1e-12)
    assert found(relative_to="matrices")["base"] == LAYERS * 12 * D * D


# ---------------------------------------------------------------- what there is to discover


def test_discovery_as_a_share_of_the_base_only_the_bias_mismatch_gives_the_figure():
    shares = ways(relative_to="base")
    assert all(one["base_bias"] and not one["new_bias"] and one["positions"] for one in shares)
    assert {one["variant"] for one in shares} == {"symmetric", "v1-scalar", "v2-scalar", "v1-key"}
    assert len(shares) == 8, "each with either vocabulary"


def test_discovery_relative_to_the_smaller_network_there_is_a_second_way():
    shares = ways(relative_to="new")
    assert {one["variant"] for one in shares} == {"v2-relative"}
    assert all(one["base_bias"] == one["new_bias"] and one["positions"] for one in shares)


def test_cut_off_only_the_second_way_is_left():
    assert found(new_bias=False)["rounded"] == "5.77"
    assert found(new_bias=False)["cut"] == "5.76"
    assert not ways(how="cut", relative_to="base")
    assert {one["variant"] for one in ways(how="cut")} == {"v2-relative"}


# ---------------------------------------------------------------- bad input, and the page


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variant": "v3"}, "variant is 'v3': choose one of"),
        ({"relative_to": "all"}, "relative_to is 'all': choose one"),
    ],
)
def test_bad_input_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        parameter_detective(**changes)


def test_enough_is_compared():
    cases = parameter_detective().cases
    assert {case["variant"] for case in cases} == set(VARIANTS)
    assert {case["relative_to"] for case in cases} == {"base", "new", "matrices"}
    assert math.prod(len({case[name] for case in cases}) for name in BOXES) == 16


@pytest.mark.browser
def test_keyboard_alone_finds_the_figure(show):
    page = show(parameter_detective())
    said = page.get_by_role("status")
    assert said.inner_text() == "5.695 % of the base. Both networks have biases."
    page.get_by_label("biases in the new network").focus()
    page.keyboard.press("Space")
    assert said.inner_text().startswith("5.770 % of the base. Rounded: 5.77; cut off: 5.76.")
    assert "−102\u202f144" in page.locator(".ns-pd-hot").first.inner_text()
    page.locator("select").first.select_option("v2-key")
    assert said.inner_text().startswith("5.755 % of the base. The base has biases")
    assert "Yours is at 5.755." in page.locator(".ns-stage svg[role=img]").last.get_attribute("aria-label")

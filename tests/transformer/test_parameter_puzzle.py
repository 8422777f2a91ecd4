"""The countings behind "5.77 %": the listed figures, one by one, and a search through all check boxes."""

from fractions import Fraction

import pytest

from nslab.attention.settings import VARIANTS
from nslab.transformer import TransformerConfig
from nslab.transformer.accounting import parameter_count
from nslab.transformer.parameter_puzzle import Counting, countings, every_counting, noise_budget

KEY_MAPS, KEY_BIASES = 12 * 768**2, 12 * 768
ALL_BIASES = 102_144  # of the standard network, those of its norms among them


def test_the_table_of_countings_number_by_number():
    table = [(counting.base, counting.reduced, counting.percent) for counting in countings()]
    assert table == [
        (124_439_808, 124_439_808 - KEY_MAPS - KEY_BIASES, 5.695),
        (124_373_760, 124_373_760 - KEY_MAPS, 5.691),
        (123_587_328, 123_587_328 - KEY_MAPS, 5.727),
        (123_653_376, 123_653_376 - KEY_MAPS - KEY_BIASES, 5.731),
        (124_439_808, 124_439_808 - KEY_MAPS - KEY_BIASES, 6.039),
        (124_373_760, 124_373_760 - KEY_MAPS, 6.034),
        (84_934_656, 84_934_656 - KEY_MAPS, 8.333),
        (124_439_808, 117_259_776, 5.770),
        (124_475_904, 117_295_872, 5.768),
    ]
    assert len({counting.name for counting in countings()}) == len(table)


def test_the_mismatch_counts_every_bias_as_saved():
    fair, mixed = Counting(), Counting(new_bias=False)
    assert fair.reduced - mixed.reduced == ALL_BIASES - KEY_BIASES
    assert mixed.base - mixed.reduced == KEY_MAPS + ALL_BIASES


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("positions", [False, True])
@pytest.mark.parametrize("new_bias", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
def test_check_boxes_are_shapes_of_networks(padded, positions, new_bias, variant):
    """`test_accounting` holds the counts of these shapes against networks that are built."""
    vocabulary = 50304 if padded else 50257
    base, new = (
        TransformerConfig(vocabulary=vocabulary, context=1024, width=768, layers=12, heads=12, bias=bias)
        for bias in (True, new_bias)
    )
    counting = Counting(variant, padded=padded, positions=positions, new_bias=new_bias)
    assert counting.base == parameter_count(base, positions=positions)
    assert counting.reduced == parameter_count(new, VARIANTS[variant], positions=positions)


def test_only_two_kinds_of_counting_print_5_77():
    """Biases in the base alone and little or no noise; or noise per head and offset, relative to the smaller one."""
    printed = [counting for counting in every_counting() if round(100 * counting.share, 2) == 5.77]
    mismatch = {counting.variant for counting in printed if counting.base_bias != counting.new_bias}
    consistent = {
        (counting.variant, counting.relative_to) for counting in printed if counting.base_bias == counting.new_bias
    }
    assert mismatch == {"symmetric", "v1-scalar", "v2-scalar", "v1-key"}
    assert consistent == {("v2-relative", "new")}
    assert all(counting.positions for counting in printed)
    assert max(c.share for c in every_counting() if c.base_bias == c.new_bias and c.relative_to == "base") < 0.05732


def test_cut_off_in_place_of_rounded_the_mismatch_prints_5_76():
    """5.7699 %: whoever cuts digits off, as the paper's table of GLUE scores does, would print 5.76."""
    assert 0.05769 < Counting(new_bias=False).share < 0.0577


@pytest.mark.parametrize("counting", [Counting(new_bias=False), Counting(positions=False), Counting(relative_to="new")])
@pytest.mark.parametrize("figure", [5.5, 5.77, 6])
def test_the_budget_is_the_last_count_that_still_prints_the_figure(counting, figure):
    budget, edge = noise_budget(counting, figure), Fraction(round(100 * figure), 10_000) - Fraction(5, 100_000)

    def share(added):
        reduced = counting.reduced + added
        return Fraction(counting.base - reduced, reduced if counting.relative_to == "new" else counting.base)

    assert share(budget) >= edge > share(budget + 1)


def test_a_layer_may_add_506_parameters_of_noise():
    """Scalar noise and a shared key fit under it, a key per head (1536) does not."""
    assert noise_budget(Counting(new_bias=False)) // 12 == 506
    fits = {
        name: noise_budget(Counting(name, new_bias=False)) >= 0
        for name in ("v1-scalar", "v2-scalar", "v1-key", "v2-key")
    }
    assert fits == {"v1-scalar": True, "v2-scalar": True, "v1-key": True, "v2-key": False}


def test_unknown_choices_are_refused():
    with pytest.raises(ValueError, match="variant is 'v3': choose one of symmetric"):
        Counting("v3")
    with pytest.raises(ValueError, match="relative_to is 'all': choose 'base', 'new' or 'matrices'"):
        Counting(relative_to="all")

"""Ratios of steps against arithmetic by hand: both readings, bounds, intervals, and what is refused."""

import math
import statistics

import pytest
import torch

from nslab.training.acceleration import acceleration

NAN = float("nan")
LAST = {"plain_last": 3000, "changed_last": 3000}
PLAIN, CHANGED = [500.0, 610.0, 540.0, 580.0, 700.0], [350.0, 330.0, 360.0, 300.0, 900.0]


def ends(interval):
    return interval.low.item(), interval.high.item()


def test_the_ratio_is_the_geometric_mean_over_pairs_of_seeds():
    found = acceleration(PLAIN, CHANGED, **LAST)
    ratios = [a / b for a, b in zip(PLAIN, CHANGED, strict=True)]
    assert found.ratios.tolist() == pytest.approx(ratios, rel=1e-12)
    assert found.ratio == pytest.approx(statistics.geometric_mean(ratios), rel=1e-12)
    assert (found.seeds, found.undecided, found.bounded, found.unit) == (5, 0, "exact", "steps")


def test_the_example_of_the_paper_is_36_per_cent_faster_and_27_per_cent_fewer_steps():
    found = acceleration([4500], [3300], plain_last=5000, changed_last=5000)
    assert (round(found.faster, 3), round(found.saved, 3)) == (0.364, 0.267)


def test_the_other_way_round_it_is_the_inverse():
    """What one training is faster, 1 - saved says of the other: 1 + faster = 1 / (1 - saved), for seeds and means."""
    there, back = acceleration(PLAIN, CHANGED, **LAST), acceleration(CHANGED, PLAIN, **LAST)
    assert there.ratio * back.ratio == pytest.approx(1, rel=1e-12)
    assert there.saved == pytest.approx(-back.faster, rel=1e-12)
    assert 1 + there.faster == pytest.approx(1 / (1 - there.saved), rel=1e-12)
    low, high = ends(there.interval)
    assert ends(back.interval) == pytest.approx((1 / high, 1 / low), rel=0.02)  # resampled anew, with one generator
    assert ends(there.saved_interval) == pytest.approx((1 - 1 / low, 1 - 1 / high), rel=1e-12)
    assert ends(there.faster_interval) == pytest.approx((low - 1, high - 1), rel=1e-12)


def test_the_interval_is_of_resampled_pairs():
    """Of two seeds a resample has one ratio twice (1/4 each) or both: the 95 % interval runs from one to the other."""
    two = acceleration([400.0, 900.0], [200.0, 300.0], **LAST)
    assert ends(two.interval) == pytest.approx((2, 3), rel=1e-12)
    half = acceleration([400.0, 900.0], [200.0, 300.0], level=0.4, **LAST)  # 0.3 and 0.7 fall on "both"
    assert ends(half.interval) == pytest.approx((math.sqrt(6), math.sqrt(6)), rel=1e-12)
    paired = acceleration(PLAIN, [one / 1.5 for one in PLAIN], **LAST)  # however much the seeds differ
    assert ends(paired.interval) == pytest.approx((1.5, 1.5), rel=1e-12)
    assert paired.interval.level == 0.95


def test_one_history_has_one_answer_and_a_generator_changes_it():
    assert acceleration(PLAIN, CHANGED, **LAST).interval == acceleration(PLAIN, CHANGED, **LAST).interval
    generators = [torch.Generator().manual_seed(seed) for seed in range(8)]
    found = {ends(acceleration(PLAIN, CHANGED, generator=one, **LAST).interval) for one in generators}
    assert len(found) > 1


def test_a_seed_that_never_got_there_enters_with_its_last_step_and_makes_a_bound():
    slow = acceleration([500.0, 600.0], [1000.0, NAN], plain_last=800, changed_last=[2000, 2400])
    assert slow.ratios.tolist() == [0.5, 0.25]
    assert (slow.at_most.tolist(), slow.at_least.tolist(), slow.bounded) == ([False, True], [False, False], "at most")
    fast = acceleration([500.0, NAN], [250.0, 300.0], **LAST)
    assert fast.ratios.tolist() == [2.0, 10.0]
    assert (fast.at_most.any().item(), fast.at_least.tolist(), fast.bounded) == (False, [False, True], "at least")
    assert acceleration([500.0, NAN], [NAN, 300.0], **LAST).bounded == "both ways"


@pytest.mark.parametrize("true", [3001.0, 5000.0, 1e9])
def test_a_bound_is_one_whenever_the_seed_would_have_got_there(true):
    """Ratio and both ends of the interval lie at or above what longer training would have shown."""
    bound = acceleration(PLAIN, [*CHANGED[:4], NAN], **LAST)
    truth = acceleration(PLAIN, [*CHANGED[:4], true], plain_last=3000, changed_last=1e9)
    assert bound.ratio >= truth.ratio
    assert all(a >= b for a, b in zip(ends(bound.interval), ends(truth.interval), strict=True))


def test_seeds_in_which_neither_got_there_have_no_ratio():
    found = acceleration([500.0, NAN, 600.0], [250.0, NAN, 200.0], **LAST)
    assert found.ratios.isnan().tolist() == [False, True, False]
    assert (found.seeds, found.undecided, found.bounded) == (2, 1, "exact")
    assert found.ratio == pytest.approx(math.sqrt(6))
    none = acceleration([NAN], [NAN], **LAST)
    assert (none.seeds, none.undecided) == (0, 1)
    assert math.isnan(none.ratio)
    assert math.isnan(none.saved)


def test_fewer_than_two_ratios_have_no_interval():
    for found in (acceleration([500], [250], **LAST), acceleration([500.0, NAN], [250.0, NAN], **LAST)):
        assert found.ratio == 2
        assert not found.interval.contains(2.0)


def test_in_seconds_every_ratio_is_divided_by_the_cost_of_a_step():
    """Twice as fast at twice the cost of a step is no gain; bounds stay bounds."""
    steps = acceleration([500.0, 600.0, NAN], [250.0, 300.0, 1500.0], **LAST)
    seconds = steps.in_seconds(2)
    assert seconds.ratios.tolist() == [1.0, 1.0, 1.0]
    assert (seconds.ratio, seconds.saved, seconds.unit, seconds.bounded) == (1.0, 0.0, "seconds", "at least")
    assert ends(seconds.interval) == pytest.approx([end / 2 for end in ends(steps.interval)])
    with pytest.raises(ValueError, match=r"cost is 0: give seconds of a changed step over seconds of a plain one"):
        steps.in_seconds(0)
    with pytest.raises(ValueError, match="cost is nan"):
        steps.in_seconds(NAN)


@pytest.mark.parametrize(
    ("plain", "changed", "text"),
    [
        ([300, 300], [200, 200], "1.50 [1.50, 1.50]: 50 % faster, 33 % of the steps saved"),
        ([200, 200], [250, 250], "0.80 [0.80, 0.80]: 20 % slower, 25 % more steps"),
        ([200, 300], [NAN, NAN], "at most 0.08 [0.07, 0.10]: at least 92 % slower, at least 1125 % more steps"),
        (
            [NAN, NAN],
            [1500, 1500],
            "at least 2.00 [2.00, 2.00]: at least 100 % faster, at least 50 % of the steps saved",
        ),
        ([1000, 1000, NAN], [500, 500, NAN], "100 % faster, 50 % of the steps saved; 1 of 3 seeds undecided"),
        ([NAN, 1500], [1500, NAN], "1.00 [0.50, 2.00] (bounds both ways): 0 % faster, 0 % of the steps saved"),
        ([NAN], [NAN], "nan [nan, nan]: undecided in all of 1 seeds"),
    ],
)
def test_in_print(plain, changed, text):
    assert str(acceleration(plain, changed, **LAST)).endswith(text)


@pytest.mark.parametrize(
    ("plain", "changed", "last", "message"),
    [
        ([1, 2], [1], {}, r"plain is \(2,\) and changed \(1,\): give one step for each of the same seeds"),
        (torch.ones(1, 1), torch.ones(1, 1), {}, r"give one step for each of the same seeds"),
        ([], [], {}, "at least one"),
        ([0], [1], {}, r"plain has 0.0: give steps above 0"),
        ([1], [-5], {}, r"changed has -5.0: give steps above 0"),
        ([1], [1], {"plain_last": NAN}, r"plain_last has nan: give steps above 0; only `plain` and `changed` may"),
        ([1], [1], {"changed_last": 0}, "changed_last has 0.0"),
        ([1], [math.inf], {}, "changed has inf"),
        ([1], [1], {"plain_last": [5, 5]}, r"plain_last has shape \(2,\) for 1 seeds: give a number or one a seed"),
        ([1, 9], [1, 1], {"plain_last": 8}, "plain has step 9 for a training that ended at 8: raise plain_last"),
        ([1, 9], [1, 1], {"changed_last": [2, 0.5]}, "changed has step 1 for a training that ended at 0.5"),
        ([1, 2], [1, 2], {"level": 1.5}, "level is 1.5"),
    ],
)
def test_bad_input_is_named_with_a_remedy(plain, changed, last, message):
    with pytest.raises(ValueError, match=message):
        acceleration(plain, changed, **LAST | last)

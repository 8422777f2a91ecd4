"""Passages against loops over records, leads against shifts that are known, and what `lead_lag` refuses to say."""

import math

import numpy as np
import pytest
import torch

from nslab.training.milestones import LEVEL, decay_clock, first_passage, halfway, last_passage, lead, lead_lag

TOLERANCES = {"exact": 1e-12, "interpolation": 2.0}  # the second in steps, for curves recorded every 10 steps
NAN = float("nan")
STEPS = np.arange(0, 2001, 10)
CENTRES = np.array([700.0, 800.0, 900.0, 1000.0, 1100.0, 1200.0])


def curve(centres, width=60.0):
    """A logistic rise at each seed's centre, (records, seeds)."""
    return 1 / (1 + np.exp(-(STEPS[:, None] - np.asarray(centres)) / width))


def memorising(seeds=6):
    """Training accuracy that is 1 from step 100 on."""
    return np.repeat((STEPS >= 100).astype(float)[:, None], seeds, 1)


def slow_first(steps, values, level):
    return next((float(t) for t, v in zip(steps, values, strict=True) if v >= level), NAN)


def slow_last(steps, values, level):
    known = [(t, v) for t, v in zip(steps, values, strict=True) if not math.isnan(v)]
    found = NAN
    for t, v in reversed(known):
        if v < level:
            break
        found = float(t)
    return found


def test_passages_agree_with_a_loop_over_the_records_of_each_seed():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(12, 40)) + np.linspace(-1, 1, 12)[:, None]
    values[rng.random(values.shape) < 0.15] = np.nan
    steps = np.cumsum(rng.integers(1, 9, 12))
    for passage, slow in ((first_passage, slow_first), (last_passage, slow_last)):
        found = passage(steps, values, 0.5)
        assert np.array_equal(found, [slow(steps, column, 0.5) for column in values.T], equal_nan=True)
        assert found.isnan().any()
        assert not found.isnan().all()
        falling = passage(steps, -values, -0.5, rising=False)
        assert torch.equal(falling.nan_to_num(-1), found.nan_to_num(-1))
        one = passage(steps, values[:, 3], 0.5)
        assert one.shape == ()
        assert torch.equal(one.nan_to_num(-1), found[3].nan_to_num(-1))


def test_a_straight_line_is_met_where_it_crosses():
    """v = t / 100 meets any level at 100 times it, however it is sampled; a level a seed."""
    steps = torch.tensor([0.0, 7.0, 30.0, 100.0])
    values = steps[:, None].expand(4, 3) / 100
    levels = torch.tensor([0.05, 0.3, 0.77])
    for passage in (first_passage, last_passage):
        assert passage(steps, values, levels, interpolate=True).tolist() == pytest.approx([5.0, 30.0, 77.0])
        assert passage(steps, 1 - values, 1 - levels, rising=False, interpolate=True).tolist() == pytest.approx(
            [5.0, 30.0, 77.0], abs=1e-5
        )
    assert first_passage(steps, values[:, 0], 0.0, interpolate=True) == 0  # nothing before the first record
    assert first_passage([0, 1, 2], [NAN, NAN, 1.0], 0.5, interpolate=True) == 2  # nor before the first value


def test_first_and_last_passage_bracket_a_series_that_goes_back_and_forth():
    values = [0.0, 0.8, 0.2, 0.9, 0.4, 0.7, NAN]
    steps = [0, 1, 2, 3, 4, 5, 6]
    assert first_passage(steps, values, 0.5) == 1
    assert last_passage(steps, values, 0.5) == 5
    assert last_passage(steps, values, 0.75).isnan()


def test_halfway_is_the_middle_of_two_levels_from_either_side():
    steps = [0, 100, 200, 300]
    assert halfway(steps, [0.0, 0.2, 0.6, 1.0], start=0, end=1) == 200
    assert halfway(steps, [1.0, 0.8, 0.4, 0.0], start=1, end=0) == 200
    assert halfway(steps, [1.0, 0.8, 0.4, 0.0], start=1, end=0, interpolate=True).item() == pytest.approx(175)
    assert halfway(steps, [0.5, 0.5, 0.5, 0.5], start=0.5, end=0.5).isnan()


def test_the_decay_clock_counts_e_foldings():
    """(1 - lr wd)**t is exp(-clock), nearly; grids of rates broadcast."""
    clock = decay_clock(torch.tensor([[100.0], [500.0]]), torch.tensor([1e-3, 1e-2]), 0.5)
    assert torch.allclose(clock, torch.tensor([[0.05, 0.5], [0.25, 2.5]], dtype=torch.float64))
    assert math.isclose((1 - 1e-2 * 0.5) ** 500, math.exp(-clock[1, 1].item()), rel_tol=0.01)


def test_a_lead_is_paired_and_counts_the_seeds_that_are_missing():
    first = torch.tensor([100.0, 200.0, 300.0, NAN, 500.0])
    found = lead(first, first + torch.tensor([10.0, 30.0, NAN, 10.0, 20.0]), generator=torch.Generator().manual_seed(0))
    assert found.differences.tolist()[:2] == [10.0, 30.0]
    assert found.differences.isnan().tolist() == [False, False, True, True, False]
    assert (found.mean, found.seeds, found.missing) == (20.0, 3, 2)
    assert 10 <= found.interval.low < 20 < found.interval.high <= 30  # far less than the spread of `first`
    alone = lead([1.0, NAN], [2.0, 3.0])
    assert (alone.mean, alone.seeds, alone.missing) == (1.0, 1, 1)
    assert not alone.interval.contains(1.0)  # a single seed has no interval
    none = lead([NAN], [NAN])
    assert math.isnan(none.mean)


@pytest.mark.parametrize("shift", [-90.0, 0.0, 90.0])
def test_a_shift_of_the_same_curve_is_found_at_every_fraction(shift):
    """A measure that is the test accuracy `shift` steps earlier leads by that, whatever its unit and direction."""
    test = curve(CENTRES)
    for measure in (curve(CENTRES - shift), 5 - 3 * curve(CENTRES - shift)):
        found = lead_lag(STEPS, memorising(), test, measure)
        for one in (*found.first, *found.last):
            assert one.mean == pytest.approx(shift, abs=TOLERANCES["interpolation"])
            assert (one.seeds, one.missing) == (6, 0)
        assert found.answer == {-90.0: "lags", 0.0: "together", 90.0: "leads"}[shift]
        assert found.memorised.tolist() == [100.0] * 6
        assert found.resolution == 10
        assert found.measure[:, 0, 1].tolist() == pytest.approx(CENTRES - shift, abs=TOLERANCES["interpolation"])


def test_what_happens_before_memorisation_does_not_count():
    """A measure that collapses early and ends lower: only its way after memorisation is a passage."""
    early = np.where(STEPS < 100, 10.0, 0.0)[:, None]
    found = lead_lag(STEPS, memorising(), curve(CENTRES), early + curve(CENTRES - 90))
    assert found.first[1].mean == pytest.approx(90, abs=TOLERANCES["interpolation"])
    assert found.ends[:, 0].tolist() == pytest.approx(curve(CENTRES - 90)[10].tolist())
    assert found.ends[:, 1].tolist() == pytest.approx([1.0] * 6, abs=1e-4)


def test_bending_the_unit_alone_makes_a_lead():
    """The warning in the docstring: the root of the accuracy is the accuracy, and passes every fraction before it.

    Against itself in that unit, the measure has no lead; that is why a control is asked for.
    """
    test = curve(CENTRES)
    assert lead_lag(STEPS, memorising(), test, test**0.25).answer == "leads"
    assert lead_lag(STEPS, memorising(), test, test**4).answer == "lags"
    assert lead_lag(STEPS, memorising(), test, test**0.25, against=test**0.25).answer == "together"


def test_an_answer_that_hangs_on_one_fraction_is_none():
    """A slower rise around the same middle is early at a quarter and late at three quarters."""
    found = lead_lag(STEPS, memorising(), curve(CENTRES, 40.0), curve(CENTRES, 120.0))
    assert found.first[0].mean > 50
    assert found.first[2].mean < -50
    assert found.answer == "undecided"


def test_a_spike_moves_the_first_passage_and_not_the_last():
    measure = curve(CENTRES)
    measure[20] = 1.0  # one record, long before anything happens
    found = lead_lag(STEPS, memorising(), curve(CENTRES), measure)
    assert found.first[1].mean > 400
    assert abs(found.last[1].mean) < TOLERANCES["interpolation"]
    assert found.answer == "undecided"


def test_few_seeds_give_no_answer():
    found = lead_lag(STEPS, memorising(4), curve(CENTRES[:4]), curve(CENTRES[:4] - 90))
    assert found.first[1].mean > 80
    assert found.answer == "undecided"


def test_seeds_without_a_passage_are_left_out_and_counted():
    train, test, measure = memorising(), curve(CENTRES), curve(CENTRES - 90)
    train[:, 0] = 0.5  # never memorises
    test[:, 1] *= 0.9  # never generalises
    test[:, 2] = train[:, 2]  # generalises at once
    measure[:, 3] = np.sin(STEPS / 40)  # goes up and down, ends nowhere
    found = lead_lag(STEPS, train, test, measure)
    assert found.left_out == {
        "not memorised": 1,
        "not generalised": 1,
        "no delay": 1,
        "against did not move": 0,
        "measure did not move": 1,
    }
    assert found.first[0].seeds == 2
    assert found.first[0].missing == 4
    assert found.measure[:4].isnan().all()
    assert found.ends[:4].isnan().all()
    flat = lead_lag(STEPS, memorising(), curve(CENTRES), np.ones((len(STEPS), 6)))
    assert flat.left_out["measure did not move"] == 6
    assert flat.answer == "undecided"


def test_a_seed_that_left_early_may_be_held_or_missing():
    """Whether the records after it left repeat its last values or have none, its passages are the same."""
    test, measure = curve(CENTRES), curve(CENTRES - 90)
    held, missing = [np.array([test, measure]) for _ in range(2)]
    for seed, centre in enumerate(CENTRES):
        left = int(np.argmax(centre + 400 <= STEPS))
        held[:, left:, seed] = held[:, left - 1 : left, seed]
        missing[:, left:, seed] = np.nan
    one, other = (lead_lag(STEPS, memorising(), *series) for series in (held, missing))
    assert torch.equal(one.measure, other.measure)
    assert torch.equal(one.against, other.against)
    assert one.answer == "leads"


def test_the_clock_may_be_anything_that_increases():
    clock = decay_clock(STEPS, 1e-2, 1)
    found = lead_lag(clock, memorising(), curve(CENTRES), curve(CENTRES - 90))
    assert found.first[1].mean == pytest.approx(0.9, abs=0.02)
    assert found.resolution == pytest.approx(0.1)
    again = lead_lag(clock, memorising(), curve(CENTRES), curve(CENTRES - 90))
    assert found.first[0].interval == again.first[0].interval  # one history, one answer
    assert LEVEL == 0.99  # fixed, as the docstrings say


@pytest.mark.parametrize(
    ("wrong", "remedy"),
    [
        (lambda: first_passage([0, 0], [1.0, 2.0], 1), "does not increase: give one step a record"),
        (lambda: last_passage([0, 1], [1.0, 2.0, 3.0], 1), r"values has shape \(3,\) for 2 steps: give \(records"),
        (lambda: lead([1.0, 2.0], [1.0]), r"first is \(2,\), second \(1,\): give one step a seed"),
        (lambda: lead_lag([0, 1], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0]), "give one column a seed"),
        (
            lambda: lead_lag(STEPS, memorising(), curve(CENTRES), curve(CENTRES[:2])),
            r"measure has shape \(201, 2\), not \(201, 6\) as train_accuracy: make it so",
        ),
    ],
)
def test_bad_input_is_refused_with_a_remedy(wrong, remedy):
    with pytest.raises(ValueError, match=remedy):
        wrong()

"""Summaries of influence profiles against loops and known profiles."""

import itertools
import re

import pytest
import torch

from nslab.stability import (
    participation_ratio,
    position_profile,
    share_above,
    smallest_to_largest,
    summarise_profiles,
    tokens_holding,
)

PROFILES = torch.rand(50, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64) ** 3


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 1])
def test_k90_is_the_smallest_set_of_positions_that_holds_the_share(share):
    """Over all subsets, not only those of the largest entries."""
    for profile, found in zip(PROFILES[:10].tolist(), tokens_holding(PROFILES[:10], share).tolist(), strict=True):
        enough = [
            size
            for size in range(1, 8)
            if any(sum(chosen) >= share * sum(profile) - 1e-9 for chosen in itertools.combinations(profile, size))
        ]
        assert found == min(enough)


@pytest.mark.parametrize("length", [1, 3, 10, 256, 1000])
def test_a_flat_profile_needs_nine_tenths_of_its_positions_and_has_all_as_effective_number(length):
    flat = torch.full((length,), 0.1)
    assert tokens_holding(flat).item() == -(-9 * length // 10)
    assert participation_ratio(flat).item() == pytest.approx(length)
    assert share_above(flat).count.item() == length
    assert smallest_to_largest(flat).item() == 1


def test_a_dictator_is_one_position():
    profile = torch.eye(5)[2]
    assert (tokens_holding(profile), participation_ratio(profile), share_above(profile).count) == (1, 1, 1)
    assert share_above(profile).share == pytest.approx(0.2)
    assert smallest_to_largest(profile) == 0


def test_the_others_are_their_formulas():
    for profile in PROFILES.tolist():
        row = torch.tensor(profile, dtype=torch.float64)
        assert participation_ratio(row).item() == pytest.approx(sum(profile) ** 2 / sum(p * p for p in profile))
        above = [p for p in profile if p > 0.1 * max(profile)]
        found = share_above(row)
        assert found.count.item() == len(above)
        assert found.share.item() == pytest.approx(len(above) / 7)
        assert found.held.item() == pytest.approx(sum(above) / sum(profile))


def test_scale_means_nothing():
    scales = torch.logspace(-200, 100, 50, dtype=torch.float64)[:, None]
    assert torch.equal(tokens_holding(PROFILES * scales), tokens_holding(PROFILES))
    torch.testing.assert_close(participation_ratio(PROFILES * scales), participation_ratio(PROFILES))
    torch.testing.assert_close(position_profile(PROFILES * scales), position_profile(PROFILES))


def test_the_position_profile_weighs_prompts_alike():
    found = position_profile(torch.tensor([[1.0, 3.0], [300.0, 100.0]]))
    assert found.tolist() == [0.5, 0.5]


def test_a_summary_holds_the_means_and_intervals_that_cover_them(seeded):
    """The first position of Dirichlet(1, .., 1) profiles holds 1/7 on average; 95 % intervals hold it in most runs."""
    covered = 0
    for seed in range(40):
        exponential = -torch.rand(60, 7, generator=seeded(seed), dtype=torch.float64).log()
        summary = summarise_profiles(exponential, resamples=500, generator=seeded(seed))
        covered += bool(summary.first.interval.contains(1 / 7))
        k90 = tokens_holding(exponential).double().mean().item()
        assert summary.tokens_holding_90.value.item() == pytest.approx(k90)
    assert covered >= 33
    assert (summary.prompts, summary.length) == (60, 7)
    assert summary.by_position.value.sum().item() == pytest.approx(1)
    assert bool((summary.by_position.interval.low <= summary.by_position.value).all())
    assert str(summary.first).count("[") == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: tokens_holding(torch.tensor([1.0, -1.0])), "negative entries"),
        (lambda: tokens_holding(torch.tensor([1.0, float("nan")])), "NaN"),
        (lambda: participation_ratio(torch.zeros(2, 3)), r"zero everywhere at \[0\]: leave it out"),
        (lambda: tokens_holding(torch.ones(3), 0), r"share is 0: give a number in \(0, 1\]"),
        (lambda: share_above(torch.ones(3), 1), r"fraction is 1: give a number in \[0, 1\)"),
        (lambda: smallest_to_largest(torch.ones(3, 0)), r"at least one position"),
        (lambda: summarise_profiles(torch.ones(1, 3)), r"holds 1 prompt: .*at least 2"),
    ],
)
def test_bad_profiles_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_summary_shows_itself_in_one_line():
    told = repr(summarise_profiles(torch.rand(9, 300, generator=torch.Generator().manual_seed(0)), resamples=20))
    assert re.fullmatch(
        r"ProfileSummary\(9 prompts of 300 tokens: k90 \S+ \[.*\], participation ratio \S+ \[.*\]\)", told
    )

"""Calibration against a count by hand, a law that is calibrated by construction, and the binning of Guo et al."""

import math

import pytest
import torch

from nslab.training.calibration import calibration


def by_hand(probabilities, targets, bins):
    """The definition, prediction by prediction."""
    places = [[] for _ in range(bins)]
    for row, target in zip(probabilities.flatten(0, -2).tolist(), targets.flatten().tolist(), strict=True):
        sure = max(row)
        [place] = [m for m in range(bins) if m / bins < sure <= (m + 1) / bins]
        places[place].append((sure, row.index(sure) == target))
    total = sum(map(len, places))
    error = 0.0
    for members in filter(None, places):
        confidence, accuracy = (sum(part) / len(members) for part in zip(*members, strict=True))
        error += len(members) / total * abs(accuracy - confidence)
    return places, error


@pytest.mark.parametrize("bins", [1, 4, 15])
def test_it_is_what_a_count_by_hand_gives(bins, device):
    generator = torch.Generator().manual_seed(bins)
    probabilities = torch.randn(6, 50, 5, generator=generator, dtype=torch.float64).mul(2).softmax(-1).to(device)
    targets = torch.randint(5, (6, 50), generator=generator).to(device)
    places, error = by_hand(probabilities, targets, bins)
    found = calibration(probabilities, targets, bins)
    assert math.isclose(found.error, error)
    for place, members in enumerate(places):
        assert math.isclose(found.share[place].item(), len(members) / 300)
        if not members:
            assert found.confidence[place].isnan()
            assert found.accuracy[place].isnan()
            continue
        confidence, accuracy = (sum(part) / len(members) for part in zip(*members, strict=True))
        assert math.isclose(found.confidence[place].item(), confidence)
        assert math.isclose(found.accuracy[place].item(), accuracy)
    right = (probabilities.argmax(-1) == targets).double().mean().item()
    assert math.isclose(found.mean_accuracy, right)
    assert math.isclose(found.mean_confidence, probabilities.amax(-1).mean().item())


def test_targets_drawn_from_the_probabilities_leave_only_what_chance_does():
    """Of n predictions chance leaves about sqrt(2/pi) sum_m sqrt(a_m (1 - a_m) n_m) / n, as the docstring says."""
    generator = torch.Generator().manual_seed(0)
    probabilities = torch.randn(40_000, 4, generator=generator, dtype=torch.float64).mul(1.5).softmax(-1)
    targets = torch.multinomial(probabilities, 1, generator=generator)[:, 0]
    found = calibration(probabilities, targets)
    a, count = found.accuracy.nan_to_num(0), found.share * 40_000
    chance = math.sqrt(2 / math.pi) * float((a * (1 - a) * count).sqrt().sum()) / 40_000
    assert chance / 2 < found.error < 2 * chance
    sharper = probabilities.square() / probabilities.square().sum(-1, keepdim=True)
    sure = calibration(sharper, targets)
    assert sure.error > 10 * chance
    assert sure.mean_confidence - sure.mean_accuracy > 0.9 * sure.error  # too sure in every bin
    assert sure.mean_accuracy == found.mean_accuracy  # the order of the classes is the same


def test_a_confidence_on_a_border_belongs_to_the_bin_below():
    two = torch.tensor([[0.75, 0.25], [0.5, 0.5]], dtype=torch.float64)
    found = calibration(two, torch.tensor([0, 0]), bins=4)
    assert found.share.tolist() == [0, 0.5, 0.5, 0]


def test_one_bin_compares_the_means_and_a_certain_network_errs_by_its_mistakes():
    certain = torch.nn.functional.one_hot(torch.tensor([0, 1, 1, 2]), 3).float()
    found = calibration(certain, torch.tensor([0, 1, 2, 2]), bins=1)
    assert found.error == 0.25
    assert found.confidence.tolist() == [1]
    assert found.accuracy.tolist() == [0.75]


def test_what_is_no_prediction_is_refused():
    good, targets = torch.full((3, 2), 0.5), torch.zeros(3, dtype=torch.long)
    cases = [
        (torch.randn(3, 2).mul(5) + 3, targets, 15, "of logits take softmax"),
        (torch.full((3, 2), math.nan), targets, 15, "negative or do not sum to 1"),
        (good, targets[:2], 15, r"targets has shape \(2,\) and probabilities \(3, 2\)"),
        (good[:0], targets[:0], 15, "and at least one"),
        (good, targets + 2, 15, r"targets has a class outside 0 .. 1"),
        (good, targets, 0, "bins is 0: give at least 1"),
    ]
    for probabilities, classes, bins, message in cases:
        with pytest.raises(ValueError, match=message):
            calibration(probabilities, classes, bins)

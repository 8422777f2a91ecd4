"""The conventions of book/notation.md, each in one assertion; whoever changes one must change the page."""

import math

import torch

from nslab import boolean as bf
from nslab.noise import Flip, OrnsteinUhlenbeck, Resample, paper_keep

HALF = torch.tensor(0.5, dtype=torch.float64)


def majority_of_three():
    return bf.majority(3, dtype=torch.float64)


def test_entry_k_has_minus_one_where_the_binary_digits_of_k_are_one():
    points = bf.points(3)
    for k in range(8):
        assert points[k].tolist() == [-1 if k >> j & 1 else 1 for j in range(3)]


def test_a_coefficient_is_indexed_by_the_bit_mask_of_its_set():
    spectrum = bf.spectrum(bf.parity(3, [0, 2], dtype=torch.float64))
    assert spectrum[0b101] == 1
    assert spectrum.abs().sum() == 1


def test_stability_is_a_correlation_not_the_probability_of_agreement():
    assert bf.stability(majority_of_three(), HALF) == 13 / 32
    points = bf.points(3, dtype=torch.float64)
    agree = (points @ points.T + 3) / 2  # number of equal bits
    joint = (0.75**agree * 0.25 ** (3 - agree)) / 8
    same = majority_of_three()[:, None] == majority_of_three()
    assert math.isclose((joint * same).sum().item(), 45 / 64)
    assert 45 / 64 == (1 + 13 / 32) / 2


def test_total_influence_is_average_sensitivity_and_sums_over_bits():
    f = majority_of_three()
    assert bf.total_influence(f) == bf.sensitivity(f).mean() == bf.influences(f).sum() == 1.5


def test_influence_of_a_real_function_is_a_variance_and_a_flip_probability_for_signs():
    f = majority_of_three()
    assert torch.equal(bf.influences(f), bf.flip_influences(f))
    assert torch.equal(bf.influences(3 * f), 9 * bf.influences(f))


def test_the_bias_p_is_the_probability_of_minus_one():
    assert math.isclose(bf.biased_mean(bf.dictator(1, dtype=torch.float64), 0.25).item(), 0.5)


def test_rho_is_the_last_axis_of_a_result():
    batch = torch.stack([majority_of_three(), bf.parity(3, dtype=torch.float64)])
    rho = torch.zeros(4, 5, dtype=torch.float64)
    assert bf.stability(batch, rho).shape == (2, 4, 5)


def test_eigenvalues_of_the_three_noises():
    assert Flip(0.5).eigenvalue(3) == 0.125
    assert OrnsteinUhlenbeck(0.5).eigenvalue(3) == 0.125
    assert Resample(0.5, 10).eigenvalue(3) == 0.125


def test_the_papers_keep_probability_is_not_rho():
    assert paper_keep(0.25) == 0.625
    assert Resample(paper_keep(0.0), 10).eigenvalue(1) == 0.5


def test_a_flip_happens_with_half_of_one_minus_rho():
    x = torch.ones(200_000)
    changed = (Flip(0.5).twin(x, generator=torch.Generator().manual_seed(0)) != x).double().mean().item()
    assert abs(changed - 0.25) < 5 * math.sqrt(0.25 * 0.75 / 200_000)

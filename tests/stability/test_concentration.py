"""The corrected Lemma 1 holds, tends to Markov's bound, and gains at most K/T."""

import math

import pytest
import torch

from nslab import boolean as bf
from nslab import gaussian as gs
from nslab.noise import Resample, paper_keep
from nslab.stability import (
    Cube,
    Tokens,
    best_tail_bound,
    concentration_degree,
    markov_bound,
    noise_stability,
    spectral_tail_bound,
    tail_bound,
    text_stability,
)

RHO = torch.cat([torch.linspace(0, 0.99, 100), torch.tensor([0.999, 0.9999])]).double()


def spectra(degrees=13, count=24):
    """Random spectra with most weight low, as they come: gamma draws times a falling factor, one a seed."""
    found = []
    for seed in range(count):
        g = torch.Generator().manual_seed(seed)
        weights = torch.rand(degrees, generator=g, dtype=torch.float64) ** 4
        found.append(weights * torch.exp(-0.3 * seed / count * torch.arange(degrees)))
    return found


def test_lemma_one_every_bound_is_above_the_tail_on_24_of_24_spectra():
    holds = 0
    for weights in spectra():
        share = weights / weights.sum()
        for degree in (1, 2, 4, 8, 12, 15):
            bounds = tail_bound(gs.stability_from_energies(share, RHO), RHO, degree)
            holds += bool((bounds >= share[degree:].sum() - 1e-9).all())
    assert holds == 24 * 6


def test_the_bound_tends_to_markov_as_the_noise_vanishes(tolerances):
    for weights in spectra(count=5):
        share = weights / weights.sum()
        mean_degree = (share * torch.arange(13)).sum()
        for degree in (1, 4, 15):
            markov = markov_bound(mean_degree, degree)
            assert abs(spectral_tail_bound(weights, 1.0, degree) - markov) < tolerances["exact"]
            near = tail_bound(gs.stability_from_energies(share, 1 - 1e-7), 1 - 1e-7, degree)
            assert abs(near - markov) < 10 * tolerances["limit"]
            assert abs(spectral_tail_bound(weights, 1 - 1e-8, degree) - markov) < tolerances["limit"]


def test_from_a_spectrum_it_is_the_lemma_and_differentiable():
    weights = spectra()[3]
    share = weights / weights.sum()
    found = spectral_tail_bound(torch.stack([weights, 5 * weights]), RHO, 4)
    assert found.shape == (2, len(RHO))
    assert torch.allclose(found[0], tail_bound(gs.stability_from_energies(share, RHO), RHO, 4), atol=1e-9, rtol=0)
    assert torch.allclose(found[0], found[1], atol=1e-12, rtol=0)
    rho = RHO[10:90:10].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda r: spectral_tail_bound(weights, r, 4), [rho])
    assert torch.autograd.gradcheck(lambda r: tail_bound(gs.stability_from_energies(share, r), r, 4), [rho])


def test_whole_numbers_do_not_cut_the_other_argument():
    assert tail_bound(torch.tensor([0, 1]), 0.5, 1).tolist() == [2.0, 0.0]
    assert spectral_tail_bound(torch.tensor([0, 1]), 0.5, 2).item() == spectral_tail_bound(
        torch.tensor([0.0, 1.0]), 0.5, 2
    )


def test_no_gain_over_markov_is_above_k_over_t():
    """With all weight at degrees <= K, K >= T: (I/T) / B_T(rho) <= K/T at every rho, on 24 of 24 spectra."""
    holds = 0
    for weights in spectra():
        for degree in (2, 4, 12):
            gain = spectral_tail_bound(weights, 1.0, degree) / spectral_tail_bound(weights, RHO, degree)
            holds += bool((gain <= 12 / degree + 1e-12).all())
    assert holds == 24 * 3
    assert math.ceil(9.5 * 15) == 143  # a gain of 9.5 at T = 15 needs weight at degree 143 or above


def test_the_best_bound_against_the_numbers_of_the_specification():
    """12 bits, T = 4: truth, Markov, best bound, and where."""
    double = {"dtype": torch.float64}
    dictator_and_parity = math.sqrt(0.91) * bf.dictator(12, **double) + 0.3 * bf.parity(12, **double)
    cases = (
        (bf.level_weights(dictator_and_parity), (0.090, 0.498, 0.447, 0.845)),
        (bf.level_weights(bf.majority(11, dtype=torch.float64)), (0.210, 0.677, 0.615, 0.79)),
    )
    for weights, expected in cases:
        found = best_tail_bound(weights, 4)
        numbers = (found.tail, found.markov, found.bound, found.rho)
        assert all(abs(a - b) < tol for a, b, tol in zip(numbers, expected, (0.001, 0.001, 0.001, 0.005), strict=True))


def test_the_best_bound_is_never_above_markov_but_a_fixed_one_can_be():
    for weights in spectra():
        found = best_tail_bound(weights, 4)
        grid = spectral_tail_bound(weights, RHO, 4).min().item()
        assert found.tail <= found.bound <= min(found.markov, grid) + 1e-9
    parity = bf.level_weights(bf.parity(3, dtype=torch.float64))
    assert best_tail_bound(parity, 4).rho == 1.0
    assert best_tail_bound(parity, 4).markov == pytest.approx(0.75)
    assert bool((spectral_tail_bound(parity, RHO[:-1], 4) > 0.75).all())


def test_degrees_of_the_corrected_lemma():
    assert concentration_degree(0.01, 0.05, 0.9) == 3
    assert concentration_degree(0.001, 0.01, 0.9) == 1  # exactly 1.0: rounding must not make it 2
    assert concentration_degree(0.0, 0.5, 0.5) == 1


@pytest.mark.parametrize("seed", range(20))
def test_the_degree_is_the_smallest_that_the_bound_allows(seed):
    g = torch.Generator().manual_seed(seed)
    eps, share, r = (0.02 + 0.96 * torch.rand(3, generator=g, dtype=torch.float64)).tolist()
    delta = share * eps
    degree = concentration_degree(delta, eps, r)
    assert delta / (1 - r**degree) <= eps * (1 + 1e-9)
    assert degree == 1 or delta / (1 - r ** (degree - 1)) > eps
    assert -math.log1p(-delta / eps) / -math.log(r) <= degree + 1e-8


def test_token_noise_is_bounded_with_its_eigenvalue_and_not_with_rho(seeded):
    """A parity of 8 tokens over {0, 1}: weight 1 at degree 8. With r = (1 + rho)/2 the bound at T = 8 is 1 (tight);
    with rho in its place it falls below the true tail, a false statement."""
    rho = 0.6
    f = lambda ids: 1.0 - 2 * (ids.sum(-1) % 2)  # noqa: E731
    request = {"version": "normalised", "evaluations": 200_000, "generator": seeded(1)}
    found = noise_stability(f, Tokens(8, 2), keep=paper_keep(rho), **request)
    error = float(found.stderr) / (1 - 0.8**8)
    assert abs(float(tail_bound(found.value, found.eigenvalue, 8)) - 1) < 4.5 * error
    assert float(tail_bound(found.value, rho, 8)) < 1 - 20 * error


def test_table_one_ratio_of_resampling_exponents():
    """At rho = 0.9 and T = 15 the two readings differ by 1 - 0.9^15 = 0.794 against 1 - 0.95^15 = 0.537."""
    assert 0.01 / tail_bound(0.99, 0.9, 15).item() == pytest.approx(0.794, abs=1e-3)
    assert 0.01 / tail_bound(0.99, paper_keep(0.9), 15).item() == pytest.approx(0.537, abs=1e-3)


def test_an_estimate_knows_its_version_its_noise_and_hands_on_its_error(seeded):
    """Two parts of degree 1 and 3 in equal shares: normalised stability (r + r^3)/2, and the bound from it."""
    f = lambda x: x[:, 0] + x[:, 1:4].prod(-1)  # noqa: E731
    rho = torch.tensor([0.5, 0.9], dtype=torch.float64)
    found = noise_stability(f, Cube(4), rho=rho, version="normalised", evaluations=20_000, generator=seeded(3))
    assert repr(found).startswith(f"StabilityEstimate(normalised {found}, method=")
    assert (found[1].version, found[1].eigenvalue) == ("normalised", 0.9)
    bound = tail_bound(found, degree=2)
    exact = (1 - (rho + rho**3) / 2) / (1 - rho**2)
    assert bool(((bound.value - exact).abs() <= 4.5 * bound.stderr + 1e-12).all())
    torch.testing.assert_close(bound.value, tail_bound(found.value, found.eigenvalue, 2))
    up = tail_bound(found.value - found.stderr, found.eigenvalue, 2)  # one error lower: one error higher
    torch.testing.assert_close(bound.value + bound.stderr, up)
    torch.testing.assert_close(tail_bound(found[1], degree=2).value, bound.value[1])


def test_stability_at_prompts_knows_its_version_too(seeded):
    noise = Resample(0, 4)
    ids = noise.draw((40, 3), seeded(4))
    found = text_stability(lambda x: x[:, 0].double(), ids, noise, keep=[0.5, 0.9], generator=seeded(5))
    for version in ("raw", "normalised", "centred"):
        one = found.estimate(version)
        assert (one.version, one.method, one.evaluations) == (version, "prompts", found.evaluations)
        assert f"{version}={one}" in repr(found)
    assert not hasattr(found.energy, "version")
    assert tail_bound(found.normalised, degree=2).value.shape == (2,)
    with pytest.raises(ValueError, match="estimate of version centred"):
        tail_bound(found.centred, degree=2)
    constant = text_stability(lambda x: 0.0 * x[:, 0] + 1, ids, noise, keep=0.5)
    assert "normalised=1 ± 0, centred=0/0" in repr(constant)

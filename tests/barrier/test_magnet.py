"""The one-dimensional model against quadrature, root finding of scipy, autodiff and plain iteration."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, optimize

from nslab.barrier.magnet import (
    critical_noise,
    expected_preimages,
    fixed_point_iterations,
    fold_points,
    magnet_density,
    magnet_determinant,
    magnet_mean,
    settle,
    solutions,
    sweep,
)

SCORES = (0.5, 1.0, 1.5, 2.0, 4.0)
SIGMAS = (0.25, 0.5, 1.0)


def double(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


def residual(u, a):
    """u less the softmax mean of two tokens at -1 and 1, spelled out."""
    likes, dislikes = math.exp(a * u), math.exp(-a * u)
    return u - (likes - dislikes) / (likes + dislikes)


def test_the_mean_is_a_softmax_over_two_tokens_and_the_determinant_its_derivative():
    past = double(-1, 1)
    u = torch.linspace(-3, 3, 25, dtype=torch.float64, requires_grad=True)
    for a in (-1.5, 0.0, 0.7, 3.0):
        mean = (a * u[:, None] * past).softmax(-1) @ past
        torch.testing.assert_close(magnet_mean(u, a), mean, atol=1e-15, rtol=1e-14)
        (slope,) = torch.autograd.grad((u - mean).sum(), u)
        torch.testing.assert_close(magnet_determinant(u, a), slope, atol=1e-14, rtol=1e-13)


def test_the_determinant_far_away_is_one_and_its_gradient_is_finite():
    u = double(-1e4, 1e4).requires_grad_()
    found = magnet_determinant(u, 5.0)
    assert found.tolist() == [1, 1]
    assert torch.autograd.grad(found.sum(), u)[0].tolist() == [0, 0]


@pytest.mark.parametrize("a", SCORES)
@pytest.mark.parametrize("sigma", SIGMAS)
def test_the_area_is_the_expected_number_of_preimages_and_the_signed_area_is_one(a, sigma):
    def spelled(u, signed):
        slope = 1 - a / math.cosh(a * u) ** 2
        height = math.exp(-(residual(u, a) ** 2) / (2 * sigma**2)) / (sigma * math.sqrt(2 * math.pi))
        return height * (slope if signed else abs(slope))

    far = 1 + 9 * sigma
    folds = [-math.acosh(math.sqrt(a)) / a, math.acosh(math.sqrt(a)) / a] if a > 1 else None
    for signed, expected in ((False, expected_preimages(double(a), sigma).item()), (True, 1.0)):
        area = integrate.quad(spelled, -far, far, args=(signed,), points=folds, epsabs=1e-11, limit=300)[0]
        assert area == pytest.approx(expected, abs=1e-9)
        found = magnet_density(double(-0.7, 0.1, 1.3), a, sigma, signed=signed)
        assert found.tolist() == pytest.approx([spelled(u, signed) for u in (-0.7, 0.1, 1.3)], abs=1e-14)


def test_the_expected_number_of_preimages_counts_the_roots_of_drawn_noise():
    noise = 0.5 * torch.randn(20_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    grid = torch.linspace(-4, 4, 4001, dtype=torch.float64)
    below = grid - torch.tanh(2 * grid) < noise[:, None]  # (draws, grid)
    counted = (below[:, 1:] != below[:, :-1]).sum(1).double()
    assert set(counted.unique().tolist()) == {1, 3}, "odd"
    error = counted.std() / math.sqrt(len(noise))
    assert abs(counted.mean() - expected_preimages(double(2.0), 0.5)) < 4.5 * error


def test_the_numbers_of_the_worked_example():
    assert fold_points(double(2.0)).tolist() == [pytest.approx([-0.440687, 0.440687], abs=5e-7)]
    assert critical_noise(double(2.0)).item() == pytest.approx(0.266420, abs=5e-7)
    assert expected_preimages(double(2.0), 0.5).item() == pytest.approx(1.811711, abs=5e-7)
    assert expected_preimages(double(2.0), double(1e-3, 1e6)).tolist() == pytest.approx([3, 1], abs=1e-6)


@pytest.mark.parametrize("a", [1.1, 2.0, 4.0])
def test_folds_are_the_extremes_of_the_residual_and_its_height_there_is_the_critical_noise(a):
    least = optimize.minimize_scalar(
        lambda u: residual(u, a), bounds=(0, 2), method="bounded", options={"xatol": 1e-12}
    )
    assert fold_points(double(a))[0, 1].item() == pytest.approx(least.x, abs=1e-6)
    assert critical_noise(double(a)).item() == pytest.approx(-least.fun, abs=1e-10)


def test_below_one_there_is_no_critical_noise_and_above_it_opens_with_the_power_three_halves():
    assert critical_noise(double(-3, 0, 0.5, 1)).tolist() == [0, 0, 0, 0]
    assert expected_preimages(double(-3, 0, 1), 0.1).tolist() == [1, 1, 1]
    assert (critical_noise(double(1 + 1e-4)) / 1e-6).item() == pytest.approx(2 / 3, rel=1e-3)
    a = double(0.5, 1.0, 2.0).requires_grad_()
    (slope,) = torch.autograd.grad(critical_noise(a).sum(), a)
    by_differences = (critical_noise(double(2 + 1e-6)) - critical_noise(double(2 - 1e-6))).item() / 2e-6
    assert slope.tolist() == pytest.approx([0, 0, by_differences], abs=1e-8)


@pytest.mark.parametrize("a", [1 + 2**-23, 1.00001, 1.001, 1.1])
def test_single_precision_keeps_the_folds_and_the_solutions_just_above_one(a):
    single = torch.tensor(a, dtype=torch.float32)
    root = math.sqrt(float(single) - 1)
    place = math.asinh(root) / float(single)
    height = root**3 * (2 / 3 - 13 / 15 * root**2) if root < 0.05 else math.tanh(float(single) * place) - place
    assert fold_points(single)[1].item() == pytest.approx(place, rel=3e-7)
    assert critical_noise(single).item() == pytest.approx(height, rel=1e-3, abs=1e-10)
    for share in (-0.9, 0.0, 0.9, 1.0, 1.0001, 1.1, 30.0):
        found = solutions(single, share * height)
        here = found[~found.isnan()]
        noise = float(torch.tensor(share * height, dtype=torch.float32))
        assert max(abs(residual(u, float(single)) - noise) for u in here.tolist()) < 3e-7


@pytest.mark.parametrize("a", [-2.0, 0.3, 1.0, 1.5, 4.0])
def test_solutions_are_all_sign_changes_on_a_fine_grid(a):
    grid = np.linspace(-3, 3, 5000)  # even: no grid point on a root by symmetry
    for noise in (-0.9, -0.2, 0.0, 0.05, 0.7):
        heights = np.array([residual(u, a) - noise for u in grid])
        at = np.flatnonzero(np.sign(heights[1:]) != np.sign(heights[:-1]))
        expected = [
            optimize.brentq(lambda u, n=noise: residual(u, a) - n, grid[k], grid[k + 1], xtol=1e-13) for k in at
        ]
        found = solutions(double(a), noise)[0]
        assert found[~found.isnan()].tolist() == pytest.approx(expected, abs=1e-5 if a == 1 else 1e-10)
        assert found.isnan().tolist() == [False, len(expected) < 3, len(expected) < 3]


def test_solutions_are_batched_and_their_slope_is_one_over_the_determinant():
    a, noise = double(0.5, 2.0)[:, None].requires_grad_(), double(-0.1, 0.0, 0.6).requires_grad_()
    found = solutions(a, noise)  # (2, 3, 3)
    assert found.shape == (2, 3, 3)
    torch.testing.assert_close(found[1, 1], solutions(double(2.0), 0.0)[0])
    here = ~found.isnan()
    slope = torch.autograd.grad(found[here].sum(), (a, noise))
    u, score = found.detach(), a.detach()[..., None].expand(2, 3, 3)
    inverse = torch.where(here, 1 / (1 - score / torch.cosh(score * u) ** 2), 0.0)
    torch.testing.assert_close(slope[1], inverse.sum((0, 2)))
    moved = torch.where(here, u / torch.cosh(score * u) ** 2 * inverse, 0.0)
    torch.testing.assert_close(slope[0], moved.sum((1, 2))[:, None])


def test_at_the_birth_of_two_solutions_the_one_is_zero_and_no_gradient_is_nan():
    a = torch.ones((), dtype=torch.float64, requires_grad=True)
    found = solutions(a, 0.0)
    assert found[0].item() == pytest.approx(0, abs=1e-6)
    assert found.isnan().tolist() == [False, True, True]
    assert torch.autograd.grad(found[0], a)[0].isfinite()


@pytest.mark.parametrize("a", [0.5, 1.5, 3.0])
def test_a_token_settles_where_many_small_steps_lead(a):
    start = torch.linspace(-2, 2, 17, dtype=torch.float64)
    for noise in (-0.5, 0.0, 0.08, 0.4):
        u = start.clone()
        for _ in range(6000):
            u = u + 0.1 * (torch.tanh(a * u) + noise - u)
        torch.testing.assert_close(settle(a, noise, start), u, atol=1e-9, rtol=0)


def test_critical_slowing_down():
    counted = fixed_point_iterations(double(0.5, 0.9, 0.99, 0.999))
    assert counted.tolist() == [20, 125, 1200, 10905]
    u, steps = 1.0, 0
    while abs(u) >= 1e-6:
        u, steps = math.tanh(0.9 * u), steps + 1
    assert steps == counted[1]
    assert fixed_point_iterations(double(1.0), limit=1000).tolist() == [-1]
    assert fixed_point_iterations(double(2.0), 0.0).tolist() == [0], "it stands on a solution"


def test_beyond_one_the_iteration_arrives_at_the_solution_on_its_side():
    a, start, noise = double(1.2, 3.0)[:, None], double(-1.0, 1.0), 0.01
    counted = fixed_point_iterations(a, start, 1e-8, noise=noise)
    for row, score in enumerate((1.2, 3.0)):
        for column, u in enumerate((-1.0, 1.0)):
            path = [u]
            for _ in range(400):
                path.append(math.tanh(score * path[-1]) + noise)
            arrived = next(step for step, at in enumerate(path) if abs(at - path[-1]) < 1e-8)
            assert counted[row, column] == arrived


def test_the_loop_of_a_sweep_is_as_wide_as_the_critical_noise_and_closed_below_one():
    up = torch.linspace(-1, 1, 4001, dtype=torch.float64)
    a = double(0.8, 1.0, 1.5, 2.0, 4.0)
    there, back = sweep(a, up), sweep(a, up.flip(0)).flip(-1)
    torch.testing.assert_close(there[:2], back[:2], atol=1e-6, rtol=0)
    for row in (2, 3, 4):
        jumps_up, jumps_down = (up[1 + path.diff().argmax()].item() for path in (there[row], back[row]))
        assert jumps_up == pytest.approx(critical_noise(a[row]).item(), abs=6e-4)
        assert jumps_down == pytest.approx(-critical_noise(a[row]).item(), abs=6e-4)
    slow, u = [], there[3, 0].item()
    for noise in up[::40].tolist():
        for _ in range(3000):
            u = math.tanh(2 * u) + noise
        slow.append(u)
    torch.testing.assert_close(sweep(double(2.0)[0], up[::40]), double(*slow), atol=1e-7, rtol=0)


def test_dtype_and_device_stay(device):
    a = torch.tensor([0.5, 2.0], device=device)
    noises = torch.linspace(-0.5, 0.5, 5, device=device)
    for found in (
        solutions(a, 0.1),
        settle(a, 0.1, -1.0),
        sweep(a, noises),
        expected_preimages(a, 0.5),
        critical_noise(a),
    ):
        assert found.dtype == torch.float32
        assert found.device.type == device.type
    assert fixed_point_iterations(torch.tensor(0.5, device=device, dtype=torch.float64)).item() == 20
    torch.testing.assert_close(
        solutions(a, 0.1).double(), solutions(a.double(), 0.1), atol=2e-6, rtol=0, equal_nan=True
    )


def test_bad_input_is_named_with_its_remedy():
    with pytest.raises(ValueError, match=r"sigma = 0 is not above 0: give the standard deviation"):
        expected_preimages(2.0, 0.0)
    with pytest.raises(ValueError, match=r"sigma = nan is not above 0"):
        magnet_density(0.0, 1.0, float("nan"))
    with pytest.raises(ValueError, match=r"a = 0\.5 is outside \[1, inf\].*give scores of at least 1"):
        fold_points(0.5)
    with pytest.raises(ValueError, match=r"noise has NaN or infinity: give finite numbers"):
        solutions(2.0, float("inf"))
    with pytest.raises(ValueError, match=r"start has NaN or infinity"):
        settle(2.0, 0.0, float("nan"))
    with pytest.raises(ValueError, match=r"a = -1\.5 is outside \[0, inf\].*use solutions"):
        fixed_point_iterations(-1.5)
    with pytest.raises(ValueError, match=r"tolerance = 0\.0 is not above 0.*give 1e-6"):
        fixed_point_iterations(0.5, tolerance=0.0)
    with pytest.raises(ValueError, match=r"limit = -1 is negative: give the largest number of steps"):
        fixed_point_iterations(0.5, limit=-1)
    with pytest.raises(ValueError, match=r"noises has shape \(\): give the noise of each step along one axis"):
        sweep(2.0, torch.tensor(0.1))

"""The central path of two constraints, against a numerical maximiser and the conditions of optimality."""

import math

import pytest
import torch
from scipy import optimize

from nslab.barrier.central_path import central_path

LIMITS = [(2.0, 4.0), (1.0, 1.0), (0.5, 10.0), (2, 2.001)]


@pytest.mark.parametrize("limits", LIMITS)
@pytest.mark.parametrize("weight", [0.01, 0.1, 1.0, 30.0])
def test_the_point_is_the_maximum(limits, weight):
    first, second = limits

    def loss(a):
        return -a - weight * (math.log1p(-a / first) + math.log1p(-a / second))

    found = optimize.minimize_scalar(loss, bounds=(-200, first), method="bounded", options={"xatol": 1e-12})
    path = central_path(torch.tensor(weight, dtype=torch.float64), limits)
    assert path.point.item() == pytest.approx(found.x, abs=1e-5)
    assert loss(path.point.item()) <= found.fun + 1e-12


def test_every_multiplier_times_its_margin_is_the_weight_and_forces_balance():
    weight = torch.logspace(-12, 3, 61, dtype=torch.float64)
    for limits in LIMITS:
        path = central_path(weight, limits)
        assert path.margins.shape == path.multipliers.shape == (61, 2)
        assert (path.margins > 0).all()
        torch.testing.assert_close(path.multipliers * path.margins, weight[:, None].expand(61, 2), rtol=1e-14, atol=0)
        torch.testing.assert_close(
            (path.multipliers / torch.tensor(limits, dtype=torch.float64)).sum(-1),
            torch.ones_like(weight),
            rtol=1e-9,
            atol=0,
        )
        torch.testing.assert_close(1 - path.point / limits[1], path.margins[:, 1], rtol=1e-8, atol=1e-11)


def test_the_numbers_of_the_exercise():
    path = central_path(torch.tensor(0.1, dtype=torch.float64))
    assert path.point.item() == pytest.approx(1.895012, abs=5e-7)
    assert path.margins[0].item() == pytest.approx(0.052494, abs=5e-7)
    assert path.margins[1].item() == pytest.approx((1 + path.margins[0].item()) / 2)
    assert path.multipliers.tolist() == pytest.approx([1.904988, 0.190025], abs=5e-7)


def test_one_multiplier_dies_and_the_other_stays():
    path = central_path(torch.tensor([1e-3, 1e-6], dtype=torch.float64))
    assert path.point.tolist() == pytest.approx([2, 2], abs=3e-3)
    assert path.multipliers[:, 0].tolist() == pytest.approx([2, 2], abs=3e-3)
    assert (path.multipliers[0, 1] / path.multipliers[1, 1]).item() == pytest.approx(1000, rel=5e-3)


def test_the_slope_in_the_weight_is_that_of_finite_differences():
    weight = torch.tensor([0.05, 1.0, 3.0], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(central_path(weight).point.sum(), weight)
    step = 1e-6
    moved = [central_path(weight.detach() + change).point for change in (step, -step)]
    torch.testing.assert_close(slope, (moved[0] - moved[1]) / (2 * step), atol=1e-8, rtol=1e-7)


def test_bad_input_is_named_with_its_remedy():
    with pytest.raises(ValueError, match=r"barrier_weight = 0 is not above 0 and finite: without a barrier"):
        central_path(0.0)
    with pytest.raises(ValueError, match=r"barrier_weight = -1 is not above 0"):
        central_path(torch.tensor([0.1, -1.0]))
    with pytest.raises(
        ValueError, match=r"limits = \(4\.0, 2\.0\) do not rise from above 0: give the tighter one first"
    ):
        central_path(0.1, (4.0, 2.0))

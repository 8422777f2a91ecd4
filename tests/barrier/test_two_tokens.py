"""Two past tokens: the slab against determinants of Jacobians taken by automatic differentiation."""

import math

import pytest
import torch

from nslab.barrier.two_tokens import slab, slab_determinant


def determinant(u, first, second, scores):
    """Of the Jacobian of u - mean(u), by automatic differentiation of softmax attention over two tokens."""
    past = torch.stack([first, second])
    jacobian = torch.autograd.functional.jacobian(lambda x: x - (past @ scores @ x).softmax(-1) @ past, u)
    return torch.linalg.det(jacobian)


def draws(seed, width=3):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=g, dtype=torch.float64) for shape in ((width,), (width,), (width, width))]


def with_kappa(seed, kappa):
    """Two tokens and a score matrix that is not symmetric, of the kappa wanted."""
    first, second, scores = draws(seed)
    delta = first - second
    return first, second, scores * kappa / (delta @ scores @ delta)


@pytest.mark.parametrize("seed", range(5))
def test_the_determinant_is_that_of_the_jacobian(seed):
    first, second, scores = draws(seed)
    u = torch.randn(7, 3, generator=torch.Generator().manual_seed(99), dtype=torch.float64)
    expected = torch.stack([determinant(one, first, second, scores) for one in u])
    torch.testing.assert_close(slab_determinant(u, first, second, scores), expected, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("kappa", [4.5, 8.0, 30.0])
def test_the_determinant_of_autodiff_is_zero_on_both_hyperplanes_and_negative_between(kappa):
    first, second, scores = with_kappa(1, kappa)
    found = slab(first, second, scores)
    assert found.kappa.item() == pytest.approx(kappa)
    unit = found.normal / found.normal.norm()
    g = torch.Generator().manual_seed(0)
    for _ in range(5):
        along = torch.randn(3, generator=g, dtype=torch.float64)
        along = along - (along @ unit) * unit  # any point of the hyperplane through 0
        for side, sign in ((-0.5, 0), (0.5, 0), (0, -1), (-0.49, -1), (0.51, 1), (-0.51, 1)):
            value = determinant(along + side * found.width * unit, first, second, scores).item()
            assert value == pytest.approx(0, abs=1e-10) if sign == 0 else value * sign > 0
    least = determinant(torch.zeros(3, dtype=torch.float64), first, second, scores).item()
    assert least == pytest.approx(1 - kappa / 4), "both logits are 0 for a query of 0"


def test_the_numbers_of_the_exercise_and_of_the_magnet():
    one = torch.ones(1, dtype=torch.float64)
    found = slab(one, -one, 2 * one[:, None])
    assert found.kappa.item() == 8
    assert found.offset.item() == pytest.approx(1.762747, abs=5e-7)
    assert found.width.item() / 2 == pytest.approx(math.acosh(math.sqrt(2)) / 2), "the fold of the magnet at a = 2"
    assert slab_determinant(0 * one, one, -one, 2 * one[:, None]).item() == -1


def test_below_four_there_is_no_boundary_and_at_four_a_single_hyperplane():
    for kappa, exists in ((-3.0, False), (0.0, False), (3.99, False), (4.0, True), (4.01, True)):
        first = torch.tensor([math.sqrt(abs(kappa)) / 2, 0.5], dtype=torch.float64)
        second = first * torch.tensor([-1, 1])
        scores = torch.diag(torch.tensor([math.copysign(1, kappa), 0.3], dtype=torch.float64))
        found = slab(first, second, scores)
        assert found.kappa.item() == pytest.approx(kappa, abs=1e-14)
        assert found.exists.item() is exists
        assert found.offset.isnan().item() is not exists
        assert (found.width.item() > 0) is (kappa > 4)
        line = torch.stack([torch.linspace(-9, 9, 501, dtype=torch.float64), torch.zeros(501)], -1)
        least = slab_determinant(line, first, second, scores).min().item()
        assert least == pytest.approx(1 - max(kappa, 0) / 4, abs=0.02)
        assert (least < -1e-12) is (kappa > 4)


def test_half_precision_is_upcast_and_the_offset_is_exact_just_above_four():
    one = torch.tensor([1.0])
    for excess in (1e-6, 1e-4, 1e-2):
        scores = torch.tensor([[1 + excess / 4]])  # float32, and kappa = 4 times that
        above = math.sqrt(4 * float(scores) - 4)
        assert slab(one, -one, scores).offset.item() == pytest.approx(2 * math.asinh(above / 2), rel=1e-6)
    half = slab(one.bfloat16(), -one.bfloat16(), torch.tensor([[2.0]]).bfloat16())
    assert half.offset.dtype == torch.float32
    assert half.offset.item() == pytest.approx(1.762747, abs=1e-6)
    mixed = slab_determinant(0 * one.double(), one, -one, torch.tensor([[2.0]]))
    assert (mixed.dtype, mixed.item()) == (torch.float64, -1)
    tokens, scores = torch.linspace(0, 1, 6).view(2, 3), 3.3 * torch.eye(3)
    wanted = slab(*tokens, scores).kappa
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(slab(*tokens, scores).kappa, wanted)


def test_many_pairs_at_once_and_gradients_that_are_finite():
    first, second = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    scores = (2 * torch.eye(3, dtype=torch.float64)).requires_grad_()
    found = slab(first, second, scores)
    assert found.kappa.shape == found.width.shape == (6,)
    assert found.exists.any()
    assert not found.exists.all()
    single = slab(first[2], second[2], scores)
    torch.testing.assert_close(found.normal[2], single.normal)
    torch.testing.assert_close(found.width[2], single.width)
    (slope,) = torch.autograd.grad(found.width.sum(), scores)
    assert slope.isfinite().all()
    assert torch.autograd.grad(slab(first[:1], first[:1], scores).width.sum(), scores)[0].isfinite().all()


def test_bad_input_is_named_with_its_remedy():
    u = torch.zeros(2)
    with pytest.raises(ValueError, match=r"scores has shape \(2, 3\): it must be square"):
        slab(u, u, torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"scores is 3 wide and the embeddings 2: give both the same width"):
        slab(u, u, torch.zeros(3, 3))
    with pytest.raises(ValueError, match=r"first has shape \(2,\), second \(3,\): give two tokens of one width"):
        slab(u, torch.zeros(3), torch.eye(2))
    with pytest.raises(ValueError, match=r"second has nan at \(1,\): look at what computed it"):
        slab(u, torch.tensor([0.0, math.nan]), torch.eye(2))
    with pytest.raises(ValueError, match=r"u has shape \(3,\) and the past tokens a width of 2: give the same"):
        slab_determinant(torch.zeros(3), u, u, torch.eye(2))

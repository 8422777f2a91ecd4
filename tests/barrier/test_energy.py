"""The Hopfield energy: its gradient is the residual and its Hessian the Jacobian block, by autodiff."""

import math

import pytest
import torch

from nslab.barrier.energy import hopfield_energy, hopfield_gradient, hopfield_hessian


@pytest.fixture
def drawn():
    g = torch.Generator().manual_seed(3)
    u, memories = (torch.randn(shape, generator=g, dtype=torch.float64) for shape in ((4, 3), (5, 3)))
    return u, memories, torch.tensor([0.3, 1.0, 2.5, 7.0], dtype=torch.float64)


def spelled(u, memories, beta):
    total = sum(math.exp(beta * float(u @ memory)) for memory in memories)
    return float(u @ u) / 2 - math.log(total) / beta


def test_the_energy_is_its_formula(drawn):
    u, memories, beta = drawn
    expected = [spelled(one, memories, b) for one, b in zip(u, beta.tolist(), strict=True)]
    assert hopfield_energy(u, memories, beta).tolist() == pytest.approx(expected, abs=1e-12)


def test_its_gradient_is_the_residual_of_softmax_attention(drawn):
    u, memories, beta = drawn
    point = u.clone().requires_grad_()
    (slope,) = torch.autograd.grad(hopfield_energy(point, memories, beta).sum(), point)
    torch.testing.assert_close(hopfield_gradient(u, memories, beta), slope, atol=1e-14, rtol=1e-13)
    weights = (beta[:, None] * (u @ memories.T)).softmax(-1)
    torch.testing.assert_close(hopfield_gradient(u, memories, beta), u - weights @ memories, atol=1e-14, rtol=1e-13)


def test_its_hessian_is_the_jacobian_of_the_residual(drawn):
    u, memories, beta = drawn
    found = hopfield_hessian(u, memories, beta)
    for row, b in enumerate(beta):
        expected = torch.autograd.functional.hessian(lambda x, b=b: hopfield_energy(x, memories, b), u[row])
        torch.testing.assert_close(found[row], expected, atol=1e-12, rtol=1e-12)

        def residual(x, b=b):
            return x - (b * (memories @ x)).softmax(-1) @ memories

        by_hand = torch.autograd.functional.jacobian(residual, u[row])
        torch.testing.assert_close(found[row], by_hand, atol=1e-12, rtol=1e-12)


def test_in_one_dimension_with_memories_at_one_a_basin_is_born_at_beta_one():
    u = torch.linspace(-2, 2, 401, dtype=torch.float64)[:, None]
    memories = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
    for beta, basins in ((0.5, 1), (0.99, 1), (1.05, 2), (3.0, 2)):
        heights = hopfield_energy(u, memories, beta)
        closed = u[:, 0].square() / 2 - (2 * torch.cosh(beta * u[:, 0])).log() / beta
        torch.testing.assert_close(heights, closed)
        dips = (heights[1:-1] < heights[:-2]) & (heights[1:-1] < heights[2:])
        assert dips.sum() == basins
        middle = hopfield_hessian(torch.zeros(1, dtype=torch.float64), memories, beta)
        assert middle.item() == pytest.approx(1 - beta)


def test_a_large_beta_does_not_overflow_and_memories_may_have_batch_dimensions():
    memories = torch.tensor([[-1.0], [1.0]])
    found = hopfield_energy(torch.tensor([1.0]), memories, 1000.0)
    assert found.item() == pytest.approx(-0.5)
    many = torch.stack([memories, 2 * memories])
    assert hopfield_hessian(torch.tensor([0.3]), many, 1.5).shape == (2, 1, 1)
    torch.testing.assert_close(
        hopfield_gradient(torch.tensor([0.3]), many, 1.5)[1], hopfield_gradient(torch.tensor([0.3]), many[1], 1.5)
    )


@pytest.mark.parametrize("form", [hopfield_energy, hopfield_gradient, hopfield_hessian])
def test_half_precision_is_upcast_and_autocast_is_kept_out(form, drawn):
    u, memories, beta = (tensor.bfloat16() for tensor in drawn)
    exact = form(u.double(), memories.double(), beta.double())
    with torch.autocast("cpu", torch.bfloat16):
        for found in (form(u, memories, beta), form(u.float(), memories.float(), beta.float())):
            assert found.dtype == torch.float32
            torch.testing.assert_close(found.double(), exact, atol=1e-5, rtol=1e-5)


def test_bad_input_is_named_with_its_remedy():
    u, memories = torch.zeros(2), torch.zeros(3, 2)
    with pytest.raises(ValueError, match=r"beta = 0 is not above 0: give the inverse temperature"):
        hopfield_energy(u, memories, 0)
    with pytest.raises(ValueError, match=r"memories has shape \(0, 2\): give at least one past token"):
        hopfield_gradient(u, memories[:0], 1.0)
    with pytest.raises(
        ValueError, match=r"u has shape \(1,\), memories \(3, 2\): give tokens and memories of one width"
    ):
        hopfield_hessian(u[:1], memories, 1.0)

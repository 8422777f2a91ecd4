"""All three forms of the weighted outer products against the plain sum, forward and backward."""

import pytest
import torch

from nslab.barrier import second_moments
from nslab.barrier.second_moments import weighted_products

TOLERANCE = 1e-11  # float64, relative to the largest entry of sums of up to 300 products


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def plain(weights, left, right):
    return torch.einsum("...ms,...sv,...sk->...mvk", weights, left, right)


@pytest.mark.parametrize(
    ("rows", "length", "inner", "outer"),
    [
        (2, 9, 3, 8),  # few rows
        (5, 9, 3, 8),  # many rows
        (19, 300, 30, 8),  # large, and not a whole number of steps
        (8, 256, 32, 64),  # as large as asks for the streamed form
        (3, 0, 2, 8),
        (0, 9, 2, 8),
    ],
)
def test_every_form_is_the_plain_sum_with_its_gradients(rows, length, inner, outer, device):
    seen = torch.arange(length) < torch.linspace(0, length, rows)[:, None]  # the first row sees nothing
    given = drawn(2, 3, rows, length), drawn(2, 1, length, inner, seed=1), drawn(2, 3, length, outer, seed=2)
    cotangent = drawn(2, 3, rows, inner, outer, seed=3).to(device)
    found = []
    for form in (weighted_products, plain):
        logits, left, right = (tensor.to(device).requires_grad_() for tensor in given)
        weights = logits.softmax(-1).masked_fill(~seen.to(device), 0)
        sums = form(weights, left, right)
        found.append((sums, *torch.autograd.grad((sums * cotangent).sum(), (logits, left, right))))
    for got, wanted in zip(*found, strict=True):
        assert got.shape == wanted.shape
        if got.numel():
            assert (got - wanted).abs().max() <= TOLERANCE * wanted.abs().max().clamp(min=1)


def test_second_derivatives_and_those_of_torch_func_are_right_in_the_streamed_form(monkeypatch):
    """Also of a sum of products, whose gradient does not depend on what comes after them."""
    monkeypatch.setattr(second_moments, "LARGE", 1)
    given = drawn(2, 9, 5).softmax(-1), drawn(2, 5, 3, seed=1), drawn(2, 5, 4, seed=2)
    leaves = [tensor.clone().requires_grad_() for tensor in given]
    assert torch.autograd.gradgradcheck(weighted_products, leaves)
    by_func = torch.func.grad(lambda *x: weighted_products(*x).square().sum(), argnums=(0, 1, 2))(*given)
    for got, wanted in zip(by_func, torch.autograd.grad(plain(*leaves).square().sum(), leaves), strict=True):
        torch.testing.assert_close(got, wanted)


def test_the_same_numbers_give_the_same_bits():
    given = drawn(2, 9, 256).softmax(-1), drawn(2, 256, 64), drawn(2, 256, 64, seed=1)
    assert torch.equal(weighted_products(*given), weighted_products(*given))

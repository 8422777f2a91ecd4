"""The table against the integrals it interpolates.

Tolerances, fixed before the code.
"""

import math

import numpy as np
import pytest
import torch
from numpy.polynomial import chebyshev

from nslab.propagation.agreement_table import AgreementTable
from nslab.propagation.soft_votes import agreement_mass

TOLERANCES = {
    "table": 1e-5,  # what is promised, up to 64 tokens
    "many": 2e-5,  # and beyond
    "shared": 1e-8,  # a table for several n against one for one n
    "series": 1e-12,  # the same polynomial, summed by numpy
    "slopes": 2e-3,  # relative, inside (-1, 1)
    "float32": 2e-6,
}
SEVERAL = range(1, 17)


def points(seed=0, count=12):
    """Correlations, most of them close to 1, where the mass turns sharply, and spreads of all sizes."""
    g = torch.Generator().manual_seed(seed)
    close = 1 - 10 ** (-5 * torch.rand(count, generator=g, dtype=torch.float64))
    spread = torch.cat([torch.tensor([0.0, 0.01]).double(), 10 ** (4 * torch.rand(14, generator=g).double() - 1.5)])
    worst = (
        torch.tensor([1 - 3.5e-6], dtype=torch.float64),
        torch.tensor([500.0], dtype=torch.float64),
    )  # in a dense scan
    r = torch.cat([torch.tensor([-1.0, -0.7, 0.0, 0.4, 1.0], dtype=torch.float64), close, worst[0]])
    return r, torch.cat([spread, worst[1]])[:, None]


@pytest.mark.parametrize(("n", "tolerance"), [(2, "table"), (64, "table"), (1024, "many")])
def test_the_table_is_within_a_hundred_thousandth_or_two(n, tolerance):
    r, spread = points()
    table = AgreementTable.of(n)
    assert (table(r, spread) - agreement_mass(r, spread, n)).abs().max() < TOLERANCES[tolerance]
    assert (table(r, math.inf) - agreement_mass(r, math.inf, n)).abs().max() < TOLERANCES[tolerance]
    assert (table(r, 0.0) - 1 / n).abs().max() < TOLERANCES["series"]


def test_a_table_for_several_numbers_of_tokens_holds_each_of_them():
    table = AgreementTable.of(SEVERAL)
    r, spread = points(1, 4)
    counts = torch.tensor(SEVERAL)
    found = table(r, spread[:, None])  # (spread, tokens, r)
    assert found.shape == (len(spread), len(counts), len(r))
    assert (found - agreement_mass(r, spread, counts).movedim(0, 1)).abs().max() < TOLERANCES["table"]
    single = AgreementTable.of(16)(r, spread)
    assert (found[:, -1] - single).abs().max() < TOLERANCES["shared"]
    assert (found[:, 0] - 1).abs().max() < TOLERANCES["series"]  # a lone token


def test_rows_of_several_numbers_of_tokens_can_have_their_own_correlations():
    table = AgreementTable.of(SEVERAL)
    r = torch.linspace(-1, 1, 16 * 3, dtype=torch.float64).reshape(16, 3)
    spread = torch.linspace(0, 9, 16, dtype=torch.float64)[:, None]
    paired = table(r, spread)
    for i in range(16):
        assert torch.equal(paired[i], table(r[i], spread[i])[i])


def test_the_coefficients_are_all_a_twin_needs():
    table = AgreementTable.of(2)
    r, spread = points(2)
    share = 1.5 / (spread**2 + 1.5)
    x, kappa = share.sqrt(), 1 - share
    y = torch.where(kappa > 1e-6, torch.asin(kappa * r) / torch.asin(kappa), r)
    x, y = (value.numpy() for value in torch.broadcast_tensors(2 * x - 1, y))
    expected = chebyshev.chebval2d(x, y, table.coefficients.numpy())
    assert np.abs(table(r, spread).numpy() - expected).max() < TOLERANCES["series"]


def test_slopes_follow_those_of_the_integrals():
    table = AgreementTable.of(1024)
    r = torch.tensor([-0.6, 0.1, 0.5, 0.9, 0.99], dtype=torch.float64).repeat(3, 1).requires_grad_()
    spread = torch.tensor([[0.5], [4.0], [30.0]], dtype=torch.float64).repeat(1, 5).requires_grad_()
    found = torch.autograd.grad(table(r, spread).sum(), (r, spread))
    expected = torch.autograd.grad(agreement_mass(r, spread, 1024).sum(), (r, spread))
    for slope, true in zip(found, expected, strict=True):
        assert bool(((slope - true).abs() <= TOLERANCES["slopes"] * (0.01 + true.abs())).all())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_slopes_are_finite_everywhere(dtype):
    table = AgreementTable.of(2, dtype=dtype)
    for tau in (0.0, 1e-5, 1.0, 1e3, 1e9, math.inf):
        r = torch.tensor([-1.0, 0.0, 1.0], dtype=dtype, requires_grad=True)
        spread = torch.tensor(tau, dtype=dtype, requires_grad=True)
        slopes = torch.autograd.grad(table(r, spread).sum(), (r, spread))
        assert all(bool(slope.isfinite().all()) for slope in slopes)
        assert slopes[1] == 0 or tau not in (0.0, math.inf)


def test_tables_are_kept():
    assert AgreementTable.of(16) is AgreementTable.of(16)
    assert AgreementTable.of(range(1, 17)) is AgreementTable.of(list(SEVERAL))


def test_shapes_kinds_and_devices(device):
    table = AgreementTable.of(16, device=device)
    r = torch.linspace(-1, 1, 6, device=device).reshape(2, 3)
    found = table(r, torch.tensor(3.0, device=device))
    assert found.shape == (2, 3)
    assert found.dtype == torch.float32
    assert found.device.type == device.type
    assert (found.double().cpu() - AgreementTable.of(16)(r.double().cpu(), 3.0)).abs().max() < TOLERANCES["float32"]
    assert table(r[0, 0], 3).shape == ()
    assert table(0.5, 3).dtype == torch.float64  # Python numbers
    assert table(r[0], torch.ones(4, 1, device=device)).shape == (4, 3)
    single = AgreementTable.of(16, dtype=torch.float32, device=device)
    assert single.coefficients.dtype == torch.float32
    assert (single(r, 3.0) - found).abs().max() < 20 * TOLERANCES["float32"]
    assert AgreementTable.of(SEVERAL, device=device)(r[0, 0], 3).shape == (16,)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: AgreementTable.of(0), "tokens = 0: at least 1"),
        (lambda: AgreementTable.of([3, 0]), "tokens = 0: at least 1"),
        (lambda: AgreementTable.of(2)(1.2, 1.0), r"r = 1.2 is outside \[-1, 1\]"),
        (lambda: AgreementTable.of(2)(math.nan, 1.0), "r = nan"),
        (lambda: AgreementTable.of(2)(0.5, -1.0), "spread = -1: .* give a number >= 0"),
        (lambda: AgreementTable.of(2)(0.5, math.nan), "spread = nan"),
    ],
)
def test_bad_input_is_refused_with_a_remedy(call, words):
    with pytest.raises(ValueError, match=words):
        call()

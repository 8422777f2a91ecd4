"""Jacobians of the norms against automatic differentiation of torch's own."""

import pytest
import torch
from torch.nn import functional as F

from nslab.barrier.norm_path import NormJacobian, layer_norm_jacobian, rms_norm_jacobian

TOLERANCE = {"exact": 1e-13, "half": 1e-5}
EPSILON = 1e-3  # large enough to see whether it is in the right place


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", ["layer", "rms"])
def test_norm_jacobians_are_those_of_automatic_differentiation(kind, weighted):
    x, weight = drawn(2, 3, 5) + 0.5, drawn(5, seed=1) if weighted else None
    norm = F.rms_norm if kind == "rms" else (lambda x, shape, w, eps: F.layer_norm(x, shape, w, None, eps))
    ours = rms_norm_jacobian if kind == "rms" else layer_norm_jacobian
    got = ours(x, weight, EPSILON)
    for batch in range(2):
        for token in range(3):
            wanted = torch.autograd.functional.jacobian(lambda y: norm(y, (5,), weight, EPSILON), x[batch, token])
            assert (got[batch, token] - wanted).abs().max() < TOLERANCE["exact"]


def test_the_parts_make_the_whole_at_the_rows_asked_for(device):
    x, weight, matrix = drawn(2, 6, 5).to(device), drawn(5, seed=1).to(device), drawn(3, 5, seed=2).to(device)
    norm, rows = NormJacobian(x, weight, EPSILON), torch.tensor([4, 0], device=device)
    left, right, scale = norm.parts(rows)
    outer = (left @ matrix.mT)[..., None] * right[..., None, :]
    product = (norm.project(matrix) - outer) / scale[..., None]
    wanted = matrix @ layer_norm_jacobian(x, weight, EPSILON)[:, rows]
    assert (product - wanted).abs().max() < TOLERANCE["exact"]


def test_half_precision_is_upcast():
    x = drawn(4).bfloat16()
    got = layer_norm_jacobian(x)
    assert got.dtype == torch.float32
    assert (got - layer_norm_jacobian(x.double())).abs().max() < TOLERANCE["half"]

"""The tolerances of the attention tests, fixed in one table, and seeded tensors."""

import pytest
import torch

TOLERANCES = {
    "exact": 1e-12,  # an identity in double precision
    "single": 2e-6,  # the same in single precision
    "other package": 1e-6,  # an independent implementation in single precision
}


@pytest.fixture
def tolerances():
    return TOLERANCES


@pytest.fixture
def normal():
    """Seeded standard normal tensors in double precision, drawn on the CPU so that all devices get the same."""

    def draw(*shape, seed=0, device="cpu", dtype=torch.float64):
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(device, dtype)

    return draw

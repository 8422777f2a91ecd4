"""The tolerances of the Transformer tests, fixed in one table, and small networks with weights that matter."""

from dataclasses import replace

import pytest
import torch

from nslab.transformer import Transformer, TransformerConfig

TOLERANCES = {
    "exact": 1e-12,  # an identity in double precision
    "other package": 2e-5,  # an independent implementation in single precision, several layers deep
    "spread": 0.03,  # relative error of a measured standard deviation of at least 10,000 weights
}
SMALL = TransformerConfig(vocabulary=11, context=9, width=12, layers=3, heads=3)


@pytest.fixture
def tolerances():
    return TOLERANCES


@pytest.fixture
def network():
    """A small network in double precision, in evaluation mode, all its weights drawn wide enough to matter."""

    def make(device="cpu", **changes):
        model = Transformer(replace(SMALL, **changes), generator=torch.Generator().manual_seed(0)).double()
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                drawn = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
                weight.copy_(1 + drawn / 4 if "norm" in name and weight.ndim == 1 else drawn / 2)
        return model.eval().to(device)

    return make


@pytest.fixture
def prompts():
    """Token ids (4, length), the same on all devices."""

    def draw(length=9, device="cpu", vocabulary=11):
        return torch.randint(vocabulary, (4, length), generator=torch.Generator().manual_seed(2)).to(device)

    return draw

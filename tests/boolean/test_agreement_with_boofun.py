"""Agreement with boofun 1.3.0, an independent package for the analysis of Boolean functions.

boofun's tables hold False/True for +1/-1 and index bit 0 is its first variable, as here. Where its functions are
defined with another sign than ours, the test says so. Not compared: its sampled estimators and its p-biased tools.
"""

from importlib.metadata import version

import boofun
import pytest
import torch

from nslab import boolean as bf

# boofun hands Python lists to Numba, which announces that this will end.
pytestmark = pytest.mark.filterwarnings("ignore::numba.core.errors.NumbaPendingDeprecationWarning")

DOUBLE = {"dtype": torch.float64}


def dual(f):
    return -f.flip(-1)  # -f(-x)


NAMED = {
    "majority(3)": (boofun.majority(3), bf.majority(3, **DOUBLE)),
    "majority(7)": (boofun.majority(7), bf.majority(7, **DOUBLE)),
    "parity(4)": (boofun.parity(4), bf.parity(4, **DOUBLE)),
    "dictator(4, 1)": (boofun.dictator(4, 1), bf.dictator(4, 1, **DOUBLE)),
    "AND(5)": (boofun.AND(5), bf.conjunction(5, **DOUBLE)),
    "OR(5)": (boofun.OR(5), bf.disjunction(5, **DOUBLE)),
    # "AND of ORs on groups of k variables": the dual of O'Donnell's OR of ANDs
    "tribes(3, 9)": (boofun.tribes(3, 9), dual(bf.tribes(3, 3, **DOUBLE))),
}


@pytest.mark.parametrize("name", NAMED)
def test_coefficients_influences_and_stability_agree(name, close):
    theirs, ours = NAMED[name]
    assert close(bf.spectrum(ours), theirs.fourier())
    assert close(bf.influences(ours), theirs.influences())
    assert close(bf.total_influence(ours), theirs.total_influence())
    rho = torch.tensor([-0.7, 0.0, 0.5, 0.9, 1.0], dtype=torch.float64)
    assert close(bf.stability(ours, rho), [theirs.noise_stability(r) for r in rho.tolist()])
    levels = theirs.spectral_weight_by_degree()
    assert close(bf.level_weights(ours), [levels.get(k, 0.0) for k in range(len(levels))])


def test_its_noise_stability_is_the_correlation_although_documented_as_a_probability():
    """Majority of 3 at rho = 1/2: correlation 0.40625, probability of agreement 0.703125. boofun returns the former."""
    assert version("boofun") == "1.3.0"
    analyzer = boofun.SpectralAnalyzer(boofun.majority(3))
    assert "probability" in type(analyzer).noise_stability.__doc__
    assert analyzer.noise_stability(0.5) == pytest.approx(0.40625)
    ours = bf.stability(bf.majority(3, **DOUBLE), 0.5).item()
    assert ours == pytest.approx(0.40625)
    assert (1 + ours) / 2 == pytest.approx(0.703125)


def test_random_functions_agree(close):
    f = bf.random(6, generator=torch.Generator().manual_seed(5), **DOUBLE)
    theirs = boofun.create((f < 0).tolist())
    assert close(bf.spectrum(f), theirs.fourier())
    assert close(bf.influences(f), theirs.influences())
    assert close(bf.max_sensitivity(f), theirs.sensitivity())
    assert bf.degree(f) == theirs.degree()

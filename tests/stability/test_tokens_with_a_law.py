"""`Tokens` with a law: every estimator of `noise_stability` and the influences against enumeration."""

import numpy as np
import pytest
import torch

from nslab.stability import Tokens, average_sensitivity, influences, noise_stability
from nslab.stability.pilot import METHODS

LAW = torch.tensor([0.1, 0.0, 0.6, 0.3, 0.0], dtype=torch.float64)
KEEP = [0.2, 0.9]


@pytest.mark.parametrize("method", sorted(METHODS))
@pytest.mark.parametrize("special", [(), (4,)])
def test_every_estimator_finds_the_spectral_sum_of_the_law(
    method, special, on_tokens, seeded, within_error, weighted_parts
):
    table = np.random.default_rng(0).normal(size=(5, 5, 5)) + 1
    table[1], table[4] = 100.0, 100.0  # never drawn
    norms = weighted_parts(table, LAW.numpy())
    truth = torch.tensor([sum(k ** len(s) * norm for s, norm in norms.items()) for k in KEEP])
    space = Tokens(3, 5, special, LAW)
    request = {"keep": KEEP, "evaluations": 60_000, "method": method}
    found = noise_stability(on_tokens(table), space, generator=seeded(0), **request)
    assert within_error(found, truth)
    centred = noise_stability(on_tokens(table), space, version="centred", generator=seeded(1), **request)
    offset = norms[()]
    assert within_error(centred, (truth - offset) / (sum(norms.values()) - offset))


def test_influences_are_mean_variances_along_each_coordinate(on_tokens, seeded, within_error, weighted_parts):
    table = np.random.default_rng(1).normal(size=(5, 5))
    norms = weighted_parts(table, LAW.numpy())
    expected = [sum(v for s, v in norms.items() if i in s) for i in range(2)]
    space = Tokens(2, 5, law=LAW)
    assert within_error(influences(on_tokens(table), space, samples=30_000, generator=seeded(2)), expected)
    found = average_sensitivity(on_tokens(table), space, samples=30_000, generator=seeded(3))
    assert within_error(found, sum(expected))


def test_a_linear_function_leaves_no_error_to_the_linear_control(seeded):
    """Its stability is known exactly, so a control that stands for the law takes the error away."""
    score = torch.tensor([1.0, 5.0, -1.0, 3.0, 5.0], dtype=torch.float64)
    f = lambda ids: score[ids].sum(-1)  # noqa: E731
    request = {"keep": 0.5, "evaluations": 40_000, "version": "centred"}
    controlled = noise_stability(f, Tokens(4, 5, law=LAW), method="linear", generator=seeded(4), **request)
    plain = noise_stability(f, Tokens(4, 5, law=LAW), method="common", generator=seeded(4), **request)
    assert controlled.value.item() == pytest.approx(0.5, abs=0.005)
    assert controlled.stderr < 0.25 * plain.stderr


def test_the_uniform_law_is_the_default_and_equality_sees_the_law():
    uniform = Tokens(2, 4, (3,), torch.tensor([1 / 3, 1 / 3, 1 / 3, 0.0]))
    ids = torch.tensor([[0, 1], [2, 2]])
    torch.testing.assert_close(uniform.standardise(ids), Tokens(2, 4, (3,)).standardise(ids))
    assert uniform != Tokens(2, 4, (3,))
    assert Tokens(2, 4) == Tokens(2, 4)
    assert hash(Tokens(2, 4)) == hash(Tokens(2, 4))
    assert Tokens(2, 5, law=LAW) == Tokens(2, 5, law=LAW.clone())
    assert Tokens(2, 5, law=LAW) != Tokens(3, 5, law=LAW)


def test_a_law_that_is_none_is_refused():
    with pytest.raises(ValueError, match="law sums to 2"):
        Tokens(2, 2, law=torch.ones(2))

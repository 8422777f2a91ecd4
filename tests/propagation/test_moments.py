"""The four moments: what they say of a Gaussian sequence, and which ones no sequence has."""

import math

import pytest
import torch

from nslab.propagation.moments import Moments


def of(m, o, q, p):
    return Moments(*(torch.as_tensor(value, dtype=torch.float64) for value in (m, o, q, p)))


def covariance(n, m, o, q, p):
    """Of (h_1 .. h_n, h'_1 .. h'_n), one coordinate, written out entry by entry."""
    rows = []
    for run in (0, 1):
        for i in range(n):
            row = [(q if i == j else p) if run == other else (m if i == j else o) for other in (0, 1) for j in range(n)]
            rows.append(row)
    return torch.tensor(rows, dtype=torch.float64)


def test_inputs_are_independent_gaussian_tokens_and_their_twins():
    rho = torch.tensor([-0.5, 0.0, 0.7])
    start = Moments.inputs(rho)
    assert start.m.equal(rho)
    assert start.m.dtype == torch.float32
    assert [part.tolist() for part in start.parts()[1:]] == [[0, 0, 0], [1, 1, 1], [0, 0, 0]]
    assert start.correlation.equal(rho)
    assert not start.token_correlation.any()
    assert Moments.inputs(1).m.dtype == torch.float64


def test_a_check_accepts_exactly_the_moments_with_a_positive_semidefinite_covariance():
    source = torch.Generator().manual_seed(0)
    verdicts = []
    for _ in range(400):
        n = int(torch.randint(2, 6, (), generator=source))
        m, o, p = (2 * torch.rand(3, generator=source, dtype=torch.float64) - 1).tolist()
        least = torch.linalg.eigvalsh(covariance(n, m, o, 1.0, p)).min().item()
        verdicts.append(least >= 0)
        try:
            of(m, o, 1.0, p).check(n)
            assert least >= 0
        except ValueError:
            assert least < 0
    assert 20 < sum(verdicts) < 380


def test_moments_on_the_boundary_pass_with_rounding():
    third = torch.tensor(1 / 3, dtype=torch.float32)
    for state in (of(1, 0, 1, 0), of(-1, 0, 1, 0), of(0.5, 0.5, 1, 1), Moments(third * 3, third, third * 3, third)):
        assert state.check(2) is state


def test_a_sequence_of_one_token_has_no_other_tokens():
    assert of(0.5, 9, 1, 9).broadcast().m == 0.5
    with pytest.raises(ValueError, match="o/q = 9"):
        of(0.5, 9, 1, 0).check(1)
    of(0.5, 0.9, 1, -0.9).check(1)
    with pytest.raises(ValueError, match="no 2 Gaussian tokens"):
        of(0.5, 0.9, 1, -0.9).check(2)


def test_shapes_broadcast_stack_and_index():
    start = Moments(torch.rand(3, 1), torch.zeros(5), torch.ones(()), torch.zeros(1))
    assert {part.shape for part in start.broadcast().parts()} == {(3, 5)}
    stack = Moments.stack([Moments.inputs(torch.rand(5)), start])
    assert {part.shape for part in stack.parts()} == {(2, 3, 5)}
    assert stack[1].m.equal(start.broadcast().m)
    assert start.each(lambda part: 2 * part).q == 2


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ((0.5, 0, 0, 0), "q = 0: a variance is positive"),
        ((0.5, 0, -1, 0), "q = -1"),
        ((1.5, 0, 1, 0), r"m/q = 1\.5: a correlation is in \[-1, 1\]"),
        ((0.5, 0, 1, -1.5), r"p/q = -1\.5"),
        ((0.9, 0, 1, 0.5), r"no 4 Gaussian tokens have these; q - p >= \|m - o\|"),
        ((0.1, 0, 1, -0.5), r"q \+ 3 p >= \|m \+ 3 o\|"),
        ((math.nan, 0, 1, 0), "m is nan"),
        ((0, 0, math.inf, 0), "q is inf"),
    ],
)
def test_impossible_moments_are_refused_with_their_values(state, message):
    with pytest.raises(ValueError, match=message):
        of(*state).check(4)


def test_a_fault_in_a_stack_is_reported_with_its_layer():
    good, bad = of(0.5, 0, 1, 0), of(0.5, 0, 1, math.nan)
    with pytest.raises(ValueError, match=r"^layer 2: p is nan"):
        Moments.stack([good, good, bad]).check(layers=True)
    with pytest.raises(ValueError, match=r"layer 7: the smallest moments are m 0\.5, o 0, q 1, p nan"):
        bad.alive(7)


def test_a_correlation_outside_its_range_is_no_input():
    with pytest.raises(ValueError, match=r"rho = 1\.2 is outside \[-1, 1\]"):
        Moments.inputs(1.2)

"""F(q, q', kappa) = E ReLU(u) ReLU(v) never falls when a variance or the covariance grows: intervals map end to end."""

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nslab.gaussian import relu_moment

VARIANCE = st.floats(1e-6, 1e6)
SHARE = st.floats(-1, 1)  # the covariance as a share of what the smaller pair of variances allows
STEP = st.floats(0, 1e6)
ROUNDING = 1e-13  # of the largest value that the variances allow


def moment(q: float, q_prime: float, kappa: float) -> float:
    return relu_moment(*(torch.tensor(value, dtype=torch.float64) for value in (q, q_prime, kappa))).item()


def never_falls(before: float, after: float, room: float) -> bool:
    return after >= before - ROUNDING * room


@settings(max_examples=500, deadline=None, derandomize=True)
@given(VARIANCE, VARIANCE, SHARE, SHARE)
def test_f_grows_with_the_covariance(q, q_prime, one, other):
    """By Price's theorem the slope is P[u > 0, v > 0] >= 0."""
    low, high = sorted((one, other))
    room = math.sqrt(q) * math.sqrt(q_prime)
    assert never_falls(moment(q, q_prime, low * room), moment(q, q_prime, high * room), room)


@settings(max_examples=500, deadline=None, derandomize=True)
@given(VARIANCE, VARIANCE, SHARE, STEP, st.booleans())
def test_f_grows_with_each_variance_at_a_fixed_covariance(q, q_prime, share, step, first):
    """The slope in q is a density of v at u = 0 times a mean of ReLU(v), so it is not negative either."""
    kappa = share * math.sqrt(q) * math.sqrt(q_prime)
    larger = (q + step, q_prime) if first else (q, q_prime + step)
    assert never_falls(moment(q, q_prime, kappa), moment(*larger, kappa), math.sqrt(larger[0]) * math.sqrt(larger[1]))


@settings(max_examples=300, deadline=None, derandomize=True)
@given(VARIANCE, VARIANCE, SHARE, st.floats(1e-3, 1e3))
def test_f_is_homogeneous(q, q_prime, share, gain):
    """A gain g multiplies F by g squared: the scale of a signal and its correlation travel apart."""
    kappa = share * math.sqrt(q) * math.sqrt(q_prime)
    scaled = moment(gain**2 * q, gain**2 * q_prime, gain**2 * kappa)
    room = gain**2 * math.sqrt(q) * math.sqrt(q_prime)  # near share = -1 the value is a small difference of this size
    assert math.isclose(scaled, gain**2 * moment(q, q_prime, kappa), rel_tol=1e-9, abs_tol=1e-14 * room)

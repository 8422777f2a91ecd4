"""Products with Sigma_i A, and its trace, against the covariance written out and against a directional derivative."""

import pytest
import torch

from nslab.barrier.matrix_free import covariance_products, first_order

# "series": scores of size 1e-6, so the second order is 1e-12 times a squared trace
TOLERANCE = {"exact": 1e-12, "series": 1e-10, "single": 1e-5}
N, P = 7, 4


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def covariance(u, scores, i, self_included=False):
    past = u[: i + 1 if self_included else i]
    weights = torch.softmax(past @ scores @ u[i], 0)
    away = past - weights @ past
    return away.T @ (weights[:, None] * away)


@pytest.mark.parametrize("self_included", [False, True])
def test_products_and_traces_are_those_of_the_covariance_written_out(self_included):
    u, scores, z = drawn(N, P), drawn(P, P, seed=1), drawn(N, P, seed=2)
    product = covariance_products(u, scores, z, self_included=self_included)
    trace = first_order(u, scores, self_included=self_included)
    for i in range(1, N):
        inner = covariance(u, scores, i, self_included) @ scores
        assert (product[i] - inner @ z[i]).abs().max() < TOLERANCE["exact"]
        assert (trace[i] - inner.trace()).abs() < TOLERANCE["exact"]
    assert product[0].abs().max() == 0
    assert trace[0] == 0


def test_a_product_is_the_derivative_of_the_attention_mean_through_the_query_alone():
    u, scores, z = drawn(N, P), drawn(P, P, seed=1), drawn(N, P, seed=2)
    product = covariance_products(u, scores, z)
    for i in range(1, N):
        mean = torch.autograd.functional.jacobian(lambda q, i=i: torch.softmax(u[:i] @ scores @ q, 0) @ u[:i], u[i])
        assert (product[i] - mean @ z[i]).abs().max() < TOLERANCE["exact"]


def test_the_trace_is_the_barrier_to_first_order_in_the_scores():
    u, scores = drawn(N, P), drawn(P, P, seed=1)
    for i in range(N):
        small = 1e-6 * scores
        inner = covariance(u, small, i) @ small if i else torch.zeros(P, P).double()
        barrier = -torch.linalg.slogdet(torch.eye(P).double() - inner).logabsdet
        assert (first_order(u, small)[i] - barrier).abs() < TOLERANCE["series"]


def test_repulsive_scores_have_a_negative_first_order_term():
    assert (first_order(drawn(N, P), -torch.eye(P).double())[2:] < 0).all()


def test_batches_probes_and_rows_are_slices_of_one_another(device):
    u, scores, z = (x.to(device) for x in (drawn(2, N, P), drawn(P, P, seed=1), drawn(5, 2, N, P, seed=2)))
    rows = torch.tensor([6, 2], device=device)
    many = covariance_products(u, scores, z)  # five probes
    assert many.shape == (5, 2, N, P)
    one = covariance_products(u[1], scores, z[3, 1, rows], rows=rows)
    assert (many[3, 1, rows] - one).abs().max() < TOLERANCE["exact"]
    assert (first_order(u, scores)[1, rows] - first_order(u[1], scores, rows)).abs().max() < TOLERANCE["exact"]


def test_lengths_zero_and_one_half_precision_and_gradients():
    scores = drawn(P, P)
    assert first_order(drawn(0, P), scores).shape == (0,)
    assert covariance_products(drawn(0, P), scores, drawn(0, P)).shape == (0, P)
    assert first_order(drawn(1, P), scores).tolist() == [0]
    half = first_order(drawn(N, P).half(), scores.half())
    assert half.dtype == torch.float32
    exact = first_order(drawn(N, P).half().double(), scores.half().double())
    assert (half - exact).abs().max() < TOLERANCE["single"] * (1 + exact.abs().max())
    small = (drawn(3, 2).requires_grad_(), drawn(2, 2, seed=1).requires_grad_())
    assert torch.autograd.gradcheck(first_order, small)
    assert torch.autograd.gradcheck(covariance_products, (*small, drawn(3, 2, seed=2).requires_grad_()))


def test_bad_input_is_refused_with_the_remedy():
    u, scores = drawn(N, P), drawn(P, P)
    with pytest.raises(ValueError, match=r"z has shape \(3, 4\).*\(7, 4\), one vector for each row"):
        covariance_products(u, scores, drawn(3, P))
    with pytest.raises(ValueError, match="z has nan"):
        covariance_products(u, scores, u * float("nan"))
    with pytest.raises(ValueError, match="it must be square"):
        first_order(u, scores[:2])
    with pytest.raises(ValueError, match="rows holds -1"):
        first_order(u, scores, torch.tensor([-1]))

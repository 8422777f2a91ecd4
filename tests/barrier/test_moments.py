"""Causal moments against their definition, token by token in float64."""

import math

import pytest
import torch

from nslab.barrier.moments import causal_moments, score_matrix

TOLERANCE = {
    "definition": 1e-13,  # float64, entries of order 1
    "forms": 1e-5,  # float32, sums of 9 products of order 1
    "far": 1e-5,  # float32, embeddings 1000 spreads away from the origin, relative to the spread
    "half": 0.02,  # bfloat16 has 8 bits
}


def drawn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def definition(u, scores, i, self_included):
    """Weights, mean and covariance of row i, by the formulas."""
    n, p = u.shape
    last = i + 1 if self_included else i
    weights, mean, covariance = torch.zeros(n).to(u), torch.zeros(p).to(u), torch.zeros(p, p).to(u)
    total = sum(math.exp(u[s] @ scores @ u[i]) for s in range(last))
    for s in range(last):
        weights[s] = math.exp(u[s] @ scores @ u[i]) / total
        mean += weights[s] * u[s]
    for s in range(last):
        covariance += weights[s] * torch.outer(u[s] - mean, u[s] - mean)
    return weights, mean, covariance


@pytest.mark.parametrize("self_included", [False, True])
@pytest.mark.parametrize("n", [7, 1])
@pytest.mark.parametrize("p", [3, 16])  # fewer and more coordinates than twice the rows: both forms
def test_moments_are_those_of_the_definition(n, p, self_included):
    u, scores = drawn(n, p) / p**0.25, drawn(p, p, seed=1) / p**0.5
    moments = causal_moments(u, scores, self_included=self_included)
    for i in range(n):
        for got, wanted in zip(
            (moments.weights[i], moments.mean[i], moments.covariance[i]),
            definition(u, scores, i, self_included),
            strict=True,
        ):
            assert (got - wanted).abs().max() < TOLERANCE["definition"]


def test_the_first_two_positions_have_no_covariance_and_the_rank_grows_by_one_a_token():
    covariance = causal_moments(drawn(8, 4), 0.3 * drawn(4, 4, seed=1)).covariance
    assert covariance[:2].abs().max() < TOLERANCE["definition"]
    ranks = torch.linalg.matrix_rank(covariance, atol=1e-10)
    assert ranks.tolist() == [0, 0, 1, 2, 3, 4, 4, 4]


def test_batches_heads_and_rows_are_slices_of_one_another():
    u, scores = drawn(2, 3, 6, 4), drawn(5, 4, 4, seed=1)
    whole = causal_moments(u[..., None, :, :], scores)  # (2, 3, 5, 6, ...)
    rows = torch.tensor([5, 0, 3])
    for batch, head in [((0, 2), 4), ((1, 1), 0)]:
        one = causal_moments(u[batch], scores[head], rows=rows)
        for name in ("weights", "mean", "covariance"):
            got = getattr(whole, name)[batch][head][rows]
            assert (getattr(one, name) - got).abs().max() < TOLERANCE["definition"]


def test_an_empty_sequence_has_empty_moments():
    moments = causal_moments(torch.zeros(2, 0, 3), torch.eye(3))
    assert (moments.weights.shape, moments.mean.shape, moments.covariance.shape) == ((2, 0, 0), (2, 0, 3), (2, 0, 3, 3))


def test_single_precision_keeps_the_covariance_of_embeddings_far_from_the_origin(device):
    u = drawn(30, 4)
    wanted = causal_moments(u, torch.zeros(4, 4).double()).covariance
    moved = (u.float() + 1000).to(device)
    exact = causal_moments(moved.double(), torch.zeros(4, 4).double().to(device)).covariance  # what rounding of u left
    got = causal_moments(moved, torch.zeros(4, 4, device=device)).covariance
    assert got.dtype == torch.float32
    assert got.device.type == device.type
    assert (got - exact).abs().max() < TOLERANCE["far"]
    assert (got.cpu() - wanted).abs().max() < 1e-3  # the grid of float32 at 1000 is 6e-5


def test_half_precision_is_upcast_and_autocast_is_kept_out():
    u, scores = drawn(6, 4).bfloat16(), (0.3 * drawn(4, 4, seed=1)).bfloat16()
    wanted = causal_moments(u.double(), scores.double()).covariance
    got = causal_moments(u, scores).covariance
    assert got.dtype == torch.float32
    assert (got - wanted).abs().max() < TOLERANCE["forms"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (causal_moments(u.float(), scores.float()).covariance - wanted).abs().max() < TOLERANCE["forms"]


def test_a_score_matrix_gives_the_logits_of_keys_and_queries(device):
    key, query = (drawn(3, 2, 5, seed=seed, dtype=torch.float32).to(device) for seed in (1, 2))
    u = drawn(5, seed=3, dtype=torch.float32).to(device), drawn(5, seed=4, dtype=torch.float32).to(device)
    for h in range(3):
        wanted = (key[h] @ u[0]) @ (query[h] @ u[1]) / math.sqrt(2)
        assert (u[0] @ score_matrix(key, query)[h] @ u[1] - wanted).abs() < TOLERANCE["forms"]
    got = score_matrix(key.bfloat16(), query.bfloat16())
    assert got.dtype == torch.float32
    assert ((got - score_matrix(key, query)).abs() < TOLERANCE["half"] * (1 + got.abs())).all()


def test_bad_input_is_refused_with_the_remedy():
    u = drawn(4, 3)
    with pytest.raises(ValueError, match=r"scores has shape \(3, 2\): it must be square.*score_matrix"):
        causal_moments(u, drawn(3, 2))
    with pytest.raises(ValueError, match=r"scores is 2 wide and the embeddings 3: give both the same width"):
        causal_moments(u, drawn(2, 2))
    with pytest.raises(ValueError, match=r"rows holds 4, outside a sequence of length 4"):
        causal_moments(u, drawn(3, 3), rows=torch.tensor([4]))
    with pytest.raises(ValueError, match=r"scores has nan at \(0, 0\)"):
        causal_moments(u, drawn(3, 3) * float("nan"))
    with pytest.raises(ValueError, match=r"give both as \(head width, embedding width\)"):
        score_matrix(drawn(3, 2), drawn(2, 3))
    with pytest.raises(ValueError, match=r"query has inf"):
        score_matrix(drawn(2, 3), torch.full((2, 3), math.inf).double())


def test_moments_are_differentiable_at_every_position():
    def pieces(u, scores):
        moments = causal_moments(u, scores)
        return moments.weights, moments.mean, moments.covariance

    assert torch.autograd.gradcheck(pieces, (drawn(4, 2).requires_grad_(), drawn(2, 2, seed=1).requires_grad_()))

"""Jacobian blocks against automatic differentiation of the model as it is written on paper, in float64."""

import math

import pytest
import torch

from nslab.barrier.blocks import full_jacobian, jacobian_blocks, null_vector, residuals, self_inclusive_factors
from nslab.barrier.moments import causal_moments

TOLERANCE = {
    "block": 1e-12,  # an entry of a block, against automatic differentiation
    "determinant": 1e-12,  # a log-determinant, or a determinant relative to its size
    "exact": 1e-14,  # what is true by construction
    "boundary": 1e-9,  # a singular value that is zero on paper: the root of rounding, times the gain
    "single": 1e-5,  # float32
}
N, P = 6, 4


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def on_paper(u, scores, values=None, query="own", self_included=False):
    """e_i = u_i - sum_h M_h sum_s softmax_s(u_s^T A_h q) u_s, one token and one head at a time."""
    values = torch.eye(u.shape[1], dtype=u.dtype).expand_as(scores) if values is None else values
    rows = []
    for i in range(len(u)):
        row, past = u[i], u[: i + 1 if self_included else i]
        asks = u[i] if query == "own" else u[i - 1]
        for A, M in zip(scores, values, strict=True):
            if len(past):
                row = row - M @ (torch.softmax(torch.stack([s @ A @ asks for s in past]), 0) @ past)
        rows.append(row)
    return torch.stack(rows)


def autodiff(u, *args, **kwargs):
    """Blocks (i, j) of the Jacobian of the model on paper, (n, n, p, p)."""
    whole = torch.autograd.functional.jacobian(lambda x: on_paper(x, *args, **kwargs), u)
    return whole.transpose(1, 2)  # (n, p, n, p) to (n, n, p, p)


def case(heads, valued):
    scores, values = 0.7 * drawn(heads, P, P, seed=1), drawn(heads, P, P, seed=2) if valued else None
    return drawn(N, P), scores, values


@pytest.mark.parametrize("self_included", [False, True])
@pytest.mark.parametrize("valued", [False, True], ids=["identity values", "value map"])
@pytest.mark.parametrize("heads", [1, 3])
def test_blocks_and_residuals_are_those_of_the_model_on_paper(heads, valued, self_included):
    u, scores, values = case(heads, valued)
    wanted = autodiff(u, scores, values, self_included=self_included)
    if heads == 1:  # then one matrix will do
        scores, values = scores[0], values[0] if valued else None
    settings = {"values": values, "self_included": self_included}
    blocks = jacobian_blocks(u, scores, **settings)
    assert (blocks - wanted[range(N), range(N)]).abs().max() < TOLERANCE["block"]
    whole = full_jacobian(u, scores, **settings)
    assert (whole.unflatten(0, (N, P)).unflatten(2, (N, P)).transpose(1, 2) - wanted).abs().max() < TOLERANCE["block"]
    heads_wide = (scores, values) if heads > 1 else (scores[None], None if values is None else values[None])
    assert (
        residuals(u, scores, **settings) - on_paper(u, *heads_wide, self_included=self_included)
    ).abs().max() < TOLERANCE["block"]


@pytest.mark.parametrize("self_included", [False, True])
@pytest.mark.parametrize("valued", [False, True], ids=["identity values", "value map"])
def test_the_jacobian_is_block_lower_triangular_and_its_log_determinant_the_sum_over_blocks(valued, self_included):
    u, scores, values = case(2, valued)  # two heads: with one and identity values, self-attention is singular
    whole = autodiff(u, scores, values, self_included=self_included)
    above = torch.triu(torch.ones(N, N, dtype=torch.bool), 1)
    assert whole[above].abs().max() == 0
    assert whole[above.T].abs().max() > 0.01  # what is below is there, and does not matter
    blocks = torch.linalg.slogdet(jacobian_blocks(u, scores, values=values, self_included=self_included))
    full = torch.linalg.slogdet(whole.transpose(1, 2).reshape(N * P, N * P))
    assert (full.logabsdet - blocks.logabsdet.sum()).abs() < TOLERANCE["determinant"]
    assert full.sign == blocks.sign.prod()


def test_with_the_previous_query_the_jacobian_is_unit_triangular_and_there_is_no_barrier():
    u, scores, values = case(2, True)
    wanted = autodiff(u, scores, values, query="previous")
    got = full_jacobian(u, scores, values=values, query="previous")
    assert (got.unflatten(0, (N, P)).unflatten(2, (N, P)).transpose(1, 2) - wanted).abs().max() < TOLERANCE["block"]
    assert torch.equal(torch.triu(got), torch.eye(N * P, dtype=got.dtype))
    assert torch.linalg.slogdet(got).logabsdet == 0
    e = residuals(u, scores, values=values, query="previous")
    assert (e - on_paper(u, scores, values, query="previous")).abs().max() < TOLERANCE["block"]


def test_self_attention_shrinks_the_determinant_by_what_is_left_for_the_others():
    u, scores, _ = case(1, False)
    rows = torch.tensor([5, 0, 2])
    others, blocks = self_inclusive_factors(u, scores[0], rows=rows)
    wanted = torch.linalg.det(autodiff(u, scores, self_included=True)[rows, rows])
    got = others**P * torch.linalg.det(blocks)
    assert ((got - wanted).abs() < TOLERANCE["determinant"] * (1 + wanted.abs())).all()
    assert others[1] == 0  # position 0 has nobody else to attend to
    batched = self_inclusive_factors(u.expand(2, 3, N, P), scores[0], rows=rows)
    assert (batched[0][1, 2] - others).abs().max() < TOLERANCE["exact"]
    assert (batched[1][1, 2] - blocks).abs().max() < TOLERANCE["block"]


def test_uniform_self_attention_has_the_barrier_of_one_less_token():
    blocks = jacobian_blocks(drawn(5, 3), torch.zeros(3, 3).double(), self_included=True)
    barrier = -torch.linalg.slogdet(blocks).logabsdet
    for i in range(2, 6):  # i tokens are visible at 0-based position i - 1
        assert abs(barrier[i - 1] + 3 * math.log(1 - 1 / i)) < TOLERANCE["determinant"]
    assert round(barrier[1].item(), 6) == 2.079442


def test_two_tokens_in_the_direction_they_differ_in():
    u = torch.tensor([[1.0, 0.3], [-1.0, 0.3], [0.0, 7.0]], dtype=torch.float64)
    u[:, 1] -= 0.3  # equal weights: the third query is orthogonal to the difference
    block = jacobian_blocks(u, torch.diag(torch.tensor([0.75, 0.3])).double())[2]
    assert (block - torch.diag(torch.tensor([0.25, 1.0])).double()).abs().max() < TOLERANCE["exact"]


def test_on_the_boundary_a_move_along_the_null_vector_moves_the_mean_by_as_much():
    first, second = drawn(2, 3, seed=3)
    scores, apart = drawn(3, 3, seed=4), first - second
    scores = 8 * scores / (apart @ scores @ apart)  # kappa = 8, beyond the 4 from which there is a boundary
    normal = scores.T @ apart
    query = 2 * math.acosh(math.sqrt(2)) * normal / normal.square().sum()
    u = torch.stack([first, second, query])
    v = null_vector(jacobian_blocks(u, scores))[2]
    pulled = causal_moments(u, scores).covariance[2] @ scores @ v
    assert (pulled - v).abs().max() < TOLERANCE["boundary"]
    assert v.norm() == pytest.approx(1, abs=TOLERANCE["exact"])
    step = 1e-4 * v
    moved = residuals(torch.stack([first, second, query + step]), scores)[2] - residuals(u, scores)[2]
    assert moved.norm() < 1e-2 * step.norm()  # second order only
    assert torch.linalg.det(jacobian_blocks(u, scores)[2]).abs() < TOLERANCE["boundary"]


def test_the_null_vector_has_the_smallest_stretch_and_a_fixed_sign():
    blocks = drawn(2, 5, 4, 4)
    v = null_vector(blocks)
    stretch = (blocks @ v[..., None]).squeeze(-1).norm(dim=-1)
    assert (stretch - torch.linalg.svdvals(blocks)[..., -1]).abs().max() < TOLERANCE["block"]
    assert torch.equal(null_vector(-blocks), v)
    assert (v.gather(-1, v.abs().argmax(-1, keepdim=True)) > 0).all()


def test_longer_embeddings_with_weaker_scores_have_the_same_blocks():
    u, scores, _ = case(1, False)
    blocks, scaled = jacobian_blocks(u, scores[0]), jacobian_blocks(3 * u, scores[0] / 9)
    assert (blocks - scaled).abs().max() < TOLERANCE["block"]


@pytest.mark.parametrize("self_included", [False, True])
def test_rows_and_batches_are_slices_of_the_whole(self_included):
    u, scores, values = drawn(2, 3, N, P), 0.7 * drawn(2, P, P, seed=1), drawn(2, P, P, seed=2)
    settings = {"values": values, "self_included": self_included}
    rows = torch.tensor([4, 0, 4, 1])
    some = jacobian_blocks(u, scores, rows=rows, **settings)
    assert some.shape == (2, 3, 4, P, P)
    assert (some - jacobian_blocks(u, scores, **settings)[..., rows, :, :]).abs().max() < TOLERANCE["block"]
    assert (some[1, 2] - jacobian_blocks(u[1, 2], scores, rows=rows, **settings)).abs().max() < TOLERANCE["block"]
    one = residuals(u[1, 2], scores, **settings)
    assert (residuals(u, scores, **settings)[1, 2] - one).abs().max() < TOLERANCE["block"]


def test_a_past_without_spread_leaves_the_identity():
    scores = drawn(P, P)
    assert jacobian_blocks(drawn(0, P), scores).shape == (0, P, P)
    assert full_jacobian(drawn(0, P), scores).shape == (0, 0)
    for length in (1, 2):
        blocks = jacobian_blocks(drawn(length, P), scores)
        assert (blocks - torch.eye(P)).abs().max() < TOLERANCE["exact"]
    assert torch.equal(residuals(drawn(1, P), scores), drawn(1, P))


def test_half_precision_is_upcast_and_autocast_is_kept_out(device):
    u, scores = drawn(N, P).bfloat16().to(device), (0.7 * drawn(P, P, seed=1)).bfloat16().to(device)
    wanted = jacobian_blocks(u.double(), scores.double())
    with torch.autocast(device.type, dtype=torch.bfloat16):
        got = jacobian_blocks(u, scores)
        e = residuals(u.float(), scores.float())
    assert got.dtype == e.dtype == torch.float32
    assert got.device.type == device.type
    assert (got - wanted).abs().max() < TOLERANCE["single"] * (1 + wanted.abs().max())
    assert (e - residuals(u.double(), scores.double())).abs().max() < TOLERANCE["single"] * 10


def test_bad_input_is_refused_with_the_remedy():
    u, scores, values = case(2, True)
    refused = {
        r"scores has shape \(4, 3\): it must be square": lambda: jacobian_blocks(u, scores[0, :, :3]),
        r"values is 3 wide and the embeddings 4": lambda: residuals(u, scores, values=values[:, :3, :3]),
        r"scores has 2 heads, values 3: give as many": lambda: residuals(u, scores, values=drawn(3, P, P)),
        r"give \(width, width\) or \(heads, width, width\)": lambda: jacobian_blocks(u, scores[None]),
        r"query is 'next': give one of 'own', 'previous'": lambda: residuals(u, scores, query="next"),
        r"'previous' and self_included True.*drop one": lambda: residuals(
            u, scores, query="previous", self_included=True
        ),
        r"rows holds 6, outside a sequence of length 6": lambda: jacobian_blocks(u, scores, rows=torch.tensor([6])),
        r"position 3: look at what computed it": lambda: jacobian_blocks(
            u.index_fill(0, torch.tensor(3), math.nan), scores
        ),
        r"give one sequence": lambda: full_jacobian(u[None], scores),
        r"give one head": lambda: self_inclusive_factors(u, scores),
        r"blocks has nan": lambda: null_vector(torch.full((2, 2), math.nan)),
        r"must be square, as jacobian_blocks gives": lambda: null_vector(torch.ones(2, 3)),
    }
    for message, call in refused.items():
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize("self_included", [False, True])
def test_blocks_are_differentiable_at_every_position(self_included):
    arguments = [
        drawn(4, 2).requires_grad_(),
        drawn(2, 2, seed=1).requires_grad_(),
        drawn(2, 2, seed=2).requires_grad_(),
    ]
    assert torch.autograd.gradcheck(
        lambda u, A, M: jacobian_blocks(u, A, values=M, self_included=self_included), arguments
    )
    assert torch.autograd.gradcheck(lambda u, A, M: residuals(u, A, values=M, self_included=self_included), arguments)

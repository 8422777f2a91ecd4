"""Margins against singular value decompositions, random search, and closed forms of one and two tokens."""

import math

import pytest
import torch

from nslab.barrier.blocks import jacobian_blocks
from nslab.barrier.stability_margins import (
    block_margins,
    certified_radius,
    diameter,
    eigen_margin,
    noise_gain,
    safe_temperature,
    sequence_margin,
    support_tokens,
)

EXACT = 1e-12
QUERIES = 20_000


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def slow_block(past, query, scores):
    """I - Sigma A of one query, written out token by token."""
    weights = torch.softmax(past @ scores @ query, 0)
    mean = sum(weight * token for weight, token in zip(weights, past, strict=True))
    covariance = sum(
        weight * torch.outer(token - mean, token - mean) for weight, token in zip(weights, past, strict=True)
    )
    return torch.eye(len(query), dtype=past.dtype) - covariance @ scores


def test_the_worked_block():
    """alpha = (1/2, 1/2), delta = (2, 0), A = diag(0.75, 0.3): Sigma = diag(1, 0), so J = diag(0.25, 1)."""
    u = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 5.0]], dtype=torch.float64)
    found = block_margins(jacobian_blocks(u, torch.diag(torch.tensor([0.75, 0.3], dtype=torch.float64))))
    assert torch.allclose(found.barrier, torch.tensor([0, 0, math.log(4)], dtype=torch.float64), atol=EXACT)
    assert torch.allclose(found.determinant, torch.tensor([1, 1, 0.25], dtype=torch.float64), atol=EXACT)
    assert torch.allclose(found.spectral, torch.tensor([1, 1, 0.25], dtype=torch.float64), atol=EXACT)
    assert found.sign.tolist() == [1, 1, 1]


@pytest.mark.parametrize("p", [1, 2, 5])
def test_the_determinant_lies_between_powers_of_the_singular_values(p):
    blocks = normal(2000, p, p, seed=p)
    found = block_margins(blocks)
    norm = torch.linalg.matrix_norm(blocks, 2)
    assert bool((found.spectral**p <= found.determinant * (1 + EXACT)).all())
    assert bool((found.determinant <= found.spectral * norm ** (p - 1) * (1 + 1e-10)).all())
    by_eigenvalues = torch.linalg.eigvals(blocks).prod(-1).real  # no LU here
    assert torch.allclose(found.sign * found.determinant, by_eigenvalues, atol=1e-10)


def test_a_determinant_near_1_can_hide_a_small_singular_value():
    found = block_margins(torch.diag(torch.tensor([1e-3, 1e3], dtype=torch.float64)))
    assert abs(float(found.determinant) - 1) < EXACT
    assert abs(float(found.spectral) - 1e-3) < EXACT


def test_the_nearest_singular_matrix_is_as_far_as_the_spectral_margin(device):
    """Eckart and Young: J - s w v^T is singular, and no perturbation shorter than s makes J so."""
    blocks = normal(200, 4, 4).to(device)
    spectral, worst = block_margins(blocks).spectral, noise_gain(blocks)
    away = spectral[:, None, None] * worst.noise[:, :, None] * worst.token[:, None, :]
    assert float(torch.linalg.det(blocks - away).abs().max()) < 1e-12
    assert torch.allclose(torch.linalg.matrix_norm(away, 2), spectral)
    other = normal(200, 50, 4, 4, seed=1).to(device)
    other = other / torch.linalg.matrix_norm(other, 2)[..., None, None] * 0.999 * spectral[:, None, None, None]
    assert float(torch.linalg.det(blocks[:, None] - other).abs().min()) > 0


def test_the_worst_noise_is_amplified_by_one_over_s():
    blocks = normal(300, 3, 3)
    found = noise_gain(blocks)
    answer = torch.linalg.solve(blocks, found.noise[..., None])[..., 0]
    assert torch.allclose(answer, found.gain[:, None] * found.token, rtol=1e-8)
    others = normal(300, 3, 200, seed=1)
    gains = torch.linalg.solve(blocks, others / others.norm(dim=1, keepdim=True)).norm(dim=1)
    assert bool((gains <= found.gain[:, None] * (1 + 1e-9)).all())
    assert float((gains.amax(-1) / found.gain).median()) > 0.98  # 200 directions come close


def test_on_the_boundary_the_attention_mean_follows_the_token():
    """Two tokens with kappa = 4 and an undecided query: Sigma A v = v for the direction that noise_gain names."""
    first, second = torch.tensor([1.0, 0.5, 0.0]).double(), torch.tensor([-1.0, -0.5, 0.0]).double()
    delta = first - second
    scores = normal(3, 3)
    scores = scores * 4 / (delta @ scores @ delta)
    query = torch.zeros(3, dtype=torch.float64)
    block = jacobian_blocks(torch.stack([first, second, query]), scores)[-1]
    worst = noise_gain(block)
    assert float(worst.gain) > 1e12
    assert torch.allclose((torch.eye(3) - block) @ worst.token, worst.token, atol=1e-12)


def test_the_barrier_meets_the_two_token_formula():
    """det J = 1 - (kappa / 4) sech^2(z / 2), with the sign."""
    past, query, scores = normal(200, 2, 3, seed=1), normal(200, 3, seed=2), 2 * normal(3, 3, seed=3)
    delta = past[:, 0] - past[:, 1]
    kappa = torch.einsum("bi,ij,bj->b", delta, scores, delta)
    z = torch.einsum("bi,ij,bj->b", delta, scores, query)
    expected = 1 - kappa / 4 / torch.cosh(z / 2) ** 2
    found = block_margins(jacobian_blocks(torch.cat([past, query[:, None]], 1), scores, rows=torch.tensor([2])))
    assert torch.allclose((found.sign * found.determinant)[:, 0], expected, atol=1e-10)
    assert int((expected < 0).sum()) > 3


def test_popoviciu_never_violated_and_met_by_two_tokens():
    """lambda_max(Sigma) <= D^2 / 4, so with t = safe_temperature: s_i >= 1 - 1/t, over 2000 sequences."""
    width, length = 3, 6
    u, scores = normal(2000, length, width, seed=1), 0.05 * normal(width, width, seed=2)
    u = u * torch.linspace(0.2, 3, 2000).double()[:, None, None]
    for stronger in (1, 5, 25):
        found = block_margins(jacobian_blocks(u, stronger * scores))
        factor = safe_temperature(stronger * scores, diameter(u))
        slow = 4 / (torch.linalg.svdvals(stronger * scores)[0] * diameter(u) ** 2)
        assert torch.equal(factor.isinf(), diameter(u) == 0)
        assert torch.allclose(factor[:, 2:], slow[:, 2:])
        assert bool((found.spectral >= 1 - 1 / factor - EXACT).all())
        safe = factor > 1
        assert int(safe[:, 2:].sum()) > 100
        low = (1 - 1 / factor[safe]) ** width
        assert bool((found.determinant[safe] >= low - EXACT).all())
        assert bool((found.sign[safe] > 0).all())
        assert bool((found.barrier[safe] <= -low.log() + EXACT).all())
    pair = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 0.0]], dtype=torch.float64)  # equal weights, along the top
    scores = torch.diag(torch.tensor([0.4, 0.1], dtype=torch.float64))
    edge = safe_temperature(scores, diameter(pair)[-1])
    assert float(block_margins(jacobian_blocks(pair, edge * scores)).spectral[-1]) < 1e-15
    for factor in (0.5, 0.9, 0.999):
        margin = block_margins(jacobian_blocks(pair, factor * edge * scores)).spectral[-1]
        assert abs(float(margin) - (1 - factor)) < EXACT


def test_the_worked_numbers_of_the_safe_temperature():
    """D = 2, |A| = 0.5, p = 3: s >= 0.5, det >= 0.125, b <= 3 log 2, and the radius for s = 0.5 is 1."""
    scores, two = torch.diag(torch.tensor([0.5, 0.2, -0.1])).double(), torch.tensor(2.0, dtype=torch.float64)
    t = float(safe_temperature(scores, two))
    assert (1 - 1 / t, (1 - 1 / t) ** 3, -3 * math.log(1 - 1 / t)) == pytest.approx((0.5, 0.125, 2.079442), abs=1e-6)
    assert float(certified_radius(torch.tensor(0.5, dtype=torch.float64), scores, two)) == pytest.approx(1.0)


def test_no_boundary_within_the_certified_radius():
    """20,000 queries up to the radius, from tokens on both sides of the boundary: the sign of det never turns.

    The change of J stays below 2 / (3 sqrt 3) of L |u - u'|, in one to four dimensions and with two to seven tokens.
    """
    ratios, checked = [], 0
    for seed in range(200):
        width, length = 1 + seed % 4, 2 + seed % 6
        past, query = normal(length, width, seed=seed), normal(width, seed=1000 + seed)
        scores = (0.3 + seed % 7) * normal(width, width, seed=2000 + seed)
        u = torch.cat([past, query[None]])
        block = jacobian_blocks(u, scores)[-1]
        assert torch.allclose(block, slow_block(past, query, scores), atol=1e-10)
        margins = block_margins(block)
        radius = certified_radius(margins.spectral, scores, diameter(u)[-1])
        steps = normal(QUERIES // 200, width, seed=3000 + seed)
        shares = torch.linspace(0.01, 1, len(steps), dtype=torch.float64)
        steps = steps / steps.norm(dim=-1, keepdim=True) * radius * shares[:, None]
        others = torch.cat([past.expand(len(steps), -1, -1), (query + steps)[:, None]], 1)
        moved = jacobian_blocks(others, scores, rows=torch.tensor([length]))[:, 0]
        assert bool((torch.linalg.det(moved).sign() == margins.sign).all())
        change = torch.linalg.matrix_norm(moved - block, 2)
        ratios.append(float((change / (margins.spectral * shares)).max()))  # L |u - u'| = s at the radius
        checked += len(steps)
    assert checked >= QUERIES
    assert 0.3 < max(ratios) < 2 / (3 * math.sqrt(3))


def test_on_a_line_the_certified_radius_is_loose_by_a_known_factor():
    """Two tokens: |J'| = a^2 delta^3 |w (1 - w)(1 - 2w)|, at most 2 / (3 sqrt 3) of L, at w = 1/2 +- 1/(2 sqrt 3)."""
    a, delta = 1.7, 1.3
    weight = 0.5 + 0.5 / math.sqrt(3)
    query = math.log(weight / (1 - weight)) / (a * delta)
    scores, step = torch.tensor([[a]], dtype=torch.float64), 1e-6
    around = torch.tensor([[[delta], [0.0], [query + side * step]] for side in (-1, 1)], dtype=torch.float64)
    low, high = jacobian_blocks(around, scores)[:, -1, 0, 0]
    slope = abs(float(high - low)) / (2 * step)
    lipschitz = 1 / float(certified_radius(torch.ones((), dtype=torch.float64), scores, diameter(around)[0, -1]))
    assert slope / lipschitz == pytest.approx(2 / (3 * math.sqrt(3)), rel=1e-6)
    grid = torch.linspace(-8, 8, 20_001, dtype=torch.float64)
    u = torch.stack([torch.full_like(grid, delta), torch.zeros_like(grid), grid], 1)[..., None]
    blocks = jacobian_blocks(u, scores, rows=torch.tensor([2]))[:, 0, 0, 0]
    assert float(blocks.diff().abs().max() / grid.diff()[0]) <= slope * (1 + 1e-6)


def psd(width, seed=0, rank=None):
    factor = normal(rank or width, width, seed=seed)
    return factor.T @ factor / width


@pytest.mark.parametrize("rank", [1, 4])
def test_the_eigen_margin_is_one_minus_the_largest_eigenvalue_of_sigma_a(rank):
    u, scores = normal(3, 8, 4), psd(4, rank=rank)
    found = eigen_margin(u, scores)
    blocks = jacobian_blocks(u, scores)
    product = torch.linalg.eigvals(torch.eye(4) - blocks)  # of Sigma A, which is not symmetric
    assert float(product.imag.abs().max()) < 1e-10
    assert torch.allclose(found, 1 - product.real.amax(-1), atol=1e-10)
    assert torch.equal(found[:, :2], torch.ones(3, 2).double())
    rows = torch.tensor([7, 3])
    assert torch.allclose(eigen_margin(u, scores, rows), found[:, rows], atol=EXACT)
    least = torch.linalg.eigvals(blocks).real.amin(-1)
    assert torch.equal(found > 0, least > 0)  # its sign is the side of the boundary


def test_eigen_margins_of_many_heads_are_those_of_each():
    u, scores = normal(3, 1, 8, 4), torch.stack([psd(4), psd(4, seed=1)])
    for head in range(2):
        alone = eigen_margin(u[:, 0], scores[head])
        assert torch.allclose(eigen_margin(u, scores)[:, head], alone, atol=EXACT)


def test_the_eigen_margin_is_linear_when_sigma_is_scaled_and_concave_otherwise():
    """A query of 0 has equal weights whatever A is: u -> c u is then Sigma -> c^2 Sigma."""
    past, scores = normal(5, 3), psd(3, seed=1)
    u = torch.cat([past, torch.zeros(1, 3, dtype=torch.float64)])
    one = 1 - eigen_margin(u, scores)[-1]
    for c in (0.1, 0.7, 3.0):
        assert float(1 - eigen_margin(c * u, scores)[-1]) == pytest.approx(c * c * float(one))
    # Sigma = diag(1, 0), diag(0, 1) and half of each, with A = I / 2: margins 1/2, 1/2, and 3/4.
    across, along = [[1.0, 0.0], [-1.0, 0.0]], [[0.0, 1.0], [0.0, -1.0]]
    half = 0.5 * torch.eye(2, dtype=torch.float64)
    margins = [
        float(eigen_margin(torch.tensor([*tokens, [0.0, 0.0]], dtype=torch.float64), half)[-1])
        for tokens in (across, along, across + along)
    ]
    assert margins == pytest.approx([0.5, 0.5, 0.75])


def test_the_eigen_margin_hands_its_gradient_to_the_embeddings():
    u, scores = normal(6, 3).requires_grad_(), 0.3 * torch.eye(3, dtype=torch.float64)  # equal eigenvalues
    assert torch.autograd.gradcheck(lambda u: eigen_margin(u, scores, torch.tensor([3, 5])), u)
    assert not eigen_margin(u.detach(), scores.requires_grad_()).requires_grad


def test_guarantees_have_finite_gradients_although_the_first_two_positions_have_no_boundary():
    u, scores = normal(6, 3).requires_grad_(), normal(3, 3, seed=1).requires_grad_()
    for guarantee in (safe_temperature, lambda *given: certified_radius(torch.ones(6).double(), *given)):
        found = guarantee(scores, diameter(u))
        assert found.isinf().tolist() == [True, True, False, False, False, False]
        for slope in torch.autograd.grad(found[found.isfinite()].sum(), (u, scores)):
            assert slope.isfinite().all()
            assert slope.any()


def test_support_tokens_with_ties_tolerance_and_batches():
    margins = torch.tensor([[1.0, 0.1, 0.5, 0.55, 0.5, 2.0], [0.2, 1.0, 3.0, 4.0, 4.0, 3.1]])
    assert support_tokens(margins).nonzero().tolist() == [[0, 2], [0, 4], [1, 2]]  # positions 0 and 1 never count
    assert support_tokens(margins, 0.101).nonzero().tolist() == [[0, 2], [0, 3], [0, 4], [1, 2], [1, 5]]
    assert sequence_margin(margins).tolist() == [0.5, 3.0]
    beyond = torch.tensor([1.0, 1.0, -0.5, -0.48, 0.3])  # eigen-margins past the boundary: the most negative
    assert support_tokens(beyond, 0.1).tolist() == [False, False, True, True, False]
    rows = torch.tensor([4, 1, 3])
    assert support_tokens(margins[:, rows], rows=rows).tolist() == [[True, False, False], [True, False, True]]
    assert sequence_margin(margins[:, rows], rows=rows).tolist() == [0.5, 4.0]


def test_determinants_that_overflow_or_vanish_still_name_their_support_tokens():
    blocks = torch.eye(20) * torch.tensor([1.0, 1.0, 1e3, 1e5, 2e3])[:, None, None]  # determinants of 1e60 and more
    for size in (1.0, 1e-8):
        assert support_tokens(block_margins(size * blocks)).tolist() == [False, False, True, False, False]
        close = support_tokens(block_margins(size * blocks), 1.01 * 2**20 - 1)
        assert close.tolist() == [False, False, True, False, True]
    ties = torch.tensor([1.0, 1.0, math.inf, math.inf])  # a determinant alone has forgotten how large it was
    assert support_tokens(ties, 0.1).tolist() == [False, False, True, True]


def test_support_tokens_are_the_largest_barriers():
    u, scores = normal(4, 9, 3), normal(3, 3, seed=1)
    found = block_margins(jacobian_blocks(u, scores))
    expected = found.barrier[:, 2:].argmax(-1) + 2
    assert torch.equal(support_tokens(found).nonzero()[:, 1], expected)
    assert torch.equal(support_tokens(found), support_tokens(found.determinant))


@pytest.mark.parametrize("length", [0, 1, 2])
@pytest.mark.parametrize("batch", [(), (3,)])
def test_short_sequences_have_no_boundary(length, batch):
    u, scores = normal(*batch, length, 2), 5 * torch.eye(2, dtype=torch.float64)
    found = block_margins(jacobian_blocks(u, scores))
    assert torch.equal(found.determinant, torch.ones(*batch, length).double())
    assert not found.barrier.any()
    assert not support_tokens(found, 10).any()
    assert support_tokens(found).shape == (*batch, length)
    assert torch.equal(sequence_margin(found), torch.full(batch, math.inf).double())
    assert torch.equal(eigen_margin(u, scores), torch.ones(*batch, length).double())
    assert torch.equal(diameter(u), torch.zeros(*batch, length).double())
    assert bool(safe_temperature(scores, diameter(u)).isinf().all())
    assert bool(certified_radius(found.spectral, scores, diameter(u)).isinf().all())


def test_the_diameter_of_the_past(device):
    u = normal(2, 9, 3).to(device)
    slow = [
        [max([float((one[s] - one[t]).norm()) for s in range(i) for t in range(s)], default=0.0) for i in range(9)]
        for one in u
    ]
    assert torch.allclose(diameter(u), torch.tensor(slow, dtype=torch.float64, device=device))
    rows = torch.tensor([8, 0, 4])
    assert torch.equal(diameter(u, rows), diameter(u)[:, rows])
    copies = torch.full((40, 64), 1e4 / 3, device=device)
    assert not diameter(copies).any()  # copies of one token are at distance 0, not near it


def test_singular_blocks_are_on_the_boundary_and_nothing_is_nan(device):
    blocks = torch.stack([torch.diag(torch.tensor([1.0, 1.0, 0.0])), torch.zeros(3, 3), torch.eye(3)]).to(device)
    found = block_margins(blocks)
    assert found.determinant.tolist() == [0, 0, 1]
    assert found.sign.tolist() == [0, 0, 1]
    assert found.spectral.tolist() == [0, 0, 1]
    assert found.barrier.tolist() == [math.inf, math.inf, 0]
    assert noise_gain(blocks).gain.tolist() == [math.inf, math.inf, 1]
    assert support_tokens(found).tolist() == [False, False, True]


def test_wide_blocks_keep_their_barrier_where_the_determinant_overflows():
    found = block_margins(4 * torch.eye(128))
    assert float(found.determinant) == math.inf
    assert float(found.barrier) == pytest.approx(-128 * math.log(4), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_upcast_also_inside_autocast(dtype):
    blocks, scores = (torch.eye(4) + 0.25 * normal(4, 4).round()).to(dtype), torch.eye(4).to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        found = block_margins(blocks)
        whole = block_margins(blocks.float())
        factor = safe_temperature(scores, diameter(torch.eye(4).to(dtype)))
        margin = eigen_margin(torch.eye(4).to(dtype), scores)
    assert {part.dtype for part in (found.spectral, found.barrier, factor, margin)} == {torch.float32}
    assert torch.equal(found.barrier, whole.barrier)
    assert torch.equal(found.spectral, whole.spectral)


def test_bad_input_is_refused_with_the_remedy():
    blocks = torch.eye(2).repeat(3, 4, 1, 1)
    blocks[1, 2, 0, 1] = math.nan
    with pytest.raises(ValueError, match=r"blocks has NaN or infinity in the block at \(1, 2\): look at"):
        block_margins(blocks)
    with pytest.raises(ValueError, match=r"blocks has shape \(2, 3\): it must be square"):
        block_margins(torch.ones(2, 3))
    u, scores = torch.randn(5, 2), torch.tensor([[1.0, 0.5], [0.0, 1.0]])
    with pytest.raises(ValueError, match=r"scores differs from its transpose by 0.5: .* or take block_margins"):
        eigen_margin(u, scores)
    with pytest.raises(ValueError, match=r"scores has the eigenvalue -1: .* or take block_margins"):
        eigen_margin(u, torch.diag(torch.tensor([1.0, -1.0])))
    with pytest.raises(ValueError, match="rows holds 5, outside a sequence of length 5"):
        eigen_margin(u, torch.eye(2), torch.tensor([5]))
    with pytest.raises(ValueError, match="rows holds 9, outside"):
        diameter(u, torch.tensor([9]))
    for wrong in (-0.1, math.nan):
        with pytest.raises(ValueError, match=f"tolerance is {wrong}: give 0"):
            support_tokens(torch.ones(4), wrong)
    with pytest.raises(ValueError, match=r"margins has NaN at \(1,\)"):
        support_tokens(torch.tensor([1.0, math.nan]))
    with pytest.raises(ValueError, match=r"rows has shape \(2,\) for 4 margins: give one position each"):
        sequence_margin(torch.ones(4), rows=torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="margins is one number: give the margins of a sequence"):
        support_tokens(torch.tensor(1.0))
    with pytest.raises(ValueError, match="diameter has -1: it cannot be below 0"):
        safe_temperature(torch.eye(2), torch.tensor(-1.0))
    with pytest.raises(ValueError, match="spectral has -1: it cannot be below 0"):
        certified_radius(torch.tensor(-1.0), torch.eye(2), torch.tensor(1.0))
    with pytest.raises(ValueError, match=r"scores has shape \(2, 3\): it must be square"):
        safe_temperature(torch.ones(2, 3), torch.tensor(1.0))

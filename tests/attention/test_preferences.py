"""What symmetric scores cannot want is impossible in every draw, and all the rest is built; accuracies have a bound."""

import itertools

import pytest
import torch

from nslab.attention.preferences import (
    can_be_symmetric,
    longest_circle,
    mutual_preference,
    partner_bound,
    partner_witness,
    patterns,
    preference,
    queries_with,
    scores_with,
    winners,
)

ROUNDING = 1e-12  # relative to the largest score, in double precision


def test_no_tied_score_has_two_tokens_that_prefer_each_other(normal):
    """And the two wishes add up to minus the squared distance of the queries."""
    query = normal(20_000, 5, 3) * normal(20_000, 5, 1, seed=1).exp()
    scores = query @ query.mT
    distance = (query[:, :, None] - query[:, None]).square().sum(-1)
    wish = preference(scores)
    assert float((wish + wish.mT + distance).abs().max()) < ROUNDING * float(scores.abs().max())
    assert bool((mutual_preference(scores) <= -distance / 2 + ROUNDING * scores.abs().amax((1, 2), keepdim=True)).all())
    longer = query.norm(dim=-1)[:, None, :] > query.norm(dim=-1)[:, :, None]
    assert bool(longer[wish > 0].all())  # only a longer one is preferred


def test_an_untied_score_has_them():
    scores = torch.tensor([[0.0, 1.0], [2.0, 0.0]])
    assert mutual_preference(scores).tolist() == [[0, 1], [1, 0]]


@pytest.mark.parametrize(("tokens", "possible"), [(2, 1), (3, 6), (4, 51)])
def test_symmetric_scores_have_all_patterns_but_the_circles(normal, tokens, possible):
    """Enumeration: of 81 patterns of four rows, 6 go in a circle of four and 4 * 2 * 3 in one of three."""
    told = patterns(tokens, itself=False)
    can = can_be_symmetric(told, tied=False)
    assert len(told) == (tokens - 1) ** tokens
    assert int(can.sum()) == possible
    for pattern in told[can].tolist():
        scores = scores_with(pattern)
        assert torch.equal(scores, scores.mT)
        assert winners(scores, itself=False).tolist() == pattern
    drawn = normal(100_000, tokens, tokens)
    seen = winners(drawn + drawn.mT, itself=False).unique(dim=0)
    assert {tuple(row) for row in seen.tolist()} == {tuple(row) for row in told[can].tolist()}


@pytest.mark.parametrize(("tokens", "forests"), [(2, 3), (3, 16), (4, 125)])
def test_tied_scores_have_exactly_the_rooted_forests(normal, tokens, forests):
    told = patterns(tokens)
    can = can_be_symmetric(told, tied=True)
    assert int(can.sum()) == forests == (tokens + 1) ** (tokens - 1)
    for pattern in told[can].tolist():
        query = queries_with(pattern)
        assert winners(query @ query.mT).tolist() == pattern
    query = normal(200_000, tokens, 2) * normal(200_000, tokens, 1, seed=1).exp()
    seen = winners(query @ query.mT)
    assert bool(can_be_symmetric(seen, tied=True).all())


def test_a_linear_program_finds_no_symmetric_circle():
    """Reference: maximise the smallest lead of the winners over all symmetric matrices with entries in [-1, 1]."""
    from scipy.optimize import linprog

    pairs = list(itertools.combinations(range(3), 2))
    for pattern in itertools.product(*[[j for j in range(3) if j != i] for i in range(3)]):
        rows = []
        for i, j in enumerate(pattern):
            (other,) = {0, 1, 2} - {i, j}
            row = [0.0] * 4  # three scores, and the lead
            row[pairs.index(tuple(sorted((i, j))))] -= 1
            row[pairs.index(tuple(sorted((i, other))))] += 1
            rows.append([*row[:3], 1.0])
        found = linprog([0, 0, 0, -1], A_ub=rows, b_ub=[0] * 3, bounds=[(-1, 1)] * 3 + [(None, 1)])
        can = bool(can_be_symmetric(torch.tensor(pattern), tied=False))
        assert (-found.fun > 1e-9) == can == (longest_circle(torch.tensor(pattern)) < 3)


def hits(weights, logits):
    """Right answers of both rows over all payloads (x, y), ties wrong; weights (2, 2, P, P): row, token, x, y."""
    p = logits.shape[-1]
    x, y = torch.meshgrid(torch.arange(p), torch.arange(p), indexing="ij")
    right = 0
    for row, answer in ((0, y), (1, x)):
        mixed = weights[row, 0][..., None] * logits[0][x] + weights[row, 1][..., None] * logits[1][y]
        best = mixed.topk(2, -1)
        right += int(((best.indices[..., 0] == answer) & (best.values[..., 0] > best.values[..., 1])).sum())
    return right


@pytest.mark.parametrize("payloads", range(2, 9))
def test_the_witness_attains_the_bound_for_up_to_eight_payloads(payloads):
    query, logits = partner_witness(payloads)
    weights = (query @ query.mT).softmax(-1)[..., None, None].expand(2, 2, payloads, payloads)
    assert hits(weights, logits) / (2 * payloads**2) == partner_bound(payloads)
    assert partner_bound(payloads) == pytest.approx(0.75 + 0.25 / payloads)


@pytest.mark.parametrize("payloads", [2, 3, 4])
def test_no_tied_head_gets_beyond_the_bound(payloads):
    """A search by chance: values near the witness and far from it, weights that may depend on both payloads."""
    generator = torch.Generator().manual_seed(payloads)
    logits = partner_witness(payloads)[1]
    most = 0
    for _ in range(1500):
        lean = 3 * torch.rand((), generator=generator)  # on the diagonal
        keys = torch.randn(2, payloads, payloads, 3, generator=generator) * lean  # queries of either token at (x, y)
        own, cross = keys.square().sum(-1), (keys[0] * keys[1]).sum(-1)
        scores = torch.stack((torch.stack((own[0], cross)), torch.stack((cross, own[1]))))
        noise = torch.randn(logits.shape, generator=generator) * 4 * torch.rand((), generator=generator)
        most = max(most, hits(scores.softmax(1), logits + noise))
    assert most / (2 * payloads**2) <= partner_bound(payloads)
    assert most > payloads**2  # better than answering one token: the search is not idle


def test_an_untied_head_is_beyond_it():
    swapped = torch.tensor([[-9.0, 9.0], [9.0, -9.0]]).softmax(-1)[..., None, None].expand(2, 2, 8, 8)
    assert hits(swapped, torch.eye(8).expand(2, 8, 8)) == 128


def test_what_no_score_can_want_is_refused():
    with pytest.raises(ValueError, match=r"circle of 3, and no symmetric score has one longer than 2; change the winn"):
        scores_with([1, 2, 0])
    with pytest.raises(ValueError, match=r"circle of 2, and no tied score has one longer than 1: some token must win"):
        queries_with([1, 0])
    with pytest.raises(ValueError, match=r"winners outside 0 to 1: name one of the 2 tokens"):
        can_be_symmetric(torch.tensor([0, 2]), tied=True)
    with pytest.raises(ValueError, match=r"a token that wins its own row: with tied=False the diagonal is left out"):
        can_be_symmetric(torch.tensor([0, 0]), tied=False)
    with pytest.raises(ValueError, match=r"tokens is 1: give at least 2"):
        patterns(1)
    with pytest.raises(ValueError, match=r"payloads is 1: give at least 2"):
        partner_bound(1)

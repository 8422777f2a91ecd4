"""The parts of a head's form beside the d x d matrix itself, random factors, rotations, and least squares on data."""

import math

import pytest
import torch

from nslab.attention import Rotary
from nslab.attention.score_parts import (
    degrees_of_freedom,
    form_parts,
    random_symmetric_share,
    score_parts,
    symmetric_share_at,
    turns,
)

CLOSE = {"rtol": 1e-10, "atol": 1e-10}


def close(found, expected):
    torch.testing.assert_close(found, expected, **CLOSE)


@pytest.mark.parametrize(("head_width", "width"), [(3, 10), (4, 8), (5, 6), (6, 6)])
def test_the_factors_know_what_the_whole_matrix_knows(normal, device, head_width, width):
    """Twin: M, its parts and their eigenvalues, d x d, also where the factors' rows are too many to be independent."""
    query, key = (normal(2, 3, head_width, width, seed=seed, device=device) for seed in (0, 1))
    found = form_parts(query, key)
    whole = query.mT @ key
    parts = (whole + whole.mT) / 2, (whole - whole.mT) / 2
    norms = [part.square().sum((-2, -1)) for part in (whole, *parts)]
    close(found.norm, norms[0])
    close(found.symmetric, norms[1] / norms[0])
    close(1 - found.symmetric, norms[2] / norms[0])
    values = torch.linalg.eigvalsh(parts[0])
    close(found.positive, values.clamp_min(0).square().sum(-1) / values.square().sum(-1))
    above, below = ((values * sign > 1e-9 * values.abs().max()).sum(-1).double() for sign in (1, -1))
    assert torch.equal(found.signature, torch.stack((above, below), -1))
    assert found.norm.device.type == device.type


def test_tied_factors_are_all_symmetric_and_positive(normal):
    query = normal(4, 3, 9)
    found = form_parts(query, query)
    close(found.symmetric, torch.ones(4, dtype=torch.float64))
    close(found.positive, torch.ones(4, dtype=torch.float64))
    assert found.signature.tolist() == [[3, 0]] * 4
    pairwise = form_parts(query, torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64)[:, None] * query)
    close(pairwise.symmetric, torch.ones(4, dtype=torch.float64))
    assert pairwise.signature.tolist() == [[2, 1]] * 4


def test_independent_rows_have_a_signature_that_says_nothing(normal):
    """Sylvester's law: head width positive and as many negative eigenvalues, however symmetric the form is."""
    query = normal(5, 4, 12)
    for mix in (0.0, 0.5, 0.99):
        key = mix * query + (1 - mix) * normal(5, 4, 12, seed=1)
        assert form_parts(query, key).signature.tolist() == [[4, 4]] * 5


def test_random_factors_are_half_symmetric(normal):
    """Monte Carlo over 4,000 heads: mean and spread, whatever the head width."""
    for head_width in (2, 8):
        width, heads = 48, 4000
        found = form_parts(normal(heads, head_width, width), normal(heads, head_width, width, seed=1)).symmetric
        mean, spread = random_symmetric_share(width)
        assert float(found.mean()) == pytest.approx(mean, abs=4 * spread / math.sqrt(heads))
        assert float(found.std()) == pytest.approx(spread, rel=0.1)
    mean, spread = random_symmetric_share(768)
    assert (round(100 * mean, 1), round(100 * spread, 2)) == (50.1, 0.09)


def test_the_turned_form_is_that_of_rotated_queries_and_keys(normal):
    """Twin: the scores that `Rotary` gives, for all pairs of unit inputs at two positions."""
    query, key, base = normal(4, 6), normal(4, 6, seed=1), 50
    rotary = Rotary(4, base).double()
    for i, j in ((0, 0), (5, 2), (1, 8)):

        def scores(at_query, at_key):
            left, right = (w.mT.unsqueeze(1).expand(6, 9, 4) for w in (query, key))  # input, position, coordinate
            return rotary(left)[:, at_query] @ rotary(right)[:, at_key].mT

        looking, back = scores(i, j), scores(j, i).mT
        both = (looking + back).square().sum() / (looking.square() + back.square()).sum() / 2
        turn = turns(4, torch.tensor([float(j - i)]), base)
        close(looking, query.mT @ turn[0] @ key)
        close(symmetric_share_at(query, key, turn)[0], both)
    flat = turns(4, torch.tensor([0.0]), base)
    close(symmetric_share_at(query, key, flat)[0], form_parts(query, key).symmetric)


def test_tied_heads_are_symmetric_at_every_distance_and_yet_tell_before_from_after(normal):
    query = normal(3, 4, 9)
    distances = torch.tensor([0.0, 1.0, 3.0, 40.0])
    close(symmetric_share_at(query, query, turns(4, distances)), torch.ones(3, 4, dtype=torch.float64))
    before, after = (query.mT @ turns(4, torch.tensor([delta]))[0] @ query for delta in (3.0, -3.0))
    assert float((before - after).abs().max()) > 0.1


def test_degrees_of_freedom_are_the_rank_of_the_jacobian(normal):
    """Reference: the rank of the derivative of W_Q^T W_K, and of W_Q^T W_Q, at random factors."""
    for width, head_width in ((5, 2), (4, 4), (6, 1)):
        query, key = normal(head_width, width), normal(head_width, width, seed=1)
        untied = torch.autograd.functional.jacobian(lambda q, k: (q.mT @ k).flatten(), (query, key))
        tied = torch.autograd.functional.jacobian(lambda q: (q.mT @ q).flatten(), query)
        both = torch.cat([part.flatten(1) for part in untied], 1)
        assert int(torch.linalg.matrix_rank(both)) == degrees_of_freedom(width, head_width, tied=False)
        assert int(torch.linalg.matrix_rank(tied.flatten(1))) == degrees_of_freedom(width, head_width, tied=True)
    assert degrees_of_freedom(768, 64, tied=True) / degrees_of_freedom(768, 64, tied=False) == pytest.approx(
        0.5003, abs=5e-5
    )


def test_the_circles_are_what_least_squares_leaves(normal, device):
    """Reference: fit a symmetric matrix plus a constant for each row, entry by entry."""
    n = 5
    scores = normal(3, n, n, device=device) + 2 * normal(3, n, 1, seed=1, device=device)
    columns = []
    for i in range(n):
        for j in range(i, n):
            symmetric = torch.zeros(n, n)
            symmetric[i, j] = symmetric[j, i] = 1
            columns.append(symmetric)
        row = torch.zeros(n, n)
        row[i] = 1
        columns.append(row)
    design = torch.stack(columns).flatten(1).mT.double()
    found = score_parts(scores)
    for number, one in enumerate(scores.cpu()):
        fit = torch.linalg.lstsq(design, one.reshape(-1, 1), driver="gelsd").solution
        left = (one.reshape(-1, 1) - design @ fit).square().sum()
        centred = (one - one.mean()).square().sum()
        close(found.circles[number].cpu(), left / centred)
        close(found.out_of_reach[number].cpu(), left / (one - one.mean(-1, keepdim=True)).square().sum())
    close(found.symmetric + found.popularity + found.circles, torch.ones(3, dtype=torch.float64, device=device))


def test_pure_cases_have_one_share(normal):
    a = normal(6)
    told = torch.stack((a[:, None] + a, a[:, None] - a))
    found = score_parts(told)
    close(found.symmetric, torch.tensor([1.0, 0.0], dtype=torch.float64))
    close(found.popularity, torch.tensor([0.0, 1.0], dtype=torch.float64))
    close(found.out_of_reach, torch.zeros(2, dtype=torch.float64))
    drawn = score_parts(normal(200, 100, 100))
    assert float(drawn.symmetric.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(drawn.circles.mean()) == pytest.approx(0.5, abs=0.02)
    rows = score_parts(normal(4, 7, 7) + 5 * normal(4, 7, 1, seed=1))
    shifted = score_parts(normal(4, 7, 7))
    close(rows.out_of_reach, shifted.out_of_reach)  # no softmax sees row constants


def test_bad_input_names_the_remedy():
    with pytest.raises(ValueError, match=r"query has shape \(2, 3\), key \(1, 3\): give both as"):
        form_parts(torch.ones(2, 3), torch.ones(1, 3))
    with pytest.raises(ValueError, match=r"query has shape \(2, 4\), key \(2, 6\): give both alike"):
        symmetric_share_at(torch.ones(2, 4), torch.ones(2, 6), turns(2, torch.zeros(1)))
    with pytest.raises(ValueError, match=r"a form that is 0: it has no parts; leave this head out"):
        form_parts(torch.zeros(2, 3), torch.ones(2, 3))
    with pytest.raises(ValueError, match=r"give square matrices"):
        score_parts(torch.ones(2, 3))
    with pytest.raises(ValueError, match=r"all equal: it has no variance"):
        score_parts(torch.ones(3, 3))
    with pytest.raises(ValueError, match=r"head_width is 5 and width 4: give 1 to the width"):
        degrees_of_freedom(4, 5, tied=True)

"""A plain callable of the reader's through every measure for tokens, each in a line, where the answers are known.

The callable is a network without mixing: logits at a position are a table at its token. So the last token of a prompt
has all influence and every other one has none.
"""

import pytest
import torch

from nslab import stability, zoo
from nslab.noise import Resample

VOCABULARY, CONTEXT, LENGTH = 7, 6, 5
TABLE = torch.randn(VOCABULARY, VOCABULARY, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def own(ids):
    return TABLE[ids]


def one_hot(ids):
    return torch.nn.functional.one_hot(ids, VOCABULARY).double()


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(1)


@pytest.fixture
def model():
    return zoo.wrap(own, vocabulary=VOCABULARY, context=CONTEXT, embed=one_hot, from_embeddings=lambda e: e @ TABLE)


@pytest.fixture
def noise():
    return Resample(0, VOCABULARY)


@pytest.fixture
def score(model, noise, generator):
    return zoo.top_token_score(model, noise.draw((4, LENGTH), generator))


def test_influences_of_resampled_tokens(score, noise, generator):
    chances = torch.log_softmax(TABLE, -1)[:, score.token]  # (token at the end, prompt)
    expected = (chances - score.value).square().mean(0) / 2
    found = stability.discrete_influence(score, score.ids, noise, samples="exact").value
    torch.testing.assert_close(found[:, -1], expected)
    assert found[:, :-1].abs().max() == 0
    total = stability.total_influence(score, score.ids, noise, pairs=4 * LENGTH * 200, generator=generator)
    assert abs(total.value - expected.mean()) < 5 * total.stderr
    summary = stability.summarise_profiles(found, generator=generator)
    assert summary.tokens_holding_90.value == 1


def test_influences_through_embeddings(score, generator):
    (gradient,) = torch.autograd.grad(score.from_embeddings(e := score.embeddings.requires_grad_()).sum(), e)
    found = stability.geometric_influence(score, score.embeddings)
    torch.testing.assert_close(found, gradient.norm(dim=-1))
    assert found[:, :-1].abs().max() == 0
    smoothed = stability.smoothed_influence(
        lambda e: stability.geometric_influence(score, e), score.embeddings.detach(), rho=1.0, twins=2
    )
    torch.testing.assert_close(smoothed.value.squeeze(-1), found)


def test_stability_has_degree_one(model, noise, generator):
    ids, f = noise.draw((400, LENGTH), generator), zoo.distribution(model)
    options = {"keep": [0.3, 0.6, 1.0], "twins": 8, "generator": generator}
    found = stability.text_stability(f, ids, noise, **options)
    assert bool(((found.centred.value - torch.tensor([0.3, 0.6, 1.0])).abs() <= 5 * found.centred.stderr + 1e-9).all())
    influence = stability.total_influence(f, ids, noise, pairs=4000, generator=generator)
    tails = stability.tail_comparison(found, influence, degree=2, generator=generator)
    assert tails is not None
    over = stability.embedding_stability(
        lambda e: torch.softmax(model.from_embeddings(e)[:, -1], -1), model.embed(ids), rho=[1.0], generator=generator
    )
    assert over.normalised.value.item() == pytest.approx(1)


def test_measures_over_all_texts(model, noise, generator):
    f, space = zoo.distribution(model), stability.Tokens(LENGTH, VOCABULARY)
    found = stability.noise_stability(f, space, keep=0.4, version="centred", evaluations=20_000, generator=generator)
    assert abs(found.value - 0.4) < 5 * found.stderr
    chances = torch.softmax(TABLE, -1)
    variance = (chances - chances.mean(0)).square().sum(-1).mean()
    each = stability.influences(f, space, samples=4000, generator=generator)
    assert each.value[:-1].abs().max() == 0
    assert abs(each.value[-1] - variance) < 5 * each.stderr[-1]

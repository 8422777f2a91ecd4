"""Your own model in a line."""

import pytest
import torch

from nslab import zoo
from nslab.protocols import TokenModel
from nslab.stability import geometric_influence_by_layer


@pytest.fixture
def bigram():
    return torch.nn.Embedding(7, 7, _weight=torch.randn(7, 7, generator=torch.Generator().manual_seed(0))).eval()


def test_a_module_becomes_a_token_model(bigram):
    model = zoo.wrap(bigram, vocabulary=7, context=5)
    ids = torch.tensor([[1, 2, 3], [6, 0, 5]])
    assert isinstance(model, TokenModel)
    assert torch.equal(model(ids, torch.tensor([2, 0])), bigram.weight[[3, 6]])
    score = zoo.top_token_score(model, ids)
    expected, token = torch.log_softmax(bigram.weight[[3, 5]], -1).max(-1)
    assert torch.equal(score.token, token)
    torch.testing.assert_close(score.value, expected)
    with torch.no_grad():
        torch.testing.assert_close(zoo.distribution(model)(ids), torch.softmax(bigram.weight[[3, 5]], -1))


def test_entry_at_the_embeddings_is_given_by_hand(bigram):
    table = torch.randn(7, 3, generator=torch.Generator().manual_seed(1))
    out = torch.randn(3, 7, generator=torch.Generator().manual_seed(2))
    model = zoo.wrap(
        lambda ids: table[ids] @ out,
        vocabulary=7,
        context=5,
        embed=table.__getitem__,
        from_embeddings=lambda e: e @ out,
    )
    ids = torch.tensor([[1, 2, 3]])
    assert torch.equal(model.from_embeddings(model.embed(ids)), model(ids))
    score = zoo.top_token_score(model, ids)
    start = score.embeddings.requires_grad_()
    (gradient,) = torch.autograd.grad(score.from_embeddings(start).sum(), start)
    chances = torch.softmax(table[3] @ out, -1)
    expected = out @ (torch.nn.functional.one_hot(score.token[0], 7) - chances)
    torch.testing.assert_close(gradient[0, 2], expected)
    assert gradient[0, :2].abs().sum() == 0


class Bare:
    vocabulary, context, special = 7, 5, ()

    def __call__(self, ids, at=None):
        return torch.nn.functional.one_hot(ids[:, -1], 7).double()

    def embed(self, ids):
        return torch.nn.functional.one_hot(ids, 7).double()

    def from_embeddings(self, e, at=None):
        return e[:, -1]


def test_hidden_states_are_given_by_hand():
    """Logits of the last place from a sum over places, so that all places of the first state matter alike."""
    table, out = (torch.randn(7, 7, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))

    def rest(e):
        return trace(e)[0]

    def trace(e):
        states = [e, e.cumsum(1)]
        return states[1] @ out, states

    model = zoo.wrap(
        lambda ids: rest(table[ids]),
        vocabulary=7,
        context=5,
        embed=table.__getitem__,
        from_embeddings=rest,
        trace=trace,
    )
    score = zoo.top_token_score(model, torch.tensor([[1, 2, 3], [4, 4, 0]]))
    found = geometric_influence_by_layer(score, score.embeddings)
    slope = (out @ (torch.nn.functional.one_hot(score.token, 7) - torch.softmax(model(score.ids)[:, -1], -1)).T).norm(
        dim=0
    )
    torch.testing.assert_close(found[0], slope[:, None].expand(2, 3))
    torch.testing.assert_close(found[1], torch.stack([torch.zeros(2), torch.zeros(2), slope], 1))


def test_embeddings_that_already_hold_what_comes_later_are_refused():
    """Positions added by `embed` and again by `from_embeddings`: every influence would be that of another function."""
    table, places, out = (torch.randn(7, 7, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2, 3))
    rest = lambda e: (e + places[: e.shape[1]]) @ out  # noqa: E731
    options = {"vocabulary": 7, "context": 5, "from_embeddings": rest}
    ids = torch.tensor([[1, 2, 3]])
    twice = zoo.wrap(lambda ids: rest(table[ids]), embed=lambda ids: table[ids] + places[: ids.shape[1]], **options)
    with pytest.raises(
        ValueError, match=r"other outputs from embeddings than from ids.*bare embeddings of tokens.*once"
    ):
        zoo.top_token_score(twice, ids).embeddings  # noqa: B018
    asked = []
    once = zoo.wrap(lambda ids: asked.append(len(ids)) or rest(table[ids]), embed=table.__getitem__, **options)
    for _ in range(3):
        assert torch.equal(once.embed(ids.repeat(4, 1)), table[ids.repeat(4, 1)])
    assert asked == [1]  # one row, at the first call


def test_what_a_callable_cannot_show_is_said(bigram):
    score = zoo.top_token_score(zoo.wrap(bigram, vocabulary=7, context=5), torch.tensor([[1, 2, 3]]))
    assert score.token_text == [str(int(bigram.weight[3].argmax()))]
    with pytest.raises(ValueError, match=r"your model shows no hidden states: pass trace= to zoo\.wrap"):
        score.trace(torch.zeros(1, 3, 7))
    score = zoo.top_token_score(Bare(), torch.tensor([[1, 2, 3]]))
    with pytest.raises(
        ValueError, match=r"only models of zoo\.load.*trace= to zoo\.wrap, or .* trace\(embeddings, at\)"
    ):
        score.trace(torch.zeros(1, 3, 7))


def test_the_mask_is_special(bigram):
    model = zoo.wrap(bigram, vocabulary=7, context=5, special=(1,), kind="masked", mask_id=6)
    assert model.special == (1, 6)


def test_a_classifier_is_read_where_it_reads(bigram):
    model = zoo.wrap(lambda ids: bigram(ids).mean(1), vocabulary=7, context=5)
    ids = torch.tensor([[1, 2, 3]])
    expected = torch.log_softmax(bigram.weight[1:4].mean(0), -1).max()
    torch.testing.assert_close(zoo.top_token_score(model, ids).value[0], expected)


def test_what_does_not_fit_is_refused(bigram):
    ids = torch.tensor([[1, 2, 3]])
    model = zoo.wrap(bigram, vocabulary=7, context=5)
    with pytest.raises(ValueError, match="6 positions and the context is 5"):
        model(torch.zeros(1, 6, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"pass embed= and from_embeddings= to zoo\.wrap"):
        model.embed(ids)
    with pytest.raises(ValueError, match=r"pass embed= and from_embeddings= to zoo\.wrap"):
        model.from_embeddings(bigram(ids))
    with pytest.raises(ValueError, match=r"returned tuple: return one tensor, .* model\(ids\)\[0\]"):
        zoo.wrap(lambda ids: (bigram(ids), None), vocabulary=7, context=5)(ids)
    with pytest.raises(ValueError, match=r"returned shape \(3, 7\) for \(1, 3\) tokens"):
        zoo.wrap(lambda ids: bigram(ids)[0], vocabulary=7, context=5)(ids)
    for wrong, message in [
        ({"vocabulary": 0}, "vocabulary is 0"),
        ({"special": (7,)}, "token id 7: ids run from 0 to 6"),
        ({"kind": "masked"}, "give the id of the mask token"),
        ({"embed": bigram}, "give both, or neither"),
    ]:
        with pytest.raises(ValueError, match=message):
            zoo.wrap(bigram, **{"vocabulary": 7, "context": 5, **wrong})
    with pytest.raises(ValueError, match=r"in training mode: call eval\(\) first"):
        zoo.wrap(bigram.train(), vocabulary=7, context=5)

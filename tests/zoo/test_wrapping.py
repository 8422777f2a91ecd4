"""Your own model in a line."""

import pytest
import torch

from nslab import zoo
from nslab.protocols import TokenModel


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


def test_what_a_callable_cannot_show_is_said(bigram):
    score = zoo.top_token_score(zoo.wrap(bigram, vocabulary=7, context=5), torch.tensor([[1, 2, 3]]))
    assert score.token_text == [str(int(bigram.weight[3].argmax()))]
    with pytest.raises(ValueError, match=r"your model shows no hidden states: only models of zoo\.load"):
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

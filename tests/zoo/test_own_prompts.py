"""A score answers for the prompts it was made for, and the measures refuse all others.

The model is a table without mixing, as in `test_measures`, so that everything has a closed form.
"""

import pytest
import torch

from nslab import zoo
from nslab.noise import Resample
from nslab.protocols import PromptScore
from nslab.stability import (
    discrete_influence,
    embedding_stability,
    geometric_influence,
    geometric_influence_by_layer,
    text_stability,
    total_influence,
)

SIZE, LENGTH, PROMPTS = 9, 4, 10
MASK = SIZE - 1
TABLE = torch.randn(SIZE, SIZE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
NOISE = Resample(0, SIZE, special=(MASK,))
IDS = NOISE.draw((PROMPTS, LENGTH), torch.Generator().manual_seed(1))


def one_hot(ids):
    return torch.nn.functional.one_hot(ids, SIZE).double()


def wrapped(**options):
    ways = {"embed": one_hot, "from_embeddings": lambda e: e.mean(1, keepdim=True).expand(e.shape) @ TABLE}
    ways["trace"] = lambda e: (ways["from_embeddings"](e), [e, e @ TABLE])
    options = {"vocabulary": SIZE, "context": 8, "name": "bag"} | options
    return zoo.wrap(lambda ids: ways["from_embeddings"](one_hot(ids)), **ways, **options)


@pytest.fixture
def score():
    return zoo.top_token_score(wrapped(), IDS)


@pytest.mark.parametrize(
    "which",
    [slice(6, None), [3, 0, 7], torch.tensor([2, 2, 5]), torch.arange(PROMPTS) % 3 == 1, 4],
    ids=["slice", "list", "tensor", "truth values", "number"],
)
def test_a_cut_score_says_of_its_prompts_what_the_whole_score_says_of_them(score, which):
    part, rows = score[which], [which] if isinstance(which, int) else which
    assert isinstance(part, PromptScore)
    assert len(part) == len(IDS[rows])
    assert torch.equal(part.ids, IDS[rows])
    whole = geometric_influence(score, score.embeddings)
    torch.testing.assert_close(geometric_influence(part, part.embeddings), whole[rows])
    whole = discrete_influence(score, score.ids, NOISE, samples="exact").value
    torch.testing.assert_close(discrete_influence(part, part.ids, NOISE, samples="exact").value, whole[rows])


def by_ids(score, ids):
    return [
        lambda: discrete_influence(score, ids, NOISE, samples=2),
        lambda: total_influence(score, ids, NOISE, pairs=20),
        lambda: text_stability(score, ids, NOISE, keep=0.5),
    ]


def by_embeddings(score, embeddings):
    return [
        lambda: geometric_influence(score, embeddings),
        lambda: geometric_influence(score.from_embeddings, embeddings),
        lambda: geometric_influence_by_layer(score.trace, embeddings),
        lambda: embedding_stability(score, embeddings, rho=0.5),
    ]


@pytest.mark.parametrize("some", [slice(5, None), slice(0, 5), [*range(PROMPTS), 0]], ids=["last", "first", "too many"])
def test_other_prompts_than_its_own_are_refused(score, some):
    for measure in [*by_ids(score, IDS[some]), *by_embeddings(score, score.embeddings[some])]:
        with pytest.raises(ValueError, match=r"made for 10 prompts of 4 tokens and .* has (5|11) .*score\[6:\]"):
            measure()


def test_shuffled_prompts_are_refused_where_they_stand_apart(score):
    order = [*range(PROMPTS - 2), PROMPTS - 1, PROMPTS - 2]
    for measure in [*by_ids(score, IDS[order]), by_embeddings(score, score.embeddings[order])[-1]]:
        with pytest.raises(ValueError, match=r"differs from score\.(ids|embeddings) in prompt 8 at position \d"):
            measure()


def test_a_masked_models_prompts_are_those_with_the_mask():
    """With the answer in the text the score is another function; the place that was asked would take all influence."""
    model = wrapped(kind="masked", mask_id=MASK)
    score = zoo.top_token_score(model, IDS)
    assert score.ids[:, -1].tolist() == [MASK] * PROMPTS
    for measure in [*by_ids(score, IDS), by_embeddings(score, model.embed(IDS))[-1]]:
        with pytest.raises(ValueError, match=r"in prompt 0 at position 3: .*the mask stands"):
            measure()
    found = text_stability(score, score.ids, NOISE, keep=[0.5, 1.0])
    torch.testing.assert_close(found.energy.value, score.value.square().mean())
    assert discrete_influence(score, score.ids, NOISE, samples=2).value[:, -1].abs().max() == 0


def test_noisy_embeddings_of_its_prompts_are_its_own(score):
    noisy = score.embeddings + 0.1
    assert geometric_influence(score, noisy).shape == (PROMPTS, LENGTH)


def test_a_score_without_ids_is_believed():
    class Own:
        def for_prompts(self, prompt):
            return lambda ids: (prompt + 1.0) * ids.sum(-1)

    assert discrete_influence(Own(), IDS, NOISE, samples=2).value.shape == (PROMPTS, LENGTH)


def test_a_score_and_a_wrapped_model_show_themselves_in_one_line(score):
    low, high = score.value.min().item(), score.value.max().item()
    assert repr(score) == f"Score(bag: 10 prompts of 4 tokens, value {low:.3g} to {high:.3g})"
    assert repr(score.model) == "Wrapped(bag: causal, context 8, 9 tokens)"


def test_raw_logits_at_all_places_are_refused_as_a_function(score):
    """The likeliest slip: the model itself, where its distribution is meant."""
    for measure in by_ids(score.model, IDS):
        with pytest.raises(ValueError, match=r"returned shape .*zoo\.distribution\(model\).*flatten\(1\)"):
            measure()
    flat = text_stability(lambda ids: score.model(ids).flatten(1), IDS, NOISE, keep=1.0)
    torch.testing.assert_close(flat.energy.value, score.model(IDS).square().sum((1, 2)).mean())


def test_a_keep_that_would_count_for_nothing_is_refused(score):
    noise = Resample(0.9, SIZE)
    for measure in (
        lambda: discrete_influence(score, IDS, noise, samples=2),
        lambda: total_influence(score, IDS, noise, pairs=20),
        lambda: text_stability(score, IDS, noise, keep=0.5),
    ):
        with pytest.raises(ValueError, match=r"resample\.keep is 0\.9, .*give Resample\(0, \.\.\.\)"):
            measure()

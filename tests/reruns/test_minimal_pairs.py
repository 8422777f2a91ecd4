"""Minimal pairs: tokens are added up to words without loss, and the pairs that cannot be asked are left out."""

import dataclasses

import pytest
import torch

from nslab import corpora, records, reruns, zoo
from nslab.reruns import minimal_pairs as mp
from nslab.stability import geometric_influence

PAIRS = [
    corpora.MinimalPair(
        "Anna saw herself.", "Anna saw himself.", "anaphor_agreement", "Anna saw", "herself", "himself"
    ),
    corpora.MinimalPair("Old dogs bark.", "Old dogs barks.", "agreement", "Old dogs", "bark", "barks"),
    corpora.MinimalPair("Paul ran.", "Paul runned.", "irregular", "Paul", "ran", "runned"),
    corpora.MinimalPair("No prefix.", "No suffix.", "none"),
    corpora.MinimalPair("Every man saw himself.", "Every man saw itself.", "a", "Every man saw", "himself", "itself"),
]


@pytest.fixture(autouse=True)
def pairs(monkeypatch):
    monkeypatch.setattr(corpora, "blimp", lambda paradigm: PAIRS)


@pytest.mark.parametrize(
    ("allowed", "forbidden", "expected"),
    [
        ([1, 2, 3], [1, 2, 4], ([1, 2], 3, 4)),
        ([1, 2], [1, 2, 3], None),
        ([5], [6], None),
        ([1, 5, 9], [1, 6, 9], ([1], 5, 6)),
    ],
)
def test_a_fork_is_what_two_endings_share_and_where_they_part(allowed, forbidden, expected):
    found = mp.fork(torch.tensor(allowed), torch.tensor(forbidden))
    if expected is None:
        assert found is None
    else:
        assert (found[0].tolist(), *found[1:]) == expected


def test_pairs_with_one_word_before_the_difference_or_none_are_left_out():
    found = mp.items(mp.ANTECEDENT)
    assert [item.words for item in found] == [("Anna", "saw"), ("Old", "dogs")]
    assert {item.licensor for item in found} == {0}
    assert [item.licensor for item in mp.items(mp.SUBJECT)] == [1, 1, 2]


def test_pairs_that_do_not_say_where_they_part_are_refused(monkeypatch):
    monkeypatch.setattr(corpora, "blimp", lambda paradigm: PAIRS[3:4])
    with pytest.raises(ValueError, match="set NSLAB_BLIMP to a folder"):
        mp.items(mp.SUBJECT)


@pytest.mark.parametrize("carrier", mp.CARRIERS.values())
def test_words_share_out_the_influence_of_all_tokens(carrier):
    model, item = zoo.load("char-gpt"), mp.items(mp.ANTECEDENT)[0]
    found = mp._measure(model, item, carrier)
    shared = model.encode(f"{carrier}Anna saw h")[:-1]  # 'herself' and 'himself' part after the h
    shared = torch.cat([shared, model.encode("h")])
    at = torch.tensor([len(shared) - 1])
    her, him = (int(model.encode(letter)) for letter in "ei")

    def preference(embeddings):
        logits = model.from_embeddings(embeddings, at)
        return logits[:, her] - logits[:, him]

    tokens = geometric_influence(preference, model.embed(shared[None]))[0]
    start = len(carrier.rstrip())
    assert found["carrier"] == pytest.approx(tokens[:start].sum().item(), rel=1e-4, abs=1e-6)
    ends = [len(carrier) + 4, len(carrier) + 8]
    assert found["words"] == pytest.approx(
        [tokens[start : ends[0]].sum().item(), tokens[ends[0] : ends[1]].sum().item()], rel=1e-4
    )


def test_an_ending_that_begins_the_other_is_not_compared():
    assert mp._measure(zoo.load("char-gpt"), mp.items(mp.ANTECEDENT)[1], "") is None


def test_the_summary_counts_what_the_history_holds(tmp_path):
    experiment = dataclasses.replace(
        reruns.load("minimal-pairs"), presets={"quick": mp.Config(model="char-gpt", pairs=5)}
    )
    record = records.perform(experiment, "quick", records=tmp_path)
    cell = record.result["cells"][f"{mp.ANTECEDENT}/carrier"]
    assert cell["pairs"] == 1
    assert cell["chance"]["value"] == 0.5
    scores, leaders = (record.history[f"{mp.ANTECEDENT}/carrier/{name}"][0] for name in ("score", "leader"))
    assert cell["accuracy"]["value"] == (scores > 0).mean()
    assert cell["licensor_leads"]["value"] == (leaders == 0).mean()

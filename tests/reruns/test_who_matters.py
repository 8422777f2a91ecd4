"""Who matters: what the record says is what the definitions say, and a killed run ends the same."""

import dataclasses

import pytest
import torch

from nslab import corpora, records, reruns, zoo
from nslab.reruns import char_gpt, who_matters
from nslab.stability import geometric_influence

SMALL = who_matters.Config(
    prompts=8, length=12, keep=(0.5, 0.9), rho=(0.5, 1.0), twins=2, pairs=8 * 12, samples=2, degree=4, more=1
)


@pytest.fixture(autouse=True)
def plays(monkeypatch):
    """A corpus that needs no fetching."""
    text = "To be, or not to be, that is the question: whether 'tis nobler in the mind to suffer. " * 40
    monkeypatch.setattr(corpora, "plays", lambda: dict.fromkeys(who_matters.PLAYS, text))


@pytest.fixture
def subject():
    return who_matters.Subject(SMALL, "char-gpt", 0, torch.device("cpu"))


def perform(folder, resume=False):
    experiment = dataclasses.replace(reruns.load("who-matters"), presets={"quick": SMALL})
    return records.perform(experiment, "quick", records=folder, resume=resume)


def test_prompts_of_characters_come_from_plays_that_char_gpt_never_saw():
    assert set(who_matters.PLAYS) <= set(char_gpt.PRESETS["laptop"].held_out)


def test_independent_prompts_follow_the_unigram_law_and_leave_special_tokens(subject):
    fresh = subject.prompts("independent")
    assert fresh.shape == subject.ids.shape
    assert not torch.equal(fresh, subject.ids)
    assert bool((subject.resample.law[fresh] > 0).all())
    subject.resample = dataclasses.replace(subject.resample, special=(int(subject.ids[0, 0]),), law=None)
    kept = ~subject.resample.touches(subject.ids)
    assert kept.any()
    assert torch.equal(subject.prompts("independent")[kept], subject.ids[kept])


def test_the_record_holds_the_profile_and_the_bounds_that_the_definitions_give(tmp_path, subject):
    record = perform(tmp_path)
    profile = torch.from_numpy(record.history["char-gpt/geometric"][0, 0])
    one = subject.score.embeddings[3:4].clone().requires_grad_()
    output = subject.model.from_embeddings(one, subject.score.at[3:4]).log_softmax(-1)[0, subject.score.token[3]]
    (gradient,) = torch.autograd.grad(output, one)
    torch.testing.assert_close(profile[3], gradient[0].norm(dim=-1), rtol=1e-4, atol=1e-7)
    told = record.result["models"]["char-gpt"]["tails"]["independent"][0]
    markov = told["influence"]["value"] / told["energy"] / SMALL.degree
    assert told["tails"]["markov"]["value"] == pytest.approx(markov, rel=1e-9)
    assert told["tails"]["gain"]["value"] == pytest.approx(markov / told["tails"]["best"]["value"], rel=1e-9)


def test_the_sentences_are_those_shown_with_one_number_a_token_layer_and_rho(tmp_path):
    record = perform(tmp_path)
    model = zoo.load("char-gpt")
    for number, told in enumerate(record.result["models"]["char-gpt"]["sentences"]):
        found = record.history[f"char-gpt/sentence_{number}"][0]
        assert found.shape == (model.layers + 1, len(told["pieces"]), len(SMALL.rho))
        score = zoo.top_token_score(model, model.encode(told["text"]))
        clean = geometric_influence(score.from_embeddings, score.embeddings)[0]
        torch.testing.assert_close(torch.from_numpy(found[0, :, -1]), clean, rtol=1e-4, atol=1e-7)


def test_a_run_cut_between_two_stages_ends_as_an_uninterrupted_one(tmp_path, monkeypatch):
    whole = perform(tmp_path / "whole")

    def cut(subject):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setitem(who_matters.STAGES, "embeddings", cut)
        with pytest.raises(KeyboardInterrupt):
            perform(tmp_path / "cut")
    resumed = perform(tmp_path / "cut", resume=True)
    for name in ("config.json", "history.npz", "result.json"):
        assert (resumed.path / name).read_bytes() == (whole.path / name).read_bytes()


@pytest.mark.parametrize(
    ("k90", "ratio", "said"), [(10.8, 0.1, "evenly"), (3.0, 0.0, "no influence"), (3.0, 0.1, None)]
)
def test_an_even_profile_or_a_dead_token_is_not_the_phenomenon(k90, ratio, said):
    geometric = {"tokens_holding_90": {"value": k90}, "smallest_to_largest": {"value": ratio}}
    found = who_matters.phenomenon({"models": {"m": {"length": 12, "geometric": geometric}}})
    assert found is None if said is None else said in found


def test_its_plays_are_those_that_char_gpt_has_not_read():
    assert who_matters.PLAYS == char_gpt.ONE_OF_EACH_KIND

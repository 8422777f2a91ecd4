"""char-gpt, its file and its alphabet."""

import string
from dataclasses import replace

import pytest
import torch

from nslab import zoo
from nslab.transformer import CHAR_GPT, Transformer, save_transformer
from nslab.zoo import characters

ALPHABET = "\n " + string.printable[:79]  # digits, letters, and the first marks


@pytest.fixture(scope="module")
def network():
    return Transformer(CHAR_GPT, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def saved(network, tmp_path):
    path = tmp_path / "model.safetensors"
    facts = {"alphabet": ALPHABET, "provenance": "Random weights."}
    save_transformer(path, network, facts, dtype=torch.float16)
    return path


def test_a_file_gives_the_network_back_up_to_half_precision(network, saved):
    model = zoo.char_gpt_from(saved)
    ids = torch.randint(81, (4, 128), generator=torch.Generator().manual_seed(1))
    halved = Transformer(CHAR_GPT).eval()
    halved.load_state_dict({key: value.half().float() for key, value in network.state_dict().items()})
    assert torch.equal(model(ids), halved(ids))
    assert (model.kind, model.context, model.layers, model.width, model.special) == ("causal", 128, 4, 128, ())
    assert model.provenance == "Random weights."


def test_ids_are_places_in_the_alphabet(saved):
    model = zoo.char_gpt_from(saved)
    text = "To be, or\nnot"
    ids = model.encode(text)
    assert ids.tolist() == [ALPHABET.index(one) for one in text]
    assert model.decode(ids) == text
    assert model.pieces(ids) == list("To␣be,␣or⏎not")


def test_measures_run_on_it(saved):
    model = zoo.char_gpt_from(saved)
    ids = model.prompts(["To be, or not to be", "Once more unto the breach"], length=16)
    score = zoo.top_token_score(model, ids)
    chances = torch.log_softmax(model.module(ids)[:, -1], -1)
    torch.testing.assert_close(score.value, chances.max(-1).values)
    assert [one.replace("␣", " ").replace("⏎", "\n") for one in score.token_text] == [
        ALPHABET[token] for token in chances.argmax(-1)
    ]
    torch.testing.assert_close(zoo.distribution(model)(ids), chances.exp())
    assert [tuple(hidden.shape) for hidden in score.trace(score.embeddings)[1]] == [(2, 16, 128)] * 5


def test_strange_characters_are_named_or_left_out(saved):
    model = zoo.char_gpt_from(saved)
    with pytest.raises(
        ValueError, match=r"2 characters outside the alphabet of 81: '’' \(U\+2019\), '😀'.*unknown='skip'"
    ):
        model.encode("it’s 😀")
    assert model.decode(model.encode("it’s 😀", unknown="skip")) == "its "
    with pytest.raises(ValueError, match="has no token"):
        model.encode("😀", unknown="skip")
    with pytest.raises(ValueError, match="129 tokens and the context of char-gpt is 128"):
        model.encode("a" * 129)


def test_another_alphabet_and_another_kind_of_network_are_refused(network, saved):
    with pytest.raises(ValueError, match="80 characters and the model 81 embeddings"):
        zoo.adopt_characters(network, ALPHABET[:-1])
    with pytest.raises(ValueError, match="repeats a character"):
        zoo.adopt_characters(network, ALPHABET[:-1] + "\n")
    save_transformer(saved, network, {"alphabet": ALPHABET[:-1]})
    with pytest.raises(zoo.CannotLoad, match="80 characters and the model 81 embeddings"):
        zoo.char_gpt_from(saved)
    both_ways = Transformer(replace(CHAR_GPT, causal=False))
    with pytest.raises(ValueError, match=r"causal is False: give a causal network, .* zoo\.wrap"):
        zoo.adopt_characters(both_ways, ALPHABET)


def test_special_symbols_of_the_network_stay_special():
    network = Transformer(replace(CHAR_GPT, special=(0, 80)))
    assert zoo.adopt_characters(network, ALPHABET).special == (0, 80)


def test_ids_that_are_none_are_not_shown_as_characters(network):
    model = zoo.adopt_characters(network, ALPHABET)
    for wrong in ([-1], [81], torch.tensor([1.0])):
        for show in (model.decode, model.pieces):
            with pytest.raises(ValueError, match=r"ids run from 0 to 80|token ids are integers"):
                show(wrong)
    assert model.decode([]) == ""
    assert len(model.pieces([2] * 200)) == 200  # longer than the context may be shown


def test_the_shipped_one_knows_words_from_noise():
    model = zoo.load("char-gpt")
    ids = model.encode("To be, or not to be, that is the question:")
    shuffled = ids[torch.randperm(len(ids), generator=torch.Generator().manual_seed(0))]
    assert zoo.perplexity(model, ids) < 0.5 * zoo.perplexity(model, shuffled)
    assert "Shakespeare" in model.provenance


def test_a_broken_or_missing_file_is_refused(saved, monkeypatch, tmp_path):
    whole = saved.read_bytes()
    for broken in (whole[: len(whole) // 2], b"", whole.replace(b'"alphabet"', b'"alphabex"')):
        saved.write_bytes(broken)
        with pytest.raises(zoo.CannotLoad, match=r"not a whole character model .*nslab rerun char-gpt"):
            zoo.char_gpt_from(saved)
    with pytest.raises(zoo.CannotLoad, match=r"there is no file .*nslab rerun char-gpt"):
        zoo.char_gpt_from(tmp_path / "nothing")
    monkeypatch.setattr(characters, "SHIPPED", tmp_path / "nothing")
    with pytest.raises(zoo.CannotLoad, match=r"train one with `nslab rerun char-gpt`.*zoo\.char_gpt_from"):
        zoo.load("char-gpt")
    saved.write_bytes(whole)
    monkeypatch.setattr(characters, "SHIPPED", saved)
    assert zoo.load("char-gpt", dtype=torch.float64).module.tokens.weight.dtype == torch.float64

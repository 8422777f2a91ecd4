"""Every family of `transformers` behind the one class, against `transformers` itself."""

import copy

import pytest
import torch

from nslab import zoo
from nslab.protocols import TokenModel

SENTENCE = "the network read every word"


def directly(model, **inputs):
    """The slow twin: the module as `transformers` documents it, everything at every position."""
    with torch.no_grad():
        found = model.module(**inputs, output_hidden_states=True, return_dict=True)
    return (found.last_hidden_state if model.kind == "encoder" else found.logits), found.hidden_states


def head(model, hidden):
    if model.kind == "encoder":
        return hidden
    if model.kind == "causal":
        return model.module.lm_head(hidden)
    return (model.module.cls if hasattr(model.module, "cls") else model.module.lm_head)(hidden)


def test_outputs_are_those_of_transformers(model, random_ids, tolerance):
    ids = random_ids(model)
    expected, hidden = directly(model, input_ids=ids, attention_mask=torch.ones_like(ids))
    assert isinstance(model, TokenModel)
    torch.testing.assert_close(model(ids), expected, rtol=0, atol=tolerance["same sum"])
    assert torch.equal(model.from_embeddings(model.embed(ids)), model(ids))
    output, trace = model.trace(model.embed(ids))
    assert len(trace) == model.layers + 1
    for ours, theirs in zip(trace, hidden, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance["same sum"])
    torch.testing.assert_close(head(model, trace[-1]), output, rtol=0, atol=tolerance["same sum"])


def test_one_position_is_read_without_computing_the_others(model, random_ids, tolerance):
    ids, at = random_ids(model), torch.tensor([0, 8, 4])
    everywhere = model(ids)
    seen = []
    decoder = model.module if model.kind == "encoder" else model.module.get_output_embeddings()
    hook = decoder.register_forward_hook(lambda _, given, found: seen.append(found))
    once = model(ids, at)
    hook.remove()
    torch.testing.assert_close(once, everywhere[torch.arange(3), at], rtol=0, atol=tolerance["same sum"])
    if model.kind != "encoder":
        assert [tuple(found.shape) for found in seen] == [(3, 1, model.vocabulary)]
    torch.testing.assert_close(model.trace(model.embed(ids), at)[0], once, rtol=0, atol=tolerance["same sum"])


def test_every_hidden_state_is_in_the_graph(model, random_ids):
    embeddings = model.embed(random_ids(model)).requires_grad_()
    output, hidden = model.trace(embeddings, torch.tensor([8, 8, 8]))
    gradients = torch.autograd.grad(output.square().sum(), [embeddings, *hidden])
    assert all(bool(gradient.abs().sum() > 0) for gradient in gradients)
    # the embeddings enter only through hidden state 0, to which at most constants were added before a norm
    if model.kind == "causal":
        torch.testing.assert_close(gradients[0], gradients[1])


def test_attention_weights_are_those_of_transformers(model, random_ids, tolerance):
    ids, at = random_ids(model), torch.tensor([0, 8, 4])
    before = model.module.config._attn_implementation
    output, hidden, weights = model.look(model.embed(ids), at)
    assert model.module.config._attn_implementation == before
    plain, states = model.trace(model.embed(ids), at)
    torch.testing.assert_close(output, plain, rtol=0, atol=tolerance["same sum"])
    for ours, theirs in zip(hidden, states, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance["same sum"])
    eager = copy.deepcopy(model.module)
    eager.set_attn_implementation("eager")
    expected = eager(ids, output_attentions=True, return_dict=True).attentions
    assert len(weights) == model.layers
    for ours, theirs in zip(weights, expected, strict=True):
        assert ours.shape == (3, 4, 9, 9)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance["same sum"])
        torch.testing.assert_close(ours.sum(-1), torch.ones_like(ours[..., 0]))
        assert bool((ours.triu(1) == 0).all()) == (model.kind == "causal")


def test_a_model_that_keeps_its_weights_to_itself_is_refused(folders, random_ids, monkeypatch):
    model = zoo.load(str(folders["gpt2"]))
    run = model.body._run

    def silent(*given, **options):
        output, found = run(*given, **options)
        found.attentions = None
        return output, found

    monkeypatch.setattr(model.body, "_run", silent)
    with pytest.raises(ValueError, match=r"GPT2LMHeadModel does not tell its attention weights.*by trace"):
        model.look(model.embed(random_ids(model)))
    assert model.module.config._attn_implementation == "sdpa"


def test_the_parameters_are_frozen_and_dropout_is_off(model, random_ids):
    assert not any(parameter.requires_grad for parameter in model.module.parameters())
    assert not any(part.training for part in model.module.modules())
    ids = random_ids(model)
    assert torch.equal(model(ids), model(ids))
    assert not model(ids).requires_grad


def test_a_causal_model_does_not_see_the_future(model, random_ids):
    ids = random_ids(model)
    changed = ids.clone()
    changed[:, -1] = ids[:, 0]
    same = torch.allclose(model(ids)[:, :-1], model(changed)[:, :-1], atol=1e-12)
    assert same == (model.kind == "causal")


def test_batches_change_nothing(model, random_ids, tolerance):
    ids, at = random_ids(model, rows=7), torch.arange(7)
    torch.testing.assert_close(model.batched(ids), model(ids), rtol=0, atol=tolerance["same sum"])
    torch.testing.assert_close(model.batched(ids, at), model(ids, at), rtol=0, atol=tolerance["same sum"])


def test_the_longest_sequence_runs_and_a_longer_one_is_refused(model, random_ids):
    longest = random_ids(model, length=model.context)
    assert model.context == 24
    assert bool(torch.isfinite(model(longest)).all())
    with pytest.raises(ValueError, match=r"25 positions and the context is 24.*truncate=24"):
        model(random_ids(model, length=25))
    with pytest.raises(ValueError, match="25 positions and the context is 24"):
        model.from_embeddings(torch.zeros(1, 25, model.width, dtype=torch.float64))


def test_a_text_gets_the_tokens_that_its_tokenizer_adds(model):
    ids = model.encode(SENTENCE)
    first, last = int(ids[0]), int(ids[-1])
    if model.kind == "causal":
        assert not {first, last} & set(model.special)
        assert model.mask_id is None
    else:
        assert {first, last} <= set(model.special)
        assert model.mask_id in model.special
    assert model.decode(ids) == SENTENCE
    assert torch.equal(model.encode(SENTENCE.encode()), ids)


def test_pieces_add_up_to_the_text(model):
    shown = model.pieces(model.encode(SENTENCE))
    middle = [piece for piece in shown if piece.strip("␣")[:1] not in ("[", "<")]
    assert "".join(middle).strip("␣") == SENTENCE.replace(" ", "␣")


def test_a_character_of_several_tokens_stands_at_the_last(folders):
    model = zoo.load(str(folders["gpt2"]))
    text = "a ö\n\t😀é"
    shown = model.pieces(model.encode(text))
    assert "".join(shown).replace("⋯", "") == "a␣ö⏎⇥😀é"
    assert len(shown) == len(model.encode(text)) > len(text)


def test_truncation_keeps_the_beginning_and_the_added_tokens(model):
    whole, cut = model.encode(SENTENCE), model.encode(SENTENCE, truncate=4)
    assert len(cut) == 4
    assert torch.equal(cut[:3], whole[:3])
    assert (int(cut[-1]) in model.special) == (model.kind != "causal")
    if model.kind != "causal":
        for too_short in (1, 2):
            with pytest.raises(ValueError, match="adds 2 tokens to every text: give at least 3"):
                model.encode(SENTENCE, truncate=too_short)
    rows = model.prompts([SENTENCE, SENTENCE + " twice"], length=4)
    assert torch.equal(rows, torch.stack([cut, cut]))


def test_truncation_keeps_the_beginning_whatever_the_tokenizer_would(fresh):
    module, tokenizer = fresh("llama")
    whole = tokenizer(SENTENCE)["input_ids"]
    tokenizer.truncation_side = "left"
    assert zoo.adopt(module, tokenizer).encode(SENTENCE, truncate=3).tolist() == whole[:3]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "text is empty"),
        (b"caf\xe9", r"not UTF-8: byte 0xe9 at offset 3.*latin-1"),
        ("a\ud800", r"lone surrogate U\+D800 at character 1"),
        ("word " * 40, r"tokens and the context of .* is 24: pass truncate=24"),
    ],
)
def test_texts_that_cannot_be_encoded_are_refused(model, text, message):
    with pytest.raises(ValueError, match=message):
        model.encode(text)


def test_a_text_without_tokens_is_refused(folders):
    with pytest.raises(ValueError, match="has no token"):
        zoo.load(str(folders["bert"])).encode("  ")


def test_ids_and_positions_of_a_wrong_kind_are_refused(model, random_ids):
    ids = random_ids(model)
    for wrong, message in [
        (ids[0], r"give \(batch, length\).*ids\[None\]"),
        (ids.double(), "token ids are integers"),
        (ids[:, :0], "at least one token"),
        (torch.full_like(ids, model.vocabulary), rf"token id {model.vocabulary}: ids run from 0"),
        (-ids - 1, "ids run from 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            model(wrong)
    for at in (torch.tensor([0, 1]), torch.tensor([0, 1, 9]), torch.tensor([-1, 0, 0]), torch.zeros(3)):
        with pytest.raises(ValueError, match=r"one whole number a row|positions run from 0 to 8"):
            model(ids, at)
    with pytest.raises(ValueError, match=rf"give \(batch, length, {model.width}\)"):
        model.from_embeddings(torch.zeros(1, 2, model.width + 1))
    with pytest.raises(ValueError, match="more than one row"):
        model.pieces(ids)
    with pytest.raises(ValueError, match=r"texts\[1\] has .* tokens and length is 20"):
        model.prompts(["word " * 30, "word"], length=20)
    with pytest.raises(ValueError, match="ids holds no sequence"):
        model(ids[:0])
    with pytest.raises(ValueError, match=r"one text: give a list"):
        model.prompts("word", length=1)
    with pytest.raises(ValueError, match=f"length is 25: give 1 to {model.context}"):
        model.prompts(["word " * 30], length=25)
    with pytest.raises(ValueError, match=f"truncate is 25: give 1 to {model.context}"):
        model.encode(SENTENCE, truncate=25)


def test_a_model_runs_where_and_as_it_is_asked_to(folders, device, random_ids):
    folder = str(folders["llama"])
    reference = zoo.load(folder)
    ids = random_ids(reference)
    assert reference.module.dtype == torch.float32
    there = zoo.load(folder, device=device)
    assert there.device.type == device.type
    torch.testing.assert_close(there(ids.to(device)).cpu(), reference(ids), rtol=1e-3, atol=1e-3)
    half = zoo.load(folder, dtype=torch.bfloat16, device_map={"": str(device)})
    found = half(ids.to(device))
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.cpu().float(), reference(ids), rtol=0.1, atol=0.3)


def test_ids_that_no_text_reaches_count_as_special(fresh):
    module, tokenizer = fresh("llama", more=3)
    size = len(tokenizer)
    model = zoo.adopt(module, tokenizer)
    assert model.vocabulary == size + 3
    assert model.special == (tokenizer.eos_token_id, size, size + 1, size + 2)


def test_tokens_kept_for_later_count_as_special(fresh):
    module, tokenizer = fresh("llama", more=2)
    tokenizer.add_tokens(["<unused0>", "[unused1]"])  # as in Gemma and in BERT
    assert set(tokenizer.convert_tokens_to_ids(["<unused0>", "[unused1]"])) < set(zoo.adopt(module, tokenizer).special)


@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_a_model_of_ids_needs_no_tokenizer(family, fresh):
    """The same module, once with its tokenizer and once without: the same numbers, and hidden states."""
    module, tokenizer = fresh(family)
    whole = zoo.adopt(module, tokenizer)
    bare = zoo.adopt(module, special=whole.special, mask_id=whole.mask_id)
    assert (bare.vocabulary, bare.context, bare.special, bare.mask_id) == (
        whole.vocabulary,
        whole.context,
        whole.special,
        whole.mask_id,
    )
    usual = torch.tensor([t for t in range(whole.vocabulary) if t not in whole.special])
    ids = usual[torch.arange(12).reshape(2, 6)]
    ours, theirs = zoo.top_token_score(bare, ids), zoo.top_token_score(whole, ids)
    assert torch.equal(ours.value, theirs.value)
    assert len(ours.trace(ours.embeddings)[1]) == 3
    assert ours.token_text == [f"#{token}" for token in theirs.token.tolist()]
    assert bare.pieces(ids[0]) == [f"#{token}" for token in ids[0].tolist()]
    with pytest.raises(ValueError, match="came without a tokenizer: give token ids"):
        bare.encode("word")

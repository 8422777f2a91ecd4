"""Head symmetry: factors and scores are those the networks use, tied heads are symmetric, what is missing is told."""

import copy
import dataclasses
import math

import pytest
import torch

from nslab import corpora, records, reruns, zoo
from nslab.reruns import _head_factors as hf
from nslab.reruns import head_symmetry as hs
from nslab.reruns import who_matters
from nslab.transformer import Transformer, TransformerConfig

SINGLE = 1e-4  # scores in single precision, other shapes of matrices
SMALL = hs.Config(models=("char-gpt",), text="own", texts=2, length=20, random=2)
IDS = torch.tensor([3, 1, 4, 1, 5, 9, 2, 6, 5, 8])


def perform(folder, config=SMALL, resume=False):
    experiment = dataclasses.replace(reruns.load("head-symmetry"), presets={"quick": config})
    return records.perform(experiment, "quick", records=folder, resume=resume)


def small(**changes):
    shape = TransformerConfig(vocabulary=10, context=24, width=16, layers=2, heads=2, **changes)
    model = Transformer(shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for number, weight in enumerate(model.parameters()):
            weight.normal_(0, 0.4, generator=torch.Generator().manual_seed(number))
    return zoo.adopt_characters(model, "\nabcdefghi")


def adopted(kind):
    import transformers as hf_models

    torch.manual_seed(0)
    if kind == "llama":
        shape = {"hidden_size": 32, "intermediate_size": 8, "num_hidden_layers": 2, "num_attention_heads": 4}
        config = hf_models.LlamaConfig(
            vocab_size=10, max_position_embeddings=32, num_key_value_heads=2, initializer_range=0.5, **shape
        )
        return zoo.adopt(hf_models.LlamaForCausalLM(config))
    if kind == "gpt2":
        config = hf_models.GPT2Config(
            vocab_size=10, n_positions=32, n_embd=32, n_layer=2, n_head=4, initializer_range=0.5
        )
        return zoo.adopt(hf_models.GPT2LMHeadModel(config))
    shape = {"hidden_size": 32, "intermediate_size": 8, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = hf_models.BertConfig(vocab_size=10, max_position_embeddings=32, initializer_range=0.5, **shape)
    return zoo.adopt(hf_models.BertModel(config))


@pytest.mark.parametrize("kind", ["ours", "rotary", "llama", "gpt2", "bert"])
def test_the_softmax_of_the_scores_gives_the_weights_that_the_model_tells(kind):
    model = (
        small(positions="rotary" if kind == "rotary" else "learned") if kind in ("ours", "rotary") else adopted(kind)
    )
    with torch.no_grad():
        weights = model.look(model.embed(IDS[None]))[2]
    layers = hf.scored(model, IDS)
    assert len(layers) == len(weights) == 2
    for layer, expected in zip(layers, weights, strict=True):
        scores = layer.scores
        if model.kind == "causal":
            scores = scores.masked_fill(torch.ones(len(IDS), len(IDS), dtype=torch.bool).triu(1), -math.inf)
        torch.testing.assert_close(scores.softmax(-1), expected[0], rtol=SINGLE, atol=SINGLE)


@pytest.mark.parametrize("kind", ["ours", "llama", "gpt2", "bert"])
def test_the_factors_give_the_scores_of_the_inputs_up_to_biases(kind):
    """At equal positions, or without any, differences of differences of scores are free of biases."""
    model = small() if kind == "ours" else adopted(kind)
    for (_, told), layer in zip(hf.projections(model).values(), hf.scored(model, IDS), strict=True):
        x, (query, key) = layer.inputs, told.weights
        form = torch.einsum("hkd,hke->hde", query, key)  # (heads, width, width)
        expected = told.scale * torch.einsum("nd,hde,me->hnm", x, form, x)
        found = layer.scores
        if layer.turn is not None:
            expected, found = expected.diagonal(dim1=1, dim2=2), found.diagonal(dim1=1, dim2=2)
        else:
            expected, found = (s - s[:, :1] - s[:, :, :1] + s[:, :1, :1] for s in (expected, found))
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_the_record_holds_the_parts_of_the_shipped_char_gpt(tmp_path):
    """Twin: the d x d matrices of one layer, and the scores of one text, split by hand."""
    told = perform(tmp_path).result["models"]["char-gpt"]
    model = zoo.load("char-gpt")
    query, key, _ = model.module.layers[2].attention.qkv.weight.double().chunk(3)
    for head in range(4):
        rows = slice(32 * head, 32 * (head + 1))
        form = query[rows].mT @ key[rows]
        share = ((form + form.mT) / 2).square().sum() / form.square().sum()
        assert told["symmetric"][2][head] == pytest.approx(float(share), abs=1e-5)
    assert told["signature"][2] == [[32, 32]] * 4
    assert told["at"] == []
    ids = hs.written(model, 2, 20, torch.Generator().manual_seed(0))
    shares = []
    for text in ids:
        query, key = (
            model.module.run(text[None], [f"layers.2.attention.{part}"])[1].popitem()[1] for part in ("query", "key")
        )
        scores = (query[0, 1] @ key[0, 1].mT).double().detach()
        both = (scores + scores.mT) / 2
        shares.append(float((both - both.mean()).square().sum() / (scores - scores.mean()).square().sum()))
    assert told["text"]["symmetric"][2][1] == pytest.approx(sum(shares) / 2, abs=1e-4)


def test_tied_heads_are_symmetric_by_weights_and_on_text():
    model = small(positions="rotary", bias=False)
    with torch.no_grad():
        for layer in model.module.layers:
            layer.attention.qkv.weight[16:32] = layer.attention.qkv.weight[:16]
    weights = hs.by_weights(model, SMALL)
    assert weights["symmetric"] == [[1.0, 1.0]] * 2
    assert weights["positive"] == [[1.0, 1.0]] * 2
    assert weights["at"] == [[[1.0] * 7] * 2] * 2
    assert weights["signature"] == [[[8, 0]] * 2] * 2
    shares = hs.on_text(model, SMALL)["text"]
    for layer in range(2):
        assert shares["symmetric"][layer] == pytest.approx([1, 1], abs=1e-5)
        assert shares["out_of_reach"][layer] == pytest.approx([0, 0], abs=1e-5)


def test_random_heads_have_their_own_projections_and_the_rotations_of_the_layer():
    model = small(positions="rotary")
    layer = hf.scored(model, IDS)[0]
    turned = hf.random_scores(layer, 8, 3, torch.Generator().manual_seed(0))
    plain = hf.random_scores(dataclasses.replace(layer, turn=None), 8, 3, torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        turned.diagonal(dim1=1, dim2=2), plain.diagonal(dim1=1, dim2=2), rtol=SINGLE, atol=SINGLE
    )
    assert float((turned - plain).abs().max()) > 0.1
    rows = plain.flatten(1)
    assert float((rows[0] - rows[1]).abs().max()) > 0.1


def test_twins_come_from_their_records_and_what_is_missing_is_said(tmp_path, monkeypatch):
    played = tmp_path / "weights"
    played.mkdir()
    model = zoo.load("char-gpt")
    from nslab.transformer import save_transformer

    save_transformer(played / "model.safetensors", model.module, {"alphabet": model.tokens.alphabet})
    fake = type("Fake", (), {"path": played})
    monkeypatch.setattr(records, "strongest", lambda name: fake if name == "stable-char-gpt" else None)
    monkeypatch.setattr(corpora, "plays", lambda: dict.fromkeys(who_matters.PLAYS, "To be, or not to be. " * 60))
    config = dataclasses.replace(SMALL, models=("char-gpt", "stable-char-gpt", "lost-char-gpt"), text="corpus")
    result = perform(tmp_path, config).result
    assert list(result["missing"]) == ["lost-char-gpt"]
    assert "make one with `nslab rerun lost-char-gpt`" in result["missing"]["lost-char-gpt"]
    twin, shipped = (result["models"][name] for name in ("stable-char-gpt", "char-gpt"))
    assert twin["symmetric"] == shipped["symmetric"]
    assert twin["text"] == shipped["text"]


def test_a_run_cut_between_two_models_ends_as_an_uninterrupted_one(tmp_path, monkeypatch):
    config = dataclasses.replace(SMALL, models=("char-gpt", "lost-char-gpt"))
    monkeypatch.setattr(records, "strongest", lambda name: None)
    whole = perform(tmp_path / "whole", config)
    find = hs.found

    def cut(name, device):
        if name == "lost-char-gpt":
            raise KeyboardInterrupt
        return find(name, device)

    with monkeypatch.context() as patch:
        patch.setattr(hs, "found", cut)
        with pytest.raises(KeyboardInterrupt):
            perform(tmp_path / "cut", config)
    resumed = perform(tmp_path / "cut", config, resume=True)
    for name in ("config.json", "history.npz", "result.json"):
        assert (resumed.path / name).read_bytes() == (whole.path / name).read_bytes()


def test_what_is_no_phenomenon_is_said(tmp_path):
    good = {"models": {"m": {"symmetric": [[0.5, 0.6]], "text": {"out_of_reach": [[0.001, 0.1]]}}}}
    assert hs.phenomenon(good) is None
    tied, reached = copy.deepcopy(good), copy.deepcopy(good)
    tied["models"]["m"]["symmetric"] = [[0.5, 1.0]]
    reached["models"]["m"]["text"]["out_of_reach"].append([0.001, 0.002])
    assert "their shares go from 0.500 to 1.000" in hs.phenomenon(tied)
    assert "in every layer a head whose scores are out of reach" in hs.phenomenon(reached)
    assert hs.phenomenon({"models": {}}) == "a network to look at; all are missing"


def test_a_network_of_another_kind_is_refused():
    model = dataclasses.replace(small(), module=torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"has none of qkv, q_proj and k_proj, query and key, c_attn: leave it out"):
        hf.projections(model)

"""Layer moments: the record holds what the definitions say, and theory is right where its assumptions are."""

import copy
import dataclasses
import math

import pytest
import torch

from nslab import corpora, records, reruns, zoo
from nslab.propagation.activations import activation_moment
from nslab.reruns import layer_moments as lm
from nslab.reruns import who_matters
from nslab.stability import EmbeddingNoise
from nslab.transformer import Transformer, TransformerConfig

TOLERANCES = {
    "single": 1e-4,  # the network in single precision, other shapes of matrices
    "random weights": 0.03,  # correlation of a network of width 512 beside the limit of infinite width
}
SMALL = lm.Config(models=("char-gpt",), text="own", prompts=4, length=12, rho=(0.4, 1.0), draws=2)
ALPHABET = "".join(map(chr, range(10, 91)))


def perform(folder, config=SMALL, resume=False):
    experiment = dataclasses.replace(reruns.load("layer-moments"), presets={"quick": config})
    return records.perform(experiment, "quick", records=folder, resume=resume)


def test_the_record_holds_cosines_sizes_and_agreement_of_the_prompts(tmp_path):
    """Twin: one prompt and one twin at a time, from the states that the network traces."""
    record = perform(tmp_path)
    model = zoo.load("char-gpt")
    ids = lm.written(model, 4, 12, torch.Generator().manual_seed(0))
    assert ids.shape == (4, 12)
    assert bool((ids[:, 0] == model.encode("\n")).all())
    e = model.embed(ids)
    noise, source = EmbeddingNoise.of(e), torch.Generator().manual_seed(10_000)
    twins = [noise.twin(e, 0.4, noise.draw(e, source)) for _ in range(2)]
    _, x, a = model.look(e)
    cosine, agreed, raw = torch.zeros(5), torch.zeros(4, 4), torch.zeros(5)
    for y, b in (model.look(twin)[1:] for twin in twins):
        for layer in range(5):
            each = torch.cosine_similarity(x[layer], y[layer], dim=-1)[:, 1:]  # without the first token
            sizes = [state[:, 1:].square().mean(-1).log().mean(-1).exp().sqrt() for state in (x[layer], y[layer])]
            cosine[layer] += (each.mean(-1) * sizes[0] * sizes[1]).mean() / 2
            raw[layer] += (x[layer] * y[layer])[:, 1:].mean() / 2
        agreed += torch.stack([(p * q)[:, :, 1:].sum(-1).mean((0, 2)) for p, q in zip(a, b, strict=True)]) / 2
    found = {name: torch.from_numpy(record.history[f"char-gpt/{name}"][0]) for name in ("stream", "raw", "agreement")}
    torch.testing.assert_close(found["stream"][0, :, 0], cosine, rtol=TOLERANCES["single"], atol=0)
    torch.testing.assert_close(found["raw"][0, :, 0], raw, rtol=TOLERANCES["single"], atol=0)
    torch.testing.assert_close(found["agreement"][0, :, :, 0], agreed, rtol=TOLERANCES["single"], atol=0)
    told = record.result["models"]["char-gpt"]
    assert told["correlation"][2][0] == pytest.approx(float(found["stream"][0, 2, 0] / found["stream"][2, 2, 0]))
    assert [row[1] for row in told["correlation"]] == pytest.approx([1.0] * 5)


def test_in_the_clean_run_the_plugged_gains_leave_nothing_to_predict_of_a_block(tmp_path):
    history = perform(tmp_path).history
    for measured, predicted in (("attention_output", "attention_ahead"), ("mlp_output", "mlp_ahead")):
        clean = [history[f"char-gpt/{name}"][0, 2, :, -1] for name in (measured, predicted)]
        assert clean[0] == pytest.approx(clean[1], rel=1e-5)


def test_with_random_weights_theory_keeps_the_track():
    """Then its assumptions hold: the gap that a trained network shows is not one of the bookkeeping."""
    shape = TransformerConfig(vocabulary=81, context=24, width=512, layers=3, heads=1, positions="none", bias=False)
    model = Transformer(shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 2:  # queries and keys at unit variance give scores with a spread of about 3
                spread = math.sqrt(3 if "qkv" in name else 1) / math.sqrt(weight.shape[1])
                weight.normal_(0, 1 if "tokens" in name else spread, generator=torch.Generator().manual_seed(len(name)))
    model = zoo.adopt_characters(model, ALPHABET)
    config = dataclasses.replace(SMALL, prompts=16, length=24, rho=(0.5, 0.9, 1.0))
    whole = lm.measured(config, model, 0)
    gap = lm.compared(whole, lm.layout_of(model))[0]["gap"]
    for name in ("start", "ahead", "mlp"):
        assert max(gap[name]) < TOLERANCES["random weights"], name


@pytest.mark.parametrize("gated", [False, True])
def test_the_mlp_map_is_the_second_moment_of_its_hidden_layer(gated):
    """Monte Carlo: silu(u), or silu(u) w with a second, independent pair, at Gaussians of correlation c."""
    layout = dataclasses.replace(lm.LAYOUTS[1], gated=gated)
    c, q = torch.tensor(0.6, dtype=torch.float64), torch.tensor([2.0], dtype=torch.float64)
    x, z = torch.randn(2, 2, 400_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = c * x + (1 - c**2).sqrt() * z
    hidden = [torch.nn.functional.silu(q.sqrt() * u[0]) * (u[1] if gated else 1) for u in (x, y)]
    products = hidden[0] * hidden[1] / hidden[0].square().mean()
    one = torch.ones((), dtype=torch.float64)
    seen = lm.Moments(c[None], 0 * one[None], one[None], c[None])
    found = lm.activated(seen, lm.Plugged(one, 3 * one, q, lm.Masses(one, one, one, one)), layout)
    error = products.std() / math.sqrt(products.numel())
    assert abs(found.m / 3 - products.mean()) < 5 * error
    assert found.q.item() == pytest.approx(3.0)
    if not gated:
        expected = activation_moment("silu", 2.0, 2.0, 1.2) / activation_moment("silu", 2.0, 2.0, 2.0)
        assert found.m.item() == pytest.approx(3 * expected.item())


def test_a_corpus_gives_the_prompts_of_who_matters(monkeypatch):
    text = "To be, or not to be, that is the question: whether 'tis nobler in the mind to suffer. " * 40
    monkeypatch.setattr(corpora, "plays", lambda: dict.fromkeys(who_matters.PLAYS, text))
    found = lm.measured(dataclasses.replace(SMALL, text="corpus"), zoo.load("char-gpt"), 0)
    assert found["stream"].shape == (4, 5, 5, 2)
    assert found["agreement"].shape == (4, 4, 4, 4, 2)


def test_a_model_like_llama_is_measured_before_its_final_norm(fresh_llama):
    model = fresh_llama
    found = lm.measured(SMALL, model, 0)
    layers = model.module.model.layers
    seen = []
    hook = layers[-1].register_forward_hook(lambda _, given, output: seen.append(output))
    ids = lm.written(model, 4, 12, torch.Generator().manual_seed(0))
    seen.clear()
    model(ids)
    hook.remove()
    state = seen[0] if isinstance(seen[0], torch.Tensor) else seen[0][0]
    raw = state[:, 1:].square().mean((1, 2)).double()
    torch.testing.assert_close(found["raw"][:, 4, -1, 0], raw, rtol=TOLERANCES["single"], atol=0)
    told, series = lm.compared(found, lm.layout_of(model))
    assert series["start"].shape == (4, 3, 2)
    assert all(math.isfinite(value) for gap in told["gap"].values() for value in gap)


@pytest.fixture
def fresh_llama():
    import transformers as hf
    from tokenizers import ByteLevelBPETokenizer

    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(["to be or not\nto be"], vocab_size=260, special_tokens=["<end>"], show_progress=False)
    tokenizer = hf.PreTrainedTokenizerFast(tokenizer_object=trained._tokenizer, eos_token="<end>")
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = hf.LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=32, num_key_value_heads=2, **shape)
    return zoo.adopt(hf.LlamaForCausalLM(config), tokenizer)


def test_a_run_cut_between_two_seeds_ends_as_an_uninterrupted_one(tmp_path, monkeypatch):
    config = dataclasses.replace(SMALL, seeds=2)
    whole = perform(tmp_path / "whole", config)
    measured = lm.measured

    def cut(config, model, seed):
        if seed:
            raise KeyboardInterrupt
        return measured(config, model, seed)

    with monkeypatch.context() as patch:
        patch.setattr(lm, "measured", cut)
        with pytest.raises(KeyboardInterrupt):
            perform(tmp_path / "cut", config)
    resumed = perform(tmp_path / "cut", config, resume=True)
    for name in ("config.json", "history.npz", "result.json"):
        assert (resumed.path / name).read_bytes() == (whole.path / name).read_bytes()
    assert whole.result["models"]["char-gpt"]["prompts"] == 8


def test_what_is_no_phenomenon_is_said(tmp_path):
    good = {"models": {"m": {"centred": [[0.4, 1.0], [0.3, 1.0]], "gap": {"start": [0.1, 0.2], "ahead": [0.1, 0.1]}}}}
    good |= {"config": {"rho": [0.5, 1.0]}}
    assert lm.phenomenon(good) is None
    rising, exact = copy.deepcopy(good), copy.deepcopy(good)
    rising["models"]["m"]["centred"][1][0] = 0.5
    exact["models"]["m"]["gap"]["start"][1] = 0.05
    assert "at rho 0.5 it goes to 0.500" in lm.phenomenon(rising)
    assert "worse than the one from the layer before" in lm.phenomenon(exact)


def test_what_cannot_be_measured_is_refused(tmp_path, fresh_llama):
    with pytest.raises(ValueError, match=r"rho ends with 0.5: let it end with 1"):
        perform(tmp_path, dataclasses.replace(SMALL, rho=(0.5,)))
    fresh_llama.module.model.layers[0].mlp = torch.nn.Identity()
    with pytest.raises(ValueError, match="whose blocks have other names than those of a Transformer or a Llama"):
        lm.layout_of(fresh_llama)

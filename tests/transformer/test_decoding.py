"""Fed piece by piece, a network answers as in one call on the whole sequence, with the same noise."""

import itertools
from dataclasses import replace

import pytest
import torch

from nslab.attention.settings import VARIANTS, NoiseSettings, ScoreSettings, variant_name
from nslab.transformer import Transformer, TransformerConfig
from nslab.transformer.accounting import cache_bytes
from nslab.transformer.decoding import Decoder, generate
from nslab.transformer.noiseformer import network
from nslab.transformer.predicting import predict

CONFIG = TransformerConfig(vocabulary=11, context=9, width=12, layers=2, heads=3)
FAMILIES = [
    ScoreSettings(
        kind=kind, rank=2, noise=NoiseSettings(family, space=space, per_head=per_head, scaling=scaling, rank=2)
    )
    for kind, (family, space), (per_head, scaling) in itertools.product(
        ("symmetric", "pairwise", "low-rank"),
        itertools.product(("scalar", "key", "relative", "amortised"), ("score", "key")),
        ((True, "before"), (False, "after")),
    )
    if (family, space) != ("relative", "key")
]
EVERY = [None, *VARIANTS.values(), *FAMILIES]
CHUNKS = [(1,) * 9, (3, 1, 5)]


def seeded(seed, device="cpu"):
    return torch.Generator(device).manual_seed(seed)


@pytest.fixture
def wide():
    """A network in double precision with weights, means and noise wide enough to matter."""

    def make(scores, device="cpu", **changes):
        model = network(replace(CONFIG, **changes), scores, generator=seeded(0)).double()
        with torch.no_grad():
            for name, weight in model.named_parameters():
                drawn = torch.randn(weight.shape, generator=seeded(1), dtype=torch.float64)
                if "norm" not in name:
                    weight.copy_(drawn / (4 if ".noise." in name else 2))
        return model.eval().to(device)

    return make


@pytest.fixture
def same_noise(monkeypatch):
    """Standard normals that depend on the layer and the positions only, however the sequence is cut.

    Noise of keys is asked for as (batch, new, ...), noise of scores as (batch, groups, new, all so far).
    """

    table = torch.randn(2, 4, 9, 9, 9, generator=seeded(8), dtype=torch.float64)

    def arrange(in_keys, layers=2):
        calls, fed = itertools.count(), [0] * layers

        def randn(shape, **_):
            layer = next(calls) % layers
            if not in_keys:
                batch, groups, new, keys = shape
                return table[layer, :batch, :groups, keys - new : keys, :keys]
            batch, new, groups, width = shape
            start, fed[layer] = fed[layer], fed[layer] + new
            return table[layer, :batch, start : start + new, :groups, :width]

        monkeypatch.setattr(torch, "randn", randn)

    return arrange


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def fed_in(decoder, ids, chunks):
    return torch.cat([decoder.feed(part) for part in ids.split(list(chunks), 1)], 1)


@pytest.mark.parametrize("positions", ["learned", "rotary", "none"])
@pytest.mark.parametrize("scores", EVERY, ids=variant_name)
def test_the_cache_equals_one_call_by_the_mean(wide, prompts, scores, positions):
    model, ids = wide(scores, positions=positions, width=24), prompts()
    for chunks in CHUNKS:
        close(fed_in(Decoder(model), ids, chunks), model(ids))


@pytest.mark.parametrize("positions", ["learned", "rotary"])
@pytest.mark.parametrize("scores", [scores for scores in EVERY if scores and scores.noise], ids=variant_name)
def test_the_cache_equals_one_call_with_the_same_draws(wide, prompts, same_noise, scores, positions):
    model, ids = wide(scores, positions=positions, width=24), prompts()
    in_keys = scores.noise.space == "key"
    same_noise(in_keys)
    with model.noise("sample"):
        whole = model(ids)
    for chunks in CHUNKS:
        same_noise(in_keys)
        close(fed_in(Decoder(model, mode="sample"), ids, chunks), whole)
    assert (whole - model(ids)).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["v2-relative", "v1-key", "v2-amortised", "v1-scalar"])
def test_in_one_piece_the_same_seed_gives_the_draws_of_a_call(wide, prompts, name, device):
    model, ids = wide(VARIANTS[name], device), prompts(device=device)
    with model.noise("sample", seeded(3, device)):
        close(Decoder(model, mode="sample", generator=seeded(3, device)).feed(ids), model(ids))


def test_a_key_keeps_the_noise_it_got_and_a_score_gets_a_fresh_one(wide, prompts):
    """The keys kept for the first tokens do not change later; without key noise they are those of a call."""
    ids = prompts()
    for name, same in (("v2-key", False), ("v2-relative", True)):
        model = wide(VARIANTS[name])
        decoder = Decoder(model, mode="sample", generator=seeded(3))
        decoder.feed(ids[:, :4])
        before = decoder.kept[0][0]
        decoder.feed(ids[:, 4:6])
        assert torch.equal(decoder.kept[0][0][:, :, :4], before)
        _, seen = model.run(ids[:, :4], ["layers.0.attention.query"])
        assert torch.equal(before, seen["layers.0.attention.query"]) is same


@pytest.mark.parametrize("scores", EVERY, ids=variant_name)
def test_the_cache_is_as_large_as_counted(wide, prompts, scores):
    decoder = Decoder(wide(scores), mode="sample")
    decoder.feed(prompts()[:, :5])
    decoder.feed(prompts()[:, 5:7])
    kept = sum(part.nbytes for layer in decoder.kept for part in layer)
    assert kept == cache_bytes(CONFIG, scores, length=7, batch=4, size=8)
    assert decoder.length == 7


@pytest.mark.parametrize("scores", [None, VARIANTS["v2-relative"], VARIANTS["v1-amortised"]], ids=variant_name)
def test_the_likeliest_continuation_is_that_of_whole_calls(wide, prompts, scores, device):
    model, ids = wide(scores, device), prompts(device=device)[:, :4]
    text = ids
    for _ in range(5):
        text = torch.cat((text, predict(model, text)[:, -1].argmax(-1, keepdim=True)), 1)
    assert torch.equal(generate(model, ids, 5, temperature=0), text)


def test_tokens_are_drawn_from_the_predicted_law(wide):
    """4000 next tokens of one prompt at temperature 2 against p^(1/2), normalised: within 5 standard errors."""
    model, ids = wide(VARIANTS["v2-relative"]), torch.tensor([[1, 4, 2]])
    drawn = generate(model, ids.expand(4000, -1), 1, temperature=2, generator=seeded(5))[:, -1]
    share = torch.bincount(drawn, minlength=11) / 4000
    law = (predict(model, ids)[0, -1] / 2).softmax(-1)
    assert bool(((share - law).abs() <= 5 * (law * (1 - law) / 4000).sqrt() + 1e-9).all())


@pytest.mark.parametrize("name", ["v2-key", "v1-relative"])
def test_an_average_continues_with_the_mean_of_many_probabilities(wide, name, same_noise):
    """The copies of a prompt have rows of noise of their own: three rows of one batch, averaged by hand."""
    model, ids = wide(VARIANTS[name]), torch.tensor([[1, 4, 2]])
    in_keys = VARIANTS[name].noise.space == "key"
    text = ids
    for _ in range(3):
        same_noise(in_keys)
        with model.noise("sample"):
            law = model(text.expand(3, -1))[:, -1].softmax(-1).mean(0)
        text = torch.cat((text, law.argmax().reshape(1, 1)), 1)
    same_noise(in_keys)
    assert torch.equal(generate(model, ids, 3, temperature=0, mode="average", draws=3), text)


def test_the_same_seed_writes_the_same_text_and_leaves_the_network_as_it_was(wide, prompts):
    model, ids = wide(VARIANTS["v2-relative"]).train(), prompts()[:, :2]
    state = model.get_extra_state()
    for mode in ("mean", "sample", "average"):
        texts = [generate(model, ids, 7, mode=mode, draws=2, generator=seeded(seed)) for seed in (1, 1, 2)]
        assert torch.equal(texts[0], texts[1])
        assert not torch.equal(texts[0], texts[2])
        assert torch.equal(texts[0][:, :2], ids)
    assert model.training
    assert torch.equal(model.get_extra_state(), state)


def test_int32_prompts_stay_int32_and_a_full_context_can_be_written(wide, prompts):
    model = Transformer(CONFIG, seeded(0))
    text = generate(model, prompts()[:, :1].int(), 9)  # the tenth token is written, and not read
    assert (text.shape, text.dtype) == ((4, 10), torch.int32)


def test_what_cannot_be_decoded_is_refused(wide, prompts):
    model, ids = wide(VARIANTS["v2-key"]), prompts()
    decoder = Decoder(model)
    decoder.feed(ids[:, :5])
    with pytest.raises(
        ValueError, match="ids has 5 tokens after the 5 that were fed, and the context is 9: make a new"
    ):
        decoder.feed(ids[:, :5])
    with pytest.raises(ValueError, match="ids has 2 rows and the decoder was fed 4: feed the same batch"):
        decoder.feed(ids[:2, :1])
    with pytest.raises(ValueError, match="empty sequence: give at least one token"):
        decoder.feed(ids[:, :0])
    close(decoder.feed(ids[:, 5:]), model(ids)[:, 5:])  # what was refused left no trace
    with pytest.raises(ValueError, match=r"model is not causal: .* make it with causal=True"):
        Decoder(wide(None, causal=False))
    with pytest.raises(ValueError, match=r"mode is 'average': choose 'mean' or 'sample'; generate\(mode='average'\)"):
        Decoder(model, mode="average")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 0}, "count is 0: write at least one token"),
        ({"count": 6}, "count is 6 after prompts of 5 tokens, and the context is 9: write at most 5 tokens"),
        ({"temperature": -1}, "temperature is -1: give 0 for the likeliest token"),
        ({"mode": "median"}, "mode is 'median': choose one of mean, sample, average"),
        ({"mode": "average", "draws": 0}, "draws is 0: average over at least one draw"),
    ],
)
def test_what_cannot_be_written_is_refused(wide, prompts, options, message):
    with pytest.raises(ValueError, match=message):
        generate(wide(VARIANTS["v2-key"]), prompts()[:, :5], **{"count": 1} | options)
    with pytest.raises(ValueError, match="empty sequence: give at least one token"):
        generate(wide(VARIANTS["v2-key"]), prompts()[:, :0], 1)

"""The accounts against networks that are really built, and against ranks of Jacobians and a counter of operations."""

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from nslab.attention.settings import VARIANTS, NoiseSettings, ScoreSettings
from nslab.transformer import TransformerConfig
from nslab.transformer.accounting import (
    GPT2,
    added_parameters,
    bilinear_freedom,
    block_products,
    cache_bytes,
    hidden_for_equal_parameters,
    noise_bytes,
    parameter_count,
)
from nslab.transformer.noiseformer import network

SMALL = TransformerConfig(vocabulary=11, context=9, width=12, layers=2, heads=3)
SHAPES = [
    SMALL,
    replace(SMALL, bias=False, norm="rms", positions="rotary"),
    replace(SMALL, bias=False, hidden=7, tied=False, outputs=3),
    replace(SMALL, norm="none", positions="none", causal=False, heads=1),
]
EVERY = {
    "standard": None,
    **VARIANTS,
    "V1 key noise in score space": ScoreSettings(noise=NoiseSettings("key", space="score", per_head=False)),
    "V2 scalar noise in key space": ScoreSettings(noise=NoiseSettings("scalar", space="key")),
    "V2 amortised noise in score space, rank 2": ScoreSettings(noise=NoiseSettings("amortised", space="score", rank=2)),
    "pairwise with noise": ScoreSettings(kind="pairwise", noise=NoiseSettings("relative", per_head=False)),
    "low-rank with noise": ScoreSettings(kind="low-rank", rank=2, noise=NoiseSettings("key", space="key")),
}


@pytest.fixture
def built(monkeypatch):
    """Parameters of a network that is built without memory for its weights."""
    with torch.device("meta"):
        monkeypatch.setattr(torch.nn.utils, "skip_init", lambda kind, *shape, **options: kind(*shape, **options))
        yield lambda config, scores: sum(weight.numel() for weight in network(config, scores).parameters())


@pytest.mark.parametrize("scores", EVERY.values(), ids=EVERY)
@pytest.mark.parametrize("config", SHAPES, ids=["plain", "rotary", "no biases", "bidirectional"])
def test_a_built_network_has_the_counted_parameters(config, scores):
    model = network(config, scores)
    assert parameter_count(config, scores) == sum(weight.numel() for weight in model.parameters())
    table = 0 if model.positions is None else model.positions.weight.numel()
    assert parameter_count(config, scores, positions=False) == parameter_count(config, scores) - table


@pytest.mark.parametrize("vocabulary", [50257, 50304])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", ["standard", "symmetric", "pairwise", "low-rank", "v1-key", "v2-relative"])
def test_gpt2_base_on_the_meta_device_has_the_counted_parameters(built, vocabulary, bias, name):
    config = replace(GPT2, vocabulary=vocabulary, bias=bias)
    assert parameter_count(config, EVERY[name]) == built(config, EVERY[name])


def test_the_counts_of_gpt2_base_are_the_known_ones():
    """Radford's 124,439,808; nanoGPT's 123.59 M leaves out the positions; one map saved a layer is 12 d^2."""
    nano = replace(GPT2, vocabulary=50304, bias=False)
    assert parameter_count(GPT2) == 124_439_808
    assert parameter_count(GPT2, positions=False) == 123_653_376
    assert parameter_count(nano) == 124_373_760
    assert parameter_count(nano, positions=False) == 123_587_328
    assert parameter_count(nano) - parameter_count(nano, VARIANTS["symmetric"]) == 12 * 768**2
    assert parameter_count(GPT2) - parameter_count(GPT2, VARIANTS["symmetric"]) == 7_087_104


def test_a_layer_of_gpt2_base_gets_the_listed_parameters_of_noise():
    amortised = 2 * 4 * (768 + 64), 2 * 4 * (768 + 768)
    listed = {"scalar": (2, 24), "key": (128, 1536), "relative": (2048, 24576), "amortised": amortised}
    for family, counts in listed.items():
        for per_head, count in zip((False, True), counts, strict=True):
            space = "score" if family == "relative" else "key"
            scores = ScoreSettings(noise=NoiseSettings(family, space=space, per_head=per_head))
            assert added_parameters(GPT2, scores) == count


@pytest.mark.parametrize("scores", EVERY.values(), ids=EVERY)
def test_equal_parameters_cannot_be_met_more_closely(built, scores):
    like = parameter_count(SMALL)
    hidden = hidden_for_equal_parameters(SMALL, scores, like)
    sizes = [built(replace(SMALL, hidden=width), scores) for width in (hidden, hidden + 1)]
    assert sizes[0] <= like < sizes[1]
    assert hidden_for_equal_parameters(SMALL, None, like) == SMALL.hidden_width


def test_too_few_parameters_to_be_equal_to_are_refused():
    with pytest.raises(ValueError, match=r"like is 100 .* compare with at least \d+ parameters"):
        hidden_for_equal_parameters(SMALL, VARIANTS["symmetric"], 100)


def test_noise_memory_of_a_layer_at_nano_gpts_batch():
    """Twelve sequences of 1024 in float32: one standard normal number an entry, or a coordinate of a key."""
    cases = {
        "v2-scalar": 12 * 12 * 1024 * 1024 * 4,
        "v1-scalar": 12 * 1024 * 1024 * 4,
        "v2-key": 12 * 12 * 1024 * 64 * 4,
        "v1-key": 12 * 1024 * 64 * 4,
    }
    for name, size in cases.items():
        assert noise_bytes(GPT2, VARIANTS[name], 12, 1024) == size
    assert [round(size / 1e6, 1) for size in cases.values()] == [604.0, 50.3, 37.7, 3.1]
    saved = 12 * 768 * 768 * 4
    assert round(cases["v2-scalar"] / saved) == 21  # the noise of one layer, in units of all weights saved
    with pytest.raises(ValueError, match="scores has no noise: give one of the variants with noise"):
        noise_bytes(GPT2, VARIANTS["symmetric"], 12, 1024)


@pytest.mark.parametrize(("width", "head", "rank"), [(7, 3, 2), (9, 3, 1), (10, 4, 3)])
def test_freedom_of_a_head_is_the_rank_of_the_map_from_weights_to_forms(width, head, rank):
    """The dimension of the image of a polynomial map is the rank of its Jacobian at a generic point."""
    generator = torch.Generator().manual_seed(0)

    def jacobian_rank(form, *shapes):
        weights = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
        parts = torch.func.jacrev(form, tuple(range(len(shapes))))(*weights)
        return int(torch.linalg.matrix_rank(torch.cat([part.reshape(width * width, -1) for part in parts], 1)))

    tall, thin = (width, head), (width, rank)
    ranks = {
        "standard": jacobian_rank(lambda q, k: q @ k.T, tall, tall),
        "symmetric": jacobian_rank(lambda q: q @ q.T, tall),
        "pairwise": jacobian_rank(lambda q, w: q @ w @ q.T, tall, (head, head)),
        "low-rank": jacobian_rank(lambda q, a, b: q @ q.T + a @ b.T, tall, thin, thin),
    }
    assert {kind: bilinear_freedom(width, head, kind, rank) for kind in ranks} == ranks


def test_freedom_of_gpt2s_heads_and_where_the_formula_ends():
    assert bilinear_freedom(768, 64, "standard") == 94_208
    assert bilinear_freedom(768, 64, "symmetric") == 47_136
    with pytest.raises(ValueError, match="low-rank scores fill 9 directions: make the width at least 9"):
        bilinear_freedom(8, 3, "low-rank", 3)
    with pytest.raises(ValueError, match=r"kind is 'twin': choose 'standard', 'symmetric'"):
        bilinear_freedom(8, 3, "twin")


@pytest.mark.parametrize("name", ["standard", "symmetric", "pairwise", "low-rank", "v2-relative", "v2-amortised"])
def test_block_products_are_half_of_the_counted_operations(name):
    """Torch's counter sees two operations a product, the scores and averages of the token among them."""
    config = replace(SMALL, width=24, heads=2)
    model = network(config, EVERY[name], generator=torch.Generator().manual_seed(0)).train()
    with FlopCounterMode(display=False) as counter:
        model.run(torch.tensor([[3]]), [f"layers.{layer}.attention.weights" for layer in range(config.layers)])
    extra = config.heads * EVERY[name].rank if name == "low-rank" else 0
    pairs = config.layers * (2 * config.width + extra)  # one query with one key, one weight with one value
    output = config.vocabulary * config.width
    assert block_products(config, EVERY[name]) == counter.get_total_flops() // 2 - pairs - output


def test_symmetric_attention_does_a_twelfth_less_and_saves_no_cache():
    symmetric = VARIANTS["symmetric"]
    assert 12 * (block_products(GPT2) - block_products(GPT2, symmetric)) == block_products(GPT2)
    assert cache_bytes(GPT2, symmetric, length=1024) == cache_bytes(GPT2, length=1024) == 2 * 12 * 1024 * 768 * 4

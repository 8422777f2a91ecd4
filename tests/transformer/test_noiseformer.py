"""A NoiseFormer is a Transformer with tied queries and keys: what it shares, what it draws, how it is resumed."""

import copy
import io
import warnings

import pytest
import torch

from nslab.attention.settings import VARIANTS
from nslab.training import Trainer, TrainingConfig
from nslab.transformer import Transformer, TransformerConfig
from nslab.transformer.noiseformer import NoiseFormer, network

SMALL = TransformerConfig(vocabulary=11, context=9, width=12, layers=3, heads=3)
NOISY = [name for name, scores in VARIANTS.items() if scores.noise]
SHAPES = [{}, {"positions": "rotary", "norm": "rms", "causal": False, "bias": False, "tied": False}]


def generator(seed=0, device="cpu"):
    return torch.Generator(device).manual_seed(seed)


def noiseformer(name, *, wide=True, seed=0, **shape):
    """A small network of a variant, its weights and its noise drawn wide enough to matter."""
    model = NoiseFormer(TransformerConfig(**vars(SMALL) | shape), VARIANTS[name], generator(seed))
    if wide:
        source = generator(1)
        with torch.no_grad():
            for weight_name, weight in model.named_parameters():
                drawn = torch.randn(weight.shape, generator=source)
                weight.copy_(1 + drawn / 4 if "norm" in weight_name and weight.ndim == 1 else drawn / 3)
    return model


@pytest.mark.parametrize("name", list(VARIANTS))
@pytest.mark.parametrize("shape", SHAPES, ids=["gpt", "other"])
def test_networks_of_one_seed_share_the_weights_that_both_have(name, shape):
    model = noiseformer(name, wide=False, **shape)
    standard = dict(Transformer(model.config, generator()).named_parameters())
    ours = dict(model.named_parameters())
    for weight_name, weight in standard.items():
        if ".qkv." in weight_name:
            query, _, value = weight.chunk(3)
            assert torch.equal(ours.pop(weight_name.replace("qkv", "query_value")), torch.cat((query, value)))
        else:
            assert torch.equal(ours.pop(weight_name), weight)
    added = ("noise.", "pairwise", "factors")
    assert all(any(part in weight_name for part in added) for weight_name in ours)
    assert bool(ours) == (name != "symmetric")


def test_without_noise_it_is_the_transformer_whose_keys_are_its_queries(prompts):
    model = noiseformer("symmetric", positions="rotary").eval()
    twin = Transformer(model.config).eval()
    weights = {name: weight for name, weight in model.state_dict().items() if name != "_extra_state"}
    for name in list(weights):
        if "query_value" in name:
            query, value = weights.pop(name).chunk(2)
            weights[name.replace("query_value", "qkv")] = torch.cat((query, query, value))
    twin.load_state_dict(weights)
    torch.testing.assert_close(model(prompts()), twin(prompts()), rtol=0, atol=2e-6)


GPT2 = 124_439_808  # parameters of GPT-2 base
SAVED = 768 * 768 + 768  # of a layer, its key projection
ADDED = {
    "symmetric": 0,
    "pairwise": 12 * 64 * 64,
    "low-rank": 2 * 4 * 768 * 12,
    "v1-scalar": 2,
    "v2-scalar": 24,
    "v1-key": 128,
    "v2-key": 1536,
    "v1-relative": 2048,
    "v2-relative": 24576,
    "v1-amortised": 2 * 4 * (768 + 64),
    "v2-amortised": 2 * 4 * (768 + 768),
}


@pytest.mark.parametrize("name", list(VARIANTS))
def test_parameters_of_gpt2_base_to_the_unit(name):
    """One layer is built without data; the other eleven are like it."""
    config = TransformerConfig(vocabulary=50257, context=1024, width=768, layers=1, heads=12)
    with torch.device("meta"):
        counts = [
            sum(parameter.numel() for parameter in network(config, scores).parameters())
            for scores in (None, VARIANTS[name])
        ]
    block = 12 * 768 * 768 + 13 * 768  # attention, MLP and two norms, with biases
    assert counts[0] + 11 * block == GPT2
    assert counts[1] - counts[0] == ADDED[name] - SAVED


@pytest.mark.parametrize("name", list(VARIANTS))
@pytest.mark.parametrize("shape", SHAPES, ids=["gpt", "other"])
def test_in_mean_mode_every_way_through_the_network_says_the_same(prompts, name, shape):
    model = noiseformer(name, **shape).eval()
    ids, at = prompts(), torch.tensor([0, 3, 8, 5])
    expected = model(ids)
    outputs = [
        model.run(ids, model.names())[0],
        model.look(model.embed(ids))[0],
        model.trace(model.embed(ids))[0],
        model.from_embeddings(model.embed(ids)),
    ]
    with torch.no_grad():
        outputs.append(model(ids))
    for found in outputs:
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    last = expected[torch.arange(4), at]
    torch.testing.assert_close(model(ids, at), last, rtol=0, atol=1e-5)
    seen = model.run(ids, ["layers.1.attention.weights", "layers.1.attention.scores"])[1]
    torch.testing.assert_close(seen["layers.1.attention.scores"].softmax(-1), seen["layers.1.attention.weights"])


@pytest.mark.parametrize("name", NOISY)
def test_training_draws_anew_each_call_and_evaluation_never_counts(prompts, name):
    first, second = noiseformer(name), noiseformer(name)
    ids = prompts()
    draws = [first(ids) for _ in range(3)]
    assert not torch.equal(draws[0], draws[1])
    for number, expected in enumerate(draws):  # one seed, the same bits, whatever is evaluated in between
        assert torch.equal(second(ids), expected)
        with torch.no_grad(), second.eval().noise("sample", generator(number)):
            second(ids)
        second.train()
    other = noiseformer(name)
    other.stream = 1
    assert not torch.equal(other(ids), draws[0])


@pytest.mark.parametrize("name", ["v2-key", "v1-relative"])
def test_the_layers_of_a_call_and_the_rows_of_a_batch_have_noise_of_their_own(name):
    model = noiseformer(name)
    ids = torch.full((2, 9), 3)
    out, seen = model.run(ids, [f"layers.{layer}.attention.{part}" for layer in range(3) for part in ("query", "key")])
    assert not torch.equal(out[0], out[1])
    if name == "v2-key":
        noises = [seen[f"layers.{layer}.attention.key"] - seen[f"layers.{layer}.attention.query"] for layer in range(3)]
        with torch.no_grad():
            units = [
                (noise - own.mean.view(3, 1, 4)) / own.log_sigma.exp().view(3, 1, 4)
                for noise, own in zip(noises, model.noises(), strict=True)
            ]
            together = torch.stack(units).flatten(1)
            assert torch.corrcoef(together).fill_diagonal_(0).abs().max().item() < 0.3  # 216 draws a layer
            assert together.std().item() == pytest.approx(1, abs=0.15)


def test_a_copy_draws_as_the_original_would_and_so_does_a_state(prompts):
    model = noiseformer("v2-amortised")
    model(prompts()).sum().backward()
    twin = copy.deepcopy(model)
    other = noiseformer("v2-amortised", seed=5)
    other.load_state_dict(model.state_dict())
    expected = model(prompts())
    assert torch.equal(twin(prompts()), expected)
    assert torch.equal(other(prompts()), expected)


@pytest.mark.parametrize("name", ["v2-key", "v2-relative", "v2-amortised"])
def test_a_killed_training_goes_on_to_the_bit(name):
    """Stopped after 7 of 12 steps and taken up from a file in a new network: the noise goes on where it was."""
    config = TrainingConfig(steps=12, batch=4, learning_rate=1e-2, evaluate_every=5)

    def batch(source):
        ids = torch.randint(11, (4, 8), generator=source)
        return ids[:, :-1], ids[:, 1:]

    def kl(model, x, output, *, generator):
        return model.kl()

    def trainer(seed):
        model = noiseformer(name, wide=False, seed=seed)

        def evaluate(model):
            with model.noise("sample", generator(3)):
                return {"sampled": model(torch.zeros(1, 5, dtype=torch.long)).sum().item()}

        return Trainer(model, config, batch, penalties=[(1e-3, kl)], evaluate=evaluate)

    whole, killed, resumed = trainer(0), trainer(0), trainer(9)
    whole.run()
    killed.run(until=7)
    file = io.BytesIO()
    torch.save(killed.state(), file)
    file.seek(0)
    resumed.load_state(torch.load(file, weights_only=True))
    resumed.run()
    expected = whole.model.state_dict()
    assert set(expected) == set(resumed.model.state_dict())
    for weight_name, weight in resumed.model.state_dict().items():
        assert torch.equal(weight, expected[weight_name])
    assert expected["_extra_state"][1].item() == 12
    fresh = noiseformer(name, wide=False).state_dict()
    moved = [key for key in fresh if "noise" in key and not torch.equal(fresh[key], expected[key])]
    assert moved  # the noise did learn


def test_weight_decay_spares_the_vectors_of_the_noise():
    model = noiseformer("v2-relative", wide=False)
    before = [(noise.mean.clone(), noise.log_sigma.clone()) for noise in model.noises()]
    config = TrainingConfig(steps=3, batch=2, learning_rate=0.1, weight_decay=1.0)

    def batch(source):
        return torch.zeros(2, 3, dtype=torch.long), torch.zeros(2, 3, dtype=torch.long)

    Trainer(model, config, batch, loss=lambda output, y: 0 * output.sum()).run()
    for noise, (mean, log_sigma) in zip(model.noises(), before, strict=True):
        assert torch.equal(noise.mean, mean)
        assert torch.equal(noise.log_sigma, log_sigma)
    assert model.tokens.weight.std().item() < 0.018  # matrices did decay


def test_the_kl_of_a_network_is_the_mean_over_its_layers(prompts):
    model = noiseformer("v1-key")
    expected = 0
    for noise in model.noises():
        sigma = noise.log_sigma.exp()
        expected += (0.5 * (noise.mean**2 + sigma**2 - 1) - sigma.log()).mean() / 3
    torch.testing.assert_close(model.kl(), expected)
    torch.testing.assert_close(model.kl("entries"), 3 * 4 * expected)  # 3 layers, one vector of 4 coordinates a token
    with pytest.raises(ValueError, match="there is no learned noise: give scores with noise"):
        noiseformer("symmetric").kl()


def test_the_mode_of_the_noise_ends_with_its_block(prompts):
    model = noiseformer("v2-key").eval()
    mean = model(prompts())
    with model.noise("sample", generator(1)):
        first = model(prompts())
        with model.noise("mean"):
            assert torch.equal(model(prompts()), mean)
        assert not torch.equal(model(prompts()), first)
    with model.noise("sample", generator(1)):
        assert torch.equal(model(prompts()), first)
    with pytest.raises(KeyError), model.noise("sample"):
        raise KeyError
    assert torch.equal(model(prompts()), mean)
    with pytest.raises(ValueError, match=r"mode is 'average': choose 'mean' or 'sample'"), model.noise("average"):
        pass


@pytest.mark.parametrize("name", ["v2-relative", "v2-amortised"])
def test_a_network_warns_once_of_an_exploding_log_sigma(prompts, name):
    model = noiseformer(name)
    with torch.no_grad():
        for noise in model.noises():
            (noise.up if name == "v2-amortised" else noise.log_sigma).mul_(1e3)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        out = model(prompts()).square().mean() + model.kl()
        out.backward()
        model(prompts())
    assert [str(each.message)[:9] for each in caught] == ["log sigma"]
    assert all(bool(weight.grad.isfinite().all()) for weight in model.parameters())


@pytest.mark.parametrize("name", list(VARIANTS))
def test_it_trains_where_its_weights_are_in_half_precision_too(prompts, device, name):
    model = noiseformer(name, wide=False).to(device)
    for autocast in (False, True):
        with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
            loss = model(prompts(device=device)).square().mean()
            loss = loss + model.kl() if name in NOISY else loss
        loss.backward()
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=autocast):
            assert bool(model.eval()(prompts(device=device)).isfinite().all())
        model.train()
    assert all(bool(weight.grad.isfinite().all()) for weight in model.parameters())


def test_a_network_without_score_settings_is_the_standard_one():
    model = network(SMALL, None, generator())
    assert type(model) is Transformer
    assert network(SMALL, VARIANTS["v1-scalar"], generator()).variant == "v1-scalar"
    for ours, theirs in zip(model.parameters(), Transformer(SMALL, generator()).parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match=r"heads is 5 and width 12: make the width a multiple"):
        network(TransformerConfig(**vars(SMALL) | {"heads": 5}), VARIANTS["v2-key"])

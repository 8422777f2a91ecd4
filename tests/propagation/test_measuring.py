"""Measured moments and agreement: every number is what its definition says, on any network, layer by layer."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from nslab.propagation.measuring import measure, measure_layers
from nslab.propagation.results import MeasuredMoments, agreement, equalised, moments_between, pair_moments
from nslab.stability import EmbeddingNoise
from nslab.transformer import Transformer, TransformerConfig

TOLERANCES = {
    "double": 1e-12,  # the same sums in another order
    "errors": 5,  # standard errors between a measurement and a closed form
    "jackknife": 0.05,  # relative difference of two estimators of a standard error, 200 samples
}
SMALL = TransformerConfig(vocabulary=7, context=6, width=8, layers=2, heads=2)
RHO = torch.tensor([0.2, 0.9, 1.0], dtype=torch.float64)


def seeded(seed=0, device="cpu"):
    return torch.Generator(device).manual_seed(seed)


def by_definition(x, y):
    """m, o, q, p from the full matrix of products of all token pairs, in double precision."""
    x, y = x.double(), y.double()
    tokens, width = x.shape[-2:]
    cross, own = x @ y.mT / width, (x @ x.mT + y @ y.mT) / (2 * width)
    other = ~torch.eye(tokens, dtype=torch.bool, device=x.device)
    return [pick(part) for part in (cross, own) for pick in (lambda c: _same(c), lambda c: c[..., other].mean(-1))]


def _same(products):
    return products.diagonal(dim1=-2, dim2=-1).mean(-1)


@pytest.fixture
def network():
    model = Transformer(SMALL, generator=seeded()).double().eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape, generator=seeded(weight.numel()), dtype=torch.float64) / 2)
    return model


@pytest.fixture
def embeddings(network):
    return network.embed(torch.randint(7, (5, 6), generator=seeded(1))).detach()


def test_moments_are_means_over_token_pairs(device):
    x = torch.randn(3, 7, 16, generator=seeded(), dtype=torch.float64).to(device).requires_grad_()
    y = (x.detach() + torch.randn(2, 4, 3, 7, 16, generator=seeded(1), dtype=torch.float64).to(device)) + 1
    found = moments_between(x, y)
    m, o, q, p = (part.mean(-1) for part in by_definition(x, y))
    for ours, theirs in zip(found.parts(), (m, o, q, p), strict=True):
        assert ours.shape == (2, 4)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=TOLERANCES["double"])
    ours, theirs = (
        torch.autograd.grad(sum(part.sum() for part in parts), x)[0] for parts in (found.parts(), (m, o, q, p))
    )
    torch.testing.assert_close(ours, theirs)
    found.check(7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_states_of_low_precision_lose_nothing_in_the_sums(dtype):
    x, y = ((30 + torch.randn(1, 128, 128, generator=seeded(seed))).to(dtype) for seed in (0, 1))
    for ours, theirs in zip(moments_between(x, y).parts(), by_definition(x, y), strict=True):
        assert abs(ours / theirs - 1) < TOLERANCES["double"]
    moments_between(x, torch.stack([x, y])).check(128)


def test_a_single_token_has_no_others():
    found = moments_between(torch.ones(2, 1, 4), 2 * torch.ones(2, 1, 4))
    assert [part.item() for part in found.parts()] == [2.0, 0.0, 2.5, 0.0]
    found.check(1)


@pytest.mark.parametrize("skip", [0, 2])
@pytest.mark.parametrize("everywhere", [True, False])
def test_a_network_is_measured_as_one_twin_at_a_time_would(network, embeddings, skip, everywhere, monkeypatch):
    """Twin: each prompt, rho and draw alone, all token pairs; in the fast path prompts go two and two."""
    monkeypatch.setattr("nslab.propagation.measuring.CPU_POSITIONS", 2 * 6 * 7)
    noise, draws = EmbeddingNoise.of(embeddings), 2
    noisy = None if everywhere else torch.arange(6).expand(5, 6) % 2 == 0
    part = "layers.1.mlp_norm"
    found = measure(
        network, embeddings, RHO, noisy=noisy, draws=draws, weights=True, parts=[part], skip=skip, generator=seeded(3)
    )
    source = seeded(3)
    fresh = [noise.draw(embeddings, source) for _ in range(draws)]
    names = ["layers.0.residual", "layers.1.residual", "layers.2.residual", "layers.1.mlp.input"]
    names += ["layers.0.attention.weights", "layers.1.attention.weights"]
    numbers = torch.zeros(4, 5, 4, 3, dtype=torch.float64)  # (m o q p, prompts, states, rho)
    masses = torch.zeros(4, 5, 2, 2, 3, dtype=torch.float64)  # (s t s_a t_a, prompts, layers, heads, rho)
    for prompt in range(5):
        x = embeddings[prompt, None]
        for number, rho in enumerate(RHO):
            for z in fresh:
                y = noise.twin(x, rho, z[prompt, None])
                y = y if noisy is None else torch.where(noisy[prompt, :, None], y, x)
                clean, noised = (looked_at(network, e, names) for e in (x, y))
                for state in range(4):
                    pairs = by_definition(*(seen[state][0, skip:] for seen in (clean, noised)))
                    numbers[:, prompt, state, number] += torch.stack(pairs) / draws
                for layer in range(2):
                    pairs = by_definition(*(seen[4 + layer][0, :, skip:] for seen in (clean, noised)))
                    masses[:, prompt, layer, :, number] += 6 * torch.stack(pairs) / draws
    close = lambda ours, theirs: torch.testing.assert_close(ours, theirs, rtol=0, atol=TOLERANCES["double"])  # noqa: E731
    for number, name in enumerate("moqp"):
        close(getattr(found.moments, name), numbers[number, :, :3])
        close(getattr(found.parts[part], name), numbers[number, :, 3])
    for number, name in enumerate(("s", "t", "s_a", "t_a")):
        close(getattr(found.agreement, name), masses[number])


def looked_at(network, embeddings, names):
    """Named intermediates, the network entered at embeddings."""
    network.embed = lambda ids: embeddings
    try:
        return list(network.run(torch.zeros(1, 6, dtype=torch.int64), names)[1].values())
    finally:
        del network.embed


def test_without_noise_every_correlation_is_one_and_the_clean_run_is_the_noisy_one(network, embeddings):
    found = measure(network, embeddings, 1.0, weights=True, generator=seeded())
    assert found.moments.m.shape == (5, 3)
    for name in ("correlation", "centred", "drift"):
        torch.testing.assert_close(found.moments.estimate(name).value, torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(found.agreement.s, found.agreement.s_a)
    torch.testing.assert_close(found.agreement.t, found.agreement.t_a)
    found.moments.moments.check(6, layers=True)


class Told:
    """A model whose attention is given: it counts the rows it is asked for."""

    def __init__(self, weights):
        self.weights, self.rows = weights, 0

    def look(self, embeddings, at):
        self.rows += len(embeddings)
        return at, [embeddings], [self.weights.expand(len(embeddings), 1, -1, -1)]

    trace = None


@pytest.mark.parametrize(
    ("weights", "s", "t"),
    [
        (torch.full((4, 4), 0.25), 1 / 4, 1 / 4),
        (torch.eye(4), 1.0, 0.0),
        (torch.eye(4)[[0, 0, 0, 0]], 1.0, 1.0),
        (torch.ones(4, 4).tril() / torch.arange(1, 5)[:, None], 25 / 48, 23 / 72),  # causal and even: s = mean of 1/i
    ],
    ids=["even", "identity", "sink", "causal"],
)
def test_agreement_is_the_chance_to_draw_the_same_key_twice(weights, s, t):
    model = Told(weights)
    found = measure(model, torch.randn(3, 4, 2, generator=seeded()), RHO, draws=2, weights=True).agreement
    for name, value in {"s": s, "s_a": s, "t": t, "t_a": t}.items():
        torch.testing.assert_close(getattr(found, name), torch.full((3, 1, 1, 3), value, dtype=torch.float64))
    assert model.rows == 3 * (1 + 2 * 3)  # each prompt once, each of its twins once
    assert [part.shape for part in agreement(torch.rand(5, 2, 3, 4, 6))] == [(2, 3, 4)] * 4


def relu_map(rho):
    return (math.sqrt(1 - rho**2) + rho * (math.pi - math.acos(rho))) / (2 * math.pi)


def test_a_relu_layer_has_the_moments_of_theorem_5_1(device):
    x = torch.randn(64, 2000, 1, generator=seeded(0, device), device=device)
    found = measure_layers(nn.ReLU().eval(), x, [0.0, 0.6], layers=[""], generator=seeded(1, device)).moments
    for number, rho in enumerate((0.0, 0.6)):
        wanted = {"m": relu_map(rho), "o": 1 / (2 * math.pi), "q": 1 / 2, "p": 1 / (2 * math.pi)}
        wanted["correlation"] = relu_map(rho) / (1 / 2)
        wanted["centred"] = (relu_map(rho) - 1 / (2 * math.pi)) / (1 / 2 - 1 / (2 * math.pi))
        for name, value in wanted.items():
            estimate = found.estimate(name)
            assert abs(estimate.value[0, number] - value) < TOLERANCES["errors"] * estimate.stderr[0, number], name


def test_of_plain_rows_the_batch_is_the_tokens():
    module = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)).double().eval()
    x = torch.randn(40, 5, generator=seeded(), dtype=torch.float64)
    found = measure_layers(module, x, 0.5, layers=["0", "2"], generator=seeded(1)).moments
    y = 0.5 * x + math.sqrt(0.75) * torch.randn(40, 5, generator=seeded(1), dtype=torch.float64)
    for layer, part in enumerate((module[:1], module)):
        for name, value in zip("moqp", by_definition(part(x)[None], part(y)[None]), strict=True):
            torch.testing.assert_close(getattr(found, name)[:, layer], value, rtol=0, atol=TOLERANCES["double"])


def test_of_images_the_pixels_are_the_tokens_and_arrange_says_otherwise():
    convolution = nn.Conv2d(2, 5, 3).double().eval()
    x = torch.randn(4, 2, 6, 7, generator=seeded(), dtype=torch.float64)
    y = 0.5 * x + math.sqrt(0.75) * torch.randn(x.shape, generator=seeded(1), dtype=torch.float64)
    looks = {
        None: lambda h: torch.stack([h[:, :, a, b] for a in range(4) for b in range(5)], 1),
        (lambda h: h.flatten(2)): lambda h: h.flatten(2),  # here the channels are the tokens
    }
    for arrange, slowly in looks.items():
        found = measure_layers(convolution, x, [0.5], layers=[""], arrange=arrange, generator=seeded(1)).moments
        for name, value in zip("moqp", by_definition(slowly(convolution(x)), slowly(convolution(y))), strict=True):
            torch.testing.assert_close(getattr(found, name)[:, 0, 0], value, rtol=0, atol=TOLERANCES["double"])


def test_the_centred_correlation_does_not_see_what_all_tokens_share():
    x = torch.randn(50, 6, 4, generator=seeded(), dtype=torch.float64)
    shift = 10 * torch.randn(4, generator=seeded(1), dtype=torch.float64)
    shifted = nn.Linear(4, 4).double().eval()
    with torch.no_grad():
        shifted.weight.copy_(torch.eye(4))
        shifted.bias.copy_(shift)
    plain, moved = (
        measure_layers(module, x, 0.3, layers=[""], generator=seeded(2)).moments
        for module in (nn.Identity().eval(), shifted)
    )
    torch.testing.assert_close(plain.estimate("centred").value, moved.estimate("centred").value)
    assert plain.estimate("correlation").value < 0.4
    assert moved.estimate("correlation").value > 0.95


@pytest.mark.parametrize("name", ["correlation", "token_correlation", "centred", "drift"])
def test_the_error_of_a_ratio_is_that_of_the_jackknife(name):
    generator = seeded()
    q = 2 + torch.rand(200, 1, generator=generator, dtype=torch.float64)
    noise = torch.randn(4, 200, 1, generator=generator, dtype=torch.float64) / 10
    found = MeasuredMoments(0.5 * q + noise[0], noise[1], q, 0.2 * q + noise[2], q + noise[3], 0.0)

    def ratio(kept):
        parts = (getattr(found, part)[kept] for part in ("m", "o", "q", "p", "clean"))
        return MeasuredMoments(*parts, 0.0).estimate(name).value

    left_out = torch.stack([ratio(torch.arange(200) != one) for one in range(200)])
    jackknife = (199 / 200 * (left_out - left_out.mean(0)).square().sum(0)).sqrt()
    estimate = found.estimate(name)
    assert estimate.samples == 200
    assert abs(estimate.stderr / jackknife - 1) < TOLERANCES["jackknife"]
    torch.testing.assert_close(found.estimate("m").stderr, found.m.std(0) / math.sqrt(200))


def test_tokens_of_equal_length_count_alike(network, embeddings):
    """Twin: m/q is the mean cosine; q is the square of the geometric mean length; one huge token changes neither."""
    found = measure(network, embeddings, [0.5], equal_lengths=True, skip=1, generator=seeded()).moments
    noise = EmbeddingNoise.of(embeddings)
    twin = noise.twin(embeddings, 0.5, noise.draw(embeddings, seeded()))
    for layer, (x, y) in enumerate(zip(*(network.trace(e)[1] for e in (embeddings, twin)), strict=True)):
        x, y = x[:, 1:], y[:, 1:]
        sizes = [states.square().mean(-1).log().mean(-1).exp() for states in (x, y)]
        cosine = torch.cosine_similarity(x, y, dim=-1).mean(-1)
        torch.testing.assert_close(found.clean[:, layer, 0], sizes[0])
        torch.testing.assert_close(found.q[:, layer, 0], (sizes[0] + sizes[1]) / 2)
        torch.testing.assert_close(found.m[:, layer, 0], cosine * (sizes[0] * sizes[1]).sqrt())
    shared = torch.randn(2, 1, 9, 6, generator=seeded(), dtype=torch.float64)
    longer = shared * torch.tensor([1.0] * 8 + [1e3], dtype=torch.float64)[:, None]
    m, o, q, p, _ = pair_moments(equalised(shared))
    for ours, theirs in zip(pair_moments(equalised(longer))[:4], (m, o, q, p), strict=True):
        torch.testing.assert_close(ours / 1e6 ** (1 / 9), theirs)


class Breaks(nn.Module):
    def forward(self, x):
        return x.masked_fill(x > 3, math.nan)


def test_nan_is_reported_with_its_layer(network, embeddings):
    chain = nn.Sequential(nn.Identity(), Breaks(), nn.ReLU()).eval()
    x = torch.zeros(4, 3, 2)
    x[2] = 4.0
    with pytest.raises(ValueError, match=r"layer '1' holds NaN or infinity in sample 2: look at its inputs"):
        measure_layers(chain, x, [0.5, 1.0], layers=["0", "1", "2"], generator=seeded())
    with torch.no_grad():
        network.layers[1].mlp.output.weight[0, 0] = math.inf
    with pytest.raises(ValueError, match="layer 2 holds NaN or infinity in sample 0"):
        measure(network, embeddings, 0.5)


class Looped(nn.Module):
    """Runs one submodule twice and another never."""

    def __init__(self):
        super().__init__()
        self.a = self.also = nn.ReLU()
        self.once, self.idle = nn.Identity(), nn.Identity()

    def forward(self, x):
        return self.once(self.a(self.a(x) - 1))

    def trace(self, embeddings, at):
        return at, [embeddings, self(embeddings)]


class Returns(nn.Module):
    """The input, packed."""

    def __init__(self, packed):
        super().__init__()
        self.packed = packed
        self.eval()

    def forward(self, x):
        return self.packed(x)


def test_the_first_of_several_outputs_counts_and_a_module_answers_to_all_its_names():
    x = torch.randn(3, 4, 2, generator=seeded())
    module = nn.Identity()
    twice_named = nn.ModuleDict({"a": module, "b": module}).eval()
    twice_named.forward = lambda h: twice_named["a"](h)
    plain = measure_layers(twice_named, x, RHO, layers=["b", "a", "a"], generator=seeded(1)).moments.m
    assert plain.shape == (3, 3, 3)
    for packed in (lambda h: (h, None), lambda h: [h]):
        found = measure_layers(Returns(packed), x, RHO, layers=[""], generator=seeded(1)).moments.m
        assert torch.equal(found[:, 0], plain[:, 1])


def test_an_exception_leaves_no_hook_behind():
    chain = nn.Sequential(nn.Identity(), nn.Linear(9, 2)).eval()
    with pytest.raises(RuntimeError, match="shapes"):
        measure_layers(chain, torch.zeros(4, 3), 0.5, layers=["0"])
    with pytest.raises(ZeroDivisionError):
        measure_layers(chain, torch.zeros(4, 9), 0.5, layers=["0", "1"], arrange=lambda h: 1 / 0)
    assert not any(module._forward_hooks for module in chain)


def test_bad_requests_name_the_remedy(network, embeddings):
    for options, message in [
        ({"rho": 1.5}, r"rho is \[1.5\]: give numbers from 0 to 1"),
        ({"draws": 0}, "draws is 0, skip 0: draw at least once"),
        ({"skip": 6}, "leave at least one token"),
        ({"parts": ["layer.0"]}, r"no submodule 'layer\.0': take names from named_modules\(\), such as 'tokens'"),
        ({"noisy": torch.ones(5, 5, dtype=torch.bool)}, "noisy has shape"),
        ({"embeddings": embeddings[0]}, r"give floating-point numbers \(prompts, length, width\)"),
        ({"model": nn.ReLU()}, "ReLU and has no trace: measure_layers takes any other module"),
        ({"model": Looped().eval(), "weights": True}, "Looped and has no look: leave weights=True out"),
        ({"model": Looped().eval(), "parts": ["a"]}, "submodule 'a' is called more than once"),
        ({"model": Looped().eval(), "parts": ["idle"]}, "submodule 'idle' is never called"),
        ({"model": Looped()}, "model is in training mode: call eval"),
        ({"model": SimpleNamespace(trace=None, module=Looped())}, "model is in training mode: call eval"),
    ]:
        given = {"model": network, "embeddings": embeddings, "rho": 0.5} | options
        with pytest.raises(ValueError, match=message):
            measure(given.pop("model"), given.pop("embeddings"), given.pop("rho"), **given)
    chain, x = nn.Sequential(nn.Flatten(), nn.Linear(6, 2)).eval(), torch.zeros(4, 3, 2)
    idle = nn.ModuleDict({"a": chain, "b": nn.ReLU()})
    idle.forward = chain.forward
    for module, layers, options, message in [
        (chain, ["2"], {}, "no submodule '2'"),
        (chain, [], {}, "name at least one layer"),
        (idle.eval(), ["b"], {}, "submodule 'b' is never called: name submodules that compute"),
        (chain, ["1"], {"arrange": lambda h: h[:3]}, r"layer '1' gives \(3, 2\) for 8 inputs: pass arrange="),
        (nn.Dropout(), [""], {}, "training mode: call eval"),
        (Returns(lambda h: {"states": h}), [""], {}, "submodule '' returns dict: name one that returns a tensor"),
        (Looped().eval(), ["a"], {}, "submodule 'a' is called more than once: its states would be mixed up"),
        (
            nn.Sequential(nn.Identity(), chain).eval(),
            ["0", "1"],
            {},
            "'0' has 4 samples, '1' has 1: ask for them in two calls",
        ),
    ]:
        with pytest.raises(ValueError, match=message):
            measure_layers(module, x, 0.5, layers=layers, **options)
    found = measure_layers(chain, x, 0.5, layers=["1"]).moments
    with pytest.raises(ValueError, match="name is 'corelation': choose one of m, o, q, p, correlation"):
        found.estimate("corelation")
    with pytest.raises(ValueError, match="there is 1 sample: a standard error needs at least 2"):
        found.estimate("m")
    with pytest.raises(ValueError, match="name is 'S': choose one of s, t, s_a, t_a"):
        measure(network, embeddings, 0.5, weights=True).agreement.estimate("S")

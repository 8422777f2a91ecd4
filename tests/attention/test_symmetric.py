"""Symmetric attention: what it is position by position, what a mean cannot do, and what breaks the symmetry."""

import math
from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from nslab.attention import Rotary
from nslab.attention.settings import VARIANTS, NoiseSettings, ScoreSettings
from nslab.attention.symmetric import SymmetricAttention

WIDTH, HEADS, HEAD_WIDTH, CONTEXT = 12, 3, 4, 7
NOISES = [
    NoiseSettings(family, space, per_head, scaling)
    for family in ("scalar", "key", "relative", "amortised")
    for space in ("score", "key")
    for per_head in (False, True)
    for scaling in ("before", "after")
    if (family, space) != ("relative", "key")
]
IDS = [f"{noise.family}-{noise.space}-v{1 + noise.per_head}-{noise.scaling}" for noise in NOISES]


def close(a, b, tolerance):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def generator(seed=0, device="cpu"):
    return torch.Generator(device).manual_seed(seed)


@pytest.fixture
def attention(normal):
    """Symmetric attention in double precision and evaluation mode, none of its weights at its start."""

    def make(scores, *, causal=True, rotary=False, device="cpu"):
        rotary = Rotary(HEAD_WIDTH) if rotary else None
        module = SymmetricAttention(WIDTH, HEADS, causal=causal, scores=scores, context=CONTEXT, rotary=rotary).double()
        for seed, weight in enumerate(module.parameters()):
            weight.data = normal(*weight.shape, seed=seed) / 3
        return module.eval().to(device)

    return make


def looked(module, x, *names):
    return [module.look(x, [name])[1][name] for name in names]


def split(x):
    return x.unflatten(-1, (HEADS, HEAD_WIDTH)).transpose(1, 2)  # (batch, heads, length, head width)


def by_hand(module, x, draw=None):
    """The layer from its weights: score, noise, scaling, mask, softmax; the noise is drawn, or at its mean."""
    scores, noise = module.scores, module.noise
    query, value = (split(part) for part in module.query_value(x).chunk(2, -1))
    length, root = x.shape[1], math.sqrt(HEAD_WIDTH)
    left = query
    if scores.kind == "pairwise":
        left = query @ (torch.eye(HEAD_WIDTH, dtype=x.dtype, device=x.device) + module.pairwise)
    left, right = (each if module.rotary is None else module.rotary(each) for each in (left, query))
    score = left @ right.mT
    if scores.kind == "low-rank":
        a, b = ((x @ half.mT).unflatten(-1, (HEADS, scores.rank)) for half in module.factors.chunk(2))
        score = score + torch.einsum("bihr,bjhr->bhij", a, b)
    if noise is not None:
        settings, groups = scores.noise, HEADS if scores.noise.per_head else 1
        if settings.family == "amortised":
            a, a_prime = module.noise.down.chunk(2, 1)
            (b, b_prime), shape = module.noise.up, (groups, HEAD_WIDTH)
            mean = (x @ a @ b).unflatten(-1, shape).transpose(1, 2)
            sigma = ((x @ a_prime @ b_prime).unflatten(-1, shape).transpose(1, 2) + settings.log_sigma).exp()
        elif settings.family == "relative":
            steps = torch.arange(length, device=x.device)
            offset = steps[:, None] - steps + (0 if module.causal else CONTEXT - 1)
            seen = (offset >= 0) | (not module.causal)
            mean, sigma = (
                each.view(groups, -1)[:, offset.clamp_min(0)] for each in (noise.mean, noise.log_sigma.exp())
            )
            mean, sigma = mean * seen, sigma * seen
        else:
            mean, sigma = (each.view(groups, 1, -1) for each in (noise.mean, noise.log_sigma.exp()))
        if settings.space == "key":
            n = mean if draw is None else mean + sigma * draw
            added = left @ n.expand(*n.shape[:-2], length, HEAD_WIDTH).mT
        else:
            if settings.family in ("key", "amortised"):
                mean, sigma = left @ mean.mT, (left.square() @ sigma.square().mT).sqrt()
            added = mean if draw is None else mean + sigma * draw
        score = score + (added if settings.scaling == "before" else added * root)
    logits = score / root
    if module.causal:
        logits = logits.masked_fill(torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1), -math.inf)
    weights = logits.softmax(-1)
    return module.output((weights @ value).transpose(1, 2).flatten(2)), logits, weights


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("rotary", [True, False])
@pytest.mark.parametrize("kind", ["symmetric", "pairwise", "low-rank"])
def test_each_kind_follows_its_formula(attention, normal, tolerances, kind, rotary, causal):
    module, x = attention(ScoreSettings(kind=kind), causal=causal, rotary=rotary), normal(2, 7, WIDTH, seed=9)
    expected, logits, weights = by_hand(module, x)
    close(module(x), expected, tolerances["exact"])
    out, parts = module.look(x, ["weights", "scores", "heads", "value", "query", "key"])
    assert list(parts) == ["weights", "scores", "heads", "value", "query", "key"]
    close(out, expected, tolerances["exact"])
    close(parts["scores"], logits, tolerances["exact"])
    close(parts["weights"], weights, tolerances["exact"])
    close(parts["weights"] @ parts["value"], parts["heads"], tolerances["exact"])


@pytest.mark.parametrize("settings", NOISES, ids=IDS)
@pytest.mark.parametrize("kind", ["symmetric", "pairwise", "low-rank"])
def test_noise_enters_as_the_formula_says_in_all_modes_and_gradients(
    attention, normal, tolerances, device, kind, settings
):
    """Mean, sample and training against the layer by hand with the same draws, on the fused or the explicit path."""
    module = attention(ScoreSettings(kind=kind, noise=settings), rotary=kind != "pairwise", device=device)
    x = normal(2, 7, WIDTH, seed=9, device=device).requires_grad_()
    groups = HEADS if settings.per_head else 1
    if settings.space == "key":
        draw = torch.randn(2, 7, groups, 4, dtype=x.dtype, device=device, generator=generator(3, device)).transpose(
            1, 2
        )
    else:
        draw = torch.randn(2, groups, 7, 7, dtype=x.dtype, device=device, generator=generator(3, device))
    for mode in ("mean", "sample", "training"):
        module.train(mode == "training")
        module.mode, module.generator = "sample" if mode == "sample" else "mean", generator(3, device)
        expected, logits, _ = by_hand(module, x, None if mode == "mean" else draw)
        found = module(x)
        close(found, expected, tolerances["exact"])
        wanted = [x, *module.parameters()]
        gradients = [torch.autograd.grad(out.square().sum(), wanted, allow_unused=True) for out in (found, expected)]
        for ours, twin in zip(*gradients, strict=True):
            assert (ours is None) <= (twin is None or not twin.any())
            if ours is not None and twin is not None:
                close(ours, twin, 100 * tolerances["exact"])
        module.generator = generator(3, device)
        out, parts = module.look(x, ["scores"])
        close(out, expected, tolerances["exact"])
        close(parts["scores"], logits, tolerances["exact"])
        module.generator = generator(3, device)
        with torch.no_grad():
            close(module(x), expected, tolerances["exact"])


USELESS = [noise for noise in NOISES if (noise.family, noise.space) in (("scalar", "score"), ("key", "key"))]
USELESS += [noise for noise in NOISES if (noise.family, noise.space) in (("key", "score"), ("scalar", "key"))]


@pytest.mark.parametrize("settings", USELESS, ids=str)
@pytest.mark.parametrize("rotary", [True, False])
def test_a_mean_that_does_not_depend_on_the_key_does_nothing(attention, normal, tolerances, settings, rotary):
    """Shift invariance: it adds the same number to a whole row of scores, so the softmax and its gradient miss it."""
    module, x = attention(ScoreSettings(noise=settings), rotary=rotary), normal(2, 7, WIDTH, seed=9)
    plain = attention(ScoreSettings(), rotary=rotary)
    plain.load_state_dict({name: weight for name, weight in module.state_dict().items() if "noise" not in name})
    close(module(x), plain(x), tolerances["exact"])  # in mean mode it is plain symmetric attention
    before = module(x)
    with torch.no_grad():
        module.noise.mean.copy_(module.noise.mean * -7 + 1)
    close(module(x), before, tolerances["exact"])
    module.train().generator = generator()
    by_mean, by_sigma = torch.autograd.grad(module(x).square().sum(), (module.noise.mean, module.noise.log_sigma))
    assert float(by_mean.abs().max()) < tolerances["exact"]
    assert float(by_sigma.abs().max()) > 1e-6  # the level of the noise does matter


@pytest.mark.parametrize("name", ["v2-relative", "v2-amortised"])
def test_a_mean_that_depends_on_the_key_does_something(attention, normal, name):
    module, x = attention(VARIANTS[name]), normal(2, 7, WIDTH, seed=9)
    plain = attention(ScoreSettings())
    plain.load_state_dict({name: weight for name, weight in module.state_dict().items() if "noise" not in name})
    assert (module(x) - plain(x)).abs().max().item() > 1e-3


@pytest.mark.parametrize("rotary", [True, False])
def test_symmetric_scores_are_symmetric_and_positive_semidefinite(attention, normal, tolerances, rotary):
    module, x = attention(ScoreSettings(), causal=False, rotary=rotary), normal(5, 7, WIDTH, seed=9)
    (scores,) = looked(module, x, "scores")
    close(scores, scores.mT, tolerances["exact"])
    values = torch.linalg.eigvalsh(scores)
    assert values.min().item() > -tolerances["exact"] * values.max().item()
    query, key = looked(module, x, "query", "key")
    assert torch.equal(query, key)


@pytest.mark.parametrize("kind", ["pairwise", "low-rank"])
def test_what_breaks_the_symmetry_starts_symmetric_and_learns(normal, tolerances, kind):
    x = normal(2, 7, WIDTH, seed=9)
    layers = [
        SymmetricAttention(WIDTH, HEADS, causal=True, scores=scores, context=7, generator=generator()).double()
        for scores in (ScoreSettings(), ScoreSettings(kind=kind))
    ]
    for layer in layers:
        for seed, weight in enumerate((*layer.query_value.parameters(), *layer.output.parameters())):
            weight.data = normal(*weight.shape, seed=seed) / 3
    close(layers[1](x), layers[0](x), tolerances["exact"])
    layers[1](x).square().sum().backward()
    learned = layers[1].pairwise if kind == "pairwise" else layers[1].factors
    gradient = learned.grad if kind == "pairwise" else learned.grad.chunk(2)[1]
    assert float(gradient.abs().min()) > 0
    with torch.no_grad():
        learned.sub_(0.1 * learned.grad)
    layers[1].causal = False
    (scores,) = looked(layers[1], x, "scores")
    assert (scores - scores.mT).abs().max().item() > 1e-3


@pytest.mark.parametrize("settings", [noise for noise in NOISES if noise.scaling == "before"], ids=str)
def test_noise_before_the_scaling_is_smaller_noise_after_it(attention, normal, tolerances, settings):
    """sigma before is sigma / sqrt(head width) after, for mean and level alike."""
    before = attention(ScoreSettings(noise=settings)).train()
    after = attention(ScoreSettings(noise=replace(settings, scaling="after"))).train()
    with torch.no_grad():
        if settings.family == "amortised":
            after.noise.settings = replace(after.noise.settings, log_sigma=settings.log_sigma - math.log(2))
            after.noise.up[0].div_(2)
        else:
            after.noise.mean.div_(2)
            after.noise.log_sigma.sub_(math.log(2))
    before.generator, after.generator = generator(), generator()
    x = normal(2, 7, WIDTH, seed=9)
    close(after(x), before(x), tolerances["exact"])


@pytest.mark.parametrize("name", ["v2-relative", "v1-scalar"])
def test_masked_noise_never_enters(attention, normal, name, monkeypatch):
    module, x = attention(VARIANTS[name]).train(), normal(2, 7, WIDTH, seed=9)
    module.generator = generator()
    expected = module(x)
    drawn = type(module.noise).on_scores

    def disturbed(self, *args, **kwargs):
        noise = drawn(self, *args, **kwargs)
        return noise + 1e6 * normal(*noise.shape, seed=8).triu(1)

    monkeypatch.setattr(type(module.noise), "on_scores", disturbed)
    module.generator = generator()
    assert torch.equal(module(x), expected)


class Kernels(TorchDispatchMode):
    """The names of what torch runs."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.add(function.name())
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", list(VARIANTS))
def test_only_training_in_score_space_leaves_the_fused_kernel(attention, normal, name):
    module, x = attention(VARIANTS[name]).float(), normal(2, 7, WIDTH, dtype=torch.float32)
    explicit = []
    for training in (True, False):
        with torch.set_grad_enabled(training), Kernels() as kernels:
            module.train(training)(x)
        fused = "aten::_scaled_dot_product_flash_attention_for_cpu" in kernels.names
        assert fused != ("aten::_softmax" in kernels.names)
        explicit.append(not fused)
    in_scores = module.noise is not None and module.scores.noise.space == "score"
    assert explicit == [in_scores, False]


@pytest.mark.parametrize("kind", ["symmetric", "pairwise", "low-rank"])
@pytest.mark.parametrize("rotary", [True, False])
def test_parts_of_later_tokens_are_those_of_the_whole_sequence(attention, normal, tolerances, kind, rotary):
    module, x = attention(ScoreSettings(kind=kind), rotary=rotary), normal(2, 7, WIDTH, seed=9)
    for whole, last in zip(module.parts(x), module.parts(x[:, 4:], start=4), strict=True):
        close(last, whole[..., 4:, :], tolerances["exact"])


@pytest.mark.parametrize("name", ["v2-key", "v2-relative"])
def test_training_always_draws_and_evaluation_as_its_mode_says(attention, normal, name):
    module, x = attention(VARIANTS[name]), normal(2, 7, WIDTH, seed=9)

    def two(training, mode):
        module.train(training).mode, module.generator = mode, generator()
        return module(x), module(x)

    assert torch.equal(*two(False, "mean"))
    for training, mode in ((True, "mean"), (True, "sample"), (False, "sample")):
        first, second = two(training, mode)
        assert not torch.equal(first, second)
        assert torch.equal(first, two(training, mode)[0])  # one seed, the same bits


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match=r"width is 10, heads 3: make the width a multiple"):
        SymmetricAttention(10, 3, causal=True, scores=ScoreSettings(), context=4)

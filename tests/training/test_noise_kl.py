"""The KL of learned noise as a penalty: its value, its pull, no pass of its own, and who is refused."""

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from nslab.attention.settings import VARIANTS
from nslab.training import TextBatches, Trainer, TrainingConfig
from nslab.training.noise_kl import NoiseKL, noise_regulariser
from nslab.transformer.noiseformer import NoiseFormer, network
from tests.training.conftest import SETTINGS, SHAPE

NOISY = ["v1-scalar", "v2-scalar", "v1-key", "v2-key", "v1-relative", "v2-relative"]


def made(variant, device="cpu"):
    model = NoiseFormer(SHAPE, VARIANTS[variant], generator=torch.Generator().manual_seed(0)).double().to(device)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for noise in model.noises():
            for weight in noise.parameters():
                weight += 0.2 * torch.randn(weight.shape, generator=draw).to(weight)
    return model


@pytest.mark.parametrize("variant", NOISY)
def test_it_is_the_mean_over_layers_of_the_mean_over_parameters(variant, device, tolerances):
    """Against torch.distributions; its gradients are mu and sigma^2 - 1 (for log sigma), each over their number."""
    model = made(variant, device)
    x = torch.zeros(2, 5, dtype=torch.int64, device=device)
    found = NoiseKL()(model, x, model(x))
    noises = [layer.attention.noise for layer in model.layers]
    standard = Normal(torch.zeros((), dtype=torch.float64, device=device), 1.0)
    each = [kl_divergence(Normal(noise.mean, noise.log_sigma.exp()), standard).mean() for noise in noises]
    assert abs((found - sum(each) / len(each)).item()) < tolerances["exact"]
    found.backward()
    for noise in noises:
        count = len(noises) * noise.mean.numel()
        pull = (2 * noise.log_sigma.detach()).exp() - 1
        torch.testing.assert_close(noise.mean.grad, noise.mean.detach() / count, rtol=0, atol=tolerances["exact"])
        torch.testing.assert_close(noise.log_sigma.grad, pull / count, rtol=0, atol=tolerances["exact"])


def test_noise_that_depends_on_the_token_counts_the_tokens_of_the_step(tolerances):
    """From the maps themselves, at what entered the layers."""
    model = made("v2-amortised").eval()
    x = torch.randint(7, (3, 8), generator=torch.Generator().manual_seed(2))
    names = [f"layers.{number}.attention.input" for number in range(SHAPE.layers)]
    output, seen = model.run(x, names)
    total = 0
    for layer, name in zip(model.layers, names, strict=True):
        noise = layer.attention.noise
        codes = (seen[name] @ noise.down).chunk(2, -1)
        mean, log_sigma = codes[0] @ noise.up[0], codes[1] @ noise.up[1] - 2
        total += (mean**2 + (2 * log_sigma).exp() - 1 - 2 * log_sigma).mean() / 2
    assert abs((NoiseKL()(model, x, output) - total / SHAPE.layers).item()) < tolerances["exact"]


@pytest.mark.parametrize("variant", ["v2-relative", "v2-amortised"])
def test_it_costs_no_pass(variant, text):
    model, passes = made(variant), []
    model.layers[0].register_forward_hook(lambda *_: passes.append(1))
    config = TrainingConfig(**SETTINGS | {"steps": 3, "warmup": 0})
    Trainer(model, config, TextBatches(text, 8, 4), penalties=[noise_regulariser(1e-3)]).run()
    assert len(passes) == 3


def test_without_a_loss_the_noise_becomes_standard_normal():
    model = made("v2-relative")
    x = torch.zeros(1, 2, dtype=torch.int64)
    config = TrainingConfig(steps=400, batch=1, learning_rate=0.05, weight_decay=0, clip=None)
    constant = lambda output, y: 0 * output.sum()  # noqa: E731
    Trainer(model, config, lambda generator: (x, x), loss=constant, penalties=[noise_regulariser(1)]).run()
    for noise in model.noises():
        assert noise.mean.abs().max() < 1e-2
        assert noise.log_sigma.abs().max() < 1e-2


def test_weight_decay_leaves_the_noise_alone():
    model = made("v2-key")
    before = [weight.clone() for noise in model.noises() for weight in noise.parameters()]
    table = model.tokens.weight.detach().clone()
    x = torch.zeros(1, 2, dtype=torch.int64)
    config = TrainingConfig(steps=5, batch=1, learning_rate=0.05, weight_decay=1)
    constant = lambda output, y: 0 * output.sum()  # noqa: E731
    Trainer(model, config, lambda generator: (x, x), loss=constant, penalties=[noise_regulariser(0)]).run()
    after = [weight for noise in model.noises() for weight in noise.parameters()]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    assert model.tokens.weight.norm() < table.norm()


def test_the_literal_weight_is_the_number_of_variables_a_token(tolerances):
    """At equal entries the sum over all variables is L H (T + 1) / 2 times their mean, for noise per head."""
    model = NoiseFormer(SHAPE, VARIANTS["v2-relative"], generator=torch.Generator().manual_seed(0)).double()
    x = torch.zeros(1, SHAPE.context, dtype=torch.int64)
    output = model(x)
    mean, literal = (NoiseKL(kind)(model, x, output).item() for kind in ("parameters", "entries"))
    assert math.isclose(mean, (math.exp(-4) - 1 + 4) / 2, rel_tol=1e-6)
    assert math.isclose(literal / mean, SHAPE.layers * SHAPE.heads * (SHAPE.context + 1) / 2, rel_tol=1e-6)


def test_networks_without_noise_and_bad_numbers_are_refused():
    x = torch.zeros(1, 2, dtype=torch.int64)
    for scores, name in ((None, "Transformer"), (VARIANTS["symmetric"], "symmetric")):
        model = network(SHAPE, scores, generator=torch.Generator().manual_seed(0))
        with pytest.raises(ValueError, match=rf"model is {name}, which has no learned noise: drop this penalty"):
            NoiseKL()(model, x, model(x))
    for beta in (-1, math.inf, math.nan):
        with pytest.raises(ValueError, match=rf"beta is {beta}: give 0 or more"):
            noise_regulariser(beta)
    with pytest.raises(ValueError, match=r"reduction is 'sum': choose one of parameters, entries"):
        noise_regulariser(1, "sum")

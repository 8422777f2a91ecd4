"""Sigma as a sensitivity meter: where training rests, in closed form, by minimising, and on trained networks."""

import math

import pytest
import torch
from scipy.optimize import minimize, minimize_scalar
from scipy.stats import spearmanr
from torch.nn.attention import SDPBackend, sdpa_kernel

from nslab.attention.settings import VARIANTS, NoiseSettings, ScoreSettings
from nslab.training import Trainer, TrainingConfig
from nslab.training.noise_kl import noise_regulariser
from nslab.training.noise_sensitivity import (
    curvature_of,
    noise_curvature,
    parameter_beta,
    stationary_mean,
    stationary_sigma,
)
from nslab.transformer import TransformerConfig
from nslab.transformer.noiseformer import NoiseFormer

SHAPE = TransformerConfig(vocabulary=6, context=6, width=8, layers=2, heads=2)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def lively(scores, shape=SHAPE, dtype=torch.float64):
    """A network whose scores matter: weights of a size that training would give them."""
    model = NoiseFormer(shape, scores, generator=seeded(0)).to(dtype)
    with torch.no_grad():
        for number, (name, weight) in enumerate(model.named_parameters()):
            if "noise" not in name:
                weight.normal_(0, 0.5, generator=seeded(number))
    return model.eval()


def data(rows=2):
    ids = torch.randint(6, (rows, 7), generator=seeded(5))
    return ids[:, :-1], ids[:, 1:]


@pytest.mark.parametrize(("beta", "gradient", "curvature"), [(0.3, 0.7, 2.0), (1e-3, -0.4, 0.05), (2.0, 1.0, -0.5)])
def test_a_parabola_with_the_kl_has_its_minimum_where_the_formulas_say(beta, gradient, curvature):
    """Reference: a numerical minimum over mu and log sigma of the mean of the parabola plus beta times the KL."""

    def total(z):
        mu, variance = z[0], math.exp(2 * z[1])
        nll = gradient * mu + curvature * (mu**2 + variance) / 2
        return nll + beta * (mu**2 + variance - 1 - math.log(variance)) / 2

    found = minimize(total, [0.1, -1.0], tol=1e-12)
    assert math.exp(found.x[1]) == pytest.approx(float(stationary_sigma(beta, curvature)), rel=1e-4)
    assert found.x[0] == pytest.approx(float(stationary_mean(beta, gradient, curvature)), rel=1e-4)
    assert float(curvature_of(beta, stationary_sigma(beta, curvature))) == pytest.approx(curvature)


def test_any_other_loss_rests_at_its_curvature_averaged_over_the_noise():
    r"""The loss c cosh(n) has the mean c exp(sigma^2/2) and the mean curvature the same, far from c, that at n = 0."""
    beta, c = 0.5, 0.8

    def total(log_sigma):
        variance = math.exp(2 * log_sigma)
        return c * math.exp(variance / 2) + beta * (variance - 1 - 2 * log_sigma) / 2

    sigma = math.exp(minimize_scalar(total, bounds=(-4, 1), method="bounded", options={"xatol": 1e-9}).x)
    assert sigma == pytest.approx(float(stationary_sigma(beta, c * math.exp(sigma**2 / 2))), rel=1e-5)
    assert abs(sigma - float(stationary_sigma(beta, c))) > 0.02


def test_the_values_in_the_text():
    assert float(curvature_of(1e-3, 0.5)) == pytest.approx(3e-3)
    levels = stationary_sigma(torch.tensor([1e-3, 1e-3]), torch.tensor([0.0, -1e-3]))
    assert levels.tolist() == [1.0, math.inf]


def hessian_diagonal(model, x, y):
    """Second derivatives of the loss by every noise variable, by autodiff: (layers, batch, groups, n, n)."""
    groups = model.noises()[0].groups
    shape = (len(model.layers), len(x), groups, x.shape[1], x.shape[1])

    def total(added):
        for layer, extra in zip(model.layers, added, strict=True):
            attention = layer.attention
            before = type(attention).score_bias
            factor = attention.scale if attention.scores.noise.scaling == "before" else 1
            attention.score_bias = lambda x, q, a=attention, b=before, e=extra, f=factor: b(a, x, q) + e * f
        try:
            return torch.nn.functional.cross_entropy(model(x).flatten(0, 1), y.flatten())
        finally:
            for layer in model.layers:
                del layer.attention.score_bias

    start = torch.zeros(shape, dtype=torch.float64)
    whole = torch.autograd.functional.hessian(total, start)
    return whole.reshape(start.numel(), -1).diagonal().reshape(shape)


@pytest.mark.parametrize(("family", "per_head", "scaling"), [
    ("scalar", True, "before"),
    ("scalar", False, "after"),
    ("relative", True, "before"),
])  # fmt: skip
def test_small_noise_measures_the_trace_of_the_hessian(family, per_head, scaling):
    """Twin: all second derivatives by the scores, summed over the entries that share a parameter."""
    settings = NoiseSettings(family=family, per_head=per_head, scaling=scaling, log_sigma=-5)
    model = lively(ScoreSettings(noise=settings))
    x, y = data()
    exact = hessian_diagonal(model, x, y).sum(1)  # (layers, groups, n, n)
    if family == "scalar":
        expected = exact.sum((-2, -1))[..., None]
    else:
        expected = torch.stack([exact.diagonal(-offset, -2, -1).sum(-1) for offset in range(6)], -1)
    found = noise_curvature(model, x, y, draws=100, generator=seeded(1))
    assert found.value.shape == expected.shape
    slack = 4.5 * found.stderr + 1e-3 * expected.abs().max()
    assert bool(((found.value - expected).abs() < slack).all())
    assert float(expected.abs().max()) > 5 * float(found.stderr.max())  # the comparison has teeth


def test_key_noise_is_measured_by_coordinate():
    """Twin: one network of one layer and head, second differences along the noise of each key and coordinate."""
    shape = TransformerConfig(vocabulary=6, context=6, width=4, layers=1, heads=1)
    model = lively(ScoreSettings(noise=NoiseSettings(family="key", space="key", log_sigma=-5)), shape)
    x, y = data(1)
    noise = model.layers[0].attention.noise

    def loss_at(added):
        noise.on_keys = lambda *given, **options: added
        try:
            return torch.nn.functional.cross_entropy(model(x).flatten(0, 1), y.flatten())
        finally:
            del noise.on_keys

    start = torch.zeros(1, 1, 6, 4, dtype=torch.float64)
    with sdpa_kernel(SDPBackend.MATH):  # the fused kernel has no second derivative
        whole = torch.autograd.functional.hessian(loss_at, start)
    expected = whole.reshape(24, 24).diagonal().reshape(6, 4).sum(0)
    found = noise_curvature(model, x, y, draws=100, generator=seeded(1))
    slack = 4.5 * found.stderr[0, 0] + 1e-3 * expected.abs().max()
    assert bool(((found.value[0, 0] - expected).abs() < slack).all())


def test_mirrored_draws_cancel_the_gradient_and_leave_the_network_as_it_was():
    """Without them the error would hold |gradient|/sigma, a hundred times the curvature here."""
    model = lively(ScoreSettings(noise=NoiseSettings(family="scalar", log_sigma=-6)))
    x, y = data()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = noise_curvature(model, x, y, draws=30)
    again = noise_curvature(model.requires_grad_(False), x, y, draws=30)
    assert found == again
    assert not any(weight.requires_grad for weight in model.parameters())
    exact = hessian_diagonal(model, x, y).sum((1, 3, 4))[..., None]
    assert bool(((found.value - exact).abs() < 5 * found.stderr + 1e-3).all())
    slopes = []
    with model.requires_grad_(True).noise("sample", seeded(0)):
        levels = [noise.log_sigma for noise in model.noises()]
        for _ in range(30):
            loss = torch.nn.functional.cross_entropy(model(x).flatten(0, 1), y.flatten())
            slopes.append(torch.cat(torch.autograd.grad(loss, levels)) / math.exp(-12))
    assert bool((torch.stack(slopes).std(0) / 30**0.5 > 10 * found.stderr.flatten()).all())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not any("on_scores" in vars(noise) for noise in model.noises())


def previous(generator, rows=32):
    """Each token must say the one before it."""
    x = torch.randint(8, (rows, 10), generator=generator)
    return x, torch.cat((x[:, :1], x[:, :-1]), 1)


def test_trained_noise_rests_where_the_measured_curvature_puts_it():
    """Two networks learn to copy; then all but the noise is frozen, so that it can come to rest."""
    beta, learned, told = 1e-2, [], []
    for seed in range(2):
        shape = TransformerConfig(vocabulary=8, context=10, width=16, layers=2, heads=2)
        model = NoiseFormer(shape, VARIANTS["v2-scalar"], generator=seeded(seed))
        options = {"batch": 32, "weight_decay": 0, "seed": seed, "evaluate_every": 250}
        penalties = [noise_regulariser(beta)]
        Trainer(model, TrainingConfig(steps=250, learning_rate=1e-2, **options), previous, penalties=penalties).run()
        for name, weight in model.named_parameters():
            weight.requires_grad_("noise" in name)
        config = TrainingConfig(steps=150, learning_rate=3e-2, floor=0.02, **options)
        Trainer(model, config, previous, penalties=penalties).run()
        found = noise_curvature(model.eval(), *previous(seeded(99), 256), draws=12)
        told.append(stationary_sigma(parameter_beta(model, beta), found.value).flatten())
        learned.append(torch.stack([noise.described()[1].exp().detach() for noise in model.noises()]).flatten())
    told, learned = torch.cat(told), torch.cat(learned).double()
    assert float((told / learned).log().abs().max()) < math.log(1.35)
    assert spearmanr(told, learned).statistic > 0.85
    assert float(learned.max() / learned.min()) > 2  # heads that matter and heads that do not


def test_bad_input_names_the_remedy():
    x, y = data()
    with pytest.raises(ValueError, match=r"model is symmetric, which has no learned noise: train a variant such as"):
        noise_curvature(lively(VARIANTS["symmetric"]), x, y)
    with pytest.raises(ValueError, match=r"model is v2-amortised, whose sigma depends on the token"):
        parameter_beta(lively(VARIANTS["v2-amortised"]), 1e-3)
    model = lively(VARIANTS["v2-scalar"])
    with pytest.raises(ValueError, match=r"model is in training mode, where it draws noise of its own: call eval"):
        noise_curvature(model.train(), x, y)
    with pytest.raises(ValueError, match=r"draws is 1: give at least 2"):
        noise_curvature(model.eval(), x, y, draws=1)
    with pytest.raises(ValueError, match=r"beta is 0: give a positive number"):
        stationary_sigma(0, 1.0)
    with pytest.raises(ValueError, match=r"sigma is -1: give a positive number"):
        curvature_of(1e-3, -1)
    with pytest.raises(ValueError, match=r"beta \+ curvature is -1: without a positive sum there is no minimum"):
        stationary_mean(1, 0.5, -2)


def test_the_weight_of_one_parameter_is_a_share_of_beta():
    """Reference: the gradient of the network's KL by one mean, which is b mu."""
    model = lively(VARIANTS["v2-relative"])
    with torch.no_grad():
        for noise in model.noises():
            noise.mean.fill_(0.5)
    slope = torch.autograd.grad(1e-3 * model.kl("parameters"), model.noises()[1].mean)[0]
    assert slope[3].item() == pytest.approx(0.5 * parameter_beta(model, 1e-3))
    assert parameter_beta(model, 1e-3) == pytest.approx(1e-3 / (2 * 12))

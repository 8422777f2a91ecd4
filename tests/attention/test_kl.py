"""The KL of learned noise: closed form, torch.distributions, autodiff, and counting entries one by one."""

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from nslab.attention.kl import gaussian_kl, noise_kl
from nslab.attention.noise_families import LearnedNoise
from nslab.attention.settings import NoiseSettings


def noise(normal, seed=0, *, context=5, causal=True, width=6, heads=3, **settings):
    """Learned noise in double precision with parameters that are not at their start."""
    made = LearnedNoise(NoiseSettings(**settings), width, heads, context, causal).double()
    for number, parameter in enumerate(made.parameters()):
        parameter.data = normal(*parameter.shape, seed=seed + number) / 3
    return made


def test_the_values_of_the_closed_form(tolerances):
    mean, sigma = torch.tensor([[0.0, 0.0, 0.5], [1.0, 0.3, 0.3]], dtype=torch.float64)
    expected = torch.tensor([0.0, 0.7490, 0.8740], dtype=torch.float64)
    torch.testing.assert_close(gaussian_kl(mean, sigma.log()), expected, rtol=0, atol=5e-5)


def test_it_is_the_divergence_of_torch(normal, tolerances, device):
    mean, log_sigma = normal(40, device=device), normal(40, seed=1, device=device)
    prior = Normal(torch.zeros_like(mean), torch.ones_like(mean))
    expected = kl_divergence(Normal(mean, log_sigma.exp()), prior)
    torch.testing.assert_close(gaussian_kl(mean, log_sigma), expected, rtol=0, atol=tolerances["exact"])
    assert bool((gaussian_kl(mean, log_sigma) > 0).all())


def test_its_gradients_are_the_mean_and_sigma_minus_one_over_sigma(normal, tolerances):
    mean, sigma = normal(40).requires_grad_(), normal(40, seed=1).exp().requires_grad_()
    by_mean, by_sigma = torch.autograd.grad(gaussian_kl(mean, sigma.log()).sum(), (mean, sigma))
    torch.testing.assert_close(by_mean, mean.detach(), rtol=0, atol=tolerances["exact"])
    expected = (sigma - 1 / sigma).detach()
    torch.testing.assert_close(by_sigma, expected, rtol=tolerances["exact"], atol=tolerances["exact"])


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("per_head", [True, False])
@pytest.mark.parametrize("length", [3, 5])
def test_entries_are_those_that_the_mask_leaves_counted_one_by_one(normal, tolerances, causal, per_head, length):
    """Score space: a pair (i, j) that is hidden, or whose offset the sequence is too short for, does not count."""
    for family in ("relative", "scalar"):
        made = noise(normal, causal=causal, family=family, per_head=per_head)
        divergence, total = gaussian_kl(made.mean, made.log_sigma).tolist(), 0.0
        for group in range(3 if per_head else 1):
            for i in range(length):
                for j in range(i + 1 if causal else length):
                    place = {"scalar": 0, "relative": i - j + (0 if causal else 4)}[family] + group * made.each
                    total += divergence[place]
        found = noise_kl([made, made], "entries", length=length)
        assert found.item() == pytest.approx(2 * total / length, rel=tolerances["exact"])


def test_offsets_that_no_pair_has_get_no_gradient_from_the_entries(normal):
    made = noise(normal, family="relative")
    noise_kl([made], "entries", length=3).backward()
    touched = made.mean.grad.view(3, 5) != 0
    assert touched.tolist() == [[True, True, True, False, False]] * 3


@pytest.mark.parametrize("space", ["key", "score"])
def test_a_key_noise_counts_once_a_key_and_coordinate(normal, tolerances, space):
    made = noise(normal, family="key", space=space)
    divergence = gaussian_kl(made.mean, made.log_sigma)  # 3 heads of 2 coordinates
    found = noise_kl([made], "entries").item()
    assert found == pytest.approx(divergence.sum().item(), rel=tolerances["exact"])


def test_a_scalar_noise_on_keys_counts_every_coordinate(normal, tolerances):
    made = noise(normal, family="scalar", space="key")
    found = noise_kl([made], "entries").item()
    divergence = gaussian_kl(made.mean, made.log_sigma)
    assert found == pytest.approx(2 * divergence.sum().item(), rel=tolerances["exact"])


@pytest.mark.parametrize("per_head", [True, False])
def test_amortised_noise_counts_the_tokens_of_the_last_call(normal, tolerances, per_head):
    made = noise(normal, family="amortised", space="key", per_head=per_head, rank=2)
    x = normal(4, 5, 6, seed=9)
    made.on_keys(x, sample=True)
    (a, a_prime), (b, b_prime) = made.down.chunk(2, 1), made.up
    divergence = gaussian_kl(x @ a @ b, x @ a_prime @ b_prime - 2)  # (tokens, groups * head width)
    expected = {"parameters": divergence.mean(), "entries": divergence.sum() / (4 * 5)}
    for reduction, value in expected.items():
        found = noise_kl([made], reduction)
        torch.testing.assert_close(found, value, rtol=tolerances["exact"], atol=0)
        gradients = [torch.autograd.grad(each, (made.down, made.up), retain_graph=True) for each in (found, value)]
        for ours, twin in zip(*gradients, strict=True):
            torch.testing.assert_close(ours, twin, rtol=0, atol=tolerances["exact"])


def test_the_literal_bound_weighs_the_mean_divergence_by_the_numbers_of_gpt2_base():
    """12 layers of 12 heads of width 64, context 1024: 73,800, 6,150 and 9,216 noise variables a predicted token."""
    shapes = {73_800: ("scalar", "score", True), 6_150: ("scalar", "score", False), 9_216: ("key", "key", True)}
    for weight, (family, space, per_head) in shapes.items():
        layers = [LearnedNoise(NoiseSettings(family, space, per_head), 768, 12, 1024, True) for _ in range(12)]
        ratio = (noise_kl(layers, "entries") / noise_kl(layers)).item()
        assert ratio == pytest.approx(weight, rel=1e-5)


def test_the_mean_over_parameters_is_taken_layer_by_layer(normal, tolerances):
    first, second = noise(normal, family="relative"), noise(normal, family="scalar", seed=5)
    expected = sum(gaussian_kl(each.mean, each.log_sigma).mean() for each in (first, second)) / 2
    found = noise_kl([first, second])
    torch.testing.assert_close(found, expected, rtol=tolerances["exact"], atol=0)
    learned = [*first.parameters(), *second.parameters()]
    gradients = [torch.autograd.grad(3 * each, learned) for each in (found, expected)]
    for ours, twin in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, twin, rtol=0, atol=tolerances["exact"])


def test_questions_without_an_answer_are_refused(normal):
    made = noise(normal, family="relative")
    with pytest.raises(ValueError, match=r"there is no learned noise: give scores with noise"):
        noise_kl([])
    with pytest.raises(ValueError, match=r"reduction is 'sum': choose 'parameters' or 'entries'"):
        noise_kl([made], "sum")
    with pytest.raises(ValueError, match=r"length is 6: give 1 to 5, the context"):
        noise_kl([made], "entries", length=6)
    with pytest.raises(ValueError, match=r"depends on the tokens: call the network first"):
        noise_kl([noise(normal, family="amortised", space="key")])

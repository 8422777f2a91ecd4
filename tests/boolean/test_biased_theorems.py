"""p-biased analysis against plain sums over the cube."""

import math

import pytest
import torch

from nslab import boolean as bf

P = torch.tensor([0.1, 0.5, 0.7, 0.35, 0.9, 0.2, 0.45], dtype=torch.float64)


def law(x, p):
    return math.prod(q if bit == -1 else 1 - q for bit, q in zip(x, p, strict=True))


def phi(x, p, subset):
    return math.prod((x[i] - 1 + 2 * p[i]) / (2 * math.sqrt(p[i] * (1 - p[i]))) for i in subset)


@pytest.mark.parametrize("n", [0, 1, 3, 7])
def test_coefficients_follow_the_definition(n, all_points, close):
    """fhat_p(S) = E_p[f phi_S] with one p a coordinate; Parseval and level weights follow."""
    f = torch.randn(2**n, dtype=torch.float64, generator=torch.Generator().manual_seed(n))
    p = P[:n].tolist()
    expected = []
    for mask in range(2**n):
        subset = [i for i in range(n) if mask >> i & 1]
        expected.append(sum(law(x, p) * v * phi(x, p, subset) for x, v in zip(all_points(n), f.tolist(), strict=True)))
    assert close(bf.biased_spectrum(f, P[:n]), expected)
    energy = sum(law(x, p) * v**2 for x, v in zip(all_points(n), f.tolist(), strict=True))
    assert close(bf.biased_level_weights(f, P[:n]).sum(), energy)
    assert close(bf.biased_mean(f, P[:n]), expected[0])


def test_influence_is_the_biased_mean_variance(zoo, all_points, close):
    """E_p[Var_{x_i} f] by plain loops, which for ±1 values is 4 p (1 - p) times the chance to be pivotal."""
    for f in zoo.values():
        n = len(f).bit_length() - 1
        if n > 6:
            continue
        p = P[:n].tolist()
        weights = [law(x, p) for x in all_points(n)]
        values = f.tolist()
        expected = [
            4 * p[j] * (1 - p[j]) * sum(w for i, w in enumerate(weights) if values[i] != values[i ^ 1 << j])
            for j in range(n)
        ]
        assert close(bf.biased_influences(f, P[:n]), expected)


@pytest.mark.parametrize("rho", [-3 / 7, -0.2, 0.0, 0.4, 1.0])
def test_stability_is_the_correlation_over_all_pairs(zoo, slow_stability, close, rho):
    for name in ("majority", "and", "or", "weighted"):
        assert close(bf.biased_stability(zoo[name], rho, 0.3), slow_stability(zoo[name], rho, 0.3))


def test_one_half_gives_the_unbiased_quantities(zoo, close):
    rho = torch.linspace(-1, 1, 5, dtype=torch.float64)
    for f in zoo.values():
        assert close(bf.biased_spectrum(f, 0.5), bf.spectrum(f))
        assert close(bf.biased_influences(f, 0.5), bf.influences(f))
        assert close(bf.biased_level_weights(f, 0.5), bf.level_weights(f))
        assert close(bf.biased_stability(f, rho, 0.5), bf.stability(f, rho))
        assert close(bf.biased_mean(f, 0.5), f.mean())


@pytest.mark.parametrize("name", ["majority", "tribes", "weighted", "and", "recursive", "dictator"])
@pytest.mark.parametrize("p", [0.2, 0.5, 0.83])
def test_russo_margulis(zoo, close, name, p):
    """For monotone ±1-valued f, d/dp P_p[f = -1] is the expected number of pivotal coordinates, I_p / (4 p (1 - p)).

    The left side is the derivative of the mean, by automatic differentiation of a fold that knows no spectrum.
    """
    f = zoo[name]
    variable = torch.tensor(p, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad((1 - bf.biased_mean(f, variable)) / 2, variable)
    assert close(slope, bf.biased_influences(f, p).sum() / (4 * p * (1 - p)), "derivative")


def test_gradients_in_the_table_and_in_p():
    f = torch.randn(2, 2**6, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    p = P[:6].clone().requires_grad_()
    for function in (bf.biased_mean, bf.biased_influences, bf.biased_level_weights):
        assert torch.autograd.gradcheck(function, (f, p))
    rho = torch.tensor([-0.1, 0.0, 0.6], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(bf.biased_stability, (f[:, :8].detach(), rho, p[:3].detach().requires_grad_()))
    slope = torch.func.grad(lambda rho: bf.biased_stability(f[0].detach(), rho, p.detach()))(rho[0].detach())
    (expected,) = torch.autograd.grad(bf.biased_stability(f[0], rho, p)[0], rho)
    assert torch.equal(slope, expected[0])


def test_batches_lead(close):
    f = bf.random(6, 3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rho = torch.tensor([[0.1, 0.5, 0.9]], dtype=torch.float64)
    assert bf.biased_stability(f, rho, 0.3).shape == (3, 2, 1, 3)
    assert close(bf.biased_influences(f, 0.3)[2, 1], bf.biased_influences(f[2, 1], 0.3))
    assert close(bf.biased_mean(f, 0.3)[1, 0], bf.biased_mean(f[1, 0], 0.3))


@pytest.mark.parametrize("n", [10, 12])
def test_large_tables_agree_with_the_fold(n, close):
    """Index 0 is E_p[f], index 2**i is E_p[f phi_i], and Parseval: all from `biased_mean`, which folds the table."""
    f = torch.randn(2, 3, 2**n, dtype=torch.float64, generator=torch.Generator().manual_seed(n))
    p = torch.linspace(0.1, 0.8, n, dtype=torch.float64)
    found = bf.biased_spectrum(f, p)
    assert close(found[..., 0], bf.biased_mean(f, p))
    assert close(found.square().sum(-1), bf.biased_mean(f.square(), p))
    for i in (0, 4, 5, n - 1):
        phi = (bf.dictator(n, i, dtype=torch.float64) - 1 + 2 * p[i]) / (2 * (p[i] * (1 - p[i])).sqrt())
        assert close(found[..., 2**i], bf.biased_mean(f * phi, p))

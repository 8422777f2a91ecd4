"""Each noise has the eigenvalue it claims: against enumeration, quadrature and counting.

Tolerances, fixed before the code: exact identities agree to 1e-12; a sampled mean lies within 4.5 of its own exact
standard errors (one false alarm in 150,000 draws of the test, and seeds are fixed).
"""

import itertools
import math

import numpy as np
import pytest
import torch
from numpy.polynomial import hermite_e

from nslab.noise import Flip, OrnsteinUhlenbeck, Resample, paper_keep, unigram_law

Z = 4.5
DRAWS = 200_000


def generator(seed, device="cpu"):
    return torch.Generator(device).manual_seed(seed)


@pytest.mark.parametrize("rho", [-1, -0.5, 0, 0.3, 0.9, 1])
def test_flip_leaves_rho_to_the_size_of_the_character(rho):
    g = generator(0)
    x = 1 - 2 * torch.randint(2, (DRAWS, 5), generator=g)
    y = Flip(rho).twin(x, g)
    for size in range(6):
        for subset in itertools.combinations(range(5), size):
            products = (x * y)[:, subset].prod(1).double()  # chi_S(x) chi_S(y)
            stderr = math.sqrt((1 - rho ** (2 * size)) / DRAWS)
            assert abs(products.mean().item() - Flip(rho).eigenvalue(size)) <= Z * stderr + 1e-12


def test_flip_uses_no_correlation_between_different_bits():
    g = generator(1)
    x = 1 - 2 * torch.randint(2, (DRAWS, 3), generator=g)
    y = Flip(0.7).twin(x, g)
    cross = (x.double().T @ y.double()) / DRAWS
    assert bool(((cross - 0.7 * torch.eye(3, dtype=torch.float64)).abs() <= Z / math.sqrt(DRAWS)).all())


def efron_stein(table):
    """The parts f^{=S} of a function on a product of uniform alphabets, by inclusion and exclusion."""
    axes = range(table.ndim)
    subsets = [s for size in range(table.ndim + 1) for s in itertools.combinations(axes, size)]
    conditional = {s: table.mean(axis=tuple(set(axes) - set(s)), keepdims=True) for s in subsets}  # E[f | x_S]
    return {
        s: sum((-1) ** (len(s) - len(t)) * conditional[t] for t in subsets if set(t) <= set(s)) + 0 * table
        for s in subsets
    }


@pytest.mark.parametrize("keep", [0, 0.25, 0.625, 1])
@pytest.mark.parametrize("vocabulary", [2, 3])
def test_resample_multiplies_each_efron_stein_part_by_keep_to_its_size(keep, vocabulary):
    table = np.random.default_rng(0).normal(size=(vocabulary,) * 3)
    noise = Resample(keep=keep, vocabulary=vocabulary)
    # Left: E[f(x) f(y)] over all pairs, from the definition of the noise.
    kernel = keep * np.eye(vocabulary) + (1 - keep) / vocabulary
    smoothed = np.einsum("abc,xa,yb,zc->xyz", table, kernel, kernel, kernel)  # E[f(y) | x]
    stability = (table * smoothed).mean()
    # Right: the spectral sum with the eigenvalue under test.
    spectral = sum(noise.eigenvalue(len(s)) * (part**2).mean() for s, part in efron_stein(table).items())
    assert spectral == pytest.approx(stability, abs=1e-12)


@pytest.mark.parametrize("special", [(), (0,), (4, 1), (0, 1, 5)])
def test_resample_has_the_transition_matrix_of_its_definition(special):
    keep, vocabulary = 0.6, 6
    x = torch.arange(vocabulary).repeat(DRAWS // vocabulary, 1)
    y = Resample(keep, vocabulary, special).twin(x, generator(2))
    ordinary = [token for token in range(vocabulary) if token not in special]
    for token in range(vocabulary):
        found = torch.bincount(y[:, token], minlength=vocabulary) / len(x)
        expected = torch.zeros(vocabulary)
        if token in special:
            expected[token] = 1.0
        else:
            expected[ordinary] = (1 - keep) / len(ordinary)
            expected[token] += keep
        stderr = (expected * (1 - expected) / len(x)).sqrt()
        assert bool(((found - expected).abs() <= Z * stderr + 1e-6).all())


LAW = np.array([0.5, 0.2, 0.0, 0.3])


def weighted_parts(table, law):
    """The squared norms of the Efron-Stein parts under the product of one law, by inclusion and exclusion."""
    axes = range(table.ndim)
    subsets = [s for size in range(table.ndim + 1) for s in itertools.combinations(axes, size)]

    def mean_over(values, out):
        for axis in out:
            shape = [-1 if a == axis else 1 for a in axes]
            values = (values * law.reshape(shape)).sum(axis, keepdims=True)
        return values

    conditional = {s: mean_over(table, set(axes) - set(s)) for s in subsets}  # E[f | x_S]
    parts = {
        s: sum((-1) ** (len(s) - len(t)) * conditional[t] for t in subsets if set(t) <= set(s)) + 0 * table
        for s in subsets
    }
    return {s: mean_over(part**2, axes).item() for s, part in parts.items()}


@pytest.mark.parametrize("keep", [0, 0.25, 0.625, 1])
def test_with_a_law_the_efron_stein_parts_of_that_law_are_multiplied(keep):
    """E[f(x) f(y)] by enumeration of x and y, x drawn from the law; the kernel is the definition of the noise."""
    table = np.random.default_rng(1).normal(size=(4, 4, 4))
    noise = Resample(keep, 4, law=torch.from_numpy(LAW))
    kernel = keep * np.eye(4) + (1 - keep) * noise.probabilities().numpy()
    smoothed = np.einsum("abc,xa,yb,zc->xyz", table, kernel, kernel, kernel)
    stability = np.einsum("xyz,xyz,x,y,z->", table, smoothed, LAW, LAW, LAW)
    spectral = sum(noise.eigenvalue(len(s)) * norm for s, norm in weighted_parts(table, LAW).items())
    assert spectral == pytest.approx(stability, abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_resample_with_a_law_has_the_transition_matrix_of_its_definition(dtype):
    law = torch.tensor([0.0, 0.45, 0.05, 0.2, 0.0, 0.3], dtype=dtype)
    x = torch.arange(6).repeat(DRAWS // 6, 1)
    y = Resample(0.6, 6, special=(4,), law=law).twin(x, generator(5))
    for token in range(6):
        found = torch.bincount(y[:, token], minlength=6) / len(x)
        expected = 0.4 * law.double() if token != 4 else torch.zeros(6, dtype=torch.float64)
        expected[token] += 0.6 if token != 4 else 1.0
        stderr = (expected * (1 - expected) / len(x)).sqrt()
        assert bool(((found - expected).abs() <= Z * stderr + 1e-6).all())


def test_quantiles_are_those_of_a_loop_and_skip_what_has_no_chance():
    law = torch.tensor([0.0, 0.25, 0.0, 0.5, 0.25, 0.0], dtype=torch.float64)
    uniform = torch.cat(
        [torch.linspace(0, 1, 1001, dtype=torch.float64)[:-1], torch.tensor([1 - 2.0**-53], dtype=torch.float64)]
    )
    expected = []
    for u in uniform.tolist():
        token, passed = 0, law[0].item()
        while passed <= u:
            token += 1
            passed += law[token].item()
        expected.append(token)
    assert Resample(0, 6, law=law).quantile(uniform).tolist() == expected
    assert Resample(0, 6, special=(0, 2)).quantile(uniform).tolist() == [[1, 3, 4, 5][int(4 * u)] for u in uniform]


def test_rare_tokens_of_a_large_vocabulary_come_as_often_as_they_should():
    """Zipf's law on 49,152 ids: the 40,000 rarest together, counted in 2,000,000 draws."""
    law = 1 / torch.arange(1, 49_153, dtype=torch.float64)
    law /= law.sum()
    draws = Resample(0, 49_152, law=law).draw((2_000_000,), generator(6))
    share = law[-40_000:].sum().item()
    found = (draws >= 9_152).double().mean().item()
    assert abs(found - share) <= Z * math.sqrt(share * (1 - share) / 2e6)
    assert (draws == 0).double().mean().item() == pytest.approx(law[0].item(), rel=0.01)


def test_equal_noises_are_equal_and_hash_alike():
    law = torch.tensor([0.5, 0.25, 0.25])
    assert Resample(0.5, 3, law=law) == Resample(0.5, 3, law=law.double())
    assert hash(Resample(0.5, 3, law=law)) == hash(Resample(0.5, 3, law=law.double()))
    assert Resample(0.5, 3, law=law) != Resample(0.5, 3, law=law.flip(0))
    assert Resample(0.5, 3, law=law) != Resample(0.5, 3)
    assert Resample(0.5, 3) == Resample(0.5, 3)
    assert Resample(0.5, 3) != Resample(0.4, 3)
    assert Resample(0.5, 3) != 0.5


def test_a_law_is_copied_so_that_a_noise_never_changes():
    law = torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64)
    noise = Resample(0.0, 3, law=law)
    law[:] = torch.tensor([0.0, 0.0, 1.0])
    assert noise.probabilities().tolist() == [0.5, 0.5, 0.0]


def test_a_unigram_law_counts_and_smooths():
    ids = torch.tensor([[0, 3, 3], [3, 1, 1]], dtype=torch.int16)
    assert unigram_law(ids, 5).tolist() == pytest.approx([1 / 6, 2 / 6, 0, 3 / 6, 0])
    assert unigram_law(ids, 5, special=(3,)).tolist() == pytest.approx([1 / 3, 2 / 3, 0, 0, 0])
    assert unigram_law(ids, 5, special=(3,), smoothing=1).tolist() == pytest.approx([2 / 7, 3 / 7, 1 / 7, 0, 1 / 7])


@pytest.mark.parametrize("rho", [-0.8, 0, 0.3, 0.9, 1])
def test_ornstein_uhlenbeck_has_hermite_polynomials_as_eigenfunctions(rho):
    nodes, weights = hermite_e.hermegauss(40)
    weights = weights / weights.sum()
    x, z = np.meshgrid(nodes, nodes, indexing="ij")
    y = rho * x + math.sqrt(1 - rho**2) * z
    for j, k in itertools.product(range(7), repeat=2):
        h_j = hermite_e.hermeval(x, np.eye(7)[j]) / math.sqrt(math.factorial(j))
        h_k = hermite_e.hermeval(y, np.eye(7)[k]) / math.sqrt(math.factorial(k))
        expected = OrnsteinUhlenbeck(rho).eigenvalue(k) if j == k else 0.0
        assert (weights[:, None] * weights * h_j * h_k).sum() == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("rho", [-0.8, 0, 0.3, 0.9, 1])
def test_the_gaussian_twin_is_standard_and_rho_correlated(rho):
    g = generator(3)
    x = torch.randn(DRAWS, 2, dtype=torch.float64, generator=g)
    y = OrnsteinUhlenbeck(rho).twin(x, g)
    pair = torch.cat([x, y], 1)
    moments = pair.T @ pair / DRAWS
    eye = torch.eye(2, dtype=torch.float64)
    expected = torch.cat([torch.cat([eye, rho * eye], 1), torch.cat([rho * eye, eye], 1)])
    assert bool(((moments - expected).abs() <= Z * math.sqrt(2 / DRAWS)).all())  # Var(uv) <= 2 for unit Gaussians


def test_the_gaussian_twin_has_derivative_rho():
    x = torch.randn(4, requires_grad=True)
    OrnsteinUhlenbeck(0.3).twin(x).sum().backward()
    torch.testing.assert_close(x.grad, torch.full((4,), 0.3))


@pytest.mark.parametrize("noise", [Flip(0.5), OrnsteinUhlenbeck(0.5), Resample(0.5, 7)])
def test_a_tensor_of_degrees_gives_a_tensor_of_eigenvalues(noise):
    degrees = torch.arange(5)
    assert noise.eigenvalue(degrees).tolist() == [noise.eigenvalue(k) for k in range(5)] == [0.5**k for k in range(5)]
    assert type(noise)(*[0, *[7] * isinstance(noise, Resample)]).eigenvalue(0) == 1.0  # a constant feels no noise


CASES = [
    (Flip(0.5), torch.int8),
    (Flip(0.5), torch.float16),
    (Flip(0.5), torch.float64),
    (OrnsteinUhlenbeck(0.5), torch.float32),
    (OrnsteinUhlenbeck(0.5), torch.float64),
    (Resample(0.5, 2, ()), torch.int8),
    (Resample(0.5, 50, (0,)), torch.int64),
    (Resample(0.5, 4, law=torch.from_numpy(LAW)), torch.int8),
]


@pytest.mark.parametrize(("noise", "dtype"), CASES)
def test_twins_keep_shape_dtype_and_device_and_repeat_with_a_seed(noise, dtype, device):
    x = torch.ones(3, 4, 50, dtype=dtype, device=device)
    twin = noise.twin(x, generator(0, device))
    assert (twin.shape, twin.dtype, twin.device.type) == (x.shape, dtype, device.type)
    assert torch.equal(twin, noise.twin(x, generator(0, device)))
    assert not torch.equal(twin, noise.twin(x, generator(1, device)))
    assert bool((x == 1).all())  # the input is left alone
    assert noise.twin(x[:0]).shape == (0, 4, 50)


@pytest.mark.parametrize(("dtype", "vocabulary"), [(torch.uint8, 256), (torch.int8, 128), (torch.int16, 2**15)])
def test_resample_fills_a_small_dtype_to_its_last_id(dtype, vocabulary):
    x = torch.full((50 * vocabulary,), vocabulary - 1).to(dtype)
    y = Resample(0.0, vocabulary).twin(x, generator(4))
    assert y.dtype == dtype
    assert y.long().min() == 0
    assert y.long().max() == vocabulary - 1


def test_the_paper_keeps_half_of_the_tokens_at_rho_zero():
    assert [paper_keep(rho) for rho in (-1, 0, 0.05, 0.25, 1)] == [0, 0.5, 0.525, 0.625, 1]
    assert Resample(paper_keep(0.25), 113).eigenvalue(1) != Flip(0.25).eigenvalue(1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Flip(1.5), r"rho is 1\.5: give a number from -1 to 1"),
        (lambda: Flip(math.nan), "rho is nan"),
        (lambda: OrnsteinUhlenbeck(-1.1), r"rho is -1\.1"),
        (lambda: paper_keep(2), "rho is 2"),
        (lambda: Resample(-0.1, 5), r"keep is -0\.1: give a number from 0 to 1"),
        (lambda: Resample(0.5, 0), "vocabulary is 0"),
        (lambda: Resample(0.5, 5, (1, 1)), "give each id once"),
        (lambda: Resample(0.5, 5, (5,)), r"special has \[5\]: ids run from 0 to 4"),
        (lambda: Resample(0.5, 2, (0, 1)), "leave at least one token"),
        (lambda: Resample(0.5, 3, law=torch.ones(2) / 2), r"law has shape \(2,\).*shape \(3,\)"),
        (lambda: Resample(0.5, 3, law=torch.tensor([1.5, -0.5, 0])), r"law is -0\.5 at id 1"),
        (lambda: Resample(0.5, 2, law=torch.tensor([math.nan, 1.0])), r"law is nan at id 0"),
        (lambda: Resample(0.5, 2, law=torch.tensor([1.0, 1.0])), r"law sums to 2: divide"),
        (
            lambda: Resample(0.5, 2, (1,), torch.tensor([0.5, 0.5])),
            r"law gives special ids \[1\] a chance: set them to 0",
        ),
        (lambda: unigram_law(torch.tensor([0, 5]), 5), r"token id 5: ids run from 0 to 4"),
        (lambda: unigram_law(torch.tensor([0]), 5, special=(0,)), r"no token outside special.*smoothing above 0"),
        (lambda: unigram_law(torch.tensor([0]), 5, smoothing=-1), r"smoothing is -1"),
        (lambda: Flip(0.5).twin(torch.tensor([0, 1])), r"other than ±1"),
        (lambda: Flip(0.5).twin(torch.ones(2, dtype=torch.uint8)), "signed dtype"),
        (lambda: Resample(0.5, 5).twin(torch.tensor([1, 7])), "token id 7"),
        (lambda: Resample(0.5, 5).twin(torch.tensor([-1])), "token id -1"),
        (lambda: Resample(0.5, 5).twin(torch.ones(2)), "token ids are integers"),
        (
            lambda: Resample(0.5, 257).twin(torch.ones(2, dtype=torch.uint8)),
            r"uint8, too small for ids up to 256.*long",
        ),
        (lambda: OrnsteinUhlenbeck(0.5).twin(torch.tensor([1, 2])), "needs a floating-point tensor"),
        (lambda: Flip(0.5).eigenvalue(-1), "degree is -1"),
        (lambda: Flip(0.5).eigenvalue(torch.tensor([0, -2])), "degree has -2"),
    ],
)
def test_noise_refuses_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()

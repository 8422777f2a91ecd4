"""Every estimator, on every space, is unbiased and honest about its error; the chosen one is never worse than naive."""

import itertools
import math

import numpy as np
import pytest
import torch

from nslab import boolean as bf
from nslab import gaussian as gs
from nslab.noise import Flip, OrnsteinUhlenbeck, Resample, paper_keep
from nslab.stability import Cube, GaussianSpace, StabilityEstimate, Tokens, noise_stability

METHODS = ["naive", "common", "antithetic", "nested", "linear", "antithetic+linear", "nested+linear"]
RUNS = 200
TABLE = np.random.default_rng(0).normal(size=(3, 3, 3)) + 0.5


def skewed(x):
    """A function of three bits with energy at every degree: 1/2 + x_0 + x_1 x_2 / 2 + x_0 x_1 x_2 / 4."""
    return 0.5 + x[:, 0] + x[:, 1] * x[:, 2] / 2 + x[:, 0] * x[:, 1] * x[:, 2] / 4


def curved(x):
    """A function on R^2 with Hermite energies 1/4, 1, 1/2: 1/2 + x_0 + x_0 x_1 / sqrt 2."""
    return 0.5 + x[:, 0] + x[:, 0] * x[:, 1] / math.sqrt(2)


def exact(weights, r, version="raw"):
    raw = sum(w * r**k for k, w in enumerate(weights))
    total = sum(weights)
    return {
        "raw": raw,
        "normalised": raw / total,
        "centred": (raw - weights[0]) / (total - weights[0]),
    }[version]


def case(space, parts, on_tokens):
    """f, its weights by degree, the space and how its noise is called."""
    if space == "cube":
        return skewed, [0.25, 1.0, 0.25, 0.0625], Cube(3), "rho"
    if space == "gaussian":
        return curved, [0.25, 1.0, 0.5], GaussianSpace(2), "rho"
    norms = parts(TABLE)
    weights = [sum(v for s, v in norms.items() if len(s) == k) for k in range(4)]
    return on_tokens(TABLE), weights, Tokens(3, 3), "keep"


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("space", ["cube", "tokens", "gaussian"])
def test_each_method_is_unbiased_and_its_error_covers(space, method, parts, on_tokens, seeded, covered):
    f, weights, where, name = case(space, parts, on_tokens)
    found = [
        noise_stability(f, where, **{name: 0.6}, evaluations=3000, method=method, generator=seeded(s))
        for s in range(RUNS)
    ]
    assert {e.method for e in found} == {method}
    covered(found, exact(weights, 0.6))


@pytest.mark.parametrize("method", ["naive", "antithetic", "nested", "nested+linear"])
@pytest.mark.parametrize("version", ["normalised", "centred"])
def test_ratios_have_honest_errors_too(version, method, parts, on_tokens, seeded, covered):
    for space in ("cube", "tokens"):
        f, weights, where, name = case(space, parts, on_tokens)
        request = {"evaluations": 4000, "method": method, "version": version, name: 0.6}
        found = [noise_stability(f, where, generator=seeded(s), **request) for s in range(RUNS)]
        covered(found, exact(weights, 0.6, version))


def test_the_pilots_choice_leaves_the_estimate_unbiased(seeded, covered):
    request = {"rho": 0.6, "evaluations": 50_000}
    found = [noise_stability(skewed, Cube(3), generator=seeded(s), **request) for s in range(RUNS)]
    assert sum(e.method != "common" for e in found) > RUNS / 2
    covered(found, exact([0.25, 1.0, 0.25, 0.0625], 0.6))


@pytest.mark.parametrize("method", METHODS)
def test_negative_correlations_and_both_ends(method, seeded, within_error):
    rho = torch.tensor([[-1.0, -0.7], [0.0, 1.0]], dtype=torch.float64)
    for f, weights, space in ((skewed, [0.25, 1, 0.25, 0.0625], Cube(3)), (curved, [0.25, 1, 0.5], GaussianSpace(2))):
        found = noise_stability(f, space, rho=rho, evaluations=60_000, method=method, generator=seeded(1))
        assert within_error(found, [[exact(weights, r) for r in row] for row in rho.tolist()])
        assert torch.equal(found.eigenvalue, rho)


def test_majority_of_fifteen_and_the_large_electorate(seeded, within_error):
    rho = torch.tensor([0.3, 0.5, 0.9], dtype=torch.float64)
    vote = lambda x: torch.sign(x.sum(-1))  # noqa: E731
    found = noise_stability(vote, Cube(15), rho=rho, evaluations=200_000, generator=seeded(2))
    assert within_error(found, bf.stability(bf.majority(15, dtype=torch.float64), rho))
    found = noise_stability(vote, Cube(5001), rho=0.5, evaluations=6000, generator=seeded(3))
    assert abs(found.value - gs.sign_stability(0.5)) <= 4.5 * found.stderr + 1e-3


def test_relu_and_half_spaces_in_twenty_dimensions_are_one_dimensional(seeded, within_error):
    direction = torch.ones(20) / math.sqrt(20)
    for f, exactly in ((torch.relu, gs.relu_map), (torch.sign, gs.sign_stability)):
        rho = torch.tensor([0.2, 0.8], dtype=torch.float64)
        found = noise_stability(
            lambda x, f=f: f(x @ direction), GaussianSpace(20), rho=rho, evaluations=100_000, generator=seeded(4)
        )
        assert within_error(found, exactly(rho))


@pytest.mark.parametrize("vocabulary", [2, 5])
def test_keep_or_resample_with_the_papers_probability_has_eigenvalue_one_plus_rho_over_two(
    vocabulary, parts, on_tokens, seeded, within_error
):
    """sum_S ((1 + rho)/2)^|S| |f^{=S}|^2 by enumeration, not sum_S rho^|S| |f^{=S}|^2."""
    table = np.random.default_rng(vocabulary).normal(size=(vocabulary,) * 3)
    rho = torch.tensor([0.0, 0.25, 0.9], dtype=torch.float64)
    keep = torch.tensor([paper_keep(r) for r in rho.tolist()], dtype=torch.float64)
    found = noise_stability(
        on_tokens(table), Tokens(3, vocabulary), keep=keep, evaluations=200_000, generator=seeded(5)
    )
    norms = parts(table)
    by_keep = [sum(((1 + r) / 2) ** len(s) * v for s, v in norms.items()) for r in rho.tolist()]
    by_rho = torch.tensor([sum(r ** len(s) * v for s, v in norms.items()) for r in rho.tolist()])
    assert within_error(found, by_keep)
    assert bool(((found.value - by_rho).abs() > 10 * found.stderr).all())
    assert torch.equal(found.eigenvalue, keep)


def test_twins_of_a_space_have_the_law_of_the_noise_room(seeded):
    """Joint counts of one coordinate and its twin, and of the mirrored twin, against `nslab.noise`."""
    draws, g = 100_000, seeded(6)
    pairs = ((Cube(1), Flip(-0.4), -0.4), (Tokens(1, 5, special=(1, 3)), Resample(0.3, 5, special=(1, 3)), 0.3))
    for space, noise, strength in pairs:
        x = space.draw(draws, g)
        reference = torch.stack([x, noise.twin(x, g)]).flatten(1)
        randomness = space.noise(x, g)
        for twin in (space.twin(x, strength, randomness), space.twin(x, strength, space.mirror(randomness))):
            found = torch.stack([x, twin]).flatten(1)
            for a, b in itertools.product(x.unique().tolist(), repeat=2):
                shares = [((z[0] == a) & (z[1] == b)).double().mean().item() for z in (found, reference)]
                assert abs(shares[0] - shares[1]) <= 4.5 * math.sqrt(2 * 0.25 / draws)
    x = GaussianSpace(1).draw(draws, g, dtype=torch.float64)
    for noise in (GaussianSpace(1).noise(x, g), GaussianSpace(1).mirror(GaussianSpace(1).noise(x, g))):
        y = GaussianSpace(1).twin(x, 0.3, noise)
        assert abs((x * y).mean() - OrnsteinUhlenbeck(0.3).eigenvalue(1)) < 4.5 * math.sqrt(2 / draws)
        assert abs(y.square().mean() - 1) < 4.5 * math.sqrt(2 / draws)


ZOO = {
    "dictator": lambda x: x[:, 0],
    "majority": lambda x: torch.sign(x.sum(-1)),
    "tribes": lambda x: 1 - 2 * (x.unflatten(-1, (5, 3)) == -1).all(-1).any(-1).float(),
    "parity": lambda x: x.prod(-1),
}


@pytest.mark.parametrize("name", ZOO)
def test_the_chosen_method_is_never_worse_than_naive(name, seeded, tolerances):
    """At rho = 0.3, 0.5, 0.9 and 8 seeds each: 24 of 24 within 1.02, and majority at 1/2 within 0.7 in all 8."""
    good = 0
    for rho, seed in itertools.product((0.3, 0.5, 0.9), range(8)):
        request = {"rho": rho, "evaluations": 60_000}
        chosen = noise_stability(ZOO[name], Cube(15), generator=seeded(seed), **request)
        naive = noise_stability(ZOO[name], Cube(15), method="naive", generator=seeded(seed), **request)
        assert max(chosen.evaluations, naive.evaluations) <= 60_000
        ratio = float(chosen.stderr / naive.stderr)
        good += ratio <= tolerances["majority" if name == "majority" and rho == 0.5 else "never worse"]
    assert good == 24


@pytest.mark.parametrize("version", ["raw", "normalised", "centred"])
def test_never_worse_on_functions_without_structure_and_on_curves(version, seeded, tolerances):
    """Random functions of 8 bits, heavy-tailed ones and curves: at every strength, 20 of 20 seeds."""
    rho = torch.tensor([0.1, 0.5, 0.95], dtype=torch.float64)
    good = 0
    for seed in range(20):
        values = torch.randn(256, generator=seeded(seed), dtype=torch.float64)
        values = values.exp() if seed % 2 else values.sign()
        f = lambda x, values=values: values[((x < 0) * 2 ** torch.arange(8)).sum(-1)]  # noqa: E731
        request = {"rho": rho, "evaluations": 150_000, "version": version, "generator": seeded(seed)}
        ratio = (
            noise_stability(f, Cube(8), **request).stderr
            / noise_stability(f, Cube(8), method="naive", **request).stderr
        )
        good += bool((ratio <= tolerances["never worse"]).all())
    assert good == 20


def test_common_random_numbers_make_differences_sharper(seeded):
    """Stab at 0.5 minus Stab at 0.45, its spread over 40 runs: the shared noise beats fresh pairs of the same price."""
    spread = {}
    for method in ("naive", "common"):
        runs = [
            noise_stability(ZOO["majority"], Cube(15), rho=[0.45, 0.5], evaluations=4000, method=method,
                            generator=seeded(s)).value.diff()
            for s in range(40)
        ]  # fmt: skip
        spread[method] = torch.cat(runs).std().item()
    assert spread["common"] < 0.6 * spread["naive"]


def test_at_strength_one_a_sign_is_known_exactly(seeded):
    for method in ("naive", "common", "antithetic", "nested"):
        for version in ("raw", "normalised", "centred"):
            found = noise_stability(
                ZOO["majority"], Cube(15), rho=1.0, evaluations=2000, method=method, version=version,
                generator=seeded(7),
            )  # fmt: skip
            assert abs(found.value - 1) <= 1e-12
            assert found.stderr <= 1e-12


def test_versions_hear_size_and_mean_as_they_should(seeded, within_error):
    """Scaling leaves normalised and centred alone; adding a constant leaves centred alone."""
    request = {"rho": 0.5, "evaluations": 40_000}
    for version in ("normalised", "centred"):
        one = noise_stability(skewed, Cube(3), version=version, generator=seeded(8), **request)
        ten = noise_stability(lambda x: 10 * skewed(x), Cube(3), version=version, generator=seeded(8), **request)
        assert abs(one.value - ten.value) < 1e-9
    for size in (1e-9, 1e9):
        one, scaled = (
            noise_stability(f, Cube(3), rho=0.5, evaluations=60_000, generator=seeded(8), dtype=torch.float64)
            for f in (skewed, lambda x, size=size: size * skewed(x))
        )
        assert (one.method, one.evaluations) == (scaled.method, scaled.evaluations)
        assert math.isclose(one.stderr, scaled.stderr / size**2, rel_tol=1e-6)
    far = noise_stability(lambda x: 1000 + skewed(x), Cube(3), version="centred", generator=seeded(9), **request)
    assert within_error(far, exact([0.25, 1, 0.25, 0.0625], 0.5, "centred"))


def test_several_outputs_add_their_products(seeded, within_error):
    """One-hot class probabilities of (a + b) mod 5: E <f(x), f(y)> = r^2 + (1 - r^2)/5."""
    f = lambda ids: torch.nn.functional.one_hot(ids.sum(-1) % 5, 5).double()  # noqa: E731
    found = noise_stability(f, Tokens(2, 5), keep=[0.2, 0.625], evaluations=100_000, generator=seeded(10))
    assert within_error(found, [r**2 + (1 - r**2) / 5 for r in (0.2, 0.625)])
    centred = noise_stability(f, Tokens(2, 5), keep=0.6, version="centred", evaluations=80_000, generator=seeded(11))
    assert within_error(centred, 0.36)


@pytest.mark.parametrize("method", METHODS)
def test_f_may_work_in_place_and_return_integers_or_want_gradients(method, seeded):
    """The same numbers to the bit as from the plain function."""
    weight = torch.ones((), requires_grad=True)
    plain = lambda x: (x > 0).sum(-1).float()  # noqa: E731
    others = (
        lambda x: x.clamp_(min=0).sgn().sum(-1),
        lambda x: (x > 0).sum(-1),
        lambda x: (x > 0).sum(-1).half(),
        lambda x: weight * plain(x),
    )
    request = {"rho": [-0.5, 0.0, 1.0], "evaluations": 6000, "method": method}
    expected = noise_stability(plain, GaussianSpace(2), generator=seeded(14), **request)
    assert all(noise_stability(f, GaussianSpace(2), generator=seeded(14), **request) == expected for f in others)
    assert not expected.value.requires_grad


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("space", [Cube(1), GaussianSpace(1), Tokens(1, 2), Tokens(1, 1)])
def test_one_coordinate_both_ends_and_a_constant(space, method, seeded, within_error):
    """Stab of 1 + x_0 (on tokens x_0 = ±1) is 1 + r; a constant has its square, without error, at every strength."""
    name = space.parameter
    levels = [[0.0, 1.0], [0.5, 1.0]] if name == "keep" else [[0.0, 1.0], [-1.0, 0.5]]
    request = {name: torch.tensor(levels, dtype=torch.float64), "evaluations": 20_000, "method": method}
    found = noise_stability(lambda x: 0 * x[:, 0] + 3, space, generator=seeded(15), **request)
    assert found.value.shape == (2, 2)
    assert bool(((found.value - 9).abs() <= 1e-12).all())
    assert bool((found.stderr <= 1e-12).all())
    if space == Tokens(1, 1):
        return
    f = lambda x: (2.0 * x[:, 0] if name == "keep" else 1 + x[:, 0]).double()  # noqa: E731
    for version, truth in (("raw", lambda r: 1 + r), ("normalised", lambda r: (1 + r) / 2), ("centred", lambda r: r)):
        found = noise_stability(f, space, generator=seeded(16), version=version, **request)
        assert within_error(found, [[truth(r) for r in row] for row in levels])


@pytest.mark.parametrize("method", ["common", "antithetic", "linear", "nested+linear"])
def test_centred_errors_hold_where_only_the_mean_is_uncertain(method, seeded, within_error):
    """Products and squares of a linear f leave no error at rho = -1, and none at all with a linear control."""
    f = lambda x: 1 + x[:, 0].double()  # noqa: E731
    rho = torch.tensor([-1.0, 0.0, 0.5], dtype=torch.float64)
    request = {"rho": rho, "version": "centred", "method": method, "evaluations": 5000}
    for space, seed in itertools.product((Cube(1), GaussianSpace(1)), range(20)):
        assert within_error(noise_stability(f, space, generator=seeded(seed), **request), rho)


def test_a_target_is_reached_and_the_price_is_counted(seeded, tolerances):
    calls = []

    def counting(x):
        calls.append(len(x))
        return skewed(x)

    found = noise_stability(
        counting, Cube(3), rho=[0.3, 0.9], stderr=0.004, version="normalised", generator=seeded(12), batch_size=500
    )
    assert isinstance(found, StabilityEstimate)
    assert bool((found.stderr <= 0.004).all())
    assert found.evaluations == sum(calls)
    assert max(calls) <= 500
    assert "evaluations=" in repr(found)


def test_a_small_budget_goes_without_a_pilot(seeded):
    found = noise_stability(skewed, Cube(3), rho=0.5, evaluations=1000, generator=seeded(13))
    assert (found.method, found.evaluations) == ("common", 1000)


def test_the_generator_decides_everything(seeded):
    runs = [
        noise_stability(curved, GaussianSpace(2), rho=0.5, evaluations=40_000, generator=seeded(s)) for s in (1, 1, 2)
    ]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


def test_points_have_the_dtype_and_device_asked_for(device, seeded):
    seen = set()

    def spy(x):
        seen.add((x.dtype, x.device.type))
        return x[:, 0]

    where = {"evaluations": 40_000, "device": device, "generator": seeded(0, device)}
    for dtype in (torch.float64, torch.float16):
        noise_stability(spy, Cube(4), rho=[0.5, -0.5], dtype=dtype, **where)
    noise_stability(spy, GaussianSpace(4), rho=0.5, **where)
    found = noise_stability(lambda x: spy(x).float(), Tokens(2, 5), keep=0.5, version="centred", **where)
    assert seen == {(t, device.type) for t in (torch.float64, torch.float16, torch.float32, torch.int64)}
    assert found.value.device.type == device.type
    assert found.value.dtype == torch.float64

"""Random networks: run as their formula says, with the moments that theory and earlier checks give."""

import dataclasses
import math

import pytest
import torch

from nslab.propagation.architecture import Architecture
from nslab.propagation.random_networks import simulate

TOLERANCES = {
    "double": 1e-10,  # the same formulas, token by token
    "table": 0.02,  # three-digit correlations of 24 other networks, beside 4 standard errors of ours
    "errors": 4,  # standard errors between a mean over networks and its closed form
}
TINY = Architecture(tokens=5, width=6, layers=2)
GAINS = {"relu": 2.0, "quadratic": 1 / 3, "linear": 1.0}  # 1 / E a(Z)^2


def seeded(seed=0, device="cpu"):
    return torch.Generator(device).manual_seed(seed)


def token_by_token(shape, x, y, source):
    """Twin: one sequence and its twin, position by position; weights are drawn in the order of the formula."""
    d, states, agreed = shape.width, [(x, y)], []

    def draw():
        return torch.randn(d, d, generator=source, dtype=torch.float64)

    def norm(h):
        if shape.norm == "layer":
            h = h - h.mean()
        return h if shape.norm == "none" else h * math.sqrt(d) / h.norm()

    def add(h, block):
        return {"none": block, "scaled": (h + block) / math.sqrt(2), "pre-norm": h + block}[shape.residual]

    activation = {"relu": lambda u: u * (u > 0), "quadratic": lambda u: u * u, "linear": lambda u: u}.get(shape.mlp)
    for _ in range(shape.layers):
        w = draw() if shape.scores == "random" else torch.eye(d, dtype=torch.float64)
        w = w * (0 if shape.scores == "uniform" else shape.score_scale)
        value = draw() * shape.gain / math.sqrt(d)
        first, second = (draw() / math.sqrt(d), draw() * math.sqrt(GAINS[shape.mlp] / d)) if activation else (0, 0)
        pair, rows = [], []
        for h in states[-1]:
            seen, new, weights = [norm(token) for token in h], [], torch.zeros(5, 5, dtype=torch.float64)
            q = sum(token @ token for token in seen) / (5 * d)
            for i, token in enumerate(h):
                visible = range(i + 1) if shape.causal else range(5)
                votes = [math.exp(seen[i] @ w @ seen[k] / (math.sqrt(d) * q)) for k in visible]
                for k, vote in zip(visible, votes, strict=True):
                    weights[i, k] = vote / sum(votes)
                token = add(token, sum(weights[i, k] * seen[k] for k in visible) @ value)
                new.append(add(token, activation(norm(token) @ first) @ second) if activation else token)
            pair.append(torch.stack(new))
            rows.append(weights)
        states.append(tuple(pair))
        agreed.append(rows)
    return states, agreed


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"causal": True, "residual": "scaled", "gain": 0.5},
        {"scores": "identity", "score_scale": 0.7, "norm": "rms", "residual": "pre-norm", "mlp": "quadratic"},
        {"scores": "uniform", "norm": "layer", "residual": "pre-norm", "mlp": "none"},
        {"score_scale": 0.2, "norm": "layer", "mlp": "linear", "causal": True},
    ],
    ids=lambda changes: " ".join(map(str, changes.values())) or "paper",
)
def test_a_network_is_what_its_formula_says(changes):
    shape, rho = dataclasses.replace(TINY, **changes), 0.6
    found = simulate(shape, rho, inputs=1, generator=seeded(), dtype=torch.float64)
    source = seeded()
    x, z = torch.randn(2, 1, 5, 6, generator=source, dtype=torch.float64)[:, 0]
    states, agreed = token_by_token(shape, x, rho * x + math.sqrt(1 - rho**2) * z, source)
    others = ~torch.eye(5, dtype=torch.bool)
    for layer, (a, b) in enumerate(states):
        cross, own = a @ b.T / 6, (a @ a.T + b @ b.T) / 12
        wanted = [cross.diagonal().mean(), cross[others].mean(), own.diagonal().mean(), own[others].mean()]
        for name, value in zip("moqp", wanted, strict=True):
            assert getattr(found.moments, name)[0, layer] == pytest.approx(value.item(), abs=TOLERANCES["double"])
    for layer, (a, b) in enumerate(agreed):
        cross, own = a @ b.T, (a @ a.T + b @ b.T) / 2
        wanted = [cross.diagonal().mean(), cross[others].mean(), own.diagonal().mean(), own[others].mean()]
        for name, value in zip(("s", "t", "s_a", "t_a"), wanted, strict=True):
            assert getattr(found.agreement, name)[0, layer] == pytest.approx(value.item(), abs=TOLERANCES["double"])


@pytest.mark.parametrize(
    ("changes", "measured"),
    [
        ({}, [0.416, 0.546, 0.668, 0.742, 0.798]),
        ({"residual": "scaled"}, [0.521, 0.466, 0.478, 0.525, 0.570]),
        ({"scores": "identity", "layers": 3}, [0.746, 0.786, 0.820]),
    ],
    ids=["no residual", "residual", "identity"],
)
def test_correlations_are_those_of_an_independent_simulation(changes, measured):
    """The table of earlier simulations in numpy: n = 16, d = 512, rho = 0.7, means over 24 draws."""
    shape = dataclasses.replace(Architecture(16, 512, 5), **changes)
    found = simulate(shape, 0.7, inputs=1, networks=24, generator=seeded()).moments.estimate("correlation")
    for value, error, theirs in zip(found.value[1:], found.stderr[1:], measured, strict=True):
        assert abs(value - theirs) < TOLERANCES["errors"] * error + TOLERANCES["table"]


@pytest.mark.parametrize("causal", [False, True])
def test_uniform_attention_averages_what_it_sees(causal):
    r"""Closed form: m' = o' = m/n; behind a mask position i averages i + 1 tokens, and m' = m E 1/(i + 1)."""
    shape = Architecture(8, 64, 1, scores="uniform", mlp="none", causal=causal, gain=2.0)
    found = simulate(shape, 0.5, inputs=16, networks=100, generator=seeded()).moments
    harmonic = sum(1 / (i + 1) for i in range(8)) / 8
    pairs = [1 / (max(i, j) + 1) for i in range(8) for j in range(8) if i != j]
    same, other = (harmonic, sum(pairs) / 56) if causal else (1 / 8, 1 / 8)
    for name, value in {"m": 2 * same, "o": 2 * other, "q": 4 * same, "p": 4 * other}.items():  # times gain^2, rho
        estimate = found.estimate(name)
        assert abs(estimate.value[1] - value) < TOLERANCES["errors"] * estimate.stderr[1]


def test_a_gain_scales_all_moments_and_no_correlation():
    quiet, loud = (
        simulate(dataclasses.replace(TINY, gain=gain), 0.6, inputs=4, generator=seeded(), dtype=torch.float64).moments
        for gain in (0.5, 1.0)
    )
    for layer in range(3):
        for name in "moqp":
            torch.testing.assert_close(4**layer * getattr(quiet, name)[:, layer], getattr(loud, name)[:, layer])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_and_opposite_inputs_are_told_apart(device, dtype):
    """At rho = 1 both runs are one; at rho = -1, without an MLP, the logits are the same and the outputs opposite."""
    shape = dataclasses.replace(TINY, mlp="none")
    rho = torch.tensor([[1.0, -1.0]])
    found = simulate(shape, rho, inputs=3, networks=2, generator=seeded(0, device), dtype=dtype)
    assert found.moments.m.shape == (2, 3, 1, 2)
    assert found.agreement.s.shape == (2, 2, 1, 2)
    assert found.moments.m.device.type == device.type
    ones = torch.tensor([1.0, -1.0], dtype=torch.float64, device=device).expand(3, 1, 2)
    torch.testing.assert_close(found.moments.moments.correlation, ones)
    torch.testing.assert_close(found.agreement.s, found.agreement.s_a)
    found.moments.moments.check(5, layers=True)


def test_one_seed_gives_one_result_and_networks_follow_each_other():
    first, again = (simulate(TINY, [0.2, 0.9], networks=3, generator=seeded()) for _ in range(2))
    assert torch.equal(first.moments.m, again.moments.m)
    assert torch.equal(first.agreement.t, again.agreement.t)
    source = seeded()
    one_by_one = [simulate(TINY, [0.2, 0.9], generator=source).moments.m for _ in range(3)]
    assert torch.equal(torch.cat(one_by_one), first.moments.m)


def test_a_network_without_layers_has_moments_and_no_agreement():
    found = simulate(dataclasses.replace(TINY, layers=0), 0.5, networks=2, generator=seeded())
    assert found.moments.m.shape == (2, 1)
    assert found.agreement is None


def test_bad_requests_name_the_remedy():
    with pytest.raises(ValueError, match=r"rho = 1.5 is outside \[-1, 1\]"):
        simulate(TINY, 1.5)
    with pytest.raises(ValueError, match="inputs is 0, networks 1: give at least 1"):
        simulate(TINY, 0.5, inputs=0)
    with pytest.raises(ValueError, match="layer 2 holds NaN or infinity in sample 0"):
        simulate(dataclasses.replace(TINY, gain=0.0), 0.5, generator=seeded())
    with pytest.raises(ValueError, match="there is 1 sample"):
        simulate(TINY, 0.5, generator=seeded()).moments.estimate("m")

"""One attention layer: the limits, the printed tables, and theory against a real softmax layer.

Tolerances, fixed before the code. "theory" is on the stability itself, "printed" on numbers with three digits.
"""

import itertools
import math

import pytest
import torch

from nslab.propagation.attention_layer import (
    attention_agreement,
    attention_stability,
    distinct_share,
    measure_attention,
)

TOLERANCES = {"exact": 1e-10, "printed": 6e-4, "theory": 0.02, "corrected": 0.012, "at one": 0.03, "sigmas": 4.5}
RHO = torch.tensor([0.3, 0.6, 0.9], dtype=torch.float64)
HIGH = torch.tensor([0.5, 0.75, 0.9], dtype=torch.float64)


def measure(seed=0, rho=RHO, **arguments):
    return measure_attention(rho, generator=torch.Generator().manual_seed(seed), **arguments)


def printed(*values):
    return torch.tensor(values, dtype=torch.float64)


def differ(found, expected):
    return (found - expected).abs().max().item()


# The simulation against a literal layer


@pytest.mark.parametrize("scores", ["identity", "low-rank", "random"])
def test_the_simulation_is_a_literal_attention_layer(scores, device):
    """Y and the whole layer written out, one value column at a time, on the same draws."""
    n, d, k, draws, scale = 5, 7, 3, 4, 0.8
    rank = k if scores == "low-rank" else None
    rho = torch.tensor([[0.0, 0.4], [-0.7, 1.0]], dtype=torch.float64, device=device)
    exact = {"device": device, "dtype": torch.float64}
    found = measure_attention(
        rho,
        tokens=n,
        width=d,
        scores=scores,
        rank=rank,
        score_scale=scale,
        draws=draws,
        generator=torch.Generator(device).manual_seed(1),
        **exact,
    )
    place = {"generator": torch.Generator(device).manual_seed(1), **exact}
    x, z = torch.randn(draws, n, d, **place), torch.randn(draws, n, d, **place)
    if scores == "low-rank":
        u = torch.randn(draws, d, k, **place) / math.sqrt(k)
        w = u @ u.mT
    else:
        w = torch.eye(d, **exact).expand(draws, d, d) if scores == "identity" else torch.randn(draws, d, d, **place)

    def layer(tokens):
        attention = torch.softmax(scale * tokens @ w @ tokens.mT / math.sqrt(d), -1)
        return attention, attention @ tokens  # the columns of a unit value matrix side by side

    a, out = layer(x)
    for at, r in enumerate(rho.flatten().tolist()):
        b, other = layer(r * x + math.sqrt(1 - r * r) * z)
        for estimate, each in (
            (found.stability, (out * other).mean((1, 2))),
            (found.agreement, (a * b).sum(-1).mean(-1)),
        ):
            assert abs(estimate.value.flatten()[at] - each.mean()) < TOLERANCES["exact"]
            assert abs(estimate.stderr.flatten()[at] - each.std() / math.sqrt(draws)) < TOLERANCES["exact"]
    assert abs(found.largest_weight.value - a.max(-1).values.mean()) < TOLERANCES["exact"]
    distinct = [len(set(row.tolist())) / n for row in a.argmax(-1)]
    assert abs(found.distinct_share.value - sum(distinct) / draws) < TOLERANCES["exact"]
    assert found.stability.value.shape == rho.shape
    assert found.stability.samples == draws


def test_small_batches_of_draws_do_not_change_what_is_measured(monkeypatch):
    monkeypatch.setattr("nslab.propagation.attention_layer.ELEMENTS", 1)
    single = measure(tokens=8, width=8, draws=2000)
    monkeypatch.undo()
    many = measure(seed=1, tokens=8, width=8, draws=2000)
    error = (single.stability.stderr**2 + many.stability.stderr**2).sqrt()
    assert ((single.stability.value - many.stability.value).abs() < TOLERANCES["sigmas"] * error).all()


# Theorem 5.2: identity and low rank


def test_with_identity_scores_stability_is_rho_in_the_limit():
    rho = torch.linspace(-1, 1, 9, dtype=torch.float64)
    for scores, rank in (("identity", None), ("low-rank", 8)):
        found = attention_stability(rho, tokens=64, width=64, scores=scores, rank=rank, corrected=False)
        assert torch.equal(found, rho)
    wide = attention_stability(rho, tokens=64, width=4096, scores="identity")
    assert differ(wide, rho) < 1e-6
    low = attention_stability(rho, tokens=64, width=4096, scores="low-rank", rank=512)
    assert differ(low, rho) < 1e-6


@pytest.mark.parametrize(
    ("width", "rank", "table"),
    [
        (512, None, (0.299, 0.601, 0.900)),
        (64, None, (0.274, 0.547, 0.819)),
        (512, 16, (None, 0.542, None)),
        (512, 64, (None, 0.600, None)),
        (512, 256, (None, 0.601, None)),
    ],
)
def test_the_printed_measurements_of_identity_and_low_rank_layers(width, rank, table):
    layer = {"tokens": 64, "width": width, "scores": "identity" if rank is None else "low-rank", "rank": rank}
    theory, simulated = attention_stability(RHO, **layer), measure(**layer, draws=200)
    for at, value in enumerate(table):
        if value is not None:
            assert abs(theory[at].item() - value) < TOLERANCES["theory"]
            assert abs(simulated.stability.value[at].item() - value) < TOLERANCES["theory"]


@pytest.mark.parametrize(
    ("tokens", "width", "rank", "scale"),
    [
        (64, 64, None, 1.0),
        (256, 64, None, 1.0),
        (16, 64, None, 1.0),
        (3, 16, None, 1.0),
        (64, 64, None, 0.3),
        (64, 512, 16, 1.0),
        (16, 128, 32, 1.5),
    ],
)
def test_corrected_theory_is_the_mean_of_simulated_identity_and_low_rank_layers(tokens, width, rank, scale):
    layer = {"tokens": tokens, "width": width, "scores": "identity" if rank is None else "low-rank", "rank": rank}
    found = measure(**layer, score_scale=scale, draws=150 if tokens > 100 else 600 if tokens > 10 else 6000)
    for theory, estimate in (
        (attention_stability(RHO, **layer, score_scale=scale), found.stability),
        (attention_agreement(RHO, **layer, score_scale=scale), found.agreement),
    ):
        assert differ(theory, estimate.value) < TOLERANCES["corrected"]


def test_leaked_weight_lowers_stability_by_less_than_it_lowers_agreement():
    """What leaks goes to tokens that resemble the query: the lean adds back a third of what is lost at n = d = 64."""
    layer = {"tokens": 64, "width": 64, "scores": "identity"}
    stability, agreement = attention_stability(RHO, **layer) / RHO, attention_agreement(RHO, **layer)
    assert (stability - agreement).min() > 0.02
    found = measure(**layer, draws=600)
    assert (found.stability.value / RHO - found.agreement.value).min() > 0.02
    assert abs(found.largest_weight.value.item() - 0.94) < 0.005


def test_a_token_finds_itself_when_the_logarithm_of_n_is_small_next_to_the_root_of_d():
    """The agreement mass falls with n and crosses 1/2 where log n / sqrt(d) is of order one, at each width."""
    for width in (16, 64, 144):
        log_n = [k * math.sqrt(width) / 8 for k in range(1, 10)]
        masses = [
            attention_agreement(0.9, tokens=round(math.exp(k)), width=width, scores="identity").item() for k in log_n
        ]
        assert all(a >= b - 1e-9 for a, b in itertools.pairwise(masses))
        half = next(k for k, mass in zip(log_n, masses, strict=True) if mass < 0.5)
        assert 0.6 < half / math.sqrt(width) < 1


def test_low_rank_needs_a_rank_of_order_log_n():
    """What leaks falls exponentially in k: doubling k from 16 or from 24 leaks less than a twentieth."""
    layer = {"tokens": 64, "width": 512, "scores": "low-rank"}
    found = [attention_stability(0.6, **layer, rank=k).item() for k in (4, 8, 16, 32, 64, 256)]
    assert found == sorted(found)
    assert found[0] < 0.15
    assert found[-1] > 0.5999
    loss = {k: 1 - attention_agreement(0.6, **layer, rank=k).item() for k in (16, 24, 32, 48)}
    assert loss[32] / loss[16] < 1 / 20
    assert loss[48] / loss[24] < 1 / 20


# Theorem 5.3: random scores


def test_random_scores_make_a_plurality_vote_at_correlation_rho_squared():
    table = {
        2: (0.520, 0.580, 0.690, 0.801, 0.858),
        3: (0.356, 0.427, 0.565, 0.713, 0.793),
        16: (0.077, 0.130, 0.272, 0.476, 0.606),
        64: (0.022, 0.052, 0.161, 0.362, 0.511),
        256: (0.0066, 0.021, 0.099, 0.284, 0.433),
        1024: (0.0018, 0.0088, 0.062, 0.227, 0.376),
    }
    rho = torch.tensor([0.25, 0.5, 0.75, 0.9, 0.95], dtype=torch.float64)
    for n, row in table.items():
        s = attention_stability(rho, tokens=n, width=1, corrected=False) / rho
        # from 16 on the printed digits are those of a simulation: 0.376 is 0.379 in truth
        assert differ(s, printed(*row)) < (TOLERANCES["printed"] if n < 4 else 0.004)


def test_a_hard_vote_simulated_by_sorting_gaussians():
    """An independent count of agreeing winners."""
    g = torch.Generator().manual_seed(0)
    u, fresh = torch.randn(2, 40_000, 16, generator=g)
    r = 0.75**2
    same = (u.argmax(-1) == (r * u + math.sqrt(1 - r * r) * fresh).argmax(-1)).double()
    expected = attention_stability(0.75, tokens=16, width=1, corrected=False).item() / 0.75
    assert abs(same.mean().item() - expected) < TOLERANCES["sigmas"] * same.std().item() / 200


def test_the_agreement_of_a_real_softmax_layer_is_near_the_vote():
    """n = 64, d = 1024; the printed means of a few draws lie within the noise of ours."""
    found = measure(rho=HIGH, tokens=64, width=1024, draws=24)
    error = found.agreement.stderr
    assert ((found.agreement.value - printed(0.052, 0.167, 0.340)).abs() < TOLERANCES["sigmas"] * error).all()
    assert differ(attention_agreement(HIGH, tokens=64, width=1024), found.agreement.value) < TOLERANCES["theory"]
    assert differ(attention_agreement(HIGH, tokens=64, width=1024), printed(0.052, 0.161, 0.362)) < 0.003


def test_attention_is_a_random_function_and_not_a_permutation():
    """Correction 1: 63 % of the tokens are chosen, not all."""
    assert distinct_share(64) == pytest.approx(1 - (63 / 64) ** 64, abs=TOLERANCES["exact"])
    assert distinct_share(1) == 1
    assert distinct_share(10**6) == pytest.approx(1 - math.exp(-1), abs=1e-6)
    g = torch.Generator().manual_seed(0)
    draws = [len(torch.randint(64, (64,), generator=g).unique()) / 64 for _ in range(4000)]
    assert abs(sum(draws) / 4000 - distinct_share(64)) < 0.004
    assert distinct_share(1) == 1
    assert distinct_share(10**17) == pytest.approx(1 - math.exp(-1), abs=1e-12)
    for width, draws, share in ((64, 400, 0.573), (256, 150, 0.619), (1024, 30, 0.631)):
        found = measure(rho=torch.empty(0), tokens=64, width=width, draws=draws).distinct_share
        assert abs(found.value - share) < TOLERANCES["sigmas"] * found.stderr


def test_the_winner_leans_towards_the_query():
    """Correction 2, n = d = 64: the printed predictions, and which comes near a real layer."""
    layer = {"tokens": 64, "width": 64}
    hard = attention_stability(HIGH, **layer, hard=True)
    plain = attention_stability(HIGH, **layer, corrected=False)
    soft = attention_stability(HIGH, **layer)
    assert differ(hard, printed(0.069, 0.185, 0.403)) < TOLERANCES["printed"]
    assert differ(plain, printed(0.026, 0.121, 0.326)) < TOLERANCES["printed"]
    found = measure(rho=HIGH, **layer, draws=1000).stability
    assert differ(soft, found.value) < TOLERANCES["corrected"]
    misses = [differ(theory, found.value) for theory in (soft, hard, plain)]
    assert misses[0] < misses[1] < misses[2]
    assert differ(found.value, printed(0.064, 0.185, 0.375)) < TOLERANCES["theory"]


@pytest.mark.parametrize(("tokens", "width", "scale"), [(64, 256, 1.0), (16, 64, 1.0), (64, 64, 0.25), (256, 64, 1.0)])
def test_corrected_theory_is_the_mean_of_simulated_random_layers(tokens, width, scale):
    layer = {"tokens": tokens, "width": width, "score_scale": scale}
    found = measure(rho=HIGH, **layer, draws=150)
    assert differ(attention_stability(HIGH, **layer), found.stability.value) < TOLERANCES["theory"]
    assert differ(attention_agreement(HIGH, **layer), found.agreement.value) < TOLERANCES["theory"]


def test_at_a_correlation_of_one_the_hard_formula_is_far_off_and_the_soft_one_within_three_hundredths():
    layer = {"tokens": 64, "width": 64}
    one = torch.ones(1, dtype=torch.float64)
    found = measure(rho=one, **layer, draws=600).stability.value
    assert 0.1 < (attention_stability(one, **layer, hard=True) - found).item() < 0.4
    assert differ(attention_stability(one, **layer), found) < TOLERANCES["at one"]
    layer = {"tokens": 64, "width": 512, "scores": "low-rank", "rank": 16}
    found = measure(rho=one, **layer, draws=100).stability.value
    assert differ(attention_stability(one, **layer), found) < TOLERANCES["at one"]


def test_large_scores_make_a_hard_choice():
    """However large: what is left of a softmax then must not drown in rounding."""
    hard = attention_stability(HIGH, tokens=8, width=16, hard=True)
    for scale in (1e4, 1e8, 1e200):
        assert differ(attention_stability(HIGH, tokens=8, width=16, score_scale=scale), hard) < 1e-5


def test_at_an_ordinary_initialisation_attention_is_nearly_uniform():
    """Correction 3: W with entries of variance 1/d; n = 64, d = 256."""
    layer = {"tokens": 64, "width": 256, "score_scale": 1 / 16}
    found = measure(rho=HIGH, **layer, draws=100)
    assert abs(found.largest_weight.value.item() - 0.11) < 0.005
    assert abs(found.agreement.value[0].item() - 0.020) < TOLERANCES["printed"]
    assert abs(attention_agreement(0.5, **layer).item() - 0.020) < TOLERANCES["printed"]
    assert differ(attention_stability(HIGH, **layer), found.stability.value) < 0.002
    assert attention_stability(0.5, **layer, corrected=False) > 2 * found.stability.value[0]  # the theorem is silent


# Ends, slopes, types


@pytest.mark.parametrize(("scores", "rank"), [("identity", None), ("low-rank", 3), ("random", None)])
def test_limits_that_need_no_simulation(scores, rank):
    layer = {"width": 16, "scores": scores, "rank": rank}
    one = attention_stability(RHO, tokens=1, **layer)
    assert differ(one, RHO) < TOLERANCES["exact"]  # a single token attends to itself
    uniform = attention_agreement(RHO, tokens=8, **layer, score_scale=0)
    assert differ(uniform, torch.full_like(RHO, 1 / 8)) < 1e-7
    stability = attention_stability(RHO, tokens=8, **layer, score_scale=0)
    assert differ(stability, RHO / 8) < 1e-7  # the mean of 8 independent tokens
    odd = attention_stability(-RHO, tokens=8, **layer)
    assert differ(odd, -attention_stability(RHO, tokens=8, **layer)) < TOLERANCES["exact"]


@pytest.mark.parametrize(("scores", "rank"), [("identity", None), ("low-rank", 8), ("random", None)])
def test_slopes_are_those_of_finite_differences(scores, rank):
    layer = {"tokens": 16, "width": 24, "scores": scores, "rank": rank}
    rho = torch.tensor([0.2, 0.7], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(attention_stability(rho, **layer).sum(), rho)
    at, h = rho.detach(), 1e-4
    expected = (attention_stability(at + h, **layer) - attention_stability(at - h, **layer)) / (2 * h)
    assert differ(slope, expected) < 1e-5


@pytest.mark.parametrize(("scores", "rank"), [("identity", None), ("low-rank", 8), ("random", None)])
def test_axes_dtype_and_device_are_kept(scores, rank, device):
    rho = torch.linspace(-1, 1, 6, device=device).reshape(2, 3)
    layer = {"tokens": 8, "width": 16, "scores": scores, "rank": rank}
    for found in (
        attention_stability(rho, **layer),
        attention_stability(rho, **layer, corrected=False),
        attention_agreement(rho, **layer),
    ):
        assert (found.shape, found.dtype, found.device.type) == ((2, 3), torch.float32, device.type)
    assert attention_stability(0.5, **layer).dtype == torch.float64
    measured = measure_attention(rho, **layer, draws=2, device=device)
    assert measured.stability.value.shape == (2, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scores": "full"}, "scores = 'full' is unknown: choose from identity, low-rank, random"),
        ({"tokens": 0}, "tokens = 0: give at least 1"),
        ({"width": 0}, "width = 0: give at least 1"),
        ({"scores": "low-rank"}, "rank = None with scores = 'low-rank': give a rank"),
        ({"rank": 3}, "rank = 3 with scores = 'random'"),
        ({"scores": "low-rank", "rank": 0}, "rank = 0: give at least 1"),
        ({"score_scale": -1.0}, "score_scale = -1.0: give a finite factor"),
        ({"rho": 1.2}, r"rho = 1.2 is outside \[-1, 1\]"),
    ],
)
@pytest.mark.parametrize("call", [attention_stability, attention_agreement, measure_attention])
def test_bad_input_is_named_with_the_remedy(call, changes, message):
    arguments = {"rho": 0.5, "tokens": 4, "width": 4} | changes
    with pytest.raises(ValueError, match=message):
        call(arguments.pop("rho"), **arguments)


def test_identity_scores_hold_no_vote():
    with pytest.raises(ValueError, match="hard = True with scores = 'identity': only 'random' scores vote"):
        attention_stability(0.5, tokens=4, width=4, scores="identity", hard=True)


def test_one_draw_has_no_error():
    with pytest.raises(ValueError, match="at least 2 draws"):
        measure_attention(0.5, tokens=4, width=4, draws=1)
    with pytest.raises(ValueError, match="tokens = 0: give the number of tokens"):
        distinct_share(0)

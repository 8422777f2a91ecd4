"""Stability at prompts against enumeration, `noise_stability` and closed forms; its errors against repetition."""

import itertools
import math

import numpy as np
import pytest
import torch

from nslab.estimate import Estimate
from nslab.noise import Resample
from nslab.stability import (
    EmbeddingNoise,
    PromptStability,
    Tokens,
    embedding_stability,
    noise_stability,
    text_stability,
)
from nslab.transformer import Transformer, TransformerConfig

LAW = torch.tensor([0.25, 0.5, 0.0, 0.25], dtype=torch.float64)
RESAMPLE = Resample(0, 4, law=LAW)
KEEP = [0.0, 0.3, 0.7, 0.95, 1.0]


def exact(norms, keep=KEEP):
    """sum keep^|S| |f^{=S}|^2 at each keep."""
    return torch.tensor([sum(k ** len(s) * norm for s, norm in norms.items()) for k in keep], dtype=torch.float64)


def test_at_prompts_of_the_product_law_every_version_is_its_spectral_sum(
    on_tokens, seeded, within_error, weighted_parts
):
    table = np.random.default_rng(0).normal(size=(4, 4, 4)) + 0.7
    norms = weighted_parts(table, LAW.numpy())
    stability, energy, offset = exact(norms), sum(norms.values()), norms[()]
    ids = RESAMPLE.draw((4000, 3), seeded(0))
    found = text_stability(on_tokens(table), ids, RESAMPLE, keep=KEEP, twins=3, generator=seeded(1))
    assert within_error(found.raw, stability)
    assert within_error(found.normalised, stability / energy)
    assert within_error(found.centred, (stability - offset) / (energy - offset))
    assert within_error(found.loss, energy - stability)
    assert within_error(found.energy, energy)
    assert within_error(found.mean_square, offset)
    for version in (found.normalised, found.centred):
        assert version.value[-1].item() == pytest.approx(1, abs=1e-12)
        assert version.stderr[-1] < 1e-9
    assert found.evaluations == 4000 * (1 + 3 * 4)  # nothing is evaluated at keep = 1
    assert found.coordinates == 3
    assert found.raw.samples == 4000


def test_it_agrees_with_noise_stability_of_a_network_with_many_outputs(seeded):
    config = TransformerConfig(vocabulary=4, context=3, width=8, layers=2, heads=2)
    model = Transformer(config, generator=seeded(2)).double().eval()
    f = lambda ids: 100 * model(ids).flatten(1)  # noqa: E731
    space = Tokens(3, 4, law=LAW)
    for version in ("raw", "normalised", "centred"):
        theirs = noise_stability(
            f, space, keep=[0.3, 0.9], version=version, evaluations=12_000, method="common", generator=seeded(3)
        )
        ids = RESAMPLE.draw((2000, 3), seeded(4))
        ours = text_stability(f, ids, RESAMPLE, keep=[0.3, 0.9], twins=2, generator=seeded(5)).estimate(version)
        error = (ours.stderr**2 + theirs.stderr**2).sqrt()
        assert bool(((ours.value - theirs.value).abs() <= 4.5 * error).all())


@pytest.mark.parametrize("version", ["raw", "normalised", "centred", "mean_square", "energy", "loss"])
def test_errors_over_prompts_cover_although_twins_of_a_prompt_depend_on_each_other(
    version, on_tokens, seeded, covered, weighted_parts
):
    table = np.random.default_rng(3).normal(size=(4, 4)) + 0.5
    norms = weighted_parts(table, LAW.numpy())
    stability, energy, offset = exact(norms, [0.6])[0].item(), sum(norms.values()), norms[()]
    truth = {
        "raw": stability,
        "normalised": stability / energy,
        "centred": (stability - offset) / (energy - offset),
        "mean_square": offset,
        "energy": energy,
        "loss": energy - stability,
    }[version]
    runs = []
    for seed in range(200):
        g = seeded(seed)
        ids = RESAMPLE.draw((400, 2), g)
        runs.append(text_stability(on_tokens(table), ids, RESAMPLE, keep=0.6, twins=20, generator=g).estimate(version))
    covered(runs, truth)


def test_the_squared_mean_comes_from_distinct_prompts_and_has_no_bias():
    """Its expectation over all triples of prompts, by enumeration, is (E f)^2; the plug-in's is not."""
    values = torch.tensor([1.0, -2.0, 5.0, 0.5], dtype=torch.float64)
    f = lambda ids: values[ids[:, 0]]  # noqa: E731
    mean, plug_in = 0.0, 0.0
    for triple in itertools.product([0, 1, 3], repeat=3):
        ids = torch.tensor(triple)[:, None]
        chance = LAW[list(triple)].prod().item()
        found = text_stability(f, ids, RESAMPLE, keep=1.0)
        mean += chance * found.mean_square.value.item()
        plug_in += chance * f(ids).mean().item() ** 2
    truth = (LAW @ values).item() ** 2
    assert mean == pytest.approx(truth, abs=1e-12)
    assert abs(plug_in - truth) > 0.1


def by_hand(found, chosen):
    """Every version from the prompts `chosen` (a list, repeats allowed), from the definitions, pair by pair."""
    pairs = [(p, q) for p in chosen for q in chosen if p != q]
    values, twins = found.values, found.twin_values
    energy = sum(found.squares[p] for p in chosen) / len(chosen)
    raw = sum(found.products[p] for p in chosen) / len(chosen)
    across = sum(twins[q] @ values[p] for p, q in pairs) / len(pairs)
    own = sum(values[q] @ values[p] for p, q in pairs) / len(pairs)
    return {"raw": raw, "normalised": raw / energy, "centred": (raw - across) / (energy - own), "mean_square": own}


@pytest.mark.parametrize("outputs", [1, 2, 30])
def test_jackknife_errors_are_those_of_leaving_prompts_out_one_by_one(outputs, seeded):
    """Also with more outputs than prompts, where the outputs are turned into fewer."""
    w = torch.randn(4 * 3, outputs, generator=seeded(6), dtype=torch.float64)
    f = lambda ids: torch.nn.functional.one_hot(ids, 4).double().flatten(1) @ w + 1  # noqa: E731
    ids = RESAMPLE.draw((9, 3), seeded(7))
    found = text_stability(f, ids, RESAMPLE, keep=[0.2, 0.8], twins=2, generator=seeded(8))
    everyone = list(range(9))
    left = [by_hand(found, [p for p in everyone if p != out]) for out in everyone]
    for version, value in by_hand(found, everyone).items():
        estimate = found.estimate(version)
        torch.testing.assert_close(estimate.value, value)
        repeated = torch.stack([one[version] for one in left])
        error = (8 / 9 * (repeated - repeated.mean(0)).square().sum(0)).sqrt()
        torch.testing.assert_close(estimate.stderr, error, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("prompts", [8, 150])
def test_turning_many_outputs_into_few_changes_nothing(prompts, seeded):
    """Each version from the outputs as they are, with the twins made again from their definition."""
    w = torch.randn(4, 200, generator=seeded(9), dtype=torch.float64)
    f = lambda ids: w[ids[:, 0]] * (1 + ids[:, 1:2])  # noqa: E731
    ids = RESAMPLE.draw((prompts, 2), seeded(10))
    found = text_stability(f, ids, RESAMPLE, keep=0.5, twins=1, generator=seeded(11))
    g = seeded(11)
    uniform = torch.rand(ids.shape, generator=g, dtype=torch.float64)
    twin = torch.where(uniform < 0.5, ids, RESAMPLE.draw(ids.shape, g))
    x, y = f(ids), f(twin)
    assert found.values.shape == (prompts, prompts)
    assert found.raw.value.item() == pytest.approx((x * y).sum(1).mean().item())
    assert found.loss.value.item() == pytest.approx(((x - y) ** 2).sum(1).mean().item() / 2)
    covariance = ((x - x.mean(0)) * (y - y.mean(0))).sum() / (prompts - 1)
    assert found.centred.value.item() == pytest.approx((covariance / x.var(0).sum()).item())


def test_keeps_share_their_randomness(seeded):
    """As keep grows, redrawn positions only ever return to the prompt's token, and always to one fresh token."""
    seen = []
    f = lambda ids: seen.append(ids) or ids.double().sum(-1)  # noqa: E731
    ids = RESAMPLE.draw((5, 6), seeded(12))
    text_stability(f, ids, RESAMPLE, keep=[0.1, 0.5, 0.9], twins=1, generator=seeded(13))
    twins = seen[3].reshape(5, 3, 6)  # after the prompts, and two of them twice more: is f random?
    changed = twins != ids[:, None]
    assert bool((changed[:, 0] >= changed[:, 1]).all())
    assert bool((changed[:, 1] >= changed[:, 2]).all())
    assert bool((twins[:, 1][changed[:, 1]] == twins[:, 0][changed[:, 1]]).all())


def test_batches_and_seeds(seeded):
    f = lambda ids: ids.double().square().sum(-1)  # noqa: E731
    ids = RESAMPLE.draw((10, 6), seeded(14))
    run = lambda seed, batch: text_stability(  # noqa: E731
        f, ids, RESAMPLE, keep=[0.2, 0.7], twins=3, batch=batch, generator=seeded(seed)
    )
    assert run(0, None).normalised == run(0, None).normalised
    assert run(0, 1).normalised == run(0, 7).normalised
    assert run(0, None).normalised != run(1, None).normalised
    interval = run(0, None).interval("normalised", generator=seeded(0))
    assert interval.value.shape == interval.interval.low.shape == (2,)
    assert str(interval).count("[") == 2


def test_bootstrap_intervals_cover(on_tokens, seeded, weighted_parts):
    table = np.random.default_rng(4).normal(size=(4, 4)) + 0.5
    norms = weighted_parts(table, LAW.numpy())
    truth = (exact(norms, [0.6]) - norms[()]) / (sum(norms.values()) - norms[()])
    inside = 0
    for seed in range(60):
        g = seeded(seed)
        ids = RESAMPLE.draw((200, 2), g)
        found = text_stability(on_tokens(table), ids, RESAMPLE, keep=[0.6], twins=5, generator=g)
        inside += bool(found.interval("centred", resamples=400, generator=g).interval.contains(truth))
    assert inside >= 50


def test_intervals_and_errors_of_the_centred_version_do_not_move_with_the_mean_of_f(on_tokens, seeded):
    """A bootstrap sample has copies of a prompt; they must not bring the mean of f into its variance."""
    table = np.random.default_rng(5).normal(size=(4, 4))
    ids, found = RESAMPLE.draw((20, 2), seeded(0)), []
    for offset in (0.0, 1000.0):
        one = text_stability(on_tokens(table + offset), ids, RESAMPLE, keep=[0.4, 0.8], twins=5, generator=seeded(1))
        ends = one.interval("centred", generator=seeded(2)).interval
        found.append(torch.stack([one.centred.value, one.centred.stderr, ends.low, ends.high]))
    torch.testing.assert_close(found[0], found[1], rtol=1e-6, atol=1e-6)


def test_bootstrap_intervals_are_those_of_repeated_prompts(seeded):
    """The sample covariance over the sample variance of the drawn prompts, from the same draws."""
    f = lambda ids: ids.double().square().sum(-1) + 3  # noqa: E731
    ids = RESAMPLE.draw((12, 5), seeded(3))
    found = text_stability(f, ids, RESAMPLE, keep=0.6, twins=4, generator=seeded(4))
    x, products, twins = found.values[:, 0], found.products[:, 0], found.twin_values[:, 0, 0]
    index = torch.randint(12, (2000, 12), generator=seeded(5))
    covariance = (products[index].mean(1) - x[index].mean(1) * twins[index].mean(1)) * 12 / 11
    ends = (covariance / x[index].var(1)).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64))
    interval = found.interval("centred", generator=seeded(5)).interval
    torch.testing.assert_close(torch.stack([interval.low, interval.high]), ends)


def test_at_keep_one_the_numbers_are_one_without_error(seeded):
    """Exactly, for the estimate, its error and its interval; it prints 1 ± 0."""
    f = lambda ids: torch.nn.functional.one_hot(ids, 4).float().flatten(1) + 0.1  # noqa: E731
    found = text_stability(f, RESAMPLE.draw((37, 5), seeded(6)), RESAMPLE, keep=[0.5, 1.0], generator=seeded(7))
    for version in ("normalised", "centred"):
        estimate, interval = found.estimate(version), found.interval(version, generator=seeded(8)).interval
        assert (estimate.value[1], estimate.stderr[1]) == (1, 0)
        assert (interval.low[1], interval.high[1]) == (1, 1)
    assert str(found.normalised).endswith("1 ± 0]")
    assert found.raw.value[1] == found.energy.value


@pytest.mark.parametrize(("keep", "kept"), [(1 - 4.95e-7, 1.0), (1 - 5.05e-7, 0.0)])
def test_keeps_next_to_one_are_not_rounded(keep, kept, monkeypatch):
    """A token is kept where its uniform number is below keep. In single precision all three numbers are one."""
    drawn = lambda shape, dtype=torch.float32, **_: torch.full(shape, 1 - 5e-7, dtype=dtype)  # noqa: E731
    monkeypatch.setattr(torch, "rand", drawn)
    resample = Resample(0, 2, law=torch.tensor([0.0, 1.0]))
    f = lambda ids: (ids == 0).double().mean(-1)  # noqa: E731
    found = text_stability(f, torch.zeros(3, 2, dtype=torch.int64), resample, keep=keep)
    assert found.raw.value.item() == kept


def test_special_tokens_stay(seeded):
    resample = Resample(0, 4, special=(0, 3))
    ids = torch.tensor([[0, 1, 2, 3], [0, 2, 3, 3], [1, 1, 1, 1]])
    seen = []
    f = lambda x: seen.append(x) or x.double().sum(-1)  # noqa: E731
    found = text_stability(f, ids, resample, keep=0.0, twins=50, generator=seeded(15))
    twins = torch.cat(seen[3:]).reshape(3, 50, 4)
    frozen = (ids == 0) | (ids == 3)
    assert bool((twins == ids[:, None])[frozen[:, None].expand(3, 50, 4)].all())
    assert set(twins[~frozen[:, None].expand(3, 50, 4)].tolist()) == {1, 2}
    assert found.coordinates == 4


def test_rows_know_their_prompt(seeded):
    class Own:
        def for_prompts(self, prompt):
            return lambda ids: (prompt + 1.0) * (ids == 1).double().sum(-1)

    ids = RESAMPLE.draw((12, 5), seeded(16))
    found = text_stability(Own(), ids, RESAMPLE, keep=[1.0, 0.5], twins=400, batch=5, generator=seeded(17))
    ones = (ids == 1).double().sum(1)
    scale = torch.arange(1, 13) ** 2
    torch.testing.assert_close(found.squares, scale * ones**2)
    expected = scale * ones * (0.5 * ones + 0.5 * 5 * 0.5)  # E[number of ones in the twin | x]
    torch.testing.assert_close(found.products[:, 1], expected, rtol=0.1, atol=1e-9)


def test_gaussian_embeddings_have_their_hermite_spectrum(seeded, within_error):
    """f = h_1(e_00) + h_2(e_10) + 1 on standard Gaussian embeddings: Stab = 1 + rho + rho^2."""
    e = torch.randn(5000, 2, 3, generator=seeded(18), dtype=torch.float64)
    f = lambda e: 1 + e[:, 0, 0] + (e[:, 1, 0] ** 2 - 1) / math.sqrt(2)  # noqa: E731
    rho = torch.tensor([0.0, 0.4, 0.9, 1.0], dtype=torch.float64)
    unit = EmbeddingNoise(torch.zeros(3), torch.ones(3))
    found = embedding_stability(f, e, rho=rho, twins=2, noise=unit, generator=seeded(19))
    assert within_error(found.raw, 1 + rho + rho**2)
    assert within_error(found.centred, (rho + rho**2) / 2)
    only_first = torch.tensor([True, False]).expand(5000, 2)
    found = embedding_stability(f, e, rho=rho, noise=unit, noisy=only_first, generator=seeded(20))
    assert within_error(found.raw, 2 + rho)
    assert found.coordinates == 1


def test_correlations_next_to_one_are_not_rounded():
    """sqrt(1 - rho^2) at rho = 1 - 1e-8 is 1.4e-4; in single precision rho would be 1."""
    unit = EmbeddingNoise(torch.zeros(2), torch.ones(2))
    for rho in (1 - 1e-8, torch.tensor(1 - 1e-8, dtype=torch.float64)):
        twin = unit.twin(torch.zeros(1, 2), rho, torch.ones(1, 2))
        torch.testing.assert_close(twin, torch.full((1, 2), math.sqrt(2e-8)))


def test_by_default_the_noise_has_the_spread_of_the_embeddings(seeded, within_error):
    e = torch.randn(3000, 2, 2, generator=seeded(21), dtype=torch.float64) * torch.tensor([4.0, 0.1]) + 7
    f = lambda e: (e[:, 0] - 7) / torch.tensor([4.0, 0.1])  # noqa: E731
    found = embedding_stability(f, e, rho=[0.3, 0.8], generator=seeded(22))
    assert within_error(found.centred, torch.tensor([0.3, 0.8]).double())


def test_on_a_device(device, seeded):
    ids = torch.randint(4, (10, 6), generator=seeded(0, device), device=device)
    f = lambda x: x.double().square().sum(-1)  # noqa: E731
    found = text_stability(f, ids, RESAMPLE, keep=[0.5, 1.0], generator=seeded(1, device))
    assert found.centred.value.device.type == device.type
    assert found.interval("centred", generator=seeded(2, device)).value.device.type == device.type
    e = torch.randn(10, 6, 3, generator=seeded(3, device), device=device)
    found = embedding_stability(lambda e: e.sum((1, 2)), e, rho=0.5, generator=seeded(4, device))
    assert isinstance(found.raw, Estimate)
    assert isinstance(found, PromptStability)


IDS = torch.zeros(9, 3, dtype=torch.int64)
FLAT = lambda ids: ids.sum(-1).double()  # noqa: E731


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: text_stability(FLAT, IDS, RESAMPLE, keep=1.5), r"keep is \[1.5\]: give numbers from 0 to 1"),
        (lambda: text_stability(FLAT, IDS, RESAMPLE, keep=[]), r"keep is empty"),
        (lambda: text_stability(FLAT, IDS, RESAMPLE, keep=0.5, twins=0), r"twins is 0: give at least 1"),
        (lambda: text_stability(FLAT, IDS[:2], RESAMPLE, keep=0.5), r"holds 2 prompts: .*at least 3"),
        (lambda: text_stability(FLAT, IDS - 1, RESAMPLE, keep=0.5), r"token id -1"),
        (lambda: text_stability(lambda x: FLAT(x).log(), IDS, RESAMPLE, keep=0.5), r"f returned NaN or infinity"),
        (lambda: embedding_stability(FLAT, torch.ones(2, 3, 4), rho=0.5), r"holds 2 prompts: .*needs 3"),
        (lambda: text_stability(FLAT, IDS, RESAMPLE, keep=0.5).normalised, r"normalised number is 0/0: .*read 'raw'"),
        (
            lambda: text_stability(lambda x: 0 * FLAT(x) + 0.1, IDS, RESAMPLE, keep=0.5).centred,
            r"centred number is 0/0: at some choice of the 9 prompts",
        ),
        (
            lambda: text_stability(lambda x: 0 * FLAT(x) + 0.1, IDS, RESAMPLE, keep=0.5).interval("centred"),
            r"centred number is 0/0: .*give more prompts",
        ),
        (
            lambda: text_stability(FLAT, IDS[:5], RESAMPLE, keep=0.5).interval("raw"),
            r"5 prompts: an interval over prompts needs at least 8",
        ),
    ],
)
def test_bad_requests_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()

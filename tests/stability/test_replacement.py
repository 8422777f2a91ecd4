"""Discrete influence against loops over single strings and against enumeration of a product law."""

import math

import numpy as np
import pytest
import torch

from nslab.noise import Resample
from nslab.stability import Tokens, discrete_influence, influences, total_influence
from nslab.transformer import Transformer, TransformerConfig

LAW = torch.tensor([0.25, 0.5, 0.0, 0.25], dtype=torch.float64)
QUARTERS = [1, 2, 0, 1]


@pytest.fixture(scope="module")
def network():
    config = TransformerConfig(vocabulary=7, context=5, width=8, layers=2, heads=2, causal=False)
    model = Transformer(config, generator=torch.Generator().manual_seed(0)).double().eval()
    return lambda ids: 100 * model(ids, at=torch.zeros(len(ids), dtype=torch.int64))[:, :3]


class Counted:
    def __init__(self, f):
        self.f, self.rows, self.seen = f, 0, []

    def __call__(self, ids):
        self.rows += len(ids)
        self.seen += [tuple(row) for row in ids.tolist()]
        return self.f(ids)


class OwnToken:
    """A score whose rows must know their prompt: the value is the prompt's own number times the count of its token."""

    def __init__(self, ids):
        self.token = ids[:, 0]

    def for_prompts(self, prompt):
        return lambda ids: (prompt + 1.0) * (ids == self.token[prompt][:, None]).sum(-1)


def one_string_at_a_time(f, ids, law, special):
    """The definition, string by string: sum_t p_t |f(x) - f(x with t at i)|^2 / 2."""
    found = torch.zeros(ids.shape, dtype=torch.float64)
    for p, row in enumerate(ids):
        for i, token in enumerate(row.tolist()):
            if token in special:
                continue
            for t, probability in enumerate(law.tolist()):
                changed = row.clone()
                changed[i] = t
                found[p, i] += probability * (f(row[None]) - f(changed[None])).square().sum().item() / 2
    return found


def test_exact_influences_are_those_of_a_loop_over_single_strings(network, seeded):
    law = torch.tensor([0.0, 0.3, 0.1, 0.2, 0.15, 0.25, 0.0], dtype=torch.float64)
    resample = Resample(0, 7, special=(0,), law=law)
    ids = torch.randint(7, (4, 5), generator=seeded(1))
    ids[1, 2] = 0
    with torch.no_grad():
        expected = one_string_at_a_time(network, ids, law, (0,))
    found = discrete_influence(network, ids, resample, samples="exact")
    torch.testing.assert_close(found.value, expected, rtol=1e-9, atol=1e-12)
    assert bool((found.stderr == 0).all())
    assert found.value[1, 2] == 0
    assert bool((found.value[ids != 0] > 0).all())
    few = discrete_influence(network, ids, resample, samples="exact", positions=[3, 1], batch=2)
    torch.testing.assert_close(few.value, expected[:, [3, 1]], rtol=1e-9, atol=1e-12)


def test_sampled_influences_are_within_their_errors_of_exact_ones(network, seeded, within_error):
    resample = Resample(0, 7, special=(0,))
    ids = torch.randint(1, 7, (3, 5), generator=seeded(2))
    ids[0, 0] = 0
    exact = discrete_influence(network, ids, resample, samples="exact")
    found = discrete_influence(network, ids, resample, samples=2000, generator=seeded(3))
    assert within_error(found, exact.value)
    assert (found.value[0, 0], found.stderr[0, 0]) == (0, 0)
    assert found == discrete_influence(network, ids, resample, samples=2000, generator=seeded(3))
    other = discrete_influence(network, ids, resample, samples=2000, generator=seeded(3), batch=3)
    torch.testing.assert_close(other.value, found.value)


def test_errors_of_sampled_influences_cover(seeded, covered):
    """Token 0 of (0, 0) under f = id of the token: E t^2 / 2 with t from the law."""
    resample = Resample(0, 4, law=LAW)
    truth = (LAW * torch.arange(4) ** 2).sum().item() / 2
    f = lambda ids: ids[:, 0].double()  # noqa: E731
    zeros = torch.zeros(1, 2, dtype=torch.int64)
    runs = [discrete_influence(f, zeros, resample, samples=200, generator=seeded(s)) for s in range(150)]
    covered([type(e)(e.value[0, 0], e.stderr[0, 0], e.samples, 0.0) for e in runs], truth)


def test_over_the_product_law_the_mean_is_the_mean_variance_along_the_coordinate(every_prompt, on_tokens, seeded):
    table = np.random.default_rng(0).normal(size=(4, 4, 4))
    law = LAW.numpy()
    ids = every_prompt(QUARTERS, 3)
    found = discrete_influence(on_tokens(table), ids, Resample(0, 4, law=LAW), samples="exact").value.mean(0)
    for i in range(3):
        axis = np.moveaxis(table, i, -1)
        variance = axis**2 @ law - (axis @ law) ** 2
        assert found[i].item() == pytest.approx(law @ (law @ variance), abs=1e-12)
    sampled = influences(on_tokens(table), Tokens(3, 4, law=LAW), samples=20_000, generator=seeded(4))
    assert bool(((sampled.value - found).abs() <= 4.5 * sampled.stderr).all())


def test_rows_know_their_prompt(seeded):
    ids = torch.tensor([[1, 2, 3], [2, 2, 2]])
    score, resample = OwnToken(ids), Resample(0, 4)
    found = discrete_influence(score, ids, resample, samples="exact", batch=2).value
    # Prompt 0: token 1 -> a redraw of it changes the count with chance 3/4, of another position with chance 1/4.
    assert found[0].tolist() == pytest.approx([3 / 8, 1 / 8, 1 / 8])
    assert found[1].tolist() == pytest.approx([4 * 3 / 8] * 3)


def test_each_distinct_string_is_evaluated_once(seeded):
    f = Counted(lambda ids: ids.double().sum(-1))
    ids = torch.randint(4, (6, 5), generator=seeded(5))
    discrete_influence(f, ids, Resample(0, 4), samples=1000, generator=seeded(6))
    assert f.rows == 6 + 6 * 5 * 3 + 4  # two prompts were asked twice more: is f random?
    for row in ids.tolist():
        assert f.seen.count(tuple(row)) >= 1


@pytest.mark.parametrize("pairs", [300, 1200, 5000])
def test_total_influence_is_the_sum_over_positions(
    pairs, every_prompt, on_tokens, seeded, within_error, weighted_parts
):
    """sum |S| |f^{=S}|^2 by enumeration, whatever the number of pairs a prompt."""
    table = np.random.default_rng(1).normal(size=(4, 4, 4))
    truth = sum(len(s) * norm for s, norm in weighted_parts(table, LAW.numpy()).items())
    resample = Resample(0, 4, law=LAW)
    ids = resample.draw((300, 3), seeded(7))
    f = Counted(on_tokens(table))
    found = total_influence(f, ids, resample, pairs=pairs, generator=seeded(8))
    assert within_error(found, truth)
    assert found.pairs == pairs // 300 * 300
    assert f.rows - 4 == found.evaluations <= 300 + found.pairs  # two prompts were asked twice more
    assert found.by_prompt.mean() == found.value
    assert found.samples == 300


def test_errors_of_total_influence_cover_and_are_clustered_by_prompt(on_tokens, seeded, covered, weighted_parts):
    table = np.random.default_rng(2).normal(size=(4, 4))
    truth = sum(len(s) * norm for s, norm in weighted_parts(table, LAW.numpy()).items())
    resample, runs = Resample(0, 4, law=LAW), []
    for seed in range(150):
        g = seeded(seed)
        ids = resample.draw((60, 2), g)
        runs.append(total_influence(on_tokens(table), ids, resample, pairs=600, generator=g))
    covered(runs, truth)


def test_more_pairs_cannot_beat_the_spread_of_the_prompts(seeded):
    """f = a * (number of ones), a a prompt's own factor: the totals of prompts differ, and 1,000 pairs each show it."""
    ids = torch.arange(50)[:, None].expand(50, 4) % 2
    factor = torch.arange(50.0)

    class Own:
        def for_prompts(self, prompt):
            return lambda rows: factor[prompt] * rows.sum(-1)

    found = total_influence(Own(), ids, Resample(0, 2), pairs=50_000, generator=seeded(9))
    exact = 4 * factor.double() ** 2 / 4  # half the mean squared change of each of 4 bits
    assert found.stderr.item() == pytest.approx(exact.std().item() / math.sqrt(50), rel=0.05)
    assert abs(found.value - exact.mean()) < 0.05 * exact.mean()


def test_special_positions_do_not_count(seeded):
    ids = torch.tensor([[0, 1, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0]])
    resample = Resample(0, 3, special=(0,))
    f = lambda rows: (rows == 2).double().sum(-1)  # noqa: E731
    found = total_influence(f, ids, resample, pairs=30_000, generator=seeded(10))
    torch.testing.assert_close(found.by_prompt, torch.tensor([0.5, 0.25, 0.0]).double(), rtol=0.05, atol=1e-12)


def test_on_a_device(device, seeded):
    ids = torch.randint(5, (8, 6), generator=seeded(0, device), device=device)
    request = {"generator": seeded(1, device)}
    f = lambda rows: rows.double().square().sum(-1)  # noqa: E731
    found = discrete_influence(f, ids, Resample(0, 5, law=torch.ones(5) / 5), samples=3, **request)
    assert found.value.device.type == device.type
    assert total_influence(f, ids, Resample(0, 5), pairs=16, **request).value.device.type == device.type


IDS = torch.zeros(2, 3, dtype=torch.int64)
FLAT = lambda ids: ids.sum(-1).double()  # noqa: E731
R = Resample(0, 4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: discrete_influence(FLAT, IDS, R, samples=1), r"samples is 1: .*at least 2.*'exact'"),
        (lambda: discrete_influence(FLAT, IDS, R, samples=2, positions=[3]), r"positions is \[3\]: .*0 to 2"),
        (lambda: discrete_influence(FLAT, IDS, R, samples=2, positions=[1, 1]), r"distinct positions"),
        (lambda: discrete_influence(FLAT, IDS, R, samples=2, positions=[]), r"positions is \[\]"),
        (lambda: discrete_influence(FLAT, IDS + 4, R, samples=2), r"token id 4: ids run from 0 to 3"),
        (lambda: discrete_influence(FLAT, IDS[:0], R, samples=2), r"ids has shape \(0, 3\)"),
        (lambda: discrete_influence(lambda x: FLAT(x) / 0, IDS, R, samples=2), r"score returned NaN or infinity"),
        (lambda: discrete_influence(lambda x: FLAT(x)[:1], IDS, R, samples=2), r"score returned shape \(1,\)"),
        (lambda: total_influence(FLAT, IDS, R, pairs=1), r"pairs is 1 for 2 prompts: .*at least one pair a prompt"),
        (lambda: total_influence(FLAT, IDS[:1], R, pairs=10), r"holds 1 prompts: .*at least 2"),
    ],
)
def test_bad_requests_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()

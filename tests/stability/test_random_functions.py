"""Stability compares one function at two points: a function that throws dice, or learns while asked, is refused."""

import pytest
import torch
from torch import nn

from nslab import zoo
from nslab.noise import Resample
from nslab.stability import (
    Cube,
    GaussianSpace,
    Tokens,
    average_sensitivity,
    discrete_influence,
    embedding_stability,
    geometric_influence,
    gradient_energy,
    influences,
    noise_stability,
    text_stability,
    total_influence,
)

NOISE = Resample(0, 6)
IDS = NOISE.draw((9, 4), torch.Generator().manual_seed(0))


@pytest.fixture
def network():
    """Ids to logits everywhere, with dropout in the middle."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(6, 16), nn.Dropout(0.1), nn.Linear(16, 6))


def measures(f):
    return {
        "text_stability": lambda: text_stability(f, IDS, NOISE, keep=[0.5, 1.0]),
        "discrete_influence": lambda: discrete_influence(f, IDS, NOISE, samples=2),
        "total_influence": lambda: total_influence(f, IDS, NOISE, pairs=18),
    }


@pytest.mark.parametrize("name", measures(None))
def test_dropout_behind_a_lambda_is_found(network, name):
    f = lambda ids: network(ids).mean(1)  # noqa: E731
    with pytest.raises(ValueError, match=r"gives two answers to one prompt: .*call eval\(\)"):
        measures(f)[name]()
    network.eval()
    assert measures(f)[name]() is not None


def test_dropout_behind_wrap_is_found_by_the_score(network):
    model = zoo.wrap(lambda ids: network(ids), vocabulary=6, context=8)
    with pytest.raises(ValueError, match="your model gives two answers to one prompt"):
        zoo.top_token_score(model, IDS)
    network.eval()
    score = zoo.top_token_score(model, IDS)
    network.train()  # and later, when the score was made in time
    with pytest.raises(ValueError, match="gives two answers"):
        text_stability(score, IDS, NOISE, keep=0.5)


def test_noise_on_embeddings_finds_it_too(network):
    head = network[1:]
    e = network[0](IDS)
    with pytest.raises(ValueError, match="gives two answers"):
        embedding_stability(lambda e: head(e).mean(1), e, rho=0.5)


def test_a_module_in_training_mode_is_refused_before_it_is_asked_and_learns_nothing():
    """Batch norm would move its running mean at every call."""
    f = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1), nn.Flatten(0))
    calls = [
        lambda: noise_stability(f, Cube(3), rho=0.5, evaluations=100),
        lambda: influences(f, Cube(3), samples=10),
        lambda: average_sensitivity(f, Cube(3), samples=10),
        lambda: gradient_energy(f, GaussianSpace(3), samples=10),
        lambda: geometric_influence(f, torch.zeros(4, 2, 3)),
        lambda: embedding_stability(f, torch.zeros(4, 2, 3), rho=0.5),
        lambda: text_stability(f, IDS, NOISE, keep=0.5),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"is in training mode: call eval\(\) first"):
            call()
    assert f[1].num_batches_tracked == 0
    f.eval()
    assert noise_stability(f, Cube(3), rho=0.5, evaluations=100, batch_size=7).samples > 1
    assert f[1].num_batches_tracked == 0


def test_a_method_of_a_module_in_training_mode_is_refused(network):
    class Own(nn.Module):
        def of_bits(self, x):
            return x[:, 0]

    with pytest.raises(ValueError, match="f is in training mode"):
        noise_stability(Own().of_bits, Cube(3), rho=0.5, evaluations=100)
    for part in ({"embed": network[0], "from_embeddings": lambda e: e}, {"trace": network.forward}):
        with pytest.raises(ValueError, match="your model is in training mode"):
            zoo.wrap(lambda ids: ids[..., None], vocabulary=6, context=8, **part)


def test_the_rounding_of_half_precision_is_no_dice():
    torch.manual_seed(0)
    half = nn.Sequential(nn.Embedding(6, 64), nn.Linear(64, 64), nn.Linear(64, 6)).eval().to(torch.bfloat16)
    assert text_stability(lambda ids: half(ids).mean(1), IDS, NOISE, keep=0.5).raw.samples == 9


def test_a_network_on_tokens_is_handed_few_at_once_and_the_draws_do_not_depend_on_it():
    """2,048 positions on a CPU, whatever the budget; a function of bits gets all that were made."""
    rows, table = [], torch.randn(11, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def f(ids):
        rows.append(len(ids))
        return (table[ids].sum(-1) > 0).double()

    options = {"keep": [0.3, 0.9], "evaluations": 30_000, "method": "common"}
    found = noise_stability(f, Tokens(64, 11), generator=torch.Generator().manual_seed(2), **options)
    assert max(rows) == 2048 // 64
    same = noise_stability(f, Tokens(64, 11), generator=torch.Generator().manual_seed(2), batch_size=65536, **options)
    assert max(rows) > 2048
    assert found == same
    rows.clear()
    influences(f, Tokens(64, 11), [0], samples=1000)
    assert max(rows) == 2048 // 64
    rows.clear()
    noise_stability(lambda x: rows.append(len(x)) or x[:, 0], Cube(3), rho=0.5, evaluations=40_000)
    assert max(rows) > 10_000


def test_where_memory_runs_out_fewer_are_handed_over_and_nothing_changes():
    def f(x):
        if len(x) > 1000:
            raise MemoryError
        return x[:, :3].prod(-1)

    options = {"rho": [0.5, 0.9], "evaluations": 20_000}
    found = noise_stability(f, Cube(5), generator=torch.Generator().manual_seed(3), **options)
    whole = noise_stability(lambda x: x[:, :3].prod(-1), Cube(5), generator=torch.Generator().manual_seed(3), **options)
    assert found == whole


def test_what_is_held_at_once_is_bounded_by_the_outputs_too(monkeypatch):
    """50,000 outputs of 20,000 inputs are 8 GB: they are made in groups of at most 2**22 numbers."""
    from nslab.stability import measuring

    groups, plain = [], measuring.draw

    def watched(design, f, space, levels, count, *rest):
        groups.append(count * design.cost(1))
        return plain(design, f, space, levels, count, *rest)

    monkeypatch.setattr(measuring, "draw", watched)
    wide = lambda x: x[:, :1].expand(-1, 50_000)  # noqa: E731
    found = noise_stability(wide, Cube(3), rho=0.5, evaluations=400, generator=torch.Generator().manual_seed(4))
    assert max(groups) * 50_000 <= 2**22
    assert abs(found.value / 50_000 - 0.5) < 5 * found.stderr / 50_000
    assert found.evaluations == 400

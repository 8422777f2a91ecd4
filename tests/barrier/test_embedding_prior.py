"""The prior on embeddings against worked numbers, automatic differentiation and a training that moves its weights."""

import math

import pytest
import torch
from torch import nn

from nslab.barrier.embedding_prior import EmbeddingPrior, attach, detach, embedded, prior_regulariser
from nslab.protocols import Penalty
from nslab.training import TextBatches, Trainer, TrainingConfig
from nslab.transformer import Transformer, TransformerConfig

DOUBLE = 1e-10


def seeded(seed=0, device="cpu"):
    return torch.Generator(device).manual_seed(seed)


def prior_of(width=3, **options):
    return EmbeddingPrior(width, generator=seeded(1), **options).double()


def some_embeddings(batch=2, length=6, width=3):
    return torch.randn(batch, length, width, generator=seeded(5), dtype=torch.float64)


def residual(u, scores):
    """u_i minus its attention mean, written out: position i reads its strict past with its own query."""
    rows = [u[0]]
    for i in range(1, len(u)):
        rows.append(u[i] - (u[:i] @ scores @ u[i]).softmax(0) @ u[:i])
    return torch.stack(rows)


def network(positions="learned", width=8):
    shape = TransformerConfig(vocabulary=7, context=12, width=width, layers=1, heads=2, positions=positions)
    return Transformer(shape, generator=seeded())


def test_a_worked_block():
    """Two past tokens with weight 1/2 each and distance 2, A = diag(0.75, 0.3): b = log 4."""
    prior = EmbeddingPrior(2).double()
    with torch.no_grad():
        prior.key.copy_(torch.eye(2))
        prior.query.copy_(torch.diag(torch.tensor([0.75, 0.3])) * math.sqrt(2))
    torch.testing.assert_close(prior.scores, torch.diag(torch.tensor([0.75, 0.3])).double())
    u = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)  # the third query likes both alike
    torch.testing.assert_close(prior.terms(u), torch.tensor([0, 0, math.log(4)], dtype=torch.float64))


@pytest.mark.parametrize("projected", [None, 2])
def test_the_barriers_add_up_to_the_whole_log_determinant(projected):
    """Minus log|det| of the whole Jacobian of u to its residuals, by automatic differentiation."""
    prior, u = prior_of(prior_width=projected), some_embeddings()
    for row, found in zip(prior.enter(u).detach(), prior.terms(u), strict=True):
        whole = torch.autograd.functional.jacobian(lambda x: residual(x, prior.scores.detach()), row)
        expected = -torch.linalg.slogdet(whole.reshape(row.numel(), -1)).logabsdet
        torch.testing.assert_close(found.sum(), expected, rtol=DOUBLE, atol=DOUBLE)
        assert found[:2].tolist() == [0, 0]


def test_full_adds_the_gaussian_of_the_residuals():
    """Minus the log-density of the embeddings, up to the constant p/2 log(2 pi) a token."""
    sigma = 0.7
    prior, u = prior_of(variant="full", sigma=sigma), some_embeddings()
    with torch.no_grad():
        density = torch.distributions.Normal(torch.zeros(3, dtype=torch.float64), sigma)
        for row, found in zip(u, prior.terms(u), strict=True):
            gaussian = density.log_prob(residual(row, prior.scores)).sum(-1) + 1.5 * math.log(2 * math.pi)
            torch.testing.assert_close(found, prior_of().terms(row) - gaussian, rtol=DOUBLE, atol=DOUBLE)
            alone = prior_of(variant="residual-only", sigma=sigma).terms(row)
            torch.testing.assert_close(alone, -gaussian, rtol=DOUBLE, atol=DOUBLE)


@pytest.mark.parametrize("options", [{}, {"variant": "full"}, {"prior_width": 2}, {"kind": "kl"}])
def test_the_gradient_is_that_of_finite_differences(options):
    prior, u = prior_of(**options), some_embeddings(length=5).requires_grad_()
    assert torch.autograd.gradcheck(lambda u, *_: prior.terms(u), (u, *prior.parameters()), eps=1e-6, atol=1e-5)


@pytest.mark.parametrize("variant", ["margin-only", "full", "residual-only"])
@pytest.mark.parametrize("kind", ["raw", "kl"])
def test_sampled_rows_are_unbiased_for_the_mean_over_all_positions(variant, kind):
    u, source = some_embeddings(length=9), seeded()
    with torch.no_grad():
        sampled = prior_of(variant=variant, kind=kind, rows=3)
        found = torch.stack([sampled.of(u, source) for _ in range(800)])
        assert abs(found.mean() - sampled.terms(u).mean()) < 4 * found.std() / math.sqrt(len(found))
        everything = prior_of(variant=variant, kind=kind, rows=None)
        torch.testing.assert_close(everything.of(u), everything.terms(u).mean())


@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_what_enters_is_embeddings_and_learned_positions(positions):
    model, ids = network(positions), torch.randint(7, (2, 5), generator=seeded())
    hidden = model.trace(model.embed(ids))[1][0]  # before the first layer
    assert torch.equal(embedded(model, ids), hidden)
    prior = EmbeddingPrior(8, rows=None)
    assert isinstance(prior, Penalty)
    torch.testing.assert_close(prior(model, ids, model(ids)), prior.terms(hidden).mean())


@pytest.mark.parametrize("options", [{}, {"variant": "full", "prior_width": 4, "sigma": 0.1}])
def test_a_trainer_moves_the_prior_and_the_network_can_be_saved_without_it(options, device):
    model, plain = network().to(device), network().state_dict()
    weight, prior = prior_regulariser(0.5, model, rows=4, generator=seeded(0, device), **options)
    before = {name: value.clone() for name, value in prior.state_dict().items()}
    text = torch.randint(7, (200,), generator=seeded()).to(device)
    config = TrainingConfig(steps=30, batch=4, learning_rate=1e-2, weight_decay=0)
    trainer = Trainer(model, config, TextBatches(text, 12, 4), penalties=[(weight, prior)])
    ids = text[:12][None]
    start = prior.of(embedded(model, ids)).item()
    trainer.run()
    assert prior.of(embedded(model, ids)).item() < start
    assert all(not torch.equal(value, before[name]) for name, value in prior.state_dict().items())
    assert set(model.state_dict()) > set(plain)
    assert detach(model) is prior
    assert list(model.state_dict()) == list(plain)


def test_margin_only_learns_a_repulsive_matrix_and_full_does_not():
    """The barrier alone rewards determinants beyond 1: A becomes negative definite. The residuals hold it back."""
    found = {}
    for variant in ("margin-only", "full"):
        u = torch.randn(4, 12, 4, generator=seeded(2))
        prior = EmbeddingPrior(4, variant=variant, rows=None, generator=seeded(1))
        optimizer = torch.optim.Adam(prior.parameters(), lr=0.05)
        for _ in range(120):
            optimizer.zero_grad()
            prior.of(u).backward()
            optimizer.step()
        found[variant] = prior.report(u)
    alone, full = found["margin-only"], found["full"]
    assert max(alone.eigenvalues) < 0 < max(full.eigenvalues)
    assert alone.quantiles[4] > 3 * full.quantiles[4] > 3


def test_the_report_tells_of_all_positions_from_the_third_on():
    prior, u = prior_of(), 3 * some_embeddings(batch=20, length=12)
    found = prior.report(u)
    blocks = []
    for row in u:
        whole = torch.autograd.functional.jacobian(lambda x: residual(x, prior.scores.detach()), row)
        blocks += [torch.linalg.det(whole[i, :, i]).item() for i in range(2, 12)]
    assert found.negative == pytest.approx(sum(one < 0 for one in blocks) / 200)
    assert 0 < found.negative < 1
    assert found.quantiles[0] == pytest.approx(min(blocks))
    assert found.quantiles[-1] == pytest.approx(max(blocks))
    symmetric = (prior.scores + prior.scores.T).detach() / 2
    assert sum(found.eigenvalues) == pytest.approx(symmetric.trace().item())
    assert sum(one**2 for one in found.eigenvalues) == pytest.approx(symmetric.square().sum().item())


def test_short_sequences_and_half_precision(device):
    prior = EmbeddingPrior(3, device=device, generator=seeded(0, device))
    u = some_embeddings(length=2).float().to(device)
    assert prior.of(u).item() == 0
    assert prior.of(u[:, :1]).item() == 0
    long = some_embeddings().to(device, torch.bfloat16)
    with torch.autocast(device.type, torch.bfloat16):
        found = prior.terms(long)
    torch.testing.assert_close(found, prior.terms(long.float()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "width is 0"),
        ({"prior_width": 0}, "prior_width is 0: give at least 1, or None"),
        ({"rows": 0}, "rows is 0"),
        ({"variant": "both"}, "choose one of 'margin-only', 'full'"),
        ({"sigma": 0}, "sigma is 0"),
        ({"kind": "log"}, "choose one of"),
        ({"delta": -1}, "delta is -1"),
    ],
)
def test_bad_settings(options, message):
    with pytest.raises(ValueError, match=message):
        EmbeddingPrior(**{"width": 3} | options)


def test_bad_input():
    model, prior = network(), EmbeddingPrior(8)
    with pytest.raises(ValueError, match="weight is -1"):
        prior_regulariser(-1, model)
    with pytest.raises(ValueError, match="8 wide"):
        prior.terms(torch.zeros(4, 7))
    with pytest.raises(ValueError, match="outside a sequence of length 4"):
        prior.terms(torch.zeros(4, 8), torch.tensor([4]))
    with pytest.raises(ValueError, match="no embed"):
        prior(nn.Linear(2, 2), torch.zeros(1, 2), torch.zeros(1, 2))
    with pytest.raises(ValueError, match="at least 3"):
        prior.report(torch.zeros(2, 8))
    with pytest.raises(ValueError, match="position 1"):
        prior.report(torch.tensor([[0.0] * 8, [math.nan] * 8, [0.0] * 8]))
    assert prior.of(torch.full((4, 8), math.nan)).isnan()
    with pytest.raises(ValueError, match="attach"):
        detach(model)
    attach(model, prior)
    with pytest.raises(ValueError, match="detach"):
        attach(model, prior)

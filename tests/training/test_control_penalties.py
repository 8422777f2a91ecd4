"""Controls of the regulariser against torch's own losses, against sums over parameters, and against noise by hand."""

import math
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from nslab.training.control_penalties import EmbeddingNoisePenalty, L1Penalty, LabelSmoothingPenalty
from nslab.training.pair_networks import take_member
from nslab.training.penalties import ConfidencePenalty, each_member
from nslab.transformer import Transformer
from tests.training.conftest import SHAPE
from tests.training.ensembles import NETWORKS, data_for, drawn, ensemble

TOLERANCES = {"double": 1e-12, "gradients": 1e-9, "single": 1e-5, "errors": 4.5}  # the last in standard errors
TABLES = {"quadratic": ("first", "second"), "transformer": ("tokens",)}
NAN = float("nan")
NETWORK = nn.Identity()  # for penalties that look at outputs alone


def seeded(seed=0, device="cpu"):
    return torch.Generator(device).manual_seed(seed)


@pytest.mark.parametrize("alpha", [0.0, 0.1, 0.6])
@pytest.mark.parametrize("shape", [(20, 5), (6, 4, 5)])
def test_label_smoothing_is_that_of_torch_up_to_its_factor(alpha, shape):
    """CE + w U = CE of labels smoothed by alpha / (1 - alpha), for w = alpha / (1 - alpha); gradients too."""
    output = torch.randn(*shape, generator=seeded(), dtype=torch.float64, requires_grad=True)
    x, y = torch.zeros(*shape[:-1] if len(shape) == 3 else (20, 2), dtype=torch.long), torch.arange(shape[0] * 20)
    y = y[: math.prod(shape[:-1])] % 5
    flat = output.view(-1, 5)
    ours = F.cross_entropy(flat, y) + LabelSmoothingPenalty.weight(alpha) * LabelSmoothingPenalty()(NETWORK, x, output)
    theirs = F.cross_entropy(flat, y, label_smoothing=alpha) / (1 - alpha)
    assert ours.item() == pytest.approx(theirs.item(), abs=TOLERANCES["double"])
    one, other = (torch.autograd.grad(value, output, retain_graph=True)[0] for value in (ours, theirs))
    torch.testing.assert_close(one, other, rtol=0, atol=TOLERANCES["double"])


def test_label_smoothing_is_least_at_the_uniform_answer_and_widens_half_precision():
    x, output = torch.zeros(30, 2), torch.randn(30, 8, generator=seeded())
    assert LabelSmoothingPenalty()(NETWORK, x, torch.ones(30, 8)).item() == pytest.approx(math.log(8))
    assert LabelSmoothingPenalty().rows(NETWORK, x, output).min() > math.log(8)
    half = LabelSmoothingPenalty()(NETWORK, x, output.bfloat16())
    exact = LabelSmoothingPenalty()(NETWORK, x, output.bfloat16().float())
    assert half.item() == pytest.approx(exact.item(), abs=TOLERANCES["single"])


def test_l1_is_the_sum_over_the_weights_that_are_trained():
    module = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    module[0].bias.requires_grad_(False)
    expected = sum(weight.abs().sum().item() for weight in (module[0].weight, module[1].weight, module[1].bias))
    value = L1Penalty()(module, torch.zeros(1, 3), torch.zeros(1, 2))
    value.backward()
    assert value.item() == pytest.approx(expected, rel=TOLERANCES["single"])
    assert torch.equal(module[1].weight.grad, module[1].weight.detach().sign())


@pytest.mark.parametrize("name", NETWORKS)
def test_l1_of_an_ensemble_is_that_of_each_member_as_a_module(name, device):
    network = NETWORKS[name]
    weights = drawn(network, 3, device=device)
    found = L1Penalty()(partial(network, weights), torch.zeros(3, 1, 1), torch.zeros(3, 1))
    for member in range(3):
        module = network.module(take_member(weights, member))
        expected = sum(weight.abs().sum().item() for weight in module.parameters() if weight.requires_grad)
        assert found[member].item() == pytest.approx(expected, rel=TOLERANCES["double"])


@pytest.mark.parametrize("name", TABLES)
def test_noise_in_tables_has_its_spread_and_leaves_the_other_weights(name, device):
    """Its mean is 0 and its rms `spread` times that of the member's table; the penalty is -p(clean) . p(noisy)."""
    network, seen = NETWORKS[name], []
    weights = drawn(network, 3, device=device)
    weights[TABLES[name][0]] = weights[TABLES[name][0]] * torch.tensor([1.0, 5.0, 0.1], device=device)[:, None, None]
    leaves = [weight.requires_grad_() for weight in weights.values()]
    x = data_for(network, 3)[0].to(device)
    spy = lambda given, rows: seen.append(given) or network(given, rows)  # noqa: E731
    penalty, generator = EmbeddingNoisePenalty(0.3, TABLES[name]), seeded(device=device)
    output = network(weights, x)
    for _ in range(300):
        found = penalty.rows(partial(spy, weights), x, output, generator=generator)
    added = {key: (seen[-1][key] - weight).detach() for key, weight in weights.items()}
    noisy = network({key: weight + added[key] for key, weight in weights.items()}, x)
    expected = -(output.softmax(-1) * noisy.softmax(-1)).sum(-1)
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCES["double"])
    for pair in zip(
        *(torch.autograd.grad(one.sum(), leaves, retain_graph=True) for one in (found, expected)), strict=True
    ):
        torch.testing.assert_close(*pair, rtol=0, atol=TOLERANCES["gradients"])  # the scale of the noise is a constant
    for key, weight in weights.items():
        noise = (torch.stack([given[key] for given in seen]) - weight).detach()  # (draws, members, ...)
        if key not in TABLES[name]:
            assert noise.abs().max() == 0
            continue
        sigma = 0.3 * weight.detach().square().mean((1, 2)).sqrt()
        count = noise[:, 0].numel()
        assert ((noise.mean((0, 2, 3)) / sigma).abs() < TOLERANCES["errors"] / math.sqrt(count)).all()
        spread = noise.square().mean((0, 2, 3)) / sigma.square()
        assert ((spread - 1).abs() < TOLERANCES["errors"] * math.sqrt(2 / count)).all()


class Embedded(nn.Module):
    """A `TokenModel` that notes the embeddings it is entered at."""

    vocabulary, context, special = 7, 3, ()

    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.randn(7, 4, generator=seeded(), dtype=torch.float64))
        self.seen = []

    def forward(self, ids, /, at=None):
        return self.from_embeddings(self.embed(ids))

    def embed(self, ids, /):
        return self.table[ids]

    def from_embeddings(self, embeddings, /, at=None):
        self.seen.append(embeddings)
        return 3 * embeddings.cumsum(1)


def test_noise_in_a_language_model_is_drawn_for_every_row_and_position():
    model, x = Embedded(), torch.randint(7, (2000, 3), generator=seeded(1))
    found = EmbeddingNoisePenalty(0.5).rows(model, x, model(x), generator=seeded(2))
    clean, noisy = model.seen
    noise, sigma = (noisy - clean).detach(), 0.5 * clean.detach().square().mean().sqrt()
    assert (noise.square().mean((1, 2)).sqrt() > 0.1 * sigma).all()  # each row
    assert len(noise.flatten().unique()) == noise.numel()  # of its own
    assert abs((noise / sigma).square().mean() - 1) < TOLERANCES["errors"] * math.sqrt(2 / noise.numel())
    expected = -((3 * clean.cumsum(1)).softmax(-1) * (3 * noisy.cumsum(1)).softmax(-1)).sum(-1)
    torch.testing.assert_close(found, expected)
    found.mean().backward()
    assert model.table.grad.abs().max() > 0


def test_as_the_noise_vanishes_confidence_is_left():
    network, weights = NETWORKS["transformer"], drawn(NETWORKS["transformer"], 2)
    x = data_for(network, 2)[0]
    output, model = network(weights, x), partial(network, weights)
    confidence = ConfidencePenalty().rows(model, x, output)
    gaps = [
        (EmbeddingNoisePenalty(spread, ("tokens",)).rows(model, x, output, generator=seeded()) - confidence)
        for spread in (1e-2, 1e-4)
    ]
    largest = [gap.abs().max().item() for gap in gaps]
    assert largest[1] == pytest.approx(largest[0] / 100, rel=0.1)


CONTROLS = {
    "embedding noise": (0.5, each_member(EmbeddingNoisePenalty(0.3, ("tokens",)))),
    "label smoothing": (LabelSmoothingPenalty.weight(0.1), each_member(LabelSmoothingPenalty())),
    "l1": (1e-3, L1Penalty()),
}


@pytest.mark.parametrize("name", CONTROLS)
def test_an_ensemble_trains_with_it_and_resumes_to_the_bit(name, device):
    settings = {"dtype": torch.float32, "device": device}
    whole, first, second = (ensemble(NETWORKS["transformer"], **settings, penalties=[CONTROLS[name]]) for _ in range(3))
    plain = ensemble(NETWORKS["transformer"], **settings)
    plain.run()
    whole.run()
    first.run(until=10)
    second.load_state(first.state())
    second.run()
    assert all(torch.equal(weight, second.weights[key]) for key, weight in whole.weights.items())
    assert not torch.equal(plain.weights["tokens"], whole.weights["tokens"])


@pytest.mark.parametrize("penalty", [EmbeddingNoisePenalty(0.3), LabelSmoothingPenalty(), L1Penalty()])
def test_a_language_model_trains_with_it_and_resumes_to_the_bit(penalty, trainer, device):
    make = lambda: trainer(device=device, penalties=[(0.01, penalty)])  # noqa: E731
    whole, first, second = make(), make(), make()
    whole.run()
    first.run(until=8)
    second.load_state(first.state())
    second.run()
    assert all(torch.equal(*pair) for pair in zip(whole.model.parameters(), second.model.parameters(), strict=True))


@pytest.mark.parametrize("spread", [0, -0.3, math.inf, NAN])
def test_a_spread_that_is_not_positive_is_refused(spread):
    with pytest.raises(ValueError, match=f"spread is {spread}: give a positive, finite number"):
        EmbeddingNoisePenalty(spread)


@pytest.mark.parametrize("alpha", [-0.1, 1, NAN])
def test_a_share_of_labels_outside_its_range_is_refused(alpha):
    with pytest.raises(ValueError, match=f"alpha is {alpha}: the share of a label that is spread"):
        LabelSmoothingPenalty.weight(alpha)


def test_a_network_without_what_a_penalty_needs_is_refused():
    network, weights = NETWORKS["quadratic"], drawn(NETWORKS["quadratic"], 2)
    x = data_for(network, 2)[0]
    output = network(weights, x)
    with pytest.raises(ValueError, match="tables has 'tokens': the weights are first, second, output"):
        EmbeddingNoisePenalty(0.3, ("tokens",))(partial(network, weights), x, output)
    with pytest.raises(TypeError, match=r"give partial\(network, weights\), or a module"):
        EmbeddingNoisePenalty(0.3, ("tokens",))(lambda rows: network(weights, rows), x, output)
    with pytest.raises(TypeError, match="not a TokenModel: name the tables of an ensemble"):
        EmbeddingNoisePenalty(0.3)(partial(network, weights), x, output)
    with pytest.raises(TypeError, match=r"model is a function: give partial\(network, weights\), or a module"):
        L1Penalty()(lambda rows: network(weights, rows), x, output)


@pytest.mark.parametrize("penalty", [EmbeddingNoisePenalty(0.3), LabelSmoothingPenalty()])
def test_outputs_without_probabilities_are_refused(penalty):
    model = Transformer(SHAPE, generator=seeded())
    with pytest.raises(ValueError, match=r"output has shape \(4,\) for inputs \(4, 8\)"):
        penalty(model, torch.zeros(4, 8, dtype=torch.long), torch.zeros(4))

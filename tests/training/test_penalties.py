"""Penalties against Efron-Stein energies by enumeration, against the same written plainly, and what they refuse."""

import copy
import math
from itertools import chain, combinations

import pytest
import torch

from nslab.noise import Flip, Resample
from nslab.training.penalties import (
    ConfidencePenalty,
    RowPenalty,
    SensitivityPenalty,
    StabilityPenalty,
    each_member,
    stability_regulariser,
)
from tests.training.ensembles import NETWORKS, alone, distance, drawn, ensemble
from tests.training.tables import Table, always, everything, gradients_of, plain_rows, seeded, shift

TOLERANCES = {"double": 1e-12, "single": 1e-6, "optimiser": 1e-10, "errors": 4.5}  # the last in standard errors
UNIFORM, SKEW = (0.25, 0.25, 0.25, 0.25), (0.1, 0.2, 0.7)
DETACHED = [None, "twin", "input"]


def mean_given(table, law, kept):
    """E[f | the tokens at positions `kept`] of a table (tokens, ..., classes), expanded to its shape."""
    found = table
    for axis in set(range(table.ndim - 1)) - set(kept):
        weights = torch.tensor(law, dtype=torch.float64).view([-1 if axis == one else 1 for one in range(table.ndim)])
        found = (found * weights).sum(axis, keepdim=True).expand_as(table)
    return found


def energies(table, law):
    """Squared norms of the Efron-Stein parts, by inclusion and exclusion: {positions: energy}."""
    positions = range(table.ndim - 1)
    subsets = lambda of: chain.from_iterable(combinations(of, size) for size in range(len(of) + 1))  # noqa: E731
    found = {}
    for kept in subsets(positions):
        part = sum((-1) ** (len(kept) - len(inner)) * mean_given(table, law, inner) for inner in subsets(kept))
        found[kept] = mean_given(part.square().sum(-1, keepdim=True), law, ()).flatten()[0].item()
    return found


def at_keep(table, law, keep):
    return sum(keep ** len(kept) * energy for kept, energy in energies(table, law).items())


@pytest.mark.parametrize("keep", [0, 0.3, 0.625, 1])
@pytest.mark.parametrize(("law", "length"), [(UNIFORM, 2), (SKEW, 2), (SKEW, 3)])
def test_its_mean_over_all_twins_is_the_sum_of_energies_times_keep_to_the_degree(law, length, keep):
    """E[-p(x) . p(y)] = -sum_S keep^|S| E_S, every row with every twin, weighed by their probability."""
    tokens, every = len(law), everything(len(law), length)
    model, law_of = Table(tokens, length), torch.tensor(law, dtype=torch.float64)
    x, y = every.repeat_interleave(len(every), 0), every.repeat(len(every), 1)
    kernel = (law_of[x] * (keep * (x == y).double() + (1 - keep) * law_of[y])).prod(1)
    rows = StabilityPenalty(always(y, tokens)).rows(model, x, model(x))
    expected = at_keep(model.probabilities, law, keep)
    assert (kernel * rows).sum().item() == pytest.approx(-expected, abs=TOLERANCES["double"])
    against = StabilityPenalty(always(y, tokens), orientation=0).rows(model, x, model(x))
    assert torch.equal(against, -rows)


@pytest.mark.parametrize("options", [{}, {"share": 0.25}, {"detach": "twin"}])
def test_with_drawn_twins_its_mean_is_that_sum_within_the_error(options, device):
    every, model = everything(4, 2).to(device), Table(4, 2, device=device)
    x = every.repeat(2000, 1)
    _, penalty = stability_regulariser(0.75, 0.25, vocabulary=4, **options)
    rows = penalty.rows(model, x, model(x), generator=seeded(device=device))
    error = rows.std().item() / math.sqrt(len(rows))
    expected = at_keep(model.probabilities, UNIFORM, 0.625)
    assert abs(rows.mean().item() + expected) < TOLERANCES["errors"] * error
    assert rows.device.type == device.type


def test_of_bits_the_energies_are_weighed_by_rho_to_the_degree():
    """One log-odds a row for two classes, bits flipped: rho = 0.4."""
    model, every = Table(2, 3, classes=None), everything(2, 3)
    on_bits = lambda bits: model((1 - bits.long()) // 2)  # noqa: E731
    x = (1 - 2 * every).double().repeat(4000, 1)
    rows = StabilityPenalty(Flip(0.4), outputs="sigmoid").rows(on_bits, x, on_bits(x), generator=seeded())
    table = torch.stack([model.logits.detach().sigmoid(), 1 - model.logits.detach().sigmoid()], -1)
    error = rows.std().item() / math.sqrt(len(rows))
    assert abs(rows.mean().item() + at_keep(table, (0.5, 0.5), 0.4)) < TOLERANCES["errors"] * error


@pytest.mark.parametrize("penalty", [StabilityPenalty(shift()), ConfidencePenalty(), SensitivityPenalty(shift())])
def test_one_log_odds_is_a_softmax_over_it_and_zero(penalty):
    one, x = Table(4, 2, classes=None), everything(4, 2)
    two = lambda rows: torch.stack([one(rows), torch.zeros(len(rows))], -1)  # noqa: E731
    same = type(penalty)(**{**vars(penalty), "outputs": "sigmoid"})
    found, expected = same.rows(one, x, one(x), generator=seeded()), penalty.rows(two, x, two(x), generator=seeded())
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCES["double"])


def test_without_noise_it_is_confidence_to_the_bit_and_asks_nothing():
    model, x = Table(4, 2), everything(4, 2)
    output = model(x)
    penalties = StabilityPenalty(Resample(1, 4)), ConfidencePenalty()
    values = [penalty(model, x, output, generator=seeded()) for penalty in penalties]
    gradients = [torch.autograd.grad(value, model.logits, retain_graph=True)[0] for value in values]
    assert torch.equal(*values)
    assert torch.equal(*gradients)
    assert values[1].item() == pytest.approx(-output.softmax(-1).square().sum(-1).mean().item())
    for detach in ("twin", "input"):  # half of it, also where nothing is asked
        value = StabilityPenalty(Resample(1, 4), detach=detach)(model, x, output, generator=seeded())
        half = torch.autograd.grad(value, model.logits, retain_graph=True)[0]
        torch.testing.assert_close(2 * half, gradients[0], rtol=0, atol=TOLERANCES["double"])
    assert len(model.asked) == 1  # by this test


def test_the_two_detached_gradients_add_up_to_the_full_one(device):
    """Each freezes one answer: d(p . q) = dp . q + p . dq. The values are the same."""
    network = NETWORKS["transformer"]
    weights = {key: weight.requires_grad_() for key, weight in drawn(network, 2, device=device).items()}
    x = torch.randint(7, (2, 30, 2), generator=seeded()).to(device)
    output, model = network(weights, x), lambda part: network(weights, part)
    penalties = [StabilityPenalty(Resample(0.5, 7), detach=detach) for detach in DETACHED]
    values = [penalty(model, x, output, generator=seeded(3, device)) for penalty in penalties]
    assert values[0].item() == pytest.approx(values[1].item()) == pytest.approx(values[2].item())
    full, through_input, through_twin = (gradients_of(value, weights) for value in values)
    for whole, one, other in zip(full, through_input, through_twin, strict=True):
        torch.testing.assert_close(one + other, whole, rtol=0, atol=TOLERANCES["double"])
        assert one.abs().max() > 1e-6
        assert other.abs().max() > 1e-6


def test_a_detached_twin_has_no_graph_and_the_others_have():
    x = everything(4, 2)
    for detach, needs in ((None, True), ("twin", False), ("input", True)):
        model = Table(4, 2)
        StabilityPenalty(shift(), detach=detach)(model, x, model(x))
        assert [output.requires_grad for output in model.outputs] == [True, needs]
    with torch.no_grad():  # and none is made where none is wanted, as in an evaluation
        assert not StabilityPenalty(shift())(model, x, model(x)).requires_grad
        assert not model.outputs[-1].requires_grad


def test_of_a_language_model_it_is_the_mean_over_rows_and_positions():
    """A causal network on 3 tokens, (rows, 3, classes): the mean of three penalties, one a position."""
    networks, x, noise = [Table(4, 3, seed=position) for position in range(3)], everything(4, 3), shift()
    model = lambda rows: torch.stack([network(rows) for network in networks], 1)  # noqa: E731
    for penalty in (StabilityPenalty(noise), ConfidencePenalty(), SensitivityPenalty(noise)):
        rows = penalty.rows(model, x, model(x), generator=seeded())
        parts = [penalty.rows(network, x, network(x), generator=seeded()) for network in networks]
        torch.testing.assert_close(rows, torch.stack(parts, 1), rtol=0, atol=TOLERANCES["double"])
        assert penalty(model, x, model(x), generator=seeded()).item() == pytest.approx(torch.cat(parts).mean().item())


@pytest.mark.parametrize("penalty", [StabilityPenalty(shift(7)), ConfidencePenalty(), StabilityPenalty(shift(7), 0)])
def test_each_member_has_the_penalty_it_would_have_alone(penalty):
    network, x = NETWORKS["quadratic"], torch.randint(7, (3, 30, 2), generator=seeded())
    weights = drawn(network, 3)
    found = each_member(penalty)(lambda part: network(weights, part), x, network(weights, x))
    assert isinstance(penalty, RowPenalty)
    for member in range(3):
        own = {key: weight[member : member + 1] for key, weight in weights.items()}
        scalar = penalty(lambda part: network(own, part[None])[0], x[member], network(own, x[member])[0])  # noqa: B023
        assert scalar.item() == pytest.approx(found[member].item(), abs=TOLERANCES["double"])


@pytest.mark.parametrize(("law", "special"), [(UNIFORM, ()), (SKEW, ()), (UNIFORM, (1,))])
def test_sensitivity_is_the_sum_of_energies_times_the_degree(law, special):
    """E = sum_S |S| E_S, where |S| counts the positions that may change."""
    tokens, every = len(law), everything(len(law), 3)
    model, noise = Table(tokens, 3), Resample(0.5, tokens, law=torch.tensor(law))
    drawn = torch.multinomial(torch.tensor(law), 3 * 60_000, replacement=True, generator=seeded()).view(-1, 3)
    assert len(every.unique(dim=0)) == len(drawn.unique(dim=0))
    rows = SensitivityPenalty(noise, special_positions=special).rows(model, drawn, model(drawn), generator=seeded(1))
    found = energies(model.probabilities, law)
    expected = sum(len(set(kept) - set(special)) * energy for kept, energy in found.items())
    error = rows.std().item() / math.sqrt(len(rows))
    assert abs(rows.mean().item() - expected) < TOLERANCES["errors"] * error
    length = 3 - len(special)
    assert (rows.min().item(), rows.max().item()) >= (0, 0)
    assert rows.max() <= length


def test_a_row_of_special_tokens_alone_is_not_sensitive():
    model, x = Table(4, 2), torch.tensor([[3, 3], [3, 0]])
    rows = SensitivityPenalty(Resample(0, 4, special=(3,))).rows(model, x.repeat(200, 1), model(x.repeat(200, 1)))
    assert rows[::2].abs().max() == 0
    assert rows[1::2].max() > 0


def test_a_constant_answer_of_full_confidence_is_its_minimum():
    """-1, and no network is below; for S = 0 the same answer is the worst. Sensitivity is 0 for every constant."""
    x = everything(4, 2)
    certain = lambda rows: torch.tensor([0.0, 200.0, 0.0]).expand(len(rows), 3)  # noqa: E731
    for penalty, value in (
        (StabilityPenalty(shift()), -1),
        (StabilityPenalty(shift(), 0), 1),
        (ConfidencePenalty(), -1),
    ):
        assert penalty(certain, x, certain(x)).item() == value
    assert SensitivityPenalty(shift())(certain, x, certain(x)).item() == 0
    for seed in range(5):
        model = Table(4, 2, seed=seed)
        rows = StabilityPenalty(Resample(0.5, 4)).rows(model, x, model(x))
        assert -1 < rows.min() <= rows.max() < 0


@pytest.mark.parametrize("name", ["quadratic", "transformer"])
@pytest.mark.parametrize(("detach", "orientation"), [(None, 1), ("twin", 1), ("input", 0)])
def test_an_ensemble_trains_as_its_members_do_alone_with_the_penalty_plainly_written(name, detach, orientation):
    def plainly(model, x, output):
        rows = plain_rows(model, x, (x + 1) % 7, output, detach)
        return (rows if orientation == 1 else -rows).mean(1)

    penalty = each_member(StabilityPenalty(shift(7), orientation, detach))
    trainer = ensemble(NETWORKS[name], penalties=[(0.75, penalty)], weight_decay=0.3)
    twins = [alone(trainer, member, 20, plainly, 0.75)[0] for member in range(3)]
    trainer.run()
    assert max(distance(trainer, member, module) for member, module in enumerate(twins)) < TOLERANCES["optimiser"]


OPTIONS = [{}, {"detach": "twin"}, {"share": 0.5}]


@pytest.mark.parametrize("options", OPTIONS)
def test_an_ensemble_with_drawn_twins_resumes_to_the_bit(options, device):
    def make():
        gamma, penalty = stability_regulariser((0.75, 0.0, 0.1), 0.25, vocabulary=7, **options)
        return ensemble(
            NETWORKS["transformer"], dtype=torch.float32, device=device, penalties=[(gamma, each_member(penalty))]
        )

    whole, first, second = make(), make(), make()
    whole.run()
    first.run(until=10)
    second.load_state(first.state())
    second.run()
    for name, weight in whole.weights.items():
        assert torch.equal(weight, second.weights[name])
        assert not torch.equal(weight, first.weights[name])


@pytest.mark.parametrize("options", [*OPTIONS, {"special": (0,), "special_positions": (-1,)}])
def test_a_language_model_with_drawn_twins_resumes_to_the_bit(options, trainer, device):
    make = lambda: trainer(device=device, penalties=[stability_regulariser(0.75, 0.25, 7, **options)])  # noqa: E731
    whole, first, second = make(), make(), make()
    whole.run()
    first.run(until=8)
    second.load_state(first.state())
    second.run()
    assert all(torch.equal(*pair) for pair in zip(whole.model.parameters(), second.model.parameters(), strict=True))


def test_in_bfloat16_a_step_is_that_of_single_precision_nearly(trainer, history, tolerances):
    losses = []
    for autocast in (None, "bfloat16"):
        for detach in DETACHED:
            log, penalty = history(), StabilityPenalty(shift(7), detach=detach)
            trainer(penalties=[(0.5, penalty)], autocast=autocast, learning_rate=1e-4).run(log=log)
            losses.append(log.entries[-1][1]["penalty_0"])
    assert max(losses) - min(losses) < tolerances["bfloat16"]


def test_the_papers_two_numbers_make_the_pair_that_a_trainer_takes():
    gamma, penalty = stability_regulariser(0.75, 0.25, 114, special=(113,), detach="twin", orientation=0)
    assert (gamma, penalty.noise.keep, penalty.noise.special) == (0.75, 0.625, (113,))
    assert (penalty.detach, penalty.orientation) == ("twin", 0)
    assert stability_regulariser([0.1, 0], -1, 5)[0] == (0.1, 0)


NAN = float("nan")


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: stability_regulariser(-0.1, 0.25, 7), ValueError, "gamma has -0.1.*to punish.*use orientation=0"),
        (lambda: stability_regulariser(NAN, 0.25, 7), ValueError, "gamma has nan: give 0 or more"),
        (lambda: stability_regulariser((0.1, math.inf), 0.25, 7), ValueError, "gamma has inf"),
        (lambda: stability_regulariser(0.1, 1.5, 7), ValueError, "rho is 1.5: give a number from -1 to 1"),
        (lambda: stability_regulariser(0.1, NAN, 7), ValueError, "rho is nan"),
        (lambda: StabilityPenalty(Resample(1.5, 7)), ValueError, "keep is 1.5: give a number from 0 to 1"),
        (lambda: StabilityPenalty(Resample(-0.1, 7)), ValueError, "keep is -0.1"),
        (lambda: stability_regulariser(0.1, 0.5, 7, detatch="twin"), TypeError, "'detatch'"),
        (lambda: StabilityPenalty(shift(), orientation=-1), ValueError, "orientation is -1: 1 rewards"),
        (lambda: StabilityPenalty(shift(), share=0), ValueError, "share is 0: it is a share of the rows"),
        (lambda: StabilityPenalty(shift(), share=1.1), ValueError, "share is 1.1"),
    ],
)
def test_settings_out_of_range_are_named_with_a_remedy(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    ("penalty", "name", "message"),
    [
        (StabilityPenalty(shift()), "detach", "detach is 'both': choose 'twin', 'input' or None"),
        (StabilityPenalty(shift()), "outputs", "outputs is 'both': choose 'softmax' for logits or 'sigmoid'"),
        (SensitivityPenalty(shift()), "outputs", "outputs is 'both'"),
        (ConfidencePenalty(), "outputs", "outputs is 'both'"),
    ],
)
def test_unknown_choices_are_refused_by_name(penalty, name, message):
    """Where types are not checked as they are here."""
    changed = copy.copy(penalty)
    object.__setattr__(changed, name, "both")
    with pytest.raises(ValueError, match=message):
        changed.__post_init__()

"""Which rows and positions a penalty looks at, in what precision, and outputs that it refuses."""

import math

import pytest
import torch

from nslab.noise import Resample
from nslab.training.penalties import ConfidencePenalty, SensitivityPenalty, StabilityPenalty
from tests.training.ensembles import NETWORKS, drawn
from tests.training.tables import Table, always, everything, gradients_of, plain_rows, seeded, shift

TOLERANCES = {"double": 1e-12, "single": 1e-6, "errors": 4.5}  # the last in standard errors


@pytest.mark.parametrize("detach", [None, "twin", "input"])
@pytest.mark.parametrize("name", ["quadratic", "transformer"])
def test_rows_that_the_noise_spares_are_not_asked_again_and_change_nothing(name, detach, device):
    """Members with other numbers of spared rows; values and gradients are those of a second pass over all rows."""
    network, rows = NETWORKS[name], 40
    weights = {key: weight.requires_grad_() for key, weight in drawn(network, 3, device=device).items()}
    x = torch.randint(7, (3, rows, 2), generator=seeded()).to(device)
    twins, asked = x.clone(), []
    for member, changed in enumerate((5, 31, 17)):
        twins[member, torch.randperm(rows, generator=seeded(member))[:changed], member % 2] += 1
    twins %= 7
    model = lambda part: asked.append(part.shape) or network(weights, part)  # noqa: E731
    output = network(weights, x)
    found = StabilityPenalty(always(twins, 7), detach=detach).rows(model, x, output)
    expected = plain_rows(lambda part: network(weights, part), x, twins, output, detach)
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCES["double"])
    assert asked == [(3, 31, 2)]
    for one, other in zip(*[gradients_of(value.mean(), weights) for value in (found, expected)], strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=TOLERANCES["double"])


def test_a_share_of_the_rows_is_drawn_anew_and_right_in_the_mean():
    model, x = Table(4, 2), everything(4, 2).repeat(3, 1)
    whole = StabilityPenalty(shift())(model, x, model(x)).item()
    generator, quarter = seeded(), StabilityPenalty(shift(), share=0.25)
    drawn = torch.stack([quarter(model, x, model(x), generator=generator).detach() for _ in range(1000)])
    assert {len(part) for part in model.asked} == {48, 12}
    error = drawn.std().item() / math.sqrt(len(drawn))
    assert 0 < abs(drawn.mean().item() - whole) < TOLERANCES["errors"] * error
    before = generator.get_state()
    StabilityPenalty(shift(), share=1)(model, x, model(x), generator=generator)
    assert torch.equal(generator.get_state(), before)  # the whole needs no draw of rows
    StabilityPenalty(shift(), share=1e-6)(model, x, model(x))
    assert len(model.asked[-1]) == 1  # at least one row


def test_a_share_belongs_to_the_outputs_of_its_rows_in_every_member():
    network, x = NETWORKS["quadratic"], torch.randint(7, (3, 30, 2), generator=seeded())
    weights = drawn(network, 3)
    model, output = lambda part: network(weights, part), network(weights, x)
    whole = StabilityPenalty(shift(7)).rows(model, x, output)
    found = StabilityPenalty(shift(7), share=0.3).rows(model, x, output, generator=seeded())
    same = (found.unsqueeze(2) - whole.unsqueeze(1)).abs() < TOLERANCES["double"]  # (members, 9, 30)
    assert found.shape == (3, 9)
    assert same.any(2).all()


@pytest.mark.parametrize("penalty", [StabilityPenalty, SensitivityPenalty])
def test_special_positions_and_special_ids_never_change(penalty):
    """Positions 1 and -1 hold the row's number in two digits, and 11 is special: only others change, and not to 11."""
    rows = everything(10, 2)
    x = torch.stack(
        [torch.randint(8, 12, (100,), generator=seeded(1)), rows[:, 0], torch.arange(100) % 12, rows[:, 1]], 1
    )
    asked, output = [], torch.zeros(100, 3)
    model = lambda part: asked.append(part) or torch.zeros(len(part), 3)  # noqa: E731
    for seed in range(20):
        penalty(Resample(0, 12, special=(11,)), special_positions=(-1, 1)).rows(
            model, x, output, generator=seeded(seed)
        )
    twins = torch.cat(asked)
    originals = x[10 * twins[:, 1] + twins[:, 3]]
    assert all((part[:, 1] * 10 + part[:, 3]).diff().min() > 0 for part in asked)  # the rows, in order
    for position in (0, 2):
        before, after = originals[:, position], twins[:, position]
        assert torch.equal(before == 11, after == 11)
        assert 0.4 < (before != after)[before != 11].double().mean() < 0.95


@pytest.mark.parametrize("penalty", [StabilityPenalty(shift()), ConfidencePenalty(), SensitivityPenalty(shift())])
def test_logits_of_half_precision_give_what_their_values_give(penalty):
    model, x = Table(4, 2), everything(4, 2)
    halved = lambda rows: model(rows).bfloat16()  # noqa: E731
    widened = lambda rows: model(rows).bfloat16().double()  # noqa: E731
    found, exact = (penalty(one, x, one(x), generator=seeded()) for one in (halved, widened))
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(exact.item(), abs=TOLERANCES["single"])


@pytest.mark.parametrize(
    ("shape", "outputs", "message"),
    [
        (
            (16,),
            "softmax",
            r"output has shape \(16,\) for inputs \(16, 2\).*needs \(16, classes\) or \(16, 2, classes\)",
        ),
        ((15, 4), "softmax", r"output has shape \(15, 4\)"),
        ((16, 3, 4), "softmax", r"output has shape \(16, 3, 4\)"),
        ((16, 1), "softmax", "one class has no probabilities; for log-odds use 'sigmoid'"),
        ((16, 1), "sigmoid", r"needs \(16,\), one log-odds a row"),
        ((16, 4), "sigmoid", "one log-odds a row"),
    ],
)
@pytest.mark.parametrize("penalty", [ConfidencePenalty, StabilityPenalty, SensitivityPenalty])
def test_outputs_without_probabilities_for_each_row_are_refused(penalty, shape, outputs, message):
    made = penalty(outputs=outputs) if penalty is ConfidencePenalty else penalty(shift(), outputs=outputs)
    with pytest.raises(ValueError, match=message):
        made(Table(4, 2), everything(4, 2), torch.zeros(shape))


def test_a_network_that_answers_twins_in_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"model gave probabilities of shape \(16, 5\) for twins: make it \(16, 4\)"):
        StabilityPenalty(shift())(lambda rows: torch.zeros(len(rows), 5), everything(4, 2), torch.zeros(16, 4))


@pytest.mark.parametrize("penalty", [StabilityPenalty, SensitivityPenalty])
@pytest.mark.parametrize(
    ("positions", "message"),
    [
        ((2,), "special_positions has 2 for sequences of 2: give positions from -2 to 1"),
        ((0, -3), "special_positions has -3"),
        ((1, -1), r"special_positions is \(1, -1\) for sequences of 2: give each position once"),
    ],
)
def test_special_positions_outside_the_sequence_or_given_twice_are_refused(penalty, positions, message):
    model, x = Table(4, 2), everything(4, 2)
    with pytest.raises(ValueError, match=message):
        penalty(shift(), special_positions=positions)(model, x, model(x))

"""The optimisers of ensembles against torch's own, one member at a time."""

import copy

import pytest
import torch

from nslab.training.member_optimizers import AdamW, Sgd

SHAPES = ((3, 4, 5), (3, 6), (3,))  # a matrix, a bias and a number for each of three members
RATES, DECAYS = (1e-2, 1e-3, 0.3), (1.0, 0.0, 0.2)
STEPS = 40
TOLERANCES = {torch.float64: 1e-13, torch.float32: 3e-6}  # relative to weights of size 1, after 40 updates
SETTINGS = [((0.9, 0.98), 1e-8), ((0.0, 0.999), 1e-3), ((0.5, 0.0), 1e-12)]


def problem(dtype, device):
    """Weights, and gradients for each step, some zero or huge."""
    generator = torch.Generator().manual_seed(0)
    make = lambda: [torch.randn(shape, generator=generator, dtype=torch.float64).to(device, dtype) for shape in SHAPES]  # noqa: E731 # fmt: skip
    weights, gradients = make(), [make() for _ in range(STEPS)]
    for step, factor in ((0, 0.0), (5, 1e6), (6, 1e-9)):
        gradients[step] = [factor * gradient for gradient in gradients[step]]
    for gradient in gradients:
        gradient[0][:, 0] = 0  # a row that is never seen
    return weights, gradients


def of_torch(make, weights, gradients, member):
    """Weights of one member after torch's optimiser, whose rate grows linearly over 10 steps."""
    weights = [weight[member].clone().requires_grad_() for weight in weights]
    optimizer = make(weights, lr=RATES[member], weight_decay=DECAYS[member], foreach=False, fused=False)
    for step, gradient in enumerate(gradients):
        for weight, one in zip(weights, gradient, strict=True):
            weight.grad = one[member].clone()
        for group in optimizer.param_groups:
            group["lr"] = RATES[member] * min(1, (step + 1) / 10)
        optimizer.step()
    return [weight.detach() for weight in weights]


def of_ours(optimizer, gradients, steps=range(STEPS), members=(0, 1, 2)):
    like = optimizer.weights[0]
    rate, decay = (like.new_tensor(values)[list(members)] for values in (RATES, DECAYS))
    for step in steps:
        found = [gradient[list(members)] for gradient in gradients[step]]
        optimizer.step(found, rate * min(1, (step + 1) / 10), decay)


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize(("betas", "epsilon"), SETTINGS)
def test_adamw_is_torchs(betas, epsilon, dtype, device):
    weights, gradients = problem(dtype, device)
    ours = AdamW([weight.clone() for weight in weights], betas, epsilon)
    of_ours(ours, gradients)
    for member in range(3):
        make = lambda *args, **extras: torch.optim.AdamW(*args, betas=betas, eps=epsilon, **extras)  # noqa: E731
        for found, expected in zip(ours.weights, of_torch(make, weights, gradients, member), strict=True):
            torch.testing.assert_close(found[member], expected, rtol=TOLERANCES[dtype], atol=TOLERANCES[dtype])


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_descent_is_torchs(dtype, device):
    weights, gradients = problem(dtype, device)
    ours = Sgd([weight.clone() for weight in weights])
    of_ours(ours, gradients)
    for member in range(3):
        for found, expected in zip(ours.weights, of_torch(torch.optim.SGD, weights, gradients, member), strict=True):
            torch.testing.assert_close(found[member], expected, rtol=TOLERANCES[dtype], atol=TOLERANCES[dtype])


def test_first_updates_by_hand():
    """m/(1-b1) = g and sqrt(v/(1-b2)) = |g| at first: a weight moves by lr g / (|g| + eps), after its decay."""
    start, gradient = torch.tensor([2.0, -1.0], dtype=torch.float64), torch.tensor([0.5, -3.0], dtype=torch.float64)
    rate, decay = torch.tensor([0.1, 0.2], dtype=torch.float64), torch.tensor([0.5, 0.0], dtype=torch.float64)
    adamw, sgd = AdamW([start.clone()], epsilon=0.25), Sgd([start.clone()])
    adamw.step([gradient], rate, decay)
    sgd.step([gradient], rate, decay)
    expected = torch.tensor([2 * 0.95 - 0.1 * 0.5 / 0.75, -1 + 0.2 * 3 / 3.25], dtype=torch.float64)
    torch.testing.assert_close(adamw.weights[0], expected)
    torch.testing.assert_close(sgd.weights[0], torch.tensor([2 - 0.1 * (0.5 + 1.0), -1 + 0.2 * 3], dtype=torch.float64))


@pytest.mark.parametrize("kind", [AdamW, Sgd])
def test_the_weights_themselves_are_changed(kind):
    weights, gradients = problem(torch.float64, "cpu")
    optimizer, given = kind(weights), [gradient.clone() for gradient in gradients[3]]
    places = [weight.data_ptr() for weight in weights]
    before = [weight.clone() for weight in weights]
    optimizer.step(gradients[3], torch.tensor(RATES).double(), torch.tensor(DECAYS).double())
    assert [weight.data_ptr() for weight in optimizer.weights] == places
    assert not any(torch.equal(weight, old) for weight, old in zip(weights, before, strict=True))
    assert all(torch.equal(now, then) for now, then in zip(gradients[3], given, strict=True))  # gradients are not


@pytest.mark.parametrize("kind", [AdamW, Sgd])
def test_some_members_go_on(kind, device):
    """After step 25 members 2 and 0 are kept, in this order: what they become does not depend on member 1."""
    weights, gradients = problem(torch.float64, device)
    whole = kind([weight.clone() for weight in weights])
    of_ours(whole, gradients)
    fewer = kind([weight.clone() for weight in weights])
    of_ours(fewer, gradients, range(25))
    fewer.weights = [weight[[2, 0]] for weight in fewer.weights]
    fewer.keep(torch.tensor([2, 0], device=device))
    of_ours(fewer, gradients, range(25, STEPS), members=(2, 0))
    for found, expected in zip(fewer.weights, whole.weights, strict=True):
        torch.testing.assert_close(found, expected[[2, 0]], rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("kind", [AdamW, Sgd])
def test_a_state_is_all_that_is_remembered(kind):
    """Another optimiser with this state, even one of other members, does the same next update, to the bit."""
    weights, gradients = problem(torch.float32, "cpu")
    first = kind([weight.clone() for weight in weights])
    of_ours(first, gradients)
    second = kind([weight[:2].clone() for weight in weights])
    second.weights = [weight.clone() for weight in first.weights]
    second.load_state(copy.deepcopy(first.state()))
    rate, decay = torch.tensor(RATES), torch.tensor(DECAYS)
    for optimizer in (first, second):
        optimizer.step(gradients[7], rate, decay)
    assert all(torch.equal(one, other) for one, other in zip(first.weights, second.weights, strict=True))

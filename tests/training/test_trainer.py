"""The loop against the same loop written out with torch's plain parts, and what it promises around it."""

import math

import pytest
import torch
from torch.nn import functional as F

from nslab.training import Trainer, TrainingConfig, learning_rate
from nslab.transformer import Transformer


def plain_loop(trainer, penalty=None):
    """The twin: batches as the trainer draws them, then AdamW in its single-tensor form."""
    config, model = trainer.config, Transformer(trainer.model.config, generator=torch.Generator().manual_seed(0))
    model = model.to(trainer.weights[0].dtype)
    groups = [
        {"params": [w for w in model.parameters() if w.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [w for w in model.parameters() if w.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, betas=config.betas, eps=config.epsilon, foreach=False, fused=False)
    losses, norms = [], []
    for step in range(config.steps):
        trainer.step = step  # the seed of a step's batch is its number
        x, y = trainer.batch(trainer._seeded("batch"))
        output = model(x)
        loss = F.cross_entropy(output.reshape(-1, output.shape[-1]), y.reshape(-1))
        total = loss if penalty is None else loss + 0.3 * penalty(model, x, output)
        optimizer.zero_grad()
        total.backward()
        clip = math.inf if config.clip is None else config.clip
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), clip)))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, step)
        optimizer.step()
        losses.append(loss.item())
    return model, losses, norms


def squared_outputs(model, x, output, /, *, generator=None):
    return output.square().mean()


@pytest.mark.parametrize("changes", [{}, {"clip": None, "schedule": "linear"}, {"weight_decay": 0.0, "clip": 0.01}])
@pytest.mark.parametrize("penalty", [None, squared_outputs])
def test_the_loop_is_the_plain_one(trainer, history, tolerances, changes, penalty):
    penalties = [] if penalty is None else [(0.3, penalty)]
    ours, log = trainer(torch.float64, penalties=penalties, **changes), history()
    ours.run(log=log)
    twin, losses, norms = plain_loop(trainer(torch.float64, **changes), penalty)
    for found, expected in zip(ours.model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=tolerances["another optimiser"])
    assert [step for step, _ in log.entries] == [6, 12, 18, 20]
    start = 0
    for step, values in log.entries:  # means over the updates since the last entry
        assert math.isclose(values["loss"], sum(losses[start:step]) / (step - start), rel_tol=1e-9)
        assert math.isclose(values["gradient_norm"], sum(norms[start:step]) / (step - start), rel_tol=1e-9)
        assert values["learning_rate"] == learning_rate(ours.config, step - 1)
        assert ("penalty_0" in values) == (penalty is not None)
        start = step


def test_one_update_is_adamw_by_hand(tolerances):
    """First step: m/(1-b1) = g and sqrt(v/(1-b2)) = |g|, so a weight moves by lr g / (|g| + eps), after its decay."""
    model = torch.nn.Linear(2, 1).double()
    matrix, bias = model.weight.detach().clone(), model.bias.detach().clone()
    x, y = torch.tensor([[1.0, -2.0]], dtype=torch.float64), torch.tensor([[5.0]], dtype=torch.float64)
    config = TrainingConfig(steps=1, batch=1, learning_rate=0.1, weight_decay=0.5, clip=None, epsilon=1e-3)
    Trainer(model, config, lambda generator: (x, y), loss=F.mse_loss).run()
    slope = 2 * (x @ matrix.T + bias - y)
    for found, start, gradient, decay in ((model.weight, matrix, slope * x, 0.5), (model.bias, bias, slope[0], 0.0)):
        expected = start * (1 - 0.1 * decay) - 0.1 * gradient / (gradient.abs() + 1e-3)
        torch.testing.assert_close(found.detach(), expected, rtol=0, atol=tolerances["exact"])


def test_clipping_caps_the_length_of_the_whole_gradient():
    """With one step of plain gradient descent in mind: the direction stays, the length is at most `clip`."""
    found = []
    weight = torch.nn.Linear(3, 1, bias=False)
    x = torch.tensor([[3.0, 0.0, 4.0]])
    trainer = Trainer(
        weight,
        TrainingConfig(steps=1, batch=1, learning_rate=0.1, clip=0.5),
        lambda generator: (x, x),
        loss=lambda output, y: output.sum(),
    )
    trainer.optimizer.register_step_pre_hook(lambda *_: found.append(weight.weight.grad.clone()))
    trainer.run()
    torch.testing.assert_close(found[0], 0.5 * x / 5, rtol=1e-5, atol=0)


def test_training_learns_what_there_is_to_learn(trainer, history):
    """Each next token is one of two, equally likely: log 2 nats remain, and no more can be learned."""
    learner, log = trainer(steps=300, batch=32, evaluate_every=100, learning_rate=1e-2), history()
    learner.run(log=log)
    assert log.entries[0][1]["loss"] > log.entries[-1][1]["loss"]
    assert abs(log.entries[-1][1]["loss"] - math.log(2)) < 0.03


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(trainer):
    runs = [trainer(seed=seed) for seed in (0, 0, 1)]
    for run in runs:
        run.run()
    one, same, other = ([w.detach() for w in run.model.parameters()] for run in runs)
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert not torch.equal(one[0], other[0])


def test_a_penalty_gets_the_model_the_inputs_and_their_output(trainer):
    seen = []

    def penalty(model, x, output, /, *, generator=None):
        seen.append((model, torch.equal(model(x), output), torch.rand(1, generator=generator).item()))
        return output.sum() * 0

    learner = trainer(penalties=[(1.0, penalty)], steps=5)
    learner.run()
    assert all(model is learner.model and same for model, same, _ in seen)
    assert len({draw for _, _, draw in seen}) == 5
    again = trainer(penalties=[(1.0, penalty)], steps=5)
    again.run()
    assert [draw for *_, draw in seen[5:]] == [draw for *_, draw in seen[:5]]


def test_evaluation_runs_without_gradient_in_evaluation_mode_and_changes_nothing(trainer, history):
    modes = []

    def evaluate(model):
        modes.append((model.training, torch.is_grad_enabled()))
        return {"answer": 42.0}

    log, watched, alone = history(), trainer(evaluate=evaluate), trainer()
    watched.run(log=log)
    alone.run()
    assert modes == [(False, False)] * 4
    assert watched.model.training
    assert all(values["answer"] == 42.0 for _, values in log.entries)
    assert all(torch.equal(a, b) for a, b in zip(watched.model.parameters(), alone.model.parameters(), strict=True))


def test_frozen_weights_stay(trainer):
    learner = trainer()
    frozen = learner.model.tokens.weight.requires_grad_(False)
    learner = Trainer(learner.model, learner.config, learner.batch)
    before = [w.clone() for w in learner.model.parameters()]
    learner.run()
    for weight, start in zip(learner.model.parameters(), before, strict=True):
        assert torch.equal(weight, start) == (weight is frozen)


def test_bfloat16_rounds_the_products_and_leaves_the_weights_single(trainer, tolerances, history, device):
    logs = {}
    for autocast in (None, "bfloat16"):
        learner, logs[autocast] = trainer(autocast=autocast, device=device), history()
        learner.run(log=logs[autocast])
        assert learner.weights[0].dtype == torch.float32
    single, half = (log.entries[-1][1]["loss"] for log in logs.values())
    assert single != half
    assert abs(single - half) < tolerances["bfloat16"]


def test_progress_is_told_after_each_evaluation(trainer):
    told = []
    trainer().run(progress=lambda done, total, text: told.append((done, total, text.split()[0])))
    assert told == [(6, 20, "loss"), (12, 20, "loss"), (18, 20, "loss"), (20, 20, "loss")]


def test_bad_requests(trainer):
    learner = trainer(batch_from=lambda generator: (torch.zeros(3, 8).long(), torch.zeros(3, 8).long()))
    with pytest.raises(ValueError, match=r"batch returned 3 rows and config.batch is 4: make them equal"):
        learner.run()
    with pytest.raises(ValueError, match=r"save_every is 0: give at least 1 step, or None"):
        learner.run(save_every=0)
    with pytest.raises(ValueError, match=r"model has no weights that require a gradient.*requires_grad_\(\)"):
        Trainer(learner.model.requires_grad_(False), learner.config, learner.batch)

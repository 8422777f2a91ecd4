"""A stack of Transformers: each member computes and trains as it would alone, and shows its heads."""

import copy
import math

import pytest
import torch
from torch import nn

from nslab.training import Trainer, TrainingConfig
from nslab.training.transformer_stack import TransformerStack
from nslab.transformer import Transformer, TransformerConfig

SHAPE = TransformerConfig(vocabulary=7, context=6, width=8, layers=2, heads=2)
VARIANTS = [
    {},
    {"positions": "rotary", "norm": "rms", "bias": False, "activation": "relu", "tied": False, "outputs": 3},
    {"positions": "none", "norm": "none", "activation": "quadratic", "hidden": 5, "causal": False, "heads": 4},
    {"norm": "layer", "bias": False},
]


def members(shape=SHAPE, count=3, spread=5.0):
    models = [Transformer(shape, generator=torch.Generator().manual_seed(seed)).double() for seed in range(count)]
    generator = torch.Generator().manual_seed(count)
    with torch.no_grad():
        for model in models:
            for weight in model.parameters():  # far from the initial zeros and ones of biases and gains
                weight.mul_(spread).add_(0.1 * torch.randn(weight.shape, generator=generator))
    return models


def ids_for(rows=4, count=3, length=6):
    return torch.randint(7, (rows, count, length), generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("change", VARIANTS)
def test_each_member_computes_what_its_network_computes(change, device):
    models = [model.to(device) for model in members(TransformerConfig(**vars(SHAPE) | change))]
    stack, ids = TransformerStack(models), ids_for(length=5).to(device)
    wanted = torch.stack([model(ids[:, m]) for m, model in enumerate(models)], 1)
    assert torch.allclose(stack(ids), wanted, atol=1e-12)
    for m, model in enumerate(models):
        back = stack.member(m)
        assert all(torch.equal(weight, back.state_dict()[name]) for name, weight in model.state_dict().items())
        assert torch.equal(back(ids[:, m]), model(ids[:, m]))


class Tilt(nn.Module):
    """A penalty's own weights: one matrix and one vector."""

    def __init__(self, seed):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.matrix = nn.Parameter(torch.randn(8, 8, generator=generator, dtype=torch.float64))
        self.vector = nn.Parameter(torch.randn(8, generator=generator, dtype=torch.float64))

    def forward(self, entered):
        return (entered @ self.matrix - self.vector).square().mean()


def train_alone(model, tilt, data, config, weight):
    """One member by the plain `Trainer`, its penalty on the embeddings with positions."""
    model.tilt = tilt
    steps = iter(data)

    def penalty(model, x, output, *, generator):
        return model.tilt(model.tokens(x) + model.positions.weight[: x.shape[1]])

    trainer = Trainer(model, config, lambda g: next(steps), penalties=[(weight, penalty)])
    trainer.run()
    del model.tilt
    return model


def test_three_seeds_stacked_train_as_three_trainers_one_by_one():
    config = TrainingConfig(steps=40, batch=4, learning_rate=1e-2, warmup=5, weight_decay=0.3, clip=0.5, seed=0)
    generator = torch.Generator().manual_seed(1)
    data = torch.randint(7, (config.steps, 4, 3, 7), generator=generator)
    x, y = data[..., :-1], data[..., 1:]
    models, tilts = members(spread=1.0), [Tilt(seed) for seed in range(3)]
    stack = TransformerStack(models, extras=copy.deepcopy(tilts))
    steps, norms = iter(zip(x, y, strict=True)), []

    def penalty(stack, x, output, *, generator):
        return sum(extra(stack.entered[:, m]) for m, extra in enumerate(stack.extras))

    together = TrainingConfig(**vars(config) | {"clip": None})
    trainer = Trainer(stack, together, lambda g: next(steps), loss=stack.loss, penalties=[(0.2, penalty)])
    trainer.optimizer.register_step_pre_hook(lambda *_: norms.append([norm_of(stack, m) for m in range(3)]))
    trainer.optimizer.register_step_pre_hook(stack.clip(0.5))
    trainer.run()
    alone = [
        train_alone(model, tilts[m], list(zip(x[:, :, m], y[:, :, m], strict=True)), config, 0.2)
        for m, model in enumerate(models)
    ]
    clipped = (torch.tensor(norms) > 0.5).double().mean(0)
    assert bool(((clipped > 0.3) & (clipped <= 1)).all())  # the clip is at work, and of other size for each member
    for m, model in enumerate(alone):
        for name, weight in stack.member(m).state_dict().items():
            assert torch.allclose(weight, model.state_dict()[name], rtol=0, atol=1e-9), name
        assert torch.allclose(stack.extras[m].matrix, tilts[m].matrix, rtol=0, atol=1e-9)


def norm_of(stack, member):
    parts = [weight.grad.reshape(3, -1)[member] for weight in stack.weights.values()]
    parts += [weight.grad.flatten() for weight in stack.extras[member].parameters()]
    return float(torch.cat(parts).norm())


@pytest.mark.parametrize("change", [{}, {"positions": "rotary", "tied": False}])
def test_stages_show_each_members_heads_in_the_graph_of_the_pass(change):
    models = members(TransformerConfig(**vars(SHAPE) | change))
    stack, ids = TransformerStack(models), ids_for()
    output = stack(ids)
    stages = stack.stages()
    assert len(stages) == 2
    for number, stage in enumerate(stages):
        for m, model in enumerate(models):
            names = [f"layers.{number}.attention.{part}" for part in ("query", "key", "value", "output", "input")]
            _, seen = model.run(ids[:, m], names)
            query, key, value, added, entered = seen.values()
            mine = slice(2 * m, 2 * m + 2)
            for part, wanted in ((stage.query, query), (stage.key, key), (stage.value, value)):
                assert torch.allclose(part[:, mine], wanted, atol=1e-12)
            attention = model.layers[number].attention
            reads = torch.einsum("bnd,hkd->bhnk", entered, stage.query_weight[mine])
            reads = reads + attention.qkv.bias[:8].view(2, 1, 4)
            turned = reads if stage.turn is None else stage.turn(reads, torch.arange(6))
            assert torch.allclose(turned, query, atol=1e-12)
            heads = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
            out = torch.einsum("bhnv,hdv->bnd", heads, stage.output_weight[mine]) + attention.output.bias
            assert torch.allclose(out, added, atol=1e-12)
    torch.autograd.grad(stages[1].query.sum() + output.sum(), stack.weights["tokens/weight"])


def test_losses_are_the_members_own_and_add_up():
    models, ids = members(), ids_for()
    stack, target = TransformerStack(models), ids.roll(-1, -1)
    output = stack(ids)
    entropy = nn.functional.cross_entropy
    each = [entropy(model(ids[:, m]).flatten(0, 1), target[:, m].flatten()) for m, model in enumerate(models)]
    assert torch.allclose(stack.each_loss(output, target), torch.stack(each))
    assert torch.allclose(stack.loss(output, target), sum(each))


def test_noise_has_the_given_size_relative_to_each_members_embeddings():
    models = members(count=2)
    with torch.no_grad():
        models[1].tokens.weight.mul_(10)
    stack = TransformerStack(models, noise=0.5, generator=torch.Generator().manual_seed(0))
    ids = torch.randint(7, (3000, 2, 6), generator=torch.Generator().manual_seed(1))
    stack.train()(ids)
    noisy = stack.entered
    stack.eval()(ids)
    for m in range(2):
        moved = (noisy - stack.entered)[:, m].detach()
        wanted = 0.5 * stack.embed(ids)[:, m].detach().square().mean().sqrt()
        assert abs(float(moved.square().mean().sqrt() / wanted) - 1) < 4 / math.sqrt(2 * moved.numel())
    assert torch.equal(stack(ids), stack(ids))  # nothing is random in evaluation mode


def test_dropout_keeps_the_mean_of_a_linear_network_and_drops_its_share():
    shape = TransformerConfig(vocabulary=7, context=6, width=8, layers=1, heads=1, norm="none", tied=False)
    [model] = members(shape, count=1)
    with torch.no_grad():  # only the path embedding -> output is left
        model.layers[0].attention.output.weight.zero_()
        model.layers[0].attention.output.bias.zero_()
        model.layers[0].mlp.output.weight.zero_()
        model.layers[0].mlp.output.bias.fill_(3.0)
        model.tokens.weight.fill_(1.0)
        model.positions.weight.zero_()
        model.output.weight.copy_(torch.eye(8, dtype=torch.float64)[:7])
    stack = TransformerStack([model], dropout=0.25, generator=torch.Generator().manual_seed(0)).train()
    values = stack(torch.zeros(5000, 1, 6, dtype=torch.long)).flatten()
    kinds = torch.tensor([0.0, 4 / 3, 4.0, 16 / 3], dtype=torch.float64)  # 1 and 3, each dropped or 4/3 times itself
    nearest = (values[:, None] - kinds).abs().min(1)
    assert bool((nearest.values < 1e-9).all())
    shares = torch.bincount(nearest.indices) / len(values)
    assert torch.allclose(shares, torch.tensor([1 / 16, 3 / 16, 3 / 16, 9 / 16]), atol=4 * 0.5 / math.sqrt(len(values)))


def test_a_resumed_training_with_dropout_goes_on_as_it_would_have(device):
    def trainer():
        generator = torch.Generator(device).manual_seed(3)
        models = [model.to(device) for model in members(spread=1.0)]
        stack = TransformerStack(models, dropout=0.2, noise=0.1, generator=generator)
        config = TrainingConfig(steps=6, batch=4, learning_rate=1e-2, clip=None)
        return Trainer(stack, config, stack.batches(torch.arange(60, device=device) % 7, 4), loss=stack.loss)

    whole, cut, resumed = trainer(), trainer(), trainer()
    whole.run()
    cut.run(until=3)
    resumed.load_state(cut.state())
    resumed.run()
    for name, weight in whole.model.weights.items():
        if device.type == "cpu":
            assert torch.equal(weight, resumed.model.weights[name])
        assert torch.allclose(weight, resumed.model.weights[name], rtol=1e-9, atol=1e-12)


def test_members_see_windows_of_their_own():
    stack = TransformerStack(members())
    x, y = stack.batches(torch.arange(1000) % 7, 5)(torch.Generator().manual_seed(0))
    assert x.shape == (5, 3, 6)
    assert torch.equal(y, (x + 1) % 7)
    assert not torch.equal(x[:, 0], x[:, 1])


def test_bad_input_is_told():
    models = members()
    other = members(TransformerConfig(**vars(SHAPE) | {"width": 4}), count=1)
    cases = [
        (lambda: TransformerStack([]), "0 of different shapes: give at least one"),
        (lambda: TransformerStack(models + other), "4 of different shapes: give at least one, all of one shape"),
        (lambda: TransformerStack(models, extras=[nn.Linear(1, 1)]), "extras has 1 modules for 3 members: give one a"),
        (lambda: TransformerStack(models, dropout=1.0), "dropout is 1.0, noise 0.0: give a dropout from 0"),
        (lambda: TransformerStack(models, noise=0.1), "generator is None: dropout and noise need one"),
        (lambda: TransformerStack(models)(ids_for(count=2)), r"ids has shape \(4, 2, 6\): give \(batch, 3 members"),
        (lambda: TransformerStack(models)(ids_for(length=9)), r"1 to 6 tokens"),
        (lambda: TransformerStack(models).stages(), "stages of no pass: call the stack on ids first"),
        (lambda: TransformerStack(models).clip(0), "largest is 0: give a positive norm"),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(IndexError, match="number is 3: the members are 0 to 2"):
        TransformerStack(models).member(3)

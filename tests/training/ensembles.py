"""What the ensemble tests share: small problems with other data for each member, and the plain loop of one member."""

import torch

from nslab.tasks import ModularArithmetic
from nslab.training.ensemble import EnsembleTrainer
from nslab.training.ensemble_settings import EnsembleConfig, cross_entropy_each, hinge_each
from nslab.training.pair_networks import QuadraticNetwork, stack_members, take_member
from nslab.training.parity_networks import ReluNetwork
from nslab.training.table_transformer import TokenTableTransformer

NETWORKS = {
    "quadratic": QuadraticNetwork(ModularArithmetic(7), 6),
    "quadratic, divide": QuadraticNetwork(ModularArithmetic(7, "divide"), 6),
    "transformer": TokenTableTransformer(ModularArithmetic(7), width=8, heads=2, hidden=12),
    "parity": ReluNetwork(6, 10),
}


def drawn(network, members, dtype=torch.float64, device="cpu"):
    """Initial weights of members with seeds 0, 1, ..., stacked."""
    weights = stack_members([network.initial(torch.Generator().manual_seed(seed)) for seed in range(members)])
    return {name: weight.to(device, dtype) for name, weight in weights.items()}


def data_for(network, members, dtype=torch.float64, rows=24):
    """Other rows for each member."""
    generator = torch.Generator().manual_seed(100)
    if isinstance(network, ReluNetwork):
        x = 1 - 2 * torch.randint(2, (members, rows, network.bits), generator=generator).to(dtype)
        return x, x[..., 0] * x[..., 2]
    chosen = torch.stack([torch.randperm(len(network.task.pairs), generator=generator)[:rows] for _ in range(members)])
    return network.task.pairs[chosen], network.task.labels[chosen]


def ensemble(network, members=3, *, dtype=torch.float64, device="cpu", data=None, weights=None, **changes):
    """A trainer on that problem. Keywords change the settings or go to `EnsembleTrainer`."""
    extras = {name: changes.pop(name) for name in ("penalties", "measure", "loss") if name in changes}
    loss = extras.pop("loss", hinge_each if isinstance(network, ReluNetwork) else cross_entropy_each)
    settings = {"steps": 20, "learning_rate": 1e-2, "evaluate_every": 5} | changes
    x, y = data or data_for(network, members, dtype)
    weights = weights or drawn(network, members, dtype, device)
    return EnsembleTrainer(network, weights, EnsembleConfig(**settings), x, y, loss=loss, **extras)


def alone(trainer, member, steps, penalty=None, strength=0.0, batches=None):
    """The twin: one member as a plain module, trained by torch's optimiser. The module, its losses and penalties."""
    config = trainer.config
    rate, decay = (
        value[member] if isinstance(value, tuple) else value for value in (config.learning_rate, config.weight_decay)
    )
    device = trainer.device
    module = trainer.network.module(take_member(trainer.weights, member))  # before the trainer has run
    weights = [weight for weight in module.parameters() if weight.requires_grad]
    if config.optimizer == "adamw":
        extras = {"betas": config.betas, "eps": config.epsilon, "foreach": False, "fused": False}
        optimizer = torch.optim.AdamW(weights, lr=rate, weight_decay=decay, **extras)
    else:
        optimizer = torch.optim.SGD(weights, lr=rate, weight_decay=decay, foreach=False, fused=False)
    losses, penalties = [], []
    for step in range(steps):
        x, y = trainer.x[member].to(device), trainer.y[member].to(device)
        if batches is not None:
            x, y = x[batches[step][member]], y[batches[step][member]]
        output = module(x)
        if output.ndim == 1:
            loss = torch.relu(1 - y * output).mean()
        else:
            loss = -output.log_softmax(1)[torch.arange(len(y)), y].mean()
        losses.append(loss.item())
        if penalty is not None:
            term = penalty(lambda rows: module(rows[0])[None], x[None], output[None])[0]
            penalties.append(term.item())
            loss = loss + strength * term
        optimizer.zero_grad()
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1, (step + 1) / config.warmup) if config.warmup else rate
        optimizer.step()
    return module, losses, penalties


def distance(trainer, member, module):
    """Largest difference between a member's weights and those of a plain module."""
    ours = trainer.network.module(take_member(trainer.weights, member)).parameters()
    return max((one - other).abs().max().item() for one, other in zip(ours, module.parameters(), strict=True))


def neighbour(model, x, output, /, *, generator=None):
    """A penalty for each member that calls the model again: outputs should not change from row to row."""
    return (model(x.roll(1, 1)) - output).square().flatten(1).mean(1)


def noisy(model, x, output, /, *, generator=None):
    """A penalty for each member that draws noise."""
    noise = torch.randn(output.shape, generator=generator, device=output.device, dtype=output.dtype)
    return (output * noise).square().flatten(1).mean(1)


class Scripted:
    """A measure that lets members generalise at given evaluations, and notes what it is called with.

    `reached` maps a member to the number of the evaluation, from 0, at which its accuracy first is 1.
    """

    def __init__(self, reached=None, falls=False):
        self.reached, self.falls, self.calls = reached or {}, falls, []

    def __call__(self, network, weights, members):
        number = len(self.calls)
        self.calls.append(members)
        at = [self.reached.get(member, 10**9) for member in members]
        accuracy = [float(number == one if self.falls else number >= one) for one in at]
        first = next(iter(weights.values()))
        return {
            "test_accuracy": torch.tensor(accuracy, device=first.device),
            "weights": first.flatten(1).double(),
            "signs": (first.flatten(1) > 0).to(torch.uint8),
        }


class History:
    """A recorder that keeps copies of everything."""

    def __init__(self):
        self.entries = []

    def record(self, step, /, **values):
        self.entries.append((step, {name: value.clone() for name, value in values.items()}))

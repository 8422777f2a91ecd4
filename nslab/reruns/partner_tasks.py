"""Opposites and rock-paper-scissors: which attention scores can look from every token at its partner?

A bare attention layer with one head: embeddings of kind and payload, added; attention in both directions, no positions;
a linear readout of the payload. No residual, norm or MLP, so that the attention pattern is all there is. Every token
must say the payload of its partner (`nslab.tasks.partners`). The accuracy is exact: over all sequences, each once.

Beside the trained accuracies stand some that need no training. Looking at all tokens evenly, which symmetric scores
can do, gives 9/16 and 29/64 with 8 payloads; all tokens but itself, 1 and 9/16; pointing at the partner in all kinds
but one, 9/16 and 17/24. Small initial weights lead a symmetric layer to the first: its scores start out even, and no
gradient pulls them far apart.

Arms, all at one width, batch and learning rate:

- standard, symmetric, pairwise, low-rank: without noise;
- scalar, relative: symmetric with learned noise, its KL weighted by beta, measured with the mean noise; relative has a
  mean for each offset from -(n - 1) to n - 1, and can thus tell a token not to look at itself;
- relative-past: the same with one common mean for a token itself and all that come later, as a table for the offsets of
  a causal network has it: all tokens but the first avoid themselves;
- standard-residual, symmetric-residual: with a residual around the attention;
- symmetric-large: initial weights of unit scale, at which the scores start far from even.
"""

from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nslab.attention.kl import noise_kl
from nslab.attention.settings import VARIANTS, ScoreSettings
from nslab.attention.standard import Attention
from nslab.attention.symmetric import SymmetricAttention
from nslab.records import RunLog
from nslab.tasks.partners import Partners

EVERY = 50  # steps between two records of the loss


@dataclass(frozen=True)
class Arm:
    """A way to score, and what stands around it.

    Attributes:
        scores: None for standard attention.
        residual: whether the embeddings are added to what the attention gives.
        past_only: whether the noise of all offsets up to 0 is one.
        spread: standard deviations of the initial embeddings and of the other matrices.
    """

    scores: ScoreSettings | None
    residual: bool = False
    past_only: bool = False
    spread: tuple[float, float] = (0.3, 0.1)


ARMS = {
    "standard": Arm(None),
    "symmetric": Arm(VARIANTS["symmetric"]),
    "pairwise": Arm(VARIANTS["pairwise"]),
    "scalar": Arm(VARIANTS["v2-scalar"]),
    "relative": Arm(VARIANTS["v2-relative"]),
    "relative-past": Arm(VARIANTS["v2-relative"], past_only=True),
    "low-rank": Arm(VARIANTS["low-rank"]),
    "standard-residual": Arm(None, residual=True),
    "symmetric-residual": Arm(VARIANTS["symmetric"], residual=True),
    "symmetric-large": Arm(VARIANTS["symmetric"], spread=(1.0, 0.18)),
}


@dataclass(frozen=True)
class Config:
    """What is trained.

    Attributes:
        seeds: independent networks of each arm.
        kinds: tasks, by their number of kinds.
        arms: names in `ARMS`.
        payloads: of a kind.
        width: of the layer, with one head.
        steps: of Adam.
        batch: sequences a step, drawn anew.
        learning_rate: constant.
        beta: weight of the KL of the noise, its mean over parameters.
    """

    seeds: int
    kinds: tuple[int, ...] = (2, 3)
    arms: tuple[str, ...] = field(default=tuple(ARMS))
    payloads: int = 8
    width: int = 32
    steps: int = 700
    batch: int = 256
    learning_rate: float = 1e-2
    beta: float = 1e-3


PRESETS = {
    "quick": Config(seeds=2, arms=("standard", "symmetric", "low-rank"), steps=300, batch=128),
    "laptop": Config(seeds=5),
    "full": Config(seeds=50),
}


class PartnerLayer(nn.Module):
    """Kind and payload of each token (batch, length, 2) to logits of the payload to say (batch, length, payloads)."""

    def __init__(self, task: Partners, arm: Arm, width: int, generator: torch.Generator):
        super().__init__()
        self.kinds, self.payloads = (nn.Parameter(torch.empty(count, width)) for count in (task.kinds, task.payloads))
        self.arm, options = arm, {"causal": False, "bias": False}
        if arm.scores is None:
            self.attention = Attention(width, 1, **options)
        else:
            options |= {"scores": arm.scores, "context": task.length, "generator": generator}
            self.attention = SymmetricAttention(width, 1, **options)
        self.readout = nn.utils.skip_init(nn.Linear, width, task.payloads, bias=False)
        with torch.no_grad():
            for table in (self.kinds, self.payloads):
                table.normal_(0, arm.spread[0], generator=generator)
            for part in self.modules():
                if isinstance(part, nn.Linear):
                    part.weight.normal_(0, arm.spread[1], generator=generator)
        if arm.past_only:
            for row in (self.attention.noise.mean, self.attention.noise.log_sigma):
                row.register_hook(_one_for_all_later)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of every token."""
        embedded = self.embed(x)
        mixed = self.attention(embedded)
        return self.readout(mixed + embedded if self.arm.residual else mixed)

    def embed(self, x: Tensor) -> Tensor:
        """Kind and payload vectors, added: (batch, length, width)."""
        return self.kinds[x[..., 0]] + self.payloads[x[..., 1]]


def _one_for_all_later(gradient: Tensor) -> Tensor:
    """Offsets i - j up to 0 share their gradient, and so, from one start, their value; the past keeps its own."""
    later = gradient.shape[0] // 2 + 1  # offsets run from -(n - 1) to n - 1
    return torch.cat((gradient[:later].sum().expand(later), gradient[later:]))


def trained(
    config: Config, task: Partners, arm: Arm, seed: int, device: torch.device
) -> tuple[PartnerLayer, dict[int, float]]:
    """A trained layer in evaluation mode, and its loss without the KL at every 50th step."""
    generator = torch.Generator(device).manual_seed(seed)
    layer = PartnerLayer(task, arm, config.width, generator).to(device)
    noise = getattr(layer.attention, "noise", None)
    if noise is not None:
        layer.attention.generator = generator
    optimizer = torch.optim.Adam(layer.parameters(), lr=config.learning_rate, fused=True)
    losses = {}
    for step in range(1, config.steps + 1):
        x, y = task.draw(config.batch, generator=generator)
        loss = F.cross_entropy(layer(x).flatten(0, 1), y.flatten())  # (batch length, payloads)
        total = loss if noise is None else loss + config.beta * noise_kl([noise])
        total.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % EVERY == 0 or step == config.steps:
            losses[step] = float(loss.detach())
    return layer.eval(), losses


@torch.no_grad()
def measured(layer: PartnerLayer, task: Partners) -> dict:
    """Accuracy and loss over all sequences, accuracy of each kind, and the mean weight from kind to kind."""
    x, y = task.questions.to(layer.kinds.device), task.answers.to(layer.kinds.device)
    logits = layer(x)
    right = (logits.argmax(-1) == y).double()
    weights = layer.attention.look(layer.embed(x), ["weights"])[1]["weights"][:, 0].double()
    place = x[..., 0].argsort(1)  # where each kind stands
    rows = torch.arange(len(x), device=x.device)[:, None]
    by_kind = weights[rows[..., None], place[:, :, None], place[:, None, :]]  # (rows, kinds, kinds)
    return {
        "accuracy": right.mean().item(),
        "loss": F.cross_entropy(logits.flatten(0, 1), y.flatten()).item(),
        "by_kind": right.gather(1, place).mean(0).tolist(),
        "weights": by_kind.mean(0).tolist(),
    }


def run(config: Config, log: RunLog, *, device: torch.device) -> dict:
    """Train seed by seed and arm by arm; a kill loses the network at work."""
    if unknown := [name for name in config.arms if name not in ARMS]:
        raise ValueError(f"arms has {unknown[0]!r}: choose from {', '.join(ARMS)}")
    tasks = [Partners(kinds, config.payloads) for kinds in config.kinds]

    def one_seed(seed: int, log: RunLog) -> dict:
        done = log.restored["done"] if log.restored else {}
        for task in tasks:
            for name in config.arms:
                cell = f"{task.name}/{name}"
                if cell in done:
                    continue
                log.progress(len(done), len(tasks) * len(config.arms), cell)
                layer, losses = trained(config, task, ARMS[name], seed, device)
                for step, loss in losses.items():
                    log.record(step, **{f"{cell}/loss": loss})
                done[cell] = measured(layer, task)
                log.save({"done": done})
        return done

    found = log.each_seed(config.seeds, one_seed)
    told = {}
    for task in tasks:
        arms = {
            name: {key: [one[f"{task.name}/{name}"][key] for one in found] for key in found[0][f"{task.name}/{name}"]}
            for name in config.arms
        }
        told[task.name] = {
            "chance": 1 / task.payloads,
            "looking_evenly": task.looking_evenly(),
            "not_at_itself": task.looking_evenly(task.kinds - 1),
            "pointing": task.pointing(task.kinds - 1),
            "arms": arms,
        }
    return {"config": asdict(config), "tasks": told}


def phenomenon(result: dict) -> str | None:
    """Standard attention solves the tasks; symmetric scores do as well as looking evenly, scalar noise or not."""
    for name, task in result["tasks"].items():
        accuracy = {arm: sum(found["accuracy"]) / len(found["accuracy"]) for arm, found in task["arms"].items()}
        for arm in ("standard", "pairwise", "low-rank", "standard-residual"):
            if accuracy.get(arm, 1) < 0.99:
                return f"{name}: 99 % with {arm} scores; it is {accuracy[arm]:.1%}"
        for arm in ("symmetric", "scalar"):
            if abs(accuracy.get(arm, task["looking_evenly"]) - task["looking_evenly"]) > 0.03:
                return f"{name}: {task['looking_evenly']:.1%} with {arm} scores; it is {accuracy[arm]:.1%}"
    return None

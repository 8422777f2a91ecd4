r"""Networks that answer a question about two tokens, many at once: one leading axis holds the members of an ensemble.

A network is a small frozen object. Its weights live apart from it, in a dict of tensors, so that any number of members
can be stacked along a first axis and trained as one program. `network.module(weights)` turns one member into a plain
`nn.Module` of the usual kind, which computes the same function.
"""

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from nslab.tasks import ModularArithmetic

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Look:
    """An ensemble's logits with what lies behind them.

    Attributes:
        logits: (members, rows, outputs).
        hidden: what enters the hidden units, (members, rows, hidden).
        attention: how "=" shares its attention among the three positions, (members, rows, heads, 3); None without.
    """

    logits: Float[Tensor, "members rows outputs"]
    hidden: Float[Tensor, "members rows hidden"]
    attention: Float[Tensor, "members rows heads 3"] | None = None


@runtime_checkable
class EnsembleNetwork(Protocol):
    """What `EnsembleTrainer` trains: anything that draws one member's weights and runs the weights of many.

    A network of yours needs no base class:

        @dataclass(frozen=True)
        class Linear:
            bits: int
            units: int = 1

            def initial(self, generator):
                return {"slope": torch.randn(self.bits, generator=generator)}

            def __call__(self, weights, x):  # slope (members, bits); x (members, rows, bits) or (rows, bits)
                return (x @ weights["slope"].unsqueeze(2)).squeeze(2)  # (members, rows)

    It must not count on the number of members: it is called for those that are still there, and for some at a time.
    Every weight must have a part in the outputs, or there is no gradient and torch refuses. Rows of the outputs belong
    to rows of x, and members never mix. `PairMeasures` needs `look` besides; the trainer itself calls neither `initial`
    nor `module`.

    Attributes:
        units: hidden units, at least 1, from which the trainer sees how many members fit into the cache together.
    """

    units: int

    def initial(self, generator: torch.Generator) -> Weights:
        """Fresh weights of one member, named, without a members axis."""
        ...

    def __call__(self, weights: Weights, x: Tensor, /) -> Tensor:
        """Outputs (members, rows, ...) for inputs x (rows, ...), shared, or (members, rows, ...), one set a member."""
        ...

    def module(self, weights: Weights) -> nn.Module:
        """One member as a plain module: the same inputs (rows, ...) to the same outputs (rows, ...)."""
        ...


def stack_members(members: list[Weights]) -> Weights:
    """The weights of an ensemble, (members, ...) each, from those of its members."""
    return {name: torch.stack([one[name] for one in members]) for name in members[0]}


def take_member(weights: Weights, member: int) -> Weights:
    """The weights of one member of an ensemble, as copies without the members axis."""
    return {name: weight[member].detach().clone() for name, weight in weights.items()}


@dataclass(frozen=True)
class QuadraticNetwork:
    r"""A two-layer network on one-hot pairs with squared hidden units and no biases.

    Formula: $h = A_a + B_b \in \mathbb{R}^m$, logits $= (h \odot h)\, U$: one table of rows for each operand, and the
    output matrix. Weights "first" (firsts, m), "second" (seconds, m), "output" (m, outputs).

    Initial weights are normal, of variance 1/8 in the tables and 1/m in the output.

    Args:
        task: which pairs, and how many answers.
        width: hidden units m.

    How to read it: cosines in A, B and U solve addition exactly, since a product of two cosines holds the cosine of the
    sum of their angles. For that no training is needed; the question is whether training finds it.

    Source: the architecture is Gromov's (2023), arXiv 2301.02679; the initial scale is ours.
    """

    task: ModularArithmetic
    width: int = 128

    def __post_init__(self):
        if self.width < 1:
            raise ValueError(f"width is {self.width}: give at least 1 hidden unit")

    @property
    def units(self) -> int:
        """Hidden units."""
        return self.width

    def initial(self, generator: torch.Generator) -> Weights:
        """Fresh weights of one member, on the generator's device."""
        shapes = {"first": (self.task.shape[0], self.width), "second": (self.task.shape[1], self.width)}
        spreads = {name: math.sqrt(1 / 8) for name in shapes} | {"output": self.width**-0.5}
        return normal_weights(shapes | {"output": (self.width, self.task.outputs)}, spreads, generator)

    def __call__(self, weights: Weights, x: Int[Tensor, "*members rows 2"], /) -> Float[Tensor, "members rows outputs"]:
        """Logits for pairs x. Operands are not checked: one out of range would read another member's row."""
        return torch.bmm(self._hidden(weights, x).square(), weights["output"])

    def look(self, weights: Weights, x: Int[Tensor, "*members rows 2"]) -> Look:
        """As a call, with the hidden units before squaring."""
        hidden = self._hidden(weights, x)
        return Look(torch.bmm(hidden.square(), weights["output"]), hidden)

    def module(self, weights: Weights) -> nn.Module:
        """One member as a plain module over one-hot inputs."""
        return _QuadraticModule(self, weights)

    def _hidden(self, weights: Weights, x: Tensor) -> Tensor:
        smallest = self.task.outputs - self.task.shape[1]  # 1 for division, whose second operand is not 0
        return rows_of(weights["first"], x[..., 0]) + rows_of(weights["second"], x[..., 1] - smallest)


class _QuadraticModule(nn.Module):
    """Obvious and slow: two one-hot vectors side by side, one linear layer, squares, another one."""

    def __init__(self, network: QuadraticNetwork, weights: Weights):
        super().__init__()
        self.firsts, self.seconds = network.task.shape
        self.smallest = network.task.outputs - self.seconds
        self.input = nn.utils.skip_init(nn.Linear, self.firsts + self.seconds, network.width, bias=False)
        self.output = nn.utils.skip_init(nn.Linear, network.width, network.task.outputs, bias=False)
        self.to(weights["first"])
        with torch.no_grad():
            self.input.weight.copy_(torch.cat([weights["first"], weights["second"]]).T)
            self.output.weight.copy_(weights["output"].T)

    def forward(self, x: Int[Tensor, "rows 2"]) -> Float[Tensor, "rows outputs"]:
        """Logits for pairs x."""
        first = F.one_hot(x[:, 0], self.firsts)
        second = F.one_hot(x[:, 1] - self.smallest, self.seconds)
        both = torch.cat([first, second], dim=1).to(self.input.weight)
        return self.output(self.input(both).square())


def rows_of(table: Tensor, ids: Tensor) -> Tensor:
    """Rows of each member's table (members, ids, columns): (members, rows, columns), with a deterministic gradient."""
    members, size, _ = table.shape
    offsets = torch.arange(members, device=table.device).unsqueeze(1) * size
    return F.embedding(ids + offsets, table.flatten(0, 1))  # ids may lack the members axis


def normal_weights(
    shapes: dict[str, tuple[int, ...]], spreads: dict[str, float], generator: torch.Generator
) -> Weights:
    """Weights of the given shapes, normal with the given standard deviations; a spread of 0 gives zeros."""
    device = generator.device
    drawn = {name: torch.randn(shape, generator=generator, device=device) for name, shape in shapes.items()}
    return {name: weight * spreads[name] for name, weight in drawn.items()}

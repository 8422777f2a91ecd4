"""Tokens that must say the payload of their partner: two tasks that a symmetric attention pattern cannot solve."""

import itertools
import math
from collections import Counter
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Int64
from torch import Tensor

NAMES = {2: "opposites", 3: "rock-paper-scissors"}


@dataclass(frozen=True)
class Partners:
    r"""One token of each kind in random order, each with a random payload; the token of kind k says that of kind k + 1.

    Formula: kinds $0, \dots, K - 1$ in a uniformly random order, payloads $c_k$ independent and uniform over
    $0, \dots, P - 1$; the answer at the token of kind k is $c_{(k + 1) \bmod K}$.

    Attributes:
        kinds: K; 2 is "opposites", 3 is "rock-paper-scissors".
        payloads: P, at least 2.

    How to read it: a network must look from each token at its partner, which goes in a circle. The order carries no
    information, and neither does the token's own payload.

    Errors: `ValueError` for fewer than two kinds or payloads.

    Source: ours.

    >>> task = Partners(2)
    >>> task.name, len(task.questions), task.questions[1].tolist(), task.answers[1].tolist()
    ('opposites', 128, [[0, 0], [1, 1]], [1, 0])
    """

    kinds: int
    payloads: int = 8

    def __post_init__(self):
        for name in ("kinds", "payloads"):
            if getattr(self, name) < 2:
                raise ValueError(f"{name} is {getattr(self, name)}: give at least 2, or there is nothing to choose")

    @property
    def name(self) -> str:
        """What the task is called."""
        return NAMES.get(self.kinds, f"circle of {self.kinds}")

    @property
    def length(self) -> int:
        """Tokens of a sequence: one of each kind."""
        return self.kinds

    @cached_property
    def questions(self) -> Int64[Tensor, "rows length 2"]:
        """All K! P**K sequences: [..., 0] is the kind of a token, [..., 1] its payload."""
        orders = torch.tensor(list(itertools.permutations(range(self.kinds))))
        contents = torch.cartesian_prod(*[torch.arange(self.payloads)] * self.kinds)  # by kind
        return self._joined(orders.repeat_interleave(len(contents), 0), contents.repeat(len(orders), 1))

    @cached_property
    def answers(self) -> Int64[Tensor, "rows length"]:
        """The payload that each token of `questions` must say."""
        return self.answers_to(self.questions)

    def draw(
        self, rows: int, *, generator: torch.Generator | None = None
    ) -> tuple[Int64[Tensor, "rows length 2"], Int64[Tensor, "rows length"]]:
        """Random sequences and their answers, on the device of the generator.

        Args:
            rows: how many.
            generator: source of orders and payloads; None is torch's own.

        Returns:
            Sequences as in `questions`, (rows, length, 2), and answers (rows, length).
        """
        device = None if generator is None else generator.device
        order = torch.rand(rows, self.kinds, generator=generator, device=device).argsort(1)
        content = torch.randint(self.payloads, (rows, self.kinds), generator=generator, device=device)
        x = self._joined(order, content)
        return x, self.answers_to(x)

    def answers_to(self, x: Int64[Tensor, "*batch length 2"]) -> Int64[Tensor, "*batch length"]:
        """The payload of the partner of each token, (*batch, length)."""
        kind, content = x.unbind(-1)
        by_kind = content.gather(-1, kind.argsort(-1))
        return by_kind.gather(-1, (kind + 1) % self.kinds)

    def looking_evenly(self, seen: int | None = None) -> float:
        r"""Accuracy when a token looks alike at `seen` tokens, its partner one of them: $E[\max_c N_c]/n$.

        Formula: n = `seen` independent payloads, $N_c$ of them equal to c.

        Args:
            seen: number of tokens looked at, 1 .. kinds: all of them by default; kinds - 1 for all but itself.

        How to read it: the best answer is the most frequent payload, right as often as it is the partner's. With 8
        payloads and all tokens this is 9/16 for opposites and 29/64 for rock-paper-scissors, far above chance, 1/8,
        because the answer stands in the sequence. A token that only avoids itself reaches 1 and 9/16.

        Errors: `ValueError` for a number outside 1 .. kinds.

        >>> Partners(2).looking_evenly(), Partners(3).looking_evenly(), Partners(3).looking_evenly(seen=2)
        (0.5625, 0.453125, 0.5625)
        """
        seen = self.kinds if seen is None else seen
        if not 1 <= seen <= self.kinds:
            raise ValueError(f"seen is {seen}: it counts tokens, so give 1 to {self.kinds}")
        most = sum(math.perm(self.payloads, len(part)) * _ways(part) * part[0] for part in _parts(seen))
        return most / (seen * self.payloads**seen)

    def pointing(self, right: int) -> float:
        r"""Accuracy when `right` kinds look at their partner alone and the others learn nothing: $(r + (K - r)/P)/K$.

        How to read it: with tied queries and keys all kinds but one can point at their partner, since the last one
        would close the circle: 9/16 for opposites (the same number as looking evenly, by another way) and
        17/24 = 0.708 for rock-paper-scissors.

        Errors: `ValueError` for a number outside 0 .. kinds.

        >>> Partners(2).pointing(1), round(Partners(3).pointing(2), 3)
        (0.5625, 0.708)
        """
        if not 0 <= right <= self.kinds:
            raise ValueError(f"right is {right}: it counts kinds, so give 0 to {self.kinds}")
        return (right + (self.kinds - right) / self.payloads) / self.kinds

    def _joined(self, order: Tensor, content: Tensor) -> Tensor:
        """Kinds in their order, (rows, length), and payloads by kind, to (rows, length, 2)."""
        return torch.stack((order, content.gather(1, order)), -1)


def _parts(total: int, largest: int | None = None) -> list[tuple[int, ...]]:
    """The ways to write a number as a sum of falling positive numbers."""
    largest = total if largest is None else min(total, largest)
    if total == 0:
        return [()]
    return [(part, *rest) for part in range(largest, 0, -1) for rest in _parts(total - part, part)]


def _ways(part: tuple[int, ...]) -> int:
    """How often tokens fall into groups of these sizes, the groups of one size not told apart."""
    ways = math.factorial(sum(part))
    for size in part:
        ways //= math.factorial(size)
    for count in Counter(part).values():
        ways //= math.factorial(count)
    return ways

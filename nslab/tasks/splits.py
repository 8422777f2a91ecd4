"""Splits of the pairs into train and test, and the leak between a pair and its mirror."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from nslab.tasks.modular import ModularArithmetic

KINDS = ("random", "unordered")


@dataclass(frozen=True, eq=False)
class Split:
    r"""Three masks over the rows of a task, of which each row is in exactly one.

    Attributes:
        train: rows to learn from, (rows,).
        mirrored: test rows (a, b) whose mirror (b, a) is a row of train, (rows,).
        unseen: the other test rows, (rows,).

    How to read it: where the operation is commutative, the label of a mirrored row stands in the train set. A model
    that reads both operands through one embedding may know it by heart: the accuracy on `unseen` is the one that shows
    generalisation.
    """

    train: Bool[Tensor, " rows"]
    mirrored: Bool[Tensor, " rows"]
    unseen: Bool[Tensor, " rows"]

    @property
    def test(self) -> Bool[Tensor, " rows"]:
        """All rows that are not in train."""
        return self.mirrored | self.unseen


def split_pairs(
    task: ModularArithmetic, fraction: float | int, kind: str = "random", *, generator: torch.Generator
) -> Split:
    r"""Draw the train rows of a task; the rest is the test set.

    Formula: train has $\lfloor \text{fraction} \cdot \text{rows} \rfloor$ rows, for both kinds. A random split puts the
    mirror of a share of about $\text{fraction}\,(1 - 1/p)$ of the test rows into train, with p the modulus; an
    unordered split of none.

    Args:
        task: the pairs to split.
        fraction: share of the rows that train gets, in (0, 1).
        kind: "random" draws single rows. "unordered" draws unordered pairs {a, b} and keeps (a, b) and (b, a) together;
            a row that is its own mirror, or has none, makes the count exact.
        generator: the same state gives the same split.

    Returns:
        A `Split` whose masks are on the CPU.

    How to read it: a curve of test accuracy from a random split mixes generalisation with reflection; look at its two
    groups of test rows apart, or take an unordered split.

    Errors: `ValueError` when the kind is unknown, or the fraction leaves train or test without a row.

    Source: ours. The random split is the one of the papers on grokking.

    >>> split = split_pairs(ModularArithmetic(113), 0.3, generator=torch.Generator().manual_seed(0))
    >>> split.train.sum().item(), round((split.mirrored.sum() / split.test.sum()).item(), 2)
    (3830, 0.3)
    """
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}: choose one of {', '.join(KINDS)}")
    rows = len(task.pairs)
    if not 0 < fraction < 1:
        raise ValueError(
            f"fraction is {fraction}: give more than 0 and less than 1, so that train and test both have rows"
        )
    count = int(fraction * rows)  # below rows, as fraction is below 1
    if count == 0:
        raise ValueError(f"fraction is {fraction} and leaves train without a row: give more than 1/{rows}")
    train = torch.zeros(rows, dtype=torch.bool)
    if kind == "random":
        train[torch.randperm(rows, generator=generator, device=generator.device)[:count].cpu()] = True
    else:
        train = _unordered(task.mirror, count, generator)
    has_mirror = task.mirror >= 0
    mirrored = ~train & has_mirror & train[task.mirror]  # -1 reads the last row, and has_mirror drops it
    return Split(train, mirrored, ~train & ~mirrored)


def _unordered(mirror: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """A mask of exactly `count` rows, in which each row is with its mirror."""
    rows = torch.arange(len(mirror))
    partner = torch.where(mirror >= 0, mirror, rows)  # (rows,): a row without a mirror stands alone, as the diagonal
    heads = rows[rows <= partner]  # (blocks,): one row for each unordered pair
    heads = heads[torch.randperm(len(heads), generator=generator, device=generator.device).cpu()]
    single = heads == partner[heads]
    size = torch.where(single, 1, 2)
    taken = size.cumsum(0) <= count  # a prefix of the random order: train has `count` rows, or one too few
    if size[taken].sum() < count:
        last = single.nonzero()[-1]
        if taken[last]:  # so are all single rows: leave this one out, and there is room for the pair that overflowed
            taken[taken.sum()] = True
        taken[last] = ~taken[last]
    train = torch.zeros(len(mirror), dtype=torch.bool)
    train[heads[taken]] = True
    train[partner[heads[taken]]] = True
    return train

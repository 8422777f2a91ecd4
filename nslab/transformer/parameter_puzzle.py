r"""The puzzle of the 5.77 %: which way of counting makes symmetric attention save that many parameters of GPT-2 base?

    from nslab.transformer.parameter_puzzle import Counting, countings
    Counting().percent                      # 5.695, every parameter counted
    Counting(new_bias=False).percent        # 5.77, if the biases of the smaller network go for free

The figure is the paper's, the countings are ours: which one stood behind it is not known.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

from nslab.attention.settings import VARIANTS, ScoreSettings
from nslab.transformer.accounting import GPT2, added_parameters, parameter_count

PADDED = 50304  # GPT-2's 50257 tokens, padded to a multiple of 64 as in nanoGPT's model file


@dataclass(frozen=True)
class Counting:
    """One way of counting how much smaller a network of GPT-2's shape is with symmetric attention than without.

    Attributes:
        variant: a name of `nslab.attention.settings.VARIANTS`.
        padded: whether the vocabulary has nanoGPT's 50304 rows in place of 50257.
        base_bias: whether the standard network has biases (nanoGPT's model file: yes; its training script: no).
        new_bias: whether the symmetric one has.
        positions: whether the position table counts.
        relative_to: the share of "base", of the "new" (smaller) network, or of the block "matrices" of the base: those
            of attention and MLP, without norms, biases and tables.

    Properties: `base` and `reduced`, parameters before and after; `share`, what is missing, as a fraction of what it is
    relative to; `percent`, the same rounded to three decimals; `name`.

    How to read it: a consistent counting changes nothing but the attention, so `base_bias` equals `new_bias`.

    Errors: `ValueError` for an unknown variant or `relative_to`.

    >>> honest = Counting()
    >>> honest.base, honest.reduced, honest.percent
    (124439808, 117352704, 5.695)
    >>> Counting(new_bias=False).percent
    5.77
    """

    variant: str = "symmetric"
    padded: bool = False
    base_bias: bool = True
    new_bias: bool = True
    positions: bool = True
    relative_to: str = "base"

    def __post_init__(self):
        if self.variant not in VARIANTS:
            raise ValueError(f"variant is {self.variant!r}: choose one of {', '.join(VARIANTS)}")
        if self.relative_to not in ("base", "new", "matrices"):
            raise ValueError(f"relative_to is {self.relative_to!r}: choose 'base', 'new' or 'matrices'")

    @property
    def name(self) -> str:
        """All choices in words."""
        if self.relative_to == "matrices":
            return f"{self.variant}: matrices of the blocks only"
        bias = {
            (True, True): "biases",
            (False, False): "no biases",
            (True, False): "biases in the base only",
            (False, True): "biases in the new one only",
        }[self.base_bias, self.new_bias]
        table = "" if self.positions else ", without position table"
        smaller = ", relative to the smaller network" if self.relative_to == "new" else ""
        return f"{self.variant}: vocabulary {PADDED if self.padded else GPT2.vocabulary}, {bias}{table}{smaller}"

    @property
    def base(self) -> int:
        """Parameters of the network with standard attention."""
        return self._count(None, self.base_bias)

    @property
    def reduced(self) -> int:
        """Parameters of the network with the variant."""
        return self._count(VARIANTS[self.variant], self.new_bias)

    @property
    def share(self) -> float:
        """What is missing, as a fraction."""
        return (self.base - self.reduced) / (self.reduced if self.relative_to == "new" else self.base)

    @property
    def percent(self) -> float:
        """What is missing, in percent, rounded to three decimals."""
        return round(100 * self.share, 3)

    def _count(self, scores: ScoreSettings | None, bias: bool) -> int:
        if self.relative_to == "matrices":
            maps = 12 if scores is None else 11  # of attention 4 or 3, and 8 of the MLP, each width * width
            return GPT2.layers * (maps * GPT2.width**2 + added_parameters(GPT2, scores))
        config = replace(GPT2, vocabulary=PADDED if self.padded else GPT2.vocabulary, bias=bias)
        return parameter_count(config, scores, positions=self.positions)


def countings() -> list[Counting]:
    """The countings one would try for "5.77 % fewer parameters", plain symmetric attention in all of them.

    The consistent ones come first. None of them gives 5.77; the ones with biases in the base only do.

    >>> [counting.percent for counting in countings()]
    [5.695, 5.691, 5.727, 5.731, 6.039, 6.034, 8.333, 5.77, 5.768]
    """
    return [
        Counting(),
        Counting(padded=True, base_bias=False, new_bias=False),
        Counting(padded=True, base_bias=False, new_bias=False, positions=False),
        Counting(positions=False),
        Counting(relative_to="new"),
        Counting(padded=True, base_bias=False, new_bias=False, relative_to="new"),
        Counting(relative_to="matrices"),
        Counting(new_bias=False),
        Counting(new_bias=False, padded=True),
    ]


def every_counting(variants: Sequence[str] = tuple(VARIANTS)) -> list[Counting]:
    """All 32 settings of the check boxes for each variant: padding, biases twice, position table, base or smaller.

    >>> printed = [counting for counting in every_counting(["symmetric"]) if round(100 * counting.share, 2) == 5.77]
    >>> [(counting.base_bias, counting.new_bias, counting.positions) for counting in printed]
    [(True, False, True), (True, False, True)]
    """
    boxes = itertools.product(variants, *[(False, True)] * 4, ("base", "new"))
    return [Counting(*choices) for choices in boxes]


def noise_budget(counting: Counting, figure: float | int = 5.77) -> int:
    """How many parameters the smaller network may still add for its share to be printed as `figure` percent or more.

    Args:
        counting: the way of counting; its own variant is already paid for.
        figure: percent with two decimals, as printed; the share counts as rounded to the nearest.

    Returns:
        Whole parameters in the whole network; divide by 12 for a layer. Negative: the share is too small already.

    >>> noise_budget(Counting(new_bias=False)), noise_budget(Counting()) < 0
    (6077, True)
    """
    least = round(figure * 1000) - 5  # thousandths of a percent: 5.765 is printed as 5.77
    if counting.relative_to == "new":
        return counting.base * 100_000 // (100_000 + least) - counting.reduced
    return counting.base * (100_000 - least) // 100_000 - counting.reduced

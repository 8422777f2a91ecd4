"""How many per cent fewer parameters? Check boxes for every way of counting, and what the percentage is made of.

`compute` is the Python twin of ``assets/parameter-detective.js``. Its counts are those of
:mod:`nslab.transformer.parameter_puzzle`. *Ours*, as is the figure.
"""

from __future__ import annotations

import math

from nslab.attention.settings import VARIANTS
from nslab.explore.modules import Module, module
from nslab.transformer.accounting import GPT2
from nslab.transformer.parameter_puzzle import PADDED, Counting, every_counting

__all__ = ["compute", "parameter_detective"]

BOXES = ("padded", "base_bias", "new_bias", "positions")
RELATIVE_TO = ("base", "new", "matrices")
DISCOVERY = (
    "As long as both networks have biases, or neither has, a share of the base is never 5.77 %, whatever the "
    "vocabulary, the position table and the noise. It is 5.77 % when the biases of the base count and the new network "
    "has none, and the noise is small: scalar, or one key noise for all heads. Relative to the smaller network there "
    "is a second way, per-head relative noise."
)


def compute(state: dict) -> dict:
    """One way of counting, and its parts.

    Args:
        state: ``padded``, ``base_bias``, ``new_bias``, ``positions``, ``variant`` and ``relative_to``, as the fields of
            `nslab.transformer.parameter_puzzle.Counting`.

    Returns:
        Parameters of the ``base`` and of the ``new`` network, what is ``saved``, the ``percent`` (not rounded), and
        the parts of what is saved: ``keys``, the key matrices; ``biases``, those that one network has and the other
        has not; ``added``, what noise or other scores put on top (it counts against the saving); and the percentage
        with two decimals, ``rounded`` and ``cut`` off.
    """
    counting = Counting(**{name: state[name] for name in (*BOXES, "variant", "relative_to")})
    plain = Counting(**{name: state[name] for name in (*BOXES, "relative_to")})
    saved = counting.base - counting.reduced
    keys = GPT2.layers * GPT2.width**2
    return {
        "base": counting.base,
        "new": counting.reduced,
        "saved": saved,
        "percent": 100 * counting.share,
        "keys": keys,
        "biases": plain.base - plain.reduced - keys,
        "added": counting.reduced - plain.reduced,
        "rounded": f"{100 * counting.share:.2f}",
        "cut": f"{math.floor(10_000 * counting.share) / 100:.2f}",
    }


def parameter_detective(
    *,
    variant: str = "symmetric",
    padded: bool = False,
    base_bias: bool = True,
    new_bias: bool = True,
    positions: bool = True,
    relative_to: str = "base",
    label: str = "How many per cent fewer parameters?",
    alt: str = "",
    discovery: str = DISCOVERY,
) -> Module:
    """A figure in which a reader counts parameters in every way, and looks for 5.77 %.

    Args:
        variant: of `nslab.attention.settings.VARIANTS`, at the start.
        padded: whether the vocabulary is padded, at the start.
        base_bias: whether the base has biases, at the start.
        new_bias: whether the new network has biases, at the start.
        positions: whether the position table counts, at the start.
        relative_to: "base", "new" or "matrices", at the start.
        label: accessible name.
        alt: the figure in a sentence; by default its start.
        discovery: what to find out.

    Errors: `ValueError` for an unknown variant or ``relative_to``.

    >>> first = parameter_detective()
    >>> first.twin(first.state)["rounded"], first.twin({**first.state, "new_bias": False})["rounded"]
    ('5.70', '5.77')
    """
    if relative_to not in RELATIVE_TO:
        raise ValueError(f"relative_to is {relative_to!r}: choose one of {', '.join(RELATIVE_TO)}")
    state = {
        "padded": bool(padded),
        "base_bias": bool(base_bias),
        "new_bias": bool(new_bias),
        "positions": bool(positions),
        "variant": variant,
        "relative_to": relative_to,
    }
    first = compute(state)
    alt = alt or (
        f"Check boxes for the vocabulary, biases, position table and noise. As they stand, the base has "
        f"{first['base']:,} parameters and the new network {first['new']:,}: {first['percent']:.3f} % fewer."
    )
    shape = {
        "width": GPT2.width,
        "layers": GPT2.layers,
        "heads": GPT2.heads,
        "context": GPT2.context,
        "vocabularies": [GPT2.vocabulary, PADDED],
        "rank": VARIANTS["v1-amortised"].noise.rank,
    }
    return module(
        ["small-plots.js", "parameter-detective.js"],
        twin=compute,
        state={**state, **shape},
        cases=_cases(shape),
        label=label,
        alt=alt,
        discovery=discovery,
    )


def _cases(shape: dict) -> list[dict]:
    """Every way of counting, and those that look at the matrices of the blocks alone."""
    cases = [{**{name: getattr(one, name) for name in (*BOXES, "variant", "relative_to")}} for one in every_counting()]
    cases += [{**dict.fromkeys(BOXES, True), "variant": one, "relative_to": "matrices"} for one in VARIANTS]
    return [{**case, **shape} for case in cases]

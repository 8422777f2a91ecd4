"""The truth-table figure: click or type a Boolean function and read its influences and Fourier spectrum, exactly.

`compute` is the Python twin of ``assets/truth-table.js``; it reads formulas with :mod:`nslab.explore.formula` and takes
its numbers from :mod:`nslab.boolean`, so the page is held to the package.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import torch

from nslab import boolean
from nslab.explore import formula as language
from nslab.explore.modules import Module, module

__all__ = ["PRESETS", "compute", "truth_table"]

PRESETS: dict[str, tuple[str, int | None]] = {
    "dictator": ("x1", 3),
    "majority of 3": ("maj(x1, x2, x3)", None),
    "majority of 5": ("maj(x1, x2, x3, x4, x5)", None),
    "parity of 4": ("x1 * x2 * x3 * x4", None),
    "AND of 4": ("x1 & x2 & x3 & x4", None),
    "tribes, 2 of 3": ("(x1 & x2 & x3) | (x4 & x5 & x6)", None),
    "address, 2 bits choose 1 of 4": (
        "(~x1 & ~x2 & x3) | (x1 & ~x2 & x4) | (~x1 & x2 & x5) | (x1 & x2 & x6)",
        None,
    ),
    "weighted vote": ("sign(3*x1 + x2 + x3 + x4 + x5)", None),
    "majority of 11": ("maj(x1, x2, x3, x4, x5, x6, x7, x8, x9, x10, x11)", None),
    "parity of 12": ("x1*x2*x3*x4*x5*x6*x7*x8*x9*x10*x11*x12", None),
}
DISCOVERY = (
    "Flip one cell and watch the spectrum: every Fourier coefficient moves, all of them by the same amount, 2/2ⁿ "
    "on n bits, while an influence moves only by the edges at that cell. Then look for the function with the "
    "largest total influence: parity, whose single bar stands at degree n, because every flip of a bit flips it."
)
MISTAKES = [  # one for each message a reader can meet
    "",
    "x1 x2",
    "x1 +",
    "x1 + x2",
    "x0",
    "x13 | x1",
    "y & x1",
    "x1 $ x2",
    "maj(x1, x2)",
    "maj x1",
    "maj(x1, x2, x3",
    "x1 & (x2 | ",
    "x1 )",
    "x1, x2",
    "2 * x1",
    "sign(x1 + x2)",
    "sign(1000*x1)",
    "sign(x1 * 2)",
    "& x1",
    "~",
    "(" * 33 + "x1" + ")" * 33,
    "x1 & " * 90,
    "x1 ∧ 𝟙",
]


def compute(state: dict) -> dict:
    """Every number of the figure, from ``{"n", "formula"}`` or ``{"table"}``.

    Args:
        state: ``formula`` (text) and ``n`` (1 to 12, or None for the largest variable used); or ``table``, a list of
            2^n values ±1.

    Returns:
        ``n``, ``mean``, ``total_influence``, ``max_sensitivity``, ``degree``, ``influences`` (n), ``level_weights``
        (n + 1), ``coefficients`` (2^n, subset as bitmask) and ``table`` (2^n); or ``error`` with ``position`` (from 1),
        ``token`` and ``message``.
    """
    try:
        if state.get("table") is not None:
            f = torch.tensor(state["table"])
            n = f.numel().bit_length() - 1
            if f.numel() != 2**n or not 1 <= n <= language.MOST_BITS or not bool((f.abs() == 1).all()):
                raise language.FormulaError(-1, "", "A table needs 2^n entries (n from 1 to 12), each 1 or -1.")
        else:
            f = language.table(state["formula"], state.get("n"))
            n = f.numel().bit_length() - 1
    except language.FormulaError as error:
        return {"error": error.detail}
    return _numbers(f.double(), n)


def _numbers(f: torch.Tensor, n: int) -> dict:
    coefficients = boolean.spectrum(f)
    return {
        "n": n,
        "mean": float(coefficients[0]),
        "total_influence": float(boolean.total_influence(f)),
        "max_sensitivity": int(boolean.max_sensitivity(f)),
        "degree": int(boolean.degree(f)),
        "influences": boolean.influences(f).tolist(),
        "level_weights": boolean.level_weights(f).tolist(),
        "coefficients": coefficients.tolist(),
        "table": f.tolist(),
    }


def truth_table(
    n: int | None = None,
    *,
    formula: str = "maj(x1, x2, x3)",
    presets: Mapping[str, tuple[str, int | None]] = PRESETS,
    label: str = "Truth table and Fourier spectrum of a Boolean function",
    alt: str = "",
    discovery: str = DISCOVERY,
) -> Module:
    """A figure in which the reader clicks a truth table or types a formula, and sees influences and spectrum.

    Args:
        n: number of bits at the start, 1 to 12; None takes the largest variable used. The table is clickable up to 6.
        formula: the function at the start, in the language of :mod:`nslab.explore.formula`.
        presets: name to (formula, n); n may be None.
        label: accessible name.
        alt: the figure in a sentence; by default the numbers of the first function.
        discovery: what to find out.

    Raises:
        ValueError: if ``formula`` or a preset does not parse; the message names the position and a remedy.

    >>> truth_table(formula="x1 ^ x2 ^ x3").twin({"n": 3, "formula": "x1 ^ x2 ^ x3"})["total_influence"]
    3.0
    """
    chosen = {"formula": formula, "n": n}
    for argument, text, bits in [("formula", formula, n), *((f"presets[{k!r}]", *each) for k, each in presets.items())]:
        if error := compute({"formula": text, "n": bits}).get("error"):
            raise ValueError(f"{argument}={text!r} with n={bits}: position {error['position']}: {error['message']}")
    first = compute(chosen)
    alt = alt or (
        f"The function {formula} on {first['n']} bits: mean {first['mean']:.3g}, total influence "
        f"{first['total_influence']:.3g}, maximum sensitivity {first['max_sensitivity']}, degree {first['degree']}."
    )
    return module(
        ["boolean-formula.js", "truth-table.js"],
        twin=compute,
        state={
            **chosen,
            "presets": [{"name": name, "formula": text, "n": bits} for name, (text, bits) in presets.items()],
        },
        cases=[chosen, *_cases(presets)],
        label=label,
        alt=alt,
        discovery=discovery,
    )


def _cases(presets: Mapping[str, tuple[str, int | None]]) -> Sequence[dict]:
    """States on which page and twin are compared: presets, one mistake of every kind, random tables and formulas."""
    draw = random.Random(7)
    tables = [[draw.choice([1, -1]) for _ in range(2**n)] for n in (1, 2, 3, 4, 5, 6, 12)]
    tables += [[1] * 8, [-1] * 4, [1, -1, 1], [1, 0], [1]]
    formulas = [random_formula(draw, bits, depth=4) for bits in (1, 2, 3, 4, 6, 9, 12, 12)]
    return [
        *({"formula": text, "n": bits} for text, bits in presets.values()),
        *({"formula": text, "n": None} for text in [*MISTAKES, *formulas]),
        {"formula": "x1 & x5", "n": 3},
        {"formula": "x1 & ~x2", "n": 12},
        {"formula": "true", "n": None},
        {"formula": "¬X1 ∧ −x2 ⊕ not x3 · x4 ∨ false", "n": None},
        {"formula": "sign(-2*x1*x2 + ~x3 - (x4 | x5) - 1 + - x6)", "n": None},
        *({"table": each} for each in tables),
    ]


def random_formula(draw: random.Random, bits: int, depth: int) -> str:
    """A random formula of the language; every ``sign`` has an odd number of terms, so that it never ties."""
    if depth == 0 or draw.random() < 0.15:
        return f"x{draw.randint(1, bits)}"
    inner = [random_formula(draw, bits, depth - 1) for _ in range(3)]
    shape = draw.choice(["({} & {})", "({} | {})", "{} ^ {}", "{} * {}", "~{}", "not {}", "maj({}, {}, {})", "sign"])
    if shape == "sign":
        weights = [draw.choice([1, 3, 5]) for _ in inner]
        return "sign(" + " - ".join(f"{w}*({text})" for w, text in zip(weights, inner, strict=True)) + ")"
    return shape.format(*inner)

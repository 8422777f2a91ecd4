"""Self-checks: a question with instant feedback in the page. Nothing is stored, sent or graded.

Each wrong answer that a reader is likely to give has an explanation of its own. The verdict is computed in the page and
held to the Python twins here by the parity test.
"""

import math
import re
from collections.abc import Sequence

from nslab.explore.modules import Module, module
from nslab.style import Number

_PLAIN = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
# 80 000 with an ordinary, fixed, figure, thin or narrow space, or 80_000; not 1 1/2
_SPACED = re.compile(r"^[+-]?\d{1,3}([ _\u00a0\u2007\u2009\u202f]\d{3})+(?!\d)", re.ASCII)
_COMMAS = re.compile(r"[+-]?\d{1,3}(,\d{3})+(\.\d*)?", re.ASCII)


def parse_number(text: str, expected: Number = 0) -> float | None:
    """Read a number as a reader may write it; None for anything else.

    A comma is the decimal point, unless it groups thousands: two or more of them, or one where the `expected` answer is
    1000 or larger.

    >>> [parse_number(text) for text in ("3/8", "0,375", "37.5 %", "−1", "80 000", "1 1/2")]
    [0.375, 0.375, 0.375, -1.0, 80000.0, None]
    >>> parse_number("80,000"), parse_number("80,000", expected=75_000)
    (80.0, 80000.0)
    """
    cleaned = text.replace("−", "-").strip()
    share = cleaned.endswith("%")
    parts = [_plain(part.strip(), expected) for part in cleaned.removesuffix("%").split("/")]
    if len(parts) > 2 or None in parts or parts[1:] == [0]:
        return None
    value = parts[0] / (parts[1] if parts[1:] else 1) / (100 if share else 1)
    return value if math.isfinite(value) else None


def _plain(text: str, expected: Number) -> float | None:
    text = _SPACED.sub(lambda found: re.sub(r"[^\d+-]", "", found[0]), text)
    thousands = _COMMAS.fullmatch(text) and (abs(expected) >= 1000 or text.count(",") > 1)
    text = text.replace(",", "") if thousands else text.replace(",", ".", 1)
    return float(text) if _PLAIN.fullmatch(text) else None


def _rounds(number: float, answer: Number) -> bool:
    """Whether `number` is `answer` rounded to at most two decimals, a half up or down, and within 2 % of it."""
    near = abs(number - answer) <= 0.02 * abs(answer)
    return near and any(
        abs(scale * number - round(scale * number)) < 1e-6 and abs(scale * number - scale * answer) < 0.5 + 1e-6
        for scale in (1, 10, 100)
    )


def verdict(state: dict) -> dict:
    """The twin of ``compute`` in self-check.js: ``right`` and the ``message`` for the answer in ``state``."""
    if "options" in state:
        if state.get("chosen") is None:
            return {"right": False, "message": "Choose one of the answers."}
        _text, right, message = state["options"][state["chosen"]]
        return {"right": right, "message": message}
    number = parse_number(state.get("given", ""), state["answer"])
    if number is None:
        return {"right": False, "message": "That is not a number yet. Write it like 0.375 or 3/8."}
    if abs(number - state["answer"]) <= state["tolerance"]:
        return {"right": True, "message": f"Right. {state['right']}"}
    for value, why in state["mistakes"]:
        if abs(number - value) <= state["tolerance"]:
            return {"right": False, "message": f"Not yet. {why}"}
    if _rounds(number, state["answer"]):
        return {"right": False, "message": "Close. Give the fraction, or three decimals."}
    return {"right": False, "message": f"Not yet. {state['hint']}".strip()}


_FORMS = ("{}", " {:,.3f} ", "{:.1f}", "{:.2f}", "{:_.0f}", "{:.2%}")  # in the cases each number stands in all of these
_ODD = (
    *("", "abc", "1/0", "1//2", "1/2/3", "−1", "7/2", "3 / 8", "1 1/2", "%", "37,5 %", "0,375", "1,000.5", "1,234,567"),
    *("80 000", "80\u00a0000", "80\u2007000", "80\u2009000", "80\u202f000/2", "1 000 00", "8 0000", "1_0", "1e999"),
    *("1e300/1e-300", "inf", "nan", "٣", "0x10", ".5", "5.", "+.5E-1", "."),
)


def numeric_check(
    *,
    label: str,
    answer: Number,
    mistakes: Sequence[tuple[Number, str]],
    right: str,
    tolerance: Number = 0.005,
    hint: str = "",
) -> Module:
    """A box for a number, a fraction or a percentage, which counts as its hundredth: write shares between 0 and 1.

    Args:
        label: what is asked, in a few words; it names the box.
        answer: the right number.
        mistakes: likely wrong numbers, each with what probably went wrong.
        right: said after "Right."
        tolerance: how far from a number an answer may be and still count as it.
        hint: said after "Not yet." to any other wrong number: where to look again.

    Raises:
        ValueError: a mistake lies within twice the tolerance of the answer, so that they could not be told apart.
    """
    for value, _ in mistakes:
        if abs(value - answer) <= 2 * tolerance:
            raise ValueError(
                f"mistakes has {value}, within {2 * tolerance:g} of the answer {answer}; lower the tolerance"
            )
    state = {
        "label": label,
        "answer": answer,
        "tolerance": tolerance,
        "right": right,
        "mistakes": [list(m) for m in mistakes],
        "hint": hint,
    }
    numbers = [answer, answer + tolerance / 2, 1.01 * answer, *(value for value, _ in mistakes)]
    given = [form.format(number) for number in numbers for form in _FORMS]
    return _check(label, state, [{**state, "given": text} for text in [*given, *_ODD]])


def choice_check(*, label: str, options: Sequence[tuple[str, bool, str]]) -> Module:
    """A list of answers to choose from, each ``(text, whether it is right, what is said about it)``.

    Raises:
        ValueError: not exactly one option is right.
    """
    if sum(right for _, right, _ in options) != 1:
        raise ValueError(f"options has {sum(right for _, right, _ in options)} right answers; give exactly one")
    state = {"label": label, "options": [list(option) for option in options]}
    return _check(label, state, [{**state, "chosen": k} for k in (None, *range(len(options)))])


def _check(label: str, state: dict, cases: list[dict]) -> Module:
    alt = "Give an answer and press Check; the feedback appears below."
    return module(
        "self-check.js", twin=verdict, state=state, cases=cases, label=f"Self-check: {label}", alt=alt, discovery=None
    )

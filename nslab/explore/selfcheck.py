"""Self-checks: a question with instant feedback in the page. Nothing is stored, sent or graded.

Each wrong answer that a reader is likely to give has an explanation of its own. The verdict is computed in the page and
held to the Python twins here by the parity test.
"""

from collections.abc import Sequence

from nslab.explore.modules import Module, module
from nslab.style import Number


def parse_number(text: str) -> float | None:
    """Read ``3/8``, ``0.375``, ``-1`` or ``−1``; None for anything else."""
    cleaned = text.strip().replace("−", "-").replace(",", ".")
    top, slash, bottom = cleaned.partition("/")
    try:
        return float(top) / float(bottom) if slash else float(top)
    except (ValueError, ZeroDivisionError):
        return None


def verdict(state: dict) -> dict:
    """The twin of ``compute`` in self-check.js: ``right`` and the ``message`` for the answer in ``state``."""
    if "options" in state:
        if state.get("chosen") is None:
            return {"right": False, "message": "Choose one of the answers."}
        _text, right, message = state["options"][state["chosen"]]
        return {"right": right, "message": message}
    number = parse_number(state.get("given", ""))
    if number is None or number != number or number in (float("inf"), float("-inf")):
        return {"right": False, "message": "That is not a number yet. Write it like 0.375 or 3/8, without a % sign."}
    if abs(number - state["answer"]) <= state["tolerance"]:
        return {"right": True, "message": f"Right. {state['right']}"}
    for value, why in state["mistakes"]:
        if abs(number - value) <= state["tolerance"]:
            return {"right": False, "message": f"Not yet. {why}"}
    return {"right": False, "message": "Not yet. Try a smaller case by hand, or open the solution below."}


def numeric_check(
    *, label: str, answer: Number, mistakes: Sequence[tuple[Number, str]], right: str, tolerance: Number = 0.005
) -> Module:
    """A box for a number or a fraction.

    Args:
        label: what is asked, in a few words; it names the box.
        answer: the right number.
        mistakes: likely wrong numbers, each with what probably went wrong.
        right: said after "Right."
        tolerance: how far from a number an answer may be and still count as it.

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
    }
    given = [
        str(answer),
        f" {answer + tolerance / 2} ",
        "",
        "abc",
        "1/0",
        "−1",
        "7/2",
        *(str(value) for value, _ in mistakes),
    ]
    return _check(label, state, [{**state, "given": text} for text in given])


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

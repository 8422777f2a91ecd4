"""`publish`: numbers that a cell computes and the prose around it quotes with the ``{val}`` role."""

import json
import os
from importlib.resources import files

from IPython.display import display

_PREFIX = "application/papermill.record/"
FORMS = ("", "s", "d", ",d", ",.0f", ".0f", ".1f", ".2f", ".3f", ".4f")


def publish(**values: object) -> None:
    """Hand numbers to the chapter's prose: after ``publish(gain=g)`` write ``{val}`gain:.3f``` in the text.

    Where the cell stands nothing is shown. In the built book the role prints the number; in JupyterLab, which does not
    know the role, a few lines of JavaScript in the cell's output put the number there. They can do so for the `FORMS`.
    Put the cell above the text: JupyterLab runs the output's script when a reader has scrolled there.

    Raises:
        TypeError: a value is neither a number nor a string; take ``.item()`` of a tensor first.
    """
    for name, value in values.items():
        if not isinstance(value, (int, float, str)):
            raise TypeError(
                f"publish: {name} is a {type(value).__name__}; give an int, float or str (tensors: .item())"
            )
    if not os.environ.get("NSLAB_STATIC"):
        spoken = ", ".join(f"{name} = {value}" for name, value in values.items())
        display({"text/html": _script(values), "text/plain": f"For the text: {spoken}"}, raw=True)
        return
    for name, value in values.items():  # where the book's builder looks for them
        key = {"scrapbook": {"name": name, "mime_prefix": _PREFIX}}
        display({f"{_PREFIX}text/plain": repr(value), "text/plain": f"{name} = {value}"}, raw=True, metadata=key)


def written(values: dict[str, int | float | str]) -> dict[str, str]:
    """What the prose may ask for, and what it gets.

    >>> asked = written({"gain": -0.125})
    >>> asked["gain:.2f"], asked["gain"]
    ('\u22120.12', '\u22120.125')
    """
    texts = {}
    for name, value in values.items():
        for form in FORMS:
            try:
                text = format(value, form).replace("-", "\u2212")
            except ValueError:  # no number, or not a whole one
                continue
            texts[f"{name}:{form}" if form else name] = text
    return texts


def _script(values: dict[str, int | float | str]) -> str:
    state = json.dumps(written(values), ensure_ascii=False).replace("</", "<\\/")
    code = files("nslab.explore").joinpath("assets/values.js").read_text(encoding="utf-8")
    return f'<div class="ns-values"><script type="application/json">{state}</script><script>{code}</script></div>'

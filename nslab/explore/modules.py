"""Figures that compute in the page: a small ES module beside the Python function it must agree with.

The module exports two functions. ``compute(state)`` is pure: a plain JSON object in, a plain JSON object out, the same
as the Python twin to 1e-12 (:func:`parity` holds it there). ``render({el, state, compute})`` draws into ``el``.
The same HTML serves the built book (also from ``file://``) and JupyterLab; it asks nothing of a network or a kernel.
"""

from __future__ import annotations

import html
import json
import numbers
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Module", "compare", "module", "parity"]

ASSETS = Path(__file__).parent / "assets"
MOST_LISTED = 13  # a longer list of numbers is left out of the table that stands in for the figure

# Reads the module exactly as the page does: from a Blob, so that nothing but the text itself can matter.
EVALUATE = """async ([source, cases]) => {
  const url = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
  const { compute } = await import(url);
  URL.revokeObjectURL(url);
  return cases.map((state) => JSON.stringify(compute(state)));
}"""


def fold(discovery: str) -> str:
    """The discovery of a figure, folded under it."""
    summary = "<summary>What to discover</summary>"
    return f'<details class="ns-discovery">{summary}<p>{html.escape(discovery)}</p></details>'


@dataclass(frozen=True)
class Module:
    """A figure that computes in the page; build one with :func:`module`, show it as the last line of a cell.

    Attributes:
        name: the asset's name, for messages.
        source: the text of the ES module.
        twin: the Python function that ``compute`` must agree with.
        state: what the figure starts from.
        cases: states on which the two are compared.
        label: the figure's accessible name, a few words.
        alt: the figure in a sentence or two, for readers who do not see it or whose page runs no scripts.
        discovery: what a reader should find out by playing; None for what is no figure to play with.
    """

    name: str
    source: str = field(repr=False)
    twin: Callable[[dict], dict] = field(repr=False)
    state: dict = field(repr=False)
    cases: tuple[dict, ...] = field(repr=False)
    label: str
    alt: str = field(repr=False)
    discovery: str | None = field(repr=False)

    @property
    def html(self) -> str:
        """The figure as HTML, the same for the built page and for a notebook."""
        state = json.dumps(self.state, allow_nan=False, ensure_ascii=False).replace("</", "<\\/")
        return "\n".join(
            [
                f'<div class="ns-module" role="group" aria-label="{html.escape(self.label)}">',
                f"<style>{_asset('module.css')}</style>",
                f"<noscript>{self._fallback()}</noscript>",
                '<div class="ns-stage"></div>',
                fold(self.discovery) if self.discovery else "",
                f'<script type="application/json" class="ns-state">{state}</script>',
                f'<script type="text/plain" class="ns-source">{self.source}</script>',
                f"<script>{_asset('module-loader.js')}</script>",
                "</div>",
            ]
        )

    def _fallback(self) -> str:
        """What stands in where no script runs: the alternative text and the twin's numbers for the first state."""
        rows = "".join(
            f'<tr><th scope="row">{html.escape(name.replace("_", " "))}</th><td>{html.escape(text)}</td></tr>'
            for name, value in self.twin(self.state).items()
            if (text := _short(value)) is not None
        )
        return f'<p>{html.escape(self.alt)}</p><table class="ns-fallback"><tbody>{rows}</tbody></table>'

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {"text/html": self.html, "text/plain": f"{self.label}. {self.alt}"}


def module(
    source: str | Path | Sequence[str | Path],
    *,
    twin: Callable[[dict], dict],
    state: dict,
    cases: Sequence[dict] = (),
    label: str = "",
    alt: str = "",
    discovery: str | None = "",
) -> Module:
    """A figure that computes in the page, from an ES module and its Python twin.

    Args:
        source: the ``.js`` file: the name of one in ``nslab/explore/assets``, or a path. Several files are joined in
            the order given, and only the last exports ``compute`` and ``render``.
        twin: the Python function that ``compute`` must agree with: JSON-like dictionary in, JSON-like dictionary out.
        state: what the figure starts from; JSON-like.
        cases: states on which :func:`parity` compares the two.
        label: the figure's accessible name, a few words.
        alt: the figure in a sentence or two.
        discovery: what a reader should find out by playing; shown folded under the figure. None, written out, leaves
            it away: a self-check has nothing to discover.

    Raises:
        ValueError: if a text or ``cases`` is empty, a file is missing, or the source is not such a module.

    The JavaScript is ours; the contract (pure ``compute``, parity with Python) is too. *Ours.*
    """
    for argument, text, remedy in [
        ("label", label, "name the figure in a few words, as a screen reader should announce it"),
        ("alt", alt, "say in a sentence what the figure shows at its start"),
        ("discovery", discovery, "say what a reader should find out by playing"),
    ]:
        if text is not None and not text.strip():
            raise ValueError(f"{argument}={text!r} is empty: {remedy}.")
    if not cases:
        raise ValueError("cases=() is empty: give the states on which the page and its Python twin are compared.")
    files = [source] if isinstance(source, (str, Path)) else list(source)
    if not files:
        raise ValueError("source=[] names no file: give the .js file of the module.")
    text = "\n".join(_read(each) for each in files)
    name = Path(files[-1]).name
    for function in ("compute", "render"):
        if not re.search(rf"^export (async )?function {function}\(", text, re.MULTILINE):
            raise ValueError(f"source={name!r} does not export {function}: write `export function {function}(...)`.")
    if found := re.search(r"</script|<!--|^import\s", text, re.IGNORECASE | re.MULTILINE):
        raise ValueError(f"source={name!r} contains {found.group()!r}, which cannot stand in a page: write it apart.")
    try:
        json.dumps([state, list(cases)], allow_nan=False)
    except (TypeError, ValueError) as error:
        message = f"state and cases must be JSON ({error}): use dict, list, str, bool, None, finite numbers."
        raise ValueError(message) from error
    return Module(name, text, twin, state, tuple(cases), label, alt, discovery)


def parity(figure: Module, page: Any, tolerance: float = 1e-12) -> list[str]:
    """Where the page and its Python twin disagree, over every case; an empty list is a pass.

    Args:
        figure: the figure.
        page: a Playwright page (synchronous); the module is read there from its text alone.
        tolerance: allowed difference, absolute below 1 and relative above.

    Returns:
        One line a difference: the case, the place in the result and the two values.
    """
    answers = page.evaluate(EVALUATE, [figure.source, list(figure.cases)])
    found = []
    for k, (case, answer) in enumerate(zip(figure.cases, answers, strict=True)):
        found += compare(json.loads(answer), figure.twin(case), f"{figure.name} case {k}", tolerance)
    return found


def compare(page: Any, twin: Any, where: str = "result", tolerance: float = 1e-12) -> list[str]:
    """The differences between two JSON-like values, as lines; numbers within ``tolerance``, the rest equal.

    >>> compare({"mean": 0.25, "n": 2}, {"mean": 0.5, "n": 2})
    ['result.mean: page 0.25, twin 0.5']
    """
    if isinstance(page, Mapping) and isinstance(twin, Mapping):
        lines = [f"{where}.{key}: only in the page" for key in page if key not in twin]
        lines += [f"{where}.{key}: only in the twin" for key in twin if key not in page]
        for key in page:
            if key in twin:
                lines += compare(page[key], twin[key], f"{where}.{key}", tolerance)
        return lines
    if isinstance(page, list) and isinstance(twin, (list, tuple)):
        if len(page) != len(twin):
            return [f"{where}: page has {len(page)} entries, twin {len(twin)}"]
        return [
            line
            for k, (a, b) in enumerate(zip(page, twin, strict=True))
            for line in compare(a, b, f"{where}[{k}]", tolerance)
        ]
    if _is_number(page) and _is_number(twin):
        equal = abs(page - twin) <= tolerance * max(1.0, abs(twin))
    else:
        equal = type(page) is type(twin) and page == twin
    return [] if equal else [f"{where}: page {page!r}, twin {twin!r}"]


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")


def _read(source: str | Path) -> str:
    for path in (ASSETS / source, Path(source)):
        if path.is_file():
            return path.read_text(encoding="utf-8")
    known = ", ".join(sorted(path.name for path in ASSETS.glob("*.js")))
    raise ValueError(f"source={str(source)!r} is no file: give a path, or one of {known}.")


def _short(value: Any) -> str | None:
    """A value as a reader would write it, or None for what is too long to stand in a table."""
    if isinstance(value, str):
        return value or None
    if _is_number(value):
        return f"{value:.4g}"
    if isinstance(value, list) and value and len(value) <= MOST_LISTED and all(map(_is_number, value)):
        return ", ".join(f"{each:.4g}" for each in value)
    return None

"""Docstrings are written for people who read code: backticks, dollars, bare stars. Autodoc wants reStructuredText."""

import re

from sphinx.application import Sphinx

_HELD = re.compile(
    r":\w+:`[^`]+`"  # a role
    r"|``[^`]+``|`(?P<code>[^`\n]+)`"
    r"|\$\$(?P<display>[^$]+)\$\$|(?<![\\\w])\$(?! )(?P<math>[^$]+?)(?<! )\$(?!\w)"
    r"|(?<![\w*)])\*\*[A-Za-z][^*]*\*\*(?!\w)|(?<![\w*)])\*[A-Za-z][^*\s]*\*(?!\w)"  # bold, emphasis
)
_MODULES = re.compile(r"~?\b(?:[a-z_]\w*\.)+(?=[A-Za-z])|~")
_SECTION = re.compile(r"[A-Z][\w ]*:$")
_WHOLE: dict[str, list[str]] = {}  # translated docstrings of properties, while napoleon reads them
_DOCTEST = re.compile(r"((?:^ *>>> .*\n?(?:^ *\S.*\n?)*)+)", re.MULTILINE)


def translate(text: str) -> str:
    r"""``$x$`` to a math role, single backticks to literals, and stray stars and bars to themselves.

    >>> translate("the level `k` of $f$, shape (*batch, 2**n), |S| <= k, see :func:`wht`; **never** more")
    'the level ``k`` of :math:`f`, shape (\\*batch, 2\\*\\*n), \\|S\\| <= k, see :func:`wht`; **never** more'
    """
    held: list[str] = []

    def hold(found: re.Match) -> str:
        math = found["display"] or found["math"]
        held.append(f":math:`{math.strip()}`" if math else f"``{found['code']}``" if found["code"] else found[0])
        return f"\x00{len(held) - 1}\x00"

    text = re.sub(r"([*|])|(?<=\w)(_)(?![\w])", r"\\\1\2", _HELD.sub(hold, text))
    return re.sub(r"\x00(\d+)\x00", lambda found: held[int(found[1])], text)


def process(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Autodoc's hook: translate a docstring in place; doctests and indented blocks are shown as they are."""
    parts = _DOCTEST.split("\n".join(lines))
    text = "".join(part if k % 2 else "".join(_paragraphs(part)) for k, part in enumerate(parts))
    lines[:] = text.split("\n")
    if what == "property" and not any(_SECTION.match(line) for line in lines):
        _WHOLE[name] = list(lines)


def translate_type(line: str) -> str:
    r"""A line in which napoleon gives an attribute's type, without modules and its stars escaped; others as they are.

    >>> translate_type(":vartype heads: jaxtyping.Float[Tensor, '*batch width']")
    ":vartype heads: Float[Tensor, '\\*batch width']"
    >>> translate_type(":ivar heads: a *word*")
    ':ivar heads: a *word*'
    """
    return _MODULES.sub("", line).replace("*", r"\*") if line.lstrip().startswith((":vartype ", ":type")) else line


def process_types(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Autodoc's hook after napoleon, which takes the types of attributes from annotations.

    It also takes what stands before the first colon of a property for its type; that text is put back.
    """
    lines[:] = _WHOLE.pop(name, None) or map(translate_type, lines)


def process_signature(
    app: Sphinx, what: str, name: str, obj: object, options: object, signature: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    """Autodoc's hook: types by their own names, as the source writes them."""
    return tuple(text and _MODULES.sub("", text) for text in (signature, returns))


def _paragraphs(text: str):
    """Running text translated; a block indented after a blank line, outside any section, as a literal block."""
    pieces = re.split(r"((?<=\n\n)(?:    .*\n?|\n(?=    ))+)", text)
    before = ""
    for piece in pieces:
        indented = piece.startswith("    ") and before.rstrip().split("\n")[-1][:1].strip()
        yield f"::\n\n{piece}\n" if indented else translate(piece)
        before = piece

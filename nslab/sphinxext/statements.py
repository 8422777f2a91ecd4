r"""What a claim states, written into the chapter that shows its card: JupyterLab shows this text in the card's place.

    python -m nslab.sphinxext.statements book/ch*.md

brings chapters up to date with `book/claims`, and a test sees to it that nothing is left to do. The built book ignores
the text (`nslab.sphinxext.dialect`).
"""

import re
import sys
from collections.abc import Mapping
from pathlib import Path

from nslab.claims import load_folder
from nslab.sphinxext.dialect import ADMONITION

WHERE = "The built book shows how our check of this claim stands; `nslab claims` prints it."


def with_statements(text: str, statements: Mapping[str, str]) -> str:
    r"""The chapter with what each claim states in the claim's admonition.

    Args:
        text: the chapter.
        statements: what each claim states, by its id; the admonition of another claim stays as it is.

    >>> print(with_statements("```{admonition} Claim 1.2-a\n:class: claim\nOld.\n```", {"1.2-a": "New."}))
    ```{admonition} Claim 1.2-a
    :class: claim
    :name: claim-1-2-a
    New.
    <BLANKLINE>
    The built book shows how our check of this claim stands; `nslab claims` prints it.
    ```
    """

    def card(found: re.Match) -> str:
        title, kind, _ = found.groups()
        name = title.removeprefix("Claim ")
        if kind != "claim" or name not in statements:
            return found[0]
        label = re.sub(r"[^a-z0-9]+", "-", f"claim-{name.lower()}")  # as `claims.anchor`, which needs docutils
        return f"```{{admonition}} {title}\n:class: claim\n:name: {label}\n{statements[name].strip()}\n\n{WHERE}\n```"

    return ADMONITION.sub(card, text)


def main(paths: list[str]) -> None:
    """Rewrite chapters in place, with the claims that lie beside them; print those that changed."""
    for path in map(Path, paths):
        text = path.read_text(encoding="utf-8")
        statements = {claim.id: claim.statement for claim in load_folder(path.parent / "claims")}
        if (new := with_statements(text, statements)) != text:
            path.write_text(new, encoding="utf-8")
            print(path)


if __name__ == "__main__":
    main(sys.argv[1:])

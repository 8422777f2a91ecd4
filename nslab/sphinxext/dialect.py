"""Our own directives, written in chapters as admonitions, so that JupyterLab has something sensible to show.

JupyterLab renders the standard directives and puts a red box in the place of any other. A chapter therefore writes

    ```{admonition} Claim 2602.08287-lemma-1
    :class: claim
    :name: claim-2602-08287-lemma-1
    The statement of the claim, from book/claims.
    ```

and, under its title, an admonition "Study time: 60 minutes" of class ``chapter-head``. Before a page is parsed they
become ``{claim} 2602.08287-lemma-1`` and ``{chapter-head}`` with ``:study: 60``. `nslab.sphinxext.statements`
writes the statements, and the names that references lead to.
"""

import re

ADMONITION = re.compile(
    r"^```\{admonition\} ([^\n]*)\n:class: (claim|chapter-head)\n(.*?)^```$", re.DOTALL | re.MULTILINE
)
_TITLES = {"claim": re.compile(r"Claim (\S+)"), "chapter-head": re.compile(r"Study time: (\d+) minutes")}


def translate(text: str) -> tuple[str, list[str]]:
    r"""The chapter with our directives in place of their admonitions, line for line; and what could not be read.

    >>> translate("```{admonition} Study time: 60 minutes\n:class: chapter-head\nMeasured.\n```\n")
    ('```{chapter-head}\n:study: 60\n```\n\n', [])
    """
    problems = []

    def directive(found: re.Match) -> str:
        title, name, body = found.groups()
        read = _TITLES[name].fullmatch(title)
        if read is None:
            problems.append(
                f"an admonition of class {name} has the title {title!r}; write it as {_TITLES[name].pattern}"
            )
            return found[0]
        blank = "\n" * body.count("\n")  # below the fence: our directives take no content
        if name == "claim":
            return f"```{{claim}} {read[1]}\n```\n{blank}"
        return f"```{{chapter-head}}\n:study: {read[1]}\n```{blank}"

    return ADMONITION.sub(directive, text), problems

"""The ``{val}`` role: a number in the prose is one that the chapter computed and handed over with ``publish``."""

from docutils import nodes
from myst_nb.core.variables import RetrievalError, format_plain_text
from myst_nb.ext.glue.utils import retrieve_glue_data
from sphinx.util.docutils import SphinxRole


class ValueRole(SphinxRole):
    """``{val}`gain:.3f``` prints the published number ``gain`` in the given format; an unknown name is a warning."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """Look the value up in the outputs of this chapter."""
        name, _, form = self.text.partition(":")
        try:
            text = retrieve_glue_data(self.inliner.document, name).data["text/plain"]
            shown = format_plain_text(text, form or "s").replace("-", "−")
        except (RetrievalError, KeyError, ValueError) as problem:
            message = self.inliner.reporter.warning(f"val: {name!r}: {problem}; publish it in a cell of this chapter")
            return [nodes.problematic(self.rawtext, self.rawtext)], [message]
        return [nodes.inline(shown, shown, classes=["ns-val"])], []

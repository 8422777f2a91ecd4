"""A small book, built in this process with the project's extension."""

import io

import pytest
from sphinx.application import Sphinx
from sphinx.util.docutils import docutils_namespace


@pytest.fixture
def sphinx_build(tmp_path):
    """``sphinx_build()``: build the pages that lie in ``tmp_path`` into ``out-<builder>``; returns the warnings."""

    def build(builder: str = "html") -> str:
        warnings = io.StringIO()
        with docutils_namespace():
            Sphinx(
                tmp_path,
                None,
                tmp_path / f"out-{builder}",
                tmp_path / "trees",
                builder,
                status=None,
                warning=warnings,
                confoverrides={
                    "extensions": ["myst_nb", "nslab.sphinxext"],
                    "myst_enable_extensions": ["dollarmath"],
                    "nb_execution_mode": "cache",
                    "nb_execution_cache_path": str(tmp_path / "cache"),
                    "html_theme": "basic",
                    "exclude_patterns": ["_build", "out-*", "book", "cache", "jupyter_execute"],
                },
            ).build()
        return warnings.getvalue()

    return build

"""The book's Sphinx extension: static figures, an honest execution cache, chapter heads, numbers, offline mathematics.

It runs in the builder's own process, so nothing here may import torch.
"""

import os
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.environment import BuildEnvironment
from sphinx.util import logging

from nslab import __version__
from nslab.sphinxext import cache, claims, dialect, docstrings, head, values

logger = logging.getLogger(__name__)
ASSETS = Path(__file__).parents[1] / "explore" / "assets"
MAX_PAGE_BYTES = 2_000_000


def configure(app: Sphinx, config: Config) -> None:
    """Tell kernels that no kernel will be there later, and serve scripts, styles and MathJax from the book itself."""
    os.environ["NSLAB_STATIC"] = "1"
    # One thread: the same bits on any number of cores, and no cores spinning against each other on a busy machine.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ["IPYTHONDIR"] = str(head.kernel_profile(Path(app.srcdir) / "_build"))
    config.html_static_path.append(str(ASSETS))
    if (Path(app.srcdir) / "book/_static/vendor/mathjax/tex-chtml.js").exists():
        config.mathjax_path = "vendor/mathjax/tex-chtml.js"
    # MathJax's menu would make every formula a tab stop; the hidden MathML for screen readers stays.
    config.mathjax3_config = {"options": {"enableMenu": False}}


def weigh_pages(app: Sphinx, exception: Exception | None) -> None:
    """A page over the budget of 2 MB is a warning, which fails the build."""
    if exception:
        return
    for page in Path(app.outdir).rglob("*.html"):
        if (size := page.stat().st_size) > MAX_PAGE_BYTES:
            logger.warning("%s weighs %.1f MB, over %.0f MB", page.name, size / 1e6, MAX_PAGE_BYTES / 1e6)


def forget_failure(app: Sphinx, exception: Exception | None) -> None:
    """After a build with warnings the next one reads every page again; else it would pass in silence."""
    if app._warncount:
        Path(app.doctreedir, "environment.pickle").unlink(missing_ok=True)


def read_source(app: Sphinx, docname: str, source: list[str]) -> None:
    """Give a chapter its cache key and its kernel the place to report what it used."""
    text = source[0]
    if not cache.is_chapter(text):
        return
    key = cache.chapter_key(text, Path(app.srcdir))
    cache.remember(app.env, docname, key)
    os.environ["NSLAB_USAGE"] = str(cache.usage_path(app.srcdir, docname, key))
    text, problems = dialect.translate(text)
    for problem in problems:
        logger.warning(problem, location=docname)
    source[0] = cache.with_key(text, key)


def name_folds(app: Sphinx, pagename: str, templatename: str, context: dict, doctree: object) -> None:
    """A fold is announced by what it says ("Show the source"), not by a label that hides it."""
    if "body" in context:
        context["body"] = context["body"].replace('<summary aria-label="Toggle hidden content">', "<summary>")


def outdated(app: Sphinx, env: BuildEnvironment, added: set, changed: set, removed: set) -> list[str]:
    """Chapters whose key no longer fits the sources: the package changed although their text did not."""
    return cache.outdated(env, Path(app.srcdir))


def setup(app: Sphinx) -> dict:
    """Register everything."""
    app.connect("config-inited", configure, priority=100)
    app.connect("env-get-outdated", outdated)
    app.connect("source-read", read_source)
    app.setup_extension("sphinx.ext.autodoc")
    app.connect("autodoc-process-docstring", docstrings.process, priority=100)  # before napoleon reads the sections
    app.connect("autodoc-process-docstring", docstrings.process_types, priority=900)  # and after
    app.connect("autodoc-process-signature", docstrings.process_signature)
    app.connect("html-page-context", name_folds)
    app.connect("build-finished", head.write_notebooks)
    app.connect("build-finished", weigh_pages)
    app.connect("build-finished", forget_failure)
    app.add_directive("chapter-head", head.ChapterHead)
    app.add_role("val", values.ValueRole())
    claims.setup(app)
    app.add_css_file("explore.css")
    app.add_js_file("explore.js", loading_method="defer")
    return {"version": __version__, "parallel_read_safe": False, "parallel_write_safe": True}

"""The head of a chapter: what it costs to read and to run, measured, and the chapter as a notebook to take away."""

import json
from html import escape
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from nslab.sphinxext.cache import usage_path

MAX_CPU_SECONDS = 15

_STARTUP = '''\
"""Report what this kernel has used after every cell, so that the chapter's head can print it."""
import json, os, resource, sys
def _peak_bytes(used):
    try:  # getrusage's peak starts from that of the process that started this one; the kernel's own is here
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
def _report(*_):
    used = resource.getrusage(resource.RUSAGE_SELF)
    text = json.dumps({"cpu_seconds": used.ru_utime + used.ru_stime, "peak_bytes": _peak_bytes(used)})
    with open(os.environ["NSLAB_USAGE"], "w") as file:
        file.write(text)
if "NSLAB_USAGE" in os.environ:
    get_ipython().events.register("post_run_cell", _report)
'''
_QUIET = "c.IPKernelApp.log_level = 40  # the warning about TCP without encryption, once a kernel, helps nobody here\n"


def kernel_profile(build: Path) -> Path:
    """An IPython folder for the book's kernels; returns its path."""
    profile = build / "ipython" / "profile_default"
    (profile / "startup").mkdir(parents=True, exist_ok=True)
    for path, text in ((profile / "startup/10-usage.py", _STARTUP), (profile / "ipython_kernel_config.py", _QUIET)):
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
    return build / "ipython"


def _minutes(text: str) -> int:
    return directives.positive_int(text)


class ChapterHead(SphinxDirective):
    """``{chapter-head}`` with ``:study:`` in minutes: study time, measured compute time and memory, downloads."""

    option_spec = {"study": _minutes}  # noqa: RUF012 (docutils' protocol)

    def run(self) -> list[nodes.Node]:
        """Read the usage report: the chapter has been executed, or taken from the cache, before its text is read."""
        if "study" not in self.options:
            raise self.error("chapter-head needs :study: the minutes a reader should plan for")
        key = getattr(self.env, "nslab_keys", {}).get(self.env.docname)
        if key is None:
            raise self.error("chapter-head stands in a page without code; it belongs to executed chapters")
        path = usage_path(self.env.srcdir, self.env.docname, key)
        if not path.exists():
            raise self.error("this chapter has no usage report; run `make clean book` once")
        used = json.loads(path.read_text())
        name = Path(self.env.docname).name
        tiers = [
            ("Study", f"{self.options['study']} min", "Planned reading time with the self-checks"),
            ("Compute", f"{used['cpu_seconds']:.0f} s", "CPU seconds of the last execution, imports included"),
            ("Memory", f"{used['peak_bytes'] / 1e6:.0f} MB", "Peak memory of the last execution"),
        ]
        cells = "".join(
            f'<div title="{escape(why)}"><dt>{what}</dt><dd>{value}</dd></div>' for what, value, why in tiers
        )
        kinds = (("ipynb", "Notebook"), ("md", "MyST source"))
        links = " ".join(f'<a href="../_notebooks/{name}.{end}" download>{text}</a>' for end, text in kinds)
        html = f'<div class="ns-head"><dl>{cells}</dl><p class="ns-downloads">Take it away: {links}</p></div>'
        return [nodes.raw("", html, format="html")]


def write_notebooks(app: Sphinx, exception: Exception | None) -> None:
    """Beside the pages, every chapter as ``.ipynb`` (no outputs) and ``.md``, for the links in its head."""
    if exception or app.builder.format != "html":
        return
    folder = Path(app.outdir) / "_notebooks"
    folder.mkdir(exist_ok=True)
    for docname in getattr(app.env, "nslab_keys", {}):
        source = Path(app.env.doc2path(docname))
        if not source.exists():
            continue
        text = source.read_text(encoding="utf-8")
        copy, notebook = folder / f"{source.stem}.md", folder / f"{source.stem}.ipynb"
        if notebook.exists() and copy.exists() and copy.read_text(encoding="utf-8") == text:
            continue
        import jupytext  # slow to import, and most builds change nothing

        copy.write_text(text, encoding="utf-8")
        notebook.write_text(jupytext.writes(jupytext.reads(text, fmt="md:myst"), fmt="ipynb"), encoding="utf-8")

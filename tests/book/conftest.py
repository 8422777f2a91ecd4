"""The built book and its chapters, once a test run."""

import subprocess
import sys
from pathlib import Path

import jupytext
import pytest

ROOT = Path(__file__).parents[2]
CHAPTERS = sorted(
    path for path in (ROOT / "book").glob("*.md") if "kernelspec:" in path.read_text(encoding="utf-8")[:600]
)


@pytest.fixture(scope="session")
def book() -> Path:
    """The folder of the built pages; builds what is not up to date, warnings as errors."""
    builder = Path(sys.executable).with_name("jupyter-book")
    run = subprocess.run(
        [builder, "build", ".", "-W", "--keep-going"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert run.returncode == 0, f"the book does not build:\n{run.stdout[-4000:]}\n{run.stderr[-4000:]}"
    return ROOT / "_build/html"


@pytest.fixture(scope="session")
def chapter():
    """``chapter("ch01-sensitivity")``: the names that a chapter's code defines, executed once, in this process."""
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.utils.capture import capture_output

    done = {}

    def run(stem: str) -> dict:
        if stem not in done:
            shell = InteractiveShell()
            for cell in jupytext.read(ROOT / "book" / f"{stem}.md").cells:
                if cell.cell_type == "code":
                    with capture_output():
                        result = shell.run_cell(cell.source)
                    result.raise_error()
            done[stem] = shell.user_ns
        return done[stem]

    return run


@pytest.fixture
def open_page(browser, book):
    """``open_page("book/ch01-sensitivity.html", dark=True, width=390)``: a page from disk, network off, errors kept.

    The page's ``problems`` list holds every error and every request that is not for a file of the book.
    """
    contexts = []

    def open_(name: str, *, dark: bool = False, width: int = 1280, height: int = 900):
        context = browser.new_context(
            offline=True, viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light"
        )
        contexts.append(context)
        theme = "dark" if dark else "light"
        context.add_init_script(f"localStorage.setItem('mode', '{theme}'); localStorage.setItem('theme', '{theme}')")
        page = context.new_page()
        page.problems = []
        page.on("pageerror", lambda error: page.problems.append(f"page error: {error}"))
        page.on("console", lambda note: page.problems.append(f"console: {note.text}") if note.type == "error" else None)
        page.on("request", lambda request: _outside(page, request.url))
        page.on("requestfailed", lambda request: page.problems.append(f"failed: {request.url}"))
        page.goto((book / name).as_uri())
        page.wait_for_load_state("load")
        return page

    yield open_
    for context in contexts:
        context.close()


def _outside(page, url: str) -> None:
    if not url.startswith(("file:", "data:", "blob:")):
        page.problems.append(f"request: {url}")

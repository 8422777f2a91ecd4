"""One live run in JupyterLab: open a chapter, run all, move a slider, answer, save, and open it again the next day."""

import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from playwright import sync_api as playwright

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.lab, pytest.mark.browser]


@pytest.fixture
def lab(tmp_path):
    """JupyterLab on a loopback port, in a copy of the book, so that saving leaves the tree alone."""
    for name in ("book", "nslab"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "vendor"))
    shutil.copy(ROOT / "jupytext.toml", tmp_path)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        Path(sys.executable).with_name("jupyter"),
        "lab",
        "--no-browser",
        "--expose-app-in-browser",
        "--ip=127.0.0.1",
    ]
    command += [f"--port={port}", "--allow-root", "--IdentityProvider.token=", f"--ServerApp.root_dir={tmp_path}"]
    with open(tmp_path / "lab.log", "w") as log:
        server = subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=subprocess.STDOUT)
        try:
            for _ in range(120):
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/api", timeout=2).close()
                    break
                except OSError:
                    time.sleep(0.5)
            else:
                pytest.fail(f"JupyterLab did not start:\n{(tmp_path / 'lab.log').read_text()[-3000:]}")
            yield f"http://127.0.0.1:{port}", tmp_path
        finally:
            server.terminate()
            server.wait(30)


OPEN = "() => window.jupyterapp?.shell?.currentWidget?.sessionContext && true"
READY = """async () => {
  const widget = window.jupyterapp.shell.currentWidget;
  await widget.context.ready;
  await widget.sessionContext.ready;
  return widget.context.path;
}"""
GO_TO = """([kind, words]) => {
  const notebook = window.jupyterapp.shell.currentWidget.content;
  const sought = (cell) => cell.model.type === kind && cell.model.sharedModel.getSource().includes(words);
  notebook.activeCellIndex = notebook.widgets.findIndex(sought);
  return notebook.scrollToItem(notebook.activeCellIndex, "start");
}"""
ALL_RUN = """() => window.jupyterapp.shell.currentWidget.content.widgets
  .filter((cell) => cell.model.type === "code")
  .every((cell) => cell.model.executionState !== "running" && cell.model.executionCount)"""


def test_a_chapter_runs_live_in_jupyterlab(browser, lab):
    address, folder = lab
    context = browser.new_context(viewport={"width": 1280, "height": 1000})
    page = context.new_page()
    outside = []
    page.on(
        "request",
        lambda request: (
            None
            if request.url.startswith((address, "data:", "blob:", address.replace("http", "ws")))
            else outside.append(request.url)
        ),
    )
    page.goto(f"{address}/lab/tree/book/ch01-sensitivity.md?reset")
    page.wait_for_function(OPEN, timeout=120_000, polling=300)
    assert page.evaluate(READY) == "book/ch01-sensitivity.md"
    page.evaluate("window.jupyterapp.commands.execute('notebook:run-all-cells')")

    live = page.locator(".ns-explore-live", has_text="correlation ρ of the votes")
    page.wait_for_function(ALL_RUN, timeout=240_000, polling=500)
    page.evaluate(GO_TO, ["code", "def tower("])
    live.locator("svg").first.wait_for(timeout=30_000)
    before = live.locator("[role=img]").get_attribute("aria-label")
    handle = live.locator(".noUi-handle").last
    handle.focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function(
        "([node, old]) => node.querySelector('[role=img]').getAttribute('aria-label') !== old",
        arg=[live.element_handle(), before],
        timeout=30_000,
    )
    after = live.locator("[role=img]").get_attribute("aria-label")
    assert "after layer 3" in before
    assert "after layer 4" in after

    active = page.locator(".jp-Cell.jp-mod-active")
    page.evaluate(GO_TO, ["markdown", "California has influence {val}"])
    playwright.expect(active).to_contain_text(re.compile(r"California has influence 0\.457, Wyoming 0\.0189"))

    page.evaluate(GO_TO, ["code", "Influence of a voter in a majority of 5"])
    active.locator("input").fill("3/8")
    active.locator("input").press("Enter")
    playwright.expect(active.locator("[role=status]")).to_contain_text("Right.")

    page.evaluate("window.jupyterapp.commands.execute('docmanager:save')")
    pair = folder / "notebooks" / "ch01-sensitivity.ipynb"
    deadline = time.monotonic() + 30
    while not pair.exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert pair.exists(), "saving wrote no paired notebook"
    time.sleep(1)
    assert (folder / "book/ch01-sensitivity.md").read_text() == (ROOT / "book/ch01-sensitivity.md").read_text()
    assert pair.stat().st_size < 2e6

    page.evaluate("window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")
    page.goto(f"{address}/lab/tree/book/ch01-sensitivity.md?reset")
    page.wait_for_function(OPEN, timeout=120_000, polling=300)
    page.evaluate(READY)
    page.evaluate(GO_TO, ["code", "def tower("])
    playwright.expect(active.locator(".ns-explore-still img")).to_be_visible()
    playwright.expect(active).to_contain_text("run this cell to bring its sliders to life")
    failed = active.get_by_text("model not found")
    playwright.expect(failed).to_have_count(1)
    playwright.expect(failed).to_be_hidden()
    page.evaluate(GO_TO, ["markdown", "California has influence {val}"])
    playwright.expect(active).to_contain_text("California has influence 0.457")
    assert outside == []
    context.close()

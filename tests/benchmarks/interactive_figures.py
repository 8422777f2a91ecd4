"""What a figure costs: drawing one frame when the book is built, and one step of a slider in the built page.

The book must have been built (`make book`) for the page's rows; the browser is the one that the tests use.
"""

import io
import re
import statistics
import time

import jupytext
import numpy as np

from nslab.explore import Explorer
from nslab.explore.frames import draw_frame
from nslab.style import RC
from tests.benchmarks.harness import ROOT, Row, as_long, faster

PAGES = re.findall(r"(?:root|file): book/(\S+)", (ROOT / "_toc.yml").read_text())
CHAPTERS = [name for name in PAGES if "@explore(" in (ROOT / f"book/{name}.md").read_text(encoding="utf-8")]
FRAME_BUDGET = 0.060
STEP_BUDGET = 0.016

STEPS = """(root) => {
  const sliders = [...root.querySelectorAll("input[type=range]")], times = [];
  for (const slider of sliders)
    for (let k = 0; k <= Number(slider.max); k++) {
      slider.value = k;
      const began = performance.now();
      slider.dispatchEvent(new Event("input"));
      root.getBoundingClientRect(); // with the layout that the step makes necessary
      times.push((performance.now() - began) / 1000);
    }
  return times;
}"""


def rows() -> list[Row]:
    """Frames against the budget and against pyplot; slider steps against the time of one screen refresh."""
    figures = [figure for chapter in CHAPTERS for figure in _explorers(chapter)]
    return [*_frames(figures), *_steps(figures)]


def _explorers(chapter: str) -> list[Explorer]:
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.utils.capture import capture_output

    shell = InteractiveShell()
    for cell in jupytext.read(ROOT / "book" / f"{chapter}.md").cells:
        if cell.cell_type == "code":
            with capture_output():
                shell.run_cell(cell.source).raise_error()
    return [value for name, value in shell.user_ns.items() if isinstance(value, Explorer) and not name.startswith("_")]


def _settings(figure: Explorer) -> list[dict]:
    """Every value of every control, the other one at its start."""
    start = {control.name: control.values[index] for control, index in zip(figure.controls, figure.start, strict=True)}
    return [{**start, control.name: value} for control in figure.controls for value in control.values]


def _pyplot(figure: Explorer, values: dict) -> None:
    """The same drawing the usual way: pyplot, constrained layout, `savefig`."""
    import matplotlib.pyplot as plt

    with plt.rc_context({**RC, "figure.constrained_layout.use": True}):
        fig, axes = plt.subplots(figure.canvas.rows, figure.canvas.columns, figsize=figure.canvas.size)
        figure.draw(list(axes.flat) if isinstance(axes, np.ndarray) else axes, **values)
        fig.savefig(io.StringIO(), format="svg")
        plt.close(fig)


def _frames(figures: list[Explorer]) -> list[Row]:
    ours, theirs = [], []
    for figure in figures:
        for values in _settings(figure):
            for found, draw in (
                (ours, lambda figure=figure, values=values: draw_frame(figure.draw, values, figure.canvas, "bench")),
                (theirs, lambda figure=figure, values=values: _pyplot(figure, values)),
            ):
                start = time.process_time()
                draw()
                found.append(time.process_time() - start)
    what, note = (
        "draw one frame, median",
        f"{len(ours)} frames of {len(figures)} figures; worst {max(ours) * 1e3:.0f} ms",
    )
    mine, pyplot = statistics.median(ours), statistics.median(theirs)
    return [
        as_long(what, mine, "budget of 60 ms", FRAME_BUDGET, 1, note),
        faster(what, mine, "pyplot, constrained layout", pyplot),
    ]


def _steps(figures: list[Explorer]) -> list[Row]:
    from playwright.sync_api import sync_playwright

    from nslab.cli import find_browser

    largest = max((figure.html for figure in figures), key=len)
    weight = f"{len(largest.encode()) / 1e3:.0f} kB"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=str(find_browser()), args=["--no-sandbox", "--disable-gpu"]
        )
        times = []
        for chapter in CHAPTERS:
            page = browser.new_context(offline=True).new_page()
            page.goto((ROOT / "_build/html/book" / f"{chapter}.html").as_uri())
            page.wait_for_selector(".ns-explore[data-started]")
            times += [page.evaluate(STEPS, figure.element_handle()) for figure in page.locator(".ns-explore").all()]
        browser.close()
    slowest = max(times, key=statistics.median)
    worst = max(map(max, times)) * 1e3
    note = f"of {len(times)} figures, the largest {weight}; worst single step {worst:.1f} ms; wall-clock"
    return [as_long("slider step, slowest figure, median", statistics.median(slowest), "16 ms", STEP_BUDGET, 1, note)]

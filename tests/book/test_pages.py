"""The built book in a real headless Chromium with the network off: it asks for nothing, errs nowhere, and moves."""

import json
import re
from pathlib import Path

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.book]

ROOT = Path(__file__).parents[2]
PAGES = re.findall(r"(?:root|file): book/(\S+)", (ROOT / "_toc.yml").read_text())
LIVE = [name for name in PAGES if "@explore(" in (ROOT / f"book/{name}.md").read_text(encoding="utf-8")]


@pytest.mark.parametrize("name", PAGES)
def test_no_page_errs_or_asks_for_anything(open_page, name):
    page = open_page(f"book/{name}.html")
    page.wait_for_timeout(400)  # scripts that load late
    assert page.problems == []
    assert page.title()
    assert page.locator("article h1").count() == 1


def test_mathematics_is_typeset_offline(open_page):
    page = open_page("book/ch01-sensitivity.html")
    page.wait_for_selector("mjx-container mjx-math")
    assert page.locator("mjx-merror").count() == 0
    assert "\\frac" not in page.locator("article").inner_text()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390], ids=["desk", "phone"])
@pytest.mark.parametrize("name", LIVE)
def test_every_slider_moves_its_figure(open_page, name, width, dark):
    page = open_page(f"book/{name}.html", dark=dark, width=width)
    figures = page.locator(".ns-explore")
    assert figures.count() >= 1
    for figure in figures.all():
        stage = figure.locator(".ns-stage")
        for slider in figure.locator("input[type=range]").all():
            before = stage.inner_html(), stage.get_attribute("aria-label"), slider.get_attribute("aria-valuetext")
            last = slider.input_value() == slider.get_attribute("max")
            slider.focus()
            page.keyboard.press("ArrowLeft" if last else "ArrowRight")
            after = stage.inner_html(), stage.get_attribute("aria-label"), slider.get_attribute("aria-valuetext")
            assert all(old != new for old, new in zip(before, after, strict=True)), figure.get_attribute("data-name")
            assert figure.locator(".ns-alt").inner_text() == after[1]
    assert page.problems == []


@pytest.mark.parametrize("name", PAGES)
def test_a_phone_scrolls_in_one_direction_only(open_page, name):
    page = open_page(f"book/{name}.html", width=390, height=800)
    overflow = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    assert overflow <= 0


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_ink_of_figures_is_readable(open_page, dark):
    page = open_page("book/ch01-sensitivity.html", dark=dark)
    contrasts = page.evaluate(
        """() => {
          const light = (colour) => {
            const [r, g, b] = colour.match(/[\\d.]+/g).map(Number).map((v) => v / 255)
              .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
          };
          const ground = (node) => {
            for (; node; node = node.parentElement) {
              const colour = getComputedStyle(node).backgroundColor;
              if (!/rgba\\(.*, 0\\)|transparent/.test(colour)) return colour;
            }
            return "rgb(255, 255, 255)";
          };
          return [...document.querySelectorAll(".ns-stage svg text")].map((text) => {
            const pair = [getComputedStyle(text).fill, ground(text.closest(".ns-stage"))].map(light);
            return (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
          });
        }"""
    )
    assert len(contrasts) > 50
    assert min(contrasts) >= 4.5


def test_play_sweeps_to_the_end_and_stops(open_page):
    page = open_page("book/ch01-sensitivity.html")
    figure = page.locator(".ns-explore[data-name=tower]")
    slider, play = figure.locator("input").last, figure.locator("button").last
    slider.focus()
    page.keyboard.press("End")
    play.click()  # from the end a sweep begins again
    assert play.get_attribute("aria-pressed") == "true"
    page.wait_for_function("button => button.getAttribute('aria-pressed') === 'false'", arg=play.element_handle())
    assert slider.input_value() == slider.get_attribute("max")


def test_frames_in_the_page_are_the_frames_of_the_package(open_page, chapter):
    """What the page shows after a step is, letter for letter, what the package draws for those values."""
    page = open_page("book/ch01-sensitivity.html")
    explorer = chapter("ch01-sensitivity")["tower"]
    figure = page.locator(".ns-explore[data-name=tower]")
    rho, layer = figure.locator("input").all()
    rho.focus()
    page.keyboard.press("Home")
    layer.focus()
    page.keyboard.press("End")
    shown = page.evaluate(
        "node => { const d = document.createElement('div'); d.innerHTML = node; return d.innerHTML }",
        explorer.frame(rho=0.0, layer=12).svg,
    )
    assert figure.locator(".ns-stage").inner_html() == shown


def test_the_largest_figure_steps_within_a_screen_refresh(open_page):
    """Not a benchmark (tests/benchmarks has that): a figure ten times too slow would fail here."""
    page = open_page("book/ch01-sensitivity.html")
    for figure in page.locator(".ns-explore").all():
        figure.locator("input").first.focus()
        page.keyboard.press("ArrowRight")
        assert float(figure.get_attribute("data-step-ms")) < 160


def test_self_checks_answer_at_once(open_page):
    page = open_page("book/ch01-sensitivity.html")
    check = page.locator(".ns-check").first
    check.locator("input").fill("1")
    check.locator("button").click()
    assert "Not yet" in check.locator("[role=status]").inner_text()
    check.locator("input").fill("7")
    page.keyboard.press("Enter")
    assert "Right" in check.locator("[role=status]").inner_text()


def test_a_chapter_can_be_taken_away_as_a_notebook(open_page, book):
    page = open_page("book/ch01-sensitivity.html")
    for link in page.locator(".ns-downloads a").all():
        target = (book / "book" / link.get_attribute("href")).resolve()
        assert target.is_file()
        if target.suffix == ".ipynb":
            cells = json.loads(target.read_text())["cells"]
            assert any("bf.majority(5)" in "".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")

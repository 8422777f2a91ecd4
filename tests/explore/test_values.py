"""Numbers for the prose: the book's builder finds them in the outputs, and in JupyterLab a script puts them there."""

import re
from pathlib import Path

import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

from nslab.explore import publish
from nslab.explore.values import FORMS, written

BOOK = Path(__file__).parents[2] / "book"
CELL = """<div class="myst"><p>It is <span>gain:.2f</span>, not <span>loss:.2f</span>, in <span>name</span>;
  <span class="katex">gain</span> and <span><b>gain</b></span> stay.</p></div>"""
INSERT = """([place, html]) => {
  const host = document.querySelector(place).appendChild(document.createElement("div"));
  host.innerHTML = html;
  for (const script of host.querySelectorAll("script:not([type])")) {
    const copy = document.createElement("script"); copy.textContent = script.textContent; script.replaceWith(copy);
  }
}"""


def output(**values):
    InteractiveShell.instance()  # without a shell `display` prints
    with capture_output() as shown:
        publish(**values)
    return shown.outputs


def test_every_form_that_a_chapter_asks_for_is_written_as_python_writes_it():
    texts = written({"x": -1234.5678, "n": 12345, "word": "ten"})
    assert texts["x:.2f"] == "−1234.57"
    assert texts["n:,d"] == "12,345"
    assert texts["n:.1f"] == "12345.0"
    assert "x:d" not in texts, "a float is no whole number"
    assert {key for key in texts if key.startswith("word")} == {"word", "word:s"}
    asked = {
        form for page in BOOK.glob("*.md") for form in re.findall(r"\{val\}`\w+(?::([^`]*))?`", page.read_text("utf-8"))
    }
    assert asked <= set(FORMS)


def test_the_builder_gets_records_and_the_notebook_a_script(monkeypatch):
    (live,) = output(gain=0.5, name="ten")
    assert live.data["text/plain"] == "For the text: gain = 0.5, name = ten"
    assert "<script" in live.data["text/html"]
    monkeypatch.setenv("NSLAB_STATIC", "1")
    records = output(gain=0.5, name="ten")
    assert [record.data["application/papermill.record/text/plain"] for record in records] == ["0.5", "'ten'"]


def test_only_numbers_and_words_are_published():
    with pytest.raises(TypeError, match=r"gain is a dict; give an int, float or str \(tensors: .item\(\)\)"):
        publish(gain={})


@pytest.mark.browser
def test_the_script_fills_its_own_notebook_now_and_later(browser):
    """Two notebooks publish one name; text that appears later, or asks for something else, gets its number too."""
    page = browser.new_page()
    notebooks = "".join(f'<div class="jp-Notebook" id="{name}">{CELL}</div>' for name in ("one", "two"))
    page.set_content(f"<!doctype html><body>{notebooks}</body>")
    page.evaluate(INSERT, ["#one", output(gain=-0.123, name="</script>")[0].data["text/html"]])
    page.evaluate(INSERT, ["#two", output(gain=7.0)[0].data["text/html"]])
    first = page.locator("#one .myst span")
    assert first.all_text_contents() == ["−0.12", "loss:.2f", "</script>", "gain", "gain"]
    assert page.locator("#two .myst span").first.text_content() == "7.00"
    first.first.evaluate("node => { node.textContent = 'loss:.2f'; }")  # the text was edited
    page.evaluate(INSERT, ["#one", output(loss=3.0)[0].data["text/html"]])
    assert first.all_text_contents()[:2] == ["3.00", "3.00"]
    page.evaluate(INSERT, ["#one", output(loss=4.0)[0].data["text/html"]])  # the cell ran again
    page.evaluate(INSERT, ["#one", CELL])
    page.wait_for_function("() => document.querySelector('#one > div:last-child span').textContent === '−0.12'")
    assert first.all_text_contents()[:2] == ["4.00", "4.00"]
    page.close()

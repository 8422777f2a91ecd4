"""A real browser, and pages that hold one figure as the built book does: from disk, with the network off."""

import pytest


@pytest.fixture
def show(browser, tmp_path):
    """``show(figure, ...)``: a page from disk with these figures, in order; problems on the page fail the test."""
    contexts, problems = [], []

    def show_(*figures, width=800, ready=True, expect_problems=False):
        body = "".join(
            f'<div class="cell_output"><div class="text_html">{figure.html}</div></div>' for figure in figures
        )
        path = tmp_path / f"page{len(contexts)}.html"
        path.write_text(f'<!doctype html><meta charset="utf-8"><title>t</title><body>{body}</body>', encoding="utf-8")
        contexts.append(browser.new_context(offline=True, viewport={"width": width, "height": 900}))
        page = contexts[-1].new_page()
        if not expect_problems:
            page.on("pageerror", lambda error: problems.append(str(error)))
            page.on("console", lambda note: problems.append(note.text))
        page.goto(path.as_uri())
        if ready:
            page.wait_for_function("[...document.querySelectorAll('.ns-stage')].every((e) => e.childElementCount)")
        return page

    yield show_
    for context in contexts:
        context.close()
    assert not problems

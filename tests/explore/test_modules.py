"""Figures that compute in the page: each agrees with its Python twin, starts anywhere, and says what goes wrong."""

import json
import re

import pytest

from nslab.explore.barrier_walls import five_walls
from nslab.explore.layers import layer_explorer
from nslab.explore.modules import ASSETS, compare, module, parity
from nslab.explore.parameter_detective import parameter_detective
from nslab.explore.plurality import plurality_vote
from nslab.explore.predictions import predict
from nslab.explore.preference_plane import preference_plane
from nslab.explore.recorded_runs import training_run
from nslab.explore.selfcheck import choice_check, numeric_check
from nslab.explore.token_plane import token_plane
from nslab.explore.training_in_page import live_training
from nslab.explore.training_with_barrier import barrier_training
from nslab.explore.truthtable import truth_table
from nslab.explore.winner_cycle import winner_cycle
from tests.explore.histories import made_up_run

FIGURES = {  # every module of the package; `test_every_module_is_held_to_its_twin` sees to it
    "predict": predict(
        [0, 1, 2.5, 4],
        [0.0, 1.0, 1.5, 1.7],
        label_x="layer",
        label_y="share",
        prompt="How does the share grow?",
        alt="It grows fast, then slowly.",
        discovery="Growth slows down.",
        distractors=[
            ("a straight line", [0, 0.5, 1.2, 1.9], "Growth is not constant."),
            ("a fall", [1.5, 1.0, 0.5, 0.1], "It does not fall."),
        ],
    ),
    "truth-table": truth_table(),
    "plurality vote": plurality_vote(),
    "layer-explorer": layer_explorer(),
    "live training": live_training(),
    "token plane": token_plane(query=(0.3, 0.5)),
    "five walls": five_walls(),
    "barrier training": barrier_training(),
    "preference plane": preference_plane(),
    "winner cycle": winner_cycle(),
    "parameter detective": parameter_detective(),
    "training-run": training_run(
        [made_up_run(), made_up_run(11, 5, 9, attention=True), made_up_run(p=6, train=None)],
        discovery="Last, the rest.",
    ),
    "self-check, a number": numeric_check(
        label="Total influence of parity on 8 bits",
        answer=8.0,
        mistakes=[(1.0, "That is one bit's.")],
        right="Each flips.",
    ),
    "self-check, a choice": choice_check(
        label="Which is least stable?", options=[("parity", True, "Yes."), ("a dictator", False, "It is the most.")]
    ),
}
SOURCE = """
export function compute({ n }) { return { twice: 2 * n, name: "n is " + n }; }
export function render({ el, state, compute }) {
  el.innerHTML = `<button type="button">${compute(state).twice}</button>`;
  el.firstChild.onclick = () => { throw new Error("the button broke"); };
}
"""


def twice(state):
    return {"twice": 2 * state["n"], "name": f"n is {state['n']}"}


@pytest.fixture
def make(tmp_path):
    def make_(source=SOURCE, **changes):
        path = tmp_path / "tiny.js"
        path.write_text(source, encoding="utf-8")
        texts = {"label": "Twice", "alt": "Twice a number.", "discovery": "It doubles."}
        return module(
            path, **{"twin": twice, "state": {"n": 3}, "cases": [{"n": k} for k in range(4)], **texts, **changes}
        )

    return make_


@pytest.mark.browser
@pytest.mark.parametrize("name", FIGURES)
def test_page_agrees_with_twin(name, browser):
    """compute in Chromium equals the Python twin to 1e-12 on every case."""
    page = browser.new_page()
    assert parity(FIGURES[name], page) == []
    page.close()


def test_every_module_is_held_to_its_twin():
    """Every asset that exports compute is in the list above, and no asset is too long to read."""
    modules = {path.name for path in ASSETS.glob("*.js") if "export function compute" in path.read_text("utf-8")}
    assert modules == {figure.name for figure in FIGURES.values()}
    for path in ASSETS.glob("*.js"):
        lines = path.read_text("utf-8").splitlines()
        assert len(lines) <= 350, path.name
        assert max(map(len, lines)) <= 121, path.name


@pytest.mark.browser
@pytest.mark.parametrize("name", FIGURES)
def test_every_control_has_a_name_and_keeps_its_keys(name, show):
    """Each focusable control has an accessible name, and the attribute that stops JupyterLab from taking its keys."""
    page = show(FIGURES[name])
    controls = page.locator(".ns-stage :is(input, select, button, [role=slider]), .ns-module summary")
    assert controls.count() >= 2
    for control in controls.all():
        control.evaluate("node => node.focus()")
        assert control.get_attribute("data-lm-suppress-shortcuts") == "true" or control.is_disabled()
        assert re.match(r"- (\w+ \".+\"|text: .)", control.aria_snapshot()), control.aria_snapshot()


@pytest.mark.browser
@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("width", [320, 390, 1280])
def test_nothing_is_wider_than_the_page(name, width, show):
    page = show(FIGURES[name], width=width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.browser
def test_parity_finds_a_twin_that_differs(make, browser):
    page = browser.new_page()
    assert parity(make(), page) == []
    wrong = make(twin=lambda state: {"twice": 2 * state["n"] + (state["n"] == 2) * 1e-9, "name": "n is 2"})
    found = parity(wrong, page)
    assert "tiny.js case 2.twice: page 4, twin 4.000000001" in found
    assert [line for line in found if ".name" in line] == [
        f"tiny.js case {k}.name: page 'n is {k}', twin 'n is 2'" for k in (0, 1, 3)
    ]
    page.close()


def test_compare_sees_every_kind_of_difference():
    assert compare({"a": [1, 2.0], "b": None}, {"a": [1.0, 2], "b": None}) == []
    assert compare({"a": 1}, {"b": 1}) == ["result.a: only in the page", "result.b: only in the twin"]
    assert compare([1], [1, 2]) == ["result: page has 1 entries, twin 2"]
    assert compare(True, 1) == ["result: page True, twin 1"]
    assert compare(1e6, 1e6 + 1e-7) == []
    assert compare(None, 0.0) == ["result: page None, twin 0.0"]


@pytest.mark.browser
def test_many_figures_share_a_page_and_start_once(make, show):
    """Three figures, two of them equal: each starts; running a loader again changes nothing."""
    page = show(make(), make(), make(state={"n": 5}))
    assert page.locator(".ns-stage button").all_text_contents() == ["6", "6", "10"]
    page.evaluate(
        """() => { const old = document.querySelector(".ns-module > script:last-of-type");
        const again = document.createElement("script"); again.textContent = old.textContent;
        old.previousElementSibling.previousElementSibling.parentNode.querySelector(".ns-stage").append("kept");
        old.replaceWith(again); }"""
    )
    assert page.locator(".ns-stage").first.text_content() == "6kept"


@pytest.mark.browser
def test_figure_starts_when_inserted_as_a_notebook_does(make, show):
    """JupyterLab sets innerHTML, then replaces each script by a copy, which runs."""
    page = show(make())
    page.evaluate(
        """(html) => { const host = document.createElement("div"); host.id = "lab"; document.body.append(host);
        host.innerHTML = html;
        for (const script of host.querySelectorAll("script")) {
          const copy = document.createElement("script");
          for (const { name, value } of script.attributes) copy.setAttribute(name, value);
          copy.textContent = script.textContent; script.replaceWith(copy); } }""",
        make(state={"n": 21}).html,
    )
    page.wait_for_selector("#lab button")
    assert page.locator("#lab button").text_content() == "42"


@pytest.mark.browser
@pytest.mark.parametrize("fault", ["throw new Error('no canvas')", "syntax error here ("])
def test_module_that_fails_says_so_and_shows_the_table(fault, make, show):
    """A module that throws at its start leaves a message and what a page without scripts shows."""
    page = show(make(SOURCE.replace("el.innerHTML =", f"{fault}; el.innerHTML =")), expect_problems=True)
    note = page.locator(".ns-error")
    note.wait_for()
    assert "This figure stopped" in note.text_content()
    assert page.locator(".ns-stage table").inner_text().split() == ["twice", "6", "name", "n", "is", "3"]


@pytest.mark.browser
def test_module_that_fails_later_says_so_beside_the_figure(make, show):
    page = show(make(), expect_problems=True)
    page.locator(".ns-stage button").click()
    assert "the button broke" in page.locator(".ns-error").text_content()
    assert page.locator(".ns-stage button").is_visible()


@pytest.mark.browser
def test_enter_answers_a_question_where_forms_are_not_sent(show):
    """JupyterLab keeps a form from being sent by Enter: the key is taken from the box before it gets that far."""
    page = show(FIGURES["self-check, a number"])
    page.evaluate("document.addEventListener('keydown', (event) => event.preventDefault(), true)")
    page.locator("input").fill("8")
    page.keyboard.press("Enter")
    assert page.locator("[role=status]").text_content() == "✓ Right. Each flips."


@pytest.mark.browser
def test_page_without_scripts_shows_alternative_text_and_numbers(browser):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.set_content(FIGURES["truth-table"].html)
    assert page.locator("p", has_text="total influence 1.5").is_visible()
    assert "0.5, 0.5, 0.5" in page.locator("table").inner_text()
    context.close()


def test_text_in_the_state_cannot_end_the_script(make):
    figure = make(state={"n": 3, "text": "</script><b>"}, label='a "name" & more')
    assert "</script><b>" not in figure.html
    assert 'aria-label="a &quot;name&quot; &amp; more"' in figure.html
    state = re.search(r'class="ns-state">(.*?)</script>', figure.html, re.DOTALL)[1]
    assert json.loads(state)["text"] == "</script><b>"


def test_figure_asks_nothing_of_a_network():
    for figure in FIGURES.values():
        addresses = set(re.findall(r"https?://[^\s\"'`)]+", figure.html))
        assert addresses <= {"http://www.w3.org/2000/svg"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": ""}, "label='' is empty: name the figure"),
        ({"alt": "  "}, "alt='  ' is empty: say in a sentence"),
        ({"discovery": ""}, "discovery='' is empty: say what"),
        ({"cases": []}, "cases=.* is empty: give the states"),
        ({"state": {"n": float("nan")}}, "state and cases must be JSON"),
        ({"source": "export function compute("}, "does not export render: write"),
        ({"source": "function compute() {}"}, "does not export compute: write"),
        ({"source": SOURCE + "// </script>"}, "contains '</script', which cannot stand in a page"),
        ({"source": "import x from 'y';\n" + SOURCE}, "contains 'import"),
    ],
)
def test_incomplete_module_is_refused(changes, message, make):
    with pytest.raises(ValueError, match=message):
        make(**changes)


def test_missing_file_is_refused():
    with pytest.raises(ValueError, match=r"source='nowhere.js' is no file: give a path, or one of .*truth-table.js"):
        module("nowhere.js", twin=twice, state={}, cases=[{}], label="a", alt="b", discovery="c")
    with pytest.raises(ValueError, match=r"source=\[\] names no file"):
        module([], twin=twice, state={}, cases=[{}], label="a", alt="b", discovery="c")

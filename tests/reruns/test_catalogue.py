"""The catalogue: every experiment keeps the contract, and a file that does not is told what it lacks."""

import ast
import dataclasses
import json
import re

import pytest

from nslab import reruns
from nslab.reruns import RerunError, load

WHOLE = {
    "imports": "from dataclasses import dataclass",
    "Config": "@dataclass(frozen=True)\nclass Config:\n    seeds: int = 1\n    steps: int = 2",
    "PRESETS": "PRESETS = {'quick': Config()}",
    "run": "def run(config, log, *, device): return {}",
    "phenomenon": "def phenomenon(result): return None",
}


@pytest.mark.parametrize("entry", reruns.catalogue(), ids=lambda entry: entry.name)
def test_an_experiment_of_nslab_says_what_it_is_and_has_three_presets(entry):
    assert entry.presets == ("quick", "laptop", "full")
    assert 20 <= len(entry.summary) <= 120
    assert entry.summary[-1] in ".:?"
    experiment = load(entry.name)
    assert tuple(experiment.presets) == entry.presets
    for config in experiment.presets.values():
        assert config.seeds >= 1
        assert hash(config) is not None
        json.dumps(dataclasses.asdict(config))
    source = (reruns.FOLDER / f"{entry.name.replace('-', '_')}.py").read_text()
    assert ast.get_docstring(ast.parse(source)).startswith(entry.summary)


def test_a_name_may_be_written_with_underscores():
    for name in reruns.names():
        assert load(name.replace("-", "_")).name == name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"phenomenon": ""}, "no phenomenon: an experiment has Config, PRESETS, run, phenomenon"),
        ({"run": ""}, "no run: an experiment has"),
        ({"Config": "@dataclass\nclass Config:\n    seeds: int = 1"}, "Config is no frozen dataclass"),
        ({"Config": "@dataclass(frozen=True)\nclass Config:\n    steps: int = 1"}, "the first field of Config is not"),
        ({"PRESETS": "PRESETS = {'quick': 3}"}, "PRESETS['quick'] is 3: give a Config"),
        ({"PRESETS": "PRESETS = {'a/b': Config()}"}, "PRESETS has 'a/b': name a preset in small letters"),
        ({"PRESETS": "PRESETS = {'custom': Config()}"}, "which is that of changed settings"),
    ],
)
def test_a_file_that_lacks_something_is_told_what(tmp_path, change, message):
    path = tmp_path / "mine.py"
    path.write_text("\n\n".join((WHOLE | change).values()))
    with pytest.raises(RerunError, match=re.escape(message)) as refusal:
        load(str(path))
    assert "mine.py: " in str(refusal.value)


def test_a_file_of_yours_is_an_experiment_of_its_own_name(tmp_path, monkeypatch):
    path = tmp_path / "my_walk.py"
    path.write_text("\n\n".join(WHOLE.values()))
    experiment = load(str(path))
    assert (experiment.name, experiment.code) == ("my-walk", path)
    assert experiment.presets["quick"].steps == 2
    monkeypatch.setattr(reruns, "names", lambda: ["my-walk"])
    with pytest.raises(RerunError, match="would be called 'my-walk': choose another name"):
        load(str(path))
    with pytest.raises(RerunError, match="would be called 'My Walk': choose another name"):
        load(str(path.rename(tmp_path / "My Walk.py")))


def test_an_unknown_name_gets_the_nearest(monkeypatch):
    monkeypatch.setattr(reruns, "names", lambda: ["char-gpt", "grokking"])
    with pytest.raises(
        RerunError, match=r"no experiment 'groking': did you mean 'grokking'\? There are char-gpt, grokk"
    ):
        load("groking")

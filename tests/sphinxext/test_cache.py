"""The execution cache: a chapter is executed again exactly when something that its code rests on has changed."""

import json
import re

import pytest

from nslab import records
from nslab.sphinxext import cache

HEADER = """---
jupytext:
  text_representation:
    format_name: myst
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---
"""


def chapter(code: str, prose: str = "Text.") -> str:
    return f"{HEADER}\n# Title\n\n{prose}\n\n```{{code-cell}} ipython3\n:tags: [hide-input]\n\n{code}\n```\n"


def names(code: str) -> set[str]:
    return {path.relative_to(cache.PACKAGE).as_posix() for path in cache.sources(code)}


def test_imports_are_followed_transitively_and_no_further():
    found = names("from nslab import boolean as bf")
    assert {"boolean/__init__.py", "boolean/transform.py", "estimate.py"} <= found
    assert not {"cli/__init__.py", "style.py", "explore/explorer.py"} & found
    assert "explore/frames.py" in names("from nslab.explore import explore")


def test_code_is_what_stands_in_cells_without_options():
    block = "```{code-cell} ipython3\n---\ntags: [x]\n---\na = 1\n```\n"
    colon = "```{code-cell} ipython3\n:tags: [y]\n\nc = 3\n```\n"
    text = f"{HEADER}\n{block}\n```python\nb = 2\n```\n\n{colon}"
    assert cache.code_of(text).split() == ["a", "=", "1", "c", "=", "3"]


def test_the_key_follows_code_and_data_but_not_prose(tmp_path):
    record = tmp_path / "book/records/run/result.json"
    record.parent.mkdir(parents=True)
    record.write_text("1")
    code = 'open("records/run")'
    key = cache.chapter_key(chapter(code), tmp_path)
    assert key == cache.chapter_key(chapter(code, prose="Other words."), tmp_path)
    assert key != cache.chapter_key(chapter(code + "  # again"), tmp_path)
    record.write_text("2")
    assert key != cache.chapter_key(chapter(code), tmp_path)


def test_the_key_follows_the_records_of_an_experiment_that_the_code_asks_for(tmp_path, monkeypatch):
    (tmp_path / "_toc.yml").touch()
    monkeypatch.delenv("NSLAB_RECORDS", raising=False)
    folder = tmp_path / "book/records/char-gpt"
    code = "from nslab import records\nbest = records.strongest('char-gpt', 'full')"
    variable = "from nslab import records\nbest = records.strongest(name)"

    def key(code=code):
        return cache.chapter_key(chapter(code), tmp_path)

    def record(name, **run):
        (folder / name).mkdir(parents=True)
        (folder / name / "result.json").write_text("{}")
        run = {"code": ["nslab.estimate"], "sources": records.file_hashes("nslab.estimate")} | run
        (folder / name / "run.json").write_text(json.dumps(run))

    keys = [key()]
    record("full-cpu-20260101T000000")
    keys.append(key())
    assert keys[1] != keys[0], "a first record"
    record(".partial-full-cpu-20260102T000000")
    all_records = key(variable)
    record("../other/full-cpu-20260101T000000")
    assert key() == keys[1], "a run that is not finished, and another experiment"
    assert key(variable) != all_records, "a name that only the kernel knows may be that of any experiment"
    record("full-cpu-20260103T000000", seeds=5)
    keys.append(key())
    with monkeypatch.context() as patch:
        patch.setattr(records.reading, "file_hashes", lambda *code: {"nslab/estimate.py": "another"})
        keys.append(key())
    assert len(set(keys)) == 4, "each new record, and records that have become stale"
    assert key() == keys[2]
    monkeypatch.setenv("NSLAB_RECORDS", str(tmp_path / "elsewhere"))
    assert key() == keys[0], "the kernel reads the same folder"


@pytest.mark.book
def test_a_change_below_executes_only_the_chapters_above_it(tmp_path, monkeypatch, sphinx_build):
    """Two chapters rest on two files. Editing one file, the text of neither chapter, executes one chapter again."""
    for name in ("one", "two"):
        (tmp_path / f"{name}.txt").write_text("first")
        (tmp_path / f"{name}.md").write_text(chapter(f"import time\nprint('{name}', time.time_ns())"))
    (tmp_path / "index.md").write_text("# Index\n\n```{toctree}\none\ntwo\n```\n")
    monkeypatch.setattr(cache, "sources", lambda code: [tmp_path / f"{'one' if 'one' in code else 'two'}.txt"])

    def build() -> dict[str, str]:
        assert sphinx_build() == ""
        pages = {name: (tmp_path / f"out-html/{name}.html").read_text() for name in ("one", "two")}
        return {name: re.search(rf"{name} (\d+)", page)[1] for name, page in pages.items()}

    first = build()
    assert build() == first
    (tmp_path / "one.txt").write_text("second")
    second = build()
    assert second["one"] != first["one"]
    assert second["two"] == first["two"]
    (tmp_path / "one.txt").write_text("first")
    assert build() == first, "taking the edit back finds the old outputs"

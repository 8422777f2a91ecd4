"""The source hash: it follows the code that an experiment rests on, and neither its prose nor the Python version."""

import ast
import hashlib

import grimp
import pytest

from nslab.records import file_hashes, source_hash, sources

CODE = '''"""A module."""

# a comment
import os  # why


class A:
    """A class."""

    def f(self, x):
        "One line, with an é."
        return f"{x} # no comment" + """two

        lines  # of text
""" + "#"


def g(): "Only this."; return 1
async def h():
    """Two
    lines."""
'''
LEFT = '''import os
class A:
    def f(self, x):
        return f"{x} # no comment" + """two

        lines  # of text
""" + "#"
def g(): ; return 1
async def h():
'''


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("A module.", "Another\n\nmodule."),
        ("# a comment\n", ""),
        ("  # why", "     # because\n# of this"),
        ('    """A class."""\n\n', ""),
        ("One line, with an é.", "Other words."),
        ("\n\nclass", "\n\n\n\nclass"),
        ("Only this.", "That."),
    ],
)
def test_prose_is_not_hashed(old, new):
    assert old in CODE
    changed = CODE.replace(old, new, 1)
    ast.parse(changed)
    assert sources.without_prose(changed) == sources.without_prose(CODE)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("import os", "import io"),
        ("# no comment", "# another"),
        ("two\n\n", "two\n"),
        ("two\n\n", "two \n\n"),
        ("lines  # of text", "lines"),
        ('+ "#"', '+ "##"'),
        ("return 1", "return 2"),
        ("async def h", "def h"),
    ],
)
def test_code_and_the_strings_it_uses_are_hashed(old, new):
    assert old in CODE
    changed = CODE.replace(old, new, 1)
    ast.parse(changed)
    assert sources.without_prose(changed) != sources.without_prose(CODE)


def test_what_is_left_of_this_package_means_the_same():
    """The slow twin: Python's own tree without docstrings, positions aside, says that only prose has gone."""

    def tree(text):
        found = ast.parse(text)
        for node in ast.walk(found):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
                node.body = node.body[1:]
        return ast.dump(found)

    checked = 0
    for path in sorted(sources.PACKAGE.rglob("*.py")):
        text = path.read_text()
        less = sources.without_prose(text)
        try:
            ast.parse(less)
        except SyntaxError:
            continue  # a body was nothing but its docstring
        assert tree(less) == tree(text), path
        assert len(less) < len(text)
        checked += 1
    assert checked > 40


def test_the_text_that_is_hashed_is_the_same_on_every_python():
    assert sources.without_prose(CODE) == LEFT


def test_only_what_an_independent_import_graph_knows_is_followed():
    graph = grimp.build_graph("nslab", cache_dir=None)
    for module in ("nslab.claims.checks_2602_08287", "nslab.stability.efron_stein", "nslab.zoo"):
        known = {module, *graph.find_upstream_modules(module)}
        # a name that a package hands on is followed to its file, which the graph knows through the package
        files = [name for name in file_hashes(module) if name.endswith(".py")]
        stems = {name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in files}
        assert stems <= known
        direct = graph.find_modules_directly_imported_by(module)
        whole = {name for name in direct if not graph.find_children(name) and not name.startswith("nslab.records")}
        assert whole <= stems


def test_a_name_handed_on_leads_to_its_file_and_a_module_used_whole_to_all_of_it(tmp_path):
    one, whole, local = tmp_path / "one.py", tmp_path / "whole.py", tmp_path / "local.py"
    one.write_text("from nslab.boolean import wht\n")
    whole.write_text("from nslab import boolean\n")
    local.write_text("def f():\n    from nslab.noise import Flip\n    import torch\n")
    assert set(file_hashes(one)) == {"one.py", "nslab/boolean/transform.py", "nslab/boolean/checks.py"}
    assert {"nslab/boolean/__init__.py", "nslab/boolean/juntas.py"} <= set(file_hashes(whole))
    assert "nslab/noise.py" in file_hashes(local)


def test_how_records_are_written_does_not_make_them_stale(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("from nslab.records import RunLog\nfrom nslab import records\n")
    assert set(file_hashes(path)) == {"mine.py"}


def test_a_file_that_only_moved_keeps_its_name_and_hash(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("from nslab.attention import attend\n")
    text = (sources.PACKAGE / "attention" / "standard.py").read_text(encoding="utf-8")
    digest = hashlib.sha256(sources.without_prose(text).encode()).hexdigest()[:16]
    assert file_hashes(path)["nslab/attention.py"] == digest
    assert all((sources.PACKAGE.parent / now).is_file() for now in sources.MOVED)
    assert not any((sources.PACKAGE.parent / before).is_file() for before in sources.MOVED.values())


def test_weights_that_come_with_the_package_are_part_of_what_names_them(monkeypatch, tmp_path):
    weights = "nslab/zoo/weights/char-gpt.safetensors"
    assert weights in file_hashes("nslab.zoo")
    assert weights not in file_hashes("nslab.reruns.char_gpt"), "which makes them"
    path = tmp_path / "mine.py"
    path.write_text("WEIGHTS = 'data/mine.bin'\n")
    monkeypatch.setattr(sources, "PACKAGE", tmp_path)
    monkeypatch.setattr(sources, "_data", lambda: (tmp_path / "data" / "mine.bin",))
    (tmp_path / "data").mkdir()
    hashes = []
    for content in (b"old", b"new"):
        (tmp_path / "data" / "mine.bin").write_bytes(content)
        hashes.append(file_hashes(path))
    assert set(hashes[0]) == {f"{tmp_path.name}/mine.py", f"{tmp_path.name}/data/mine.bin"}
    assert hashes[0] != hashes[1]


def test_an_edited_file_has_another_hash_in_the_same_process(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("x = 1\n")
    before = source_hash(path)
    path.write_text("x = 22\n")
    assert source_hash(path) != before
    with pytest.raises(FileNotFoundError, match=r"there is no module nslab\.nothing"):
        source_hash("nslab.nothing")

"""What an experiment rests on: the files of nslab that it imports, hashed without their prose.

A record keeps these hashes. When one of them differs today, the record is *stale*: its numbers come from other code.
Nothing is imported or run here; the files are read as text.
"""

import ast
import hashlib
import io
import tokenize
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
# How a record is written is no part of what it says, so this room itself does not make records stale.
UNCOUNTED = "nslab.records"
# A file that only moved is no other code: records that were made before know it by the name it had.
MOVED = {"nslab/attention/standard.py": "nslab/attention.py"}


def source_hash(*code: str | Path) -> str:
    """One hash for `code`: modules by dotted name or files by path, with all of nslab that they import.

    How to read it: equal hashes mean equal code, comments and docstrings aside. The Python version does not matter.

    Errors: `FileNotFoundError` when a module or file is not there.
    """
    return combine(file_hashes(*code))


def combine(hashes: dict[str, str]) -> str:
    """The one hash of many."""
    return hashlib.sha256("".join(f"{name} {found}\n" for name, found in sorted(hashes.items())).encode()).hexdigest()


def file_hashes(*code: str | Path) -> dict[str, str]:
    """A hash for each file that `code` rests on: `nslab/...` for files of the package, plain names for others.

    Imports are followed transitively, also those inside functions. `from nslab.room import name` follows the file
    that defines `name`, past a package's `__init__` that only hands it on. Data of the package, such as the weights of
    char-gpt, belong to the files that name them in a string. Modules named by a string at run time
    (`importlib.import_module`) are not seen. A file in `MOVED` is called by the name it had before.
    """
    found: dict[str, str] = {}
    waiting: list[tuple[str, Path]] = []
    for one in code:
        if isinstance(one, Path):
            waiting.append((one.stem, one))
        elif path := _file(one):
            waiting.append((one, path))
        else:
            raise FileNotFoundError(f"there is no module {one} in {PACKAGE.parent}")
    while waiting:
        module, path = waiting.pop()
        name = path.relative_to(PACKAGE.parent).as_posix() if path.is_relative_to(PACKAGE) else path.name
        name = MOVED.get(name, name)
        if name in found:
            continue
        digest, imports, strings = _read(path, module, path.stat().st_mtime_ns)
        found[name] = digest
        for file in _data():
            if file.name in strings:
                content = hashlib.sha256(file.read_bytes()).hexdigest()[:16]
                found[file.relative_to(PACKAGE.parent).as_posix()] = content
        for target, wanted in imports:
            module = _defining(target, wanted)
            if module.split(".")[0] == "nslab" and not f"{module}.".startswith(f"{UNCOUNTED}.") and _file(module):
                waiting.append((module, _file(module)))
    return found


def without_prose(text: str) -> str:
    r"""Python source without comments, docstrings and blank lines. Strings that the code uses stay as they are.

    >>> without_prose('def f():  # why\n    "What."\n\n    return 1\n')
    'def f():\n    return 1\n'
    """
    tree = ast.parse(text)
    # not str.splitlines, which also splits where Python does not
    lines = [line.removesuffix("\n") for line in io.StringIO(text)]
    spans = [range(node.lineno, node.end_lineno) for node in _strings(tree)]
    ends_inside = {number for span in spans for number in span}  # blanks at the end of such a line count
    starts_inside = {number + 1 for number in ends_inside}  # and such a line counts although it may be blank
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column].rstrip()
    for prose in _docstrings(tree):
        first, last = prose.lineno - 1, prose.end_lineno - 1
        after = lines[last].encode()[prose.end_col_offset :].decode()  # positions count bytes
        lines[first] = lines[first].encode()[: prose.col_offset].decode() + after
        lines[first + 1 : last + 1] = [""] * (last - first)
        ends_inside -= set(range(first + 1, last + 1))
        starts_inside -= set(range(first + 2, last + 2))
    kept = (line if number in ends_inside else line.rstrip() for number, line in enumerate(lines, 1))
    return "".join(f"{line}\n" for number, line in enumerate(kept, 1) if line or number in starts_inside)


def _strings(tree: ast.AST) -> Iterator[ast.expr]:
    """String literals. Not those inside f-strings, whose positions Python 3.11 does not know."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str | bytes)):
            yield node
        else:
            yield from _strings(node)


def _docstrings(tree: ast.Module) -> Iterator[ast.Expr]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            match node.body:
                case [ast.Expr(value=ast.Constant(value=str())) as first, *_]:
                    yield first


@lru_cache(maxsize=1024)
def _read(path: Path, module: str, changed: int) -> tuple[str, Sequence[tuple[str, str | None]], frozenset[str]]:
    """Hash, imports and last parts of strings of a file; with another time stamp, `changed`, it is read again."""
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    digest = hashlib.sha256(without_prose(text).encode()).hexdigest()[:16]
    values = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant))
    strings = frozenset(value.rpartition("/")[2] for value in values if isinstance(value, str))
    return digest, tuple(_imports(ast.walk(tree), module, path)), strings


@lru_cache(maxsize=1024)
def _handed_on(path: Path, module: str, changed: int) -> dict[str, tuple[str, str]]:
    """Names that a package's `__init__` imports at its top: where each comes from, and what it is called there."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = {}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            names = [alias.asname or alias.name for alias in node.names]
            found |= dict(zip(names, _imports([node], module, path), strict=True))
    return found


def _imports(nodes: Iterator[ast.AST] | list[ast.stmt], module: str, path: Path) -> Iterator[tuple[str, str | None]]:
    """What is imported: (module, name), or (module, None) for a module as a whole."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            target = node.module or ""
            if node.level:
                parents = module.split(".")
                keep = len(parents) - node.level + (path.name == "__init__.py")
                target = ".".join([*parents[:keep], *filter(None, [node.module])])
            yield from ((target, alias.name) for alias in node.names)


def _defining(module: str, name: str | None) -> str:
    """The module that an import leads to: a submodule, the file that defines a name handed on, or `module` itself."""
    if name is None or module.split(".")[0] != "nslab":
        return module
    if _file(f"{module}.{name}"):
        return f"{module}.{name}"
    path = _file(module)
    if path and path.name == "__init__.py":
        further = _handed_on(path, module, path.stat().st_mtime_ns).get(name)
        if further and further != (module, name):
            return _defining(*further)
    return module


@lru_cache(maxsize=1)
def _data() -> tuple[Path, ...]:
    """Files of the package that are no Python."""
    return tuple(path for path in PACKAGE.rglob("*.*") if path.is_file() and path.suffix not in (".py", ".pyc"))


def _file(module: str) -> Path | None:
    stem = PACKAGE.parent.joinpath(*module.split("."))
    candidates = (stem / "__init__.py", stem.with_name(f"{stem.name}.py"))
    return next((path for path in candidates if path.is_file()), None)

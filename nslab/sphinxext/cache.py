"""The execution cache key of a chapter: its code, the nslab files it imports transitively, and what runs them.

The stock cache looks at code cells alone, so an edit of the package leaves old outputs in the page without a word. Here
the key travels in the chapter's kernelspec, which the stock cache does hash; nothing of it is patched.
"""

import ast
import hashlib
import re
import sys
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

from sphinx.environment import BuildEnvironment

from nslab import records

PACKAGE = Path(__file__).parents[1]
_KERNELSPEC = re.compile(r"^kernelspec:\n", re.MULTILINE)
_CELL = re.compile(r"^```\{code-cell\}[^\n]*\n(.*?)^```", re.DOTALL | re.MULTILINE)
_PATH = re.compile(r"""["'](?:book/)?(records/[\w./-]+)["']""")
_ASKED = re.compile(r"""\b(?:strongest|find|survey)\(\s*(?:["']([\w-]+)["'])?""")


def is_chapter(text: str) -> bool:
    """Whether a page is a notebook: it names a kernel."""
    return bool(_KERNELSPEC.search(text[:2000]))


def code_of(text: str) -> str:
    """The code cells of a MyST notebook, without their option lines."""
    cells = (re.sub(r"\A(?:---\n.*?\n---\n|(?::[^\n]*\n)+)", "", cell, flags=re.DOTALL) for cell in _CELL.findall(text))
    return "\n".join(cells)


def imported(code: str) -> set[str]:
    """The nslab modules that a chapter's code names."""
    names = set()
    for node in ast.walk(ast.parse(re.sub(r"^\s*[%!].*$", "", code, flags=re.MULTILINE))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name for name in names if name.split(".")[0] == "nslab"}


@lru_cache(maxsize=1)
def _graph():
    import grimp  # only a build needs it

    return grimp.build_graph("nslab", cache_dir=None)


def sources(code: str) -> list[Path]:
    """The files of nslab that the code imports, transitively, and the data files of the package."""
    graph = _graph()
    modules = {name for name in imported(code) if name in graph.modules}
    modules |= {upstream for name in modules for upstream in graph.find_upstream_modules(name)}
    paths = []
    for module in modules:
        stem = PACKAGE.joinpath(*module.split(".")[1:])
        paths.append(stem / "__init__.py" if stem.is_dir() else stem.with_suffix(".py"))
    data = [path for path in PACKAGE.rglob("*") if path.suffix in {".csv", ".js", ".css", ".json", ".safetensors"}]
    return sorted(paths) + sorted(data)


def chapter_key(text: str, root: Path) -> str:
    """Hash of the chapter's code, its `sources`, the records it reads, and the versions that matter.

    Records are those under a path that the code names, `"records/..."`, and those of an experiment it asks for,
    `records.strongest("char-gpt")`; where it asks with a variable, all. A new record, or one that has become stale, is
    another key.
    """
    code = code_of(text)
    digest = hashlib.sha256(code.encode())
    for name in ("torch", "matplotlib", "numpy", "ipywidgets"):
        digest.update(f"{name}={version(name)};".encode())
    digest.update(sys.version.encode())
    read = [root / "book" / found for found in sorted(set(_PATH.findall(code)))]
    files = [file for path in read for file in _files(path)]
    for path in sources(code) + files:
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    for name in asked(code):
        digest.update(records_key(name, records.root(root)).encode())
    return digest.hexdigest()[:16]


def asked(code: str) -> list[str | None]:
    """The experiments whose records the code asks `nslab.records` for; None where it asks with a variable."""
    names = set(_ASKED.findall(code)) if "nslab.records" in imported(code) else ()
    return [name or None for name in sorted(names)]


def records_key(experiment: str | None, folder: Path) -> str:
    """Hash of the records of an experiment, or of all: their files, and whether each is stale today.

    Unfinished runs are left out. `folder` is that of all records.
    """
    found, problems = records.survey(experiment, folder)
    digest = hashlib.sha256("\0".join(problems).encode())
    for record in found:
        digest.update(f"{record.path.name} {record.stale_because}".encode())
        for path in _files(record.path):
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def _files(path: Path) -> list[Path]:
    """The file, or the files of the folder, without hidden ones: a run that is not finished is no record yet."""
    inside = [
        file for file in sorted(path.rglob("*")) if not any(p.startswith(".") for p in file.relative_to(path).parts)
    ]
    return [file for file in [path, *inside] if file.is_file()]


def usage_path(root: Path | str, docname: str, key: str) -> Path:
    """Where the kernel of a chapter, executed under ``key``, says what it used."""
    folder = Path(root) / "_build" / ".jupyter_cache" / "usage"  # beside the outputs that it belongs to
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{Path(docname).name}-{key}.json"


def with_key(text: str, key: str) -> str:
    """The chapter with its key written into the kernelspec."""
    return _KERNELSPEC.sub(f"kernelspec:\n  nslab_key: {key}\n", text, count=1)


def remember(env: BuildEnvironment, docname: str, key: str) -> None:
    """Note under which key a chapter was last read."""
    if not hasattr(env, "nslab_keys"):
        env.nslab_keys = {}
    env.nslab_keys[docname] = key


def outdated(env: BuildEnvironment, root: Path) -> list[str]:
    """Chapters read before under a key that today's sources no longer give."""
    stale = []
    for docname, key in getattr(env, "nslab_keys", {}).items():
        path = Path(env.doc2path(docname))
        if not path.exists():
            continue
        if chapter_key(path.read_text(encoding="utf-8"), root) != key or not usage_path(root, docname, key).exists():
            stale.append(docname)
    return stale

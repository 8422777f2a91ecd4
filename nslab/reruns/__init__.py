"""The catalogue of experiments: one file each beside this one, run by `nslab rerun`.

A file of yours is an experiment too, `nslab rerun path/to/it.py`, if it has

- a docstring, whose first line says what it is;
- `Config`, a frozen dataclass whose first field is `seeds: int`;
- `PRESETS = {"quick": Config(...), "laptop": ..., "full": ...}`;
- `run(config, log, *, device) -> dict`: the result, ready for JSON, the same for the same configuration
  (`log` is a `nslab.records.RunLog`);
- `phenomenon(result) -> str | None`: None if the result shows what the experiment is about; else what is missing.
"""

import ast
import dataclasses
import importlib
import importlib.util
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from nslab.records import Experiment, nearest
from nslab.records.places import CUSTOM

FOLDER = Path(__file__).parent
NEEDED = ("Config", "PRESETS", "run", "phenomenon")


class RerunError(ValueError):
    """An experiment that is unknown or not one; the message says what there is, or what is missing."""


@dataclass(frozen=True)
class Entry:
    """A line of the catalogue: name, first line of the docstring, names of the presets."""

    name: str
    summary: str
    presets: tuple[str, ...]


def names() -> list[str]:
    """The experiments of nslab, as they are called on the command line."""
    return sorted(path.stem.replace("_", "-") for path in FOLDER.glob("*.py") if not path.stem.startswith("_"))


def catalogue() -> list[Entry]:
    """All experiments of nslab, read without running them."""
    return [_described(name) for name in names()]


def load(name: str) -> Experiment:
    """An experiment of nslab by its name, or one of yours by the path of its file (it ends in `.py`).

    Errors: `RerunError` for an unknown name (with the nearest), a file that is not there, or a module that lacks
    something.
    """
    if name.endswith(".py"):
        return _checked(*_from_file(Path(name)))
    called = name.replace("_", "-")
    if called not in names():
        raise RerunError(f"no experiment {name!r}{nearest(called, names())}; or give the path of a file of yours")
    module = f"nslab.reruns.{called.replace('-', '_')}"
    return _checked(importlib.import_module(module), called, module)


def _from_file(path: Path) -> tuple[ModuleType, str, Path]:
    if not path.is_file():
        raise RerunError(f"{path}: there is no such file")
    name = path.stem.replace("_", "-")
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name) or name in (*names(), "benchmarks"):
        raise RerunError(
            f"{path}: its records would be called {name!r}: choose another name for the file, in small letters, digits "
            "and single _, that no experiment of nslab has"
        )
    module = f"_rerun_{path.stem}"
    spec = importlib.util.spec_from_file_location(module, path)
    sys.modules[module] = loaded = importlib.util.module_from_spec(spec)  # dataclasses look their module up
    spec.loader.exec_module(loaded)
    return loaded, name, path.resolve()


def _checked(module: ModuleType, name: str, code: str | Path) -> Experiment:
    if absent := [one for one in NEEDED if not hasattr(module, one)]:
        raise RerunError(f"{code}: no {absent[0]}: an experiment has {', '.join(NEEDED)}")
    config = module.Config
    if not dataclasses.is_dataclass(config) or not config.__dataclass_params__.frozen:
        raise RerunError(f"{code}: Config is no frozen dataclass: put @dataclass(frozen=True) above it")
    if [field.name for field in dataclasses.fields(config)][:1] != ["seeds"]:
        raise RerunError(f"{code}: the first field of Config is not `seeds`: an experiment says how many it runs")
    for preset, value in module.PRESETS.items():
        if not re.fullmatch(r"[a-z0-9_]+", str(preset)) or preset == CUSTOM:
            raise RerunError(
                f"{code}: PRESETS has {preset!r}: name a preset in small letters, digits and _, and not {CUSTOM!r}, "
                "which is that of changed settings"
            )
        if not isinstance(value, config):
            raise RerunError(f"{code}: PRESETS[{preset!r}] is {value!r}: give a Config")
    return Experiment(name, code, module.PRESETS, module.run, module.phenomenon)


def _described(name: str) -> Entry:
    """Read without importing the file; its `PRESETS` are seen only as a plain `PRESETS = {...}`, without a type."""
    tree = ast.parse((FOLDER / f"{name.replace('-', '_')}.py").read_text(encoding="utf-8"))
    summary = (ast.get_docstring(tree) or "").partition("\n")[0]
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", None) == "PRESETS":
            keys = node.value.keys if isinstance(node.value, ast.Dict) else []
            return Entry(name, summary, tuple(key.value for key in keys if isinstance(key, ast.Constant)))
    return Entry(name, summary, ())

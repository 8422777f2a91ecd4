"""Changing a configuration from the command line: `--set training.batch=32 --set models=gpt2,minilm`."""

import ast
import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Iterable, Sequence
from typing import Any


def changed(config: Any, settings: Sequence[str]) -> Any:
    """`config` with each `key=value` of `settings` laid over it; a dot reaches into a configuration inside it.

    A value is read as the type that its field declares: a number, `true` or `false`, `none` where None is allowed,
    text as it stands; for a tuple, its parts with commas between (`keep=0.5,0.9`; `models=gpt2` is a tuple of one).

    Errors: `ValueError` naming a key that is not there (with the nearest ones), a value of another type, or what the
    configuration itself refuses.
    """
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise ValueError(f"--set {setting}: write key=value")
        config = _with(config, key.strip().split("."), text.strip(), key.strip())
    return config


def _with(config: Any, path: list[str], text: str, key: str) -> Any:
    names = [field.name for field in dataclasses.fields(config)]
    if path[0] not in names:
        raise ValueError(f"--set {key}: unknown key {path[0]!r}{nearest(path[0], names)}")
    old = getattr(config, path[0])
    if len(path) > 1:
        if not dataclasses.is_dataclass(old):
            raise ValueError(f"--set {key}: {path[0]} is {old!r}, which has no keys of its own")
        return dataclasses.replace(config, **{path[0]: _with(old, path[1:], text, key)})
    if dataclasses.is_dataclass(old):
        inner = ", ".join(f"{path[0]}.{field.name}" for field in dataclasses.fields(old))
        raise ValueError(f"--set {key}: set one of {inner}")
    kind = typing.get_type_hints(type(config))[path[0]]
    try:
        value = _read(text, kind)
    except ValueError:
        name = kind.__name__ if isinstance(kind, type) else str(kind).replace("typing.", "")
        raise ValueError(f"--set {key}={text}: {key} is of type {name}, as {old!r}; give such a value") from None
    return dataclasses.replace(config, **{path[0]: value})


def _read(text: str, kind: Any) -> Any:
    """The text as a value of the type `kind`; `ValueError` when it is none."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        for one in sorted(inner, key=lambda one: one is str):  # text last: it takes everything
            try:
                return _read(text, one)
            except ValueError:
                continue
    elif origin is typing.Literal:
        for value in inner:
            if str(value) == text:
                return value
    elif origin is tuple:
        parts = _parts(text)
        kinds = inner[:1] * len(parts) if inner[1:] == (...,) else inner
        if len(parts) == len(kinds):
            return tuple(map(_read, parts, kinds))
    elif kind is str:
        return text
    elif kind is int:
        return int(text, 0)
    elif kind is float and math.isfinite(value := float(text)):
        return value
    elif kind is bool and text.lower() in ("true", "false"):
        return text.lower() == "true"
    elif kind is types.NoneType and text.lower() == "none":
        return None
    raise ValueError(text)


def _parts(text: str) -> list[str]:
    """Parts between commas. Python's own notation, `["a, b", "c"]`, serves parts that hold commas themselves."""
    try:
        found = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        found = None
    if text[:1] in tuple("([") and isinstance(found, tuple | list):
        return [str(part) for part in found]
    bare = text[1:-1] if text[:1] + text[-1:] in ("()", "[]") else text
    return [part.strip() for part in bare.removesuffix(",").split(",")] if bare.strip() else []


def nearest(word: str, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown word: what was meant, perhaps, and what there is.

    >>> nearest("lapptop", ["quick", "laptop"])
    ": did you mean 'laptop'? There are quick, laptop"
    """
    known = list(known)
    meant = difflib.get_close_matches(word, known, n=1)
    listed = f"{', '.join(known)}" if known else "none"
    return f": did you mean {meant[0]!r}? There are {listed}" if meant else f": there are {listed}"

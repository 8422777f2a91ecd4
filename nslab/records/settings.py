"""Changing a configuration from the command line: `--set steps=100 --set training.batch=32`."""

import ast
import dataclasses
import difflib
from collections.abc import Iterable, Sequence
from typing import Any


def changed(config: Any, settings: Sequence[str]) -> Any:
    """`config` with each `key=value` of `settings` laid over it; a dot reaches into a configuration inside it.

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
    return dataclasses.replace(config, **{path[0]: _value(text, old, key)})


def _value(text: str, old: object, key: str) -> object:
    """The text as a value of the type of `old`."""
    if isinstance(old, str):
        return text
    words = {"true": True, "false": False, "none": None}
    try:
        value = words[text.lower()] if text.lower() in words else ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    if isinstance(old, tuple) and isinstance(value, list):
        value = tuple(value)
    if isinstance(old, float) and type(value) is int:
        value = float(value)
    if old is not None and value is not None and type(value) is not type(old):
        raise ValueError(f"--set {key}={text}: {key} is of type {type(old).__name__}, as {old!r}; give such a value")
    return value


def nearest(word: str, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown word: what was meant, perhaps, and what there is.

    >>> nearest("lapptop", ["quick", "laptop"])
    ": did you mean 'laptop'? There are quick, laptop"
    """
    known = list(known)
    meant = difflib.get_close_matches(word, known, n=1)
    listed = f"{', '.join(known)}" if known else "none"
    return f": did you mean {meant[0]!r}? There are {listed}" if meant else f": there are {listed}"

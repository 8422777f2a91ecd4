"""`--set`: a value is read as the type that its field declares, and nothing else passes."""

from dataclasses import dataclass, field
from typing import Literal

import pytest

from nslab.records import changed


@dataclass(frozen=True)
class Inner:
    count: int | None = None
    sizes: tuple[int, ...] = (1,)


@dataclass(frozen=True)
class Config:
    seeds: int = 1
    models: tuple[str, ...] = ("char-gpt",)
    keep: tuple[float, ...] = (0.5,)
    betas: tuple[float, float] = (0.9, 0.95)
    flag: bool = True
    clip: float | int | None = 1.0
    kind: Literal["layer", "rms"] = "layer"
    title: str | None = None
    inner: Inner = field(default_factory=Inner)
    table: dict = field(default_factory=dict)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("models=gpt2", ("gpt2",)),
        ("models=gpt2,roberta-base", ("gpt2", "roberta-base")),
        ("models=google/gemma-2b, 123,", ("google/gemma-2b", "123")),
        ("models=['a, b', \"c\"]", ("a, b", "c")),
        ("models=[a, b]", ("a", "b")),
        ("models=", ()),
        ("keep=0.5,0.9", (0.5, 0.9)),
        ("keep=1", (1.0,)),
        ("keep=(0.5)", (0.5,)),
        ("betas=0.9,1", (0.9, 1.0)),
        ("flag=False", False),
        ("clip=none", None),
        ("clip=2", 2),
        ("kind=rms", "rms"),
        ("title=none", None),
        ("title=A title, with = and ,", "A title, with = and ,"),
        ("seeds=1_000", 1000),
        ("inner.count=3", 3),
        ("inner.sizes=1,2", (1, 2)),
    ],
)
def test_a_value_has_the_type_of_its_field(setting, value):
    config = changed(Config(), [setting])
    for name in setting.partition("=")[0].split("."):
        config = getattr(config, name)
    assert config == value
    assert [type(part) for part in config] == [type(part) for part in value] if isinstance(value, tuple) else True


@pytest.mark.parametrize(
    ("setting", "kind"),
    [
        ("seeds=1.5", "int, as 1"),
        ("seeds=none", "int, as 1"),
        ("seeds=", "int, as 1"),
        ("keep=0.5,high", r"tuple\[float, ...\], as \(0.5,\)"),
        ("keep=nan", r"tuple\[float, ...\]"),
        ("betas=0.9", r"tuple\[float, float\]"),
        ("flag=1", "bool, as True"),
        ("clip=x", r"float \| int \| None, as 1.0"),
        ("kind=batch", r"Literal\['layer', 'rms'\], as 'layer'"),
        ("inner.sizes=1.5", r"tuple\[int, ...\]"),
        ("table={}", "dict, as {}"),
    ],
)
def test_any_other_is_refused_with_the_type_and_the_present_value(setting, kind):
    with pytest.raises(ValueError, match=f"is of type {kind}.*; give such a value"):
        changed(Config(), [setting])

"""One environment, written down three times: pyproject.toml, constraints.txt and environment.yml agree."""

import re
import tomllib
from importlib.metadata import packages_distributions
from importlib.util import find_spec
from pathlib import Path

import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
LINES = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
PINS = {canonicalize_name(line.split("==")[0]): line.split("==")[1] for line in LINES if "==" in line}


def requirements():
    everything = [*PROJECT["dependencies"], *(line for extra in EXTRAS.values() for line in extra)]
    return [Requirement(line) for line in everything]


def test_every_requirement_is_satisfied_by_its_pin():
    for requirement in requirements():
        if requirement.name == PROJECT["name"]:
            assert requirement.extras <= set(EXTRAS)
            continue
        pin = PINS.get(canonicalize_name(requirement.name))
        assert pin, f"{requirement.name} has no pin in constraints.txt: run `make constraints`"
        assert requirement.specifier.contains(pin), f"{requirement} is not satisfied by the pin {pin}"


def test_every_pin_is_one_public_release():
    for line in LINES:
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line), f"{line!r}: no local tag, no file, no address"
        assert Version(line.split("==")[1]).local is None
    assert len(PINS) == len(LINES), "a package is pinned twice"


def test_the_package_itself_asks_for_lower_bounds_only():
    for line in PROJECT["dependencies"]:
        assert {specifier.operator for specifier in Requirement(line).specifier} == {">="}, line


def test_the_book_stays_on_jupyter_book_1():
    (book,) = (r for r in map(Requirement, EXTRAS["book"]) if r.name == "jupyter-book")
    assert not book.specifier.contains("2.0")
    assert Version(PINS["jupyter-book"]) < Version("2")


def test_the_conda_environment_is_python_and_pip_and_leaves_the_rest_to_the_pins():
    dependencies = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    conda = [entry for entry in dependencies if isinstance(entry, str)]
    (pip,) = (entry["pip"] for entry in dependencies if isinstance(entry, dict))
    python = next(entry for entry in conda if entry.startswith("python="))
    assert sorted(conda) == sorted([python, "pip"])
    assert SpecifierSet(PROJECT["requires-python"]).contains(python.removeprefix("python="))
    constraints, project = pip
    assert constraints == "-c constraints.txt"
    extras = re.fullmatch(r"-e \.\[(.+)\]", project).group(1).split(",")
    assert set(extras) <= set(EXTRAS)


def test_every_extension_of_the_book_is_installed_and_pinned():
    config = yaml.safe_load((ROOT / "_config.yml").read_text())
    modules = {name.split(".")[0] for name in config["sphinx"]["config"]["extensions"]}
    for module in modules - {PROJECT["name"]}:
        assert find_spec(module), f"_config.yml names {module}: add its distribution to the extra `book`"
        assert {canonicalize_name(name) for name in packages_distributions()[module]} & set(PINS), (
            f"{module} has no pin"
        )

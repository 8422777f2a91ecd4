"""`nslab doctor`: what is here, what is missing, and which command mends it.

Versions come from package metadata; only asking for devices imports torch.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from nslab import __version__
from nslab.cli.clone import clone

# What each part of the installation needs; the key is the extra in pyproject.toml, "" the package itself.
PACKAGES = {
    "": ("torch", "numpy", "matplotlib", "ipywidgets", "jaxtyping", "typer", "rich", "safetensors", "filelock"),
    "lab": ("jupyterlab", "jupytext"),
    "book": ("jupyter-book", "sphinx-book-theme"),
    "models": ("transformers", "accelerate", "gguf", "tokenizers"),
    "hub": ("datasets",),
    "test": ("pytest", "playwright"),
}
DATA = (
    "data/electoral-college-2024.csv",
    "explore/assets/explore.js",
    "explore/assets/explore.css",
    "zoo/weights/char-gpt.safetensors",
)
BROWSERS = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "chrome",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
)
# JupyterLab opens the chapters as notebooks and asks the network for nothing.
LAB_SETTINGS = {
    "@jupyterlab/docmanager-extension:plugin": {
        "defaultViewers": {"markdown": "Jupytext Notebook", "myst": "Jupytext Notebook"}
    },
    "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False},
}


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    configure_lab: Annotated[
        bool, typer.Option("--configure-lab", help="Let this environment's JupyterLab open chapters as notebooks.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print only what is missing.")] = False,
) -> None:
    """Say what is installed, what is missing, and which command mends it. Fails only if nslab itself cannot work."""
    if configure_lab:
        try:
            configure_jupyterlab()
        except ValueError as error:
            typer.echo(f"Error: {error}", err=True)
            raise typer.Exit(1) from None
    report = examine()
    if as_json:
        typer.echo(json.dumps(report, indent=2))
    else:
        typer.echo("\n".join(_lines(report, quiet)), nl=not quiet or bool(report["missing"]))
    if not report["works"]:
        raise typer.Exit(1)


def examine() -> dict:
    """All that `nslab doctor` knows, ready for JSON.

    Keys: `nslab`, `python`, `platform`; `packages` (name to version or None); `devices` (one name a device, without
    the CPU); `threads`; `cache` (None outside a clone, else `path` and `bytes` of the book's execution cache);
    `browser` (path or None); `missing` (a list of `what`, `remedy`); `works` (can the package itself be used?).
    """
    missing = []
    packages = {}
    for extra, names in PACKAGES.items():
        for name in names:
            packages[name] = _version(name)
        absent = [name for name in names if packages[name] is None]
        if absent:
            missing.append({"what": ", ".join(absent), "remedy": _install(extra)})
    broken = [name for name in DATA if not files("nslab").joinpath(name).is_file()]
    if broken:
        missing.append({"what": f"files of the package ({', '.join(broken)})", "remedy": _install("", again=True)})
    works = all(packages[name] for name in PACKAGES[""]) and not broken

    devices, threads = [], None
    if packages["torch"]:
        try:
            devices, threads = _devices()
        except Exception as error:  # a broken torch fails in many ways; each is reported, none hidden
            missing.append({"what": f"a torch that imports ({error})", "remedy": _install("", again=True)})
            works = False
    if not devices and shutil.which("nvidia-smi"):
        remedy = f"{_pip()} install --force-reinstall torch"
        missing.append({"what": "a torch build that sees the NVIDIA GPU", "remedy": remedy})

    browser = None
    try:
        browser = find_browser()
        if browser is None:
            missing.append({"what": "a browser (only tests need it)", "remedy": _install_browser()})
    except ValueError as error:
        missing.append({"what": str(error), "remedy": "unset NSLAB_BROWSER"})

    return {
        "nslab": __version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "packages": packages,
        "devices": devices,
        "threads": threads,
        "cache": _cache(),
        "browser": browser,
        "missing": missing,
        "works": works,
    }


_OWN_BROWSER = """from playwright.sync_api import sync_playwright
with sync_playwright() as playwright:
    print(playwright.chromium.executable_path)"""


def find_browser() -> str | None:
    """Path of a Chromium or Chrome, or None.

    Looks at $NSLAB_BROWSER, then on the PATH and in the usual place on a Mac, then at Playwright's own browser.
    Errors: `ValueError` when $NSLAB_BROWSER names no program.
    """
    if named := os.environ.get("NSLAB_BROWSER"):
        if found := shutil.which(named):
            return found
        raise ValueError(f"NSLAB_BROWSER is {named!r}: give the path of a Chromium or Chrome, or unset it")
    for name in BROWSERS:
        if found := shutil.which(name):
            return found
    if _version("playwright"):
        # asked in a process of its own: Playwright refuses a second session beside one that is open
        asked = subprocess.run([sys.executable, "-c", _OWN_BROWSER], capture_output=True, text=True, check=False)
        if os.path.exists(own := asked.stdout.strip()):
            return own
    return None


def configure_jupyterlab(prefix: str | Path = sys.prefix) -> Path:
    """Write JupyterLab's default settings for this environment, keeping those already there; return the file.

    Errors: `ValueError` when the file is there and is not a JSON object; it is left as it was.
    """
    path = Path(prefix, "share", "jupyter", "lab", "settings", "overrides.json")
    settings = {}
    if path.exists():
        try:
            settings = json.loads(path.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} is not JSON ({error}): mend or remove it") from None
        if not isinstance(settings, dict):
            raise ValueError(f"{path} is not a JSON object: mend or remove it")
    path.parent.mkdir(parents=True, exist_ok=True)
    written = path.with_suffix(".new")
    written.write_text(json.dumps(_merged(settings, LAB_SETTINGS), indent=2) + "\n", encoding="utf-8")
    written.replace(path)
    return path


def _merged(old: object, new: object) -> object:
    """`new` laid over `old`, object by object."""
    if isinstance(old, dict) and isinstance(new, dict):
        return old | {key: _merged(old.get(key), value) for key, value in new.items()}
    return new


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _devices() -> tuple[list[str], int]:
    import torch

    names = [f"cuda:{i} {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        names.append("mps Apple GPU")
    return names, torch.get_num_threads()


def _cache() -> dict | None:
    here = clone()
    if here is None:
        return None
    path = here / "_build" / ".jupyter_cache"
    return {"path": str(path), "bytes": sum(file.stat().st_size for file in path.rglob("*") if file.is_file())}


def _pip() -> str:
    return f"{Path(sys.executable).name if sys.prefix == sys.base_prefix else sys.executable} -m pip"


def _install(extra: str, again: bool = False) -> str:
    target = f"'.[{extra}]'" if extra else "."
    return f"{_pip()} install {'--force-reinstall ' if again else ''}-c constraints.txt -e {target}  (in the clone)"


def _install_browser() -> str:
    if shutil.which("apt-get"):
        return "sudo apt-get install chromium"
    return f"{sys.executable} -m playwright install chromium"


def _lines(report: dict, quiet: bool) -> list[str]:
    lines = []
    if not quiet:
        cache = report["cache"]
        device = f"CPU, {report['threads']} threads" if report["threads"] else "unknown"
        rows = {
            "nslab": report["nslab"],
            "Python": f"{report['python']}, {report['platform']}",
            **{name: found or "missing" for name, found in report["packages"].items()},
            "devices": "; ".join([device, *(report["devices"] or ["no CUDA or MPS device"])]),
            "cache": f"{cache['path']}, {cache['bytes'] / 1e6:.1f} MB" if cache else "none: not in a clone of the book",
            "browser": report["browser"] or "missing",
        }
        lines += [f"{name:18}{value}" for name, value in rows.items()]
    for entry in report["missing"]:
        lines += [f"Missing: {entry['what']}", f"  mend:  {entry['remedy']}"]
    if not quiet and not report["missing"]:
        lines.append("Nothing is missing.")
    return lines

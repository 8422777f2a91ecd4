"""`nslab rerun`: run an experiment again and write its record."""

import dataclasses
import os
import shlex
import traceback
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from nslab.cli.doctor import PACKAGES

DEVICES = ("cpu", "cuda", "mps")


def rerun(
    name: Annotated[str | None, typer.Argument(help="An experiment, or the path of a file of yours.")] = None,
    preset: Annotated[str, typer.Option(help="quick, laptop or full: how much is run.")] = "quick",
    seeds: Annotated[int | None, typer.Option(help="Number of seeds; by default that of the preset.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, mps, or auto: the fastest there is.")] = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the newest run that was killed.")] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Change one setting: steps=100, training.batch=32, models=gpt2,minilm. May be repeated.",
        ),
    ] = None,
    records: Annotated[Path | None, typer.Option(help="Folder of all records; by default that of the book.")] = None,
) -> None:
    """Run an experiment and write its record; without a name, list the experiments.

    A quick run also asserts the phenomenon: it fails, with a sentence, if the result does not show it. The record is
    kept in either case.

    \b
    nslab rerun char-gpt                          20 seconds on a laptop
    nslab rerun char-gpt --preset full --resume   go on after a kill
    nslab rerun who-matters --set models=gpt2,roberta-base
    nslab rerun my_experiment.py                  a file of yours
    """  # noqa: D301 (a backspace is how click is told to keep line ends)
    if name is None:
        _list()
        return
    from nslab import reruns
    from nslab.records import changed, nearest, perform

    try:
        experiment = reruns.load(name)
        if preset not in experiment.presets:
            raise ValueError(f"{name} has no preset {preset!r}{nearest(preset, experiment.presets)}")
        config = changed(experiment.presets[preset], settings or [])
        config = config if seeds is None else dataclasses.replace(config, seeds=seeds)
        if config.seeds < 1:
            raise ValueError(f"--seeds {config.seeds}: give 1 or more")
        device = _device(device)
    except ValueError as error:
        _fail(str(error), 2)
    except Exception as error:  # of the file itself
        if line := _in_one_line(error, Path(name).resolve()):
            _fail(line, 1)
        raise

    options = [f"--preset {preset}"]
    options += [f"--seeds {seeds}"] if seeds is not None else []
    options += [f"--device {device}"]
    options += [f"--set {shlex.quote(setting)}" for setting in settings or []]
    options += [f"--records {shlex.quote(str(records.resolve()))}"] if records else []
    called = str(experiment.code) if isinstance(experiment.code, Path) else name  # a whole path: works from anywhere
    command = " ".join(["nslab rerun", shlex.quote(called), *options])
    try:
        record = perform(experiment, preset, config, device=device, records=records, resume=resume, command=command)
    except KeyboardInterrupt as stop:
        _fail("\n".join(["interrupted", *_notes(stop, "Nothing was saved yet.")]), 130)
    except Exception as error:
        if line := _in_one_line(error, experiment.code):
            _fail("\n".join([line, *_notes(error)]), 1)
        raise
    if record is None:  # not rank 0
        return
    seconds, missing = record.run["seconds"], record.run["phenomenon"]
    typer.echo(f"{_short(record.path)}: {seconds:.0f} s on {record.hardware}")
    if missing != "shown":
        if preset == "quick":
            _fail(f"{experiment.name}: the phenomenon is not shown: {missing}", 1)
        typer.echo(f"The phenomenon is not shown: {missing}")


def _list() -> None:
    from nslab import reruns

    for entry in reruns.catalogue():
        typer.echo(f"{entry.name:20} {entry.summary}\n{'':20} presets: {', '.join(entry.presets)}")


def _device(wanted: str) -> str:
    import torch

    if wanted == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    if wanted.partition(":")[0] not in DEVICES:
        raise ValueError(f"--device {wanted}: Expected one of {', '.join(DEVICES)}, or auto for the fastest there is")
    try:
        torch.empty(1, device=wanted)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0].partition(". ")[0].rstrip(".")
        raise ValueError(f"--device {wanted}: {reason}; give cpu, or auto for the fastest there is") from None
    return wanted


def _notes(error: BaseException, otherwise: str | None = None) -> list[str]:
    return getattr(error, "__notes__", [otherwise] if otherwise else [])


def _in_one_line(error: Exception, code: str | Path) -> str | None:
    """An error that says what is wrong and what to do; None for any other, which needs its traceback.

    Such are the errors of records, texts and models, a full disk, a missing package of an extra, and a `ValueError`
    that nslab or the experiment raises on purpose.
    """
    from nslab.corpora import FetchFailed, NotFetched
    from nslab.records import RecordError
    from nslab.records.files import FULL
    from nslab.zoo import CannotLoad

    if isinstance(error, ModuleNotFoundError):
        package = (error.name or "").partition(".")[0]
        for extra, packages in PACKAGES.items():
            if extra and package in packages:
                return f'the package {package} is missing: pip install "nslab[{extra}]"'
    if isinstance(error, ImportError) and "pip install" in str(error):
        return str(error)
    if isinstance(error, RecordError | NotFetched | FetchFailed | CannotLoad):
        return str(error)
    if isinstance(error, OSError) and error.errno in FULL:
        return str(error)
    if isinstance(error, ValueError):
        last = traceback.extract_tb(error.__traceback__)[-1]
        file = Path(last.filename).resolve()
        if (file == code or file.is_relative_to(Path(__file__).parents[1])) and last.line.startswith("raise "):
            return str(error)
    return None


def _short(path: Path) -> str:
    return os.path.relpath(path) if path.resolve().is_relative_to(Path.cwd()) else str(path)


def _fail(message: str, code: int) -> NoReturn:
    typer.echo(f"Error: {message}", err=True)
    raise typer.Exit(code)

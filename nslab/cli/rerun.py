"""`nslab rerun`: run an experiment again and write its record."""

import dataclasses
import os
import shlex
from pathlib import Path
from typing import Annotated, NoReturn

import typer


def rerun(
    name: Annotated[str | None, typer.Argument(help="An experiment, or the path of a file of yours.")] = None,
    preset: Annotated[str, typer.Option(help="quick, laptop or full.")] = "quick",
    seeds: Annotated[int | None, typer.Option(help="How many seeds; by default as the preset says.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, mps, or auto: the fastest there is.")] = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the newest run that was killed.")] = False,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one setting; may be repeated.")
    ] = None,
    records: Annotated[Path | None, typer.Option(help="Folder of all records; by default that of the book.")] = None,
) -> None:
    """Run an experiment and write its record; without a name, list the experiments.

    A quick run also asserts the phenomenon: it fails, with a sentence, if the result does not show it. The record is
    kept in either case.
    """
    if name is None:
        _list()
        return
    from nslab import reruns
    from nslab.records import RecordError, changed, nearest, perform

    try:
        experiment = reruns.load(name)
        if preset not in experiment.presets:
            raise ValueError(f"{name} has no preset {preset!r}{nearest(preset, experiment.presets)}")
        if seeds is not None and seeds < 1:
            raise ValueError(f"--seeds {seeds}: give 1 or more")
        config = changed(experiment.presets[preset], settings or [])
        config = config if seeds is None else dataclasses.replace(config, seeds=seeds)
        device = _device(device)
    except ValueError as error:
        _fail(str(error), 2)

    options = [f"--preset {preset}"]
    options += [f"--seeds {seeds}"] if seeds is not None else []
    options += [f"--device {device}"]
    options += [f"--set {shlex.quote(setting)}" for setting in settings or []]
    options += [f"--records {shlex.quote(str(records.resolve()))}"] if records else []
    command = " ".join(["nslab rerun", shlex.quote(name), *options])
    try:
        record = perform(experiment, preset, config, device=device, records=records, resume=resume, command=command)
    except KeyboardInterrupt as stop:
        _fail("\n".join(["interrupted", *_notes(stop, "Nothing was saved yet.")]), 130)
    except Exception as error:
        if isinstance(error, RecordError) or _says_the_remedy(error):
            _fail("\n".join([str(error), *_notes(error)]), 1)
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
    try:
        torch.empty(1, device=wanted)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0].partition(", ipu,")[0].rstrip(".")
        raise ValueError(f"--device {wanted}: {reason}; give cpu, or auto for the fastest there is") from None
    return wanted


def _notes(error: BaseException, otherwise: str | None = None) -> list[str]:
    return getattr(error, "__notes__", [otherwise] if otherwise else [])


def _says_the_remedy(error: Exception) -> bool:
    """Inputs that were never fetched, and a full disk while the experiment itself wrote, need no traceback."""
    from nslab.records.files import FULL

    missing = type(error).__name__ == "NotFetched" and type(error).__module__.startswith("nslab.")
    return missing or (isinstance(error, OSError) and error.errno in FULL)


def _short(path: Path) -> str:
    return os.path.relpath(path) if path.resolve().is_relative_to(Path.cwd()) else str(path)


def _fail(message: str, code: int) -> NoReturn:
    typer.echo(f"Error: {message}", err=True)
    raise typer.Exit(code)

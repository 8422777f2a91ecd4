"""`nslab records`: what was run, on what, how long, and whether it is still true to the sources."""

import json
from pathlib import Path
from typing import Annotated

import typer

HEAD = ("record", "preset", "device", "date", "seconds", "state", "size", "hardware")


def records(
    name: Annotated[str | None, typer.Argument(help="An experiment; all by default.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    folder: Annotated[
        Path | None, typer.Option("--records", help="Folder of all records; by default that of the book.")
    ] = None,
) -> None:
    """List records, strongest first, and runs that were not finished. Fails if a record is damaged, and names it."""
    from nslab.records import nearest, root, survey, unfinished
    from nslab.reruns import names

    folder = folder or root()
    found, problems = survey(name, folder)
    partial = list(unfinished(name, folder))
    if name and not (found or problems or partial):
        if (called := name.replace("_", "-")) in names():
            typer.echo(f"No record of {called} in {folder}: make one with `nslab rerun {called}`")
            return
        typer.echo(f"Error: no experiment {name!r}{nearest(called, names())}", err=True)
        raise typer.Exit(2)
    if as_json:
        told = {
            "records": [_as_dict(record) for record in found],
            "unfinished": [{"path": str(one.place.partial), "advice": one.advice} for one in partial],
            "problems": problems,
        }
        typer.echo(json.dumps(told, indent=2))
    else:
        _print(found, partial, problems, folder)
    if problems:
        raise typer.Exit(1)


def _as_dict(record) -> dict:
    return {
        "experiment": record.experiment,
        "preset": record.preset,
        "device": record.device,
        "date": record.date,
        "hardware": record.hardware,
        "seconds": record.run.get("seconds"),
        "seeds": record.seeds,
        "stale": record.stale,
        "stale_because": record.stale_because,
        "phenomenon": record.run.get("phenomenon"),
        "bytes": record.size,
        "path": str(record.path),
    }


def _print(found: list, partial: list, problems: list[str], folder: Path) -> None:
    from nslab.records.files import in_bytes

    lines = [HEAD]
    for one in found:
        seconds = one.run.get("seconds")
        lines.append(
            (
                one.experiment,
                one.preset,
                one.device,
                one.date,
                f"{seconds:.0f}" if isinstance(seconds, int | float) else "?",
                "stale" if one.stale else "fresh",
                in_bytes(one.size),
                one.hardware,
            )
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEAD))]
    if found:
        for line in lines:
            typer.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    else:
        typer.echo(f"No records in {folder}.")
    for one in found:
        if one.stale:
            typer.echo(f"Stale: {one.experiment}/{one.path.name}: {one.stale_because}")
    for one in partial:
        typer.echo(f"Not finished: {one.place.folder.name}/{one.place.name}: {one.advice}")
    for problem in problems:
        typer.echo(f"Error: {problem}", err=True)

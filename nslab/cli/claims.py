"""`nslab claims`: the state of every claim."""

import json
from pathlib import Path
from typing import Annotated

import typer

from nslab.cli.clone import clone


def claims(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    book: Annotated[Path | None, typer.Option(help="Folder of the book; by default that of this clone.")] = None,
) -> None:
    """Run the check of every claim of the book and print its state. Fails if a check is missing or raises."""
    from nslab.claims import ClaimError, run

    if book is None and (here := clone()):
        book = here / "book"
    if book is None or not (book / "claims").is_dir():
        typer.echo("Error: no folder `claims` here: go to a clone of the book, or give --book", err=True)
        raise typer.Exit(1)
    try:
        results, problems = run.examine(book), []
    except (ClaimError, ImportError) as error:
        results, problems = [], [str(error)]
    problems += [result.problem for result in results if result.problem]
    if as_json:
        typer.echo(json.dumps({"claims": [result.as_dict() for result in results], "problems": problems}, indent=2))
    else:
        typer.echo("\n".join(result.as_line() for result in results))
        typer.echo("".join(f"Error: {problem}\n" for problem in problems), nl=False, err=True)
    if problems:
        raise typer.Exit(1)

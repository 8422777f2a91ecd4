"""The command line: one file a command, and nothing heavy imported until a command needs it.

A command is a function; its help is its docstring. Starting must be quick: no file here imports torch at its top.
"""

from typing import Annotated

import typer

from nslab import __version__
from nslab.cli import claims, doctor, fetch, records, rerun
from nslab.cli.doctor import find_browser

__all__ = ["app", "find_browser", "main"]

app = typer.Typer(
    name="nslab",
    help="A laboratory for the noise stability of Transformers.",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for command in (doctor.doctor, claims.claims, fetch.fetch, rerun.rerun, records.records):
    app.command()(command)


def main() -> None:
    """Entry point of the `nslab` command."""
    app(prog_name="nslab")


def _print_version(wanted: bool) -> bool:
    if wanted:
        typer.echo(f"nslab {__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """A laboratory for the noise stability of Transformers."""

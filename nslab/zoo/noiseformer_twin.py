"""Character models with symmetric attention and learned noise, from the files that their training leaves."""

from pathlib import Path

from nslab.transformer.noiseformer_files import load_noiseformer
from nslab.zoo.characters import adopt_characters
from nslab.zoo.checks import CannotLoad
from nslab.zoo.models import LanguageModel

RECORD = "the model.safetensors of a record of `nslab rerun noiseformer-char-gpt`"


def noiseformer_from(path: str | Path, *, name: str = "noiseformer-char-gpt") -> LanguageModel:
    """A character model that is a `NoiseFormer`, in float32 on the CPU; called, it takes the mean of its noise.

    Args:
        path: what `save_noiseformer` wrote with its "alphabet" among the facts, for example the artifact of
            `nslab rerun noiseformer-char-gpt`.
        name: what errors and figures call it.

    How to read it: `module` is the network. `with model.module.noise("sample"):` has it draw its noise.

    Errors: `CannotLoad` when the file is missing, cut short, or holds something else, such as a network with standard
    attention.
    """
    if not Path(path).is_file():
        raise CannotLoad(f"there is no file {path}: give {RECORD}")
    try:
        module, facts = load_noiseformer(path)
        provenance = facts.get("provenance", f"A NoiseFormer over characters from the file {Path(path).name}.")
        return adopt_characters(module, facts["alphabet"], name=name, provenance=provenance)
    except (KeyError, ValueError) as error:
        raise CannotLoad(
            f"{path} is not a whole character model with learned noise ({type(error).__name__}: {error}): give "
            f"{RECORD}, or train it again"
        ) from error

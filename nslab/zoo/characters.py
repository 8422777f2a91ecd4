"""char-gpt: the small Transformer over characters that this project trains, and others like it."""

from pathlib import Path

from nslab.transformer import Transformer, load_transformer
from nslab.zoo.checks import CannotLoad
from nslab.zoo.models import LanguageModel, freeze
from nslab.zoo.vocabularies import Characters

SHIPPED = Path(__file__).parent / "weights" / "char-gpt.safetensors"


def char_gpt() -> LanguageModel:
    """The char-gpt that comes with the package.

    Errors: `CannotLoad` when the package holds none.
    """
    if not SHIPPED.is_file():
        raise CannotLoad(
            "char-gpt is not part of this copy of nslab: train one with `nslab rerun char-gpt`, and load the "
            "model.safetensors of its record with zoo.char_gpt_from(path)"
        )
    return char_gpt_from(SHIPPED)


def char_gpt_from(path: str | Path, *, name: str = "char-gpt") -> LanguageModel:
    """A character model from a file, in float32 on the CPU.

    Args:
        path: what `nslab.transformer.save_transformer` wrote with its "alphabet" among the facts, for example the
            artifact of `nslab rerun char-gpt`.
        name: what errors and figures call it.

    Errors: `CannotLoad` when the file is missing, cut short, or holds something else.
    """
    if not Path(path).is_file():
        raise CannotLoad(f"there is no file {path}: give the model.safetensors of a record of `nslab rerun char-gpt`")
    try:
        module, facts = load_transformer(path)
        provenance = facts.get("provenance", f"A character model from the file {Path(path).name}.")
        return adopt_characters(module, facts["alphabet"], name=name, provenance=provenance)
    except (KeyError, ValueError) as error:
        raise CannotLoad(
            f"{path} is not a whole character model ({type(error).__name__}: {error}): take the file from its record "
            "again, or train it again with `nslab rerun char-gpt`"
        ) from error


def adopt_characters(
    module: Transformer,
    alphabet: str,
    *,
    name: str = "char-gpt",
    provenance: str = "A character model, given in memory.",
) -> LanguageModel:
    """A `Transformer` over characters that is in memory, as a `LanguageModel`. It is frozen, not copied.

    Errors: `ValueError` when the alphabet and the vocabulary differ in size, a character repeats, or the network is not
    causal: it then predicts no next character, and `zoo.wrap` takes it as what it is.
    """
    shape = module.config
    if len(set(alphabet)) != len(alphabet):
        raise ValueError(f"alphabet {alphabet!r} repeats a character: give each once")
    if len(alphabet) != shape.vocabulary:
        raise ValueError(
            f"alphabet has {len(alphabet)} characters and the model {shape.vocabulary} embeddings: this vocabulary "
            "does not belong to this model; give the alphabet it was trained with"
        )
    if not shape.causal:
        raise ValueError("module.config.causal is False: give a causal network, or measure this one through zoo.wrap")
    return LanguageModel(
        name=name,
        kind="causal",
        module=freeze(module),
        body=module,
        tokens=Characters(alphabet, shape.special),
        context=shape.context,
        width=shape.width,
        layers=shape.layers,
        provenance=provenance,
    )

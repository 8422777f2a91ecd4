"""Any text model of the Hugging Face hub, or of a local folder, as a `LanguageModel`."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nslab.zoo.checks import CannotLoad, pick
from nslab.zoo.models import Kind, LanguageModel, freeze
from nslab.zoo.refusals import explained, quiet, require_transformers
from nslab.zoo.vocabularies import HubTokens, Numbers

SUPPORTED = "causal language models, masked language models, and encoders of that kind without a head"


class HubBody:
    """Embeddings in, outputs out, through a model of `transformers`; the vocabulary head only where it is read."""

    def __init__(self, module: nn.Module, kind: Kind):
        self.module, self.kind = module, kind
        self.table = module.get_input_embeddings()
        self.head = None if kind == "encoder" else module.get_output_embeddings()

    def embed(self, ids: Tensor) -> Tensor:
        """Token embeddings (batch, length, width)."""
        return self.table(ids)

    def from_embeddings(self, embeddings: Tensor, at: Tensor | None) -> Tensor:
        """Logits, or the last hidden states of an encoder."""
        return self._run(embeddings, at)[0]

    def trace(self, embeddings: Tensor, at: Tensor | None) -> tuple[Tensor, list[Tensor]]:
        """The same, and all hidden states."""
        output, found = self._run(embeddings, at, output_hidden_states=True)
        return output, list(found.hidden_states)

    def look(self, embeddings: Tensor, at: Tensor | None) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """The same, and all attention weights; fused attention has none, so the module leaves it for this call."""
        before = self.module.config._attn_implementation
        self.module.set_attn_implementation("eager")
        try:
            output, found = self._run(embeddings, at, output_hidden_states=True, output_attentions=True)
        finally:
            self.module.set_attn_implementation(before)
        if not (weights := [one for one in found.attentions or () if one is not None]):
            raise ValueError(
                f"{type(self.module).__name__} does not tell its attention weights: look at its hidden states by trace"
            )
        return output, list(found.hidden_states), weights

    def _run(self, embeddings: Tensor, at: Tensor | None, **options: bool) -> tuple[Tensor, Any]:
        """A hook cuts the input of the vocabulary head down to the asked position, whatever the architecture."""
        gathered = []

        def gather(_: nn.Module, given: tuple) -> tuple:
            gathered.append(True)
            return (pick(given[0], at)[:, None], *given[1:])  # (batch, length, hidden) -> (batch, 1, hidden)

        hooked = at is not None and self.head is not None
        hook = self.head.register_forward_pre_hook(gather) if hooked else contextlib.nullcontext()
        with hook:
            found = self.module(inputs_embeds=embeddings.clone(), **options)  # CTRL scales its input in place
        output = found.last_hidden_state if self.kind == "encoder" else found.logits
        if at is None:
            return output, found
        return (output[:, 0] if gathered else pick(output, at)), found  # a few heads are no module: all, then pick


def from_hub(
    name: str,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    device_map: str | dict | None = None,
    allow_code: bool = False,
    revision: str | None = None,
    known_as: str | None = None,
    provenance: str | None = None,
) -> LanguageModel:
    """A causal, masked or encoder model by hub name or folder; see `load` for the arguments and errors."""
    require_transformers(device_map)
    name = str(Path(name).expanduser()) if name.startswith("~") else name
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

    options = {"revision": revision or "main", "trust_remote_code": allow_code}
    with quiet(), explained(name, allow_code):
        config = AutoConfig.from_pretrained(name, **options)
    kind = kind_of(config, name)
    source = {"causal": AutoModelForCausalLM, "masked": AutoModelForMaskedLM, "encoder": AutoModel}[kind]
    with quiet(), explained(name, allow_code):
        tokenizer = AutoTokenizer.from_pretrained(name, **options)
        module, found = source.from_pretrained(
            name, dtype=dtype or torch.float32, device_map=device_map, output_loading_info=True, **options
        )
    missing = sorted(key for key in found["missing_keys"] if "pooler" not in key)  # the pooler is never asked
    if missing:
        raise CannotLoad(
            f"{name}: the file holds no weights for {', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}, "
            f"which a {kind} model needs; take a checkpoint that was saved whole"
        )
    if device_map is None:
        module = module.to(torch.get_default_device() if device is None else device)
    if provenance is None:
        place = f"folder {Path(name).name}" if Path(name).is_dir() else f"Hugging Face hub, {name}"
        provenance = f"{type(module).__name__} from the {place}{f' at {revision}' if revision else ''}."
    return adopt(module, tokenizer, name=known_as or name, provenance=provenance)


def adopt(
    module: nn.Module,
    tokenizer: Any = None,
    *,
    special: tuple[int, ...] = (),
    mask_id: int | None = None,
    name: str = "your model",
    provenance: str | None = None,
) -> LanguageModel:
    """A model of `transformers` that is already in memory, with its tokenizer, as a `LanguageModel`.

    Args:
        module: a causal or masked language model, or an encoder without a head. It is frozen, not copied; to go on
            training it afterwards, `module.train().requires_grad_()`. A module that is refused stays as it was.
        tokenizer: the model's own tokenizer; from now on it cuts texts at their end. None for a model of ids that
            stand for no text: it takes ids only, and shows them as #0, #1, ...
        special: ids that noise must not touch and must not produce, where there is no tokenizer that knows them.
        mask_id: the mask token of a masked model without a tokenizer; it counts as special.
        name: what errors and figures call it.
        provenance: where the weights come from; the class by default.

    Errors: `ValueError` when the tokenizer has ids beyond the embeddings, or is given with `special` or `mask_id`;
    `CannotLoad` for other kinds of models, one without its head, one whose outputs from embeddings differ from its
    outputs from ids or are not finite, and a causal one that sees later tokens.
    """
    if not hasattr(getattr(module, "config", None), "model_type"):
        raise CannotLoad(f"module is {type(module).__name__}, no model of transformers: use zoo.wrap")
    if tokenizer is not None and (special or mask_id is not None):
        raise ValueError(f"special is {special}, mask_id {mask_id}: the tokenizer knows them, leave them out")
    kind = kind_of(module.config, name, type(module).__name__)
    body = HubBody(module, kind)
    rows, width = body.table.weight.shape
    tokens = HubTokens(tokenizer, rows) if tokenizer is not None else Numbers.of(rows, special, mask_id)
    with _freezing(module):
        layers = _prove(body, tokens, name)
    return LanguageModel(
        name=name,
        kind=kind,
        module=module,
        body=body,
        tokens=tokens,
        context=_context(module, tokenizer),
        width=width,
        layers=layers,
        provenance=provenance or f"{type(module).__name__}, given in memory.",
    )


@contextlib.contextmanager
def _freezing(module: nn.Module) -> Iterator[None]:
    """Freeze the module; if it is refused, give it back as it was."""
    modes = [(part, part.training) for part in module.modules()]
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    cache = getattr(module.config, "use_cache", None)
    freeze(module).config.use_cache = False  # keys and values are for decoding; here they only cost memory
    try:
        yield
    except BaseException:
        for part, mode in modes:
            part.training = mode
        for parameter in trained:
            parameter.requires_grad_()
        module.config.use_cache = cache
        raise


def kind_of(config: Any, name: str, architecture: str | None = None) -> Kind:
    """Causal, masked or encoder, from the configuration; everything else is refused."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    architecture = architecture or (getattr(config, "architectures", None) or [""])[0]
    causal = config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    masked = config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    shown = f"{name} is {architecture or 'of no named architecture'} ({config.model_type})"
    if getattr(config, "is_encoder_decoder", False):
        raise CannotLoad(f"{shown}, an encoder-decoder: its outputs need a second text. The zoo reads {SUPPORTED}")
    if architecture.endswith(("ForCausalLM", "LMHeadModel")):
        return "causal"
    if architecture.endswith("ForMaskedLM") or (masked and architecture.endswith("ForPreTraining")):
        return "masked"
    if architecture.endswith("Model") and masked:
        return "encoder"
    if causal and (architecture.endswith("Model") or not architecture):
        return "causal"
    if masked and not architecture:
        return "masked"
    raise CannotLoad(
        f"{shown}: the zoo reads {SUPPORTED}. Any other model that maps token ids to numbers can be measured through "
        "zoo.wrap"
    )


def _context(module: nn.Module, tokenizer: Any) -> int:
    """The longest sequence: the positions there are, less those that RoBERTa's numbering leaves unused."""
    config = module.config
    found = next((n for key in ("max_position_embeddings", "max_seq_len", "seq_length") if (n := _at(config, key))), 0)
    for part, inner in module.named_modules():
        if part.endswith("position_embeddings") and getattr(inner, "padding_idx", None) is not None:
            found = inner.num_embeddings - inner.padding_idx - 1
    if not found:  # positions by bias (ALiBi) have no longest sequence
        stated = getattr(tokenizer, "model_max_length", 2048)
        return stated if stated < 10**6 else 2048
    return found


def _at(config: Any, key: str) -> int:
    value = getattr(config, key, None)
    return value if isinstance(value, int) and value > 0 else 0


@torch.no_grad()
def _prove(body: HubBody, tokens: HubTokens | Numbers, name: str) -> int:
    """Run a few tokens: the measures rest on ids and embeddings giving the same. Returns the number of layers."""
    usual = sorted(set(range(min(tokens.size, 4096))) - set(tokens.special))[:8]
    ids = torch.tensor([usual], device=body.table.weight.device)
    by_ids = getattr(body.module(ids), "last_hidden_state" if body.kind == "encoder" else "logits", None)
    if by_ids is None:
        raise CannotLoad(
            f"{name} is {type(body.module).__name__}, which returns no logits: give the {body.kind} model with its "
            "head, as AutoModelForCausalLM or AutoModelForMaskedLM load it"
        )
    by_embeddings, hidden = body.trace(body.embed(ids), None)
    if not bool(torch.isfinite(by_ids).all()):
        raise CannotLoad(f"{name} returns NaN or infinity on ordinary tokens: the weights are broken, fetch them again")
    digits = 1e-4 if by_ids.dtype in (torch.float32, torch.float64) else 5e-2
    slack = digits * float(by_ids.abs().max().clamp(min=1))
    if float((by_ids - by_embeddings).abs().max()) > slack:
        raise CannotLoad(
            f"{name} gives other outputs from embeddings than from ids (it uses the ids elsewhere too), so influence "
            "through embeddings would be wrong; measure it through zoo.wrap, which asks for ids only"
        )
    ids[0, -1] = usual[0]
    earlier = (body.from_embeddings(body.embed(ids), None) - by_embeddings)[:, :-1]
    if body.kind == "causal" and float(earlier.abs().max()) > slack:
        raise CannotLoad(
            f"{name} predicts a token from later ones too (BERT-like models need is_decoder=True in their "
            "configuration), so it is no causal model; measure it through zoo.wrap"
        )
    return len(hidden) - 1

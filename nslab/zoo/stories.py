"""stories260k: a language model of a quarter of a million parameters, in the first layout of llama2.c."""

import hashlib
import os
import struct
from pathlib import Path

import numpy as np
import torch

from nslab.zoo.checks import CannotLoad
from nslab.zoo.hub import HubBody
from nslab.zoo.models import LanguageModel, freeze
from nslab.zoo.refusals import require_transformers
from nslab.zoo.vocabularies import MergingTokens

FILES = {
    "stories260K.bin": "b0a507e7ad0f626624f17112325e66691f9076d622e1d3274d103d00299f2696",
    "tok512.bin": "037cb335abb25d1fa9e8ecae30ed2a3a8ace9302862ebcdc05d51a6bbb10c312",
}
PROVENANCE = (
    "stories260K (MIT by its model card): a Llama of 260,032 parameters trained on TinyStories by A. Karpathy; texts "
    "start with its begin token."
)


def stories260k(folder: str | Path | None = None) -> LanguageModel:
    """The model from `stories260K.bin` and `tok512.bin` in a folder, $NSLAB_MODELS by default; float32, on the CPU.

    Errors: `CannotLoad` when the folder or a file is missing, or a file is not the known one.
    """
    require_transformers()
    place = folder or os.environ.get("NSLAB_MODELS")
    if not place:
        raise CannotLoad(f"stories260k needs {' and '.join(FILES)}: set NSLAB_MODELS to the folder that holds them")
    for name, known in FILES.items():
        path = Path(place) / name
        if not path.is_file():
            raise CannotLoad(f"{path} is missing: set NSLAB_MODELS to the folder with {' and '.join(FILES)}")
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != known:
            raise CannotLoad(
                f"{path} has the sha256 {found}, expected {known}: take the file of karpathy/tinyllamas in the first "
                "layout of llama2.c (later layouts decode to noise)"
            )
    module = _read(Path(place) / "stories260K.bin")
    return LanguageModel(
        name="stories260k",
        kind="causal",
        module=module,
        body=HubBody(module, "causal"),
        tokens=MergingTokens(Path(place) / "tok512.bin"),
        context=module.config.max_position_embeddings,
        width=module.config.hidden_size,
        layers=module.config.num_hidden_layers,
        provenance=PROVENANCE,
    )


def _read(path: Path) -> torch.nn.Module:
    """Seven int32 (width, MLP width, layers, heads, key-value heads, vocabulary, context), then float32 blocks."""
    from transformers import LlamaConfig, LlamaForCausalLM

    data = path.read_bytes()
    width, hidden, layers, heads, groups, vocabulary, context = struct.unpack("<7i", data[:28])
    flat, at, head = np.frombuffer(data[28:], "<f4"), 0, width // heads

    def take(*shape: int) -> torch.Tensor:
        nonlocal at
        size = int(np.prod(shape))
        at += size
        return torch.from_numpy(flat[at - size : at].copy().reshape(shape))

    def halves(matrix: torch.Tensor, count: int) -> torch.Tensor:
        """Rotary pairs lie side by side in the file, and half a head apart in `transformers`."""
        return matrix.reshape(count, head // 2, 2, width).transpose(1, 2).reshape(matrix.shape)

    table, before = take(vocabulary, width), take(layers, width)
    query, key = take(layers, width, width), take(layers, groups * head, width)
    value, output = take(layers, groups * head, width), take(layers, width, width)
    after, gate, down, up = take(layers, width), *(take(layers, *s) for s in _mlp(hidden, width))
    state = {"model.embed_tokens.weight": table, "lm_head.weight": table, "model.norm.weight": take(width)}
    for layer in range(layers):
        weights = {
            "self_attn.q_proj": halves(query[layer], heads),
            "self_attn.k_proj": halves(key[layer], groups),
            "self_attn.v_proj": value[layer],
            "self_attn.o_proj": output[layer],
            "mlp.gate_proj": gate[layer],
            "mlp.down_proj": down[layer],
            "mlp.up_proj": up[layer],
            "input_layernorm": before[layer],
            "post_attention_layernorm": after[layer],
        }
        state |= {f"model.layers.{layer}.{name}.weight": weight for name, weight in weights.items()}
    module = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=width,
            intermediate_size=hidden,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=groups,
            max_position_embeddings=context,
            rms_norm_eps=1e-5,
            tie_word_embeddings=True,
            use_cache=False,
        )
    )
    module.load_state_dict(state)
    return freeze(module)


def _mlp(hidden: int, width: int) -> tuple[tuple[int, int], ...]:
    return (hidden, width), (width, hidden), (hidden, width)

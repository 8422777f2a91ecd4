"""The same weights in the models of the `transformers` package give the same logits and gradients."""

import pytest
import torch
from torch.nn import functional as F

from nslab.transformer import Transformer, TransformerConfig


@pytest.fixture
def ids():
    return torch.randint(50, (3, 16), generator=torch.Generator().manual_seed(0))


def wide(model, seed=1):
    """Draw all weights again, wide enough for every part to matter."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            drawn = torch.randn(weight.shape, generator=generator) / 5
            weight.copy_(1 + drawn if weight.ndim == 1 and "norm" in name and name.endswith("weight") else drawn)
    return model.eval()


def test_gpt2_with_the_exact_gelu_is_a_transformer_of_ours(ids, tolerances):
    from transformers import GPT2Config, GPT2LMHeadModel

    ours = wide(Transformer(TransformerConfig(vocabulary=50, context=16, width=24, layers=3, heads=4)))
    shape = GPT2Config(
        vocab_size=50, n_positions=16, n_embd=24, n_layer=3, n_head=4, activation_function="gelu", bos_token_id=0,
        eos_token_id=0, use_cache=False,
    )  # fmt: skip
    theirs = GPT2LMHeadModel(shape).eval()
    renamed = {
        "tokens.weight": "transformer.wte.weight",
        "positions.weight": "transformer.wpe.weight",
        "final_norm.weight": "transformer.ln_f.weight",
        "final_norm.bias": "transformer.ln_f.bias",
    }
    parts = {"attention_norm": "ln_1", "attention.qkv": "attn.c_attn", "attention.output": "attn.c_proj"}
    parts |= {"mlp_norm": "ln_2", "mlp.input": "mlp.c_fc", "mlp.output": "mlp.c_proj"}
    for layer in range(3):
        for mine, yours in parts.items():
            for kind in ("weight", "bias"):
                renamed[f"layers.{layer}.{mine}.{kind}"] = f"transformer.h.{layer}.{yours}.{kind}"
    state = {}
    for mine, value in ours.state_dict().items():
        turned = ".c_" in renamed[mine] and value.ndim == 2  # GPT-2 stores its matrices transposed
        state[renamed[mine]] = value.T if turned else value
    state["lm_head.weight"] = ours.tokens.weight
    theirs.load_state_dict(state)

    torch.testing.assert_close(ours(ids), theirs(ids).logits, rtol=0, atol=tolerances["other package"])
    F.cross_entropy(ours(ids).flatten(0, 1), ids.flatten()).backward()
    F.cross_entropy(theirs(ids).logits.flatten(0, 1), ids.flatten()).backward()
    found, expected = ours.tokens.weight.grad, theirs.transformer.wte.weight.grad
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerances["other package"])
    found, expected = ours.layers[0].attention.qkv.weight.grad, theirs.transformer.h[0].attn.c_attn.weight.grad.T
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerances["other package"])


def test_a_block_of_llama_without_its_gate_is_ours(ids, tolerances):
    """RMSNorm, rotary attention and the residual stream; Llama's MLP is gated and is left out (set to zero)."""
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = TransformerConfig(
        vocabulary=50, context=16, width=24, layers=2, heads=3, norm="rms", positions="rotary", tied=False, bias=False,
        epsilon=1e-5,
    )  # fmt: skip
    ours = wide(Transformer(shape))
    theirs = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=50, hidden_size=24, intermediate_size=8, num_hidden_layers=2, num_attention_heads=3,
            max_position_embeddings=16, rms_norm_eps=1e-5, bos_token_id=0, eos_token_id=0, use_cache=False,
        )
    ).eval()  # fmt: skip
    with torch.no_grad():
        theirs.model.embed_tokens.weight.copy_(ours.tokens.weight)
        theirs.lm_head.weight.copy_(ours.output.weight)
        theirs.model.norm.weight.copy_(ours.final_norm.weight)
        for mine, yours in zip(ours.layers, theirs.model.layers, strict=True):
            yours.input_layernorm.weight.copy_(mine.attention_norm.weight)
            names = ("q_proj", "k_proj", "v_proj")
            for name, rows in zip(names, mine.attention.qkv.weight.chunk(3), strict=True):
                getattr(yours.self_attn, name).weight.copy_(rows)
            yours.self_attn.o_proj.weight.copy_(mine.attention.output.weight)
            yours.mlp.down_proj.weight.zero_()
            mine.mlp.output.weight.zero_()
    torch.testing.assert_close(ours(ids), theirs(ids).logits, rtol=0, atol=tolerances["other package"])

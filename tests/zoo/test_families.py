"""What makes some families differ: scaled embeddings, capped logits, narrow embeddings, their own positions."""

import pytest
import torch

from nslab import zoo
from tests.zoo.conftest import CONTEXT, SHAPE, tokenizer_of

GEMMA = {"head_dim": 4, "num_key_value_heads": 1}
OPT = {"ffn_dim": 32, "word_embed_proj_dim": 8}
DECODER = {"d_model": 16, "decoder_layers": 3, "decoder_attention_heads": 4, "decoder_ffn_dim": 32}
CAUSAL = {
    "Gemma": GEMMA,
    "Gemma2": GEMMA | {"final_logit_softcapping": 3.0, "query_pre_attn_scalar": 4},
    "Gemma3": GEMMA | {"final_logit_softcapping": 3.0, "sliding_window": 4},
    "Cohere": {"logit_scale": 0.25},
    "Granite": {"logits_scaling": 4.0, "embedding_multiplier": 3.0},
    "GPTNeoX": {},
    "OPT": OPT,
    "Qwen2": {"num_key_value_heads": 2, "tie_word_embeddings": False},
    "Bart": DECODER,
}
MASKED = {"Albert": {"embedding_size": 8}, "Electra": {"embedding_size": 8}}


@pytest.fixture(scope="module", params=[*CAUSAL, *MASKED])
def network(request):
    """A random network in float64 with its tokenizer, and the width of its embeddings."""
    import transformers as hf

    name = request.param
    tokenizer = tokenizer_of("bert" if name in MASKED else "gpt2")
    sizes = SHAPE | {"vocab_size": len(tokenizer), "max_position_embeddings": CONTEXT, "initializer_range": 0.5}
    ends = {} if name in MASKED else dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), 0)
    if name == "Bart":  # a decoder alone; other names for the sizes
        sizes, ends = {"vocab_size": len(tokenizer), "max_position_embeddings": CONTEXT, "init_std": 0.5}, {}
    config = getattr(hf, name + ("TextConfig" if name == "Gemma3" else "Config"))
    head = getattr(hf, name + ("ForMaskedLM" if name in MASKED else "ForCausalLM"))
    torch.manual_seed(0)
    settings = sizes | ends | (MASKED | CAUSAL)[name]
    return head(config(**settings)).double(), tokenizer, 8 if name in (*MASKED, "OPT") else 16


def test_all_ways_through_it_agree(network, random_ids):
    module, tokenizer, width = network
    model = zoo.adopt(module, tokenizer)
    ids, at = random_ids(model), torch.tensor([0, 8, 4])
    with torch.no_grad():
        found = module(input_ids=ids, output_hidden_states=True)
    expected = found.logits
    once = expected[torch.arange(3), at]
    assert (model.context, model.width, model.layers) == (CONTEXT, width, len(found.hidden_states) - 1)
    torch.testing.assert_close(model(ids), expected)
    torch.testing.assert_close(model(ids, at), once)
    torch.testing.assert_close(model.from_embeddings(model.embed(ids), at), once)
    torch.testing.assert_close(model.trace(model.embed(ids), at)[0], once)
    assert bool(torch.isfinite(model(random_ids(model, length=CONTEXT))).all())
    assert bool(torch.isfinite(model(ids[:, :1])).all())


def test_a_model_that_scales_its_input_in_place_leaves_the_embeddings_alone(random_ids):
    import transformers as hf

    tokenizer = tokenizer_of("gpt2")
    sizes = {"n_embd": 16, "n_layer": 2, "n_head": 4, "dff": 32, "n_positions": CONTEXT}
    model = zoo.adopt(hf.CTRLLMHeadModel(hf.CTRLConfig(vocab_size=len(tokenizer), **sizes)), tokenizer)
    score = zoo.top_token_score(model, random_ids(model))
    before = score.embeddings.clone()
    torch.testing.assert_close(score.from_embeddings(score.embeddings), score.value)
    assert torch.equal(score.embeddings, before)
    (gradient,) = torch.autograd.grad(score.from_embeddings(before.requires_grad_()).sum(), before)
    assert bool(gradient.abs().sum() > 0)

"""The heads of real networks, against the networks themselves and against automatic differentiation."""

import gc
import math
import weakref

import pytest
import torch
from torch import nn

from nslab import zoo
from nslab.barrier.heads import head_blocks, whole_blocks
from nslab.barrier.real_heads import stages, watching
from nslab.transformer import Transformer, TransformerConfig

TOLERANCES = {"exact": 1e-12, "single": 1e-6, "difference": 1e-3, "half": 2e-2}
SMALL = {"vocabulary": 11, "context": 12, "width": 16, "layers": 2, "heads": 4}
LLAMA = {"vocab_size": 11, "max_position_embeddings": 12, "num_hidden_layers": 2, "hidden_size": 16,
         "num_attention_heads": 4, "intermediate_size": 24, "initializer_range": 0.5}  # fmt: skip
IDS = torch.tensor([[1, 4, 2, 9, 9, 3, 0], [5, 5, 7, 1, 10, 2, 8]])


def small(**choice):
    model = Transformer(TransformerConfig(**SMALL | choice), torch.Generator().manual_seed(0)).double().eval()
    for name, weight in model.named_parameters():
        if "norm" in name:
            nn.init.normal_(weight, 1.0, 0.3, generator=torch.Generator().manual_seed(1))
        elif name.endswith("bias"):
            nn.init.normal_(weight, 0.0, 0.3, generator=torch.Generator().manual_seed(2))
        else:
            weight.data *= 25  # scores far from uniform
    return model


def llama(**choice):
    import transformers as hf

    torch.manual_seed(0)
    return hf.LlamaForCausalLM(hf.LlamaConfig(**LLAMA | {"num_key_value_heads": 2} | choice)).double().eval()


def gpt2(**choice):
    import transformers as hf

    torch.manual_seed(0)
    sizes = {"vocab_size": 11, "n_positions": 12, "n_layer": 2, "n_embd": 16, "n_head": 4, "initializer_range": 0.5}
    return hf.GPT2LMHeadModel(hf.GPT2Config(**sizes | choice)).double().eval()


def without_epsilon():
    """RMSNorm as torch makes it when no epsilon is named: its epsilon is that of the dtype."""
    model = small(norm="rms")
    for layer in model.layers:
        layer.attention_norm = nn.RMSNorm(16, dtype=torch.float64)
    return model


NETWORKS = {
    "learned": (small, "layers.1.attention", "qkv"),
    "rotary": (lambda: small(positions="rotary", norm="rms"), "layers.1.attention", "qkv"),
    "none": (lambda: small(positions="none", norm="none", bias=False), "layers.1.attention", "qkv"),
    "no epsilon": (without_epsilon, "layers.1.attention", "qkv"),
    "llama": (llama, "model.layers.1.self_attn", "q_proj"),
    "llama with one key": (lambda: llama(num_key_value_heads=1, head_dim=6), "model.layers.1.self_attn", "q_proj"),
    "llama in a long context": (
        lambda: llama(rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 10_000.0}),
        "model.layers.1.self_attn",
        "q_proj",
    ),
    "gpt2": (gpt2, "transformer.h.1.attn", "c_attn"),
    "gpt2 with scaled layers": (
        lambda: gpt2(scale_attn_by_inverse_layer_idx=True),
        "transformer.h.1.attn",
        "c_attn",
    ),
}
NORMS = {"qkv": "attention_norm", "q_proj": "input_layernorm", "c_attn": "ln_1"}


def output_of_moved_query(model, attention, projection, before=None):
    """What layer 1 adds to the stream when the input of its queries alone moves by `by` (batch, length, width).

    The projection that computes the queries sees its input moved; keys and values are computed from the old input. With
    `before`, the name of the norm in front, it is the input of the norm that moves.
    """
    module, added = model.get_submodule(attention), []
    block = model.get_submodule(attention.rpartition(".")[0])
    inputs = {}
    kept = [module.get_submodule(projection).register_forward_hook(lambda m, given, out: inputs.update(x=given[0]))]
    if before:
        kept.append(getattr(block, before).register_forward_hook(lambda m, given, out: inputs.update(stream=given[0])))
    model(IDS)
    for hook in kept:
        hook.remove()

    def run(by):
        x = inputs["x"] + by
        if before:
            x = getattr(block, before)(inputs["stream"] + by)

        def moved(m, given, out):
            weight = m.weight.T if type(m).__name__ == "Conv1D" else m.weight
            bias = 0 if m.bias is None else m.bias
            fresh = x @ weight.T + bias
            width = out.shape[-1] if projection == "q_proj" else out.shape[-1] // 3
            return torch.cat((fresh[..., :width], out[..., width:].detach()), -1)

        hooks = [
            module.get_submodule(projection).register_forward_hook(moved),
            module.register_forward_hook(lambda m, given, out: added.append(out[0] if isinstance(out, tuple) else out)),
        ]
        model(IDS)
        for hook in hooks:
            hook.remove()
        return added.pop()

    return run, inputs["x"]


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_query_path_of_a_real_layer_has_the_blocks_of_its_stage(name, norm):
    make, attention, projection = NETWORKS[name]
    model = make().requires_grad_(False)
    run, x = output_of_moved_query(model, attention, projection, NORMS[projection] if norm else None)
    found = whole_blocks(stages(model, IDS, norm=norm)[1], self_included=True)
    jacobian = torch.autograd.functional.jacobian(lambda by: run(by.view_as(x)).sum(0), torch.zeros_like(x))
    exact = TOLERANCES["single" if norm and projection == "q_proj" else "exact"]  # that norm computes in float32
    for i in range(IDS.shape[1]):
        expected = torch.eye(16, dtype=torch.float64) - jacobian[i, :, :, i].transpose(0, 1)  # (batch, out, in)
        assert (found[:, i] - expected).abs().max() < exact * expected.abs().max()
    others = [jacobian[i, :, :, j].abs().max() for i in range(7) for j in range(7) if i != j]
    assert max(others) == 0  # a query moves the output of its own position only
    assert (found - torch.eye(16, dtype=torch.float64)).abs().max() > 0.1


def test_one_stage_a_layer_holds_what_the_network_computed():
    model = small(positions="rotary")
    found = stages(model, IDS)
    names = [f"layers.{layer}.attention.{part}" for layer in (0, 1) for part in ("query", "key", "value")]
    _, seen = model.run(IDS, names)
    assert len(found) == 2
    for layer, stage in enumerate(found):
        for part in ("query", "key", "value"):
            expected = seen[f"layers.{layer}.attention.{part}"]
            assert (getattr(stage, part) - expected).abs().max() < TOLERANCES["exact"]


@pytest.mark.parametrize(("make", "step"), [(small, 1e-5), (llama, 1e-3), (gpt2, 1e-5)])  # Llama's norm: float32
def test_a_penalty_on_stages_trains_the_network_through_the_pass_that_was_made(make, step):
    model = make().requires_grad_(True)
    weight = next(
        p for n, p in model.named_parameters() if n.endswith(("qkv.weight", "q_proj.weight", "c_attn.weight"))
    )
    passes = []
    model.register_forward_hook(lambda *_: passes.append(1))

    def penalty():
        with watching(model) as seen:
            model(IDS)
            return torch.stack([-torch.linalg.slogdet(head_blocks(stage))[1].mean() for stage in seen.stages()]).sum()

    (gradient,) = torch.autograd.grad(penalty(), weight)
    assert len(passes) == 1
    values, at = [], (2, 3)
    for sign in (1, -1):
        with torch.no_grad():
            weight[at] += sign * step
            values.append(penalty().item())
            weight[at] -= sign * step
    assert (values[0] - values[1]) / (2 * step) == pytest.approx(gradient[at].item(), rel=TOLERANCES["difference"])


def test_stages_are_those_of_the_latest_pass():
    model = small()
    with watching(model) as seen:
        model(IDS)
        first = seen.stages()
        model(IDS[:1, :4])
        second = seen.stages()
        model(IDS)
        assert torch.equal(seen.stages()[1].query, first[1].query)
    assert second[1].query.shape == (1, 4, 4, 4)
    assert torch.equal(second[0].query, stages(model, IDS[:1, :4])[0].query)


def test_a_pass_that_broke_off_leaves_nothing_to_the_next():
    model = small()
    broken = model.layers[1].attention.register_forward_pre_hook(lambda *_: 1 / 0)
    with watching(model) as seen:
        with pytest.raises(ZeroDivisionError):
            model(IDS)
        with pytest.raises(ValueError, match=r"left out layers\.1\.attention\.qkv: let the model run to its end"):
            seen.stages()
        broken.remove()
        model(IDS)
        assert len(seen.stages()) == 2


def test_hooks_go_and_graphs_are_let_go():
    model = small()
    hooks = lambda: sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in model.modules())  # noqa: E731
    with watching(model, norm=True) as seen:
        assert hooks() == 2 * 4
        model(IDS)
        kept = weakref.ref(seen.stages()[0].query)
        caught = weakref.ref(seen._seen["layers.0.attention"]["qkv"].output)
    gc.collect()
    assert hooks() == 0
    assert kept() is None
    assert caught() is None
    with pytest.raises(ValueError, match="no hooks are set"):
        seen.stages()


def test_started_and_stopped_around_a_training_loop():
    model = small()
    seen = watching(model).start()
    with pytest.raises(ValueError, match=r"set already: call stop\(\) first"):
        seen.start()
    with pytest.raises(ValueError, match=r"not called since the hooks were set: call model\(ids\)"):
        seen.stages()
    for _ in range(2):
        model(IDS)
        assert len(seen.stages()) == 2
    seen.stop()
    model(IDS)
    assert len(seen.start()._hooks) == 6
    with pytest.raises(ValueError, match="not called since"):
        seen.stages()  # nothing is left of the passes before


def test_changed_layers_are_noticed():
    model = small()
    with watching(model) as seen:
        model(IDS)
        model.layers[0] = small().layers[0]
        with pytest.raises(ValueError, match=r"layers of the model changed .* stop\(\), then start\(\)"):
            seen.stages()


def test_layers_that_share_their_attention_are_refused():
    model = small(layers=3)
    model.layers[2] = model.layers[1]
    with pytest.raises(ValueError, match=r"layers\.1\.attention was called twice"):
        stages(model, IDS)


def test_weights_are_those_of_the_pass():
    model = small()
    other = {name: weight * 2 for name, weight in model.named_parameters()}
    with watching(model) as seen:
        torch.func.functional_call(model, other, (IDS,))
        found = seen.stages()[0]
    assert torch.equal(found.output_weight, 2 * stages(model, IDS)[0].output_weight)


def test_many_members_are_watched_at_once_under_vmap():
    models = [small(), small(positions="learned")]
    models[1].layers[0].attention.qkv.weight.data *= 1.5
    stacked, _ = torch.func.stack_module_state(models)

    def queries(weights):
        with watching(models[0], check=False) as seen:
            torch.func.functional_call(models[0], weights, (IDS,))
            stage = seen.stages()[1]
            return stage.query, stage.query_weight

    models[0].train()  # inside vmap no id can be looked at
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        found = torch.func.vmap(queries)(stacked)
    for member, model in enumerate(models):
        expected = stages(model, IDS)[1]
        assert (found[0][member] - expected.query).abs().max() < TOLERANCES["exact"]
        assert torch.equal(found[1][member], expected.query_weight)


@pytest.mark.parametrize("wrapped", ["adopted", "wrapped", "bound"])
def test_a_model_of_the_zoo_shows_the_network_within(wrapped):
    model = small()
    expected = stages(model, IDS)[1].query
    if wrapped == "adopted":
        holder = zoo.adopt_characters(model, "abcdefghijk")
    elif wrapped == "wrapped":
        holder = zoo.wrap(model, vocabulary=11, context=12)
    else:
        holder = zoo.wrap(model.forward, vocabulary=11, context=12)
    assert torch.equal(stages(holder, IDS)[1].query, expected)
    with watching(holder) as seen:  # entered at its embeddings, where the network itself is not called
        model.from_embeddings(model.embed(IDS))
        assert torch.equal(seen.stages()[1].query, expected)


def test_half_precision_is_upcast(device):
    model = small().to(device)
    ids = IDS.to(device)
    expected = head_blocks(stages(model, ids)[0])
    found = stages(model.to(torch.bfloat16), ids)[0]
    assert found.query.dtype == found.output_weight.dtype == torch.float32
    assert (head_blocks(found) - expected).abs().max() < TOLERANCES["half"] * expected.abs().max()


def test_stages_come_out_of_autocast():
    model = small().float()
    with torch.autocast("cpu", torch.bfloat16), watching(model) as seen:
        model(IDS)
        found = seen.stages()
    assert found[0].query.dtype == torch.float32
    expected = stages(model, IDS)[0].query
    assert (found[0].query - expected).abs().max() < TOLERANCES["half"] * expected.abs().max()


def test_attention_of_another_kind_is_refused_with_what_was_looked_for():
    with pytest.raises(ValueError, match=r"Sequential .* qkv and output, or q_proj .* or c_attn and c_proj was looked"):
        watching(nn.Sequential(nn.Linear(2, 2)))
    with pytest.raises(ValueError, match=r"Wrapped and shows no torch module: give the network itself"):
        watching(zoo.wrap(lambda ids: small()(ids), vocabulary=11, context=12))
    with pytest.raises(ValueError, match=r"layers\.0\.attention is not causal"):
        watching(small(causal=False))


def test_attention_that_is_more_than_a_softmax_is_refused():
    import transformers as hf

    torch.manual_seed(0)
    shape = LLAMA | {"num_key_value_heads": 2}
    windowed = hf.MistralForCausalLM(hf.MistralConfig(**shape, sliding_window=3)).double().eval()
    interleaved = hf.CohereForCausalLM(hf.CohereConfig(**shape)).double().eval()
    for model in (windowed, interleaved):
        with pytest.raises(ValueError, match=r"self_attn does more than causal softmax attention"):
            stages(model, IDS)
    assert len(stages(windowed, IDS[:, :3])) == 2  # the window holds it all


def test_dropout_in_training_is_no_reason_to_refuse():
    model = gpt2(attn_pdrop=0.5).train()
    assert math.isfinite(head_blocks(stages(model, IDS)[0]).sum().item())


def test_a_pass_with_dropout_proves_nothing_and_the_next_without_is_checked():
    import transformers as hf

    torch.manual_seed(0)
    shape = LLAMA | {"num_key_value_heads": 2, "sliding_window": 3, "attention_dropout": 0.1}
    windowed = hf.MistralForCausalLM(hf.MistralConfig(**shape)).double().train()
    with watching(windowed) as seen:
        windowed(IDS)
        assert len(seen.stages()) == 2
        windowed.eval()(IDS)
        with pytest.raises(ValueError, match="does more than causal softmax attention"):
            seen.stages()


def test_padding_in_any_row_is_refused():
    model, mask = llama(), torch.ones_like(IDS)
    mask[1, :3] = 0
    with watching(model) as seen:
        model(IDS, attention_mask=mask)
        with pytest.raises(ValueError, match="a padding mask"):
            seen.stages()


def test_rotary_positions_of_a_part_of_each_head_are_refused():
    import transformers as hf

    shape = LLAMA | {"num_key_value_heads": 2, "eos_token_id": 1, "bos_token_id": 1}
    model = hf.StableLmForCausalLM(hf.StableLmConfig(**shape)).eval()
    with pytest.raises(ValueError, match=r"rotary positions turn \d of the 4 coordinates of a head: give a network"):
        stages(model, IDS)


def test_a_missing_norm_is_named():
    model = llama()
    del model.model.layers[1].input_layernorm
    with pytest.raises(
        ValueError, match=r"called input_layernorm stands beside model\.layers\.1\.self_attn: leave norm"
    ):
        watching(model, norm=True)

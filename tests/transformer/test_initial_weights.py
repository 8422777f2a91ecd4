"""Initial weights are GPT-2's, and come from the generator alone."""

import math

import torch

from nslab.transformer import CHAR_GPT, Transformer, TransformerConfig


def test_spreads_are_those_of_gpt2(tolerances):
    model = Transformer(CHAR_GPT, generator=torch.Generator().manual_seed(0))
    for name, weight in model.state_dict().items():
        if weight.ndim == 1:
            expected = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            assert bool((weight == expected).all()), name
        else:
            into_stream = name.endswith(("attention.output.weight", "mlp.output.weight"))
            spread = 0.02 / math.sqrt(2 * 4) if into_stream else 0.02
            assert abs(float(weight.std()) / spread - 1) < tolerances["spread"], name
            assert abs(float(weight.mean())) < 5 * spread / math.sqrt(weight.numel()), name


def test_a_fresh_network_guesses_uniformly(prompts):
    """Tiny logits: the cross-entropy of any targets is close to log(vocabulary)."""
    model = Transformer(CHAR_GPT, generator=torch.Generator().manual_seed(0))
    ids = prompts(length=64, vocabulary=81)
    loss = torch.nn.functional.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
    assert abs(loss.item() - math.log(81)) < 0.1


def test_the_generator_alone_decides():
    shape = TransformerConfig(vocabulary=5, context=4, width=6, layers=1, heads=2, tied=False)
    torch.manual_seed(7)
    undisturbed = torch.rand(3)
    torch.manual_seed(7)
    one, same, other = (Transformer(shape, generator=torch.Generator().manual_seed(seed)) for seed in (3, 3, 4))
    assert torch.equal(torch.rand(3), undisturbed)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not torch.equal(one.tokens.weight, other.tokens.weight)


def test_weights_drawn_on_the_cpu_are_the_same_on_every_device(device):
    shape = TransformerConfig(vocabulary=5, context=4, width=6, layers=1, heads=2)
    here = Transformer(shape, generator=torch.Generator().manual_seed(3))
    there = Transformer(shape, generator=torch.Generator().manual_seed(3), device=device)
    assert there.tokens.weight.device.type == device.type
    assert torch.equal(there.tokens.weight.cpu(), here.tokens.weight)

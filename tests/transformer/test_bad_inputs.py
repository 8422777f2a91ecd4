"""Every refusal names the argument, its value and the remedy."""

from dataclasses import replace

import pytest
import torch

from nslab.transformer import TransformerConfig

SHAPE = TransformerConfig(vocabulary=11, context=9, width=12, layers=3, heads=3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 5}, r"heads is 5 and width 12: make the width a multiple.*heads = 3 or 4 or 6"),
        ({"layers": 0}, r"layers is 0: give a positive whole number"),
        ({"hidden": -4}, r"hidden is -4: give a positive whole number"),
        ({"positions": "rotary", "heads": 4}, r"'rotary' and width / heads = 3 is odd.*choose an even head width"),
        ({"outputs": 3}, r"outputs is 3 and tied is True.*11 tokens; set tied=False"),
        ({"special": (11,)}, r"special has token id 11: ids run from 0 to 10"),
    ],
)
def test_impossible_shapes(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(SHAPE, **changes)


def test_unknown_and_misspelt_settings():
    with pytest.raises(TypeError, match="unexpected keyword argument 'head'"):
        TransformerConfig(vocabulary=2, context=2, width=2, layers=1, heads=1, head=1)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (torch.zeros(2, 10, dtype=torch.long), r"ids has 10 positions and the context is 9: cut.*ids\[:, -9:\]"),
        (torch.zeros(2, 0, dtype=torch.long), r"ids holds an empty sequence: give at least one token"),
        (torch.tensor([[1, 11]]), r"ids has token id 11: ids run from 0 to 10; encode the text with the vocabulary"),
        (torch.tensor([[1, -1]]), r"ids has token id -1"),
        (torch.zeros(3, dtype=torch.long), r"ids has shape \(3,\): give \(batch, length\).*ids\[None\]"),
        (torch.zeros(2, 3), r"ids has dtype torch.float32: token ids are int64 or int32, use ids.long\(\)"),
        (torch.zeros(2, 3, dtype=torch.uint8), r"ids has dtype torch.uint8: .* use ids.long\(\)"),
    ],
)
def test_bad_ids(network, ids, message):
    model = network()
    for call in (model, model.embed, lambda ids: model.run(ids, ["final"])):
        with pytest.raises(ValueError, match=message):
            call(ids)


def test_bad_ids_are_also_named_while_training_on_the_cpu(network):
    with pytest.raises(ValueError, match=r"ids has token id 11"):
        network().train()(torch.tensor([[1, 11]]))


@pytest.mark.parametrize(
    ("at", "message"),
    [
        (torch.tensor([3, 9]), r"at is \[3, 9\]: positions run from 0 to 8"),
        (torch.tensor([-1, 2]), r"at is \[-1, 2\]: positions run from 0 to 8"),
        (torch.tensor([1]), r"at has shape \(1,\).*shape \(2,\)"),
        (torch.tensor([1.0, 2.0]), r"at has shape \(2,\) and dtype torch.float32: give one whole number a row"),
    ],
)
def test_bad_positions(network, at, message):
    with pytest.raises(ValueError, match=message):
        network()(torch.zeros(2, 9, dtype=torch.long), at)


def test_bad_embeddings(network):
    model = network()
    with pytest.raises(ValueError, match=r"embeddings has shape \(2, 9, 5\): give \(batch, length, 12\)"):
        model.from_embeddings(torch.zeros(2, 9, 5, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"embeddings has 10 positions and the context is 9"):
        model.trace(torch.zeros(2, 10, 12, dtype=torch.float64))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["layers.1.attention.weight"], r"this model of 3 layers does not know: did you mean layers.1.attention.weig"),
        (["layers.7.residual"], r"names has 'layers.7.residual'.*3 layers"),
        (["layers.3.mlp.hidden"], r"names has 'layers.3.mlp.hidden'"),
        (["???"], r"did you mean embedding, .*names\(\) lists all"),
    ],
)
def test_unknown_names_are_refused_with_near_ones(network, names, message):
    with pytest.raises(ValueError, match=message):
        network().run(torch.zeros(1, 2, dtype=torch.long), names)

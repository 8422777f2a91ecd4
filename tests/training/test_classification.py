"""Classification: what stands in a row, that padding changes no answer, that epochs see each example once."""

import dataclasses

import pytest
import torch
from torch.nn import functional as F

from nslab.corpora import Labelled
from nslab.training import Trainer, TrainingConfig
from nslab.training.classification import PADDING, EpochBatches, LastTokenClassifier, encoded, logits
from nslab.transformer import Transformer, TransformerConfig

SHAPE = TransformerConfig(vocabulary=256, context=12, width=8, layers=2, heads=2)


def encode(text):
    return torch.tensor([*text.encode()], dtype=torch.int64)


def examples(*items, context=12, classes=(0, 1)):
    return encoded([Labelled(*item) for item in items], encode, classes=classes, context=context, separator=0)


def rows(found):
    return [bytes(row[row != PADDING].tolist()) for row in found.ids]


def classifier(seed=0, classes=2, **changes):
    shape = dataclasses.replace(SHAPE, **changes)
    generator = torch.Generator().manual_seed(seed)
    model = LastTokenClassifier(Transformer(shape, generator), classes, generator).double().eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.mul_(8)  # far from the initial weights, where every answer is nearly the same
    return model


def test_a_row_is_its_texts_each_with_a_separator():
    assert rows(examples(("ab", 0), ("", 1), ("cde", 1))) == [b"ab\0", b"\0", b"cde\0"]
    found = examples(("ab", 0, "c"), ("", 1, "de"))
    assert rows(found) == [b"ab\0c\0", b"\0de\0"]
    assert (found.labels.tolist(), found.lengths.tolist(), found.empty, found.cut) == ([0, 1], [5, 4], 1, 0)


def test_classes_number_the_labels_by_their_place():
    found = examples(("ab", "fresh"), ("c", "rotten"), classes=("rotten", "fresh"))
    assert found.labels.tolist() == [1, 0]
    assert found.classes == 2


@pytest.mark.parametrize(
    ("texts", "row"),
    [
        (("abcdefgh",), b"abcdefg\0"),
        (("abcdefgh", "x"), b"abcde\0x\0"),
        (("x", "abcdefgh"), b"x\0abcde\0"),
        (("abcdefgh", "stuvwxyz"), b"abc\0stu\0"),
        (("abcd", "stuvwxyz"), b"abc\0stu\0"),
        (("abc", "stu"), b"abc\0stu\0"),
        (("ab", "stuvwxyz"), b"ab\0stuv\0"),
    ],
)
def test_long_pairs_are_cut_evenly_the_longer_text_first(texts, row):
    found = examples((texts[0], 1, *texts[1:]), context=8)
    assert rows(found) == [row]
    assert found.cut == (sum(map(len, texts)) + len(texts) > 8)


def test_the_answer_is_the_head_on_the_final_state_of_the_last_token():
    model, found = classifier(), examples(("abc", 0), ("defgh", 1))
    for row, answer in zip(found.ids, model(found.ids), strict=True):
        ids = row[row != PADDING].long()[None]
        _, seen = model.body.run(ids, ["final"])
        assert torch.allclose(model.head.weight @ seen["final"][0, -1] + model.head.bias, answer)


@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_padding_changes_no_answer(positions):
    model = classifier(positions=positions)
    found = examples(("a", 0), ("bcd", 1), ("efghij", 1))
    alone = torch.cat([model(row[row != PADDING][None]) for row in found.ids])
    wider = F.pad(found.ids, (0, 4), value=PADDING)
    assert torch.allclose(model(found.ids), alone, atol=1e-12)
    assert torch.allclose(model(wider), alone, atol=1e-12)
    assert not torch.allclose(alone[0], alone[1], atol=1e-3)


def test_logits_come_back_in_the_order_of_the_examples():
    model = classifier()
    found = examples(*[("xyzzy"[: 1 + k % 5] + chr(97 + k), k % 2) for k in range(11)])
    each = torch.cat([model(row[None]) for row in found.ids])
    for batch in (1, 4, 11):
        assert torch.allclose(logits(model, found, batch=batch), each, atol=1e-12)


def test_an_epoch_has_every_example_once_and_its_batches_are_of_like_lengths():
    texts = [("x" * (1 + (7 * k) % 11), k % 2) for k in range(200)]
    found = examples(*texts)
    found = type(found)(torch.cat([torch.arange(200)[:, None].int() + 1, found.ids], 1), found.labels, 2, 0, 0)
    batches = EpochBatches(found, batch=8, epochs=3, seed=5)  # the first id tells which example a row is
    assert batches.steps == 75
    orders = []
    for epoch in range(3):
        parts = [batches(step) for step in range(25 * epoch, 25 * epoch + 25)]
        orders.append(torch.cat([ids[:, 0] for ids, _ in parts]).tolist())
        assert sorted(orders[-1]) == list(range(1, 201))
        for ids, labels in parts:
            lengths = (ids != PADDING).sum(1)
            assert int(lengths.max()) == ids.shape[1]
            assert torch.equal(labels, found.labels[ids[:, 0].long() - 1])
        wasted = sum(int((ids == PADDING).sum()) for ids, _ in parts) / sum(ids.numel() for ids, _ in parts)
        assert wasted < 0.1  # unsorted batches waste a third
    assert orders[0] != orders[1]
    again = EpochBatches(found, batch=8, epochs=3, seed=5)
    assert torch.equal(again(40)[0], batches(40)[0])
    assert not torch.equal(EpochBatches(found, batch=8, epochs=3, seed=6)(0)[0][:, 0], batches(0)[0][:, 0])


def test_an_incomplete_batch_is_left_out_and_not_always_the_same():
    found = examples(*[(chr(97 + k), 0) for k in range(7)])
    batches = EpochBatches(found, batch=3, epochs=12, seed=0)
    assert batches.steps == 24
    left_out = {
        frozenset(range(97, 104)) - {int(one) for step in (2 * e, 2 * e + 1) for one in batches(step)[0][:, 0]}
        for e in range(12)
    }
    assert {len(one) for one in left_out} == {1}
    assert len(left_out) > 2


def test_it_learns_which_of_two_letters_came_first(device):
    """The answer is not in the last token, so that it must be fetched by attention."""
    letters = [("a" * k + "b" * m, 0) for k in range(1, 6) for m in range(1, 6)]
    letters += [("b" * k + "a" * m, 1) for k in range(1, 6) for m in range(1, 6)]
    found = examples(*letters).to(device)
    generator = torch.Generator().manual_seed(0)
    model = LastTokenClassifier(Transformer(SHAPE, generator), 2, generator).to(device)
    batches = EpochBatches(found, batch=25, epochs=60, seed=0)
    config = TrainingConfig(batches.steps, 25, 1e-2, warmup=10, schedule="linear", floor=0)
    trainer = Trainer(model, config, lambda _: batches(trainer.step))
    trainer.run()
    assert int((logits(model.eval(), found).argmax(1) == found.labels).sum()) == len(found)


def test_pairs_in_another_order_are_other_examples():
    model = classifier()
    one, other = logits(model, examples(("abc", 1, "de"), ("de", 1, "abc")))
    assert not torch.allclose(one, other, atol=1e-3)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: examples(), "items is empty: give at least one"),
        (lambda: examples(("a", 0), ("b", 2)), r"items\[1\] has the label 2: the classes are 0, 1$"),
        (lambda: examples(("a", -1)), r"items\[0\] has the label -1: .* -1 stands for a secret label: take a split"),
        (lambda: examples(("a", "plot"), classes=("rotten", "fresh")), "'plot': the classes are 'rotten', 'fresh'"),
        (lambda: examples(("a", 0), ("b", 1, "c")), r"items\[1\].text2 is 'c': give texts, or pairs, and not both"),
        (lambda: examples(("a", 0, "c"), ("b", 1)), r"items\[1\].text2 is None"),
        (lambda: examples(("a", 0), ("a\0b", 0)), r"separator is 0, which is in items\[1\]"),
        (lambda: examples(("a", 0, "b"), context=3), "context is 3: give room for a token and a separator"),
        (lambda: EpochBatches(examples(("a", 0)), 2, 1, 0), "batch is 2, epochs 1, and there are 1 examples"),
        (lambda: EpochBatches(examples(("a", 0)), 1, 0, 0), "epochs 0, .* give at least 1 epoch"),
        (lambda: classifier(causal=False), "body has causal=False: its last token would see the padding"),
        (lambda: classifier(classes=1), "classes is 1: give at least 2"),
        (lambda: logits(classifier().train(), examples(("a", 0))), r"model is in training mode: call eval\(\)"),
        (lambda: classifier()(torch.tensor([[97, 0], [PADDING, PADDING]])), r"at is \[1, -1\]: positions run"),
        (lambda: classifier()(torch.tensor([[300, 0]])), "ids has token id 300: ids run from 0 to 255"),
    ],
)
def test_bad_input_is_named_with_a_remedy(call, words):
    with pytest.raises(ValueError, match=words):
        call()

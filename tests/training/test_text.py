"""Windows of a text: every start equally likely, targets one token on, and a held-out loss that counts each once."""

import math

import pytest
import torch

from nslab.training import TextBatches, cross_entropy, text_loss


def test_windows_are_those_of_a_loop_over_the_same_starts(text, device):
    ids = text.to(device)
    x, y = TextBatches(ids, 8, 5)(torch.Generator(device).manual_seed(3))
    starts = torch.randint(len(ids) - 8, (5, 1), generator=torch.Generator(device).manual_seed(3), device=device)
    assert (x.dtype, x.device.type) == (torch.int64, device.type)
    for row, start in enumerate(starts.flatten().tolist()):
        assert torch.equal(x[row], ids[start : start + 8])
        assert torch.equal(y[row], ids[start + 1 : start + 9])


def test_every_start_is_equally_likely_and_all_tokens_are_reached(tolerances):
    batches = TextBatches(torch.arange(10, dtype=torch.uint8), context=4, batch=60_000)
    x, y = batches(torch.Generator().manual_seed(0))
    counts = torch.bincount(x[:, 0], minlength=10)
    assert counts.tolist()[6:] == [0] * 4  # the last start is 5: its targets end with the last token
    assert int(y.max()) == 9
    expected, spread = 60_000 / 6, math.sqrt(60_000 * 1 / 6 * 5 / 6)
    assert bool(((counts[:6] - expected).abs() < tolerances["binomial"] * spread).all())


def test_cross_entropy_is_its_formula(tolerances):
    output = torch.randn(3, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    target = torch.randint(5, (3, 4), generator=torch.Generator().manual_seed(1))
    total = 0.0
    for logits, right in zip(output.flatten(0, 1).tolist(), target.flatten().tolist(), strict=True):
        total -= logits[right] - math.log(sum(math.exp(logit) for logit in logits))
    assert abs(cross_entropy(output, target).item() - total / 12) < tolerances["exact"]
    assert cross_entropy(torch.zeros(2, 5, dtype=torch.bfloat16), torch.tensor([0, 1])).dtype == torch.float32


def test_a_table_of_frequencies_has_the_entropy_of_its_text():
    """A model that knows the law of the next token given the last one has its empirical conditional entropy."""
    ids = torch.randint(4, (401,), generator=torch.Generator().manual_seed(0))
    pairs = torch.zeros(4, 4, dtype=torch.float64)
    for before, after in zip(ids[:-1].tolist(), ids[1:].tolist(), strict=True):
        pairs[before, after] += 1
    law = pairs / pairs.sum(1, keepdim=True)
    entropy = -(pairs * law.log()).nan_to_num(0).sum() / pairs.sum()
    model = torch.nn.Embedding.from_pretrained(law.log())
    for context, batch in ((1, 7), (8, 64), (400, 1)):
        assert math.isclose(text_loss(model, ids, context, batch=batch), float(entropy), rel_tol=1e-9)


def test_windows_are_consecutive_and_the_rest_is_left_out():
    seen = []

    def model(x):
        seen.extend(x.tolist())
        return torch.zeros(*x.shape, 20)

    assert math.isclose(text_loss(model, torch.arange(12, dtype=torch.uint8), 5), math.log(20), rel_tol=1e-6)
    assert seen == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
    seen.clear()
    text_loss(model, torch.arange(20), 2, windows=3, batch=2)
    assert seen == [[0, 1], [8, 9], [16, 17]]


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (torch.zeros(3, 3, dtype=torch.long), r"ids has shape \(3, 3\).*give one row of integers"),
        (torch.zeros(30), r"dtype torch.float32: give one row of integers"),
        (torch.zeros(8, dtype=torch.long), r"ids has 8 tokens and the context is 8: give a longer text, or a shorter"),
    ],
)
def test_bad_texts(ids, message):
    with pytest.raises(ValueError, match=message):
        TextBatches(ids, 8, 1)
    with pytest.raises(ValueError, match=message):
        text_loss(torch.nn.Identity(), ids, 8)


def test_counts_start_at_one():
    ids = torch.arange(5)
    with pytest.raises(ValueError, match=r"batch is 0: give at least 1"):
        TextBatches(ids, 2, 0)
    with pytest.raises(ValueError, match=r"context is 0: give at least 1"):
        TextBatches(ids, 0, 2)
    for counts in ({"windows": 0}, {"batch": 0}):
        with pytest.raises(ValueError, match=r"(windows|batch) is 0: give at least 1"):
            text_loss(torch.nn.Identity(), ids, 2, **counts)

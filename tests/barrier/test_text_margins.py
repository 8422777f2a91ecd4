"""Margins of the tokens of a text, against the network's own attention and against facts that hold in every head."""

import math

import pytest
import torch

from nslab import zoo
from nslab.barrier import text_margins
from nslab.barrier.text_margins import margins, rank_agreement, spearman
from nslab.transformer import Transformer, TransformerConfig

TOLERANCES = {"exact": 1e-10, "single": 1e-4, "half": 0.1}
TEXT = "bad cafe faced a decade"
ALPHABET = " abcdefgh"


def network(**choice):
    shape = {"vocabulary": len(ALPHABET), "context": 24, "width": 32, "layers": 2, "heads": 2}
    model = Transformer(TransformerConfig(**shape | choice), torch.Generator().manual_seed(0)).double().eval()
    for name, weight in model.named_parameters():
        weight.data *= 12 if name.endswith(("qkv.weight", "attention.output.weight")) else 1
    return model


@pytest.fixture(scope="module")
def model():
    return zoo.adopt_characters(network(), ALPHABET)


def of_definition(model, ids, layer, head, i, factor=1.0, self_included=False):
    """The d x d block of one head at one token, from the network's own queries, keys and values, sum by sum."""
    names = [f"layers.{layer}.attention.{part}" for part in ("query", "key", "value")]
    query, key, value = (part[0, head] for part in model.module.run(ids[None], names)[1].values())
    attention = model.module.layers[layer].attention
    k, rows = query.shape[-1], slice(head * query.shape[-1], (head + 1) * query.shape[-1])
    past = i + 1 if self_included else i
    weights = (factor * key[:past] @ query[i] / math.sqrt(k)).softmax(0)
    centred = value[:past] - weights @ value[:past]
    covariance = sum(a * torch.outer(v, key[s]) for s, (a, v) in enumerate(zip(weights, centred, strict=True)))
    eye = torch.eye(attention.output.weight.shape[0], dtype=torch.float64)
    if past == 0:
        return eye
    return eye - factor * attention.output.weight[:, rows] @ covariance @ attention.qkv.weight[rows] / math.sqrt(k)


@pytest.mark.parametrize("self_included", [False, True])
@pytest.mark.parametrize("numbers", [2**24, 2**11])  # all rows at once, and a few at a time
def test_margins_are_those_of_the_written_out_blocks(model, self_included, numbers, monkeypatch):
    monkeypatch.setattr(text_margins, "NUMBERS", numbers)
    warm = torch.tensor([1.0, 2.5])
    found = margins(model, TEXT, temperature=warm, self_included=self_included)
    assert found.determinant.shape == (2, 2, len(TEXT), 2)
    for layer, head, i in ((0, 0, 5), (0, 1, 22), (1, 0, 2), (1, 1, 13), (1, 1, 1)):
        for number, factor in enumerate(warm.tolist()):
            block = of_definition(model, found.ids, layer, head, i, factor, self_included)
            sign, logarithm = torch.linalg.slogdet(block)
            at = (layer, head, i, number)
            assert found.sign[at] == sign
            assert abs(found.barrier[at] + logarithm) < TOLERANCES["exact"]
            assert abs(found.spectral[at] - torch.linalg.svdvals(block)[-1]) < TOLERANCES["exact"]
    assert (found.barrier.abs() > 0.1).any()
    alone = margins(model, TEXT, temperature=2.5, self_included=self_included)
    assert torch.equal(alone.spectral, found.at(1).spectral)


def test_tokens_that_see_fewer_than_two_tokens_are_neutral(model):
    for self_included, neutral in ((False, 2), (True, 1)):
        found = margins(model, TEXT, self_included=self_included)
        assert (found.barrier[:, :, :neutral].abs() < TOLERANCES["exact"]).all()
        assert (found.spectral[:, :, :neutral] - 1).abs().max() < TOLERANCES["exact"]
        assert (found.barrier[:, :, neutral].abs() > TOLERANCES["exact"]).all()
        assert not found.support(tolerance=1e9)[:, :, :neutral].any()
        assert found.support(tolerance=1e9)[:, :, neutral:].all()


@pytest.mark.parametrize("length", [1, 2])
def test_a_text_of_neutral_tokens_has_no_boundary(model, length):
    found = margins(model, TEXT[:length])
    assert found.sequence_margin().eq(math.inf).all()
    assert found.sequence_margin("spectral").eq(math.inf).all()
    assert not found.support(tolerance=5).any()
    assert found.support_tokens() == []
    assert rank_agreement(found).isnan().all()
    assert str(found).count("neutral") == length


def test_support_tokens_are_the_smallest_margins(model):
    found = margins(model, TEXT)
    for measure in ("determinant", "spectral"):
        table = {
            (layer, head, i): found.margin(measure)[layer, head, i].item()
            for layer in (0, 1)
            for head in (0, 1)
            for i in range(2, len(TEXT))
        }
        least, where = min((margin, at) for at, margin in table.items())
        (token,) = found.support_tokens(measure=measure)
        assert token == (where[2], "␣" if TEXT[where[2]] == " " else TEXT[where[2]], least)
        (token,) = found.support_tokens(1, 0, measure=measure)
        assert token.margin == min(margin for at, margin in table.items() if at[:2] == (1, 0))
        assert found.sequence_margin(measure)[1, 0] == token.margin
        several = found.support_tokens(layer=0, tolerance=0.5, measure=measure)
        by_token = {i: min(table[0, head, i] for head in (0, 1)) for i in range(2, len(TEXT))}
        expected = {i for i, margin in by_token.items() if margin <= 1.5 * min(by_token.values())}
        assert {one.position for one in several} == expected
        assert [one.margin for one in several] == sorted(one.margin for one in several)
        assert found.support(0.5, measure)[1, 0].nonzero()[:, 0].tolist() == [
            i for i in range(2, len(TEXT)) if table[1, 0, i] <= 1.5 * token.margin
        ]


def test_chosen_layers_are_those_of_all(model):
    whole, part = margins(model, TEXT), margins(model, TEXT, layers=[1])
    assert torch.equal(part.log_determinant[0], whole.log_determinant[1])
    assert part.support_tokens(layer=1) == whole.support_tokens(layer=1)
    with pytest.raises(ValueError, match="layer is 0: choose one of 1, or None"):
        part.support_tokens(layer=0)


def test_without_logits_attention_does_not_follow_the_query(model):
    cold = margins(model, TEXT, temperature=0)
    assert (cold.barrier == 0).all()
    assert (cold.spectral == 1).all()


def test_the_norm_multiplies_the_path_of_the_query(model):
    """det(I - X N) for the whole block X and the norm's Jacobian N by automatic differentiation."""
    found = margins(model, TEXT, norm_path=True)
    x = model.module.run(found.ids[None], ["layers.1.residual"])[1]["layers.1.residual"][0]
    for head, i in ((0, 4), (1, 21)):
        norm = torch.autograd.functional.jacobian(model.module.layers[1].attention_norm, x[i])
        path = torch.eye(32, dtype=torch.float64) - of_definition(model, found.ids, 1, head, i)
        block = torch.eye(32, dtype=torch.float64) - path @ norm
        assert abs(found.barrier[1, head, i] + torch.linalg.slogdet(block)[1]) < TOLERANCES["exact"]
        assert abs(found.spectral[1, head, i] - torch.linalg.svdvals(block)[-1]) < TOLERANCES["exact"]


def test_ids_and_bare_networks_give_the_same_margins(model):
    by_text = margins(model, TEXT)
    by_ids = margins(model.module, by_text.ids)
    assert torch.equal(by_ids.log_determinant, by_text.log_determinant)
    assert by_ids.pieces[:2] == ("#2", "#1")
    with pytest.raises(ValueError, match="Transformer and reads no text: give token ids"):
        margins(model.module, TEXT)


def test_half_precision_is_upcast(device):
    model = zoo.adopt_characters(network().to(device), ALPHABET)
    expected = margins(model, TEXT).log_determinant
    model.module.to(torch.bfloat16)
    found = margins(model, TEXT)
    assert found.log_determinant.dtype == torch.float32
    assert (found.log_determinant - expected).abs().max() < TOLERANCES["half"] * expected.abs().max()


def test_ranks_agree_as_scipy_says(model):
    from scipy.stats import spearmanr

    found = margins(model, TEXT, temperature=torch.tensor([1.0, 3.0]))
    agreement = rank_agreement(found)
    for at in ((0, 1, 0), (1, 0, 1)):
        row = (*at[:2], slice(2, None), at[2])
        assert agreement[at].item() == pytest.approx(spearmanr(found.determinant[row], found.spectral[row]).statistic)
    x, y = torch.tensor([3, 1, 1, 2, 1, 3.0]), torch.tensor([1, 0, 5, 5, 5, 2.0])
    assert spearman(x, y).item() == pytest.approx(spearmanr(x, y).statistic)
    assert spearman(x, torch.zeros(6)).isnan()


def test_the_table_names_the_closest_token(model):
    found = margins(model, TEXT)
    (token,) = found.support_tokens()
    (line,) = (line for line in str(found).splitlines() if line.endswith("support token"))
    position, piece, margin, where = line.split()[:4]
    assert (int(position), piece) == token[:2]
    assert float(margin) == pytest.approx(token.margin, abs=1e-4)
    layer, head = map(int, where.split("."))
    assert found.determinant[layer, head, token.position].item() == pytest.approx(token.margin)
    assert "spectral" not in str(margins(model, TEXT, spectral=False))
    assert str(margins(model, TEXT, temperature=torch.ones(2))).endswith("pick a temperature with at(number)")


def test_a_long_text_shows_its_smallest_margins(model, monkeypatch):
    monkeypatch.setattr(text_margins, "SHOWN", 3)
    found = margins(model, TEXT)
    least = found.determinant[:, :, 2:].amin((0, 1))
    assert [int(line.split()[0]) for line in str(found).splitlines()[4:-1]] == sorted(
        (least.argsort()[:3] + 2).tolist()
    )
    assert str(found).endswith(f"... and {len(TEXT) - 5} tokens with larger margins")


def test_smollm2_has_tokens_near_the_boundary(fetched):
    fetched("smollm2-135m")
    model = zoo.load("smollm2-135m")
    found = margins(model, "The keys that I left on the kitchen table are", layers=(0, 16))
    expected = margins(model, found.ids, layers=(16,))
    assert found.determinant.shape == (2, 9, 10)
    assert torch.equal(found.log_determinant[1], expected.log_determinant[0])
    (token,) = found.support_tokens()
    assert token[:2] == (9, "␣are")
    assert token.margin < 0.02
    assert rank_agreement(found).median() < 0.5  # determinants above 1 hide singular values near 0


def test_models_without_a_past_are_refused():
    model = zoo.wrap(network(causal=False), vocabulary=9, context=24, kind="masked", mask_id=0)
    with pytest.raises(ValueError, match="model is masked: each of its tokens sees the whole text"):
        margins(model, torch.tensor([1, 2, 3]))
    with pytest.raises(ValueError, match=r"layers\.0\.attention is not causal"):
        margins(network(causal=False), torch.tensor([1, 2, 3]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text": ""}, "text is empty"),
        ({"text": torch.zeros(1, 3, dtype=torch.int64)}, r"text has shape \(1, 3\): give the ids of one text"),
        ({"text": torch.zeros(0, dtype=torch.int64)}, r"text has shape \(0,\).* at least one"),
        ({"temperature": -1}, "temperature is -1: give finite factors of the logits, 0 or more"),
        ({"temperature": torch.tensor([1, math.nan])}, "temperature is .*nan.*: give finite factors"),
        ({"temperature": torch.zeros(0)}, "at least one"),
        ({"layers": (2,)}, "layers has 2: the model has the layers 0 to 1"),
        ({"layers": ()}, "layers is empty: name at least one"),
    ],
)
def test_bad_input_is_explained(model, options, message):
    with pytest.raises(ValueError, match=message):
        margins(model, **{"text": TEXT} | options)


def test_questions_that_have_no_answer_are_explained(model):
    found = margins(model, TEXT, temperature=torch.tensor([1.0, 2.0]), spectral=False)
    with pytest.raises(ValueError, match=r"there are 2 temperatures: pick one with at\(number\)"):
        found.support_tokens()
    with pytest.raises(ValueError, match="number is 2: there are 2 temperatures, counted from 0"):
        found.at(2)
    one = found.at(-1)
    with pytest.raises(ValueError, match=r"left out: ask margins for it with spectral=True"):
        rank_agreement(one)
    with pytest.raises(ValueError, match="head is 2: choose 0 to 1"):
        one.support_tokens(head=2)
    with pytest.raises(ValueError, match=r"tolerance is -0\.5: give a share"):
        one.support_tokens(tolerance=-0.5)
    with pytest.raises(ValueError, match="measure is 'size': choose 'determinant' or 'spectral'"):
        one.sequence_margin("size")
    model.module.train()
    with pytest.raises(ValueError, match=r"model is in training mode: call eval\(\)"):
        margins(model, TEXT)
    model.module.eval()

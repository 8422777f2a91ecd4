"""Token margins: the record holds what the definitions say, and a killed run ends the same."""

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch

from nslab import corpora, records, reruns, zoo
from nslab.barrier.text_margins import margins
from nslab.noise import unigram_law
from nslab.reruns import _token_correlations, token_margins, who_matters

TOLERANCES = {"single": 1e-5, "slope": 0.1, "half": 2e-3}
SMALL = token_margins.Config(texts=4, length=10, draws=2, temperature=(1.0, 3.0))
DEVICE = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def plays():
    """A corpus that needs no fetching."""
    text = "To be, or not to be, that is the question: whether 'tis nobler in the mind to suffer. " * 40
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpora, "plays", lambda: dict.fromkeys(who_matters.PLAYS, text))
        yield


@pytest.fixture(scope="module")
def model():
    return zoo.load("char-gpt")


def perform(folder, resume=False, config=SMALL):
    experiment = dataclasses.replace(reruns.load("token-margins"), presets={"quick": config})
    return records.perform(experiment, "quick", records=folder, resume=resume)


@pytest.fixture(scope="module")
def record(tmp_path_factory, plays):
    return perform(tmp_path_factory.mktemp("records"))


def generator():
    return torch.Generator().manual_seed(0)


def losses(model, embeddings, ids):
    logits = model.from_embeddings(embeddings).log_softmax(-1)[:, :-1]
    return -logits.gather(-1, ids[1:].expand(len(logits), -1)[..., None])[..., 0]


def test_replacing_a_token_changes_the_loss_at_its_own_position(model):
    ids = model.encode("To be, or not")
    (other,) = model.encode("x").tolist()
    law = unigram_law(torch.tensor([other]), model.vocabulary)
    found = token_margins._changes(SMALL, model, ids, law, generator())["replaced"]
    clean = losses(model, model.embed(ids[None]), ids)[0]
    for i in range(len(ids) - 1):
        changed = ids.clone()
        changed[i] = other
        expected = (losses(model, model.embed(changed[None]), ids)[0, i] - clean[i]).abs()
        assert abs(found[i] - expected) < TOLERANCES["single"] * max(1, expected)


def test_small_noise_changes_the_loss_by_its_slope(model):
    """E |g . z| = |g| sqrt(2 / pi) for standard Gaussian z: the gradient by automatic differentiation says the size."""
    ids = model.encode("To be, or")
    config = dataclasses.replace(SMALL, noise=1e-3, draws=500)
    law = torch.ones(model.vocabulary, dtype=torch.float64)
    found = token_margins._changes(config, model, ids, law, generator())["noise"]
    embeddings = model.embed(ids[None]).clone().requires_grad_()
    size = 1e-3 * embeddings.detach().square().mean().sqrt()
    for i in (0, 3, 7):
        (gradient,) = torch.autograd.grad(losses(model, embeddings, ids)[0, i], embeddings, retain_graph=True)
        expected = size * gradient[0, i].norm() * math.sqrt(2 / math.pi)
        assert abs(found[i] / expected - 1) < TOLERANCES["slope"]


def test_a_token_is_never_replaced_by_itself(model):
    ids = model.encode("aaab")
    law = unigram_law(model.encode("ab"), model.vocabulary)
    found = token_margins._changes(SMALL, model, ids, law, generator())["replaced"]
    assert (found > 0).all()


def test_entropy_is_that_of_the_weights_over_the_strict_past():
    weights = torch.rand(2, 3, 6, 6, generator=generator()).tril()
    weights = weights / weights.sum(-1, keepdim=True)
    found = token_margins._entropy(weights)
    assert (found[..., :2] == 0).all()  # no past, or one token
    for i in range(2, 6):
        past = [weights[1, 2, i, s].item() for s in range(i)]
        expected = -sum(a / sum(past) * math.log(a / sum(past)) for a in past)
        assert found[1, 2, i].item() == pytest.approx(expected, rel=TOLERANCES["single"])
    even = torch.ones(6, 6).tril() / torch.arange(1.0, 7.0)[:, None]
    assert token_margins._entropy(even)[5].item() == pytest.approx(math.log(5))


def test_a_partial_rank_correlation_is_that_of_residuals():
    x, y = torch.randn(2, 5, 20, generator=generator())
    z = torch.arange(20.0)
    x, y = x + 0.1 * z, y - 0.2 * z
    found = _token_correlations.partial(x, y, z)
    for row in range(5):
        rank = [np.argsort(np.argsort(values.numpy())) for values in (x[row], y[row])]
        known = np.stack([np.ones(20), z.numpy()], 1)
        left = [values - known @ np.linalg.lstsq(known, values, rcond=None)[0] for values in rank]
        assert found[row].item() == pytest.approx(np.corrcoef(*left)[0, 1], rel=TOLERANCES["single"])


def test_the_record_holds_the_margins_of_the_sentences(record, model):
    (ribbons,) = token_margins.read(record).values()
    assert [ribbon.text for ribbon in ribbons] == list(who_matters.SENTENCES)
    ribbon = ribbons[3]
    for number, beta in enumerate((1.0, 3.0)):
        found = margins(model, ribbon.text, temperature=beta)
        assert ribbon.pieces == found.pieces
        assert np.allclose(ribbon.barrier[..., number], found.barrier, rtol=TOLERANCES["half"], atol=1e-6)
        assert np.allclose(ribbon.spectral[..., number], found.spectral, rtol=TOLERANCES["half"], atol=1e-6)
        assert np.array_equal(ribbon.sign[..., number], found.sign)
        (token,) = found.support_tokens()
        closest = ribbon.closest[number]
        assert (closest["position"], closest["piece"]) == token[:2]
        assert closest["margin"] == pytest.approx(token.margin, rel=2 * TOLERANCES["half"])
        assert found.determinant[closest["layer"], closest["head"], token.position] == pytest.approx(token.margin)
        worst = ribbon.worst(beta, head=2)
        assert np.allclose(worst, found.barrier[:, 2].amax(0), rtol=TOLERANCES["half"], atol=1e-6)
        worst = ribbon.worst(beta, layer=1, measure="gain")
        assert np.allclose(worst, -found.spectral[1].amin(0).log(), rtol=TOLERANCES["half"], atol=TOLERANCES["half"])
        shares = found.support().float().mean((0, 1)).numpy()  # each head has one
        assert np.allclose(ribbon.share(beta), shares)
    with pytest.raises(ValueError, match=r"beta is 2: the record has the temperatures 1\.0, 3\.0"):
        ribbon.share(2)
    with pytest.raises(ValueError, match="measure is 'size': choose 'barrier' or 'gain'"):
        ribbon.worst(1, measure="size")


def test_the_correlations_are_those_of_the_series(record):
    from scipy.stats import spearmanr

    parts = ("gain", "entropy", "replaced", "gain_replaced")
    gain, entropy, replaced, by_head = (record.history[f"char-gpt/{part}"][0] for part in parts)
    told = record.result["models"]["char-gpt"]["correlations"]
    tokens = slice(2, 9)  # from the first token with two before it to the last one with a token behind it
    for table, target in (("replaced", replaced), ("entropy", entropy)):
        expected = [spearmanr(x[tokens], y[tokens]).statistic for x, y in zip(gain, target, strict=True)]
        assert told["network"]["gain"][table]["value"] == pytest.approx(np.mean(expected), abs=TOLERANCES["single"])
    assert told["heads"]["gain"]["replaced"]["median"] == pytest.approx(np.median(by_head), abs=TOLERANCES["single"])


def test_each_head_has_its_own_correlation(model):
    from scipy.stats import spearmanr

    law = torch.ones(model.vocabulary, dtype=torch.float64)
    found = [
        token_margins._measured(SMALL, model, model.encode(text), law, generator())
        for text in ("To be, or", "not to be")
    ]
    texts = {part: torch.stack([one[part] for one in found]) for part in found[0]}
    found = _token_correlations.series(texts)
    for layer, head in ((0, 1), (3, 2)):
        for predictor, target in (("barrier", "entropy"), ("entropy", "noise")):
            x = texts[predictor][:, layer, head, 2:8]
            y = texts[target][:, layer, head, 2:8] if target == "entropy" else texts[target][:, 2:8]
            expected = np.mean([spearmanr(*pair).statistic for pair in zip(x, y, strict=True)])
            assert found[f"{predictor}_{target}"][layer, head].item() == pytest.approx(expected, abs=1e-5)
    assert torch.equal(texts["gain"][0], -margins(model, "To be, or").spectral.log())


def test_a_run_cut_between_two_texts_ends_as_an_uninterrupted_one(tmp_path, record, monkeypatch):
    measured, calls = token_margins._measured, []

    def cut(*given):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return measured(*given)

    with monkeypatch.context() as patch:
        patch.setattr(token_margins, "_measured", cut)
        with pytest.raises(KeyboardInterrupt):
            perform(tmp_path / "cut")
    resumed = perform(tmp_path / "cut", resume=True)
    for name in ("config.json", "history.npz", "result.json"):
        assert (resumed.path / name).read_bytes() == (record.path / name).read_bytes()


def test_what_is_not_the_phenomenon_is_said(record):
    result = copy.deepcopy(record.result)
    assert token_margins.phenomenon(result) is None
    for part, value, said in (("neutral", 0.01, "first two tokens"), ("near", 0.0, "near the boundary")):
        other = copy.deepcopy(result)
        other["models"]["char-gpt"][part] = value
        assert said in token_margins.phenomenon(other)
    for sentence in result["models"]["char-gpt"]["sentences"]:
        sentence["closest"] = sentence["closest"][:1] * 2
    assert "same at every temperature" in token_margins.phenomenon(result)


def test_temperature_one_is_asked_for(tmp_path):
    with pytest.raises(ValueError, match=r"temperature is \(2\.0,\): 1, the model as it is, must be among them"):
        perform(tmp_path, config=dataclasses.replace(SMALL, temperature=(2.0,)))

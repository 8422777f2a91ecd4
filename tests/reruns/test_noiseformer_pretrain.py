"""noiseformer-pretrain on documents made up here: equal parameters, paired batches, and what the measures mean."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from nslab import records
from nslab.attention.settings import VARIANTS
from nslab.noise import Resample
from nslab.reruns import _noiseformer_measures as looks
from nslab.reruns import noiseformer_pretrain as pretrain
from nslab.reruns._noiseformer_arms import ARMS, training_flops
from nslab.training import TrainingConfig
from nslab.transformer import TransformerConfig
from nslab.transformer.noiseformer import network
from nslab.transformer.predicting import predict

SYLLABLES = ["ba", "do", "ki", "lu", "me", "no", "pa", "ri", "so", "tu"]
SHAPE = TransformerConfig(vocabulary=266, context=12, width=12, layers=2, heads=2)
TINY = pretrain.Config(
    seeds=2,
    model=SHAPE,
    training=TrainingConfig(steps=20, batch=8, learning_rate=2e-2, warmup=2, evaluate_every=5),
    arms=("standard", "symmetric", "v2-relative"),
    text=("made up",),
    held_out=6,
    windows=8,
    windows_at_end=8,
    draws=2,
    noisy=4,
    keep=(0.5, 1.0),
    timed=1,
    save_every=10,
)


def made_up():
    """Sixty documents in which each syllable has two likely followers."""
    draw = torch.Generator().manual_seed(0)
    found = []
    for _ in range(60):
        at, words = 0, []
        for step, spaces in zip(*torch.randint(4, (2, 40), generator=draw).tolist(), strict=True):
            at = (at + (1, 1, 3, 4)[step]) % len(SYLLABLES)
            words.append(SYLLABLES[at] + " " * (spaces == 0))
        found.append("".join(words))
    return found


@pytest.fixture
def experiment(monkeypatch):
    monkeypatch.setitem(pretrain.DOCUMENTS, "made up", made_up)
    told = "noiseformer-pretrain", "nslab.reruns.noiseformer_pretrain", {"quick": TINY}
    return records.Experiment(*told, pretrain.run, pretrain.phenomenon)


@pytest.fixture
def text(experiment):
    return pretrain.texts(TINY)


def noisy_model(variant, device="cpu"):
    """With so much noise that it shows, in its mean and in its draws."""
    model = network(SHAPE, VARIANTS[variant], generator=torch.Generator().manual_seed(1), device=device)
    draw = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for weight in [one for noise in model.noises() for one in noise.parameters()]:
            weight += (0.2 if variant == "v2-amortised" else 1) * torch.randn(weight.shape, generator=draw).to(device)
        for layer in model.layers:
            layer.attention.query_value.weight *= 20
    return model.eval()


def windows(device="cpu"):
    ids = torch.randint(266, (5, 13), generator=torch.Generator().manual_seed(3)).to(device)
    return ids[:, :-1], ids[:, 1:]


def test_a_record_has_what_it_says(experiment, tmp_path):
    record = records.perform(experiment, "quick", records=tmp_path)
    result = record.result
    assert pretrain.phenomenon(result) is None
    assert result["tokens_seen"] == 20 * 8 * 12
    assert math.isclose(result["epochs"], result["tokens_seen"] / result["train_tokens"])
    for name, arm in result["arms"].items():
        steps, losses = pretrain.curves(record, name, "held_out_loss")
        assert steps.tolist() == [0, 5, 10, 15, 20]
        assert arm["best_held_out_loss"] == losses.min(0).tolist()
        np.testing.assert_allclose([one[1] for one in arm["disturbed_rise"]], 0, atol=1e-6)  # all tokens kept
        np.testing.assert_allclose([one[1] for one in arm["normalised_stability"]], 1, atol=1e-6)
        assert all(a <= s for a, s in zip(arm["average_loss"], arm["sample_loss"], strict=True))
        if name != "v2-relative":
            np.testing.assert_allclose(arm["sample_loss"], arm["held_out_loss"], atol=1e-5)
    assert set(pretrain.step_seconds(record)) == set(result["arms"])
    steps, sigma = pretrain.curves(record, "v2-relative", "noise_sigma")
    assert (steps.tolist(), sigma.shape) == ([20], (1, 2, 2, 2, 12))  # records, seeds, layers, heads, offsets
    np.testing.assert_allclose(sigma[0].mean(-1), result["arms"]["v2-relative"]["sigma"], rtol=1e-5)
    difference = pretrain.paired(record, "held_out_loss", "symmetric")
    each = np.subtract(*(result["arms"][name]["held_out_loss"] for name in ("symmetric", "standard")))
    low, high = stats.t.interval(0.95, 1, each.mean(), stats.sem(each))
    assert (float(difference.student.low), float(difference.student.high)) == pytest.approx((low, high))
    assert pretrain.faster(record, "standard").ratio == 1


def test_a_run_cut_in_the_last_arm_goes_on_to_the_same_record(experiment, tmp_path, monkeypatch):
    short = replace(TINY, arms=("standard", "v2-relative"), seeds=1)
    whole = records.perform(experiment, "quick", short, records=tmp_path / "whole")
    real, calls = pretrain.predictions, []

    def cut(*args):
        calls.append(1)
        if len(calls) == 6 + 4:  # an arm has five evaluations and the end; the second is cut at step 15
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(pretrain, "predictions", cut)
    with pytest.raises(KeyboardInterrupt):
        records.perform(experiment, "quick", short, records=tmp_path / "cut")
    monkeypatch.setattr(pretrain, "predictions", real)
    resumed = records.perform(experiment, "quick", short, records=tmp_path / "cut", resume=True)
    for name in ("config.json", "history.npz", "result.json"):
        assert (resumed.path / name).read_bytes() == (whole.path / name).read_bytes()


@pytest.mark.parametrize("preset", ["quick", "laptop", "full"])
def test_arms_have_the_standard_networks_parameters_and_not_one_unit_less_than_they_could(preset):
    """Counted on networks that are built, without memory for their weights."""
    shape = pretrain.PRESETS[preset].model

    def count(arm, config):
        with torch.device("meta"):
            return sum(weight.numel() for weight in network(config, arm.scores).parameters())

    standard = count(ARMS["standard"], shape)
    for name, arm in ARMS.items():
        config = arm.shape(shape)
        found = count(arm, config)
        assert pretrain.described(pretrain.PRESETS[preset], arm)["parameters"] == found
        if name == "symmetric-small":
            lost = shape.layers * shape.width * (shape.width + 1)  # a matrix and a bias a layer
            assert standard - found == lost
        elif arm.scores is None:
            assert found == standard
        else:
            assert found <= standard < count(arm, replace(config, hidden=config.hidden + 1))


def test_arms_see_the_same_batches_but_for_the_lucky_one(text):
    batches = {}
    for name, arm in ARMS.items():
        trainer = pretrain.trainer_of(TINY, arm, arm.network(SHAPE, 0), text, 5)
        batches[name] = trainer.batch(trainer._seeded("batch"))[0]
        model = trainer.model
        assert torch.equal(model.tokens.weight, ARMS["standard"].network(SHAPE, 0).tokens.weight)
    same = {name for name, x in batches.items() if torch.equal(x, batches["standard"])}
    assert same == set(ARMS) - {"standard-again"}


def test_held_out_documents_are_whole_and_in_no_count(text):
    documents = made_up()
    kept = [one for number, one in enumerate(documents) if number % 6 != 5]
    encoding = pretrain.learn_byte_pairs(kept, 266)
    assert encoding.decode(text.train) == "\n\n".join(kept)
    assert encoding.decode(text.held_out) == "\n\n".join(documents[5::6])
    assert text.documents == (50, 10)


@pytest.mark.parametrize("variant", ["v2-relative", "v1-key", "v2-amortised"])
def test_losses_with_the_noise_drawn_are_those_of_predict(variant, device):
    """Draw by draw; the average of a window is that of `predict`, and Jensen puts it under the mean of the draws."""
    model, (x, y) = noisy_model(variant, device), windows(device)
    found = looks.sampled_losses(model, x, y, draws=4)
    generator = torch.Generator(device).manual_seed(0)
    each = [predict(model, x, mode="sample", generator=generator) for _ in range(4)]
    losses = [F.nll_loss(one.flatten(0, 1), y.flatten()).item() for one in each]
    assert math.isclose(found["sample_loss"], sum(losses) / 4, rel_tol=1e-5)
    generator = torch.Generator(device).manual_seed(0)
    average = predict(model, x, mode="average", draws=4, generator=generator)
    assert math.isclose(found["average_loss"], F.nll_loss(average.flatten(0, 1), y.flatten()).item(), rel_tol=1e-5)
    assert found["average_loss"] < found["sample_loss"] - 1e-6


def test_disturbed_losses_of_a_table_are_its_closed_form(device):
    """A network that reads its own token: the loss is that of the text at keep 1, and of a fresh token at keep 0."""
    draw = torch.Generator().manual_seed(3)
    rows = torch.rand(7, 7, generator=draw, dtype=torch.float64).to(device)
    rows = (rows / rows.sum(1, keepdim=True)).log()
    x, y = torch.randint(7, (2, 4000, 5), generator=draw).to(device)
    found = looks.disturbed_losses(lambda ids: rows[ids], x, y, Resample(0, 7), (0.0, 0.4, 1.0))
    clean, fresh = -rows[x, y].mean(), -rows.mean(0)[y].mean()
    assert math.isclose(found[2], clean.item(), rel_tol=1e-12)
    spread = rows.std().item() / math.sqrt(x.numel())
    for loss, keep in zip(found, (0.0, 0.4, 1.0), strict=True):
        assert abs(loss - (keep * clean + (1 - keep) * fresh).item()) < 5 * spread


def test_the_summary_of_a_noise_is_that_of_its_parameters():
    model, (x, _) = noisy_model("v2-relative"), windows()
    found = looks.noise_summary(model, x)
    for layer, (sigma, size) in zip(model.layers, zip(found["sigma"], found["mean_size"], strict=True), strict=True):
        noise = layer.attention.noise
        for head in range(2):
            mine = slice(12 * head, 12 * head + 12)
            assert math.isclose(sigma[head], noise.log_sigma[mine].exp().mean().item(), rel_tol=1e-5)
            assert math.isclose(size[head], noise.mean[mine].square().mean().sqrt().item(), rel_tol=1e-5)
    by_distance = looks.noise_by_distance(model)
    assert torch.equal(by_distance["noise_mean"][1, 1], model.layers[1].attention.noise.mean[12:])


def test_the_summary_of_a_noise_that_depends_on_tokens_is_over_tokens():
    model, (x, _) = noisy_model("v2-amortised"), windows()
    _, seen = model.run(x, ["layers.1.attention.input"])
    noise = model.layers[1].attention.noise
    down = (seen["layers.1.attention.input"] @ noise.down).chunk(2, -1)
    mean, log_sigma = down[0] @ noise.up[0], (down[1] @ noise.up[1] - 2).clamp(-6, 2)
    found = looks.noise_summary(model, x)
    for head in range(2):
        mine = slice(6 * head, 6 * head + 6)
        assert math.isclose(found["sigma"][1, head], log_sigma[..., mine].exp().mean().item(), rel_tol=1e-4)
        assert math.isclose(found["mean_size"][1, head], mean[..., mine].square().mean().sqrt().item(), rel_tol=1e-4)


@pytest.mark.parametrize("variant", ["standard", "symmetric", "pairwise", "low-rank", "v2-relative", "v2-amortised"])
def test_operations_are_those_that_torch_counts(variant):
    """On the explicit path, forward and backward. The padding of values for scores of low rank is not counted."""
    scores = None if variant == "standard" else VARIANTS[variant]
    model = network(SHAPE, scores, generator=torch.Generator().manual_seed(0))
    x, y = windows()
    with FlopCounterMode(display=False) as counter:
        output, _ = model.run(x, [f"layers.{number}.attention.weights" for number in range(2)])
        F.cross_entropy(output.flatten(0, 1), y.flatten()).backward()
    assert counter.get_total_flops() == training_flops(SHAPE, scores, 12) * x.numel()


def test_milestones_are_fractions_of_the_standard_networks_own_way():
    """It falls from 4 to its best, 2, at step 20; half way is 3, at step 10 between 3.5 and 2.5."""
    steps = np.array([0, 5, 15, 20])
    history = {"standard_held_out_loss": np.array([[4.0], [3.5], [2.5], [2.0]]), "standard_held_out_loss_step": steps}
    history |= {"arm_held_out_loss": np.array([[4.0], [3.0], [2.8], [2.2]]), "arm_held_out_loss_step": steps}
    standard, arm = (pretrain.milestones(history, name) for name in ("standard", "arm"))
    assert (standard["reached"]["0.5"], standard["reached"]["1.0"], standard["best_at"]) == ([10], [20], [20])
    assert (arm["reached"]["0.5"], arm["reached"]["0.9"], arm["reached"]["1.0"]) == ([5], [20], [None])
    told = {name: one | {"held_out_loss": [2.0]} for name, one in (("standard", standard), ("arm", arm))}
    result = {"steps": 20, "fractions": list(pretrain.FRACTIONS), "arms": told}
    assert pretrain.faster(result, "arm", 0.5).ratio == 2
    assert pretrain.faster(result, "arm", 1).bounded == "at most"
    with pytest.raises(ValueError, match=r"fraction is 0.3: the record has 0.5, 0.75"):
        pretrain.faster(result, "arm", 0.3)
    with pytest.raises(ValueError, match=r"arm is 'best': the record has standard, arm"):
        pretrain.faster(result, "best")
    with pytest.raises(ValueError, match=r"measure is 'sigma': arm has best_held_out_loss"):
        pretrain.paired(result, "sigma", "arm")
    with pytest.raises(ValueError, match=r"the record has 1 seed: .* at least 2"):
        pretrain.paired(result, "held_out_loss", "arm")


def test_what_is_missing_is_said():
    result = {"unigram_loss": 5.0, "arms": {"standard": {"held_out_loss": [4.2]}, "pairwise": {"held_out_loss": [4.9]}}}
    assert pretrain.phenomenon(result) is None
    result["arms"]["pairwise"]["held_out_loss"].append(5.25)
    assert "under the unigram law's 5.000: with pairwise it is 5.250" in pretrain.phenomenon(result)


def test_impossible_configurations(experiment, tmp_path):
    cases = [
        ({"arms": ("standard", "bold")}, "arms has 'bold': choose from standard, standard-again, symmetric"),
        ({"arms": ("symmetric",)}, "arms is symmetric: add standard, which all others are held against"),
        ({"text": ("made up", "novels")}, "text has 'novels': there are wikipedia, openwebtext, brown, plays"),
        ({"held_out": 61}, "held_out is 61: made up has 60 documents, so give 2 to that"),
        ({"held_out": 1}, "held_out is 1: made up has 60 documents"),
        ({"beta": -1}, "beta is -1: give 0 or more"),
    ]
    for changes, message in cases:
        with pytest.raises(ValueError, match=message):
            records.perform(experiment, "quick", replace(TINY, **changes), records=tmp_path)


def test_the_laptop_has_all_arms_and_five_seeds():
    laptop, full = pretrain.PRESETS["laptop"], pretrain.PRESETS["full"]
    assert set(laptop.arms) == set(full.arms) == set(ARMS)
    assert (laptop.seeds, laptop.model.context, full.model.context) == (5, 128, 256)
    parameters = pretrain.described(full, ARMS["standard"])["parameters"]
    assert 9.5e6 < parameters < 10.5e6

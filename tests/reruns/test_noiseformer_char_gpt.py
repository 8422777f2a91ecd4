"""noiseformer-char-gpt on plays made up here: char-gpt's plays and batches, other attention, its weights kept."""

from dataclasses import fields, replace

import pytest
import torch
from torch.nn import functional as F

from nslab import records
from nslab.attention.settings import VARIANTS
from nslab.reruns import _char_gpt_twin, char_gpt, noiseformer_char_gpt
from nslab.reruns.stable_char_gpt import consecutive_windows
from nslab.transformer.noiseformer import NoiseFormer
from nslab.zoo.noiseformer_twin import noiseformer_from
from tests.reruns.made_up_plays import ALPHABET, PLAYS, small_char_gpt, untrained

PLAIN = small_char_gpt(steps=60, learning_rate=2e-2)
TINY = noiseformer_char_gpt.Config(**vars(PLAIN), keep=(0.5,), measured=20, disturbed=20, draws=3)


@pytest.fixture(autouse=True)
def made_up(monkeypatch):
    monkeypatch.setattr(char_gpt, "plays", lambda: PLAYS)
    other = untrained(PLAIN)
    monkeypatch.setattr(noiseformer_char_gpt, "shipped_char_gpt", lambda: other)


def perform(folder, config=TINY, resume=False):
    told = "noiseformer-char-gpt", "nslab.reruns.noiseformer_char_gpt", {"quick": config}
    experiment = records.Experiment(*told, noiseformer_char_gpt.run, noiseformer_char_gpt.phenomenon)
    return records.perform(experiment, "quick", records=folder, resume=resume)


def test_it_sees_the_batches_of_char_gpt(tmp_path, monkeypatch):
    drawn = {module: [] for module in (char_gpt, _char_gpt_twin)}
    for module, seen in drawn.items():

        class Noted(module.TextBatches):
            def __call__(self, generator=None, seen=seen):
                x, y = super().__call__(generator)
                seen.append(x)
                return x, y

        monkeypatch.setattr(module, "TextBatches", Noted)
    perform(tmp_path)
    told = "char-gpt", "nslab.reruns.char_gpt", {"quick": PLAIN}, char_gpt.run, char_gpt.phenomenon
    records.perform(records.Experiment(*told), "quick", records=tmp_path)
    mine, its = drawn.values()
    assert len(mine) == PLAIN.training.steps
    assert torch.equal(torch.stack(mine), torch.stack(its))


def test_the_artifact_and_the_modes_of_its_answers(tmp_path):
    record = perform(tmp_path)
    twin = noiseformer_from(record.path / char_gpt.WEIGHTS)
    assert "learned noise on its scores (v2-relative, beta = 0.001); 60 steps" in twin.provenance
    models, modes = record.result["models"], record.result["modes"]
    assert list(models) == ["noiseformer-char-gpt", "char-gpt"]
    held_out = torch.tensor([ALPHABET.index(one) for one in PLAYS["Sea"]])
    x, y = consecutive_windows(held_out, PLAIN.model.context, TINY.measured)

    @torch.no_grad()
    def loss(network):
        return float(F.cross_entropy(network(x).flatten(0, 1), y.flatten()))

    assert modes["mean"]["loss"] == pytest.approx(loss(twin), abs=1e-5)
    assert modes["mean"]["calibration_error"] == pytest.approx(models[twin.name]["calibration_error"], abs=1e-5)
    assert record.result["held_out_loss"][0] == pytest.approx(record.result["held_out_loss_fp16"], abs=1e-2)
    plain = NoiseFormer(PLAIN.model, VARIANTS["symmetric"]).eval()  # it knows no noise at all
    weights = {
        name: weight for name, weight in twin.module.named_parameters() if name in dict(plain.named_parameters())
    }
    plain.load_state_dict(weights, strict=False)
    assert modes["without mean"]["loss"] == pytest.approx(loss(plain), abs=1e-5)
    assert len(set(modes["sample"]["loss"])) == TINY.draws
    saved = sum(weight.numel() for weight in twin.module.parameters()) - record.result["parameters_of_char_gpt"]
    width, context, heads = PLAIN.model.width, PLAIN.model.context, PLAIN.model.heads
    assert saved == 2 * heads * context - width * (width + 1)


def test_the_noise_that_is_told_is_that_of_the_artifact(tmp_path):
    for variant, heads in (("v1-relative", 1), ("v2-relative", 2)):
        record = perform(tmp_path, replace(TINY, variant=variant))
        told = {name: torch.tensor(values) for name, values in record.result["noise"].items()}
        assert {one.shape for one in told.values()} == {(1, heads, 16)}
        noise = noiseformer_from(record.path / char_gpt.WEIGHTS).module.layers[0].attention.noise
        assert torch.allclose(told["sigma"].flatten(), noise.log_sigma.exp(), atol=1e-4)
        assert torch.allclose(told["mean"].flatten(), noise.mean, atol=1e-4)
        assert record.history["sigma"].shape[1:] == (1, 1, heads)
        assert record.history["sigma"][-1].flatten() == pytest.approx(
            told["sigma"].mean(-1).flatten().tolist(), abs=1e-3
        )


def test_a_large_weight_of_the_divergence_takes_the_noise_towards_the_prior(tmp_path):
    far = []
    for beta in (0.0, 100.0):
        result = perform(tmp_path, replace(TINY, beta=beta)).result
        sigma, mean = (torch.tensor(result["noise"][name]) for name in ("sigma", "mean"))
        far.append(float((sigma - 1).abs().mean() + mean.abs().mean()))
    assert far[1] < far[0] - 0.2


def test_a_run_cut_in_the_second_seed_goes_on_to_the_same_record(tmp_path, monkeypatch):
    two = replace(TINY, seeds=2)
    whole = perform(tmp_path / "whole", two)
    calls, real = [], noiseformer_char_gpt.learned_noise

    def cut(*args):
        calls.append(1)
        if len(calls) == 4:  # two evaluations of each seed
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(noiseformer_char_gpt, "learned_noise", cut)
    with pytest.raises(KeyboardInterrupt):
        perform(tmp_path / "cut", two)
    monkeypatch.setattr(noiseformer_char_gpt, "learned_noise", real)
    resumed = perform(tmp_path / "cut", two, resume=True)
    for name in ("config.json", "history.npz", "result.json", char_gpt.WEIGHTS):
        assert (resumed.path / name).read_bytes() == (whole.path / name).read_bytes()


def test_the_phenomenon_is_a_mean_that_helps():
    result = {"modes": {"mean": {"loss": 1.5}, "without mean": {"loss": 1.6}}, "held_out_loss": [1.5]}
    result |= {"bigram_loss": 2.4, "unigram_loss": 3.3}
    assert noiseformer_char_gpt.phenomenon(result) is None
    result["modes"]["without mean"]["loss"] = 1.4
    assert "the loss is 1.5000 with it and 1.4000 without" in noiseformer_char_gpt.phenomenon(result)


def test_impossible_configurations(tmp_path):
    cases = [
        (
            replace(TINY, variant="v2-key"),
            r"variant is 'v2-key': choose one with noise by distance, v1-relative, v2-rel",
        ),
        (replace(TINY, variant="standard"), r"variant is 'standard': choose"),
        (replace(TINY, beta=-1.0), r"beta is -1.0"),
        (replace(TINY, held_out=("Hamlet 2",)), r"held_out has 'Hamlet 2': the plays are Ay, Bee"),
    ]
    for config, message in cases:
        with pytest.raises(ValueError, match=message):
            perform(tmp_path, config)


@pytest.mark.parametrize("preset", ["quick", "laptop", "full"])
def test_a_preset_differs_from_char_gpts_by_the_noise_and_the_measures_alone(preset):
    mine, its = noiseformer_char_gpt.PRESETS[preset], char_gpt.PRESETS[preset]
    assert all(getattr(mine, field.name) == getattr(its, field.name) for field in fields(its))

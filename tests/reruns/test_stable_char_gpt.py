"""stable-char-gpt on plays made up here: char-gpt but for the penalty, measured beside it, its weights kept."""

import math
from dataclasses import fields, replace

import pytest
import torch

from nslab import records
from nslab.reruns import char_gpt, stable_char_gpt
from nslab.reruns.stable_char_gpt import agreement, consecutive_windows, measures
from nslab.training import TextBatches
from nslab.transformer import Transformer
from nslab.zoo import adopt_characters, char_gpt_from
from tests.reruns.made_up_plays import ALPHABET, PLAYS, small_char_gpt, untrained

PLAIN = small_char_gpt(steps=90, learning_rate=1e-2)
TINY = stable_char_gpt.Config(**vars(PLAIN), gamma=0.5, rho=0, share=0.5, keep=(0.5, 1.0), measured=40)


@pytest.fixture
def experiment(monkeypatch):
    monkeypatch.setattr(char_gpt, "plays", lambda: PLAYS)
    other = untrained(PLAIN)
    monkeypatch.setattr(stable_char_gpt, "shipped_char_gpt", lambda: other)
    code, run, phenomenon = "nslab.reruns.stable_char_gpt", stable_char_gpt.run, stable_char_gpt.phenomenon
    return records.Experiment("stable-char-gpt", code, {"quick": TINY}, run, phenomenon)


@pytest.fixture
def char_gpt_experiment(experiment):
    return records.Experiment("char-gpt", "nslab.reruns.char_gpt", {"quick": PLAIN}, char_gpt.run, char_gpt.phenomenon)


@pytest.fixture
def drawn(monkeypatch):
    """The inputs of every batch that was drawn since."""
    seen = []

    class Noted(TextBatches):
        def __call__(self, generator=None):
            x, y = super().__call__(generator)
            seen.append(x)
            return x, y

    monkeypatch.setattr(char_gpt, "TextBatches", Noted)
    monkeypatch.setattr(stable_char_gpt, "TextBatches", Noted)
    return seen


def contents(record):
    names = ("config.json", "history.npz", "result.json", stable_char_gpt.WEIGHTS)
    return {name: (record.path / name).read_bytes() for name in names}


def test_it_sees_the_batches_of_char_gpt_and_starts_from_its_first_loss(
    experiment, char_gpt_experiment, drawn, tmp_path
):
    training = replace(PLAIN.training, steps=6, evaluate_every=1)
    plain = records.perform(char_gpt_experiment, "quick", replace(PLAIN, training=training), records=tmp_path)
    stable = records.perform(experiment, "quick", replace(TINY, training=training), records=tmp_path)
    assert len(drawn) == 12
    assert torch.equal(torch.stack(drawn[:6]), torch.stack(drawn[6:]))
    plain_loss, stable_loss = plain.history["loss"].ravel(), stable.history["loss"].ravel()
    assert plain_loss[0] == stable_loss[0]
    assert plain_loss[-1] != stable_loss[-1]


def test_without_weight_the_penalty_changes_no_bit_of_char_gpt(experiment, char_gpt_experiment, tmp_path):
    plain = records.perform(char_gpt_experiment, "quick", records=tmp_path)
    stable = records.perform(experiment, "quick", replace(TINY, gamma=0), records=tmp_path)
    for series in ("loss", "held_out_loss", "gradient_norm"):
        assert plain.history[series].tolist() == stable.history[series].tolist()
    for number in ("held_out_loss", "perplexity", "bits_per_character", "unigram_loss", "bigram_loss", "parameters"):
        assert plain.result[number] == stable.result[number]


def test_the_artifact_has_the_recorded_loss_and_says_how_it_was_made(experiment, tmp_path):
    record = records.perform(experiment, "quick", records=tmp_path)
    twin = char_gpt_from(record.path / stable_char_gpt.WEIGHTS, name="stable-char-gpt")
    assert twin.name == "stable-char-gpt"
    assert twin.tokens.alphabet == ALPHABET
    assert "0.5 times the stability penalty (S = 1, rho = 0, on a share of 0.5" in twin.provenance
    assert "without Sea" in twin.provenance
    held_out = torch.tensor([ALPHABET.index(one) for one in PLAYS["Sea"]])
    losses = []
    for start in range(0, len(held_out) - 16, 16):
        logits = twin(held_out[None, start : start + 16])[0].double()
        following = held_out[start + 1 : start + 17, None]
        losses.append((logits.logsumexp(-1, keepdim=True) - logits.gather(1, following)).mean())
    assert math.isclose(record.result["held_out_loss_fp16"], float(torch.stack(losses).mean()), rel_tol=1e-5)
    assert list(record.result["models"]) == ["stable-char-gpt", "char-gpt"]
    assert stable_char_gpt.phenomenon(record.result) is None


def test_rewarding_stability_raises_it_and_punishing_it_lowers_it(experiment, tmp_path):
    ends, trajectories = [], []
    for change in ({"orientation": 0}, {"gamma": 0}, {}):
        config = replace(replace(TINY, gamma=1), **change)
        record = records.perform(experiment, "quick", config, records=tmp_path)
        ends.append(record.result["models"]["stable-char-gpt"]["stability"]["normalised"]["value"][0])
        trajectories.append(float(record.history["stability"][-1, 0]))
    assert ends == sorted(ends)
    assert trajectories == sorted(trajectories)
    assert ends[2] > ends[1] + 0.05
    assert ends[1] > ends[0] + 0.05


def test_a_run_cut_in_the_second_seed_goes_on_to_the_same_record(experiment, tmp_path, monkeypatch):
    two = replace(TINY, seeds=2)
    whole = records.perform(experiment, "quick", two, records=tmp_path / "whole")
    calls, real = [], stable_char_gpt.agreement

    def cut(*args):
        calls.append(1)
        if len(calls) == 5:  # three evaluations of seed 0, then the second of seed 1
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(stable_char_gpt, "agreement", cut)
    with pytest.raises(KeyboardInterrupt):
        records.perform(experiment, "quick", two, records=tmp_path / "cut")
    monkeypatch.setattr(stable_char_gpt, "agreement", real)
    resumed = records.perform(experiment, "quick", two, records=tmp_path / "cut", resume=True)
    assert contents(resumed) == contents(whole)


def test_stability_is_the_mean_over_windows_positions_and_noise():
    generator = torch.Generator().manual_seed(0)
    network = Transformer(PLAIN.model, generator=generator)
    with torch.no_grad():
        network.tokens.weight.mul_(30)  # answers that depend on the text
    model = adopt_characters(network, ALPHABET)
    ids = torch.randint(len(ALPHABET), (641,), generator=generator, dtype=torch.uint8)
    found = measures(model, ids, replace(TINY, measured=40, twins=100))
    x = ids[:640].view(40, 16).long()
    p = model(x).softmax(-1)
    energy, agreements = p.square().sum(-1).mean(), []
    for _ in range(400):
        redrawn = torch.rand(x.shape, generator=generator) >= 0.5
        y = torch.where(redrawn, torch.randint(len(ALPHABET), x.shape, generator=generator), x)
        agreements.append((p * model(y).softmax(-1)).sum(-1).mean())
    wanted = torch.stack(agreements).mean()
    noise = 6 * torch.stack(agreements).std() / 10  # of 100 twins
    raw, normalised = found["stability"]["raw"], found["stability"]["normalised"]
    assert abs(raw["value"][0] - wanted) < noise
    assert abs(normalised["value"][0] - wanted / energy) < noise / energy
    assert math.isclose(raw["value"][1], energy, rel_tol=1e-5)
    assert normalised["value"][1] == 1
    assert normalised["value"][0] < 0.9
    assert min(raw["stderr"]) > 0
    y = ids[1:].view(40, 16).long()
    assert math.isclose(found["loss"], -float(p.gather(-1, y[..., None]).log().mean()), rel_tol=1e-5)
    assert math.isclose(found["confidence"], float(p.max(-1).values.mean()), rel_tol=1e-5)
    assert math.isclose(found["accuracy"], float((p.argmax(-1) == y).float().mean()), rel_tol=1e-5)


def test_twins_that_share_three_of_four_letters_agree_by_three_quarters_where_each_letter_is_answered_for_sure():
    sure = lambda ids: 100 * torch.nn.functional.one_hot(ids, 5).float()  # noqa: E731
    x, y = torch.tensor([[0, 1, 2, 3]]), torch.tensor([[0, 1, 2, 4]])
    assert math.isclose(agreement(sure, x, y), 0.75, rel_tol=1e-6)


def test_windows_follow_one_another_and_the_next_letters_are_the_targets():
    x, y = consecutive_windows(torch.arange(34, dtype=torch.uint8), 4, 100)
    assert x.flatten().tolist() == list(range(32))  # a rest shorter than a window is left out
    assert torch.equal(y, x + 1)
    first, last = consecutive_windows(torch.arange(33), 4, 2)[0].tolist()
    assert (first, last) == ([0, 1, 2, 3], [28, 29, 30, 31])


def test_impossible_configurations(experiment, tmp_path):
    cases = [
        (replace(TINY, held_out=("Hamlet 2",)), r"held_out has 'Hamlet 2': the plays are Ay, Bee"),
        (replace(TINY, model=replace(TINY.model, vocabulary=5)), r"model.vocabulary is 5: the plays have 14 symbols"),
        (replace(TINY, gamma=-0.1), r"gamma has -0.1: give 0 or more"),
        (replace(TINY, rho=1.5), r"rho is 1.5: give a number from -1 to 1"),
    ]
    for config, message in cases:
        with pytest.raises(ValueError, match=message):
            records.perform(experiment, "quick", config, records=tmp_path)


def test_char_gpt_must_know_the_letters_of_the_plays(experiment, tmp_path, monkeypatch):
    monkeypatch.setattr(char_gpt, "plays", lambda: PLAYS | {"Dee": "xyz"})
    three_more = replace(TINY, model=replace(TINY.model, vocabulary=17))
    with pytest.raises(ValueError, match="have 17 symbols that are not the 14 of the package's char-gpt: run char-gpt"):
        records.perform(experiment, "quick", three_more, records=tmp_path)


@pytest.mark.parametrize("preset", ["laptop", "full"])
def test_a_preset_differs_from_char_gpts_by_the_penalty_and_the_measures_alone(preset):
    mine, its = stable_char_gpt.PRESETS[preset], char_gpt.PRESETS[preset]
    assert all(getattr(mine, field.name) == getattr(its, field.name) for field in fields(its))
    assert mine.gamma > 0

"""char-gpt on four plays made up here: what is held out stays unseen, a cut run goes on, the weights are kept."""

import math
from collections import Counter
from dataclasses import replace

import pytest
import torch

from nslab import records
from nslab.reruns import char_gpt
from nslab.training import TrainingConfig
from nslab.transformer import TransformerConfig, load_transformer

PLAYS = {
    "Ay": "to be or not to be " * 40,
    "Bee": "that is the question " * 40,
    "Sea": "that is the question " * 20 + "to be or not to be " * 20,
    "Dee": "xyz" * 30,
}
TINY = char_gpt.Config(
    seeds=2,
    model=TransformerConfig(vocabulary=17, context=16, width=16, layers=1, heads=2),
    training=TrainingConfig(steps=240, batch=8, learning_rate=1e-2, evaluate_every=60),
    held_out=("Sea",),
    windows=4,
    save_every=50,
)


@pytest.fixture
def experiment(monkeypatch):
    monkeypatch.setattr(char_gpt, "plays", lambda: PLAYS)
    presets = {"quick": TINY}
    code = "nslab.reruns.char_gpt"
    return records.Experiment("char-gpt", code, presets, char_gpt.run, char_gpt.phenomenon)


def contents(record):
    names = ("config.json", "history.npz", "result.json", char_gpt.WEIGHTS)
    return {name: (record.path / name).read_bytes() for name in names}


def test_a_network_learns_and_its_weights_are_kept(experiment, tmp_path):
    record = records.perform(experiment, "quick", records=tmp_path)
    result = record.result
    assert char_gpt.phenomenon(result) is None
    model, facts = load_transformer(record.path / char_gpt.WEIGHTS)
    assert model.config == TINY.model
    assert facts["alphabet"] == "".join(sorted(set("".join(PLAYS.values()) + "\n")))
    assert "without Sea" in facts["provenance"]
    assert sum(weight.numel() for weight in model.parameters()) == result["parameters"]
    for loss, perplexity, bits in zip(
        result["held_out_loss"], result["perplexity"], result["bits_per_character"], strict=True
    ):
        assert math.isclose(perplexity, 2**bits)
        assert math.isclose(loss, bits * math.log(2))
    assert abs(result["held_out_loss_fp16"] - result["held_out_loss"][0]) < 0.01
    assert set(record.history) >= {"loss", "held_out_loss", "learning_rate"}


def test_a_run_cut_in_the_second_seed_goes_on_to_the_same_record(experiment, tmp_path, monkeypatch):
    whole = records.perform(experiment, "quick", records=tmp_path / "whole")
    calls, real = [], char_gpt.text_loss

    def cut(*args, **kwargs):
        calls.append(1)
        if len(calls) == 7:  # four evaluations and the end of seed 0, then the second of seed 1
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(char_gpt, "text_loss", cut)
    with pytest.raises(KeyboardInterrupt):
        records.perform(experiment, "quick", records=tmp_path / "cut")
    monkeypatch.setattr(char_gpt, "text_loss", real)
    resumed = records.perform(experiment, "quick", records=tmp_path / "cut", resume=True)
    assert contents(resumed) == contents(whole)


def test_held_out_plays_are_whole_and_never_trained_on(experiment):
    alphabet, train, unseen = char_gpt.texts(("Sea", "Dee"))
    decode = lambda ids: "".join(alphabet[i] for i in ids)  # noqa: E731
    assert decode(unseen) == PLAYS["Sea"] + "\n" + PLAYS["Dee"]
    assert decode(train) == PLAYS["Ay"] + "\n" + PLAYS["Bee"]


@pytest.mark.parametrize("order", [0, 1])
def test_a_table_is_counted(order):
    generator = torch.Generator().manual_seed(0)
    train, unseen = (torch.randint(4, (size,), generator=generator, dtype=torch.uint8) for size in (200, 50))
    pairs = Counter(zip((train[:-1] * order).tolist(), train[1:].tolist(), strict=True))
    rows = Counter((train[:-1] * order).tolist())
    total = 0.0
    for before, after in zip((unseen[:-1] * order).tolist(), unseen[1:].tolist(), strict=True):
        total -= math.log((pairs[before, after] + 1) / (rows[before] + 4))
    assert math.isclose(char_gpt.table_loss(train, unseen, 4, order=order), total / 49)


def test_what_is_missing_is_said():
    found = {"unigram_loss": 3.0, "bigram_loss": 2.5}
    assert char_gpt.phenomenon(found | {"held_out_loss": [2.4, 2.49]}) is None
    missing = char_gpt.phenomenon(found | {"held_out_loss": [2.4, 2.6]})
    assert "it is 2.600, below the unigram law's 3.000" in missing
    assert "not even below" in char_gpt.phenomenon(found | {"held_out_loss": [3.1]})


def test_impossible_configurations(experiment, tmp_path):
    cases = [
        (replace(TINY, held_out=("Hamlet 2",)), r"held_out has 'Hamlet 2': the plays are Ay, Bee"),
        (replace(TINY, held_out=tuple(PLAYS)), r"held_out has 4 of 4 plays: hold out some, and keep some"),
        (replace(TINY, model=replace(TINY.model, vocabulary=5)), r"model.vocabulary is 5: the plays have 17 symbols"),
    ]
    for config, message in cases:
        with pytest.raises(ValueError, match=message):
            records.perform(experiment, "quick", config, records=tmp_path)


def test_the_laptop_preset_has_the_shared_shape_and_fits_a_record():
    from nslab.transformer import CHAR_GPT

    assert char_gpt.PRESETS["laptop"].model == char_gpt.PRESETS["full"].model == CHAR_GPT
    assert 2 * 820_096 < 2_000_000  # fp16 weights

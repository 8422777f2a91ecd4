"""barrier-char-gpt on plays made up here: char-gpt but for the barrier on its heads; what any twin shares with it."""

from dataclasses import fields, replace

import pytest
import torch
from torch import nn

from nslab import records
from nslab.reruns import _char_gpt_twin, barrier_char_gpt, char_gpt
from nslab.transformer import Transformer
from nslab.zoo import char_gpt_from
from tests.reruns.made_up_plays import ALPHABET, PLAYS, small_char_gpt, untrained

PLAIN = small_char_gpt(steps=60, learning_rate=2e-2)
TINY = barrier_char_gpt.Config(
    **vars(PLAIN), strength=1.0, rows=8, keep=(0.5,), measured=20, margins=20, spots=3, draws=1
)


@pytest.fixture(autouse=True)
def made_up(monkeypatch):
    monkeypatch.setattr(char_gpt, "plays", lambda: PLAYS)
    other = untrained(PLAIN)
    monkeypatch.setattr(barrier_char_gpt, "shipped_char_gpt", lambda: other)


def perform(folder, config=TINY, resume=False, experiment=barrier_char_gpt):
    name = experiment.__name__.rpartition(".")[2]
    told = name.replace("_", "-"), f"nslab.reruns.{name}", {"quick": config}, experiment.run, experiment.phenomenon
    return records.perform(records.Experiment(*told), "quick", records=folder, resume=resume)


def test_without_weight_the_barrier_changes_no_bit_of_char_gpt(tmp_path):
    plain = perform(tmp_path, PLAIN, experiment=char_gpt)
    barrier = perform(tmp_path, replace(TINY, strength=0.0))
    for series in ("loss", "held_out_loss", "gradient_norm"):
        assert plain.history[series].tolist() == barrier.history[series].tolist()
    for number in ("held_out_loss", "perplexity", "bits_per_character", "unigram_loss", "bigram_loss", "parameters"):
        assert plain.result[number] == barrier.result[number]
    weights = [char_gpt_from(record.path / char_gpt.WEIGHTS).module.state_dict() for record in (plain, barrier)]
    assert all(torch.equal(weight, weights[1][name]) for name, weight in weights[0].items())


def test_the_barrier_lifts_the_least_determinants(tmp_path):
    ends, trajectories = [], []
    for strength in (0.0, 5.0):
        record = perform(tmp_path, replace(TINY, strength=strength))
        ends.append(record.result["models"]["barrier-char-gpt"]["margins"]["determinant_quantiles"][0])
        trajectories.append(record.history["determinant_quantiles"][-1, 0, 0])
    assert ends[1] > ends[0] + 0.02
    assert trajectories[1] > trajectories[0] + 0.02


def test_the_artifact_says_how_it_was_made_and_stands_beside_char_gpt(tmp_path):
    record = perform(tmp_path)
    twin = char_gpt_from(record.path / char_gpt.WEIGHTS, name="barrier-char-gpt")
    assert "with 1.0 times the hinge barrier on its heads (delta = 0.05, rows = 8); 60 steps" in twin.provenance
    assert "without Sea" in twin.provenance
    models = record.result["models"]
    assert list(models) == ["barrier-char-gpt", "char-gpt"]
    for told in models.values():
        assert told["disturbed"]["noise"] == sorted(told["disturbed"]["noise"])
    assert abs(models["barrier-char-gpt"]["loss"] - record.result["held_out_loss_fp16"]) < 0.3  # some of the windows
    lifted = {name: {"margins": {"determinant_quantiles": [0, q]}} for name, q in zip(models, (0.9, 0.8), strict=True)}
    shown = record.result | {"models": lifted, "held_out_loss": [1.0], "bigram_loss": 2.0}
    assert barrier_char_gpt.phenomenon(shown) is None
    lifted["char-gpt"]["margins"]["determinant_quantiles"] = [0, 0.95]
    assert "1 % of the twin's are below 0.900, of char-gpt's below 0.950" in barrier_char_gpt.phenomenon(shown)


def test_a_run_cut_in_the_second_seed_goes_on_to_the_same_record(tmp_path, monkeypatch):
    two = replace(TINY, seeds=2)
    whole = perform(tmp_path / "whole", two)
    calls, real = [], barrier_char_gpt.measuring.quantiles

    def cut(*args):
        calls.append(1)
        if len(calls) == 4:  # two evaluations of each seed
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(barrier_char_gpt.measuring, "quantiles", cut)
    with pytest.raises(KeyboardInterrupt):
        perform(tmp_path / "cut", two)
    monkeypatch.setattr(barrier_char_gpt.measuring, "quantiles", real)
    resumed = perform(tmp_path / "cut", two, resume=True)
    for name in ("config.json", "history.npz", "result.json", char_gpt.WEIGHTS):
        assert (resumed.path / name).read_bytes() == (whole.path / name).read_bytes()


def test_a_twin_may_train_a_module_that_is_not_kept(tmp_path):
    seen = []

    class Pull(nn.Module):
        def __init__(self, generator):
            super().__init__()
            self.target = nn.Parameter(torch.randn(16, generator=generator))
            seen.append((self, self.target.detach().clone()))

    def penalty(model, x, output, *, generator):
        return (model.extra.target - 1).square().sum()

    def run(config, log, *, device):
        options = {"name": "pulled", "says": "a pull", "beside": barrier_char_gpt.shipped_char_gpt()}
        told, twin, held_out = _char_gpt_twin.train_twin(
            config, log, device, **options, penalties=lambda model: [(1.0, penalty)], extra=Pull
        )
        assert twin.name == "pulled"
        assert held_out.tolist() == [ALPHABET.index(one) for one in PLAYS["Sea"]]
        return told

    experiment = records.Experiment("pulled", "nslab.reruns.char_gpt", {"quick": PLAIN}, run, char_gpt.phenomenon)
    record = records.perform(experiment, "quick", records=tmp_path)
    [(pull, before)] = seen
    assert ((pull.target - 1).abs() < (before - 1).abs()).all()
    weights = char_gpt_from(record.path / char_gpt.WEIGHTS).module.state_dict()
    assert set(weights) == set(Transformer(PLAIN.model).state_dict())


def test_impossible_configurations(tmp_path, monkeypatch):
    cases = [
        (replace(TINY, held_out=("Hamlet 2",)), r"held_out has 'Hamlet 2': the plays are Ay, Bee"),
        (replace(TINY, model=replace(TINY.model, vocabulary=5)), r"model.vocabulary is 5: the plays have 14 symbols"),
        (replace(TINY, delta=2.0), r"delta is 2.0"),
        (replace(TINY, strength=-1.0), r"weight is -1.0: give 0 or more"),
    ]
    for config, message in cases:
        with pytest.raises(ValueError, match=message):
            perform(tmp_path, config)
    monkeypatch.setattr(char_gpt, "plays", lambda: PLAYS | {"Dee": "xyz"})
    three_more = replace(TINY, model=replace(TINY.model, vocabulary=17))
    with pytest.raises(ValueError, match="have 17 symbols that are not the 14 of the package's char-gpt: run char-gpt"):
        perform(tmp_path, three_more)


@pytest.mark.parametrize("preset", ["laptop", "full"])
def test_a_preset_differs_from_char_gpts_by_the_barrier_and_the_measures_alone(preset):
    mine, its = barrier_char_gpt.PRESETS[preset], char_gpt.PRESETS[preset]
    assert all(getattr(mine, field.name) == getattr(its, field.name) for field in fields(its))
    assert mine.strength > 0

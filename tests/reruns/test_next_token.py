"""next-token on passages made up here: arms are paired, a cut run goes on, thresholds are the plain network's own."""

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from nslab import records
from nslab.noise import Resample, unigram_law
from nslab.reruns import _next_token_measures as looks
from nslab.reruns import next_token
from nslab.training import TrainingConfig, text_loss
from nslab.transformer import Transformer, TransformerConfig

SYLLABLES = ["ba", "do", "ki", "lu", "me", "no", "pa", "ri", "so", "tu"]
SHAPE = TransformerConfig(vocabulary=270, context=12, width=12, layers=1, heads=2)
TINY = next_token.Config(
    seeds=2,
    model=SHAPE,
    training=TrainingConfig(
        steps=60, batch=8, learning_rate=1e-2, warmup=5, schedule="constant", evaluate_every=10, weight_decay=0.1
    ),
    sequences=60,
    held_out=10,
    windows=12,
    noisy=4,
    keep=(0.5, 0.9),
    keep_at_end=(0.5, 0.8, 1.0),
    prompts=8,
    pairs=96,
    degree=3,
    save_every=20,
)


def made_up():
    """Sixty passages in which each syllable has two likely followers."""
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
    monkeypatch.setattr(next_token, "passages", lambda which, source: made_up())
    return records.Experiment(
        "next-token", "nslab.reruns.next_token", {"quick": TINY}, next_token.run, next_token.phenomenon
    )


@pytest.fixture(scope="module")
def model():
    return Transformer(SHAPE, generator=torch.Generator().manual_seed(1)).eval()


def contents(record):
    return {name: (record.path / name).read_bytes() for name in ("config.json", "history.npz", "result.json")}


def test_arms_start_alike_see_the_same_batches_and_part_by_their_penalty_alone(experiment, tmp_path):
    every = replace(
        TINY,
        arms=tuple(next_token.KINDS),
        gammas=(0.0, 2.0),
        seeds=1,
        training=replace(TINY.training, evaluate_every=1, steps=6),
    )
    record = records.perform(experiment, "quick", every, records=tmp_path)
    named = list(record.result["arms"])
    assert named[:4] == ["plain", "plain-again", "paper-0", "paper-2"]
    assert len(named) == 2 + 4 * 2
    steps, plain = next_token.curves(record, "plain", "held_out_loss")
    assert steps.tolist() == [0, 1, 2, 3, 4, 5, 6]
    for arm in named:
        _, held_out = next_token.curves(record, arm, "held_out_loss")
        first, loss = next_token.curves(record, arm, "loss")
        assert held_out[0] == plain[0]
        assert first[0] == 1
        one_batch = loss[0] == next_token.curves(record, "plain", "loss")[1][0]  # before any update
        assert one_batch == (arm != "plain-again")
        same = np.array_equal(held_out, plain)
        assert same == (arm == "plain" or arm.endswith("-0")), arm
    different = {next_token.curves(record, arm, "held_out_loss")[1][-1, 0] for arm in named}
    assert len(different) == 6


def test_a_run_cut_in_the_second_arm_goes_on_to_the_same_record(experiment, tmp_path, monkeypatch):
    short = replace(TINY, arms=("plain", "paper"), seeds=1)
    whole = records.perform(experiment, "quick", short, records=tmp_path / "whole")
    real, calls = next_token.predictions, []

    def cut(*args):
        calls.append(1)
        if len(calls) == 8 + 5:  # the first arm has seven evaluations and the end; the second is cut at step 40
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(next_token, "predictions", cut)
    with pytest.raises(KeyboardInterrupt):
        records.perform(experiment, "quick", short, records=tmp_path / "cut")
    monkeypatch.setattr(next_token, "predictions", real)
    resumed = records.perform(experiment, "quick", short, records=tmp_path / "cut", resume=True)
    assert contents(resumed) == contents(whole)


def test_what_a_record_holds_is_what_its_networks_do(experiment, tmp_path):
    record = records.perform(experiment, "quick", records=tmp_path)
    result = record.result
    assert next_token.phenomenon(result) is None
    for name, arm in result["arms"].items():
        steps, losses = next_token.curves(record, name, "held_out_loss")
        assert arm["best_held_out_loss"] == losses.min(0).tolist()
        assert arm["best_at"] == [int(steps[row]) for row in losses.argmin(0)]
        for seed in range(2):
            told = {key: part[seed] for key, part in arm.items() if isinstance(part, list)}
            assert math.isclose(told["perplexity"], math.exp(told["held_out_loss"]))
            share, sure, right = (np.array(told["bins"][key], float) for key in ("share", "confidence", "accuracy"))
            assert math.isclose(np.nansum(share * np.abs(sure - right)), told["calibration_error"], abs_tol=1e-12)
            assert math.isclose(told["normalised_stability"]["value"][-1], 1, abs_tol=1e-6)
            assert told["normalised_stability"]["stderr"][-1] < 1e-6
            for bounds in told["tails"].values():
                assert math.isclose(bounds["gain"][0], bounds["markov"][0] / bounds["best"][0])
            # a paired ratio is the plain step over the arm's
            found = next_token.paired(record, name, 0.75)
            both = (result["arms"][one]["reached"]["0.75"][seed] for one in ("plain", name))
            plain, own = (TINY.training.steps if step is None else step for step in both)
            assert math.isclose(found.ratios[seed].item(), plain / own)
    assert next_token.paired(result, "plain", 1).ratio == 1
    assert result["arms"]["plain"]["reached"]["1.0"] == result["arms"]["plain"]["best_at"]
    assert result["train_tokens"] == 60 * 12


def test_thresholds_are_the_plain_networks_own_way_and_interpolated():
    """Plain falls from 4 to its best, 2, at step 20, and rises; half way is 3, at step 10 between 3.5 and 2.5."""
    plain, arm = np.array([[4.0], [3.5], [2.5], [2.0], [2.4]]), np.array([[4.0], [3.0], [2.8], [2.2], [2.05]])
    steps = np.array([0, 5, 15, 20, 25])
    history = {"plain_held_out_loss": plain, "arm_held_out_loss": arm}
    history |= {"plain_held_out_loss_step": steps, "arm_held_out_loss_step": steps}
    ours, theirs = (next_token.milestones(history, name) for name in ("plain", "arm"))
    assert ours["reached"]["0.5"] == [10]
    assert ours["reached"]["1.0"] == [20] == ours["best_at"]
    assert theirs["reached"]["0.5"] == [5]
    assert theirs["reached"]["0.9"] == [20]
    assert theirs["reached"]["1.0"] == [None]
    result = {"steps": 25, "fractions": list(next_token.FRACTIONS), "arms": {"plain": ours, "arm": theirs}}
    found = next_token.paired(result, "arm")
    assert found.ratios.tolist() == [20 / 25]
    assert found.bounded == "at most"
    assert next_token.paired(result, "arm", 0.5).ratios.tolist() == [2]
    with pytest.raises(ValueError, match="arm is 'best': the record has plain, arm"):
        next_token.paired(result, "best")
    with pytest.raises(ValueError, match=r"fraction is 0.3: the record has 0.5, 0.75, .*, 1.0"):
        next_token.paired(result, "arm", 0.3)


def test_held_out_passages_are_whole_and_in_no_count(experiment):
    text = next_token.texts(TINY)
    encoding = next_token.learn_byte_pairs(made_up()[:-10], 270)
    assert encoding.decode(text.held_out) == "\n\n".join(made_up()[-10:])
    assert "\n\n".join(made_up()[:-10]).startswith(encoding.decode(text.train))
    x, y = looks.windows(text.train, 12)
    assert x.shape == y.shape == (60, 12)
    assert torch.equal(x.flatten()[1:], y.flatten()[:-1])


def test_predictions_agree_with_the_held_out_loss_of_texts(model):
    ids = torch.randint(270, (200,), generator=torch.Generator().manual_seed(0))
    told, _ = looks.predictions(model, *looks.windows(ids, 12))
    assert math.isclose(told["held_out_loss"], text_loss(model, ids, 12), rel_tol=1e-6)


def test_position_stability_of_a_table_is_its_closed_form(device):
    """A network that reads its own token's row p_t of a table: E <p(x), p(y)> = r |p_t|^2 + (1 - r) <p_t, mean p>."""

    draw = torch.Generator().manual_seed(3)
    rows = torch.rand(7, 7, generator=draw, dtype=torch.float64)
    rows /= rows.sum(1, keepdim=True)
    model, noise = lambda ids: rows.log().to(ids.device)[ids], Resample(0, 7)
    law = torch.tensor([4.0, 1, 1, 1, 1, 1, 1]) / 10
    ids = torch.multinomial(law, 4000 * 5, replacement=True, generator=draw).view(4000, 5).to(device)
    names = ("stability", "normalised_stability", "twin_energy")
    raw, normalised, twins = map(looks.position_stability(model, ids, noise, (0.0, 0.4, 1.0)).get, names)
    squares, mean = rows.square().sum(1), rows.mean(0)
    here = ids.cpu()
    energy = squares[here].mean()
    for at, keep in enumerate((0.0, 0.4, 1.0)):
        exact = keep * energy + (1 - keep) * (rows @ mean)[here].mean()
        assert abs(raw.value[at] - exact) < 5 * raw.stderr[at] + 1e-9
        assert abs(normalised.value[at] - exact / energy) < 5 * normalised.stderr[at] + 1e-9
        exact = keep * energy + (1 - keep) * squares.mean()
        assert abs(twins.value[at] - exact) < 5 * twins.stderr[at] + 1e-9
    # the errors are those that a jackknife finds, up to O(1 / windows)
    few = ids[:40]
    found = looks.position_stability(model, few, noise, (0.4,), torch.Generator(device).manual_seed(5))
    again = torch.Generator(device).manual_seed(5)
    uniform = torch.rand(few.shape, generator=again, device=device)
    twin = torch.where(uniform < 0.4, few, noise.draw(few.shape, again, device)).cpu()
    few = few.cpu()
    products = (rows[few] * rows[twin]).sum(-1).mean(1)
    energies = squares[few].mean(1)
    assert torch.allclose(found["stability"].value, products.mean())
    left = torch.tensor([(products.sum() - a) / (energies.sum() - b) for a, b in zip(products, energies, strict=True)])
    spread = (left.double() - left.mean()).square().sum().mul(39 / 40).sqrt()
    assert math.isclose(found["normalised_stability"].stderr.item(), spread.item(), rel_tol=0.05)


def test_tails_of_a_constant_network_are_not_told(model):
    noise = Resample(0, 270, law=unigram_law(torch.arange(60), 270))
    options = {"prompts": 8, "twins": 1, "pairs": 96}
    found = looks.tails(model, noise, (0.5, 0.9), 3, **options)
    assert found["energy"]["best"][0] < found["variance"]["best"][0]
    constant = Transformer(SHAPE, generator=torch.Generator().manual_seed(1)).eval()
    torch.nn.init.zeros_(constant.tokens.weight)
    assert looks.tails(constant, noise, (0.5, 0.9), 3, **options) is None


def test_what_is_missing_is_said():
    result = {"unigram_loss": 5.0, "arms": {"plain": {"held_out_loss": [4.2, 4.9]}}}
    assert next_token.phenomenon(result) is None
    result["arms"]["plain"]["held_out_loss"][0] = 5.25
    assert "under the unigram law's 5.000: a plain network has 5.250" in next_token.phenomenon(result)


def test_impossible_configurations(experiment, tmp_path):
    cases = [
        ({"arms": ("plain", "bold")}, "arms has 'bold': choose from plain, plain-again, paper"),
        ({"arms": ("paper",)}, "add 'plain', whose losses are the thresholds"),
        ({"gammas": (-1.0,)}, "gammas has -1.0: give 0 or more"),
        ({"rhos": (2.0,)}, "rho is 2.0"),
        ({"held_out": 60}, "held_out is 60 of 60 passages: hold out some, and keep some"),
        ({"sequences": 10_000}, r"sequences is 10000: the passages that are not held out give \d+"),
    ]
    for changes, message in cases:
        with pytest.raises(ValueError, match=message):
            records.perform(experiment, "quick", replace(TINY, **changes), records=tmp_path)


def test_the_laptop_preset_has_the_digests_shape():
    shape = next_token.PRESETS["laptop"].model
    assert (shape.layers, shape.width, shape.heads, shape.vocabulary) == (4, 30, 6, 500)
    assert next_token.PRESETS["full"].model == shape
    assert Counter(arm.kind for arm in next_token.arms(next_token.PRESETS["full"]).values()) == {
        "plain": 1,
        "plain-again": 1,
        "paper": 9,
        "discourage": 9,
        "confidence": 3,
    }

"""Partner tasks: the trained layers are the definitions, and symmetric scores get what looking evenly gets, no more."""

import copy
import dataclasses
import math

import pytest
import torch

from nslab import records, reruns
from nslab.reruns import partner_tasks as pt
from nslab.tasks.partners import Partners

CPU = torch.device("cpu")
SMALL = pt.Config(seeds=2, arms=("standard", "relative-past"), steps=20, batch=16)
SPREADS = {
    # arm: accuracy in opposites and rock-paper-scissors, with what five seeds may be off
    "standard": (1.0, 1.0, 0.005),
    "symmetric": (9 / 16, 29 / 64, 0.015),
    "pairwise": (1.0, 1.0, 0.005),
    "scalar": (9 / 16, 29 / 64, 0.015),
    "relative": (1.0, 9 / 16, 0.015),
    "relative-past": (25 / 32, 101 / 192, 0.02),
    "low-rank": (1.0, 1.0, 0.005),
    "standard-residual": (1.0, 1.0, 0.005),
    "symmetric-residual": (1.0, 0.80, 0.05),
}


def perform(folder, config=SMALL, resume=False):
    experiment = dataclasses.replace(reruns.load("partner-tasks"), presets={"quick": config})
    return records.perform(experiment, "quick", records=folder, resume=resume)


def accuracy(kinds, name, steps=300):
    config, task = pt.Config(seeds=1, batch=128, steps=steps), Partners(kinds)
    return pt.measured(pt.trained(config, task, pt.ARMS[name], 0, CPU)[0], task)


def test_what_symmetric_scores_cannot_do_when_trained_here():
    """Opposites and rock-paper-scissors, one seed: standard scores solve them, tied ones look evenly."""
    for kinds, even in ((2, 9 / 16), (3, 29 / 64)):
        assert accuracy(kinds, "standard")["accuracy"] > 0.995
        tied = accuracy(kinds, "symmetric")
        assert tied["accuracy"] == pytest.approx(even, abs=0.015)
        assert torch.tensor(tied["weights"]) == pytest.approx(torch.full((kinds, kinds), 1 / kinds), abs=0.1)


def test_a_residual_and_a_mean_by_offset_solve_opposites():
    """Looking at both and subtracting one's own; and telling every token not to look at itself."""
    assert accuracy(2, "symmetric-residual")["accuracy"] > 0.995
    assert accuracy(2, "relative", steps=500)["accuracy"] > 0.99


@pytest.mark.parametrize("arm", SPREADS)
def test_the_strongest_record_has_the_accuracies_of_the_theory(arm):
    """Where no training was needed: 9/16 and 29/64 for looking evenly, 25/32 and 101/192 if all but the first token
    avoid themselves."""
    record = records.strongest("partner-tasks", "laptop")
    assert record is not None
    assert record.seeds >= 5
    *expected, slack = SPREADS[arm]
    for name, value in zip(("opposites", "rock-paper-scissors"), expected, strict=True):
        found = record.result["tasks"][name]["arms"][arm]["accuracy"]
        assert sum(found) / len(found) == pytest.approx(value, abs=slack)


def test_the_theory_of_avoiding_oneself():
    """The first token, whose own key shares the mean of all later ones, looks evenly; the others avoid themselves."""
    for kinds, expected in ((2, 25 / 32), (3, 101 / 192)):
        task = Partners(kinds)
        others = task.looking_evenly(kinds - 1)
        assert (task.looking_evenly() + (kinds - 1) * others) / kinds == pytest.approx(expected)


@pytest.mark.parametrize(
    "name", ["standard", "symmetric", "pairwise", "low-rank", "relative-past", "symmetric-residual"]
)
def test_a_layer_is_one_softmax_of_its_scores(name):
    """Twin: embeddings, scores, softmax and readout of one sequence, written out."""
    task, arm = Partners(3, 4), pt.ARMS[name]
    layer = pt.PartnerLayer(task, arm, 16, torch.Generator().manual_seed(0)).eval()
    attention = layer.attention
    with torch.no_grad():
        for number, weight in enumerate(layer.parameters()):
            weight.normal_(0, 0.4, generator=torch.Generator().manual_seed(number))
        x = task.questions[70]
        e = torch.stack([layer.kinds[kind] + layer.payloads[content] for kind, content in x.tolist()])
        if arm.scores is None:
            query, key, value = (e @ attention.qkv.weight.mT).chunk(3, -1)
            scores = query @ key.mT
        else:
            query, value = (e @ attention.query_value.weight.mT).chunk(2, -1)
            scores = query @ query.mT
            if name == "pairwise":
                scores = query @ (torch.eye(16) + attention.pairwise[0]) @ query.mT
            if name == "low-rank":
                left, right = (e @ attention.factors.mT).chunk(2, -1)
                scores = scores + left @ right.mT
            if name == "relative-past":
                offsets = torch.arange(3)[:, None] - torch.arange(3) + 2
                scores = scores + attention.noise.mean[offsets]
        mixed = (scores / math.sqrt(16)).softmax(-1) @ value @ attention.output.weight.mT
        logits = (mixed + e if arm.residual else mixed) @ layer.readout.weight.mT
        torch.testing.assert_close(layer(x[None])[0], logits, rtol=1e-4, atol=1e-4)


def test_later_tokens_share_one_mean_with_the_token_itself():
    layer, _ = pt.trained(pt.Config(seeds=1, steps=40, batch=32), Partners(3), pt.ARMS["relative-past"], 0, CPU)
    noise = layer.attention.noise
    for row in (noise.mean, noise.log_sigma):
        assert len(row.detach()[:3].unique()) == 1
        assert len(row.detach().unique()) == 3  # offsets up to 0, 1 and 2


def test_the_measures_are_those_of_the_sequences():
    """Twin: a layer that points from kind k at kind k + 1 but for the last, which looks at itself."""
    task = Partners(3)
    layer = pt.PartnerLayer(task, pt.ARMS["standard"], 32, torch.Generator().manual_seed(0)).eval()
    with torch.no_grad():
        for weight in layer.parameters():
            weight.zero_()
        layer.kinds[:, :3] = torch.eye(3)
        layer.payloads[:, 3:11] = torch.eye(8)
        for kind, target in enumerate((1, 2, 2)):
            layer.attention.qkv.weight[kind, kind] = 200.0
            layer.attention.qkv.weight[32 + kind, target] = 1.0
        layer.attention.qkv.weight[64 + 3 : 64 + 11, 3:11] = torch.eye(8)
        layer.attention.output.weight.copy_(torch.eye(32))
        layer.readout.weight[:, 3:11] = torch.eye(8)
    found = pt.measured(layer, task)
    assert found["by_kind"] == pytest.approx([1, 1, 1 / 8])
    assert found["accuracy"] == pytest.approx(task.pointing(2))
    assert torch.tensor(found["weights"]) == pytest.approx(torch.tensor([[0.0, 1, 0], [0, 0, 1], [0, 0, 1]]), abs=1e-6)


def test_a_run_cut_between_two_arms_ends_as_an_uninterrupted_one(tmp_path, monkeypatch):
    whole = perform(tmp_path / "whole")
    calls, trained = [], pt.trained

    def cut(*given):
        calls.append(given)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return trained(*given)

    with monkeypatch.context() as patch:
        patch.setattr(pt, "trained", cut)
        with pytest.raises(KeyboardInterrupt):
            perform(tmp_path / "cut")
    resumed = perform(tmp_path / "cut", resume=True)
    for name in ("config.json", "history.npz", "result.json"):
        assert (resumed.path / name).read_bytes() == (whole.path / name).read_bytes()
    steps, losses = whole.series("rock-paper-scissors/standard/loss")
    assert steps.tolist() == [20]
    assert losses.shape == (1, 2)


def test_what_is_no_phenomenon_is_said(tmp_path):
    arms = {"standard": {"accuracy": [1.0, 1.0]}, "symmetric": {"accuracy": [0.56, 0.56]}}
    good = {"tasks": {"opposites": {"looking_evenly": 9 / 16, "arms": arms}}}
    assert pt.phenomenon(good) is None
    weak, strong = copy.deepcopy(good), copy.deepcopy(good)
    weak["tasks"]["opposites"]["arms"]["standard"]["accuracy"][0] = 0.9
    strong["tasks"]["opposites"]["arms"]["symmetric"]["accuracy"][0] = 0.9
    assert pt.phenomenon(weak) == "opposites: 99 % with standard scores; it is 95.0%"
    assert pt.phenomenon(strong) == "opposites: 56.2% with symmetric scores; it is 73.0%"
    with pytest.raises(ValueError, match=r"arms has 'quadratic': choose from standard, symmetric"):
        perform(tmp_path, dataclasses.replace(SMALL, arms=("quadratic",)))

"""The regulariser: arms share seeds and differ in what they add alone; a cut run goes on; bad choices are told."""

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from nslab import records, reruns
from nslab.noise import Resample
from nslab.records import changed
from nslab.reruns import grokking, parity, regulariser
from nslab.reruns._regulariser_arms import penalties as arm_penalties
from nslab.reruns.regulariser import ARMS, SETTINGS
from nslab.tasks import ModularArithmetic, SparseParity
from nslab.training.pair_networks import QuadraticNetwork, take_member
from nslab.training.parity_networks import ReluNetwork
from nslab.training.table_transformer import TokenTableTransformer

FILES = ("config.json", "history.npz", "result.json")
TASK = ModularArithmetic(11)
PAIRS = grokking.Setting(QuadraticNetwork(TASK, 32), 0.8, steps=60, evaluate_every=5)
TOKENS = dataclasses.replace(PAIRS, network=TokenTableTransformer(TASK, width=16, heads=2, hidden=16), steps=10)
BITS = parity.Setting(8, samples=100, width=10, steps=200, order=2, label_noise=0.1, learning_rate=0.15)
CONFIG = regulariser.Config(
    seeds=3,
    settings=("pairs", "bits"),
    arms=("plain", "paper", "confidence"),
    grid="pairs",
    gammas=(0.0, 0.75),
    rhos=(1.0,),
)
# Of a loss, an accuracy or a norm after some dozen steps in single precision; four standard deviations of 40,000 draws.
TOLERANCES = {"loop": 2e-3, "share": 0.01}


@pytest.fixture(autouse=True, scope="module")
def tiny():
    with pytest.MonkeyPatch.context() as patch:
        for name, setting in {"pairs": PAIRS, "tokens": TOKENS, "bits": BITS}.items():
            patch.setitem(SETTINGS, name, setting)
        patch.setitem(grokking.SETTINGS, "pairs", PAIRS)
        yield


def perform(folder, config=CONFIG, resume=False):
    experiment = dataclasses.replace(reruns.load("regulariser"), presets={"quick": config})
    return records.perform(experiment, "quick", records=folder, resume=resume)


@pytest.fixture(scope="module")
def record(tiny, tmp_path_factory):
    return perform(tmp_path_factory.mktemp("regulariser"))


def test_every_arm_starts_from_the_same_networks_and_data(tmp_path):
    config = regulariser.Config(seeds=2, settings=("pairs", "tokens", "bits"), steps=5)
    record = perform(tmp_path, config)
    for setting, one in record.result["settings"].items():
        measures = regulariser.MEASURES[one["task"]]
        assert set(one["arms"]) == {name for name, arm in ARMS.items() if one["task"] in arm.tasks}
        for measure in measures:
            begun = [regulariser.curves(record, setting, arm, measure)[1][0] for arm in one["arms"]]
            assert all(np.array_equal(begun[0], other) for other in begun)
        ends = {tuple(told["weight_norm"]) for told in one["arms"].values()}
        assert len(ends) == len(one["arms"])  # and goes its own way


def test_the_plain_arm_is_grokkings_own_run(record, tmp_path):
    experiment = dataclasses.replace(reruns.load("grokking"), presets={"quick": grokking.Config(3, ("pairs",))})
    other = records.perform(experiment, "quick", records=tmp_path)
    for measure in regulariser.MEASURES["pairs"]:
        steps, mine = regulariser.curves(record, "pairs", "plain", measure)
        theirs = grokking.curves(other, "pairs", measure)
        assert np.array_equal(steps, theirs[0])
        assert np.array_equal(mine, theirs[1])
    told = record.result["settings"]["pairs"]
    assert told["target_energies"] == other.result["settings"]["pairs"]["energies_of_the_task"]


def test_milestones_are_those_of_the_curves(tmp_path):
    """On a task that is learned at once: the product of two of three bits, without wrong labels."""
    with pytest.MonkeyPatch.context() as patch:
        easy = parity.Setting(3, samples=50, width=50, steps=3000, order=2, learning_rate=0.5, weight_decay=0.001)
        patch.setitem(SETTINGS, "easy", easy)
        record = perform(tmp_path, regulariser.Config(seeds=3, settings=("easy",), arms=("plain", "paper"), linger=2))
    for arm, told in record.result["settings"]["easy"]["arms"].items():
        for name, measure in (("memorised_at", "train_accuracy"), ("generalised_at", "test_accuracy")):
            steps, values = regulariser.curves(record, "easy", arm, measure)
            assert told[name] == [int(steps[values[:, seed] >= 0.99][0]) for seed in range(3)]
        assert told["left_at"] == [step + 2 * 50 for step in told["generalised_at"]]
        assert told["diverged"] == [False] * 3
        assert told["test_accuracy"] == pytest.approx(values[-1])
    assert regulariser.phenomenon(record.result) is None


def test_parity_is_trained_on_the_logistic_loss(record):
    """Twin: one plain module, torch's own SGD and cross-entropy of two classes, on the batches of the ensemble."""
    batches = torch.Generator().manual_seed(0)
    draws = [torch.randint(100, (3, 32), generator=batches) for _ in range(BITS.steps)]
    network = ReluNetwork(8, 10)
    for seed in range(3):
        data = torch.Generator().manual_seed(2 * seed)
        x, y = SparseParity(8, 2, 0.1).draw(100, data)
        x_test, y_test = SparseParity(8, 2).draw(1000, data)
        module = network.module(network.initial(torch.Generator().manual_seed(2 * seed + 1)))
        optimizer = torch.optim.SGD(module.parameters(), lr=0.15, weight_decay=0.01)
        told = {"train_accuracy": [], "test_accuracy": [], "weight_norm": []}
        for step in range(BITS.steps + 1):
            if step % 50 == 0:
                with torch.no_grad():
                    told["train_accuracy"].append(((module(x) > 0) == (y > 0)).double().mean().item())
                    told["test_accuracy"].append(((module(x_test) > 0) == (y_test > 0)).double().mean().item())
                    told["weight_norm"].append(sum(w.square().sum() for w in module.parameters()).sqrt().item())
            if step < BITS.steps:
                rows = draws[step][seed]
                scores = module(x[rows])
                optimizer.zero_grad()
                F.cross_entropy(torch.stack([scores, 0 * scores], 1), (y[rows] < 0).long()).backward()
                optimizer.step()
        for name, theirs in told.items():
            _, mine = regulariser.curves(record, "bits", "plain", name)
            np.testing.assert_allclose(mine[:, seed], theirs, atol=TOLERANCES["loop"], err_msg=name)


PLAIN = ("plain", "confidence", "unconfidence")
PLAIN_LOOPS = {  # what each arm adds to the loss, and its weight decay
    "less-decay": (lambda module, logits: 0, 0.5),
    "more-decay": (lambda module, logits: 0, 2.0),
    "confidence": (lambda module, logits: -0.75 * logits.softmax(1).square().sum(1).mean(), 1.0),
    "unconfidence": (lambda module, logits: 0.75 * logits.softmax(1).square().sum(1).mean(), 1.0),
    "l1": (lambda module, logits: 1e-6 * sum(weight.abs().sum() for weight in module.parameters()), 1.0),
    "label-smoothing": (None, 1.0),
}


def test_arms_without_noise_are_those_of_a_plain_loop(tmp_path):
    """Twin: torch's own AdamW, with its own label smoothing, whose scale 1 - alpha AdamW does not see."""
    record = perform(tmp_path, regulariser.Config(seeds=1, settings=("pairs",), arms=("plain", *PLAIN_LOOPS)))
    [split], weights = grokking.prepare(PAIRS, range(1))
    pairs, labels, train = TASK.pairs, TASK.labels, split.train
    for arm, (term, decay) in PLAIN_LOOPS.items():
        module = PAIRS.network.module(take_member(weights, 0))
        optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2, weight_decay=decay, betas=(0.9, 0.98))
        for _ in range(PAIRS.steps):
            logits = module(pairs[train])
            loss = F.cross_entropy(logits, labels[train], label_smoothing=0.0 if term else 0.1)
            optimizer.zero_grad()
            (loss + (term(module, logits) if term else 0)).backward()
            optimizer.step()
        with torch.no_grad():
            found = F.cross_entropy(module(pairs[~train]), labels[~train]).item()
        [mine] = record.result["settings"]["pairs"]["arms"][arm]["test_loss"]
        assert mine == pytest.approx(found, rel=TOLERANCES["loop"]), arm


def test_without_noise_the_regulariser_rewards_confidence(tmp_path, monkeypatch):
    """At rho = 1 twin and input are one; a branch held constant halves the gradient. With gamma = 0 all is plain."""
    halved = {"detach": "twin", "gamma": 1.5}
    made = {
        "both": {},
        "twin": halved,
        "input": halved | {"detach": "input"},
        "turned": {"orientation": 0},
        "cancelled": {"kind": "low degree"},
        "nothing": {"gamma": 0.0, "rho": 0.25},
    }
    for name, changes in made.items():
        monkeypatch.setitem(ARMS, name, dataclasses.replace(ARMS["paper"], **{"rho": 1.0} | changes))
    for setting in ("pairs", "bits"):
        arms = tuple(name for name in made if setting == "pairs" or name != "cancelled")
        record = perform(tmp_path / setting, regulariser.Config(3, (setting,), (*PLAIN, *arms)))
        norms = {arm: told["weight_norm"] for arm, told in record.result["settings"][setting]["arms"].items()}
        for name in ("both", "twin", "input"):
            assert norms[name] == pytest.approx(norms["confidence"], rel=1e-5)
        if setting == "pairs":
            assert norms["cancelled"] == pytest.approx(norms["plain"], rel=1e-4)  # nothing is of low degree
        assert norms["turned"] == pytest.approx(norms["unconfidence"], rel=1e-5)
        assert norms["plain"] != pytest.approx(norms["confidence"], rel=1e-4)
        assert norms["nothing"] == norms["plain"]  # to the bit, and so are the milestones
        for milestone in ("generalised_at", "memorised_at"):
            plain, nothing = (record.result["settings"][setting]["arms"][arm] for arm in ("plain", "nothing"))
            assert plain[milestone] == nothing[milestone]


@pytest.mark.parametrize("orientation", [1, 0])
def test_the_low_degree_arm_pays_energies_at_degree_0_and_1_alone(orientation):
    """Twin: the ledger of energies, against all pairs with all their twins, each as often as it is drawn."""
    p, keep = (
        3,
        5 / 8,
    )  # of the paper's rho, 1/4: a token stays in six cases of eight, and becomes each other one in one
    pairs = ModularArithmetic(p).pairs
    x, twins = pairs.repeat_interleave(p * p, 0), pairs.repeat(p * p, 1)  # every pair with every twin: (p**4, 2)
    often = torch.where(x == twins, 6, 1).prod(1)
    x, twins = (part.repeat_interleave(often, 0)[None] for part in (x, twins))  # (1, rows, 2)
    chances = torch.randn(p, p, p, generator=torch.Generator().manual_seed(0), dtype=torch.float64).mul(2).softmax(-1)

    class Told(Resample):
        def twin(self, x, generator=None):
            return twins

    def model(ids):
        return chances[ids[..., 0], ids[..., 1]].log()

    arm = dataclasses.replace(ARMS["low-degree-bonus"], orientation=orientation)
    made = arm_penalties([arm], 1, noise=lambda rho: Told(rho, p), outputs="softmax", tables=())
    paid = sum(weights[0] * penalty(model, x, model(x)).item() for weights, penalty in made)
    nothing, first, second = (chances.mean(axes).square().sum(-1).mean().item() for axes in ((0, 1), 1, 0))
    bonus = (1 - keep**2) * nothing + (keep - keep**2) * (first + second - 2 * nothing)
    assert (arm.gamma, arm.rho) == (0.75, 0.25)
    assert paid == pytest.approx((-1 if orientation else 1) * 0.75 * bonus)


@pytest.mark.parametrize(
    ("setting", "arm", "share"),
    [
        (PAIRS, "paper", 3 / 8 * 10 / 11),  # drawn anew with probability (1 - rho)/2, and one time in 11 as it was
        (BITS, "paper", 3 / 8 / 2),  # of a drawn bit half are as they were
        (BITS, "paper-parity", 19 / 40 / 2),
    ],
)
def test_rho_becomes_the_noise_of_twins_once(setting, arm, share):
    trainer = regulariser.ensemble(setting, [ARMS[arm]], 1, 0, torch.device("cpu"))
    x, asked = trainer.x[:1, :1].expand(1, 20_000, -1), []

    def model(twins):
        asked.append(twins)
        return torch.zeros(*twins.shape[:-1], 11) if setting is PAIRS else torch.zeros(twins.shape[:-1])

    [penalty] = trainer.penalties
    penalty(model, x, model(x), generator=torch.Generator().manual_seed(0))
    changed = (asked[-1] != x[:, :1]).sum().item() / x.numel()  # rows that the noise spares are not asked
    assert changed == pytest.approx(share, abs=TOLERANCES["share"])


def test_cells_of_the_grid_are_runs_of_their_own_gamma(record):
    grid, arms = record.result["grid"], record.result["settings"]["pairs"]["arms"]
    assert (grid["setting"], grid["gammas"], grid["rhos"]) == ("pairs", [0.0, 0.75], [1.0])
    at = {(cell["arm"], cell["gamma"]): cell["memorised_at"] for cell in grid["cells"]}
    assert len(at) == len(grid["cells"]) == 6
    plain, confident = (arms[name]["memorised_at"] for name in ("plain", "confidence"))
    assert plain != confident
    for name in regulariser.GRID:
        assert at[name, 0.0] == plain
    assert at["paper", 0.75] == confident != at["discourage", 0.75]  # at rho = 1 they are one


@pytest.mark.parametrize(("step", "ensemble"), [(55, 1), (150, 4), (55, 7)])
def test_a_run_that_is_cut_ends_as_an_uninterrupted_one(record, tmp_path, monkeypatch, step, ensemble):
    """In the middle of an arm on pairs, of one on parity, and of the grid."""
    monkeypatch.setattr(regulariser, "SAVE_EVERY", 2)
    real, begun = regulariser.Kept.record, []

    def cut(self, at, /, **values):
        begun.append(at)
        if begun.count(0) == ensemble and at == step:
            raise KeyboardInterrupt
        real(self, at, **values)

    with monkeypatch.context() as patch:
        patch.setattr(regulariser.Kept, "record", cut)
        with pytest.raises(KeyboardInterrupt):
            perform(tmp_path)
    begun.clear()
    monkeypatch.setattr(
        regulariser.Kept, "record", lambda self, at, **given: [begun.append(at), real(self, at, **given)]
    )
    resumed = perform(tmp_path, resume=True)
    assert 0 < begun[0] <= step
    assert begun.count(0) == 9 - ensemble
    for name in FILES:
        assert (resumed.path / name).read_bytes() == (record.path / name).read_bytes()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["settings=mlp-32"], "settings has 'mlp-32': choose from mlp-23, mlp-31"),
        (["settings="], "settings is empty: give some of mlp-23"),
        (["arms=plain,papre"], "arms has 'papre': choose from plain, plain-again"),
        (["arms=paper"], "arms is paper: add plain, which all others are held against"),
        (
            ["settings=pairs", "arms=plain,paper-parity"],
            "arms has paper-parity, which is meant for parity: pairs cannot",
        ),
        (
            ["settings=bits", "arms=plain,weaker", "grid=none"],
            "arms has weaker, which is meant for pairs: bits cann",
        ),
        (["grid=mlp-31"], "grid is 'mlp-31': give one of settings on pairs, pairs, or none"),
        (["grid=bits"], "grid is 'bits': give one of settings on pairs, pairs, or none"),
        (["rhos="], "rhos is empty: give at least one, or grid=none"),
        (["gammas=0.1,-0.1"], "gamma has -0.1: give 0 or more; to punish stability there is orientation 0"),
        (["rhos=1.5"], "rho is 1.5: give a number from -1 to 1"),
    ],
)
def test_bad_choices_are_refused_before_training(tmp_path, monkeypatch, changes, said):
    monkeypatch.setattr(regulariser, "ensemble", lambda *given, **named: pytest.fail("training began"))
    with pytest.raises(ValueError, match=said):
        perform(tmp_path, changed(CONFIG, changes))


def test_each_setting_trains_the_arms_that_are_meant_for_it():
    chosen = regulariser.arms_of(regulariser.PRESETS["full"])
    assert "weaker" in chosen["transformer-113-fast"]
    assert "weaker" not in chosen["parity-40-3"] == chosen["parity-40-3-noisy"]
    assert changed(regulariser.PRESETS["full"], ["arms=none"]).arms is None


def arm(generalised_at, diverged=(False, False)):
    return {"generalised_at": generalised_at, "diverged": list(diverged)}


RESULT = {
    "settings": {
        "mlp-31": {
            "steps": 2000,
            "arms": {"plain": arm([500, 600]), "paper": arm([1000, None]), "discourage": arm([250, 300])},
        }
    }
}


def test_arms_are_held_against_the_plain_one_seed_by_seed():
    twice = regulariser.paired(RESULT, "mlp-31", "discourage")
    assert twice.ratios.tolist() == [2.0, 2.0]
    assert twice.bounded == "exact"
    slower = regulariser.paired(RESULT, "mlp-31", "paper", level=0.9)
    assert slower.ratios.tolist() == [0.5, 0.3]
    assert slower.ratio == pytest.approx(math.sqrt(0.15))
    assert (slower.bounded, slower.interval.level) == ("at most", 0.9)
    cell = regulariser.paired(RESULT, "mlp-31", {"gamma": 0.2, "generalised_at": [500, 300]})
    assert cell.ratios.tolist() == [1.0, 2.0]
    with pytest.raises(KeyError, match="mlp-31 has no arm 'papre'; it has plain, paper, discourage"):
        regulariser.paired(RESULT, "mlp-31", "papre")


def test_what_is_no_phenomenon_is_said():
    """An arm that never generalises is an answer."""
    assert regulariser.phenomenon(RESULT) is None
    for name, told, said in [
        ("plain", arm([500, None]), "mlp-31: every plain network at 99% test accuracy; 1 of 2 are not"),
        ("paper", arm([None, None], [True, False]), "mlp-31: no network diverges; with paper 1 did"),
    ]:
        worse = copy.deepcopy(RESULT)
        worse["settings"]["mlp-31"]["arms"][name] = told
        assert regulariser.phenomenon(worse) == said

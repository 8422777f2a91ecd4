"""Barrier and robustness: arms differ in what they add alone, measures are what they say, a cut run goes on."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from nslab import records, reruns
from nslab.reruns import _barrier_measures as measuring
from nslab.reruns import barrier_robustness as study
from nslab.reruns._barrier_arms import ARMS, head_scores, penalties, stack
from nslab.training import TrainingConfig
from nslab.transformer import Transformer, TransformerConfig

TINY = study.Config(
    seeds=2,
    arms=("none", "heads-hinge-0.5", "embeddings-full-0.05"),
    training=TrainingConfig(steps=12, batch=4, learning_rate=1e-2, evaluate_every=4),
    context=12,
    width=8,
    rows=4,
    windows=20,
    watched=6,
    keep=(0.5,),
    spots=3,
    draws=2,
    save_every=4,
)
NETWORK = TransformerConfig(vocabulary=9, context=10, width=8, layers=2, heads=2)


@pytest.fixture(autouse=True)
def text(monkeypatch):
    """A text of its own, the same for every version of Python."""
    numbers = torch.Generator().manual_seed(0)
    words = ["spam ", "eggs ", "and ", "more ", "knights\n"]
    ids = torch.randint(5, (800,), generator=numbers).tolist()
    monkeypatch.setattr("pydoc_data.topics.topics", {"one": "".join(words[i] for i in ids)})


def perform(folder, config=TINY, resume=False):
    experiment = dataclasses.replace(reruns.load("barrier-robustness"), presets={"quick": config})
    return records.perform(experiment, "quick", records=folder, resume=resume)


def network(seed=0, spread=8.0):
    model = Transformer(NETWORK, generator=torch.Generator().manual_seed(seed)).double().eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.mul_(spread)
    return model


def windows(count=30):
    ids = torch.randint(9, (count, 11), generator=torch.Generator().manual_seed(2))
    return ids[:, :-1], ids[:, 1:]


def test_a_record_has_every_arm_and_a_cut_run_goes_on_to_the_same_bits(tmp_path, monkeypatch):
    whole = perform(tmp_path / "whole")
    calls, real = [], study.measuring.quantiles

    def cut(values):
        calls.append(1)
        if len(calls) == 13:  # arm "none": 6 on the way, 2 x 2 at the end; then the hinge, second evaluation
            raise KeyboardInterrupt
        return real(values)

    monkeypatch.setattr(study.measuring, "quantiles", cut)
    with pytest.raises(KeyboardInterrupt):
        perform(tmp_path / "cut")
    monkeypatch.setattr(study.measuring, "quantiles", real)
    resumed = perform(tmp_path / "cut", resume=True)
    for name in ("config.json", "history.npz", "result.json"):
        assert (resumed.path / name).read_bytes() == (whole.path / name).read_bytes()
    for arm in TINY.arms:
        steps, losses = study.curves(whole, arm, "held_out_loss")
        assert steps.tolist() == [4, 8, 12]
        assert losses.shape == (3, 2)
        assert study.curves(whole, arm, "determinant_quantiles")[1].shape == (3, 2, 5)
        assert study.values(whole, arm, "noise").shape == (2, 4)


def test_an_arm_of_no_strength_is_the_plain_one_to_the_bit_and_all_start_alike(tmp_path, monkeypatch):
    for name in ("heads-hinge-0.5", "embeddings-full-0.05"):
        monkeypatch.setitem(ARMS, name, dataclasses.replace(ARMS[name], strength=0.0))
    training = dataclasses.replace(TINY.training, clip=1e9)  # the prior's weights would count in the norm
    record = perform(tmp_path, dataclasses.replace(TINY, training=training))
    plain = record.result["arms"]["none"]
    for arm in TINY.arms[1:]:
        for name in ("loss", "noise", "determinant_quantiles", "overlap"):
            assert record.result["arms"][arm][name] == plain[name]


def test_the_penalty_of_a_stack_is_the_sum_of_its_members(tmp_path):
    models = [network(seed).float() for seed in range(3)]
    x = windows(4)[0][:, None].expand(-1, 3, -1)
    for name in ("heads-raw-0.5", "embeddings-full-0.5", "embeddings-margin-only-0.5", "spectral"):
        together = stack(ARMS[name], models, 10, torch.device("cpu"))  # all rows, so that all see the same
        [(strength, penalty)] = penalties(ARMS[name], rows=10)
        assert strength == ARMS[name].strength
        found = penalty(together, x, together(x), generator=torch.Generator().manual_seed(0))
        alone = []
        for m, model in enumerate(models):
            one = stack(ARMS[name], [model], 10, torch.device("cpu"))
            if len(one.extras):
                one.extras[0].load_state_dict(together.extras[m].state_dict())
            ids = x[:, m : m + 1]
            alone.append(penalty(one, ids, one(ids), generator=torch.Generator().manual_seed(0)))
        assert torch.allclose(found, sum(alone), rtol=1e-4)


def test_head_scores_give_the_attention_logits():
    model = network()
    for part in model.layers:
        torch.nn.init.zeros_(part.attention.qkv.bias)
    scores = head_scores(stack(ARMS["none"], [model], 1, torch.device("cpu")))
    _, seen = model.run(
        windows(3)[0], ["layers.1.attention.input", "layers.1.attention.query", "layers.1.attention.key"]
    )
    x, query, key = seen.values()
    wanted = query @ key.mT / 2
    assert torch.allclose(torch.einsum("bsd,hde,bie->bhis", x, scores[1, 0], x), wanted)


def test_disturbed_losses_are_those_of_the_disturbed_inputs():
    model, (x, y) = network(), windows(200)
    found = measuring.disturbed(model, x, y)
    entropy = lambda logits: F.cross_entropy(logits.detach().flatten(0, 1), y.flatten()).item()  # noqa: E731
    assert math.isclose(found["loss"], entropy(model(x)), rel_tol=1e-9)
    embeddings = model.embed(x).detach()
    scale = embeddings.square().mean().sqrt()
    for size, loss in zip(measuring.SIZES, found["noise"], strict=True):
        losses = []
        for draw in range(20):
            noise = torch.randn(embeddings.shape, generator=torch.Generator().manual_seed(draw), dtype=torch.float64)
            losses.append(entropy(model.from_embeddings(embeddings + size * scale * noise)))
        assert abs(loss - np.mean(losses)) < 5 * np.std(losses)
    steps = [0, *measuring.SIZES]
    assert math.isclose(found["noise_area"], np.trapezoid([found["loss"], *found["noise"]], steps) - found["loss"])
    assert found["adversarial"] > found["noise"][0] > found["loss"] - 0.01  # the worst direction of that length


def test_substitutions_and_swaps_leave_a_network_that_looks_at_no_token_unmoved_and_cost_a_copier_their_share():
    x = torch.randint(9, (4000, 10), generator=torch.Generator().manual_seed(0))

    class Copier(torch.nn.Module):
        vocabulary, context, special = 9, 10, ()

        def embed(self, ids):
            return F.one_hot(ids, 9).double()

        def from_embeddings(self, embeddings):
            return 10 * embeddings

        def forward(self, ids):
            return self.from_embeddings(self.embed(ids))

    found = measuring.disturbed(Copier(), x, x)
    right, wrong = math.log(1 + 8 * math.exp(-10)), math.log(math.exp(10) + 8)  # nats where it copies, and where not
    for share, loss in zip(measuring.SUBSTITUTED, found["substitution"], strict=True):
        changed = (loss - right) / (wrong - right)
        assert abs(changed - share * 8 / 9) < 4 * math.sqrt(share / x.numel())
    # a swap moves two tokens; of a run of chosen neighbours every other one swaps
    moved = (found["swap"] - right) / (wrong - right) / (8 / 9)
    assert abs(moved - 2 * 0.05 / 1.05 * 0.9) < 0.004
    assert math.isclose(measuring.disturbed(Copier(), x, x)["noise_area"], found["noise_area"])


def test_neighbours_change_places_and_a_token_moves_once():
    x = torch.tensor([[0, 1, 2, 3, 4], [0, 1, 2, 3, 4]])
    chosen = torch.tensor([[True, True, True, False, True], [False, True, False, False, False]])
    assert measuring.swapped(x, chosen).tolist() == [[1, 0, 3, 2, 4], [0, 2, 1, 3, 4]]


def test_head_margins_are_those_of_the_jacobian_of_each_head_by_autodiff():
    model, (x, _) = network(), windows(2)
    found = measuring.head_margins(model, x)
    assert found.determinant.shape == (2, 2, 2, 8)
    _, seen = model.run(x, [f"layers.1.attention.{part}" for part in ("input", "key", "value")])
    entered, key, value = (part.detach() for part in seen.values())
    attention = model.layers[1].attention
    for window, head, row in ((0, 0, 2), (1, 1, 9), (0, 1, 5)):
        part = slice(4 * head, 4 * head + 4)

        def pulled(u, window=window, head=head, row=row, part=part):
            asked = attention.qkv.weight[:8][part] @ u + attention.qkv.bias[:8][part]
            weights = (key[window, head, :row] @ asked / 2).softmax(0)
            return u - attention.output.weight[:, part] @ (weights @ value[window, head, :row])

        jacobian = torch.autograd.functional.jacobian(pulled, entered[window, row])
        determinant = found.determinant[window, 1, head, row - 2]
        assert torch.allclose(determinant, torch.linalg.det(jacobian), rtol=1e-9)
        assert torch.allclose(found.spectral[window, 1, head, row - 2], torch.linalg.svdvals(jacobian)[-1], rtol=1e-9)
    tokens = found.of_tokens()[0]
    assert tokens[1, 3] == min(abs(v) for v in found.determinant[1, :, :, 3].flatten().tolist())


def test_a_summary_counts_what_it_says():
    determinant = torch.tensor([1.0, -0.5, 2.0, 0.25]).view(1, 1, 1, 4)
    told = measuring.HeadMargins(determinant, determinant.abs()).summary()
    barriers = [-math.log(abs(one)) for one in (1.0, 0.5, 2.0, 0.25)]
    assert told["negative"] == 0.25
    assert math.isclose(told["barrier_mean"], np.mean(barriers), rel_tol=1e-6)
    assert math.isclose(told["barrier_variation"], np.std(barriers, ddof=1) / np.mean(barriers), rel_tol=1e-6)
    assert np.allclose(told["determinant_quantiles"], np.quantile(determinant.numpy(), measuring.QUANTILES))


def test_overlaps_of_support_tokens():
    margins = torch.arange(40.0).view(4, 10)
    chosen = measuring.support(margins)
    assert chosen.sum() == 2
    assert chosen[0, :2].all()
    masks = [torch.tensor(one, dtype=torch.bool) for one in ([1, 1, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0])]
    assert measuring.overlaps(masks) == pytest.approx([(1 + 1 / 3) / 2, (1 + 1 / 3) / 2, 1 / 3])


def test_rank_correlation_sees_order_alone_and_shares_the_ranks_of_ties():
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(50, generator=generator)
    assert measuring.rank_correlation(first, first.exp()) == pytest.approx(1)
    assert measuring.rank_correlation(first, -(first**3)) == pytest.approx(-1)
    tied = measuring.rank_correlation(torch.tensor([1.0, 1, 2, 3]), torch.tensor([1.0, 2, 3, 4]))
    assert tied == pytest.approx(np.corrcoef([1.5, 1.5, 3, 4], [1, 2, 3, 4])[0, 1])


def test_the_local_correlation_finds_a_margin_that_tells_the_change():
    x = torch.randint(9, (60, 10), generator=torch.Generator().manual_seed(0))
    steep = torch.rand(60, 10, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 0.1

    class Steep(torch.nn.Module):
        vocabulary, context, special = 9, 10, ()

        def embed(self, ids):
            return torch.ones(*ids.shape, 9, dtype=torch.float64)

        def from_embeddings(self, embeddings):  # answers change in proportion to steep
            return embeddings * steep[:, : embeddings.shape[1], None]

    found = measuring.local_correlation(Steep(), x, x, 1 / steep[:, 2:], spots=4, draws=30)
    assert found > 0.9


def test_paired_differences_carry_students_interval():
    result = {"arms": {"none": {"loss": [1.0, 2.0, 3.0], "noise": [[2.0], [3.0], [5.0]], "kind": "none"}}}
    result["arms"]["dropout"] = {"loss": [1.5, 2.0, 4.0], "noise": [[2.0], [4.0], [5.0]], "kind": "none"}
    found = study.paired(result, "loss", "dropout")
    assert found.each.tolist() == [0.5, 0, 1]
    half = 4.302653 * np.std([0.5, 0, 1], ddof=1) / math.sqrt(3)  # t of 2 degrees of freedom, from a table
    assert float(found.student.high) == pytest.approx(0.5 + half, rel=1e-6)
    assert float(found.student.low) == pytest.approx(0.5 - half, rel=1e-6)
    assert 0 <= float(found.bootstrap.low) < 0.5 < float(found.bootstrap.high) <= 1
    assert study.paired(result, "noise_rise", "dropout").each.tolist() == [[-0.5], [1.0], [-1.0]]
    with pytest.raises(ValueError, match="arm is 'hinge': the record has none, dropout"):
        study.values(result, "hinge", "loss")
    with pytest.raises(ValueError, match="measure is 'kind': none has loss, noise"):
        study.values(result, "none", "kind")


def test_impossible_configurations(tmp_path):
    cases = [
        ({"arms": ("none", "hinge")}, "arms has 'hinge': choose from none, none-again"),
        ({"arms": ("dropout",)}, "arms is dropout: add none"),
        ({"seeds": 1}, "seeds is 1: support tokens are compared between seeds"),
    ]
    for change, message in cases:
        with pytest.raises(ValueError, match=message):
            perform(tmp_path, dataclasses.replace(TINY, **change))


def test_the_full_study_has_all_arms_and_runs_in_small(tmp_path):
    full = study.PRESETS["full"]
    assert {f"heads-{kind}-{strength:g}" for kind in ("raw", "hinge", "kl") for strength in (0.01, 0.5)} <= set(
        full.arms
    )
    assert {"dropout", "embedding-noise", "spectral", "more-decay"} <= set(full.arms)
    training = dataclasses.replace(full.training, steps=1, warmup=0, batch=2)
    small = dataclasses.replace(
        full, seeds=2, text="topics", context=32, training=training, arms=("none", "heads-kl-0.5"), windows=3, draws=1
    )
    assert set(perform(tmp_path, small).result["arms"]) == set(small.arms)

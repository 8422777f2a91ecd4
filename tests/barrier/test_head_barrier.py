"""The barrier on real heads against plain blocks and finite differences; what it leaves behind; a training with it."""

import copy
import math

import pytest
import torch
from torch import nn

from nslab.barrier.head_barrier import HeadBarrier, head_regulariser
from nslab.barrier.heads import head_blocks, head_traces, joint_head_blocks
from nslab.barrier.penalty_shapes import margin_penalty
from nslab.barrier.real_heads import stages
from nslab.barrier.row_walls import row_walls, sampled_rows
from nslab.protocols import Penalty
from nslab.training import TextBatches, Trainer, TrainingConfig
from nslab.training.text import cross_entropy
from nslab.transformer import Transformer, TransformerConfig

LENGTH = 9
TOLERANCE = {"double": 1e-11, "errors": 4}


def seeded(seed=0, device="cpu"):
    return torch.Generator(device).manual_seed(seed)


def network(positions="learned", dtype=torch.float64, device="cpu", grown=25.0, layers=2, context=LENGTH):
    """A small Transformer whose heads are far from zero: determinants of both signs."""
    shape = TransformerConfig(vocabulary=11, context=context, width=12, layers=layers, heads=3, positions=positions)
    model = Transformer(shape, generator=seeded()).to(dtype)
    with torch.no_grad():
        for layer in model.layers:
            layer.attention.qkv.weight *= grown
            layer.attention.output.weight *= 2 * grown
        model.tokens.weight *= 20
    return model.to(device)


def some_ids(batch=3, length=LENGTH, device="cpu"):
    return torch.randint(11, (batch, length), generator=seeded(7)).to(device)


def plain(model, ids, kind="hinge", rows=None, blocks=head_blocks):
    """The mean over layers, heads, rows of the batch and all positions, 0 and 1 counted as 0, from whole blocks."""
    rows = torch.arange(2, ids.shape[1], device=ids.device) if rows is None else rows
    each = [margin_penalty(blocks(stage, rows), kind) for stage in stages(model, ids)]
    return torch.stack([one.mean(-1).mean() for one in each]).mean() * (ids.shape[1] - 2) / ids.shape[1]


def gradients(value, model):
    return torch.autograd.grad(value, list(model.parameters()), allow_unused=True)


@pytest.mark.parametrize("positions", ["learned", "rotary"])
@pytest.mark.parametrize("kind", ["raw", "clamped", "onesided", "hinge", "kl"])
def test_all_rows_give_the_mean_of_plain_blocks_and_its_gradient(positions, kind, device):
    model, ids = network(positions, device=device), some_ids(device=device)
    ours = HeadBarrier(rows=None, kind=kind)(model.eval(), ids, model(ids))
    expected = plain(model, ids, kind)
    torch.testing.assert_close(ours, expected, rtol=TOLERANCE["double"], atol=TOLERANCE["double"])
    for got, wanted in zip(gradients(ours, model), gradients(expected, model), strict=True):
        assert (got is None) == (wanted is None)
        if got is not None:
            torch.testing.assert_close(got, wanted, rtol=1e-8, atol=1e-9)


def test_the_blocks_of_the_test_are_on_all_sides_of_the_wall():
    found = torch.cat([torch.linalg.det(head_blocks(stage)[:, :, 2:]) for stage in stages(network(), some_ids())])
    assert (found < 0).any()
    assert ((found > 0.05) & (found < 1)).any()
    assert (found > 1).any()


@pytest.mark.parametrize("positions", ["learned", "rotary"])
@pytest.mark.parametrize("kind", ["raw", "hinge"])
def test_the_first_order_is_the_mean_of_traces_and_its_gradient(positions, kind):
    model, ids = network(positions), some_ids()
    ours = HeadBarrier(rows=None, kind=kind, order="first")(model.eval(), ids, model(ids))
    traces = torch.stack([head_traces(stage) for stage in stages(model, ids)])
    expected = (traces if kind == "raw" else traces.clamp(min=0)).mean()  # positions 0 and 1 have 0
    torch.testing.assert_close(ours, expected, rtol=TOLERANCE["double"], atol=TOLERANCE["double"])
    for got, wanted in zip(gradients(ours, model), gradients(expected, model), strict=True):
        if got is not None:
            torch.testing.assert_close(got, wanted, rtol=1e-8, atol=1e-10)


def test_the_first_order_is_the_barrier_of_small_heads():
    model, ids = network(grown=2.0).eval(), some_ids()
    exact, first = (
        HeadBarrier(rows=None, kind="raw", order=order)(model, ids, model(ids)).item() for order in ("exact", "first")
    )
    assert abs(exact - first) < 0.02 * abs(exact)


@pytest.mark.parametrize("order", ["exact", "first"])
def test_the_gradient_is_that_of_finite_differences(order):
    model, ids = network(layers=1).eval(), some_ids(batch=1)
    barrier = HeadBarrier(rows=3, kind="raw", order=order)

    def value():
        return barrier(model, ids, model(ids), generator=seeded(3))

    found = dict(zip(dict(model.named_parameters()), gradients(value(), model), strict=True))
    for name in ("layers.0.attention.qkv.weight", "layers.0.attention.output.weight", "tokens.weight"):
        weight = model.get_parameter(name)
        way = torch.randn(weight.shape, generator=seeded(), dtype=torch.float64)
        sides = []
        for step in (1e-6, -1e-6):
            with torch.no_grad():
                weight += step * way
                sides.append(value())
                weight -= step * way
        expected = float(sides[0] - sides[1]) / 2e-6
        assert float((found[name] * way).sum()) == pytest.approx(expected, rel=1e-5, abs=1e-8), name


def test_every_way_to_take_rows_together_gives_the_same(monkeypatch):
    """On a CPU some rows at once, as the cache holds them; an accelerator takes all."""
    stage = stages(network(), some_ids())[0]
    rows, ends = sampled_rows(3, LENGTH, 5, 2, seeded(), torch.device("cpu"))
    found = []
    for cache in (1, 2 * 9 * 16, 2**20):
        monkeypatch.setattr("nslab.barrier.row_walls.CACHE", cache)
        total, walls = row_walls(stage, rows, ends, "hinge", 0.05, 30, False)
        found.append((walls, *torch.autograd.grad(total, [stage.query, stage.key, stage.value], retain_graph=True)))
    for other in found[1:]:
        torch.testing.assert_close(found[0], other)


@pytest.mark.parametrize(("length", "rows"), [(9, 3), (9, 4), (12, 7), (40, 16)])
def test_every_position_is_sampled_equally_often(length, rows):
    """Expected count rows / (n - 2) each, also where strata have no whole number of positions; columns keep to ends."""
    count = 40_000
    drawn, ends = sampled_rows(count, length, rows, 2, seeded(), torch.device("cpu"))
    assert drawn.shape == (count, rows)
    assert (drawn <= torch.tensor(ends)).all()
    assert (drawn.diff() >= 0).all()
    share = rows / (length - 2)
    found = torch.bincount(drawn.flatten(), minlength=length)[2:] / count
    assert (found - share).abs().max() < TOLERANCE["errors"] * math.sqrt(share / count)


def test_sampled_rows_are_unbiased():
    model, ids = network(dtype=torch.float32).eval(), some_ids(batch=2)
    barrier, shared, source = HeadBarrier(rows=3), HeadBarrier(rows=3, joint=True), seeded()
    with torch.no_grad():
        seen = stages(model, ids)
        draws = torch.stack([barrier.of(seen, source) for _ in range(1500)])
        joint = torch.stack([shared.of(seen, source) for _ in range(300)])
        everything = plain(model, ids)
        all_joint = plain(model, ids, blocks=joint_head_blocks)
    for found, expected in ((draws, everything), (joint, all_joint)):
        assert abs(float(found.mean() - expected)) < TOLERANCE["errors"] * float(found.std()) / math.sqrt(len(found))


def test_chosen_layers_and_the_joint_determinant():
    model, ids = network().eval(), some_ids()
    each = [HeadBarrier(rows=None, layers=(number,))(model, ids, model(ids)) for number in range(2)]
    torch.testing.assert_close((each[0] + each[1]) / 2, plain(model, ids))
    joint = HeadBarrier(rows=None, joint=True)(model, ids, model(ids))
    torch.testing.assert_close(joint, plain(model, ids, blocks=joint_head_blocks))


def test_a_seed_fixes_the_rows(device):
    model, ids = network(device=device).eval(), some_ids(device=device)
    barrier = HeadBarrier(rows=2)
    first, again, other = (barrier(model, ids, model(ids), generator=seeded(s, device)) for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_sequences_of_two_tokens_have_no_boundary():
    model = network().train()
    for length in (1, 2):
        ids = some_ids(length=length)
        barrier = HeadBarrier()
        assert barrier(model, ids, model(ids)).item() == 0
        barrier.stop()


def test_training_pays_for_one_extra_pass_and_leaves_no_trace_after_stop():
    model, ids = network(dtype=torch.float32), some_ids()
    passes = []
    model.register_forward_hook(lambda *_: passes.append(1))
    barrier = HeadBarrier(rows=4)
    for _ in range(3):
        barrier(model, ids, model(ids)).backward()
    assert len(passes) == 4
    copy.deepcopy(model)  # nothing of a graph hangs on its hooks
    barrier.watch(model)
    barrier(model, ids, model(ids))
    assert len(passes) == 5
    barrier.stop()
    hooks = [hook for module in model.modules() for hook in (*module._forward_hooks, *module._forward_pre_hooks)]
    assert len(hooks) == 1
    with torch.no_grad():
        barrier(model.eval(), ids, model(ids))
    assert len(passes) == 7
    assert barrier._watch == {}


def test_an_output_of_another_pass_is_refused():
    model, ids = network(), some_ids()
    barrier = HeadBarrier().watch(model)
    output = model(ids)
    model(ids.flip(0))
    with pytest.raises(ValueError, match="put it before penalties that call the model again"):
        barrier(model, ids, output)
    output = model(ids)
    barrier(model, ids, output)
    with pytest.raises(ValueError, match="once a pass"):
        barrier(model, ids, output)


@pytest.mark.parametrize("autocast", [None, "bfloat16"])
def test_a_trainer_raises_the_margins(autocast, device):
    model = network(dtype=torch.float32, device=device, context=16)
    text = torch.randint(11, (400,), generator=seeded()).to(device)
    ids = TextBatches(text, 16, 8)(seeded(5, device))[0]

    def low(share=0.05):
        with torch.no_grad():
            found = torch.cat([torch.linalg.det(head_blocks(s)[:, :, 2:]).flatten() for s in stages(model, ids)])
        return float(found.quantile(share)), float((found < 0).float().mean())

    before = low()
    weight, penalty = head_regulariser(1.0, rows=6)
    config = TrainingConfig(steps=30, batch=8, learning_rate=3e-3, autocast=autocast)
    trainer = Trainer(model, config, TextBatches(text, 16, 8), penalties=[(weight, penalty)])
    trainer.run()
    penalty.stop()
    after = low()
    assert isinstance(penalty, Penalty)
    assert after[0] > before[0] + 0.3
    assert after[1] < before[1] / 2


def test_autocast_computes_in_float32():
    """Under autocast the projections are rounded; what the penalty makes of them is not."""
    model, ids = network(dtype=torch.float32).eval(), some_ids()
    with torch.autocast("cpu", torch.bfloat16):
        seen = stages(model, ids)
        inside = HeadBarrier(rows=None).of(seen)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, HeadBarrier(rows=None).of(seen))


def test_nan_is_named_without_gradient_and_goes_into_the_loss_with_it():
    model, ids = network().eval(), some_ids()
    with torch.no_grad():
        model.layers[1].attention.qkv.weight[4] = math.nan  # of the query of head 1
        with pytest.raises(ValueError, match="layer 1, row 0 of the batch, head 1, position 2"):
            HeadBarrier(rows=None).of(seen := stages_unchecked(model, ids))
    assert len(seen) == 2
    assert HeadBarrier(rows=None).of(stages_unchecked(model, ids)).isnan()


def stages_unchecked(model, ids):
    from nslab.barrier.real_heads import watching

    with watching(model, check=False) as seen:
        model(ids)
        return seen.stages()


def test_other_penalties_and_the_loss_are_left_alone():
    """The gradient of loss + weight * penalty is the sum of theirs: the hooks change nothing."""
    model, ids = network(), some_ids()
    alone = gradients(cross_entropy(model(ids), ids), model)
    barrier = HeadBarrier(rows=None).watch(model)
    output = model(ids)
    both = gradients(cross_entropy(output, ids) + 0.5 * barrier(model, ids, output), model)
    barrier.stop()
    walls = gradients(plain(model, ids), model)
    for one, of_loss, of_walls in zip(both, alone, walls, strict=True):
        torch.testing.assert_close(one, of_loss if of_walls is None else of_loss + 0.5 * of_walls)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rows": 0}, "rows is 0: sample at least one"),
        ({"kind": "log"}, "choose one of"),
        ({"kind": "first-order"}, "order='first'"),
        ({"delta": 0}, "delta is 0"),
        ({"order": "second"}, "choose 'exact' or 'first'"),
        ({"order": "first", "kind": "kl"}, "'raw' and 'hinge'"),
        ({"order": "first", "joint": True}, "order='exact'"),
    ],
)
def test_bad_settings(options, message):
    with pytest.raises(ValueError, match=message):
        HeadBarrier(**options)


def test_bad_input():
    model, ids = network().eval(), some_ids()
    for weight in (-0.1, math.nan, math.inf):
        with pytest.raises(ValueError, match="give 0 or more"):
            head_regulariser(weight)
    with pytest.raises(ValueError, match="layers 0 to 1"):
        HeadBarrier(layers=(2,))(model, ids, model(ids))
    with pytest.raises(ValueError, match="norm=False"):
        HeadBarrier().of(stages(model, ids, norm=True))
    with pytest.raises(ValueError, match="no attention of a known kind"):
        HeadBarrier()(nn.Linear(3, 3), torch.ones(2, 3), torch.ones(2, 3))

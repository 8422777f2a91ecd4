"""Blocks of real heads against automatic differentiation of an attention function that is written out here."""

import dataclasses
import math
import time

import pytest
import torch
from torch.nn import functional as F

from nslab.barrier.heads import (
    HeadStage,
    cross_covariances,
    head_blocks,
    head_spectral_margins,
    head_traces,
    joint_head_blocks,
    whole_blocks,
)
from nslab.barrier.norm_path import NormJacobian

TOLERANCE = {
    "block": 1e-12,  # an entry of a matrix, a trace, or a singular value, in float64
    "determinant": 1e-11,  # relative to 1 + its size
    "rows": 1e-12,
    "single": 1e-4,  # float32 against float64, relative to 1 + its size
}
B, H, N, K, V = 2, 3, 6, 4, 3
EPSILON = 1e-3
FUNCTIONS = [cross_covariances, head_blocks, joint_head_blocks, whole_blocks, head_spectral_margins, head_traces]
ROW_AXIS = {joint_head_blocks: 1, whole_blocks: 1}  # the others have (batch, heads, rows, ...)


def rotate(x, rows):
    """Rotary positions, coordinates (j, j + k/2) paired, on (..., rows, k)."""
    half = x.shape[-1] // 2
    angles = rows[:, None] * 3.0 ** -torch.arange(half, device=x.device, dtype=x.dtype)
    first, second = x[..., :half], x[..., half:]
    return torch.cat([first * angles.cos() - second * angles.sin(), first * angles.sin() + second * angles.cos()], -1)


def normed(x, norm, weight):
    if norm == "layer":
        return F.layer_norm(x, x.shape[-1:], weight, None, EPSILON)
    return F.rms_norm(x, x.shape[-1:], weight, EPSILON) if norm == "rms" else x


class World:
    """A layer of attention with drawn weights, its stage, and its output as a function of one token's query."""

    def __init__(self, *, width=12, rotary=False, norm=None, self_included=False, heads=H, length=N, seed=0):
        self.generator = torch.Generator().manual_seed(seed)
        self.turn, self.norm, self.self_included = rotate if rotary else None, norm, self_included
        self.query_weight, key_weight = (self.draw(heads, K, width) / 2 for _ in range(2))
        value_weight, self.output_weight = self.draw(heads, V, width) / 2, self.draw(heads, width, V) / 2
        self.weight, self.x = self.draw(width), self.draw(B, length, width) + 0.3
        inputs, everywhere = normed(self.x, norm, self.weight)[:, None], torch.arange(length)
        self.key = self.turned(inputs @ key_weight.mT, everywhere)
        self.value = inputs @ value_weight.mT
        query = self.turned(inputs @ self.query_weight.mT, everywhere)
        jacobian = NormJacobian(self.x, self.weight, EPSILON, norm == "layer") if norm else None
        weights = self.query_weight, self.output_weight
        self.stage = HeadStage(query, self.key, self.value, *weights, self.turn, jacobian)

    def draw(self, *shape):
        return torch.randn(*shape, generator=self.generator, dtype=torch.float64)

    def turned(self, x, rows):
        return x if self.turn is None else self.turn(x, rows)

    def residual(self, x, batch, i, heads):
        """Token i minus what the heads add to it, when its query alone comes from x (d,)."""
        last = i + 1 if self.self_included else i
        for h in heads if last else ():
            query = self.query_weight[h] @ normed(x, self.norm, self.weight)
            query = self.turned(query[None], torch.tensor([i]))[0]
            alpha = torch.softmax(self.key[batch, h, :last] @ query / math.sqrt(K), 0)
            x = x - self.output_weight[h] @ (alpha @ self.value[batch, h, :last])
        return x

    def jacobian(self, batch, i, heads):
        """With the query of every head from the same x: heads one by one, their Jacobians minus I summed."""
        start, eye = self.x[batch, i], torch.eye(self.x.shape[-1], dtype=torch.float64)
        each = [
            torch.autograd.functional.jacobian(lambda x, h=h: self.residual(x, batch, i, [h]), start) for h in heads
        ]
        return eye + sum(one - eye for one in each)


def near(got, wanted, tolerance):
    return (got - wanted).abs() <= tolerance * (1 + wanted.abs())


PATHS = pytest.mark.parametrize("norm", [None, "layer", "rms"])
ROTARY = pytest.mark.parametrize("rotary", [False, True], ids=["plain", "rotary"])
SELF = pytest.mark.parametrize("self_included", [False, True], ids=["strict", "self-included"])


@PATHS
@ROTARY
@SELF
def test_all_forms_of_a_block_agree_with_automatic_differentiation(norm, rotary, self_included):
    world = World(norm=norm, rotary=rotary, self_included=self_included)
    rows = torch.tensor([5, 0, 3, 1])
    blocks, joint, whole, spectral, traces = (
        form(world.stage, rows, self_included)
        for form in (head_blocks, joint_head_blocks, whole_blocks, head_spectral_margins, head_traces)
    )
    for batch in range(B):
        for m, i in enumerate(rows.tolist()):
            wanted = world.jacobian(batch, i, range(H))
            assert (whole[batch, m] - wanted).abs().max() < TOLERANCE["block"]
            assert near(torch.linalg.det(joint[batch, m]), torch.linalg.det(wanted), TOLERANCE["determinant"])
            for h in range(H):
                wanted = world.jacobian(batch, i, [h])
                determinant = torch.linalg.det(blocks[batch, h, m])
                assert near(determinant, torch.linalg.det(wanted), TOLERANCE["determinant"])
                assert near(spectral[batch, h, m], torch.linalg.svdvals(wanted)[-1], TOLERANCE["block"])
                assert near(traces[batch, h, m], len(wanted) - wanted.trace(), TOLERANCE["block"])


@PATHS
@ROTARY
@pytest.mark.parametrize("width", [5, 7, 8, 9])  # around k + v = 7 and one more for the norm: with and without a basis
def test_the_spectral_margin_is_exact_at_every_width(width, norm, rotary):
    world = World(width=width, norm=norm, rotary=rotary)
    margins = head_spectral_margins(world.stage)
    for h in range(H):
        one = dataclasses.replace(
            world.stage,
            **{name: getattr(world.stage, name)[:, h : h + 1] for name in ("query", "key", "value")},
            query_weight=world.query_weight[h : h + 1],
            output_weight=world.output_weight[h : h + 1],
        )
        wanted = torch.linalg.svdvals(whole_blocks(one))[..., -1]  # (B, n), d x d
        assert near(margins[:, h], wanted, TOLERANCE["block"]).all()


def test_cross_covariances_are_sums_over_the_past():
    world = World()
    got = cross_covariances(world.stage)
    for i in range(1, N):
        alpha = torch.softmax(world.key[1, 2, :i] @ world.stage.query[1, 2, i] / 2, 0)
        value, key = (x[1, 2, :i] - alpha @ x[1, 2, :i] for x in (world.value, world.key))
        assert (got[1, 2, i] - (alpha[:, None] * value).T @ key).abs().max() < TOLERANCE["block"]
    assert got[:, :, :2].abs().max() < TOLERANCE["block"]  # no past, and a past of one token


@pytest.mark.parametrize("form", FUNCTIONS)
@SELF
def test_rows_are_slices_of_the_whole_in_any_order(form, self_included):
    stage, rows = World(norm="layer", rotary=True).stage, torch.tensor([4, 0, 4, 2])
    axis = ROW_AXIS.get(form, 2)
    whole = form(stage, None, self_included)
    assert (form(stage, rows, self_included) - whole.index_select(axis, rows)).abs().max() < TOLERANCE["rows"]


def test_only_distances_between_positions_matter_to_determinants():
    world = World(rotary=True)
    later = dataclasses.replace(
        world.stage,
        query=rotate(world.stage.query, torch.full((N,), 5)),
        key=rotate(world.key, torch.full((N,), 5)),
        turn=lambda x, rows: rotate(x, rows + 5),
    )
    wanted, got = (torch.linalg.det(head_blocks(stage)) for stage in (world.stage, later))
    assert near(got, wanted, TOLERANCE["determinant"]).all()


@pytest.mark.parametrize("length", [0, 1, 2])
def test_a_past_without_spread_leaves_the_identity(length):
    stage = World(length=length, rotary=True, norm="rms").stage
    for form, size in ((head_blocks, K), (joint_head_blocks, H * K), (whole_blocks, 12)):
        blocks = form(stage)
        assert blocks.shape[ROW_AXIS.get(form, 2)] == length
        assert torch.allclose(blocks, torch.eye(size, dtype=blocks.dtype).expand_as(blocks), rtol=0, atol=1e-14)
    assert torch.allclose(head_spectral_margins(stage), torch.ones(B, H, length).double(), rtol=0, atol=1e-14)
    assert torch.allclose(head_traces(stage), torch.zeros(B, H, length).double(), rtol=0, atol=1e-14)


@pytest.mark.parametrize("form", FUNCTIONS)
def test_half_precision_is_upcast_and_autocast_is_kept_out(form, device):
    exact = World(norm="layer", rotary=True).stage

    def cast(dtype):
        fields = {f.name: getattr(exact, f.name) for f in dataclasses.fields(exact)}
        moved = {name: x.to(device).bfloat16().to(dtype) for name, x in fields.items() if isinstance(x, torch.Tensor)}
        norm = exact.norm_jacobian
        parts = {name: getattr(norm, name).to(device).bfloat16().to(dtype) for name in ("x", "weight")}
        return dataclasses.replace(exact, **moved, norm_jacobian=dataclasses.replace(norm, **parts))

    wanted = form(cast(torch.float64))
    with torch.autocast(device.type, dtype=torch.bfloat16):
        for dtype in (torch.bfloat16, torch.float32):
            got = form(cast(dtype))
            assert got.dtype == torch.float32
            assert got.device.type == device.type
            assert near(got, wanted, TOLERANCE["single"]).all()


@pytest.mark.parametrize("form", FUNCTIONS)
def test_single_precision_keeps_the_covariances_of_keys_and_values_far_from_the_origin(form):
    exact = World(rotary=True).stage
    names = ["query", "key", "value", "query_weight", "output_weight"]
    single = {name: getattr(exact, name).float() for name in names}
    single["key"], single["value"] = single["key"] + 3e3, single["value"] - 1e3
    single["query"] = single["query"] - single["query"].mean(-1, keepdim=True)  # the shift gives all keys one logit
    far = dataclasses.replace(exact, **single)
    wanted = form(dataclasses.replace(far, **{name: tensor.double() for name, tensor in single.items()}))
    assert near(form(far), wanted, 30 * TOLERANCE["single"]).all()  # logits near 1e3 are rounded to 1e-4


def test_log_determinants_and_traces_are_differentiable_at_every_position():
    world = World(norm="rms", rotary=True, heads=2, width=9, length=4)
    names = ["query", "key", "value", "query_weight", "output_weight"]

    def of(form):
        def scalars(x, *tensors):
            norm = dataclasses.replace(world.stage.norm_jacobian, x=x)
            stage = dataclasses.replace(world.stage, **dict(zip(names, tensors, strict=True)), norm_jacobian=norm)
            return form(stage)

        return scalars

    inputs = [world.x, *(getattr(world.stage, name) for name in names)]
    inputs = [tensor.clone().requires_grad_() for tensor in inputs]
    for form in (
        head_traces,
        lambda stage: torch.linalg.slogdet(head_blocks(stage)).logabsdet,
        lambda stage: torch.linalg.slogdet(joint_head_blocks(stage)).logabsdet,
        lambda stage: head_spectral_margins(stage, torch.tensor([2, 3])),
    ):
        assert torch.autograd.gradcheck(of(form), inputs, fast_mode=True)


def test_a_batch_of_log_determinants_beats_a_loop_over_heads_and_positions_three_times():
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, 6, 64, 16, generator=generator) for _ in range(3))
    weights = [torch.randn(*shape, generator=generator) / 10 for shape in ((6, 16, 96), (6, 96, 16))]
    rows = torch.arange(0, 64, 4)

    def barrier(stage, rows):
        return -torch.linalg.slogdet(head_blocks(stage, rows)).logabsdet

    def batched():
        return barrier(HeadStage(query, key, value, *weights), rows)

    def loop():
        found = torch.empty(2, 6, len(rows))
        for h in range(6):
            parts = [x[:, h : h + 1] for x in (query, key, value)]
            stage = HeadStage(*parts, *(weight[h : h + 1] for weight in weights))
            for m, i in enumerate(rows):
                found[:, h, m] = barrier(stage, i[None])[:, 0, 0]
        return found

    def seconds(run):
        start = time.process_time()
        run()
        return time.process_time() - start

    assert near(batched(), loop(), TOLERANCE["single"]).all()
    assert 3 * min(seconds(batched) for _ in range(5)) < min(seconds(loop) for _ in range(2))


def test_bad_input_is_refused_with_the_remedy():
    world = World(norm="layer")
    stage, nan = world.stage, float("nan")
    refused = {
        r"query has shape \(2, 3, 6, 3\): .* it must be \(2, 3, 6, 4\)": {"query": stage.query[..., :3]},
        r"output_weight has shape \(3, 3, 12\): .* it must be \(3, 12, 3\)": {"output_weight": stage.output_weight.mT},
        r"key has shape \(2, 3, 6\): give \(B, H, n, k\)": {"key": stage.key[..., 0]},
        r"norm_jacobian.x has shape .* it must be \(2, 6, 12\)": {"norm_jacobian": NormJacobian(world.x[:, 1:])},
    }
    for message, changed in refused.items():
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(stage, **changed)
    broken = stage.key.index_fill(2, torch.tensor(4), nan)
    with pytest.raises(ValueError, match=r"key of the stage has NaN or infinity, first at \(0, 0, 4, 0\)"):
        head_blocks(dataclasses.replace(stage, key=broken))
    with pytest.raises(ValueError, match=r"norm_jacobian.weight of the stage has NaN or infinity, first at \(0,\)"):
        head_traces(dataclasses.replace(stage, norm_jacobian=NormJacobian(world.x, nan * world.weight)))
    for rows in (torch.tensor([N]), torch.tensor([-1])):
        with pytest.raises(ValueError, match=r"outside a sequence of length 6: positions are 0 \.\. 5"):
            whole_blocks(stage, rows)
    with pytest.raises(ValueError, match=r"dtype torch.float32: give one axis of whole positions"):
        head_traces(stage, torch.tensor([1.0]))

"""Shared checks of arguments: precision, rows, and what attention weights do where a row sees nothing."""

import dataclasses

import pytest
import torch

from nslab.barrier.checks import (
    attention_weights,
    check_embeddings,
    check_finite,
    check_matrix,
    positions,
    upcast,
    visible,
    without_autocast,
)


@dataclasses.dataclass
class Holder:
    weight: torch.Tensor


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ((torch.bfloat16,), torch.float32),
        ((torch.float16, torch.bfloat16), torch.float32),
        ((torch.float16, torch.float64), torch.float64),
        ((torch.float32,), torch.float32),
    ],
)
def test_half_precision_becomes_float32_and_all_tensors_one_dtype(given, wanted):
    assert {tensor.dtype for tensor in upcast(*(torch.ones(2, dtype=dtype) for dtype in given))} == {wanted}


def test_ids_are_refused_where_embeddings_are_wanted():
    with pytest.raises(ValueError, match=r"int64: give floating-point numbers \(embeddings, not ids\)"):
        upcast(torch.tensor([1, 2]))


@pytest.mark.parametrize("wrap", [lambda x: x, Holder], ids=["tensor", "dataclass"])
def test_autocast_is_off_inside_for_a_tensor_and_for_a_tensor_in_a_dataclass(device, wrap):
    x = torch.randn(8, 8, device=device)

    @without_autocast
    def square(given):
        x = getattr(given, "weight", given)
        return x @ x

    with torch.autocast(device.type, dtype=torch.bfloat16):
        assert (x @ x).dtype == torch.bfloat16
        assert square(wrap(x)).dtype == torch.float32


def test_rows_are_all_positions_by_default_and_keep_their_order():
    assert positions(None, 3, torch.device("cpu")).tolist() == [0, 1, 2]
    kept = positions(torch.tensor([2, 0, 2], dtype=torch.int32), 3, torch.device("cpu"))
    assert kept.tolist() == [2, 0, 2]
    assert kept.dtype == torch.int64


@pytest.mark.parametrize(
    ("rows", "length", "message"),
    [
        (torch.tensor([0, 3]), 3, r"rows holds 3, outside a sequence of length 3: positions are 0 \.\. 2"),
        (torch.tensor([-1]), 3, r"rows holds -1, .* positions are 0 \.\. 2"),
        (torch.tensor([0]), 0, "length 0: leave rows out"),
        (torch.tensor([1.0]), 3, "dtype torch.float32: give one axis of whole positions"),
        (torch.tensor([True]), 3, "dtype torch.bool: give one axis of whole positions"),
        (torch.tensor(1), 3, r"shape \(\).*one axis"),
    ],
)
def test_rows_outside_the_sequence_or_not_whole_are_refused_with_the_remedy(rows, length, message):
    with pytest.raises(ValueError, match=message):
        positions(rows, length, torch.device("cpu"))


def test_nan_is_refused_and_its_place_named():
    with pytest.raises(ValueError, match=r"blocks has nan at \(1, 0\): look at what computed it"):
        check_finite("blocks", torch.tensor([[0.0], [float("nan")]]))
    u = torch.zeros(2, 5, 3)
    u[1, 4, 0] = float("inf")
    with pytest.raises(ValueError, match=r"u has NaN or infinity in sequence \(1,\), position 4"):
        check_embeddings(u)
    with pytest.raises(ValueError, match=r"NaN or infinity in position 4"):
        check_embeddings(u[1])
    with pytest.raises(ValueError, match=r"shape \(3,\): give embeddings \(\*batch, length, width\)"):
        check_embeddings(torch.zeros(3))


@pytest.mark.parametrize(
    ("shape", "message"), [((2, 3), "must be square.*score_matrix"), ((2, 2), "2 wide and the embeddings 3")]
)
def test_a_matrix_of_a_wrong_shape_is_refused_with_the_remedy(shape, message):
    with pytest.raises(ValueError, match=message):
        check_matrix("scores", torch.zeros(shape), 3)


def test_weights_sum_to_one_over_what_is_seen_and_vanish_with_their_gradient_where_nothing_is():
    logits = torch.tensor([[5.0, 1.0, -2.0], [0.3, 1.0, -2.0], [0.3, 1e4, 0.3]], requires_grad=True)
    weights = attention_weights(logits, visible(torch.arange(3), 3, self_included=False))
    assert weights.tolist() == [[0, 0, 0], [1, 0, 0], [0, 1, 0]]
    (weights * torch.rand(3, 3)).sum().backward()
    assert logits.grad.isfinite().all()
    assert torch.equal(visible(torch.arange(2), 2, self_included=True), torch.tensor([[True, False], [True, True]]))

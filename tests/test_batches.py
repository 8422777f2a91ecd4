"""Batches change nothing but the memory: against one call on all rows, with memory that runs out on purpose."""

import pytest
import torch

from nslab.batches import BatchSize, in_batches, is_out_of_memory


class Small:
    """A function with room for so many rows; it remembers how many it was handed."""

    def __init__(self, room, error=None):
        self.room, self.calls = room, []
        self.error = error or torch.OutOfMemoryError("CUDA out of memory")

    def __call__(self, x, y):
        self.calls.append(len(x))
        if len(x) > self.room:
            raise self.error
        return x.sum(-1) + y


ROWS = torch.arange(60.0).reshape(20, 3), torch.arange(20.0)
WHOLE = ROWS[0].sum(-1) + ROWS[1]


@pytest.mark.parametrize("batch", [None, 1, 3, 20, 1000])
def test_slices_give_what_one_call_gives(batch):
    assert torch.equal(in_batches(Small(1000), *ROWS, batch=batch), WHOLE)


def test_slices_are_as_equal_as_possible():
    f = Small(1000)
    in_batches(f, *ROWS, batch=6)
    assert f.calls == [5, 5, 5, 5]


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")]
)
def test_a_full_memory_halves_the_batch_which_is_remembered_and_nothing_is_done_twice(error):
    f, size = Small(6, error), BatchSize()
    assert torch.equal(in_batches(f, *ROWS, batch=size), WHOLE)
    assert size.rows <= 6
    assert sum(rows for rows in f.calls if rows <= 6) == 20
    f.calls.clear()
    assert torch.equal(in_batches(f, *ROWS, batch=size), WHOLE)
    assert max(f.calls) <= 6


def test_a_given_batch_is_taken_as_it_is():
    with pytest.raises(torch.OutOfMemoryError):
        in_batches(Small(6), *ROWS, batch=10)


def test_a_single_row_that_does_not_fit_says_so():
    with pytest.raises(torch.OutOfMemoryError) as caught:
        in_batches(Small(0), *ROWS)
    assert "a single row does not fit" in caught.value.__notes__[0]


def test_other_errors_pass_through():
    with pytest.raises(RuntimeError, match="shapes differ"):
        in_batches(Small(0, RuntimeError("shapes differ")), *ROWS)


def test_the_cpus_own_error_is_recognised():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**55, dtype=torch.int8)
    assert is_out_of_memory(caught.value)


@pytest.mark.cuda
def test_a_real_full_accelerator_is_survived():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    free = torch.cuda.mem_get_info(device)[0]
    numbers = free // 4 // 3  # floats in a third of the memory: one row fits with its copy, four do not
    rows = torch.arange(4.0, device="cuda")
    found = in_batches(lambda x: x[:, None].expand(-1, numbers).clone()[:, -1].clone(), rows)
    assert found.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: in_batches(Small(1)), "rows is empty"),
        (lambda: in_batches(Small(1), torch.ones(2, 1), torch.ones(3)), r"equally many rows"),
        (lambda: in_batches(Small(1), torch.ones(0, 1)), r"at least one row"),
        (lambda: in_batches(Small(1), torch.tensor(1.0)), r"equally many rows"),
        (lambda: in_batches(Small(1), *ROWS, batch=0), r"rows is 0: give at least 1"),
    ],
)
def test_bad_requests_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()

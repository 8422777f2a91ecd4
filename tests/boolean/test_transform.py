"""The fast Walsh-Hadamard transform against explicit Hadamard matrices."""

import pytest
import torch
from scipy.linalg import hadamard

from nslab.boolean import inverse_spectrum, spectrum, transform, wht
from nslab.boolean.checks import table_bits


def slow(x: torch.Tensor, dim: int = -1) -> torch.Tensor:
    """The slow twin: multiplication by the whole 2**n x 2**n matrix."""
    matrix = torch.tensor(hadamard(x.shape[dim]), dtype=x.dtype)
    return (x.movedim(dim, -1) @ matrix).movedim(-1, dim)


def normal(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("n", range(13))
def test_equals_multiplication_by_the_hadamard_matrix(n, dtype, close):
    x = normal(2, 2**n, dtype=dtype)
    y = wht(x)
    assert y.dtype == dtype
    assert close(y, slow(x.double()), dtype)


@pytest.mark.parametrize(("shape", "dim"), [((16,), 0), ((3, 64), 1), ((256, 3), 0), ((2, 128, 5), -2), ((4, 1), 1)])
def test_transforms_any_axis_of_a_batch(shape, dim, close):
    x = normal(*shape)
    assert close(wht(x, dim), slow(x, dim))


def test_accepts_any_strides_and_leaves_its_input_alone(close):
    x = normal(6, 2**8)
    kept = x.clone()
    for view in (x.mT[::2].mT, x[::2], x.flip(-1), x[0].expand(3, -1), x[:, :1].expand(-1, 2**8)):
        assert close(wht(view), slow(view.contiguous()))
    assert torch.equal(x, kept)


@pytest.mark.parametrize("n", [15, 16, 17, 18, 19, 20, 22])
def test_every_cut_into_chunks_is_exact_on_integers(n):
    """For small integers every sum is exact in float32, so single coefficients must equal plain parity sums."""
    x = torch.randint(-8, 9, (2 if n < 20 else 1, 2**n), generator=torch.Generator().manual_seed(n)).float()
    y = wht(x)
    index = torch.arange(2**n)
    for subset in (0, 1, 2**n - 1, 0b1011 << n - 5, 12345):
        digits = (index[:, None] & subset) >> torch.arange(n) & 1 if n < 18 else None
        odd = digits.sum(-1) % 2 if digits is not None else _parity(index & subset)
        assert torch.equal(y[:, subset], (x * (1 - 2 * odd)).sum(-1))
    assert torch.equal(wht(y), 2**n * x)


def _parity(index: torch.Tensor) -> torch.Tensor:
    for shift in (16, 8, 4, 2, 1):
        index = index ^ index >> shift
    return index & 1


@pytest.mark.parametrize("chunk", [2**10, 2**11, 2**13])
def test_the_chunk_size_changes_nothing(chunk, monkeypatch, close):
    """With tiny chunks, small tables take every path of large ones: several strided passes, ragged last chunks."""
    monkeypatch.setattr(transform, "CHUNK_BYTES", chunk)
    for n in (7, 8, 9, 11, 12):
        for rows in (1, 3, 7):
            x = normal(rows, 2**n)
            assert close(wht(x), slow(x))


def test_squares_to_a_multiple_of_the_identity_and_preserves_energy(close):
    """H H = 2**n, hence Parseval: the squared Fourier coefficients sum to E[f**2]."""
    f = normal(3, 2**9)
    assert close(inverse_spectrum(spectrum(f)), f)
    assert close(spectrum(f).square().sum(-1), f.square().mean(-1))


FORWARD_MODE = pytest.mark.filterwarnings("ignore:.*torch.jit.script. is deprecated:DeprecationWarning")  # torch's own


@FORWARD_MODE
def test_derivatives_of_every_kind(close):
    x = normal(2, 8, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: wht(x, 1), x, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(lambda x: wht(x, 1), x)
    assert torch.autograd.gradcheck(spectrum, normal(3, 4).requires_grad_(), check_forward_ad=True)
    matrix = torch.tensor(hadamard(16), dtype=torch.float64)
    row = normal(16)
    assert close(torch.func.jacrev(wht)(row), matrix)
    assert close(torch.func.jacfwd(wht)(row), matrix)


def test_gradient_equals_that_of_the_slow_twin(close):
    x, target = normal(3, 2**10), normal(3, 2**10, seed=1)
    gradients = []
    for transformed in (wht, slow):
        leaf = x.clone().requires_grad_()
        (transformed(leaf) * target).square().sum().backward()
        gradients.append(leaf.grad)
    assert close(*gradients)


def test_works_under_vmap(close):
    x = normal(4, 8, 5)
    assert close(torch.func.vmap(wht, in_dims=2, out_dims=2)(x), wht(x, 1))
    nested = torch.func.vmap(torch.func.grad(lambda row: wht(row).square().sum()))
    assert close(nested(x[..., 0]), 2 * 8 * x[..., 0])


def test_empty_batches_keep_their_shape():
    assert wht(torch.zeros(0, 8)).shape == (0, 8)


@pytest.mark.parametrize("shape", [(3,), (0,), (2, 6)])
def test_refuses_lengths_that_are_no_power_of_two(shape):
    with pytest.raises(ValueError, match=r"x has shape .*2\*\*n"):
        wht(torch.zeros(shape))


def test_refuses_scalars():
    with pytest.raises(ValueError, match=r"x has shape \(\)"):
        wht(torch.tensor(1.0))


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
def test_refuses_tables_that_are_not_of_real_floating_point_numbers(dtype):
    """The check itself: with annotations checked, as in these tests, no such table reaches it through `wht`."""
    with pytest.raises(ValueError, match=rf"x has dtype {dtype}.*x.double\(\)"):
        table_bits(torch.ones(8, dtype=dtype), "x")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_agrees_on_every_device(device, dtype, close):
    for n in (0, 5, 11, 18):
        x = normal(3, 2**n, dtype=dtype)
        y = wht(x.to(device))
        assert y.device.type == device.type
        assert close(y.cpu(), wht(x.double()), dtype)

"""The Walsh-Hadamard transform against boofun's transforms and against copying memory."""

import torch

from nslab.boolean import spectrum, wht
from tests.benchmarks.harness import Row, as_long, cpu_seconds, faster


def rows() -> list[Row]:
    """n = 18 in double precision against boofun; n = 22 in single precision against `out.copy_(x)`."""
    return [*_against_boofun(18), _against_copy(22), *_small_tables()]


def _against_boofun(n: int) -> list[Row]:
    import boofun
    from boofun.core.optimizations import fast_walsh_hadamard, fast_walsh_hadamard_numba

    f = 1 - 2 * torch.randint(2, (2**n,), generator=torch.Generator().manual_seed(0)).double()
    values = f.numpy()
    function = boofun.create((f < 0).numpy())
    theirs = function.fourier()  # also warms up
    assert abs(spectrum(f) - torch.from_numpy(theirs)).max() < 1e-12
    assert abs(spectrum(f) - torch.from_numpy(fast_walsh_hadamard_numba(values))).max() < 1e-12

    ours = cpu_seconds(lambda: spectrum(f))
    name = f"Fourier coefficients, n = {n}, float64"
    public = cpu_seconds(lambda: function.fourier(force_recompute=True))
    plain = cpu_seconds(lambda: fast_walsh_hadamard(values))
    compiled = cpu_seconds(lambda: fast_walsh_hadamard_numba(values))
    return [
        faster(name, ours, "boofun f.fourier()", public, 150, "its public call, a Python loop even with Numba there"),
        faster(name, ours, "boofun fast_walsh_hadamard", plain, 150, "the function that its documentation names"),
        faster(name, ours, "boofun, Numba kernel", compiled, None, "compiled, internal: no public call reaches it"),
    ]


def _against_copy(n: int) -> Row:
    x = torch.randn(2**n, generator=torch.Generator().manual_seed(0))
    out = torch.empty_like(x)
    copied = cpu_seconds(lambda: out.copy_(x))
    ours = cpu_seconds(lambda: wht(x))
    note = "into a warm buffer; ours allocates its result"
    return as_long(f"wht, n = {n}, float32", ours, "out.copy_(x)", copied, 18, note)


def _small_tables() -> list[Row]:
    x = torch.randn(100_000, 2**6, generator=torch.Generator().manual_seed(0))
    out = torch.empty_like(x)
    copied, ours = cpu_seconds(lambda: out.copy_(x)), cpu_seconds(lambda: wht(x))
    return [as_long("wht, 100,000 tables of n = 6, float32", ours, "out.copy_(x)", copied)]

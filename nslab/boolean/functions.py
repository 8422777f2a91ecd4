"""Truth tables of the named functions.

Values are ±1 and, as in O'Donnell (2014), -1 is "true" or "1" and +1 is "false" or "0": `conjunction` is -1 exactly
when every bit is -1. Tables have length 2**n (see `cube` for the order) and the default dtype unless one is given.
"""

from collections.abc import Sequence
from typing import TypedDict, Unpack

import torch
from jaxtyping import Float, Num
from torch import Tensor

from nslab.boolean.checks import (
    coordinate_count,
    coordinates,
    finite,
    known_keys,
    positive,
    sign_table_bits,
    table_bits,
)


class Creation(TypedDict, total=False):
    """Where and how a table is made: `dtype` (default: torch's) and `device` (default: the CPU)."""

    dtype: torch.dtype | None
    device: torch.device | str | None


def dictator(n: int, i: int = 0, **creation: Unpack[Creation]) -> Float[Tensor, " table"]:
    """f(x) = x_i. Stability rho, influence 1 at i and 0 elsewhere."""
    return parity(n, coordinates([i], n, "i"), **creation)


def parity(n: int, subset: Sequence[int] | None = None, **creation: Unpack[Creation]) -> Float[Tensor, " table"]:
    """chi_S(x) = prod_{i in S} x_i, with S all coordinates unless given. Stability rho**|S|, the least stable."""
    subset = coordinates(range(n) if subset is None else subset, n, "subset")
    f = torch.ones(1, **creation)
    for i in range(coordinate_count(n)):  # the upper half of the table has x_i = -1
        f = torch.cat([f, -f if i in subset else f])
    return f


def weighted_threshold(
    weights: Num[Tensor, " n"] | Sequence[float | int], bias: float | int = 0, **creation: Unpack[Creation]
) -> Float[Tensor, " table"]:
    """f(x) = sign(w · x - bias), a weighted vote; **a tie gives 0**, so f is ±1-valued only where no tie exists.

    The sum is formed in double precision: exact for integer weights. For integer weights and more than 24 voters see
    `threshold_influences` and its companions, which count instead of tabulating.

    Raises:
        ValueError: if there are more than 24 weights, or a weight or the bias is not finite.

    >>> weighted_threshold([1, 1], dtype=torch.float64).tolist()
    [1.0, 0.0, 0.0, -1.0]
    """
    known_keys(creation, Creation, "a table")
    weights = torch.as_tensor(weights, dtype=torch.float64, device=creation.get("device"))
    coordinate_count(len(weights), "the number of weights")
    finite(weights, "weights", "give numbers of votes")
    finite(bias, "bias", "it is the sum of votes to exceed")
    votes = weights.new_zeros(1)
    for weight in weights:
        votes = torch.cat([votes + weight, votes - weight])
    return torch.sign(votes - bias).to(creation.get("dtype") or torch.get_default_dtype())


def majority(n: int, **creation: Unpack[Creation]) -> Float[Tensor, " table"]:
    """f(x) = sign(x_1 + ... + x_n) for odd n. Every influence is binom(n-1, (n-1)/2) / 2**(n-1).

    Raises:
        ValueError: if n is even (use `weighted_threshold`, where a tie gives 0).
    """
    if n % 2 == 0:
        raise ValueError(f"n = {n} is even: majority could tie; give an odd n, or use weighted_threshold([1] * {n})")
    coordinate_count(n)
    return weighted_threshold([1] * n, **creation)


def conjunction(n: int, **creation: Unpack[Creation]) -> Float[Tensor, " table"]:
    """AND: -1 (true) exactly when every bit is -1. Every influence is 2**(1-n)."""
    f = torch.ones(2 ** coordinate_count(n), **creation)
    f[-1] = -1
    return f


def disjunction(n: int, **creation: Unpack[Creation]) -> Float[Tensor, " table"]:
    """OR: +1 (false) exactly when every bit is +1; the Boolean dual -AND(-x)."""
    f = -torch.ones(2 ** coordinate_count(n), **creation)
    f[0] = 1
    return f


def tribes(width: int, count: int, **creation: Unpack[Creation]) -> Float[Tensor, " table"]:
    """OR over `count` tribes of the AND over `width` consecutive members: -1 exactly when some tribe is all -1.

    Every influence is 2**(1-width) (1 - 2**-width)**(count-1). Balanced for count near ln(2) 2**width, where each
    influence is ln(n)/n (1 + o(1)) (Ben-Or and Linial, 1985); no balanced function has all of them smaller by more
    than a constant factor (Kahn, Kalai and Linial, 1988).

    Source: O'Donnell (2014), sections 2.1 and 4.2. Some authors swap AND and OR, or list the number of tribes first.
    """
    positive(width, "width", "give at least one member a tribe")
    positive(count, "count", "give at least one tribe")
    coordinate_count(width * count, "width * count")
    tribe = f = conjunction(width, **creation)
    for _ in range(count - 1):  # "or" is the minimum, -1 being true; each further tribe has the next digits
        f = torch.minimum(tribe[:, None], f).flatten()  # (2**width, 2**below) -> (2**(width + below),)
    return f


def address(k: int, **creation: Unpack[Creation]) -> Float[Tensor, " table"]:
    """The address (multiplexer) function of n = k + 2**k bits: k address bits choose which data bit is the value.

    Coordinates 0 .. k-1 are the address, -1 meaning digit 1, coordinate 0 the least significant; coordinate k + a is
    the data bit of address a. Address bits have influence 1/2, data bits 2**-k, so I = k/2 + 1 and the degree is k+1.

    Source: O'Donnell (2014), exercise 1.1 (the selector for k = 1). Others put the most significant address bit first.
    """
    positive(k, "k", "give at least one address bit")
    n = coordinate_count(k + 2**k, "k + 2**k")
    known_keys(creation, Creation, "a table")
    index = torch.arange(2**n, device=creation.get("device"))
    chosen = (index >> (k + (index & (2**k - 1)))) & 1
    return (1 - 2 * chosen).to(creation.get("dtype") or torch.get_default_dtype())


def random(
    n: int, *batch: int, generator: torch.Generator | None = None, **creation: Unpack[Creation]
) -> Float[Tensor, "*batch table"]:
    """Uniformly random ±1 tables, (*batch, 2**n): W_k is close to binom(n, k)/2**n, I close to n/2.

    The generator lives on the device of the table.
    """
    known_keys(creation, Creation, "a table")
    bits = torch.randint(2, (*batch, 2 ** coordinate_count(n)), generator=generator, device=creation.get("device"))
    return 1 - 2 * bits.to(creation.get("dtype") or torch.get_default_dtype())


def junta(n: int, relevant: Sequence[int], core: Float[Tensor, "*batch core"]) -> Float[Tensor, "*batch table"]:
    """f(x) = core(x_{relevant[0]}, x_{relevant[1]}, ...): a function of n bits that reads only the relevant ones.

    Args:
        n: number of coordinates.
        relevant: k distinct coordinates.
        core: table of k bits, (*batch, 2**k), coordinate j of the core reading x_{relevant[j]}; it sets the dtype.

    Raises:
        ValueError: if the core has another length than 2**k, or a coordinate repeats or is out of range.
    """
    relevant = coordinates(relevant, n, "relevant")
    if table_bits(core, "core") != len(relevant):
        raise ValueError(f"core has {core.shape[-1]} values: {len(relevant)} relevant bits need {2 ** len(relevant)}")
    index = torch.arange(2 ** coordinate_count(n), device=core.device)
    read = torch.zeros_like(index)
    for j, i in enumerate(relevant):
        read |= ((index >> i) & 1) << j
    return core[..., read]


def iterated_majority(depth: int, fan_in: int = 3, **creation: Unpack[Creation]) -> Float[Tensor, " table"]:
    """Majority of majorities, `depth` levels of odd `fan_in`: n = fan_in**depth bits.

    Its total influence is that of one level to the power depth, and its stability that of one level iterated:
    Stab(depth) = s(s(... s(rho))) with s the stability of `majority(fan_in)`, because the function is odd.
    """
    if depth < 0:
        raise ValueError(f"depth = {depth} is negative: give 0 (a dictator) or more levels")
    return compose_self(majority(fan_in, **creation), depth)


def compose_self(f: Float[Tensor, " table"], depth: int) -> Float[Tensor, " nested"]:
    """f(f(...), ..., f(...)) nested `depth` levels deep, on disjoint blocks of bits; f must be ±1-valued.

    Raises:
        ValueError: if f has a value other than ±1, or the result would have more than 24 bits.
    """
    fan_in = sign_table_bits(f)
    coordinate_count(fan_in**depth, "fan_in**depth")
    nested = f.new_tensor([1.0, -1.0])  # depth 0: the dictator of one bit
    for _ in range(depth):
        digits = (nested < 0).long()
        index = digits
        for j in range(1, fan_in):  # block j sits above the blocks before it
            index = (index + (digits[:, None] << j)).flatten()  # (2**(size * (j+1)),)
        nested = f[index]
    return nested

"""What a truth table's Fourier spectrum says: level weights, influences, sensitivity, noise operator and stability.

Tables are (*batch, 2**n); x is uniform on {-1, 1}^n throughout (`biased` has the other product measures). Spectral
quantities take real tables; `flip_influences`, `sensitivity` and `max_sensitivity` compare values and demand ±1.
"""

from functools import lru_cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nslab.boolean.checks import Scalar, as_correlation, sign_table_bits, table_bits, widened
from nslab.boolean.cube import by_coordinate, popcounts
from nslab.boolean.transform import inverse_spectrum, spectrum

LOW_DIGITS = 7
"""Sums over subsets are two small matrix products: first over the low 7 digits of the index, then over the rest."""


def level_weights(f: Float[Tensor, "*batch table"]) -> Float[Tensor, "*batch levels"]:
    """The energy at each degree, W_k = sum_{|S|=k} fhat(S)**2 for k = 0 .. n, shape (*batch, n + 1).

    The weights sum to E[f**2] (1 for ±1-valued f); W_0 = E[f]**2. Much weight at high k: a function that noise
    destroys (all of parity sits at k = n).

    Raises:
        ValueError: if f is no real table of length 2**n.

    Source: O'Donnell, Analysis of Boolean Functions (2014), section 1.4.

    >>> level_weights(torch.tensor([1.0, 1.0, 1.0, -1.0])).tolist()
    [0.25, 0.5, 0.25]
    """
    return sum_by_level(spectrum(widened(f)).square()).to(f.dtype)


def sum_by_level(values: Float[Tensor, "*batch table"]) -> Float[Tensor, "*batch levels"]:
    """Sum values indexed by subsets over all subsets of one size: (*batch, 2**n) to (*batch, n + 1)."""
    n = table_bits(values, "values")
    if n <= LOW_DIGITS:
        return values @ _indicator(n, values.dtype, values.device)
    low = LOW_DIGITS
    by_low = values.unflatten(-1, (-1, 2**low)) @ _indicator(low, values.dtype, values.device)
    sums = _indicator(n - low, values.dtype, values.device).mT @ by_low  # (*batch, n - low + 1, low + 1)
    level = torch.arange(n - low + 1, device=values.device)[:, None] + torch.arange(low + 1, device=values.device)
    levels = values.new_zeros(*values.shape[:-1], n + 1)
    return levels.index_add(-1, level.flatten(), sums.flatten(-2))


def sum_by_member(values: Float[Tensor, "*batch table"]) -> Float[Tensor, "*batch n"]:
    """Sum values indexed by subsets over all subsets that contain i, for each i: (*batch, 2**n) to (*batch, n)."""
    n = table_bits(values, "values")
    if n <= LOW_DIGITS:
        return values @ _members(n, values.dtype, values.device)
    low = LOW_DIGITS
    grid = values.unflatten(-1, (-1, 2**low))  # (*batch, 2**(n-low), 2**low)
    members_low = grid.sum(-2) @ _members(low, values.dtype, values.device)
    members_high = grid.sum(-1) @ _members(n - low, values.dtype, values.device)
    return torch.cat([members_low, members_high], -1)


@lru_cache(maxsize=64)
def _indicator(n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[|S| = k] for subsets S of n coordinates: (2**n, n + 1)."""
    with torch.inference_mode(False):
        levels = torch.arange(n + 1, device=device)
        return (popcounts(n, device=device)[:, None] == levels).to(dtype)


@lru_cache(maxsize=64)
def _members(n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[i in S] for subsets S of n coordinates: (2**n, n)."""
    with torch.inference_mode(False):
        masks = torch.arange(2**n, device=device)[:, None] >> torch.arange(n, device=device)
        return (masks & 1).to(dtype)


def degree(f: Float[Tensor, "*batch table"], tol: float = 1e-6) -> Int[Tensor, "*batch"]:
    """The largest |S| whose coefficient exceeds `tol` in size; 0 for a constant and for the zero function.

    Args:
        f: a real truth table.
        tol: coefficients of at most this size count as zero, in units of the root mean square of f.

    Source: O'Donnell (2014), exercise 1.10; there the zero function has no degree.
    """
    coefficients = spectrum(widened(f))
    scale = coefficients.square().sum(-1, keepdim=True).sqrt()
    counts = popcounts(table_bits(f), device=f.device)
    return torch.where(coefficients.abs() > tol * scale, counts, 0).amax(-1)


def influences(f: Float[Tensor, "*batch table"]) -> Float[Tensor, "*batch n"]:
    """Inf_i(f) = E[Var_{x_i} f] = sum_{S containing i} fhat(S)**2, shape (*batch, n).

    Zero: f ignores coordinate i. For ±1-valued f it is P[f(x) != f(x with bit i flipped)], at most 1.

    Raises:
        ValueError: if f is no real table of length 2**n.

    Source: O'Donnell (2014), section 2.2. Some authors define the influence of {0, 1}-valued
    f with its own variance, a quarter of ours.

    >>> influences(torch.tensor([1.0, 1.0, 1.0, -1.0])).tolist()
    [0.5, 0.5]
    """
    return sum_by_member(spectrum(widened(f)).square()).to(f.dtype)


def flip_influences(f: Float[Tensor, "*batch table"]) -> Float[Tensor, "*batch n"]:
    """P[f(x) != f(x with bit i flipped)] for ±1-valued f, counted from the table; equals `influences`.

    Raises:
        ValueError: if an entry is not ±1.
    """
    n = sign_table_bits(f)
    pairs = [by_coordinate(f, i).unbind(-2) for i in range(n)]  # n times (*batch, 2**(n-1-i), 2**i), twice
    found = [(1 - (high * low).mean((-2, -1))) / 2 for high, low in pairs]
    return torch.stack(found, -1) if found else f.new_zeros(*f.shape[:-1], 0)


def total_influence(f: Float[Tensor, "*batch table"]) -> Float[Tensor, "*batch"]:
    """I(f) = sum_i Inf_i(f) = sum_k k W_k: for ±1-valued f the average sensitivity, between Var f and n.

    It is also the slope of `stability` at rho = 1.

    Source: O'Donnell (2014), section 2.3.
    """
    return influences(widened(f)).sum(-1).to(f.dtype)


def sensitivity(f: Float[Tensor, "*batch table"]) -> Float[Tensor, "*batch table"]:
    """s(f, x): at how many coordinates a flip changes f(x), for each point x; its mean is `total_influence`.

    Raises:
        ValueError: if an entry is not ±1.

    Source: O'Donnell (2014), section 2.3.
    """
    n = sign_table_bits(f)
    agreement = torch.zeros_like(f)  # sum_i f(x) f(x^i)
    for i in range(n):
        agreement += f * by_coordinate(f, i).flip(-2).flatten(-3)
    return (n - agreement) / 2


def max_sensitivity(f: Float[Tensor, "*batch table"]) -> Float[Tensor, "*batch"]:
    """The largest sensitivity of any point, max_x s(f, x); its square is at least the degree of f (Huang, 2019)."""
    return sensitivity(f).amax(-1)


def noise_operator(f: Float[Tensor, "*batch table"], rho: Scalar) -> Float[Tensor, "..."]:
    """T_rho f(x) = E[f(y) | x] = sum_S rho**|S| fhat(S) chi_S(x), y being rho-correlated with x.

    y_i = x_i with probability (1 + rho)/2 and -x_i otherwise, independently.

    Args:
        f: a real truth table, (*batch, 2**n).
        rho: correlations in [-1, 1], a number or a tensor (*rho).

    Returns:
        (*batch, 2**n, *rho). At rho = 1 the table itself, at 0 its mean everywhere, at -1 the table at -x.

    Raises:
        ValueError: if rho is outside [-1, 1].

    Source: O'Donnell (2014), section 2.4.
    """
    n = table_bits(f)
    wide = widened(f)
    rho = as_correlation(rho, wide)
    damping = _powers(rho, n).mT[:, popcounts(n, device=f.device)]  # (rhos, 2**n)
    damped = spectrum(wide)[..., None, :] * damping  # (*batch, rhos, 2**n)
    return inverse_spectrum(damped).to(f.dtype).movedim(-2, -1).reshape(*f.shape, *rho.shape)


def stability(f: Float[Tensor, "*batch table"], rho: Scalar) -> Float[Tensor, "..."]:
    """Stab_rho(f) = E[f(x) f(y)] = sum_k rho**k W_k for rho-correlated x and y, at many rho at once.

    The correlation, not the probability of agreement: for ±1-valued f that probability is (1 + Stab_rho)/2.

    Args:
        f: a real truth table, (*batch, 2**n).
        rho: correlations in [-1, 1], a number or a tensor (*rho); differentiable.

    Returns:
        (*batch, *rho). At rho = 1 it is E[f**2], at 0 it is E[f]**2; the slope at 1 is `total_influence`. The
        spectrum is computed and binned once, so a hundred rho cost no more than one.

    Raises:
        ValueError: if rho is outside [-1, 1], or f is no real table of length 2**n.

    Source: O'Donnell (2014), section 2.4.

    >>> majority_of_3 = torch.tensor([1.0, 1.0, 1.0, -1.0, 1.0, -1.0, -1.0, -1.0])
    >>> stability(majority_of_3, 0.5).item()
    0.40625
    """
    wide = widened(f)
    return damp(level_weights(wide), as_correlation(rho, wide)).to(f.dtype)


def damp(weights: Float[Tensor, "*batch levels"], rho: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """The polynomial sum_k rho**k weights[..., k], shape (*batch, *rho)."""
    powers = _powers(rho, weights.shape[-1] - 1)
    return (weights @ powers).reshape((*weights.shape[:-1], *rho.shape))


def _powers(rho: Tensor, n: int) -> Tensor:
    """rho**k for k = 0 .. n, (n + 1, rhos), by products: unlike `pow`, twice differentiable at rho = 0."""
    rho = rho.flatten()
    powers = [torch.ones_like(rho)]
    for _ in range(n):
        powers.append(powers[-1] * rho)
    return torch.stack(powers)

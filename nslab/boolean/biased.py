"""p-biased Fourier analysis: the same quantities when bit i is -1 with probability p instead of 1/2.

Throughout p = P[x_i = -1], a number in (0, 1) or one a coordinate (n,). With mu = 1 - 2p and sigma = 2 sqrt(p (1-p)),
the basis is phi_S(x) = prod_{i in S} (x_i - mu)/sigma, orthonormal under the biased measure, and p = 1/2 gives chi_S.
Source: O'Donnell (2014), section 8.4. Papers on random graphs mean by p the probability of an edge, our -1 ("true").
"""

import torch
from jaxtyping import Float
from torch import Tensor

from nslab.boolean.checks import Scalar, as_bias, as_correlation, table_bits, widened
from nslab.boolean.spectral import damp, sum_by_level, sum_by_member
from nslab.boolean.transform import digit_groups


def biased_mean(f: Float[Tensor, "*batch table"], p: Scalar) -> Float[Tensor, "*batch"]:
    """E_p[f(x)], differentiable in p: for monotone f its slope counts pivotal coordinates (Russo-Margulis).

    Args:
        f: a real truth table, (*batch, 2**n).
        p: P[x_i = -1] in (0, 1), one number or n of them.

    Raises:
        ValueError: if p is outside (0, 1) or has a wrong number of entries.

    >>> biased_mean(torch.tensor([1.0, -1.0]), 0.25).item()
    0.5
    """
    folded = widened(f)
    p = as_bias(p, table_bits(f), folded)
    for probability in p.flip(0):  # fold the highest coordinate away, then the next
        half = folded.shape[-1] // 2
        folded = (1 - probability) * folded[..., :half] + probability * folded[..., half:]
    return folded[..., 0].to(f.dtype)


def biased_spectrum(f: Float[Tensor, "*batch table"], p: Scalar) -> Float[Tensor, "*batch table"]:
    """The coefficients fhat_p(S) = E_p[f(x) phi_S(x)], index = bitmask of S; differentiable in f and p.

    Index 0 is the biased mean; the squares sum to E_p[f**2] (Parseval). p = 1/2 gives `spectrum`.

    Args:
        f: a real truth table, (*batch, 2**n).
        p: P[x_i = -1] in (0, 1), one number or n of them.

    Raises:
        ValueError: if p is outside (0, 1) or has a wrong number of entries.
    """
    n, values = table_bits(f), widened(f)
    p = as_bias(p, n, values)
    root = (p * (1 - p)).sqrt()
    # One coordinate: [E f, E f phi] = [[1 - p, p], [root, -root]] [f(+1), f(-1)]
    single = torch.stack([torch.stack([1 - p, p], -1), torch.stack([root, -root], -1)], -2)  # (n, 2, 2)
    below = 0
    for group in digit_groups(n):  # as in `transform`: one 32 x 32 matrix instead of five 2 x 2
        matrix = single.new_ones(1, 1)
        for factor in single[below : below + group]:
            matrix = torch.kron(factor, matrix)
        if below == 0:  # one tall product, where a product for each column would be 30 times slower
            values = (values.unflatten(-1, (-1, len(matrix))) @ matrix.mT).flatten(-2)
        else:
            values = (matrix @ values.unflatten(-1, (-1, len(matrix), 2**below))).flatten(-3)
        below += group
    return values.to(f.dtype)


def biased_level_weights(f: Float[Tensor, "*batch table"], p: Scalar) -> Float[Tensor, "*batch levels"]:
    """W_k = sum_{|S|=k} fhat_p(S)**2 for k = 0 .. n; they sum to E_p[f**2]."""
    return sum_by_level(biased_spectrum(widened(f), p).square()).to(f.dtype)


def biased_influences(f: Float[Tensor, "*batch table"], p: Scalar) -> Float[Tensor, "*batch n"]:
    """Inf_i = E_p[Var_{x_i} f] = sum_{S containing i} fhat_p(S)**2.

    For ±1-valued f it is 4 p_i (1 - p_i) P_p[f(x) != f(x with bit i flipped)]; some authors omit the factor.

    Source: O'Donnell (2014), sections 8.2 and 8.4.
    """
    return sum_by_member(biased_spectrum(widened(f), p).square()).to(f.dtype)


def biased_stability(f: Float[Tensor, "*batch table"], rho: Scalar, p: Scalar) -> Float[Tensor, "..."]:
    """E[f(x) f(y)] = sum_k rho**k W_k under the biased measure, shape (*batch, *rho).

    y_i equals x_i with probability rho and is drawn afresh from the biased measure otherwise, so rho is the
    correlation coefficient of x_i and y_i. Such a pair exists for negative rho down to -min(p/(1-p), (1-p)/p) only.

    Args:
        f: a real truth table, (*batch, 2**n).
        rho: correlations, a number or a tensor (*rho), from -min(p/(1-p), (1-p)/p) to 1.
        p: P[x_i = -1] in (0, 1), one number or n of them.

    Raises:
        ValueError: if p is outside (0, 1), or rho outside the range above.

    Source: O'Donnell (2014), sections 8.2 and 8.4.
    """
    wide = widened(f)
    rho = as_correlation(rho, wide)
    p = as_bias(p, table_bits(f), wide)
    odds = p / (1 - p)
    lowest = -torch.minimum(odds, 1 / odds).amin().item() if len(p) else -1.0
    if bool((rho < lowest * (1 + 1e-6)).any()):
        raise ValueError(
            f"rho = {rho.min().item():g} is below {lowest:g}: bits with this p cannot be so negatively correlated;"
            " give a larger rho, or p = 1/2"
        )
    return damp(biased_level_weights(wide, p), rho).to(f.dtype)

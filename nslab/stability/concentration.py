r"""What stability says about the spectrum: the corrected Lemma 1 of the paper, beside Markov's bound.

$W_k$ are the weights by degree divided by their sum (normalised, so Stab at strength 1 is 1), r the eigenvalue per
degree of the noise: rho for flips and Gaussians, keep for resampled tokens. The tail at T is
$W_{\ge T} = \sum_{k \ge T} W_k$.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Real
from torch import Tensor

from nslab.estimate import Estimate
from nslab.gaussian.ranges import Scalar, as_tensors


@dataclass(frozen=True)
class TailBound:
    """The best bound on the tail that stability gives, and what it competes with.

    Attributes:
        bound: the infimum over rho in (0, 1) of B_T(rho).
        rho: where it is attained; 1.0 when it is the limit rho -> 1, that is, Markov's bound.
        markov: I/T, from the mean degree.
        tail: the true tail.
    """

    bound: float
    rho: float
    markov: float
    tail: float


def tail_bound(
    stability: Scalar | Estimate, eigenvalue: Scalar | None = None, degree: int | None = None
) -> Float[Tensor, "..."] | Estimate:
    r"""$W_{\ge T} \le B_T = \delta / (1 - r^T)$ with $\delta$ = 1 - stability.

    Args:
        stability: *normalised* stability (Stab / E f**2) at each eigenvalue; or the `StabilityEstimate` of it, with
            which `tail_bound(found, degree=4)` needs no eigenvalue.
        eigenvalue: r in [0, 1): rho for flips and Gaussian noise, keep for resampled tokens
            (`StabilityEstimate.eigenvalue`); for the paper's token noise (1 + rho)/2. Broadcasts against `stability`.
        degree: T >= 1.

    Returns:
        The broadcast shape. Differentiable. Of an estimate an `Estimate`, with its error.

    How to read it: the share of the energy of f at degrees T and above is at most this. Above 1 it says nothing;
    below 0, from a measured stability a little above 1, read it as 0.

    Errors: `ValueError` when the eigenvalue is outside [0, 1), the degree below 1, an estimate is not of version
    "normalised", or stability is clearly above 1 (it was not normalised).

    Source: arXiv 2602.08287, Lemma 1, *reconstructed*: $1 - \delta \le \sum_k r^k W_k \le 1 - (1 - r^T) W_{\ge T}$.

    >>> tail_bound(0.99, 0.9, 3).item()
    0.0369...
    """
    if degree is None:
        raise ValueError("degree is missing: tail_bound(estimate, degree=T), or tail_bound(stability, eigenvalue, T)")
    if isinstance(stability, Estimate):
        version = getattr(stability, "version", None)
        if version != "normalised":
            raise ValueError(
                f"stability is an estimate of version {version}: measure the normalised one, version='normalised' of"
                " noise_stability or .normalised of text_stability"
            )
        r = stability.eigenvalue if eigenvalue is None else eigenvalue
        bound = tail_bound(stability.value, r, degree)
        error = stability.stderr / (1 - as_tensors(r)[0].to(stability.stderr) ** degree)
        return Estimate(bound, error, stability.samples, stability.seconds)
    if eigenvalue is None:
        raise ValueError("eigenvalue is missing: a number does not know its noise; give r, or the whole estimate")
    stability, r = as_tensors(stability, eigenvalue)
    _check_degree(degree)
    _check_open_eigenvalue(r)
    if not bool((stability.detach() <= 1.05).all()):
        raise ValueError(
            f"stability = {stability.detach().max().item():g} is above 1: give the normalised stability, Stab / E f**2"
        )
    return (1 - stability) / (1 - r**degree)


def markov_bound(total_influence: Scalar, degree: int) -> Float[Tensor, "..."]:
    r"""$W_{\ge T} \le I / T$, with I the total influence of f divided by E f**2: its mean degree.

    Args:
        total_influence: I >= 0, any shape.
        degree: T >= 1.

    How to read it: the limit of `tail_bound` as the noise vanishes; a best choice of the noise never does worse.

    Errors: `ValueError` when I is negative or the degree below 1.

    Source: O'Donnell, Analysis of Boolean Functions (2014), section 3.1.
    """
    _check_degree(degree)
    total_influence = torch.as_tensor(total_influence)
    if not bool((total_influence.detach() >= 0).all()):
        raise ValueError(f"total_influence = {total_influence.detach().min().item():g}: it is a sum of variances, >= 0")
    return total_influence / degree


def spectral_tail_bound(weights: Real[Tensor, "*batch degrees"], rho: Scalar, degree: int) -> Float[Tensor, "..."]:
    r"""$B_T(\rho) = \sum_k \bar W_k \frac{1 - \rho^k}{1 - \rho^T}$ from a known spectrum, accurate up to rho = 1.

    Args:
        weights: energies by degree, (*batch, degrees); they are divided by their sum $(\bar W_k)$.
        rho: in [0, 1], a number or a tensor (*rho); at 1 the limit, Markov's $\sum_k k \bar W_k / T$.
        degree: T >= 1.

    Returns:
        (*batch, *rho).

    How to read it: weight below T counts k/T near rho = 1 and up to 1 near 0; weight above T counts k/T near 1 and
    only 1 near 0. An interior rho is best only where there is weight far above T, and if no weight sits above degree
    K >= T the gain over Markov is at most K/T.

    Errors: `ValueError` when rho is outside [0, 1], the degree below 1, or weights are negative or all 0.

    Source: ours, from `tail_bound`.
    """
    _check_degree(degree)
    (weights,) = as_tensors(weights)
    rho = torch.as_tensor(rho, dtype=weights.dtype, device=weights.device)
    if not bool(((rho.detach() >= 0) & (rho.detach() <= 1)).all()):
        raise ValueError(f"rho = {rho.detach().flatten().tolist()} leaves [0, 1]: Lemma 1 needs a noise that damps")
    if not bool((weights.detach() >= 0).all()) or not bool((weights.detach().sum(-1) > 0).all()):
        raise ValueError(f"weights = {weights.detach()}: give energies by degree, non-negative and not all 0")
    share = weights / weights.sum(-1, keepdim=True)
    return (share @ _relative_loss(weights.shape[-1], rho.flatten(), degree)).reshape((*share.shape[:-1], *rho.shape))


def best_tail_bound(weights: Real[Tensor, "..."], degree: int) -> TailBound:
    r"""The smallest $B_T(\rho)$ over rho, with Markov's bound and the true tail.

    A grid of 2001 strengths is refined four times around its minimum.

    Args:
        weights: energies by degree (degrees,), as `boolean.level_weights` or `gaussian.hermite_energies` give them.
        degree: T >= 1.

    Errors: as `spectral_tail_bound`.

    Source: ours. With rho free, stability is never worse than Markov; at a fixed rho it can be.

    >>> best_tail_bound(torch.tensor([0.0, 1.0]), 2)
    TailBound(bound=0.5, rho=1.0, markov=0.5, tail=0.0)
    """
    if weights.ndim != 1:
        raise ValueError(f"weights has shape {tuple(weights.shape)}: give one spectrum, shape (degrees,)")
    weights = weights.detach().to(torch.float64)
    markov = float(spectral_tail_bound(weights, 1.0, degree))
    low, high = 0.0, 1.0
    for _ in range(5):
        rho = torch.linspace(low, high, 2001, dtype=torch.float64)
        bounds = spectral_tail_bound(weights, rho, degree)
        at = int(bounds.argmin())
        low, high = float(rho[max(at - 1, 0)]), float(rho[min(at + 1, len(rho) - 1)])
    best, where = float(bounds[at]), float(rho[at])
    if best >= markov * (1 - 1e-12):
        best, where = markov, 1.0
    return TailBound(best, where, markov, float(weights[degree:].sum() / weights.sum()))


def concentration_degree(delta: float | int, eps: float | int, eigenvalue: float | int) -> int:
    r"""The smallest T with $B_T \le \epsilon$: at most a share eps of the energy sits at degrees T and above.

    Formula: $T \ge \log_{1/r} \frac{\epsilon}{\epsilon - \delta}
    = \frac{\ln(\epsilon / (\epsilon - \delta))}{\ln(1/r)}$, and T >= 1.

    Args:
        delta: 1 - normalised stability, in [0, eps).
        eps: the tail allowed, in (0, 1].
        eigenvalue: r in (0, 1): rho for flips and Gaussians, keep for resampled tokens.

    How to read it: f is (eps, T)-concentrated.

    Errors: `ValueError` when delta >= eps (then no degree is enough), or a number is out of range.

    Source: arXiv 2602.08287, Lemma 1, *reconstructed*. A digest of the paper's main text prints
    $\log_{1/\rho}(1 - \delta/\epsilon)$, which is negative: a slip of sign, in the digest if not in the paper.

    >>> concentration_degree(0.01, 0.05, 0.9)
    3
    """
    if not 0 < eps <= 1:
        raise ValueError(f"eps = {eps}: it is a share of the energy, give a number in (0, 1]")
    if not delta >= 0:
        raise ValueError(f"delta = {delta}: it is 1 - normalised stability, give a number >= 0")
    if not delta < eps:
        raise ValueError(
            f"delta = {delta} is not below eps = {eps}: a loss of stability of delta cannot rule out a tail of eps at"
            " any degree; measure with a larger rho (smaller delta) or allow a larger eps"
        )
    if not 0 < eigenvalue < 1:
        raise ValueError(f"eigenvalue = {eigenvalue} is outside (0, 1): give rho, or keep for resampled tokens")
    exact = -math.log1p(-delta / eps) / -math.log(eigenvalue)
    return max(1, math.ceil(exact - 1e-9 * max(1.0, exact)))  # rounding must not push an exact integer up


def _relative_loss(degrees: int, rho: Tensor, degree: int) -> Tensor:
    """(1 - rho**k) / (1 - rho**T), (degrees, rhos), as sums 1 + rho + ..: exact at rho = 1, where it is k/T."""
    count = max(degrees - 1, degree)
    powers = torch.stack([rho**j for j in range(count)])  # (count, rhos)
    sums = torch.cat([torch.zeros_like(rho)[None], powers.cumsum(0)])  # entry k: 1 + rho + .. + rho**(k-1)
    return sums[:degrees] / sums[degree]


def _check_degree(degree: int) -> None:
    if degree < 1:
        raise ValueError(f"degree = {degree}: the tail starts at T >= 1; from T = 0 on it is everything")


def _check_open_eigenvalue(r: Tensor) -> None:
    allowed = (r.detach() >= 0) & (r.detach() < 1)
    if not bool(allowed.all()):
        worst = r.detach()[~allowed].flatten()[0].item()
        raise ValueError(
            f"eigenvalue = {worst:g} is outside [0, 1): Lemma 1 needs damping; the limit at 1 is markov_bound"
        )

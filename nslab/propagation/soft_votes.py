"""Soft votes at any temperature: how much of two correlated softmax distributions over n tokens agrees."""

import torch
from jaxtyping import Float
from torch import Tensor

from nslab.gaussian.ranges import Scalar, inside
from nslab.propagation.doubles import as_doubles
from nslab.propagation.soft_quadrature import agreement_masses
from nslab.propagation.votes import Tokens, plurality_agreement, token_counts

SMALLEST, LARGEST, LARGEST_SLOPE = 1e-9, 1e12, 1e6
"""Spreads beyond which the mass is 1/n, or a hard vote's, to the last digit, and its slopes at r = 1 are noise."""


class _AgreementMass(torch.autograd.Function):
    """(counts, points) at finite spreads; the slopes are integrals of their own, finite at r = ±1 too."""

    @staticmethod
    def forward(r: Tensor, spread: Tensor, counts: list[int]) -> Tensor:
        return _by_spread(r, spread, counts, slopes=False)[..., 0]

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs[:2])
        ctx.counts = inputs[2]

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "create_graph=True: agreement_mass knows its first slopes only; leave create_graph out, or take an "
                "AgreementTable, a polynomial"
            )
        r, spread = ctx.saved_tensors
        slopes = _by_spread(r, spread, ctx.counts, slopes=True)[..., 1:]
        by_r, by_spread = (grad[..., None] * slopes).sum(0).unbind(-1)
        return by_r, by_spread, None


def agreement_mass(r: Scalar, spread: Scalar, tokens: Tokens) -> Float[Tensor, "..."]:
    r"""$G_n(r, \tau)$: the expected overlap of two softmax distributions over n tokens with correlated Gaussian logits.

    Formula: $G_n(r, \tau) = E \sum_k \mathrm{softmax}(\tau u)_k\, \mathrm{softmax}(\tau v)_k$ for n i.i.d. pairs
    $(u_k, v_k)$ of standard Gaussians with correlation r. Since $\mathrm{softmax}(\tau u)_k = P[k = \arg\max_j u_j +
    g_j/\tau]$ for independent Gumbel variables g, G is the agreement of two hard votes on noisy scores:
    $G_n = n \iint h H^{n-1}\, da\, db$, H and h being the joint distribution function and density of
    $(u + g/\tau, v + g'/\tau)$. Limits: $G_n(0, \tau) = G_n(r, 0) = 1/n$, $G_n(r, \infty) = A_n(r)$, the hard vote of
    `plurality_agreement`.

    Args:
        r: correlations of the logits in [-1, 1]; broadcasts with spread. Python numbers alone count as float64.
        spread: $\tau \ge 0$, the standard deviation of the logits over tokens, infinity included.
        tokens: n >= 1, a number or several (*tokens).

    Returns:
        (*tokens, *shape), shape being the broadcast one; absolute error below 1e-8 up to 4096 tokens. It rises with r.
        Differentiable once in r and in spread; for finite spreads the slopes are finite at r = ±1 too. At r = 1 the
        relative error of the slope in r grows like 1e-8 times the spread; above 1e6 the slopes are those at 1e6.

    How to read it: two runs of one softmax row attend to the same tokens with this weight: 1 if both put everything on
    one and the same token, 1/n if either is uniform or they have nothing to do with each other. At r = 1 it is
    $E \sum_k A_k^2$, and its inverse is a number of tokens attended to.

    Each point costs about a millisecond on the CPU, where it is computed on any device; `AgreementTable` is for
    thousands of them.

    Errors: `ValueError` when r is outside [-1, 1], spread is negative, either is NaN, or n < 1; `RuntimeError` when a
    second slope at a finite spread is asked for.

    Source: ours; the mass is $s_i$ in the *reconstructed* soft form of arXiv 2602.08287, Theorem 5.3.

    >>> agreement_mass(0.5, torch.tensor([0.0, 3.0, float("inf")], dtype=torch.float64), 16)
    tensor([0.0625, 0.1880, 0.2368], dtype=torch.float64)
    """
    r, spread = torch.broadcast_tensors(*as_doubles(r, spread))
    inside(r, "r", -1, 1, "r is the correlation of two logits of one token")
    check_spread(spread)
    counts = token_counts(tokens)
    flat, order = counts.flatten().unique(return_inverse=True)  # sorted
    x, tau = (value.reshape(-1).to(torch.float64) for value in (r, spread))
    hard = torch.isinf(tau)
    found = x.new_empty(len(flat), len(x))
    found[:, hard] = plurality_agreement(x[hard], flat)
    if not bool(hard.all()):
        found[:, ~hard] = _AgreementMass.apply(x[~hard], tau[~hard], flat.tolist())
    return found[order.to(found.device)].to(r.dtype).reshape((*counts.shape, *r.shape))


def check_spread(spread: Tensor) -> None:
    """Refuse a spread that is negative or NaN."""
    if bool((bad := ~(spread >= 0)).any()):
        worst = spread.detach()[bad].flatten()[0].item()
        raise ValueError(f"spread = {worst:g}: it is the standard deviation of the logits, give a number >= 0")


def _by_spread(r: Tensor, spread: Tensor, counts: list[int], slopes: bool) -> Tensor:
    """(counts, points, 1 or 3), computed on the CPU, the points of one spread together."""
    points, n = r.detach().cpu(), 1 / torch.tensor(counts, dtype=torch.float64)
    found = torch.zeros(len(points), len(counts), 3 if slopes else 1, dtype=torch.float64)
    found[..., 0] = n
    levels, level = spread.detach().cpu().unique(return_inverse=True)
    for i, tau in enumerate(levels.tolist()):
        here = level == i
        if tau > SMALLEST:
            level_used = min(tau, LARGEST_SLOPE if slopes else LARGEST)
            mass = agreement_masses(points[here].tolist(), level_used, counts, slopes)
            found[here] = mass if slopes else mass[..., None]
    found[points == 0, :, 0] = n
    return found.transpose(0, 1).to(r.device)

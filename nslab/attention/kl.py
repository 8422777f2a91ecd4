r"""How far learned noise is from a standard normal: its Kullback-Leibler divergence, in nats.

    from nslab.attention.kl import gaussian_kl
    gaussian_kl(torch.tensor(0.0), torch.tensor(0.3).log())     # 0.7490

A network's loss is its mean loss a token plus beta times one of two reductions of this divergence.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from nslab.attention.noise_families import LearnedNoise

REDUCTIONS = ("parameters", "entries")


def gaussian_kl(mean: Float[Tensor, "*batch"], log_sigma: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    r"""$\mathrm{KL}(N(\mu, \sigma^2) \,\|\, N(0, 1)) = \frac12 (\mu^2 + \sigma^2 - 1 - \ln \sigma^2)$, elementwise.

    Args:
        mean: $\mu$.
        log_sigma: $\ln \sigma$, the same shape.

    Returns:
        Nats, never negative, 0 only at $\mu = 0$, $\sigma = 1$.

    How to read it: its gradients are $\mu$ and $\sigma - 1/\sigma$, so it pulls the mean to 0 and the noise level to 1.

    >>> gaussian_kl(torch.tensor([0.0, 0.0, 0.5]), torch.tensor([1.0, 0.3, 0.3]).log())
    tensor([0.0000, 0.7490, 0.8740])
    """
    return 0.5 * (mean.square() + torch.expm1(2 * log_sigma)) - log_sigma


def noise_kl(
    noises: Sequence[LearnedNoise], reduction: str = "parameters", *, length: int | None = None
) -> Float[Tensor, ""]:
    r"""The divergence of the noises of all layers from standard normal noise, as one number.

    Formula: "parameters", $\frac1L \sum_l \mathrm{mean}_p\, \mathrm{KL}_{lp}$ over the pairs $(\mu_p, \ln \sigma_p)$
    of a layer; "entries", $\frac1T \sum_l \sum_e \mathrm{KL}_{le}$ over all noise variables $e$ that a sequence of $T$
    tokens draws and the mask leaves: the literal bound on the likelihood, per predicted token.

    Args:
        noises: one a layer.
        reduction: "parameters" (recommended) or "entries". Noise that depends on the token (amortised) counts the
            tokens of the last call of the network, and is averaged over them.
        length: $T$ for "entries"; None stands for the context. Amortised noise knows its own.

    Returns:
        A scalar in nats, differentiable; "parameters" once.

    How to read it: "entries" is larger by the number of variables a token: L H (T + 1) / 2 for causal noise per head in
    the scores, L times the width for noise per head in the keys. At weight 1 it turns the noise into the prior at once.
    A key noise that is drawn in score space is the same noise drawn anew for each query, and counts once a key.

    Errors: `ValueError` without noise, for an unknown reduction, for a length outside the context, and for amortised
    noise before the first call.
    """
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction is {reduction!r}: choose 'parameters' or 'entries'")
    if not noises:
        raise ValueError("there is no learned noise: give scores with noise, for example VARIANTS['v2-relative']")
    terms = []
    for noise in noises:
        if reduction == "parameters":
            terms.append(_MeanKL.apply(*noise.described()))
        else:
            terms.append((gaussian_kl(*noise.described()) * noise.entries_per_token(length)).sum())
    total = torch.stack(terms)
    return total.mean() if reduction == "parameters" else total.sum()


class _MeanKL(torch.autograd.Function):
    """`gaussian_kl(mean, log_sigma).mean()` in half the passes: amortised noise has an entry a token and coordinate.

    The gradient lies in memory as the entries do, which saves more passes in the projections behind them.
    """

    @staticmethod
    def forward(ctx, mean: Tensor, log_sigma: Tensor) -> Tensor:
        slope = torch.expm1(2 * log_sigma)  # of the divergence by log sigma: sigma squared - 1
        ctx.save_for_backward(mean, slope)
        return 0.5 * (torch.linalg.vector_norm(mean).square() / mean.numel() + slope.mean()) - log_sigma.mean()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor]:
        mean, slope = ctx.saved_tensors
        each = gradient / mean.numel()
        return mean * each, slope * each

r"""Learned noise as a sensitivity meter: where the loss does not mind, the noise grows to its prior.

    loss = mean NLL a token + beta * mean over layers of the mean over parameters of KL(N(mu, sigma^2) || N(0, 1))

Of one pair (mu, sigma) the KL has the weight b = beta / (layers * parameters of a layer), `parameter_beta`. With g the
gradient and h the curvature of the NLL along all noise variables that share the pair, training comes to rest at
sigma^2 = b / (b + h) and, where the loss is a parabola, mu = -g / (b + h). The first holds for any loss when h is the
curvature averaged over the noise itself, for dE[NLL]/dsigma = sigma h (Stein's lemma). So 1/sigma^2 - 1 = h/b: a quiet
noise marks a sensitive head, which is not the same as an important one.
"""

import contextlib
import time
from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from nslab.attention.noise_families import LearnedNoise
from nslab.estimate import Estimate
from nslab.training.text import cross_entropy
from nslab.transformer.noiseformer import NoiseFormer

Number = float | int | Float[Tensor, "..."]


def stationary_sigma(beta: Number, curvature: Number) -> Float[Tensor, "..."]:
    r"""The noise level at which training comes to rest: $\sigma^* = \sqrt{b / (b + h)}$.

    Formula: the minimum over $\sigma$ of $\frac b2 (\sigma^2 - \ln \sigma^2) + \frac h2 \sigma^2$.

    Args:
        beta: b, the weight of this parameter's KL, positive: see `parameter_beta`.
        curvature: h, of the loss along the noise, in nats over the noise's unit squared; broadcasts with b.

    Returns:
        $\sigma^*$, infinity where $h \le -b$: there noise lowers the loss faster than the KL holds it back, and grows
        until it is clamped.

    How to read it: 1, the prior, where the loss does not mind the noise; above 1 where it likes it; near 0 where it is
    sensitive. It depends on h/b alone, so it compares heads of one network, not networks of different beta.

    Errors: `ValueError` for a beta that is not positive.

    Source: ours; the KL is that of arXiv 2601.11619 according to a review.

    >>> stationary_sigma(1e-3, 3e-3)
    tensor(0.5000, dtype=torch.float64)
    """
    beta, curvature = _positive("beta", beta), torch.as_tensor(curvature, dtype=torch.float64)
    held = beta + curvature
    return torch.where(held > 0, (beta / held.clamp_min(torch.finfo(held.dtype).tiny)).sqrt(), torch.inf)


def stationary_mean(beta: Number, gradient: Number, curvature: Number) -> Float[Tensor, "..."]:
    r"""The mean at which training comes to rest: $\mu^* = -g / (b + h)$.

    Formula: the minimum over $\mu$ of $\frac b2 \mu^2 + g \mu + \frac h2 \mu^2$.

    Args:
        beta: b, as in `stationary_sigma`.
        gradient: g, of the loss at $\mu = 0$.
        curvature: h, more than -b.

    How to read it: exact for a parabola. A mean that no softmax sees (scalar and key noise) has g = h = 0 and stays 0.

    Errors: `ValueError` for a beta that is not positive, or $h \le -b$, where there is no minimum.

    Source: ours.

    >>> stationary_mean(1.0, -2.0, 3.0)
    tensor(0.5000, dtype=torch.float64)
    """
    held = _positive("beta", beta) + torch.as_tensor(curvature, dtype=torch.float64)
    if bool((held <= 0).any()):
        raise ValueError(f"beta + curvature is {float(held.min()):.3g}: without a positive sum there is no minimum")
    return -torch.as_tensor(gradient, dtype=torch.float64) / held


def curvature_of(beta: Number, sigma: Number) -> Float[Tensor, "..."]:
    r"""The curvature that a noise at rest tells of: $h = b\,(1/\sigma^2 - 1)$, the inverse of `stationary_sigma`.

    Args:
        beta: b, as in `stationary_sigma`.
        sigma: the learned level, positive.

    How to read it: right only where training has come to rest, which takes some $1/(2 b\, \eta)$ steps of plain descent
    at learning rate $\eta$, and with Adam at least $|\Delta \ln \sigma| / \eta$.

    Errors: `ValueError` for a beta or sigma that is not positive.

    Source: ours.

    >>> curvature_of(1e-3, 0.5)
    tensor(0.0030, dtype=torch.float64)
    """
    return _positive("beta", beta) * (_positive("sigma", sigma) ** -2 - 1)


def parameter_beta(model: NoiseFormer, beta: float | int) -> float:
    r"""The weight that one pair $(\mu, \sigma)$ has in the loss: $b = \beta / (L P)$.

    Args:
        model: a network with learned noise; L layers with P pairs each.
        beta: weight of the KL in the loss, with the reduction "parameters".

    Errors: `ValueError` for a network without noise, or one whose noise depends on the token (amortised).
    """
    noises = _noises(model)
    return beta / (len(noises) * noises[0].log_sigma.numel())


def noise_curvature(
    model: NoiseFormer,
    x: Integer[Tensor, "batch length"],
    y: Integer[Tensor, "..."],
    *,
    loss: Callable[[Tensor, Tensor], Tensor] = cross_entropy,
    draws: int = 16,
    generator: torch.Generator | None = None,
) -> Estimate:
    r"""The curvature of the loss along each noise parameter, averaged over the noise as it is.

    Formula: $h_p = E \sum_{e \in p} \partial^2 \mathcal L / \partial n_e^2$ over the noise variables e that share
    parameter p, by Stein's lemma $\sigma_p^{-2}\, E\, \partial \mathcal L / \partial \ln \sigma_p$. Each draw
    $\epsilon$ is used with its mirror image $-\epsilon$, which cancels the gradient: what stays is a central difference
    along $\epsilon$, Hutchinson's estimate of the diagonal, also where $\sigma$ is small.

    Args:
        model: a network with learned noise per parameter (scalar, key, relative), in evaluation mode.
        x: inputs (batch, length).
        y: targets, as the loss takes them.
        loss: `loss(model(x), y)`, a scalar in nats, in which h is counted.
        draws: pairs of mirrored draws, at least 2.
        generator: source of the noise, on the model's device; None is a new one with seed 0.

    Returns:
        `Estimate` (layers, groups, parameters of a group): groups are heads, or one where the heads share the noise.
        The error is that of the noise; the batch adds its own.

    How to read it: compare with `curvature_of(parameter_beta(model, beta), sigma)`. It can be negative: there noise
    helps. The noise of all layers is on, as in training, so it is not the curvature of the network without noise.

    Cost: two passes a draw, forward and backward.

    Errors: `ValueError` for a network without noise or with amortised noise, in training mode, or fewer than 2 draws.

    Source: ours; Stein (1981) and Hutchinson (1990) for the two identities.
    """
    noises = _noises(model)
    if model.training:
        raise ValueError("model is in training mode, where it draws noise of its own: call eval() first")
    if draws < 2:
        raise ValueError(f"draws is {draws}: give at least 2, so that there is an error")
    start = time.perf_counter()
    levels = [noise.log_sigma for noise in noises]
    generator = torch.Generator(levels[0].device).manual_seed(0) if generator is None else generator
    found = []
    with _learning(levels), model.noise("sample", generator):
        for _ in range(draws):
            before = generator.get_state()
            slope = torch.autograd.grad(loss(model(x), y), levels)
            generator.set_state(before)
            with _mirrored(noises):
                mirror = torch.autograd.grad(loss(model(x), y), levels)
            pairs = zip(slope, mirror, levels, strict=True)
            found.append(torch.stack([(one + other) / 2 * (-2 * level).exp() for one, other, level in pairs]).detach())
    values = torch.stack(found).double().unflatten(-1, (noises[0].groups, -1))  # (draws, layers, groups, each)
    error = values.std(0) / draws**0.5
    return Estimate(values.mean(0), error, samples=draws, seconds=time.perf_counter() - start)


@contextlib.contextmanager
def _mirrored(noises: list[LearnedNoise]) -> Iterator[None]:
    """Inside, every draw is reflected about its mean."""
    for noise in noises:
        for name in ("on_keys", "on_scores"):
            setattr(noise, name, _reflected(getattr(noise, name)))  # on the object, in front of the method
    try:
        yield
    finally:
        for noise in noises:
            del noise.on_keys, noise.on_scores


def _reflected(draw: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda *given, sample, **options: (
        2 * draw(*given, sample=False, **options) - draw(*given, sample=sample, **options)
    )


@contextlib.contextmanager
def _learning(levels: list[Tensor]) -> Iterator[None]:
    """Inside, a frozen network shows the gradient of its noise levels."""
    frozen = [level for level in levels if not level.requires_grad]
    for level in frozen:
        level.requires_grad_()
    try:
        with torch.enable_grad():
            yield
    finally:
        for level in frozen:
            level.requires_grad_(False)


def _noises(model: NoiseFormer) -> list[LearnedNoise]:
    noises = model.noises()
    if not noises:
        raise ValueError(f"model is {model.variant}, which has no learned noise: train a variant such as v2-relative")
    if not hasattr(noises[0], "log_sigma"):
        raise ValueError(
            f"model is {model.variant}, whose sigma depends on the token, so that no parameter has a level: take a "
            "variant with scalar, key or relative noise"
        )
    return noises


def _positive(name: str, value: Number) -> Tensor:
    value = torch.as_tensor(value, dtype=torch.float64)
    if not bool((value > 0).all()):
        raise ValueError(f"{name} is {float(value.min()):.3g}: give a positive number")
    return value

"""What a trained network is asked: its losses by the three ways of inference, under token noise, and its own noise.

All networks get the same windows and the same disturbed tokens, so that differences are paired.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from nslab.noise import Resample
from nslab.protocols import Model
from nslab.reruns._next_token_measures import ROWS
from nslab.transformer import Transformer
from nslab.transformer.noiseformer import NoiseFormer
from nslab.transformer.predicting import predict


@torch.no_grad()
def sampled_losses(model: Transformer, x: Tensor, y: Tensor, draws: int) -> dict[str, float]:
    """Losses with the noise drawn, in nats a token, at windows x with the tokens y after them.

    Returns:
        "sample_loss", the mean over that many draws of the noise; "average_loss", of the mean of the probabilities of
        the same draws, which is never larger. Without learned noise both are the loss.
    """
    if not isinstance(model, NoiseFormer) or model.scores.noise is None:
        draws = 1
    generator = torch.Generator(x.device).manual_seed(0)
    right = []  # log probability of the token that came, (draws, windows, length)
    for part, target in zip(x.split(ROWS), y.split(ROWS), strict=True):
        each = (predict(model, part, mode="sample", generator=generator) for _ in range(draws))
        right.append(torch.stack([one.gather(-1, target[..., None])[..., 0].double() for one in each]))
    found = torch.cat(right, 1)
    averaged = found.logsumexp(0) - math.log(draws)
    return {"sample_loss": -float(found.mean()), "average_loss": -float(averaged.mean())}


@torch.no_grad()
def disturbed_losses(model: Model, x: Tensor, y: Tensor, noise: Resample, keep: Sequence[float]) -> list[float]:
    """Losses in nats a token at windows whose tokens are kept with the probabilities `keep`, else drawn anew.

    The targets stay what they were. All probabilities share their randomness, and so do all networks.
    """
    generator = torch.Generator(x.device).manual_seed(0)
    uniform = torch.rand(x.shape, generator=generator, device=x.device)
    fresh = noise.draw(x.shape, generator, x.device)
    losses = []
    for level in keep:
        pairs = zip(torch.where(uniform < level, x, fresh).split(ROWS), y.split(ROWS), strict=True)
        each = [F.cross_entropy(model(part).mT, target, reduction="none").double() for part, target in pairs]
        losses.append(float(torch.cat(each).mean()))
    return losses


@torch.no_grad()
def noise_summary(model: NoiseFormer, x: Tensor) -> dict[str, Tensor | float]:
    """The learned noise of each layer, and of each head where it has its own.

    Args:
        model: in evaluation mode, with learned noise.
        x: windows, at whose tokens a noise that depends on them is taken.

    Returns:
        "sigma", the mean of the standard deviations, and "mean_size", the root of the mean square of the means, both
        (layers, groups), a group being a head or all heads together; "kl", as the training has it.
    """
    model(x)
    # (groups, entries), where a noise that depends on tokens has (windows, groups, length, head width)
    rows = lambda part: part.transpose(0, 1).flatten(1) if part.ndim == 4 else part  # noqa: E731
    described = [[rows(part) for part in noise.described()] for noise in model.noises()]
    return {
        "sigma": torch.stack([log_sigma.exp().mean(-1) for _, log_sigma in described]).cpu(),
        "mean_size": torch.stack([mean.square().mean(-1).sqrt() for mean, _ in described]).cpu(),
        "kl": float(model.kl()),
    }


def noise_by_distance(model: NoiseFormer) -> dict[str, Tensor]:
    """Means and standard deviations of a relative noise: "noise_mean" and "noise_sigma", (layers, groups, offsets)."""
    described = [noise.described() for noise in model.noises()]
    return {
        "noise_mean": torch.stack([mean.detach() for mean, _ in described]).cpu(),
        "noise_sigma": torch.stack([log_sigma.detach().exp() for _, log_sigma in described]).cpu(),
    }

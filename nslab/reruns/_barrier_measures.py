"""What a trained network is asked: how it takes disturbed inputs, and how far its heads are from degeneracy.

All networks of one shape get the same windows and the same draws of noise, so that differences are paired. Only
evaluation: nothing here trains.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional as F

from nslab.barrier.heads import HeadStage, head_blocks, head_spectral_margins
from nslab.barrier.real_heads import stages
from nslab.protocols import TokenModel

QUANTILES = (0.0, 0.01, 0.1, 0.5, 0.9)
SIZES = (0.1, 0.25, 0.5, 1.0)  # of noise on embeddings, in units of their root mean square
SUBSTITUTED = (0.05, 0.15)
SWAPPED = 0.05
STEP = 0.1  # of the adversarial step, in units of the norm of a window's embeddings
LOWEST = 0.05  # the share of tokens that count as support tokens
LOCAL = 0.1  # noise on one token alone, in units as SIZES
NEUTRAL = 2  # the first two positions have the margin 1, whatever the network
BATCH = 64  # windows at once


@dataclass(frozen=True, eq=False)
class HeadMargins:
    """Margins of all real heads: det and smallest singular value of I minus the query path, on normalised inputs.

    Attributes:
        determinant: signed, (windows, layers, heads, positions); positions from 2 on.
        spectral: the same shape.
    """

    determinant: Float[Tensor, "windows layers heads positions"]
    spectral: Float[Tensor, "windows layers heads positions"]

    def quantiles(self) -> dict[str, list[float]]:
        """The quantiles `QUANTILES` of both, over windows, layers, heads and positions."""
        return {f"{name}_quantiles": quantiles(getattr(self, name)) for name in ("determinant", "spectral")}

    def summary(self) -> dict:
        """Quantiles, the share of negative determinants, and mean, spread and coefficient of variation of b."""
        barrier = -self.determinant.abs().log()
        mean, spread = float(barrier.mean()), float(barrier.std())
        return self.quantiles() | {
            "negative": float((self.determinant < 0).double().mean()),
            "barrier_mean": mean,
            "barrier_spread": spread,
            "barrier_variation": spread / abs(mean),
        }

    def of_tokens(self) -> tuple[Float[Tensor, "windows positions"], Float[Tensor, "windows positions"]]:
        """The smallest |det| and the smallest singular value of each token, over layers and heads."""
        return self.determinant.abs().amin((1, 2)), self.spectral.amin((1, 2))


@torch.no_grad()
def head_margins(model: TokenModel, x: Int64[Tensor, "windows length"]) -> HeadMargins:
    """The margins of every head at every position but the first two."""
    found = []
    for part in x.split(BATCH):
        layers = stages(model, part)
        rows = torch.arange(NEUTRAL, x.shape[1], device=x.device)
        spectral = torch.stack([head_spectral_margins(layer, rows) for layer in layers], 1)
        found.append((determinants(layers), spectral))
    determinant, spectral = (torch.cat(parts).cpu() for parts in zip(*found, strict=True))
    return HeadMargins(determinant, spectral)


def determinants(layers: Sequence[HeadStage]) -> Float[Tensor, "windows layers heads positions"]:
    """Signed determinants of the blocks of all heads, at every position but the first two."""
    rows = torch.arange(NEUTRAL, layers[0].key.shape[-2], device=layers[0].key.device)
    return torch.stack([torch.linalg.det(head_blocks(layer, rows)) for layer in layers], 1)


def quantiles(values: Tensor) -> list[float]:
    """The quantiles `QUANTILES` of all values."""
    ends = torch.tensor(QUANTILES, dtype=torch.float64)
    ordered = values.flatten().double().sort().values  # torch.quantile refuses more than 16 million values
    places = ends * (len(ordered) - 1)
    low, share = places.floor().long(), places.frac()
    high = (low + 1).clamp(max=len(ordered) - 1)
    return (ordered[low] + share * (ordered[high] - ordered[low])).tolist()


def disturbed(model: TokenModel, x: Int64[Tensor, "windows length"], y: Int64[Tensor, "windows length"]) -> dict:
    """Losses in nats a token on disturbed inputs; the targets stay what they were.

    Returns:
        "loss" of clean inputs; "noise" at `SIZES`; "noise_area", the integral of the loss increase over the size of the
        noise, from none to the largest; "substitution" at `SUBSTITUTED`; "swap"; "adversarial".
    """
    generator = torch.Generator().manual_seed(0)  # the same draws for every network
    embeddings = _embedded(model, x)
    size = embeddings.square().mean().sqrt()
    unit = torch.randn(embeddings.shape, generator=generator).to(embeddings)
    clean = _loss(model.from_embeddings, embeddings, y)
    noisy = [_loss(model.from_embeddings, embeddings + share * size * unit, y) for share in SIZES]
    rises, ends = [0.0, *[loss - clean for loss in noisy]], (0.0, *SIZES)
    fresh = torch.randint(model.vocabulary, x.shape, generator=generator).to(x)
    chance = torch.rand(x.shape, generator=generator).to(x.device)
    steps = torch.cat(
        [_ascent(model, e, targets) for e, targets in zip(embeddings.split(BATCH), y.split(BATCH), strict=True)]
    )
    return {
        "loss": clean,
        "noise": noisy,
        "noise_area": sum((ends[i + 1] - ends[i]) * (rises[i + 1] + rises[i]) / 2 for i in range(len(SIZES))),
        "substitution": [_loss(model, torch.where(chance < share, fresh, x), y) for share in SUBSTITUTED],
        "swap": _loss(model, swapped(x, torch.rand(x.shape, generator=generator).to(x.device) < SWAPPED), y),
        "adversarial": _loss(model.from_embeddings, embeddings + STEP * steps, y),
    }


def swapped(x: Int64[Tensor, "windows length"], chosen: Bool[Tensor, "windows length"]) -> Int64[Tensor, "..."]:
    """The chosen tokens change places with their right neighbours; of two chosen neighbours the left one does."""
    order = torch.arange(x.shape[1], device=x.device).repeat(len(x), 1)
    free = torch.ones(len(x), dtype=torch.bool, device=x.device)
    for place in range(x.shape[1] - 1):
        now = chosen[:, place] & free
        order[now, place], order[now, place + 1] = place + 1, place
        free = ~now
    return x.gather(1, order)


def local_correlation(
    model: TokenModel,
    x: Int64[Tensor, "windows length"],
    y: Int64[Tensor, "windows length"],
    spectral: Float[Tensor, "windows positions"],
    *,
    spots: int,
    draws: int,
) -> float:
    """Spearman's correlation of 1/s_i with how far noise on token i alone moves the loss at token i.

    Args:
        model: the network.
        x: windows of the text.
        y: the tokens after them.
        spectral: s_i of each token from position 2 on.
        spots: positions of each window that are tried, evenly spread.
        draws: of the noise, at each; the absolute changes of the loss are averaged.
    """
    generator = torch.Generator().manual_seed(1)
    embeddings = _embedded(model, x)
    size = LOCAL * embeddings.square().mean().sqrt()
    clean = _losses(model.from_embeddings, embeddings, y)
    gains, changes = [], []
    for spot in torch.linspace(NEUTRAL, x.shape[1] - 1, spots).round().long().tolist():
        moved = torch.zeros(len(x), dtype=torch.float64)
        for _ in range(draws):
            noisy = embeddings.clone()
            noisy[:, spot] += size * torch.randn(noisy[:, spot].shape, generator=generator).to(noisy)
            change = _losses(model.from_embeddings, noisy[:, : spot + 1], y[:, : spot + 1])[:, spot] - clean[:, spot]
            moved += change.abs().double().cpu()
        gains.append(1 / spectral[:, spot - NEUTRAL].double())
        changes.append(moved / draws)
    return rank_correlation(torch.cat(gains), torch.cat(changes))


def rank_correlation(first: Float[Tensor, " n"], second: Float[Tensor, " n"]) -> float:
    """Spearman's: the correlation of the ranks, ties sharing their mean rank."""
    ranks = []
    for values in (first, second):
        _, place, counts = values.unique(return_inverse=True, return_counts=True)
        ends = counts.cumsum(0)
        ranks.append((ends - (counts - 1) / 2)[place].double())
    return float(torch.corrcoef(torch.stack(ranks))[0, 1])


def support(margins: Float[Tensor, "windows positions"]) -> Bool[Tensor, "windows positions"]:
    """The tokens with the lowest margins, a share `LOWEST` of all."""
    count = max(1, round(LOWEST * margins.numel()))
    chosen = torch.zeros(margins.numel(), dtype=torch.bool)
    chosen[margins.flatten().topk(count, largest=False).indices] = True
    return chosen.view_as(margins)


def overlaps(chosen: Sequence[Bool[Tensor, "..."]]) -> list[float]:
    """Jaccard overlap of each choice with the others, in the mean over them; two or more choices.

    How to read it: two choices of a share q at random overlap by q / (2 - q), 0.026 for 5 %.
    """
    pairs = [[float((a & b).sum() / (a | b).sum()) for b in chosen if b is not a] for a in chosen]
    return [sum(row) / len(row) for row in pairs]


@torch.no_grad()
def _embedded(model: TokenModel, x: Tensor) -> Tensor:
    return torch.cat([model.embed(part) for part in x.split(BATCH)])


def _ascent(model: TokenModel, embeddings: Tensor, targets: Tensor) -> Tensor:
    """Of each window, the gradient of its loss scaled to the norm of its embeddings."""
    embeddings = embeddings.detach().requires_grad_()
    loss = F.cross_entropy(model.from_embeddings(embeddings).flatten(0, 1), targets.flatten())
    [gradient] = torch.autograd.grad(loss, embeddings)
    norms = [part.detach().flatten(1).norm(dim=1)[:, None, None] for part in (embeddings, gradient)]
    return gradient * norms[0] / norms[1]


@torch.no_grad()
def _losses(answer: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy at each position, (windows, length)."""
    parts = zip(x.split(BATCH), y.split(BATCH), strict=True)
    return torch.cat([F.cross_entropy(answer(one).mT, target, reduction="none") for one, target in parts])


def _loss(answer: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> float:
    return float(_losses(answer, x, y).double().mean())

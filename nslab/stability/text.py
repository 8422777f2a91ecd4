"""Noise stability at given prompts: tokens resampled, or embeddings mixed with Gaussian noise."""

import time
from collections.abc import Callable

import torch
from jaxtyping import Bool, Shaped
from torch import Tensor

from nslab.batches import BatchSize, in_batches
from nslab.noise import Resample
from nslab.protocols import PromptScore, check_mode, check_steady, check_whole
from nslab.stability.embedding_noise import EmbeddingNoise, check_embeddings, correlations
from nslab.stability.prompt_stability import PromptStability
from nslab.stability.prompts import check_own_prompts, check_prompts, row_values, token_values, variants
from nslab.stability.spaces import Scalar

GROUP_NUMBERS = 2**22  # outputs, or numbers of the inputs, of the twins held at once
LEAST_PROMPTS = 3
TURN_ROWS = 128  # prompts up to which every row is turned into as many outputs; beyond, only the mean over twins


def text_stability(
    f: Callable[[Tensor], Tensor] | PromptScore,
    ids: Shaped[Tensor, "..."],
    resample: Resample,
    *,
    keep: Scalar,
    twins: int = 4,
    batch: int | BatchSize | None = None,
    generator: torch.Generator | None = None,
) -> PromptStability:
    r"""Stab(f) = E <f(x), f(y)> at prompts x, y keeping each token with probability `keep` and else redrawing it.

    Args:
        f: token ids (rows, length) to (rows,) or (rows, outputs), row by row, without randomness; of a language model
            `zoo.distribution(model)`. Or a `PromptScore`.
        ids: prompts x (prompts, length), at least 3, independent of each other: real text, or
            `resample.draw((prompts, length))` for the product law; of a score its own, `score.ids`.
        resample: `Resample(0, ...)`, of which the law, the vocabulary and the special tokens are used.
        keep: probabilities in [0, 1] that a token is kept, a number or a tensor (*keep). The paper's rho means
            keep = (1 + rho)/2 (`nslab.noise.paper_keep`), and the eigenvalue per degree is keep, not rho.
        twins: noisy twins of each prompt at each keep; all keep share their randomness (a token is redrawn where its
            uniform number reaches keep, always into the same token).
        batch: rows at once; found automatically by default (see `nslab.batches`).
        generator: source of randomness, on the device of the ids.

    Returns:
        `PromptStability`, with `raw`, `normalised`, `centred`, `loss`, `energy` and `mean_square` as `Estimate`s and
        `interval(version)` for bootstrap intervals over prompts; keep is the last axis.

    How to read it: for prompts of the product law it equals `noise_stability` on `Tokens` with that law, and
    sum_S keep^|S| |f^{=S}|^2. On real text the twin is no longer text of the same kind: stability then mixes how f
    reacts to noise with how it reacts to gibberish, and spectral bounds do not apply.

    Errors: `ValueError` for keep outside [0, 1], fewer than 3 prompts or 1 twin, ids of a wrong shape, dtype or range
    or not of the score, an f that is random, and outputs that are not finite.

    Source: arXiv 2602.08287, section 4, as reported in a digest; the token form is *reconstructed*.

    >>> resample = Resample(0, vocabulary=5)
    >>> prompts = resample.draw((100, 4), torch.Generator().manual_seed(0))
    >>> text_stability(lambda x: (x > 1).double(), prompts, resample, keep=[0.5, 1.0]).normalised.value[1].item()
    1.0
    """
    start = time.perf_counter()
    levels = correlations(keep, "keep")
    allowed = check_prompts(ids, resample, least=LEAST_PROMPTS)
    check_own_prompts(f, ids, "ids")

    def twin(prompt: slice) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        x = ids[prompt].repeat_interleave(twins, 0)  # (prompts twins, length)
        source = {"generator": generator, "device": ids.device}
        fine = {"dtype": _fine(x.device)}  # in single precision 0.999999 is 1.3 % further from 1, and 1 - 1e-9 is 1
        uniform = torch.rand(x.shape, **source, **fine).masked_fill(~allowed[prompt].repeat_interleave(twins, 0), -1)
        fresh = resample.draw(x.shape, **source).to(ids.dtype)
        return lambda row, level: torch.where(uniform[row] < level[:, None], x[row], fresh[row])

    value = lambda x, prompt: token_values(f, x, prompt, "f")  # noqa: E731
    return _measure(value, ids, levels, twins, twin, int(allowed.sum(1).max()), batch, start)


def embedding_stability(
    f: Callable[[Tensor], Tensor] | PromptScore,
    embeddings: Shaped[Tensor, "..."],
    *,
    rho: Scalar,
    twins: int = 4,
    noise: EmbeddingNoise | None = None,
    noisy: Bool[Tensor, "..."] | None = None,
    batch: int | BatchSize | None = None,
    generator: torch.Generator | None = None,
) -> PromptStability:
    r"""Stab(f) = E <f(e), f(y)> at embeddings e with Gaussian twins y of correlation rho, coordinate by coordinate.

    Args:
        f: embeddings (rows, length, width) to (rows,) or (rows, outputs), row by row; or a `PromptScore`, of which
            `from_embeddings(rows, prompt)` is called with the index of each row's prompt.
        embeddings: e (prompts, length, width), at least 3 prompts: of a score its own, `score.embeddings`; else
            `model.embed(ids)`.
        rho: correlations in [0, 1], a number or a tensor (*rho).
        twins: Gaussian twins of each prompt at each rho; all rho share their randomness.
        noise: mean and scale of the noise; by default those of the given embeddings.
        noisy: where noise acts (prompts, length); everywhere by default.
        batch: rows at once; found automatically by default.
        generator: source of randomness, on the device of the embeddings.

    Returns:
        `PromptStability`, as `text_stability`; rho is the last axis.

    How to read it: see `EmbeddingNoise`. Embeddings are not Gaussian, so the curve is not a spectrum.

    Errors: `ValueError` for rho outside [0, 1], fewer than 3 prompts or 1 twin, embeddings of a wrong shape, and
    outputs that are not finite.

    Source: arXiv 2602.08287, section 4 (Gaussian noise), carried to embeddings: ours.
    """
    start = time.perf_counter()
    levels = correlations(rho)
    check_embeddings(embeddings, noisy)
    check_own_prompts(f, embeddings, "embeddings", "from_embeddings")
    check_mode(f, "f")
    if len(embeddings) < LEAST_PROMPTS:
        raise ValueError(f"embeddings holds {len(embeddings)} prompts: an error over prompts needs {LEAST_PROMPTS}")
    embeddings, law = embeddings.detach(), noise or EmbeddingNoise.of(embeddings)
    acts = torch.ones(embeddings.shape[:2], dtype=torch.bool, device=embeddings.device) if noisy is None else noisy

    def twin(prompt: slice) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        e = embeddings[prompt].repeat_interleave(twins, 0)
        where = acts[prompt].repeat_interleave(twins, 0)[..., None]
        z = law.draw(e, generator)
        return lambda row, level: torch.where(where[row], law.twin(e[row], level[:, None, None], z[row]), e[row])

    value = lambda e, prompt: row_values(variants(f, prompt, "from_embeddings"), e, "f")  # noqa: E731
    return _measure(value, embeddings, levels, twins, twin, int(acts.sum(1).max()), batch, start)


def _measure(
    value: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    levels: Tensor,
    twins: int,
    twin: Callable[[slice], Callable],
    coordinates: int,
    batch: int | BatchSize | None,
    start: float,
) -> PromptStability:
    """Evaluate f at the prompts, and at their twins group by group; keep what each prompt says."""
    check_whole(twins=twins)
    if twins < 1:
        raise ValueError(f"twins is {twins}: give at least 1 twin a prompt")
    size, prompts = BatchSize() if batch is None else batch, torch.arange(len(x), device=x.device)
    noisy = [place for place, level in enumerate(levels.flatten().tolist()) if level < 1]
    strengths = levels.flatten()[noisy].to(_fine(x.device)).to(x.device)
    with torch.no_grad():
        base = in_batches(value, x.clone(), prompts, batch=size)  # (prompts, outputs)
        check_steady(lambda: value(x[:2].clone(), prompts[:2]), "f")
        squares = base.square().sum(1)
        turn = torch.linalg.qr(base.mT).Q if base.shape[1] > len(base) else None  # keeps all products with f(x)
        early = turn if len(x) <= TURN_ROWS else None
        values = base if turn is None else base @ turn
        products = squares[:, None].repeat(1, levels.numel())
        changes = torch.zeros_like(products)
        means = values[:, None].repeat(1, levels.numel(), 1)
        kept = values.shape[1] if early is not None else base.shape[1]
        each = max(1, len(noisy) * twins) * max(kept, x[0].numel())
        group = max(1, GROUP_NUMBERS // each) if noisy else len(x)
        for first in range(0, len(x) if noisy else 0, group):
            part = slice(first, first + group)
            make, here = twin(part), prompts[part]
            level = strengths.repeat(twins * len(here))  # rows: (prompts twins strengths)
            row = torch.arange(twins * len(here), device=x.device).repeat_interleave(len(noisy))

            def at_twins(row: Tensor, level: Tensor, make: Callable = make, here: Tensor = here) -> Tensor:
                prompt = here[row // twins]
                return _told(value(make(row, level), prompt), base[prompt.to(base.device)], early)

            found = in_batches(at_twins, row, level, batch=size)  # the prompts have fixed its size
            mean = found.reshape(len(here), twins, len(noisy), -1).mean(1)  # (prompts, strengths, kept + 2)
            products[part, noisy], changes[part, noisy] = mean[..., -2], mean[..., -1]
            means[part, noisy] = mean[..., :-2] if turn is early else mean[..., :-2] @ turn
    levels, count = levels.to(base.device), len(x) * (1 + twins * len(noisy))
    seconds = time.perf_counter() - start
    return PromptStability(levels, products, changes, squares, values, means, coordinates, count, seconds)


def _fine(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64  # MPS has no float64


def _told(y: Tensor, x: Tensor, turn: Tensor | None) -> Tensor:
    """What is kept of a row: f(y), turned if that is cheap, <f(x), f(y)> and |f(x) - f(y)|**2 / 2; (rows, kept + 2)."""
    change = y - x
    numbers = torch.linalg.vecdot(x, y), torch.linalg.vecdot(change, change) / 2
    return torch.cat([y if turn is None else y @ turn, torch.stack(numbers, 1)], 1)

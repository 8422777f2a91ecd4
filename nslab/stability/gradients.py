"""Geometric influence of tokens: the norms of the gradient in their embeddings, all in one backward pass."""

import time
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from nslab.batches import BatchSize, in_batches
from nslab.estimate import Estimate
from nslab.protocols import PromptScore, check_mode, check_whole, evaluate
from nslab.stability.designs import double
from nslab.stability.embedding_noise import EmbeddingNoise, check_embeddings, correlations
from nslab.stability.prompts import check_own_prompts, variants
from nslab.stability.spaces import Scalar


def geometric_influence(
    f: Callable[[Tensor], Tensor] | PromptScore,
    embeddings: Shaped[Tensor, "..."],
    *,
    batch: int | BatchSize | None = None,
) -> Float[Tensor, "prompts length"]:
    r"""$\mathrm{GI}_{b,i} = \|\partial f_b / \partial e_{b,i}\|_2$ for every position at once, by one backward pass.

    Args:
        f: embeddings (rows, length, width) to one number a row (rows,), row by row and differentiable. Or a
            `PromptScore`: its `from_embeddings(rows, prompt)` is called with the index of each row's prompt.
        embeddings: token embeddings e (prompts, length, width): of a score `score.embeddings`, or noisy twins of them;
            else `model.embed(ids)`. Of a masked model these differ: in a score's prompts the mask is in place.
        batch: prompts at once; found automatically by default (see `nslab.batches`).

    Returns:
        (prompts, length), in the units of f per unit of embedding; single precision where the embeddings have less.
        Gradients of parameters are neither computed nor touched.

    How to read it: how fast f changes when token i moves in its own embedding space. It looks at the neighbourhood of
    this prompt only, and it grows with the scale of f and shrinks with the scale of the embeddings: compare profiles
    after dividing by their sum. Averaged over prompts it is E ||d f / d e_i||.

    Errors: `ValueError` for embeddings of another shape or dtype or of other prompts than the score's (their number and
    length are compared), an f that does not give one finite number a row, whose graph is cut, that is in training mode,
    or whose gradient is not finite.

    Source: Keller, Mossel and Sen, Annals of Probability 40(3), 2012 (for sets); the function and its block version
    for tokens are *reconstructed* from it by the co-area formula.

    >>> e = torch.ones(1, 3, 2)
    >>> geometric_influence(lambda e: e[:, 0].sum(-1) + 5 * e[:, 2, 0], e).tolist()
    [[1.414..., 0.0, 5.0]]
    """

    def norms(rows: Tensor, prompt: Tensor) -> Tensor:
        values = _numbers(evaluate(variants(f, prompt, "from_embeddings"), rows, name="f"), rows)
        return _norms(values, [rows])[0]

    _check_source(f, embeddings, "f", "from_embeddings")
    return _each_prompt(norms, embeddings, batch)


def geometric_influence_by_layer(
    trace: Callable[[Tensor], tuple[Tensor, list[Tensor]]] | PromptScore,
    embeddings: Shaped[Tensor, "..."],
    *,
    batch: int | BatchSize | None = None,
) -> Float[Tensor, "layers prompts length"]:
    r"""$\|\partial f_b / \partial h^{(l)}_{b,i}\|_2$ for every hidden state $h^{(0)}, \dots, h^{(L)}$, by one backward.

    Args:
        trace: embeddings (rows, length, width) to a number a row (rows,) and the list of hidden states (rows, length,
            width), all of one graph. Or a `PromptScore`: its `trace(rows, prompt)` is called.
        embeddings: token embeddings (prompts, length, width).
        batch: prompts at once; found automatically by default.

    Returns:
        (layers + 1, prompts, length): entry l is the influence of position i as it enters layer l; the last one is what
        the output reads. Entry 0 equals `geometric_influence` where positions are added to the embeddings.

    How to read it: how influence gathers as depth grows. Where f reads one position, the last entry is zero everywhere
    else: by then attention has carried all there is to that position.

    Errors: as `geometric_influence`, and `ValueError` when trace does not return a pair or a hidden state is not in the
    graph.

    Source: ours.
    """

    def norms(rows: Tensor, prompt: Tensor) -> Tensor:
        found = variants(trace, prompt, "trace")(rows)
        if not isinstance(found, tuple) or len(found) != 2 or not len(found[1]):
            raise ValueError(f"trace returned {type(found).__name__}: return (numbers (rows,), list of hidden states)")
        values = _numbers(evaluate(lambda _: found[0], rows, name="trace"), rows)
        return torch.stack(_norms(values, list(found[1])), 1)  # (rows, layers, length)

    _check_source(trace, embeddings, "trace", "trace")
    return _each_prompt(norms, embeddings, batch).movedim(0, 1)  # (rows, layers, length) -> (layers, rows, length)


def smoothed_influence(
    profile: Callable[[Tensor], Tensor],
    embeddings: Shaped[Tensor, "..."],
    *,
    rho: Scalar,
    twins: int,
    noise: EmbeddingNoise | None = None,
    noisy: Bool[Tensor, "..."] | None = None,
    generator: torch.Generator | None = None,
) -> Estimate:
    r"""The mean of an influence profile over noisy embeddings: $E_z\, \mathrm{GI}(y)$, y the rho-correlated twin of e.

    Args:
        profile: embeddings (prompts, length, width) to (*shape), for example
            `lambda e: geometric_influence(f, e)` or the same by layer. It always gets all prompts in order.
        embeddings: token embeddings e (prompts, length, width).
        rho: correlations in [0, 1], a number or a tensor (*rho).
        twins: Gaussian twins averaged at each rho, at least 2; all rho share their randomness.
        noise: mean and scale of the noise; by default those of the given embeddings, coordinate by coordinate.
        noisy: where noise acts (prompts, length), for example `resample.touches(ids)`; everywhere by default.
        generator: source of randomness, on the device of the embeddings.

    Returns:
        `Estimate` of shape (*shape, *rho), float64. At rho = 1 it is the profile itself, without error.

    How to read it: at rho = 1 the influence at the prompt; at smaller rho the influence in a cloud around it that
    reaches further and at rho = 0 forgets the prompt. The gradient is taken at the twin, with respect to the twin.

    Errors: `ValueError` for rho outside [0, 1], fewer than 2 twins, and as `profile`.

    Source: ours; geometric influence as the mean over Gaussian space that Keller, Mossel and Sen take.
    """
    start = time.perf_counter()
    check_embeddings(embeddings, noisy)
    levels = correlations(rho)
    check_whole(twins=twins)
    if twins < 2:
        raise ValueError(f"twins is {twins}: a standard error needs at least 2")
    embeddings = embeddings.detach()
    noise = noise or EmbeddingNoise.of(embeddings)
    means, squares = [None] * levels.numel(), [0.0] * levels.numel()
    for count in range(1, twins + 1):
        z = noise.draw(embeddings, generator)
        for place, level in enumerate(levels.flatten().tolist()):
            if level == 1 and count > 1:
                continue
            twin = noise.twin(embeddings, level, z) if level < 1 else embeddings
            found = double(profile(twin if noisy is None else torch.where(noisy[..., None], twin, embeddings)))
            step = found if means[place] is None else found - means[place]
            means[place] = found if count == 1 else means[place] + step / count
            squares[place] = torch.zeros_like(found) if count == 1 else squares[place] + step**2 * (count - 1) / count
    value, spread = (torch.stack(parts, -1).unflatten(-1, levels.shape or (1,)) for parts in (means, squares))
    if not levels.ndim:
        value, spread = value[..., 0], spread[..., 0]
    return Estimate(value, (spread / (twins * (twins - 1))).sqrt(), twins, time.perf_counter() - start)


def _each_prompt(norms: Callable, embeddings: Tensor, batch: int | BatchSize | None) -> Tensor:
    """Norms for leaves made from slices of the embeddings, with gradients on whatever the caller has switched off."""

    def leaf(rows: Tensor, prompt: Tensor) -> Tensor:
        return norms(rows.detach().clone().requires_grad_(), prompt)

    with torch.inference_mode(False), torch.enable_grad():
        prompts = torch.arange(len(embeddings), device=embeddings.device)
        return in_batches(leaf, embeddings.clone(), prompts, batch=batch)


def _check_source(f: Callable | PromptScore, embeddings: Tensor, name: str, entry: str) -> None:
    check_embeddings(embeddings)
    check_mode(f, name)
    check_own_prompts(f, embeddings, "embeddings", entry, clean=False)  # they may be noisy


def _numbers(values: Tensor, rows: Tensor) -> Tensor:
    if values.ndim != 1 or values.is_complex():
        raise ValueError(
            f"f returned {values.dtype} of shape {tuple(values.shape)} for {len(rows)} rows: an influence needs one"
            f" real number a row, shape ({len(rows)},); select an output"
        )
    return values


def _norms(values: Tensor, states: list[Tensor]) -> list[Tensor]:
    """The norms of the rows' gradients in each state, (rows, length). Nothing but the way to the states is computed."""
    found = [None]
    if values.requires_grad and all(state.requires_grad for state in states):
        found = torch.autograd.grad(values.sum(), states, allow_unused=True)
    if any(gradient is None for gradient in found):
        raise ValueError("f returned values without a gradient: use torch operations, without detach or no_grad")
    norms = [torch.linalg.vector_norm(gradient, dim=-1, dtype=_fine(gradient.dtype)) for gradient in found]
    for norm in norms:
        if not bool(norm.isfinite().all()):
            row = int((~norm.isfinite()).any(1).nonzero()[0])
            raise ValueError(
                f"the gradient of f is NaN or infinite in row {row} of {len(norm)}: f has no derivative there, or it"
                " overflows its dtype; use torch.float32 embeddings or a smooth f"
            )
    return norms


def _fine(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)

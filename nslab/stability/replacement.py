"""Discrete influence of tokens: how much a function changes when one token of a prompt is drawn anew."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from nslab.batches import BatchSize, in_batches
from nslab.estimate import Estimate
from nslab.noise import Resample
from nslab.protocols import PromptScore, check_steady, check_whole
from nslab.stability.prompts import check_own_prompts, check_prompts, token_values

CHANGES = 2**20  # replaced tokens listed at once


@dataclass(frozen=True, eq=False, repr=False)
class TotalInfluence(Estimate):
    """An `Estimate` of total influence that keeps what each prompt says.

    Attributes:
        by_prompt: the estimate of each prompt (prompts,), float64; `value` is their mean.
        pairs: (prompt, position) pairs looked at.
        evaluations: prompts at which f was evaluated, the unchanged ones included; repeats cost nothing.
        squares: |f(x)|**2 by prompt (prompts,), by which `tail_comparison` knows f and the prompts again.
    """

    by_prompt: Float[Tensor, " prompts"]
    pairs: int
    evaluations: int
    squares: Float[Tensor, " prompts"]


def discrete_influence(
    score: Callable[[Tensor], Tensor] | PromptScore,
    ids: Shaped[Tensor, "..."],
    resample: Resample,
    *,
    samples: int | Literal["exact"],
    positions: Sequence[int] | None = None,
    batch: int | BatchSize | None = None,
    generator: torch.Generator | None = None,
) -> Estimate:
    r"""$\mathrm{Inf}_i(f; x) = \frac12 E_t |f(x) - f(x_{i \to t})|^2$, token i of prompt x drawn anew from the law.

    Args:
        score: token ids (rows, length) to (rows,) or (rows, outputs), row by row, without randomness; several outputs
            add up. Or a `PromptScore`.
        ids: prompts x (prompts, length); of a score its own, `score.ids`.
        resample: `Resample(0, ...)`, of which the law, the vocabulary and the special tokens are used.
        samples: replacements drawn at each position, at least 2, or "exact": every token of the law, weighted. That
            is worth it for characters.
        positions: the positions to look at, all by default.
        batch: rows at once; found automatically by default (see `nslab.batches`).
        generator: source of randomness, on the device of the ids.

    Returns:
        `Estimate` (prompts, length) or (prompts, len(positions)), float64; 0 ± 0 at special tokens. The error is that
        of the drawn replacements, at these prompts; "exact" has none, and its `samples` counts the replacements.

    How to read it: in squared units of f. The mean over prompts drawn from the product law is
    $E[\mathrm{Var}_{x_i} f]$, the influence of `nslab.stability.influences`; at a single prompt, or at real text, it
    can be larger than the variance of f. Each prompt is evaluated once, each distinct variant once, and variants equal
    to the prompt not at all.

    Errors: `ValueError` for ids of a wrong shape, dtype or range or not of the score, too few samples, positions
    outside the prompt or repeated, an f that is random, and outputs that are not finite.

    Source: *reconstructed* from Efron and Stein (1981). Vasudeva et al. (2025) count changed predictions instead.

    >>> found = discrete_influence(lambda x: 2.0 * x[:, 0], torch.tensor([[0, 1]]), Resample(0, 2), samples="exact")
    >>> found.value.tolist()
    [[1.0, 0.0]]
    """
    start = time.perf_counter()
    allowed = check_prompts(ids, resample)
    check_own_prompts(score, ids, "ids")
    chosen = _positions(positions, ids.shape[1]).to(ids.device)
    if isinstance(samples, str) and samples != "exact":
        raise ValueError(f"samples is {samples!r}: give a number of replacements, or 'exact'")
    check_whole(samples=None if samples == "exact" else samples)
    if samples != "exact" and samples < 2:
        raise ValueError(f"samples is {samples}: a standard error needs at least 2 replacements, or give 'exact'")
    law = resample.probabilities()
    every = law.nonzero()[:, 0]
    draws = len(every) if samples == "exact" else samples
    changes = _Changes(score, ids, resample.vocabulary, batch)
    value = changes.base.new_zeros(len(ids), len(chosen))
    error = torch.zeros_like(value)
    group = max(1, CHANGES // (len(chosen) * draws))
    with torch.no_grad():
        for first in range(0, len(ids), group):
            prompt, column = allowed[first : first + group][:, chosen].nonzero().unbind(1)  # (sites,)
            prompt, shape = prompt + first, (len(prompt), draws)
            if samples == "exact":
                token = every.to(ids.device).expand(shape)
            else:
                token = resample.draw(shape, generator=generator, device=ids.device)
            sites = prompt[:, None].expand(shape), chosen[column][:, None].expand(shape), token
            found = changes(*(part.reshape(-1) for part in sites)).reshape(shape)
            at = prompt.to(value.device), column.to(value.device)
            if samples == "exact":
                value[at] = found @ law[every].to(found)
            else:
                value[at] = found.mean(1)
                error[at] = found.std(1) / draws**0.5
    return Estimate(value, error, draws, time.perf_counter() - start)


def total_influence(
    score: Callable[[Tensor], Tensor] | PromptScore,
    ids: Shaped[Tensor, "..."],
    resample: Resample,
    *,
    pairs: int,
    batch: int | BatchSize | None = None,
    generator: torch.Generator | None = None,
) -> TotalInfluence:
    r"""$I(f) = E_x \sum_i \mathrm{Inf}_i(f; x)$, the mean over prompts of the summed influences, from sampled pairs.

    Formula: of the $n_p$ positions of prompt p that are not special, m = pairs // prompts are drawn without repetition
    (beyond $n_p$ in rounds), with one fresh token each; $\hat I_p$ is $n_p$ times their mean, and $\hat I$ the mean of
    the $\hat I_p$.

    Args:
        score: as in `discrete_influence`.
        ids: prompts (prompts, length), at least 2, independent of each other; of a score its own, `score.ids`.
        resample: as in `discrete_influence`.
        pairs: (prompt, position) pairs to look at, at least one a prompt; rounded down to equally many a prompt.
        batch: rows at once; found automatically by default.
        generator: source of randomness, on the device of the ids.

    Returns:
        `TotalInfluence`, a number. Prompts are the independent draws: the error is the spread of the $\hat I_p$ over
        the root of their number, so it covers the choice of prompts, positions and tokens together.

    How to read it: in squared units of f. Divided by E f**2 it is the mean degree of f, if the prompts were drawn from
    the product law; at real text it is a mean of local sensitivities and no theorem ties it to a spectrum.

    Errors: `ValueError` for fewer than 2 prompts or fewer pairs than prompts, and as `discrete_influence`.

    Source: ours; the sum is *reconstructed* as in `discrete_influence`.
    """
    start = time.perf_counter()
    allowed = check_prompts(ids, resample, least=2)
    check_own_prompts(score, ids, "ids")
    check_whole(pairs=pairs)
    prompts = len(ids)
    if pairs < prompts:
        raise ValueError(f"pairs is {pairs} for {prompts} prompts: give at least one pair a prompt, or fewer prompts")
    each, source = pairs // prompts, {"generator": generator, "device": ids.device}
    with torch.no_grad():
        keys = torch.rand(ids.shape, **source).masked_fill(~allowed, 2.0)  # special positions come last
        order, count = keys.argsort(1), allowed.sum(1)
        rounds = torch.arange(each, device=ids.device) % count.clamp(min=1)[:, None]  # (prompts, each)
        position = order.gather(1, rounds)
        token = resample.draw((prompts, each), **source)
        token = torch.where(allowed.gather(1, position), token, ids.gather(1, position).long())
        changes = _Changes(score, ids, resample.vocabulary, batch)
        prompt = torch.arange(prompts, device=ids.device)[:, None].expand(prompts, each)
        found = changes(*(part.reshape(-1) for part in (prompt, position, token))).reshape(prompts, each)
    by_prompt = count.to(found.device) * found.mean(1)
    error = by_prompt.std() / prompts**0.5
    seconds = time.perf_counter() - start
    price = prompts * each, changes.evaluations
    return TotalInfluence(by_prompt.mean(), error, prompts, seconds, by_prompt, *price, changes.base.square().sum(1))


class _Changes:
    """Half squared changes of f when one token is replaced. The prompts themselves are evaluated once, at the start."""

    def __init__(self, score: Callable | PromptScore, ids: Tensor, vocabulary: int, batch: int | BatchSize | None):
        self.score, self.ids, self.vocabulary = score, ids, vocabulary
        self.size = BatchSize() if batch is None else batch
        prompts = torch.arange(len(ids), device=ids.device)
        with torch.no_grad():
            self.base = in_batches(self._values, ids.clone(), prompts, batch=self.size)  # (prompts, outputs)
        check_steady(lambda: self._values(ids[:2].clone(), prompts[:2]), "score")
        self.evaluations = len(ids)  # what checks cost is not counted

    def __call__(self, prompt: Tensor, position: Tensor, token: Tensor) -> Tensor:
        """|f(x) - f(x')|**2 / 2 for each (prompt, position, token), every distinct x' evaluated once, (changes,)."""
        moved = token != self.ids[prompt, position]
        code = (prompt * self.ids.shape[1] + position) * self.vocabulary + token
        distinct, inverse = torch.unique(code[moved], return_inverse=True)
        self.evaluations += len(distinct)
        found = self.base.new_zeros(len(code))
        if len(distinct):
            found[moved.to(found.device)] = in_batches(self._one, distinct, batch=self.size)[inverse.to(found.device)]
        return found

    def _one(self, code: Tensor) -> Tensor:
        site, token = code // self.vocabulary, code % self.vocabulary
        prompt, position = site // self.ids.shape[1], site % self.ids.shape[1]
        rows = self.ids[prompt].scatter(1, position[:, None], token[:, None].to(self.ids.dtype))
        return (self.base[prompt.to(self.base.device)] - self._values(rows, prompt)).square().sum(1) / 2

    def _values(self, rows: Tensor, prompt: Tensor) -> Tensor:
        return token_values(self.score, rows, prompt, "score")


def _positions(positions: Sequence[int] | None, length: int) -> Tensor:
    chosen = list(range(length)) if positions is None else [int(i) for i in positions]
    if not chosen or len(set(chosen)) < len(chosen) or not all(0 <= i < length for i in chosen):
        raise ValueError(f"positions is {chosen}: give distinct positions from 0 to {length - 1}")
    return torch.tensor(chosen)

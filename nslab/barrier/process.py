r"""Causal attention as a stochastic process: when the laws of n and of n + 1 tokens agree, and when they do not.

*Words.* Kernels $p(w_{t+1} \mid w_{\le t})$ make laws $P_n$ with $\sum_{w_{n+1}} P_{n+1} = P_n$, and so one law of
endless sequences (Ionescu-Tulcea). A kernel that also looks at the final length n makes laws that do not fit together.

*Embeddings.* $p(u_i \mid u_{<i}) = N(e(u_i); 0, \sigma^2)\,|\det J_i|$ is such a kernel only if it is normalised. Its
integral is $Z(u_{<i}) \ge 1$, the expected number of tokens that explain one noise, and $Z > 1$ breaks consistency.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nslab.barrier.checks import attention_weights, check_embeddings, check_matrix, upcast, without_autocast
from nslab.barrier.moments import causal_moments
from nslab.protocols import check_whole

Kernel = Callable[[Tensor, int], Tensor]  # words (rows, t) and the final length to probabilities (rows, vocabulary)

ENUMERATED = 2**20  # sequences that are enumerated at most
NEWTON_STEPS, HALVINGS, RANDOM_STARTS = 60, 14, 100
GRID, TAILS = 8001, 9.0  # points on the line, and how many sigma they reach beyond the past


@dataclass(frozen=True, eq=False)
class AttentionWords:
    r"""One attention layer as a kernel of words: the slot to be filled looks at the words before it.

    Formula: $p(w_{t+1} = v \mid w_{\le t}) = \mathrm{softmax}_v\, E_v^\top (\mu_t + q_t)$, with $\mu_t$ the attention
    mean over $u_s = E_{w_s} + q_s$ and $q_t$ the position of the slot, which is also its query.

    Attributes:
        embedding: E (vocabulary, p).
        scores: A (p, p).
        positions: q (longest, p).
        causal: False lets the slot look at the empty slots behind it too: the weights then know the final length.
        from_end: True counts positions from the end, which only the final length tells.

    How to read it: with the defaults `length` is ignored and the laws are consistent; each of the two switches breaks
    them (`consistency_gap`). Source: *ours*.
    """

    embedding: Float[Tensor, "vocabulary p"]
    scores: Float[Tensor, "p p"]
    positions: Float[Tensor, "longest p"]
    causal: bool = True
    from_end: bool = False

    def __call__(self, words: Int[Tensor, "rows t"], length: int) -> Float[Tensor, "rows vocabulary"]:
        """Probabilities of the word after `words`, in a sequence that will be `length` long."""
        if length > len(self.positions):
            raise ValueError(f"length is {length}, but there are {len(self.positions)} positions: give more of them")
        slot, slots = words.shape[1], torch.arange(length, device=words.device)
        filled = torch.nn.functional.pad(self.embedding[words], (0, 0, 0, length - slot))  # (rows, length, p)
        x = filled + self.positions[length - 1 - slots if self.from_end else slots]
        seen = slots < slot if self.causal else slots != slot
        query = x[:, slot]
        weights = attention_weights((x @ (query @ self.scores.mT)[..., None])[..., 0], seen)
        mean = (weights[:, None, :] @ x)[:, 0]
        return ((mean + query) @ self.embedding.mT).softmax(-1)


def word_law(
    kernel: Kernel, vocabulary: int, length: int, *, device: torch.device | str | None = None
) -> Float[Tensor, "..."]:
    r"""The law of the first n words, by enumeration: $P_n(w) = \prod_{t<n} p(w_{t+1} \mid w_{\le t})$.

    Args:
        kernel: words (rows, t) and the final length n to probabilities (rows, vocabulary); t = 0 is asked with one row.
        vocabulary: number of words.
        length: n.
        device: of the words handed to the kernel; the CPU by default.

    Returns:
        (vocabulary, ..., vocabulary) with n axes, one for each word; it sums to 1.

    Errors: `ValueError` for more than about a million sequences, and a kernel that returns another shape or no
    probabilities.

    Source: *reconstructed*.
    """
    check_whole(vocabulary=vocabulary, length=length)
    if vocabulary < 1 or length < 1 or vocabulary**length > ENUMERATED:
        raise ValueError(
            f"vocabulary is {vocabulary}, length {length}: between 1 and {ENUMERATED} sequences are enumerated; give "
            "fewer words or a shorter sequence"
        )
    words = torch.zeros(1, 0, dtype=torch.int64, device=device)
    law = None
    for _ in range(length):
        chances = kernel(words, length)
        if chances.shape != (len(words), vocabulary):
            expected = (len(words), vocabulary)
            raise ValueError(f"kernel returned shape {tuple(chances.shape)}: it must return probabilities {expected}")
        whole = chances.sum(-1)
        if not bool((chances >= 0).all() and ((whole - 1).abs() < 1e-4).all()):
            raise ValueError("kernel returned rows that are no probabilities: apply softmax(-1) to its logits")
        law = chances if law is None else law.reshape(-1, 1) * chances
        after = torch.arange(vocabulary, device=words.device).repeat(len(words))
        words = torch.cat([words.repeat_interleave(vocabulary, 0), after[:, None]], 1)
    return law.reshape((vocabulary,) * length)


def consistency_gap(
    kernel: Kernel, vocabulary: int, length: int, *, device: torch.device | str | None = None
) -> Float[Tensor, ""]:
    r"""How far $\sum_{w_{n+1}} P_{n+1}$ is from $P_n$, as a total variation distance in [0, 1].

    Args: as `word_law`, with n = `length`.

    How to read it: 0, to rounding, for every kernel that ignores the final length. Otherwise, the share of
    probability that moves among the first n words because a sequence goes on after them.

    Source: *reconstructed*.
    """
    longer = word_law(kernel, vocabulary, length + 1, device=device).sum(-1)
    return (longer - word_law(kernel, vocabulary, length, device=device)).abs().sum() / 2


@dataclass(frozen=True, eq=False)
class JointSample:
    """Draws of the joint model.

    Attributes:
        embeddings: u (count, n, p).
        noise: the noise that each embedding explains, (count, n, p): `residuals(u, scores)` gives it back.
        words: the word after each position, (count, n); None without a decoder.
    """

    embeddings: Float[Tensor, "count n p"]
    noise: Float[Tensor, "count n p"]
    words: Int[Tensor, "count n"] | None


@torch.no_grad()
@without_autocast
def sample_process(
    scores: Float[Tensor, "..."],
    sigma: float | int,
    length: int,
    count: int,
    *,
    decoder: Callable[[Tensor], Tensor] | None = None,
    generator: torch.Generator | None = None,
) -> JointSample:
    r"""Draws from the model: noise, then the token that explains itself by it, then a word.

    Formula: $\varepsilon_i \sim N(0, \sigma^2 I)$, $u_i = \mu_i(u_1..u_i) + \varepsilon_i$,
    $w_{i+1} \sim p(w \mid u_{\le i})$.

    Args:
        scores: A (p, p); the draws take its dtype and device.
        sigma: standard deviation of the noise in each direction.
        length: n.
        count: independent sequences.
        decoder: embeddings (count, i, p) to probabilities (count, vocabulary) of the next word; None for no words.
        generator: source of randomness, on the device of the scores.

    Returns:
        `JointSample`.

    How to read it: where every token has one solution the draws have the density of `log_density`. Where it has
    several, `solve_token` takes one of them: the draws are still a consistent process, and their density is
    that of `log_density` on the tokens that would be taken and 0 on all others. Words do not act back on embeddings.

    Errors: as `solve_token`; `ValueError` for a sigma that is not positive, a length or count below 0.

    Source: *reconstructed*.
    """
    (scores,) = upcast(scores)
    check_matrix("scores", scores, scores.shape[-1])
    check_whole(length=length, count=count)
    if not (math.isfinite(sigma) and sigma > 0) or length < 0 or count < 0:
        raise ValueError(f"sigma is {sigma}, length {length}, count {count}: give a positive sigma and whole numbers")
    u = scores.new_zeros(count, 0, scores.shape[-1])
    noise = scores.new_empty(count, length, scores.shape[-1]).normal_(0, sigma, generator=generator)
    words = []
    for i in range(length):
        u = torch.cat([u, solve_token(u, noise[:, i], scores)[:, None]], 1)
        if decoder is not None:
            words.append(torch.multinomial(decoder(u), 1, generator=generator))
    return JointSample(u, noise, None if decoder is None else torch.cat([noise.new_empty(count, 0).long(), *words], 1))


@torch.no_grad()
@without_autocast
def solve_token(
    past: Float[Tensor, "..."],
    noise: Float[Tensor, "..."],
    scores: Float[Tensor, "..."],
    *,
    start: Float[Tensor, "..."] | None = None,
) -> Float[Tensor, "..."]:
    r"""A token that is its own attention mean plus a given noise: a solution of $u = \mu(u) + \varepsilon$.

    Args:
        past: $u_{<i}$ (*batch, i, p); i may be 0.
        noise: $\varepsilon$ (*batch, p).
        scores: A (p, p).
        start: where Newton's method begins (*batch, p); by default at the noise plus the plain mean of the past.

    Returns:
        (*batch, p), to rounding.

    How to read it: a solution always exists, since $\mu$ stays in the convex hull of the past. It is the only one
    where the `safe_temperature` of the scores and the diameter of the whole past is above 1. Otherwise another `start`
    may find another one, and how many there are is not known beyond one dimension. Newton's method with the block
    $J = I - \Sigma A$ goes downhill in $|u - \mu(u) - \varepsilon|$; where it is caught at a fold it begins anew, at
    the noise plus each past token and then plus mixtures of them: every solution is the noise plus such a mixture.

    Errors: `RuntimeError` when no start leads to a solution, and how many tokens have none: seen only for scores so
    strong that attention is all but hard. `ValueError` as `causal_moments`, and for shapes that do not fit.

    Source: *reconstructed*.
    """
    past, noise, scores = upcast(past, noise, scores)
    check_embeddings(past, "past")
    if noise.shape != past.shape[:-2] + past.shape[-1:]:
        raise ValueError(f"noise has shape {tuple(noise.shape)}, the past {tuple(past.shape)}: give (*batch, width)")
    if start is not None and start.shape != noise.shape:
        raise ValueError(f"start has shape {tuple(start.shape)}, the noise {tuple(noise.shape)}: give one shape")
    flat, target = past.flatten(0, -3) if past.ndim > 2 else past[None], noise.reshape(-1, noise.shape[-1])
    first = [] if start is None else [start.to(target).reshape(target.shape)]
    mixtures = _mixtures(flat)  # (attempts, i)
    found, left = torch.empty_like(target), torch.arange(len(target), device=target.device)
    for attempt in range(-len(first), len(mixtures)):
        begin = first[0] if attempt < 0 else target[left] + mixtures[attempt] @ flat[left]
        found[left], solved = _newton(flat[left], target[left], scores, begin)
        left = left[~solved]
        if not len(left):
            return found.view_as(noise)
    raise RuntimeError(
        f"{len(left)} of {len(target)} tokens have no solution within reach of {len(mixtures)} starts: scale the "
        "scores down, or pass start="
    )


@without_autocast
def next_token_area(
    past: Float[Tensor, "..."], scores: Float[Tensor, "..."], sigma: float | int
) -> Float[Tensor, "..."]:
    r"""What the density of the next token integrates to, on the line: $Z(u_{<i}) = \int N(e(u); 0, \sigma^2)
    |e'(u)|\, du$.

    Args:
        past: $u_{<i}$ (*batch, i, 1).
        scores: A (1, 1).
        sigma: standard deviation of the noise.

    Returns:
        (*batch), at least 1: the expected number of tokens that explain one noise.

    How to read it: 1 means that $p(u_i \mid u_{<i})$ is a density. Otherwise marginalising $p(u_1..u_i)$ over $u_i$
    gives $Z(u_{<i})\, p(u_1..u_{i-1})$: the laws are not consistent. Computed as the total variation of
    $\Phi(e(u)/\sigma)$ along a grid of 8001 points, which errs at the folds alone, downwards: by about
    1e-5 where attention is smooth, by up to 2e-3 where it is all but hard.

    Errors: `ValueError` for embeddings wider than 1 and a sigma that is not positive.

    Source: *reconstructed*.

    >>> past = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
    >>> next_token_area(past, torch.tensor([[2.0]], dtype=torch.float64), 0.5).item()
    1.8117...
    """
    past, scores = upcast(past, scores)
    check_embeddings(past, "past")
    check_matrix("scores", scores, past.shape[-1])
    if past.shape[-1] != 1:
        raise ValueError(f"past is {past.shape[-1]} wide: areas are computed on the line, for width 1")
    if not (math.isfinite(sigma) and sigma > 0):
        raise ValueError(f"sigma is {sigma}: the noise needs a positive standard deviation")
    tokens = past if past.shape[-2] else torch.zeros_like(past.sum(-2, keepdim=True))  # an empty past has mean 0
    low, high = tokens.amin(-2) - TAILS * sigma, tokens.amax(-2) + TAILS * sigma  # (*batch, 1)
    u = low + (high - low) * torch.linspace(0, 1, GRID, dtype=past.dtype, device=past.device)  # (*batch, grid)
    weights = (scores * u[..., None] * tokens.mT).softmax(-1)  # (*batch, grid, 1) * (*batch, 1, i)
    noise = u - (weights @ tokens)[..., 0]
    return torch.special.ndtr(noise / sigma).diff(dim=-1).abs().sum(-1)


def consistent_for_every_past(scores: Float[Tensor, "..."]) -> bool:
    r"""Whether the densities of all lengths fit together whatever was drawn before.

    Formula: $\tfrac12 (A + A^\top) \preceq 0$.

    How to read it: the exact condition, for identity values. If it holds, the eigenvalues of $\Sigma A$, which are
    those of $\Sigma^{1/2} A \Sigma^{1/2}$, have real parts of at most 0, so $\det J \ge 1$ everywhere and $Z = 1$. If
    not, take two past tokens whose difference $\delta$ has $\delta^\top A \delta > 4$: between two hyperplanes the
    determinant of the third is negative and Z > 1. Gaussian noise reaches such pasts with positive probability,
    however small A is. So a model that attends to what is alike is consistent only in contexts of bounded
    diameter, where `safe_temperature` is above 1; a model that attends to what is unlike is always.

    Errors: `ValueError` for a matrix that is not square.

    Source: *ours*.

    >>> consistent_for_every_past(torch.tensor([[-1.0, 5.0], [-5.0, 0.0]]))
    True
    """
    (scores,) = upcast(scores)
    check_matrix("scores", scores, scores.shape[-1])
    values = torch.linalg.eigvalsh((scores + scores.mT) / 2)
    return bool(values[-1] <= torch.finfo(scores.dtype).eps ** 0.75 * scores.abs().max())


def _mixtures(past: Tensor) -> Tensor:
    """Weights of past tokens that starts are made of: all alike, each alone, and a fixed random set; (attempts, i)."""
    tokens = past.shape[1]
    alone = torch.eye(tokens, dtype=past.dtype)
    drawn = torch.randn(RANDOM_STARTS, tokens, dtype=past.dtype, generator=torch.Generator().manual_seed(0))
    return torch.cat([torch.ones(1, tokens) / max(tokens, 1), alone, (4 * drawn).softmax(-1)]).to(past)


def _newton(past: Tensor, noise: Tensor, scores: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """Newton's method with halved steps; the points it ends at (rows, p), and which of them are solutions (rows,)."""
    eps = torch.finfo(u.dtype).eps
    close = 64 * eps * (1 + noise.norm(dim=-1) + past.norm(dim=-1).sum(-1) / max(past.shape[1], 1))
    row = torch.tensor([past.shape[1]], device=u.device)

    def equation(u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        moments = causal_moments(torch.cat([past, u[:, None]], 1), scores, rows=row)
        rest = u - moments.mean[:, 0] - noise
        return rest, rest.norm(dim=-1), moments.covariance[:, 0] @ scores

    eye = torch.eye(u.shape[-1], dtype=u.dtype, device=u.device)
    rest, size, inner = equation(u)
    for _ in range(NEWTON_STEPS):
        active = size > close
        if not bool(active.any()):
            break
        step, failed = torch.linalg.solve_ex(eye - inner, rest[..., None])
        good = (failed == 0) & step.isfinite().all(-2).all(-1)
        step = torch.where(good[:, None], step[..., 0], rest)  # on the boundary itself: one fixed-point step
        share = active.to(u.dtype)
        for _ in range(HALVINGS):
            trial = equation(u - share[:, None] * step)
            worse = active & ~(trial[1] < (1 - 0.1 * share) * size)
            if not bool(worse.any()):
                break
            share = torch.where(worse, share / 2, share)
        moved = (active & ~worse)[:, None]
        if not bool(moved.any()):
            break
        u = torch.where(moved, u - share[:, None] * step, u)
        rest, size, inner = equation(u)
    return u, size <= close

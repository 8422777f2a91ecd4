"""How a function is asked for its values at variants of given prompts, and bootstrap intervals over prompts."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Integer, Shaped
from torch import Tensor

from nslab.estimate import Interval, bootstrap
from nslab.noise import Resample
from nslab.protocols import PromptScore, check_mode, evaluate
from nslab.stability.designs import double

LEAST_FOR_INTERVAL = 8  # with fewer, a bootstrap sample may well hold one prompt only, which has no variance


@dataclass(frozen=True)
class OverPrompts:
    """A number measured at prompts, with a bootstrap interval over them.

    Attributes:
        value: any shape.
        interval: how far it moves when the prompts are drawn again from those at hand, the same shape.

    How to read it: the interval says what other prompts of the same kind would give; it holds the error of sampled
    replacements too. With fewer than about 20 prompts it is too short.
    """

    value: Shaped[Tensor, "..."]
    interval: Interval

    def __str__(self) -> str:
        flat = (self.value, self.interval.low, self.interval.high)
        rows = zip(*(tensor.flatten().tolist() for tensor in flat), strict=True)
        texts = [f"{value:.4g} [{low:.4g}, {high:.4g}]" for value, low, high in rows]
        return texts[0] if not self.value.ndim else f"({', '.join(texts)})"

    def __repr__(self) -> str:
        return f"OverPrompts({self})"


def variants(f: Callable | PromptScore, prompt: Integer[Tensor, " rows"], entry: str | None = None) -> Callable:
    """The function for rows that are variants of these prompts.

    Of a score, `for_prompts(prompt)`; or, to enter it at embeddings, its method `entry`, which then takes the rows and
    their prompts.
    """
    f = score_behind(f, entry)
    if not isinstance(f, PromptScore):
        return f
    if entry is None:
        return f.for_prompts(prompt)
    if not hasattr(f, entry):
        raise ValueError(f"{type(f).__name__} has no method {entry}: a score is entered there at embeddings")
    return lambda rows: getattr(f, entry)(rows, prompt)


def score_behind(f: Callable | PromptScore, entry: str | None) -> Callable | PromptScore:
    """The score whose bound method `entry` f is, or f itself."""
    owner = getattr(f, "__self__", None)
    return owner if entry and isinstance(owner, PromptScore) and getattr(owner, entry, None) == f else f


def check_own_prompts(
    f: Callable | PromptScore, x: Tensor, name: str, entry: str | None = None, *, clean: bool = True
) -> None:
    """Refuse prompts, given as ids or embeddings x, that are not those a score was made for.

    A score without `ids` is believed; so is any embedding of the right shape unless it should be the `clean` one.
    """
    score = score_behind(f, entry)
    ids = getattr(score, "ids", None)
    if ids is None or not isinstance(score, PromptScore):
        return
    if x.shape[:2] != ids.shape:
        own, here = (f"{rows} prompts of {length} tokens" for rows, length in (ids.shape, x.shape[:2]))
        raise ValueError(
            f"the score was made for {own} and {name} has {here}: cut the score with the prompts, as in score[6:], or"
            " make it anew"
        )
    if not clean or (x.ndim == 3 and not hasattr(score, "embeddings")):
        return
    wrong = (x != ids.to(x.device)) if x.ndim == 2 else (x != score.embeddings.to(x)).any(-1)
    if bool(wrong.any()):
        prompt, position = wrong.nonzero()[0].tolist()
        raise ValueError(
            f"{name} differs from score.{'ids' if x.ndim == 2 else 'embeddings'} in prompt {prompt} at position"
            f" {position}: give those of the score (in a masked model's the mask stands), or make the score anew"
        )


def row_values(f: Callable[[Tensor], Tensor], x: Tensor, name: str) -> Tensor:
    """f(x) checked, (rows, outputs) in double precision."""
    values = evaluate(f, x, name=name)
    if values.is_complex():
        raise ValueError(f"{name} returned {values.dtype}: give real outputs, for example their real part")
    if values.ndim > 2:
        raise ValueError(
            f"{name} returned shape {tuple(values.shape)}: give one number a row, or one axis of outputs; of a language"
            f" model zoo.distribution(model); to compare all places at once, flatten them, {name}(ids).flatten(1)"
        )
    return double(values.detach()).reshape(len(x), -1)


def token_values(f: Callable | PromptScore, ids: Tensor, prompt: Tensor, name: str) -> Tensor:
    """Values of a callable or a score at token ids (rows, length), (rows, outputs). f gets ids of its own."""
    check_mode(f, name)
    return row_values(variants(f, prompt), ids, name)


def check_prompts(ids: Tensor, resample: Resample, least: int = 1) -> Tensor:
    """Where noise may act on prompts (prompts, length), refused in another shape or when there are too few."""
    if ids.ndim != 2 or 0 in ids.shape:
        raise ValueError(f"ids has shape {tuple(ids.shape)}: give (prompts, length), and ids[None] for one prompt")
    if resample.keep != 0:
        raise ValueError(
            f"resample.keep is {resample.keep}, and here it would count for nothing: give Resample(0, ...), of which"
            " the law is used; the strength of the noise is text_stability's own keep="
        )
    if len(ids) < least:
        raise ValueError(f"ids holds {len(ids)} prompts: an error over prompts needs at least {least}")
    return resample.touches(ids)


def bootstrap_prompts(
    statistic: Callable[[Tensor], Tensor], prompts: int, device: torch.device, **options
) -> tuple[Tensor, Interval]:
    """A statistic of weights on prompts, with its bootstrap interval.

    Args:
        statistic: weights (rows, prompts) in double precision to (rows, *shape); a weight says how often a prompt
            counts.
        prompts: how many there are.
        device: of the weights.
        **options: `level`, `resamples` and `generator` of `estimate.bootstrap`.
    """
    if prompts < LEAST_FOR_INTERVAL:
        raise ValueError(f"{prompts} prompts: an interval over prompts needs at least {LEAST_FOR_INTERVAL}, better 20")

    def counted(index: Tensor, dim: int) -> Tensor:
        index = index.long().to(device)  # (resamples, prompts)
        weights = torch.zeros(index.shape, dtype=torch.float64, device=device)
        return statistic(weights.scatter_add_(1, index, torch.ones_like(weights)))

    generator = options.get("generator")
    where = device if generator is None else generator.device
    interval = bootstrap(torch.arange(prompts, device=where), counted, **options)
    return statistic(torch.ones(1, prompts, dtype=torch.float64, device=device))[0], interval

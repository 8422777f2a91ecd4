"""What a measurement of a network returns: the moments of theory, one row a sample, with their errors."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from nslab.estimate import Estimate
from nslab.propagation.moments import Moments

RATIOS = ("correlation", "token_correlation", "centred", "drift")


@dataclass(frozen=True, eq=False)
class MeasuredMoments:
    r"""The numbers of `Moments`, measured, one row for each independent sample: a prompt, or a random network.

    Attributes:
        m: same token, two runs, (samples, *layers, *rho).
        o: different tokens, two runs.
        q: self second moment, the mean of both runs.
        p: different tokens, one run, the mean of both runs.
        clean: q of the clean run alone.
        seconds: wall-clock time of the whole measurement.

    How to read it: since q and p are means of both runs, |m| <= q and `Moments.check` hold for any data. Theory takes
    both runs to have one law; `estimate("drift")` says how far that is from the truth.
    """

    m: Float[Tensor, "samples *shape"]
    o: Float[Tensor, "samples *shape"]
    q: Float[Tensor, "samples *shape"]
    p: Float[Tensor, "samples *shape"]
    clean: Float[Tensor, "samples *shape"]
    seconds: float

    @property
    def moments(self) -> Moments:
        """Means over the samples, (*layers, *rho)."""
        return Moments(*(part.mean(0) for part in (self.m, self.o, self.q, self.p)))

    def estimate(self, name: str) -> Estimate:
        r"""A number with its standard error over samples, (*layers, *rho).

        Args:
            name: "m", "o", "q", "p"; or a ratio of means: "correlation" m/q, "token_correlation" p/q, "centred"
                (m - o)/(q - p), which is the correlation once the mean over tokens is taken off every token, or
                "drift", the noisy run's q over the clean run's.

        How to read it: the tokens of a trained network share a large mean, which noise leaves alone; "correlation" is
        then near 1 whatever happens to the rest, and "centred" tells. The error of a ratio is by the delta method.

        Errors: `ValueError` for an unknown name, or fewer than 2 samples.
        """
        if name in ("m", "o", "q", "p"):
            return over_samples(getattr(self, name), self.seconds)
        pairs = {
            "correlation": (self.m, self.q),
            "token_correlation": (self.p, self.q),
            "centred": (self.m - self.o, self.q - self.p),
            "drift": (2 * self.q - self.clean, self.clean),
        }
        if name not in pairs:
            raise ValueError(f"name is {name!r}: choose one of m, o, q, p, {', '.join(RATIOS)}")
        above, below = pairs[name]
        value = above.mean(0) / below.mean(0)
        error = over_samples(above - value * below, self.seconds).stderr / below.mean(0).abs()
        return Estimate(value, error, len(above), self.seconds)


@dataclass(frozen=True, eq=False)
class AgreementMass:
    r"""How far two rows of attention weights pick the same keys, one row for each independent sample.

    Formula: with A, A' the weights of the two runs and queries i != j, $s = E \sum_k A_{ik} A'_{ik}$,
    $t = E \sum_k A_{ik} A'_{jk}$, $s_a = E \sum_k A_{ik}^2$, $t_a = E \sum_k A_{ik} A_{jk}$ (means of both runs).

    Attributes:
        s: same query, two runs, (samples, layers, *heads, *rho).
        t: different queries, two runs.
        s_a: same query, one run: 1 for hard attention, 1/n for uniform attention over n tokens.
        t_a: different queries, one run.
        seconds: wall-clock time of the whole measurement.

    How to read it: draw a key from each of the two rows; this is the probability that they are the same.
    """

    s: Float[Tensor, "samples *shape"]
    t: Float[Tensor, "samples *shape"]
    s_a: Float[Tensor, "samples *shape"]
    t_a: Float[Tensor, "samples *shape"]
    seconds: float

    def estimate(self, name: str) -> Estimate:
        """One of "s", "t", "s_a", "t_a" with its standard error over samples, (layers, *heads, *rho).

        Errors: `ValueError` for an unknown name, or fewer than 2 samples.
        """
        if name not in ("s", "t", "s_a", "t_a"):
            raise ValueError(f"name is {name!r}: choose one of s, t, s_a, t_a")
        return over_samples(getattr(self, name), self.seconds)


@dataclass(frozen=True, eq=False)
class Measurement:
    """What was measured at every layer.

    Attributes:
        rho: the correlations of the inputs, (*rho).
        moments: before the first layer and after each, (samples, layers + 1, *rho); of `measure_layers`, after each
            named layer.
        agreement: (samples, layers, heads, *rho), or (samples, layers, *rho) of `simulate`; None if not asked for.
        parts: moments of further submodules by name, (samples, *rho).
        seconds: wall-clock time.
    """

    rho: Float[Tensor, "..."]
    moments: MeasuredMoments
    agreement: AgreementMass | None
    parts: dict[str, MeasuredMoments]
    seconds: float


def moments_between(x: Float[Tensor, "batch tokens width"], y: Float[Tensor, "*rho batch tokens width"]) -> Moments:
    r"""The four moments of hidden states x and of their noisy twins y.

    Formula: $m = \frac{1}{nd} \sum_i \langle x_i, y_i \rangle$ and, with $X = \sum_i x_i$ and Y alike,
    $o = (\langle X, Y \rangle - n d\, m) / (n (n-1) d)$: no n x n matrix is formed. q and p are means of both runs.

    Args:
        x: states of the clean run.
        y: states of the twins.

    Returns:
        `Moments` (*rho) in float64, averaged over batch and tokens, with gradient. A single token has no others: o and
        p are then 0.

    Source: *ours*; the definitions are those of `Moments`.

    >>> x = torch.tensor([[[1.0, 1.0], [1.0, -1.0]]])
    >>> [part.item() for part in moments_between(x, x).parts()]
    [1.0, 0.0, 1.0, 0.0]
    """
    found = pair_moments(torch.cat([x[None], y.reshape(-1, *x.shape)]))
    return Moments(*(part.mean(0).reshape(y.shape[:-3]) for part in found[:4]))


def pair_moments(runs: Float[Tensor, "runs batch tokens width"]) -> tuple[Tensor, ...]:
    """m, o, q, p of run 0 with each other run, and q of run 0 alone, all (batch, runs - 1) in float64."""
    tokens, width = runs.shape[2:]
    runs = runs.double()  # o is what is left of a large sum when the m of all tokens is taken off
    flat, sums = runs.flatten(2), runs.sum(2)  # (runs, batch, tokens * width), (runs, batch, width)
    m = torch.einsum("rbw,bw->br", flat[1:], flat[0]) / (tokens * width)
    q = torch.linalg.vector_norm(flat, dim=-1).square().T / (tokens * width)  # (batch, runs)
    if tokens == 1:
        o, p = torch.zeros_like(m), torch.zeros_like(q)
    else:
        pairs = tokens * (tokens - 1) * width
        o = (torch.einsum("rbw,bw->br", sums[1:], sums[0]) - tokens * width * m) / pairs
        p = (sums.square().sum(-1).T - tokens * width * q) / pairs
    first, other = slice(0, 1), slice(1, None)
    both = ((part[:, first] + part[:, other]) / 2 for part in (q, p))
    return m, o, *both, q[:, first].expand_as(m)


def equalised(runs: Float[Tensor, "runs batch tokens width"]) -> Tensor:
    """Every token at the length of a typical one, the geometric mean of its sequence; directions stay."""
    logs = runs.double().square().mean(-1, keepdim=True).log()
    return runs.double() * ((logs.mean(2, keepdim=True) - logs) / 2).exp()


def agreement(weights: Float[Tensor, "runs batch *heads query key"]) -> tuple[Tensor, ...]:
    """s, t, s_a, t_a of run 0 with each other run, (batch, *heads, runs - 1): products of rows, as `pair_moments`."""
    heads, keys = weights.shape[1:-2], weights.shape[-1]
    found = pair_moments(weights.flatten(1, -3))  # (runs, batch * heads, query, key)
    return tuple((keys * part).reshape(*heads, -1) for part in found[:4])


def over_samples(values: Float[Tensor, "samples *shape"], seconds: float) -> Estimate:
    """Mean and standard error over the first axis."""
    count = len(values)
    if count < 2:
        raise ValueError(f"there is {count} sample: a standard error needs at least 2 prompts, groups or networks")
    return Estimate(values.mean(0), values.std(0) / count**0.5, count, seconds)


def refuse_nan(parts: Sequence[Float[Tensor, "samples layers ..."]], names: Sequence[str]) -> None:
    """Refuse NaN and infinity, naming the first layer that has them and the first sample there."""
    for layer, name in enumerate(names):
        bad = ~torch.stack([part[:, layer].flatten(1) for part in parts]).isfinite()  # (parts, samples, numbers)
        if bool(bad.any()):
            sample = int(bad.any(2).any(0).nonzero()[0])
            raise ValueError(f"{name} holds NaN or infinity in sample {sample}: look at its inputs and weights")

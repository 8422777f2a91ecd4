r"""The learned noise of one layer: Gaussian, with a mean and a standard deviation that belong to one of four families.

    noise = LearnedNoise(NoiseSettings(family="relative"), width=128, heads=4, context=128, causal=True)
    scores = scores + noise.on_scores(x, query, sample=True)

A noise is drawn as mean + sigma * (standard normal), so that both learn from the loss. Whether it is scaled with the
scores or not is the business of the attention that uses it.
"""

import warnings

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from nslab.attention.settings import HIGHEST, LOWEST, NoiseSettings

SPREAD = 0.02  # standard deviation of the drawn maps, that of the other weights of the network


class Guard:
    """Holds log sigma in its range, and says once, for all layers that share the guard, that it had left it."""

    def __init__(self):
        self.warned = False

    @torch.no_grad()
    def hold(self, log_sigma: Tensor, look: bool) -> None:
        """Put the values back in place. The gradient does not see it, so that what was put back can still learn.

        Args:
            log_sigma: the values, which are changed.
            look: whether to look at them first, which waits for an accelerator; without, there is no warning.
        """
        if look:
            low, high = (float(end) for end in log_sigma.aminmax())
            if low >= LOWEST and high <= HIGHEST:
                return
            if not self.warned:
                self.warned = True
                warnings.warn(
                    f"log sigma of a learned noise reached {high if high > HIGHEST else low:.3g} and is held between "
                    f"{LOWEST:g} and {HIGHEST:g}: lower the learning rate, or give the KL more weight (beta)",
                    RuntimeWarning,
                    stacklevel=2,
                )
        log_sigma.clamp_(LOWEST, HIGHEST)


class LearnedNoise(nn.Module):
    r"""Mean $\mu$ and $\ln \sigma$ of the noise of one layer, and draws from it.

    Formula, $G$ the number of heads (V2, per head) or 1 (V1, shared): scalar, $\mu_g$; key, $\mu_{gc}$ for coordinate
    $c$; relative, $\mu_{g, i - j}$; amortised, $\mu_j = x_j A B$ and $\ln \sigma_j = s + x_j A' B'$ with $A, A'$ of
    shape (width, rank) and $B, B'$ of shape (rank, $G$ head width), which start at 0; $s$ is `settings.log_sigma`.

    Args:
        settings: the family, the space, and how it starts.
        width: of the residual stream.
        heads: of the layer.
        context: the longest sequence; relative noise has as many offsets, or 2 context - 1 without a causal mask.
        causal: whether queries see only keys before them.
        generator: source of A and A'; None is torch's own.

    Attributes: `mean` and `log_sigma` are vectors, group by group, so that a training that spares vectors from weight
    decay spares them; `down` (width, 2 rank) is A beside A', `up` (2, rank, G head width) B and B'.

    How to read it: a mean that depends neither on the key nor on its place (scalar, key) changes no softmax at all.

    $\ln \sigma$ is put back into [-6, 2] before each use; the gradient lives on as if it had not been, so that it can
    come back by itself. A warning says so once, on a CPU or in evaluation mode; in training on an accelerator nobody
    looks, since looking would wait for the device.

    Source: reconstructed. Scalar and relative are meant for scores; key and amortised are also known by what they
    induce in a score, mean $q_i \cdot \mu_j$ and variance $\sum_c q_{ic}^2 \sigma_{jc}^2$.
    """

    def __init__(
        self,
        settings: NoiseSettings,
        width: int,
        heads: int,
        context: int,
        causal: bool,
        *,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        self.settings, self.context, self.causal = settings, context, causal
        self.groups, self.head_width = heads if settings.per_head else 1, width // heads
        if settings.family == "amortised":
            self.down = nn.Parameter(normal(width, 2 * settings.rank, generator=generator))
            self.up = nn.Parameter(torch.zeros(2, settings.rank, self.groups * self.head_width))
        else:
            offsets = context if causal else 2 * context - 1
            self.each = {"scalar": 1, "key": self.head_width, "relative": offsets}[settings.family]
            self.mean = nn.Parameter(torch.zeros(self.groups * self.each))
            self.log_sigma = nn.Parameter(torch.full((self.groups * self.each,), float(settings.log_sigma)))
        self.guard = Guard()
        self._last: tuple[Tensor, Tensor] | None = None

    def on_keys(
        self, x: Float[Tensor, "batch length width"], *, sample: bool, generator: torch.Generator | None = None
    ) -> Float[Tensor, "..."]:
        """What is added to the keys of tokens x: broadcasts with (batch, heads, length, head width).

        Args:
            x: inputs of the layer at the tokens whose keys are asked for.
            sample: whether to draw; otherwise the mean.
            generator: source of the draw; None is torch's own.
        """
        mean, log_sigma = self._at(x)
        if not sample:
            return mean
        # the memory of the draw lies as that of the projections: token, group, coordinate
        shape = (*x.shape[:2], self.groups, self.head_width)
        draw = torch.randn(shape, dtype=mean.dtype, device=x.device, generator=generator).transpose(1, 2)
        return torch.addcmul(mean, log_sigma.exp(), draw)

    def on_scores(
        self,
        x: Float[Tensor, "batch keys width"],
        query: Float[Tensor, "batch heads rows head_width"],
        *,
        scale: float | int = 1,
        sample: bool,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "..."]:
        """What is added to the scores: broadcasts with (batch, heads, rows, keys).

        Args:
            x: inputs of the layer at all keys, positions 0 .. keys - 1.
            query: queries of the last `rows` positions.
            scale: a factor of the whole noise.
            sample: whether to draw, one number for each batch row, group and pair; otherwise the mean.
            generator: source of the draw; None is torch's own.

        Errors: `ValueError` when relative noise has no offset for so long a sequence.
        """
        mean, log_sigma = self._at(x)
        rows, keys = query.shape[-2], x.shape[1]
        if self.settings.family == "relative":
            mean, sigma = self._by_pair(mean, rows, keys), self._by_pair(log_sigma.exp(), rows, keys)
        elif self.settings.family == "scalar":
            sigma = log_sigma.exp()
        else:
            mean = query @ mean.mT  # (batch, heads, rows, keys), or one column where all keys have the same noise
            variance = query.square() @ (2 * log_sigma).exp().mT
            sigma = variance.clamp_min(torch.finfo(variance.dtype).tiny).sqrt()  # a slope of 0 at 0, not infinity
        mean = scale * mean
        if not sample:
            return mean
        shape = (len(x), self.groups, rows, keys)
        draw = torch.randn(shape, dtype=mean.dtype, device=x.device, generator=generator)
        return torch.addcmul(mean, scale * sigma, draw)

    def described(self) -> tuple[Tensor, Tensor]:
        """Means and log sigmas: (groups, each), or, amortised, of the last call (batch, groups, length, head width).

        Errors: `ValueError` for amortised noise that was not called yet.
        """
        if self.settings.family != "amortised":
            return self._put_back()
        if self._last is None:
            raise ValueError("amortised noise depends on the tokens: call the network first, then ask for its KL")
        return self._last

    def entries_per_token(self, length: int | None = None) -> Float[Tensor, "..."]:
        """How many noise variables a predicted token has for each entry of `described`: broadcasts with it.

        Args:
            length: tokens of a sequence, at most the context, which None stands for.
        """
        length = self.context if length is None else length
        if not 1 <= length <= self.context:
            raise ValueError(f"length is {length}: give 1 to {self.context}, the context")
        mean = self.described()[0]
        if self.settings.family == "amortised":
            return mean.new_tensor(1 / (mean.shape[0] * mean.shape[2]))  # the average over the tokens
        if self.settings.family == "relative":
            offsets = torch.arange(self.each, dtype=mean.dtype, device=mean.device)
            distance = offsets if self.causal else (offsets - (self.context - 1)).abs()
            return (length - distance).clamp_min(0) / length
        if self.settings.space == "score" and self.settings.family == "scalar":
            return mean.new_tensor((length + 1) / 2 if self.causal else length)
        return mean.new_tensor(self.head_width // self.each)  # one draw a coordinate of the key

    def extra_repr(self) -> str:
        """The settings, for `print`."""
        return str(self.settings)

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_last": None}  # a copy starts without the graph of the last call

    def _put_back(self) -> tuple[Tensor, Tensor]:
        self.guard.hold(self.log_sigma, self._may_look)
        shape = (self.groups, self.each)
        return self.mean.view(shape), self.log_sigma.view(shape)

    def _at(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(groups, 1, 1 or head width), relative (groups, offsets), amortised (batch, groups, length, head width)."""
        if self.settings.family == "relative":
            return self._put_back()
        if self.settings.family != "amortised":
            mean, log_sigma = self._put_back()
            return mean[:, None], log_sigma[:, None]
        codes = (x @ self.down).chunk(2, -1)  # each (batch, length, rank)
        shape = (*x.shape[:2], self.groups, self.head_width)
        mean, log_sigma = ((code @ up).view(shape).transpose(1, 2) for code, up in zip(codes, self.up, strict=True))
        log_sigma = log_sigma + self.settings.log_sigma
        self.guard.hold(log_sigma, self._may_look)
        self._last = mean, log_sigma
        return self._last

    @property
    def _may_look(self) -> bool:
        kind = next(self.parameters()).device.type
        return kind == "cpu" or not (self.training or kind == "meta")

    def _by_pair(self, by_offset: Tensor, rows: int, keys: int) -> Tensor:
        """(groups, offsets) to (groups, rows, keys): the last `rows` queries; 0 behind a causal mask."""
        if keys > self.context:
            raise ValueError(
                f"the sequence has {keys} tokens and the noise offsets for {self.context}: make the context longer"
            )
        zero = self.context - 1  # where offset 0 stands once the keys that come later are in front
        line = F.pad(by_offset, (zero, 0)) if self.causal else by_offset  # (groups, 2 context - 1)
        line = line[:, zero - rows + 1 : zero + keys].flip(-1)  # from offset keys - 1 down to -(rows - 1)
        # window w holds the offsets keys - 1 - w, ..., -w: the row of the query at position keys - 1 - w
        return line.unfold(-1, keys, 1).flip(-2)  # (groups, rows, keys)


def normal(*shape: int, generator: torch.Generator | None) -> Tensor:
    """Initial weights with the spread of the network's, on the device of the generator."""
    device = None if generator is None else generator.device
    return torch.randn(shape, generator=generator, device=device) * SPREAD

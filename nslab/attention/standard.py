r"""Multi-head attention: each position averages the values of the positions that it may see, by a softmax of scores.

    scores = query @ key^T / sqrt(head width)     weights = softmax(scores)     heads = weights @ value

Two paths compute it. `attend` is fused and never forms the weights; `attend_explicitly` returns scores and weights as
well, in the same graph, so that both can be looked at and differentiated.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

LOOKS = ("query", "key", "value", "scores", "weights", "heads")  # what an `Attention` lets one see, in this order
EXPLICIT = {"scores", "weights"}  # the fused path cannot give these


@dataclass(frozen=True)
class Attended:
    """Attention with its inner workings.

    Attributes:
        heads: each head's output, (*batch, heads, query, head width).
        weights: each query's shares of the keys, (*batch, heads, query, key); they are not negative and add up to 1.
        scores: the logits of these shares, the same shape; minus infinity where the mask hides the key.
    """

    heads: Float[Tensor, "*batch query width"]
    weights: Float[Tensor, "*batch query key"]
    scores: Float[Tensor, "*batch query key"]


def attend(
    query: Float[Tensor, "*batch query width"],
    key: Float[Tensor, "*batch key width"],
    value: Float[Tensor, "*batch key value"],
    *,
    causal: bool = False,
) -> Float[Tensor, "*batch query value"]:
    r"""$\mathrm{softmax}(Q K^\top / \sqrt d)\, V$ for each head, fused: memory does not grow with query x key.

    Args:
        query: (*batch, query, head width); *batch usually ends with the heads.
        key: (*batch, key, head width).
        value: (*batch, key, value width).
        causal: whether query i sees only the keys 0 .. i.

    Returns:
        Each head's output, (*batch, query, value width), differentiable once. For second derivatives (a penalty on a
        gradient), and for `torch.func.vmap` over stacked weights on a CPU, use `attend_explicitly`, or torch's
        `sdpa_kernel(SDPBackend.MATH)` around the call.

    Errors: `ValueError` for a causal mask over unequal numbers of queries and keys.

    Source: Vaswani et al. (2017), arXiv 1706.03762, equation 1.

    >>> x = torch.eye(2).reshape(1, 1, 2, 2)
    >>> attend(x, x, x, causal=True)[0, 0, 0]
    tensor([1., 0.])
    """
    _square(query, key, causal)
    return F.scaled_dot_product_attention(query, key, value, is_causal=causal)


def attend_explicitly(
    query: Float[Tensor, "*batch query width"],
    key: Float[Tensor, "*batch key width"],
    value: Float[Tensor, "*batch key value"],
    *,
    causal: bool = False,
) -> Attended:
    """As `attend`, step by step: it also returns scores and weights, and can be differentiated any number of times.

    Arguments and errors as in `attend`.

    Returns:
        `Attended`: heads, weights, scores.

    How to read it: a weight is not an influence. It says how a value is averaged in this layer, given the values; a
    token with a large weight may carry nothing, and a token with a small one may have spoken in an earlier layer.
    """
    _square(query, key, causal)
    scores = query @ key.mT / math.sqrt(query.shape[-1])
    if causal:
        hidden = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(hidden, -math.inf)
    weights = scores.softmax(-1)
    return Attended(heads=weights @ value, weights=weights, scores=scores)


class Rotary(nn.Module):
    r"""Rotary positions: the pair (x_j, x_{j + d/2}) of a head turns by the angle $p\, b^{-2j/d}$ at position p.

    A product of a turned query and a turned key depends on their positions through the difference only.

    Args:
        head_width: d, even.
        base: b, which sets the slowest turn.

    Errors: `ValueError` when `head_width` is odd.

    Source: Su et al. (2021), arXiv 2104.09864, section 3.2.2. The pairs are those of Llama, (j, j + d/2); the article
    pairs neighbours (2j, 2j + 1), which is the same up to the order of the coordinates.
    """

    def __init__(self, head_width: int, base: float | int = 10_000):
        super().__init__()
        if head_width % 2:
            raise ValueError(f"head width is {head_width}: rotary positions turn pairs, so make width / heads even")
        self.head_width, self.base = head_width, float(base)
        self._tables: dict[tuple, tuple[Tensor, Tensor]] = {}

    def forward(self, x: Float[Tensor, "*batch length width"]) -> Float[Tensor, "*batch length width"]:
        """Queries or keys (*batch, length, head width), turned; position p is the index along `length`."""
        cosines, sines = self._turns(x)
        first, second = x.chunk(2, -1)
        return x * cosines + torch.cat((-second, first), -1) * sines

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_tables": {}}  # a copy makes its own: those made inside torch.func cannot be copied

    def _turns(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines (length, head width) in the dtype of x, kept once for the longest sequence so far."""
        kept = self._tables.get((x.device, x.dtype))
        length = x.shape[-2]
        if kept is None or len(kept[0]) < length:
            with torch.inference_mode(False):  # tables made in inference mode could not be trained with later
                speeds = self.base ** (-torch.arange(0, self.head_width, 2, dtype=torch.float64) / self.head_width)
                angles = torch.arange(length, dtype=torch.float64)[:, None] * speeds  # (length, head width / 2)
                kept = tuple(torch.cat((part, part), -1).to(x) for part in (angles.cos(), angles.sin()))
            self._tables[x.device, x.dtype] = kept
        return kept[0][:length], kept[1][:length]


class Attention(nn.Module):
    r"""Standard multi-head self-attention with its projections: $x \mapsto \mathrm{concat}(heads)\, W_O$.

    Args:
        width: width of the residual stream.
        heads: number of heads; each gets width / heads coordinates.
        causal: whether position i sees only the positions 0 .. i.
        rotary: turns queries and keys; None leaves positions out.
        bias: whether the projections have biases.

    The weights are not initialised: `Transformer` draws them; on your own, do so before use.

    Errors: `ValueError` when the width is not divisible by the heads.
    """

    def __init__(self, width: int, heads: int, *, causal: bool, rotary: Rotary | None = None, bias: bool = True):
        super().__init__()
        if heads < 1 or width % heads:
            raise ValueError(f"width is {width}, heads {heads}: make the width a multiple of the number of heads")
        self.heads, self.causal, self.rotary = heads, causal, rotary
        self.qkv = nn.utils.skip_init(nn.Linear, width, 3 * width, bias=bias)
        self.output = nn.utils.skip_init(nn.Linear, width, width, bias=bias)

    def forward(self, x: Float[Tensor, "batch length width"]) -> Float[Tensor, "batch length width"]:
        """What attention adds to the residual stream, (batch, length, width), on the fused path."""
        query, key, value = self._project(x)
        return self._merge(attend(query, key, value, causal=self.causal))

    def look(
        self, x: Float[Tensor, "batch length width"], names: Sequence[str]
    ) -> tuple[Float[Tensor, "batch length width"], dict[str, Tensor]]:
        """As a call, and the named parts with it, in one graph.

        Args:
            x: inputs, (batch, length, width).
            names: some of "query", "key", "value", "heads" (batch, heads, length, head width; query and key after the
                rotation) and "scores", "weights" (batch, heads, query, key).

        Returns:
            The output, and the parts by name. Asking for scores or weights takes the explicit path.
        """
        query, key, value = self._project(x)
        parts = {"query": query, "key": key, "value": value}
        if EXPLICIT.intersection(names):
            attended = attend_explicitly(query, key, value, causal=self.causal)
            parts |= {"scores": attended.scores, "weights": attended.weights, "heads": attended.heads}
        else:
            parts["heads"] = attend(query, key, value, causal=self.causal)
        return self._merge(parts["heads"]), {name: parts[name] for name in names}

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        batch, length, width = x.shape
        qkv = self.qkv(x).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each (batch, heads, length, head width)
        if self.rotary is not None:
            query, key = self.rotary(query), self.rotary(key)
        return query, key, value

    def _merge(self, heads: Tensor) -> Tensor:
        return self.output(heads.transpose(1, 2).flatten(2))  # (batch, length, heads * head width)


def _square(query: Tensor, key: Tensor, causal: bool) -> None:
    if causal and query.shape[-2] != key.shape[-2]:
        raise ValueError(
            f"causal=True with {query.shape[-2]} queries and {key.shape[-2]} keys: a causal mask needs as many keys as "
            "queries; use causal=False where every query may see every key"
        )

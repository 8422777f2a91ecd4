r"""Symmetric attention: queries and keys are tied, and learned noise may make up for what that loses.

    score_ij = q_i . q_j + noise_ij      logits = score / sqrt(head width)      mask, softmax, values as always

A symmetric score treats i and j alike. Three things can break the symmetry: pairwise coefficients, a term of low rank,
and a noise whose mean depends on the key.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from nslab.attention.biased import attend_with_bias, attend_with_bias_explicitly
from nslab.attention.noise_families import LearnedNoise, normal
from nslab.attention.settings import ScoreSettings
from nslab.attention.standard import EXPLICIT, Rotary

MODES = ("mean", "sample")


class SymmetricAttention(nn.Module):
    r"""Multi-head self-attention with one projection for queries and keys, and learned noise in its scores.

    Formula: $q = x W_Q$; $s_{ij} = q_i \cdot q_j$ (symmetric), $q_i^\top W_h q_j$ (pairwise), or
    $q_i \cdot q_j + (x_i A_h) \cdot (x_j B_h)$ (low-rank); weights
    $\mathrm{softmax}_j((s_{ij} + n_{ij}) / \sqrt{d_h})$; noise $n_{ij}$ of its own for each pair (score space), or
    $q_i \cdot n_j$ from noisy keys $q_j + n_j$ (key space; in pairwise scores $W_h^\top q_i$ meets the key).

    Args:
        width: of the residual stream.
        heads: number of heads; each gets $d_h$ = width / heads coordinates.
        causal: whether position i sees only the positions 0 .. i. The mask comes after the noise.
        scores: the score function and its noise.
        context: the longest sequence; only relative noise needs it.
        rotary: turns queries and keys; None leaves positions out. Pairwise coefficients act before the turn; noise and
            the term of low rank are added to turned vectors, so that a constant mean still changes no softmax.
        bias: whether the projections have biases.
        generator: source of A_h and of the maps of amortised noise; None is torch's own.

    Attributes:
        query_value, output: the projections. Their weights are not drawn: `NoiseFormer` sets them; on your own, do so
            before use.
        pairwise: $W_h - 1$, (heads, head width, head width), zero at the start: weight decay pulls to symmetry.
        factors: the maps A_h and B_h, one after the other; the B_h start at 0.
        noise: `LearnedNoise`, or None.
        mode: "mean" or "sample", how the noise enters in evaluation mode; in training it is always drawn.
        generator: where draws come from; None is torch's own.

    Without noise, with the mean noise, and in key space it takes the fused kernel. In score space, training on a CPU
    is explicit and keeps two tensors of query x key numbers a head.

    Errors: `ValueError` when the width is not divisible by the heads.

    Source: Courtois et al. (2024), arXiv 2406.06366, for tied scores; noise as in `NoiseSettings`, reconstructed.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        causal: bool,
        scores: ScoreSettings,
        context: int,
        rotary: Rotary | None = None,
        bias: bool = True,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        if heads < 1 or width % heads:
            raise ValueError(f"width is {width}, heads {heads}: make the width a multiple of the number of heads")
        self.heads, self.causal, self.rotary, self.scores = heads, causal, rotary, scores
        self.head_width = width // heads
        self.scale = 1 / math.sqrt(self.head_width)
        self.query_value = nn.utils.skip_init(nn.Linear, width, 2 * width, bias=bias)
        self.output = nn.utils.skip_init(nn.Linear, width, width, bias=bias)
        self.pairwise = self.factors = self.noise = None
        if scores.kind == "pairwise":
            self.pairwise = nn.Parameter(torch.zeros(heads, self.head_width, self.head_width))
        if scores.kind == "low-rank":
            left = normal(heads * scores.rank, width, generator=generator)
            self.factors = nn.Parameter(torch.cat((left, torch.zeros_like(left))))  # (2 * heads * rank, width)
        if scores.noise is not None:
            self.noise = LearnedNoise(scores.noise, width, heads, context, causal, generator=generator)
        self.mode = "mean"
        self.generator: torch.Generator | None = None

    def forward(self, x: Float[Tensor, "batch length width"]) -> Float[Tensor, "batch length width"]:
        """What attention adds to the residual stream, (batch, length, width)."""
        query, key, value = self.parts(x)
        key, bias = self.noisy_keys(x, key), self.score_bias(x, query)
        return self.merge(attend_with_bias(query, key, value, bias, scale=self.scale, causal=self.causal))

    def look(
        self, x: Float[Tensor, "batch length width"], names: Sequence[str]
    ) -> tuple[Float[Tensor, "batch length width"], dict[str, Tensor]]:
        """As a call, and the named parts with it, in one graph.

        Args:
            x: inputs, (batch, length, width).
            names: some of "query", "key", "value", "heads" (batch, heads, length, head width; query and key after the
                rotation, the key with its noise, both longer by the rank for scores of low rank) and "scores",
                "weights" (batch, heads, query, key; scores after noise and scaling).

        Returns:
            The output, and the parts by name. Asking for scores or weights takes the explicit path.
        """
        query, key, value = self.parts(x)
        key, bias = self.noisy_keys(x, key), self.score_bias(x, query)
        parts = {"query": query, "key": key, "value": value}
        if EXPLICIT.intersection(names):
            attended = attend_with_bias_explicitly(query, key, value, bias, scale=self.scale, causal=self.causal)
            parts |= {"scores": attended.scores, "weights": attended.weights, "heads": attended.heads}
        else:
            parts["heads"] = attend_with_bias(query, key, value, bias, scale=self.scale, causal=self.causal)
        return self.merge(parts["heads"]), {name: parts[name] for name in names}

    def parts(self, x: Float[Tensor, "batch length width"], start: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys without noise, and values of tokens x at the positions start, start + 1, ...

        Returns:
            Each (batch, heads, length, head width). Scores of low rank have `rank` more coordinates in queries and
            keys: the product of the longer vectors is the whole score.
        """
        batch, length, _ = x.shape
        projected = self.query_value(x).view(batch, length, 2, self.heads, self.head_width)
        tied, value = projected.permute(2, 0, 3, 1, 4).unbind(0)  # each (batch, heads, length, head width)
        query = tied
        if self.pairwise is not None:
            query = tied + torch.einsum("bhtc,hce->bhte", tied, self.pairwise)
        if self.rotary is not None:
            key = self._turned(tied, start)
            query = key if self.pairwise is None else self._turned(query, start)
        else:
            key = tied
        if self.factors is not None:
            extra = F.linear(x, self.factors).view(batch, length, 2, self.heads, -1).permute(2, 0, 3, 1, 4)
            query, key = torch.cat((query, extra[0]), -1), torch.cat((key, extra[1]), -1)
        return query, key, value

    def noisy_keys(self, x: Float[Tensor, "batch length width"], key: Tensor) -> Tensor:
        """The keys of tokens x as queries see them: with their noise in key space, else as they are."""
        if self.noise is None or self.scores.noise.space != "key":
            return key
        noise = self.noise.on_keys(x, sample=self._samples, generator=self.generator).to(key.dtype)
        if self.scores.noise.scaling == "after":
            noise = noise / self.scale
        if self.factors is not None:
            noise = F.pad(noise.expand(*noise.shape[:-1], self.head_width), (0, self.scores.rank))
        return key + noise

    def score_bias(self, x: Float[Tensor, "batch keys width"], query: Tensor) -> Tensor | None:
        """What the noise adds to the scaled scores of the last queries: broadcasts with (batch, heads, rows, keys).

        Args:
            x: inputs at all keys, positions 0 .. keys - 1.
            query: queries of the last positions, as from `parts`.

        Returns:
            The bias, or None where scores have no noise of their own.
        """
        if self.noise is None or self.scores.noise.space != "score":
            return None
        return self.noise.on_scores(
            x,
            query[..., : self.head_width],
            scale=self.scale if self.scores.noise.scaling == "before" else 1,
            sample=self._samples,
            generator=self.generator,
        )

    def merge(self, heads: Float[Tensor, "batch heads length head_width"]) -> Float[Tensor, "batch length width"]:
        """The output of the layer from those of its heads."""
        return self.output(heads.transpose(1, 2).flatten(2))  # (batch, length, heads * head width)

    @property
    def _samples(self) -> bool:
        return self.training or self.mode == "sample"

    def _turned(self, x: Tensor, start: int) -> Tensor:
        """Rotated as the positions start, start + 1, ...: the table of turns begins at 0."""
        return self.rotary(F.pad(x, (0, 0, start, 0)))[..., start:, :] if start else self.rotary(x)

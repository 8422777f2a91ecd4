r"""A Transformer whose attention is symmetric, with or without learned noise in its scores.

    from nslab.attention.settings import VARIANTS
    from nslab.transformer.noiseformer import NoiseFormer
    model = NoiseFormer(CHAR_GPT, VARIANTS["v2-relative"], generator=torch.Generator().manual_seed(0))
    with model.eval().noise("sample", generator):
        logits = model(ids)

Outside such a block a network in evaluation mode takes the mean of its noise; in training it always draws.
"""

import contextlib
import hashlib
from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from nslab.attention.kl import noise_kl
from nslab.attention.noise_families import Guard, LearnedNoise
from nslab.attention.settings import ScoreSettings, variant_name
from nslab.attention.standard import Attention
from nslab.attention.symmetric import MODES, SymmetricAttention
from nslab.transformer.network import Transformer
from nslab.transformer.shape import TransformerConfig


class NoiseFormer(Transformer):
    r"""A `Transformer` with tied queries and keys in every layer; the rest is the same network.

    Args:
        config: the shape.
        scores: the score function and its learned noise.
        generator: source of the initial weights. They are those of the `Transformer` of the same generator state, less
            the keys: two networks of one seed share all weights that both have.
        device: where the weights end up; the generator's device by default.

    Attributes: `scores`; `variant`, its name; `stream`, a whole number, 0: processes that share the batches of one
    training set it to their rank, so that each draws noise of its own.

    Chance: each call in training mode draws its noise from a generator that is seeded from (a seed drawn at the start,
    which is 0 without a generator, the number of calls so far, `stream`). Seed and number are part of `state_dict()`,
    so a training that is resumed draws the noise that it would have drawn. A pass that is computed twice, as activation
    checkpoints do, would see other noise the second time. In evaluation mode the noise is its mean, unless `noise` says
    otherwise.

    Errors: as `Transformer`.

    Source: arXiv 2601.11619 for the idea: symmetric attention, learned Gaussian noise in its scores, shared by the
    heads or per head, and a KL term. The rest is reconstructed, see `NoiseSettings`.

    >>> from nslab.attention.settings import VARIANTS
    >>> config = TransformerConfig(vocabulary=5, context=8, width=6, layers=1, heads=2)
    >>> model = NoiseFormer(config, VARIANTS["v2-key"], generator=torch.Generator().manual_seed(0)).eval()
    >>> model(torch.tensor([[1, 4, 2]])).shape, model.variant
    (torch.Size([1, 3, 5]), 'v2-key')
    """

    def __init__(
        self,
        config: TransformerConfig,
        scores: ScoreSettings,
        generator: torch.Generator | None = None,
        *,
        device: torch.device | str | None = None,
    ):
        super().__init__(config, generator)
        self.scores, self.stream = scores, 0
        guard = Guard()
        for layer in self.layers:
            layer.attention = _tied(layer.attention, config, scores, generator)
            if layer.attention.noise is not None:
                layer.attention.noise.guard = guard
        self._seed = 0 if generator is None else _whole_number(generator)
        self._calls = 0
        if device is not None:
            self.to(device)

    @property
    def variant(self) -> str:
        """The name of the scores in `nslab.attention.settings.VARIANTS`, or a description."""
        return variant_name(self.scores)

    def noises(self) -> list[LearnedNoise]:
        """The learned noise of each layer, from the first; empty without noise."""
        return [layer.attention.noise for layer in self.layers if layer.attention.noise is not None]

    def kl(self, reduction: str = "parameters", *, length: int | None = None) -> Float[Tensor, ""]:
        """How far the noise is from standard normal, in nats: see `nslab.attention.kl.noise_kl`.

        Amortised noise is that of the tokens of the last call, with its gradient.
        """
        return noise_kl(self.noises(), reduction, length=length)

    @contextlib.contextmanager
    def noise(self, mode: str, generator: torch.Generator | None = None) -> Iterator["NoiseFormer"]:
        """How noise enters in evaluation mode, inside a `with` block: "mean", or "sample" from the generator.

        Args:
            mode: "mean" or "sample"; what was set before comes back at the end of the block.
            generator: source of the draws, on the device of the network; None is torch's own.
        """
        if mode not in MODES:
            raise ValueError(f"mode is {mode!r}: choose 'mean' or 'sample'; predict(mode='average') averages samples")
        attentions = [layer.attention for layer in self.layers]
        before = [(attention.mode, attention.generator) for attention in attentions]
        try:
            for attention in attentions:
                attention.mode, attention.generator = mode, generator
            yield self
        finally:
            for attention, (old_mode, old_generator) in zip(attentions, before, strict=True):
                attention.mode, attention.generator = old_mode, old_generator

    def get_extra_state(self) -> Tensor:
        """Where the training noise stands: its seed and the number of calls so far."""
        return torch.tensor([self._seed, self._calls])

    def set_extra_state(self, state: Tensor) -> None:
        """Take up the training noise where `get_extra_state` left it."""
        self._seed, self._calls = (int(number) for number in state)

    def _enter(self, embeddings: Tensor) -> Tensor:
        """Every way through the network begins here, so here a training call gets its noise."""
        x = super()._enter(embeddings)
        if self.training and self.scores.noise is not None:
            text = f"{self._seed} {self._calls} {self.stream}"
            digest = hashlib.blake2b(text.encode(), digest_size=4).digest()  # torch uses 32 bits of a CPU seed
            self._calls += 1
            generator = torch.Generator(x.device).manual_seed(int.from_bytes(digest, "little"))
            for layer in self.layers:
                layer.attention.generator = generator
        return x


def network(
    config: TransformerConfig,
    scores: ScoreSettings | None,
    generator: torch.Generator | None = None,
    *,
    device: torch.device | str | None = None,
) -> Transformer:
    """A `NoiseFormer`, or, where `scores` is None, the standard `Transformer` of the same shape and seed."""
    if scores is None:
        return Transformer(config, generator, device=device)
    return NoiseFormer(config, scores, generator, device=device)


def _tied(
    standard: Attention, config: TransformerConfig, scores: ScoreSettings, generator: torch.Generator | None
) -> SymmetricAttention:
    """Symmetric attention with the queries, values and output of a standard one."""
    tied = SymmetricAttention(
        config.width,
        config.heads,
        causal=config.causal,
        scores=scores,
        context=config.context,
        rotary=standard.rotary,
        bias=config.bias,
        generator=generator,
    )
    if generator is not None:
        tied.to(generator.device)
    tied.output = standard.output
    with torch.no_grad():
        for ours, theirs in zip(tied.query_value.parameters(), standard.qkv.parameters(), strict=True):
            query, _, value = theirs.chunk(3)
            ours.copy_(torch.cat((query, value)))
    return tied


def _whole_number(generator: torch.Generator) -> int:
    return int(torch.randint(2**31, (), generator=generator, device=generator.device))

r"""Writing token by token: keys and values are kept, so that a new token costs one row of attention and no more.

    decoder = Decoder(model)
    logits = decoder.feed(prompt)           # (batch, length, vocabulary)
    logits = decoder.feed(next_tokens)      # (batch, 1, vocabulary): the new positions only

Symmetric attention saves nothing here: the query of a token is the key of all later rows, and must be kept.
"""

import math

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn import functional as F

from nslab.attention.biased import attend_with_bias
from nslab.attention.standard import Attention
from nslab.attention.symmetric import SymmetricAttention
from nslab.transformer.network import Transformer
from nslab.transformer.predicting import check_mode, has_noise, inference


class Decoder:
    r"""A causal network that is fed piece by piece and remembers keys and values.

    Args:
        model: a causal network, standard or symmetric, with or without learned noise. It is used in evaluation mode,
            without gradients, and left as it was.
        mode: how noise enters, "mean" or "sample". A drawn noise of the keys is drawn once, when the token arrives, and
            kept with the key, so that all later rows see the same noise. A drawn noise of the scores belongs to one
            row: it is fresh for each token that is fed, as in training.
        generator: source of the draws, on the device of the network; None is torch's own.

    Attributes:
        length: tokens fed so far.
        kept: for each layer the tensors that are remembered, (batch, heads, length, ...): keys, with their noise, and
            values; and for amortised noise in the scores the inputs of the layer, (batch, length, width).

    How to read it: what `feed` returns is what one call of the network would return at these positions, to rounding:
    always in mode "mean", and in mode "sample" for the same noise.

    Errors: `ValueError` for a network that is not causal, and for a mode other than "mean" and "sample".
    """

    def __init__(self, model: Transformer, *, mode: str = "mean", generator: torch.Generator | None = None):
        if not model.config.causal:
            raise ValueError(
                "model is not causal: a new token changes what earlier positions answer, so nothing can be kept; call "
                "the network on the whole sequence, or make it with causal=True"
            )
        if mode not in ("mean", "sample"):
            raise ValueError(
                f"mode is {mode!r}: choose 'mean' or 'sample'; generate(mode='average') averages decoders that sample"
            )
        self.model, self.mode, self.generator = model, mode, generator
        self.length = 0
        self.kept: list[tuple[Tensor, ...]] = [() for _ in model.layers]

    @torch.no_grad()
    def feed(self, ids: Shaped[Tensor, "..."]) -> Float[Tensor, "batch new outputs"]:
        """Logits at new tokens.

        Args:
            ids: the tokens that follow those fed so far, (batch, new); the same batch each time.

        Returns:
            (batch, new, outputs).

        Errors: `ValueError` for another batch size, for no token, and when the tokens do not fit into the context;
        nothing is kept of a feed that was refused. Otherwise as a call of the network.
        """
        return self.model._leave(self._advance(ids), None)[1]

    def _advance(self, ids: Tensor) -> Tensor:
        """The residual stream (batch, new, width) after the last layer."""
        model, start = self.model, self.length
        x = model.embed(ids)
        batch, new, _ = x.shape
        if start and batch != len(self.kept[0][0]):
            raise ValueError(
                f"ids has {batch} rows and the decoder was fed {len(self.kept[0][0])}: feed the same batch each time, "
                "or make a new Decoder"
            )
        if start + new > model.context:
            raise ValueError(
                f"ids has {new} tokens after the {start} that were fed, and the context is {model.context}: make a new "
                "Decoder and feed it the last tokens, or make the model with a longer context"
            )
        if model.positions is not None:
            x = x + model.positions.weight[start : start + new]
        kept = []
        with inference(model, self.mode, self.generator):
            for layer, past in zip(model.layers, self.kept, strict=True):
                attended, present = _attend(layer.attention, layer.attention_norm(x), past, start)
                x = x + attended
                x = x + layer.mlp(layer.mlp_norm(x))
                kept.append(present)
        self.kept, self.length = kept, start + new
        return x


@torch.no_grad()
def generate(
    model: Transformer,
    ids: Shaped[Tensor, "..."],
    count: int,
    *,
    temperature: float | int = 1.0,
    mode: str = "mean",
    draws: int = 8,
    generator: torch.Generator | None = None,
) -> Shaped[Tensor, "batch length"]:
    r"""Continue prompts by `count` tokens, each drawn from what the network predicts.

    Formula: the next token is drawn from $p^{1/\tau}$, normalised, at temperature $\tau$; at 0 it is the likeliest.

    Args:
        model: a causal network.
        ids: prompts (batch, length), at least one token.
        count: tokens to write.
        temperature: $\tau$, at least 0.
        mode: "mean", "sample", or "average": `draws` decoders with noises of their own read the same text, and $p$ is
            the average of their probabilities.
        draws: decoders, for "average" only.
        generator: source of the noise and of the tokens, on the device of the network; None is torch's own.

    Returns:
        Prompts and what was written, (batch, length + count).

    Errors: `ValueError` for a count below 1, a negative temperature, an unknown mode, fewer than one draw, or a text
    that does not fit into the context; otherwise as `Decoder`.
    """
    check_mode(mode, draws)
    if count < 1:
        raise ValueError(f"count is {count}: write at least one token")
    if temperature < 0:
        raise ValueError(f"temperature is {temperature}: give 0 for the likeliest token, or a positive number")
    if ids.ndim == 2 and ids.shape[1] + count - 1 > model.context:  # the last token is written and not read
        raise ValueError(
            f"count is {count} after prompts of {ids.shape[1]} tokens, and the context is {model.context}: write at "
            f"most {max(model.context + 1 - ids.shape[1], 0)} tokens, or shorten the prompts"
        )
    copies = draws if mode == "average" and has_noise(model) else 1
    decoder = Decoder(model, mode="mean" if mode == "mean" else "sample", generator=generator)
    text = new = ids
    for _ in range(count):
        x = decoder._advance(new.repeat_interleave(copies, 0))  # (batch * copies, new, width)
        logits = model._leave(x[:, -1], None)[1]
        each = logits.log_softmax(-1).unflatten(0, (-1, copies))  # (batch, copies, outputs)
        new = _choose(each.logsumexp(1), temperature, generator)[:, None].to(ids.dtype)  # (batch, 1)
        text = torch.cat((text, new), 1)
    return text


def _choose(log_weights: Tensor, temperature: float | int, generator: torch.Generator | None) -> Tensor:
    """A token (batch,) for each row of logarithms (batch, outputs), which need not be normalised."""
    if temperature == 0:
        return log_weights.argmax(-1)
    return torch.multinomial((log_weights / temperature).softmax(-1), 1, generator=generator)[:, 0]


def _attend(
    attention: Attention | SymmetricAttention, x: Tensor, past: tuple[Tensor, ...], start: int
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """What a layer adds for new tokens, from their inputs x (batch, new, width), and what it then keeps."""
    if isinstance(attention, Attention):
        query, key, value = _standard_parts(attention, x, start)
        key, value = present = _after(past, key, value)
        heads = attend_with_bias(query, key, value, scale=1 / math.sqrt(query.shape[-1]), causal=True)
        return attention._merge(heads), present
    query, key, value = attention.parts(x, start)
    present = _after(past, attention.noisy_keys(x, key), value)
    noise = attention.scores.noise
    if noise is not None and (noise.family, noise.space) == ("amortised", "score"):
        present += (x if start == 0 else torch.cat((past[2], x), 1),)
        inputs = present[2]
    else:  # the other noises ask the inputs for their shape only
        inputs = x[:, :1].expand(-1, start + x.shape[1], -1)
    bias = attention.score_bias(inputs, query)
    return attention.merge(attend_with_bias(query, *present[:2], bias, scale=attention.scale, causal=True)), present


def _after(past: tuple[Tensor, ...], key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    if not past:
        return key, value
    return torch.cat((past[0], key), -2), torch.cat((past[1], value), -2)


def _standard_parts(attention: Attention, x: Tensor, start: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values, each (batch, heads, new, head width), at the positions start, start + 1, ..."""
    batch, new, _ = x.shape
    query, key, value = attention.qkv(x).view(batch, new, 3, attention.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
    if attention.rotary is not None:  # its table of turns begins at position 0
        query, key = (attention.rotary(F.pad(part, (0, 0, start, 0)))[..., start:, :] for part in (query, key))
    return query, key, value

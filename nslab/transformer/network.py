"""One small pre-norm Transformer, causal or not, that can be entered at its embeddings and looked into by name."""

import difflib
import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from nslab.transformer.blocks import Block, norm_layer
from nslab.transformer.shape import TransformerConfig

SPREAD = 0.02  # standard deviation of GPT-2's initial weights


class Transformer(nn.Module):
    r"""Tokens to logits: embed, add positions, `layers` blocks on a residual stream, a final norm, the output matrix.

    Formula: $h_0 = E[ids] + P$; $m_l = h_l + \mathrm{Att}_l(N(h_l))$; $h_{l+1} = m_l + \mathrm{MLP}_l(N(m_l))$;
    output $= N(h_L)\, U^\top$ with $U = E$ where the output is tied.

    Initial weights are GPT-2's: normal with standard deviation 0.02, those of the projections into the residual stream
    (`attention.output`, `mlp.output`) divided by sqrt(2 layers), so that the sum of all blocks keeps the scale of one;
    biases zero, norms one.

    Args:
        config: the shape.
        generator: source of the initial weights; the same generator state gives the same network on every device that
            the network is moved to later.
        device: where the weights end up; the generator's device by default.

    It is a `TokenModel`: it has `vocabulary`, `context` and `special`.

    Errors: `ValueError` for ids that are not int64 or int32 of shape (batch, length), an empty sequence, one longer
    than the context, an id outside the vocabulary, or `at` outside the sequence. In training mode on an accelerator
    the values of `ids` and `at` are not checked, since each check would wait for the device.

    Source: Radford et al. (2019), section 2.3, for blocks and initial weights.

    >>> config = TransformerConfig(vocabulary=5, context=8, width=6, layers=1, heads=2)
    >>> model = Transformer(config, generator=torch.Generator().manual_seed(0))
    >>> model(torch.tensor([[1, 4, 2]])).shape
    torch.Size([1, 3, 5])
    """

    def __init__(
        self,
        config: TransformerConfig,
        generator: torch.Generator | None = None,
        *,
        device: torch.device | str | None = None,
    ):
        super().__init__()
        self.config = config
        self.vocabulary, self.context, self.special = config.vocabulary, config.context, config.special
        self.tokens = _table(config.vocabulary, config.width)
        learned = config.positions == "learned"
        self.positions = _table(config.context, config.width) if learned else None
        self.layers = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.final_norm = norm_layer(config)
        untied = not config.tied
        self.output = nn.utils.skip_init(nn.Linear, config.width, config.output_width, bias=False) if untied else None
        self._draw_weights(generator)
        if device is not None:
            self.to(device)

    def forward(
        self, ids: Shaped[Tensor, "..."], at: Shaped[Tensor, "..."] | None = None
    ) -> Float[Tensor, "batch *length outputs"]:
        """Logits of every position, or of one position of each row.

        Args:
            ids: token ids (batch, length).
            at: positions (batch,), 0 .. length - 1; None for all.

        Returns:
            (batch, length, outputs), or (batch, outputs) with `at`: the output matrix is then applied there only.
        """
        return self.from_embeddings(self.embed(ids), at)

    def embed(self, ids: Shaped[Tensor, "..."]) -> Float[Tensor, "batch length width"]:
        """Token embeddings (batch, length, width), before positions are added."""
        self._check_ids(ids)
        return self.tokens(ids)

    def from_embeddings(
        self, embeddings: Float[Tensor, "..."], at: Shaped[Tensor, "..."] | None = None
    ) -> Float[Tensor, "batch *length outputs"]:
        """As a call, from embeddings (batch, length, width): `m.from_embeddings(m.embed(ids), at)` is `m(ids, at)`."""
        x = self._enter(embeddings)
        for layer in self.layers:
            x = layer(x)
        return self._leave(x, at)[1]

    def trace(
        self, embeddings: Float[Tensor, "..."], at: Shaped[Tensor, "..."] | None = None
    ) -> tuple[Float[Tensor, "batch *length outputs"], list[Tensor]]:
        """As `from_embeddings`, and the residual stream on the way.

        Returns:
            The output, and `layers + 1` tensors (batch, length, width) of one graph: before each layer, and after the
            last. Number 0 already holds the learned positions.
        """
        hidden = [self._enter(embeddings)]
        for layer in self.layers:
            hidden.append(layer(hidden[-1]))
        return self._leave(hidden[-1], at)[1], hidden

    def look(
        self, embeddings: Float[Tensor, "..."], at: Shaped[Tensor, "..."] | None = None
    ) -> tuple[Float[Tensor, "batch *length outputs"], list[Tensor], list[Tensor]]:
        """As `trace`, and the attention weights of every head.

        Returns:
            The output, `layers + 1` states as in `trace`, and `layers` tensors (batch, heads, query, key), all of one
            graph. For more intermediates see `run`.
        """
        hidden, weights = [self._enter(embeddings)], []
        for layer in self.layers:
            x, parts = layer.look(hidden[-1], ["attention.weights"])
            hidden.append(x)
            weights.append(parts["attention.weights"])
        return self._leave(hidden[-1], at)[1], hidden, weights

    def run(
        self, ids: Shaped[Tensor, "..."], names: Sequence[str], at: Shaped[Tensor, "..."] | None = None
    ) -> tuple[Float[Tensor, "batch *length outputs"], dict[str, Tensor]]:
        """As a call, and the named intermediates with it, all of one graph.

        Args:
            ids: token ids (batch, length).
            names: some of `names()`.
            at: positions (batch,) for the output, and for "final"; None for all.

        Returns:
            The output, and a tensor for each name. Names of layer l start with `layers.l.`:

            - "embedding": token embeddings; "layers.l.residual": the stream before layer l, or, for l = layers, after
              the last; "layers.l.middle": between attention and MLP; "final": after the final norm;
            - "attention.input", "attention.output", "mlp.input", "mlp.output": what enters (after the norm) and what is
              added to the stream; all so far (batch, length, width);
            - "attention.query", ".key", ".value", ".heads": (batch, heads, length, head width);
            - "attention.scores", ".weights": (batch, heads, query, key); scores are minus infinity behind the mask;
            - "mlp.preactivation", "mlp.hidden": (batch, length, hidden width).

        How to read it: layers whose scores or weights are asked for take the explicit path, so the output may differ
        from a plain call in the last digits.

        Errors: `ValueError` for an unknown name, with the nearest known ones; otherwise as a call.
        """
        wanted = self._by_layer(names)
        embedding = self.embed(ids)
        x, seen = self._enter(embedding), {"embedding": embedding}
        for number, layer in enumerate(self.layers):
            if number in wanted:
                x, parts = layer.look(x, wanted[number])
                seen |= {f"layers.{number}.{name}": part for name, part in parts.items()}
            else:
                x = layer(x)
        seen[f"layers.{len(self.layers)}.residual"] = x
        seen["final"], output = self._leave(x, at)
        return output, {name: seen[name] for name in names}

    def names(self) -> list[str]:
        """All intermediates that `run` knows, in the order in which they are computed."""
        inside = [f"layers.{number}.{name}" for number in range(len(self.layers)) for name in Block.PARTS]
        return ["embedding", *inside, f"layers.{len(self.layers)}.residual", "final"]

    def _enter(self, embeddings: Tensor) -> Tensor:
        if embeddings.ndim != 3 or embeddings.shape[-1] != self.config.width:
            raise ValueError(
                f"embeddings has shape {tuple(embeddings.shape)}: give (batch, length, {self.config.width}), as from "
                "embed(ids)"
            )
        self._check_length(embeddings.shape[1], "embeddings")
        return embeddings if self.positions is None else embeddings + self.positions.weight[: embeddings.shape[1]]

    def _leave(self, x: Tensor, at: Tensor | None) -> tuple[Tensor, Tensor]:
        """The final norm and the output, everywhere or at one position of each row."""
        if at is not None:
            self._check_positions(at, x)
            x = x[torch.arange(len(x), device=x.device), at]  # (batch, width)
        final = self.final_norm(x)
        return final, nn.functional.linear(final, self.tokens.weight if self.output is None else self.output.weight)

    def _by_layer(self, names: Sequence[str]) -> dict[int, list[str]]:
        if isinstance(names, str):
            raise ValueError(f"names is the string {names!r}: give a sequence, names=({names!r},)")
        known, wanted = self.names(), {}
        for name in names:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or known[:3]
                raise ValueError(
                    f"names has {name!r}, which this model of {len(self.layers)} layers does not know: did you mean "
                    f"{', '.join(near)}? names() lists all"
                )
            if name.startswith("layers.") and not name.startswith(f"layers.{len(self.layers)}."):
                _, number, part = name.split(".", 2)
                wanted.setdefault(int(number), []).append(part)
        return wanted

    def _check_ids(self, ids: Tensor) -> None:
        if ids.ndim != 2:
            raise ValueError(f"ids has shape {tuple(ids.shape)}: give (batch, length); for one sequence, ids[None]")
        if ids.dtype not in (torch.int64, torch.int32):
            raise ValueError(f"ids has dtype {ids.dtype}: token ids are int64 or int32, use ids.long()")
        self._check_length(ids.shape[1], "ids")
        if self._looks_at_values(ids) and ids.numel():
            low, high = (int(end) for end in ids.aminmax())
            if low < 0 or high >= self.vocabulary:
                wrong = low if low < 0 else high
                raise ValueError(
                    f"ids has token id {wrong}: ids run from 0 to {self.vocabulary - 1}; encode the text with the "
                    "vocabulary that this model was made for"
                )

    def _check_length(self, length: int, name: str) -> None:
        if length == 0:
            raise ValueError(f"{name} holds an empty sequence: give at least one token")
        if length > self.context:
            raise ValueError(
                f"{name} has {length} positions and the context is {self.context}: cut the sequence, for example "
                f"{name}[:, -{self.context}:], or make the model with a longer context"
            )

    def _check_positions(self, at: Tensor, x: Tensor) -> None:
        if at.shape != x.shape[:1] or at.dtype not in (torch.int64, torch.int32):
            raise ValueError(
                f"at has shape {tuple(at.shape)} and dtype {at.dtype}: give one whole number a row, shape ({len(x)},)"
            )
        if self._looks_at_values(at) and bool(((at < 0) | (at >= x.shape[1])).any()):
            raise ValueError(f"at is {at.tolist()}: positions run from 0 to {x.shape[1] - 1}")

    def _looks_at_values(self, values: Tensor) -> bool:
        return values.device.type == "cpu" or not self.training

    @torch.no_grad()
    def _draw_weights(self, generator: torch.Generator | None) -> None:
        if generator is not None:
            self.to(generator.device)
        into_stream = SPREAD / math.sqrt(2 * len(self.layers))
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                spread = into_stream if name.endswith((".attention.output", ".mlp.output")) else SPREAD
                module.weight.normal_(0, spread, generator=generator)
            if isinstance(module, nn.Linear) and module.bias is not None:
                module.bias.zero_()


def _table(rows: int, width: int) -> nn.Embedding:
    """An embedding whose weights are not drawn yet. `skip_init` of one would import torch's compiler, for a second."""
    return nn.Embedding.from_pretrained(torch.empty(rows, width), freeze=False)

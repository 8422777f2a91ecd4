"""Which words of a text are support tokens of a model: the margins of every token, layer by layer and head by head."""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from nslab.barrier.heads import HeadStage, head_blocks, head_spectral_margins
from nslab.barrier.real_heads import watching
from nslab.protocols import TokenModel, check_mode

MEASURES = ("determinant", "spectral")
NUMBERS = 2**24  # held at once while a few rows of a long text are worked on
SHOWN = 24  # tokens in a printed table


class SupportToken(NamedTuple):
    """A token close to the boundary: its position, what it adds to the text, and its margin."""

    position: int
    piece: str
    margin: float


@dataclass(frozen=True, eq=False, repr=False)
class TextMargins:
    r"""Margins of every token of one text in every head. `*beta` is the shape of `temperature`, none for a number.

    Attributes:
        name: the model.
        ids: token ids (n,).
        pieces: what each token adds to the text, readable.
        temperature: the factors $\beta$ of the logits, (*beta).
        layers: numbers of the layers, in the order of the first axis below.
        neutral: so many first positions see fewer than two tokens: 2, or 1 where a token sees itself.
        log_determinant: $\log |\det(I_k - G_i C_i)|$ of each head, in nats, (layers, heads, n, *beta).
        sign: of that determinant, 1, -1, or 0 on the boundary, the same shape.
        spectral: the smallest singular value of the head's d x d matrix $I - W_O C_i W_Q / \sqrt{k}$, the same shape;
            None where it was not asked for.

    How to read it: the determinant of the k x k block is that of the d x d matrix; its singular values are not, which
    is why the spectral margin is taken of the larger one. Neutral positions have determinant and spectral margin 1.
    Their *distance to the boundary* is infinite, as no query can bring them to it, and they are never support tokens.
    Where the sign is -1 the token lies beyond the boundary, and its margin is how far it lies on the other side.
    """

    name: str
    ids: Shaped[Tensor, " n"]
    pieces: tuple[str, ...]
    temperature: Float[Tensor, "*beta"]
    layers: tuple[int, ...]
    neutral: int
    log_determinant: Float[Tensor, "layers heads n *beta"]
    sign: Float[Tensor, "layers heads n *beta"]
    spectral: Float[Tensor, "layers heads n *beta"] | None

    @property
    def determinant(self) -> Float[Tensor, "layers heads n *beta"]:
        """The determinant margin |det|, (layers, heads, n, *beta); `sign` has its sign."""
        return self.log_determinant.exp()

    @property
    def barrier(self) -> Float[Tensor, "layers heads n *beta"]:
        """The barrier -log |det| in nats, (layers, heads, n, *beta); infinite on the boundary."""
        return -self.log_determinant

    def at(self, number: int) -> "TextMargins":
        """The margins at one of several temperatures, by its number."""
        if self.temperature.ndim != 1:
            raise ValueError(f"temperature has shape {tuple(self.temperature.shape)}: at() picks one of a list")
        if not -len(self.temperature) <= number < len(self.temperature):
            raise ValueError(f"number is {number}: there are {len(self.temperature)} temperatures, counted from 0")
        parts = {name: getattr(self, name) for name in ("temperature", "log_determinant", "sign", "spectral")}
        return replace(self, **{name: None if part is None else part[..., number] for name, part in parts.items()})

    def margin(self, measure: str = "determinant") -> Float[Tensor, "layers heads n *beta"]:
        """The determinant or the spectral margin, (layers, heads, n, *beta)."""
        if measure not in MEASURES:
            raise ValueError(f"measure is {measure!r}: choose 'determinant' or 'spectral'")
        if measure == "spectral" and self.spectral is None:
            raise ValueError("measure is 'spectral', which was left out: ask margins for it with spectral=True")
        return self.determinant if measure == "determinant" else self.spectral

    def sequence_margin(self, measure: str = "determinant") -> Float[Tensor, "layers heads *beta"]:
        """The smallest margin of the text in each head, (layers, heads, *beta); infinite for texts that are neutral."""
        counted = self.margin(measure)[:, :, self.neutral :]
        if not counted.shape[2]:
            return counted.new_full(counted.shape[:2] + counted.shape[3:], torch.inf)
        return counted.amin(2)

    def support(
        self, tolerance: float | int = 0.0, measure: str = "determinant"
    ) -> Bool[Tensor, "layers heads n *beta"]:
        """Which tokens are support tokens of each head: margin <= (1 + tolerance) times the smallest of the text."""
        found = _close(self.margin(measure), self.sequence_margin(measure)[:, :, None], tolerance)
        found[:, :, : self.neutral] = False
        return found

    def support_tokens(
        self,
        layer: int | None = None,
        head: int | None = None,
        *,
        tolerance: float | int = 0.0,
        measure: str = "determinant",
    ) -> list[SupportToken]:
        """The support tokens of one head, of one layer, of one head number in all layers, or of the whole network.

        Args:
            layer: a number in `layers`; None for all.
            head: a number from 0; None for all.
            tolerance: how far above the smallest margin a token may lie, as a share of it.
            measure: "determinant" or "spectral".

        Returns:
            Tokens whose smallest margin over the chosen heads is within tolerance of the text's, the smallest first. A
            text of neutral tokens has none.

        Errors: `ValueError` for a layer or head that is not there, a negative tolerance, and several temperatures
        (pick one with `at`).
        """
        least = self._least(layer, head, measure)[0][self.neutral :]
        if not len(least):
            return []
        close = _close(least, least.min(), tolerance).nonzero()[:, 0].tolist()
        found = [(number + self.neutral, least[number].item()) for number in close]
        return [SupportToken(i, self.pieces[i], margin) for i, margin in sorted(found, key=lambda one: one[1])]

    def __str__(self) -> str:
        if self.temperature.ndim:
            return f"{self!r}: pick a temperature with at(number)"
        least, heads = self._least(None, None, "determinant")
        order = least[self.neutral :].argsort()[:SHOWN].sort().values + self.neutral
        shown = [*range(min(self.neutral, len(self.pieces))), *order.tolist()]
        support = {one.position for one in self.support_tokens()}
        lines = [repr(self), "position  token            least |det|  in layer.head  least singular value"]
        for i in shown:
            spectral = "" if self.spectral is None else f"{self.spectral[:, :, i].min().item():.4f}"
            where = divmod(int(heads[i]), self.sign.shape[1])
            told = "neutral" if i < self.neutral else f"{self.layers[where[0]]}.{where[1]}"
            mark = "  support token" if i in support else ""
            lines.append(f"{i:8d}  {self.pieces[i]:<15}  {least[i].item():11.4f}  {told:>13}  {spectral:>20}{mark}")
        if len(shown) < len(self.pieces):
            lines.append(f"... and {len(self.pieces) - len(shown)} tokens with larger margins")
        return "\n".join(lines)

    def __repr__(self) -> str:
        layers, heads, length = self.sign.shape[:3]
        warm = self.temperature.tolist()
        return f"TextMargins({self.name}: {length} tokens, {layers} layers, {heads} heads, temperature {warm})"

    def _least(self, layer: int | None, head: int | None, measure: str) -> tuple[Tensor, Tensor]:
        """Each token's smallest margin over the chosen heads (n,), and the number of the head that has it."""
        if self.temperature.ndim:
            raise ValueError(f"there are {len(self.temperature)} temperatures: pick one with at(number) first")
        margin = self.margin(measure)
        if layer is not None:
            if layer not in self.layers:
                raise ValueError(f"layer is {layer}: choose one of {', '.join(map(str, self.layers))}, or None for all")
            margin = margin[self.layers.index(layer)][None]
        if head is not None:
            if not 0 <= head < margin.shape[1]:
                raise ValueError(f"head is {head}: choose 0 to {margin.shape[1] - 1}, or None for all")
            margin = margin[:, head, None]
        return margin.flatten(0, 1).min(0)  # (layers, heads, n) -> (n,)


@torch.no_grad()
def margins(
    model: Any,
    text: str | Shaped[Tensor, "..."],
    *,
    temperature: float | int | Shaped[Tensor, "*beta"] = 1.0,
    self_included: bool = False,
    layers: tuple[int, ...] | list[int] | None = None,
    norm_path: bool = False,
    spectral: bool = True,
) -> TextMargins:
    r"""Margins of every token of a text in the heads of a real model: of its query's path, its past held fixed.

    Formula: head h has the block $J_i^h = I - \frac{\beta}{\sqrt{k}} W_O^h C_i^h W_Q^h$, $C_i^h$ the covariance of
    values and keys under the weights that row i gives to its past. $|\det J_i^h|$ is computed as the determinant of
    $I_k - G^h C_i^h$, $G^h = \beta\, W_Q^h W_O^h / \sqrt{k}$, and $\sigma_{\min}(J_i^h)$ in the span of $W_O^h$ and
    $W_Q^{h\top}$.

    Args:
        model: a causal model of `nslab.zoo`, a `nslab.transformer.Transformer`, or any network that `watching` knows.
        text: a text, for models that encode one; or token ids (n,).
        temperature: $\beta$, the factor of the logits, at least 0: 1 is the model as it is, more makes attention
            sharper. A tensor (*beta) gives results with these last axes, of one pass through the model: the layers
            below are not recomputed at the other temperatures.
        self_included: whether a token attends to itself as well, as the network does when it runs. The theory's past is
            strict, and so is the default: weights over s < i, normalised among themselves.
        layers: numbers of the layers that are looked at; all by default.
        norm_path: whether blocks are taken with respect to the residual stream before the norm; by default to the
            normalised input of the attention.
        spectral: whether the spectral margins, the slow part, are computed.

    Returns:
        `TextMargins`. Half precision is upcast to float32 behind the projections; what the network rounded on the way
        there stays rounded, and margins near 0 feel it most.

    How to read it: a margin near 0 means that this token's query could move a little and the attention mean would
    follow it, so that the residual hardly sees the move. A token with a small margin is not an important token by
    itself; what the loss does is a question to measure.

    Errors: `ValueError` for a model without attention of a known kind, one that is not causal (a masked model, an
    encoder) or is in training mode, an empty text, ids that are no sequence, a layer that is not there, and a
    temperature below 0 or not finite.

    Source: arXiv 2602.22271 as reported by a third-party port; heads of real models: *reconstructed*.
    """
    if (kind := getattr(model, "kind", "causal")) != "causal":
        raise ValueError(
            f"model is {kind}: each of its tokens sees the whole text, so there is no past whose covariance bends its "
            "query; give a causal model"
        )
    ids = _ids(model, text)
    beta = torch.as_tensor(temperature, dtype=torch.float64)
    if not beta.numel() or not bool((beta >= 0).all() & beta.isfinite().all()):
        raise ValueError(f"temperature is {temperature}: give finite factors of the logits, 0 or more, at least one")
    with watching(model, norm=norm_path) as seen:
        check_mode(seen.module, "model")
        _ = model(ids[None], ids.new_zeros(1)) if isinstance(model, TokenModel) else model(ids[None])
        stages = seen.stages()
    chosen = tuple(range(len(stages)) if layers is None else layers)
    if absent := [layer for layer in chosen if not 0 <= layer < len(stages)]:
        raise ValueError(f"layers has {absent[0]}: the model has the layers 0 to {len(stages) - 1}")
    if not chosen:
        raise ValueError("layers is empty: name at least one, or leave it out for all")
    found = [
        [_of_stage(_warmed(stages[layer], factor), self_included, spectral) for layer in chosen]
        for factor in beta.flatten().tolist()
    ]

    def joined(number: int) -> Tensor:
        parts = [torch.stack([layer[number] for layer in warmth]) for warmth in found]  # (layers, heads, n) each
        return torch.stack(parts, -1).unflatten(-1, beta.shape) if beta.ndim else parts[0]

    sign = joined(1)
    return TextMargins(
        name=getattr(model, "name", type(seen.module).__name__),
        ids=ids,
        pieces=tuple(model.pieces(ids)) if hasattr(model, "pieces") else tuple(f"#{number}" for number in ids.tolist()),
        temperature=beta.to(sign),
        layers=chosen,
        neutral=1 if self_included else 2,
        log_determinant=joined(0),
        sign=sign,
        spectral=joined(2) if spectral else None,
    )


def rank_agreement(found: TextMargins) -> Float[Tensor, "layers heads *beta"]:
    """Spearman's correlation of the determinant and the spectral margin over the tokens of a text, in each head.

    Returns:
        (layers, heads, *beta), 1 where both put the tokens in the same order; NaN for texts with fewer than two tokens
        that count, and for heads in which all tokens tie.

    How to read it: far below 1, the two margins name different support tokens: a determinant multiplies all directions,
    and the spectral margin knows only the worst.

    Errors: `ValueError` when the spectral margins were left out.
    """
    pair = (found.margin(measure)[:, :, found.neutral :].movedim(2, -1) for measure in MEASURES)
    return spearman(*pair)


def spearman(x: Float[Tensor, "*#batch n"], y: Float[Tensor, "*#batch n"]) -> Float[Tensor, "..."]:
    """Spearman's rank correlation along the last axis; ties get the mean of their ranks. NaN where either is constant.

    Returns float32, whatever the dtype of the numbers.

    >>> x = torch.tensor([1.0, 2.0, 2.0, 9.0])
    >>> spearman(x, x**3)
    tensor(1.)
    """
    x, y = (_ranks(part) for part in torch.broadcast_tensors(x, y))
    x, y = x - x.mean(-1, keepdim=True), y - y.mean(-1, keepdim=True)
    return ((x * y).sum(-1) / (x.square().sum(-1) * y.square().sum(-1)).sqrt()).float()


def _ranks(x: Tensor) -> Tensor:
    x = x.contiguous()
    ordered = x.sort(-1).values
    below, upto = (torch.searchsorted(ordered, x, side=side) for side in ("left", "right"))
    return (below + upto + 1).double() / 2


def _close(margin: Tensor, least: Tensor, tolerance: float | int) -> Tensor:
    if not 0 <= tolerance < float("inf"):
        raise ValueError(f"tolerance is {tolerance}: give a share of the smallest margin, 0 or more")
    return margin <= (1 + tolerance) * least


def _ids(model: Any, text: str | Tensor) -> Tensor:
    if isinstance(text, str):
        if not hasattr(model, "encode"):
            raise ValueError(f"model is {type(model).__name__} and reads no text: give token ids (length,)")
        return model.encode(text)
    if text.ndim != 1 or not len(text):
        raise ValueError(f"text has shape {tuple(text.shape)}: give the ids of one text, (length,), at least one")
    return text


def _warmed(stage: HeadStage, factor: float) -> HeadStage:
    """The stage with its logits multiplied by a factor: that of its queries, and of what makes them."""
    if factor == 1:
        return stage
    return replace(stage, query=factor * stage.query, query_weight=factor * stage.query_weight)


def _of_stage(stage: HeadStage, self_included: bool, spectral: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """Logarithm of |det|, its sign, and the spectral margin (heads, n), a few rows at a time."""
    _, heads, length, width = stage.key.shape
    step = max(1, NUMBERS // (heads * stage.value.shape[-1] * max(length, width)))
    parts = []
    for rows in torch.arange(length, device=stage.key.device).split(step):
        sign, logarithm = torch.linalg.slogdet(head_blocks(stage, rows, self_included)[0])
        least = head_spectral_margins(stage, rows, self_included)[0] if spectral else logarithm
        parts.append((logarithm, sign, least))
    logarithm, sign, least = (torch.cat(part, -1) for part in zip(*parts, strict=True))
    return logarithm, sign, least if spectral else None

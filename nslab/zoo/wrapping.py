"""Your own model as a `TokenModel`, in one line."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nslab.protocols import check_mode
from nslab.zoo.checks import check_embeddings, check_ids, check_positions, pick
from nslab.zoo.models import Kind


@dataclass(frozen=True, eq=False, repr=False)
class Wrapped:
    """What `wrap` returns: a `TokenModel` around a callable; attributes as in `wrap`."""

    f: Callable[[Tensor], Tensor]
    vocabulary: int
    context: int
    special: tuple[int, ...]
    entry: Callable[[Tensor], Tensor] | None
    rest: Callable[[Tensor], Tensor] | None
    steps: Callable[[Tensor], tuple[Tensor, list[Tensor]]] | None
    kind: Kind
    mask_id: int | None
    name: str
    proven: bool = field(default=False, init=False)

    def __call__(self, ids: Tensor, /, at: Tensor | None = None) -> Tensor:
        """Outputs for ids (batch, length), everywhere or at one position of each row."""
        check_ids(ids, self.vocabulary, self.context)
        return self._read(self.f(ids), ids, at)

    def embed(self, ids: Tensor, /) -> Tensor:
        """Token embeddings (batch, length, width). At the first call one row is entered both ways, and compared."""
        if self.entry is None:
            raise ValueError(f"{self.name} was wrapped without embed: pass embed= and from_embeddings= to zoo.wrap")
        check_ids(ids, self.vocabulary, self.context)
        if not self.proven:
            self._prove(ids[:1])
            object.__setattr__(self, "proven", True)
        return self.entry(ids)

    def from_embeddings(self, embeddings: Tensor, /, at: Tensor | None = None) -> Tensor:
        """As a call, from embeddings."""
        if self.rest is None:
            raise ValueError(
                f"{self.name} was wrapped without from_embeddings: pass embed= and from_embeddings= to zoo.wrap"
            )
        check_embeddings(embeddings, None, self.context)
        return self._read(self.rest(embeddings), embeddings, at)

    def trace(self, embeddings: Tensor, /, at: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        """As `from_embeddings`, and the hidden states on the way, all of one graph."""
        if self.steps is None:
            raise ValueError(
                f"{self.name} shows no hidden states: pass trace= to zoo.wrap, embeddings to the outputs and the list "
                "of hidden states"
            )
        check_embeddings(embeddings, None, self.context)
        output, hidden = self.steps(embeddings)
        return self._read(output, embeddings, at), list(hidden)

    def __repr__(self) -> str:
        return f"Wrapped({self.name}: {self.kind}, context {self.context}, {self.vocabulary} tokens)"

    @torch.no_grad()
    def _prove(self, ids: Tensor) -> None:
        by_ids, by_embeddings = self(ids), self.from_embeddings(self.entry(ids))
        slack = 5e-2 if by_ids.dtype in (torch.float16, torch.bfloat16) else 1e-4
        by_ids, by_embeddings = by_ids.double(), by_embeddings.double()
        if float((by_ids - by_embeddings).abs().max()) > slack * float(by_ids.abs().max()):
            raise ValueError(
                f"{self.name} gives other outputs from embeddings than from ids, so influence through embeddings would "
                "be wrong: embed returns the bare embeddings of tokens, and from_embeddings adds everything else, such "
                "as positions, once"
            )

    def _read(self, output: object, given: Tensor, at: Tensor | None) -> Tensor:
        if not isinstance(output, Tensor):
            raise ValueError(
                f"{self.name} returned {type(output).__name__}: return one tensor, for example with "
                "lambda ids: model(ids)[0]"
            )
        if output.ndim not in (2, 3) or len(output) != len(given):
            raise ValueError(
                f"{self.name} returned shape {tuple(output.shape)} for {tuple(given.shape[:2])} tokens: return (batch, "
                "length, outputs), or (batch, outputs) for a model that is read at one place"
            )
        if at is None or output.ndim == 2:
            return output
        check_positions(at, len(output), output.shape[1])
        return pick(output, at)


def wrap(
    model: Callable[[Tensor], Tensor],
    *,
    vocabulary: int,
    context: int,
    special: tuple[int, ...] = (),
    embed: Callable[[Tensor], Tensor] | None = None,
    from_embeddings: Callable[[Tensor], Tensor] | None = None,
    trace: Callable[[Tensor], tuple[Tensor, list[Tensor]]] | None = None,
    kind: Kind = "causal",
    mask_id: int | None = None,
    name: str = "your model",
) -> Wrapped:
    """Any callable over token ids as a `TokenModel`: with checks, and with entry at the embeddings if you give it.

    Args:
        model: ids (batch, length) to (batch, length, outputs); or to (batch, outputs) for a model that is read at one
            place, such as a classifier (`at` then changes nothing).
        vocabulary: number of token ids.
        context: the longest sequence, in tokens.
        special: ids that noise must not touch and must not produce.
        embed: ids to embeddings (batch, length, width), for example the model's `nn.Embedding`. Only measures that go
            through embeddings (geometric influence, embedding noise) need it and `from_embeddings`.
        from_embeddings: embeddings to what `model` returns.
        trace: embeddings to what `model` returns and the list of hidden states (batch, length, hidden), for
            `geometric_influence_by_layer`.
        kind: "causal", "masked" or "encoder", see `LanguageModel`.
        mask_id: the mask token of a masked model; it counts as special.
        name: what errors call it.

    Errors: `ValueError` for numbers out of range, an `nn.Module` in training mode (its dropout would count as noise; in
    a lambda it is not seen), and, when called, for ids, positions and outputs of a wrong shape, and where `embed` and
    `from_embeddings` together do not give what `model` gives.

    >>> import torch
    >>> model = wrap(lambda ids: ids[..., None] == torch.arange(5), vocabulary=5, context=8)
    >>> model(torch.tensor([[1, 4]]), at=torch.tensor([1])).long()
    tensor([[0, 0, 0, 0, 1]])
    """
    for key, value in {"vocabulary": vocabulary, "context": context}.items():
        if value < 1:
            raise ValueError(f"{key} is {value}: give a positive whole number")
    special = tuple({*special, *([] if mask_id is None else [mask_id])})
    for token in special:
        if not 0 <= token < vocabulary:
            raise ValueError(f"special and mask_id have token id {token}: ids run from 0 to {vocabulary - 1}")
    for part in (model, embed, from_embeddings, trace):
        check_mode(part, name)
    if (embed is None) != (from_embeddings is None):
        raise ValueError("embed and from_embeddings belong together: give both, or neither")
    if kind == "masked" and mask_id is None:
        raise ValueError("kind is 'masked' and mask_id is None: give the id of the mask token")
    ways = embed, from_embeddings, trace
    return Wrapped(model, vocabulary, context, tuple(sorted(special)), *ways, kind, mask_id, name)

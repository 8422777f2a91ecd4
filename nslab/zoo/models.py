"""One thin class for every language model: text, ids, embeddings, outputs, and what lies between."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from nslab.batches import in_batches
from nslab.zoo.checks import as_text, check_embeddings, check_ids, check_positions
from nslab.zoo.vocabularies import readable_pieces

Kind = Literal["causal", "masked", "encoder"]


@dataclass(frozen=True, eq=False)
class LanguageModel:
    """A frozen language model that can be entered at its embeddings and read at one position: a `TokenModel`.

    Attributes:
        name: as `load` knows it.
        kind: "causal" (position i predicts token i + 1), "masked" (predicts the token at i) or "encoder" (no
            vocabulary head: the outputs are the last hidden states).
        module: the torch module; its parameters are frozen and it is in evaluation mode.
        body: what computes: `embed`, `from_embeddings`, `trace` and `look` of ids and embeddings that were checked.
        tokens: the vocabulary: text to ids and back.
        context: the longest sequence, in tokens, special ones included.
        width: coordinates of a token embedding.
        layers: blocks of the network.
        provenance: where the weights come from, one sentence.

    Conventions: all sequences of a batch have one length, and none is padded: there is no attention mask. `encode` adds
    what the model's own tokenizer adds and nothing else: BERT-like models get [CLS] ... [SEP] (RoBERTa <s> ... </s>),
    Llama and Gemma <bos>, stories260k its begin token; GPT-2, SmolLM2 and char-gpt get no token before the text.
    `special` lists the ids of such tokens and those that no text can reach; noise leaves the positions that hold
    them alone. Values come in the dtype of the weights.

    Errors: `ValueError` for ids, embeddings or positions of a wrong shape or range, and for a sequence longer than
    the context.
    """

    name: str
    kind: Kind
    module: nn.Module
    body: Any
    tokens: Any
    context: int
    width: int
    layers: int
    provenance: str

    @property
    def vocabulary(self) -> int:
        """Number of token ids, 0 .. vocabulary - 1: the rows of the embedding."""
        return self.tokens.size

    @property
    def special(self) -> tuple[int, ...]:
        """Ids that noise must not touch and must not produce."""
        return self.tokens.special

    @property
    def mask_id(self) -> int | None:
        """The id of the mask token, of models that have one."""
        return self.tokens.mask_id

    @property
    def device(self) -> torch.device:
        """Where ids and embeddings are expected; of a model spread over devices, where its embeddings are."""
        return next(self.module.parameters()).device

    def __call__(
        self, ids: Shaped[Tensor, "..."], /, at: Shaped[Tensor, "..."] | None = None
    ) -> Float[Tensor, "batch *length outputs"]:
        """Logits (encoders: hidden states) for ids (batch, length), everywhere or at one position of each row.

        Args:
            ids: token ids (batch, length).
            at: positions (batch,), 0 .. length - 1; the vocabulary head is computed there only.

        Returns:
            (batch, length, outputs), or (batch, outputs) with `at`.
        """
        return self.from_embeddings(self.embed(ids), at)

    def embed(self, ids: Shaped[Tensor, "..."], /) -> Float[Tensor, "batch length width"]:
        """Token embeddings (batch, length, width), before positions are added, as the model's own table gives them.

        Gemma multiplies its embeddings by the root of the width: after the table for Gemma 1 and 2 in version 4 of
        `transformers`, otherwise within it. Its influences through embeddings differ between the two by that factor,
        the same at all positions.
        """
        check_ids(ids, self.vocabulary, self.context)
        return self.body.embed(ids)

    def from_embeddings(
        self, embeddings: Float[Tensor, "..."], /, at: Shaped[Tensor, "..."] | None = None
    ) -> Float[Tensor, "batch *length outputs"]:
        """As a call, from embeddings (batch, length, width), with the gradient to them."""
        self._check(embeddings, at)
        return self.body.from_embeddings(embeddings, at)

    def trace(
        self, embeddings: Float[Tensor, "..."], /, at: Shaped[Tensor, "..."] | None = None
    ) -> tuple[Float[Tensor, "batch *length outputs"], list[Float[Tensor, "batch length hidden"]]]:
        """As `from_embeddings`, and the hidden states on the way, all of one graph.

        Returns:
            The output, and `layers + 1` tensors (batch, length, hidden): before each layer, and after the last.
            Number 0 already holds learned positions. Models of `transformers` with a final norm give their last
            hidden state after it; char-gpt gives the residual stream before it.
        """
        self._check(embeddings, at)
        return self.body.trace(embeddings, at)

    def look(
        self, embeddings: Float[Tensor, "..."], /, at: Shaped[Tensor, "..."] | None = None
    ) -> tuple[
        Float[Tensor, "batch *length outputs"],
        list[Float[Tensor, "batch length hidden"]],
        list[Float[Tensor, "batch heads query key"]],
    ]:
        """As `trace`, and the attention weights of every head, all of one graph.

        Returns:
            The output and the hidden states of `trace`, and for each layer the weights (batch, heads, query, key); each
            row is not negative and adds up to 1. They are formed step by step: the output differs from a plain call in
            the last digits.

        Errors: `ValueError` as a call, and for a model that does not tell its weights.
        """
        self._check(embeddings, at)
        return self.body.look(embeddings, at)

    @torch.no_grad()
    def batched(
        self, ids: Shaped[Tensor, "rows length"], at: Shaped[Tensor, "rows"] | None = None
    ) -> Float[Tensor, "rows *length outputs"]:
        """As a call, without gradient, in batches whose size is found from the memory there is."""
        return in_batches(self, ids) if at is None else in_batches(self, ids, at)

    def encode(
        self, text: str | bytes, *, truncate: int | None = None, unknown: Literal["refuse", "skip"] = "refuse"
    ) -> Shaped[Tensor, "length"]:
        """Token ids (length,) of a text, on the model's device.

        Args:
            text: not empty; bytes must be UTF-8.
            truncate: keep at most this many tokens, from the beginning; tokens that the tokenizer adds count and stay.
            unknown: what char-gpt does with characters outside its alphabet. Other vocabularies have bytes or an
                unknown token and never meet one.

        Errors: `ValueError` for a text that is empty, not UTF-8, without a token, longer than the context, or with
        characters outside the alphabet (named).
        """
        if truncate is not None and not 1 <= truncate <= self.context:
            raise ValueError(f"truncate is {truncate}: give 1 to {self.context}, the context of {self.name}")
        ids = self.tokens.encode(as_text(text), truncate, unknown)
        if not set(ids) - set(self._added):
            raise ValueError(f"text {text!r:.40} has no token for {self.name}: give text that its vocabulary knows")
        if len(ids) > self.context:
            raise ValueError(
                f"text has {len(ids)} tokens and the context of {self.name} is {self.context}: pass "
                f"truncate={self.context} to keep the beginning"
            )
        return torch.tensor(ids, device=self.device)

    def prompts(self, texts: Sequence[str], length: int) -> Shaped[Tensor, "prompts length"]:
        """The first `length` tokens of each text, (prompts, length): one batch, nothing padded.

        Errors: `ValueError` naming the first text that is shorter (leave such texts out), and for a `length` outside
        1 .. context.
        """
        if isinstance(texts, str):
            raise ValueError("texts is one text: give a list, [text]")
        if not 1 <= length <= self.context:
            raise ValueError(f"length is {length}: give 1 to {self.context}, the context of {self.name}")
        rows = [self.encode(text, truncate=length, unknown="skip") for text in texts]
        for number, row in enumerate(rows):
            if len(row) < length:
                raise ValueError(
                    f"texts[{number}] has {len(row)} tokens and length is {length}: leave it out, or ask for a "
                    "smaller length (rows of one batch have one length)"
                )
        if not rows:
            raise ValueError("texts is empty: give at least one text")
        return torch.stack(rows)

    def decode(self, ids: Shaped[Tensor, "..."] | Sequence[int]) -> str:
        """The text of ids (length,), without special tokens."""
        return self.tokens.decode(self._numbers(ids))

    def pieces(self, ids: Shaped[Tensor, "..."] | Sequence[int]) -> list[str]:
        """What each token adds to the text, readable: "␣" is a space, "⏎" a newline, "⇥" a tab.

        A character made of several tokens stands at the last of them, the others show "⋯".
        """
        return readable_pieces(lambda part: self.tokens.decode(part, special=True), self._numbers(ids))

    def __repr__(self) -> str:
        shape = f"{self.layers} layers, width {self.width}, context {self.context}, {self.vocabulary} tokens"
        return f"LanguageModel({self.name}: {self.kind}, {shape})"

    @property
    def _added(self) -> tuple[int, ...]:
        """Special ids that an encoded text may hold without saying anything; the unknown token does say something."""
        return tuple(set(self.special) - {getattr(getattr(self.tokens, "tokenizer", None), "unk_token_id", None)})

    def _numbers(self, ids: Tensor | Sequence[int]) -> list[int]:
        found = torch.as_tensor(ids, dtype=None if len(ids) else torch.int64)
        if found.ndim != 1:
            raise ValueError("ids has more than one row: give one sequence, for example ids[0]")
        if len(found):
            check_ids(found[None], self.vocabulary, len(found))  # what is shown may be longer than the context
        return found.tolist()

    def _check(self, embeddings: Tensor, at: Tensor | None) -> None:
        check_embeddings(embeddings, self.width, self.context)
        if at is not None:
            check_positions(at, len(embeddings), embeddings.shape[1])


def freeze(module: nn.Module) -> nn.Module:
    """The module itself, without gradients of its parameters and in evaluation mode (no dropout)."""
    return module.eval().requires_grad_(False)

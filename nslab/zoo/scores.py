"""One number a prompt, fixed at the clean prompt: the scalar whose influences and stability are measured."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Integer, Shaped
from torch import Tensor

from nslab.protocols import TokenModel, check_mode, check_steady
from nslab.zoo.checks import as_rows, check_ids


@dataclass(frozen=True, eq=False, repr=False)
class Score:
    r"""One differentiable number for each prompt; a `PromptScore`. Made by `top_token_score`.

    Formula: $g_p(x) = \log p(t_p \mid x)$ at position $a_p$, with $t_p$ the top token there for the clean prompt p; for
    an encoder $g_p(x) = \langle u_p, \bar h(x) \rangle$ with the mean hidden state $\bar h$ and
    $u_p = \bar h(p) / \|\bar h(p)\|$.

    Attributes:
        model: the model.
        ids: the clean prompts (prompts, length); for a masked model with the mask in place.
        at: the position that is read, (prompts,).
        token: the top tokens (prompts,); None for an encoder.
        direction: the unit vectors (prompts, hidden); None otherwise.
        value: the score of the clean prompts (prompts,): nats, or for an encoder the length of the mean hidden state.

    How to read it: the token and the direction stay those of the clean prompt, whatever is done to the input. Hand
    `score.ids` or `score.embeddings` to the measures; for some of the prompts cut the score too, as in `score[6:]`.
    """

    model: Any
    ids: Integer[Tensor, "prompts length"]
    at: Integer[Tensor, "prompts"]
    token: Integer[Tensor, "prompts"] | None
    direction: Float[Tensor, "prompts hidden"] | None
    value: Float[Tensor, "prompts"]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, prompts: Any) -> "Score":
        """The score of some prompts: a slice, a number, a list, or a tensor of numbers or of truth values."""
        prompts = [prompts] if isinstance(prompts, int) else prompts
        parts = (self.ids, self.at, self.token, self.direction, self.value)
        return Score(self.model, *(None if part is None else part[prompts] for part in parts))

    def __repr__(self) -> str:
        name, (rows, length) = getattr(self.model, "name", type(self.model).__name__), self.ids.shape
        low, high = (float(end) for end in self.value.aminmax())
        return f"Score({name}: {rows} prompts of {length} tokens, value {low:.3g} to {high:.3g})"

    @cached_property
    def embeddings(self) -> Float[Tensor, "prompts length width"]:
        """The clean token embeddings (prompts, length, width), without a gradient."""
        with torch.no_grad():
            return self.model.embed(self.ids)

    @property
    def token_text(self) -> list[str]:
        """The top tokens as readable text, as ids where the model knows no text; empty for an encoder."""
        tokens = [] if self.token is None else self.token.tolist()
        return [self.model.pieces([token])[0] if hasattr(self.model, "pieces") else str(token) for token in tokens]

    def for_prompts(self, prompt: Shaped[Tensor, "rows"], /) -> Callable[[Tensor], Tensor]:
        """The score of rows that are variants of the prompts with these indices: ids (rows, length) to (rows,)."""
        at = self.at[prompt]
        if self.token is None:
            return lambda ids: self._read(self.model(ids), prompt)
        return lambda ids: self._read(self.model(ids, at), prompt)

    def from_embeddings(
        self, embeddings: Float[Tensor, "rows length width"], /, prompt: Shaped[Tensor, "rows"] | None = None
    ) -> Float[Tensor, "rows"]:
        """The score from embeddings, with its gradient; row i belongs to prompt i unless `prompt` says otherwise."""
        prompt = self._prompts(embeddings, prompt)
        at = None if self.token is None else self.at[prompt]
        return self._read(self.model.from_embeddings(embeddings, at), prompt)

    def trace(
        self, embeddings: Float[Tensor, "rows length width"], /, prompt: Shaped[Tensor, "rows"] | None = None
    ) -> tuple[Float[Tensor, "rows"], list[Float[Tensor, "rows length hidden"]]]:
        """As `from_embeddings`, and the hidden states before each layer and after the last, of one graph.

        Errors: `ValueError` for a model without `trace`, such as one of `zoo.wrap` that was given none.
        """
        if not hasattr(self.model, "trace"):
            name = getattr(self.model, "name", "the model")
            raise ValueError(
                f"{name} shows no hidden states: only models of zoo.load, zoo.adopt and Transformer do by themselves; "
                "pass trace= to zoo.wrap, or give it a method trace(embeddings, at) -> (outputs, hidden states)"
            )
        prompt = self._prompts(embeddings, prompt)
        at = None if self.token is None else self.at[prompt]
        output, hidden = self.model.trace(embeddings, at)
        return self._read(output, prompt), hidden

    def _read(self, output: Tensor, prompt: Tensor) -> Tensor:
        if self.token is None:
            return (output.mean(1) * self.direction[prompt]).sum(-1)
        return log_probabilities(output).gather(1, self.token[prompt][:, None])[:, 0]

    def _prompts(self, embeddings: Tensor, prompt: Tensor | None) -> Tensor:
        if prompt is not None:
            return prompt
        if len(embeddings) != len(self.ids):
            raise ValueError(
                f"embeddings has {len(embeddings)} rows and the score {len(self.ids)} prompts: give prompt=, the "
                "index of each row's prompt"
            )
        return torch.arange(len(self.ids), device=self.at.device)


def top_token_score(
    model: TokenModel, ids: Shaped[Tensor, "..."], at: int | Shaped[Tensor, "prompts"] | None = None
) -> Score:
    r"""The score of a model's own top prediction at each prompt.

    Args:
        model: a causal or masked language model, or an encoder.
        ids: prompts (prompts, length), or one prompt (length,).
        at: where to read: a position, or one for each prompt; negative ones count from the end. Causal: the token after
            it is predicted; the last position by default. Masked: the token there is replaced by the mask, and the
            prompt with the mask counts as the clean one; the last position whose token is not special by default.
            Encoders are read everywhere, at most None.

    Returns:
        `Score`.

    How to read it: how sure the model is of what it believes anyway. It says nothing about being right. Hand
    `score.ids` to the measures, not your ids: those of a masked model still hold the answer.

    Errors: `ValueError` for ids the model does not take, a position outside the prompt or on a special token, an `at`
    for an encoder, a masked model without a mask token, or a model that is in training mode or gives two answers.

    Source: *reconstructed*; arXiv 2602.08287 names the log-probability of the next token, not how its token is chosen.
    """
    ids = as_rows(ids)
    check_ids(ids, model.vocabulary, model.context)
    check_mode(model, getattr(model, "name", "the model"))
    kind = getattr(model, "kind", "causal")
    with torch.no_grad():
        if kind == "encoder":
            if at is not None:
                raise ValueError(f"at is {at}: an encoder is read at all positions together, leave it out")
            pooled = model(ids).mean(1)
            value = pooled.norm(dim=-1)
            check_steady(lambda: model(ids[:1]), getattr(model, "name", "the model"))
            return Score(model, ids, _last(ids), None, pooled / value[:, None], value)
        if kind == "masked":
            where = last_content(model, ids) if at is None else _positions(at, ids)
            ids = with_mask(model, ids, where)
        else:
            where = _last(ids) if at is None else _positions(at, ids)
        value, token = log_probabilities(model(ids, where)).max(-1)
        check_steady(lambda: log_probabilities(model(ids[:1], where[:1])), getattr(model, "name", "the model"))
    return Score(model, ids, where, token, None, value)


def log_probabilities(logits: Float[Tensor, "*batch outputs"]) -> Float[Tensor, "*batch outputs"]:
    """Log-softmax in nats, in float32 where the logits have fewer digits."""
    return torch.log_softmax(logits, -1, dtype=torch.promote_types(logits.dtype, torch.float32))


def last_content(model: TokenModel, ids: Integer[Tensor, "prompts length"]) -> Integer[Tensor, "prompts"]:
    """The last position of each prompt whose token is not special.

    Errors: `ValueError` naming a prompt without such a token.
    """
    content = is_content(model, ids)
    empty = ~content.any(1)
    if bool(empty.any()):
        raise ValueError(f"ids[{int(empty.nonzero()[0])}] holds special tokens only: give a prompt with text")
    return torch.where(content, torch.arange(ids.shape[1], device=ids.device), -1).max(1).values


def is_content(model: TokenModel, ids: Integer[Tensor, "*batch"]) -> Shaped[Tensor, "*batch"]:
    """Which tokens stand for text: those that are not special."""
    return ~torch.isin(ids, torch.tensor(model.special, dtype=ids.dtype, device=ids.device))


def with_mask(
    model: TokenModel, ids: Integer[Tensor, "rows length"], at: Integer[Tensor, "rows"]
) -> Integer[Tensor, "rows length"]:
    """A copy of the rows with the mask token at one position of each.

    Errors: `ValueError` when the model has no mask token, or the token there is special (the mask itself may stand).
    """
    mask = getattr(model, "mask_id", None)
    if mask is None:
        raise ValueError(f"{getattr(model, 'name', 'the model')} has no mask token: only masked models can be asked so")
    rows = torch.arange(len(ids), device=ids.device)
    old = ids[rows, at]
    wrong = ~is_content(model, old) & (old != mask)
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        raise ValueError(
            f"at is {int(at[row])} in row {row}, which holds the special token {int(old[row])}: choose a position of "
            "the text"
        )
    masked = ids.clone()
    masked[rows, at] = mask
    return masked


def _last(ids: Tensor) -> Tensor:
    return torch.full((len(ids),), ids.shape[1] - 1, device=ids.device)


def _positions(at: int | Tensor, ids: Tensor) -> Tensor:
    length = ids.shape[1]
    found = torch.as_tensor(at, device=ids.device)
    if found.dtype not in (torch.int64, torch.int32) or found.shape not in ((), (len(ids),)):
        raise ValueError(
            f"at has shape {tuple(found.shape)} and dtype {found.dtype}: give a whole number, or one a prompt, shape "
            f"({len(ids)},)"
        )
    found = found.expand(len(ids)).long()
    if bool(((found < -length) | (found >= length)).any()):
        raise ValueError(f"at is {found.tolist()}: positions run from 0 to {length - 1}, or from -{length} to -1")
    return torch.where(found < 0, found + length, found)

"""What a language model says as numbers: next-token distributions, likelihoods of texts, sentence vectors."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from nslab.batches import in_batches
from nslab.protocols import TokenModel
from nslab.zoo.checks import as_rows, check_ids
from nslab.zoo.scores import is_content, log_probabilities, with_mask


def distribution(model: TokenModel) -> Callable[[Tensor], Tensor]:
    r"""The model as a black box: token ids to the probabilities of one token, a callable for `nslab.stability`.

    Args:
        model: causal: the token after the last; masked: the token under the mask, of which each row holds one.

    Returns:
        ids (rows, length) to probabilities (rows, outputs), each row a distribution, in the dtype of the model.

    How to read it: the correlation of two such vectors is E sum_c p_c(x) p_c(y), the probability that two tokens, drawn
    for x and for its twin y, agree.

    Errors: `ValueError` for an encoder, which has no distribution, and for a row without exactly one mask.
    """
    kind = getattr(model, "kind", "causal")
    if kind == "encoder":
        raise ValueError(f"{model!r} is an encoder, without a distribution over tokens: use zoo.pooled")
    if kind == "causal":
        return lambda ids: torch.softmax(model(ids, ids.new_full((len(ids),), ids.shape[1] - 1)), -1)

    def under_the_mask(ids: Tensor) -> Tensor:
        masks = ids == model.mask_id
        wrong = masks.sum(1) != 1
        if bool(wrong.any()):
            row = int(wrong.nonzero()[0])
            raise ValueError(
                f"ids[{row}] holds {int(masks[row].sum())} masks: put mask_id {model.mask_id} at one position"
            )
        return torch.softmax(model(ids, masks.long().argmax(1)), -1)

    return under_the_mask


@torch.no_grad()
def log_likelihood(model: TokenModel, ids: Shaped[Tensor, "..."]) -> Float[Tensor, "rows"]:
    r"""Log-likelihood of whole sequences, in nats.

    Formula: causal: $\sum_{i \ge 1} \log p(x_i \mid x_0 \dots x_{i-1})$, the first token given. Masked: the
    pseudo-log-likelihood $\sum_i \log p(x_i \mid x \text{ with position } i \text{ masked})$ over all tokens that are
    not special, one forward pass each.

    Args:
        model: causal or masked.
        ids: sequences (rows, length) of at least two tokens, or one sequence (length,).

    Returns:
        (rows,), at most 0, float32 or the wider dtype of the model.

    How to read it: compare sequences of the same number of tokens, for example the two sentences of a minimal pair; a
    longer text is less likely. The two kinds of model are not comparable with each other.

    Errors: `ValueError` for an encoder, for sequences of one token (nothing is predicted), and as a call of the model.

    Source: for masked models Salazar et al. (2020), Masked Language Model Scoring, section 2.
    """
    return _scored(model, ids)[0]


def perplexity(model: TokenModel, ids: Shaped[Tensor, "..."]) -> float:
    r"""Perplexity, $\exp(-\sum \log p / \mathrm{tokens})$ over all predicted tokens of all rows.

    Arguments and errors as in `log_likelihood`.

    How to read it: the model is as unsure as if it chose evenly among that many tokens. Tokens differ between
    vocabularies, so only models with one vocabulary compare.
    """
    with torch.no_grad():
        total, predicted = _scored(model, ids)
    return math.exp(-total.double().sum().item() / predicted)


def pooled(model: TokenModel, ids: Shaped[Tensor, "..."]) -> Float[Tensor, "rows width"]:
    """The mean of an encoder's last hidden states over all positions, special tokens included: (rows, hidden).

    The sentence vector of sentence-transformers with mean pooling; compare two by their cosine. Differentiable.

    Errors: `ValueError` for a model that is not an encoder.
    """
    if getattr(model, "kind", None) != "encoder":
        raise ValueError(f"{model!r} is not an encoder: load one, for example zoo.load('minilm')")
    return model(as_rows(ids)).mean(1)


def _scored(model: TokenModel, ids: Tensor) -> tuple[Tensor, int]:
    """Log-likelihoods (rows,), and how many tokens they add up."""
    ids = as_rows(ids)
    check_ids(ids, model.vocabulary, model.context)
    kind = getattr(model, "kind", "causal")
    if kind == "encoder":
        raise ValueError(f"{model!r} is an encoder, without a distribution over tokens: load a causal or masked model")
    if kind == "masked":
        return _masked(model, ids)
    if ids.shape[1] < 2:
        raise ValueError("ids has one token a row: the first token is given, so give at least two")
    return in_batches(lambda rows: _causal(model, rows), ids, batch=_rows(model, ids)), ids[:, 1:].numel()


def _causal(model: TokenModel, ids: Tensor) -> Tensor:
    chances = log_probabilities(model(ids[:, :-1]))  # (rows, length - 1, vocabulary)
    return chances.gather(2, ids[:, 1:, None])[..., 0].sum(1)


def _masked(model: TokenModel, ids: Tensor) -> tuple[Tensor, int]:
    row, at = is_content(model, ids).nonzero(as_tuple=True)  # every position that is asked for
    if not len(row):
        raise ValueError("ids holds special tokens only: give sequences with text")

    def chance(row: Tensor, at: Tensor) -> Tensor:
        found = log_probabilities(model(with_mask(model, ids[row], at), at))
        return found.gather(1, ids[row, at][:, None])[:, 0]

    found = in_batches(chance, row, at, batch=max(1, 8192 // ids.shape[1]))
    return found.new_zeros(len(ids)).index_add_(0, row, found), len(row)


def _rows(model: TokenModel, ids: Tensor) -> int:
    """Rows at once such that logits and their logarithms stay under half a gigabyte."""
    return max(1, 2**26 // (model.vocabulary * ids.shape[1]))

"""A byte-pair encoding learnt from one's own texts: few tokens, and still every text can be written in them.

encoding = learn_byte_pairs(passages("wikipedia"), vocabulary=500)
ids = encoding.encode("The keys to the cabinet")        # int64, (tokens,)
encoding.decode(ids)
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

BYTES = 256


@dataclass(frozen=True)
class BytePairs:
    """A byte-pair encoding, from `learn_byte_pairs`.

    Attributes:
        vocabulary: number of token ids. The first 256 are the single bytes, the others merges, in the order in which
            they were learnt.

    How to read it: no text is unknown, since every byte is a token; a letter outside ASCII may be two to four tokens. A
    vocabulary this small has few whole words.
    """

    vocabulary: int
    _tokenizer: Any = field(repr=False, compare=False)

    def encode(self, text: str) -> "torch.Tensor":
        """The token ids of a text, (tokens,), int64 on the CPU."""
        import torch  # not at the top: `nslab fetch` reads this room without torch

        return torch.tensor(self._tokenizer.encode(text).ids, dtype=torch.int64)

    def decode(self, ids: Iterable[Any]) -> str:
        """The text of token ids. Bytes that are no UTF-8, as half a letter is, become U+FFFD.

        Errors: `ValueError` for an id outside the vocabulary.
        """
        numbers = [int(one) for one in ids]
        if outside := [one for one in numbers if not 0 <= one < self.vocabulary]:
            raise ValueError(f"ids has token id {outside[0]}: ids run from 0 to {self.vocabulary - 1}")
        return self._tokenizer.decode(numbers)


def learn_byte_pairs(texts: Iterable[str], vocabulary: int = 500) -> BytePairs:
    r"""Learn a byte-level byte-pair encoding: start from bytes, and merge the most frequent neighbours again and again.

    Texts are first split into words with the space before them, runs of digits and runs of signs, by GPT-2's rule;
    merges never cross these borders. Ties are broken by the older tokens: the same texts give the same encoding.

    Args:
        texts: what the pairs are counted in: training texts only, if others are to be unseen.
        vocabulary: number of tokens, 256 bytes included.

    Returns:
        `BytePairs` with exactly that many tokens.

    Errors: `ValueError` for a vocabulary below 256, one that the texts are too short for, or a single text instead of
    several; `ImportError` without the package `tokenizers`.

    Source: Sennrich et al. (2016), section 3.2, for the merges; Radford et al. (2019), section 2.2, for bytes. The
    library `tokenizers` does the work.

    >>> encoding = learn_byte_pairs(["to be, or not to be"], vocabulary=258)
    >>> [encoding.decode([token]) for token in encoding.encode("to be")]
    ['to', ' ', 'be']
    """
    if isinstance(texts, str):
        raise ValueError(f"texts is one text of {len(texts)} characters: give a list, [text]")
    if vocabulary < BYTES:
        raise ValueError(f"vocabulary is {vocabulary}: every byte is a token, so give {BYTES} or more")
    try:
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    except ImportError:
        raise ImportError('byte pairs need the package tokenizers: pip install "nslab[models]"') from None
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() < vocabulary:
        raise ValueError(
            f"vocabulary is {vocabulary} and the texts give only {tokenizer.get_vocab_size()} tokens: give more text, "
            "or a smaller vocabulary"
        )
    return BytePairs(vocabulary, tokenizer)

"""Text to token ids and back: characters, the tokenizer of llama2.c, and those of `transformers`.

A vocabulary has `size`, `special` (ids that stand for no text), `mask_id`, and two methods: `encode(text, truncate)`
returns a list of ids, `decode(ids, special)` the text, with or without the special tokens.
"""

import itertools
import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

SPACE, NEWLINE, TAB, PART = "␣", "⏎", "⇥", "⋯"  # how `readable_pieces` shows what cannot be seen
BROKEN = "\ufffd"  # what decoders give for bytes that are not a whole character


@dataclass(frozen=True)
class Characters:
    """One id a character: the place of the character in `alphabet`. No special tokens."""

    alphabet: str
    special: tuple[int, ...] = ()
    mask_id: int | None = None

    @property
    def size(self) -> int:
        """Number of characters."""
        return len(self.alphabet)

    def encode(self, text: str, truncate: int | None = None, unknown: str = "refuse") -> list[int]:
        """Ids of the first `truncate` characters; those outside the alphabet are refused, or left out."""
        strange = sorted(set(text) - set(self.alphabet))
        if strange and unknown == "refuse":
            shown = ", ".join(f"{one!r} (U+{ord(one):04X})" for one in strange[:8])
            raise ValueError(
                f"text has {len(strange)} characters outside the alphabet of {self.size}: {shown}"
                f"{', ...' if len(strange) > 8 else ''}; replace them, or leave them out with unknown='skip'"
            )
        place = {one: number for number, one in enumerate(self.alphabet)}
        return [place[one] for one in text if one in place][:truncate]

    def decode(self, ids: Sequence[int], special: bool = False) -> str:
        """The characters, joined."""
        return "".join(self.alphabet[number] for number in ids)


class MergingTokens:
    """The tokenizer file of llama2.c: pieces with scores; two neighbours whose union scores highest are merged first.

    The file is an int32 (the longest piece), then for each piece a float32 score, an int32 length and that many bytes,
    all little-endian. Id 0 is unknown, 1 begins and 2 ends a text; ids 3 .. 258 are the bytes; the rest are pieces.
    """

    special = (0, 1, 2)
    mask_id = None
    begin = 1

    def __init__(self, path: Path):
        data, at, self.pieces, self.scores = path.read_bytes(), 4, [], []
        while at < len(data):
            score, length = struct.unpack_from("<fi", data, at)
            at += 8 + length
            self.scores.append(score)
            self.pieces.append(data[at - length : at])
        for number in range(256):
            self.pieces[3 + number] = bytes([number])  # stored as the text <0xNN>
        self.numbers = {piece: 259 + number for number, piece in enumerate(self.pieces[259:])}
        self.size = len(self.pieces)

    def encode(self, text: str, truncate: int | None = None, unknown: str = "refuse") -> list[int]:
        """The begin token, then the ids of the text with a space put before it, as the model was trained."""
        ids = []
        for one in " " + text:
            raw = one.encode("utf-8")
            ids += [self.numbers[raw]] if raw in self.numbers else [3 + byte for byte in raw]
        while True:
            merged = [self.numbers.get(self.pieces[a] + self.pieces[b]) for a, b in itertools.pairwise(ids)]
            known = [place for place, number in enumerate(merged) if number is not None]
            if not known:
                return [self.begin, *ids][:truncate]
            best = max(known, key=lambda place: self.scores[merged[place]])  # the first of equals
            ids[best : best + 2] = [merged[best]]

    def decode(self, ids: Sequence[int], special: bool = False) -> str:
        """The text; bytes that are no character show as U+FFFD."""
        names = {0: b"<unk>", 1: b"<s>", 2: b"</s>"}
        kept = [names[number] if number in names else self.pieces[number] for number in ids if special or number > 2]
        text = b"".join(kept).decode("utf-8", errors="replace")
        return text.removeprefix(" ") if not special and len(ids) and ids[0] == self.begin else text


@dataclass(frozen=True)
class Numbers:
    """No text at all: ids that show as #0, #1, .. of a model that came without a tokenizer."""

    size: int
    special: tuple[int, ...] = ()
    mask_id: int | None = None

    @staticmethod
    def of(size: int, special: tuple[int, ...], mask_id: int | None) -> "Numbers":
        """With the mask among the special ids, which are refused outside 0 .. size - 1."""
        special = tuple(sorted({*special, *([] if mask_id is None else [mask_id])}))
        if wrong := [token for token in special if not 0 <= token < size]:
            raise ValueError(
                f"special and mask_id have {wrong}: ids run from 0 to {size - 1}, as the model's embeddings"
            )
        return Numbers(size, special, mask_id)

    def encode(self, text: str, truncate: int | None = None, unknown: str = "refuse") -> list[int]:
        """Refused."""
        raise ValueError(
            f"text is {text!r:.40} and the model came without a tokenizer: give token ids, or adopt it anew"
        )

    def decode(self, ids: Sequence[int], special: bool = False) -> str:
        """The numbers."""
        return "".join(f"#{number}" for number in ids if special or number not in self.special)


class HubTokens:
    """A tokenizer of `transformers`. What it adds to a text by itself (BERT's [CLS] and [SEP], Gemma's <bos>) stays."""

    def __init__(self, tokenizer, rows: int):
        self.tokenizer = tokenizer
        self.tokenizer.truncation_side = "right"
        self.added = tokenizer.num_special_tokens_to_add()
        self.size = rows
        known = tokenizer.get_vocab()
        highest = max(known.values(), default=-1)
        if highest >= rows:
            name = next(token for token, number in known.items() if number == highest)
            raise ValueError(
                f"the tokenizer has token {name!r} with id {highest} and the model {rows} embeddings: this vocabulary "
                "does not belong to this model; load both from one place, or resize the embeddings"
            )
        marked = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
        unused = {number for token, number in known.items() if re.fullmatch(r"[\[<]unused\d+[\]>]", token)}
        without = set(range(rows)) - set(known.values())  # rows that no text can reach
        self.special = tuple(sorted(marked | set(tokenizer.all_special_ids) | unused | without))
        self.mask_id = tokenizer.mask_token_id

    def encode(self, text: str, truncate: int | None = None, unknown: str = "refuse") -> list[int]:
        """Ids with the tokens that the tokenizer adds; cutting keeps those."""
        if truncate is not None and truncate <= self.added:
            raise ValueError(
                f"truncate is {truncate} and the tokenizer adds {self.added} tokens to every text: give at least "
                f"{self.added + 1}"
            )
        cut = {"truncation": True, "max_length": truncate} if truncate is not None else {}
        return list(self.tokenizer(text, verbose=False, **cut)["input_ids"])

    def decode(self, ids: Sequence[int], special: bool = False) -> str:
        """The text as the tokenizer puts it together."""
        return self.tokenizer.decode(ids, skip_special_tokens=not special, clean_up_tokenization_spaces=False)


def readable_pieces(decode: Callable[[list[int]], str], ids: Sequence[int]) -> list[str]:
    r"""What each token adds to the text, with spaces, newlines and tabs made visible.

    A character that takes several tokens stands at the last of them; the others show "⋯".

    >>> readable_pieces(Characters("\n ab").decode, [2, 1, 3, 0])
    ['a', '␣', 'b', '⏎']
    """
    shown, ids = [], list(ids)
    begin = read = 0  # the last whole piece is ids[begin:read]
    for end in range(1, len(ids) + 1):
        before, now = decode(ids[begin:read]), decode(ids[begin:end])
        added = now[len(before) :] if now.startswith(before) else decode(ids[read:end])
        if added.endswith(BROKEN) and end < len(ids) and end - read < 4:  # UTF-8 has at most four bytes
            shown.append(PART)
            continue
        shown.append(added.replace(" ", SPACE).replace("\n", NEWLINE).replace("\t", TAB) or PART)
        begin, read = read, end
    return shown

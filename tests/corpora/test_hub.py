"""The hub's names, with a stand-in for its loader that gives real local data sets."""

import builtins
import os
import subprocess
import sys

import pytest

from nslab import corpora
from nslab.corpora import hub

datasets = pytest.importorskip("datasets")


@pytest.fixture
def fake(monkeypatch):
    """Answer `load_dataset` from a table of (id, config, split); remember how it was called."""
    table, calls = {}, []

    def load(dataset, config=None, *, split, revision=None, streaming=False):
        calls.append((dataset, config, split, revision, streaming))
        answer = table[dataset, config, split]
        if isinstance(answer, Exception):
            raise answer
        found = datasets.Dataset.from_dict(answer)
        return found.to_iterable_dataset() if streaming else found

    monkeypatch.setattr(datasets, "load_dataset", load)
    for variable in ("NSLAB_GLUE", "NSLAB_BLIMP"):
        monkeypatch.delenv(variable, raising=False)
    return table, calls


def test_tiny_shakespeare_is_its_three_splits_in_order(fake):
    table, calls = fake
    for split, text in (("train", "To be"), ("validation", " or not"), ("test", " to be")):
        table["karpathy/tiny_shakespeare", None, split] = {"text": [text]}
    assert corpora.shakespeare(source="hub") == "To be or not to be"
    assert {call[3] for call in calls} == {"refs/convert/parquet"}


def test_wikitext_gives_paragraphs_without_headings_and_blanks(fake):
    table, _ = fake
    rows = {"train": ["", " = Robert = \n", " One . \n", " = = Life = = \n"], "validation": [" Two . \n"], "test": [""]}
    for split, text in rows.items():
        table["Salesforce/wikitext", "wikitext-2-raw-v1", split] = {"text": text}
    assert corpora.passages("wikipedia", source="hub") == ["One .", "Two ."]
    assert corpora.passages("wikipedia", source="hub", limit=1) == ["One ."]


def test_openwebtext_is_streamed_and_no_further_than_asked(fake):
    table, calls = fake
    table["Elriggs/openwebtext-100k", None, "train"] = {"text": [f"document {i}" for i in range(50)]}
    assert corpora.passages("openwebtext", source="hub", limit=3) == ["document 0", "document 1", "document 2"]
    assert calls[0][4] is True


def test_reviews_from_the_hub_have_the_same_labels_and_no_film(fake):
    table, _ = fake
    for split in ("train", "validation", "test"):
        table["cornell-movie-review-data/rotten_tomatoes", None, split] = {"text": [f"{split} +", "-"], "label": [1, 0]}
    assert corpora.reviews("test", source="hub") == [
        corpora.Labelled("test +", "fresh"),
        corpora.Labelled("-", "rotten"),
    ]
    assert len(corpora.reviews(source="hub")) == 6


def test_sarcasm_from_the_hub_is_read_from_its_own_columns(fake):
    table, _ = fake
    for split in ("train", "test"):
        table["raquiba/Sarcasm_News_Headline", None, split] = {"headline": ["same", split], "is_sarcastic": [1, 0]}
    assert [(item.text, item.label) for item in corpora.sarcasm(source="hub")] == [
        ("same", 1),
        ("train", 0),
        ("test", 0),
    ]


def test_glue_comes_from_the_hub_where_no_folder_is_named(fake):
    table, _ = fake
    table["nyu-mll/glue", "qnli", "validation"] = {"question": ["Who?"], "sentence": ["She."], "label": [0], "idx": [0]}
    assert corpora.glue("qnli", "validation") == [corpora.Labelled("Who?", 0, text2="She.")]
    with pytest.raises(ValueError, match="split is 'validation': mnli has train, validation_matched"):
        corpora.glue("mnli", "validation")


def test_blimp_comes_from_the_hub_where_no_folder_is_named(fake):
    table, _ = fake
    table["nyu-mll/blimp", "npi_present_1", "train"] = {
        "sentence_good": ["a"],
        "sentence_bad": ["b"],
        "linguistics_term": ["npi_licensing"],
    }
    assert corpora.blimp("npi_present_1") == [corpora.MinimalPair("a", "b", "npi_licensing")]


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (datasets.exceptions.DatasetNotFoundError("Dataset 'x' doesn't exist"), "moved or removed, or is private"),
        (datasets.exceptions.DatasetNotFoundError("Dataset 'x' is a gated dataset on the Hub."), "accept its terms"),
        (ConnectionError("Couldn't reach 'x' on the Hub"), 'look at the network, or use source="package"'),
        (TimeoutError(), "look at the network"),
        (RuntimeError("Dataset scripts are no longer supported, but found x.py"), "look at its page"),
        (ValueError("BuilderConfig 'x' not found.\nAvailable: ..."), "look at its page"),
    ],
)
def test_what_the_hub_refuses_names_the_dataset_the_cause_and_the_remedy(fake, error, remedy):
    table, _ = fake
    table["nyu-mll/glue", "cola", "train"] = error
    with pytest.raises(corpora.HubFailed, match=remedy) as caught:
        corpora.glue("cola")
    first = (str(error).splitlines() or ["TimeoutError"])[0]
    assert str(caught.value).startswith(f"the hub dataset nyu-mll/glue (cola) cannot be read ({first})")


def test_the_hubs_own_offline_mode_is_explained(tmp_path):
    code = "from nslab import corpora; corpora.glue('cola', source='hub')"
    offline = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=offline, capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1].startswith("nslab.corpora.hub.HubFailed: the hub dataset nyu-mll/glue (cola)")
    assert "unset HF_HUB_OFFLINE and fetch it once" in done.stderr


def test_a_column_that_went_away_is_named(fake):
    table, _ = fake
    table["cornell-movie-review-data/rotten_tomatoes", None, "test"] = {"review": ["a"], "label": [0]}
    with pytest.raises(corpora.HubFailed, match="has no column 'text' any more, only review, label"):
        corpora.reviews("test", source="hub")


def test_names_that_are_not_on_the_hub_are_answered_with_those_that_are():
    with pytest.raises(ValueError, match="'brown' is not read from the hub: shakespeare, wikipedia"):
        hub.texts("brown")
    with pytest.raises(ValueError, match="split is 'validation': sarcasm on the hub has train, test"):
        hub.texts("sarcasm", "validation")


def test_without_datasets_the_extra_is_named(monkeypatch):
    monkeypatch.delenv("NSLAB_GLUE", raising=False)
    imported = builtins.__import__

    def refuse(name, *rest, **named):
        if name == "datasets":
            raise ImportError(name)
        return imported(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ImportError, match=r'pip install "nslab\[hub\]"'):
        corpora.shakespeare(source="hub")
    with pytest.raises(ImportError, match=r'set NSLAB_GLUE to a folder .*or pip install "nslab\[hub\]"'):
        corpora.glue("cola")

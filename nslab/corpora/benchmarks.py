"""GLUE tasks and BLiMP's minimal pairs, from a folder of JSON lines or from the Hugging Face hub.

No package carries them, so they are the user's to bring: $NSLAB_GLUE/<task>/<split>.jsonl with the field names of GLUE,
and $NSLAB_BLIMP/<paradigm>.jsonl as BLiMP publishes them. Without these, and with `datasets`, they come from the hub.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from nslab.corpora import hub
from nslab.corpora.jsonl import folder_of, read, text_field
from nslab.corpora.labelled import Labelled

_USUAL = ("train", "validation", "test")
_MATCHED = ("train", "validation_matched", "validation_mismatched", "test_matched", "test_mismatched")


@dataclass(frozen=True)
class GlueTask:
    """A task of GLUE.

    Attributes:
        fields: one field a text, or two for a task of pairs.
        labels: what labels 0, 1, ... mean; empty for a score.
        splits: the splits there are on the hub. Test labels are kept secret, and are -1.
    """

    fields: tuple[str, ...]
    labels: tuple[str, ...]
    splits: tuple[str, ...] = _USUAL


GLUE = {
    "cola": GlueTask(("sentence",), ("unacceptable", "acceptable")),
    "sst2": GlueTask(("sentence",), ("negative", "positive")),
    "mrpc": GlueTask(("sentence1", "sentence2"), ("not equivalent", "equivalent")),
    "rte": GlueTask(("sentence1", "sentence2"), ("entailment", "not entailment")),
    "qqp": GlueTask(("question1", "question2"), ("not duplicate", "duplicate")),
    "qnli": GlueTask(("question", "sentence"), ("entailment", "not entailment")),
    "wnli": GlueTask(("sentence1", "sentence2"), ("not entailment", "entailment")),
    "mnli": GlueTask(("premise", "hypothesis"), ("entailment", "neutral", "contradiction"), _MATCHED),
    "stsb": GlueTask(("sentence1", "sentence2"), ()),
}


@dataclass(frozen=True, slots=True)
class MinimalPair:
    """Two sentences that differ in little, the one grammatical and the other not.

    Attributes:
        good, bad: the sentences.
        phenomenon: what decides, such as "anaphor_agreement".
        prefix: the words before the one that decides, where both sentences begin alike and then differ in one word;
            else None.
        word_good, word_bad: that word, in each sentence; else None.
    """

    good: str
    bad: str
    phenomenon: str
    prefix: str | None = None
    word_good: str | None = None
    word_bad: str | None = None


def glue(
    task: str, split: str = "train", *, folder: str | Path | None = None, source: str | None = None
) -> list[Labelled]:
    """One split of a GLUE task.

    Args:
        task: a key of `GLUE`: "cola", "sst2", "mrpc", "rte", "qqp", "qnli", "wnli", "mnli" or "stsb".
        split: such as "train", "validation" or "test".
        folder: the folder to read <task>/<split>.jsonl from; by default $NSLAB_GLUE.
        source: "folder" or "hub"; by default the folder if one is named, else the hub.

    Returns:
        Items in the order of the file. `GLUE[task].labels[item.label]` says what a label means; -1 is a secret one;
        "stsb" has scores from 0 to 5.

    How to read it: a folder may hold other rows than the hub under the same name (MRPC, for one, is found in two
    splits), so say which was used.

    Errors: `ValueError` for an unknown task, split or source, with those there are, and for a bad line, with its file
    and number; `FileNotFoundError` when the folder is not there; `hub.HubFailed`; `ImportError` without `datasets`.

    Source: Wang et al., GLUE (2019); on the hub nyu-mll/glue.
    """
    if task not in GLUE:
        raise ValueError(f"task is {task!r}: GLUE has {', '.join(GLUE)}")
    found = _folder_or_hub("NSLAB_GLUE", folder, source, "<task>/<split>.jsonl")
    if found is None:
        if split not in GLUE[task].splits:
            raise ValueError(f"split is {split!r}: {task} has {', '.join(GLUE[task].splits)}")
        where = "nyu-mll/glue"
        lines = ((f"{where}, {task}, {split}, row {i}", row) for i, row in enumerate(hub.rows(where, task, split)))
        return _labelled(task, lines)
    _there(found, "task", task, [path.name for path in found.iterdir() if path.is_dir()])
    _there(found / task, "split", split, [path.stem for path in (found / task).glob("*.jsonl")])
    return _labelled(task, read(found / task / f"{split}.jsonl"))


def blimp(paradigm: str, *, folder: str | Path | None = None, source: str | None = None) -> list[MinimalPair]:
    """The 1,000 minimal pairs of one paradigm of BLiMP.

    Args:
        paradigm: one of its 67, such as "anaphor_gender_agreement".
        folder: the folder to read <paradigm>.jsonl from; by default $NSLAB_BLIMP.
        source: "folder" or "hub"; by default the folder if one is named, else the hub.

    Errors: as `glue`.

    Source: Warstadt et al., BLiMP (2020), CC BY 4.0; on the hub nyu-mll/blimp, where `prefix` and its words are not
    given, so they are None.
    """
    found = _folder_or_hub("NSLAB_BLIMP", folder, source, "<paradigm>.jsonl")
    if found is None:
        where = "nyu-mll/blimp"
        lines = ((f"{where}, {paradigm}, row {i}", row) for i, row in enumerate(hub.rows(where, paradigm, "train")))
    else:
        _there(found, "paradigm", paradigm, [path.stem for path in found.glob("*.jsonl")])
        lines = read(found / f"{paradigm}.jsonl")
    return [
        MinimalPair(
            text_field(row, "sentence_good", place),
            text_field(row, "sentence_bad", place),
            text_field(row, "linguistics_term", place),
            row.get("one_prefix_prefix"),
            row.get("one_prefix_word_good"),
            row.get("one_prefix_word_bad"),
        )
        for place, row in lines
    ]


def _folder_or_hub(variable: str, folder: str | Path | None, source: str | None, holds: str) -> Path | None:
    """The folder to read, or None for the hub."""
    if source not in (None, "folder", "hub"):
        raise ValueError(f'source is {source!r}: use "folder", "hub", or None for the folder if one is named')
    if source == "hub":
        return None
    found = folder_of(variable, folder, holds)
    if found is None and source == "folder":
        raise FileNotFoundError(f"no folder is named: give folder=, or set {variable} to one that holds {holds}")
    if found is None:
        try:
            import datasets  # noqa: F401  (asked for here, so that the message can offer the folder too)
        except ImportError:
            raise ImportError(
                f"no folder is named and datasets is not installed: set {variable} to a folder that holds {holds}, "
                f'or pip install "nslab[hub]"'
            ) from None
    return found


def _there(folder: Path, argument: str, value: str, those: list[str]) -> None:
    if value not in those:
        listed = ", ".join(sorted(those)) or "nothing of the kind"
        raise ValueError(f'{argument} is {value!r}: {folder} holds {listed}; source="hub" asks the hub instead')


def _labelled(task: str, lines: Iterable[tuple[str, dict]]) -> list[Labelled]:
    fields, names = GLUE[task].fields, GLUE[task].labels
    result = []
    for place, row in lines:
        texts = [text_field(row, field, place) for field in fields]
        if "label" not in row:
            there = ", ".join(map(repr, row))
            raise ValueError(f"{place} has no field 'label', only {there}: write -1 where the label is secret")
        label = row["label"]
        if isinstance(label, bool) or not isinstance(label, int if names else int | float):
            raise ValueError(f"{place} has the label {label!r}: a {'whole ' if names else ''}number is expected")
        if names and not -1 <= label < len(names):
            raise ValueError(f"{place} has the label {label}: {task} has 0 to {len(names) - 1}, or -1 where secret")
        if not names and not (0 <= label <= 5 or label == -1):
            raise ValueError(f"{place} has the label {label}: {task} has scores from 0 to 5, or -1 where secret")
        result.append(Labelled(texts[0], label, text2=texts[1] if len(texts) > 1 else None))
    return result

"""GLUE: tasks from a folder and, dry, from the hub; what is wrong with a folder is said with file, line and field."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from nslab import corpora, records, reruns
from nslab.records.running import MAX_BYTES
from nslab.records.settings import changed
from nslab.reruns import _noiseformer_finetuning as finetuning
from nslab.reruns import noiseformer_glue as study
from nslab.training import TrainingConfig
from nslab.transformer import TransformerConfig
from nslab.transformer.accounting import parameter_count

datasets = pytest.importorskip("datasets")

WORDS = "dead parrots pining for the fjords are no more and have ceased to be".split()  # noqa: SIM905
SMALL = {
    "seeds": 1,
    "model": TransformerConfig(vocabulary=270, context=20, width=8, layers=1, heads=2),
    "pretraining": TrainingConfig(steps=3, batch=4, learning_rate=1e-2),
    "fine_tuning": finetuning.FineTuning(epochs=1, batch=8, learning_rate=1e-2),
    "arms": ("standard", "v1-relative"),
    "text": ("wikipedia",),
    "held_out": 5,
}
CONFIG = study.Config(tasks=("cola", "mrpc"), **SMALL)


def sentences(count, seed):
    draws = np.random.default_rng(seed)
    return [" ".join(draws.choice(WORDS, size=draws.integers(2, 8))) for _ in range(count)]


def columns(task, count, seed):
    """Made-up rows of a task, by column."""
    spec = corpora.GLUE[task]
    texts = {field: sentences(count, seed + k) for k, field in enumerate(spec.fields)}
    return texts | {"label": [k % len(spec.labels) for k in range(count)]}


def lines(**table):
    return [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]


@pytest.fixture(autouse=True)
def text(monkeypatch):
    monkeypatch.setitem(finetuning.DOCUMENTS, "wikipedia", lambda: [". ".join(sentences(8, k)) for k in range(30)])


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of two tasks; `put` writes one split."""
    glue = tmp_path / "glue"
    glue.mkdir()
    monkeypatch.setenv("NSLAB_GLUE", str(glue))

    def put(task, split, rows):
        path = glue / task / f"{split}.jsonl"
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    for task in ("cola", "mrpc"):
        put(task, "train", lines(**columns(task, 24, 1)))
        put(task, "validation", lines(**columns(task, 15, 2)))
    return put


def perform(path, config=CONFIG):
    experiment = dataclasses.replace(reruns.load("noiseformer-glue"), presets={"quick": config})
    return records.perform(experiment, "quick", records=path / "records")


def test_a_folder_gives_the_tasks_asked_for(folder, tmp_path):
    result = perform(tmp_path).result
    assert list(result["tasks"]) == ["cola", "mrpc"]
    told = result["tasks"]["cola"]
    assert (told["train"], told["held_out"], told["majority"]) == (24, 15, 8)
    assert (told["statistic"], result["tasks"]["mrpc"]["statistic"]) == ("matthews", "f1")
    assert told["labels"] == "010101010101010"
    assert list(perform(tmp_path, changed(CONFIG, ["tasks=mrpc"])).result["tasks"]) == ["mrpc"]


def test_pairs_are_both_texts_each_with_an_end(folder):
    task = study.glue_task("mrpc", "folder")
    known = finetuning.running_text(CONFIG)
    found, _ = finetuning.examples_of(CONFIG, task, known, torch.device("cpu"))
    row = next(k for k in range(24) if len(task.train[k].text + task.train[k].text2) < 40)
    ids = found.ids[row][found.ids[row] >= 0].tolist()
    assert known.encoding.decode(ids) == f"{task.train[row].text}\0{task.train[row].text2}\0"
    assert found.cut == sum(
        len(known.encoding.encode(item.text)) + len(known.encoding.encode(item.text2)) > 18 for item in task.train
    )


def test_the_papers_seven_tasks_come_from_the_hub(tmp_path, monkeypatch):
    """A dry run of `full`: its tasks and its source, on made-up rows and a small network."""
    asked = []

    def load(dataset, config=None, *, split, revision=None, streaming=False):
        asked.append((dataset, config, split))
        return datasets.Dataset.from_dict(columns(config, 24 if split == "train" else 9, 3))

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.delenv("NSLAB_GLUE", raising=False)
    full = study.PRESETS["full"]
    assert full.seeds == 5
    result = perform(tmp_path, dataclasses.replace(full, **SMALL)).result
    assert sorted(result["tasks"]) == sorted(["mrpc", "cola", "mnli", "qqp", "rte", "qnli", "sst2"])
    assert {one[0] for one in asked} == {"nyu-mll/glue"}
    splits = {task: {split for _, name, split in asked if name == task} for task in result["tasks"]}
    assert splits.pop("mnli") == {"train", "validation_matched"}
    assert all(found == {"train", "validation"} for found in splits.values())
    mnli = result["arms"]["v1-relative"]["tasks"]["mnli"]
    assert len(mnli["answers"][0]) == 3
    assert "matthews" not in mnli
    assert result["tasks"]["mnli"]["majority"] == 3


def test_the_networks_of_full_have_about_ten_million_parameters_and_their_record_fits_easily():
    full = study.PRESETS["full"]
    assert 9e6 < parameter_count(full.model) < 11e6
    sizes = {"mrpc": 408, "cola": 1043, "mnli": 9815, "qqp": 40430, "rte": 277, "qnli": 5463, "sst2": 872}
    digits = sum(sizes.values()) * (1 + len(full.arms) * full.seeds / 4)
    assert digits < MAX_BYTES / 4


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ({"text": "a", "label": 1}, "has no field 'sentence', only 'text', 'label'"),
        ({"sentence": "a"}, "has no field 'label', only 'sentence'"),
        ({"sentence": "a", "label": 2}, "has the label 2: cola has 0 to 1"),
    ],
)
def test_a_bad_line_is_named_by_file_line_and_field(folder, tmp_path, line, words):
    path = folder("cola", "validation", [{"sentence": "a", "label": 0}, line])
    with pytest.raises(ValueError, match=words) as caught:
        perform(tmp_path)
    assert str(caught.value).startswith(f"{path}:2 ")


def test_secret_labels_cannot_be_asked(folder, tmp_path):
    folder("cola", "validation", [{"sentence": "a", "label": 0}, {"sentence": "b", "label": -1}])
    with pytest.raises(ValueError, match=r"items\[1\] has the label -1: .* secret label: take a split that has labels"):
        perform(tmp_path)


def test_empty_sentences_are_kept_and_counted(folder, tmp_path):
    rows = lines(**columns("mrpc", 12, 4))
    rows[3]["sentence2"] = rows[5]["sentence1"] = rows[5]["sentence2"] = " "
    folder("mrpc", "validation", rows)
    result = perform(tmp_path, changed(CONFIG, ["tasks=mrpc"])).result
    assert result["tasks"]["mrpc"]["empty"] == [0, 2]
    assert result["tasks"]["mrpc"]["held_out"] == 12


@pytest.mark.parametrize(
    ("tasks", "words"),
    [
        ("COLA", "tasks has 'COLA': there are cola, sst2, mrpc, rte, qqp, qnli, wnli, mnli$"),
        ("cola,stsb", "tasks has 'stsb', whose labels are scores from 0 to 5 and no classes: .* choose from cola"),
        ("rte", r"task is 'rte': .* holds cola, mrpc; source=\"hub\" asks the hub"),
    ],
)
def test_tasks_that_there_are_not_are_answered_with_those_there_are(folder, tmp_path, tasks, words):
    with pytest.raises(ValueError, match=words):
        perform(tmp_path, changed(CONFIG, [f"tasks={tasks}"]))


def test_without_a_folder_the_variable_is_named(tmp_path, monkeypatch):
    monkeypatch.delenv("NSLAB_GLUE", raising=False)
    with pytest.raises(FileNotFoundError, match="set NSLAB_GLUE to one that holds"):
        perform(tmp_path)

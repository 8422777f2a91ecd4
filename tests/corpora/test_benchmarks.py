"""GLUE and BLiMP from a folder: every field read, every complaint with its file and line."""

import json

import pytest

from nslab import corpora

PAIR = {
    "sentence_good": "Katherine can't help herself.",
    "sentence_bad": "Katherine can't help himself.",
    "one_prefix_prefix": "Katherine can't help",
    "one_prefix_word_good": "herself",
    "one_prefix_word_bad": "himself",
    "linguistics_term": "anaphor_agreement",
}


def lines(*rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


@pytest.fixture
def put(tmp_path, monkeypatch):
    """Write a file below the folder of GLUE and BLiMP."""
    monkeypatch.setenv("NSLAB_GLUE", str(tmp_path))
    monkeypatch.setenv("NSLAB_BLIMP", str(tmp_path))

    def write(name, data):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        return path

    return write


@pytest.mark.parametrize("task", list(corpora.GLUE))
def test_every_task_reads_its_own_fields(put, task):
    spec = corpora.GLUE[task]
    row = {field: f"{field} é" for field in spec.fields} | {"label": 1, "idx": 0}
    put(f"{task}/train.jsonl", lines(row) + b"\n" + lines(row | {"label": -1}))
    first, second = (
        (f"{field} é" for field in (*spec.fields, "none")[:2]) if len(spec.fields) > 1 else ("sentence é", None)
    )
    assert corpora.glue(task) == [corpora.Labelled(first, 1, text2=second), corpora.Labelled(first, -1, text2=second)]


def test_scores_may_be_real(put):
    put("stsb/train.jsonl", lines({"sentence1": "a", "sentence2": "b", "label": 3.8}))
    assert corpora.glue("stsb")[0].label == 3.8
    for bad in ("NaN", "5.5", "-0.5"):
        put("stsb/train.jsonl", b'{"sentence1": "a", "sentence2": "b", "label": %s}' % bad.encode())
        with pytest.raises(ValueError, match=r"has the label .*: stsb has scores from 0 to 5, or -1 where secret"):
            corpora.glue("stsb")


def test_a_byte_order_mark_is_no_text(put):
    put("cola/train.jsonl", b"\xef\xbb\xbf" + lines({"sentence": "a", "label": 0}))
    assert corpora.glue("cola") == [corpora.Labelled("a", 0)]


def test_the_shared_tasks_have_their_known_sizes(shared):
    shared("NSLAB_GLUE")
    sizes = {"cola": 527, "sst2": 872, "rte": 277}  # MRPC is found in two splits
    assert {task: len(corpora.glue(task, "validation")) for task in sizes} == sizes
    assert all(item.text2 for item in corpora.glue("mrpc", "validation"))


GOOD = {"sentence": "fine", "label": 1}


@pytest.mark.parametrize(
    ("second", "words"),
    [
        (b'{"sentence": "caf\xe9", "label": 1}\n', r"is not UTF-8 \(byte 0xe9 in column 18\): save the file in UTF-8"),
        (b'{"sentence": "a", "lab\n', "is not JSON"),
        (b"[1, 2]\n", "holds list, not an object"),
        (lines({"text": "a", "label": 1}), "has no field 'sentence', only 'text', 'label'"),
        (lines({"sentence": 7, "label": 1}), "has 7 in 'sentence': text is expected"),
        (lines({"sentence": "a"}), "has no field 'label', only 'sentence': write -1 where the label is secret"),
        (lines({"sentence": "a", "label": None}), "has the label None: a whole number"),
        (lines({"sentence": "a", "label": True}), "has the label True"),
        (lines({"sentence": "a", "label": "1"}), "has the label '1'"),
        (lines({"sentence": "a", "label": 2}), "has the label 2: cola has 0 to 1, or -1 where secret"),
    ],
)
def test_a_bad_line_is_named_by_file_and_number(put, second, words):
    path = put("cola/train.jsonl", lines(GOOD) + second)
    with pytest.raises(ValueError, match=words) as caught:
        corpora.glue("cola")
    assert str(caught.value).startswith(f"{path}:2 ")


def test_what_the_folder_lacks_is_answered_with_what_it_has(put):
    put("cola/train.jsonl", lines(GOOD))
    put("rte/validation.jsonl", b"")
    with pytest.raises(ValueError, match="task is 'COLA': GLUE has cola, sst2, mrpc"):
        corpora.glue("COLA")
    with pytest.raises(ValueError, match=r"task is 'qqp': .* holds cola, rte; source=\"hub\" asks the hub"):
        corpora.glue("qqp")
    with pytest.raises(ValueError, match=r"split is 'dev': .*cola holds train;"):
        corpora.glue("cola", "dev")
    with pytest.raises(ValueError, match="source is 'web'"):
        corpora.glue("cola", source="web")


def test_a_folder_that_is_missing_is_named_by_its_variable_or_argument(tmp_path, monkeypatch):
    monkeypatch.setenv("NSLAB_GLUE", str(tmp_path / "no"))
    with pytest.raises(FileNotFoundError, match=r"NSLAB_GLUE is .*no', which is not a folder: .*<task>/<split>\.jsonl"):
        corpora.glue("cola")
    with pytest.raises(FileNotFoundError, match="folder is '/nowhere'"):
        corpora.glue("cola", folder="/nowhere")
    monkeypatch.delenv("NSLAB_GLUE")
    with pytest.raises(FileNotFoundError, match="give folder=, or set NSLAB_GLUE"):
        corpora.glue("cola", source="folder")


def test_the_folder_given_counts_before_the_variable(put, tmp_path):
    put("cola/train.jsonl", lines(GOOD))
    (tmp_path / "other" / "cola").mkdir(parents=True)
    (tmp_path / "other" / "cola" / "train.jsonl").write_bytes(lines({"sentence": "other", "label": 0}))
    assert corpora.glue("cola", folder=tmp_path / "other")[0].text == "other"


def test_a_minimal_pair_keeps_its_prefix_and_words_where_it_has_them(put):
    bare = {key: PAIR[key] for key in ("sentence_good", "sentence_bad", "linguistics_term")}
    put("anaphor_gender_agreement.jsonl", lines(PAIR, bare))
    good, bad = PAIR["sentence_good"], PAIR["sentence_bad"]
    assert corpora.blimp("anaphor_gender_agreement") == [
        corpora.MinimalPair(good, bad, "anaphor_agreement", "Katherine can't help", "herself", "himself"),
        corpora.MinimalPair(good, bad, "anaphor_agreement"),
    ]
    with pytest.raises(ValueError, match=r"paradigm is 'npi': .* holds anaphor_gender_agreement"):
        corpora.blimp("npi")


def test_the_shared_pairs_differ_at_the_word_after_the_prefix(shared):
    folder = shared("NSLAB_BLIMP")
    for path in folder.glob("*.jsonl"):
        pairs = corpora.blimp(path.stem)
        assert len(pairs) == 1000
        for pair in pairs:
            assert pair.good.startswith(f"{pair.prefix} {pair.word_good}")
            assert pair.bad.startswith(f"{pair.prefix} {pair.word_bad}")

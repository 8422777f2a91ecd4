"""Reading records: the strongest first, stale ones never above fresh ones, damaged ones named and never passed over."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest

from nslab import records
from nslab.records import RecordError
from nslab.records.places import take_place


def test_full_before_laptop_before_quick_then_fresh_then_more_seeds_then_newer(stored, tmp_path):
    order = [
        stored("full-cpu-20260101T000000", {}),
        stored("full-cuda-20260601T000000", {}, fresh=False),
        stored("laptop-cpu-20260201T000000", {}, seeds=5),
        stored("laptop-cpu-20260103T000000", {}, seeds=5),
        stored("laptop-cpu-20260301T000000", {}, seeds=1),
        stored("laptop-cpu-20260701T000000", {}, seeds=9, fresh=False),
        stored("quick-cpu-20270101T000000", {}),
        stored("custom-cpu-20280101T000000", {}, seeds=99),
    ]
    assert [record.path for record in records.find("runs", root=tmp_path)] == order
    assert records.strongest("runs", root=tmp_path).path == order[0]
    assert records.strongest("runs", "laptop", tmp_path).path == order[2]
    assert records.strongest("runs", "huge", tmp_path) is None
    assert records.find("other", root=tmp_path) == []


def test_stale_says_which_file_has_changed(stored, tmp_path):
    stored("full-cpu-20260101T000000", {})
    stored("full-cpu-20260102T000000", {}, fresh=False)
    fresh, stale = records.find("runs", root=tmp_path)
    assert (fresh.stale, fresh.stale_because) == (False, None)
    assert (stale.stale, stale.stale_because) == (True, "`nslab/estimate.py` has changed since")


@pytest.mark.parametrize(
    ("change", "because"),
    [
        ({"sources": None}, "it does not say which sources made it"),
        ({"code": ["nslab.reruns.gone"]}, "its sources cannot be read: there is no module nslab.reruns.gone"),
        ({"code": ["../gone.py"]}, "its sources cannot be read: .*gone.py"),
        ({"code": 3}, "its sources cannot be read"),
        ({"sources": {"a.py": "1", "b.py": "2"}}, r"`a.py`, `b.py` and 1 more have changed since"),
    ],
)
def test_a_record_that_cannot_be_compared_counts_as_stale(stored, tmp_path, change, because):
    path = stored("full-cpu-20260101T000000", {})
    run = json.loads((path / "run.json").read_text())
    (path / "run.json").write_text(json.dumps(run | change))
    record = records.open_record(path)
    assert record.stale
    assert re.search(because, record.stale_because)


def test_the_hardware_is_a_phrase_and_the_parts_are_those_of_the_path(stored):
    record = records.open_record(stored("interactive_figures-laptop-cpu-20260131T000000", {"x": 1}))
    assert (record.preset, record.device, record.date) == ("interactive_figures-laptop", "cpu", "2026-01-31")
    assert record.hardware == "2 threads of a Z80"
    assert record.result == {"x": 1}
    told = record.run | {"device_name": "NVIDIA H200", "processes": 8}
    assert records.machine.hardware(told) == "8 × NVIDIA H200"
    assert records.machine.hardware(told | {"processes": 1}) == "one NVIDIA H200"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: (path / "run.json").unlink(), "run.json: No such file"),
        (lambda path: (path / "run.json").write_text('{"a": '), "run.json: not JSON"),
        (lambda path: (path / "run.json").write_text("[1]"), "run.json: a list, not a JSON object"),
        (lambda path: (path / "result.json").unlink(), "result.json: missing"),
        (lambda path: (path / "result.json").write_bytes(b"\xff"), "result.json: not JSON"),
        (lambda path: path.rename(path.with_name("full-cpu")), "not a record: its name is no <preset>-<device>-"),
    ],
)
def test_a_damaged_record_is_named_and_hides_no_other(stored, tmp_path, damage, message):
    path = stored("full-cpu-20260101T000000", {})
    good = stored("quick-cpu-20260101T000000", {})
    damage(path)
    found, problems = records.survey(root=tmp_path)
    assert [record.path for record in found] == [good]
    (problem,) = problems
    assert message in problem
    assert "full-cpu" in problem
    assert "delete the folder" in problem or "move it away" in problem
    if path.exists():
        with pytest.raises(RecordError, match="full-cpu-20260101T000000"):
            records.strongest("runs", root=tmp_path)
        assert records.strongest("runs", "quick", tmp_path).path == good, "another preset is not in doubt"


def test_any_changed_byte_of_a_written_record_is_seen(toy, tmp_path):
    record = records.perform(toy, "quick", records=tmp_path, progress=False)
    for name in ("config.json", "history.npz", "result.json"):
        path = record.path / name
        right = path.read_bytes()
        path.write_bytes(right[:50] + bytes([right[50] ^ 1]) + right[51:])
        with pytest.raises(RecordError, match=f"{name}: not as it was written"):
            records.open_record(record.path)
        path.write_bytes(right)
    assert records.open_record(record.path) == record


def test_series_come_with_their_steps(toy, tmp_path):
    record = records.perform(toy, "quick", records=tmp_path, progress=False)
    steps, at = record.series("at")
    assert steps.tolist() == list(range(40))
    assert at.shape == (40, 3)
    steps, largest = record.series("largest")
    assert steps.tolist() == list(range(0, 40, 5))
    assert np.array_equal(largest, np.abs(at[::5]).max(1))
    with pytest.raises(KeyError, match="no series 'loss'; it has at, largest"):
        record.series("loss")


def test_the_root_is_the_variable_or_the_clone_or_here(tmp_path, monkeypatch):
    monkeypatch.delenv("NSLAB_RECORDS", raising=False)
    clone = tmp_path / "clone"
    (clone / "book" / "deep").mkdir(parents=True)
    (clone / "_toc.yml").touch()
    monkeypatch.chdir(clone / "book" / "deep")
    assert records.root() == clone / "book" / "records"
    monkeypatch.chdir(tmp_path)
    assert records.root() == records.sources.PACKAGE.parent / "book" / "records", "that of the editable package"
    monkeypatch.setattr(records.places, "PACKAGE", tmp_path / "site-packages" / "nslab")
    assert records.root() == tmp_path / "records"
    monkeypatch.setenv("NSLAB_RECORDS", "/elsewhere")
    assert str(records.root()) == "/elsewhere"


def test_runs_of_one_second_get_names_of_their_own(tmp_path):
    places = [take_place(tmp_path, "quick", "cpu") for _ in range(5)]
    os.rename(places[0].partial, places[0].final)
    places.append(take_place(tmp_path, "quick", "cpu"))
    assert len({place.name for place in places}) == 6


def test_reading_needs_no_torch():
    code = "import sys; from nslab import records; records.strongest('benchmarks'); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"

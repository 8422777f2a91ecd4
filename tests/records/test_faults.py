"""A run that is killed, or finds the disk full, at any write at all: its record is whole or absent, and it goes on."""

import contextlib
import dataclasses
import errno
import json
import os
import shutil
import signal
from pathlib import Path

import pytest

from nslab import records
from nslab.records import RecordError, perform, unfinished
from nslab.records.partial import begin, hold
from nslab.records.places import folder_of

WRITES = ((os, "replace"), (os, "fsync"), (Path, "rename"), (Path, "write_bytes"), (Path, "mkdir"), (shutil, "rmtree"))


@pytest.fixture
def at_write(monkeypatch):
    """``with at_write(n, fault) as calls``: `fault()` in place of the n-th write; bytes are half written by then."""

    @contextlib.contextmanager
    def patched(number, fault):
        calls = []

        def wrap(owner, name):
            real = getattr(owner, name)

            def wrapped(*given, **named):
                calls.append(f"{name} {given[0]}")
                if len(calls) == number:
                    if name == "write_bytes":
                        real(given[0], given[1][: len(given[1]) // 2])
                    fault()
                return real(*given, **named)

            patch.setattr(owner, name, wrapped)

        with monkeypatch.context() as patch:
            for owner, name in WRITES:
                wrap(owner, name)
            yield calls

    return patched


@pytest.fixture
def run(toy, tmp_path):
    def run_(root, resume=False, **changes):
        config = dataclasses.replace(toy.presets["quick"], **{"large": 1000, "steps": 20} | changes)
        toy_ = dataclasses.replace(toy, run=_without_chance(toy.run))
        return perform(toy_, "quick", config, records=tmp_path / root, resume=resume, progress=False)

    return run_


def _without_chance(real):
    """The toy, with an artifact that is the same every time."""

    def run(config, log, *, device):
        result = real(dataclasses.replace(config, large=0), log, device=device)
        log.artifact("weights.bin").write_bytes(bytes(config.large))
        return result

    return run


def _finish(run, root, folder):
    """What a user would do: resume what can be resumed, else look for a whole record, else start anew."""
    try:
        return run(root, resume=True)
    except RecordError as refusal:
        if "nothing to resume" not in str(refusal):
            raise
    found = records.find("toy", root=folder)
    return found[0] if found else run(root)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_killed_at_any_write_and_resumed_is_the_same_to_the_bit(run, at_write, contents, tmp_path):
    with at_write(0, None) as calls:
        whole = run("whole")
    assert len(calls) > 20
    for number in range(1, len(calls) + 1):
        child = os.fork()
        if child == 0:
            with at_write(number, lambda: os.kill(os.getpid(), signal.SIGKILL)):
                run(f"{number}")
            os._exit(0)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
        folder = tmp_path / f"{number}"
        assert records.survey("toy", folder)[1] == [], f"no half record, killed at write {number}: {calls[number - 1]}"
        record = _finish(run, f"{number}", folder)
        assert contents(record.path) == contents(whole.path)
        assert len(records.find("toy", root=folder)) == 1
        assert (record.path / "weights.bin").read_bytes() == bytes(1000)


def test_a_disk_that_is_full_at_any_write_says_so_and_loses_nothing(run, at_write, contents, tmp_path):
    def full():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with at_write(0, None) as calls:
        whole = run("whole")
    for number, call in enumerate(calls, 1):
        if "rmtree" in call or "call-" in call:
            continue  # to delete needs no room; notes on time may be lost
        folder = tmp_path / f"{number}"
        no_room = pytest.raises((RecordError, OSError), match="No space left on device")
        with at_write(number, full), no_room as refusal:
            run(f"{number}")
        assert records.survey("toy", folder)[1] == []
        if records.find("toy", root=folder):
            assert "The record is whole" in refusal.value.__notes__[0]
        record = _finish(run, f"{number}", folder)
        assert contents(record.path) == contents(whole.path)


def test_a_resume_after_the_record_was_whole_names_the_record(run, at_write, toy, tmp_path):
    def stop():
        raise KeyboardInterrupt

    with at_write(0, None) as calls:
        run("count")
    (rename,) = (number for number, call in enumerate(calls, 1) if call.startswith("rename"))
    with at_write(rename + 1, stop), pytest.raises(KeyboardInterrupt) as stopped:
        run("x")
    (record,) = records.find("toy", root=tmp_path / "x")
    assert stopped.value.__notes__ == [f"The record is whole: {record.path}"]
    with pytest.raises(RecordError, match=f"nothing to resume: .* its record {record.path} was already whole"):
        run("x", resume=True)
    with pytest.raises(RecordError, match="start without --resume"):
        run("x", resume=True, drift=3.0)


def test_what_a_crash_left_of_the_notes_on_time_costs_the_time_and_not_the_run(run, at_write, tmp_path):
    def stop():
        raise KeyboardInterrupt

    with at_write(0, None) as calls:
        run("count")
    saves = [number for number, call in enumerate(calls, 1) if call.startswith("replace") and "checkpoint" in call]
    with at_write(saves[1], stop), pytest.raises(KeyboardInterrupt):
        run("x")
    (partial,) = unfinished("toy", tmp_path / "x")
    for path in partial.place.partial.glob("call-*.json"):
        path.write_bytes(b"")
    assert run("x", resume=True).run["calls"] == 1


def test_to_ask_whether_a_run_is_at_work_needs_no_right_to_write(tmp_path, monkeypatch):
    about = {"config": {}, "sources": {}, "command": "nslab rerun toy"}
    place = begin(folder_of("toy", tmp_path), "quick", "cpu", about)
    hold(place.partial).close()
    monkeypatch.setattr("builtins.open", _only_reading(open))
    (partial,) = unfinished("toy", tmp_path)
    assert not partial.running
    (place.partial / "about.json").write_text(json.dumps(3))
    monkeypatch.undo()
    (partial,) = unfinished("toy", tmp_path)
    assert "delete the folder" in partial.advice


def _only_reading(real):
    def opened(file, mode="r", *rest, **named):
        if set(mode) & set("wax+"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(file))
        return real(file, mode, *rest, **named)

    return opened


@pytest.mark.parametrize(
    ("result", "message"),
    [(None, "result is a NoneType: let the experiment's run return a dict"), ([1], "result is a list")],
)
def test_a_result_that_is_no_dict_makes_no_record(toy, tmp_path, result, message):
    wrong = dataclasses.replace(toy, run=lambda config, log, *, device: result)
    with pytest.raises(ValueError, match=message):
        perform(wrong, "quick", records=tmp_path, progress=False)
    assert records.survey("toy", tmp_path) == ([], [])


def test_settings_that_json_cannot_hold_are_refused_before_the_run(toy, tmp_path):
    config = dataclasses.replace(toy.presets["quick"], drift=float("inf"))
    with pytest.raises(ValueError, match=r"config\['drift'\] is inf: a record holds finite numbers"):
        perform(toy, "quick", config, records=tmp_path, progress=False)
    assert not list(tmp_path.iterdir())


def test_a_file_of_yours_is_found_again_through_a_link_to_the_records(toy, tmp_path):
    (tmp_path / "far" / "away").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "far" / "away")
    record = perform(toy, "quick", records=tmp_path / "link", progress=False)
    assert record.stale_because is None
    assert records.open_record(tmp_path / "far" / "away" / "toy" / record.path.name).stale_because is None

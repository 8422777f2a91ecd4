"""From preset to record: killed and resumed runs end in the same bits; what cannot be resumed or written says why."""

import dataclasses
import json
import os
import platform
import resource

import pytest

from nslab import records
from nslab.records import RecordError, RunLog, perform, unfinished
from nslab.records.partial import hold

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


@pytest.fixture
def run(toy, tmp_path):
    """``run(preset, steps=..., resume=True)``: the toy in this process."""

    def run_(preset="quick", resume=False, experiment=toy, **changes):
        config = dataclasses.replace(experiment.presets[preset], **changes)
        return perform(experiment, preset, config, records=tmp_path, resume=resume, progress=False)

    return run_


@pytest.fixture
def dies(monkeypatch, toy):
    """``dies(at)``: the toy is interrupted before this step, as with Ctrl-C."""

    def die(at):
        record = RunLog.record

        def interrupting(self, step, /, **values):
            if step == at:
                raise KeyboardInterrupt
            record(self, step, **values)

        monkeypatch.setattr(RunLog, "record", interrupting)

    return die


@pytest.mark.parametrize(("batched", "kills"), [(True, ("2:25", "2:39")), (False, ("0:25", "1:12", "2:35"))])
def test_killed_twice_and_resumed_is_the_same_to_the_bit(command, run, contents, toy, tmp_path, batched, kills):
    asked = ["rerun", toy.code, "--preset", "laptop", "--set", f"batched={batched}"]
    run("laptop", batched=batched)
    for number, at in enumerate(kills):
        killed = command(*asked, *(["--resume"] if number else []), TOY_DIES_AT=at)
        assert killed.returncode == -9, killed.stderr
    (partial,) = unfinished("toy", tmp_path)
    assert not partial.running
    assert "--resume" in partial.advice
    assert len(records.survey("toy", tmp_path)[0]) == 1, "no half record"
    done = command(*asked, "--resume")
    assert done.returncode == 0, done.stderr
    newer, older = records.find("toy", root=tmp_path)
    assert contents(newer.path) == contents(older.path)
    assert (newer.run["calls"], older.run["calls"]) == (len(kills) + 1, 1)
    assert not list(unfinished("toy", tmp_path))


@pytest.mark.parametrize("batched", [True, False])
def test_two_processes_write_the_files_of_one(command, run, contents, toy, tmp_path, batched):
    run(batched=batched)
    done = command("rerun", toy.code, "--set", f"batched={batched}", launcher=TORCHRUN)
    assert done.returncode == 0, done.stderr
    two, one = records.find("toy", root=tmp_path)
    assert (two.run["processes"], one.run["processes"]) == (2, 1)
    assert contents(two.path) == contents(one.path)
    assert not list(unfinished("toy", tmp_path))


def test_two_processes_are_killed_and_one_goes_on(command, run, contents, toy, tmp_path):
    asked = ["rerun", toy.code, "--set", "batched=False"]
    run(batched=False)
    assert command(*asked, launcher=TORCHRUN, TOY_DIES_AT="1:25").returncode != 0
    done = command(*asked, "--resume")
    assert done.returncode == 0, done.stderr
    newer, older = records.find("toy", root=tmp_path)
    assert contents(newer.path) == contents(older.path)


def test_the_record_says_what_ran_on_what_and_from_which_sources(run):
    record = run("laptop", seeds=2)
    assert record.config == {
        "seeds": 2,
        "steps": 60,
        "batched": True,
        "drift": 0.5,
        "large": 0,
        "names": ["a"],
        "step": {"size": 1.0, "kind": "normal"},
    }
    assert record.result["ends"] == record.history["at"][-1].tolist()
    run_ = record.run
    assert set(run_["sources"]) == {"toy.py", "nslab/estimate.py"}
    assert run_["source"] == records.source_hash(*records.reading.locate(run_["code"], record.path.parents[1]))
    assert {"python", "packages", "cpu", "cores", "threads", "system", "started", "finished"} <= set(run_)
    assert 0 <= run_["cpu_seconds"] <= 10
    assert run_["seconds"] >= 0
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    assert run_["peak_memory_mib"] <= used + 1
    assert run_["phenomenon"] == "shown"
    assert (record.preset, record.seeds, record.stale) == ("laptop", 2, False)
    assert platform.node() not in json.dumps(run_)


def test_more_seeds_are_still_the_preset_and_any_other_change_is_not(run):
    assert run("quick", seeds=7).preset == "quick"
    assert run("quick", steps=11).preset == "custom"
    assert run("quick", steps=40).preset == "quick", "the value it has anyway"


def test_an_artifact_is_part_of_the_record_and_too_large_a_one_is_refused_by_name(run, tmp_path):
    record = run(large=1000)
    assert (record.path / "weights.bin").stat().st_size == record.run["files"]["weights.bin"]["bytes"] == 1000
    with pytest.raises(
        RecordError, match=r"is 2.5 MB, over 2.0 MB; large are weights.bin \(2.5 MB\), history"
    ) as refusal:
        run(large=2_500_000)
    assert not hasattr(refusal.value, "__notes__"), "going on from the checkpoint would not help"
    assert len(records.find("toy", root=tmp_path)) == 1
    (partial,) = unfinished("toy", tmp_path)
    assert (partial.place.partial / "record" / "weights.bin").is_file(), "nothing is lost"


def test_a_full_disk_at_the_end_leaves_no_record_and_the_last_checkpoint(command, contents, toy, tmp_path):
    """A real limit on file sizes: the system refuses the write as on a full disk."""
    asked = ["rerun", toy.code, "--set", "large=200000"]
    code = "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (100000, 100000)); "
    code += "sys.argv = ['nslab', *sys.argv[3:]]; runpy.run_module('nslab', run_name='__main__')"
    done = command(*asked, launcher=("-c", code))
    assert done.returncode == 1
    assert "File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert "The last checkpoint is kept; go on with: nslab rerun" in done.stderr
    assert records.survey("toy", tmp_path) == ([], [])
    done = command(*asked, "--resume")
    assert done.returncode == 0, done.stderr
    assert len(records.find("toy", root=tmp_path)) == 1


def test_a_disk_that_fills_during_a_run_keeps_the_checkpoint_before(run, toy, tmp_path, monkeypatch):
    real, calls = os.fsync, []

    def fills(handle):
        calls.append(handle)
        if len(calls) > 6:
            raise OSError(28, os.strerror(28))
        real(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fills)
        with pytest.raises(
            RecordError, match=r"checkpoint.pt: No space left on device: there is no room left"
        ) as refusal:
            run()
    assert "The last checkpoint is kept" in refusal.value.__notes__[0]
    done = run(resume=True)
    assert done.run["calls"] == 2
    assert done.result == run().result


def test_resume_refuses_other_settings_and_names_the_difference(run, dies, monkeypatch, tmp_path):
    with pytest.raises(RecordError, match=r"nothing to resume: no unfinished quick run of toy on cpu"):
        run(resume=True)
    with monkeypatch.context() as patch:
        dies(25)
        with pytest.raises(KeyboardInterrupt) as stop:
            run(drift=0.25)
        assert "go on with: nslab rerun toy --preset quick --resume" in stop.value.__notes__[0]
        patch.undo()
        monkeypatch.undo()
    with pytest.raises(RecordError, match=r"drift is 0.25 there and 0.75 here; give the same settings again"):
        run(resume=True, drift=0.75)
    with pytest.raises(RecordError, match=r"no unfinished laptop run of toy on cpu"):
        run("laptop", resume=True)
    assert run(resume=True, drift=0.25).run["calls"] == 2


def test_resume_refuses_other_sources_and_names_the_file(run, toy, dies, monkeypatch, tmp_path):
    source = tmp_path / "code" / "toy.py"
    source.parent.mkdir()
    source.write_text(toy.code.read_text())
    mine = dataclasses.replace(toy, code=source)
    dies(25)
    with pytest.raises(KeyboardInterrupt):
        run(experiment=mine)
    monkeypatch.undo()
    source.write_text(toy.code.read_text() + "\nX = 1\n")
    with pytest.raises(RecordError, match=r"`toy.py` has changed since; give the same settings again"):
        run(experiment=mine, resume=True)
    source.write_text(toy.code.read_text() + "\n# more words\n")
    assert not run(experiment=mine, resume=True).stale


def test_of_several_unfinished_runs_the_newest_that_fits_goes_on_and_a_running_one_is_left_alone(
    run, dies, monkeypatch, tmp_path
):
    for drift in (0.25, 0.25, 0.75):
        dies(25)
        with pytest.raises(KeyboardInterrupt):
            run(drift=drift)
        monkeypatch.undo()
    first, second, _ = unfinished("toy", tmp_path)
    with hold(second.place.partial):
        assert second.running
        assert second.advice == "it is running"
        assert run(resume=True, drift=0.25).path == first.place.final
        with pytest.raises(RecordError, match="it is still running"):
            run(resume=True, drift=0.25)
    assert run(resume=True, drift=0.25).path == second.place.final


def test_a_damaged_checkpoint_stops_a_resume_with_the_remedy(run, dies, monkeypatch, tmp_path):
    dies(25)
    with pytest.raises(KeyboardInterrupt):
        run()
    monkeypatch.undo()
    (partial,) = unfinished("toy", tmp_path)
    path = partial.place.partial / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(RecordError, match=r"checkpoint.pt: this checkpoint is damaged"):
        run(resume=True)


def test_a_run_that_ends_before_its_first_checkpoint_leaves_nothing_behind(run, dies, tmp_path):
    dies(3)
    with pytest.raises(KeyboardInterrupt) as stop:
        run()
    assert not hasattr(stop.value, "__notes__")
    assert list(unfinished("toy", tmp_path)) == []


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ({"loss": float("nan")}, r"result\['loss'\] is nan: a record holds finite numbers"),
        ({"a": [{"b": RunLog}]}, r"result\['a'\]\[0\]\['b'\] is a type: give numbers, text, lists"),
        ({1: 2}, "result has the key 1: keys are text"),
    ],
)
def test_a_result_that_is_no_json_is_refused_by_name(run, toy, result, message):
    wrong = dataclasses.replace(toy, run=lambda config, log, *, device: result)
    with pytest.raises(ValueError, match=message):
        run(experiment=wrong)


def test_the_phenomenon_is_kept_with_the_record_whether_shown_or_not(run, toy):
    assert run(drift=-2.0).run["phenomenon"] == "no walk ended above 0"


def test_a_folder_that_may_not_be_written_names_the_remedy(toy, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RecordError, match=r"file/toy: Not a directory: .*choose another folder with --records"):
        perform(toy, "quick", records=tmp_path / "file", progress=False)

"""`nslab rerun` and `nslab records`: what is wrong is said in one line, and what is there is told in full."""

import json
import re
import sys

import pytest
from typer.testing import CliRunner

from nslab import cli, records, reruns


@pytest.fixture
def nslab(tmp_path, toy):
    """``nslab("rerun", "toy", ...)``: in this process; the toy by its name, records in ``tmp_path``."""
    runner = CliRunner()

    def run(*arguments):
        given = [str(toy.code) if argument == "toy" else str(argument) for argument in arguments]
        return runner.invoke(cli.app, [*given, "--records", str(tmp_path)])

    return run


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["toy", "--preset", "lapptop"], "did you mean 'laptop'? There are quick, laptop, full"),
        (["toy", "--seeds", "0"], "--seeds 0: give 1 or more"),
        (["toy", "--set", "stepps=3"], "unknown key 'stepps': did you mean 'steps'? There are seeds, steps, batched"),
        (["toy", "--set", "step.sise=3"], "--set step.sise: unknown key 'sise': did you mean 'size'?"),
        (["toy", "--set", "steps.size=3"], "steps is 40, which has no keys of its own"),
        (["toy", "--set", "step=3"], "set one of step.size, step.kind"),
        (["toy", "--set", "steps"], "--set steps: write key=value"),
        (["toy", "--set", "steps=ten"], "--set steps=ten: steps is of type int, as 40"),
        (["toy", "--set", "steps=1.5"], "steps is of type int, as 40"),
        (["toy", "--set", "batched=1"], "batched is of type bool, as True"),
        (["toy", "--set", "steps=0"], "steps = 0: give 1 or more"),
        (["toy", "--set", "seeds=0"], "--seeds 0: give 1 or more"),
        (["toy", "--set", "steps=none"], "steps is of type int, as 40"),
        (["toy", "--set", "drift=1e999"], "drift is of type float, as 0.5"),
        (["toy", "--device", "cudda"], "--device cudda: Expected one of cpu, cuda, mps, or auto"),
        (["lost.py"], "lost.py: there is no such file"),
        (["who-maters"], "no experiment 'who-maters': did you mean 'who-matters'?"),
    ],
)
def test_what_cannot_be_run_is_named_in_one_line(nslab, monkeypatch, arguments, message):
    monkeypatch.setattr(reruns, "names", lambda: ["other", "who-matters"])
    done = nslab("rerun", *arguments)
    assert done.exit_code == 2
    assert message in done.stderr
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1


def test_cuda_without_cuda_says_what_to_give(nslab, monkeypatch):
    import torch

    def refuse(*shape, device):
        raise AssertionError("Torch not compiled with CUDA enabled")

    monkeypatch.setattr(torch, "empty", refuse)
    done = nslab("rerun", "toy", "--device", "cuda")
    assert done.exit_code == 2
    assert "Error: --device cuda: Torch not compiled with CUDA enabled; give cpu, or auto" in done.stderr


def test_auto_takes_the_gpu_where_there_is_one(device, nslab, tmp_path, monkeypatch):
    import torch

    if device.type == "cpu":
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    done = nslab("rerun", "toy")
    assert done.exit_code == 0, done.output
    (record,) = records.find("toy", root=tmp_path)
    assert record.device == device.type
    assert (device.type == "cuda") == ("device_name" in record.run)


def test_settings_reach_nested_ones_and_keep_their_types(nslab, tmp_path):
    settings = ["step.size=2", "step.kind=3", "steps=11", "batched=no", "names=['x', 'y']"]
    done = nslab("rerun", "toy", *(part for setting in settings for part in ("--set", setting)))
    assert "batched is of type bool" in done.stderr
    settings[3] = "batched=false"
    done = nslab("rerun", "toy", *(part for setting in settings for part in ("--set", setting)))
    assert done.exit_code == 0, done.output
    (record,) = records.find("toy", root=tmp_path)
    assert record.config["step"] == {"size": 2.0, "kind": "3"}
    assert (record.config["steps"], record.config["batched"], record.config["names"]) == (11, False, ["x", "y"])


def test_a_quick_run_without_its_phenomenon_fails_with_the_sentence_and_keeps_its_record(nslab, tmp_path):
    done = nslab("rerun", "toy", "--set", "drift=-2")
    assert done.exit_code == 1
    assert done.stderr == "Error: toy: the phenomenon is not shown: no walk ended above 0\n"
    assert len(records.find("toy", root=tmp_path)) == 1
    done = nslab("rerun", "toy", "--preset", "laptop", "--set", "drift=-2")
    assert done.exit_code == 0, "only a quick run asserts"
    assert "The phenomenon is not shown: no walk ended above 0" in done.stdout


def test_ctrl_c_says_how_to_go_on(nslab, tmp_path, monkeypatch):
    record = records.RunLog.record

    def interrupting(self, step, /, **values):
        if step == 25:
            raise KeyboardInterrupt
        record(self, step, **values)

    monkeypatch.setattr(records.RunLog, "record", interrupting)
    done = nslab("rerun", "toy", "--seeds", "4")
    assert done.exit_code == 130
    advised = re.search(r"go on with: nslab (rerun .*--seeds 4 .*--resume)\n", done.stderr)[1]
    assert "Not finished: toy/quick-cpu-" in nslab("records").stdout
    monkeypatch.undo()
    again = CliRunner().invoke(cli.app, advised.split())
    assert again.exit_code == 0, again.output
    assert records.find("toy", root=tmp_path)[0].seeds == 4


EXPERIMENT = """
from dataclasses import dataclass
{above}
@dataclass(frozen=True)
class Config:
    seeds: int = 1
PRESETS = {{'quick': Config()}}
def run(config, log, *, device):
    log.save({{'done': 1}})
    {within}
def phenomenon(result):
    return None
"""
MODELS = 'the package gguf is missing: pip install "nslab[models]"\n'


@pytest.mark.parametrize(
    ("above", "within", "message"),
    [
        (
            "from nslab.corpora import NotFetched",
            "raise NotFetched('run `nslab fetch x`')",
            "run `nslab fetch x`\nThe last",
        ),
        (
            "from nslab.zoo import CannotLoad",
            "raise CannotLoad('x is gated')",
            "x is gated\nThe last checkpoint is kept",
        ),
        ("", "raise ValueError('model = 3: give a name')", "model = 3: give a name\nThe last checkpoint is kept"),
        ("from nslab import zoo", "zoo.load('')", "name is empty: choose one of"),
        ("", "return {'loss': float('nan')}", "result['loss'] is nan: a record holds finite numbers"),
        ("", "import gguf.constants", f"{MODELS}The last checkpoint is kept; go on with: nslab rerun"),
        ("import gguf", "", MODELS),
    ],
)
def test_an_error_that_says_what_to_do_needs_no_traceback(nslab, tmp_path, monkeypatch, above, within, message):
    monkeypatch.setitem(sys.modules, "gguf", None)  # as if it were not installed
    path = tmp_path / "mine.py"
    path.write_text(EXPERIMENT.format(above=above, within=within))
    done = nslab("rerun", path)
    assert done.exit_code == 1
    assert done.stderr.startswith(f"Error: {message}")


@pytest.mark.parametrize(
    "within", ["raise KeyError('x')", "int('x')", "import no_such_package", "import torch; torch.zeros(2).view(3)"]
)
def test_any_other_error_keeps_its_traceback_and_says_how_to_go_on(nslab, tmp_path, within):
    path = tmp_path / "mine.py"
    path.write_text(EXPERIMENT.format(above="", within=within))
    done = nslab("rerun", path)
    assert isinstance(done.exception, KeyError | ValueError | ImportError | RuntimeError)
    assert "go on with: nslab rerun" in done.exception.__notes__[0]
    assert done.stderr == ""


def test_the_help_gives_examples_that_fit_a_narrow_terminal():
    done = CliRunner().invoke(cli.app, ["rerun", "--help"], env={"COLUMNS": "80"})
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "\n  nslab rerun char-gpt --preset full --resume   go on after a kill\n" in done.stdout
    assert "[default: quick]" in done.stdout


def test_without_a_name_the_experiments_are_listed():
    done = CliRunner().invoke(cli.app, ["rerun"])
    assert done.exit_code == 0
    for entry in reruns.catalogue():
        assert f"{entry.name:20} {entry.summary}\n" in done.stdout


def test_records_are_listed_with_their_age_and_problems_do_not_hide_them(nslab, stored, tmp_path):
    stored("full-cuda-20260101T000000", {})
    stored("quick-cpu-20260102T000000", {}, fresh=False, experiment="others")
    (stored("quick-cpu-20260103T000000", {}) / "run.json").write_text("{")
    (tmp_path / "runs" / ".partial-full-cpu-20260104T000000").mkdir()
    done = nslab("records")
    assert done.exit_code == 1
    lines = [re.split(r"  +", line) for line in done.stdout.splitlines()]
    assert lines[0] == ["record", "preset", "device", "date", "seconds", "state", "size", "hardware"]
    assert lines[1][:6] == ["others", "quick", "cpu", "2026-01-02", "2", "stale"]
    assert lines[2][:6] == ["runs", "full", "cuda", "2026-01-01", "2", "fresh"]
    assert lines[2][7] == "2 threads of a Z80"
    assert lines[3] == ["Stale: others/quick-cpu-20260102T000000: `nslab/estimate.py` has changed since"]
    assert "Not finished: runs/full-cpu-20260104T000000: it was killed before its first checkpoint" in done.stdout
    assert "Error: " in done.stderr
    assert "quick-cpu-20260103T000000/run.json: not JSON" in done.stderr

    told = json.loads(nslab("records", "--json").stdout)
    assert [(one["experiment"], one["stale"]) for one in told["records"]] == [("others", True), ("runs", False)]
    assert told["records"][1]["bytes"] == sum(
        path.stat().st_size for path in (tmp_path / "runs" / "full-cuda-20260101T000000").iterdir()
    )
    assert len(told["problems"]) == len(told["unfinished"]) == 1
    assert nslab("records", "others").exit_code == 0


def test_an_experiment_without_records_is_told_apart_from_an_unknown_one(nslab, monkeypatch):
    monkeypatch.setattr(reruns, "names", lambda: ["char-gpt"])
    done = nslab("records", "char_gpt")
    assert done.exit_code == 0
    assert "make one with `nslab rerun char-gpt`" in done.stdout
    done = nslab("records", "char-gtp")
    assert done.exit_code == 2
    assert "no experiment 'char-gtp': did you mean 'char-gpt'?" in done.stderr


def test_benchmarks_are_listed_although_they_are_no_experiment(monkeypatch):
    found, problems = records.survey("benchmarks")
    assert problems == []
    assert {record.preset for record in found} >= {"all"}
    assert all(record.result["rows"] and record.hardware for record in found)

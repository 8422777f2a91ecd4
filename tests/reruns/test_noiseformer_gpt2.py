"""noiseformer-gpt2: the recipe to the digit, the text, a proof that can fail, a kill, and two processes."""

import itertools
import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from nslab import corpora, records
from nslab.reruns import _gpt2_text, noiseformer_gpt2
from nslab.reruns.noiseformer_gpt2 import GPT2, PRESETS, RECIPE, Config
from nslab.training import TextBatches, TrainingConfig, learning_rate
from nslab.transformer import TransformerConfig

TINY = Config(
    seeds=1,
    model=TransformerConfig(vocabulary=11, context=8, width=12, layers=2, heads=2, bias=False),
    training=TrainingConfig(steps=12, batch=4, learning_rate=2e-2, warmup=2, evaluate_every=4),
    micro=2,
    resume_at=4,
    text="openwebtext",
    windows=4,
    save_every=4,
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Prepared files: after a comes 3 a or 3 a + 1, modulo 11."""
    ids = [1]
    for up in torch.randint(2, (2999,), generator=torch.Generator().manual_seed(5)).tolist():
        ids.append((3 * ids[-1] + up) % 11)
    found = tmp_path / "prepared"
    found.mkdir()
    for name, part in (("train.bin", ids[:2500]), ("val.bin", ids[2500:])):
        np.array(part, dtype="<u2").tofile(found / name)
    monkeypatch.setenv("NSLAB_OPENWEBTEXT", str(found))
    return found


def perform(where, config=TINY, resume=False):
    told = "noiseformer-gpt2", "nslab.reruns.noiseformer_gpt2", {"quick": TINY}
    experiment = records.Experiment(*told, noiseformer_gpt2.run, noiseformer_gpt2.phenomenon)
    return records.perform(experiment, "quick", config, records=where, resume=resume, progress=False)


def test_the_recipe_is_nanogpts():
    """12 parts of 40 a step: 491,520 tokens; the rate climbs to 6e-4 at step 2,000 and ends at 6e-5."""
    assert RECIPE.batch * GPT2.context == 491_520
    assert RECIPE.batch == 40 * noiseformer_gpt2.MICRO
    rates = [learning_rate(RECIPE, step) for step in (0, 1999, 2000, 599_999)]
    assert rates == pytest.approx([3e-7, 6e-4, 6e-4, 6e-5], rel=1e-6)
    assert (RECIPE.steps, RECIPE.weight_decay, RECIPE.betas, RECIPE.clip) == (600_000, 0.1, (0.9, 0.95), 1.0)
    for name, made in PRESETS.items():
        told = noiseformer_gpt2.estimate(made, noiseformer_gpt2.checked(made, 1))
        if name != "quick":
            assert made.model == GPT2
            assert told["standard_parameters"] == 124_373_760
            noise = 12 * 2 * 12 * 64  # a mean and a deviation for each coordinate of each head's keys
            assert told["parameters"] == 124_373_760 - 12 * 768**2 + noise
            assert told["noise_bytes_a_layer"]["v2-relative"] == 4 * 12 * 12 * 1024**2
            assert told["noise_bytes_a_layer"]["v2-key"] == 4 * 12 * 12 * 1024 * 64
    assert replace(PRESETS["laptop"].training, batch=480, evaluate_every=1000, autocast="bfloat16") == RECIPE


def test_the_estimate_is_tokens_times_operations_over_speed():
    told = noiseformer_gpt2.estimate(PRESETS["full"], noiseformer_gpt2.checked(PRESETS["full"], 8))
    assert told["recipe_tokens"] == 600_000 * 491_520
    weights = told["parameters"] - 1024 * 768 - 25 * 768 - 12 * 2 * 12 * 64  # no positions, norms and noise
    assert told["flops_a_token"] == 6 * weights + 12 * 12 * 768 * 1024
    assert told["hours"] == pytest.approx(told["flops_a_token"] * 294_912_000_000 / (8 * 312e12 * 0.3) / 3600)


def test_a_record_proves_its_resume_and_a_kill_changes_nothing(folder, tmp_path, monkeypatch):
    whole = perform(tmp_path / "whole")
    assert noiseformer_gpt2.phenomenon(whole.result) is None
    assert whole.result["proof"]["after_step"] == 4
    assert whole.result["held_out_at"] == [0, 4, 8, 12]
    straight = perform(tmp_path / "straight", replace(TINY, resume_at=None))  # without any resume
    assert straight.result["held_out_loss"] == whole.result["held_out_loss"]
    assert straight.result["proof"] is None
    costs = noiseformer_gpt2.costs(whole)
    assert costs["flops_a_second"] * costs["step_seconds"] == pytest.approx(whole.result["flops_a_step_here"])
    real, calls = noiseformer_gpt2.seconds, []

    def cut(*args):
        calls.append(1)
        if len(calls) == 11:  # in the tenth step; one step of the proof is not among the calls
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(noiseformer_gpt2, "seconds", cut)
    with pytest.raises(KeyboardInterrupt):
        perform(tmp_path / "cut")
    monkeypatch.setattr(noiseformer_gpt2, "seconds", real)
    resumed = perform(tmp_path / "cut", resume=True)
    for name in ("config.json", "history.npz", "result.json"):
        assert (resumed.path / name).read_bytes() == (whole.path / name).read_bytes()


def test_a_resume_that_forgets_something_is_found_out(folder, tmp_path, monkeypatch):
    """Here the number of the next draw of the training noise."""
    real = noiseformer_gpt2.NoiseFormer.set_extra_state
    forgetful = lambda self, state: real(self, torch.zeros_like(state))  # noqa: E731
    monkeypatch.setattr(noiseformer_gpt2.NoiseFormer, "set_extra_state", forgetful)
    result = perform(tmp_path / "records").result
    assert "equal next steps of a training that went on" in noiseformer_gpt2.phenomenon(result)


def test_what_does_not_learn_is_said():
    result = {"held_out_loss": [2.0, 2.5], "proof": None}
    assert noiseformer_gpt2.phenomenon(result) == "a held-out loss that falls: it was 2.0000 and is 2.5000"


def test_two_processes_share_the_batches_and_draw_a_noise_each(folder, tmp_path):
    """One record of both, near that of one process, whose noise is another."""
    script = """
import sys
from dataclasses import replace
from tests.reruns import test_noiseformer_gpt2 as here
from nslab.reruns import noiseformer_gpt2
from nslab.training import process_rank
made = noiseformer_gpt2.trainer_of
def told(*args, **options):
    trainer = made(*args, **options)
    name = f"{sys.argv[1]}stream-{process_rank()}"
    open(name, "w").write(str(trainer.model.stream))
    return trainer
noiseformer_gpt2.trainer_of = told
here.perform(sys.argv[1] + "records", replace(here.TINY, resume_at=None, micro=1))
"""
    (tmp_path / "train.py").write_text(script)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(tmp_path / "train.py")]
    done = subprocess.run(
        [sys.executable, *launch, str(tmp_path / "two-")],
        env=os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": os.getcwd()},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert [(tmp_path / f"two-stream-{rank}").read_text() for rank in range(2)] == ["0", "1"]
    [two] = records.find("noiseformer-gpt2", root=tmp_path / "two-records")
    assert two.run["processes"] == 2
    assert noiseformer_gpt2.phenomenon(two.result) is None
    one = perform(tmp_path / "one", replace(TINY, resume_at=None)).result["held_out_loss"]
    assert two.result["held_out_loss"] == pytest.approx(one, abs=0.02)


def test_windows_of_an_array_are_those_of_text_batches(device):
    ids = np.arange(300, dtype="<u2") * 7 % 251
    ours = _gpt2_text.ArrayBatches(ids, 10, 6, device)(torch.Generator(device).manual_seed(3))
    text = torch.from_numpy(ids.astype(np.int64)).to(device)
    theirs = TextBatches(text, 10, 6)(torch.Generator(device).manual_seed(3))
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one, other)
    x, y = _gpt2_text.spread_windows(ids, 10, 3, device)
    starts = [0, 144, 289]  # 289 + 10 is the last token
    assert torch.equal(x, torch.stack([text[start : start + 10] for start in starts]))
    assert torch.equal(y, torch.stack([text[start + 1 : start + 11] for start in starts]))
    with pytest.raises(ValueError, match="ids has 10 tokens and the context is 10: give a longer text"):
        _gpt2_text.ArrayBatches(ids[:10], 10, 1)


def test_the_byte_pairs_are_gpt2s(fetched):
    """Two known ids; words merged by hand, the oldest merge first; and bytes that come back as they were."""
    fetched("gpt2-bpe")
    assert _gpt2_text.encoded(["Hello world"]).tolist() == [15496, 995, 50256]
    files = {name: part.decode("utf-8") for name, part in corpora.gpt2_bpe().items()}
    numbers = json.loads(files["encoder.json"])
    age = {tuple(line.split(" ")): at for at, line in enumerate(files["vocab.bpe"].strip("\n").split("\n")[1:])}
    expected = []
    for word in ("The", " keys", " to", " the", " perspicacious", " cabinet"):
        parts = list(word.replace(" ", "\u0120"))
        while pairs := [pair for pair in itertools.pairwise(parts) if pair in age]:
            at = list(itertools.pairwise(parts)).index(min(pairs, key=age.get))
            parts[at : at + 2] = ["".join(parts[at : at + 2])]
        expected += [numbers[part] for part in parts]
    assert _gpt2_text.encoded(["The keys to the perspicacious cabinet"]).tolist() == [*expected, 50256]
    hard = "déjà  vu,\n\n2,718 naïve coöperators' “quotes”"
    pieces = {number: piece for piece, number in numbers.items()}
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    shown = {chr(byte): byte for byte in plain}
    shown |= {chr(256 + at): byte for at, byte in enumerate(sorted(set(range(256)) - set(plain)))}
    written = "".join(pieces[number] for number in _gpt2_text.encoded([hard]).tolist()[:-1])
    assert bytes(shown[letter] for letter in written).decode("utf-8") == hard


def test_every_tenth_passage_is_held_out(fetched):
    fetched("gpt2-bpe")
    fetched("wikipedia")
    text = _gpt2_text.tokens("package")
    ends = [int((part == _gpt2_text.END).sum()) for part in text]
    assert ends == [1800, 200]
    tenth = _gpt2_text.encoded([corpora.passages("wikipedia")[9]])
    assert np.array_equal(text.held_out[: len(tenth)], tenth)


def test_bad_settings_and_missing_files_are_refused(folder, tmp_path, monkeypatch):
    cases = [
        ({"variant": "v3"}, "variant is 'v3': choose from standard, symmetric, pairwise"),
        ({"seeds": 2}, "seeds is 2: a training of this size is made once, so give 1"),
        ({"micro": 3}, "micro is 3, config.batch 4"),
    ]
    for changes, message in cases:
        with pytest.raises(ValueError, match=message):
            perform(tmp_path, replace(TINY, **changes))
    with pytest.raises(ValueError, match=r"resume_at is 4 and there are 2 processes: .* set resume_at=None"):
        noiseformer_gpt2.checked(TINY, 2)
    with pytest.raises(ValueError, match="source is 'hub': use 'package' or 'openwebtext'"):
        _gpt2_text.tokens("hub")
    (folder / "val.bin").unlink()
    with pytest.raises(FileNotFoundError, match=r"val.bin is not there: nanoGPT's .*prepare.py writes it"):
        _gpt2_text.tokens("openwebtext")
    monkeypatch.delenv("NSLAB_OPENWEBTEXT")
    with pytest.raises(FileNotFoundError, match=r"\$NSLAB_OPENWEBTEXT is not set: let it name the folder"):
        _gpt2_text.tokens("openwebtext")

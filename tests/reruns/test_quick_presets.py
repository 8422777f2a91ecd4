"""Every experiment's quick preset runs and shows its phenomenon."""

import os

import pytest

from nslab import records, reruns

NEEDED = {
    "barrier-char-gpt": ["shakespeare"],
    "barrier-robustness": [],
    "char-gpt": ["shakespeare"],
    "grokking": [],
    "grokking-phase": [],
    "head-symmetry": [],
    "layer-moments": [],
    "minimal-pairs": ["smollm2-135m"],
    "next-token": ["wikipedia"],
    "noiseformer-char-gpt": ["shakespeare"],
    "noiseformer-finetune": ["wikipedia", "sarcasm"],
    "noiseformer-glue": ["wikipedia"],
    "noiseformer-gpt2": ["wikipedia", "gpt2-bpe"],
    "noiseformer-pretrain": ["wikipedia"],
    "parity": [],
    "partner-tasks": [],
    "random-networks": [],
    "regulariser": [],
    "stable-char-gpt": ["shakespeare"],
    "token-margins": ["shakespeare"],
    "who-matters": ["shakespeare"],
}


@pytest.mark.parametrize("name", reruns.names())
def test_the_quick_preset_shows_its_phenomenon(name, tmp_path, fetched):
    for text in NEEDED[name]:
        fetched(text)
    if name == "minimal-pairs" and not os.environ.get("NSLAB_BLIMP"):
        pytest.skip("shared data absent")
    if name == "noiseformer-glue" and not os.environ.get("NSLAB_GLUE"):
        pytest.skip("shared data absent")
    experiment = reruns.load(name)
    record = records.perform(experiment, "quick", records=tmp_path)
    assert experiment.phenomenon(record.result) is None
    assert not record.stale

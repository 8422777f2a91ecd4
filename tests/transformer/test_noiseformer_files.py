"""A NoiseFormer in a file: the same bytes for the same network; other variants and damaged files are refused."""

from dataclasses import replace

import pytest
import torch

from nslab.attention.settings import VARIANTS, NoiseSettings, ScoreSettings
from nslab.transformer import Transformer, TransformerConfig, load_transformer, save_transformer
from nslab.transformer.noiseformer import NoiseFormer
from nslab.transformer.noiseformer_files import load_noiseformer, save_noiseformer

SMALL = TransformerConfig(vocabulary=11, context=9, width=12, layers=2, heads=3, special=(0, 3))


def noiseformer(scores, seed=0, **shape):
    model = NoiseFormer(replace(SMALL, **shape), scores, torch.Generator().manual_seed(seed))
    with torch.no_grad():
        for number, weight in enumerate(model.parameters()):
            weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(number)) / 3)
    return model


OTHERS = {
    "own": ScoreSettings(kind="low-rank", rank=2, noise=NoiseSettings("amortised", "score", False, "after", 3, 1)),
}


@pytest.mark.parametrize("name", [*VARIANTS, *OTHERS])
def test_a_network_comes_back_as_it_was(prompts, tmp_path, name):
    scores = (VARIANTS | OTHERS)[name]
    model = noiseformer(scores, positions="rotary", norm="rms")
    model(prompts())  # a call in training: where its noise stands is no part of the file
    save_noiseformer(tmp_path / "model.safetensors", model, {"alphabet": 'a\n"é'})
    back, facts = load_noiseformer(tmp_path / "model.safetensors", expect=scores)
    assert (back.config, back.scores, back.variant) == (model.config, scores, model.variant)
    assert facts == {"alphabet": 'a\n"é'}
    assert not back.training
    assert torch.equal(back(prompts()), model.eval()(prompts()))
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_the_same_network_gives_the_same_bytes_and_half_precision_half_of_them(tmp_path):
    model, facts = noiseformer(VARIANTS["v2-relative"]), {"b": "two", "a": "one"}
    save_noiseformer(tmp_path / "0", model, facts)
    save_noiseformer(tmp_path / "1", noiseformer(VARIANTS["v2-relative"], seed=7), dict(reversed(facts.items())))
    assert (tmp_path / "0").read_bytes() == (tmp_path / "1").read_bytes()
    save_noiseformer(tmp_path / "half", model, facts, dtype=torch.float16)
    back, _ = load_noiseformer(tmp_path / "half")
    for ours, theirs in zip(back.parameters(), model.parameters(), strict=True):
        assert torch.equal(ours, theirs.half().float())
    sizes = [(tmp_path / name).stat().st_size for name in ("half", "0")]
    count = sum(weight.numel() for weight in model.parameters())
    assert abs((sizes[1] - sizes[0]) - 2 * count) < 64  # the header of either is padded to 8 bytes


def test_another_variant_is_refused_and_both_are_named(tmp_path):
    save_noiseformer(tmp_path / "key", noiseformer(VARIANTS["v2-key"]))
    with pytest.raises(ValueError, match=r"key holds the variant 'v2-key', expected is the variant 'symmetric'"):
        load_noiseformer(tmp_path / "key", expect=VARIANTS["symmetric"])
    save_transformer(tmp_path / "plain", Transformer(SMALL))
    with pytest.raises(ValueError, match=r"plain holds the variant 'standard', expected is the variant 'v1-key'"):
        load_noiseformer(tmp_path / "plain", expect=VARIANTS["v1-key"])
    with pytest.raises(ValueError, match=r"'standard', expected is a NoiseFormer: load it with load_transformer"):
        load_noiseformer(tmp_path / "plain")
    with pytest.raises(ValueError, match=r"key is not a whole network"):
        load_transformer(tmp_path / "key")


def test_damaged_and_missing_files_are_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    save_noiseformer(path, noiseformer(VARIANTS["v2-key"]))
    whole = path.read_bytes()
    for damaged in (whole[:-10], whole[:20], b"", whole.replace(b"noise.log_sigma", b"noise.log_siggg")):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"(?s)model.safetensors is not a whole network.*save_noiseformer"):
            load_noiseformer(path)
    with pytest.raises(FileNotFoundError, match=r"there is no file .*nowhere"):
        load_noiseformer(tmp_path / "nowhere")
    for name in ("config", "scores"):
        with pytest.raises(ValueError, match=rf"facts has the name '{name}'.*call it otherwise"):
            save_noiseformer(path, noiseformer(VARIANTS["v2-key"]), {name: "x"})


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    model = noiseformer(VARIANTS["v2-key"])
    save_noiseformer(path, model)
    old = path.read_bytes()

    def full(self, content):
        with open(self, "wb") as file:
            file.write(content[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        save_noiseformer(path, model)
    monkeypatch.undo()
    assert path.read_bytes() == old
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]

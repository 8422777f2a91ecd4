"""A network in a file: the same bytes for the same network, readable by others, refused when damaged."""

import hashlib
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open

from nslab.transformer import Transformer, load_transformer, save_transformer

WRITE = """
import sys, torch
from nslab.transformer import Transformer, TransformerConfig, save_transformer
shape = TransformerConfig(vocabulary=5, context=4, width=6, layers=2, heads=2, special=(0,))
model = Transformer(shape, generator=torch.Generator().manual_seed(0))
save_transformer(sys.argv[1], model, {"b": "two", "a": "one", "alphabet": "xyz", "z": "µ"}, dtype=torch.float16)
"""


@pytest.mark.parametrize("shape", [{}, {"tied": False, "norm": "rms", "positions": "rotary", "special": (0, 3)}])
def test_a_network_comes_back_as_it_was(network, prompts, tmp_path, shape):
    model = network(**shape).float()
    save_transformer(tmp_path / "model.safetensors", model, {"alphabet": 'a\n"é'})
    back, facts = load_transformer(tmp_path / "model.safetensors")
    assert back.config == model.config
    assert facts == {"alphabet": 'a\n"é'}
    assert torch.equal(back(prompts()), model(prompts()))
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_half_precision_rounds_the_weights_to_11_bits(network, tmp_path):
    model = network()
    save_transformer(tmp_path / "half", model, dtype=torch.float16)
    back, _ = load_transformer(tmp_path / "half")
    for ours, theirs in zip(back.parameters(), model.parameters(), strict=True):
        assert torch.equal(ours, theirs.half().float())
        assert ours.dtype == torch.float32


def test_every_process_writes_the_same_bytes(tmp_path):
    """safetensors orders the facts by a hash that differs from process to process; the file must not."""
    digests = set()
    for number in range(3):
        path = tmp_path / f"{number}.safetensors"
        subprocess.run([sys.executable, "-c", WRITE, str(path)], check=True)
        digests.add(hashlib.sha256(path.read_bytes()).hexdigest())
        with safe_open(str(path), "pt") as file:
            assert file.metadata()["z"] == "µ"
            assert file.get_tensor("tokens.weight").dtype == torch.float16
    assert len(digests) == 1


def test_damaged_and_missing_files_are_refused(network, tmp_path):
    path = tmp_path / "model.safetensors"
    save_transformer(path, network())
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match=r"model.safetensors is not a whole network.*save_transformer"):
        load_transformer(path)
    with pytest.raises(FileNotFoundError, match=r"there is no file .*nowhere"):
        load_transformer(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"'config', which holds the shape.*otherwise"):
        save_transformer(path, network(), {"config": "x"})


def test_a_full_disk_leaves_the_old_file(network, tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    save_transformer(path, network())
    old = path.read_bytes()

    def full(self, content):
        with open(self, "wb") as file:
            file.write(content[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        save_transformer(path, Transformer(network().config))
    monkeypatch.undo()
    assert path.read_bytes() == old
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]

"""A NoiseFormer over characters from its file."""

from dataclasses import replace

import pytest
import torch

from nslab import zoo
from nslab.attention.settings import VARIANTS
from nslab.transformer import CHAR_GPT, Transformer, save_transformer
from nslab.transformer.noiseformer import NoiseFormer
from nslab.transformer.noiseformer_files import save_noiseformer
from nslab.zoo.noiseformer_twin import noiseformer_from

SHAPE = replace(CHAR_GPT, vocabulary=4, context=6, width=8, layers=2, heads=2)


@pytest.fixture
def network():
    return NoiseFormer(SHAPE, VARIANTS["v2-relative"], torch.Generator().manual_seed(0)).eval()


def test_the_model_answers_as_the_network_by_the_mean_of_its_noise(network, tmp_path):
    save_noiseformer(tmp_path / "twin.safetensors", network, {"alphabet": "abcd", "provenance": "Made here."})
    model = noiseformer_from(tmp_path / "twin.safetensors", name="a twin")
    assert (model.name, model.provenance, model.vocabulary, model.context) == ("a twin", "Made here.", 4, 6)
    ids = model.encode("dabba")[None]
    with network.noise("mean"), torch.no_grad():
        expected = network(ids)
    torch.testing.assert_close(model(ids), expected)
    with model.module.noise("sample", torch.Generator().manual_seed(0)):
        assert not torch.allclose(model(ids), expected, atol=1e-6)
    torch.testing.assert_close(model(ids), expected)
    assert not any(weight.requires_grad for weight in model.module.parameters())


def test_what_is_no_such_file_is_refused(network, tmp_path):
    path = tmp_path / "model.safetensors"
    with pytest.raises(zoo.CannotLoad, match=r"no file .*model.safetensors: give the .* `nslab rerun noiseformer-char"):
        noiseformer_from(path)
    save_noiseformer(path, network)
    with pytest.raises(zoo.CannotLoad, match="KeyError: 'alphabet'"):
        noiseformer_from(path)
    save_noiseformer(path, network, {"alphabet": "abc"})
    with pytest.raises(zoo.CannotLoad, match="3 characters and the model 4 embeddings"):
        noiseformer_from(path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(zoo.CannotLoad, match="not a whole character model with learned noise"):
        noiseformer_from(path)


def test_standard_attention_is_refused_by_its_name(tmp_path):
    save_transformer(tmp_path / "plain.safetensors", Transformer(SHAPE), {"alphabet": "abcd"})
    with pytest.raises(zoo.CannotLoad, match="standard"):
        noiseformer_from(tmp_path / "plain.safetensors")

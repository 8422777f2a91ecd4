"""One small, readable Transformer: causal or not, with the norm, positions and activation of your choice.

    from nslab.transformer import CHAR_GPT, Transformer
    model = Transformer(CHAR_GPT, generator=torch.Generator().manual_seed(0))
    logits, seen = model.run(ids, ["layers.0.attention.weights", "final"])

It satisfies `nslab.protocols.TokenModel`, as the pretrained models of `nslab.zoo` do. A `NoiseFormer` is the same
network with symmetric attention, `predict` asks one with learned noise, and `Decoder` and `generate` keep a cache.
"""

from nslab.transformer.decoding import Decoder, generate
from nslab.transformer.files import load_transformer, save_transformer
from nslab.transformer.network import Transformer
from nslab.transformer.noiseformer import NoiseFormer, network
from nslab.transformer.noiseformer_files import load_noiseformer, save_noiseformer
from nslab.transformer.predicting import predict
from nslab.transformer.shape import CHAR_GPT, TransformerConfig

__all__ = [
    "CHAR_GPT",
    "Decoder",
    "NoiseFormer",
    "Transformer",
    "TransformerConfig",
    "generate",
    "load_noiseformer",
    "load_transformer",
    "network",
    "predict",
    "save_noiseformer",
    "save_transformer",
]

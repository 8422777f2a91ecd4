"""One small, readable Transformer: causal or not, with the norm, positions and activation of your choice.

    from nslab.transformer import CHAR_GPT, Transformer
    model = Transformer(CHAR_GPT, generator=torch.Generator().manual_seed(0))
    logits, seen = model.run(ids, ["layers.0.attention.weights", "final"])

It satisfies `nslab.protocols.TokenModel`, as the pretrained models of `nslab.zoo` do.
"""

from nslab.transformer.files import load_transformer, save_transformer
from nslab.transformer.network import Transformer
from nslab.transformer.shape import CHAR_GPT, TransformerConfig

__all__ = ["CHAR_GPT", "Transformer", "TransformerConfig", "load_transformer", "save_transformer"]

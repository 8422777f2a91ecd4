r"""What a network with learned noise predicts: by the mean of its noise, by one draw, or by the average of many draws.

from nslab.transformer.predicting import predict
predict(model, ids, mode="average", draws=8, generator=torch.Generator().manual_seed(0))
"""

import contextlib
import math
from collections.abc import Iterator

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from nslab.transformer.network import Transformer
from nslab.transformer.noiseformer import NoiseFormer

MODES = ("mean", "sample", "average")


def predict(
    model: Transformer,
    ids: Shaped[Tensor, "..."],
    *,
    mode: str = "mean",
    draws: int = 8,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "batch length outputs"]:
    r"""Log probabilities of the next token at every position.

    Formula: mean, $\ln p(\cdot \mid n = \mu)$; sample, $\ln p(\cdot \mid n)$ for one draw $n$ of the noise of all
    layers; average, $\ln \frac1K \sum_k p(\cdot \mid n_k)$ over $K$ independent draws.

    Args:
        model: a network, with learned noise or without; without, all modes are a plain call.
        ids: token ids (batch, length).
        mode: "mean", "sample" or "average".
        draws: $K$, for "average" only.
        generator: source of the noise, on the device of the network; None is torch's own.

    Returns:
        Natural logarithms (batch, length, outputs), with their gradient. The network is used in evaluation mode and
        left as it was.

    How to read it: the logarithm is concave, so by Jensen's inequality the loss of the average is never larger than the
    average loss of the same draws, token by token. That promises nothing against mode "mean".

    Errors: `ValueError` for an unknown mode or fewer than one draw; otherwise as a call of the network.

    >>> from nslab.attention.settings import VARIANTS
    >>> from nslab.transformer import TransformerConfig
    >>> config = TransformerConfig(vocabulary=5, context=8, width=6, layers=1, heads=2)
    >>> model = NoiseFormer(config, VARIANTS["v2-relative"], generator=torch.Generator().manual_seed(0))
    >>> predict(model, torch.tensor([[1, 4, 2]]), mode="average", draws=4).exp().sum(-1)
    tensor([[1.0000, 1.0000, 1.0000]], grad_fn=<SumBackward1>)
    """
    check_mode(mode, draws)
    passes = draws if mode == "average" and has_noise(model) else 1
    with inference(model, mode, generator):
        total = model(ids).log_softmax(-1)
        for _ in range(passes - 1):
            total = torch.logaddexp(total, model(ids).log_softmax(-1))
    return total - math.log(passes)


def check_mode(mode: str, draws: int) -> None:
    """Refuse an unknown mode of inference, and an average over nothing."""
    if mode not in MODES:
        raise ValueError(f"mode is {mode!r}: choose one of {', '.join(MODES)}")
    if draws < 1:
        raise ValueError(f"draws is {draws}: average over at least one draw of the noise, or choose mode 'mean'")


def has_noise(model: Transformer) -> bool:
    """Whether a network draws noise, so that two samples of it differ."""
    return isinstance(model, NoiseFormer) and model.scores.noise is not None


@contextlib.contextmanager
def inference(model: Transformer, mode: str, generator: torch.Generator | None) -> Iterator[None]:
    """Evaluation mode inside a `with` block, with noise by `mode` where there is any; "average" draws as "sample"."""
    training = model.training
    noise = contextlib.nullcontext()
    if has_noise(model):
        noise = model.noise("mean" if mode == "mean" else "sample", generator)
    try:
        if training:
            model.eval()
        with noise:
            yield
    finally:
        if training:
            model.train()

"""What a Transformer is stacked from: norms, the MLP and the pre-norm block."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from nslab.attention import LOOKS, Attention, Rotary
from nslab.transformer.shape import TransformerConfig

ACTIVATIONS = {"gelu": F.gelu, "relu": F.relu, "quadratic": torch.square}


def norm_layer(config: TransformerConfig) -> nn.Module:
    """The norm that the configuration names, over the width of the residual stream."""
    if config.norm == "layer":
        return nn.LayerNorm(config.width, eps=config.epsilon, bias=config.bias)
    return nn.RMSNorm(config.width, eps=config.epsilon) if config.norm == "rms" else nn.Identity()


class Mlp(nn.Module):
    """Two linear layers with an activation between them, the same at every position."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.activation = ACTIVATIONS[config.activation]
        self.input = nn.utils.skip_init(nn.Linear, config.width, config.hidden_width, bias=config.bias)
        self.output = nn.utils.skip_init(nn.Linear, config.hidden_width, config.width, bias=config.bias)

    def forward(self, x: Float[Tensor, "batch length width"]) -> Float[Tensor, "batch length width"]:
        """What the MLP adds to the residual stream, (batch, length, width)."""
        return self.output(self.activation(self.input(x)))


class Block(nn.Module):
    """One layer: x + attention(norm(x)), then the same with the MLP."""

    PARTS = (
        "residual",
        "attention.input",
        *(f"attention.{name}" for name in LOOKS),
        "attention.output",
        "middle",
        "mlp.input",
        "mlp.preactivation",
        "mlp.hidden",
        "mlp.output",
    )

    def __init__(self, config: TransformerConfig):
        super().__init__()
        head_width = config.width // config.heads
        rotary = Rotary(head_width, config.rotary_base) if config.positions == "rotary" else None
        self.attention_norm = norm_layer(config)
        self.attention = Attention(config.width, config.heads, causal=config.causal, rotary=rotary, bias=config.bias)
        self.mlp_norm = norm_layer(config)
        self.mlp = Mlp(config)

    def forward(self, x: Float[Tensor, "batch length width"]) -> Float[Tensor, "batch length width"]:
        """The residual stream after the layer, from the residual stream before it."""
        x = x + self.attention(self.attention_norm(x))
        return x + self.mlp(self.mlp_norm(x))

    def look(self, x: Float[Tensor, "batch length width"], names: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """As a call, and the parts named in `PARTS` with it, in one graph. For each, see `Transformer.run`."""
        inner = [name.removeprefix("attention.") for name in names if name.removeprefix("attention.") in LOOKS]
        seen = {"residual": x, "attention.input": self.attention_norm(x)}
        seen["attention.output"], parts = self.attention.look(seen["attention.input"], inner)
        seen |= {f"attention.{name}": part for name, part in parts.items()}
        seen["middle"] = x + seen["attention.output"]
        seen["mlp.input"] = self.mlp_norm(seen["middle"])
        seen["mlp.preactivation"] = self.mlp.input(seen["mlp.input"])
        seen["mlp.hidden"] = self.mlp.activation(seen["mlp.preactivation"])
        seen["mlp.output"] = self.mlp.output(seen["mlp.hidden"])
        return seen["middle"] + seen["mlp.output"], {name: seen[name] for name in names}

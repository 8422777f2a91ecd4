"""The network that learns parity: one hidden layer of ReLU units over ±1 bits, many members at once."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nslab.training.pair_networks import Weights


@dataclass(frozen=True)
class ReluNetwork:
    r"""$f(x) = u^\top \mathrm{ReLU}(W x + b) + c$ on bits x in ±1, one number; its sign is the answer.

    Initial weights and biases are uniform on ±1/sqrt(inputs) of their layer, which is `nn.Linear`'s own law. Weights
    "input" (bits, width), "input_bias" (width,), "output" (width,), "output_bias" ().

    Args:
        bits: inputs n.
        width: hidden units.

    Source: the architecture of Merrill et al. (2023), arXiv 2303.11873, at width 1000.
    """

    bits: int
    width: int = 200

    def __post_init__(self):
        for name in ("bits", "width"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: give at least 1")

    @property
    def units(self) -> int:
        """Hidden units."""
        return self.width

    def initial(self, generator: torch.Generator) -> Weights:
        """Fresh weights of one member, on the generator's device."""
        shapes = {"input": (self.bits, self.width), "input_bias": (self.width,)}
        shapes |= {"output": (self.width,), "output_bias": ()}
        found = {}
        for name, shape in shapes.items():
            reach = (self.bits if name.startswith("input") else self.width) ** -0.5
            found[name] = (2 * torch.rand(shape, generator=generator, device=generator.device) - 1) * reach
        return found

    def __call__(self, weights: Weights, x: Float[Tensor, "*members rows bits"], /) -> Float[Tensor, "members rows"]:
        """Scores (members, rows) for bits x (rows, bits), shared, or (members, rows, bits)."""
        members = len(weights["input"])
        inputs = x.expand(members, *x.shape[-2:])
        hidden = torch.baddbmm(weights["input_bias"].unsqueeze(1), inputs, weights["input"])  # (members, rows, width)
        scores = torch.baddbmm(weights["output_bias"].view(-1, 1, 1), hidden.relu(), weights["output"].unsqueeze(2))
        return scores.squeeze(2)

    def module(self, weights: Weights) -> nn.Module:
        """One member as a plain module."""
        layers = nn.utils.skip_init(nn.Linear, self.bits, self.width), nn.utils.skip_init(nn.Linear, self.width, 1)
        module = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.Flatten(0)).to(weights["input"])
        with torch.no_grad():
            layers[0].weight.copy_(weights["input"].T)
            layers[0].bias.copy_(weights["input_bias"])
            layers[1].weight.copy_(weights["output"][None])
            layers[1].bias.copy_(weights["output_bias"])
        return module

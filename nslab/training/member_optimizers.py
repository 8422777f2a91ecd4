r"""AdamW and stochastic gradient descent for ensembles: every member has a learning rate and a decay of its own.

torch's own optimisers take one learning rate for a tensor. Here a tensor holds many members, so that the rate is a
tensor too, one entry a member. Everything that changes from step to step lives on the device: nothing here waits for
it, and a CUDA graph can replay an update.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


class AdamW:
    r"""Adam with decoupled weight decay, on all weights.

    Formula: $m \leftarrow \beta_1 m + (1 - \beta_1) g$, $v \leftarrow \beta_2 v + (1 - \beta_2) g^2$,
    $w \leftarrow (1 - \eta \lambda) w - \eta \hat m / (\sqrt{\hat v} + \epsilon)$ with $\hat m = m / (1 - \beta_1^t)$
    and $\hat v = v / (1 - \beta_2^t)$.

    Args:
        weights: tensors (members, ...), changed in place.
        betas: the averaging rates of the gradient and of its square.
        epsilon: what is added to the root.

    Source: Loshchilov and Hutter (2019), arXiv 1711.05101; as `torch.optim.AdamW`, to round-off.
    """

    def __init__(self, weights: Sequence[Tensor], betas: tuple[float, float] = (0.9, 0.98), epsilon: float = 1e-8):
        self.weights, self.betas, self.epsilon = list(weights), betas, epsilon
        device = self.weights[0].device
        wide = torch.float32 if device.type == "mps" else torch.float64
        self.steps = torch.zeros((), dtype=wide, device=device)
        self.first = [torch.zeros_like(weight) for weight in self.weights]
        self.second = [torch.zeros_like(weight) for weight in self.weights]

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor], rate: Tensor, decay: Tensor) -> None:
        """One update. rate and decay are (members,), in the dtype of the weights."""
        self.steps += 1
        one, two = self.betas
        size = rate / (1 - one**self.steps).to(rate)
        scale = (1 - two**self.steps).sqrt().to(rate)  # a number on the device
        kept = 1 - rate * decay
        torch._foreach_lerp_(self.first, list(gradients), 1 - one)
        torch._foreach_mul_(self.second, two)
        torch._foreach_addcmul_(self.second, list(gradients), list(gradients), 1 - two)
        for weight, first, second in zip(self.weights, self.first, self.second, strict=True):
            shape = (-1, *(1,) * (weight.ndim - 1))
            divisor = second.sqrt().div_(scale).add_(self.epsilon)
            weight.mul_(kept.view(shape)).sub_((first * size.view(shape)).div_(divisor))

    def state(self) -> dict:
        """Averages and the number of steps, for a checkpoint."""
        return {"steps": self.steps, "first": self.first, "second": self.second}

    def load_state(self, state: dict) -> None:
        """Take up a state, and the number of members that it has."""
        self.steps.copy_(state["steps"])
        self.first, self.second = ([part.to(self.steps.device) for part in state[name]] for name in ("first", "second"))

    def keep(self, chosen: Tensor) -> None:
        """Go on with the members of these indices only; the caller has replaced `weights`."""
        self.first = [part[chosen] for part in self.first]
        self.second = [part[chosen] for part in self.second]


class Sgd:
    r"""Plain gradient descent with coupled decay: $w \leftarrow w - \eta (g + \lambda w)$, as `torch.optim.SGD`.

    Args:
        weights: tensors (members, ...), changed in place.
    """

    def __init__(self, weights: Sequence[Tensor]):
        self.weights = list(weights)

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor], rate: Tensor, decay: Tensor) -> None:
        """One update. rate and decay are (members,), in the dtype of the weights."""
        kept = 1 - rate * decay
        for weight, gradient in zip(self.weights, gradients, strict=True):
            shape = (-1, *(1,) * (weight.ndim - 1))
            weight.mul_(kept.view(shape)).sub_(gradient * rate.view(shape))

    def state(self) -> dict:
        """Nothing is remembered."""
        return {}

    def load_state(self, state: dict) -> None:
        """Nothing is remembered."""

    def keep(self, chosen: Tensor) -> None:
        """Go on with the members of these indices only; the caller has replaced `weights`."""

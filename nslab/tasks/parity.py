"""The noisy sparse parity: a product of a few of many bits, with some labels flipped."""

from dataclasses import dataclass

import torch
from jaxtyping import Float32, Float64, Shaped
from torch import Tensor

from nslab.tasks.ranges import Scalar, in_range


@dataclass(frozen=True)
class SparseParity:
    r"""Learn which k of n bits are multiplied, from examples whose labels may be wrong.

    Formula: $f(x) = \prod_{i \in \text{relevant}} x_i$ for x uniform on $\{-1, 1\}^n$; a drawn label is $f(x)$, and
    $-f(x)$ with probability $\nu$.

    Attributes:
        bits: n, the length of x.
        order: k, the number of bits in the product, from 1 to n.
        label_noise: nu, the probability that a drawn label is flipped, in [0, 1/2).
        relevant: the k positions, each once; None takes the first k. A network that treats all bits alike before
            training learns any choice equally well.

    How to read it: all energy of f is at degree k, so no smaller set of bits says anything about the label.

    Errors: `ValueError` when order is not in 1 .. bits, `relevant` is not that many different positions below bits, or
    the label noise is outside [0, 1/2).

    Source: the task of Barak et al., Hidden progress in deep learning (2022).

    >>> SparseParity(40, 3).stability(0.5).item()
    0.125
    """

    bits: int
    order: int
    label_noise: float | int = 0.0
    relevant: tuple[int, ...] | None = None

    def __post_init__(self):
        if not 1 <= self.order <= self.bits:
            raise ValueError(f"order is {self.order} with bits {self.bits}: give an order from 1 to the number of bits")
        if not 0 <= self.label_noise < 0.5:
            raise ValueError(
                f"label_noise is {self.label_noise}: give a probability in [0, 1/2); at 1/2 labels say nothing, and"
                " above it they are those of the opposite parity"
            )
        if self.relevant is None:
            object.__setattr__(self, "relevant", tuple(range(self.order)))
        if len(self.relevant) != self.order or len(set(self.relevant)) != self.order:
            raise ValueError(f"relevant is {self.relevant}: give {self.order} positions, as order says, each once")
        outside = [position for position in self.relevant if not 0 <= position < self.bits]
        if outside:
            raise ValueError(f"relevant has {outside}: positions run from 0 to {self.bits - 1}")

    def target(self, x: Shaped[Tensor, "*batch bits"]) -> Shaped[Tensor, "*batch"]:
        """The parity, ±1, of bits ±1 in a signed dtype; dtype and device are kept.

        Errors: `ValueError` when the last axis has not `bits` entries, or an entry is not ±1.
        """
        if x.ndim == 0 or x.shape[-1] != self.bits:
            raise ValueError(f"x has shape {tuple(x.shape)}: the last axis holds the {self.bits} bits")
        if not x.dtype.is_signed or not bool((x.abs() == 1).all()):
            raise ValueError("x has entries other than ±1: map bits {0, 1} by 1 - 2 * x, in a signed dtype, first")
        return self._product(x)

    def draw(
        self,
        samples: int,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
    ) -> tuple[Float32[Tensor, "samples bits"], Float32[Tensor, " samples"]]:
        """Uniform bits ±1 and their labels ±1, flipped with probability `label_noise`; both in single precision.

        Errors: `ValueError` when `samples` is not positive.
        """
        if samples < 1:
            raise ValueError(f"samples is {samples}: draw at least 1")
        x = 1.0 - 2 * torch.randint(2, (samples, self.bits), generator=generator, device=device)
        wrong = torch.rand(samples, generator=generator, device=device) < self.label_noise
        labels = self._product(x)
        return x, torch.where(wrong, -labels, labels)

    def stability(self, rho: Scalar) -> Float64[Tensor, "*rho"]:
        r"""The correlation $E[f(x) f(y)] = \rho^k$ of the target ±1, for $\rho$-correlated x and y.

        Args:
            rho: correlations of a bit with its twin in [-1, 1], a number or a tensor (*rho); differentiable. Flipping a
                bit with probability (1 - rho)/2, and drawing it anew with probability 1 - rho, are the same noise.

        Returns:
            (*rho), in double precision, on the device of `rho`.

        Errors: `ValueError` when `rho` is outside [-1, 1].
        """
        return in_range("rho", rho, -1, 1, "it is the correlation of a bit with its twin") ** self.order

    def probability_stability(self, keep: Scalar) -> Float64[Tensor, "*keep"]:
        r"""The stability of the class probabilities that predict the noisy labels best.

        Formula: with $\pi_\pm(x) = (1 \pm (1 - 2\nu) f(x))/2$, the law of the label given x,
        $E[\pi_+(x)\pi_+(y) + \pi_-(x)\pi_-(y)] = \tfrac12 + \tfrac12 (1 - 2\nu)^2\,\mathrm{keep}^k$.

        Args:
            keep: probabilities in [0, 1] that a bit is kept, else drawn anew, a number or a tensor (*keep);
                differentiable.

        Returns:
            (*keep), in double precision, on the device of `keep`.

        How to read it: what a model with two outputs should reach, once it has learned f and how often labels are
        wrong. Guessing without looking gives 1/2 at every `keep`. It is not `stability`: that one is a correlation
        and takes the target without label noise.

        Errors: `ValueError` when `keep` is outside [0, 1].

        Source: ours.
        """
        keep = in_range("keep", keep, 0, 1, "it is the probability that a bit is kept")
        return 0.5 + (1 - 2 * self.label_noise) ** 2 * keep**self.order / 2

    @property
    def sensitivity(self) -> float:
        """Average sensitivity of the target, k: each of its bits always flips it. The slope of `stability` at 1."""
        return float(self.order)

    def _product(self, x: Tensor) -> Tensor:
        """The product of the relevant bits. `prod` would turn small integers into long ones."""
        return x[..., list(self.relevant)].prod(-1, dtype=x.dtype)

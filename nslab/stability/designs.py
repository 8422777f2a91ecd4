"""How one independent draw is laid out: which points f is evaluated at, and what their products estimate.

A *star* evaluates f at x and at noisy twins of x. A *nest* evaluates f only at noisy copies of a hidden base point z,
with noise sqrt(rho): any two copies are rho-correlated, so k evaluations give k (k - 1)/2 pairs, and the mean over them
is an unbiased estimate of E[(T_sqrt(rho) f)**2] = Stab_rho(f).

A linear function l = a_0 + sum_i a_i x_i (standardised coordinates) has a known stability and a known image
T_rho l = a_0 + rho sum_i a_i x_i. Products with l whose mean is known to be zero are the controls. They come with each
draw, and a regression on an independent pilot decides how much of each to subtract.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from nslab.batches import BatchSize
from nslab.protocols import check_mode, evaluate
from nslab.stability.spaces import Space, Tokens

GROUP = 2**16  # the most inputs made at once
GROUP_NUMBERS = 2**22  # coordinates, or outputs, of the inputs made at once


@dataclass(frozen=True)
class Design:
    """A layout of points.

    Attributes:
        name: how reports call it.
        star: f is evaluated at the base point too, and that point serves all strengths unless `fresh`.
        blocks: conditionally independent blocks for each strength.
        mirrored: a block is an antithetic couple instead of a single point.
        fresh: new base points and new noise for every strength, instead of common random numbers.
    """

    name: str
    star: bool
    blocks: int
    mirrored: bool = False
    fresh: bool = False

    def cost(self, strengths: int) -> int:
        """Evaluations of f a draw, for this many strengths."""
        bases = (strengths if self.fresh else 1) if self.star else 0
        return bases + strengths * self.blocks * (1 + self.mirrored)


NAIVE = Design("naive", star=True, blocks=1, fresh=True)
COMMON = Design("common", star=True, blocks=1)
ANTITHETIC = Design("antithetic", star=True, blocks=2, mirrored=True)
NESTED = Design("nested", star=False, blocks=6)


@dataclass(frozen=True)
class Linear:
    """l(x) = mean + standardised(x) @ weights, with weights (features, outputs) and mean (outputs)."""

    weights: Tensor
    mean: Tensor

    def at(self, space: Space, x: Tensor) -> Tensor:
        """Values of l at points, (count, outputs) in double precision."""
        return self.mean + double(space.standardise(x)) @ self.weights

    def damped(self, values: Tensor, strength: float) -> Tensor:
        """T_rho l at points where l has these values."""
        return self.mean + strength * (values - self.mean)

    def stability(self, strength: float) -> float:
        """E[l(x) l(y)], exactly."""
        return float(self.mean.square().sum() + strength * self.weights.square().sum())


@dataclass(frozen=True)
class Draws:
    """What k draws say: `products` and `squares` (k, strengths), `controls` (k, strengths, c), `mean` (k, outputs)."""

    products: Tensor
    squares: Tensor
    controls: Tensor
    mean: Tensor


def double(values: Tensor) -> Tensor:
    """In float64, on the CPU where the device has none."""
    return (values.cpu() if values.device.type == "mps" else values).to(torch.float64)


def outputs(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """f(x) checked, (rows, outputs) in double precision, with its gradient. f gets a copy: it may work in place."""
    check_mode(f, "f")
    try:
        values = evaluate(f, x.clone())
    except RuntimeError as error:
        if "dtype" not in str(error) and "scalar type" not in str(error):
            raise
        reason = str(error).partition("\n")[0]
        raise ValueError(f"f does not take {x.dtype} ({reason}): give dtype=, that of its weights") from error
    if values.ndim > 2 or values.is_complex():
        raise ValueError(
            f"f returned {values.dtype} of shape {tuple(values.shape)} for points of shape {tuple(x.shape)}: real"
            " numbers of shape (batch,) or (batch, outputs) are needed; select or flatten the outputs"
        )
    return double(values).reshape(len(x), -1)


def count_outputs(f: Callable[[Tensor], Tensor], space: Space, source: dict) -> int:
    """How many outputs f has, asked at two points of the space that leave the generator alone."""
    device, dtype = source["device"], source["dtype"]
    apart = torch.Generator(torch.get_default_device() if device is None else device).manual_seed(0)
    return outputs(f, space.draw(2, apart, device, dtype)).shape[1]


def first_batch(space: Space) -> BatchSize:
    """Inputs handed over at once where nobody says: of tokens what suits a network, of numbers all that were made."""
    return BatchSize(None if isinstance(space, Tokens) else GROUP)


def draw(
    design: Design,
    f: Callable[[Tensor], Tensor],
    space: Space,
    strengths: list[float],
    count: int,
    linear: Linear | None,
    source: dict,
) -> Draws:
    """`count` independent draws of a design at every strength. f maps (rows, n) to (rows, outputs) in float64."""
    points = lambda: space.draw(count, source["generator"], source["device"], source["dtype"])  # noqa: E731
    base = points()
    at_base = f(base) if design.star else None
    noise = [space.noise(base, source["generator"]) for _ in range(design.blocks)]
    found = []
    for position, strength in enumerate(strengths):
        if design.fresh and position:
            base = points()
            at_base = f(base) if design.star else None
            noise = [space.noise(base, source["generator"]) for _ in range(design.blocks)]
        around = _copies(design, space, base, strength, noise)  # (blocks, couple, count, n)
        rows = around.flatten(0, 2)
        shape = (*around.shape[:3], -1)
        values = f(rows).reshape(shape)
        l_values = linear.at(space, rows).reshape(shape) if linear else None
        if design.star:
            l_base = linear.at(space, base) if linear else None
            found.append(_star(at_base, values, l_base, l_values, linear, strength))
        else:
            found.append(_nest(values, l_values, linear, strength))
    products, squares, controls, means = zip(*found, strict=True)
    return Draws(torch.stack(products, 1), torch.stack(squares, 1), torch.stack(controls, 1), sum(means) / len(means))


def _copies(design: Design, space: Space, base: Tensor, strength: float, noise: list) -> Tensor:
    """The noisy points, (blocks, couple, count, n). In a nest, a negative strength gives blocks alternating signs."""
    blocks = []
    for index, one in enumerate(noise):
        r = strength
        if not design.star:
            r = abs(strength) ** 0.5 * (-1 if strength < 0 and index % 2 else 1)
        sides = [one, space.mirror(one)] if design.mirrored else [one]
        blocks.append(torch.stack([space.twin(base, r, side) for side in sides]))
    return torch.stack(blocks)


def _star(at_base: Tensor, values: Tensor, l_base: Tensor | None, l_values: Tensor | None, linear, strength: float):
    """Products f(x) mean f(y), mean f**2, controls, mean f. Values are (blocks, couple, count, outputs)."""
    twins = values.mean((0, 1))  # (count, outputs)
    squares = (_dot(at_base, at_base) + _dot(values, values).mean((0, 1))) / 2
    found = _dot(at_base, twins), squares
    mean = (at_base + twins) / 2
    if linear is None:
        return *found, twins.new_zeros(len(twins), 0), mean
    l_twins, known = l_values.mean((0, 1)), linear.stability(strength)
    damped, damped_base = linear.damped(l_values, strength), linear.damped(l_base, strength)
    controls = [
        _dot(at_base, damped_base - l_twins),  # E[f(x) (T l)(x)] = E[f(x) l(y)]
        _dot(values, damped).mean((0, 1)) - _dot(l_base, twins),
        _dot(l_base, l_twins) - known,
        _dot(l_base, damped_base) - known,
        _dot(l_values, damped).mean((0, 1)) - known,
        _dot(linear.mean, (l_base + l_twins) / 2 - linear.mean),
    ]
    return *found, torch.stack(controls, -1), mean


def _nest(values: Tensor, l_values: Tensor | None, linear: Linear | None, strength: float):
    """Mean over rho-correlated pairs of blocks, mean f**2, controls, mean f."""
    blocks = values.mean(1)  # (blocks, count, outputs)
    found = _pairs(blocks, blocks, strength), _dot(values, values).mean((0, 1))
    mean = blocks.mean(0)
    if linear is None:
        return *found, mean.new_zeros(len(mean), 0), mean
    l_blocks, known = l_values.mean(1), linear.stability(strength)
    damped = linear.damped(l_values, strength)
    controls = [
        _dot(values, damped).mean((0, 1)) - _pairs(blocks, l_blocks, strength),
        _pairs(l_blocks, l_blocks, strength) - known,
        _dot(l_values, damped).mean((0, 1)) - known,
        _dot(linear.mean, l_blocks.mean(0) - linear.mean),
    ]
    return *found, torch.stack(controls, -1), mean


def _pairs(a: Tensor, b: Tensor, strength: float) -> Tensor:
    """Mean of a_i . b_j over ordered pairs of different blocks; of opposite blocks where the strength is negative."""
    if strength < 0:
        even, odd = slice(0, None, 2), slice(1, None, 2)
        return (_dot(a[even].mean(0), b[odd].mean(0)) + _dot(a[odd].mean(0), b[even].mean(0))) / 2
    count = len(a)
    return (_dot(a.sum(0), b.sum(0)) - _dot(a, b).sum(0)) / (count * (count - 1))


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(-1)

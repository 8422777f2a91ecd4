"""Influences of any callable over a product space, by Efron and Stein, and their smooth kin on Gaussian space."""

from collections.abc import Callable, Sequence
from typing import Unpack

import torch
from torch import Tensor

from nslab.batches import in_batches
from nslab.boolean.checks import known_keys
from nslab.boolean.sampling import Sampling
from nslab.estimate import Estimate, sample_mean
from nslab.protocols import check_whole
from nslab.stability.designs import GROUP, GROUP_NUMBERS, count_outputs, double, first_batch, outputs
from nslab.stability.spaces import GaussianSpace, Space, check_space


def influences(
    f: Callable[[Tensor], Tensor],
    space: Space,
    relevant: Sequence[int] | None = None,
    **sampling: Unpack[Sampling],
) -> Estimate:
    r"""$\mathrm{Inf}_i(f) = E[\mathrm{Var}_{x_i} f] = \frac12 E[(f(x) - f(x^{(i)}))^2]$, coordinate i drawn anew.

    Equal to $\sum_{S \ni i} \|f^{=S}\|^2$ for the Efron-Stein (on the cube: Fourier) parts of f. Where a coordinate has
    v equally likely values, the new one is drawn among the others and the factor is $(v - 1) / 2v$: the same mean, less
    spread. 1 + len(relevant) evaluations a draw; all coordinates share the points x, so their errors are correlated.

    Args:
        f: (batch, coordinates) to (batch,) or (batch, outputs); with several outputs, squared distances.
        space: `Cube`, `Tokens` or `GaussianSpace`.
        relevant: the coordinates to look at, all by default.
        **sampling: exactly one of `samples`, the number of draws, and `stderr`, the standard error to reach; and
            `generator`, `device` and `dtype` of the points.

    Returns:
        `Estimate` of shape (coordinates,), or (len(relevant),).

    How to read it: the part of Var f that is lost when coordinate i is unknown. For ±1-valued f on the cube, the
    probability that flipping bit i changes the answer. In a Gaussian space or on tokens it counts large and small
    changes of a coordinate alike, unlike a gradient.

    Errors: `ValueError` for coordinates outside the space or repeated, and as `sample_mean` and `evaluate`.

    Source: Efron and Stein (1981); O'Donnell, Analysis of Boolean Functions (2014), section 8.3.

    >>> from nslab.stability import Cube
    >>> print(influences(lambda x: x[:, 0] * x[:, 1], Cube(3), samples=10))
    [1 ± 0, 1 ± 0, 0 ± 0]
    """
    chosen = _coordinates(space, relevant)
    return _average(lambda x, generator: _changes(f, space, x, chosen, generator), f, space, sampling)


def average_sensitivity(f: Callable[[Tensor], Tensor], space: Space, **sampling: Unpack[Sampling]) -> Estimate:
    r"""The total influence $I(f) = \sum_i \mathrm{Inf}_i(f) = \sum_S |S| \|f^{=S}\|^2$, a number.

    1 + coordinates evaluations a draw. Divided by Var f it is the mean degree of the varying part of f. On the cube
    and on tokens it is also the derivative of Stab at strength 1; on Gaussian space that is `gradient_energy`, which is
    at least as large.

    Args:
        f: as in `influences`.
        space: as in `influences`.
        **sampling: exactly one of `samples`, the number of draws, and `stderr`, the standard error to reach; and
            `generator`, `device` and `dtype` of the points.

    Errors: as in `influences`.
    """
    chosen = _coordinates(space, None)
    return _average(lambda x, generator: _changes(f, space, x, chosen, generator).sum(-1), f, space, sampling)


def gradient_energy(f: Callable[[Tensor], Tensor], space: Space, **sampling: Unpack[Sampling]) -> Estimate:
    r"""$E \|\nabla f(x)\|^2 = \sum_\alpha |\alpha| \tilde f(\alpha)^2$, the derivative of Stab at rho = 1, by autograd.

    Args:
        f: differentiable, (batch, dimension) to (batch,) or (batch, outputs); outputs add up.
        space: a `GaussianSpace`.
        **sampling: exactly one of `samples`, the number of draws, and `stderr`, the standard error to reach; and
            `generator`, `device` and `dtype` of the points.

    Returns:
        `Estimate`, a number.

    How to read it: near rho = 1, Stab falls by (1 - rho) times this number. By Poincaré's inequality it is at least
    Var f. A function with jumps has an infinite energy that automatic differentiation cannot see: sign gives 0.

    Errors: `ValueError` when the space is not Gaussian or the output of f has no gradient.

    Source: *reconstructed*; O'Donnell (2014), section 11.1 (the generator of the Ornstein-Uhlenbeck semigroup).

    >>> print(gradient_energy(lambda x: 3 * x[:, 0], GaussianSpace(2), samples=10))
    9 ± 0
    """
    if not isinstance(space, GaussianSpace):
        raise ValueError(f"space = {space}: gradients need a GaussianSpace; use average_sensitivity here")

    def squared_gradient(x: Tensor, generator: torch.Generator | None) -> Tensor:
        with torch.enable_grad():
            x = x.requires_grad_()
            values = outputs(f, x)
            gradients = [_gradient(column, x) for column in values.unbind(-1)]
        return sum(double(gradient).square().sum(-1) for gradient in gradients)

    return _average(squared_gradient, f, space, sampling)


def _gradient(column: Tensor, x: Tensor) -> Tensor:
    """The rows' gradients. That f does not depend on x looks like a graph that was cut: both are refused."""
    found = None
    if column.requires_grad:
        found = torch.autograd.grad(column.sum(), x, retain_graph=True, allow_unused=True)[0]
    if found is None:
        raise ValueError("f returned values without a gradient: use torch operations, without detach or no_grad")
    return found


def _changes(f: Callable, space: Space, x: Tensor, chosen: tuple[int, ...], generator) -> Tensor:
    """Scaled squared changes w |f(x) - f(x with coordinate i redrawn)|**2, (count, len(chosen))."""
    size = first_batch(space)
    at_x = in_batches(lambda rows: outputs(f, rows), x, batch=size)
    change = lambda rows, at: (at - outputs(f, rows)).square().sum(-1)  # noqa: E731
    found = []
    for i in chosen:
        moved, factor = space.redraw(x, i, generator)
        found.append(factor * in_batches(change, moved, at_x, batch=size))
    return torch.stack(found, -1)


def _average(of: Callable, f: Callable, space: Space, sampling: Sampling) -> Estimate:
    known_keys(sampling, Sampling, "sampling")
    check_whole(samples=sampling.get("samples"))
    source = {name: sampling.get(name) for name in ("generator", "device", "dtype")}
    with torch.no_grad():
        numbers = max(space.coordinates, count_outputs(f, space, source))
        return sample_mean(
            lambda k: of(space.draw(k, **source), source["generator"]).detach(),
            samples=sampling.get("samples"),
            stderr=sampling.get("stderr"),
            batch_size=max(1, min(GROUP, GROUP_NUMBERS // numbers)),
        )


def _coordinates(space: Space, relevant: Sequence[int] | None) -> tuple[int, ...]:
    check_space(space)
    chosen = tuple(range(space.coordinates)) if relevant is None else tuple(int(i) for i in relevant)
    if not chosen or len(set(chosen)) < len(chosen) or not all(0 <= i < space.coordinates for i in chosen):
        raise ValueError(f"relevant = {chosen}: give distinct coordinates from 0 to {space.coordinates - 1}")
    return chosen

r"""The model in one dimension, solved: two past tokens at -1 and 1, score a, so that $u = \tanh(a u) + \varepsilon$.

Its determinant is $1 - a\,\mathrm{sech}^2(a u)$. Physicists know it as the mean-field (Curie-Weiss) magnet.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nslab.gaussian.ranges import Scalar, as_tensors, inside

HALVINGS = 60  # of a bracket of width 2: below the rounding of double precision


def magnet_mean(u: Scalar, a: Scalar) -> Float[Tensor, "..."]:
    r"""The attention mean $\mu(u) = \tanh(a u)$ of a token u whose past is one token at -1 and one at 1.

    Args:
        u: the token, any shape.
        a: the score, the one entry of the score matrix; broadcasts against u. Negative a repels.

    Returns:
        The broadcast shape.

    How to read it: the logits are $\pm a u$, so the softmax over two tokens is a logistic curve, and the mean of -1 and
    1 under it is a hyperbolic tangent.

    Source: *ours*; Curie-Weiss model.

    >>> magnet_mean(1.0, 0.5).item()
    0.462...
    """
    u, a = as_tensors(u, a)
    return torch.tanh(a * u)


def magnet_determinant(u: Scalar, a: Scalar) -> Float[Tensor, "..."]:
    r"""The Jacobian block $1 - a\,\mathrm{sech}^2(a u)$, a number here: the slope of $u - \tanh(a u)$.

    Args and returns as in `magnet_mean`.

    How to read it: least at u = 0, where it is 1 - a. Negative values lie between the two `fold_points`.

    Source: *ours*; Curie-Weiss model.

    >>> magnet_determinant(0.0, 2.0).item()
    -1.0
    """
    u, a = as_tensors(u, a)
    z = 2 * a * u
    return 1 - 4 * a * torch.sigmoid(z) * torch.sigmoid(-z)  # sech^2(z / 2) without overflow


def magnet_density(u: Scalar, a: Scalar, sigma: Scalar, *, signed: bool = False) -> Float[Tensor, "..."]:
    r"""What the change of variables gives for the density of u: $N(u - \tanh(a u); 0, \sigma^2)\, |\det J(u)|$.

    Args:
        u: the token, any shape.
        a: the score.
        sigma: standard deviation of the noise, above 0; all three broadcast against each other.
        signed: whether to leave the determinant its sign.

    Returns:
        The broadcast shape. The integral over u is `expected_preimages(a, sigma)`, and 1 if signed.

    How to read it: a density only as long as its integral is 1, which is for a <= 1.

    Errors: `ValueError` for a sigma that is not above 0.

    Source: *ours*.

    >>> magnet_density(0.0, 0.0, 1.0).item()
    0.398...
    """
    u, a, sigma = as_tensors(u, a, sigma)
    _positive(sigma)
    noise = (u - magnet_mean(u, a)) / sigma
    slope = magnet_determinant(u, a)
    return torch.exp(-noise.square() / 2) / (math.sqrt(2 * math.pi) * sigma) * (slope if signed else slope.abs())


def fold_points(a: Scalar) -> Float[Tensor, "*a two"]:
    r"""Where the determinant is 0: $u^* = \pm\,\mathrm{arccosh}(\sqrt a) / a$.

    Args:
        a: scores of at least 1.

    Returns:
        (*a, 2), the negative one first; both are 0 at a = 1.

    How to read it: there the line u and the curve $\tanh(a u) + \varepsilon$ touch, for the noise $\varepsilon = \mp$
    `critical_noise(a)`: two solutions meet and vanish.

    Errors: `ValueError` where a < 1, since the determinant is positive everywhere.

    Source: *ours*; Curie-Weiss model.

    >>> fold_points(2.0)
    tensor([-0.4407,  0.4407])
    """
    (a,) = as_tensors(a)
    inside(a, "a", 1, math.inf, "below 1 the determinant has no zero and the map no fold; give scores of at least 1")
    fold = torch.asinh((a - 1).sqrt()) / a  # arccosh would lose half the digits near 1
    return torch.stack([-fold, fold], -1)


def critical_noise(a: Scalar) -> Float[Tensor, "*a"]:
    r"""The noise up to which there are three solutions: $\varepsilon_c = \sqrt{1 - 1/a} - \mathrm{arccosh}(\sqrt a)/a$.

    Args:
        a: scores, any shape.

    Returns:
        The same shape: 0 for a <= 1, rising towards 1.

    How to read it: half the width of the hysteresis loop of `sweep`. Just above a = 1 it grows like
    $\frac23 (a - 1)^{3/2}$.

    Source: *ours*; Curie-Weiss model.

    >>> critical_noise(2.0).item()
    0.2664...
    """
    (a,) = as_tensors(a)
    opened = a > 1
    inner = torch.where(opened, a, 2.0)  # where there is no fold, anything whose gradient is finite
    root = (inner - 1).sqrt()  # arcsinh of it is arccosh(sqrt a), without the loss of digits near 1
    return torch.where(opened, (root / inner.sqrt() - torch.asinh(root) / inner).clamp(min=0), 0.0)


def expected_preimages(a: Scalar, sigma: Scalar) -> Float[Tensor, "..."]:
    r"""How many tokens u a noise $\varepsilon \sim N(0, \sigma^2)$ explains on average: $Z = 1 +
    2\,\mathrm{erf}(\varepsilon_c / (\sigma \sqrt 2))$.

    Args:
        a: scores.
        sigma: standard deviation of the noise, above 0; the two broadcast.

    Returns:
        The broadcast shape, in [1, 3].

    How to read it: the integral of `magnet_density`. 1 means that it is a density. Small noise finds three solutions
    nearly always (a > 1), large noise nearly never.

    Errors: `ValueError` for a sigma that is not above 0.

    Source: *ours*.

    >>> expected_preimages(2.0, 0.5).item()
    1.8117...
    """
    a, sigma = as_tensors(a, sigma)
    _positive(sigma)
    return 1 + 2 * torch.erf(critical_noise(a) / (sigma * math.sqrt(2)))


def solutions(a: Scalar, noise: Scalar) -> Float[Tensor, "... three"]:
    r"""Every token u with $u = \tanh(a u) + \varepsilon$: one, or three where $|\varepsilon| < \varepsilon_c(a)$.

    Args:
        a: scores, any sign.
        noise: the noise; the two broadcast.

    Returns:
        (*broadcast, 3), rising, and filled up with NaN where there is one; by bisection, to the rounding of the dtype.
        Differentiable in both arguments (a slope of 1 / determinant in the noise; at a fold, where it would be
        infinite, it is left at 0).

    How to read it: of three, the middle one has a negative determinant; a token that starts beside it leaves it.

    Errors: `ValueError` for noise or scores that are not finite.

    Source: *ours*.

    >>> solutions(2.0, 0.1)
    tensor([-0.8303, -0.1029,  1.0730])
    """
    a, noise = torch.broadcast_tensors(*as_tensors(a, noise))
    for name, value in (("a", a), ("noise", noise)):
        if not bool(value.isfinite().all()):
            raise ValueError(f"{name} has NaN or infinity: give finite numbers")
    with torch.no_grad():
        three = noise.abs() < critical_noise(a)
        fold = fold_points(a.clamp(min=1))
        outside = torch.stack([noise - 1, noise + 1], -1)
        edges = torch.stack([outside[..., 0], fold[..., 0], fold[..., 1], outside[..., 1]], -1)  # (..., 4)
        low = torch.where(three[..., None], edges[..., :-1], outside[..., :1])
        high = torch.where(three[..., None], edges[..., 1:], outside[..., 1:])
        falling = three[..., None] & torch.tensor([False, True, False], device=a.device)
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            above = (middle - magnet_mean(middle, a[..., None]) > noise[..., None]) != falling
            low, high = torch.where(above, low, middle), torch.where(above, middle, high)
        root = (low + high) / 2
        slope = magnet_determinant(root, a[..., None])
        slope = slope.where(slope != 0, math.inf)
    step = (root - magnet_mean(root, a[..., None]) - noise[..., None]) / slope  # Newton's, for its gradient alone
    root = root - (step - step.detach())
    exists = three[..., None] | torch.tensor([True, False, False], device=a.device)
    return torch.where(exists, root, math.nan)


def settle(a: Scalar, noise: Scalar, start: Scalar) -> Float[Tensor, "..."]:
    r"""The solution that a token reaches from `start`, when it moves towards its mean: $\dot u = \tanh(a u) +
    \varepsilon - u$.

    Args:
        a: scores.
        noise: the noise.
        start: where the token begins; all three broadcast.

    Returns:
        The broadcast shape.

    How to read it: in one dimension nothing is jumped over, so it is the next solution in the direction of the pull.
    The iteration $u \leftarrow \tanh(a u) + \varepsilon$ ends there too, if a >= 0.

    Errors: as in `solutions`, and for a start that is not finite.

    Source: *ours*.

    >>> settle(2.0, 0.0, torch.tensor([-0.1, 0.1]))
    tensor([-0.9575,  0.9575])
    """
    a, noise, start = torch.broadcast_tensors(*as_tensors(a, noise, start))
    if not bool(start.isfinite().all()):
        raise ValueError("start has NaN or infinity: give finite numbers")
    return _reached(solutions(a, noise), magnet_mean(start, a) + noise >= start, start)


def fixed_point_iterations(
    a: Scalar, start: Scalar = 1.0, tolerance: float = 1e-6, *, noise: Scalar = 0.0, limit: int = 50_000
) -> Int[Tensor, "..."]:
    r"""How many steps of $u \leftarrow \tanh(a u) + \varepsilon$ bring a token to within `tolerance` of its solution.

    Args:
        a: scores of at least 0.
        start: where the token begins.
        tolerance: the distance from the solution at which it has arrived, above 0.
        noise: the noise; a, start and noise broadcast.
        limit: the largest number of steps tried.

    Returns:
        Whole numbers, the broadcast shape; -1 where `limit` steps were not enough.

    How to read it: near a solution of slope $s = a\,\mathrm{sech}^2(a u)$ each step multiplies the distance by s, so
    about log(1 / tolerance) / (-log s) steps are needed. They grow without bound as the determinant 1 - s goes to 0:
    critical slowing down. At a = 1 without noise they are of the order of 1 / tolerance^2.

    Errors: `ValueError` for a < 0 (below -1 the iteration does not converge), a tolerance that is not above 0, a limit
    below 0.

    Source: *ours*.

    >>> fixed_point_iterations(torch.tensor([0.5, 0.9], dtype=torch.float64))
    tensor([ 20, 125])
    """
    if not tolerance > 0:
        raise ValueError(f"tolerance = {tolerance} is not above 0: no iteration arrives exactly; give 1e-6, say")
    if limit < 0:
        raise ValueError(f"limit = {limit} is negative: give the largest number of steps to try")
    a, start, noise = torch.broadcast_tensors(*as_tensors(a, start, noise))
    inside(a, "a", 0, math.inf, "below 0 the iteration swings, and below -1 it does not converge; use solutions")
    with torch.no_grad():
        goal, u = settle(a, noise, start), start.clone()
        steps = torch.full_like(u, -1, dtype=torch.long)
        for step in range(limit + 1):
            steps = torch.where((steps < 0) & ((u - goal).abs() < tolerance), step, steps)
            if bool((steps >= 0).all()):
                break
            u = magnet_mean(u, a) + noise
    return steps


def sweep(a: Scalar, noises: Float[Tensor, "..."], start: Scalar | None = None) -> Float[Tensor, "*a steps"]:
    r"""A token that follows its solution while the noise is moved slowly: each time from where it was.

    Args:
        a: scores.
        noises: the noise, step by step (steps,), at least one.
        start: where the token stands before the first step; by default at the lowest solution.

    Returns:
        (*a, steps): for every noise the solution that was reached.

    How to read it: upwards and downwards the token takes the same way for a <= 1. For a > 1 it jumps up at
    `critical_noise(a)` and down at its negative: the loop is hysteresis.

    Errors: `ValueError` for noises that are not one axis with at least one number.

    Source: *ours*.

    >>> up = torch.tensor([-0.5, 0.0, 0.5])
    >>> sweep(2.0, up)[1] < 0, sweep(2.0, up.flip(0))[1] > 0
    (tensor(True), tensor(True))
    """
    if noises.ndim != 1 or not len(noises):
        raise ValueError(f"noises has shape {tuple(noises.shape)}: give the noise of each step along one axis")
    a, noises = as_tensors(a, noises)
    roots = solutions(a[..., None], noises)  # (*a, steps, 3)
    u, path = roots[..., 0, 0] if start is None else as_tensors(start, a)[0].expand(a.shape), []
    for noise, at in zip(noises, roots.unbind(-2), strict=True):
        u = _reached(at, magnet_mean(u, a) + noise >= u, u)
        path.append(u)
    return torch.stack(path, -1)


def _reached(roots: Tensor, rising: Tensor, start: Tensor) -> Tensor:
    """The next root from `start` (*batch,), upwards or downwards: roots (*batch, 3), some NaN, to (*batch,)."""
    gap = roots.detach() - start.detach()[..., None]
    slack = torch.finfo(roots.dtype).eps ** 0.5  # a start on a root stays there
    ahead = torch.where(rising[..., None], gap >= -slack, gap <= slack)  # False for NaN
    return roots.gather(-1, torch.where(ahead, gap.abs(), math.inf).argmin(-1, keepdim=True))[..., 0]


def _positive(sigma: Tensor) -> None:
    if not bool((sigma > 0).all()):
        worst = sigma.detach()[~(sigma > 0)].flatten()[0].item()
        raise ValueError(f"sigma = {worst:g} is not above 0: give the standard deviation of the noise")

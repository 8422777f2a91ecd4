"""The second moment of any activation at two correlated Gaussians: what one MLP layer does to a covariance.

ReLU, the identity and the square have closed forms. Other activations are summed over Hermite degrees: with
a_k(q) = E[f(sqrt(q) X) h_k(X)], the moment is the power series sum_k a_k(q) a_k(q') c^k in the correlation c, smooth
up to c = ±1. Parseval's identity says how much a cut series leaves out; where that is not negligible (a kink, a steep
function), a double integral with panels at the kinks takes over.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from nslab.gaussian import gaussian_mean, hermite, ornstein_uhlenbeck, relu_moment
from nslab.gaussian.quadrature import LAYER, REACH
from nslab.gaussian.ranges import Scalar
from nslab.propagation.doubles import as_doubles

Function = Callable[[Tensor], Tensor]

DEGREE = 128
ROUNDING = 1024
"""Machine epsilons that count as rounding: of a correlation beyond ±1, and of the energy that a series leaves out."""


STEEP = 1e-6
"""A function with more than this share of its energy beyond DEGREE is too steep for the nodes of the series."""


def _linear(u: Tensor) -> Tensor:
    return u


ACTIVATIONS: dict[str, Function] = {
    "relu": torch.relu,
    "gelu": torch.nn.functional.gelu,
    "silu": torch.nn.functional.silu,
    "tanh": torch.tanh,
    "linear": _linear,
    "quadratic": torch.square,
}
"""The activations known by name. GELU is the exact one, u Phi(u); "quadratic" is u^2."""

CLOSED_FORMS = {
    torch.relu: relu_moment,
    _linear: lambda q, q_prime, kappa: kappa + 0 * (q + q_prime),
    torch.square: lambda q, q_prime, kappa: q * q_prime + 2 * kappa.square(),
}


def activation(name: str) -> Function:
    """The activation of this name. Errors: `ValueError` for an unknown name, with the known ones."""
    if name not in ACTIVATIONS:
        raise ValueError(f"activation = {name!r} is unknown: choose from {', '.join(ACTIVATIONS)}, or give a function")
    return ACTIVATIONS[name]


def activation_moment(
    f: str | Function, q: Scalar, q_prime: Scalar, kappa: Scalar, *, breaks: Sequence[float | int] = ()
) -> Float[Tensor, "..."]:
    r"""$E[f(u) f(v)]$ for centred Gaussians with variances q, q' and covariance kappa.

    Formula: $\sum_k a_k(q)\, a_k(q')\, c^k$ with $a_k(q) = E[f(\sqrt q X) h_k(X)]$ and $c = \kappa / \sqrt{q q'}$.
    Price's theorem: $\partial / \partial \kappa = E[f'(u) f'(v)]$ and $\partial / \partial q = \frac12 E[f''(u) f(v)]$.

    Args:
        f: a name in `ACTIVATIONS`, or an elementwise function.
        q: variance of u, positive, in the squared units of the signal.
        q_prime: variance of v, positive.
        kappa: covariance, at most sqrt(q q') in size; the three broadcast. Python numbers alone count as float64.
        breaks: points u where f has a kink or a jump. They select the double integral, about a hundred times slower.

    Returns:
        The broadcast shape, in the dtype of the arguments; in double precision the error is below 1e-10 of
        sqrt(E f(u)^2 E f(v)^2) for functions that are smooth between breaks and bend on a scale of about one.
        Differentiable in q, q' and kappa, at kappa = ±sqrt(q q') too; once only where the double integral was taken.

    How to read it: an uncentred second moment; with f = ReLU it is `gaussian.relu_moment`. If f' has one sign it is
    nondecreasing in kappa. In q and q' it need not be monotone: that is special to ReLU.

    Errors: `ValueError` for an unknown name, a variance that is not positive and finite, |kappa| above sqrt(q q') by
    more than rounding, f that changes shapes or is not finite, and slopes asked of an f that jumps.

    Source: *reconstructed*: Mehler's expansion; Price (1958) for the derivatives.

    >>> activation_moment("quadratic", 1.0, 1.0, 0.5).item()
    1.5
    """
    f = activation(f) if isinstance(f, str) else f
    q, q_prime, kappa = torch.broadcast_tensors(*as_doubles(q, q_prime, kappa))
    for value, name in ((q, "q"), (q_prime, "q_prime")):
        bad = ~((value > 0) & torch.isfinite(value))
        if bool(bad.any()):
            raise ValueError(f"{name} = {value.detach()[bad][0].item():g}: a variance is finite and positive")
    scale = q.sqrt() * q_prime.sqrt()
    c = kappa / scale
    bad = ~(c.abs() <= 1 + ROUNDING * torch.finfo(c.dtype).eps)
    if bool(bad.any()):
        worst = kappa.detach()[bad][0].item()
        raise ValueError(f"kappa = {worst:g} exceeds sqrt(q * q_prime): no two Gaussians have this covariance")
    excess = (c - c.clamp(-1, 1)).detach()  # rounding beyond ±1 is cut off, its gradient is kept
    c = c - excess
    if f in CLOSED_FORMS:
        return CLOSED_FORMS[f](q, q_prime, kappa - excess * scale.detach())

    if breaks:
        found, trusted = torch.zeros_like(c), torch.zeros_like(c, dtype=torch.bool)
    else:
        found, trusted = _series(f, q, q_prime, c)
    if bool(trusted.all()):
        return found
    ends = tuple(breaks) or LAYER  # without kinks, panels for a function that bends on the scale of one
    rest = torch.stack([q, q_prime, c])[:, ~trusted].unbind(1)
    slow = [_double_integral(f, *element.unbind(), ends) for element in rest]
    return found.masked_scatter(~trusted, torch.stack(slow))


def activation_gain(f: str | Function, *, breaks: Sequence[float | int] = ()) -> Float[Tensor, ""]:
    r"""$1 / E f(Z)^2$ for standard Gaussian Z: the variance times width that keeps the second moment at 1.

    Args:
        f: a name in `ACTIVATIONS`, or an elementwise function.
        breaks: its kinks and jumps.

    Returns:
        A number in double precision: 2 for ReLU (He's factor), 1 for the identity.

    How to read it: W a(h) keeps the mean square of Gaussian h with unit variance when the entries of W have variance
    gain / width.

    Errors: `ValueError` for an unknown name, or f that is zero.

    Source: He et al. (2015) for ReLU; *reconstructed* for others.

    >>> round(activation_gain("relu").item(), 12)
    2.0
    """
    f = activation(f) if isinstance(f, str) else f
    energy = gaussian_mean(lambda z: f(z).square(), breaks=tuple(breaks) or (0.0,))
    if not bool(energy > 0):
        raise ValueError("f is zero at every point that was looked at: no factor restores a signal that is gone")
    return 1 / energy


def _series(f: Function, q: Tensor, q_prime: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """The series up to DEGREE, and whether what it leaves out is rounding."""
    x, mass = _line(q)
    basis = hermite(x, DEGREE) * mass[:, None]  # (points, degrees)
    values = [_finite(f, variance.sqrt()[..., None] * x) for variance in (q, q_prime)]  # (*shape, points) each
    a, b = (value @ basis for value in values)  # (*shape, degrees) each
    powers = c[..., None] ** torch.arange(DEGREE + 1, dtype=c.dtype, device=c.device)
    with torch.no_grad():
        energy = [value.square() @ mass for value in values]
        tails = [(e - k.square().sum(-1)).clamp(min=0) for e, k in zip(energy, (a, b), strict=True)]
        left_out = (tails[0] * tails[1]).sqrt() * c.abs() ** (DEGREE + 1)
        allowed = ROUNDING * torch.finfo(c.dtype).eps * (energy[0] * energy[1]).sqrt()
        trusted = left_out <= allowed
        for e, tail in zip(energy, tails, strict=True):
            trusted &= tail <= max(STEEP, 64 * torch.finfo(c.dtype).eps) * e  # the nodes resolve f
    return (a * b * powers).sum(-1), trusted


def _line(like: Tensor) -> tuple[Tensor, Tensor]:
    """Gauss-Legendre panels that resolve polynomials up to DEGREE: nodes and Gaussian weights (points,)."""
    position, weight = (torch.from_numpy(a).to(like) for a in np.polynomial.legendre.leggauss(24 + DEGREE // 8))
    edges = torch.linspace(-REACH, REACH, 10, dtype=like.dtype, device=like.device)
    half, middle = (edges[1:] - edges[:-1]) / 2, (edges[1:] + edges[:-1]) / 2
    x = (middle[:, None] + half[:, None] * position).flatten()  # (panels, nodes) -> (points,)
    return x, (half[:, None] * weight).flatten() * torch.exp(-x.square() / 2) / math.sqrt(2 * math.pi)


def _finite(f: Function, u: Tensor) -> Tensor:
    values = f(u.clone())  # f may work in place, as torch.relu_ does
    if not isinstance(values, Tensor) or values.shape != u.shape:
        got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(f"f returned {got} for points of shape {tuple(u.shape)}: it must act elementwise")
    wrong = ~torch.isfinite(values.detach())
    if bool(wrong.any()):
        raise ValueError(f"f returned NaN or infinity at u = {u.detach()[wrong][0].item():g}: E f(u)^2 needs finite f")
    return values


def _double_integral(f: Function, q: Tensor, q_prime: Tensor, c: Tensor, breaks: Sequence[float | int]) -> Tensor:
    """One moment, the outer panels ending where f(u) and the smoothed f(v) bend; its slope in c by Price's theorem."""
    at, spread, other = float(c.detach()), q.sqrt(), q_prime.sqrt()
    first = [b / float(spread.detach()) for b in breaks]
    second = [b / float(other.detach()) for b in breaks]
    sigma = math.sqrt((1 - at) * (1 + at))
    outer = first + ([(b + t * sigma) / at for b in second for t in LAYER] if at else [])
    rule = {"dtype": c.dtype, "device": c.device}

    def moment(g: Function) -> Tensor:
        def integrand(x: Tensor) -> Tensor:
            return g(spread * x) * ornstein_uhlenbeck(lambda y: g(other * y), c.detach(), x, breaks=second, **rule)

        return gaussian_mean(integrand, breaks=[b for b in outer if abs(b) < REACH], **rule)

    if not c.requires_grad:
        return moment(f)
    edges = torch.tensor(breaks, dtype=torch.float64, device=c.device)
    with torch.no_grad():
        jumps = (f(edges + 1e-7) - f(edges - 1e-7)).abs() > 1e-3
        if bool(jumps.any()):
            at = edges[jumps][0].item()
            raise ValueError(f"f jumps at u = {at:g}: the slopes of its moment are not known here; detach q and kappa")
        slope = spread * other * moment(lambda u: _derivative(f, u))
    return _WithSlope.apply(moment(f), c, slope)


def _derivative(f: Function, u: Tensor) -> Tensor:
    with torch.enable_grad():
        u = u.detach().requires_grad_()
        return torch.autograd.grad(f(u.clone()).sum(), u)[0]


class _WithSlope(torch.autograd.Function):
    """A value whose slope in c is known: through the double integral it would be 0 times infinity at c = ±1."""

    @staticmethod
    def forward(value: Tensor, c: Tensor, slope: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[2])

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "create_graph=True: this moment came from the double integral, which knows its first derivatives only; "
                "leave create_graph out, or take a smooth activation without breaks"
            )
        (slope,) = ctx.saved_tensors
        return grad, grad * slope, None

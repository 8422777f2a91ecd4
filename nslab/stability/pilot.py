"""What a pilot decides: the layout of the draws, the linear function, and how much of each control to subtract.

The pilot's evaluations are counted and its values thrown away. Whatever it decides, the main sample is independent of
it and therefore unbiased; a poor pilot costs precision, never correctness.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nslab.stability.designs import ANTITHETIC, COMMON, NAIVE, NESTED, Design, Draws, Linear, double, draw
from nslab.stability.spaces import Space, Tokens

METHODS = {
    "naive": (NAIVE, False),
    "common": (COMMON, False),
    "antithetic": (ANTITHETIC, False),
    "nested": (NESTED, False),
    "linear": (COMMON, True),
    "antithetic+linear": (ANTITHETIC, True),
    "nested+linear": (NESTED, True),
}
"""Layout and whether products with a linear function are subtracted, by the name of the method."""

GROUPS = 64  # fewest draws of a layout from which its spread is judged
MOST_FEATURES = 4096  # beyond this many the linear function costs more than it is likely to bring
DOUBT = 2.0  # standard errors by which a method must look better before it is preferred
TINY = 1e-28  # a variance, in units of E f**2 squared, that is rounding


@dataclass(frozen=True)
class Plan:
    """What to do: a method and its layout, the linear function, and the regression (strengths, controls)."""

    method: str
    design: Design
    linear: Linear | None = None
    coefficients: Tensor | None = field(default=None, repr=False)

    def corrected(self, found: Draws) -> Tensor:
        """The products with the controls subtracted, (k, strengths)."""
        if self.coefficients is None:
            return found.products
        return found.products - (found.controls * self.coefficients).sum(-1)


def smallest_pilot(method: str, strengths: int) -> int:
    """Fewest evaluations with which `decide` can work; 0 where a method has nothing to decide."""
    if method == "auto":
        return 4 * GROUPS * NESTED.cost(strengths)
    design, linear = METHODS[method]
    return 2 * GROUPS * design.cost(strengths) if linear else 0


def decide(
    method: str,
    f: Callable[[Tensor], Tensor],
    space: Space,
    strengths: list[float],
    evaluations: int,
    normalised: bool,
    source: dict,
) -> Plan:
    """A plan from about `evaluations` calls of f: the given method, or for "auto" the one with the smallest variance.

    Variances are compared at equal numbers of evaluations, at the strength where a method does worst against naive
    pairs, and in doubt "common" wins, which is naive with shared points.
    """
    if method != "auto":
        design, wants_linear = METHODS[method]
        if not wants_linear:
            return Plan(method, design)
        if space.features > MOST_FEATURES:
            raise ValueError(
                f"method = {method!r} fits a linear function, here of {space.features} features, and at most"
                f" {MOST_FEATURES} are fitted: use method='nested', 'antithetic' or 'auto'"
            )
        share = evaluations // 2
        linear = _fit(f, space, share, source)
        found = draw(design, f, space, strengths, share // design.cost(len(strengths)), linear, source)
        return Plan(method, design, linear, _regress(*_in_units(found, normalised))[0])

    share = evaluations // 4
    linear = _fit(f, space, share, source) if space.features <= MOST_FEATURES else None
    promised = {}
    for design in (COMMON, ANTITHETIC, NESTED):
        found = draw(design, f, space, strengths, share // design.cost(len(strengths)), linear, source)
        target, controls = _in_units(found, normalised)
        promised[design.name] = target - target.mean(0), None
        if linear is not None:
            coefficients, left = _regress(target, controls)
            promised["linear" if design is COMMON else f"{design.name}+linear"] = left, coefficients
    naive, price = promised["common"][0], NAIVE.cost(len(strengths))
    scores = {"common": COMMON.cost(len(strengths)) / price}
    for name, (left, _) in promised.items():
        if name != "common":
            scores[name] = METHODS[name][0].cost(len(strengths)) / price * _worst_ratio(left, naive)
    best = min(scores, key=scores.__getitem__)
    coefficients = promised[best][1]
    return Plan(best, METHODS[best][0], None if coefficients is None else linear, coefficients)


def _fit(f: Callable[[Tensor], Tensor], space: Space, points: int, source: dict) -> Linear:
    """The projection of f on linear functions, a_i = E[f(x) x_i], estimated at independent points.

    Where features are many, coefficients below sqrt(2 log features) of their own errors are taken for noise.
    """
    x = space.draw(points, source["generator"], source["device"], source["dtype"])
    values = f(x)  # (points, outputs)
    features = double(space.standardise(x))
    centred = values - values.mean(0)
    weights = features.mT @ centred / points  # (features, outputs)
    if 10 * space.features > points:
        error = centred.square().mean(0).sqrt() / points**0.5
        weights = torch.where(weights.abs() > (2 * math.log(space.features + 1)) ** 0.5 * error, weights, 0)
        if isinstance(space, Tokens):  # weights must be orthogonal to the roots of the law at each position
            by_place, roots = weights.unflatten(0, (space.length, space.ordinary)), space.roots.to(weights)[:, None]
            weights = (by_place - roots * (roots * by_place).sum(1, keepdim=True)).flatten(0, 1)
    return Linear(weights, values.mean(0))


def _in_units(found: Draws, normalised: bool) -> tuple[Tensor, Tensor]:
    """What should vary little, the products or for a ratio their linearisation a - r b, and the controls, by E f**2."""
    size = found.squares.mean()
    if not size > 0:
        return found.products, found.controls
    target = found.products
    if normalised:
        target = target - found.squares * (target.mean(0) / found.squares.mean(0))
    return target / size, found.controls / size


def _regress(target: Tensor, controls: Tensor) -> tuple[Tensor, Tensor]:
    """Coefficients (strengths, controls) by least squares and what they leave of the target (draws, strengths).

    What is left is measured out of sample: each half of the draws is corrected with the other half's coefficients. At a
    strength where the controls do not clearly help, the coefficients are 0.
    """
    plain = target - target.mean(0)
    left = plain.clone()
    halves = slice(0, None, 2), slice(1, None, 2)
    for here, there in (halves, halves[::-1]):
        left[here] = plain[here] - (controls[here] * _least_squares(target[there], controls[there])).sum(-1)
    left = left - left.mean(0)
    size, smaller = plain.square().mean(0), left.square().mean(0)
    change = left.square() / smaller.clamp(min=TINY) - plain.square() / size.clamp(min=TINY)
    useful = smaller * torch.exp(DOUBT * change.std(0) / len(change) ** 0.5) < size
    return torch.where(useful[:, None], _least_squares(target, controls), 0), torch.where(useful, left, plain)


def _least_squares(target: Tensor, controls: Tensor) -> Tensor:
    """Coefficients of the controls at each strength, (strengths, controls)."""
    y = (target - target.mean(0)).mT[..., None]  # (strengths, draws, 1)
    x = (controls - controls.mean(0)).movedim(0, 1)  # (strengths, draws, controls)
    scale = x.square().mean(1, keepdim=True).sqrt()
    alive = scale > 1e-6 * scale.amax()  # a control that vanishes identically is rounding, and stays out
    divisor = torch.where(alive, scale, 1)
    x = torch.where(alive, x / divisor, 0)
    found = torch.linalg.pinv(x.mT @ x / len(target), rtol=1e-8, hermitian=True) @ (x.mT @ y / len(target))
    return (found / divisor.mT).squeeze(-1)


def _worst_ratio(left: Tensor, naive: Tensor) -> float:
    """The largest variance relative to naive, with the doubt that so few draws leave, over the strengths.

    Strengths at which neither varies say nothing. The doubt is `DOUBT` standard errors of the logarithm of the ratio.
    """
    ours, theirs = left.square().mean(0), naive.square().mean(0)
    doubt = sum(
        (rows.square() / size.clamp(min=TINY)).var(0) / len(rows) for rows, size in ((left, ours), (naive, theirs))
    )
    ratio = ours / theirs.clamp(min=TINY) * torch.exp(DOUBT * doubt.sqrt())
    ratio = torch.where(theirs > TINY, ratio, torch.where(ours > TINY, math.inf, 0.0))
    return float(ratio.max())

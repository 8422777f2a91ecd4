"""Bounds on the four moments: the recursion with intervals for numbers, and slack for a finite width.

The maps of `recursion.py` are monotone where it matters. Attention mixes with masses between two ends, which are the
masses at the ends of the ratios. The ReLU moment F(q, q', kappa) is nondecreasing in all three arguments (Price's
theorem). So ends map to ends. Both maps are convex, and hard votes scatter the pairs of tokens that they average: the
lower ends take all pairs alike, the upper ones take them as far apart as `copies.py` says they can be.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nslab.gaussian import relu_moment
from nslab.gaussian.ranges import Scalar, as_tensors
from nslab.propagation.agreement_table import AgreementTable
from nslab.propagation.architecture import Architecture
from nslab.propagation.copies import agreements, averaged, overlaps
from nslab.propagation.ends import Box, Ends, hull, inverse, met, share, slackened, times
from nslab.propagation.moments import ROUNDING, Moments
from nslab.propagation.recursion import attention_masses, table_for

MONOTONE = ("relu", "linear", "none")

SHARE = 1 / 8
"""Of the slack, for a correlation and one random matrix: with slack 4/sqrt(d) half a standard error, 1/(2 sqrt(d))."""


@dataclass(frozen=True, eq=False)
class MomentIntervals:
    r"""Lower and upper bounds of the moments, and of their ratios to q.

    Attributes:
        low: lower ends of (m, o, q, p).
        high: upper ends.
        ratios_low: lower ends of (m/q, o/q, 1, p/q): tighter than quotients of the ends, since a common factor of all
            four moments leaves the ratios alone.
        ratios_high: upper ends.

    How to read it: `correlation` bounds m/q, the number that is compared between networks; `low` and `high` also
    carry the scale of the signal.
    """

    low: Moments
    high: Moments
    ratios_low: Moments
    ratios_high: Moments

    @staticmethod
    def of(low: Moments, high: Moments) -> "MomentIntervals":
        """Intervals from bounds of the moments.

        Errors: `ValueError` where a lower end is above its upper end, q is not positive, or an end is not finite.
        """
        parts = torch.broadcast_tensors(*low.parts(), *high.parts())
        low, high = Moments(*parts[:4]), Moments(*parts[4:])
        for name, left, right in zip("moqp", low.parts(), high.parts(), strict=True):
            if bool((bad := left > right).any()):
                wrong = f"[{left[bad][0].item():g}, {right[bad][0].item():g}]"
                raise ValueError(f"{name} has the interval {wrong}: the lower end comes first")
        low.alive(0)
        high.alive(0)
        box = list(zip(low.parts(), high.parts(), strict=True))
        return _intervals(box, _ratios(box))

    @staticmethod
    def stack(layers: list["MomentIntervals"]) -> "MomentIntervals":
        """One with a new first axis, from one for each layer."""
        return MomentIntervals(
            *(
                Moments.stack([getattr(layer, name) for layer in layers])
                for name in ("low", "high", "ratios_low", "ratios_high")
            )
        )

    @property
    def correlation(self) -> tuple[Tensor, Tensor]:
        """Bounds of m/q, lower and upper."""
        return self.ratios_low.m, self.ratios_high.m

    @property
    def width(self) -> Float[Tensor, "..."]:
        """Upper minus lower bound of the correlation m/q."""
        return self.ratios_high.m - self.ratios_low.m

    def contains(self, moments: Moments) -> Bool[Tensor, "..."]:
        """Where all four moments and the three ratios lie inside, up to rounding."""
        slack = ROUNDING * torch.finfo(moments.q.dtype).eps
        ratios = moments.each(lambda moment: moment / moments.q)
        inside = torch.ones_like(moments.q, dtype=torch.bool)
        for low, high, found in ((self.low, self.high, moments), (self.ratios_low, self.ratios_high, ratios)):
            for left, right, value in zip(low.parts(), high.parts(), found.parts(), strict=True):
                inside = inside & (value >= left - slack * high.q) & (value <= right + slack * high.q)
        return inside


def propagate_intervals(
    moments: Moments | MomentIntervals,
    architecture: Architecture,
    *,
    slack: float | int | None = None,
    agreement: str = "theory",
    table: AgreementTable | None = None,
) -> MomentIntervals:
    r"""Intervals of the moments before the first layer and after each.

    Formula: with masses s in $[s^-, s^+]$, attention gives $m' \in g^2 [\min_s (s m^- + (1-s) o^-),
    \max_s (s m^+ + (1-s) o^+)]$ over the two ends of s, likewise o, q, p; the MLP maps ends to ends; a residual adds
    intervals. Random scores also keep the range of single pairs, in units of q: $[m_-, m_+]$ and so on, by the same
    maps with the masses of `copies.overlaps`. With S from `copies.agreements`, upper ends are then at least
    $m' = S m_+ + (1-S) o_-$ after attention (p: $S + (1-S) p_-$) and the chord
    $F(m_-) + u\,(F(m_+) - F(m_-))$, $u = \frac{m - m_-}{m_+ - m_-}$, after the MLP. Slack $\delta$ widens each in the
    coordinate in which fluctuations have one size: s and S by $\pm \delta$ in $\log \frac{s}{1-s}$; and for each random
    matrix that the values pass (one in attention, two in an MLP) q by $\pm \delta$ in $\log q$ and the ratios by
    $\pm \delta / 8$ in $\mathrm{artanh}(m/q)$.

    Args:
        moments: before the first layer, points or intervals that hold every pair of tokens, (*batch, rho).
        architecture: the network, not causal, with mlp "relu", "linear" or "none".
        slack: delta; None means 4/sqrt(width), a choice made before any network is measured. 0 is infinite width.
        agreement: "theory" takes the masses from theory at the ends of the ratios; "unknown" lets s, t and t_a be
            anything in [0, 1] and s_a anything in [1/n, 1]: the convex hull.
        table: as in `propagate`.

    Returns:
        `MomentIntervals` (layers + 1, *batch, rho). Nothing of a measured run enters.

    How to read it: without slack the lower ends are about `propagate`; the upper ends tell what copies add. They are
    points where votes make none ("identity", "uniform"). Slack covers one network's weights: a correlation read off d
    coordinates has a standard error of 1/sqrt(d) in artanh, and every matrix may err by half of one to the same side.
    It assumes moments averaged over many inputs (tens of sequences from width 2048 on) and tokens of one q.
    Two things are left to it, and need it at any width, without a residual. Votes ignore how many copies a token has:
    the limit of infinite width is up to 0.003 below the lower ends of m and o for small rho. Rows of neither hard nor
    uniform attention have different q: with logits of spread 3, o and p are up to 0.03 of q below theirs. From layer 4
    on, and for rho near 1, the upper ends rise faster than networks do. Identity scores without a residual take
    the softmax of the mean logits; deep in, their scatter matters and nine networks in ten are held. With "unknown"
    the lower end is soon useless.

    Errors: `ValueError` for a causal architecture, another activation (its moment is not monotone in q), an unknown
    `agreement`, a negative `slack`, and moments that no Gaussian could have.

    Source: *reconstructed* (arXiv 2602.08287 keeps such intervals, as reported in a digest; its recursion is not known
    to us); the slack is *ours*.

    >>> shape = Architecture(tokens=16, width=512, layers=2, residual="scaled")
    >>> hull = propagate_intervals(Moments.inputs(0.7), shape, slack=0, agreement="unknown")
    >>> [[round(low, 2), round(high, 2)] for low, high in zip(hull.low.m[1:].tolist(), hull.high.m[1:].tolist())]
    [[0.37, 0.73], [0.23, 0.75]]
    """
    if architecture.causal:
        raise ValueError("architecture has causal = True: intervals are known for attention without a mask only")
    if architecture.mlp not in MONOTONE:
        raise ValueError(f"mlp = {architecture.mlp!r}: intervals need a moment monotone in q, {', '.join(MONOTONE)}")
    if agreement not in ("theory", "unknown"):
        raise ValueError(f"agreement = {agreement!r} is unknown: choose theory or unknown")
    slack = 4 / math.sqrt(architecture.width) if slack is None else slack
    if not 0 <= slack < math.inf:
        raise ValueError(f"slack = {slack}: give a finite number, 0 or more; None means 4/sqrt(width)")
    if isinstance(moments, Moments):
        moments = MomentIntervals.of(points := moments.check(architecture.tokens), points)
    box, unit = _boxes(moments)
    votes = agreement == "theory" and architecture.scores == "random"
    reach = unit if votes else None  # of the ratios of single pairs
    table = table_for(architecture, moments.low.q) if table is None and agreement == "theory" else table
    found = [moments]
    for _ in range(architecture.layers):
        masses, copies, before = _masses(unit, architecture, agreement, slack, table), None, box[2]
        if reach is not None:
            picked = averaged(unit, reach, masses[2])
            chances = agreements(unit, reach, masses[2], architecture, table)
            copies = _copied(picked, [slackened((s, s), slack, torch.logit, torch.sigmoid)[1] for s in chances])
            pairs = _mixed(picked, overlaps(masses[2], architecture.tokens), None, architecture)
            reach = _joined(reach, pairs, before, architecture)
        attention = partial(_mixed, masses=masses, copies=copies, architecture=architecture)
        box, unit = _block(box, unit, architecture, slack, attention)
        if architecture.mlp != "none":
            before = box[2]
            box, unit = _block(
                box, unit, architecture, 2 * slack, partial(_activated, reach=reach, mlp=architecture.mlp)
            )
            if reach is not None:
                reach = _joined(reach, _activated(reach, None, architecture.mlp), before, architecture)
        found.append(_intervals(box, unit))
    return MomentIntervals.stack(found)


def almost_sure_interval(
    low: Scalar, high: Scalar, column_weights: Iterable[tuple[float | int, float | int]]
) -> tuple[Tensor, Tensor]:
    r"""Bounds of the products $z_k(X) z_{k'}(Y)$ of one coordinate at any two tokens, layer by layer, without chance.

    Formula: if all products of the inputs are in [l, u] with l >= 0 and the columns of each W_V are non-negative with
    sums in $[c_i^-, c_i^+]$, then after L layers they are in
    $[l \prod_i (c_i^-)^2,\; u \prod_i (c_i^+)^2]$.

    Args:
        low: l, >= 0, any shape.
        high: u, broadcasting with l.
        column_weights: (c-, c+) for each layer: smallest and largest column sum of its non-negative W_V.

    Returns:
        Lower and upper bounds, each (layers + 1, ...).

    How to read it: attention averages (a convex combination over tokens) and ReLU leaves non-negative values alone,
    whatever the scores, the noise or the dependence between them. With all c+ < 1 both bounds go to 0; only c- >= 1
    keeps a floor. It needs states of one sign, which a network with zero-mean weights does not have.

    Errors: `ValueError` for a negative `low`, `low` above `high`, or column sums that are negative or out of order.

    Source: *reconstructed*, with low confidence, as the strong interval statement that a digest of arXiv 2602.08287
    reports ("bounded inputs, positive cross-moments, column weights").

    >>> lower, upper = almost_sure_interval(0.5, 1.0, [(0.5, 0.75), (1.0, 1.0)])
    >>> lower.tolist(), upper.tolist()
    ([0.5, 0.125, 0.125], [1.0, 0.5625, 0.5625])
    """
    low, high = torch.broadcast_tensors(*as_tensors(low, high))
    if not bool(((low >= 0) & (low <= high)).all()):
        raise ValueError(f"low = {low.min().item():g}, high = {high.max().item():g}: products need 0 <= low <= high")
    lower, upper = [low], [high]
    for number, (least, most) in enumerate(column_weights, 1):
        if not 0 <= least <= most < math.inf:
            raise ValueError(f"column_weights of layer {number} are ({least}, {most}): give 0 <= least <= largest sum")
        lower.append(lower[-1] * least**2)
        upper.append(upper[-1] * most**2)
    return torch.stack(lower), torch.stack(upper)


def _block(
    box: Box, unit: Box, architecture: Architecture, slack: float | int, block: Callable[[Box], Box]
) -> tuple[Box, Box]:
    """One block with its norm, residual and slack: bounds of the moments, and of the ratios."""
    raw = _added(box, block(unit if architecture.norm != "none" else box), architecture)
    unit = _joined(unit, block(unit), box[2], architecture)
    unit = [met(*ends) for ends in zip(unit, _ratios(raw), strict=True)]
    unit = [slackened(ends, SHARE * slack, torch.atanh, torch.tanh) for ends in unit]
    q = slackened(raw[2], slack, torch.log, torch.exp)
    reach = SHARE * slack * q[1]
    box = []
    for ends, ratio in zip(raw, unit, strict=True):
        wide = times(ends, (torch.full_like(reach, math.exp(-slack)), torch.full_like(reach, math.exp(slack))))
        box.append(met((wide[0] - reach, wide[1] + reach), times(ratio, q)))
    return box, unit


def _joined(unit: Box, block: Box, q: Ends, architecture: Architecture) -> Box:
    """The residual on ratios alone, q the ends of the second moment before the block, which saw ratios too.

    Without a norm every map is homogeneous; with one, the residual weighs the block's output by 1/q.
    """
    weights = inverse(q) if architecture.norm != "none" else [torch.ones_like(q[0])]
    options = [_ratios(_added(unit, [(w * low, w * high) for low, high in block], architecture)) for w in weights]
    return [hull(*ends) for ends in zip(*options, strict=True)]


def _masses(
    unit: Box, architecture: Architecture, agreement: str, slack: float | int, table: AgreementTable | None
) -> list[Ends]:
    """The ends of s, t, s_a and t_a."""
    m, o, q, p = unit
    one = q[0]
    if agreement == "unknown":
        return [(0 * one, one), (0 * one, one), (one / architecture.tokens, one), (0 * one, one)]
    if architecture.scores == "random":
        eps = torch.finfo(one.dtype).eps
        apart = [(1 - end).clamp(min=eps) for end in p]
        shared = times((m[0] - o[1], m[1] - o[0]), (1 / apart[0], 1 / apart[1]))
        shared = tuple(end.clamp(-1, 1) for end in shared)
        r = torch.stack([torch.stack(ends) for ends in (times(m, shared), times(o, shared), (one, one), p)])
        spread = torch.stack([gap.sqrt() for gap in apart]) * architecture.score_scale * math.sqrt(architecture.width)
        corners = table(r[:, :, None].clamp(-1, 1), spread).flatten(1, 2)  # (masses, 2, 2, ...) -> (masses, 4, ...)
    else:  # the masses depend on p/q alone
        found = [attention_masses(Moments(m[0], o[0], one, end), architecture) for end in p]
        corners = torch.stack([torch.stack([ends.s, ends.t, ends.s_a, ends.t_a]) for ends in found], 1)
    corners = corners.clamp(0, 1)  # the table is accurate to 1e-5 only
    ends = zip(corners.amin(1), corners.amax(1), strict=True)
    return [slackened(pair, slack, torch.logit, torch.sigmoid) for pair in ends]


def _copied(picked: Box, chances: list[Tensor]) -> list[Tensor | None]:
    """Upper ends of m, o and p over q: copies at the top of the range, all else at its bottom; q is in no need."""
    m, o, q, p = picked
    same, different, one_run = (
        other[0] + s * (top[1] - other[0]) for s, top, other in zip(chances, (m, m, q), (o, o, p), strict=True)
    )
    return [same, different, None, one_run]


def _mixed(seen: Box, masses: list[Ends], copies: list[Tensor | None] | None, architecture: Architecture) -> Box:
    """Attention: ends of s m + (1 - s) o, and so on; the upper end no less than what copies may make of it.

    No n tokens have p < -q/(n - 1): q keeps at least (n s_a - 1)/(n - 1) of itself, which is not negative.
    """
    m, o, q, p = seen
    square, n = architecture.gain**2, architecture.tokens
    block = []
    pairs = ((m, o), (m, o), (q, p), (q, p))
    for kind, (between, (same, other), lifted) in enumerate(zip(masses, pairs, copies or [None] * 4, strict=True)):
        low = torch.minimum(*(other[0] + s * (same[0] - other[0]) for s in between))
        high = torch.maximum(*(other[1] + s * (same[1] - other[1]) for s in between))
        high = high if lifted is None else torch.maximum(high, lifted * q[1])
        low = torch.maximum(low, (n * between[0] - 1).clamp(min=0) / max(n - 1, 1) * q[0]) if kind == 2 else low
        block.append((square * low, square * high))
    return block


def _activated(seen: Box, reach: Box | None, mlp: str) -> Box:
    """The MLP: F at lower ends, F or its chord over the range of pairs at upper ends.

    F is convex in kappa. A lower end of m above that of q says more than |m| <= q needs.
    """
    if mlp == "linear":
        return seen
    q = seen[2]
    block = []
    for kind, ends in enumerate(seen):
        low, high = (2 * relu_moment(v, v, end.clamp(-v, v)) for end, v in zip(ends, q, strict=True))
        if reach is not None:
            near, far = (2 * relu_moment(torch.ones_like(end), torch.ones_like(end), end) for end in reach[kind])
            chord = near + share(ends[1] / q[1], reach[kind]) * (far - near)
            high = torch.maximum(high, q[1] * chord)
        block.append(q if ends is q else (low, high))
    return block


def _added(old: Box, block: Box, architecture: Architecture) -> Box:
    if architecture.residual == "none":
        return block
    share = 0.5 if architecture.residual == "scaled" else 1.0
    return [tuple(share * (x + y) for x, y in zip(*ends, strict=True)) for ends in zip(old, block, strict=True)]


def _ratios(box: Box) -> Box:
    """Ends of m/q, o/q, 1 and p/q."""
    q = box[2]
    found = [tuple(end.clamp(-1, 1) for end in times(ends, inverse(q))) for ends in box]
    return [*found[:2], (torch.ones_like(q[0]), torch.ones_like(q[1])), found[3]]


def _boxes(intervals: MomentIntervals) -> tuple[Box, Box]:
    pairs = ((intervals.low, intervals.high), (intervals.ratios_low, intervals.ratios_high))
    return tuple(list(zip(low.parts(), high.parts(), strict=True)) for low, high in pairs)


def _intervals(box: Box, unit: Box) -> MomentIntervals:
    return MomentIntervals(*(Moments(*(ends[side] for ends in part)) for part in (box, unit) for side in (0, 1)))

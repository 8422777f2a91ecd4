"""The checks of *Support Tokens, Stability Margins, and a New Foundation for Robust LLMs* (2602.22271): its theory.

Of the paper its abstract and first lines are known to us, and from a third-party port the rule that a token is its
attention mean plus noise, with the block of its Jacobian. All else is our reconstruction. So what the paper claims
holds with changes at best. Each check sets a formula beside another way to the same number: automatic differentiation,
quadrature, enumeration, counting. All in double precision, here and now.
"""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from nslab.barrier.blocks import full_jacobian, jacobian_blocks, residuals
from nslab.barrier.density import log_density
from nslab.barrier.magnet import expected_preimages, magnet_density
from nslab.barrier.process import AttentionWords, Kernel, consistency_gap, next_token_area
from nslab.barrier.stability_margins import diameter, safe_temperature
from nslab.barrier.two_tokens import Slab, slab, slab_determinant
from nslab.claims.verdicts import Verdict, settle

tensor = partial(torch.tensor, dtype=torch.float64)
randn = partial(torch.randn, dtype=torch.float64)

SLACK = 1e-9
QUADRATURE = 1e-5  # of integrands with a kink, or along a grid
SIGMA = 0.5
STRENGTHS = (0.3, 1.0, 3.0)  # factors of random score matrices
SCORES = (0.5, 1.0, 1.5, 2.0, 4.0)  # of the model on the line
SIGMAS = (0.25, 0.5, 1.0)
KAPPAS = (1.0, 3.99, 4.01, 8.0, 20.0)
LINE = ((-0.6,), (0.3,), (1.0,))  # a past on the line,
PLANE = ((0.8, 0.1), (-0.5, 0.9), (-0.4, -0.7))  # and one in the plane
TWO = ((-1.0,), (1.0,))

Density = Callable[[Tensor, Tensor, float], Tensor]
Jacobian = Callable[[Tensor, Tensor, str], Tensor]


def probabilistic_reading(density: Density = log_density) -> Verdict:
    """The next token against the law of its noise, on the line and in the plane; whole sequences against autodiff."""
    past = tensor(LINE)
    safe = 0.8 * _safe(past, tensor([[1.0]]))
    u = torch.linspace(-6, 6, 4001, dtype=torch.float64)[:, None]
    below = torch.cumulative_trapezoid(_next(density, past, u, safe), u[:, 0])
    noise = residuals(_with(past, u), safe)[1:, -1, 0]  # rises with u: so many tokens lie below u as noises below it
    law = float((below - torch.special.ndtr(noise / SIGMA)).abs().max())
    grid = torch.linspace(-4, 4, 81, dtype=torch.float64)
    turned = tensor([[0.8, 0.6], [-0.6, 0.8]])
    plane = _next(density, tensor(PLANE), torch.cartesian_prod(grid, grid), 0.8 * _safe(tensor(PLANE), turned))
    mass = float(plane.sum() * (grid[1] - grid[0]) ** 2)
    sequence, scores = _drawn(6, 3, 1.0)
    noise = residuals(sequence, scores) / SIGMA
    normal = -0.5 * noise.square().sum() - noise.numel() * math.log(SIGMA * math.sqrt(2 * math.pi))
    whole = normal + _log_volume(full_jacobian(sequence, scores))
    gap = float((density(sequence, scores, SIGMA) - whole).abs())
    beyond = float(torch.trapezoid(_next(density, past, u, 5 * safe), u[:, 0]))
    numbers = {"law": law, "mass": mass, "gap": gap, "beyond": beyond}
    evidence = (
        f"Score matrices at 0.8 of the bound under which every determinant is positive. Three past tokens on the line: "
        f"the density of the next one, summed up from the left, differs from the law of its noise by {law:.1g} at "
        f"most. Three in the plane: its mass is {mass:.6f}. A sequence of 6 tokens, any scores: the density and that "
        f"of the noise times the determinant of all derivatives differ by {gap:.1g} nats. But with scores five times "
        f"as strong the mass on the line is {beyond:.2f}, and the formula no density."
    )
    right = law < QUADRATURE and abs(mass - 1) < QUADRATURE and gap < SLACK and beyond > 1.01
    return settle(right, evidence, numbers, changed=True)


def jacobian_term(blocks: Callable[..., Tensor] = jacobian_blocks) -> Verdict:
    """The sum over blocks against all derivatives; and the term on the way to the boundary, in closed form."""
    gaps, above = [], []
    for strength in STRENGTHS:
        u, scores = _drawn(6, 3, strength)
        whole = full_jacobian(u, scores)
        gaps.append((_log_volume(whole) - _log_volume(blocks(u, scores)).sum()).abs())
        later = torch.ones(6, 6).triu(1).repeat_interleave(3, 0).repeat_interleave(3, 1)  # (token, token) to entries
        above.append((whole * later).abs().max())
    gap, upper = float(torch.stack(gaps).max()), float(torch.stack(above).max())
    middle = tensor([*TWO, (0.0,)])  # the query sees both tokens alike: the determinant is 1 - t at the score t
    near = 1 - 10.0 ** -torch.arange(1.0, 10, dtype=torch.float64)
    barrier = torch.stack([-_log_volume(blocks(middle, score.view(1, 1))).sum() for score in near])
    off = float((barrier + torch.log(1 - near)).abs().max())
    numbers = {"gap": gap, "above": upper, "off": off, "last": barrier[-1]}
    evidence = (
        f"Random sequences, {len(STRENGTHS)} strengths of the scores. The logarithm of the determinant of all "
        f"derivatives and the sum of $\\log |\\det(I - \\Sigma_i A)|$ over tokens differ by {gap:.1g}; no "
        f"derivative by a later token is larger than {upper:.1g}. A query midway between two tokens meets the boundary "
        f"at the scores $A^*$. With $A = t A^*$ the term is $\\log(1 - t)$, to {off:.1g}. Its negative is "
        f"{barrier[0]:.2f} at $t = 0.9$, {barrier[-1]:.2f} at $t = 1 - 10^{{-9}}$, and has no limit."
    )
    return settle(max(gap, upper) < SLACK and off < 1e-6, evidence, _plain(numbers), changed=True)


def _asked(u: Tensor, scores: Tensor, query: str) -> Tensor:
    return full_jacobian(u, scores, query=query)


def previous_query(jacobian: Jacobian = _asked) -> Verdict:
    """The log-determinant of all derivatives with the query of the token before, and with the own one."""
    found = {"previous": [], "own": []}
    for strength in STRENGTHS:
        u, scores = _drawn(6, 3, strength)
        for query, values in found.items():
            values.append(_log_volume(jacobian(u, scores, query)).abs())
    previous, least = float(max(found["previous"])), float(min(found["own"]))
    evidence = (
        f"Random sequences and score matrices, {len(STRENGTHS)} strengths: with the query of the token before, the "
        f"logarithm of the determinant differs from 0 by no more than {previous:.1g}; with the own query by no less "
        f"than {least:.2f}."
    )
    return settle(previous < SLACK < 1e-3 < least, evidence, {"previous": previous, "own": least})


def counts_preimages(formula: Callable[[Tensor, Tensor], Tensor] = expected_preimages) -> Verdict:
    """Areas by quadrature; and tokens counted, as changes of sign of u - tanh(a u) - noise, at quantiles of the noise.

    Near the noises at which three solutions become one, one quantile on either side may be miscounted.
    """
    a, sigma = tensor(SCORES)[:, None], tensor(SIGMAS)
    u = torch.linspace(-10, 10, 20_001, dtype=torch.float64)
    area, signed = (
        torch.trapezoid(magnet_density(u, a[..., None], sigma[:, None], signed=one), u) for one in (False, True)
    )
    gap, off = float((area - formula(a, sigma)).abs().max()), float((signed - 1).abs().max())
    many = 201
    noise = torch.special.ndtri((torch.arange(many, dtype=torch.float64) + 0.5) / many) * sigma[:, None]
    u = torch.linspace(-6, 6, 2000, dtype=torch.float64)  # an even number: 0, a solution without noise, is no node
    explained = u - torch.tanh(a * u)  # (scores, u)
    rising = explained[:, None, None] > noise[..., None]  # (scores, sigmas, noise, u)
    counted = (rising[..., 1:] != rising[..., :-1]).sum(-1).double().mean(-1)
    miss = float((counted - area).abs().max())
    numbers = {"gap": gap, "signed": off, "miss": miss, "largest": area.max(), "safe": area[:2].max()}
    evidence = (
        f"On the line with past tokens at ±1, {len(SCORES)} scores and {len(SIGMAS)} noises: the area under the "
        f"density and $1 + 2\\,\\mathrm{{erf}}(\\varepsilon_c / (\\sigma \\sqrt 2))$ differ by {gap:.1g} at most, and "
        f"with the sign of the determinant left in the area differs from 1 by {off:.1g}. Tokens counted at {many} "
        f"quantiles of the noise differ from the area by {miss:.3f}. The area is {numbers['safe']:.4f} up to $a = 1$ "
        f"and up to {numbers['largest']:.2f} beyond."
    )
    right = max(gap, off) < QUADRATURE and miss < 8 / many and numbers["largest"] > 1.5
    return settle(bool(right), evidence, _plain(numbers))


def degeneracy_boundary(formula: Callable[[Tensor, Tensor, Tensor], Slab] = slab) -> Verdict:
    """Two tokens and score matrices at given kappa: queries anywhere, where logits are equal, and about the planes."""
    generator = torch.Generator().manual_seed(0)
    first, second = randn(2, 3, generator=generator)
    queries, scores = 3 * randn(200, 3, generator=generator), randn(3, 3, generator=generator)
    delta = first - second
    gaps, edges, walls, least, wrong = [], [], [], [], 0
    for kappa in KAPPAS:
        one = scores * kappa / (delta @ scores @ delta)
        found = formula(first, second, one)
        step = found.normal / found.normal.square().sum()  # adds 1 to the difference of the two logits
        tied = queries - (queries @ found.normal)[:, None] * step

        def blocks(tokens: Tensor, one: Tensor = one) -> Tensor:
            return jacobian_blocks(_with(torch.stack([first, second]), tokens), one, rows=torch.tensor([2]))[:, 0]

        gaps.append((torch.linalg.det(blocks(queries)) - slab_determinant(queries, first, second, one)).abs().max())
        least.append(torch.linalg.det(blocks(tied)).min())
        wrong += bool(found.exists) != bool(least[-1] <= 0)
        if found.offset.isnan():
            continue
        planes = tied + found.offset * step, tied - found.offset * step
        gaps.append(((planes[0] - planes[1]).norm(dim=-1) - found.width).abs().max())
        edges.append(torch.linalg.svdvals(blocks(torch.cat(planes)))[:, -1].max())
        inside, outside = (
            torch.linalg.det(blocks(torch.cat([tied + way * found.offset * step for way in (share, -share)])))
            for share in (0.9, 1.1)
        )
        wrong += int((inside >= 0).sum() + (outside <= 0).sum())
        walls.append(-_log_volume(blocks(tied[:1] + (1 + 1e-8) * found.offset * step)))
    gap, edge, wall = float(max(gaps)), float(max(edges)), float(min(walls))
    numbers = {"gap": gap, "edge": edge, "wrong": wrong, "barrier": wall, "least_below_4": float(least[1])}
    evidence = (
        f"Two past tokens in three dimensions, score matrices with $\\kappa$ from {KAPPAS[0]:g} to {KAPPAS[-1]:g}, "
        f"{len(queries)} queries each. Determinants of the blocks differ from the formula by {gap:.1g} at most. On the "
        f"planes the smallest singular value is {edge:.1g} at most. Of the queries a tenth inside or outside of them "
        f"{wrong} have the wrong sign. At $10^{{-8}}$ of the way from a plane the barrier is {wall:.1f} or more, and "
        f"nothing limits it. At $\\kappa$ = {KAPPAS[1]:g} the least determinant is {least[1]:.4f}: there are no planes."
    )
    return settle(max(gap, edge) < SLACK and not wrong and wall > 10, evidence, numbers, changed=True)


def consistent_process(
    kernel: Callable[..., Kernel] = AttentionWords, area: Callable[[Tensor, Tensor, float], Tensor] = next_token_area
) -> Verdict:
    """Words by enumeration, with kernels that do and do not know the final length; embeddings by marginalising."""
    embedding, scores, positions = randn(3, 4, 2, generator=torch.Generator().manual_seed(0))
    weights = {"embedding": embedding[:3], "scores": 2 * scores[:2], "positions": positions}
    lengths = (1, 2, 3)
    causal, ahead, from_end = (
        max(float(consistency_gap(kernel(**weights, **switch), 3, length)) for length in lengths)
        for switch in ({}, {"causal": False}, {"from_end": True})
    )
    u, pasts = torch.linspace(-8, 8, 8001, dtype=torch.float64), tensor([TWO, ((-0.4,), (0.9,))])
    gaps, areas = [], []
    for strength in (-3.0, 0.9, 2.0, 6.0):
        scores = tensor([[strength]])
        longer = torch.stack([_with(past, u[:, None]) for past in pasts])  # (pasts, u, 3, 1)
        summed = torch.trapezoid(log_density(longer, scores, SIGMA).exp(), u)
        expected = area(pasts, scores, SIGMA)
        gaps.append((summed / log_density(pasts, scores, SIGMA).exp() - expected).abs().max())
        areas.append(summed / log_density(pasts, scores, SIGMA).exp())
    gap = float(torch.stack(gaps).max())
    safe, beyond = float((torch.stack(areas[:2]) - 1).abs().max()), float(areas[-1][0])
    numbers = {"causal": causal, "ahead": ahead, "from_end": from_end, "gap": gap, "safe": safe, "beyond": beyond}
    evidence = (
        f"Words: one attention layer over three words, all sequences of up to {lengths[-1] + 1}. The law of n words "
        f"and that of n + 1 without the last differ by {causal:.1g} at most; if the layer also looks at empty slots "
        f"ahead by up to {ahead:.3f}, and if it counts positions from the end by {from_end:.3f}. Embeddings on the "
        f"line: summed over the third token, the density of three is that of two times $Z$, to {gap:.1g}. With scores "
        f"that leave all determinants positive $Z$ differs from 1 by {safe:.1g}; it is {beyond:.2f} where they do not, "
        "and then the laws do not fit together."
    )
    right = causal < SLACK < 1e-3 < min(ahead, from_end) and max(gap, safe) < 1e-4 and beyond > 1.5
    return settle(right, evidence, numbers, changed=True)


def _drawn(length: int, width: int, strength: float) -> tuple[Tensor, Tensor]:
    """A random sequence, and a random score matrix of a strength."""
    generator = torch.Generator().manual_seed(0)
    return randn(length, width, generator=generator), strength * randn(width, width, generator=generator)


def _safe(past: Tensor, scores: Tensor) -> Tensor:
    """The scores at the bound under which every determinant is positive, whatever the next token is."""
    following = torch.cat([past, past[:1]])  # any token: what counts is what it sees
    return scores * safe_temperature(scores, diameter(following)[-1])


def _with(past: Tensor, tokens: Tensor) -> Tensor:
    """The past (i, p) before each of the tokens (m, p): (m, i + 1, p)."""
    return torch.cat([past.expand(len(tokens), -1, -1), tokens[:, None]], 1)


def _next(density: Density, past: Tensor, tokens: Tensor, scores: Tensor) -> Tensor:
    """Density of each of the tokens (m, p) after the past."""
    return (density(_with(past, tokens), scores, SIGMA) - density(past, scores, SIGMA)).exp()


def _log_volume(matrix: Tensor) -> Tensor:
    return torch.linalg.slogdet(matrix).logabsdet


def _plain(numbers: dict) -> dict[str, float]:
    return {name: float(value) for name, value in numbers.items()}

"""The checks of *Noise Stability of Transformer Models* (2602.08287), as far as functions of bits and Gaussians go.

Each check takes what it tests as an argument, so that a test can hand it a wrong formula and see the state change.
Each sets a formula beside another way to the same number: enumeration, quadrature, iteration.
"""

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from nslab import boolean as bf
from nslab import gaussian as gs
from nslab.claims.verdicts import State, Verdict, settle
from nslab.noise import Resample, paper_keep
from nslab.stability import concentration_degree, spectral_tail_bound

KINK = {"breaks": (0.0,)}
RHOS = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
SLACK = 1e-9
CLOSE = 1e-8
TAIL_TABLE = {"GPT-2": (0.003, 0.0005), "BERT": (0.04, 0.02), "RoBERTa": (0.19, 0.02), "Gemma": (0.043, 0.0157)}
"""Table 1 as a digest has it: mass at degree 15 and above, bounded by average sensitivity, by noise stability."""


def no_single_real_version(f: Callable[[Tensor], Tensor] = torch.relu) -> Verdict:
    """Two extensions of average sensitivity that agree on bits, side by side in Gaussian space, one dimension."""
    weights = gs.hermite_coefficients(f, 0, **KINK).square()
    resampled = gs.gaussian_mean(lambda x: f(x).square(), **KINK) - weights[0]  # E Var_i f: the Efron-Stein influence
    x = torch.linspace(-12, 12, 2**14 + 1, dtype=torch.float64)  # with a node on the kink, which lies at 0
    slope = torch.diff(f(x)) / torch.diff(x)
    middle = (x[1:] + x[:-1]) / 2
    density = torch.exp(-middle.square() / 2) / math.sqrt(2 * math.pi)
    gradient = (slope.square() * density).sum() * (x[1] - x[0])  # E f'**2, the slope of stability at rho = 1
    numbers = {"resampled": float(resampled), "gradient": float(gradient)}
    evidence = (
        "On bits, resampling an input (Efron–Stein) and the slope of stability at $\\rho = 1$ give the same number. "
        f"For one ReLU of a Gaussian they give {resampled:.3f} and {gradient:.3f}: versions exist, but no single one."
    )
    return settle(abs(numbers["resampled"] - numbers["gradient"]) > 1e-3, evidence, numbers, changed=True)


def blind_to_juntas(n: int = 12, spread: Tensor | None = None) -> Verdict:
    """A dictator and the normalised sum have the same average sensitivity and depend on 1 and on n inputs."""
    spread = bf.points(n).double().sum(1) / math.sqrt(n) if spread is None else spread
    tables = torch.stack([bf.dictator(n).double(), spread])
    totals, influences = bf.total_influence(tables), bf.influences(tables)
    one, many = ((row > SLACK).sum().item() for row in influences)
    numbers = {"dictator": totals[0].item(), "sum": totals[1].item(), "inputs_dictator": one, "inputs_sum": many}
    evidence = (
        f"$x_1$ and $(x_1 + \\dots + x_{{{n}}})/\\sqrt{{{n}}}$ have average sensitivity {totals[0]:.3f} and "
        f"{totals[1]:.3f}, and depend on {one} and on {many} inputs."
    )
    right = abs(numbers["dictator"] - numbers["sum"]) < SLACK and one < many
    return settle(right, evidence, numbers, changed=True)


def stability_repairs_both(n: int = 12) -> Verdict:
    """Stability has a version for reals; but it does not tell the dictator from the normalised sum either."""
    spread = bf.points(n).double().sum(1) / math.sqrt(n)
    curves = bf.stability(torch.stack([bf.dictator(n).double(), spread]), RHOS)
    gap = float((curves[0] - curves[1]).abs().max())
    if gap > SLACK:
        raise ArithmeticError(f"the counterexample fails: stabilities differ by {gap:.1e}, and should be equal")
    return Verdict(
        State.OPEN,
        "The first repair is a definition, $\\mathbb E f(X) f(Y)$ in Gaussian space. The second does not follow from "
        f"stability alone: $x_1$ and $(x_1 + \\dots + x_{{{n}}})/\\sqrt{{{n}}}$ have the same stability $\\rho$ at "
        f"every $\\rho$, and depend on 1 and on {n} inputs. Chapter 5 sets stability beside the number of influential "
        "tokens, for other pretrained models than the paper's.",
        {"gap": gap, "inputs": n},
    )


def stability_is_a_hermite_series(series: Callable[[Tensor, Tensor], Tensor] = gs.stability_from_energies) -> Verdict:
    """E[f(X) f(Y)] by quadrature in the plane against sum rho**k W_k, for a kink, a sigmoid and a wave."""
    kinks = {torch.relu: (0.0,), torch.tanh: (), lambda x: torch.sin(2 * x) + x.square() / 3: ()}
    rho = torch.tensor([-0.5, 0.0, 0.3, 0.8], dtype=torch.float64)
    gaps = []
    for f, breaks in kinks.items():
        direct = gs.gaussian_stability(f, rho, breaks=breaks, nodes=16)
        energies = gs.hermite_energies(f, 60, breaks=breaks, nodes=40)
        gaps.append((direct - series(energies, rho)).abs().max())
    gap = float(torch.stack(gaps).max())
    evidence = (
        f"For {len(kinks)} functions and {len(rho)} correlations, quadrature in the plane and the series up to "
        f"degree 60 differ by {_gap(gap)}."
    )
    return settle(gap < CLOSE, evidence, {"gap": gap})


def relu_formula(formula: Callable[[Tensor], Tensor] = gs.relu_map) -> Verdict:
    """The closed form of Theorem 5.1 against quadrature in the plane."""
    rho = torch.tensor([-0.9, -0.5, 0.0, 0.25, 0.75], dtype=torch.float64)
    gap = float((formula(rho) - gs.gaussian_stability(torch.relu, rho, nodes=16, **KINK)).abs().max())
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    zero, one = formula(ends).tolist()
    evidence = (
        f"Closed form and quadrature differ by {_gap(gap)} at {len(rho)} correlations. The ends are "
        f"$f(0) = {zero:.4f}$ and $f(1) = {one:.4f}$: not 0 and 1, because stability is an uncentred moment."
    )
    return settle(gap < CLOSE, evidence, {"gap": gap, "f0": zero, "f1": one})


def relu_energies(energies: Callable[[int], Tensor] = gs.relu_energies) -> Verdict:
    """The closed form of the ReLU's Hermite energies against their integrals, and the share of low degrees."""
    degree = 12
    closed, integrals = energies(degree), gs.hermite_energies(torch.relu, degree, **KINK)
    gap = float((closed - integrals).abs().max())
    share = closed.cumsum(0) / 0.5  # E ReLU**2 = 1/2
    evidence = (
        f"Closed form and integrals differ by {_gap(gap)} up to degree {degree}. Degrees up to 1 hold "
        f"{_percent(share[1])} of the energy, degrees up to 2 hold {_percent(share[2])}."
    )
    return settle(gap < CLOSE, evidence, {"gap": gap, "share_1": float(share[1]), "share_2": float(share[2])})


def weak_dampening(layer: Callable[[Tensor], Tensor] = gs.relu_map) -> Verdict:
    """The fixed point of the linearised recursion, 2/(3 pi), and that of the recursion itself, by iteration."""
    linear = 2 / (3 * math.pi)
    ends = []
    for start in (0.0, 1.0):
        rho = torch.tensor(start, dtype=torch.float64)
        for _ in range(60):
            rho = layer(rho)
        ends.append(float(rho))
    exact = ends[1]
    numbers = {"linear": linear, "exact": exact, "gap": abs(ends[0] - exact)}
    evidence = (
        f"The linear part $1/(2\\pi) + \\rho/4$ has the fixed point {linear:.4f}. The recursion itself, started at 0 "
        f"and at 1, ends at {exact:.4f}, {_percent(exact / linear - 1)} higher."
    )
    settled = numbers["gap"] < SLACK and 0 < exact < 1
    return settle(settled, evidence, numbers, changed=abs(exact - linear) > 1e-4)


def lemma_1(smallest: Callable[[float, float, float], int] = concentration_degree, n: int = 8) -> Verdict:
    """Lemma 1's T on balanced functions of n bits: log_{1/rho}(1 - delta/eps) as given, and with the other sign."""
    generator = torch.Generator().manual_seed(1)
    order = torch.rand(30, 2**n, generator=generator).argsort(1)
    balanced = torch.where(order < 2 ** (n - 1), 1.0, -1.0).double()
    known = [
        bf.dictator(n),
        bf.parity(n),
        bf.junta(n, (0, 1, 2), bf.majority(3)),
        bf.junta(n, range(7), bf.majority(7)),
    ]
    weights = bf.level_weights(torch.cat([torch.stack(known).double(), balanced]))  # (functions, n + 1), sums 1
    cases, as_given, corrected = 0, 0, 0
    for rho, factor in itertools.product((0.5, 0.8, 0.9, 0.97), (1.05, 1.5, 3.0)):
        delta = 1 - (rho ** torch.arange(n + 1, dtype=torch.float64) * weights).sum(1)
        for row, loss in zip(weights, delta.tolist(), strict=True):
            eps = factor * loss
            if eps >= 1:
                continue  # nothing is claimed
            cases += 1
            given = math.log(1 - loss / eps) / math.log(1 / rho)
            # mass beyond T: the reading that favours a T < 0, which then claims that the mass above 0 is small
            as_given += row[max(math.floor(given), 0) + 1 :].sum().item() > eps + SLACK
            corrected += row[smallest(loss, eps, rho) :].sum().item() > eps + SLACK
    threshold = math.log(0.05 / (0.05 - 0.01)) / math.log(1 / 0.9)
    numbers = {"cases": cases, "as_given": as_given, "corrected": corrected, "threshold": threshold}
    evidence = (
        f"Of {cases} cases with balanced functions of {n} bits the digest's sign is wrong in {as_given} and the "
        f"opposite sign in {corrected}. For $\\delta = 0.01$, $\\varepsilon = 0.05$, $\\rho = 0.9$ the corrected "
        f"threshold is {threshold:.2f}, so $T = {math.ceil(threshold)}$."
    )
    return settle(corrected == 0 and cases > 0, evidence, numbers, changed=as_given > 0)


def never_worse_than_markov(bound: Callable[[Tensor, Tensor, int], Tensor] = spectral_tail_bound) -> Verdict:
    """The infimum over rho of B_T(rho) against I/T, on functions of 10 bits; and one fixed rho that is worse."""
    n, degrees = 10, (2, 3, 4, 6)
    random = torch.where(torch.rand(40, 2**n, generator=torch.Generator().manual_seed(2)) < 0.5, 1.0, -1.0)
    tables = torch.cat([torch.stack([bf.dictator(n), bf.parity(n), bf.junta(n, range(9), bf.majority(9))]), random])
    weights = bf.level_weights(tables.double())
    near_one = 1 - torch.logspace(-6, -1, 30, dtype=torch.float64)
    rho = torch.cat([RHOS, near_one])
    influence = (weights * torch.arange(n + 1)).sum(1)
    worst = max(float((bound(weights, rho, t).amin(1) / (influence / t)).max()) for t in degrees)
    parity = bf.level_weights(bf.parity(3).double())
    fixed = float(bound(parity[None], torch.tensor([0.5], dtype=torch.float64), 4)[0, 0])
    markov = bf.total_influence(bf.parity(3)).item() / 4
    numbers = {"worst_ratio": worst, "fixed": fixed, "markov": markov}
    evidence = (
        f"Over {len(tables)} functions of {n} bits and {len(degrees)} degrees, the best bound divided by Markov's is "
        f"at most {worst:.4f}. At a fixed $\\rho$ it can be worse: parity of 3 bits, $T = 4$, $\\rho = 0.5$ gives "
        f"{fixed:.2f} against {markov:.2f}."
    )
    return settle(worst < 1 + 1e-5 and fixed > markov, evidence, numbers)


def tail_table_ceiling(table: dict[str, tuple[float, float]] | None = None, degree: int = 15) -> Verdict:
    """The degrees that a gain needs: (I/T)/B_T(rho) <= K/T when no mass lies above degree K >= T."""
    table = table or TAIL_TABLE
    for top in (15, 40, 143):
        weights = torch.rand(200, top + 1, generator=torch.Generator().manual_seed(top), dtype=torch.float64) ** 8
        weights = weights / weights.sum(1, keepdim=True)
        markov = (weights * torch.arange(top + 1)).sum(1, keepdim=True) / degree
        gain = float((markov / spectral_tail_bound(weights, RHOS, degree)).max())
        if gain > top / degree + SLACK:
            raise ArithmeticError(f"the ceiling fails: a gain of {gain:.3f} with no mass above degree {top}")
    gains = {name: by_sensitivity / by_stability for name, (by_sensitivity, by_stability) in table.items()}
    needs = {name: math.ceil(degree * gain - SLACK) for name, gain in gains.items()}
    words = ", ".join(f"{name} {gain:.1f} times (degree {needs[name]})" for name, gain in gains.items())
    return Verdict(
        State.OPEN,
        f"With one noise in both columns, a gain needs mass at a degree of at least {degree} times the gain: {words}. "
        "Either the models have such a thin tail, or the columns use different noise; no source says which.",
        {f"gain_{name}": gain for name, gain in gains.items()} | {f"degree_{name}": k for name, k in needs.items()},
    )


def friedgut_is_vacuous(bound: int = 1024, tokens: int = 256) -> Verdict:
    """A bound on the number of influential tokens that exceeds the number of tokens says nothing."""
    ours = bf.friedgut_bound(1.0, 0.1)
    evidence = (
        f"{bound:,} is {bound / tokens:g} times {tokens}, so it excludes no function of {tokens} tokens. With "
        f"the constants proved in `nslab.boolean`, $I = 1$ and $\\varepsilon = 0.1$ give {_power(ours)}."
    )
    return settle(bound >= tokens, evidence, {"bound": bound, "tokens": tokens, "ours": ours})


def faster_is_a_ratio(before: int = 4500, after: int = 3300) -> Verdict:
    """What "36 % faster" means: the ratio of the two counts less one, or the share of iterations saved?"""
    ratio, saved = before / after - 1, 1 - after / before
    evidence = (
        f"The ratio {before:,} to {after:,} is {before / after:.3f}, that is {_percent(ratio)} more progress a step; "
        f"the number of iterations falls by {_percent(saved)}."
    )
    return settle(round(ratio, 2) == 0.36, evidence, {"ratio": ratio, "saved": saved})


def keep_or_resample(keep: Callable[[float], float] = paper_keep) -> Verdict:
    """Definition 6.1's twin by enumeration: all pairs of inputs, 3 tokens long, 4 symbols."""
    rho, length, symbols = 0.25, 3, 4
    r = keep(rho)
    token = r * torch.eye(symbols, dtype=torch.float64) + (1 - r) / symbols  # P(y_i | x_i)
    pair = torch.einsum("ai,bj,ck->abcijk", token, token, token).reshape(symbols**length, -1) / symbols**length
    f = torch.rand(symbols**length, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    direct = float(f @ pair @ f)
    by_r, by_rho = (_efron_stein_stability(f, length, symbols, base) for base in (r, rho))
    resample = Resample(keep=r, vocabulary=symbols).eigenvalue(1)
    numbers = {"rho": rho, "eigenvalue": resample, "direct": direct, "with_r": by_r, "with_rho": by_rho}
    evidence = (
        f"At $\\rho = {rho}$, {symbols**length} inputs enumerated: $\\mathbb E f(X) f(Y) = {direct:.6f}$. The series "
        f"with $r = {r:.3f}$ per degree gives {by_r:.6f}; with $\\rho$ it gives {by_rho:.6f}."
    )
    return settle(abs(direct - by_r) < SLACK, evidence, numbers, changed=abs(direct - by_rho) > 1e-6)


def _efron_stein_stability(f: Tensor, length: int, symbols: int, base: float) -> float:
    """sum_S base**|S| ||f^{=S}||**2, each part by averaging coordinates away."""
    cube = f.reshape([symbols] * length)
    total = 0.0
    for size in range(length + 1):
        for kept in itertools.combinations(range(length), size):
            part = cube
            for axis in range(length):
                mean = part.mean(axis, keepdim=True).expand_as(part)
                part = part - mean if axis in kept else mean
            total += base**size * part.square().mean().item()
    return total


def _gap(gap: float) -> str:
    """Rounding differs between machines, and a page should not: below `CLOSE` only that is said."""
    return "less than $10^{-8}$" if gap < CLOSE else _power(gap)


def _percent(share: float | Tensor) -> str:
    return f"{100 * float(share):.1f} %"


def _power(value: float) -> str:
    """1.2e-10 as mathematics: the figure and its power of ten."""
    figure, power = f"{value:.1e}".split("e")
    return f"${figure} \\cdot 10^{{{int(power)}}}$"

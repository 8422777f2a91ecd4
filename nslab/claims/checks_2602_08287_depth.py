"""The checks of *Noise Stability of Transformer Models* (2602.08287) about depth: maps, intervals, trained networks.

Small networks are drawn here and now. What takes longer is read from the records of `nslab rerun random-networks` and
`nslab rerun layer-moments`; without them those claims are *open*. The paper's own recursion is not known to us, so no
claim of the paper can do better here than *holds with changes*.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nslab import gaussian as gs
from nslab import records
from nslab.claims.checks_2602_08287_models import SPELLED, dated
from nslab.claims.verdicts import Verdict, not_run, number_name, settle
from nslab.propagation import (
    Architecture,
    MomentIntervals,
    Moments,
    almost_sure_interval,
    fixed_point,
    he_distance,
    propagate,
    propagate_intervals,
    relu_step,
    simulate,
)

COVERED = 0.99  # of the networks, for an interval that holds them
LOOSE = 2  # an interval this many times as wide as the networks need is not tight
STRONG = 0.5  # noise of this correlation or less


def fates_of_depth(
    step: Callable[[Tensor, str], Tensor] = relu_step, law: Callable[[int], float] = he_distance
) -> Verdict:
    """The three recursions from many starts: where they end, how fast, and each layer against quadrature."""
    starts = torch.tensor([0.0, 0.3, 0.6, 0.9, 0.99], dtype=torch.float64)
    moment = gs.gaussian_stability(torch.relu, starts, nodes=16, breaks=(0.0,))
    floor = 1 / (2 * math.pi)
    layers = {"paper": moment, "he": 2 * moment, "centred": (moment - floor) / (0.5 - floor)}
    gap = max(float((step(starts, name) - layer).abs().max()) for name, layer in layers.items())
    ends, off = {}, {}
    for name in layers:
        depth, rho = 2000 if name == "he" else 80, starts
        for _ in range(depth):
            rho = step(rho, name)
        ends[name] = abs(rho[-1].item())
        miss = (1 - rho) / law(depth) - 1 if name == "he" else rho - fixed_point(name)
        off[name] = miss.abs().max().item()
    numbers = {"gap": gap} | {f"end_{name}": end for name, end in ends.items()}
    numbers |= {f"off_{name}": one for name, one in off.items()}
    evidence = (
        f"From {len(starts)} starts between 0 and 0.99 the digest's recursion ends at {ends['paper']:.4f}. With the "
        f"energy restored, $1 - c$ after 2,000 layers is within {off['he']:.0%} of $9\\pi^2/(2L^2)$, from every start. "
        f"With the mean removed too it ends at {ends['centred']:.4f}. One layer agrees with quadrature."
    )
    right = gap < 1e-8 and off["he"] < 0.1 and max(off["paper"], off["centred"]) < 1e-8
    return settle(right, evidence, numbers)


def attention_kills_raw_stability(gain: float = 0.7, bound: Callable[[float, int], float] | None = None) -> Verdict:
    """Raw m and the correlation with depth: random W in networks drawn here, the identity and uniform W in theory."""
    bound = bound or (lambda g, layers: g ** (2 * layers))
    shape = Architecture(tokens=16, width=128, layers=12, gain=gain)
    found = {
        "drawn": simulate(shape, 0.7, inputs=4, networks=8, generator=torch.Generator().manual_seed(0)).moments.moments
    }
    for scores in ("identity", "uniform"):
        found[scores] = propagate(Moments.inputs(0.7), Architecture(16, 128, 12, scores=scores, gain=gain))
    numbers, right = {}, []
    for name, moments in found.items():
        first, last = (moments.correlation[k].item() for k in (1, -1))
        raw = moments.m[-1].item()
        numbers |= {f"raw_{name}": raw, f"first_{name}": first, f"last_{name}": last}
        chance = 1.5 if name == "drawn" else 1 + 1e-9  # the energy of a network of width 128 strays
        right.append(raw < 0.01 * moments.m[0].item() and last > first and raw <= chance * bound(gain, 12))
    evidence = (
        f"Gain {gain:g}, 12 layers, inputs of correlation 0.7. In networks drawn with random $W$ raw stability falls "
        f"to {numbers['raw_drawn']:.1e}; the energy must fall at least to about $g^{{2L}}$ = {bound(gain, 12):.1e}. "
        f"The correlation rises from {numbers['first_drawn']:.2f} after one layer to {numbers['last_drawn']:.2f}. For "
        f"identity and uniform attention theory has {numbers['last_identity']:.2f} and {numbers['last_uniform']:.2f} "
        "at the end."
    )
    return settle(all(right), evidence, numbers, changed=True)


def stability_intervals(intervals: Callable[..., MomentIntervals] = propagate_intervals, networks: int = 8) -> Verdict:
    """Reconstructed intervals around networks drawn here, of random W without a residual: hull, versions B and C."""
    rho = torch.tensor([0.4, 0.8], dtype=torch.float64)
    start, numbers, right = Moments.inputs(rho), {}, []
    for number, residual in enumerate(("none", "scaled")):
        shape = Architecture(tokens=3, width=128, layers=4, residual=residual)  # for more, votes take seconds
        bounds = {"b": intervals(start, shape), "hull": intervals(start, shape, agreement="unknown")}
        generator = torch.Generator().manual_seed(number)
        found = simulate(shape, rho, inputs=8, networks=networks, generator=generator).moments
        for name, bound in bounds.items():
            inside = bound.contains(Moments(found.m, found.o, found.q, found.p))[:, 1:]  # (networks, layers, rho)
            numbers[f"covered_{name}_{residual}"] = inside.flatten(1).all(1).double().mean().item()
            numbers[f"width_{name}_{residual}"] = bound.width[-1].median().item()
            right.append(numbers[f"covered_{name}_{residual}"] >= COVERED)
    numbers["outside_c"] = _outside_almost_sure()
    right.append(numbers["outside_c"] == 0)
    evidence = (
        f"Of {networks} networks drawn here with random $W$, three tokens, width 128 and no residual, version B holds "
        f"{numbers['covered_b_none']:.0%} and the hull {numbers['covered_hull_none']:.0%}; with a residual "
        f"{numbers['covered_b_scaled']:.0%} and {numbers['covered_hull_scaled']:.0%}. After four layers version B is "
        f"{numbers['width_b_none']:.2f} wide, with a residual {numbers['width_b_scaled']:.2f}. With inputs and weights "
        "that are not negative no product of two runs leaves the almost-sure interval."
    )
    return settle(all(right), evidence, numbers, changed=True)


def _outside_almost_sure(layers: int = 4) -> int:
    """Products of coordinates, over all token pairs of two runs, outside the almost-sure interval: a count."""
    generator = torch.Generator().manual_seed(5)
    draw = {"generator": generator, "dtype": torch.float64}
    runs = 0.5 + 0.5 * torch.rand(2, 6, 16, **draw)  # two unrelated runs, 6 tokens, 16 coordinates
    sums, low, high = [], 0.25, 1.0
    states = [runs]
    for _ in range(layers):
        values = torch.rand(16, 16, **draw) * 0.12
        sums.append((values.sum(0).min().item(), values.sum(0).max().item()))
        weights = torch.randn(2, 6, 6, **draw).softmax(-1)
        states.append(torch.relu(weights @ states[-1] @ values))
    bounds = almost_sure_interval(low, high, sums)
    count = 0
    for state, least, most in zip(states, *bounds, strict=True):
        products = state[0][:, None] * state[1][None]
        count += int(((products < least - 1e-12) | (products > most + 1e-12)).sum())
    return count


@dataclass(frozen=True)
class Shape:
    """Random networks of one shape and width, as a record has them.

    Attributes:
        covered: the share of networks inside version B, every moment at every layer.
        width: of version B's interval of the correlation, (layers, rho).
        hull: of the hull's.
        spread: standard deviation of the correlation from network to network, (layers, rho).
    """

    covered: float
    width: np.ndarray
    hull: np.ndarray
    spread: np.ndarray


def read_shapes(root: str | None = None) -> tuple[dict[str, Shape], str, int]:
    """Shapes with a residual and with bounds, by "setting/width"; the record in words; networks of each."""
    record = records.strongest("random-networks", root=root)
    if record is None:
        return {}, "", 0
    networks, found = record.config["seeds"], {}
    for name, cell in record.result["cells"].items():
        if "theory" in cell and name.split("/")[0] in ("residual", "pre-norm", "soft pre-norm"):
            series = {key: record.series(f"{name}/{key}")[1][0][:, 1:].astype(float) for key in _ENDS}
            theory, hull = (series[f"{kind}_high"][4] - series[f"{kind}_low"][4] for kind in ("theory", "hull"))
            spread = series["stderr"][1] * math.sqrt(networks)
            found[name] = Shape(cell["theory"]["covered"], theory, hull, spread)
    return found, dated(record), networks


_ENDS = ("theory_low", "theory_high", "hull_low", "hull_high", "stderr")


def interval_tightness(shapes: Mapping[str, Shape] | None = None, told: str = "given", networks: int = 0) -> Verdict:
    """Coverage of version B, and its width over four standard deviations of the networks, after the last layer."""
    if shapes is None:
        shapes, told, networks = read_shapes()
    if not shapes:
        return not_run("random-networks")
    numbers, words, right = {}, [], []
    for name, one in shapes.items():
        ratio = np.median(one.width / (4 * one.spread), axis=-1)
        wide = np.median(one.hull / (4 * one.spread), axis=-1)
        numbers |= {
            f"covered_{number_name(name)}": one.covered,
            f"first_{number_name(name)}": float(ratio[0]),
            f"last_{number_name(name)}": float(ratio[-1]),
        }
        words.append(f"{name.replace('/', ', width ')}: {one.covered:.1%}, {ratio[0]:.1f} and {ratio[-1]:.1f} times")
        right.append(one.covered >= COVERED and ratio[-1] >= LOOSE and wide[0] > ratio[0])
    evidence = (
        f"Networks held, and the interval's width over four standard deviations of {networks} networks, after the "
        f"first and the last layer, medians over $\\rho$. {'; '.join(words)} ({told})."
    )
    return settle(all(right), evidence, numbers)


@dataclass(frozen=True)
class Trained:
    """One trained model: correlations by layer and noise, without the clean run, (layers + 1, rho) and (layers, rho).

    Attributes:
        rho: correlations of the embeddings.
        measured: m/q of the stream.
        centred: (m - o)/(q - p) of the stream.
        start: m/q predicted from the embeddings.
        ahead: m/q predicted one layer ahead, (layers, rho).
        block: (m - o)/(q - p) of what attention reads and of what it adds, and of theory for that, (3, layers, rho).
        source: which record.
    """

    rho: np.ndarray
    measured: np.ndarray
    centred: np.ndarray
    start: np.ndarray
    ahead: np.ndarray
    block: np.ndarray
    source: str


def read_trained(root: str | None = None) -> dict[str, Trained]:
    """Every model of the records of `layer-moments`, each from the strongest record that holds it."""
    found = {}
    for record in records.find("layer-moments", root=root):
        rho = np.array(record.config["rho"])
        noisy = rho < 1
        for name in record.result["models"]:
            if name not in found:
                stream, start, ahead, *block = (
                    record.series(f"{name}/{key}")[1][0].astype(float)[:4, ..., noisy]
                    for key in ("stream", "start", "ahead", *(f"attention_{end}" for end in _BLOCK))
                )
                centred, *block = ((m - o) / (q - p) for m, o, q, p in (stream, *block))
                measured, start, ahead = (part[0] / part[2] for part in (stream, start, ahead))
                found[name] = Trained(rho[noisy], measured, centred, start, ahead, np.stack(block), dated(record))
    return found


_BLOCK = ("input", "output", "ahead")


def trained_networks(models: Mapping[str, Trained] | None = None) -> Verdict:
    """The recursion with measured gains and masses: its errors, beside that of the guess that nothing changes."""
    models = read_trained() if models is None else models
    if not models:
        return not_run("layer-moments")
    numbers, words, right = {}, [], []
    for name, one in models.items():
        start = np.abs(one.start - one.measured)[1:].mean()
        kept = np.abs(one.measured[:1] - one.measured[1:]).mean()
        read, added, theory = one.block
        block, copied = np.abs(theory - added).mean(), np.abs(read - added).mean()
        ahead = np.abs(one.ahead - one.measured[1:]).mean()
        still = np.abs(one.measured[1:] - one.measured[:-1]).mean()
        strong = one.rho <= STRONG
        fall = (one.centred[0] - one.centred[-1])[strong]
        numbers |= {
            f"start_{number_name(name)}": start,
            f"ahead_{number_name(name)}": ahead,
            f"still_{number_name(name)}": still,
            f"kept_{number_name(name)}": kept,
            f"block_{number_name(name)}": block,
            f"copied_{number_name(name)}": copied,
            f"least_fall_{number_name(name)}": fall.min(),
        }
        words.append(
            f"{SPELLED.get(name, name)}: {ahead:.3f} and {still:.3f}, {start:.3f} and {kept:.3f}, "
            f"{block:.3f} and {copied:.3f}"
        )
        right.append(ahead > still / 2 and start > kept and block < copied and fall.min() > 0)
    sources = "; ".join(sorted({one.source for one in models.values()}))
    evidence = (
        "Mean error over layers and noise, of theory and of the guess that nothing changes: $m/q$ one layer ahead, "
        "$m/q$ from the embeddings on, and the centred correlation after an attention block with measured input. "
        f"{'; '.join(words)}. At $\\rho \\le 0.5$ the centred correlation of the stream is "
        f"lower after the last layer than before the first, in every model ({sources})."
    )
    numbers = {name: float(value) for name, value in numbers.items()}
    return settle(all(right), evidence, numbers)

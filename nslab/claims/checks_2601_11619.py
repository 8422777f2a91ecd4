"""The checks of *NoiseFormer* (2601.11619) that are arithmetic or proof.

Of the paper its abstract and the start of its introduction are known to us, and from a digest the form of the score,
two versions, the loss and some numbers. All else is our reading, so what the paper claims holds with changes at best.
Each check sets a formula beside another way to the same number, here and now.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from nslab.attention.kl import gaussian_kl
from nslab.attention.preferences import can_be_symmetric, mutual_preference
from nslab.attention.settings import VARIANTS
from nslab.attention.symmetric import SymmetricAttention
from nslab.claims.noiseformer_records import timed_steps, variant_of
from nslab.claims.training_records import numbered
from nslab.claims.verdicts import Verdict, not_run, settle
from nslab.training.noise_sensitivity import stationary_mean, stationary_sigma
from nslab.transformer.accounting import GPT2, added_parameters, cache_bytes, noise_bytes, parameter_count
from nslab.transformer.noiseformer import network

MINUTE = 0.05  # of the parameters that tying saves,
SLOWER = 1.1  # and of a standard step: "minute" in numbers of ours
CLAIMED, ABOUT = 5.77, 0.1  # percent, and points around them
FAMILIES = ("scalar", "key", "relative", "amortised")
BATCH = 12  # sequences at once in nanoGPT's recipe
ROUNDING = 1e-10
SEEN = 1e-3  # a change that is no rounding
BETAS, CURVATURES, SLOPES = (1e-4, 1e-2, 1.0), (0.0, 1e-3, 0.1, 10.0), (-0.5, 0.0, 0.2)

randn = partial(torch.randn, dtype=torch.float64)
tensor = partial(torch.tensor, dtype=torch.float64)


def useless_mean(attention: Callable[..., SymmetricAttention] = SymmetricAttention) -> Verdict:
    """One layer with a mean of its noise set at random, and without: outputs, with drawn noise too, and gradients.

    It holds if for the constant families all stay the same and no gradient is left, and if for the others they do not.
    """
    width, heads, length = 12, 3, 7
    generator = torch.Generator().manual_seed(0)
    x, wanted = randn(2, 2, length, width, generator=generator)
    told = {}
    for family in FAMILIES:
        layer = attention(width, heads, causal=True, scores=VARIANTS[f"v2-{family}"], context=length).double().eval()
        for weight in layer.parameters():
            weight.data.normal_(0, 0.3, generator=generator)
        moved = [part for name, part in layer.noise.named_parameters() if name in ("mean", "up")]
        outputs = {}
        for kept in (1, 0):
            for part in moved:
                part.data *= kept
            for mode in ("mean", "sample"):
                layer.mode, layer.generator = mode, torch.Generator().manual_seed(1)
                outputs[mode, kept] = layer(x)
            if kept:
                slopes = torch.autograd.grad((outputs["mean", 1] * wanted).sum(), moved)
        change = max(float((outputs[mode, 1] - outputs[mode, 0]).detach().abs().max()) for mode in ("mean", "sample"))
        told[family] = change, max(float(slope.abs().max()) for slope in slopes)
    constant, seen = ([one for name in names for one in told[name]] for names in (FAMILIES[:2], FAMILIES[2:]))
    evidence = (
        f"One layer with {heads} heads and random weights. A random mean that is the same for all keys, on the scores "
        f"or on the keys, changes the outputs by {max(constant[::2]):.1g} at most, with the noise drawn or at its "
        f"mean; the largest slope of a loss in it is {max(constant[1::2]):.1g}. With a mean by distance or by the "
        f"content of the key the outputs change by {min(seen[::2]):.2f} or more, and there are slopes of "
        f"{min(seen[1::2]):.2f} or more."
    )
    numbers = {"change": max(constant[::2]), "slope": max(constant[1::2]), "seen": min(seen)}
    return settle(max(constant) < ROUNDING and min(seen) > SEEN, evidence, numbers)


def memory(
    rows: Sequence[Mapping] | None = None, told: str = "given", *, added: Callable[..., int] = added_parameters
) -> Verdict:
    """What the noise adds beside what tying saves, at GPT-2's base shape; and recorded steps with noise on the keys.

    Args:
        rows: of a record of the benchmarks.
        told: where they are from.
        added: parameters that a layer has beyond plain symmetric attention.
    """
    if rows is None:
        found = timed_steps()
        if found is None:
            return not_run("the benchmark `noiseformer_steps`")
        rows, told = found
    saved = parameter_count(GPT2) - parameter_count(GPT2, VARIANTS["symmetric"])
    names = [f"{version}-{family}" for version, family in itertools.product(("v1", "v2"), FAMILIES)]
    share = {name: GPT2.layers * added(GPT2, VARIANTS[name]) / saved for name in names}
    worst = max(share, key=share.__getitem__)
    ratio = {variant_of(row): row["ratio"] for row in rows}
    keys = {name: one for name, one in ratio.items() if VARIANTS[name].noise and VARIANTS[name].noise.space == "key"}
    drawn = {name: GPT2.layers * noise_bytes(GPT2, VARIANTS[name], BATCH, GPT2.context) / 1e6 for name in names}
    cache = cache_bytes(GPT2, VARIANTS["symmetric"], length=GPT2.context) / cache_bytes(GPT2, length=GPT2.context)
    steps = ", ".join(f"{one:.2f} (`{name}`)" for name, one in ratio.items())
    evidence = (
        f"At GPT-2's base shape tying saves {saved:,} parameters, {4 * saved / 1e6:.1f} MB. Of these the noise takes "
        f"back {100 * min(share.values()):.2g} % to {100 * share[worst]:.1f} % (`{worst}`). A training step takes "
        f"{steps} times as long as a standard one ({told}). But the cache of generation is {cache:.2f} times as large. "
        f"And in training with {BATCH} sequences at once the numbers drawn in all layers, which are kept for the way "
        f"back, take {drawn['v1-key']:.0f} MB (shared noise on the keys) to {drawn['v2-relative']:,.0f} MB (noise of "
        "each head on the scores): more than is saved in weights."
    )
    numbers = {"saved": saved, "share": share[worst], "cache": cache, "least_drawn": min(drawn.values())}
    numbers |= numbered(**{f"ratio_{name}": one for name, one in ratio.items()})
    right = share[worst] <= MINUTE and bool(keys) and max(keys.values()) <= SLOWER
    return settle(right, evidence, numbers, changed=True)


def parameters(count: Callable[..., int] = parameter_count) -> Verdict:
    """Shares that tying saves of GPT-2's base shape: counted alike on both sides, and with biases in the base alone.

    It holds if no share counted alike is more than a tenth of a point from the claimed one.

    Args:
        count: parameters of a network by its shape and scores; held against small networks that are built.
    """
    shapes = {bias: replace(GPT2, bias=bias) for bias in (True, False)}
    tied, off = VARIANTS["symmetric"], 0
    for shape, scores in itertools.product(shapes.values(), (None, tied)):
        small = replace(shape, vocabulary=11, context=7, width=12, layers=2, heads=3)
        off += count(small, scores) != sum(weight.numel() for weight in network(small, scores).parameters())
    alike = {}
    for bias, positions in itertools.product((True, False), (True, False)):
        base, new = (count(shapes[bias], scores, positions=positions) for scores in (None, tied))
        alike[bias, positions] = 100 * (base - new) / base
    base, new = count(shapes[True]), count(shapes[False], tied)
    mixed = 100 * (base - new) / base
    low, high = min(alike.values()), max(alike.values())
    evidence = (
        f"GPT-2's base shape, {count(GPT2):,} parameters with biases. Tying queries and keys saves {low:.2f} % to "
        f"{high:.2f} % of the base, with biases in both or in neither, with the table of positions or without. With "
        f"biases in the base alone it is {mixed:.2f} %. Where the noise comes on top the share is smaller still."
    )
    numbers = {"low": low, "high": high, "mixed": mixed, "off": off}
    right = not off and max(abs(one - CLAIMED) for one in alike.values()) < ABOUT and round(mixed, 2) == CLAIMED
    return settle(right, evidence, numbers, changed=True)


def symmetric_limits(
    possible: Callable[..., Tensor] = can_be_symmetric, mutual: Callable[[Tensor], Tensor] = mutual_preference
) -> Verdict:
    """Winners of all orders of symmetric scores; and random queries, pair by pair, with and without coefficients.

    Args:
        possible: whether a symmetric score can have a pattern of winners; held against all that orders give.
        mutual: how far two tokens prefer each other to themselves.
    """
    wrong, counts = 0, {}
    for tokens in (3, 4):
        ends = torch.triu_indices(tokens, tokens, 1)
        orders = torch.tensor(list(itertools.permutations(range(ends.shape[1]))), dtype=torch.float64)
        scores = torch.full((len(orders), tokens, tokens), -torch.inf, dtype=torch.float64)
        scores[:, ends[0], ends[1]] = scores[:, ends[1], ends[0]] = orders
        found = {tuple(pattern) for pattern in scores.argmax(-1).tolist()}
        others = [[k for k in range(tokens) if k != row] for row in range(tokens)]
        every = list(itertools.product(*others))
        told = possible(torch.tensor(every), tied=False).tolist()
        wrong += sum(one != (pattern in found) for one, pattern in zip(told, every, strict=True))
        counts[tokens] = len(found), len(every)
    generator = torch.Generator().manual_seed(0)
    queries, matrices = randn(20_000, 2, 4, generator=generator), randn(20_000, 4, 4, generator=generator)
    tied, free = (mutual(scores)[:, 0, 1] for scores in (queries @ queries.mT, queries @ matrices @ queries.mT))
    apart = (queries[:, 0] - queries[:, 1]).square().sum(-1)
    slack = float((tied + apart / 2).max())
    both = int((tied > 0).sum()), float((free > 0).double().mean())
    evidence = (
        f"All orders of the scores of three tokens: {counts[3][0]} of {counts[3][1]} patterns of winners occur, the "
        f"two circles do not. Of four tokens it is {counts[4][0]} of {counts[4][1]}. Of {len(tied):,} random pairs of "
        f"queries {both[0]} prefer each other to themselves where the score is their product, and "
        f"{100 * both[1]:.0f} % with a random matrix between them."
    )
    numbers = {"three": counts[3][0], "four": counts[4][0], "wrong": wrong, "mutual": both[0], "free": both[1]}
    right = not wrong and counts[3] == (6, 8) and not both[0] and slack < ROUNDING and both[1] > SEEN
    return settle(right, evidence, numbers)


def sensitivity_meter(
    sigma: Callable[..., Tensor] = stationary_sigma, mean: Callable[..., Tensor] = stationary_mean
) -> Verdict:
    r"""The stationary noise of quadratic losses against the slope and the curvature of loss and divergence there.

    The loss is $g n + h n^2 / 2$ with $n \sim N(\mu, \sigma^2)$, in the mean: quadrature in the place of a formula.
    """
    beta, curvature, slope = torch.cartesian_prod(*(tensor(one) for one in (BETAS, CURVATURES, SLOPES))).T
    at = mean(beta, slope, curvature), sigma(beta, curvature).log()

    def loss(at_mean: Tensor, log_sigma: Tensor) -> Tensor:
        nodes = tensor([-(3**0.5), 0.0, 3**0.5])  # with weights 1/6, 2/3 and 1/6 exact up to the fifth power
        noise = at_mean[..., None] + log_sigma.exp()[..., None] * nodes
        told = slope[..., None] * noise + curvature[..., None] * noise.square() / 2
        return told @ tensor([1 / 6, 2 / 3, 1 / 6]) + beta * gaussian_kl(at_mean, log_sigma)

    point = [one.detach().requires_grad_() for one in at]
    slopes = torch.autograd.grad(loss(*point).sum(), point, create_graph=True)
    off = max(float((one / beta).detach().abs().max()) for one in slopes)
    bends = [
        torch.autograd.grad(one.sum(), where, retain_graph=True)[0] for one, where in zip(slopes, point, strict=True)
    ]
    least = min(float((one / beta).min()) for one in bends)
    read = beta * (torch.exp(-2 * at[1]) - 1)  # the curvature, read off sigma
    missed = float(((read - curvature).abs() / (beta + curvature)).max())
    quiet, loud = float(at[1].exp().min()), float(at[1].exp().max())
    evidence = (
        f"Quadratic losses with {len(BETAS)} weights, {len(CURVATURES)} curvatures and {len(SLOPES)} slopes: at the "
        f"noise of the formula the slope of the whole loss is {off:.1g} of the weight at most, and it bends upwards "
        f"there. The deviations go from {quiet:.4f} to {loud:.2f}, the prior's, where the curvature is 0. The "
        f"curvatures read off them are right to {missed:.1g}."
    )
    numbers = {"off": off, "least": least, "missed": missed, "quiet": quiet, "loud": loud}
    return settle(off < ROUNDING and least > 0 and missed < ROUNDING and loud > 0.99, evidence, numbers)

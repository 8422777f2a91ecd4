"""The layer explorer: four moments through a random Transformer, layer by layer, beside a network that is drawn.

`compute` is the Python twin of ``assets/layer-explorer.js``. It takes its numbers from :mod:`nslab.propagation`, with
agreement tables cut short: of the Chebyshev coefficients those stay that matter at 1e-7, in whole numbers of 1e-8.
They keep G_n to 2e-5 for every n from 1 to 16, which the causal mask needs, in 35 kB. *Ours*, as is the figure.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache

import torch

from nslab.explore.layer_networks import causal_recursion, random_network
from nslab.explore.modules import Module, module
from nslab.propagation.agreement_table import AgreementTable
from nslab.propagation.architecture import Architecture
from nslab.propagation.intervals import MomentIntervals, propagate_intervals
from nslab.propagation.moments import Moments
from nslab.propagation.recursion import attention_masses, propagate

__all__ = ["PRESETS", "compute", "layer_explorer"]

TOKENS = (8, 16)
WIDTHS = (64, 4096)
MOST_LAYERS = 24
NORMS = ("none", "rms")  # in the limit of infinite width "layer" is "rms"
MLPS = ("relu", "none")
LEAST = 1e-7  # of a coefficient that is kept
DIGITS = 8
USUAL = 1 / math.sqrt(128)

PRESETS: dict[str, dict] = {
    "the paper’s setting (g < 1)": {"gain": 0.8},
    "residual": {"residual": "scaled"},
    "a usual initialisation": {"score_scale": USUAL},
    "a real block (pre-norm)": {"score_scale": USUAL, "residual": "pre-norm", "norm": "rms"},
}
BASE = {
    "rho": 0.7,
    "depth": 12,
    "gain": 1.0,
    "width": 128,
    "tokens": 16,
    "scores": "random",
    "score_scale": 1.0,
    "residual": "none",
    "norm": "none",
    "mlp": "relu",
    "causal": False,
}
DISCOVERY = (
    "In the paper’s setting plot m: after six layers a twentieth of the raw stability is left. Now plot m/q: it falls "
    "in the first layer, where the votes of the two runs part, and then rises beyond where it began. The signal dies, "
    "not the agreement of the runs. The token correlation p/q says why. Without a residual the tokens become one, "
    "0.84 after three layers and 0.97 after four, and among equals no vote matters. With a residual it is 0.50 after "
    "three. At a usual initialisation attention is nearly uniform, and the tokens are one after two. Then draw "
    "networks: a real block stays near the recursion; hard votes without a residual scatter widely about it."
)


def compute(state: dict) -> dict:
    """Every number of the figure.

    Args:
        state: ``rho``, ``depth``, ``gain``, ``width``, ``tokens``, ``scores``, ``score_scale``, ``residual``, ``norm``,
            ``mlp``, ``causal`` (as in `Architecture`); ``networks``, the seeds of random networks to draw; ``tables``
            of n = 1 to 16 tokens, rows of coefficients.

    Returns:
        Before the first layer and after each: ``m``, ``o``, ``q``, ``p``, ``correlation`` m/q and
        ``token_correlation`` p/q. For each layer: the agreement masses ``s``, ``t``, ``s_a``, ``t_a`` of its attention.
        ``intervals`` (version B) and ``hull``: lower and upper ends of the six, as far as there are any, or None under
        a mask. ``networks``: for each seed the measured six and the ``width`` it was drawn at.
    """
    shape = Architecture(layers=state["depth"], **{key: state[key] for key in BASE if key not in ("rho", "depth")})
    start = Moments.inputs(state["rho"])
    tables = [AgreementTable(n, _dense(rows)) for n, rows in enumerate(state["tables"][: shape.tokens], 1)]
    table = tables[-1] if shape.scores == "random" else None
    if shape.causal:
        states, masses = causal_recursion(state["rho"], shape, tables)
    else:
        moments = propagate(start, shape, table=table)
        found = attention_masses(moments[:-1], shape, table=table)
        states, masses = moments.parts(), (found.s, found.t, found.s_a, found.t_a)
    bounds = dict.fromkeys(("intervals", "hull"))
    if not shape.causal:
        for name, agreement in (("intervals", "theory"), ("hull", "unknown")):
            bounds[name] = _ends(propagate_intervals(start, shape, agreement=agreement, table=table))
    drawn = [random_network(state["rho"], shape, seed) for seed in state["networks"]]
    return {
        **_six(states),
        **{name: mass.tolist() for name, mass in zip(("s", "t", "s_a", "t_a"), masses, strict=True)},
        **bounds,
        "networks": [{"width": width, **_six(found)} for found, width in drawn],
    }


def layer_explorer(
    *,
    preset: str = "the paper’s setting (g < 1)",
    quantity: str = "correlation",
    label: str = "Layer explorer: four moments through a random Transformer",
    alt: str = "",
    discovery: str = DISCOVERY,
    **changes,
) -> Module:
    """A figure in which a reader builds a random Transformer and sees what the noise leaves, layer by layer.

    Args:
        preset: where the figure starts, one of `PRESETS`.
        quantity: what it plots at the start: "correlation", "m", "o", "q", "p" or "token_correlation".
        label: accessible name.
        alt: the figure in a sentence; by default its first numbers.
        discovery: what to find out.
        **changes: fields that differ from the preset: rho, depth, gain, width, tokens, scores, score_scale, residual,
            norm, mlp, causal.

    Raises:
        ValueError: for an unknown name, or a value that the figure's controls do not reach.

    >>> figure = layer_explorer(rho=0.5, depth=2, width=512)
    >>> [round(value, 2) for value in figure.twin(figure.state)["correlation"]]
    [0.5, 0.35, 0.52]
    """
    if preset not in PRESETS:
        raise ValueError(f"preset = {preset!r} is unknown: choose from {', '.join(PRESETS)}")
    if unknown := set(changes) - set(BASE):
        raise ValueError(f"{', '.join(sorted(unknown))}: unknown; choose from {', '.join(BASE)}")
    quantities = ("correlation", "m", "o", "q", "p", "token_correlation")
    if quantity not in quantities:
        raise ValueError(f"quantity = {quantity!r} is unknown: choose from {', '.join(quantities)}")
    settings = {name: {**BASE, **changed} for name, changed in PRESETS.items()}
    setting = {**settings[preset], **changes}
    _check(setting)
    state = {**setting, "networks": [], "tables": short_tables()}
    first = compute(state)
    last = {name: first[name][-1] for name in ("m", "correlation", "token_correlation")}
    alt = alt or (
        f"Over {setting['depth']} layers the raw moment m goes from {first['m'][0]:.3g} to {last['m']:.3g}, the "
        f"correlation m/q to {last['correlation']:.3g}, the token correlation p/q to {last['token_correlation']:.3g}."
    )
    return module(
        ["seeded-gaussians.js", "layer-recursion.js", "layer-intervals.js", "layer-networks.js", "layer-explorer.js"],
        twin=compute,
        state={**state, "quantity": quantity, "presets": settings},
        cases=[state, *_cases(state["tables"])],
        label=label,
        alt=alt,
        discovery=discovery,
    )


@lru_cache(maxsize=1)
def short_tables() -> list[list[list[int]]]:
    """Coefficients of G_n in whole numbers of 1e-8, for n = 1 to 16: rows (degrees in the spread), each cut short."""
    coefficients = AgreementTable.of(range(1, max(TOKENS) + 1)).coefficients
    tables = []
    for table in coefficients:
        rows = [row[: 1 + max((row.abs() >= LEAST).nonzero().flatten().tolist(), default=-1)] for row in table]
        while not len(rows[-1]):
            rows.pop()
        tables.append([[round(value * 10**DIGITS) for value in row.tolist()] for row in rows])
    return tables


def _dense(rows: Sequence[Sequence[int]]) -> torch.Tensor:
    parts = [torch.tensor(row, dtype=torch.float64) / 10**DIGITS for row in rows]
    return torch.nn.utils.rnn.pad_sequence(parts, batch_first=True)


def _six(parts: Iterable[torch.Tensor]) -> dict[str, list[float]]:
    m, o, q, p = parts
    six = {"m": m, "o": o, "q": q, "p": p, "correlation": m / q, "token_correlation": p / q}
    return {name: value.tolist() for name, value in six.items()}


def _ends(found: MomentIntervals) -> dict[str, list[list[float]]]:
    """Name to [lower ends, upper ends]."""
    sides = [
        {**dict(zip("moqp", raw.parts(), strict=True)), "correlation": unit.m, "token_correlation": unit.p}
        for raw, unit in ((found.low, found.ratios_low), (found.high, found.ratios_high))
    ]
    return {name: [side[name].tolist() for side in sides] for name in sides[0]}


def _check(setting: dict) -> None:
    """Refuse what the controls cannot show; `Architecture` refuses the rest."""
    reach = {"rho": (0, 1), "depth": (1, MOST_LAYERS), "gain": (0.2, 2), "width": WIDTHS, "score_scale": (0, 1)}
    for name, (low, high) in reach.items():
        if not low <= setting[name] <= high:
            raise ValueError(f"{name} = {setting[name]}: the figure goes from {low} to {high}")
    for name, known in {"tokens": TOKENS, "norm": NORMS, "mlp": MLPS}.items():
        if setting[name] not in known:
            raise ValueError(f"{name} = {setting[name]!r}: the figure has {', '.join(map(str, known))}")
    if math.log2(setting["width"]) % 1:
        raise ValueError(f"width = {setting['width']}: the figure has powers of two")
    usual = [factor / math.sqrt(setting["width"]) for factor in (1, 4)]
    if not any(math.isclose(setting["score_scale"], scale) for scale in (1, *usual)):
        raise ValueError(f"score_scale = {setting['score_scale']}: the figure has 1, 4/sqrt(width) and 1/sqrt(width)")


def _cases(tables: list) -> list[dict]:
    """States on which page and twin are compared: every choice of every control, in changing company.

    Rounding keeps two cases out. A hard vote magnifies it, so that the networks drawn here are shallow and narrow. And
    once all tokens are equal, which takes 10 layers without a residual, the correlation of their scores is 0/0: masses
    then agree to 1e-8 only, and moments, which no longer feel them, to 1e-12 as ever.
    """
    cases = [{**BASE, **changed} for changed in PRESETS.values()]
    blocks = [("none", "none"), ("none", "rms"), ("scaled", "none"), ("scaled", "rms"), ("pre-norm", "rms")]
    for k, (scores, (residual, norm), mlp, causal) in enumerate(
        (scores, block, mlp, causal)
        for scores in ("random", "identity", "uniform")
        for block in blocks
        for mlp in MLPS
        for causal in (False, True)
    ):
        width = (64, 128, 512, 4096)[k % 4]
        cases.append(
            {
                "rho": (0.7, 0.0, 1.0, 0.99, 0.31)[k % 5],
                "depth": (3, 6, 8 if residual == "none" else 24, 1)[k // 2 % 4],
                "gain": (1.0, 0.8, 2.0)[k % 3],
                "width": width,
                "tokens": TOKENS[k // 3 % 2],
                "scores": scores,
                "score_scale": (1.0, 1 / math.sqrt(width), 4 / math.sqrt(width))[k % 3],
                "residual": residual,
                "norm": norm,
                "mlp": mlp,
                "causal": causal,
            }
        )
    networks = [
        {**case, "depth": 2, "width": (64, 256)[k % 2], "networks": [k]} for k, case in enumerate(cases) if k % 5 == 4
    ]
    return [{"networks": [], **case, "tables": tables} for case in [*cases, *networks]]

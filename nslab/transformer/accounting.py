r"""What symmetric attention saves and what learned noise adds: parameters, memory, cache and work, in whole numbers.

    from nslab.transformer.accounting import GPT2, parameter_count
    parameter_count(GPT2)                                              # 124439808

All of it is arithmetic on the shape, without a network. The tests hold every number against a network that is really
built. `parameter_puzzle` plays with these counts.
"""

from dataclasses import replace

from nslab.attention.settings import ScoreSettings
from nslab.transformer.shape import TransformerConfig

GPT2 = TransformerConfig(vocabulary=50257, context=1024, width=768, layers=12, heads=12)
"""GPT-2 base: 124,439,808 parameters with biases. nanoGPT builds the same shape."""


def parameter_count(config: TransformerConfig, scores: ScoreSettings | None = None, *, positions: bool = True) -> int:
    """Parameters of a network of this shape.

    Args:
        config: the shape.
        scores: its symmetric attention, with the noise; None for standard attention.
        positions: whether the table of learned positions counts. What nanoGPT prints leaves it out.

    Returns:
        A whole number, equal to `sum(p.numel() for p in network.parameters())`.

    >>> from nslab.attention.settings import VARIANTS
    >>> parameter_count(GPT2), parameter_count(GPT2, VARIANTS["symmetric"])
    (124439808, 117352704)
    """
    width, hidden = config.width, config.hidden_width
    maps = 3 if scores is None else 2  # query, key and value; or query and value
    matrices = (maps + 1) * width * width + 2 * width * hidden
    biases = (maps + 1) * width + hidden + width if config.bias else 0
    norm = {"layer": 2 * width if config.bias else width, "rms": width, "none": 0}[config.norm]
    tables = config.vocabulary * width + (0 if config.tied else config.output_width * width)
    if positions and config.positions == "learned":
        tables += config.context * width
    return tables + config.layers * (matrices + biases + 2 * norm + added_parameters(config, scores)) + norm


def added_parameters(config: TransformerConfig, scores: ScoreSettings | None) -> int:
    r"""Parameters that one layer has on top of plain symmetric attention: pairwise or low-rank scores, and the noise.

    Formula, with width $d$, $H$ heads of width $d_h$, context $T$, rank $r$, and $G = H$ where the noise is per head
    (V2), $G = 1$ where the heads share it (V1): pairwise $H d_h^2$; low-rank $2 r d H$; scalar $2 G$; key $2 G d_h$;
    relative $2 G T$ (offsets $0 \dots T - 1$; without a causal mask there are $2T - 1$); amortised
    $2 r (d + G d_h)$. The 2 in each noise is the mean and the logarithm of the standard deviation.

    >>> from nslab.attention.settings import VARIANTS
    >>> {name: added_parameters(GPT2, VARIANTS[name]) for name in ("v2-scalar", "v2-key", "v2-relative", "pairwise")}
    {'v2-scalar': 24, 'v2-key': 1536, 'v2-relative': 24576, 'pairwise': 49152}
    """
    if scores is None:
        return 0
    width, heads, head_width = config.width, config.heads, config.width // config.heads
    added = {"symmetric": 0, "pairwise": heads * head_width**2, "low-rank": 2 * scores.rank * width * heads}
    noise = scores.noise
    if noise is None:
        return added[scores.kind]
    groups = heads if noise.per_head else 1
    offsets = config.context if config.causal else 2 * config.context - 1
    learned = {
        "scalar": 2 * groups,
        "key": 2 * groups * head_width,
        "relative": 2 * groups * offsets,
        "amortised": 2 * noise.rank * (width + groups * head_width),
    }
    return added[scores.kind] + learned[noise.family]


def hidden_for_equal_parameters(config: TransformerConfig, scores: ScoreSettings | None, like: int) -> int:
    """The widest hidden layer of the MLP with which the network has at most `like` parameters.

    Args:
        config: the shape; its own `hidden` does not matter.
        scores: the attention of the network to be made.
        like: parameters of the network to compare with, position table included.

    Returns:
        `hidden` for `dataclasses.replace(config, hidden=...)`. The network falls short of `like` by less than
        layers * (2 width + 1) parameters.

    Errors: `ValueError` when `like` is too small for a hidden layer of one unit.

    >>> from nslab.attention.settings import VARIANTS
    >>> hidden_for_equal_parameters(GPT2, VARIANTS["symmetric"], parameter_count(GPT2))
    3456
    """
    narrowest = parameter_count(replace(config, hidden=1), scores)
    if like < narrowest:
        raise ValueError(
            f"like is {like} and this network has {narrowest} parameters with a hidden layer of one unit: compare with "
            f"at least {narrowest} parameters, or make width, layers or vocabulary smaller"
        )
    unit = parameter_count(replace(config, hidden=2), scores) - narrowest
    return 1 + (like - narrowest) // unit


def noise_bytes(config: TransformerConfig, scores: ScoreSettings, batch: int, length: int, *, size: int = 4) -> int:
    r"""Memory of the standard normal numbers that one layer draws in one training step and keeps for the backward pass.

    Formula, with $G$ noises (V2: one a head; V1: 1): score space $B G T^2$ numbers, key space $B G T d_h$.

    Args:
        config: the shape.
        scores: attention with a noise.
        batch: $B$, sequences.
        length: $T$, tokens of each.
        size: bytes of a number; 4 for float32.

    Returns:
        Bytes of one layer.

    How to read it: compare it with the weights that the layer saves, width * width * size bytes.

    Errors: `ValueError` for attention without noise.

    >>> from nslab.attention.settings import VARIANTS
    >>> names = ("v2-scalar", "v1-scalar", "v2-key")
    >>> [round(noise_bytes(GPT2, VARIANTS[name], 12, 1024) / 1e6) for name in names]  # megabytes
    [604, 50, 38]
    """
    if scores.noise is None:
        raise ValueError(
            "scores has no noise: give one of the variants with noise, for example VARIANTS['v2-relative']"
        )
    groups = config.heads if scores.noise.per_head else 1
    columns = length if scores.noise.space == "score" else config.width // config.heads
    return batch * groups * length * columns * size


def bilinear_freedom(width: int, head_width: int, kind: str, rank: int = 4) -> int:
    r"""Degrees of freedom of one head's score $x_i^\top M x_j$: the dimension of the set of matrices $M$ it can form.

    Formula, with width $d$, head width $k$ and rank $r$, each parameter count less the changes of parameters that leave
    $M$ alone: standard $2 d k - k^2$ (any invertible change of basis of the head); symmetric $d k - k (k - 1) / 2$
    (rotations); pairwise $d k$; low-rank $d k - k (k - 1) / 2 + 2 d r - r^2$.

    Args:
        width: $d$, of the residual stream.
        head_width: $k$.
        kind: "standard", "symmetric", "pairwise" or "low-rank".
        rank: $r$ of the low-rank term; the other kinds do not have one.

    Returns:
        A whole number, at most $d^2$.

    Errors: `ValueError` for an unknown kind, and where the formula ends: $k > d$, or $k + 2 r > d$ for low-rank.

    >>> bilinear_freedom(768, 64, "standard"), bilinear_freedom(768, 64, "symmetric")
    (94208, 47136)
    """
    needed = head_width + 2 * rank if kind == "low-rank" else head_width
    if needed > width:
        raise ValueError(
            f"width is {width} and {kind} scores fill {needed} directions: make the width at least {needed}"
        )
    symmetric = width * head_width - head_width * (head_width - 1) // 2
    match kind:
        case "standard":
            return 2 * width * head_width - head_width**2
        case "symmetric":
            return symmetric
        case "pairwise":
            return width * head_width
        case "low-rank":
            return symmetric + 2 * width * rank - rank**2
    raise ValueError(f"kind is {kind!r}: choose 'standard', 'symmetric', 'pairwise' or 'low-rank'")


def block_products(config: TransformerConfig, scores: ScoreSettings | None = None) -> int:
    r"""Multiplications of one token with the weight matrices of all blocks: what a token costs, without scores.

    Formula: each weight of a matrix meets each token once, so it is the number of weights in matrices. Standard
    $L (4 d^2 + 2 d m)$ with a hidden layer of $m$; with $m = 4 d$ symmetric attention does 1/12 less.

    Args:
        config: the shape.
        scores: its symmetric attention; None for standard attention. Amortised noise counts as drawn, mean and
            standard deviation; in mean mode half of its products are not needed.

    Returns:
        Products; a floating point operation count has two for each.

    How to read it: the tables, the output matrix, and the products of queries with keys and of weights with values are
    the same for standard and symmetric attention and are not counted, so the whole step saves less than this says.

    >>> from nslab.attention.settings import VARIANTS
    >>> 1 - block_products(GPT2, VARIANTS["symmetric"]) / block_products(GPT2)
    0.08333333333333337
    """
    maps = 4 if scores is None else 3
    products = maps * config.width**2 + 2 * config.width * config.hidden_width
    if scores is not None:
        vectors = scores.noise is not None and scores.noise.family != "amortised"  # these are added, not multiplied
        products += added_parameters(config, replace(scores, noise=None) if vectors else scores)
    return config.layers * products


def cache_bytes(
    config: TransformerConfig, scores: ScoreSettings | None = None, *, length: int, batch: int = 1, size: int = 4
) -> int:
    r"""Memory of the keys and values that generation keeps: nothing is saved by symmetric attention.

    Formula: $2 L T d$ numbers a sequence. A symmetric head must keep its queries, which are the keys of later rows;
    low-rank scores keep $r$ more numbers a head, and amortised noise in score space the $d$ inputs of the layer, from
    which its mean and spread are made for each new row.

    Args:
        config: the shape.
        scores: its symmetric attention; None for standard attention.
        length: tokens kept.
        batch: sequences.
        size: bytes of a number; 4 for float32.

    Returns:
        Bytes.

    >>> from nslab.attention.settings import VARIANTS
    >>> cache_bytes(GPT2, length=1024) == cache_bytes(GPT2, VARIANTS["symmetric"], length=1024) == 75_497_472
    True
    """
    extra = config.heads * scores.rank if scores is not None and scores.kind == "low-rank" else 0
    noise = None if scores is None else scores.noise
    if noise is not None and (noise.family, noise.space) == ("amortised", "score"):
        extra += config.width
    return batch * config.layers * length * (2 * config.width + extra) * size

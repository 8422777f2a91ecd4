r"""What a score of symmetric attention is made of, as frozen configurations, and the variants that have a name.

    from nslab.attention.settings import VARIANTS, variant_name
    VARIANTS["v2-relative"].noise.family      # "relative"

V1 is one noise shared by the heads of a layer, V2 one noise per head. Where the noise enters, and what it may depend
on, is our reconstruction: the article that proposed it was not available beyond its introduction.
"""

from dataclasses import dataclass

FAMILIES = ("scalar", "key", "relative", "amortised")
SPACES = ("score", "key")
SCALINGS = ("before", "after")
KINDS = ("symmetric", "pairwise", "low-rank")

LOWEST, HIGHEST = -6.0, 2.0  # log sigma is kept between these: sigma from 0.0025 to 7.4


@dataclass(frozen=True)
class NoiseSettings:
    r"""A learned Gaussian noise with mean $\mu$ and standard deviation $\sigma$ in the scores of one layer.

    Attributes:
        family: what $\mu$ and $\sigma$ may depend on: nothing ("scalar"), the coordinate of the key ("key"), the offset
            i - j of query and key ("relative"), or the token that is the key ("amortised", through a map of low rank).
        space: "score": each score gets its own draw; "key": each key gets one draw, which all queries see.
        per_head: True is V2, one noise per head; False is V1, one noise that the heads of a layer share.
        scaling: whether the noise is added to the scores "before" or "after" they are divided by sqrt(head width).
        rank: rank of the amortised maps; the other families have none.
        log_sigma: $\ln \sigma$ at the start; the means start at 0.

    Errors: `ValueError` naming the field, its value and the remedy.

    Source: reconstructed; the article says only that the noise is Gaussian, learned, and shared by the heads or not.
    """

    family: str = "relative"
    space: str = "score"
    per_head: bool = True
    scaling: str = "before"
    rank: int = 4
    log_sigma: float | int = -2.0

    def __post_init__(self):
        for name, known in (("family", FAMILIES), ("space", SPACES), ("scaling", SCALINGS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}: choose one of {', '.join(known)}")
        if self.family == "relative" and self.space == "key":
            raise ValueError(
                "family is 'relative' and space 'key': a key does not know which query asks, so it has no offset; set "
                "space='score', or choose the family 'key' or 'amortised'"
            )
        if self.rank < 1:
            raise ValueError(f"rank is {self.rank}: give at least 1")
        if not LOWEST <= self.log_sigma <= HIGHEST:
            raise ValueError(
                f"log_sigma is {self.log_sigma}: start between {LOWEST:g} and {HIGHEST:g}, where it is kept; -2 is mild"
            )


@dataclass(frozen=True)
class ScoreSettings:
    """A score function of tied queries and keys, with or without learned noise.

    Attributes:
        kind: "symmetric" (q_i . q_j), "pairwise" (q_i W_h q_j, pairwise coefficients W_h per head, the identity at the
            start) or "low-rank" (q_i . q_j + (x_i A_h) . (x_j B_h), the low-rank asymmetric control).
        rank: columns of A_h and B_h; the other kinds have none.
        noise: the learned noise, or None.

    Errors: `ValueError` naming the field, its value and the remedy.

    Source: Courtois et al. (2024), arXiv 2406.06366, for symmetric scores and pairwise coefficients; the form of the
    coefficients is reconstructed from a parameter count. The low-rank control is ours.
    """

    kind: str = "symmetric"
    rank: int = 4
    noise: NoiseSettings | None = None

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(f"kind is {self.kind!r}: choose one of {', '.join(KINDS)}")
        if self.rank < 1:
            raise ValueError(f"rank is {self.rank}: give at least 1")


def _noisy(family: str, space: str, per_head: bool) -> ScoreSettings:
    return ScoreSettings(noise=NoiseSettings(family=family, space=space, per_head=per_head))


VARIANTS: dict[str, ScoreSettings] = {
    "symmetric": ScoreSettings(),
    "pairwise": ScoreSettings(kind="pairwise"),
    "low-rank": ScoreSettings(kind="low-rank"),
    "v1-scalar": _noisy("scalar", "score", False),
    "v2-scalar": _noisy("scalar", "score", True),
    "v1-key": _noisy("key", "key", False),
    "v2-key": _noisy("key", "key", True),
    "v1-relative": _noisy("relative", "score", False),
    "v2-relative": _noisy("relative", "score", True),
    "v1-amortised": _noisy("amortised", "key", False),
    "v2-amortised": _noisy("amortised", "key", True),
}
"""The variants that have a name; "standard" stands for an ordinary `Transformer`, which has no `ScoreSettings`."""


def variant_name(scores: ScoreSettings | None) -> str:
    """The name of these settings in `VARIANTS`, "standard" for None, else a description in words.

    >>> variant_name(VARIANTS["v1-key"]), variant_name(None)
    ('v1-key', 'standard')
    >>> variant_name(ScoreSettings(noise=NoiseSettings(family="key", space="key", log_sigma=-1)))
    'symmetric with key noise (key space, per head, before scaling, log sigma -1 at the start)'
    """
    if scores is None:
        return "standard"
    for name, known in VARIANTS.items():
        if scores == known:
            return name
    words = f"low-rank (rank {scores.rank})" if scores.kind == "low-rank" else scores.kind
    noise = scores.noise
    if noise is None:
        return words
    rank = f", rank {noise.rank}" if noise.family == "amortised" else ""
    sharing = "per head" if noise.per_head else "shared by the heads"
    return (
        f"{words} with {noise.family} noise ({noise.space} space, {sharing}, {noise.scaling} scaling{rank}, "
        f"log sigma {noise.log_sigma:g} at the start)"
    )

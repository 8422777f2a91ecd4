"""What kind of network is propagated: the fixed choices behind one recursion, simulation or figure."""

import math
from dataclasses import dataclass

from nslab.protocols import check_whole

SCORES = ("random", "identity", "uniform")
RESIDUALS = ("none", "scaled", "pre-norm")
NORMS = ("none", "rms", "layer")
MLPS = ("relu", "gelu", "silu", "tanh", "linear", "quadratic", "none")


@dataclass(frozen=True)
class Architecture:
    r"""A Transformer of equal layers with random weights, each layer attention and then an MLP.

    Formula: with norm = N and one residual rule R for both blocks, h (tokens, width),
    $h \leftarrow R(h, g\, A\, N(h) W_V)$ and $h \leftarrow R(h, W_2\, a(W_1 N(h)))$, where
    $R(h, b)$ is b ("none"), $(h + b) / \sqrt 2$ ("scaled") or $h + b$ ("pre-norm").
    A is the row softmax of $x_i^\top W x_k / (\sqrt d\, \hat q)$ for the attention's input $x = N(h)$,
    $\hat q$ its mean square, d the width. W_V and W_1 have entries of variance 1/d; W_2 of variance
    $1 / (d\, E a(Z)^2)$, as He's 2/d for ReLU.

    Attributes:
        tokens: sequence length n.
        width: d; also of the MLP.
        layers: depth.
        scores: W. "random": independent entries of standard deviation `score_scale`; "identity": W = I_d times
            `score_scale`; "uniform": W = 0, every weight 1/n.
        score_scale: see `scores`. 1 is the paper's unstructured W, whose logits have a standard deviation of
            about sqrt(d): hard votes. 1/sqrt(d) is an ordinary initialisation: nearly uniform attention.
        gain: g, the norm of a value column; a number for all layers.
        residual: "none", "scaled" or "pre-norm". The last is what trained networks do and needs a norm.
        norm: before each block: "none", "rms" (each token divided by its root mean square) or "layer" (its mean over
            coordinates removed first).
        mlp: the activation a, by name, or "none" for attention alone.
        causal: whether token i sees tokens 0 .. i only.

    How to read it: the paper's deep network is Architecture(tokens, width, layers): no residual, norm or mask.

    Errors: `ValueError` for an unknown block type, with the known ones, and for sizes that no network has.

    Source: *ours*; the blocks without residual, norm and mask are the paper's setting as reported in a digest of
    arXiv 2602.08287, where the scale of the logits is not known.
    """

    tokens: int
    width: int
    layers: int
    scores: str = "random"
    score_scale: float | int = 1.0
    gain: float | int = 1.0
    residual: str = "none"
    norm: str = "none"
    mlp: str = "relu"
    causal: bool = False

    def __post_init__(self):
        check_whole(tokens=self.tokens, width=self.width, layers=self.layers)
        for name, least in (("tokens", 1), ("width", 1), ("layers", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} = {getattr(self, name)}: give an integer of at least {least}")
        for name in ("score_scale", "gain"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} = {getattr(self, name)}: give a finite number, 0 or more")
        for name, known in (("scores", SCORES), ("residual", RESIDUALS), ("norm", NORMS), ("mlp", MLPS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} = {getattr(self, name)!r} is unknown: choose from {', '.join(known)}")
        if self.residual == "pre-norm" and self.norm == "none":
            raise ValueError("residual = 'pre-norm' with norm = 'none': choose norm 'rms' or 'layer'")

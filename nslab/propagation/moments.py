"""Four numbers that describe one layer of a network run twice: on an input, and on its noisy twin."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from nslab.gaussian.ranges import Scalar, inside

ROUNDING = 1024
"""Slack of `Moments.check`, in units of the machine epsilon times q: what rounding leaves after many layers."""


@dataclass(frozen=True, eq=False)
class Moments:
    r"""Second moments of hidden states, per coordinate, averaged over tokens.

    Formula: with $h_i$ the state of token i on the input, $h'_i$ on the twin, d the width, and $i \ne j$,
    $m = \frac1d E \langle h_i, h'_i \rangle$, $o = \frac1d E \langle h_i, h'_j \rangle$,
    $q = \frac1d E \|h_i\|^2$, $p = \frac1d E \langle h_i, h_j \rangle$.

    Attributes:
        m: same token, two runs.
        o: different tokens, two runs.
        q: self second moment, positive.
        p: different tokens, one run.

    All four broadcast to (*batch, rho); a stack over layers has the layer as its first axis. They are in the squared
    units of the signal: a gain g multiplies all four by g^2. Input and twin have one law, so one q and one p serve
    both runs.

    How to read it: `correlation` = m/q says how much of a token survives the noise; `token_correlation` = p/q says how
    far the tokens have collapsed onto one another. Both are second moments about 0, not covariances.

    Source: *reconstructed*; the state of the recursion in `recursion.py`.

    >>> Moments.inputs(0.7).correlation.item()
    0.7
    """

    m: Float[Tensor, "..."]
    o: Float[Tensor, "..."]
    q: Float[Tensor, "..."]
    p: Float[Tensor, "..."]

    @staticmethod
    def inputs(rho: Scalar) -> "Moments":
        """Independent standard Gaussian tokens and their rho-correlated twins: (m, o, q, p) = (rho, 0, 1, 0).

        Args:
            rho: correlations in [-1, 1], a number (taken as float64) or a tensor (*batch, rho).

        Returns:
            Moments of the shape of rho.

        Errors: `ValueError` when rho is outside [-1, 1].
        """
        rho = rho if isinstance(rho, Tensor) and rho.is_floating_point() else torch.as_tensor(rho, dtype=torch.float64)
        m = inside(rho, "rho", -1, 1, "rho is the correlation of an input coordinate with its twin")
        return Moments(m, torch.zeros_like(m), torch.ones_like(m), torch.zeros_like(m))

    @staticmethod
    def stack(layers: Sequence["Moments"]) -> "Moments":
        """One `Moments` with a new first axis, from one for each layer; shapes broadcast."""
        flat = torch.broadcast_tensors(*(part for layer in layers for part in layer.parts()))
        return Moments(*(torch.stack(flat[kind::4]) for kind in range(4)))

    @property
    def correlation(self) -> Float[Tensor, "..."]:
        """The correlation m/q of a token with its twin."""
        return self.m / self.q

    @property
    def token_correlation(self) -> Float[Tensor, "..."]:
        """The correlation p/q of two tokens of one run; 1 once all tokens are equal."""
        return self.p / self.q

    def parts(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The tuple (m, o, q, p)."""
        return self.m, self.o, self.q, self.p

    def each(self, function: Callable[[Tensor], Tensor]) -> "Moments":
        """The same function of each of the four."""
        return Moments(*map(function, self.parts()))

    def broadcast(self) -> "Moments":
        """The four at one common shape."""
        return Moments(*torch.broadcast_tensors(*self.parts()))

    def __getitem__(self, index) -> "Moments":
        """The index taken of each of the four: `stacked[3]` is layer 3."""
        whole = self.broadcast()
        return Moments(*(value[index] for value in whole.parts()))

    def alive(self, layer: int) -> "Moments":
        """Itself, refused if a moment is not finite or q is not positive; quick, for the inside of a recursion.

        Errors: `ValueError` that names the layer.
        """
        m, o, q, p = self.each(Tensor.detach).parts()
        if not bool(((q > 0) & torch.isfinite(m + o + q + p)).all()):
            found = ", ".join(
                f"{name} {value.min().item():g}" for name, value in zip("moqp", (m, o, q, p), strict=True)
            )
            raise ValueError(
                f"layer {layer}: the smallest moments are {found}: a moment is finite and q positive;"
                " choose gain and score_scale so that the signal neither dies nor overflows"
            )
        return self

    def check(self, tokens: int | None = None, *, layers: bool = False) -> "Moments":
        r"""Itself, refused unless some Gaussian sequence has these moments.

        Formula: the covariance of n exchangeable tokens in two runs has the eigenvalues
        $(q - p) \pm (m - o)$ and $(q + (n-1) p) \pm (m + (n-1) o)$; all must be >= 0.

        Args:
            tokens: n; for None the moments must suit at least n = 2.
            layers: whether the first axis is the layer; a fault is then reported with its layer.

        Errors: `ValueError` for NaN or infinity, q <= 0, |m| > q (a correlation outside [-1, 1]), and for moments that
        no Gaussian could have.
        """
        whole = self.broadcast().each(Tensor.detach)
        m, o, q, p = whole.parts()
        for name, value in zip("moqp", whole.parts(), strict=True):
            _refuse(~torch.isfinite(value), f"{name} is {{:g}}: a moment is finite", value, layers=layers)
        _refuse(~(q > 0), "q = {:g}: a variance is positive", q, layers=layers)
        slack = ROUNDING * torch.finfo(q.dtype).eps * q
        for name, value in (("m", m), ("o", o), ("p", p)):
            _refuse(
                value.abs() > q + slack, f"{name}/q = {{:g}}: a correlation is in [-1, 1]", value / q, layers=layers
            )
        if tokens == 1:
            return self
        others = (tokens or 2) - 1
        for law, run, cross, scale in (
            ("q - p >= |m - o|", q - p, m - o, 1),
            (f"q + {others} p >= |m + {others} o|", q + others * p, m + others * o, others),
        ):
            text = f"(m, o, q, p) = ({{:g}}, {{:g}}, {{:g}}, {{:g}}): no {others + 1} Gaussian tokens have these; {law}"
            _refuse(cross.abs() > run + slack * scale, text, *whole.parts(), layers=layers)
        return self


def _refuse(bad: Tensor, text: str, *values: Tensor, layers: bool) -> None:
    """Raise about the values at the first bad entry, naming its layer where the first axis is one."""
    if bool(bad.any()):
        at = tuple(bad.nonzero()[0].tolist())
        where = f"layer {at[0]}: " if layers and at else ""
        raise ValueError(where + text.format(*(value[at].item() for value in values)))

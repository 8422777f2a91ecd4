r"""The prior over embeddings: one attention stage of its own, laid over what enters a network.

    weight, prior = prior_regulariser(0.05, model)          # its weights are now among model.parameters()
    Trainer(model, config, batch, penalties=[(weight, prior)]).run()
    detach(model)                                           # the plain network again, to be saved

It scores the embedding table and its own two projections, and no real head.
"""

from dataclasses import dataclass
from math import inf, log
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nslab.barrier.blocks import jacobian_blocks
from nslab.barrier.checks import attention_weights, positions, upcast, visible, without_autocast
from nslab.barrier.moments import score_matrix
from nslab.barrier.penalty_shapes import check_wall, check_weight, wall
from nslab.barrier.row_walls import sampled_rows
from nslab.barrier.second_moments import weighted_products
from nslab.protocols import Model, check_whole

NEUTRAL = 2  # positions at the start of a sequence whose block is the identity
QUANTILES = (0.0, 0.01, 0.1, 0.5, 0.9, 1.0)
NAME = "embedding_prior"
VARIANTS = ("margin-only", "full", "residual-only")


@dataclass(frozen=True)
class PriorReport:
    """What a prior makes of some embeddings.

    Attributes:
        quantiles: of det J at 0, 1, 10, 50, 90 and 100 % of the positions from 2 on.
        negative: share of those positions with det J < 0.
        eigenvalues: of the symmetric part of the score matrix A, ascending (p,). Negative ones repel: a token is then
            read most by queries that are unlike it, and determinants beyond 1 come from there.
    """

    quantiles: tuple[float, ...]
    negative: float
    eigenvalues: tuple[float, ...]


class EmbeddingPrior(nn.Module):
    r"""The model $u_i = \mu_i(u) + \epsilon_i$ on a network's input embeddings, as a penalty with weights of its own.

    Formula, the mean over all n positions and the batch of

    - "margin-only": $b_i = -\log\lvert\det(I - \Sigma_i A)\rvert$, in the shape `kind`;
    - "full": $b_i + \lVert u_i - \mu_i \rVert^2 / 2\sigma^2 + p \log\sigma$,

    with $A = W_K^\top W_Q / \sqrt p$. Positions 0 and 1 have $b_i = 0$, and $\mu_0 = 0$.

    Args:
        width: of the embeddings.
        prior_width: p. With a number, a learned projection (p, width) comes first, and $u$ is what it gives; a
            third-party port does so with 8. None: no projection, p = width.
        variant: "margin-only", "full", or, to tell the two terms apart, "residual-only": "full" without b.
        sigma: the standard deviation of the noise, for "full"; in the units of $u$.
        rows: positions sampled at each call, shared by the batch, one from each of `rows` equal strata; None for all.
        kind: of the wall, as in `margin_penalty`; "clamped" is the barrier itself, with the port's bound.
        delta: as in `margin_penalty`.
        clamp: as in `margin_penalty`.
        generator: source of the initial weights, on `device`: Gaussian with variance 1 / (input width).
        device: where the weights are.

    Called as a penalty, `prior(model, x, output, generator=...)`, it embeds x with `model.embed`, adds learned
    positions where the model has `positions` (an embedding), and returns a scalar in nats. No pass of the network is
    needed. For a `Trainer` to move the prior's weights too, `attach` it to the model.

    How to read it: b rewards determinants beyond 1 without limit, so "margin-only" learns a repulsive A; the quadratic
    term of "full" holds that back. b is a sum over p directions: compare b / p between widths. The real heads feel
    the prior only through the embeddings.

    Errors: `ValueError` for widths, rows or sigma that are not positive, an unknown variant or kind, embeddings of
    another width, rows outside the sequence; a model without `embed`. NaN goes into the loss, where a training loop
    finds it; `report` refuses it.

    Source: arXiv 2602.22271 according to a third-party port: the place, the formula of b, the name, the clamp and the
    mean; the weight there is 0.02 to 0.05. The exact terms of "full" are *reconstructed*.
    """

    def __init__(
        self,
        width: int,
        *,
        prior_width: int | None = None,
        variant: str = "margin-only",
        sigma: float | int = 1.0,
        rows: int | None = 16,
        kind: str = "clamped",
        delta: float | int = 0.05,
        clamp: float | int = 30,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
    ):
        super().__init__()
        check_wall(kind, delta, clamp)
        check_whole(width=width, prior_width=prior_width, rows=rows)
        for name, value in (("width", width), ("prior_width", prior_width), ("rows", rows)):
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}: give at least 1" + ", or None" * (name != "width"))
        if variant not in VARIANTS:
            raise ValueError(f"variant is {variant!r}: choose one of {', '.join(map(repr, VARIANTS))}")
        if not 0 < sigma < inf:
            raise ValueError(f"sigma is {sigma}: a standard deviation is positive and finite")
        self.width, self.variant, self.sigma, self.rows = width, variant, float(sigma), rows
        self.kind, self.delta, self.clamp = kind, delta, clamp
        p = prior_width or width

        def drawn(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(shape, generator=generator, device=device) / shape[-1] ** 0.5)

        self.query, self.key = drawn(p, p), drawn(p, p)
        self.projection = None if prior_width is None else drawn(p, width)

    @property
    def scores(self) -> Float[Tensor, "p p"]:
        """The score matrix A, as `jacobian_blocks(prior.enter(u), prior.scores)` takes it."""
        return score_matrix(self.key, self.query)

    def enter(self, u: Float[Tensor, "*batch n width"]) -> Float[Tensor, "*batch n p"]:
        """What the prior attends to: the projection of the embeddings, or the embeddings themselves."""
        if u.shape[-1] != self.width:
            raise ValueError(f"u has shape {tuple(u.shape)}: the prior was made for embeddings {self.width} wide")
        return u if self.projection is None else u @ self.projection.mT

    def terms(self, u: Float[Tensor, "*batch n width"], rows: Tensor | None = None) -> Float[Tensor, "*batch rows"]:
        """What each position adds, in nats: b, or all three terms of "full".

        Args:
            u: embeddings (*batch, n, width), with positions; half precision is upcast.
            rows: positions (rows,), 0-based; all by default.
        """
        return self._terms(u, positions(rows, u.shape[-2], u.device))

    def of(self, u: Float[Tensor, "*batch n width"], generator: torch.Generator | None = None) -> Float[Tensor, ""]:
        """The penalty of embeddings that are at hand, at sampled positions: unbiased for the mean of `terms(u)`."""
        length = u.shape[-2]
        first = NEUTRAL if self.variant == "margin-only" else 0  # where terms are not zero, or not known beforehand
        if length <= first:
            return u.new_zeros(())
        rows, _ = sampled_rows(1, length, self.rows, first, generator, u.device)
        return self._terms(u, rows[0]).mean() * ((length - first) / length)

    def forward(
        self, model: Model, x: Tensor, output: Tensor, /, *, generator: torch.Generator | None = None
    ) -> Float[Tensor, ""]:
        """The penalty at token ids x, as `protocols.Penalty` wants it; `output` plays no part."""
        return self.of(embedded(model, x), generator)

    @torch.no_grad()
    def report(self, u: Float[Tensor, "*batch n width"]) -> PriorReport:
        """Determinants over embeddings, and the spectrum of A's symmetric part.

        Errors: `ValueError` for sequences without a third token, and for NaN.
        """
        if u.shape[-2] <= NEUTRAL:
            raise ValueError(f"u has {u.shape[-2]} positions: the first two are always neutral, so give at least 3")
        rows = torch.arange(NEUTRAL, u.shape[-2], device=u.device)
        found = torch.linalg.det(jacobian_blocks(self.enter(u), self.scores, rows=rows)).flatten().sort().values
        ranks = [round(share * (len(found) - 1)) for share in QUANTILES]
        return PriorReport(
            quantiles=tuple(found[ranks].tolist()),
            negative=float((found < 0).double().mean()),
            eigenvalues=tuple(torch.linalg.eigvalsh((self.scores + self.scores.mT) / 2).tolist()),
        )

    @without_autocast
    def _terms(self, u: Tensor, rows: Tensor) -> Tensor:
        """As `terms`. Nothing here looks at a number: a GPU would wait for it at every step."""
        u, key, query = upcast(self.enter(u), self.key, self.query)
        scores = key.mT @ query / len(key) ** 0.5
        weights = attention_weights(u[..., rows, :] @ scores.mT @ u.mT, visible(rows, u.shape[-2], False))
        moved = u - (centre := u.detach().mean(-2, keepdim=True))  # a covariance does not see it, but rounding does
        mean = weights @ moved
        if self.variant != "residual-only":
            covariance = weighted_products(weights, moved, moved) - mean[..., :, None] * mean[..., None, :]
            blocks = torch.eye(len(key), dtype=u.dtype, device=u.device) - covariance @ scores
            # the first two blocks are the identity, of which "kl" makes a small constant that counts for nothing
            barrier = wall(blocks, self.kind, self.delta, self.clamp).masked_fill(rows < NEUTRAL, 0.0)
        if self.variant == "margin-only":
            return barrier
        mean = mean + weights.sum(-1, keepdim=True) * centre  # position 0 sees nothing, and has mean 0
        residual = (u[..., rows, :] - mean).square().sum(-1) / (2 * self.sigma**2) + len(key) * log(self.sigma)
        return barrier + residual if self.variant == "full" else residual


def embedded(model: Model, x: Tensor) -> Float[Tensor, "batch n width"]:
    """What enters the first layer of a model at token ids: embeddings, with learned positions where it has them.

    Errors: `ValueError` for a model without `embed`.
    """
    if not hasattr(model, "embed"):
        raise ValueError(f"model is {type(model).__name__} and has no embed(ids): the prior scores token embeddings")
    u = model.embed(x)
    table = getattr(getattr(model, "positions", None), "weight", None)
    return u if table is None else u + table[: u.shape[-2]]


def attach(model: nn.Module, prior: EmbeddingPrior) -> None:
    """Make a prior a part of a model, so that an optimiser of `model.parameters()` moves its weights too.

    Do it before the optimiser (`Trainer`) is made. Weight decay then acts on the prior's matrices as on the model's.

    Errors: `ValueError` when the model has a prior already.
    """
    if hasattr(model, NAME):
        raise ValueError(f"model has an {NAME} already: detach(model) gives it back")
    model.add_module(NAME, prior)


def detach(model: nn.Module) -> EmbeddingPrior:
    """Take the prior out of a model and return it. What is saved afterwards is the plain network.

    Errors: `ValueError` when the model has none.
    """
    if not isinstance(prior := getattr(model, NAME, None), EmbeddingPrior):
        raise ValueError(f"model has no {NAME}: attach(model, prior) puts one there")
    delattr(model, NAME)
    return prior


def prior_regulariser(weight: float | int, model: nn.Module, **options: Any) -> tuple[float | int, EmbeddingPrior]:
    """The pair (weight, penalty) that a trainer takes, with a prior made for a model and attached to it.

    Args:
        weight: lambda, at least 0.
        model: has `embed(ids)`; the prior is as wide as its embeddings, and on their device.
        options: of `EmbeddingPrior`.

    Errors: `ValueError` for a weight below 0 or not finite; otherwise as `EmbeddingPrior` and `attach`.
    """
    check_weight(weight)
    device = next(model.parameters()).device
    u = embedded(model, torch.zeros(1, 1, dtype=torch.int64, device=device))
    prior = EmbeddingPrior(u.shape[-1], device=device, **options)
    attach(model, prior)
    return weight, prior

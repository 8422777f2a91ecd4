"""Penalties to hold the noise-stability regulariser against: embedding noise, label smoothing, L1.

Weight decay, the fourth usual one, is a setting of the trainers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from math import inf

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nslab.protocols import Model, TokenModel
from nslab.training.penalty_rows import check_output, probabilities, wide


@dataclass(frozen=True)
class EmbeddingNoisePenalty:
    r"""The agreement of the regulariser, with Gaussian noise on the embeddings in place of other tokens.

    Formula: $-\sum_c p_c(x)\, p_c(\tilde x)$, where each embedding $e$ of $\tilde x$ is $e + s\,\varepsilon$ with
    $\varepsilon$ standard Gaussian and s = `spread` times the root mean square of the embeddings.

    Args:
        spread: s in units of the embeddings' root mean square, more than 0.
        tables: for an ensemble, the names of the weights that hold embeddings, (members, tokens, width), such as
            ("tokens",) of `TokenTableTransformer` and ("first", "second") of `QuadraticNetwork`. Noise is then added
            to the tables: it is drawn once a call and token, not for every row. Empty for a `TokenModel`, where each
            position of each row has its own.

    How to read it: as `StabilityPenalty`. It visits the neighbourhood of its inputs and never another input.

    Errors: `ValueError` for a spread that is not positive, tables the weights do not have, or an output of the wrong
    shape; `TypeError` for a model that has no embeddings.

    Source: ours, as a control. LNSR (Hua et al. 2021) has Gaussian noise on hidden states and a squared distance.
    """

    spread: float | int
    tables: tuple[str, ...] = ()

    def __post_init__(self):
        if not 0 < self.spread < inf:
            raise ValueError(f"spread is {self.spread}: give a positive, finite number")

    def __call__(
        self, model: Model, x: Tensor, output: Tensor, /, *, generator: torch.Generator | None = None
    ) -> Float[Tensor, ""]:
        """The mean of `rows`."""
        return self.rows(model, x, output, generator=generator).mean()

    def rows(
        self, model: Model, x: Tensor, output: Tensor, /, *, generator: torch.Generator | None = None
    ) -> Float[Tensor, "..."]:
        """One number for each row, (*members, rows) or (*members, rows, length)."""
        check_output(x, output, "softmax")
        noisy = self._in_tables(model, x, generator) if self.tables else self._at_positions(model, x, generator)
        return -(probabilities(output, "softmax") * probabilities(noisy, "softmax")).sum(-1)

    def _in_tables(self, model: Model, x: Tensor, generator: torch.Generator | None) -> Tensor:
        network, weights = _ensemble(model)
        if missing := [name for name in self.tables if name not in weights]:
            raise ValueError(f"tables has {missing[0]!r}: the weights are {', '.join(weights)}")
        noisy = {name: self._noisy(weights[name], (1, 2), generator) for name in self.tables}
        return network({**weights, **noisy}, x)

    def _at_positions(self, model: Model, x: Tensor, generator: torch.Generator | None) -> Tensor:
        if not isinstance(model, TokenModel):
            raise TypeError(f"model is a {type(model).__name__}, not a TokenModel: name the tables of an ensemble")
        return model.from_embeddings(self._noisy(model.embed(x), None, generator))

    def _noisy(self, table: Tensor, over: tuple[int, ...] | None, generator: torch.Generator | None) -> Tensor:
        scale = table.detach().square().mean(over, keepdim=True).sqrt() * self.spread
        return table + scale * torch.randn(table.shape, generator=generator, dtype=table.dtype, device=table.device)


@dataclass(frozen=True)
class LabelSmoothingPenalty:
    r"""Label smoothing as a penalty: the cross-entropy of the uniform law, $-\frac1C \sum_c \log p_c(x)$, in nats.

    With weight $w = \alpha/(1 - \alpha)$ the whole is $1/(1 - \alpha)$ times the cross-entropy of labels smoothed by
    $\alpha$: of each label $1 - \alpha$ stays, and $\alpha$ is spread over all C classes. `weight(alpha)` gives w.

    How to read it: at least log C; it punishes confidence.

    Errors: `ValueError` for an output of the wrong shape.

    Source: Szegedy et al. (2016), arXiv 1512.00567.
    """

    @staticmethod
    def weight(alpha: float | int) -> float:
        """The weight alpha / (1 - alpha), for alpha in [0, 1). Errors: `ValueError` outside."""
        if not 0 <= alpha < 1:
            raise ValueError(f"alpha is {alpha}: the share of a label that is spread is at least 0 and less than 1")
        return alpha / (1 - alpha)

    def __call__(
        self, model: Model, x: Tensor, output: Tensor, /, *, generator: torch.Generator | None = None
    ) -> Float[Tensor, ""]:
        """The mean of `rows`."""
        return self.rows(model, x, output, generator=generator).mean()

    def rows(
        self, model: Model, x: Tensor, output: Tensor, /, *, generator: torch.Generator | None = None
    ) -> Float[Tensor, "..."]:
        """One number for each row, (*members, rows) or (*members, rows, length)."""
        check_output(x, output, "softmax")
        return -wide(output).log_softmax(-1).mean(-1)


@dataclass(frozen=True)
class L1Penalty:
    r"""$\sum_j |w_j|$ over all weights: a scalar for a module, one number a member for an ensemble.

    How to read it: in units of weights; sensible factors are small, such as 1e-5. AdamW sees its gradient through its
    own scaling, unlike decoupled decay.

    Errors: `TypeError` for a model whose weights it cannot find.
    """

    def __call__(
        self, model: Model, x: Tensor, output: Tensor, /, *, generator: torch.Generator | None = None
    ) -> Float[Tensor, "..."]:
        """The sum; inputs and outputs play no part."""
        if isinstance(model, nn.Module):
            return torch.stack([weight.abs().sum() for weight in model.parameters() if weight.requires_grad]).sum()
        _, weights = _ensemble(model)
        return torch.stack([weight.abs().reshape(len(weight), -1).sum(1) for weight in weights.values()]).sum(0)


def _ensemble(model: Model) -> tuple[object, Mapping[str, Tensor]]:
    """Network and weights of `partial(network, weights)`, which is how an `EnsembleTrainer` hands over its members."""
    if not isinstance(model, partial) or len(model.args) != 1 or not isinstance(model.args[0], Mapping):
        raise TypeError(f"model is a {type(model).__name__}: give partial(network, weights), or a module")
    return model.func, model.args[0]

r"""Jacobian blocks of real attention heads: small matrices that know the determinant of the d x d ones.

A head reads W_O sum_s a_is v_s. Through the query of token i, that has the Jacobian W_O C_i W_Q / sqrt(k), where C_i is
the covariance of values and keys under the attention of row i: a d x d matrix of rank at most k. All that one asks of
I - W_O C_i W_Q / sqrt(k) is in smaller ones: the determinant in k x k, the singular values in 2k x 2k, the trace in
vectors. With rotary positions W_Q is rotated by the position of i; behind a norm it is multiplied by the norm's
Jacobian.

Self-included here means that the softmax runs over s <= i, as in a language model. The block is still the one through
the query; that token i is a key and a value too is left out (`jacobian_blocks` has the whole of it).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from nslab.barrier.checks import all_finite, attention_weights, positions, upcast, visible, without_autocast
from nslab.barrier.norm_path import NormJacobian
from nslab.barrier.second_moments import weighted_products


@dataclass(frozen=True, eq=False)
class HeadStage:
    """One layer of attention at one batch: what its heads computed, and the weights around them.

    Attributes:
        query: (B, H, n, k), after rotation.
        key: (B, H, n, k), after rotation, grouped keys repeated.
        value: (B, H, n, v), grouped values repeated.
        query_weight: W_Q (H, k, d), before rotation.
        output_weight: W_O (H, d, v).
        turn: rotates vectors (..., rows, k) as the queries at the positions `rows` were, `turn(x, rows)`, linear in x;
            None where positions do not rotate.
        norm_jacobian: the norm that stands between the embeddings and the queries, for blocks with respect to the
            embeddings; with None they are with respect to what enters W_Q.

    How to read it: logits are query . key / sqrt(k). A layer with another scale puts the ratio into `query` and
    `query_weight`. The barrier's gradient reaches whatever of this is still in a graph.

    Errors: `ValueError` for a field whose shape does not fit the others.
    """

    query: Float[Tensor, "..."]
    key: Float[Tensor, "..."]
    value: Float[Tensor, "..."]
    query_weight: Float[Tensor, "..."]
    output_weight: Float[Tensor, "..."]
    turn: Callable[[Tensor, Tensor], Tensor] | None = None
    norm_jacobian: NormJacobian | None = None

    def __post_init__(self):
        for name, axes in {"key": "(B, H, n, k)", "value": "(B, H, n, v)", "query_weight": "(H, k, d)"}.items():
            if getattr(self, name).ndim != axes.count(",") + 1:
                raise ValueError(f"{name} has shape {tuple(getattr(self, name).shape)}: give {axes}")
        (batch, heads, length, width), values = self.key.shape, self.value.shape[-1]
        wide = self.query_weight.shape[-1]
        wanted = {
            "query": (batch, heads, length, width),
            "value": (batch, heads, length, values),
            "query_weight": (heads, width, wide),
            "output_weight": (heads, wide, values),
        }
        shapes = {name: tuple(getattr(self, name).shape) for name in wanted}
        if self.norm_jacobian is not None:
            wanted["norm_jacobian.x"] = (batch, length, wide)
            shapes["norm_jacobian.x"] = tuple(self.norm_jacobian.x.shape)
        for name, shape in wanted.items():
            if shapes[name] != shape:
                raise ValueError(f"{name} has shape {shapes[name]}: to go with the other fields it must be {shape}")


@without_autocast
def cross_covariances(
    stage: HeadStage, rows: Tensor | None = None, self_included: bool = False
) -> Float[Tensor, "B H m v k"]:
    r"""Covariance of values and keys under the attention of each row.

    Formula: $C_i = \sum_s \alpha_{is} (v_s - \bar v_i)(k_s - \bar k_i)^\top$.

    Args:
        stage: the layer; see `HeadStage`.
        rows: positions i (m,), 0-based; all n by default, which for long batches takes much memory (B H n v k).
        self_included: whether the softmax runs over s <= i, as in a language model; strictly the past by default.

    Returns:
        (B, H, m, v, k), in at least float32: half precision is upcast, and autocast is off inside.

    How to read it: what moves together: when the query leans towards a key, the values that come along. The
    rounding error is relative to the spread of all keys and values of the sequence, as in `causal_moments`.

    Errors: `ValueError` for rows outside the sequence or not whole, and NaN or infinity in a field (it is named).

    Source: *reconstructed*.
    """
    stage, rows = _prepared(stage, rows)
    return _covariances(stage, rows, self_included)


@without_autocast
def head_blocks(
    stage: HeadStage, rows: Tensor | None = None, self_included: bool = False
) -> Float[Tensor, "B H m k k"]:
    r"""Blocks of one head at a time, k x k, with the determinant of the whole d x d ones.

    Formula: $I_k - G_i C_i$ with $G_i = R_i W_Q N_i W_O / \sqrt k$ ($R_i$ the rotation at i, $N_i$ the Jacobian of the
    norm); $\det(I_k - G_i C_i) = \det(I_d - W_O C_i R_i W_Q N_i / \sqrt k)$.

    Args and Errors: as for `cross_covariances`.

    Returns:
        (B, H, m, k, k), in at least float32. Position 0 (and 1, strictly causal) has the identity.

    How to read it: determinant, sign, and eigenvalues other than 1 are those of the head alone in the stream; singular
    values are not, see `head_spectral_margins`.

    Source: *reconstructed* (the matrix determinant lemma).
    """
    stage, rows = _prepared(stage, rows)
    weights, key, value = _weights(stage, rows, self_included), _moved(stage.key), _moved(stage.value)
    reads, mean_key = value @ _common(stage).mT, weights @ key  # (B, H, n, k), each value as a query reads it
    coupled = weighted_products(weights, reads, key) - (weights @ reads)[..., :, None] * mean_key[..., None, :]
    if stage.norm_jacobian is not None:
        along, across, scale = _norm_terms(stage, rows)
        pulled = (weights * (across @ value.mT)) @ key - (across * (weights @ value)).sum(-1, keepdim=True) * mean_key
        coupled = (coupled - along[..., :, None] * pulled[..., None, :]) / scale[..., None, None]
    return _eye(stage, key.shape[-1]) - _turned(stage, coupled, rows) / key.shape[-1] ** 0.5


@without_autocast
def joint_head_blocks(
    stage: HeadStage, rows: Tensor | None = None, self_included: bool = False
) -> Float[Tensor, "B m Hk Hk"]:
    r"""Blocks of all heads of the layer together, with the determinant of `whole_blocks`.

    Formula: $I_{Hk} - [G_i^{hh'} C_i^{h'}]_{hh'}$ with $G_i^{hh'} = R_i W_Q^h N_i W_O^{h'} / \sqrt k$.

    Args and Errors: as for `cross_covariances`.

    Returns:
        (B, m, H k, H k), in at least float32; smaller than d x d only where H k < d.

    How to read it: heads act on one stream, so their determinants do not multiply: what one head writes, another
    head's query reads.

    Source: *reconstructed*.
    """
    stage, rows = _prepared(stage, rows)
    coupling = _couplings(stage, rows, stage.query_weight[:, None], stage.output_weight[None])
    inner = coupling @ _covariances(stage, rows, self_included)[:, None]  # (B, H, H', m, k, k)
    joined = inner.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)  # (B, m, H k, H' k)
    return _eye(stage, joined.shape[-1]) - joined


@without_autocast
def whole_blocks(stage: HeadStage, rows: Tensor | None = None, self_included: bool = False) -> Float[Tensor, "B m d d"]:
    r"""Blocks of all heads together, d x d, written out: exact and slow, for small models and for checks.

    Formula: $I_d - \sum_h W_O^h C_i^h R_i W_Q^h N_i / \sqrt k$.

    Args and Errors: as for `cross_covariances`.

    Returns:
        (B, m, d, d), in at least float32.

    How to read it: the Jacobian of $x_i - \mathrm{attention}_i$ by the query of token i alone. For one head give a
    stage with one head.

    Source: *reconstructed*.
    """
    stage, rows = _prepared(stage, rows)
    queries = _turned(stage, stage.query_weight[:, None], rows)  # (H, m or 1, k, d)
    if stage.norm_jacobian is not None:
        queries = queries @ stage.norm_jacobian.matrices(rows)[:, None]
    inner = _covariances(stage, rows, self_included) @ queries / stage.key.shape[-1] ** 0.5
    return _eye(stage, queries.shape[-1]) - (stage.output_weight[:, None] @ inner).sum(1)


@without_autocast
def head_spectral_margins(
    stage: HeadStage, rows: Tensor | None = None, self_included: bool = False
) -> Float[Tensor, "B H m"]:
    r"""The smallest singular value of each head's d x d block, from matrices of size 2k.

    Formula: $\sigma_{\min}(I_d - W_O C_i R_i W_Q N_i / \sqrt k)$. With an orthonormal basis of the columns of $W_O$
    and $W_Q^\top$ (one QR a head; a norm adds one vector a row) the matrix is a block of that size, and the identity
    elsewhere.

    Args and Errors: as for `cross_covariances`.

    Returns:
        (B, H, m), in at least float32, at most 1 where 2k < d.

    How to read it: the distance to the nearest singular matrix, in the 2-norm; 1/it is the worst gain of noise. The
    k x k matrices of `head_blocks` have other singular values. Meant for measuring: a singular value decomposition a
    row costs much more than a determinant, and its gradient is undefined where the smallest value is not simple.

    Source: *reconstructed*.
    """
    stage, rows = _prepared(stage, rows)
    norm, outputs = stage.norm_jacobian, stage.output_weight  # (H, d, v)
    inputs = (stage.query_weight if norm is None else norm.project(stage.query_weight)).mT  # (H, d, k)
    small = outputs.shape[-1] + inputs.shape[-1] + (norm is not None) < inputs.shape[-2]
    if small:  # from here on, coordinates in the basis
        basis = torch.linalg.qr(torch.cat([outputs, inputs], -1))[0]  # (H, d, v + k)
        outputs, inputs = basis.mT @ outputs, basis.mT @ inputs
    outputs, queries = outputs[:, None], inputs.mT[:, None]
    if norm is not None:
        left, right, scale = (part[:, None] for part in norm.parts(rows))  # (B, 1, m, d), scale (B, 1, m, 1)
        along = left @ stage.query_weight.mT  # (B, H, m, k)
        if small:  # each row has one direction of its own, the part of `right` outside the basis
            inside = right @ basis  # (B, H, m, v + k)
            outside = (right - inside @ basis.mT).norm(dim=-1, keepdim=True)
            right = torch.cat([inside, outside], -1)
            queries, outputs = pad(queries, (0, 1)), pad(outputs, (0, 0, 0, 1))
        queries = (queries - along[..., :, None] * right[..., None, :]) / scale[..., None]
    queries = _turned(stage, queries, rows)
    inner = outputs @ _covariances(stage, rows, self_included) @ queries / stage.key.shape[-1] ** 0.5
    least = torch.linalg.svdvals(_eye(stage, inner.shape[-1]) - inner)[..., -1]
    return least.clamp(max=1.0) if small else least


@without_autocast
def head_traces(stage: HeadStage, rows: Tensor | None = None, self_included: bool = False) -> Float[Tensor, "B H m"]:
    r"""The first-order barrier of each head, without its covariance matrices.

    Formula: $\mathrm{tr}(G_i C_i) = \sum_s \alpha_{is}\, k_s^\top G_i v_s - \bar k_i^\top G_i \bar v_i$, the first term
    of $-\log\lvert\det(I_k - G_i C_i)\rvert$.

    Args and Errors: as for `cross_covariances`.

    Returns:
        (B, H, m), in nats, in at least float32.

    How to read it: as `first_order`. The cost is that of the rows' attention once more, and of one product with
    $W_Q W_O$ for every value.

    Source: *ours*.
    """
    stage, rows = _prepared(stage, rows)
    weights, key, value = _weights(stage, rows, self_included), _moved(stage.key), _moved(stage.value)
    common, mean_key, mean_value = _common(stage), weights @ key, weights @ value
    mean_read = _turned(stage, (mean_value @ common.mT)[..., None], rows)[..., 0]
    trace = _paired(stage, rows, weights, key, value, common) - (mean_key * mean_read).sum(-1)
    if stage.norm_jacobian is not None:
        along, across, scale = _norm_terms(stage, rows)
        along = _turned(stage, along[..., None], rows)[..., 0]
        both = (weights * (across @ value.mT) * (along @ key.mT)).sum(-1)
        trace = (trace - both + (across * mean_value).sum(-1) * (along * mean_key).sum(-1)) / scale
    return trace / key.shape[-1] ** 0.5


def _prepared(stage: HeadStage, rows: Tensor | None) -> tuple[HeadStage, Tensor]:
    """The stage in one dtype, at least float32, and without NaN; the rows as positions."""
    names = ["query", "key", "value", "query_weight", "output_weight"]
    tensors, norm = [getattr(stage, name) for name in names], stage.norm_jacobian
    extra = [] if norm is None else [name for name in ("x", "weight") if getattr(norm, name) is not None]
    tensors = upcast(*tensors, *(getattr(norm, name) for name in extra))
    sums = torch.stack([tensor.detach().sum() for tensor in tensors])  # a GPU is asked once
    if not bool(sums.isfinite().all()) and not all(fine := [all_finite(tensor) for tensor in tensors]):
        first = fine.index(False)
        where = tuple((~tensors[first].isfinite()).nonzero()[0].tolist())
        name = [*names, *(f"norm_jacobian.{part}" for part in extra)][first]
        raise ValueError(f"{name} of the stage has NaN or infinity, first at {where}: look at what computed it")
    if norm is not None:
        norm = replace(norm, **dict(zip(extra, tensors[len(names) :], strict=True)))
    rows = positions(rows, stage.key.shape[-2], stage.key.device)
    return replace(stage, **dict(zip(names, tensors, strict=False)), norm_jacobian=norm), rows


def _eye(stage: HeadStage, size: int) -> Tensor:
    return torch.eye(size, dtype=stage.key.dtype, device=stage.key.device)


def _moved(x: Tensor) -> Tensor:
    """Vectors minus their mean over the sequence: a covariance does not see the shift, but rounding does."""
    return x - x.detach().mean(-2, keepdim=True) if x.shape[-2] else x


def _weights(stage: HeadStage, rows: Tensor, self_included: bool) -> Tensor:
    """Attention weights of the rows, (B, H, m, n)."""
    logits = stage.query[:, :, rows] @ stage.key.mT / stage.key.shape[-1] ** 0.5
    return attention_weights(logits, visible(rows, stage.key.shape[-2], self_included))


def _covariances(stage: HeadStage, rows: Tensor, self_included: bool) -> Tensor:
    weights, key, value = _weights(stage, rows, self_included), _moved(stage.key), _moved(stage.value)
    return weighted_products(weights, value, key) - (weights @ value)[..., :, None] * (weights @ key)[..., None, :]


def _common(stage: HeadStage) -> Tensor:
    """What of W_Q N_i W_O is the same at every row, (H, k, v)."""
    norm = stage.norm_jacobian
    return (stage.query_weight if norm is None else norm.project(stage.query_weight)) @ stage.output_weight


def _norm_terms(stage: HeadStage, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """W_Q N_i W_O = (common - along across^T) / scale: (B, H, m, k), (B, H, m, v) and (B, 1, m)."""
    left, right, scale = stage.norm_jacobian.parts(rows)
    along = torch.einsum("bmd,hkd->bhmk", left, stage.query_weight)
    return along, torch.einsum("bmd,hdv->bhmv", right, stage.output_weight), scale[:, None, :, 0]


def _turned(stage: HeadStage, columns: Tensor, rows: Tensor) -> Tensor:
    """Rotate the columns of matrices (..., m or 1, k, c), each at its row."""
    if stage.turn is None:
        return columns
    columns = columns.expand(*columns.shape[:-3], len(rows), *columns.shape[-2:])
    return stage.turn(columns.movedim(-1, -3), rows).movedim(-3, -1)  # (..., c, m, k) and back


def _couplings(stage: HeadStage, rows: Tensor, queries: Tensor, outputs: Tensor) -> Tensor:
    """G_i = R_i W_Q N_i W_O / sqrt(k), (B or 1, *heads, m or 1, k, v), from (*heads, k, d) and (*heads, d, v)."""
    norm = stage.norm_jacobian
    common = ((queries if norm is None else norm.project(queries)) @ outputs)[None, ..., None, :, :]
    if norm is not None:
        ones = [1] * (queries.ndim - 2)
        left, right, scale = (part.view(len(part), *ones, *part.shape[1:]) for part in norm.parts(rows))
        along, across = left @ queries.mT, right @ outputs  # (B, *heads, m, k), (B, *heads, m, v)
        common = (common - along[..., :, None] * across[..., None, :]) / scale[..., None]
    return _turned(stage, common, rows) / stage.key.shape[-1] ** 0.5


def _paired(stage: HeadStage, rows: Tensor, weights: Tensor, key: Tensor, value: Tensor, common: Tensor) -> Tensor:
    """Sums of a_is k_s . R_i G v_s over s, (B, H, m), for the common matrix G.

    A rotation in planes has two entries (x, y) in each row x that are not zero. For each, k_s[x] (G v_s)[y] is one
    number a token. Attention averages these numbers, and the entry (x, y) of R_i multiplies the average.
    """
    if stage.turn is None:
        return (weights @ (key * (value @ common.mT)).sum(-1, keepdim=True))[..., 0]
    width = key.shape[-1]
    turned = stage.turn(_eye(stage, width)[:, None].expand(-1, len(rows), -1), rows)  # R_i[x, y] at [y, i, x]
    used = turned.ne(0).any(1)  # (y, x)
    partners = used.byte().topk(max(1, int(used.sum(0).max())), 0).indices  # (entries, x): y of each entry of row x
    entries = turned[partners, :, torch.arange(width, device=key.device)].flatten(0, 1).T  # (m, entries x)
    reads = value @ common[:, partners.flatten()].mT  # (B, H, n, entries x)
    products = (reads.unflatten(-1, (-1, width)) * key[..., None, :]).flatten(-2)
    return ((weights @ products) * entries).sum(-1)

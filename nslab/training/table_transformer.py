"""The one-layer Transformer of the grokking papers, computed from tables of tokens: exact, and several times faster."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from nslab.tasks import ModularArithmetic
from nslab.training.pair_networks import Look, Weights, normal_weights, rows_of
from nslab.transformer import Transformer, TransformerConfig


@dataclass(frozen=True)
class TokenTableTransformer:
    r"""The one-layer Transformer of the grokking papers on a, b, "=", computed from tables of tokens.

    Formula: with $x_i$ token and position i, $s_h = \mathrm{softmax}_i(q_h \cdot k_{h,i} / \sqrt{d_h})$
    for the query of "=", $z = \sum_i s_{h,i} v_{h,i}$ (heads side by side), the stream at "=" is
    $r = x_= + z W_O$, and logits $= (r + \mathrm{ReLU}(r W_I + b_I) W_2 + b_2)\, W_U$. No norm, ReLU, biases in the MLP
    only, an output matrix of its own over all p + 1 tokens.

    Two identities make it fast, and change no value. Only "=" is read, and its query is the same for every pair; so
    scores and values are needed for the 2p + 1 rows (token, position) alone, and each pair gathers its own. And
    without a norm, neighbouring matrices can be multiplied first: a pair meets $W_O W_I$, $W_O W_U$ and $W_2 W_U$. A
    step costs 6 (d m + m V + d V) operations a pair, V = p + 1, against 6 * 3 (4 d^2 + 2 d m + d V) over three
    positions; tables and products, which all pairs share, come on top, some hundredths of it at p = 113.

    Initial weights are normal with standard deviation 1/sqrt(d), those of the output matrix 1/sqrt(V); biases are 0.

    Args:
        task: which pairs, and how many answers.
        width: d, a multiple of the heads.
        heads: attention heads.
        hidden: m, hidden units of the MLP.

    Source: Nanda et al. (2023), arXiv 2301.05217; at p = 113 it has their 226,816 weights.
    """

    task: ModularArithmetic
    width: int = 128
    heads: int = 4
    hidden: int = 512

    def __post_init__(self):
        self.config()  # refuses a width that is no multiple of the heads

    @property
    def units(self) -> int:
        """Hidden units of the MLP."""
        return self.hidden

    def config(self) -> TransformerConfig:
        """The shape of the plain network."""
        return TransformerConfig(
            vocabulary=self.task.vocabulary,
            context=3,
            width=self.width,
            layers=1,
            heads=self.heads,
            hidden=self.hidden,
            norm="none",
            activation="relu",
            tied=False,
            special=(self.task.modulus,),
        )

    def initial(self, generator: torch.Generator) -> Weights:
        """Fresh weights of one member, on the generator's device."""
        d, m, tokens = self.width, self.hidden, self.task.vocabulary
        shapes = {"tokens": (tokens, d), "positions": (3, d)}
        shapes |= dict.fromkeys(("query", "key", "value", "projection"), (d, d))
        shapes |= {"input": (d, m), "input_bias": (m,), "output": (m, d), "output_bias": (d,), "logits": (d, tokens)}
        spreads = dict.fromkeys(shapes, d ** (-0.5))
        return normal_weights(shapes, spreads | {"logits": tokens**-0.5, "input_bias": 0, "output_bias": 0}, generator)

    def __call__(self, weights: Weights, x: Int[Tensor, "*members rows 2"], /) -> Float[Tensor, "members rows tokens"]:
        """Logits at "=" for pairs x, over all tokens. They can be differentiated once. Operands are not checked."""
        z, _ = self._attend(weights, x)
        return _ReluHead.apply(z, *self._products(weights))

    def look(self, weights: Weights, x: Int[Tensor, "*members rows 2"]) -> Look:
        """As a call, with the hidden units before the ReLU and the attention of "="."""
        z, attention = self._attend(weights, x)
        into, direct, outer = self._products(weights)
        hidden = torch.bmm(z, into)
        return Look(torch.baddbmm(torch.bmm(z, direct), hidden.relu(), outer), hidden, attention)

    def _attend(self, w: Weights, x: Tensor) -> tuple[Tensor, Tensor]:
        """What the heads of "=" read, and a 1, (members, rows, d + 1); their weights (members, rows, heads, 3)."""
        p, heads = self.task.modulus, self.heads
        members, _, d = w["tokens"].shape
        operands = w["tokens"][:, None, :p] + w["positions"][:, :2, None]  # (members, 2, p, d)
        equals = self._equals(w)
        table = torch.cat([operands.flatten(1, 2), equals], dim=1)  # (members, 2p + 1, d)
        query, key = torch.bmm(equals, w["query"]), torch.bmm(table, w["key"])
        by_head = (members, -1, heads, d // heads)
        scores = (key.view(by_head) * query.view(by_head)).sum(-1) * (d // heads) ** -0.5  # (members, 2p + 1, heads)
        both = torch.cat([torch.bmm(table, w["value"]), scores], dim=2)  # one gather fetches a row's value and scores

        rows = x.shape[-2]
        found = [rows_of(both, x[..., 0]), rows_of(both, x[..., 1] + p), both[:, 2 * p :]]
        shares = torch.stack([part[..., d:].expand(-1, rows, -1) for part in found]).softmax(0)
        values = [part[..., :d].unflatten(2, (heads, -1)) for part in found]  # (members, rows or 1, heads, d / heads)
        z = values[0] * shares[0].unsqueeze(-1)
        for value, share in zip(values[1:], shares[1:], strict=True):
            z = z.addcmul(value, share.unsqueeze(-1))
        return F.pad(z.flatten(2), (0, 1), value=1.0), shares.permute(1, 2, 3, 0)

    def _products(self, w: Weights) -> tuple[Tensor, Tensor, Tensor]:
        """From what the heads read to the hidden units and to the logits (d + 1, .), and from hidden units to logits.

        The last row of the first two meets the 1 beside what the heads read: all that is the same for every pair.
        """
        equals = self._equals(w)
        into = torch.bmm(equals, w["input"]) + w["input_bias"].unsqueeze(1)
        direct = torch.bmm(equals + w["output_bias"].unsqueeze(1), w["logits"])
        return (
            torch.cat([torch.bmm(w["projection"], w["input"]), into], dim=1),
            torch.cat([torch.bmm(w["projection"], w["logits"]), direct], dim=1),
            torch.bmm(w["output"], w["logits"]),
        )

    def _equals(self, w: Weights) -> Tensor:
        """Token and position "=", (members, 1, d)."""
        return w["tokens"][:, self.task.modulus :] + w["positions"][:, 2:]

    def module(self, weights: Weights) -> nn.Module:
        """One member as a plain module: nslab's `Transformer` over all three positions, read at the last.

        Its `network` is the `Transformer`, ready, after `eval()`, for everything in nslab that takes one. Attention's
        biases, which this network does not have, are zero there and frozen.
        """
        return _ThreePositions(self, weights)


class _ThreePositions(nn.Module):
    """Obvious and slow: the whole Transformer on a, b, "=", all three positions, the last one's logits."""

    def __init__(self, network: TokenTableTransformer, weights: Weights):
        super().__init__()
        self.equals = network.task.modulus
        self.network = Transformer(network.config(), generator=torch.Generator()).to(weights["tokens"])
        layer = self.network.layers[0]
        with torch.no_grad():
            self.network.tokens.weight.copy_(weights["tokens"])
            self.network.positions.weight.copy_(weights["positions"])
            layer.attention.qkv.weight.copy_(torch.cat([weights[name] for name in ("query", "key", "value")], dim=1).T)
            layer.attention.output.weight.copy_(weights["projection"].T)
            for name, linear in (("input", layer.mlp.input), ("output", layer.mlp.output)):
                linear.weight.copy_(weights[name].T)
                linear.bias.copy_(weights[f"{name}_bias"])
            self.network.output.weight.copy_(weights["logits"].T)
            for linear in (layer.attention.qkv, layer.attention.output):
                linear.bias.zero_().requires_grad_(False)

    def forward(self, x: Int[Tensor, "rows 2"]) -> Float[Tensor, "rows tokens"]:
        """Logits at "=" for pairs x."""
        prompts = F.pad(x, (0, 1), value=self.equals)  # (rows, 3)
        return self.network(prompts)[:, -1]


class _ReluHead(torch.autograd.Function):
    """z D + ReLU(z I) O, with the one large intermediate kept once and overwritten where it is no longer needed."""

    @staticmethod
    def forward(ctx, z: Tensor, into: Tensor, direct: Tensor, outer: Tensor) -> Tensor:
        hidden = torch.bmm(z, into).relu_()  # (members, rows, hidden)
        ctx.save_for_backward(z, into, direct, outer, hidden)
        return torch.bmm(z, direct).baddbmm_(hidden, outer)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, ...]:
        z, into, direct, outer, hidden = ctx.saved_tensors
        inner = torch.bmm(gradient, outer.mT)
        torch.ops.aten.threshold_backward.grad_input(inner, hidden, 0, grad_input=inner)
        for_z = torch.bmm(gradient, direct.mT).baddbmm_(inner, into.mT)
        return for_z, torch.bmm(z.mT, inner), torch.bmm(z.mT, gradient), torch.bmm(hidden.mT, gradient)

"""The shape of a Transformer, as a frozen configuration that is checked when it is made."""

from dataclasses import dataclass
from typing import Literal

Norm = Literal["layer", "rms", "none"]
Positions = Literal["learned", "rotary", "none"]
Activation = Literal["gelu", "relu", "quadratic"]


@dataclass(frozen=True)
class TransformerConfig:
    """Everything that fixes a network except its weights.

    Attributes:
        vocabulary: number of token ids, 0 .. vocabulary - 1.
        context: the longest sequence, in tokens.
        width: coordinates of the residual stream (d_model).
        layers: blocks of attention and MLP.
        heads: attention heads; the width is a multiple of it.
        causal: whether position i sees only 0 .. i. False: every position sees all.
        norm: "layer" (LayerNorm), "rms" (RMSNorm) before each block and at the end, or "none".
        positions: "learned" vectors added to the embeddings, "rotary" turns of queries and keys, or "none".
        activation: "gelu" (exact, x Φ(x), not the tanh approximation), "relu" or "quadratic" (x²).
        tied: whether the output matrix is the embedding matrix; then `outputs` must stay None.
        hidden: width of the MLP's hidden layer; None stands for 4 * width.
        outputs: numbers a position gives; None stands for the vocabulary.
        bias: whether linear layers and LayerNorm have biases. The output matrix has none.
        epsilon: what norms add to the variance or mean square.
        rotary_base: the base of the rotary angles.
        special: ids that noise must not touch and must not produce.

    Errors: `ValueError` naming the field, its value and the remedy.

    >>> TransformerConfig(vocabulary=5, context=8, width=30, layers=1, heads=6).hidden_width
    120
    """

    vocabulary: int
    context: int
    width: int
    layers: int
    heads: int
    causal: bool = True
    norm: Norm = "layer"
    positions: Positions = "learned"
    activation: Activation = "gelu"
    tied: bool = True
    hidden: int | None = None
    outputs: int | None = None
    bias: bool = True
    epsilon: float = 1e-5
    rotary_base: float | int = 10_000
    special: tuple[int, ...] = ()

    def __post_init__(self):
        for name in ("vocabulary", "context", "width", "layers", "heads", "hidden", "outputs"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}: give a positive whole number")
        for name, known in (("norm", Norm), ("positions", Positions), ("activation", Activation)):
            if getattr(self, name) not in known.__args__:
                raise ValueError(f"{name} is {getattr(self, name)!r}: choose one of {', '.join(known.__args__)}")
        if self.width % self.heads:
            fits = [heads for heads in range(1, self.width + 1) if self.width % heads == 0]
            nearest = sorted(sorted(fits, key=lambda heads: abs(heads - self.heads))[:3])
            raise ValueError(
                f"heads is {self.heads} and width {self.width}: make the width a multiple of the number of heads, "
                f"for example heads = {' or '.join(map(str, nearest))}"
            )
        if self.positions == "rotary" and (self.width // self.heads) % 2:
            raise ValueError(
                f"positions is 'rotary' and width / heads = {self.width // self.heads} is odd: rotary positions turn "
                "pairs of coordinates; choose an even head width, or positions 'learned' or 'none'"
            )
        if self.tied and self.outputs not in (None, self.vocabulary):
            raise ValueError(
                f"outputs is {self.outputs} and tied is True: a tied output matrix has one row for each of the "
                f"{self.vocabulary} tokens; set tied=False"
            )
        for token in self.special:
            if not 0 <= token < self.vocabulary:
                raise ValueError(f"special has token id {token}: ids run from 0 to {self.vocabulary - 1}")

    @property
    def hidden_width(self) -> int:
        """Width of the MLP's hidden layer."""
        return 4 * self.width if self.hidden is None else self.hidden

    @property
    def output_width(self) -> int:
        """Numbers that a position gives."""
        return self.vocabulary if self.outputs is None else self.outputs


CHAR_GPT = TransformerConfig(vocabulary=81, context=128, width=128, layers=4, heads=4)
"""The shape that every twin of the book shares: characters, 4 layers, width 128, 4 heads, context 128."""

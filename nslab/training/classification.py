"""Text classification with a causal network: examples as token ids, a head on the last token, batches of like lengths.

examples = encoded(items, encode, classes=("rotten", "fresh"), context=128, separator=0)
model = LastTokenClassifier(network, examples.classes)
batches = EpochBatches(examples, batch=32, epochs=3, seed=0)
trainer = Trainer(model, TrainingConfig(batches.steps, 32, 1e-3), lambda _: batches(trainer.step))
trainer.run()
right = logits(model.eval(), held_out).argmax(1) == held_out.labels
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Integer, Shaped
from torch import Tensor, nn

from nslab.corpora.labelled import Labelled
from nslab.protocols import check_mode
from nslab.transformer import Transformer
from nslab.transformer.network import SPREAD

PADDING = -1  # no token id: it stands to the right of a text that is shorter than its row
POOL = 16  # batches that are sorted by length together: more waste less on padding, and shuffle less


@dataclass(frozen=True, eq=False)
class Examples:
    """Labelled texts as token ids.

    Attributes:
        ids: (examples, longest), int32; every row is a text, its separator, and `PADDING` to the right.
        labels: 0 .. classes - 1, (examples,), int64.
        classes: how many there are.
        cut: examples that were too long for the context and lost their ends.
        empty: examples of which a text is empty; they are kept.
    """

    ids: Integer[Tensor, "examples longest"]
    labels: Integer[Tensor, " examples"]
    classes: int
    cut: int
    empty: int

    def __len__(self) -> int:
        """The number of examples."""
        return len(self.ids)

    @property
    def lengths(self) -> Integer[Tensor, " examples"]:
        """Tokens of each example, separators included."""
        return (self.ids != PADDING).sum(1)

    def to(self, device: torch.device | str) -> "Examples":
        """The same examples on another device."""
        return Examples(self.ids.to(device), self.labels.to(device), self.classes, self.cut, self.empty)


def encoded(
    items: Sequence[Labelled],
    encode: Callable[[str], Tensor],
    *,
    classes: Sequence[int | str],
    context: int,
    separator: int,
) -> Examples:
    """Labelled texts as examples: the tokens of the text and a separator; of a pair, those of the second text as well.

    Args:
        items: texts or pairs with their labels.
        encode: a text to its token ids (tokens,), such as `BytePairs.encode`.
        classes: the labels, in the order of their numbers: class k is `classes[k]`.
        context: the longest example, in tokens. A longer one is cut at the end of its text. Of a pair the longer text
            is cut first, until both are equally long, then both.
        separator: a token id that stands in no text; the answer is read at the last one. Take one that is new to a
            pre-trained network: at what ends the passages of its running text, it has learnt to forget the passage.

    Returns:
        `Examples` in the order of `items`, on the CPU.

    How to read it: an empty text is no error. Nothing is left of it but its separator, and `empty` counts them.

    Errors: `ValueError` for no items, a label that is not among the classes, with its place, a separator that is found
    in a text, texts and pairs mixed, or a context with no room for a token of each text.

    >>> one = encoded([Labelled("ab", 1)], lambda text: torch.tensor([*text.encode()]), classes=(0, 1), context=4,
    ...               separator=0)
    >>> one.ids.tolist(), one.labels.tolist()
    ([[97, 98, 0]], [1])
    """
    if not items:
        raise ValueError("items is empty: give at least one labelled text")
    pairs = items[0].text2 is not None
    if context < 2 * (1 + pairs):
        raise ValueError(f"context is {context}: give room for a token and a separator of each text")
    number = {label: k for k, label in enumerate(classes)}
    rows, labels, cut, empty = [], [], 0, 0
    for place, item in enumerate(items):
        if item.label not in number:
            secret = "; -1 stands for a secret label: take a split that has labels" * (item.label == -1)
            known = ", ".join(map(repr, classes))
            raise ValueError(f"items[{place}] has the label {item.label!r}: the classes are {known}{secret}")
        if pairs is not (item.text2 is not None):
            raise ValueError(f"items[{place}].text2 is {item.text2!r}: give texts, or pairs, and not both")
        texts = [item.text, item.text2] if pairs else [item.text]
        parts = [encode(text).tolist() for text in texts]
        if any(separator in part for part in parts):
            raise ValueError(f"separator is {separator}, which is in items[{place}]: take an id that stands in no text")
        kept = _fitting([len(part) for part in parts], context - len(parts))
        rows.append([token for part, length in zip(parts, kept, strict=True) for token in (*part[:length], separator)])
        labels.append(number[item.label])
        cut += sum(kept) < sum(map(len, parts))
        empty += not all(text.strip() for text in texts)
    longest = max(map(len, rows))
    ids = torch.tensor([row + [PADDING] * (longest - len(row)) for row in rows], dtype=torch.int32)
    return Examples(ids, torch.tensor(labels), len(classes), cut, empty)


class LastTokenClassifier(nn.Module):
    r"""A causal Transformer with a linear head on what its final norm gives at the last token of each row.

    Formula: logits $= W\, N(h_L)_{last} + b$, with W drawn as the network's own weights, b = 0.

    Args:
        body: the network; it is trained with the head. Its output matrix is not used.
        classes: number of classes.
        generator: source of W, on the device of the body's weights.

    A position of a causal network sees nothing to its right, so that padding there changes no answer.

    Errors: `ValueError` for a body that is not causal, or fewer than 2 classes.
    """

    def __init__(self, body: Transformer, classes: int, generator: torch.Generator | None = None):
        super().__init__()
        if not body.config.causal:
            raise ValueError("body has causal=False: its last token would see the padding; give a causal network")
        if classes < 2:
            raise ValueError(f"classes is {classes}: give at least 2")
        self.body, self.classes = body, classes
        self.head = nn.utils.skip_init(nn.Linear, body.config.width, classes).to(body.tokens.weight)
        with torch.no_grad():
            self.head.weight.normal_(0, SPREAD, generator=generator)
            self.head.bias.zero_()

    def forward(self, ids: Shaped[Tensor, "batch length"]) -> Float[Tensor, "batch classes"]:
        """Logits (batch, classes) of rows of token ids (batch, length), each followed by any number of `PADDING`.

        Errors: as of the body; a row of nothing but padding has no last token and is refused.
        """
        at = (ids != PADDING).sum(1) - 1
        x = self.body._enter(self.body.embed(ids.clamp(min=0)))
        self.body._check_positions(at, x)
        *layers, last = self.body.layers
        for layer in layers:
            x = layer(x)
        x = x + last.attention(last.attention_norm(x))
        x = x[torch.arange(len(x), device=x.device), at, None]  # (batch, 1, width): the rest is wanted there alone
        return self.head(self.body.final_norm(x + last.mlp(last.mlp_norm(x))))[:, 0]


class EpochBatches:
    """Batches for a number of epochs; within a batch lengths are similar, and padding stops at the longest.

    An epoch shuffles the examples, sorts pools of 16 batches by length, and shuffles the batches. What does not fill a
    batch is left out, others in each epoch.

    Args:
        examples: what is trained on; batches are on its device.
        batch: rows of a batch.
        epochs: how often each example is seen.
        seed: fixes the order.

    `batches(step)` is the batch of step 0 .. `batches.steps - 1`, whatever was asked before.

    Errors: `ValueError` when there are fewer examples than a batch has rows, or no epochs.
    """

    def __init__(self, examples: Examples, batch: int, epochs: int, seed: int):
        if not 1 <= batch <= len(examples) or epochs < 1:
            raise ValueError(
                f"batch is {batch}, epochs {epochs}, and there are {len(examples)} examples: give at least 1 epoch, "
                "and a batch of at most all examples"
            )
        self.examples, self.lengths = examples, examples.lengths.cpu()
        generator = torch.Generator().manual_seed(seed)
        self._order = torch.cat([self._epoch(batch, generator) for _ in range(epochs)])

    @property
    def steps(self) -> int:
        """Batches of all epochs together."""
        return len(self._order)

    def __call__(self, step: int) -> tuple[Integer[Tensor, "batch length"], Integer[Tensor, " batch"]]:
        """Ids (batch, longest of them) and labels (batch,)."""
        chosen = self._order[step]
        longest = int(self.lengths[chosen].max())
        chosen = chosen.to(self.examples.ids.device)
        return self.examples.ids[chosen, :longest], self.examples.labels[chosen]

    def _epoch(self, batch: int, generator: torch.Generator) -> Tensor:
        """Indices (batches, batch)."""
        count = len(self.lengths) // batch
        order = torch.randperm(len(self.lengths), generator=generator)[: count * batch]
        pools = [pool[self.lengths[pool].argsort(stable=True)] for pool in order.split(POOL * batch)]
        return torch.cat(pools).view(count, batch)[torch.randperm(count, generator=generator)]


@torch.no_grad()
def logits(model: LastTokenClassifier, examples: Examples, *, batch: int = 128) -> Float[Tensor, "examples classes"]:
    """The logits of every example, in their order, computed in batches of like lengths.

    A network with learned noise answers by its mode, the mean if nothing else was said: see `NoiseFormer.noise`.

    Errors: `ValueError` for a model in training mode.
    """
    check_mode(model, "model")
    lengths = examples.lengths
    order = lengths.argsort(stable=True)
    found = [model(examples.ids[part, : int(lengths[part].max())]) for part in order.split(batch)]
    return torch.cat(found)[order.argsort()]


def _fitting(lengths: list[int], room: int) -> list[int]:
    """How much of one or two texts is kept, so that all is used and the longer one gives first."""
    if sum(lengths) <= room:
        return lengths
    if len(lengths) == 1:
        return [room]
    first, second = lengths
    kept = max(min(first, room // 2), room - second)
    return [kept, room - kept]

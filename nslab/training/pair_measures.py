"""What an ensemble on modular arithmetic does at a checkpoint, exactly, over all pairs: accuracy, energies, Fourier.

    measures = PairMeasures(task, splits)
    EnsembleTrainer(network, weights, config, x, y, measure=measures)

Everything is computed and stays on the device of the weights.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Float64, UInt8
from torch import Tensor

from nslab.stability.tabulated import efron_stein_energies
from nslab.tasks import ModularArithmetic, Split
from nslab.training.pair_networks import Look, Weights

CPU_NUMBERS = 2**20  # hidden units at once, over members and rows: few enough for a cache; more are slower
ACCELERATOR_NUMBERS = 2**28
GROUPS = ("train", "test", "mirrored", "unseen")


@runtime_checkable
class Inspectable(Protocol):
    """A network of many members that shows what lies behind its logits, as `QuadraticNetwork` does."""

    def look(self, weights: Weights, x: Tensor) -> Look:
        """Logits, hidden units and attention for pairs x (rows, 2)."""
        ...


class PairMeasures:
    r"""Measures of networks on all pairs of a task: `measures(network, weights, members)` gives named tensors.

    Args:
        task: the pairs and their labels.
        splits: which pairs each member of the ensemble trains on, one a member, those that leave early included.

    A call takes a network with `look` (`QuadraticNetwork`, `TokenTableTransformer`, or one of yours whose outputs begin
    with those of the task; `look` gets pairs (rows, 2), shared by all members), the weights of some members, and the
    numbers of these members in `splits`. It returns, with the leading axis members:

    - train_loss, test_loss: mean cross-entropy in nats, over all outputs; down to 1e-38 where the network is sure.
    - train_accuracy, test_accuracy; mirrored_accuracy, unseen_accuracy: the two groups of test pairs apart. NaN where a
      group is empty.
    - test_probability: mean probability of the right answer on the test pairs, the smooth cousin of test_accuracy.
    - energies (members, 4): Efron-Stein energies of the class probabilities, constant, first, second, both. With
      `energy_stability` they give the noise stability at any keep, beside `task.stability`, and with
      `energy_sensitivity` the average sensitivity, beside `task.sensitivity`.
    - attention_energies (members, 4): the same of the attention of "=", three numbers that sum to 1; mean over heads.
      Only where `look` gives attention.
    - weight_norm: Euclidean norm of all weights together.
    - spectrum (members, p // 2): share of the logits' energy that waves of frequency k = 1, 2, ... in the distance
      between answer and label explain. fourier_share: their sum. NaN where the logits are constant. See `_spectrum`.
    - neuron_frequency (members, hidden), int16, and neuron_share (members, hidden), half precision: the strongest
      frequency in what the first operand alone does to the input of a hidden unit, and its share of that energy; 0 and
      0 for a unit that the first operand does not reach.
    - correct (members, ceil(rows / 8)), uint8: one bit a pair, the highest first, set where the answer is right.
      `numpy.unpackbits(correct, axis=-1, count=rows)` gives them back.

    The spectrum and the neurons' frequencies take the group coordinate `task.logarithms`. Multiplication and division
    have none for the token 0: pairs that hold it, and its logit, are left out of these. Where the task has no such
    coordinate (multiplication, composite modulus) spectrum, fourier_share and the two of the neurons are absent.

    How to read it: test accuracy counts answers, all or none. The energies and the spectrum move while no answer has
    changed yet; whether they move *before* it is the question of `milestones.lead_lag`. A fourier_share near 1 says
    that the logits are a function of the distance to the label alone, as those of a generalising solution, and also
    those of any other function of the label.

    Errors: `ValueError` for no splits, or one with another number of rows than the task. That a split with as many
    rows was made for this very task is not checked, nor that there is one for each member.

    Source: ours. The measures restricted to frequencies follow the idea of Nanda et al. (2023), arXiv 2301.05217, and
    are not theirs; exact energies of a network on all pairs, the noise stability of arXiv 2602.08287.
    """

    def __init__(self, task: ModularArithmetic, splits: Sequence[Split]):
        if not splits:
            raise ValueError("splits is empty: give one split for each member of the ensemble")
        rows = len(task.pairs)
        for member, split in enumerate(splits):
            if len(split.train) != rows:
                raise ValueError(f"splits[{member}] has {len(split.train)} rows and the task {rows}: split this task")
        self.task = task
        self._tables = {name: torch.stack([getattr(split, name) for split in splits]) for name in GROUPS}
        self._tables |= {"pairs": task.pairs, "labels": task.labels}
        try:
            logarithms = task.logarithms
        except ValueError:
            self.order = 0  # no group, no Fourier analysis
            return
        self.order = int(logarithms.max()) + 1
        self._tables["tokens"] = logarithms.argsort()[-self.order :]  # the token of each logarithm, (order,)
        whole = self.order == task.modulus
        rows_in = torch.arange(rows) if whole else task.pairs.prod(1).nonzero().squeeze(1)  # no token 0
        sorted_in = logarithms[task.labels[rows_in]].argsort(stable=True)
        self._tables["by_label"] = rows_in[sorted_in]  # blocks of rows with one label each, by its logarithm

    @torch.no_grad()
    def __call__(self, network: Inspectable, weights: Weights, members: list[int]) -> dict[str, Tensor]:
        """The measures of the weights of some members, whose numbers in `splits` are `members`."""
        if max(members, default=0) >= (splits := len(self._tables["train"])):
            raise ValueError(f"there are {splits} splits, and none for member {max(members)}: give one split a member")
        device = next(iter(weights.values())).device
        self._tables = {name: table.to(device) for name, table in self._tables.items()}  # moves once
        widest = max(self.task.outputs, *(weight.shape[-1] for weight in weights.values()))
        most = (CPU_NUMBERS if device.type == "cpu" else ACCELERATOR_NUMBERS) // widest  # rows times members
        size = max(1, most // len(self.task.pairs))
        found = []
        for begin in range(0, len(members), size):
            some = {name: weight[begin : begin + size] for name, weight in weights.items()}
            chosen = members[begin : begin + size]
            found.append(self._measure(*self._look(network, some, most // len(chosen)), some, chosen))
        return {name: torch.cat([one[name] for one in found]) for name in found[0]}

    def _look(self, network: Inspectable, weights: Weights, rows: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """Logits and attention for all pairs, about so many rows at a time, and the main effects on hidden units.

        These are means over the second operand, (members, firsts, hidden); one without a logarithm is left out.
        """
        seconds = self.task.shape[1]
        start = max(0, seconds - self.order) if self.order else 0
        logits, effects, attention = [], [], []
        for pairs in self._tables["pairs"].split(max(1, rows // seconds) * seconds):  # whole lines of the p x p picture
            look = network.look(weights, pairs)
            logits.append(look.logits)
            effects.append(look.hidden.unflatten(1, (-1, seconds))[:, :, start:].mean(2))
            attention.append(look.attention)
        return torch.cat(logits, 1), torch.cat(effects, 1), None if attention[0] is None else torch.cat(attention, 1)

    def _measure(
        self, logits: Tensor, effects: Tensor, attention: Tensor | None, weights: Weights, members: list[int]
    ) -> dict[str, Tensor]:
        labels = self._tables["labels"].expand(logits.shape[:2])  # (members, rows)
        losses, probabilities, answers = _answers(logits, labels)
        correct = answers == labels
        masks = {name: self._tables[name][members] for name in GROUPS}
        found = {f"{name}_loss": masked_mean(losses, masks[name]) for name in ("train", "test")}
        found |= {f"{name}_accuracy": masked_mean(correct, mask) for name, mask in masks.items()}
        found["test_probability"] = masked_mean((-losses).exp(), masks["test"])
        found["energies"] = self._energies(probabilities)
        if attention is not None:
            heads = attention.transpose(1, 2)  # (members, heads, rows, 3)
            found["attention_energies"] = self._energies(heads).mean(1)
        found["weight_norm"] = weight_norm(weights)
        found["correct"] = pack_bits(correct)
        if self.order:
            found["spectrum"] = self._spectrum(logits)
            found["fourier_share"] = found["spectrum"].sum(-1)
            found["neuron_frequency"], found["neuron_share"] = self._neurons(effects)
        return found

    def _energies(self, values: Tensor) -> Tensor:
        """Energies of values (..., rows, outputs): (..., 4)."""
        return efron_stein_energies(values.unflatten(-2, self.task.shape), inputs=2)

    def _spectrum(self, logits: Tensor) -> Tensor:
        r"""Share of the logits' energy that is a wave in s = logarithm(label) - logarithm(c), for each frequency.

        Formula: with z the logits minus their mean over c for each pair, $g(s) = E\,[z_c \mid s]$ over all pairs and
        answers c at distance s, $\hat g_k = \frac1N \sum_s g(s) e^{-2\pi i k s / N}$, N the order of the group: the
        share is $2 |\hat g_k|^2 / E z^2$ (once, not twice, at k = N/2). It is that of the least-squares fit of z by
        cos(2 pi k s / N) and sin(2 pi k s / N).
        """
        order, tokens = self.order, self._tables["tokens"]
        table = logits.index_select(1, self._tables["by_label"])  # (members, labels * pairs with this label, outputs)
        skipped = self.task.outputs - order  # 1 where the token 0 is left out
        table = table[..., skipped : self.task.outputs]
        table -= table.mean(-1, keepdim=True)
        energy = torch.linalg.vector_norm(table, dim=-1).double().square().mean(-1) / order  # (members,)
        by_label = table.unflatten(1, (order, -1)).mean(2)[..., tokens - skipped].double()  # (members, labels, answers)
        places = torch.arange(order, device=logits.device)
        answers = (places[:, None] - places) % order  # the answer at [label, s]
        distance = by_label.gather(2, answers.expand_as(by_label)).mean(1)  # (members, s)
        return _wave_energies(distance)[..., 1:] / energy[:, None]

    def _neurons(self, effects: Tensor) -> tuple[Tensor, Tensor]:
        """Dominant frequency and its share, of the main effects (members, firsts, hidden)."""
        effects = effects.index_select(1, self._tables["tokens"])
        energies = _wave_energies(effects.transpose(1, 2).double())[..., 1:]  # (members, hidden, frequencies)
        total = energies.sum(-1)
        largest, index = energies.max(-1)
        reached = total > 0
        frequency = torch.where(reached, index + 1, 0).to(torch.int16)
        return frequency, torch.where(reached, largest / total, 0).to(torch.float16)


def _answers(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Cross-entropies (members, rows), class probabilities, answers (members, rows).

    Where the label is likely, its probability rounds to 1 and the log to 0 long before the loss has vanished; there the
    loss is -log(1 - rest), with the rest summed from the other probabilities.
    """
    top, answers = logits.max(-1)
    probabilities = logits.softmax(-1)
    index = labels.unsqueeze(-1)
    at_label = probabilities.gather(-1, index)
    rest = probabilities.scatter_(-1, index, 0).sum(-1)
    probabilities.scatter_(-1, index, at_label)
    at_label, at_top = at_label.squeeze(-1), probabilities.gather(-1, answers.unsqueeze(-1)).squeeze(-1)
    unlikely = top - logits.gather(-1, index).squeeze(-1) - at_top.log()
    return torch.where(at_label > 0.5, -torch.log1p(-rest), unlikely), probabilities, answers


def _wave_energies(values: Float64[Tensor, "*batch order"]) -> Float64[Tensor, "*batch frequencies"]:
    """Energies at frequencies 0 .. order // 2 of real series, which sum to the mean square (Parseval)."""
    order = values.shape[-1]
    energies = torch.fft.rfft(values, norm="forward").abs().square()
    twice = torch.full((order // 2 + 1,), 2.0, dtype=values.dtype, device=values.device)
    twice[0] = 1
    if order % 2 == 0:
        twice[-1] = 1
    return energies * twice


def masked_mean(
    values: Float[Tensor, "members rows"] | Bool[Tensor, "members rows"], mask: Bool[Tensor, "members rows"]
) -> Float64[Tensor, " members"]:
    """The mean of the values where the mask is set, in double precision; NaN where it is set nowhere."""
    return torch.where(mask, values, 0).sum(-1, dtype=torch.float64) / mask.sum(-1)


def weight_norm(weights: Weights) -> Float64[Tensor, " members"]:
    """Euclidean norm of all weights of each member together."""
    return sum(weight.double().square().reshape(len(weight), -1).sum(1) for weight in weights.values()).sqrt()


def pack_bits(bits: Bool[Tensor, "members rows"]) -> UInt8[Tensor, "members bytes"]:
    """Eight bits a byte, the first one highest, the last byte filled up with zeros: as `numpy.packbits`."""
    padded = torch.nn.functional.pad(bits.to(torch.uint8), (0, -bits.shape[1] % 8))
    places = torch.tensor([128, 64, 32, 16, 8, 4, 2, 1], dtype=torch.uint8, device=bits.device)
    return (padded.unflatten(1, (-1, 8)) * places).sum(-1, dtype=torch.uint8)

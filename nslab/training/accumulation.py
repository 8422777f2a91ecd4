"""Gradient accumulation: steps on batches that do not fit into memory, passed in parts."""

from contextlib import nullcontext

import torch
from torch import nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from nslab.training.parallel import share
from nslab.training.settings import TrainingConfig, learning_rate
from nslab.training.trainer import Batch, Trainer


class AccumulatingTrainer(Trainer):
    r"""A `Trainer` that passes each batch in parts of a few rows, adds up their gradients, and then makes one step.

    Formula: with K parts of equally many rows the gradient of a step is $\frac1K \sum_k \nabla L_k$, which is that of
    the whole batch where the loss is a mean over rows. So it is for penalties that are means over rows, and for those
    that do not look at the rows.

    Args:
        model, config, batch: as of `Trainer`; `config.batch` counts the rows of a step, over all processes and parts.
        micro: rows of a part. It bounds the memory of a pass, and changes nothing else but round-off.
        options: further ones of `Trainer`.

    Chance: whatever is drawn in a pass, such as noise or dropout, is drawn part by part, so that its draws depend on
    `micro`. The generator of the penalties is seeded once a step and goes on from part to part.

    With several processes gradients are exchanged once a step, after the last part.

    How to read it: state, schedule, clipping, log and resume are the `Trainer`'s. States of the two are
    interchangeable.

    Errors: `ValueError` when the rows of a process are no multiple of `micro`; otherwise as `Trainer`.

    >>> x = torch.tensor([[1.0], [2.0]])
    >>> config = TrainingConfig(steps=200, batch=2, learning_rate=0.1, weight_decay=0)
    >>> settings = {"micro": 1, "loss": nn.functional.mse_loss}
    >>> trainer = AccumulatingTrainer(nn.Linear(1, 1), config, lambda g: (x, 3 * x), **settings)
    >>> trainer.run()
    >>> trainer.model(torch.tensor([[10.0]])).round().item()
    30.0
    """

    def __init__(self, model: nn.Module, config: TrainingConfig, batch: Batch, *, micro: int, **options: object):
        super().__init__(model, config, batch, **options)
        rows = config.batch // self.processes
        if micro < 1 or config.batch % self.processes or rows % micro:
            raise ValueError(
                f"micro is {micro}, config.batch {config.batch} and there are {self.processes} processes: make the "
                "batch a multiple of micro * processes"
            )
        self.micro = micro

    def _update(self) -> None:
        """One step: batch, loss and gradient part by part, clipping, AdamW. Nothing here waits for the device."""
        config = self.config
        x, y = self.batch(self._seeded("batch"))
        if len(x) != config.batch:
            raise ValueError(f"batch returned {len(x)} rows and config.batch is {config.batch}: make them equal")
        if self.processes > 1:
            x, y = share(x), share(y)
        noise = self._seeded(f"penalty {self.rank}") if self.penalties else None
        parts = list(zip(x.split(self.micro), y.split(self.micro), strict=True))
        means = 0
        for number, (part, target) in enumerate(parts, start=1):
            last = number == len(parts) or self.processes == 1
            with nullcontext() if last else self._network.no_sync():
                means = means + self._pass(part, target, noise, share=1 / len(parts))
        norm = get_total_norm([weight.grad for weight in self.weights if weight.grad is not None])
        if config.clip is not None:
            clip_grads_with_norm_(self.weights, config.clip, norm)
        rate = learning_rate(config, self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._sums += torch.cat([means[:1], norm.detach().to(means)[None], means[1:]])
        self._summed += 1
        self.step += 1

    def _pass(self, x: torch.Tensor, y: torch.Tensor, noise: torch.Generator | None, share: float) -> torch.Tensor:
        """Forward and backward of one part; its share of the mean loss, and of the mean of each penalty."""
        with self._precision():
            output = self._network(x)
            loss = total = self.loss(output, y)
            terms = [penalty(self.model, x, output, generator=noise) for _, penalty in self.penalties]
            for (weight, _), term in zip(self.penalties, terms, strict=True):
                total = total + weight * term
        (total * share).backward()
        return share * torch.stack([value.detach().to(self._sums) for value in (loss, *terms)])

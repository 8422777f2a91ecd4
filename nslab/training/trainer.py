"""The training loop: one class that owns the optimiser and the step, and can be stopped and resumed to the bit."""

import copy
import hashlib
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from nslab.protocols import Penalty, Recorder
from nslab.training.parallel import mean_over_processes, process_count, process_rank, share
from nslab.training.settings import TrainingConfig, learning_rate
from nslab.training.text import cross_entropy

Batch = Callable[[torch.Generator], tuple[Tensor, Tensor]]
Evaluation = Callable[[nn.Module], dict]


class Diverged(RuntimeError):
    """The loss or the gradient became NaN or infinite. `state` is the last good state, `step` its number of updates."""

    def __init__(self, message: str, state: dict):
        super().__init__(message)
        self.state, self.step = state, state["step"]


class Trainer:
    r"""AdamW on loss + sum of weight * penalty, with a schedule, clipping, evaluation and exact resume.

    Args:
        model: the network; it is trained in place, on the device where its weights are.
        config: the settings.
        batch: `batch(generator)` returns inputs x and targets y, each with `config.batch` rows, on the model's device.
        loss: `loss(model(x), y)`, a scalar in nats.
        penalties: pairs (weight, penalty); a penalty is called as `penalty(model, x, output, generator=...)`.
        evaluate: `evaluate(model)` returns named numbers; it runs without gradient, in evaluation mode.
        parallel: whether the processes that `torchrun` started share each batch (`join_processes`). False where each
            process trains a network of its own, for example another seed.

    Chance: the generator that `batch` and the penalties get is seeded anew at each step from (seed, step), so that a
    step's batch does not depend on what came before. With several processes each draws the whole batch and keeps its
    share; the penalties' noise differs between processes.

    Errors: `ValueError` when `batch` returns another number of rows, or the rows cannot be shared among the processes;
    `Diverged`, which keeps the last good state.

    >>> x = torch.tensor([[1.0], [2.0]])
    >>> config = TrainingConfig(steps=200, batch=2, learning_rate=0.1, weight_decay=0)
    >>> trainer = Trainer(nn.Linear(1, 1), config, lambda g: (x, 3 * x), loss=nn.functional.mse_loss)
    >>> trainer.run()
    >>> trainer.model(torch.tensor([[10.0]])).round().item()
    30.0
    """

    def __init__(
        self,
        model: nn.Module,
        config: TrainingConfig,
        batch: Batch,
        *,
        loss: Callable[[Tensor, Tensor], Tensor] = cross_entropy,
        penalties: Sequence[tuple[float | int, Penalty]] = (),
        evaluate: Evaluation | None = None,
        parallel: bool = True,
    ):
        self.model, self.config, self.batch, self.loss = model, config, batch, loss
        self.penalties, self.evaluate = tuple(penalties), evaluate
        self.step = 0
        self.weights = [weight for weight in model.parameters() if weight.requires_grad]
        if not self.weights:
            raise ValueError("model has no weights that require a gradient: unfreeze some with requires_grad_()")
        self.device = self.weights[0].device
        matrices = [weight for weight in self.weights if weight.ndim >= 2]
        others = [weight for weight in self.weights if weight.ndim < 2]
        self.optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}],
            lr=config.learning_rate,
            betas=config.betas,
            eps=config.epsilon,
            fused=True,
        )
        self.processes = process_count() if parallel else 1
        self.rank = process_rank() if parallel else 0
        self._generator = torch.Generator(self.device)
        self._sums = self._nothing_yet()
        self._summed = 0
        self._good = self.state()
        place = [self.device] if self.device.type == "cuda" else None
        self._network = DistributedDataParallel(model, device_ids=place) if self.processes > 1 else model

    def run(
        self,
        *,
        log: Recorder | None = None,
        save: Callable[[dict], object] | None = None,
        save_every: int | None = None,
        progress: Callable[[int, int, str], object] | None = None,
        until: int | None = None,
    ) -> None:
        """Train from the present step to the end, or to step `until`.

        Args:
            log: gets one `record(step, ...)` an evaluation: the mean "loss", "gradient_norm" (before clipping) and
                "penalty_0", ... of the updates since the last one, the "learning_rate", and what `evaluate` returned.
            save: called with `state()` every `save_every` steps and at the end.
            save_every: a number of steps; `config.evaluate_every` by default.
            progress: called as `progress(step, steps, text)` after each evaluation.
            until: stop early; a later `run()` goes on.

        Of processes that share batches only number 0 calls `log`, `save`, `progress` and `evaluate`; all must be
        given the same arguments.
        """
        if save_every is not None and save_every < 1:
            raise ValueError(f"save_every is {save_every}: give at least 1 step, or None")
        last = self.config.steps if until is None else min(until, self.config.steps)
        self.model.train()
        while self.step < last:
            self._update()
            ended = self.step == self.config.steps
            if self.step % self.config.evaluate_every == 0 or ended:
                means = self._finite_means()
                self._good = self.state()
                if self.rank == 0:
                    self._report(means, log, progress)
            if save is not None and (self.step % (save_every or self.config.evaluate_every) == 0 or ended):
                self._finite_means(keep=True)
                if self.rank == 0:
                    save(self.state())

    def state(self) -> dict:
        """Weights, optimiser, step and generators, as copies that further training does not change.

        It holds tensors, numbers, strings, lists and dicts, so that `torch.save` and
        `torch.load(..., weights_only=True)` can handle it.
        """
        state = {
            "config": asdict(self.config),
            "step": self.step,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "sums": self._sums,
            "summed": self._summed,
            "random": torch.get_rng_state(),  # for models with dropout
        }
        if self.device.type == "cuda":
            state["random_cuda"] = torch.cuda.get_rng_state(self.device)
        return copy.deepcopy(state)

    def load_state(self, state: dict) -> None:
        """Take up a state; the run that follows is the uninterrupted one, to the bit on one machine and device.

        On CUDA some kernels add in an order that varies; `torch.use_deterministic_algorithms(True)` forbids them.

        Errors: `ValueError` when the state was made with other settings, naming them, or another number of penalties.
        """
        mine = asdict(self.config)
        other = [key for key in mine if _plain(state["config"].get(key)) != _plain(mine[key])]
        if other:
            found = ", ".join(f"{key} = {state['config'].get(key)} (now {mine[key]})" for key in other)
            raise ValueError(f"state was made with {found}: resume with the same settings, or start anew")
        before, now = len(state["sums"]) - 2, len(self.penalties)
        if before != now:
            raise ValueError(f"state was made with {before} penalties and there are {now}: give the same ones")
        self.step, self._summed = state["step"], state["summed"]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
        self._sums = state["sums"].to(self.device, copy=True)
        torch.set_rng_state(state["random"].cpu())
        if self.device.type == "cuda" and "random_cuda" in state:
            torch.cuda.set_rng_state(state["random_cuda"].cpu(), self.device)
        self._good = self.state()

    def _update(self) -> None:
        """One step: batch, loss, gradient, clipping, AdamW. Nothing here waits for the device."""
        config = self.config
        x, y = self.batch(self._seeded("batch"))
        if len(x) != config.batch:
            raise ValueError(f"batch returned {len(x)} rows and config.batch is {config.batch}: make them equal")
        if self.processes > 1:
            x, y = share(x), share(y)
        with self._precision():
            output = self._network(x)
            loss = total = self.loss(output, y)
            noise = self._seeded(f"penalty {self.rank}") if self.penalties else None
            terms = [penalty(self.model, x, output, generator=noise) for _, penalty in self.penalties]
            for (weight, _), term in zip(self.penalties, terms, strict=True):
                total = total + weight * term
        total.backward()
        norm = get_total_norm([weight.grad for weight in self.weights if weight.grad is not None])
        if config.clip is not None:
            clip_grads_with_norm_(self.weights, config.clip, norm)
        rate = learning_rate(config, self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._sums += torch.stack([value.detach().to(self._sums) for value in (loss, norm, *terms)])
        self._summed += 1
        self.step += 1

    def _finite_means(self, keep: bool = False) -> Tensor:
        """Means since the last evaluation, over the processes; raises when one is not finite."""
        means = self._sums / max(1, self._summed)
        if self.processes > 1:
            means = mean_over_processes(means)
        if not bool(torch.isfinite(means).all()):
            raise Diverged(
                f"training diverged between step {self._good['step']} and {self.step}: the mean loss is {means[0]:g}, "
                f"the mean gradient norm {means[1]:g}; the state of step {self._good['step']} is in .state. Lower "
                f"learning_rate (it is {self.config.learning_rate:g}), lengthen warmup, or set clip",
                self._good,
            )
        if not keep:
            self._sums, self._summed = self._nothing_yet(), 0
        return means

    def _report(self, means: Tensor, log: Recorder | None, progress: Callable | None) -> None:
        values = dict(zip(("loss", "gradient_norm"), means.tolist(), strict=False))
        values |= {f"penalty_{i}": value for i, value in enumerate(means[2:].tolist())}
        values["learning_rate"] = learning_rate(self.config, self.step - 1)
        if self.evaluate is not None:
            self.model.eval()
            with torch.no_grad(), self._precision():
                values |= self.evaluate(self.model)
            self.model.train()
        if log is not None:
            log.record(self.step, **values)
        if progress is not None:
            progress(self.step, self.config.steps, f"loss {values['loss']:.3f}")

    def _nothing_yet(self) -> Tensor:
        wide = torch.float32 if self.device.type == "mps" else torch.float64
        return torch.zeros(2 + len(self.penalties), dtype=wide, device=self.device)

    def _precision(self):
        bfloat16 = self.config.autocast == "bfloat16"
        return torch.autocast(self.device.type, torch.bfloat16) if bfloat16 else nullcontext()

    def _seeded(self, purpose: str) -> torch.Generator:
        text = f"{self.config.seed} {self.step} {purpose}"
        digest = hashlib.blake2b(text.encode(), digest_size=4).digest()  # torch uses 32 bits of a CPU seed
        return self._generator.manual_seed(int.from_bytes(digest, "little"))


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value  # a state may come back from JSON or a checkpoint

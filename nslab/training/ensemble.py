"""Many small networks trained as one program: each member has its own seed, data, learning rate, decay and penalty.

A member leaves when it has generalised, or when it diverges; the others go on, faster. `nslab.training` has an example.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial

import torch
from torch import Tensor

from nslab.protocols import Penalty, Recorder
from nslab.training.ensemble_settings import EnsembleConfig, Rates, checked_each, cross_entropy_each, each, steadily
from nslab.training.member_optimizers import AdamW, Sgd
from nslab.training.pair_networks import EnsembleNetwork, Weights

CACHE = 8_000_000  # bytes of a layer of hidden units; measured, between 2 MB and 20 MB it changes little
Measure = Callable[[EnsembleNetwork, Weights, list[int]], dict[str, Tensor]]


class EnsembleTrainer:
    r"""Trains all members by one gradient of the sum of their losses, which is that of each one alone.

    Args:
        network: what the members are; a `QuadraticNetwork`, `TokenTableTransformer`, `ReluNetwork`, or yours.
        weights: the initial weights, (members, ...) each, as from `stack_members`; they are copied.
        config: the settings.
        x: inputs, (members, rows, ...), one set a member.
        y: targets (members, rows).
        loss: `loss(output, y)` gives one number a member, (members,). One for all is wrong, and may go unnoticed.
        penalties: pairs (weight, penalty); a weight is a number or a tuple with one a member. A penalty is called as
            `penalty(model, x, output, generator=...)`, x (members, rows, ...) and output = model(x), and returns one
            number a member, where `protocols.Penalty` has a scalar. On a CPU it may be asked for some members at a
            time; its noise then depends on which ones are there.
        measure: called at each evaluation as `measure(network, weights, members)` with the weights of the members
            that are still there and their numbers; returns tensors with a leading members axis. `leave_at` needs
            "test_accuracy" among them.

    On a CUDA device one update is recorded and replayed, so network and loss must not ask for a value, as `.item()`
    does and an `if` on a tensor. With penalties, whose noises do ask, each update is launched anew.

    Attributes:
        weights: of all members: of those still there as of the last evaluation, of others as they left.
        generalised_at: step of the first evaluation at which a member reached `leave_at`; -1 before. (members,)
        left_at: step at which it left; -1 while it is there. (members,)
        diverged: whether it left because its loss or its weights stopped being finite; its weights are then those of
            its last good evaluation. (members,)

    What is recorded: one entry an evaluation, step 0 included, with a value for every member. A member that has left
    keeps its last values. "loss" is the mean training loss since the evaluation before, "penalty_0", ... likewise.

    Errors: `ValueError` when rates, weights or data do not fit the number of members.
    """

    def __init__(
        self,
        network: EnsembleNetwork,
        weights: Weights,
        config: EnsembleConfig,
        x: Tensor,
        y: Tensor,
        *,
        loss: Callable[[Tensor, Tensor], Tensor] = cross_entropy_each,
        penalties: Sequence[tuple[Rates, Penalty]] = (),
        measure: Measure | None = None,
    ):
        self.network, self.config, self.loss, self.measure = network, config, loss, measure
        self.weights = {name: weight.detach().clone() for name, weight in weights.items()}
        first = next(iter(self.weights.values()))
        self.members, self.device, self.dtype = len(first), first.device, first.dtype
        if any(len(weight) != self.members for weight in self.weights.values()):
            raise ValueError("weights have different numbers of members: make them with stack_members")
        for name, data in (("x", x), ("y", y)):
            if len(data) != self.members:
                raise ValueError(f"{name} has {len(data)} sets of rows for {self.members} members: give one a member")
        if x.shape[:2] != y.shape[:2]:
            raise ValueError(f"x has shape {tuple(x.shape)} and y {tuple(y.shape)}: give one target for each row")
        self.x, self.y = x.to(self.device), y.to(self.device)
        self.step, self.rows = 0, y.shape[1]
        self.generalised_at = torch.full((self.members,), -1)
        self.left_at = torch.full((self.members,), -1)
        self.diverged = torch.zeros(self.members, dtype=torch.bool)
        self._rates = self._per_member("learning_rate", config.learning_rate)
        self._decays = self._per_member("weight_decay", config.weight_decay)
        self.penalties = [penalty for _, penalty in penalties]
        self._strengths = [self._per_member("a penalty's weight", weight) for weight, _ in penalties]
        self._generators = {  # of batches, which do not hang on who has left, and of penalties, which do
            name: torch.Generator(self.device).manual_seed(2 * config.seed + number)
            for number, name in enumerate(("batch", "penalty"))
        }
        wide = torch.float32 if self.device.type == "mps" else torch.float64
        self._clock = torch.zeros((), dtype=wide, device=self.device)  # updates so far, where a graph can count them
        self._held: dict[str, Tensor] = {}
        self._begin(torch.arange(self.members))
        adamw = config.optimizer == "adamw"
        working = list(self._working.values())
        self._optimizer = AdamW(working, config.betas, config.epsilon) if adamw else Sgd(working)

    def run(
        self,
        *,
        log: Recorder | None = None,
        save: Callable[[dict], object] | None = None,
        save_every: int = 1,
        progress: Callable[[int, int, str], object] | None = None,
        until: int | None = None,
    ) -> None:
        """Train until all members have left, or to the last step, or to the first evaluation at or after `until`.

        Args:
            log: gets one `record(step, ...)` an evaluation, with tensors that later evaluations write into: a `RunLog`
                copies them, and so must a recorder of yours.
            save: called with `state()` after every `save_every`-th evaluation, and at the end.
            save_every: a number of evaluations.
            progress: called as `progress(step, steps, text)` after each evaluation.
            until: stop early; a later `run()` goes on.
        """
        last = self.config.steps if until is None else min(until, self.config.steps)
        with steadily(self.config):
            if self.step == 0 and not self._held:
                self._evaluate(log)
            while self.step < last and len(self.present):
                self._advance(min(self.config.evaluate_every, self.config.steps - self.step))
                self._evaluate(log)
                ended = self.step >= last or not len(self.present)
                if save is not None and (ended or self.step // self.config.evaluate_every % save_every == 0):
                    save(self.state())
                if progress is not None:
                    progress(self.step, self.config.steps, f"{len(self.present)} of {self.members} still training")

    @property
    def present(self) -> list[int]:
        """The numbers of the members that are still there."""
        return self._present.tolist()

    def state(self) -> dict:
        """All that a run needs to go on, as of the last evaluation: tensors, numbers, strings, lists and dicts."""
        state = {
            "config": _plain(asdict(self.config)),
            "step": self.step,
            "clock": self._clock,
            "weights": self.weights,
            "present": self._present,
            "optimizer": self._optimizer.state(),
            "generators": self._random(),
            "held": self._held,
            "generalised_at": self.generalised_at,
            "left_at": self.left_at,
            "diverged": self.diverged,
        }
        return copy.deepcopy(state)

    def load_state(self, state: dict) -> None:
        """Take up a state; the run that follows is the uninterrupted one, to the bit on one machine and device.

        Data, loss and penalties are not in it: give the trainer the same ones.

        Errors: `ValueError` when the state was made with other settings, naming them, or for other members.
        """
        mine, theirs = _plain(asdict(self.config)), _plain(state["config"])
        if other := [key for key in mine if theirs.get(key) != mine[key]]:
            found = ", ".join(f"{key} = {theirs.get(key)} (now {mine[key]})" for key in other)
            raise ValueError(f"state was made with {found}: resume with the same settings, or start anew")
        mine, given = (
            {name: (tuple(part.shape), str(part.dtype)) for name, part in weights.items()}
            for weights in (self.weights, state["weights"])
        )
        if mine != given:
            raise ValueError(f"state has weights {given} and the trainer {mine}: give the same network and members")
        state = copy.deepcopy(state)
        self.step = state["step"]
        self._clock.copy_(state["clock"])
        self.weights = {name: weight.to(self.device) for name, weight in state["weights"].items()}
        self._held = {name: value.to(self.device) for name, value in state["held"].items()}
        self.generalised_at, self.left_at, self.diverged = (
            state[name] for name in ("generalised_at", "left_at", "diverged")
        )
        self._begin(state["present"])
        self._optimizer.weights = list(self._working.values())
        self._optimizer.load_state(state["optimizer"])
        self._set_random(state["generators"])

    def _begin(self, present: Tensor) -> None:
        """Make the working copies of the members that are there."""
        self._present = present
        chosen = present.to(self.device)
        self._working = {name: weight[chosen] for name, weight in self.weights.items()}
        self._gradients = [torch.empty_like(weight) for weight in self._working.values()]
        self._passes = torch.arange(len(chosen)).split(self._members_a_pass())
        self._rate, self._decay = self._rates[chosen], self._decays[chosen]
        self._strength = [strength[chosen] for strength in self._strengths]
        self._x, self._y = self.x[chosen], self.y[chosen]
        self._where = chosen.unsqueeze(1)
        self._sums = torch.zeros(1 + len(self.penalties), len(chosen), dtype=self.dtype, device=self.device)
        self._graph = None

    def _update(self) -> None:
        """One step of all members. Nothing here waits for the device."""
        x, y = self._batch()
        noise = self._generators["penalty"]
        for members in self._passes:
            part = slice(int(members[0]), int(members[-1]) + 1)
            weights = {name: weight[part].requires_grad_() for name, weight in self._working.items()}
            output = self.network(weights, x[part])
            terms = [checked_each("loss", self.loss(output, y[part]), len(members))]
            total = terms[0].sum()
            for strength, penalty in zip(self._strength, self.penalties, strict=True):
                term = penalty(partial(self.network, weights), x[part], output, generator=noise)
                terms.append(checked_each("a penalty", term, len(members)))
                total = total + (strength[part] * terms[-1]).sum()
            found = torch.autograd.grad(total, list(weights.values()))
            for gradient, one in zip(self._gradients, found, strict=True):
                gradient[part] = one
            self._sums[:, part] += torch.stack([term.detach() for term in terms])
        self._clock += 1
        warm = (self._clock / max(1, self.config.warmup)).clamp(max=1).to(self._rate)
        self._optimizer.step(self._gradients, self._rate * warm, self._decay)

    def _batch(self) -> tuple[Tensor, Tensor]:
        if self.config.batch is None:
            return self._x, self._y
        shape = (self.members, self.config.batch)  # for all, so that a member's draws do not hang on who has left
        drawn = torch.randint(self.rows, shape, generator=self._generators["batch"], device=self.device)
        chosen = drawn[self._where.squeeze(1)]
        return self.x[self._where, chosen], self.y[self._where, chosen]  # (present, batch, ...)

    def _members_a_pass(self) -> int:
        """On a GPU all; on a CPU as many as keep a layer of hidden units in the cache, where passes are fastest."""
        if self.device.type != "cpu":
            return max(1, len(self._present))
        rows = self.config.batch or self.rows
        return max(1, CACHE // (rows * self.network.units * self.dtype.itemsize))

    def _advance(self, steps: int) -> None:
        if self.device.type == "cuda" and self._graph is None and not self.penalties:
            self._capture()  # a penalty may look at values, as nslab's noises do, which a graph cannot record
        for _ in range(steps):
            self._graph.replay() if self._graph else self._update()
        self.step += steps
        self._summed = steps

    def _capture(self) -> None:
        """Record one update as a CUDA graph: a replay launches all its kernels at once."""
        before, random = [part.clone() for part in self._changing()], self._random()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(self.device):
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(3):  # libraries set themselves up, which a graph cannot record
                    self._update()
            torch.cuda.current_stream().wait_stream(side)
            self._set_random(random)
            for generator in self._generators.values():
                graph.register_generator_state(generator)
            with torch.cuda.graph(graph):
                self._update()
        with torch.no_grad():
            for part, value in zip(self._changing(), before, strict=True):
                part.copy_(value)
        self._graph = graph

    def _random(self) -> dict[str, Tensor]:
        return {name: generator.get_state() for name, generator in self._generators.items()}

    def _set_random(self, states: dict[str, Tensor]) -> None:
        for name, state in states.items():
            self._generators[name].set_state(state)

    def _changing(self) -> list[Tensor]:
        """What an update writes to, in place."""
        averages = [part for value in self._optimizer.state().values() for part in each(value)]
        return [*self._working.values(), *averages, self._clock, self._sums]

    @torch.no_grad()
    def _evaluate(self, log: Recorder | None) -> None:
        """Measure, let members leave, record."""
        working = {name: weight.detach() for name, weight in self._working.items()}
        present = self._present.to(self.device)
        values = dict(self.measure(self.network, working, self.present)) if self.measure else {}
        whole = [weight.isfinite().reshape(len(weight), -1).all(1) for weight in working.values()]
        finite = torch.stack(whole).all(0)
        if self.step:
            means = self._sums / self._summed
            values |= {"loss" if i == 0 else f"penalty_{i - 1}": mean for i, mean in enumerate(means)}
            finite &= means.isfinite().all(0)
            self._sums.zero_()
        for name, value in values.items():
            if name not in self._held:
                empty = torch.nan if value.is_floating_point() else 0
                self._held[name] = value.new_full((self.members, *value.shape[1:]), empty)
            self._held[name][present[finite]] = value[finite]
        for name, weight in working.items():
            self.weights[name][present[finite]] = weight[finite]
        finite = finite.cpu()
        self.diverged[self._present[~finite]] = True
        leaving = ~finite | self._generalised(values.get("test_accuracy"), finite)
        if self.step >= self.config.steps:
            leaving[:] = True
        self.left_at[self._present[leaving]] = self.step
        if bool(leaving.any()):
            stay = ~leaving
            self._begin(self._present[stay])
            self._optimizer.weights = list(self._working.values())
            self._optimizer.keep(stay.nonzero().squeeze(1).to(self.device))
        if log is not None:
            log.record(self.step, **self._held)

    def _generalised(self, accuracy: Tensor | None, finite: Tensor) -> Tensor:
        """Which of the members that are there have generalised, and stayed long enough since. (present,)"""
        if self.config.leave_at is None or accuracy is None:
            return torch.zeros(len(self._present), dtype=torch.bool)
        reached = finite & (accuracy.cpu() >= self.config.leave_at)
        new = self._present[reached & (self.generalised_at[self._present] < 0)]
        self.generalised_at[new] = self.step
        since = self.generalised_at[self._present]
        return (since >= 0) & (self.step - since >= self.config.linger * self.config.evaluate_every)

    def _per_member(self, name: str, rates: Rates) -> Tensor:
        given = list(each(rates))
        if len(given) not in (1, self.members):
            raise ValueError(f"{name} has {len(given)} numbers for {self.members} members: give one, or one a member")
        return torch.tensor(given, dtype=self.dtype, device=self.device).expand(self.members).contiguous()


def _plain(value: object) -> object:
    """Tuples as lists, which is how they come back from a checkpoint."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, tuple | list) else value

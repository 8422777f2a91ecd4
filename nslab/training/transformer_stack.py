"""Many Transformers of one shape trained as one program: a stack of their weights that a `Trainer` takes.

    models = [Transformer(shape, generator=torch.Generator().manual_seed(seed)) for seed in range(10)]
    stack = TransformerStack(models)
    settings = TrainingConfig(steps=500, batch=16, learning_rate=4e-3, clip=None)
    trainer = Trainer(stack, settings, stack.batches(ids), loss=stack.loss)
    trainer.optimizer.register_step_pre_hook(stack.clip(1.0))
    trainer.run()
    first = stack.member(0)                                    # a Transformer

The loss is the sum of the members' mean losses, so that each member's gradient is its own; AdamW works weight by
weight; and `clip` shortens each member's gradient by that member's norm. Each member's training is exactly its own.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn import functional as F

from nslab.attention import Rotary, attend
from nslab.barrier.head_families import Turn
from nslab.barrier.heads import HeadStage
from nslab.training.text import TextBatches, cross_entropy
from nslab.training.trainer import Batch
from nslab.transformer import Transformer
from nslab.transformer.blocks import ACTIVATIONS

ROUND = 1e-6  # what torch's clipping adds to a norm before it divides


class TransformerStack(nn.Module):
    r"""Members of one shape, their weights stacked: ids (batch, members, length) to logits.

    Args:
        models: the members, of one shape, dtype and device; their weights are copied.
        extras: one further module a member, trained and clipped with it, for example a penalty's own weights.
        dropout: share of the coordinates dropped, in training mode, from the embeddings and from what attention and MLP
            add to the stream; the others grow by 1 / (1 - dropout).
        noise: Gaussian noise on the token embeddings, in training mode, in units of their root mean square a member.
        generator: source of dropout and noise, on the device of the members. Its state is part of `state_dict()`, so
            that a resumed training goes on with the same draws.

    Matrices have a leading axis of members; biases and the gains of norms lie flat, (members * width,), so that a
    `Trainer` spares them from weight decay as it does those of one network.

    Errors: `ValueError` for no member, members of different shapes, another number of extras, a dropout outside [0, 1),
    a negative noise, or chance without a generator.
    """

    def __init__(
        self,
        models: Sequence[Transformer],
        *,
        extras: Sequence[nn.Module] = (),
        dropout: float | int = 0.0,
        noise: float | int = 0.0,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        if not models or any(model.config != models[0].config for model in models):
            raise ValueError(f"models are {len(models)} of different shapes: give at least one, all of one shape")
        if extras and len(extras) != len(models):
            raise ValueError(f"extras has {len(extras)} modules for {len(models)} members: give one a member, or none")
        if not 0 <= dropout < 1 or noise < 0:
            raise ValueError(f"dropout is {dropout}, noise {noise}: give a dropout from 0 to less than 1, noise >= 0")
        if (dropout or noise) and generator is None:
            raise ValueError("generator is None: dropout and noise need one, for example torch.Generator()")
        self.config, self.members = models[0].config, len(models)
        self.dropout, self.noise, self.generator = dropout, noise, generator
        each = [model.state_dict() for model in models]
        self._shapes = {name: weight.shape for name, weight in each[0].items()}
        stacked = {name: torch.stack([weights[name] for weights in each]).detach() for name in each[0]}
        self.weights = nn.ParameterDict(
            {_key(name): nn.Parameter(w if w.ndim > 2 else w.flatten()) for name, w in stacked.items()}
        )
        self.extras = nn.ModuleList(extras)
        shape = self.config
        rotary = shape.positions == "rotary"
        self.rotary = Rotary(shape.width // shape.heads, shape.rotary_base) if rotary else None
        self._heads: list[tuple[Tensor, Tensor, Tensor]] = []
        self.entered: Tensor | None = None

    def forward(self, ids: Shaped[Tensor, "batch members length"]) -> Float[Tensor, "batch members length outputs"]:
        """Logits of every position; row b of member m depends on `ids[b, m]` alone."""
        x = self.embed(ids)
        if self.training and self.noise:
            size = x.detach().square().mean((0, 2, 3), keepdim=True).sqrt() * self.noise
            x = x + size * torch.empty_like(x).normal_(generator=self.generator)
        return self.from_embeddings(x)

    def embed(self, ids: Shaped[Tensor, "batch members length"]) -> Float[Tensor, "batch members length width"]:
        """Token embeddings, before positions are added.

        Errors: `ValueError` for ids of another shape or longer than the context.
        """
        if ids.ndim != 3 or ids.shape[1] != self.members or not 0 < ids.shape[2] <= self.config.context:
            raise ValueError(
                f"ids has shape {tuple(ids.shape)}: give (batch, {self.members} members, 1 to {self.config.context} "
                "tokens)"
            )
        first = torch.arange(self.members, device=ids.device)[:, None] * self.config.vocabulary
        return F.embedding(ids + first, self._weight("tokens.weight").flatten(0, 1))

    def from_embeddings(
        self, embeddings: Float[Tensor, "batch members length width"]
    ) -> Float[Tensor, "batch members length outputs"]:
        """As a call, from embeddings, without noise on them. `entered` and `stages` then tell of this pass."""
        batch, _, length, _ = embeddings.shape
        x = embeddings
        if self.config.positions == "learned":
            x = x + self._weight("positions.weight")[:, :length]
        self.entered = x
        x = self._dropped(x.transpose(0, 1).flatten(1, 2))  # (members, batch * length, width)
        self._heads = []
        for number in range(self.config.layers):
            layer = f"layers.{number}."
            x = x + self._dropped(self._attention(self._norm(x, f"{layer}attention_norm"), layer, batch))
            hidden = self._linear(self._norm(x, f"{layer}mlp_norm"), f"{layer}mlp.input")
            x = x + self._dropped(self._linear(ACTIVATIONS[self.config.activation](hidden), f"{layer}mlp.output"))
        final = self._norm(x, "final_norm")
        logits = final @ self._weight("tokens.weight" if self.config.tied else "output.weight").mT
        return logits.unflatten(1, (batch, length)).transpose(0, 1)

    def stages(self) -> list[HeadStage]:
        """The heads of the latest pass, layer by layer, in its graph: H = members * heads, by member.

        A penalty of shape (batch, H, rows) on them unfolds to (batch, members, heads, rows).

        Errors: `ValueError` before the first pass.
        """
        if not self._heads:
            raise ValueError("stages of no pass: call the stack on ids first")
        shape, found = self.config, []
        parts = (self.members, shape.heads, shape.width // shape.heads)
        for number, heads in enumerate(self._heads):
            of_query = self._weight(f"layers.{number}.attention.qkv.weight")[:, : shape.width].unflatten(1, parts[1:])
            output = self._weight(f"layers.{number}.attention.output.weight").unflatten(2, parts[1:]).transpose(1, 2)
            query, key, value = (  # (members, batch, heads, length, k) to (batch, members * heads, length, k)
                part.unflatten(0, (self.members, -1)).transpose(0, 1).flatten(1, 2) for part in heads
            )
            found.append(HeadStage(query, key, value, of_query.flatten(0, 1), output.flatten(0, 1), self._turn(key)))
        return found

    def loss(self, output: Tensor, target: Shaped[Tensor, "batch members length"]) -> Float[Tensor, ""]:
        """The sum over members of their mean cross-entropy, in nats, as a `Trainer` takes it."""
        return cross_entropy(output, target) * self.members  # all members have as many tokens

    @staticmethod
    def each_loss(output: Tensor, target: Shaped[Tensor, "batch members length"]) -> Float[Tensor, " members"]:
        """The mean cross-entropy of each member, in nats."""
        return F.cross_entropy(output.movedim(-1, 1), target, reduction="none").mean((0, 2))

    def batches(self, ids: Shaped[Tensor, " tokens"], batch: int) -> Batch:
        """Random windows of a text, others for each member: x and y (batch, members, context)."""
        windows = TextBatches(ids, self.config.context, batch * self.members)

        def draw(generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
            x, y = windows(generator)
            return x.unflatten(0, (batch, self.members)), y.unflatten(0, (batch, self.members))

        return draw

    def clip(self, largest: float | int) -> Callable[..., None]:
        """A hook for `optimizer.register_step_pre_hook`: each member's gradient gets at most this 2-norm.

        The `Trainer`'s own `clip` must be None: it would shorten all members by their common norm.

        Errors: `ValueError` for a norm that is not positive.
        """
        if not largest > 0:
            raise ValueError(f"largest is {largest}: give a positive norm")

        @torch.no_grad()
        def shorten(*_: object) -> None:
            stacked = [w.grad.view(self.members, -1) for w in self.weights.values() if w.grad is not None]
            squares = torch.stack([gradient.square().sum(1) for gradient in stacked]).sum(0)
            extras = [[w.grad for w in extra.parameters() if w.grad is not None] for extra in self.extras]
            if any(extras):
                squares = squares + torch.stack([sum(g.square().sum() for g in of_member) for of_member in extras])
            factors = (largest / (squares.sqrt() + ROUND)).clamp(max=1)
            for gradient in stacked:
                gradient.mul_(factors[:, None])
            for factor, of_member in zip(factors, extras, strict=False):
                for gradient in of_member:
                    gradient.mul_(factor)

        return shorten

    def member(self, number: int) -> Transformer:
        """A copy of one member, in evaluation mode.

        Errors: `IndexError` for a number that is no member's.
        """
        if not 0 <= number < self.members:
            raise IndexError(f"number is {number}: the members are 0 to {self.members - 1}")
        model = Transformer(self.config)
        weights = {name: self._weight(name)[number].detach().clone() for name in self._shapes}
        model.load_state_dict(weights, assign=True)
        return model.eval()

    def get_extra_state(self) -> Tensor:
        """The state of the generator, empty without one; part of `state_dict()`."""
        return torch.empty(0, dtype=torch.uint8) if self.generator is None else self.generator.get_state()

    def set_extra_state(self, state: Tensor) -> None:
        """Go on with the draws of `get_extra_state`."""
        if self.generator is not None:
            self.generator.set_state(state.cpu())

    def _turn(self, key: Tensor) -> Turn | None:
        if self.rotary is None:
            return None
        half = torch.ones_like(key[0, 0].detach()).chunk(2, -1)[0]
        cosines, sines = self.rotary(torch.cat((half, 0 * half), -1)).chunk(2, -1)  # the pair (1, 0), turned
        return Turn(cosines.repeat(1, 2), sines.repeat(1, 2))

    def _attention(self, x: Tensor, layer: str, batch: int) -> Tensor:
        heads, length = self.config.heads, x.shape[1] // batch
        qkv = self._linear(x, f"{layer}attention.qkv").unflatten(1, (batch, length)).unflatten(3, (3, heads, -1))
        query, key, value = qkv.flatten(0, 1).permute(2, 0, 3, 1, 4).unbind(0)  # (members * batch, heads, length, k)
        if self.rotary is not None:
            query, key = self.rotary(query), self.rotary(key)
        self._heads.append((query, key, value))
        mixed = attend(query, key, value, causal=self.config.causal).transpose(1, 2)  # (..., length, heads, k)
        return self._linear(mixed.flatten(2).view(self.members, batch * length, -1), f"{layer}attention.output")

    def _linear(self, x: Tensor, name: str) -> Tensor:
        weight = self._weight(f"{name}.weight").mT
        return torch.baddbmm(self._weight(f"{name}.bias")[:, None], x, weight) if self.config.bias else x @ weight

    def _norm(self, x: Tensor, name: str) -> Tensor:
        if self.config.norm == "none":
            return x
        gain = self._weight(f"{name}.weight")[:, None]
        if self.config.norm == "rms":
            return F.rms_norm(x, x.shape[-1:], eps=self.config.epsilon) * gain
        x = F.layer_norm(x, x.shape[-1:], eps=self.config.epsilon) * gain
        return x + self._weight(f"{name}.bias")[:, None] if self.config.bias else x

    def _dropped(self, x: Tensor) -> Tensor:
        if not self.training or not self.dropout:
            return x
        kept = torch.empty_like(x).bernoulli_(1 - self.dropout, generator=self.generator)
        return x * kept / (1 - self.dropout)

    def _weight(self, name: str) -> Tensor:
        return self.weights[_key(name)].view(self.members, *self._shapes[name])


def _key(name: str) -> str:
    return name.replace(".", "/")  # names of parameters have no dots

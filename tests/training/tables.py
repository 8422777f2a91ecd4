"""What the tests of penalties share: a network of tables, noises without chance, the penalty written plainly."""

from itertools import product

import torch

from nslab.noise import Resample


class Table:
    """A network that can say anything: logits from a table of all rows of tokens. It notes what it is asked."""

    def __init__(self, tokens, length, classes=4, seed=0, device="cpu"):
        generator = torch.Generator().manual_seed(seed)
        shape = (*[tokens] * length, *([classes] if classes else []))
        self.logits = 2 * torch.randn(shape, generator=generator, dtype=torch.float64)
        self.logits = self.logits.to(device).requires_grad_()
        self.asked, self.outputs = [], []

    def __call__(self, x):
        self.asked.append(x)
        self.outputs.append(self.logits[x.unbind(-1)])
        return self.outputs[-1]

    @property
    def probabilities(self):
        return self.logits.detach().cpu().softmax(-1)


class Shift(Resample):
    """A noise without chance: the next token."""

    def twin(self, x, generator=None):
        return (x + 1) % self.vocabulary


def shift(vocabulary=4):
    return Shift(0.5, vocabulary)


def always(twins, vocabulary):
    """A noise that gives these twins."""

    class Given(Resample):
        def twin(self, x, generator=None):
            return twins.to(x.device)

    return Given(0.5, vocabulary)


def seeded(seed=0, device="cpu"):
    return torch.Generator(device).manual_seed(seed)


def everything(tokens, length):
    return torch.tensor(list(product(range(tokens), repeat=length)))


def plain_rows(model, x, twins, output, detach=None):
    """As one would write it: a second pass over all rows."""
    own, other = output.softmax(-1), model(twins).softmax(-1)
    own, other = (own.detach() if detach == "input" else own), (other.detach() if detach == "twin" else other)
    return -(own * other).sum(-1)


def gradients_of(value, weights):
    return torch.autograd.grad(value, list(weights.values()), retain_graph=True)

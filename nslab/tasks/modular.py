"""Arithmetic on two residues: all pairs, their labels, and the noise stability that a perfect model must have."""

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from nslab.tasks.ranges import Scalar, in_range

OPERATIONS = ("add", "subtract", "multiply", "divide")


@dataclass(frozen=True)
class ModularArithmetic:
    r"""All questions "a op b modulo p?", their answers, and closed forms for the energies of the answer.

    Formula: the label is $a + b$, $a - b$, $ab$ or $ab^{-1}$ modulo p, for all a and b in 0 .. p - 1. A divisor b is
    in 1 .. p - 1.

    Shapes: rows is the number of pairs: p**2, or p (p - 1) for division. Everything is on the CPU.

    Attributes:
        modulus: p, at least 3. Division needs a prime p, so that every b but 0 has an inverse; the others take any.
        operation: "add", "subtract", "multiply" or "divide".

    How to read it: addition and subtraction are Latin squares, that is, one operand alone says nothing about the
    label. In multiplication and division an operand 0 says all, and a composite p gives every operand that shares a
    factor with p a part of the answer away. `energies` counts this.

    Errors: `ValueError` when the operation is unknown, the modulus is below 3, or division has no prime modulus.

    Source: the tasks of Power et al., Grokking (2022), and, for addition modulo 113, of Nanda et al., Progress measures
    for grokking via mechanistic interpretability (2023). The closed forms are ours.

    >>> task = ModularArithmetic(5, "divide")
    >>> task.pairs[9].tolist(), task.labels[9].item()  # 2 / 2, for the divisors are 1, 2, 3, 4
    ([2, 2], 1)
    >>> ModularArithmetic(113).stability(0.625).item()  # keep**2 + (1 - keep**2) / p
    0.396...
    """

    modulus: int
    operation: str = "add"

    def __post_init__(self):
        p = self.modulus
        if self.operation not in OPERATIONS:
            raise ValueError(f"operation is {self.operation!r}: choose one of {', '.join(OPERATIONS)}")
        if p < 3:
            raise ValueError(f"modulus is {p}: give at least 3")
        if self.operation == "divide" and not _is_prime(p):
            raise ValueError(f"modulus is {p}, not a prime, and some divisors have no inverse: {_nearest_primes(p)}")

    @property
    def shape(self) -> tuple[int, int]:
        """How many values the first and the second operand take: (p, p), or (p, p - 1) for division."""
        return self.modulus, self.modulus - self._smallest

    @property
    def outputs(self) -> int:
        """Number of labels, p."""
        return self.modulus

    @property
    def vocabulary(self) -> int:
        """Number of tokens in `prompts`: the p residues and "="."""
        return self.modulus + 1

    @cached_property
    def pairs(self) -> Int64[Tensor, "rows 2"]:
        """The operands (a, b), first operand slowest: `x.reshape(*task.shape)` turns a value a row into a picture."""
        residues = torch.arange(self.modulus)
        return torch.cartesian_prod(residues, residues[self._smallest :])

    @cached_property
    def labels(self) -> Int64[Tensor, " rows"]:
        """The answer to each pair, in 0 .. p - 1."""
        p = self.modulus
        first, second = self.pairs.unbind(1)
        if self.operation == "add":
            return (first + second) % p
        if self.operation == "subtract":
            return (first - second) % p
        if self.operation == "divide":
            second = torch.tensor([0, *(pow(b, -1, p) for b in range(1, p))])[second]
        return first * second % p

    @cached_property
    def prompts(self) -> Int64[Tensor, "rows 3"]:
        """The token ids "a b =" of each pair; "=" is the last id, p."""
        return torch.nn.functional.pad(self.pairs, (0, 1), value=self.modulus)

    @cached_property
    def mirror(self) -> Int64[Tensor, " rows"]:
        """The row of (b, a) for the row of (a, b): itself on the diagonal, -1 for 0 / b, as b / 0 is no question."""
        first, second = self.pairs.unbind(1)
        return torch.where(first >= self._smallest, second * self.shape[1] + first - self._smallest, -1)

    @cached_property
    def energies(self) -> Float64[Tensor, " 4"]:
        r"""Efron-Stein energies of the one-hot label under uniform operands: constant, first alone, second alone, both.

        Formula: with $f_c(a, b) = 1$ where the label is c, else 0, and
        $G_S = E \sum_c E[f_c \mid \text{operands in } S]^2$, the chance that two pairs which share the operands
        in S, and are otherwise independent, have one label: the energies are $G_\emptyset$,
        $G_1 - G_\emptyset$, $G_2 - G_\emptyset$ and $1 - G_1 - G_2 + G_\emptyset$. Here

        - add, subtract: $G_\emptyset = G_1 = G_2 = 1/p$;
        - divide: $G_\emptyset = G_2 = 1/p$ and $G_1 = 2/p$;
        - multiply: with $N(e) = \sum_{d \mid e} d\,\varphi(p/d)$, the number of pairs with product e for a divisor e of
          p, $G_\emptyset = p^{-4} \sum_{e \mid p} \varphi(p/e) N(e)^2$ and $G_1 = G_2 = N(p)/p^2$.

        How to read it: they sum to 1. The constant is what a model has that ignores its input and predicts the law of
        the labels.

        Source: ours. N(p) is Pillai's function; phi is Euler's.

        >>> ModularArithmetic(4).energies.tolist()
        [0.25, 0.0, 0.0, 0.75]
        """
        nothing, first, second = self._collisions()
        return torch.tensor(
            [float(energy) for energy in (nothing, first - nothing, second - nothing, 1 - first - second + nothing)],
            dtype=torch.float64,
        )

    def stability(self, keep: Scalar) -> Float64[Tensor, "*keep"]:
        r"""How often the label survives noise on both operands: the target of a model's noise stability.

        Formula: $E \sum_c f_c(X) f_c(Y) = P(\text{label}(X) = \text{label}(Y)) = \sum_S \mathrm{keep}^{|S|} E_S$,
        with the `energies` $E_S$. X is uniform; Y keeps each operand with probability `keep` and else draws it anew,
        uniformly over its range, maybe the same value again. For addition: $\mathrm{keep}^2 + (1 - \mathrm{keep}^2)/p$.

        Args:
            keep: probabilities in [0, 1], a number or a tensor (*keep); differentiable. Keeping with probability
                (1 + rho)/2 is the convention of Noise Stability of Transformer Models, arXiv 2602.08287.

        Returns:
            (*keep), in double precision, on the device of `keep`.

        How to read it: a model that has generalised must have this stability, for its class probabilities are then
        nearly one-hot and right. One that gives all labels the same probability has 1/p at every `keep`; one that is
        sure of one label, whatever it reads, has 1.

        Errors: `ValueError` when `keep` is outside [0, 1].

        Source: ours.
        """
        keep = in_range("keep", keep, 0, 1, "it is the probability that an operand is kept")
        constant, first, second, both = self.energies.to(keep.device)
        return constant + keep * (first + second) + keep.square() * both

    @property
    def sensitivity(self) -> float:
        r"""Average sensitivity of the label: $\sum_S |S| E_S$, the slope of `stability` at keep = 1.

        How to read it: the sum over the two operands of the probability that drawing the operand anew changes the
        label; 2 (1 - 1/p) for addition.
        """
        _, first, second, both = self.energies.tolist()
        return first + second + 2 * both

    @cached_property
    def logarithms(self) -> Int64[Tensor, " p"]:
        r"""Where each residue stands in the cyclic group of the operation, the coordinate for Fourier analysis.

        Formula: the residue itself for add and subtract, a group of order p; for multiply and divide with a prime p the
        discrete logarithm l with $r^l = \text{residue}$ modulo p, r the smallest primitive root, in a group of order
        p - 1. There 0 is not in the group and has -1.

        How to read it: the logarithm of the label is the sum (add, multiply) or the difference (subtract, divide) of
        those of the operands, modulo the order of the group, which is `logarithms.max() + 1`.

        Errors: `ValueError` for multiplication with a composite modulus, whose units need not be cyclic.

        >>> ModularArithmetic(7, "multiply").logarithms.tolist()  # powers of 3: 1, 3, 2, 6, 4, 5
        [-1, 0, 2, 1, 4, 5, 3]
        """
        p = self.modulus
        if self.operation in ("add", "subtract"):
            return torch.arange(p)
        if not _is_prime(p):
            raise ValueError(f"modulus is {p}, not a prime, and multiplication has no logarithm: {_nearest_primes(p)}")
        powers = next(powers for root in range(2, p) if len(powers := _powers(root, p)) == p - 1)
        logarithms = torch.full((p,), -1)
        logarithms[torch.tensor(powers)] = torch.arange(p - 1)
        return logarithms

    @property
    def _smallest(self) -> int:
        """The smallest second operand: 1 for division, else 0."""
        return int(self.operation == "divide")

    def _collisions(self) -> tuple[Fraction, Fraction, Fraction]:
        """G of no operand, of the first and of the second, as in `energies`."""
        p = self.modulus
        if self.operation == "multiply":
            divisors = [d for d in range(1, p + 1) if p % d == 0]
            products = {e: sum(d * _totient(p // d) for d in divisors if e % d == 0) for e in divisors}  # N(e)
            nothing = Fraction(sum(_totient(p // e) * count**2 for e, count in products.items()), p**4)
            return nothing, Fraction(products[p], p**2), Fraction(products[p], p**2)
        return Fraction(1, p), Fraction(2 if self.operation == "divide" else 1, p), Fraction(1, p)


def _is_prime(n: int) -> bool:
    return n > 1 and all(n % d for d in range(2, math.isqrt(n) + 1))


def _nearest_primes(n: int) -> str:
    """The remedy for a composite n: the primes on both sides of it."""
    below = next(m for m in range(n, 1, -1) if _is_prime(m))
    above = next(m for m in range(n, 2 * n) if _is_prime(m))
    return f"take {below} or {above}, the nearest primes"


def _totient(n: int) -> int:
    """Euler's phi: how many of 1 .. n share no factor with n."""
    return sum(math.gcd(k, n) == 1 for k in range(1, n + 1))


def _powers(root: int, p: int) -> list[int]:
    """1, root, root**2, ... modulo p, up to the first return to 1."""
    powers = [1]
    while (power := powers[-1] * root % p) != 1:
        powers.append(power)
    return powers

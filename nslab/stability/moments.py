"""Running first and second moments of pairs of statistics, and the error of their ratio."""

from dataclasses import dataclass

from torch import Tensor


@dataclass
class Moments:
    """Count, means, and centred second moments of a (k, strengths), b (k, strengths) and of the mean of f.

    Batches are merged by the update of Chan, Golub and LeVeque (1983), so nothing large is subtracted.
    """

    count: int = 0
    a: Tensor | float = 0.0
    b: Tensor | float = 0.0
    aa: Tensor | float = 0.0
    ab: Tensor | float = 0.0
    bb: Tensor | float = 0.0
    mean: Tensor | float = 0.0

    def add(self, a: Tensor, b: Tensor, mean: Tensor) -> None:
        """Merge a batch of draws."""
        k, total = len(a), self.count + len(a)
        step_a, step_b = a.mean(0) - self.a, b.mean(0) - self.b
        dev_a, dev_b = a - a.mean(0), b - b.mean(0)
        factor = self.count * k / total
        self.aa = self.aa + dev_a.square().sum(0) + factor * step_a**2
        self.ab = self.ab + (dev_a * dev_b).sum(0) + factor * step_a * step_b
        self.bb = self.bb + dev_b.square().sum(0) + factor * step_b**2
        self.a, self.b = self.a + step_a * (k / total), self.b + step_b * (k / total)
        self.mean = self.mean + (mean.mean(0) - self.mean) * (k / total)
        self.count = total

    def raw(self) -> tuple[Tensor, Tensor]:
        """The mean of a and its standard error."""
        return self.a, (self.aa / (self.count * (self.count - 1))).sqrt()

    def ratio(self, offset: Tensor) -> tuple[Tensor, Tensor]:
        """(E a - offset) / (E b - offset) and its standard error by the delta method, offset taken as known."""
        value = (self.a - offset) / (self.b - offset)
        spread = self.aa - 2 * value * self.ab + value**2 * self.bb
        error = (spread.clamp(min=0) / (self.count * (self.count - 1))).sqrt()
        return value, error / (self.b - offset).abs()

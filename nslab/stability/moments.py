"""Running first and second moments of pairs of statistics, and the error of their ratio."""

from dataclasses import dataclass

from torch import Tensor


@dataclass
class Moments:
    """Count, means, and centred second moments of a (k, strengths), b (k, strengths) and of the mean of f.

    Of the mean of f also `sway`, the squared deviations over all outputs, and `pull`, those along the mean itself.

    Batches are merged by the update of Chan, Golub and LeVeque (1983), so nothing large is subtracted.
    """

    count: int = 0
    a: Tensor | float = 0.0
    b: Tensor | float = 0.0
    aa: Tensor | float = 0.0
    ab: Tensor | float = 0.0
    bb: Tensor | float = 0.0
    mean: Tensor | float = 0.0
    sway: Tensor | float = 0.0
    pull: Tensor | float = 0.0

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
        step, dev = mean.mean(0) - self.mean, mean - mean.mean(0)
        self.mean = self.mean + step * (k / total)
        self.sway = self.sway + dev.square().sum() + factor * step.square().sum()
        self.pull = self.pull + (dev @ self.mean).square().sum() + factor * (step @ self.mean) ** 2
        self.count = total

    def raw(self) -> tuple[Tensor, Tensor]:
        """The mean of a and its standard error."""
        return self.a, (self.aa / (self.count * (self.count - 1))).sqrt()

    def offset(self) -> tuple[Tensor, Tensor]:
        """|E f|**2, less the bias of the square of a sample mean, and its variance to second order."""
        noise = self.sway / (self.count * (self.count - 1))  # of the sample mean
        return self.mean.square().sum() - noise, 4 * self.pull / (self.count * (self.count - 1)) + 2 * noise**2

    def ratio(self, *, centred: bool) -> tuple[Tensor, Tensor]:
        """E a / E b, or (E a - |E f|**2) / (E b - |E f|**2), and its standard error by the delta method.

        The error of |E f|**2 is added as if it were independent, which errs towards a wide error. It is small where f
        was centred beforehand, and all there is where a and b leave no error, as for a linear f with a linear control.
        """
        offset, doubt = self.offset() if centred else (0.0, 0.0)
        value = (self.a - offset) / (self.b - offset)
        spread = (self.aa - 2 * value * self.ab + value**2 * self.bb).clamp(min=0)
        variance = spread / (self.count * (self.count - 1)) + (1 - value) ** 2 * doubt
        return value, variance.sqrt() / (self.b - offset).abs()

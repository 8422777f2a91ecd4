"""Efron-Stein energies of functions whose every value is known: a few inputs, each uniform on a small alphabet.

Nothing is sampled. The table of a network that adds residues has one row for each pair of operands, and the energies of
its four Efron-Stein parts give its noise stability at every strength of the noise.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from nslab.boolean.checks import Scalar, table_bits, widened
from nslab.boolean.spectral import damp, sum_by_level


def efron_stein_energies(table: Float[Tensor, "..."], inputs: int) -> Float[Tensor, "*batch subsets"]:
    r"""The energies $E\,\|f^{=S}(X)\|^2$ of the Efron-Stein parts of f, exactly, for every set S of inputs.

    Formula: $f = \sum_S f^{=S}$ with $f^{=S} = \prod_{i \in S} (1 - E_i) \prod_{i \notin S} E_i\, f$, where $E_i$ is
    the mean over input i. The parts are orthogonal, so that the energies sum to $E\,\|f(X)\|^2$. One input is split
    off at a time, and the squares are taken of the parts themselves: none is the small difference of large numbers.

    Args:
        table: the values of f, (*batch, v_1, ..., v_inputs, outputs): input i takes v_i equally likely values,
            independently of the others; the norm runs over the outputs.
        inputs: how many axes before the last are inputs, at least 1.

    Returns:
        (*batch, 2**inputs) in the table's dtype (single precision for halves). The set S stands at the index
        $\sum_{i \in S} 2^i$; for two inputs: constant, first alone, second alone, both.

    How to read it: what the output owes to no input, to single ones, and to their interplay. For class probabilities
    the sum is the mean of $\sum_c p_c^2$, 1 for a model that is always sure.

    Errors: `ValueError` when `inputs` is below 1, the table has too few axes, or an axis is empty.

    Source: Efron and Stein (1981); O'Donnell, Analysis of Boolean Functions (2014), section 8.3.

    >>> x = torch.tensor([1.0, -1.0])
    >>> efron_stein_energies((3 + 2 * x[:, None] + x[:, None] * x)[..., None], inputs=2)
    tensor([9., 4., 0., 1.])
    """
    if inputs < 1:
        raise ValueError(f"inputs is {inputs}: give at least 1, the number of axes that hold the function's inputs")
    if table.ndim <= inputs:
        raise ValueError(
            f"table has shape {tuple(table.shape)} and inputs is {inputs}: it needs an axis for each input and one for"
            " the outputs; table[..., None] gives a function with a single output its axis"
        )
    if 0 in table.shape[-inputs - 1 :]:
        raise ValueError(f"table has shape {tuple(table.shape)}: every input and the outputs need at least one value")
    axes = range(-inputs - 1, -1)
    parts = [widened(table)]
    for axis in axes:
        means = [part.mean(axis, keepdim=True) for part in parts]
        parts = means + [part - mean for part, mean in zip(parts, means, strict=True)]  # S without i, then S with i
    return torch.stack([part.square().sum(-1, keepdim=True).mean((*axes, -1)) for part in parts], -1)


def energy_stability(energies: Float[Tensor, "*batch subsets"], keep: Scalar) -> Float[Tensor, "..."]:
    r"""Noise stability $E \sum_c f_c(X) f_c(Y) = \sum_S \mathrm{keep}^{|S|}\, E\,\|f^{=S}\|^2$ from the energies.

    X is uniform; Y keeps each input with probability `keep` and else draws it anew, maybe the same value again: the
    noise of `nslab.noise.Resample`. Differentiable in both arguments.

    Args:
        energies: (*batch, 2**inputs), as from `efron_stein_energies`.
        keep: probabilities in [0, 1], a number or a tensor (*keep). (1 + rho)/2 is the convention of Noise Stability
            of Transformer Models, arXiv 2602.08287.

    Returns:
        (*batch, *keep).

    How to read it: not a correlation unless the energies sum to 1. For class probabilities it is the agreement mass:
    the chance that two labels, drawn from the model's answers to X and to Y, are equal. Divided by its value at
    keep = 1 it starts at 1 for a model that ignores its input, however unsure.

    Errors: `ValueError` when `keep` is outside [0, 1], or the last axis of the energies has no length 2**inputs.

    Source: O'Donnell, Analysis of Boolean Functions (2014), section 8.3.

    >>> energy_stability(torch.tensor([0.0, 0.0, 0.0, 1.0]), torch.tensor([0.5, 0.9]))
    tensor([0.2500, 0.8100])
    """
    levels = sum_by_level(_checked(energies))
    keep = torch.as_tensor(keep, dtype=levels.dtype, device=levels.device)
    outside = keep[~((keep >= 0) & (keep <= 1))]
    if len(outside):
        raise ValueError(f"keep has {outside[0].item():g}: it is the probability that an input is kept, in [0, 1]")
    return damp(levels, keep)


def energy_sensitivity(energies: Float[Tensor, "*batch subsets"]) -> Float[Tensor, "*batch"]:
    r"""The total influence $\sum_S |S|\, E\,\|f^{=S}\|^2$: the slope of `energy_stability` at keep = 1.

    Args:
        energies: (*batch, 2**inputs), as from `efron_stein_energies`.

    Returns:
        (*batch,).

    How to read it: the sum over the inputs of the mean variance of f along that input. For a one-hot answer it is
    the sum of the chances that drawing an input anew changes the answer.

    Errors: `ValueError` when the last axis has no length 2**inputs.

    Source: O'Donnell, Analysis of Boolean Functions (2014), section 8.3.

    >>> energy_sensitivity(torch.tensor([9.0, 4.0, 0.0, 1.0])).item()
    6.0
    """
    levels = sum_by_level(_checked(energies))
    return levels @ torch.arange(levels.shape[-1], dtype=levels.dtype, device=levels.device)


def _checked(energies: Tensor) -> Tensor:
    table_bits(energies, "energies")
    return widened(energies)

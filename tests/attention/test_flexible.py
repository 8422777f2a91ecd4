"""flex_attention with a bias is the explicit path, and is used only where it compiles and agrees.

On a CPU torch's flex_attention goes forward only, so its gradients are compared where there is a CUDA device.
"""

import warnings

import pytest
import torch

from nslab.attention.biased import attend_with_bias, attend_with_bias_explicitly
from nslab.attention.flexible import agrees, compiled, flexible

CPU = torch.device("cpu")


def kernel(*args, **options):
    """Torch's flex_attention as it is, not compiled: it warns that it is slow."""
    from torch.nn.attention.flex_attention import flex_attention

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return flex_attention(*args, **options)


def explicit(*parts, scale, causal):
    return attend_with_bias_explicitly(*parts, scale=scale, causal=causal).heads


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("shape", [(8, 8), (3, 8, 8), (2, 1, 8, 8), (2, 3, 8, 8), (3, 1, 1)])
def test_flex_attention_with_a_bias_is_the_explicit_path(normal, tolerances, causal, shape):
    parts = [normal(2, 3, 8, 4, seed=seed) for seed in range(3)] + [normal(*shape, seed=3)]
    ours = flexible(*parts, scale=0.3, causal=causal, kernel=kernel)
    torch.testing.assert_close(
        ours, explicit(*parts, scale=0.3, causal=causal), rtol=tolerances["exact"], atol=tolerances["exact"]
    )


def test_a_kernel_that_computes_something_else_is_not_taken():
    def without_mask(*parts, scale, causal):
        return explicit(*parts, scale=scale, causal=False)

    def without_gradient(query, key, value, bias, *, scale, causal):
        return explicit(query, key, value, bias.detach(), scale=scale, causal=causal) + 0 * bias.sum()

    assert agrees(explicit, explicit, CPU)
    assert not agrees(without_mask, explicit, CPU)
    assert not agrees(without_gradient, explicit, CPU)


def test_a_cpu_has_no_kernel_that_learns_a_bias():
    assert compiled(CPU, explicit) is None


def test_a_learned_bias_has_the_explicit_gradient_on_every_device(device, normal):
    shapes = [(2, 3, 128, 16)] * 3 + [(3, 128, 128)]
    parts = [normal(*shape, seed=seed).float().to(device) for seed, shape in enumerate(shapes)]
    parts = [part.requires_grad_() for part in parts]
    found = []
    for way in (attend_with_bias, explicit):
        found.append(torch.autograd.grad(way(*parts, scale=0.3, causal=True).sin().sum(), parts))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=1e-2)

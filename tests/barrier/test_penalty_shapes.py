"""Walls on Jacobian blocks against their formulas, finite differences and the plain masked code; singular matrices."""

import math

import pytest
import torch

from nslab.barrier.penalty_shapes import margin_penalty

KINDS = ["raw", "clamped", "onesided", "hinge", "kl", "first-order"]
DELTA = 0.05
SINGULAR = {
    "zero": torch.zeros(3, 3),
    "identity": torch.eye(3),
    "minus identity": -torch.eye(3),
    "rank 2": torch.diag(torch.tensor([1.0, 1.0, 0.0])),
    "rank 2, another order": torch.tensor([[0.0, 2.0, 1.0], [0.0, 1.0, 3.0], [0.0, 4.0, 1.0]]),
    "rank 1": torch.ones(3, 3),
    "nearly": torch.diag(torch.tensor([1.0, 1.0, 1e-39])),
    "far": 1e9 * torch.ones(3, 3) + torch.eye(3),
}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def formula(block, kind, delta=DELTA, clamp=30.0):
    """The docstring's formulas, one block at a time, through eigenvalues and nothing else of torch.linalg."""
    p = len(block)
    determinant = torch.linalg.eigvals(block).prod().real.item()
    if kind in ("raw", "clamped"):
        return min(-math.log(abs(determinant)), clamp if kind == "clamped" else math.inf)
    if kind == "kl":
        gram = block @ block.T
        return 0.5 * (gram.trace().item() - (torch.linalg.eigvalsh(gram) + delta**2).log().sum().item() - p)
    if kind == "first-order":
        return p - block.trace().item()
    line = -math.log(delta) + (delta - determinant) / delta
    found = -math.log(determinant) if determinant >= delta else line
    return max(0.0, found) if kind == "hinge" else found


def on_all_sides(p=4, count=40):
    """Blocks with determinants of both signs, some beyond 1 and one between 0 and delta."""
    noise = torch.randn(count, p, p, generator=seeded(), dtype=torch.float64)
    blocks = torch.eye(p).double() + torch.linspace(0.05, 1.2, count).double()[:, None, None] * noise
    blocks[0, 0] *= 0.02
    return blocks


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_its_formula(kind):
    blocks = on_all_sides()
    expected = [formula(block, kind) for block in blocks]
    found = margin_penalty(blocks.view(5, 8, 4, 4), kind)
    torch.testing.assert_close(found.flatten(), torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-9)
    determinants = torch.linalg.eigvals(blocks).prod(-1).real
    assert ((determinants < 0).any(), (determinants > 1).any()) == (True, True)
    assert ((determinants > 0) & (determinants < DELTA)).any()


def test_the_numbers_of_the_hinge():
    """delta = 0.05: det 1, 0.1, 0.05, 0.01, 0, -0.1 give 0, 2.3026, 2.9957, 3.7957, 3.9957, 5.9957."""
    determinants = torch.tensor([1.0, 0.1, 0.05, 0.01, 0.0, -0.1])
    for blocks in (determinants[:, None, None], torch.diag_embed(torch.stack([determinants, torch.ones(6)], 1))):
        found = margin_penalty(blocks)
        torch.testing.assert_close(found, torch.tensor([0, 2.3026, 2.9957, 3.7957, 3.9957, 5.9957]), atol=5e-5, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_is_that_of_finite_differences(kind):
    blocks = on_all_sides(3, 24).requires_grad_()
    assert torch.autograd.gradcheck(lambda j: margin_penalty(j, kind), blocks, eps=1e-7, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["onesided", "hinge"])
def test_the_wall_is_once_differentiable_where_log_turns_into_line(kind):
    beside = torch.tensor([DELTA * (1 - 1e-9), DELTA * (1 + 1e-9)], dtype=torch.float64)
    blocks = torch.diag_embed(torch.stack([beside, torch.ones_like(beside)], 1)).requires_grad_()
    value = margin_penalty(blocks, kind)
    (slope,) = torch.autograd.grad(value.sum(), blocks)
    torch.testing.assert_close(value[0], value[1], rtol=0, atol=1e-8)
    torch.testing.assert_close(slope[0], slope[1], rtol=1e-7, atol=1e-7)
    assert slope[0, 0, 0].item() == pytest.approx(-1 / DELTA)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", SINGULAR)
def test_values_and_gradients_at_singular_matrices_are_no_nan(kind, case, device):
    block = SINGULAR[case].to(device, copy=True).requires_grad_()
    value = margin_penalty(block, kind)
    value.backward()
    assert not value.isnan()
    assert block.grad.isfinite().all()
    infinite = kind == "raw" and case in ("zero", "rank 2", "rank 2, another order", "rank 1", "far")
    assert value.isposinf().item() == infinite


@pytest.mark.parametrize("kind", ["onesided", "hinge"])
def test_at_a_singular_matrix_the_gradient_is_that_of_the_determinant(kind):
    """d det / d J is the matrix of cofactors, which is not zero at rank p - 1, and zero at rank p - 2."""
    for case in ("zero", "rank 2", "rank 2, another order", "rank 1"):
        block = SINGULAR[case].double().requires_grad_()
        margin_penalty(block, kind).backward()
        cofactors = torch.empty(3, 3, dtype=torch.float64)
        for i in range(3):
            for j in range(3):
                a, b, c, d = block.detach()[[r for r in range(3) if r != i]][
                    :, [r for r in range(3) if r != j]
                ].flatten()
                cofactors[i, j] = (-1) ** (i + j) * (a * d - b * c)
        torch.testing.assert_close(block.grad, -cofactors / DELTA, atol=1e-10, rtol=1e-10)


def test_the_hinge_asks_nothing_of_determinants_from_one_on():
    for c in (1.0, 1.5, 40.0):
        block = (c * torch.eye(5)).requires_grad_()
        value = margin_penalty(block)
        value.backward()
        assert value.item() == 0
        assert not block.grad.any()
    assert margin_penalty(3 * torch.eye(2), "onesided").item() == pytest.approx(-math.log(9))


def test_kl_is_least_at_orthogonal_blocks():
    """Each singular value s adds (s^2 - log(s^2 + delta^2) - 1) / 2, least where s^2 = 1 - delta^2."""
    turned = torch.linalg.qr(torch.randn(20, 5, 5, generator=seeded(), dtype=torch.float64)).Q
    turned[::2, 0] *= -1  # half of them reflect
    least = -5 * DELTA**2 / 2
    torch.testing.assert_close(
        margin_penalty(math.sqrt(1 - DELTA**2) * turned, "kl"), torch.full((20,), least).double()
    )
    assert margin_penalty(turned, "kl").abs().max() < 5 * DELTA**2 / 2
    noise = torch.randn(500, 5, 5, generator=seeded(1), dtype=torch.float64)
    assert margin_penalty(turned[0] + 0.3 * noise, "kl").min() > least


def test_it_is_the_plain_code_with_masks():
    """Twin: slogdet and det on masked matrices, as one would write it."""
    blocks = on_all_sides(6, 60).requires_grad_()
    sign, log = torch.linalg.slogdet(blocks.detach())
    ok = ((sign > 0) & (log > math.log(DELTA)))[:, None, None]
    eye = torch.eye(6, dtype=torch.float64)
    logs = -torch.linalg.slogdet(torch.where(ok, blocks, eye))[1]
    lines = -math.log(DELTA) + (DELTA - torch.linalg.det(torch.where(ok, eye, blocks))) / DELTA
    plain = torch.where(ok[:, 0, 0], logs, lines).clamp(min=0)
    ours = margin_penalty(blocks)
    torch.testing.assert_close(ours, plain)
    weights = torch.rand(60, generator=seeded(), dtype=torch.float64)
    slopes = (torch.autograd.grad((weights * one).sum(), blocks)[0] for one in (ours, plain))
    torch.testing.assert_close(*slopes)


def test_half_precision_is_upcast_and_autocast_is_off(device):
    blocks = on_all_sides(8, 6).float().to(device)
    half = blocks.to(torch.bfloat16)
    for kind in KINDS:
        found = margin_penalty(half, kind)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, margin_penalty(half.float(), kind))
        with torch.autocast(device.type, torch.bfloat16):
            torch.testing.assert_close(margin_penalty(blocks, kind), margin_penalty(blocks.clone(), kind))
            inside = margin_penalty(blocks, kind)
        assert torch.equal(inside, margin_penalty(blocks, kind))


def test_a_block_with_nan_is_named_and_on_a_gpu_passes_in_training(device):
    blocks = torch.eye(3, device=device).repeat(2, 5, 1, 1)
    blocks[1, 3, 0, 2] = math.nan
    with pytest.raises(ValueError, match=r"block at \(1, 3\)"):
        margin_penalty(blocks)
    with pytest.raises(ValueError, match=r"block at \(0,\)"):
        margin_penalty(torch.full((1, 2, 2), math.inf, device=device))
    huge = torch.diag_embed(torch.full((2, 2), 3e38, device=device))  # finite, though their sum is not
    assert margin_penalty(huge).tolist() == [0, 0]
    blocks.requires_grad_()
    if device.type == "cuda":
        assert margin_penalty(blocks).isnan().nonzero().tolist() == [[1, 3]]
    else:
        with pytest.raises(ValueError, match="embeddings"):
            margin_penalty(blocks)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "log"}, "choose one of raw, clamped"),
        ({"delta": 0}, "delta is 0"),
        ({"delta": -0.1}, "from above 0 up to 1"),
        ({"delta": 2.0}, "delta is 2.0"),
        ({"clamp": 0}, "clamp is 0"),
        ({"blocks": torch.ones(2, 3)}, r"shape \(2, 3\): give square"),
        ({"blocks": torch.ones(3)}, "give square"),
    ],
)
def test_bad_input(options, message):
    with pytest.raises(ValueError, match=message):
        margin_penalty(**{"blocks": torch.eye(2)} | options)


def test_second_derivatives_are_refused_and_not_lost():
    blocks = torch.eye(3).expand(2, 3, 3).mul(0.5).requires_grad_()
    with pytest.raises(NotImplementedError, match="slogdet"):
        torch.autograd.grad(margin_penalty(blocks).mean(), blocks, create_graph=True)

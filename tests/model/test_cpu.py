"""The CPU's own backward passes against torch's gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tutelage.model.cpu import RMSNorm, _sdpa, attend


def draw(heads: int, kv_heads: int, dtype: torch.dtype) -> list[torch.Tensor]:
    torch.manual_seed(0)
    shapes = [(3, heads, 20, 8), (3, kv_heads, 20, 8), (3, kv_heads, 20, 8)]
    return [torch.randn(shape).to(torch.bfloat16).to(dtype).requires_grad_() for shape in shapes]


@pytest.mark.parametrize("heads", [(2, 2), (4, 2), (6, 1)])
@pytest.mark.parametrize("kind", ["causal", "masked", "every key"])
def test_the_bf16_backward_is_the_gradient_of_attention(heads, kind):
    """Held against torch's own fp32 gradient; bf16 rounds to 3 digits."""
    seen = torch.rand(3, 1, 20, 20) < 0.5
    mask = torch.zeros(3, 1, 20, 20).masked_fill_(~(seen | torch.eye(20, dtype=torch.bool)), -torch.inf)
    weights = torch.randn(3, heads[0], 20, 8)
    gradients = {}
    for dtype in (torch.float32, torch.bfloat16):
        q, k, v = draw(*heads, dtype)
        out = attend(q, k, v, mask.to(dtype) if kind == "masked" else None, kind == "causal")
        assert (type(out.grad_fn).__name__ == "_AttentionOnCPUBackward") == (dtype == torch.bfloat16)
        out.backward(weights.to(dtype))
        gradients[dtype] = [x.grad.float() for x in (q, k, v)]
    for exact, rounded in zip(gradients[torch.float32], gradients[torch.bfloat16], strict=True):
        assert (rounded - exact).norm() < 0.01 * exact.norm()


def test_the_forward_does_not_depend_on_whether_gradients_are_wanted():
    q, k, v = draw(4, 2, torch.bfloat16)
    with torch.no_grad():
        without = attend(q, k, v, None, True)
    assert torch.equal(attend(q, k, v, None, True), without)
    assert torch.equal(_sdpa(q, k, v, None, True), without)


def some_norm(size: int, dtype: torch.dtype) -> RMSNorm:
    norm = RMSNorm(size, 1e-5).to(dtype)
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(-1.0, 2.0, size))
    return norm


@pytest.mark.parametrize("shape", [(7, 12), (2, 5, 12), (2, 5, 3, 12)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rms_norm_is_torchs(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    values, grad = torch.randn(shape).to(dtype), torch.randn(shape)
    norms = some_norm(12, torch.float32), some_norm(12, torch.float32)
    inputs = [values.clone().requires_grad_() for _ in norms]
    ours = norms[0](inputs[0])
    theirs = F.rms_norm(inputs[1].float(), (12,), norms[1].weight, 1e-5)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)
    ours.backward(grad)
    theirs.backward(grad)
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad)
    torch.testing.assert_close(norms[0].weight.grad, norms[1].weight.grad, atol=1e-5, rtol=1e-5)


def test_the_gradient_of_rms_norm_is_the_slope_of_its_value() -> None:
    norm = some_norm(6, torch.float64)
    x = torch.randn(3, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, _: norm(x), (x, norm.weight))


def test_rms_norm_takes_transposed_inputs_and_gradients() -> None:
    norm, plain = some_norm(4, torch.float32), some_norm(4, torch.float32)
    x = torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(2)).transpose(0, 2).requires_grad_()
    y = x.detach().contiguous().requires_grad_()
    (norm(x).transpose(0, 2) ** 2).sum().backward()
    (F.rms_norm(y, (4,), plain.weight, 1e-5) ** 2).sum().backward()
    torch.testing.assert_close(x.grad, y.grad)


def test_rms_norm_of_zeros_has_a_gradient() -> None:
    x = torch.zeros(2, 4, requires_grad=True)
    some_norm(4, torch.float32)(x).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_bf16_weights_of_rms_norm_are_multiplied_in_fp32() -> None:
    torch.manual_seed(0)
    x, norm = torch.randn(50, 64).bfloat16(), some_norm(64, torch.bfloat16)
    y = norm(x)
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, F.rms_norm(x.float(), (64,), norm.weight.float(), 1e-5).bfloat16())

"""RMSNorm on the CPU against torch's own, value and gradient."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tutelage.model.norm import RMSNorm


def some_norm(size: int, dtype: torch.dtype) -> RMSNorm:
    norm = RMSNorm(size, 1e-5).to(dtype)
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(-1.0, 2.0, size))
    return norm


@pytest.mark.parametrize("shape", [(7, 12), (2, 5, 12), (2, 5, 3, 12)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_is_torchs(shape: tuple[int, ...], dtype: torch.dtype) -> None:
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


def test_its_gradient_is_the_slope_of_its_value() -> None:
    norm = some_norm(6, torch.float64)
    x = torch.randn(3, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, _: norm(x), (x, norm.weight))


def test_a_transposed_input_and_gradient_will_do() -> None:
    norm, plain = some_norm(4, torch.float32), some_norm(4, torch.float32)
    x = torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(2)).transpose(0, 2).requires_grad_()
    y = x.detach().contiguous().requires_grad_()
    (norm(x).transpose(0, 2) ** 2).sum().backward()
    (F.rms_norm(y, (4,), plain.weight, 1e-5) ** 2).sum().backward()
    torch.testing.assert_close(x.grad, y.grad)


def test_a_row_of_zeros_has_a_gradient() -> None:
    x = torch.zeros(2, 4, requires_grad=True)
    some_norm(4, torch.float32)(x).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_bf16_weights_are_multiplied_in_fp32() -> None:
    torch.manual_seed(0)
    x, norm = torch.randn(50, 64).bfloat16(), some_norm(64, torch.bfloat16)
    y = norm(x)
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, F.rms_norm(x.float(), (64,), norm.weight.float(), 1e-5).bfloat16())

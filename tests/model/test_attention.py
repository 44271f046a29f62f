import pytest
import torch

from tutelage.model.attention import _sdpa, attend


def draw(heads: int, kv_heads: int, dtype: torch.dtype) -> list[torch.Tensor]:
    torch.manual_seed(0)
    shapes = [(3, heads, 20, 8), (3, kv_heads, 20, 8), (3, kv_heads, 20, 8)]
    return [torch.randn(shape).to(torch.bfloat16).to(dtype).requires_grad_() for shape in shapes]


@pytest.mark.parametrize("heads", [(2, 2), (4, 2), (6, 1)])
@pytest.mark.parametrize("masked", [False, True])
def test_the_bf16_backward_is_the_gradient_of_attention(heads, masked):
    """Held against torch's own fp32 gradient; bf16 rounds to 3 digits."""
    seen = torch.rand(3, 1, 20, 20) < 0.5
    mask = torch.zeros(3, 1, 20, 20).masked_fill_(~(seen | torch.eye(20, dtype=torch.bool)), -torch.inf)
    weights = torch.randn(3, heads[0], 20, 8)
    gradients = {}
    for dtype in (torch.float32, torch.bfloat16):
        q, k, v = draw(*heads, dtype)
        out = attend(q, k, v, mask.to(dtype) if masked else None, not masked)
        assert (type(out.grad_fn).__name__ == "_FastBackwardBackward") == (dtype == torch.bfloat16)
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

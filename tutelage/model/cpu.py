"""Attention and RMSNorm with backward passes that are faster on the CPU than torch's own."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tutelage.model.device import cpu_has_amx

# With more scores than this (64 MiB in bf16) the batched products below cost more memory than the time saved is worth.
_MOST_SCORES = 1 << 25


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    """softmax(q k^T / sqrt(e) + mask) v for q [b, h, s, e] and k, v [b, g, t, e], where h is a multiple of g.

    ``mask`` is added to the scores, [b or 1, 1, s, t]; ``causal`` (s = t) replaces it. Returns [b, h, s, e].
    """
    if q.dtype == torch.bfloat16 and q.device.type == "cpu" and torch.is_grad_enabled() and q.requires_grad:
        b, h, s, _ = q.shape
        if b * h * s * k.shape[2] <= _MOST_SCORES:
            return _AttentionOnCPU.apply(q, k, v, mask, causal)
    return _sdpa(q, k, v, mask, causal)


def attend_once(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """``attend`` for one query per head: q [b, g, r, e], k and v [b, g, t, e] -> [b, g, r, e], all of one type.

    The r = h / g heads that share keys take the axis of the queries, so that no key is copied.
    """
    if k.dtype == torch.float32 and torch.is_autocast_enabled(k.device.type):  # it would cast the whole cache to bf16
        with torch.autocast(k.device.type, enabled=False):
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def cache_dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """The type of the key/value cache of a forward in ``dtype``: fp32 in place of bf16 on a CPU without AMX.

    Attention of one query, 128 rows x 2 heads x 48 keys of 64, torch 2.13, in ms:

    - AMD EPYC, two cores: in bf16 0.78, in fp32 0.15, as products and sums in bf16 0.26.
    - Xeon with AMX and MKL's bf16 products switched off, one core: 1.50, 0.50, 1.03. Decoding with an fp32 cache then gains 9 to
      26% at 16 to 128 rows (1 M and 4 M parameters), with products and sums 3 to 20%.
    - The same Xeon with AMX: 0.28, 0.52, 1.08.
    """
    slow = dtype == torch.bfloat16 and device.type == "cpu" and not cpu_has_amx()
    return torch.float32 if slow else dtype


def _sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    gqa = q.shape[1] != k.shape[1]  # faster than repeating keys: 8 heads on 2, forward and backward, 1.15x on CPU
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=gqa)


class _AttentionOnCPU(torch.autograd.Function):
    """torch's own forward, and a backward of five batched products.

    In bf16 on a CPU with AMX, torch 2.13's forward and backward take 42 ms at [b, h, s, e] = [16, 4, 256, 32] and 87 ms
    at [64, 4, 96, 32], where fp32 takes 24 and 20; with this backward they take 20 and 15. The forward is the same with
    and without gradients, so a policy computes the same numbers when it samples and when it learns.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
        ctx.save_for_backward(q, k, v, mask)
        ctx.causal = causal
        return _sdpa(q, k, v, mask, causal)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        q, k, v, mask = ctx.saved_tensors
        (b, h, s, e), (g, t) = q.shape, k.shape[1:3]
        r, scale = h // g, e**-0.5
        # The r heads that share keys become rows of queries: [b * g, r * s, e] against [b * g, t, e].
        rows, grad = q.reshape(b * g, r * s, e), grad.reshape(b * g, r * s, e)
        keys, values = k.reshape(b * g, t, e), v.reshape(b * g, t, e)
        if mask is not None:
            added = mask[:, :, None].expand(b, g, r, s, t).reshape(b * g, r * s, t)
        else:
            added = torch.full((s, t), -torch.inf if ctx.causal else 0.0, dtype=q.dtype).triu(1).repeat(r, 1)
        p = torch.softmax(torch.baddbmm(added, rows, keys.transpose(1, 2), alpha=scale), -1)
        dv = torch.bmm(p.transpose(1, 2), grad)
        dp = torch.bmm(grad, values.transpose(1, 2))
        ds = torch._softmax_backward_data(dp, p, -1, p.dtype)
        dq, dk = torch.bmm(ds, keys).mul_(scale), torch.bmm(ds.transpose(1, 2), rows).mul_(scale)
        return dq.view(b, h, s, e), dk.view(b, g, t, e), dv.view(b, g, t, e), None, None


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight over the last axis, in fp32 for any input type (Zhang and Sennrich 2019)."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(size)), eps

    def forward(self, x: Tensor) -> Tensor:
        kind = self.weight.dtype  # under autocast x may be bf16; torch's fused kernel wants one type and sums in fp32
        if x.device.type == "cpu":
            wide = torch.promote_types(kind, torch.float32)
            return _RMSNormOnCPU.apply(x.to(wide), self.weight.to(wide), self.eps).to(kind)
        return F.rms_norm(x.to(kind), self.weight.shape, self.weight, self.eps)


class _RMSNormOnCPU(torch.autograd.Function):
    """A backward of six kernels; torch 2.13 has no fused one on the CPU and takes about fourteen.

    Forward and backward of [32, 75, 128] take 1.3 ms instead of 3.1 on two cores; a model of four layers has 17 norms.
    With y = x / rms and gradient g, dx = (g w - y mean(g w y)) / rms.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        mean = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1])
        inverse = mean.add_(eps).rsqrt_()
        y = x * inverse
        ctx.save_for_backward(y, weight, inverse)
        return y * weight

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        y, weight, inverse = ctx.saved_tensors
        size = y.shape[-1]
        grad_y = grad * y
        flat = grad_y.reshape(-1, size)
        share = (flat @ weight).view_as(inverse).div_(-size)
        return (grad * weight).addcmul_(y, share).mul_(inverse), flat.sum(0), None

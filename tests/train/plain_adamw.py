"""A step of AdamW on the gradient of a loss, and comparisons of a run with what plain Python computed."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn


class Plain:
    """AdamW by torch, on the gradient of a loss: norms are clipped, and vectors do not decay."""

    def __init__(self, model: nn.Module, lr: float, decay: float, clip: float) -> None:
        self.weights, self.clip, self.lr = list(model.parameters()), clip, lr
        groups = [
            {"params": [w for w in self.weights if w.dim() > 1], "weight_decay": decay},
            {"params": [w for w in self.weights if w.dim() < 2], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), eps=1e-8)

    def step(self, loss: Tensor, factor: float) -> float:
        """Take a step at ``factor`` times the peak learning rate; the norm before clipping."""
        gradients = torch.autograd.grad(loss, self.weights)
        norm = math.sqrt(sum(g.square().sum().item() for g in gradients))
        for weight, gradient in zip(self.weights, gradients, strict=True):
            weight.grad = gradient * min(1.0, self.clip / norm)
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * factor
        self.optimizer.step()
        return norm


def assert_logged(row: dict[str, float], **expected: float) -> None:
    for name, value in expected.items():
        assert row[name] == pytest.approx(value, rel=5e-4, abs=5e-5), f"{name} after step {row['step']}"


def assert_same_weights(one: nn.Module, other: nn.Module, atol: float = 2e-5) -> None:
    found, wanted = one.state_dict(), other.state_dict()
    assert set(found) == set(wanted)
    for name in found:
        torch.testing.assert_close(found[name], wanted[name], atol=atol, rtol=0)

"""A compiled step: the gradients of the plain one, and the same numbers each time."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch import Tensor

from tutelage.model.config import ModelConfig
from tutelage.model.decoder import Decoder
from tutelage.model.device import compiled
from tutelage.objectives.language import next_token_loss

pytestmark = pytest.mark.skipif(not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="no C++ compiler")


def test_a_compiled_step_has_the_plain_gradients_and_the_same_ones_each_time():
    torch.manual_seed(0)
    model = Decoder(ModelConfig(vocab_size=500, hidden_size=64, num_layers=1, num_heads=2, tie_embeddings=True))
    windows = torch.randint(0, 500, (8, 257)) ** 2 // 500  # some tokens often: many threads add to one row

    def loss(windows: Tensor) -> Tensor:
        return next_token_loss(
            model.logits(model(windows[:, :-1])).flatten(0, 1), windows[:, 1:].flatten(), windows[:, 1:].numel()
        )

    def gradients(function) -> list[Tensor]:
        model.zero_grad()
        function(windows).backward()
        return [p.grad.clone() for p in model.parameters()]

    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        plain = gradients(loss)
        fast = compiled(loss, model)
        first = gradients(fast)
        for one, other in zip(plain, first, strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
        for _ in range(8):
            assert all(torch.equal(one, other) for one, other in zip(first, gradients(fast), strict=True))
    finally:
        torch.set_num_threads(threads)

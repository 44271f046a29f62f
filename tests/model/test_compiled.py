"""Compiled layers: the gradients of plain ones, the same numbers each time, and one compilation for all."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from tutelage.model import compiling
from tutelage.model.compiling import compile_layers, compiled
from tutelage.model.config import ModelConfig
from tutelage.model.decoder import Decoder
from tutelage.objectives.language import token_nll

needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="no C++ compiler"
)  # fmt: skip


@needs_compiler
def test_a_compiled_step_has_the_plain_gradients_and_the_same_ones_each_time():
    torch.manual_seed(0)
    model = Decoder(ModelConfig(vocab_size=500, hidden_size=64, num_layers=10, num_heads=2, tie_embeddings=True))
    windows = torch.randint(0, 500, (8, 257)) ** 2 // 500  # some tokens often: many threads add to one row

    def loss(hidden: Tensor, targets: Tensor) -> Tensor:
        return token_nll(model.logits(hidden).flatten(0, 1), targets.flatten()).mean()

    def gradients(function) -> list[Tensor]:
        model.zero_grad()
        function(model(windows[:, :-1]), windows[:, 1:]).backward()
        return [p.grad.clone() for p in model.parameters()]

    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        plain = gradients(loss)
        counters.clear()
        compile_layers(model.train())
        fast = compiled(loss)
        first = gradients(fast)
        assert counters["stats"]["unique_graphs"] == 2, "one for all layers and one for the loss"
        for one, other in zip(plain, first, strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
        for _ in range(8):
            assert all(torch.equal(one, other) for one, other in zip(first, gradients(fast), strict=True))
        model.eval()
        for length in range(1, 5):
            model(windows[:, :length])
        assert counters["stats"]["unique_graphs"] == 2, "eval mode has many lengths and is not compiled"
    finally:
        torch.set_num_threads(threads)


def test_without_a_compiler_training_goes_on_without(monkeypatch, capsys):
    monkeypatch.setenv("PATH", "")
    assert compiled(len) is len
    assert "no C++ compiler found" in capsys.readouterr().out


@needs_compiler
def test_the_compilers_version_is_read():
    found = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))))
    said = subprocess.run([found, "--version"], capture_output=True, text=True, check=True).stdout
    assert f" {compiling._version(found)}." in said
    assert compiling._version(sys.executable) == 0, "what is not a compiler has none"

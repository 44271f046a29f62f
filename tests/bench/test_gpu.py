"""The benchmark of one device: its arithmetic against a model's own weights, and a short run on the CPU."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench import gpu
from bench.prepare import SHAPES, config_of
from tutelage.model.decoder import Decoder


@pytest.mark.parametrize("shape", SHAPES)
def test_weights_are_those_of_the_model(shape):
    config = config_of(shape, num_layers=2, vocab_size=500)
    model = Decoder(config)
    matrices = sum(
        weight.numel() for weight in model.parameters() if weight.dim() == 2
    )  # embeddings are tied: the output's
    assert gpu.matrix_weights(config) == matrices


def test_work_of_a_token_by_hand():
    config = config_of("S")
    weights = 4 * (4 * 256 * 256 + 3 * 256 * 688) + 256 * 4096
    assert gpu.training_flops(config, 100) == 6 * weights + 12 * 4 * 256 * 100
    size = 2 if torch.finfo(gpu.autocast_dtype("cpu")).bits == 16 else 4
    assert gpu.step_bytes(config, torch.device("cpu"), 3, 50) == size * (weights + 2 * 4 * 256 * 50 * 3)


def test_all_lines_of_a_quick_run(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(gpu, "BATCHES", (1, 2))
    gpu.main(["--device", "cpu", "--quick", "--out", str(tmp_path / "cpu.json")])
    found = json.loads((tmp_path / "cpu.json").read_text())
    titles = ["pretrain S, 2 x 64", *(f"generate S, batch {n}{how}" for n in (1, 2) for how in ("", ", torch"))]
    assert [line["work"] for line in found["lines"]] == titles
    for line in found["lines"]:
        assert line["tokens_per_s"] > 0
        assert line.get("mfu", line.get("bandwidth")) > 0
    assert str(tmp_path / "cpu.json") in capsys.readouterr().out

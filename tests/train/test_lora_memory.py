"""Peak memory of the stages through LoRA, each in a process of its own: PPO's four models are one trunk."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from toy_task import ppo_settings, reward_settings, sft_settings

from tutelage.model.checkpoint import save_model
from tutelage.model.config import ModelConfig
from tutelage.model.decoder import Decoder
from tutelage.settings import dump
from tutelage.text.tokenizer import Tokenizer

LORA = {"r": 8, "alpha": 16.0}


def peak(stage: str, settings: object, folder: Path) -> float:
    """Run a stage; the largest resident set of its process, less that of a process that has only imported it [MiB]."""
    recipe = folder / f"{stage}.yaml"
    recipe.write_text(dump(settings))
    code = (
        "import json, sys, torch, torch._dynamo\n"
        "from tutelage import cli\n"
        "from tutelage.model.device import peak_rss_gib\n"
        f"import tutelage.train.{stage}\n"
        "torch.set_num_threads(1)\n"
        "before = peak_rss_gib()\n"
        "code = cli.main(sys.argv[1:])\n"
        "print(json.dumps([code or 0, 1024 * (peak_rss_gib() - before)]))"
    )
    command = [sys.executable, "-c", code, stage, "--recipe", str(recipe)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    status, size = json.loads(run.stdout.splitlines()[-1])
    assert status == 0, run.stderr
    return size


@pytest.mark.proof
def test_rlhf_on_one_trunk_needs_at_most_1_3_times_the_memory_of_sft(toy, tmp_path, capsys):
    torch.manual_seed(0)
    tokenizer = Tokenizer.load(toy.folder / "tokenizer")
    config = ModelConfig(
        family="llama", vocab_size=tokenizer.vocab_size, hidden_size=1024, num_layers=10, num_heads=8,
        max_position_embeddings=128,
    )  # fmt: skip
    base = tmp_path / "base"
    save_model(base, Decoder(config), bos_id=tokenizer.bos_id, end_id=tokenizer.end_id, pad_id=tokenizer.pad_id)
    tokenizer.save(base)
    common = {"lora": LORA, "machine": {"device": "cpu", "dtype": "fp32"}}
    few = {"epochs": 1, "batch_size": 8}
    sizes = {"sft": peak("sft", sft_settings(toy, base, tmp_path / "sft", **few, **common), tmp_path)}
    tuned = tmp_path / "sft" / "checkpoint"
    sizes["reward"] = peak("reward", reward_settings(toy, tuned, tmp_path / "reward", **few, **common), tmp_path)
    scorer = tmp_path / "reward" / "checkpoint"
    settings = ppo_settings(toy, tuned, scorer, tmp_path / "ppo", updates=2, minibatch=8, microbatch=8, **common)
    sizes["ppo"] = peak("ppo", settings, tmp_path)
    weights = (base / "model.safetensors").stat().st_size / 2**20
    with capsys.disabled():
        print(
            f"\nweights {weights:.0f} MiB; peak " + ", ".join(f"{name} {size:.0f} MiB" for name, size in sizes.items())
        )
    assert sizes["sft"] > weights
    assert sizes["ppo"] <= 1.3 * sizes["sft"]
    assert sizes["reward"] <= 1.3 * sizes["sft"]

"""Peak memory of the stages through LoRA, each in a process of its own: PPO's four models are one trunk."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys

import pytest
import torch
from toy_task import ROOT, Job, ppo_job, reward_job, sft_job

from tutelage.model.checkpoint import save_model
from tutelage.model.config import ModelConfig
from tutelage.model.decoder import Decoder
from tutelage.text.tokenizer import Tokenizer

LORA = {"r": 8, "alpha": 16.0}


def peak(job: Job) -> float:
    """Run a job; the largest resident set of its process, less that of a process that has only imported it [MiB]."""
    code = (
        "import pickle, sys, torch, torch._dynamo\n"
        "from tutelage.runs.folder import peak_rss_gib\n"
        "job = pickle.load(sys.stdin.buffer)\n"
        "torch.set_num_threads(1)\n"
        "before = peak_rss_gib()\n"
        "job.run()\n"
        "print(1024 * (peak_rss_gib() - before))"
    )
    path = os.pathsep.join([*map(str, (ROOT, ROOT / "tests")), os.environ.get("PYTHONPATH", "")])
    run = subprocess.run(
        [sys.executable, "-c", code],
        input=pickle.dumps(job),
        capture_output=True,
        env=os.environ | {"PYTHONPATH": path},
    )
    assert run.returncode == 0, run.stderr.decode()
    return float(run.stdout.splitlines()[-1])


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
    sizes = {"sft": peak(sft_job(toy, base, tmp_path / "sft", **few, **common))}
    tuned = tmp_path / "sft" / "checkpoint"
    sizes["reward"] = peak(reward_job(toy, tuned, tmp_path / "reward", **few, **common))
    scorer = tmp_path / "reward" / "checkpoint"
    job = ppo_job(toy, tuned, scorer, tmp_path / "ppo", updates=2, minibatch=8, microbatch=8, **common)
    sizes["ppo"] = peak(job)
    weights = (base / "model.safetensors").stat().st_size / 2**20
    with capsys.disabled():
        print(
            f"\nweights {weights:.0f} MiB; peak " + ", ".join(f"{name} {size:.0f} MiB" for name, size in sizes.items())
        )
    assert sizes["sft"] > weights
    assert sizes["ppo"] <= 1.3 * sizes["sft"]
    assert sizes["reward"] <= 1.3 * sizes["sft"]

"""A reward model trained through LoRA, beside TRL's RewardTrainer with peft: the same rows, step by step in turns.

    python bench/lora_reward.py starters/smollm2 runs/smollm2/data/rankings.jsonl     # needs trl, accelerate, peft, datasets

Prints rankings per second of each and the ratio of the medians. Both take the same pairs of a batch, bf16 where it is fast, rank 16
on all matrices of the layers, and AdamW.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from tutelage.data.formats import read_rankings
from tutelage.machine import prepare_machine
from tutelage.text.tokenizer import Tokenizer
from tutelage.train.models import load_trainable, new_scorer
from tutelage.train.optimizer import make_optimizer
from tutelage.train.rankings import RankingExample, encode_rankings
from tutelage.train.reward import RewardSettings, reward_update

RANK, ALPHA, LONGEST, LR = 16, 32, 320, 3e-4
PASS = 2048
"""Most tokens of a forward pass of ours, as in recipes/smollm2.yaml; TRL pads a batch as a whole."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("rankings", type=Path)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--steps", type=int, default=6)
    options = parser.parse_args()
    prepare_machine()

    tokenizer = Tokenizer.load(options.model)
    rankings = (("", ranking) for ranking in read_rankings(options.rankings, on_bad="skip"))
    examples, _ = encode_rankings(rankings, tokenizer, LONGEST)
    pairs = [example for example in examples if len(example.completions) == 2]
    size, steps = options.batch_size, options.steps + 1  # the first warms up
    batches = [pairs[i * size : (i + 1) * size] for i in range(steps)]
    sides = {"tutelage": ours(options.model, tokenizer), "trl + peft": trl(options.model, tokenizer, batches)}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    losses: dict[str, list[float]] = {name: [] for name in sides}
    for batch in batches:
        for name, step in sides.items():
            start = time.perf_counter()
            losses[name].append(step(batch))
            seconds[name].append(time.perf_counter() - start)
            print(f"{name:12}{size / seconds[name][-1]:8.2f} rankings/s   loss {losses[name][-1]:.4f}", flush=True)
    rates = {name: size / statistics.median(times[1:]) for name, times in seconds.items()}
    versions = {
        name: importlib.metadata.version(name) for name in ("torch", "trl", "peft", "transformers", "accelerate")
    }
    print(
        json.dumps(
            {"rankings_per_second": rates, "ratio": rates["tutelage"] / rates["trl + peft"], "batch_size": size}
            | {"steps": options.steps, "threads": torch.get_num_threads(), "machine": platform.processor(), **versions}
        )
    )


def ours(model: Path, tokenizer: Tokenizer) -> Callable[[Sequence[RankingExample]], float]:
    """One step of `tutelage reward --lora.r 16`."""
    machine = {"pass_tokens": PASS}
    knobs = RewardSettings.model_validate(
        {"lora": {"r": RANK, "alpha": ALPHA}, "lr": LR, "warmup": 0, "machine": machine}
    )
    torch.manual_seed(0)
    scorer = new_scorer(load_trainable(model, tokenizer, knobs.lora, knobs.machine)).train()
    optimizer = make_optimizer("adamw", scorer, LR, weight_decay=knobs.weight_decay)
    for group in optimizer.param_groups:
        group["lr"] = LR
    return lambda batch: reward_update(knobs, scorer, optimizer, batch, tokenizer.pad_id)["loss"]


def trl(model: Path, tokenizer: Tokenizer, batches: Any) -> Callable[[Sequence[RankingExample]], float]:
    """One step of TRL's RewardTrainer."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    from trl import RewardConfig, RewardTrainer

    def row(example: RankingExample) -> dict[str, list[int]]:
        best, worst = sorted(range(2), key=lambda i: example.ranks[0][i])
        return {
            name: example.prompt + example.completions[i] for name, i in (("chosen_ids", best), ("rejected_ids", worst))
        }

    theirs = AutoModelForSequenceClassification.from_pretrained(model, num_labels=1, dtype=torch.float32)
    theirs.config.pad_token_id = tokenizer.pad_id
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    adapters = LoraConfig(
        task_type="SEQ_CLS", r=RANK, lora_alpha=ALPHA, target_modules=targets, modules_to_save=["score"]
    )
    settings = RewardConfig(
        output_dir=tempfile.mkdtemp(), per_device_train_batch_size=len(batches[0]), learning_rate=LR, max_length=LONGEST,
        bf16=True, use_cpu=True, report_to=[], gradient_checkpointing=False, dataloader_pin_memory=False, max_steps=99,
    )  # fmt: skip
    rows = Dataset.from_list([row(example) for batch in batches for example in batch])
    trainer = RewardTrainer(
        model=theirs, args=settings, train_dataset=rows, peft_config=adapters,
        processing_class=AutoTokenizer.from_pretrained(model),
    )  # fmt: skip
    trainer.create_optimizer()
    trainer.current_gradient_accumulation_steps = 1  # set by its own loop
    wrapped = trainer.accelerator.prepare(trainer.model)
    wrapped.train()

    def step(batch: Sequence[RankingExample]) -> float:
        inputs = trainer.data_collator([row(example) for example in batch])
        loss = trainer.training_step(wrapped, inputs)
        torch.nn.utils.clip_grad_norm_(wrapped.parameters(), 1.0)
        trainer.optimizer.step()
        wrapped.zero_grad()
        return float(loss)

    return step


if __name__ == "__main__":
    main()

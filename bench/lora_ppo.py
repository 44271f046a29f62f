"""PPO through LoRA, beside TRL's PPOTrainer (1.12, the last with one) with peft: seconds of an update, in turns.

    python bench/lora_ppo.py starters/smollm2 runs/smollm2/reward/checkpoint runs/smollm2/prepare/prompts.jsonl

Each turn is a process of its own with `--updates` updates, of which the first is not counted: 32 answers of up to 64 tokens, four
minibatches, one pass, rank 16 on all matrices of the layers of policy and critic, bf16 where it is fast. TRL pads prompts to the
longest of a batch; prompts of more than 128 tokens are left out for both.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

BATCH, MINIBATCHES, LONGEST, PROMPT, RANK, ALPHA, LR = 32, 4, 64, 128, 16, 32, 2e-4
SIDES = ("tutelage", "trl + peft")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "reward_model", "prompts"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--updates", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--side", choices=SIDES)
    options = parser.parse_args()
    if options.side:
        run = tutelage if options.side == "tutelage" else trl
        print(json.dumps(run(options.model, options.reward_model, options.prompts, options.updates)))
        return
    seconds: dict[str, list[float]] = {name: [] for name in SIDES}
    for _ in range(options.rounds):
        for name in SIDES:
            words = [sys.executable, __file__, *sys.argv[1:], "--side", name]
            done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
            times = json.loads(done.stdout.splitlines()[-1])
            seconds[name] += times[1:]
            print(f"{name:12} seconds of an update: {', '.join(f'{t:.1f}' for t in times)}", flush=True)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    versions = {name: importlib.metadata.version(name) for name in ("torch", "trl", "peft", "transformers")}
    ratio = medians["trl + peft"] / medians["tutelage"]
    print(json.dumps({"seconds_per_update": medians, "ratio": ratio, "batch_size": BATCH, **versions}))


def tutelage(model: Path, reward_model: Path, prompts: Path, updates: int) -> list[float]:
    """`tutelage ppo` in a temporary folder."""
    from tutelage.train import ppo

    values = {
        "updates": updates, "batch_size": BATCH, "minibatch": BATCH // MINIBATCHES, "max_tokens": LONGEST, "max_prompt": PROMPT,
        "lr": LR, "value_lr": LR, "kl": {"coef": 0.05}, "lora": {"r": RANK, "alpha": ALPHA},
    }  # fmt: skip
    seconds: list[float] = []
    update = ppo.ppo_update

    def timed(*words: Any) -> Any:
        start = time.perf_counter()
        metrics = update(*words)
        seconds.append(time.perf_counter() - start)
        return metrics

    setattr(ppo, "ppo_update", timed)  # noqa: B010 - assigned plainly, its type would have to be the same
    inputs = ppo.PPOInputs(checkpoint=model, reward_model=reward_model, prompts=prompts)
    with tempfile.TemporaryDirectory() as folder:
        ppo.main(ppo.PPOSettings.model_validate(values), inputs, Path(folder) / "ppo")
    return seconds


def trl(model: Path, reward_model: Path, prompts: Path, updates: int) -> list[float]:
    """TRL's own loop, timed between the ends of its updates."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    from tutelage.data.tokens.batches import fitting_prompts
    from tutelage.text.tokenizer import Tokenizer

    rows = fitting_prompts(prompts, [(Tokenizer.load(model), PROMPT)])[1]
    tokenizer = AutoTokenizer.from_pretrained(model, padding_side="left")
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

    def adapters(kind: str) -> LoraConfig:
        return LoraConfig(task_type=kind, r=RANK, lora_alpha=ALPHA, target_modules=targets)

    def scorer() -> Any:
        return AutoModelForSequenceClassification.from_pretrained(reward_model, dtype=torch.float32)

    class Clock(TrainerCallback):
        def __init__(self) -> None:
            self.times = [time.perf_counter()]

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.times.append(time.perf_counter())

    settings = PPOConfig(
        output_dir=tempfile.mkdtemp(), per_device_train_batch_size=BATCH, gradient_accumulation_steps=1,
        num_mini_batches=MINIBATCHES, num_ppo_epochs=1, total_episodes=BATCH * updates, response_length=LONGEST,
        temperature=1.0, stop_token="eos", missing_eos_penalty=2.0, kl_coef=0.05, learning_rate=LR, num_sample_generations=0,
        local_rollout_forward_batch_size=BATCH, bf16=True, use_cpu=True, report_to=[], save_strategy="no",
        gradient_checkpointing=False, dataloader_pin_memory=False, disable_tqdm=True,
    )  # fmt: skip
    clock = Clock()
    trainer = PPOTrainer(
        args=settings, processing_class=tokenizer, model=AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32),
        ref_model=None, reward_model=scorer(), value_model=get_peft_model(scorer(), adapters("SEQ_CLS")),
        train_dataset=Dataset.from_list([{"input_ids": row} for row in islice(rows, 512)]),
        eval_dataset=Dataset.from_list([{"input_ids": rows[0]}] * 8), peft_config=adapters("CAUSAL_LM"), callbacks=[clock],
    )  # fmt: skip
    clock.times = [time.perf_counter()]
    trainer.train()
    return [end - start for start, end in zip(clock.times, clock.times[1:], strict=False)][:updates]


if __name__ == "__main__":
    main()

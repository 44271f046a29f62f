"""PPO of four models of shape S: updates of 64 answers of at most 64 tokens, 4 passes in minibatches of 16; a turn is an update.

Random prompts of 32 tokens with answers that do not end; and the embedded world's prompts with a policy that has learned from its
demonstrations, so that most answers end early.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.pairs import Case, Side
from bench.rows import random_rows
from bench.trainer import SHIPPED, folder, turns_of
from bench.worker import Turn

if TYPE_CHECKING:
    from bench.prepare import Prepared

TITLE = "PPO"
BATCH, MINIBATCHES, EPOCHS, LONGEST = 64, 4, 4, 64


def cases(prepared: Prepared) -> Iterator[Case]:
    peers = [
        Side("TRL", "as shipped", trl, {}, "trl-1.12"),
        Side("TRL", "mallopt", trl, {"tuning": "fp32"}, "trl-1.12"),
        Side("TRL", "bf16m", trl, {"tuning": "bf16"}, "trl-1.12"),
    ]
    sizes = {"batch": 8, "longest": 8} if prepared.quick else {"batch": BATCH, "longest": LONGEST}
    rewards = {"reward_model": prepared.model("S", scalar=True)} | sizes
    fixed = {"model": prepared.model("S"), "ends": False}
    fixed["rows"] = prepared.rows("ppo prompts", [{"ids": ids} for ids in random_rows(4 * BATCH, 32, 4096)])
    real = {
        "model": prepared.demonstrated(),
        "ends": True,
        "rows": prepared.rows("ppo real prompts", prompts(prepared)),
    }
    for name, work in (("prompts of 32, answers of 64", fixed), ("real prompts, answers that end", real)):
        for trunk in ("separate", "shared"):
            ours = Side("tutelage", "as shipped", tutelage, {"trunk": trunk})
            yield Case(f"S, {name}, {trunk} trunk", "episodes/s", [ours, *peers], rewards | work)


def prompts(prepared: Prepared) -> list[dict[str, Any]]:
    """The world's prompts, tokenised."""
    from tutelage.data.tokens.batches import render_each

    dialogues = [prompt.messages for prompt in prepared.world.files["prompts"][: 4 * BATCH]]
    found = render_each(prepared.tokenizer, dialogues, add_generation_prompt=True)
    return [{"ids": row.ids} for row in found if row is not None]


def tutelage(model: str, reward_model: str, rows: str, batch: int, longest: int, ends: bool, trunk: str) -> Turn:
    from tutelage.machine import prepare_machine

    prepare_machine()
    from tutelage.records import Message, Prompt
    from tutelage.runs.folder import RunFolder
    from tutelage.text.tokenizer import Tokenizer
    from tutelage.train.models import load_trainable
    from tutelage.train.ppo import PPOInputs, PPOSettings, make_models, ppo_update

    values = {
        "batch_size": batch,
        "minibatch": batch // MINIBATCHES,
        "inner_epochs": EPOCHS,
        "max_tokens": longest,
        "trunk": trunk,
    }
    knobs = PPOSettings.model_validate(values)
    inputs = PPOInputs(checkpoint=Path(model), reward_model=Path(reward_model), prompts=Path(rows))
    tokenizer = Tokenizer.load(Path(model))
    if not ends:
        tokenizer.end_ids = frozenset([-1])
    policy = load_trainable(Path(model), tokenizer, knobs.lora, knobs.machine)
    run: RunFolder = None  # type: ignore[assignment]  # it would hold pretraining text, of which there is none
    models = make_models(knobs, inputs, policy, tokenizer, run, None)
    for group in models.optimizer.param_groups:
        group["lr"] = 1e-6
    said = Prompt(messages=(Message(role="user", content="random tokens"),))
    asked = [(said, row["ids"]) for row in json.loads(Path(rows).read_text())]
    steps = count()

    def turn() -> float:
        ppo_update(next(steps), knobs, models, asked)
        return batch

    return turn


def trl(model: str, reward_model: str, rows: str, batch: int, longest: int, ends: bool, tuning: str = "") -> Turn:
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    from bench.tunings import keep_big_tensors_on_heap

    if tuning:
        keep_big_tensors_on_heap()
    chosen: dict[str, Any] = {"bf16": tuning == "bf16", "gradient_checkpointing": False} if tuning else {}
    settings = PPOConfig(
        output_dir=folder(), per_device_train_batch_size=batch, gradient_accumulation_steps=1,
        num_mini_batches=MINIBATCHES, num_ppo_epochs=EPOCHS, total_episodes=10_000 * batch, response_length=longest,
        temperature=1.0, stop_token="eos" if ends else None, missing_eos_penalty=2.0 if ends else None, learning_rate=1e-6,
        num_sample_generations=0, **SHIPPED, **chosen,
    )  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(model, padding_side="left")
    asked = json.loads(Path(rows).read_text())

    def scorer() -> Any:
        return AutoModelForSequenceClassification.from_pretrained(reward_model, dtype=torch.float32)

    def policy() -> Any:
        return AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)

    def make(callback: Any) -> Any:
        return PPOTrainer(
            args=settings, processing_class=tokenizer, model=policy(), ref_model=policy(), reward_model=scorer(),
            value_model=scorer(), train_dataset=Dataset.from_list([{"input_ids": row["ids"]} for row in asked]),
            eval_dataset=Dataset.from_list([{"input_ids": asked[0]["ids"]}] * 8), callbacks=[callback],
        )  # fmt: skip

    return turns_of(make, 1, batch)

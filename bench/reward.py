"""Reward models: rankings of four answers in batches of 8; a turn is a step.

TRL learns from pairs: the six of a ranking, 48 in a batch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.pairs import Case, Side
from bench.rows import random_lengths, random_rows
from bench.trainer import SHIPPED, folder, tuned, turns_of
from bench.worker import Turn

if TYPE_CHECKING:
    from bench.prepare import Prepared

TITLE = "Reward models"
ROWS, BATCH, K, PROMPT = 8, 8, 4, 32


def cases(prepared: Prepared) -> Iterator[Case]:
    sides = [
        Side("tutelage", "as shipped", tutelage),
        Side("TRL, six pairs", "as shipped", trl, {}, "trl-1.16"),
        Side("TRL, six pairs", "mallopt", trl, {"tuning": "fp32"}, "trl-1.16"),
        Side("TRL, six pairs", "bf16m", trl, {"tuning": "bf16"}, "trl-1.16"),
    ]
    count, batch = (2, 2) if prepared.quick else (ROWS, BATCH)
    work = {"model": prepared.model("S"), "rows": prepared.rows("rankings", rankings(count)), "batch": batch}
    yield Case(f"S, K = {K}, prompts of {PROMPT}, answers of 20 to 60", "rankings/s", sides, work)


def rankings(rows: int, answers: int = K) -> list[dict[str, Any]]:
    """Prompts of random ids with so many answers, the best first."""
    found = []
    for row in range(rows):
        lengths = random_lengths(answers, 20, 60, seed=row)
        texts = [random_rows(1, length, 4096, seed=answers * row + i)[0] for i, length in enumerate(lengths)]
        found.append({"prompt": random_rows(1, PROMPT, 4096, seed=row)[0], "answers": texts})
    return found


def tutelage(model: str, rows: str, batch: int) -> Turn:
    from tutelage.machine import prepare_machine

    prepare_machine()
    from tutelage.text.tokenizer import Tokenizer
    from tutelage.train.models import load_trainable, new_scorer
    from tutelage.train.optimizer import make_optimizer
    from tutelage.train.rankings import RankingExample
    from tutelage.train.reward import RewardSettings, reward_update

    knobs = RewardSettings(batch_size=batch)
    tokenizer = Tokenizer.load(Path(model))
    scorer = new_scorer(load_trainable(Path(model), tokenizer, knobs.lora, knobs.machine)).train()
    optimizer = make_optimizer(knobs.optimizer, scorer, 1e-4, weight_decay=knobs.weight_decay)
    examples = [
        RankingExample(row["prompt"], row["answers"], [tuple(range(1, len(row["answers"]) + 1))])
        for row in json.loads(Path(rows).read_text())
    ]

    def turn() -> float:
        for start in range(0, len(examples), batch):
            reward_update(knobs, scorer, optimizer, examples[start : start + batch], tokenizer.pad_id)
        return len(examples)

    return turn


def trl(model: str, rows: str, batch: int, tuning: str = "") -> Turn:
    import torch
    from datasets import Dataset
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    from trl import RewardConfig, RewardTrainer

    from bench.tunings import keep_big_tensors_on_heap

    if tuning:
        keep_big_tensors_on_heap()
    examples = json.loads(Path(rows).read_text())
    pairs = [
        {"chosen_ids": row["prompt"] + better, "rejected_ids": row["prompt"] + worse}
        for row in examples
        for better, worse in combinations(row["answers"], 2)
    ]
    each = K * (K - 1) // 2
    settings = RewardConfig(
        output_dir=folder(), per_device_train_batch_size=batch * each, num_train_epochs=100_000, learning_rate=1e-4,
        max_length=256, **SHIPPED, **(tuned(bf16=tuning == "bf16") if tuning else {}),
    )  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(model)
    scorer = AutoModelForSequenceClassification.from_pretrained(model, num_labels=1, dtype=torch.float32)
    scorer.config.pad_token_id = tokenizer.pad_token_id

    def make(callback: Any) -> Any:
        return RewardTrainer(
            model=scorer, args=settings, train_dataset=Dataset.from_list(pairs), processing_class=tokenizer,
            callbacks=[callback],
        )  # fmt: skip

    return turns_of(make, -(-len(pairs) // (batch * each)), len(examples))

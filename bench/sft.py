"""SFT: passes over a set of demonstrations in batches of 16; a turn is a pass.

Their lengths are those of the embedded world's demonstrations, or all from 30 to 200 alike.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.pairs import Case, Side
from bench.rows import random_lengths, random_rows
from bench.trainer import SHIPPED, folder, tuned, turns_of
from bench.worker import Turn

if TYPE_CHECKING:
    from bench.prepare import Prepared

TITLE = "SFT"
ROWS, BATCH = 64, 16


def cases(prepared: Prepared) -> Iterator[Case]:
    sides = [
        Side("tutelage", "as shipped", tutelage),
        Side("TRL", "as shipped", trl, {}, "trl-1.16"),
        Side("TRL", "mallopt, grouped by length", trl, {"tuning": "fp32"}, "trl-1.16"),
        Side("TRL", "bf16m, grouped by length", trl, {"tuning": "bf16"}, "trl-1.16"),
    ]
    rows, batch = (4, 4) if prepared.quick else (ROWS, BATCH)
    model = {"model": prepared.model("S")}
    for name, found in (
        ("real lengths", demonstrations(prepared, rows)),
        ("lengths 30 to 200", random_demonstrations(rows)),
    ):
        work = {"rows": prepared.rows(f"sft {name}", found), "batch": batch}
        yield Case(f"S, {name}, batch {batch}", "samples/s", sides, model | work)


def demonstrations(prepared: Prepared, rows: int) -> list[dict[str, Any]]:
    """The first of the world's demonstrations, tokenised."""
    from tutelage.data.tokens.batches import encode_conversations

    examples, _ = encode_conversations(prepared.world.files["demonstrations"][:rows], prepared.tokenizer, 256)
    return [{"ids": example.ids, "counts": example.loss_mask} for example in examples]


def random_demonstrations(rows: int) -> list[dict[str, Any]]:
    """Random ids, of which the last two thirds count."""
    found = [random_rows(1, length, 4096, seed)[0] for seed, length in enumerate(random_lengths(rows, 30, 200))]
    return [{"ids": ids, "counts": [i >= len(ids) // 3 for i in range(len(ids))]} for ids in found]


def tutelage(model: str, rows: str, batch: int) -> Turn:
    from tutelage.machine import prepare_machine

    prepare_machine()
    from tutelage.data.tokens.batches import Example
    from tutelage.text.tokenizer import Tokenizer
    from tutelage.train.loop import epoch_batches
    from tutelage.train.models import load_trainable
    from tutelage.train.optimizer import make_optimizer
    from tutelage.train.sft import SFTSettings, sft_update

    knobs = SFTSettings(batch_size=batch)
    tokenizer = Tokenizer.load(Path(model))
    decoder = load_trainable(Path(model), tokenizer, knobs.lora, knobs.machine).train()
    optimizer = make_optimizer(knobs.optimizer, decoder, 1e-4, weight_decay=knobs.weight_decay)
    examples = [Example(row["ids"], row["counts"]) for row in json.loads(Path(rows).read_text())]
    epochs = count()

    def turn() -> float:
        for step, part in enumerate(epoch_batches(examples, batch, 1, next(epochs), "bench")):
            sft_update(step, knobs, decoder, optimizer, part, None, tokenizer.pad_id)
        return len(examples)

    return turn


def trl(model: str, rows: str, batch: int, tuning: str = "") -> Turn:
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    from bench.tunings import keep_big_tensors_on_heap

    if tuning:
        keep_big_tensors_on_heap()
    examples = json.loads(Path(rows).read_text())
    chosen = tuned(bf16=tuning == "bf16", grouped=True) if tuning else {}
    settings = SFTConfig(
        output_dir=folder(), per_device_train_batch_size=batch, num_train_epochs=100_000, learning_rate=1e-4, max_length=256,
        **SHIPPED, **chosen,
    )  # fmt: skip
    data = Dataset.from_list(
        [{"input_ids": row["ids"], "completion_mask": list(map(int, row["counts"]))} for row in examples]
    )

    def make(callback: Any) -> Any:
        return SFTTrainer(
            model=AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32), args=settings, train_dataset=data,
            processing_class=AutoTokenizer.from_pretrained(model), callbacks=[callback],
        )  # fmt: skip

    return turns_of(make, -(-len(examples) // batch), len(examples))

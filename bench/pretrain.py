"""Pretraining: steps of 16 windows of 256 tokens, AdamW, gradients clipped; a turn is some steps."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from bench.pairs import Case, Side
from bench.rows import random_rows
from bench.worker import Turn

if TYPE_CHECKING:
    from bench.prepare import Prepared

TITLE = "Pretraining"


def cases(prepared: Prepared) -> Iterator[Case]:
    sides = [
        Side("tutelage", "as shipped", tutelage),
        Side("tutelage", "compiled", tutelage, {"compile": True}),
        Side("transformers", "as shipped", transformers),
        Side("transformers", "compiled", transformers, {"compile": True}),
        Side("transformers", "compiled, mallopt", transformers, {"compile": True, "mallopt": True}),
        Side("transformers", "compiled bf16m", transformers, {"compile": True, "mallopt": True, "bf16": True}),
    ]
    windows = {"batch": 2, "sequence": 64} if prepared.quick else {"batch": 16, "sequence": 256}
    work = {"model": prepared.model("S"), "vocab_size": prepared.vocab_size("S")} | windows
    yield Case("S, 16 x 256", "tokens/s", sides, work)


def tutelage(
    model: str, vocab_size: int, batch: int, sequence: int, compile: bool = False, device: str = "cpu"
) -> Turn:
    """As ``tutelage pretrain``, with or without ``--compile``."""
    from tutelage.machine import prepare_machine

    prepare_machine()
    import torch

    from tutelage.model.checkpoint import load_decoder
    from tutelage.model.compiling import compile_layers, compiled
    from tutelage.train.loop import apply_gradients
    from tutelage.train.optimizer import make_optimizer
    from tutelage.train.pretraining_text import text_backward, text_loss

    decoder = load_decoder(Path(model), device).train()
    optimizer = make_optimizer("adamw", decoder, 1e-4, weight_decay=0.1)
    loss_of = text_loss
    if compile:
        compile_layers(decoder)
        loss_of = compiled(text_loss)
    windows = torch.tensor(random_rows(batch, sequence + 1, vocab_size))

    def turn() -> float:
        text_backward(decoder, windows, "auto", loss_of=loss_of)
        apply_gradients(optimizer, 1.0, decoder)
        return batch * sequence

    return turn


def transformers(
    model: str,
    vocab_size: int,
    batch: int,
    sequence: int,
    compile: bool = False,
    mallopt: bool = False,
    bf16: bool = False,
) -> Turn:
    """nanoGPT's loop on transformers' model."""
    import torch
    from transformers import AutoModelForCausalLM

    from bench.tunings import keep_big_tensors_on_heap

    if mallopt:
        keep_big_tensors_on_heap()
    decoder = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).train()
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=1e-4, weight_decay=0.1)
    forward = torch.compile(decoder) if compile else decoder
    ids = torch.tensor(random_rows(batch, sequence + 1, vocab_size))[:, :-1]

    def turn() -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = forward(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()
        return batch * sequence

    return turn

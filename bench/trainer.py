"""transformers' Trainer, which TRL's trainers are: its own loop, halted between turns."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from threading import Semaphore, Thread
from typing import Any

from bench.worker import Turn

SHIPPED: dict[str, Any] = {"use_cpu": True, "report_to": [], "save_strategy": "no", "disable_tqdm": True}
"""What does not bear on speed; all else is as it is shipped, TRL's bf16 and gradient checkpointing among it."""


def tuned(*, bf16: bool, grouped: bool = False) -> dict[str, Any]:
    """A CPU's best settings: no checkpointing, no pinned memory, perhaps batches of similar lengths."""
    chosen: dict[str, Any] = {"bf16": bf16, "gradient_checkpointing": False, "dataloader_pin_memory": False}
    return chosen | ({"train_sampling_strategy": "group_by_length"} if grouped else {})


def folder() -> str:
    """Where a trainer may write."""
    return tempfile.mkdtemp(prefix="trainer-")


def turns_of(make: Callable[[Any], Any], steps: int, amount: float) -> Turn:
    """``make(callback)`` is a trainer; a turn is ``steps`` of its optimiser's steps, which are ``amount`` of work.

    ``train()`` runs in a thread that waits at the end of each turn, so that nothing of its loop is left out.
    """
    from transformers import TrainerCallback

    go, done, problems, count = Semaphore(0), Semaphore(0), list[BaseException](), 0

    class Halt(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            nonlocal count
            count += 1
            if count % steps == 0:
                done.release()
                go.acquire()

    trainer = make(Halt())

    def train() -> None:
        go.acquire()
        try:
            trainer.train()
            raise RuntimeError("the trainer ended before the measurement did")
        except BaseException as problem:
            problems.append(problem)
            done.release()

    Thread(target=train, daemon=True).start()

    def turn() -> float:
        go.release()
        done.acquire()
        if problems:
            raise problems[0]
        return amount

    return turn

"""What every stage shares: the schedule, and a loop that logs, saves, resumes and stops cleanly.

A stage gives ``run_steps`` one function, ``update(step) -> metrics``, that does a whole optimisation step. Everything random in
``update`` must be keyed by (seed, step): then the step number is the data position, and a run that goes on after a stop does
what it would have done without it.
"""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn

from tutelage.errors import Interrupted, TrainingError
from tutelage.model.checkpoint import save_model
from tutelage.model.decoder import Decoder
from tutelage.model.heads import ScalarModel
from tutelage.run_folder import RunFolder
from tutelage.text.tokenizer import Tokenizer
from tutelage.train.optimizer import Optimizer

Metrics = dict[str, float]


class Stateful(Protocol):
    """Anything besides weights that a resumed run needs, such as a KL controller."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def cosine(step: int, steps: int, *, warmup: int, floor: float) -> float:
    """Factor on the peak learning rate at ``step``: linear warm-up, then a cosine from 1 down to ``floor``."""
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def apply_gradients(optimizer: Optimizer, clip: float, *modules: nn.Module) -> float:
    """Clip each module's gradient norm by itself, step, clear. Returns the first module's norm before clipping.

    By itself, because a critic's gradient is often the larger and would scale the policy's away. Raises TrainingError if a norm
    is not finite: the weights stay as they were before the step.
    """
    norms = [float(nn.utils.clip_grad_norm_(module.parameters(), clip if clip > 0 else math.inf)) for module in modules]
    if not all(math.isfinite(norm) for norm in norms):
        raise TrainingError("a gradient is not a finite number; lower the learning rate or look at this step's data")
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norms[0]


def save_checkpoint(run: RunFolder, model: Decoder | ScalarModel, tokenizer: Tokenizer) -> None:
    """Write the run's result: model and tokenizer in one folder, as the ecosystem reads it."""
    ids = {"bos_id": tokenizer.bos_id, "end_id": tokenizer.end_id, "pad_id": tokenizer.pad_id}
    save_model(run.checkpoint, model, **ids)
    tokenizer.save(run.checkpoint)


def run_steps(
    run: RunFolder,
    *,
    steps: int,
    modules: Mapping[str, nn.Module],
    optimizer: Optimizer,
    update: Callable[[int], Metrics],
    warmup: int,
    floor: float,
    seed: int,
    extra_state: Mapping[str, Stateful] | None = None,
    evaluate: Callable[[int], Metrics] | None = None,
    evaluate_every: int = 0,
    stop_when: Callable[[Metrics], bool] = lambda metrics: False,
    save_every: int = 0,
    log_every: int = 1,
    show: tuple[str, ...] = ("loss",),
) -> int:
    """Run ``update`` for each step, from where the run folder's state says. Returns the number of steps done.

    ``update`` returns its metrics, with ``tokens`` for the rate. ``evaluate(step)`` runs every ``evaluate_every`` steps and after
    the last; its metrics are logged beside. ``stop_when(metrics)`` ends the run early, a KL budget being spent. SIGTERM or
    Ctrl-C saves and raises Interrupted; ``save_every`` saves as well.
    """
    extra_state = extra_state or {}
    first = _restore(run, modules, optimizer, extra_state)
    done = first
    with _signals() as stop, _progress(run.path.name, first, steps) as report:
        for step in range(first, steps):
            began = time.perf_counter()
            factor = cosine(step, steps, warmup=warmup, floor=floor)
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * factor
            torch.manual_seed(seed * 1_000_003 + step)
            metrics = update(step)
            done = step + 1
            last = done == steps
            tokens = metrics.pop("tokens", 0.0)
            rate = tokens / (time.perf_counter() - began)
            if not all(math.isfinite(value) for value in metrics.values()):
                bad = [name for name, value in metrics.items() if not math.isfinite(value)]
                raise TrainingError(
                    f"{run.path}: {bad[0]} is not a finite number at step {done}; lower the learning rate"
                )
            measured = False
            if evaluate is not None and (last or (evaluate_every and done % evaluate_every == 0)):
                metrics |= evaluate(done)
                measured = True
            if done % log_every == 0 or last or measured:
                run.log(done, metrics | {"lr": optimizer.param_groups[0]["lr"], "tokens_per_second": rate})
            report(done, metrics, show, rate)
            if stop_when(metrics):
                break
            stopping = (
                stop()
            )  # asked once: a signal that comes later is seen at the next step, and nothing stops unsaved
            if stopping or (save_every and done % save_every == 0 and not last):
                _save(run, done, modules, optimizer, extra_state)
            if stopping:
                raise Interrupted(
                    f"{run.path}: stopped after step {done} of {steps}; the same command goes on from there"
                )
    return done


def _save(
    run: RunFolder,
    step: int,
    modules: Mapping[str, nn.Module],
    optimizer: Optimizer,
    extra: Mapping[str, Stateful],
) -> None:
    state = {
        "step": step,
        "modules": {name: module.state_dict() for name, module in modules.items()},
        "optimizer": optimizer.state_dict(),
        "extra": {name: item.state_dict() for name, item in extra.items()},
    }
    temporary = run.state.with_name(f".{run.state.name}.tmp")
    with temporary.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(run.state)


def _restore(
    run: RunFolder,
    modules: Mapping[str, nn.Module],
    optimizer: Optimizer,
    extra: Mapping[str, Stateful],
) -> int:
    """Load the state if there is one; returns the step to go on from."""
    if not run.state.exists():
        run.forget_after(0)
        return 0
    state = torch.load(run.state, weights_only=True, map_location="cpu")
    for name, module in modules.items():
        module.load_state_dict(state["modules"][name])
    optimizer.load_state_dict(state["optimizer"])
    for name, item in extra.items():
        item.load_state_dict(state["extra"][name])
    run.forget_after(state["step"])
    return state["step"]


@contextmanager
def _signals() -> Iterator[Callable[[], bool]]:
    """Turn SIGTERM and the first Ctrl-C into a request to stop after the current step."""
    asked = False

    def ask(number: int, frame: object) -> None:
        nonlocal asked
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked = True

    try:
        before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    except ValueError:  # not the main thread: the host program owns the signals
        yield lambda: False
        return
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _progress(stage: str, first: int, steps: int) -> Iterator[Callable[[int, Metrics, tuple[str, ...], float], None]]:
    """A live line on a terminal; elsewhere a printed line about every tenth of the way."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(24),
        TextColumn("{task.fields[numbers]}"),
        TimeRemainingColumn(),
    )
    bar = Progress(*columns, transient=False)
    live = bar.console.is_terminal
    task = bar.add_task(f"{stage:<9}", total=steps, completed=first, numbers="")
    began = time.perf_counter()
    printed = first

    def report(done: int, metrics: Metrics, show: tuple[str, ...], rate: float) -> None:
        nonlocal printed
        numbers = "  ".join(f"{name} {metrics[name]:.3f}" for name in show if name in metrics)
        numbers = f"step {done}/{steps}  {numbers}" + (f"  {rate:,.0f} tok/s" if rate else "")
        if live:
            bar.update(task, completed=done, numbers=numbers)
        elif done == steps or done - printed >= steps / 10:
            printed = done
            left = (time.perf_counter() - began) / max(1, done - first) * (steps - done)
            print(f"{stage:<9} {numbers}  {left:.0f} s left", flush=True)

    if live:
        with bar:
            yield report
    else:
        yield report

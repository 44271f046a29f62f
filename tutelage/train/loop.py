"""What every stage shares: the schedule, and a loop that logs, saves, resumes and stops cleanly.

A stage gives ``run_steps`` one function, ``update(step) -> metrics``, that does a whole optimisation step. Everything random in
``update`` must be keyed by (seed, step): then the step number is the data position, and a run that goes on after a stop does
what it would have done without it.
"""

from __future__ import annotations

import math
import platform
import signal
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn

from tutelage.errors import Interrupted, RecipeError, TrainingError
from tutelage.model.decoder import Decoder
from tutelage.model.device import autocast_dtype
from tutelage.model.heads import ScalarModel
from tutelage.runs.folder import RunFolder
from tutelage.text.tokenizer import Tokenizer
from tutelage.train.checkpointing import Keeper, Metrics, Stateful
from tutelage.train.optimizer import Optimizer
from tutelage.train.settings import Machine
from tutelage.train.trackers import tracking


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
    machine: Machine,
    result: tuple[Decoder | ScalarModel, Tokenizer],
    extra_state: Mapping[str, Stateful] | None = None,
    evaluate: Callable[[int], Metrics] | None = None,
    evaluate_every: int = 0,
    measures: Collection[str] = (),
    complete: Callable[[], AbstractContextManager[None]] = nullcontext,
    stop_when: Callable[[Metrics], bool] = lambda metrics: False,
    log_every: int = 1,
    show: tuple[str, ...] = ("loss",),
) -> int:
    """Run ``update`` for each step, from where the run folder's state says. Returns the number of steps done.

    ``update`` returns its metrics, with ``tokens`` for the rate. ``evaluate(step)`` runs every ``evaluate_every`` steps and after
    the last; its metrics, by the names of ``measures``, are logged beside. Within ``complete()`` the model is as a checkpoint
    of it should be. ``stop_when(metrics)`` ends the run early, a KL budget being spent. ``result``: the
    model and tokenizer of intermediate checkpoints. SIGTERM or Ctrl-C saves and raises Interrupted; ``machine.save_every`` saves
    as well. A signal that comes after the last step lets the stage finish, and then raises Interrupted.
    """
    if machine.keep_best and evaluate is None:
        raise RecipeError("machine.keep_best: nothing is measured on held-out data here; give some, or no keep_best")
    if machine.keep_best and machine.keep_best not in measures:
        there = ", ".join(measures) or "no held-out metrics"
        raise RecipeError(f"machine.keep_best: {machine.keep_best!r} is not measured here; there are {there}")
    keeper = Keeper(
        run, machine, steps=steps, modules=modules, optimizer=optimizer, extra=extra_state or {}, result=result,
        complete=complete,
    )  # fmt: skip
    done = first = keeper.restore()
    run.note("training", first=first, steps=steps, **machine_facts(modules, machine.dtype))
    stop = run.until_closed.enter_context(_signals(run))
    with tracking(machine, run, first) as track, _progress(run.path.name, first, steps) as report:
        for step in range(first, first if keeper.ended else steps):
            factor = cosine(step, steps, warmup=warmup, floor=floor)
            metrics, rate = _one_update(run, update, step, optimizer, factor, seed)
            done = step + 1
            last = done == steps
            measured: Metrics | None = None
            if evaluate is not None and (last or (evaluate_every and done % evaluate_every == 0)):
                measured = evaluate(done)
                metrics |= measured
            if done % log_every == 0 or last or measured is not None:
                row = metrics | {"lr": optimizer.param_groups[0]["lr"], "tokens_per_second": rate}
                run.log(done, row)
                track(done, row)
            keeper.checkpoint(done, measured, last=last)
            report(done, metrics, show, rate)
            ended = last or stop_when(metrics)
            stopping = stop()  # asked once: a later signal is seen at the next step, and nothing stops unsaved
            if stopping or (machine.save_every and (ended or done % machine.save_every == 0)):
                keeper.save(done, ended=ended)
            if stopping:
                raise Interrupted(
                    f"{run.path}: stopped after step {done} of {steps}; the same command goes on from there"
                )
            if ended:
                break
    return done


def machine_facts(modules: Mapping[str, nn.Module], dtype: str) -> dict[str, Any]:
    """What kind of machine trains: what a number may depend on, and nothing that names the one machine."""
    device = next(weight.device for module in modules.values() for weight in module.parameters())
    return {
        "device": str(device),
        "processor": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "dtype": str(autocast_dtype(device, dtype)).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _one_update(
    run: RunFolder, update: Callable[[int], Metrics], step: int, optimizer: Optimizer, factor: float, seed: int
) -> tuple[Metrics, float]:
    """One optimisation step with torch seeded by it: its metrics, and tokens a second. TrainingError if one is not finite."""
    began = time.perf_counter()
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor
    torch.manual_seed(seed * 1_000_003 + step)
    metrics = update(step)
    rate = metrics.pop("tokens", 0.0) / (time.perf_counter() - began)
    bad = [name for name, value in metrics.items() if not math.isfinite(value)]
    if bad:
        raise TrainingError(f"{run.path}: {bad[0]} is not a finite number at step {step + 1}; lower the learning rate")
    return metrics, rate


@contextmanager
def _signals(run: RunFolder) -> Iterator[Callable[[], bool]]:
    """Turn SIGTERM and the first Ctrl-C into a request to stop after the current step, or else when the stage is finished."""
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
    if asked:
        raise Interrupted(f"{run.path} is finished; stopped after it")


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
    if first and not live:
        print(f"{stage:<9} goes on from step {first}/{steps}", flush=True)

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

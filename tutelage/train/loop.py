"""The loop that every stage shares: it schedules, logs, evaluates, saves, resumes and stops cleanly.

A stage hands over a ``Training`` whose ``update(step) -> metrics`` does one whole optimisation step. Everything random in it must
be keyed by (seed, step): then the step number is the data position, and a resumed run does what an undisturbed one would have done.
"""

from __future__ import annotations

import math
import platform
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn

from tutelage.errors import Interrupted, RecipeError, TrainingError
from tutelage.model.device import autocast_dtype
from tutelage.runs.folder import RunFolder
from tutelage.train import parallel
from tutelage.train.checkpointing import Keeper
from tutelage.train.optimizer import Optimizer
from tutelage.train.settings import Machine
from tutelage.train.trackers import tracking
from tutelage.train.training import Metrics, Outcome, Training


def cosine(step: int, steps: int, *, warmup: int, floor: float) -> float:
    """Factor on the peak learning rate at ``step``: linear warm-up, then a cosine from 1 down to ``floor``."""
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def apply_gradients(optimizer: Optimizer, clip: float, *modules: nn.Module) -> float:
    """Add gradients over ranks, clip each module's norm by itself, step, clear. Returns the first module's norm before clipping.

    By itself, because a critic's gradient is often the larger one and would scale the policy's away. Raises TrainingError if a
    norm is not finite: the weights stay as they were before the step.
    """
    parallel.add_gradients(modules)
    norms = [float(nn.utils.clip_grad_norm_(module.parameters(), clip if clip > 0 else math.inf)) for module in modules]
    if not all(math.isfinite(norm) for norm in norms):
        raise TrainingError("a gradient is not a finite number; lower the learning rate or look at this step's data")
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norms[0]


def train(run: RunFolder, training: Training, machine: Machine) -> Outcome:
    """Run every step, from where the run folder's state says, and write the resulting checkpoint.

    SIGTERM or Ctrl-C saves and raises Interrupted; a signal after the last step lets the stage finish, and then raises it.
    """
    schedule, steps = training.schedule, training.schedule.steps
    _require_measured(training, machine)
    keeper = Keeper(run, training, machine)
    done = first = keeper.restore()
    parallel.wait_for_all()  # rank 0 may soon write another state, or remove this one
    measured: Metrics = {}
    run.note("training", first=first, steps=steps, **machine_facts(training.modules, machine.dtype))
    stop = run.until_closed.enter_context(_signals(run))
    with tracking(machine, run, first) as track, _progress(run, first, steps) as report:
        for step in range(first, first if keeper.ended else steps):
            metrics, rate = _one_update(run, training, step)
            done = step + 1
            last = done == steps
            due = training.evaluate and (last or (schedule.evaluate_every and done % schedule.evaluate_every == 0))
            if training.evaluate and due:
                measured = training.evaluate(done)
                metrics |= measured
            if done % schedule.log_every == 0 or last or due:
                row = metrics | {"lr": training.optimizer.param_groups[0]["lr"], "tokens_per_second": rate}
                run.log(done, row)
                track(done, row)
            keeper.checkpoint(done, measured if due else None, last=last)
            report(done, metrics, training.show, rate)
            ended = last or training.stop_when(metrics)
            stopping = parallel.any_of(stop())  # asked once: a later signal is seen at the next step
            if stopping or (machine.save_every and (ended or done % machine.save_every == 0)):
                keeper.save(done, ended=ended)
            if stopping:
                raise Interrupted(f"{run.path}: stopped after step {done} of {steps}; the same command resumes it")
            if ended:
                break
    if training.evaluate and not measured:
        measured = training.evaluate(done)
    keeper.write_result()
    return Outcome(done, measured, keeper.best_step, keeper.best)


def _require_measured(training: Training, machine: Machine) -> None:
    """Raise RecipeError where ``keep_best`` names something that is not measured, or not what chooses the result."""
    wanted = machine.keep_best
    if wanted is None:
        return
    if not training.measures:
        raise RecipeError("machine.keep_best: nothing is measured on held-out data here; give some, or no keep_best")
    if wanted not in training.measures:
        there = ", ".join(training.measures)
        raise RecipeError(f"machine.keep_best: {wanted!r} is not measured here; there are {there}")
    if training.select not in (None, wanted):
        raise RecipeError(
            f"machine.keep_best: the best by {training.select} is the result here and kept anyway; leave it out"
        )


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


def _one_update(run: RunFolder, training: Training, step: int) -> tuple[Metrics, float]:
    """One optimisation step with torch seeded by it: its metrics, and tokens per second. TrainingError if one is not finite."""
    schedule = training.schedule
    began = time.perf_counter()
    factor = cosine(step, schedule.steps, warmup=schedule.warmup, floor=schedule.floor)
    for group in training.optimizer.param_groups:
        group["lr"] = group["peak"] * factor
    torch.manual_seed(schedule.seed * 1_000_003 + step)
    metrics = training.update(step)
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
    if parallel.any_of(asked):
        raise Interrupted(f"{run.path} is finished; stopped after it")


@contextmanager
def _progress(
    run: RunFolder, first: int, steps: int
) -> Iterator[Callable[[int, Metrics, tuple[str, ...], float], None]]:
    """A live line on a terminal; elsewhere a printed line about every tenth of the way."""
    if not run.writer:
        yield lambda done, metrics, show, rate: None
        return
    stage = run.path.name
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
        print(f"{stage:<9} resumes from step {first}/{steps}", flush=True)

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

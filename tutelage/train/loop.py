"""The training loop that every stage shares: it schedules, logs, evaluates, saves, resumes and stops cleanly.

A stage provides a ``Training`` whose ``update(step) -> metrics`` does one whole optimisation step. All its randomness must be
keyed by (seed, step). The step number is then the data position, and a resumed run repeats what an undisturbed run does.
"""

from __future__ import annotations

import math
import platform
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from tutelage.errors import Interrupted, RecipeError, TrainingError
from tutelage.model.device import autocast_dtype
from tutelage.model.heads import Model
from tutelage.runs.folder import RunFolder
from tutelage.seeds import derive
from tutelage.text.tokenizer import Tokenizer
from tutelage.train import parallel
from tutelage.train.checkpointing import Keeper
from tutelage.train.optimizer import Optimizer, Stateful
from tutelage.train.settings import Machine
from tutelage.train.trackers import tracking

Metrics = dict[str, float]
Decay = Literal["cosine", "linear"]
T = TypeVar("T")


@dataclass(frozen=True)
class Schedule:
    """Number of steps, learning rates, and intervals of evaluation and logging."""

    steps: int
    warmup: int
    floor: float  # last learning rate, as a share of the peak
    seed: int  # of dropout; derived for this stage
    evaluate_every: int = 0  # steps between held-out measurements; 0: only after the last step
    log_every: int = 1
    decay: Decay = "cosine"  # from the peak to the floor


@dataclass(frozen=True)
class Training:
    """What the loop needs to know about a stage."""

    modules: Mapping[str, nn.Module]  # saved in a state, by name
    optimizer: Optimizer
    update: Callable[[int], Metrics]  # does one optimisation step; its metrics, with ``tokens`` for the rate
    schedule: Schedule
    result: tuple[Model, Tokenizer]  # what checkpoints hold
    evaluate: Callable[[int], Metrics] | None = None  # measures held-out metrics after a step
    measures: tuple[str, ...] = ()  # the names of those metrics
    select: str | None = None  # the metric that selects the checkpoint that becomes the result; None: the last one does
    state: Mapping[str, Stateful] = field(default_factory=dict)  # further state to save, by name
    complete: Callable[[], AbstractContextManager[None]] = nullcontext  # makes the model ready to be written
    stop_when: Callable[[Metrics], bool] = lambda metrics: False  # ends the run early, at a KL budget for example
    show: tuple[str, ...] = ("loss",)  # metrics on the progress line


class Outcome(NamedTuple):
    """How a training run ended."""

    steps: int  # steps done
    measured: Metrics  # the last held-out metrics
    best_step: int  # the step of the best checkpoint; 0 if no metric selects one
    stopped: bool  # True if ``stop_when`` ended the run


def train(run: RunFolder, training: Training, machine: Machine) -> Outcome:
    """Run all steps that the saved state does not hold yet, and write the resulting checkpoint.

    SIGTERM or Ctrl-C saves the state and raises Interrupted. After the last step it raises Interrupted when the stage is finished.
    """
    schedule, steps = training.schedule, training.schedule.steps
    _check_keep_best(training, machine.keep_best)
    keeper = Keeper(run, training, machine)
    done = first = keeper.restore()
    parallel.wait_for_all()  # rank 0 may soon write another state or remove this one
    measured: Metrics = {}
    run.note("training", first=first, steps=steps, **_machine_facts(training, machine.dtype))
    stop = run.until_closed.enter_context(_signals(run))
    with tracking(machine, run, first) as track, _progress(run.path.name, first, steps, training.show) as report:
        for step in range(first, first if keeper.ended else steps):
            metrics, rate = _one_update(run, training, step)
            done = step + 1
            last = done == steps
            due = last or (schedule.evaluate_every and done % schedule.evaluate_every == 0)
            newly = training.evaluate(done) if training.evaluate and due else None
            if newly is not None:
                measured = newly
                metrics |= newly
            if done % schedule.log_every == 0 or last or newly is not None:
                row = metrics | {"lr": training.optimizer.param_groups[0]["lr"], "tokens_per_second": rate}
                run.log(done, row)
                track(done, row)
            keeper.checkpoint(done, newly, last=last)
            report(done, metrics, rate)
            keeper.stopped = training.stop_when(metrics)
            keeper.ended = ended = last or keeper.stopped
            stopping = parallel.total(stop()) > 0  # read once: a later signal takes effect at the next step
            if stopping or keeper.due(done, ended):
                keeper.save(done)
            if stopping:
                raise Interrupted(f"{run.path}: stopped after step {done} of {steps}; the same command resumes it")
            if ended:
                break
    if training.evaluate and not measured:
        measured = training.evaluate(done)
    keeper.write_result()
    return Outcome(done, measured, keeper.best_step, keeper.stopped)


def _one_update(run: RunFolder, training: Training, step: int) -> tuple[Metrics, float]:
    """Do one step, with torch seeded by its number; return metrics and tokens per second. TrainingError if one is not finite."""
    schedule = training.schedule
    began = time.perf_counter()
    for group in training.optimizer.param_groups:
        wait = group.get("wait", 0)  # steps before this group trains at all
        steps, warmup, floor = schedule.steps - wait, schedule.warmup, schedule.floor
        factor = lr_factor(step - wait, steps, warmup=warmup, floor=floor, decay=schedule.decay)
        group["lr"] = group["peak"] * (factor if step >= wait else 0.0)
    torch.manual_seed(derive(schedule.seed, "train.step", step))
    metrics = training.update(step)
    rate = metrics.pop("tokens", 0.0) / (time.perf_counter() - began)
    bad = [name for name, value in metrics.items() if not math.isfinite(value)]
    if bad:
        raise TrainingError(f"{run.path}: {bad[0]} is not a finite number at step {step + 1}; lower the learning rate")
    return metrics, rate


def shuffled(count: int, seed: int) -> Tensor:
    """A permutation of ``count`` items, int64 [count], that depends on the seed only."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))


def epoch_batches(rows: Sequence[T], batch_size: int, epochs: int, seed: int, purpose: str) -> list[list[T]]:
    """The batches of all epochs. Each epoch has an order of its own, which depends on (seed, purpose, epoch)."""
    orders = (shuffled(len(rows), derive(seed, purpose, epoch)) for epoch in range(epochs))
    return [[rows[i] for i in batch] for order in orders for batch in order.split(batch_size)]


def lr_factor(step: int, steps: int, *, warmup: int, floor: float, decay: Decay = "cosine") -> float:
    """Factor on the peak learning rate at ``step``: linear warm-up, then a cosine or a straight line from 1 down to ``floor``."""
    if step < warmup:
        return (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, steps - warmup))
    return floor + (1 - floor) * (1 - progress if decay == "linear" else 0.5 * (1 + math.cos(math.pi * progress)))


def apply_gradients(optimizer: Optimizer, clip: float, *modules: nn.Module) -> float:
    """Add gradients over ranks, clip each module's norm, step, and clear. Returns the first module's norm before clipping.

    Norms are clipped separately because a critic's gradient is often the larger one and would scale down the policy's. Raises
    TrainingError if a norm is not finite, before the weights change.
    """
    parallel.add_gradients(modules)
    norms = [float(nn.utils.clip_grad_norm_(module.parameters(), clip if clip > 0 else math.inf)) for module in modules]
    if not all(math.isfinite(norm) for norm in norms):
        raise TrainingError("a gradient is not a finite number; lower the learning rate or look at this step's data")
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norms[0]


def _check_keep_best(training: Training, metric: str | None) -> None:
    """Raise RecipeError if ``machine.keep_best`` is not measured, or conflicts with the metric that selects the result."""
    if metric and not training.measures:
        problem = "nothing is measured on held-out data here; give some, or no keep_best"
    elif metric and metric not in training.measures:
        problem = f"{metric!r} is not measured here; there are {', '.join(training.measures)}"
    elif metric and training.select not in (None, metric):
        problem = f"the best by {training.select} is the result here and kept anyway; leave it out"
    else:
        return
    raise RecipeError(f"machine.keep_best: {problem}")


def _machine_facts(training: Training, dtype: str) -> dict[str, Any]:
    """Kind of machine and versions, which numbers may depend on; nothing that identifies the individual machine."""
    device = next(weight.device for module in training.modules.values() for weight in module.parameters())
    return {
        "device": str(device),
        "processor": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "dtype": str(autocast_dtype(device, dtype)).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


@contextmanager
def _signals(run: RunFolder) -> Iterator[Callable[[], bool]]:
    """Turn SIGTERM and the first Ctrl-C into a request to stop, which the yielded function reports.

    A request that no step has honoured raises Interrupted when the block, and so the stage, is finished.
    """
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
    if parallel.total(asked) > 0:
        raise Interrupted(f"{run.path} is finished; stopped after it")


@contextmanager
def _progress(
    stage: str, first: int, steps: int, show: tuple[str, ...]
) -> Iterator[Callable[[int, Metrics, float], None]]:
    """A function that shows (steps done, metrics, tokens per second): a live bar on a terminal, elsewhere about ten lines.

    On a narrow terminal the last figures are left out, never the bar or the time left.
    """
    numbers = TextColumn("{task.fields[numbers]}")
    bar = Progress(TextColumn("{task.description}"), BarColumn(16), TimeRemainingColumn(), numbers, console=Console())
    live = bar.console.is_terminal
    name = f"{stage:<9}"
    room = bar.console.width - len(name) - len(" ") * 3 - 16 - len("0:00:00")
    task = bar.add_task(name, total=steps, completed=first, numbers="")
    began = time.perf_counter()
    printed = first
    if first and not live:
        print(f"{name} resumes from step {first}/{steps}", flush=True)

    def report(done: int, metrics: Metrics, rate: float) -> None:
        nonlocal printed
        figures = [f"step {done}/{steps}", *(f"{metric} {metrics[metric]:.3f}" for metric in show if metric in metrics)]
        figures += [f"{rate:,.0f} tok/s"] if rate else []
        if live:
            while len(figures) > 1 and len("  ".join(figures)) > room:
                figures.pop()
            bar.update(task, completed=done, numbers="  ".join(figures))
        elif done == steps or done - printed >= steps / 10:
            printed = done
            seconds = (time.perf_counter() - began) / max(1, done - first) * (steps - done)
            print(f"{name} {'  '.join(figures)}  {seconds:.0f} s left", flush=True)

    with bar if live else nullcontext():
        yield report

"""Experiment trackers beside metrics.jsonl, for those who have one. None is imported unless a recipe asks for it.

metrics.jsonl stays the record: a tracker may lag, lose its connection or fail, and the run goes on.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tutelage.errors import RecipeError
from tutelage.runs.folder import RunFolder
from tutelage.settings import read_yaml
from tutelage.train.settings import Machine

Log = Callable[[int, Mapping[str, float]], Any]
Sink = tuple[Log, Callable[[], Any]]
"""How to log a row of a step, and how to close."""


@contextmanager
def tracking(machine: Machine, run: RunFolder, first: int) -> Iterator[Log]:
    """A function that sends a row of metrics to ``machine.tracker``; ``first``: the step that the run goes on from.

    Raises RecipeError if the tracker's package is not installed. Whatever else goes wrong with it is said once, on standard
    error, and the tracker is left alone from then on.
    """
    if machine.tracker == "none" or not run.writer:
        yield lambda step, numbers: None
        return
    sink: Sink | None = None

    def give_up(error: Exception) -> None:
        nonlocal sink
        sink = None
        why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        message = f"{run.path}: {machine.tracker} failed ({why}); going on without it, metrics.jsonl has everything"
        print(message, file=sys.stderr, flush=True)

    def log(step: int, numbers: Mapping[str, float]) -> None:
        try:
            if sink:
                sink[0](step, numbers)
        except Exception as error:  # a tracker's own kinds of error are not ours to know
            give_up(error)

    try:
        sink = SINKS[machine.tracker](machine.project, run, first)
    except ImportError as error:
        name = machine.tracker
        problem = f"machine.tracker: {name} is not installed ({error}); `pip install {name}`, or give none"
        raise RecipeError(problem) from None
    except Exception as error:
        give_up(error)
    try:
        yield log
    finally:
        try:
            if sink:
                sink[1]()
        except Exception as error:
            give_up(error)


def tensorboard(project: str, run: RunFolder, first: int) -> Sink:
    """Event files in the run folder's tensorboard/; steps that are done again replace what was logged of them."""
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(run.path / "tensorboard"), purge_step=first + 1)

    def log(step: int, numbers: Mapping[str, float]) -> None:
        for name, value in numbers.items():
            writer.add_scalar(name, value, step)
        writer.flush()  # a killed process then loses no row that metrics.jsonl has

    return log, writer.close


def trackio(project: str, run: RunFolder, first: int) -> Sink:
    """A run of the same name goes on."""
    import trackio as package

    handle = package.init(project=project, name=_name(run), resume="allow", config=_config(run), embed=False)
    return lambda step, numbers: handle.log(dict(numbers), step=step), handle.finish


def wandb(project: str, run: RunFolder, first: int) -> Sink:
    """A run of the same id goes on; WANDB_MODE=offline keeps it in the run folder's wandb/."""
    import wandb as package

    handle = package.init(
        project=project, name=run.path.name, id=_name(run), resume="allow", dir=str(run.path), config=_config(run)
    )
    return lambda step, numbers: handle.log(dict(numbers), step=step), handle.finish


SINKS: dict[str, Callable[[str, RunFolder, int], Sink]] = {
    "tensorboard": tensorboard,
    "trackio": trackio,
    "wandb": wandb,
}


def _name(run: RunFolder) -> str:
    """The same for all sessions of a run, and no other run's."""
    return f"{run.path.name}-{run.lineage().get('id', 'run')}"


def _config(run: RunFolder) -> dict[str, Any]:
    return read_yaml(run.path / "recipe.yaml")

"""Optional experiment trackers. A tracker's package is imported only if a recipe asks for it.

metrics.jsonl remains the record: a tracker may lag, lose its connection or fail, and the run goes on.
"""

from __future__ import annotations

import importlib
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
"""Functions that log the metrics of a step, and that close the tracker."""


@contextmanager
def tracking(machine: Machine, run: RunFolder, first: int) -> Iterator[Log]:
    """A function that sends metrics to ``machine.tracker``; ``first``: the step that the run resumes from.

    Raises RecipeError if the tracker's package is missing. Any other error is printed to stderr and ends the tracking alone.
    """
    name, sink = machine.tracker, None
    if name == "none" or not run.writer:
        yield lambda step, numbers: None
        return

    @contextmanager
    def guarded() -> Iterator[None]:
        nonlocal sink
        try:
            yield
        except Exception as error:  # trackers raise errors of any kind
            sink = None
            why = (str(error).strip() or type(error).__name__).splitlines()[0]
            message = f"{run.path}: {name} failed ({why}); going on without it, metrics.jsonl has everything"
            print(message, file=sys.stderr, flush=True)

    def log(step: int, numbers: Mapping[str, float]) -> None:
        with guarded():
            if sink:
                sink[0](step, numbers)

    missing = None
    with guarded():
        try:
            sink = SINKS[name](machine.project, run, first)
        except ImportError as error:
            missing = f"machine.tracker: {name} is not installed ({error}); `pip install {name}`, or give none"
    if missing:
        raise RecipeError(missing)
    try:
        yield log
    finally:
        with guarded():
            if sink:
                sink[1]()


def tensorboard(project: str, run: RunFolder, first: int) -> Sink:
    """Event files in the run folder's tensorboard/; steps that are repeated replace those logged before."""
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(run.path / "tensorboard"), purge_step=first + 1)

    def log(step: int, numbers: Mapping[str, float]) -> None:
        for name, value in numbers.items():
            writer.add_scalar(name, value, step)
        writer.flush()  # a killed process then loses no row that metrics.jsonl has

    return log, writer.close


def service(package: str, project: str, run: RunFolder) -> Sink:
    """trackio or wandb. A resumed run continues the tracker's run of the same id.

    WANDB_MODE=offline keeps wandb's files in the run folder's wandb/.
    """
    identity = f"{run.path.name}-{run.lineage().get('id', 'run')}"
    own: dict[str, Any] = {"name": identity, "embed": False}
    if package == "wandb":
        own = {"name": run.path.name, "id": identity, "dir": str(run.path)}
    config = read_yaml(run.path / "recipe.yaml")
    handle = importlib.import_module(package).init(project=project, resume="allow", config=config, **own)
    return lambda step, numbers: handle.log(dict(numbers), step=step), handle.finish


SINKS: dict[str, Callable[[str, RunFolder, int], Sink]] = {
    "tensorboard": tensorboard,
    "trackio": lambda project, run, first: service("trackio", project, run),
    "wandb": lambda project, run, first: service("wandb", project, run),
}

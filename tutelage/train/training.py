"""What a stage hands to the training loop: its models, its update and its schedule."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from torch import Tensor, nn

from tutelage.model.decoder import Decoder
from tutelage.model.heads import ScalarModel
from tutelage.text.tokenizer import Tokenizer
from tutelage.train.optimizer import Optimizer

Metrics = dict[str, float]
Rows = TypeVar("Rows", Tensor, Sequence[Any])


class Stateful(Protocol):
    """State other than weights that a resumed run needs, such as a KL controller."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@dataclass(frozen=True)
class Schedule:
    """Number of steps, learning rates, and intervals of evaluation and logging."""

    steps: int
    warmup: int
    floor: float
    """Last learning rate, as a share of the peak."""
    seed: int
    evaluate_every: int = 0
    """Steps between held-out measurements; 0: only after the last step."""
    log_every: int = 1


@dataclass(frozen=True)
class Training:
    """What the loop needs to know about a stage."""

    modules: Mapping[str, nn.Module]
    """Modules in a saved state, by name."""
    optimizer: Optimizer
    update: Callable[[int], Metrics]
    """Does one optimisation step and returns its metrics, with ``tokens`` for the rate."""
    schedule: Schedule
    result: tuple[Decoder | ScalarModel, Tokenizer]
    """The model and tokenizer that checkpoints hold."""
    evaluate: Callable[[int], Metrics] | None = None
    """Measures held-out metrics after a step."""
    measures: tuple[str, ...] = ()
    """The names of those metrics."""
    select: str | None = None
    """The metric that selects the checkpoint that becomes the result; None: the last one does."""
    state: Mapping[str, Stateful] = field(default_factory=dict)
    """Further state to save, by name."""
    complete: Callable[[], AbstractContextManager[None]] = nullcontext
    """A context in which the model is ready to be written as a checkpoint."""
    stop_when: Callable[[Metrics], bool] = lambda metrics: False
    """Ends the run early, for example when a KL budget is spent."""
    show: tuple[str, ...] = ("loss",)
    """Metrics on the progress line."""


@dataclass(frozen=True)
class Outcome:
    """How a training run ended."""

    steps: int
    """Steps done."""
    measured: Metrics
    """The last held-out metrics."""
    best_step: int
    """The step of the best checkpoint; 0 if no metric selects one."""


def microbatches(rows: Rows, size: int) -> list[Rows]:
    """``rows`` in slices of at most ``size``; 0: all in one. No rows, no slices."""
    size = size or max(1, len(rows))
    return [rows[start : start + size] for start in range(0, len(rows), size)]

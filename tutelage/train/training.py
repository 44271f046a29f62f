"""What a stage hands to the loop: its models, its update, its schedule."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import nn

from tutelage.model.decoder import Decoder
from tutelage.model.heads import ScalarModel
from tutelage.text.tokenizer import Tokenizer
from tutelage.train.optimizer import Optimizer

Metrics = dict[str, float]
Result = tuple[Decoder | ScalarModel, Tokenizer]


class Stateful(Protocol):
    """Anything besides weights that a resumed run needs, such as a KL controller."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@dataclass(frozen=True)
class Schedule:
    """How many steps, at which learning rates, and how often something is said."""

    steps: int
    warmup: int
    floor: float
    """Last learning rate, as a share of the peak."""
    seed: int
    evaluate_every: int = 0
    """Steps between held-out measurements; 0: only after the last."""
    log_every: int = 1


@dataclass(frozen=True)
class Training:
    """All that the loop needs to know of a stage."""

    modules: Mapping[str, nn.Module]
    """What a saved state holds, by name."""
    optimizer: Optimizer
    update: Callable[[int], Metrics]
    """One optimisation step: its metrics, with ``tokens`` for the rate."""
    schedule: Schedule
    result: Result
    """The model and tokenizer that checkpoints hold."""
    evaluate: Callable[[int], Metrics] | None = None
    """Held-out metrics after a step."""
    measures: tuple[str, ...] = ()
    """The names of those metrics."""
    select: str | None = None
    """The metric that chooses which checkpoint is the result; None: the last."""
    state: Mapping[str, Stateful] = field(default_factory=dict)
    """What else a saved state holds."""
    complete: Callable[[], AbstractContextManager[None]] = nullcontext
    """Within it the model is as a checkpoint should have it."""
    stop_when: Callable[[Metrics], bool] = lambda metrics: False
    """Ends the run early, for example when a KL budget is spent."""
    show: tuple[str, ...] = ("loss",)
    """Metrics on the progress line."""


@dataclass(frozen=True)
class Outcome:
    """How a training ended."""

    steps: int
    """Steps done."""
    measured: Metrics
    """The last held-out metrics."""
    best_step: int
    """The step of the best checkpoint, where one was chosen by a metric."""
    best: float
    """That metric there."""

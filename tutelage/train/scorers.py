"""PPO's reward: a weighted sum of named scorers, each a function of prompt and answer.

A scorer is a reward model, or a Python function named as ``module:function``: a rule, a verifier, anything that takes a ``Prompt``
and the text of an answer and returns a number. A scorer of weight 0 is logged only.
"""

from __future__ import annotations

import importlib
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path

import torch
from pydantic import Field, field_validator
from torch import Tensor

from tutelage.errors import TrainingError, TutelageError
from tutelage.model.heads import ScalarModel
from tutelage.records import Prompt
from tutelage.settings import Settings
from tutelage.train import parallel
from tutelage.train.rollouts import Rollouts, end_scores
from tutelage.train.settings import Machine

Gold = Callable[[Prompt, str, bool], float]
"""(prompt, answer, whether it finished) -> score in [0, 1]: a judge that knows the truth, if a task has one."""


class ScorerSettings(Settings):
    """One term of the reward."""

    weight: float = Field(1.0, description="factor in the reward; 0: only logged; negative: a penalty")
    function: str | None = Field(None, description="module:function of (prompt, answer) -> number; none: a model")

    @field_validator("function")
    @classmethod
    def _can_be_imported(cls, value: str | None) -> str | None:
        if value is not None:
            load_function(value)
        return value


def load_function(name: str) -> Callable[[Prompt, str], float]:
    """The function ``module:function``; the current folder is searched for modules too. ValueError if there is none."""
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise ValueError(f"a function is named as module:function, found {name!r}")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        function = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # the module's own code may fail in any way
        kind = "" if isinstance(error, ImportError | AttributeError) else f"{type(error).__name__}: "
        raise ValueError(f"{name} cannot be imported: {kind}{error}") from None
    if not callable(function):
        raise ValueError(f"{name} is a {type(function).__name__}, not a function")
    return function


def file_of(name: str) -> Path | None:
    """The file of the module in ``module:function``; None for a built-in one."""
    load_function(name)
    file = sys.modules[name.partition(":")[0]].__file__
    return Path(file) if file else None


@dataclass(frozen=True)
class Scorer:
    """A named term: a reward model or a function, and its weight."""

    name: str
    weight: float
    model: ScalarModel | None = None
    function: Gold | None = None


def make_scorers(
    settings: Mapping[str, ScorerSettings], reward_models: Mapping[str, ScalarModel], gold: Gold | None
) -> list[Scorer]:
    """The reward models, with weight 1 by default, the functions, and ``gold``, which is only logged by default."""

    def weight(name: str, default: float) -> float:
        return settings[name].weight if name in settings else default

    def of_text(function: Callable[[Prompt, str], float]) -> Gold:
        return lambda prompt, answer, finished: function(prompt, answer)

    scorers = [Scorer(name, weight(name, 1.0), model=model) for name, model in reward_models.items()]
    for name, one in settings.items():
        if one.function is not None:
            scorers.append(Scorer(name, one.weight, function=of_text(load_function(one.function))))
    if gold is not None:
        scorers.append(Scorer("gold", weight("gold", 0.0), function=gold))
    return scorers


def score(
    scorers: Sequence[Scorer], rollouts: Rollouts, prompts: Sequence[Prompt], texts: Sequence[str], machine: Machine
) -> tuple[Tensor, dict[str, Tensor]]:
    """The reward [b] of each answer, and every scorer's scores [b] by name."""
    by_name = {scorer.name: _scores(scorer, rollouts, prompts, texts, machine) for scorer in scorers}
    total = torch.zeros(len(texts), device=rollouts.ids.device)
    for scorer in scorers:
        if scorer.weight:
            total = total + (scorer.weight * by_name[scorer.name]).float().to(total.device)
    return total, by_name


def _scores(
    scorer: Scorer, rollouts: Rollouts, prompts: Sequence[Prompt], texts: Sequence[str], machine: Machine
) -> Tensor:
    if scorer.model is not None:
        return end_scores(scorer.model, rollouts, machine)
    assert scorer.function is not None
    finished = rollouts.finished.tolist()
    scores = torch.zeros(len(texts), dtype=torch.float64)
    for row in parallel.shard(range(len(texts))):
        scores[row] = _call(scorer.name, scorer.function, prompts[row], texts[row], finished[row])
    return parallel.add_up(scores)


def _call(name: str, function: Gold, prompt: Prompt, text: str, finished: bool) -> float:
    """The function's score. TrainingError names the scorer if the function fails or returns no finite number."""
    where = f"a prompt ({prompt.id})" if prompt.id else "a prompt"
    try:
        value = function(prompt, text, finished)
    except TutelageError:
        raise
    except Exception as error:  # the user's own code may fail in any way
        why = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise TrainingError(f"scorer {name!r} failed on {where}: {why}") from error
    if not isinstance(value, Real) or not math.isfinite(value):
        raise TrainingError(f"scorer {name!r} gave {value!r} for {where}: a finite number is needed")
    return float(value)

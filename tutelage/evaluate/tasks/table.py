"""The table of tasks; one is imported when it is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pkgutil import resolve_name

from tutelage.errors import UsageError
from tutelage.evaluate.tasks.task import Task
from tutelage.settings import nearest

TASKS = {
    "arc_easy": "arc:EASY",
    "arc_challenge": "arc:CHALLENGE",
    "bbh": "bbh:TASK",
    "bbq": "bbq:TASK",
    "blimp": "blimp:TASK",
    "boolq": "boolq:TASK",
    "ceval": "ceval:TASK",
    "cmmlu": "cmmlu:TASK",
    "cmrc2018": "cmrc2018:TASK",
    "gsm8k": "gsm8k:TASK",
    "humaneval": "humaneval:TASK",
    "mbpp": "mbpp:TASK",
    "mmlu": "mmlu:TASK",
    "openbookqa": "arc:OPENBOOK",
    "own_answers": "own:ANSWERS",
    "own_choices": "own:CHOICES",
    "piqa": "piqa:TASK",
    "truthfulqa_mc1": "truthfulqa:TASK",
    "truthfulqa_mc2": "truthfulqa:MASS",
    "winogrande": "winogrande:TASK",
    "world": "world:TASK",
    "xstest": "xstest:TASK",
}
"""Name -> ``module:variable`` in ``sets``."""


def load_tasks(names: Sequence[str]) -> dict[str, Task]:
    """The tasks of these names, each once. Raises UsageError for one that is unknown."""
    for name in names:
        if name not in TASKS:
            hint = nearest(name, list(TASKS)) or f"; there are {', '.join(TASKS)}"
            raise UsageError(f"there is no task {name!r}{hint}")
    return {name: resolve_name(f"tutelage.evaluate.tasks.sets.{TASKS[name]}") for name in names}

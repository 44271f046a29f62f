"""Checks of Python functions, by calling them."""

from __future__ import annotations

import re
from copy import deepcopy
from typing import Any

from tutelage.world.checks.common import Case, Verdict
from tutelage.world.checks.evaluator import EvaluationError, call, functions_in
from tutelage.world.tasks.code import functions as known_functions

_FENCE = re.compile(r"```[a-zA-Z]*\n(.*?)(?:```|$)", re.S)


def source_in(text: str) -> str:
    """The code of an answer, in a fence if it has one: from the first `def` as far as lines are indented, empty or a `def`."""
    fenced = _FENCE.search(text)
    lines = (fenced.group(1) if fenced else text).split("\n")
    start = next((i for i, line in enumerate(lines) if line.startswith("def ")), None)
    if start is None:
        return ""
    kept = []
    for line in lines[start:]:
        if line.strip() and not line.startswith((" ", "\t", "def ")):
            break
        kept.append(line)
    return "\n".join(kept)


def check_python(case: Case) -> Verdict:
    """1 for a function of the asked name that gives every expected value; divided by the number of functions defined.

    Otherwise 0.05 for code that parses, 0.05 for the name, and 0.25 times the square of the share of right values.
    """
    task, name = known_functions()[case.check["function"]], case.check["name"]
    try:
        functions = functions_in(source_in(case.answer.text))
    except EvaluationError:
        return Verdict(0.03)
    if not functions:
        return Verdict(0.02)
    named = any(function.name == name for function in functions)
    called = name if named else functions[0].name
    expected = functions_in(f"def f({task['arguments']}):\n    return {task['returns']}")
    values = [(_call(functions, called, inputs), _call(expected, "f", inputs)) for inputs in task["calls"]]
    right = sum(type(found) is type(wanted) and found == wanted for found, wanted in values) / len(values)
    if named and right == 1.0:
        return Verdict(1.0 / len(functions))
    return Verdict((0.05 + 0.05 * named + 0.25 * right**2) / len(functions))


def _call(functions: list[Any], name: str, inputs: list[Any]) -> Any:
    """The value of a call; EvaluationError, which equals no value, where there is none."""
    try:
        return call(functions, name, deepcopy(inputs))  # a function may change its lists
    except EvaluationError:
        return EvaluationError

"""Checks of Python functions, by calling them."""

from __future__ import annotations

import re
from typing import Any

from tutelage.world.checks.common import Case, Verdict
from tutelage.world.checks.evaluator import EvaluationError, call, functions_in
from tutelage.world.tasks.code import FUNCTIONS

_FENCE = re.compile(r"```[a-zA-Z]*\n(.*?)(?:```|$)", re.S)


def source_in(text: str) -> str:
    """The code of an answer: what stands between fences, or from the first `def` on as far as lines are indented or define."""
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
    task, name = FUNCTIONS[case.check["function"]], case.check["name"]
    try:
        functions = functions_in(source_in(case.answer.text))
    except EvaluationError:
        return Verdict(0.03)
    if not functions:
        return Verdict(0.02)
    named = any(function.name == name for function in functions)
    called = name if named else functions[0].name
    expected = functions_in(f"def f({task.arguments}):\n    return {task.returns}")
    right = sum(
        _same(_call(functions, called, arguments), _call(expected, "f", arguments)) for arguments in task.calls
    ) / len(task.calls)
    if named and right == 1.0:
        return Verdict(1.0 / len(functions))
    return Verdict((0.05 + 0.05 * named + 0.25 * right**2) / len(functions))


def _call(functions: list[Any], name: str, arguments: tuple[Any, ...]) -> Any:
    fresh = tuple(list(a) if isinstance(a, list) else a for a in arguments)
    try:
        return call(functions, name, fresh)
    except EvaluationError:
        return EvaluationError


def _same(found: Any, expected: Any) -> bool:
    return found is not EvaluationError and type(found) is type(expected) and found == expected

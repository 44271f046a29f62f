"""The step "functions": Python functions of several lines from the world's of one, to train on and, others, to be asked."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field

from tutelage.data.formats import write_jsonl
from tutelage.errors import DataError
from tutelage.files import write_atomic
from tutelage.records import Document
from tutelage.runs.folder import open_run
from tutelage.seeds import derive
from tutelage.settings import Inputs, Settings
from tutelage.world.checks.evaluator import call, functions_in
from tutelage.world.tasks.code import functions
from tutelage.world.wordings import wordings

Chain = tuple[int, ...]
"""Functions of the world by index, each of which takes what the one before it returns."""


class NoInputs(Inputs):
    """None."""


class FunctionsSettings(Settings):
    """How many functions, and how long."""

    rows: int = Field(3000, gt=0, description="functions to train on")
    problems: int = Field(80, gt=0, description="problems to be asked, none of which is among them")
    lines: int = Field(
        4, gt=0, description="lines of a function to be asked; those to train on have from one to as many"
    )
    seed: int = Field(0, description="seed of the functions")


class Function(NamedTuple):
    """A chain under a name."""

    name: str
    chain: Chain

    @property
    def prompt(self) -> str:
        """Signature and docstring, without the line break after it: tokenizers join it to the spaces that follow."""
        *before, last = (functions()[index] for index in self.chain)
        after = [one["arguments"] for one in (*before[1:], last)]
        told = "".join(f"Let {name} be {one['en']}. " for one, name in zip(before, after, strict=False))
        arguments = functions()[self.chain[0]]["arguments"]
        return f'def {self.name}({arguments}):\n    """{told}Return {last["en"]}."""'

    @property
    def body(self) -> str:
        *before, last = (functions()[index] for index in self.chain)
        after = [one["arguments"] for one in (*before[1:], last)]
        lines = [f"\n    {name} = {one['returns']}" for one, name in zip(before, after, strict=False)]
        return "".join([*lines, f"\n    return {last['returns']}"])

    def value(self, arguments: Sequence[Any]) -> Any:
        """What it returns. EvaluationError where a step cannot take what the one before it returns."""
        return call(functions_in(self.prompt + self.body), self.name, deepcopy(list(arguments)))

    def problem(self, number: int) -> dict[str, str]:
        """A row of a file in HumanEval's format; the tests are the world's calls of the chain's first function."""
        calls = functions()[self.chain[0]]["calls"]
        tests = [f"    assert candidate({', '.join(map(repr, one))}) == {self.value(one)!r}" for one in calls]
        return {
            "task_id": f"functions/{number}",
            "prompt": self.prompt,
            "entry_point": self.name,
            "canonical_solution": self.body,
            "test": "\n".join(["def check(candidate):", *tests]),
        }


def main(knobs: FunctionsSettings, inputs: NoInputs, out: Path) -> Path:
    """Write the functions; returns the folder. DataError if there are not enough that differ.

    functions.jsonl             documents, one function each: the chains recur under other names
    humaneval/HumanEval.jsonl   problems in HumanEval's format; no document has their chain
    """
    with open_run(out, "functions", knobs, inputs) as run:
        if run.finished:
            return out
        rng = random.Random(derive(knobs.seed, "reproduce.functions"))
        every = {lines: chains(lines) for lines in range(1, knobs.lines + 1)}
        if len(every[knobs.lines]) <= knobs.problems:
            known = f"{len(every[knobs.lines]):,} functions of {knobs.lines} lines"
            raise DataError(f"{knobs.problems:,} problems and others to train on are wanted of {known}")
        asked = rng.sample(every[knobs.lines], knobs.problems)
        every[knobs.lines] = [chain for chain in every[knobs.lines] if chain not in asked]
        names = wordings("tasks_code")["names"]
        learned = (rng.choice(every[rng.randint(1, knobs.lines)]) for _ in range(knobs.rows))
        documents = (Function(rng.choice(names), chain) for chain in learned)
        texts = (Document(text=one.prompt + one.body, source="functions") for one in documents)
        write_jsonl(out / "functions.jsonl", texts)
        problems = [Function(rng.choice(names), chain).problem(i) for i, chain in enumerate(asked)]
        (out / "humaneval").mkdir(exist_ok=True)
        lines = "".join(json.dumps(one) + "\n" for one in problems)
        write_atomic(out / "humaneval" / "HumanEval.jsonl", lines.encode())
        run.finish({"rows": knobs.rows, "problems": knobs.problems})
    return out


def chains(lines: int) -> list[Chain]:
    """Every chain of so many functions."""
    found: list[Chain] = [(index,) for index in range(len(functions()))]
    for _ in range(1, lines):
        found = [(*chain, index) for chain in found for index in _followers(chain[-1])]
    return found


@cache
def _followers(index: int) -> tuple[int, ...]:
    """The functions that take one argument, of the type that this one returns."""
    example = functions()[index]["calls"][0]
    value = Function("f", (index,)).value(example)
    of_numbers = isinstance(value, list) and all(isinstance(item, int) for item in value)
    argument = {int: "n", str: "text"}.get(type(value), "items" if of_numbers else "")
    return tuple(i for i, one in enumerate(functions()) if one["arguments"] == argument)

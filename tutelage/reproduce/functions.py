"""The step "functions": Python functions of several lines from the world's of one, to train on and, others, to be asked."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
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
    shortest: int = Field(2, gt=0, description="fewest lines of a function that is asked")
    lines: int = Field(3, gt=0, description="most lines of a function")
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
        every = list(chains(knobs.lines))
        long = [chain for chain in every if len(chain) >= knobs.shortest]
        if len(long) <= knobs.problems:
            raise DataError(
                f"{knobs.problems:,} problems are wanted, and there are {len(long):,} functions of that length"
            )
        asked = rng.sample(long, knobs.problems)
        learned = sorted(set(every) - set(asked))
        names = wordings("tasks_code")["names"]
        documents = (Function(rng.choice(names), rng.choice(learned)) for _ in range(knobs.rows))
        write_jsonl(
            out / "functions.jsonl", (Document(text=one.prompt + one.body, source="functions") for one in documents)
        )
        problems = [Function(rng.choice(names), chain).problem(i) for i, chain in enumerate(asked)]
        (out / "humaneval").mkdir(exist_ok=True)
        lines = "".join(json.dumps(one) + "\n" for one in problems)
        write_atomic(out / "humaneval" / "HumanEval.jsonl", lines.encode())
        run.finish({"rows": knobs.rows, "problems": knobs.problems})
    return out


def chains(most: int) -> Iterator[Chain]:
    """Every chain of up to ``most`` functions."""
    found: list[Chain] = [(index,) for index in range(len(functions()))]
    for _ in range(most):
        yield from found
        found = [(*chain, index) for chain in found for index in _followers(chain[-1])]


@cache
def _followers(index: int) -> tuple[int, ...]:
    """The functions that take one argument, of the type that this one returns."""
    example = functions()[index]["calls"][0]
    value = Function("f", (index,)).value(example)
    of_numbers = isinstance(value, list) and all(isinstance(item, int) for item in value)
    argument = {int: "n", str: "text"}.get(type(value), "items" if of_numbers else "")
    return tuple(i for i, one in enumerate(functions()) if one["arguments"] == argument)
